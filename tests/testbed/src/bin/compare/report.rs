//! The table and the JSON file.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;

use crate::{
    leases::Renewals,
    options::{Kind, Plan},
    scenario::Sample,
};

/// One sample and where it comes from.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Entry {
    pub(crate) round: usize,
    pub(crate) system: &'static str,
    #[serde(flatten)]
    pub(crate) sample: Sample,
}

/// A line of the table: what it is called, and its values by system.
#[derive(Clone, Debug, Default)]
struct Line {
    name: String,
    values: BTreeMap<&'static str, Vec<f64>>,
    /// Digits behind the point.
    digits: usize,
}

/// All lines, in the order in which they first come.
fn lines(entries: &[Entry]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for entry in entries {
        for (name, value, digits) in values(&entry.sample) {
            let index = lines.iter().position(|line| line.name == name);
            let index = index.unwrap_or_else(|| {
                lines.push(Line {
                    name,
                    digits,
                    ..Line::default()
                });
                lines.len() - 1
            });
            lines[index]
                .values
                .entry(entry.system)
                .or_default()
                .push(value);
        }
    }
    lines
}

fn values(sample: &Sample) -> Vec<(String, f64, usize)> {
    let mb = |kb: u64| kb as f64 / 1024.0;
    match *sample {
        Sample::Burst {
            pods,
            running_per_s,
            deletions_per_s,
            cpu_ms_per_pod,
            control_plane_cpu_ms_per_pod,
            peak_resident_kb,
            writes_per_pod,
            refused_per_pod,
            events_per_pod,
        } => {
            let of = |what| format!("burst of {pods}: {what}");
            vec![
                (of("pods Running/s"), running_per_s, 0),
                (of("deletions/s"), deletions_per_s, 0),
                (of("own CPU per pod life, ms"), cpu_ms_per_pod, 2),
                (
                    of("CPU of API server and etcd per pod life, ms"),
                    control_plane_cpu_ms_per_pod,
                    1,
                ),
                (of("peak resident memory, MB"), mb(peak_resident_kb), 1),
                (of("writes per pod life"), writes_per_pod, 2),
                (of("refused writes per pod life"), refused_per_pod, 2),
                (of("events per pod life"), events_per_pod, 2),
            ]
        }
        Sample::Latency {
            rate_per_s,
            p50_ms,
            p99_ms,
            cpu_ms_per_pod,
            ..
        } => {
            let of = |what| format!("{rate_per_s} pods/s: {what}");
            vec![
                (of("create to Running p50, ms"), p50_ms, 1),
                (of("create to Running p99, ms"), p99_ms, 1),
                (of("own CPU per pod life, ms"), cpu_ms_per_pod, 2),
            ]
        }
        Sample::Restart {
            old,
            new,
            first_running_s,
            all_running_s,
            other_writes,
            doubled_addresses,
            peak_resident_kb,
        } => {
            let of = |what| format!("kill -9 with {old}, then {new} new: {what}");
            vec![
                (of("first new pod Running, s"), first_running_s, 2),
                (of("last new pod Running, s"), all_running_s, 2),
                (of("writes beyond the new pods'"), other_writes as f64, 0),
                (of("addresses of two pods"), doubled_addresses as f64, 0),
                (of("peak resident memory, MB"), mb(peak_resident_kb), 1),
            ]
        }
        _ => more_values(sample),
    }
}

/// Of what is not measured in every comparison.
fn more_values(sample: &Sample) -> Vec<(String, f64, usize)> {
    match *sample {
        Sample::Nodes {
            nodes,
            ready_per_s,
            churn_pods_per_s,
            cpu_cores,
            renewals,
            peak_resident_kb,
            ..
        } => {
            let of = |what: &str| format!("{nodes} nodes: {what}");
            let mut lines = vec![
                (of("nodes Ready/s"), ready_per_s, 0),
                (of("pods that come and go, /s"), churn_pods_per_s, 0),
                (of("own CPU meanwhile, cores"), cpu_cores, 2),
            ];
            lines.extend(lease_values(of, renewals));
            let mb = peak_resident_kb as f64 / 1024.0;
            lines.push((of("peak resident memory, MB"), mb, 1));
            lines
        }
        Sample::Fairness {
            burst,
            quiet_p99_ms,
            p50_ms,
            p99_ms,
            renewals,
            ..
        } => {
            let of = |what: &str| format!("single pods beside a burst of {burst}: {what}");
            let mut lines = vec![
                (of("create to Running p99 before it, ms"), quiet_p99_ms, 1),
                (of("create to Running p50, ms"), p50_ms, 1),
                (of("create to Running p99, ms"), p99_ms, 1),
            ];
            lines.extend(lease_values(of, renewals));
            lines
        }
        Sample::AcsDelays {
            pods,
            configured_ms,
            p50_ms,
            p50_off_percent,
            p99_off_percent,
            ..
        } => {
            let of = |what| {
                format!("profile acs, {pods} pods, {configured_ms:.0} ms to Running: {what}")
            };
            vec![
                (of("p50, ms"), p50_ms, 0),
                (of("p50 off by, %"), p50_off_percent, 1),
                (of("p99 off by, %"), p99_off_percent, 1),
            ]
        }
        Sample::AcsThrottle {
            pods,
            configured_per_s,
            calls_per_s,
            off_percent,
            ..
        } => {
            let of = |what| {
                format!("profile acs, {pods} pods, limit of {configured_per_s} calls/s: {what}")
            };
            vec![
                (of("calls/s"), calls_per_s, 1),
                (of("off by, %"), off_percent, 1),
            ]
        }
        Sample::Burst { .. } | Sample::Latency { .. } | Sample::Restart { .. } => Vec::new(),
    }
}

fn lease_values(of: impl Fn(&str) -> String, renewals: Renewals) -> [(String, f64, usize); 3] {
    [
        (of("lease writes/s"), renewals.writes_per_s, 1),
        (of("missed leases"), renewals.missed as f64, 0),
        (
            of("longest time between renewals of a lease, s"),
            renewals.longest_gap_s,
            1,
        ),
    ]
}

/// The middle one of the values; of two, their mean.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len() % 2 == 1 {
        upper
    } else {
        f64::midpoint(sorted[sorted.len() / 2 - 1], upper)
    })
}

/// Medians with the smallest and the largest value, and holdfast's median divided by that of each other system.
pub(crate) fn table(entries: &[Entry], systems: &[Kind]) -> String {
    let others: Vec<_> = systems
        .iter()
        .filter(|kind| **kind != Kind::Holdfast)
        .collect();
    let ratios = systems.contains(&Kind::Holdfast);
    let mut text = String::from("| |");
    let names = systems.iter().map(|kind| format!(" {} |", kind.name()));
    text.extend(names);
    if ratios {
        text.extend(
            others
                .iter()
                .map(|kind| format!(" holdfast / {} |", kind.name())),
        );
    }
    let columns = systems.len() + if ratios { others.len() } else { 0 };
    let _ = write!(text, "\n|---|{}", "---|".repeat(columns));
    for line in lines(entries) {
        let of = |kind: &Kind| line.values.get(kind.name()).map(Vec::as_slice);
        let _ = write!(text, "\n| {} |", line.name);
        for kind in systems {
            let _ = write!(
                text,
                " {} |",
                of(kind).map_or_else(|| "-".to_owned(), |values| cell(values, line.digits))
            );
        }
        if ratios {
            let ours = of(&Kind::Holdfast).and_then(median);
            for kind in &others {
                let _ = match ratio(ours, of(kind).and_then(median)) {
                    Some(ratio) => write!(text, " {ratio:.2} |"),
                    None => write!(text, " - |"),
                };
            }
        }
    }
    text.push('\n');
    text
}

/// The table as JSON: for each line the medians by system, and the ratios by the system that holdfast is beside.
fn medians(entries: &[Entry], systems: &[Kind]) -> serde_json::Value {
    let lines = lines(entries).into_iter().map(|line| {
        let of = |kind: &Kind| median(line.values.get(kind.name())?);
        let all = systems.iter().map(|kind| (kind.name(), of(kind)));
        let ratios = systems.iter().filter_map(|kind| {
            let is_other = *kind != Kind::Holdfast && systems.contains(&Kind::Holdfast);
            is_other.then(|| (kind.name(), ratio(of(&Kind::Holdfast), of(kind))))
        });
        json!({
            "what": line.name,
            "medians": all.collect::<BTreeMap<_, _>>(),
            "ratios": ratios.collect::<BTreeMap<_, _>>(),
        })
    });
    lines.collect()
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    let theirs = theirs.filter(|theirs| *theirs != 0.0);
    ours.zip(theirs).map(|(ours, theirs)| ours / theirs)
}

fn cell(values: &[f64], digits: usize) -> String {
    let Some(median) = median(values) else {
        return "-".to_owned();
    };
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if values.len() == 1 {
        format!("{median:.digits$}")
    } else {
        format!("{median:.digits$} ({min:.digits$}-{max:.digits$})")
    }
}

/// The machine, in one sentence.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            Some(
                line.strip_prefix("model name")?
                    .split_once(": ")?
                    .1
                    .to_owned(),
            )
        })
        .unwrap_or_else(|| "of a kind that /proc/cpuinfo does not name".to_owned());
    let memory_kb: u64 = read("/proc/meminfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{cores} cores ({model}), {} GB, Linux {}",
        memory_kb / 1024 / 1024,
        kernel.trim()
    )
}

/// How many processes wanted a processor in the last minute, on average, this benchmark's included.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .next()
        .unwrap_or("unknown")
        .to_owned()
}

/// Writes what was measured, also by a run that broke off.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_json(
    plan: &Plan,
    entries: &[Entry],
    kubernetes: &str,
    load_before: &str,
    is_whole: bool,
) -> Result<()> {
    let systems: Vec<_> = plan.systems.iter().map(|kind| kind.name()).collect();
    let text = serde_json::to_string_pretty(&json!({
        "machine": machine(),
        "kubernetes": kubernetes,
        "kwok": "v0.8.0",
        "priority_and_fairness": plan.fairness,
        "load_concurrency": plan.concurrency,
        "rate_seconds": plan.rate_for.as_secs(),
        "load_average_before": load_before,
        "systems": systems,
        "rounds": plan.rounds,
        "complete": is_whole,
        "medians": medians(entries, &plan.systems),
        "samples": entries,
    }))
    .context("cannot write JSON")?;
    fs::write(&plan.json, text + "\n")
        .with_context(|| format!("cannot write {}", plan.json.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(round: usize, system: &'static str, running_per_s: f64) -> Entry {
        Entry {
            round,
            system,
            sample: Sample::Burst {
                pods: 100,
                running_per_s,
                deletions_per_s: 1.0,
                cpu_ms_per_pod: 0.5,
                control_plane_cpu_ms_per_pod: 8.0,
                peak_resident_kb: 20_480,
                writes_per_pod: 2.0,
                refused_per_pod: 0.0,
                events_per_pod: 0.0,
            },
        }
    }

    #[test]
    fn a_line_has_the_median_the_spread_and_the_ratio_of_medians() {
        let entries = [
            burst(1, "holdfast", 300.0),
            burst(1, "kwok-64", 200.0),
            burst(2, "holdfast", 500.0),
            burst(2, "kwok-64", 200.0),
            burst(3, "holdfast", 320.0),
            burst(3, "kwok-64", 240.0),
        ];
        let table = table(&entries, &[Kind::Holdfast, Kind::Kwok64]);
        let wanted = "| burst of 100: pods Running/s | 320 (300-500) | 200 (200-240) | 1.60 |";
        assert!(table.lines().any(|line| line == wanted), "{table}");
        let none = "events per pod life | 0.00 (0.00-0.00) | 0.00 (0.00-0.00) | - |";
        assert!(table.contains(none), "{table}");
    }

    #[test]
    fn the_file_has_the_medians_and_ratios_of_the_table() {
        let entries = [
            burst(1, "holdfast", 300.0),
            burst(2, "holdfast", 500.0),
            burst(1, "kwok-64", 200.0),
        ];
        let lines = medians(&entries, &[Kind::Holdfast, Kind::Kwok64, Kind::Kwok4]);
        let line = json!({
            "what": "burst of 100: pods Running/s",
            "medians": {"holdfast": 400.0, "kwok-64": 200.0, "kwok-4": null},
            "ratios": {"kwok-64": 2.0, "kwok-4": null},
        });
        assert_eq!(lines[0], line);
    }

    #[test]
    fn a_system_that_was_not_measured_has_no_value() {
        let table = table(
            &[burst(1, "holdfast", 300.0)],
            &[Kind::Holdfast, Kind::Kwok4],
        );
        assert!(
            table.contains("| burst of 100: pods Running/s | 300 | - | - |"),
            "{table}"
        );
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(&[1.0, 4.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
