//! `holdfast history` and `holdfast who`: the recorded past.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use holdfast_provider::id::PodKey;
use holdfast_provider::ledger::history::{
    Answer, ClaimStep, History, PastClaim, Span, Unknown, Who,
};
use jiff::{SignedDuration, Span as Period, SpanRelativeTo, Timestamp};

use super::output::{self, columns, or_none};
use super::{NO, Query, pod_key, reader};
use crate::clock;

#[derive(Debug, clap::Args)]
pub(super) struct HistoryArgs {
    /// An address, or a pod as NAMESPACE/POD.
    #[arg(value_name = "IP|NAMESPACE/POD")]
    subject: Subject,
    #[command(flatten)]
    query: Query,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Address(Ipv4Addr),
    Pod(PodKey),
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let key = pod_key(text).map_err(|_| {
            "write an IPv4 address, or NAMESPACE/POD such as default/web-0".to_owned()
        })?;
        Ok(Self::Pod(key))
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct WhoArgs {
    /// The address.
    #[arg(value_name = "IP")]
    address: Ipv4Addr,
    /// When: a time such as 2026-11-24T10:00:00Z, or so long ago: 90s, 2h, 3d.
    #[arg(long, value_parser = moment, default_value = "0s")]
    at: Timestamp,
    #[command(flatten)]
    query: Query,
}

fn moment(text: &str) -> Result<Timestamp, String> {
    moment_at(text, clock::wall())
}

/// A moment, where `now` is the present one.
fn moment_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let ago = Period::from_str(text)
        .and_then(|period| {
            period
                .abs()
                .to_duration(SpanRelativeTo::days_are_24_hours())
        })
        .and_then(|ago: SignedDuration| now.checked_sub(ago));
    ago.map_err(|_| {
        "write a time with its zone, such as 2026-11-24T10:00:00Z, or how long ago, such as 2h or 3d"
            .to_owned()
    })
}

pub(super) fn history(args: &HistoryArgs) -> anyhow::Result<()> {
    let reader = reader(&args.query)?;
    let (history, subject) = match &args.subject {
        Subject::Address(address) => (reader.history_of_address(*address), address.to_string()),
        Subject::Pod(key) => (reader.history_of_key(key), key.to_string()),
    };
    let history = history.context("could not read the ledger")?;
    if history.spans.is_empty() && history.claims.is_empty() {
        bail!(
            "nothing is recorded of {subject}; the history is complete from {} on",
            written(history.complete_from)
        );
    }
    let of_pod = matches!(args.subject, Subject::Pod(_));
    output::print_as(args.query.output, &history, |wide| {
        tables(&history, of_pod, wide)
    })
}

fn tables(history: &History, of_pod: bool, wide: bool) -> String {
    let mut text = String::new();
    if of_pod && !history.claims.is_empty() {
        let tells_cluster =
            wide || output::of_several_clusters(&history.claims, |claim| &claim.cluster);
        let mut header = vec!["TIME", "ADDRESS", "CLAIM", "DETAIL"];
        if tells_cluster {
            header.insert(0, "CLUSTER");
        }
        let claims = history.claims.iter();
        let rows: Vec<_> = claims
            .flat_map(|claim| steps(claim, tells_cluster))
            .collect();
        text += &columns(&header, &rows);
        text.push('\n');
    }
    let mut header = vec!["FROM", "TO", "ADDRESS", "STATE", "POD", "WHY"];
    if wide {
        header.extend(["VSWITCH", "UID", "ENI"]);
    }
    let rows: Vec<_> = history.spans.iter().map(|span| row(span, wide)).collect();
    text + &columns(&header, &rows)
}

/// The lines of one claim.
fn steps(claim: &PastClaim, tells_cluster: bool) -> Vec<Vec<String>> {
    let mut rows = Vec::with_capacity(claim.events.len());
    for event in &claim.events {
        let holder = || or_none(event.holder.as_ref());
        let detail = match event.step {
            ClaimStep::Opened | ClaimStep::Reused => format!("by uid {}", holder()),
            ClaimStep::Deleted | ClaimStep::Retained => match event.expires_at {
                Some(at) => format!("until {}", written(at)),
                None => String::new(),
            },
            ClaimStep::Closed => match (&claim.closed_why, &claim.reason) {
                (Some(why), Some(reason)) => format!("{why}: {reason}"),
                (why, _) => why.clone().unwrap_or_default(),
            },
        };
        let mut cells = Vec::new();
        cells.extend(tells_cluster.then(|| claim.cluster.to_string()));
        cells.extend([
            written(event.at),
            claim.address.to_string(),
            event.step.as_str().to_owned(),
            detail,
        ]);
        rows.push(cells);
    }
    rows
}

fn row(span: &Span, wide: bool) -> Vec<String> {
    let mut cells = vec![
        written(span.from),
        span.to.map_or_else(|| "now".to_owned(), written),
        span.address.to_string(),
        span.state.clone(),
        or_none(span.pod.as_ref()),
        span.why.clone(),
    ];
    if wide {
        cells.push(span.vswitch.to_string());
        cells.push(or_none(span.uid.as_ref()));
        cells.push(or_none(span.eni.as_ref()));
    }
    cells
}

pub(super) fn who(args: &WhoArgs) -> anyhow::Result<ExitCode> {
    let who = reader(&args.query)?
        .who(args.address, args.at, clock::wall())
        .context("could not read the ledger")?;
    output::print_as(args.query.output, &who, |_| sentence(&who) + "\n")?;
    Ok(match who.answer {
        Answer::Unknown => ExitCode::from(NO),
        Answer::Pod | Answer::Nobody => ExitCode::SUCCESS,
    })
}

fn sentence(who: &Who) -> String {
    let begin = format!("{} at {}:", who.address, written(who.at));
    if let Some(unknown) = &who.unknown {
        return match unknown {
            Unknown::BeforeHistory(from) => {
                format!("{begin} unknown, the history begins at {}", written(*from))
            }
            Unknown::NotInPool => {
                format!("{begin} unknown, no vSwitch had this address in its pool")
            }
            Unknown::Future(now) => {
                format!("{begin} unknown, it is only {} now", written(*now))
            }
        };
    }
    let Some(span) = &who.span else {
        return begin;
    };
    let to = span
        .to
        .map_or_else(|| "now".to_owned(), |to| format!("to {}", written(to)));
    let time = format!("{} from {} {to}", span.state, written(span.from));
    match (&span.pod, &span.uid) {
        (Some(pod), Some(uid)) => format!("{begin} {pod} (uid {uid}), {time}"),
        (None, Some(uid)) => format!("{begin} a pod of forgotten name (uid {uid}), {time}"),
        (Some(key), None) => format!("{begin} nobody, kept for {key}, {time}"),
        (None, None) => format!("{begin} nobody, {time}"),
    }
}

/// To the millisecond, as the ledger has it: spans shorter than a second are not rare.
fn written(at: Timestamp) -> String {
    format!("{at:.3}")
}

#[cfg(test)]
mod tests {
    use holdfast_provider::ledger::history::ClaimEvent;

    use super::*;

    fn claim_in(cluster: &str) -> PastClaim {
        PastClaim {
            cluster: cluster.into(),
            key: PodKey::new("default", "web-0"),
            address: "10.0.0.4".parse().unwrap(),
            opened_at: Timestamp::UNIX_EPOCH,
            closed_at: None,
            closed_why: None,
            reason: None,
            events: vec![ClaimEvent {
                at: Timestamp::UNIX_EPOCH,
                step: ClaimStep::Opened,
                holder: Some("uid".into()),
                deleted_at: None,
                expires_at: None,
            }],
        }
    }

    #[test]
    fn past_claims_tell_their_cluster_when_there_are_several_or_more_columns_are_asked_for() {
        let table = |clusters: &[&str], wide| {
            let history = History {
                complete_from: Timestamp::UNIX_EPOCH,
                claims: clusters.iter().map(|name| claim_in(name)).collect(),
                spans: Vec::new(),
            };
            tables(&history, true, wide)
        };
        assert!(table(&["one", "one"], false).starts_with("TIME "));
        for text in [table(&["one", "two"], false), table(&["one", "two"], true)] {
            let first: Vec<_> = text
                .lines()
                .map_while(|line| line.split_whitespace().next())
                .collect();
            assert_eq!(first, ["CLUSTER", "one", "two"], "{text}");
        }
        assert!(table(&["one"], true).starts_with("CLUSTER "));
    }

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        let now: Timestamp = "2026-11-24T10:00:00Z".parse().unwrap();
        for (text, want) in [
            ("2026-11-24T11:30:00+02:00", "2026-11-24T09:30:00Z"),
            ("2h", "2026-11-24T08:00:00Z"),
            ("2h ago", "2026-11-24T08:00:00Z"),
            ("1d 30m", "2026-11-23T09:30:00Z"),
            ("0s", "2026-11-24T10:00:00Z"),
        ] {
            assert_eq!(moment_at(text, now), Ok(want.parse().unwrap()), "{text}");
        }
        for text in ["", "yesterday", "2", "2026-11-24", "10:00", "9999999d"] {
            assert!(moment_at(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn a_subject_is_an_address_or_a_pod() {
        let address = "192.168.1.8".parse().unwrap();
        assert_eq!("192.168.1.8".parse(), Ok(Subject::Address(address)));
        let key = PodKey::new("default", "web-0");
        assert_eq!("default/web-0".parse(), Ok(Subject::Pod(key)));
        for text in ["web-0", "192.168.1.999", "a/b/c", "/web-0", "default/"] {
            assert!(text.parse::<Subject>().is_err(), "{text}");
        }
    }
}
