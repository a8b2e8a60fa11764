//! Forgetting what ended longer ago than configured, a portion at a time.
//!
//! Owns which rows are history, when they may go, and how far a pass over them has come. A portion looks at a bounded
//! number of rows, however many are kept, and shares its COMMIT with the jobs of pods, which a whole pass would hold
//! up. Does not know when a pass begins: the engine does.

use rusqlite::Result;

use crate::ledger::op::Op;

/// Rows that a portion looks at.
const ROWS: i64 = 1000;

/// Where a pass goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Portion {
    /// After a row of one of [`TABLES`].
    Rows {
        /// Which table.
        table: usize,
        /// The key of the last row that was looked at.
        after: i64,
    },
    /// After a placement: cluster, namespace and name. Nothing at first.
    Placements([String; 3]),
}

impl Portion {
    /// The beginning of a pass.
    pub const FIRST: Self = Self::of_table(0);

    /// SQLite counts rows from 1 on.
    const fn of_table(table: usize) -> Self {
        Self::Rows { table, after: 0 }
    }
}

/// A table that grows with every change, so that its rows stand in the order of their beginnings.
struct Table {
    name: &'static str,
    /// Its integer key.
    key: &'static str,
    /// When a row began: nothing after one that began lately has ended long ago. `NULL` where no column tells.
    began: &'static str,
    /// Whether a row may go, where `?3` is the beginning of what is kept.
    is_over: &'static str,
    /// The table of which rows go with it, and their column that names it.
    steps: Option<(&'static str, &'static str)>,
}

/// Spans before the claims and pods that they name.
const TABLES: [Table; 5] = [
    Table {
        name: "address_span",
        key: "rowid",
        began: "from_ms",
        is_over: "to_ms < ?3",
        steps: None,
    },
    Table {
        name: "claim",
        key: "id",
        began: "opened_ms",
        is_over: "closed_ms < ?3",
        steps: Some(("claim_event", "claim")),
    },
    Table {
        name: "pod_log",
        key: "rowid",
        began: "accepted_ms",
        is_over: "let_go_ms < ?3",
        steps: None,
    },
    Table {
        name: "eni_end",
        key: "eni",
        // In the order of the ENIs' creation, which tells nothing of their end.
        began: "NULL",
        is_over: "at_ms < ?3",
        steps: None,
    },
    Table {
        name: "journal",
        key: "seq",
        began: "at_ms",
        // What a process that still runs has written may still hold.
        is_over: "at_ms < ?3 AND seq < (SELECT max(seq) FROM journal WHERE what = 'started')",
        steps: None,
    },
];

impl Op<'_> {
    /// Forgets a portion, and tells where the next one begins unless the pass is through.
    pub(super) fn prune(&mut self, portion: &Portion) -> Result<()> {
        let days = i64::from(self.settings.history_days);
        let now = self.now.min(self.wall);
        let before_ms = now.as_millisecond() - days * 24 * 3_600_000;
        // Before anything is missing.
        let sql = "UPDATE ledger SET history_from_ms = ?1 WHERE history_from_ms < ?1";
        self.tx.execute(sql, [before_ms])?;
        self.out.pruning = match portion {
            Portion::Rows { table, after } => Some(self.prune_rows(*table, *after, before_ms)?),
            Portion::Placements(after) => self.prune_placements(after, before_ms)?,
        }
        .map(Box::new);
        Ok(())
    }

    fn prune_rows(&self, number: usize, after: i64, before_ms: i64) -> Result<Portion> {
        let Table {
            name,
            key,
            began,
            is_over,
            steps,
        } = TABLES[number];
        let last: Option<(i64, Option<i64>)> = self.tx.row(
            &format!(
                "SELECT {key}, {began} FROM {name} WHERE {key} > ?1 \
                 ORDER BY {key} LIMIT 1 OFFSET ?2"
            ),
            (after, ROWS - 1),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let until = last.map_or(i64::MAX, |(key, _)| key);
        let over = format!("FROM {name} WHERE {key} > ?1 AND {key} <= ?2 AND {is_over}");
        let range = (after, until, before_ms);
        if let Some((steps, of)) = steps {
            let sql = format!("DELETE FROM {steps} WHERE {of} IN (SELECT {key} {over})");
            self.tx.execute(&sql, range)?;
        }
        self.tx.execute(&format!("DELETE {over}"), range)?;
        Ok(match last {
            Some((after, began)) if began.is_none_or(|began| began < before_ms) => Portion::Rows {
                table: number,
                after,
            },
            _ if number + 1 < TABLES.len() => Portion::of_table(number + 1),
            _ => Portion::Placements(Default::default()),
        })
    }

    /// Where pods with a fixed address were last; and what vSwitches were, which are few.
    fn prune_placements(&self, after: &[String; 3], before_ms: i64) -> Result<Option<Portion>> {
        self.tx.execute(
            "DELETE FROM vswitch_event AS old WHERE at_ms < ?1 AND EXISTS (SELECT 1 \
             FROM vswitch_event AS new WHERE new.vswitch = old.vswitch AND new.at_ms < ?1 \
             AND new.rowid > old.rowid)",
            [before_ms],
        )?;
        let [cluster, namespace, name] = after;
        let last = self.tx.row(
            "SELECT cluster, namespace, name FROM placement \
             WHERE (cluster, namespace, name) > (?1, ?2, ?3) \
             ORDER BY cluster, namespace, name LIMIT 1 OFFSET ?4",
            (cluster, namespace, name, ROWS - 1),
            |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]),
        )?;
        self.tx.execute(
            "DELETE FROM placement WHERE (cluster, namespace, name) IN (SELECT cluster, namespace, name \
             FROM placement WHERE (cluster, namespace, name) > (?1, ?2, ?3) \
             ORDER BY cluster, namespace, name LIMIT ?4) \
             AND seen_ms < ?5 AND NOT EXISTS (SELECT 1 FROM pod p \
             WHERE p.cluster = placement.cluster AND p.namespace = placement.namespace \
             AND p.name = placement.name) AND NOT EXISTS (SELECT 1 FROM claim c \
             WHERE c.cluster = placement.cluster AND c.namespace = placement.namespace \
             AND c.name = placement.name AND c.closed_ms IS NULL)",
            (cluster, namespace, name, ROWS, before_ms),
        )?;
        Ok(last.map(Portion::Placements))
    }
}
