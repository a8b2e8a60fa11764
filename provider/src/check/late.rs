//! What held endings back: times in which a claim could run out without ending.
//!
//! A process that does not run ends nothing, and neither does one that may not: the journal says
//! which. Times are ledger time.

use std::collections::BTreeSet;

use crate::check::history::{Entry, History};
use crate::ledger::journal::word;

/// By how much an ending may be late: one pass over what has run out, and one look at the API.
pub(super) const TOLERANCE_MS: i64 = 2000;

/// From when until when, both in milliseconds.
type Interval = (i64, i64);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Excuses {
    of_all: Vec<Interval>,
    of_claims: Vec<(i64, Interval)>,
}

impl Excuses {
    /// Reads them out of the journal.
    pub(super) fn read(history: &History) -> Self {
        let mut excuses = Self::default();
        excuses.downtime(history);
        excuses.holds(&history.journal);
        for entry in &history.journal {
            if entry.what == word::STANDS {
                excuses.of_all.push((entry.clock_ms, entry.at_ms));
            }
        }
        excuses
    }

    /// Until when what was due at `due_ms` was held back.
    pub(super) fn until(&self, claim: i64, due_ms: i64) -> i64 {
        let of_claim = self.of_claims.iter().filter(|(of, _)| *of == claim);
        let all = || {
            self.of_all
                .iter()
                .chain(of_claim.clone().map(|(_, interval)| interval))
        };
        let mut until = due_ms;
        while let Some((_, end)) =
            all().find(|(start, end)| *start <= until.saturating_add(TOLERANCE_MS) && *end > until)
        {
            until = *end;
        }
        until
    }

    /// A process that was killed lived at least until its last record. What was written by hand
    /// proves nothing of it.
    fn downtime(&mut self, history: &History) {
        let is_by_hand =
            |entry: &&Entry| matches!(entry.what.as_str(), word::RELEASED | word::REPAIRED);
        let by_hand: BTreeSet<i64> = history
            .journal
            .iter()
            .filter(is_by_hand)
            .map(|entry| entry.at_ms)
            .collect();
        let mut records: Vec<i64> = history
            .spans
            .iter()
            .map(|span| span.from_ms)
            .chain(history.events.iter().map(|event| event.at_ms))
            .chain(history.journal.iter().map(|entry| entry.at_ms))
            .collect();
        records.retain(|at_ms| !by_hand.contains(at_ms));
        records.sort_unstable();
        // What ran before the first entry is not known to have run at all.
        let mut down_since = Some(i64::MIN);
        for entry in &history.journal {
            match entry.what.as_str() {
                word::STOPPED => down_since = Some(entry.at_ms),
                word::STARTED => {
                    let before = records.partition_point(|at_ms| *at_ms < entry.at_ms);
                    let last = before
                        .checked_sub(1)
                        .map_or(i64::MIN, |index| records[index]);
                    down_since.get_or_insert(last);
                }
                word::SERVING => {
                    let since = down_since.take();
                    self.of_all.extend(since.map(|since| (since, entry.at_ms)));
                }
                _ => {}
            }
        }
        self.of_all
            .extend(down_since.map(|since| (since, i64::MAX)));
    }

    /// From "held" until "let go", or until the process that held back has ended.
    fn holds(&mut self, journal: &[Entry]) {
        for (index, entry) in journal.iter().enumerate() {
            if entry.what != word::HELD {
                continue;
            }
            let same = |later: &&Entry| {
                later.what == word::STARTED
                    || later.what == word::LET_GO
                        && (&later.detail, later.claim) == (&entry.detail, entry.claim)
            };
            let until = journal[index..].iter().find(same);
            let interval = (
                entry.clock_ms.min(entry.at_ms),
                until.map_or(i64::MAX, |until| until.at_ms),
            );
            match entry.claim {
                Some(claim) => self.of_claims.push((claim, interval)),
                None => self.of_all.push(interval),
            }
        }
    }
}
