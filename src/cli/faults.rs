//! `holdfast faults`: which faults of the simulated cloud are in force, and switches them.

use clap::Subcommand;
use holdfast_provider::cloud::sim::Fault;
use holdfast_provider::ledger::faults::{FaultRow, Switchboard};
use holdfast_provider::ledger::{self, Reader};
use jiff::Timestamp;
use serde::Serialize;

use super::Query;
use super::output::{self, Table, or_none};
use crate::clock;
use crate::config::Config;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    change: Option<Change>,
    #[command(flatten)]
    query: Query,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Set a fault, in place of one that has its name. It stays until it is cleared.
    Set {
        /// Which: fail/CALL, throttle, slow/CALL, stuck/CALL, lost_answer/CALL,
        /// out_of_addresses/VSWITCH or eni_quota.
        name: String,
        /// Its settings: every=N and code=CODE (fail), every=N (lost_answer), latency=TIME (slow),
        /// calls_per_s=N (throttle), enis_max=N (eni_quota).
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
        #[command(flatten)]
        query: Query,
    },
    /// Clear faults that were set by a command.
    Clear {
        /// Which, as they are listed.
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
        /// All of them.
        #[arg(long, conflicts_with = "names")]
        all: bool,
        #[command(flatten)]
        query: Query,
    },
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.change {
        None => list(&args.query),
        Some(Change::Set {
            name,
            settings,
            query,
        }) => set(name, settings, query),
        Some(Change::Clear { names, all, query }) => clear(names, *all, query),
    }
}

/// A fault in force.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    fault: Fault,
    source: Source,
    /// Of one that was set by a command.
    since: Option<Timestamp>,
}

/// Where a fault comes from, and so how it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Source {
    Configuration,
    Command,
}

impl Table for Vec<Line> {
    fn header(&self, _: bool) -> Vec<&'static str> {
        vec!["NAME", "SETTINGS", "SET BY", "SINCE"]
    }

    fn rows(&self, _: bool) -> Vec<Vec<String>> {
        let cells = |line: &Line| {
            let settings = line.fault.settings();
            vec![
                line.name.clone(),
                or_none(Some(settings.join(" ")).filter(|text| !text.is_empty())),
                match line.source {
                    Source::Configuration => "configuration".to_owned(),
                    Source::Command => "command".to_owned(),
                },
                or_none(line.since.map(|since| format!("{since:.0}"))),
            ]
        };
        self.iter().map(cells).collect()
    }
}

/// Those of the configuration, when one is read, and those of the ledger, which replace them.
fn list(query: &Query) -> anyhow::Result<()> {
    let (path, configured) = if let Some(path) = &query.ledger {
        (path.clone(), Vec::new())
    } else {
        let config = Config::load(query.config())?;
        (config.ledger, config.cloud.faults)
    };
    let set = Reader::open(&path)?.faults()?;
    output::print(query.output, &in_force(configured, set))
}

fn in_force(configured: Vec<Fault>, set: Vec<FaultRow>) -> Vec<Line> {
    let configured = configured.into_iter().map(|fault| Line {
        name: fault.name(),
        fault,
        source: Source::Configuration,
        since: None,
    });
    let mut lines: Vec<Line> = configured
        .filter(|line| set.iter().all(|row| row.name != line.name))
        .collect();
    lines.extend(set.into_iter().map(|row| Line {
        name: row.name,
        fault: row.fault,
        source: Source::Command,
        since: Some(row.since),
    }));
    lines
}

/// What was set or cleared.
#[derive(Serialize)]
struct Answer {
    faults: Vec<FaultRow>,
    /// Whether a process runs on the ledger, and so obeys within a second.
    running: bool,
}

impl Answer {
    fn sentence(&self, done: &str) -> String {
        if self.faults.is_empty() {
            return "no fault was set by a command\n".to_owned();
        }
        let names: Vec<&str> = self.faults.iter().map(|row| row.name.as_str()).collect();
        let when = if self.running {
            "the running holdfast obeys within a second"
        } else {
            "no holdfast runs on this ledger, so it counts from the next start on"
        };
        format!("{done} {}: {when}\n", names.join(", "))
    }
}

fn set(name: &str, settings: &[String], query: &Query) -> anyhow::Result<()> {
    let fault = Fault::parse(name, settings)?;
    let path = query.ledger()?;
    let row = Switchboard::open(&path)?.set(clock::wall(), &fault)?;
    let answer = Answer {
        faults: vec![row],
        running: ledger::is_running(&path)?,
    };
    output::print_as(query.output, &answer, |_| answer.sentence("set"))
}

fn clear(names: &[String], all: bool, query: &Query) -> anyhow::Result<()> {
    let path = query.ledger()?;
    let mut switchboard = Switchboard::open(&path)?;
    let faults = if all {
        switchboard.clear_all(clock::wall())?
    } else {
        switchboard.clear(clock::wall(), names)?
    };
    let answer = Answer {
        faults,
        running: ledger::is_running(&path)?,
    };
    output::print_as(query.output, &answer, |_| answer.sentence("cleared"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_was_set_replaces_the_configured_one_of_its_name() {
        let fault = |latency: &str| Fault::parse("slow/detach", &[latency]).unwrap();
        let stuck = Fault::parse("stuck/attach", &[""; 0]).unwrap();
        let row = FaultRow {
            name: "slow/detach".to_owned(),
            fault: fault("latency=90s"),
            since: Timestamp::UNIX_EPOCH,
        };
        let lines = in_force(vec![fault("latency=1s"), stuck], vec![row]);
        let expected = [
            ["stuck/attach", "<none>", "configuration", "<none>"],
            [
                "slow/detach",
                "latency=1m30s",
                "command",
                "1970-01-01T00:00:00Z",
            ],
        ];
        assert_eq!(lines.rows(false), expected);
    }
}
