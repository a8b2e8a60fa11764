//! `holdfast check --repair`: what of a report is certain, and putting it right.
//!
//! Decides what is certain enough; the change itself is the ledger's. Shows only, unless told.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use holdfast_provider::check::{Finding, Repair};
use holdfast_provider::ledger;
use serde::Serialize;

use super::report::{self, APART, SIGHTINGS};
use super::{Args, Seen, Subject, verdict};
use crate::cli::output;
use crate::clock;
use crate::config::Config;

/// What becomes of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// It was put right.
    Done,
    /// It would be put right with --yes.
    WouldBeDone,
    /// It was put right meanwhile, by somebody else.
    NoLongerTrue,
    /// It was not seen often enough.
    NotCertain,
    /// Only a person can do something about it.
    NotRepairable,
}

#[derive(Serialize)]
struct Line {
    outcome: Outcome,
    /// How often it was seen.
    sightings: usize,
    #[serde(flatten)]
    finding: Finding,
}

pub(super) fn run(
    args: &Args,
    file: &Path,
    subject: &Subject,
    seen: &Seen,
) -> anyhow::Result<ExitCode> {
    let sightings = report::read(file, &seen.sighting)?;
    let mut lines: Vec<_> = seen
        .sighting
        .findings
        .iter()
        .map(|finding| {
            let sightings = report::times_seen(finding, &sightings);
            let outcome = match &finding.repair {
                None => Outcome::NotRepairable,
                Some(_) if sightings < SIGHTINGS => Outcome::NotCertain,
                Some(_) => Outcome::WouldBeDone,
            };
            Line {
                outcome,
                sightings,
                finding: finding.clone(),
            }
        })
        .collect();
    if args.yes {
        apply(args, subject, &mut lines)?;
    }
    output::print_as(args.query.output, &lines, |_| sentences(&lines))?;
    let is_left = |line: &&Line| !matches!(line.outcome, Outcome::Done | Outcome::NoLongerTrue);
    let left: Vec<_> = lines.iter().filter(is_left).collect();
    let left: Vec<Finding> = left.iter().map(|line| line.finding.clone()).collect();
    Ok(verdict(&left))
}

fn apply(args: &Args, subject: &Subject, lines: &mut [Line]) -> anyhow::Result<()> {
    let path = &subject.path;
    if ledger::is_running(path)? {
        bail!(
            "a holdfast runs on the ledger {} and lets go itself of what is gone: stop it before a repair",
            path.display()
        );
    }
    let certain: Vec<_> = lines
        .iter_mut()
        .filter(|line| line.outcome == Outcome::WouldBeDone)
        .collect();
    let repairs: Vec<Repair> = certain
        .iter()
        .filter_map(|line| line.finding.repair.clone())
        .collect();
    if repairs.is_empty() {
        return Ok(());
    }
    let Some((_, cluster)) = &subject.cluster else {
        bail!("nothing is certain without a look at the cluster");
    };
    // How long an hour is, for the clocks that start.
    let settings = Config::load(args.query.config())?.settings(cluster.clone());
    let done =
        ledger::repair(path, settings, clock::wall(), &repairs).context("nothing was put right")?;
    for (line, done) in certain.into_iter().zip(done) {
        line.outcome = if done {
            Outcome::Done
        } else {
            Outcome::NoLongerTrue
        };
    }
    Ok(())
}

fn sentences(lines: &[Line]) -> String {
    if lines.is_empty() {
        return "there is nothing to put right\n".to_owned();
    }
    lines.iter().map(|line| sentence(line) + "\n").collect()
}

fn sentence(line: &Line) -> String {
    let finding = &line.finding;
    let begin = match (line.outcome, &finding.repair) {
        (Outcome::Done, Some(repair)) => format!("done: {}", change(repair)),
        (Outcome::WouldBeDone, Some(repair)) => {
            format!("would be done with --yes: {}", change(repair))
        }
        (Outcome::NoLongerTrue, _) => "no longer true".to_owned(),
        (Outcome::NotCertain, _) => format!(
            "not certain: seen {} times in a row, {SIGHTINGS} are needed, at least {APART:#} apart",
            line.sightings
        ),
        _ => format!("not repairable here: {}", finding.advice),
    };
    format!("{begin}\n    {}", finding.violation)
}

fn change(repair: &Repair) -> String {
    match repair {
        Repair::LetGo { key, address, .. } => format!(
            "{key} lets go of {address}; the next start detaches its ENI, and keeps the address if it is fixed"
        ),
        Repair::DeleteEni { eni, address, .. } => {
            format!("{eni} is deleted in the simulated cloud, so that {address} can be used")
        }
    }
}
