//! `holdfast release`: ends a claim before its time.

use holdfast_provider::id::{ClusterId, PodKey};
use holdfast_provider::ledger;
use holdfast_provider::ledger::operator::{Operator, Release, Released};
use serde::Serialize;

use super::output;
use super::{Query, pod_key};
use crate::clock;

/// Characters of a reason: it is one cell of a table.
const REASON_MAX: usize = 200;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The pod, as NAMESPACE/POD.
    #[arg(value_name = "NAMESPACE/POD", value_parser = pod_key)]
    key: PodKey,
    /// Why, for the history.
    #[arg(long, value_parser = reason)]
    reason: Option<String>,
    /// End the claim of a pod that is still there, too. It keeps the address until it goes.
    #[arg(long)]
    force: bool,
    /// The cluster id of the claim, when the ledger has the pod for several clusters.
    #[arg(long)]
    cluster: Option<String>,
    #[command(flatten)]
    query: Query,
}

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("write a reason on one line".to_owned());
    }
    if text.chars().count() > REASON_MAX {
        return Err(format!("write at most {REASON_MAX} characters"));
    }
    Ok(text.to_owned())
}

/// The answer.
#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    released: Released,
    /// Whether a process runs on the ledger, and so deletes the ENI now.
    running: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let path = args.query.ledger()?;
    let cluster = args.cluster.as_deref().map(ClusterId::from);
    let release = Release {
        key: &args.key,
        cluster: cluster.as_ref(),
        reason: args.reason.as_deref(),
        force: args.force,
    };
    let released = Operator::open(&path)?.release(clock::wall(), &release)?;
    let answer = Answer {
        running: ledger::is_running(&path)?,
        released,
    };
    output::print_as(args.query.output, &answer, |_| sentence(&answer))
}

fn sentence(answer: &Answer) -> String {
    let Released {
        key,
        address,
        kept_by,
        ..
    } = &answer.released;
    match (kept_by, answer.running) {
        (Some(uid), _) => format!(
            "ended the claim of {key}: the pod (uid {uid}) keeps {address} as an ordinary address until it goes\n"
        ),
        (None, true) => format!(
            "released {address} of {key}: it is free as soon as the running holdfast has deleted its ENI\n"
        ),
        (None, false) => format!(
            "released {address} of {key}: no holdfast runs on this ledger, so its ENI is deleted, and the address free, after the next start\n"
        ),
    }
}
