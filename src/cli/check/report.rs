//! The report of a check: what was found each time, one JSON document a line.
//!
//! Only ever appended to. Owns when a finding that was seen several times is certain.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use holdfast_provider::check::Finding;
use holdfast_provider::id::ClusterId;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// As often as this a finding is seen before anything is done about it.
pub(super) const SIGHTINGS: usize = 3;
/// And so far apart, so that nothing is taken for certain that only lasts a while.
pub(super) const APART: SignedDuration = SignedDuration::from_secs(10);

/// One look at a ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Sighting {
    pub(super) at: Timestamp,
    /// The ledger's own id.
    pub(super) ledger_id: String,
    /// The cluster that it was compared with.
    pub(super) cluster: Option<ClusterId>,
    pub(super) findings: Vec<Finding>,
}

pub(super) fn append(path: &Path, sighting: &Sighting) -> anyhow::Result<()> {
    // A line that is torn would be met by the next one, and by every repair.
    if path.exists() {
        read(path, sighting)?;
    }
    let line = serde_json::to_string(sighting).context("could not write JSON")? + "\n";
    let written = File::options()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| {
            file.write_all(line.as_bytes())?;
            file.sync_all()
        });
    written.with_context(|| format!("could not add to the report {}", path.display()))
}

/// The sightings of a report, oldest first. All are of the same ledger and cluster as `now`.
pub(super) fn read(path: &Path, now: &Sighting) -> anyhow::Result<Vec<Sighting>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("could not read the report {}", path.display()))?;
    let mut sightings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let place = || format!("{}:{}", path.display(), index + 1);
        let sighting: Sighting = serde_json::from_str(line).with_context(|| {
            format!(
                "{} was not written by `holdfast check --report`: begin a new report",
                place()
            )
        })?;
        ensure!(
            sighting.ledger_id == now.ledger_id,
            "{} is about another ledger: begin a new report",
            place()
        );
        if sighting.cluster.is_some() && now.cluster.is_some() && sighting.cluster != now.cluster {
            bail!("{} is about another cluster: begin a new report", place());
        }
        sightings.push(sighting);
    }
    sightings.sort_by_key(|sighting| sighting.at);
    Ok(sightings)
}

/// How often in a row, and far enough apart, a finding was seen. One sighting without it begins
/// anew, unless that could not see it.
pub(super) fn times_seen(finding: &Finding, sightings: &[Sighting]) -> usize {
    let mut counted: Vec<Timestamp> = Vec::new();
    for sighting in sightings {
        if sighting.cluster.is_none() && !finding.is_of_file() {
            continue;
        }
        // The repair and not the words: those tell more when a cluster was looked at.
        let is_same = |other: &Finding| match &finding.repair {
            Some(_) => other.repair == finding.repair,
            None => other.violation == finding.violation,
        };
        if !sighting.findings.iter().any(is_same) {
            counted.clear();
        } else if counted
            .last()
            .is_none_or(|last| sighting.at.duration_since(*last) >= APART)
        {
            counted.push(sighting.at);
        }
    }
    counted.len()
}

#[cfg(test)]
mod tests {
    use holdfast_provider::check::cluster::{Holder, absent};
    use holdfast_provider::id::PodKey;

    use super::*;

    fn gone(uid: &str) -> Finding {
        absent(&Holder {
            uid: uid.into(),
            cluster: "here".into(),
            key: PodKey::new("default", "web-0"),
            address: "10.0.0.1".parse().unwrap(),
            gone: false,
        })
    }

    fn sighting(second: i64, findings: &[Finding]) -> Sighting {
        Sighting {
            at: Timestamp::from_second(second).unwrap(),
            ledger_id: "ledger".to_owned(),
            cluster: Some("here".into()),
            findings: findings.to_vec(),
        }
    }

    #[track_caller]
    fn check(sightings: &[Sighting], want: usize) {
        assert_eq!(times_seen(&gone("a"), sightings), want);
    }

    #[test]
    fn sightings_count_when_they_are_apart_and_in_a_row() {
        let found = |second| sighting(second, &[gone("b"), gone("a")]);
        check(&[], 0);
        check(&[found(0), found(10), found(20)], 3);
        check(&[found(0), found(9), found(18), found(27)], 2);
        check(&[found(0), found(10), sighting(15, &[]), found(20)], 1);
        let other_uid = sighting(15, &[gone("b")]);
        check(&[found(0), found(10), other_uid], 0);
    }

    #[test]
    fn a_look_at_the_file_alone_neither_counts_nor_contradicts() {
        let found = |second| sighting(second, &[gone("a")]);
        let blind = Sighting {
            cluster: None,
            ..sighting(15, &[])
        };
        check(&[found(0), found(10), blind, found(20)], 3);
    }

    #[test]
    fn a_report_comes_back_as_it_was_written_and_of_one_ledger_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report");
        let all = [sighting(0, &[gone("a")]), sighting(10, &[])];
        for sighting in &all {
            append(&path, sighting).unwrap();
        }
        assert_eq!(read(&path, &all[0]).unwrap(), all);
        let other = Sighting {
            ledger_id: "another".to_owned(),
            ..all[0].clone()
        };
        let refused = append(&path, &other).unwrap_err().to_string();
        assert!(refused.ends_with("report:1 is about another ledger: begin a new report"));
        std::fs::write(&path, "notes\n").unwrap();
        let refused = read(&path, &all[0]).unwrap_err().to_string();
        assert!(refused.contains("report:1 was not written by"), "{refused}");
    }
}
