//! Answers as tables for people and as JSON or YAML for scripts.

use std::io::Write as _;

use anyhow::Context as _;
use clap::ValueEnum;
use holdfast_provider::id::ClusterId;
use holdfast_provider::ledger::{AddressRow, ClaimRow, VSwitchRow};
use holdfast_provider::policy::pool::Remaining;
use jiff::Timestamp;
use serde::Serialize;

/// How an answer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns.
    Table,
    /// More columns.
    Wide,
    /// A JSON array.
    Json,
    /// A YAML list.
    Yaml,
}

/// An answer that can be a table.
pub(super) trait Table: Serialize {
    fn header(&self, wide: bool) -> Vec<&'static str>;
    fn rows(&self, wide: bool) -> Vec<Vec<String>>;
}

/// Rows whose table needs the time.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Timed<'a, T> {
    pub(super) rows: &'a [T],
    #[serde(skip)]
    pub(super) now: Timestamp,
}

/// Writes the answer to standard output. A reader that has enough, such as `head`, is no error.
pub(super) fn print(format: Format, answer: &impl Table) -> anyhow::Result<()> {
    print_as(format, answer, |wide| {
        columns(&answer.header(wide), &answer.rows(wide))
    })
}

/// The same for an answer that people read as something else than one table.
pub(super) fn print_as(
    format: Format,
    answer: &impl Serialize,
    text: impl FnOnce(bool) -> String,
) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => text(false),
        Format::Wide => text(true),
        Format::Json => {
            serde_json::to_string_pretty(answer).context("could not write JSON")? + "\n"
        }
        Format::Yaml => serde_saphyr::to_string(answer).context("could not write YAML")?,
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("could not write the answer")
        }
        _ => Ok(()),
    }
}

/// Left-aligned columns, three spaces apart, as kubectl prints them.
pub(super) fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            // A width of the format's own ends at 65,535.
            .map(|(cell, width)| cell.clone() + &" ".repeat(width - cell.chars().count()))
            .collect();
        text.push_str(cells.join("   ").trim_end());
        text.push('\n');
    }
    text
}

pub(super) fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "<none>".to_owned(), |value| value.to_string())
}

/// Whether a ledger that has served several clusters shows in these rows.
pub(super) fn of_several_clusters<T>(rows: &[T], cluster: impl Fn(&T) -> &ClusterId) -> bool {
    rows.windows(2)
        .any(|two| cluster(&two[0]) != cluster(&two[1]))
}

fn list(values: &[impl ToString]) -> String {
    let all: Vec<String> = values.iter().map(ToString::to_string).collect();
    or_none((!all.is_empty()).then(|| all.join(",")))
}

impl Table for Vec<VSwitchRow> {
    fn header(&self, wide: bool) -> Vec<&'static str> {
        let mut header = vec![
            "VSWITCH",
            "ZONE",
            "CIDR",
            "USABLE",
            "FREE",
            "IN USE",
            "RETAINED",
            "DETACHING",
        ];
        header.extend(
            wide.then_some(["EXCLUDED", "NEXT RELEASE", "FOR"])
                .into_iter()
                .flatten(),
        );
        header
    }

    fn rows(&self, wide: bool) -> Vec<Vec<String>> {
        self.iter()
            .map(|row| {
                let counts = &row.counts;
                let numbers = [row.usable, counts.free, counts.in_use, counts.retained];
                let mut cells = vec![row.id.to_string(), row.zone.to_string(), row.cidr.clone()];
                cells.extend(numbers.map(|number| number.to_string()));
                cells.push(counts.detaching.to_string());
                if wide {
                    let next = row.next_release.as_ref();
                    cells.push(counts.excluded.to_string());
                    cells.push(or_none(
                        next.map(|next| format!("{} at {:.0}", next.address, next.at)),
                    ));
                    cells.push(or_none(next.map(|next| next.key.clone())));
                }
                cells
            })
            .collect()
    }
}

impl Table for Vec<AddressRow> {
    fn header(&self, wide: bool) -> Vec<&'static str> {
        let mut header = vec![
            "ADDRESS",
            "VSWITCH",
            "STATE",
            "POD",
            "ENI",
            "ENI STATE",
            "MAC",
        ];
        header.extend(
            wide.then_some(["UID", "SECURITY GROUPS", "SINCE", "WHY"])
                .into_iter()
                .flatten(),
        );
        header
    }

    fn rows(&self, wide: bool) -> Vec<Vec<String>> {
        self.iter()
            .map(|row| {
                let mut cells = vec![
                    row.address.to_string(),
                    row.vswitch.to_string(),
                    row.state.clone(),
                    or_none(row.pod.as_ref()),
                    or_none(row.eni.as_ref()),
                    or_none(row.eni_state.as_ref()),
                    or_none(row.mac.as_ref()),
                ];
                if wide {
                    cells.push(or_none(row.uid.as_ref()));
                    cells.push(list(&row.security_groups));
                    cells.push(format!("{:.0}", row.since));
                    cells.push(row.why.clone());
                }
                cells
            })
            .collect()
    }
}

impl Timed<'_, ClaimRow> {
    /// Only together with its cluster a key is unique.
    fn tells_cluster(&self, wide: bool) -> bool {
        wide || of_several_clusters(self.rows, |row| &row.cluster)
    }
}

impl Table for Timed<'_, ClaimRow> {
    fn header(&self, wide: bool) -> Vec<&'static str> {
        let mut header = Vec::new();
        header.extend(self.tells_cluster(wide).then_some("CLUSTER"));
        header.extend([
            "NAMESPACE",
            "NAME",
            "ADDRESS",
            "ENI",
            "ZONE",
            "STATE",
            "TIME LEFT",
        ]);
        header.extend(
            wide.then_some([
                "MAC",
                "SECURITY GROUPS",
                "VSWITCH",
                "NODE",
                "HOLDER",
                "DELETED",
                "EXPIRES",
            ])
            .into_iter()
            .flatten(),
        );
        header
    }

    fn rows(&self, wide: bool) -> Vec<Vec<String>> {
        let tells_cluster = self.tells_cluster(wide);
        self.rows
            .iter()
            .map(|row| {
                let left = row
                    .expires_at
                    .map(|at| Remaining(at.duration_since(self.now)));
                let mut cells = Vec::new();
                cells.extend(tells_cluster.then(|| row.cluster.to_string()));
                cells.extend([
                    row.key.namespace.to_string(),
                    row.key.name.to_string(),
                    row.address.to_string(),
                    or_none(row.eni.as_ref()),
                    row.zone.to_string(),
                    row.state.as_str().to_owned(),
                    or_none(left),
                ]);
                if wide {
                    cells.push(or_none(row.mac.as_ref()));
                    cells.push(list(&row.security_groups));
                    cells.push(row.vswitch.to_string());
                    cells.push(row.node.to_string());
                    cells.push(or_none(row.holder.as_ref()));
                    cells.push(or_none(row.deleted_at.map(|at| format!("{at:.0}"))));
                    cells.push(or_none(row.expires_at.map(|at| format!("{at:.0}"))));
                }
                cells
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use holdfast_provider::id::PodKey;
    use holdfast_provider::ledger::ClaimState;

    use super::*;

    fn claim_in(cluster: &str) -> ClaimRow {
        ClaimRow {
            cluster: cluster.into(),
            key: PodKey::new("default", "web-0"),
            address: "10.0.0.4".parse().unwrap(),
            eni: None,
            mac: None,
            security_groups: Vec::new(),
            vswitch: "vsw-b".into(),
            zone: "zone-b".into(),
            node: "node-b".into(),
            state: ClaimState::Held,
            holder: None,
            deleted_at: None,
            expires_at: None,
        }
    }

    #[test]
    fn claims_tell_their_cluster_when_there_are_several_or_more_columns_are_asked_for() {
        for (clusters, wide, tells) in [
            (&["one", "one"][..], false, false),
            (&["one", "one"], true, true),
            (&["one", "two"], false, true),
            (&[], false, false),
        ] {
            let rows: Vec<_> = clusters.iter().map(|name| claim_in(name)).collect();
            let now = Timestamp::UNIX_EPOCH;
            let claims = Timed { rows: &rows, now };
            let header = claims.header(wide);
            assert_eq!(header[0] == "CLUSTER", tells, "{clusters:?} {header:?}");
            for (cells, cluster) in claims.rows(wide).iter().zip(clusters) {
                assert_eq!(cells.len(), header.len());
                assert_eq!(cells[0] == *cluster, tells, "{cells:?}");
            }
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["a".to_owned(), "longer than".to_owned()],
            vec!["bcdefgh".to_owned(), "x".to_owned()],
        ];
        let text = columns(&["NAME", "STATE"], &rows);
        assert_eq!(
            text,
            "NAME      STATE\na         longer than\nbcdefgh   x\n"
        );
    }
}
