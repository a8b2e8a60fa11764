//! `holdfast check`: whether the ledger keeps its promises, by itself and against the cluster.
//!
//! Owns how often is looked before something is called a finding, and how findings are told. What
//! is judged stands in [`holdfast_provider::check`]. Changes nothing; [`repair`] does.

mod repair;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use holdfast_provider::check::{Finding, LEAKED};
use holdfast_provider::id::ClusterId;
use holdfast_provider::ledger::{self, Reader};
use kube::Client;
use serde::Serialize;

use self::report::Sighting;
use super::{NO, Query, block_on, output};
use crate::config::Config;
use crate::pod::census;
use crate::{clock, kube_client, serve};

/// What differs from the cluster is looked at again this often before it is a finding: ledger and
/// cluster are not read at one instant, and a running holdfast is about to settle most of it.
const LOOKS: usize = 3;
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    query: Query,
    /// Compare with this cluster too: who shows which address, and who holds one and is gone.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Its cluster id in the ledger; else that of the configuration, or the UID of its namespace
    /// kube-system.
    #[arg(long, requires = "kubeconfig")]
    cluster: Option<String>,
    /// Add what is found to this file, for a later --repair.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Show what would be put right of the findings that are in three sightings of this report
    /// and still true.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "report",
        requires = "kubeconfig"
    )]
    repair: Option<PathBuf>,
    /// Do it. No holdfast may run on the ledger. With --ledger it needs --config too.
    #[arg(long, requires = "repair")]
    yes: bool,
}

/// A repair of a ledger whose configuration nobody has named: the one that lies in the working
/// directory may be that of another ledger.
#[derive(Debug, thiserror::Error)]
#[error(
    "--yes with --ledger needs the configuration too, with -c: its `retention.hour` decides when a repaired claim ends"
)]
pub(super) struct Unconfigured;

/// The answer.
#[derive(Serialize)]
struct Answer<'a> {
    /// The file.
    ledger: &'a Path,
    /// Whether a process runs on it.
    running: bool,
    /// Pods of other clusters in this ledger.
    not_compared: &'a BTreeMap<ClusterId, usize>,
    #[serde(flatten)]
    sighting: &'a Sighting,
}

/// A ledger, and the cluster that it is compared with.
struct Subject {
    path: PathBuf,
    reader: Reader,
    cluster: Option<(Client, ClusterId)>,
}

/// What was seen of it.
struct Seen {
    sighting: Sighting,
    not_compared: BTreeMap<ClusterId, usize>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    block_on(check(args))
}

async fn check(args: &Args) -> anyhow::Result<ExitCode> {
    if args.yes && args.query.ledger.is_some() && args.query.config.is_none() {
        return Err(Unconfigured.into());
    }
    let subject = Subject::open(args).await?;
    let seen = subject.look().await?;
    if let Some(file) = &args.repair {
        return repair::run(args, file, &subject, &seen);
    }
    if let Some(file) = &args.report {
        report::append(file, &seen.sighting)?;
    }
    let answer = Answer {
        ledger: &subject.path,
        running: ledger::is_running(&subject.path)?,
        not_compared: &seen.not_compared,
        sighting: &seen.sighting,
    };
    output::print_as(args.query.output, &answer, |_| sentences(&answer))?;
    Ok(verdict(&seen.sighting.findings))
}

fn verdict(findings: &[Finding]) -> ExitCode {
    if findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NO)
    }
}

impl Subject {
    async fn open(args: &Args) -> anyhow::Result<Self> {
        let path = args.query.ledger()?;
        let reader = Reader::open(&path)?;
        let cluster = match &args.kubeconfig {
            None => None,
            Some(kubeconfig) => {
                let access = kube_client::access(Some(kubeconfig)).await?;
                let client = kube_client::client(&access)?;
                let names_none = args.query.ledger.is_some() && args.query.config.is_none();
                let configured = match &args.cluster {
                    Some(id) => Some(id.as_str().into()),
                    None if names_none => None,
                    None => Config::load(args.query.config())?.cluster,
                };
                let id = serve::cluster_id(configured.as_ref(), &client).await?;
                Some((client, id))
            }
        };
        Ok(Self {
            path,
            reader,
            cluster,
        })
    }

    async fn look(&self) -> anyhow::Result<Seen> {
        let read = "could not read the ledger";
        let ledger = self.reader.id().context(read)?.unwrap_or_default();
        let mut findings: Vec<_> = self
            .reader
            .check()
            .context(read)?
            .into_iter()
            .map(Finding::new)
            .collect();
        let mut differences = self.compare().await?;
        for _ in 1..LOOKS {
            if differences.is_empty() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            let again = self.compare().await?;
            differences.retain(|finding| again.contains(finding));
        }
        // What the cluster adds to an ENI of nobody is in the differences.
        findings.retain(|finding| {
            let violation = &finding.violation;
            violation.rule != LEAKED
                || !differences
                    .iter()
                    .any(|other| other.violation.what.starts_with(&violation.what))
        });
        findings.extend(differences);
        let mut not_compared = BTreeMap::new();
        if let Some((_, cluster)) = &self.cluster {
            for holder in self.reader.holders().context(read)?.holders {
                if holder.cluster != *cluster {
                    *not_compared.entry(holder.cluster).or_default() += 1;
                }
            }
        }
        let sighting = Sighting {
            at: clock::wall(),
            ledger_id: ledger,
            cluster: self.cluster.as_ref().map(|(_, id)| id.clone()),
            findings,
        };
        Ok(Seen {
            sighting,
            not_compared,
        })
    }

    /// What differs from the cluster at this moment.
    async fn compare(&self) -> anyhow::Result<Vec<Finding>> {
        let Some((client, cluster)) = &self.cluster else {
            let holders = self.reader.holders();
            return Ok(holders.context("could not read the ledger")?.leaked(None));
        };
        let compare = "could not compare with the cluster";
        let shown = census::pods(client).await.context(compare)?;
        let holders = self.reader.holders().context("could not read the ledger")?;
        let mut found = holders.compare(cluster, &shown);
        found.extend(holders.leaked(Some(&shown)));
        for holder in holders.unseen(cluster, &shown) {
            let exists = census::exists(client, &holder.key, &holder.uid).await;
            if !exists.context(compare)? {
                found.push(holdfast_provider::check::cluster::absent(holder));
            }
        }
        Ok(found)
    }
}

fn sentences(answer: &Answer<'_>) -> String {
    let Sighting {
        at,
        cluster,
        findings,
        ..
    } = answer.sighting;
    let found = findings.iter().map(|finding| {
        let Finding {
            violation, advice, ..
        } = finding;
        format!("{violation}\n    {advice}\n")
    });
    let others = answer.not_compared.iter();
    let others = others.map(|(id, pods)| format!("not compared: {pods} pods of cluster {id}\n"));
    let what = match cluster {
        Some(cluster) => format!("{} and cluster {cluster}", answer.ledger.display()),
        None => answer.ledger.display().to_string(),
    };
    let sum = match findings.len() {
        0 => "nothing contradicts the promises".to_owned(),
        1 => "1 finding".to_owned(),
        n => format!("{n} findings"),
    };
    let last = format!("{what}: {sum}, {at:.0}\n");
    found.chain(others).chain([last]).collect()
}
