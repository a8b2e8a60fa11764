//! How often the cloud was called, and how it answered.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::cloud::Error;

/// Kinds of calls that are told apart. Codes of faults are free text, and whoever counts by them
/// has to hold them all.
const KINDS_MAX: usize = 64;
/// Stands for the codes beyond that.
const OTHER: &str = "other";

/// A kind of call, with its answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Called {
    /// The name of the ECS action.
    pub action: &'static str,
    /// The ECS error code, empty when it was not refused.
    pub code: Cow<'static, str>,
}

/// Calls that were answered since they were last asked for.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: BTreeMap<Called, u64>,
    seen: BTreeSet<Called>,
}

impl Tally {
    /// Counts a call of this action, and how it was refused if it was.
    pub(super) fn count(&mut self, action: &'static str, refusal: Option<&Error>) {
        let code = refusal.map_or(Cow::Borrowed(""), |error| error.code.clone());
        let mut called = Called { action, code };
        if !self.seen.contains(&called) {
            if self.seen.len() >= KINDS_MAX && !called.code.is_empty() {
                called.code = Cow::Borrowed(OTHER);
            }
            self.seen.insert(called.clone());
        }
        *self.counts.entry(called).or_default() += 1;
    }

    /// What was counted since the last time.
    pub(super) fn take(&mut self) -> BTreeMap<Called, u64> {
        std::mem::take(&mut self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIBE: &str = "DescribeNetworkInterfaces";

    fn error(code: String) -> Error {
        Error {
            code: code.into(),
            message: String::new(),
        }
    }

    #[test]
    fn calls_are_counted_once_by_action_and_code() {
        let mut tally = Tally::default();
        tally.count(DESCRIBE, None);
        tally.count(DESCRIBE, None);
        tally.count(DESCRIBE, Some(&error("Throttling.User".into())));
        let counts: Vec<_> = tally.take().into_iter().collect();
        let called = |code: &'static str| Called {
            action: DESCRIBE,
            code: code.into(),
        };
        assert_eq!(counts, [(called(""), 2), (called("Throttling.User"), 1)]);
        assert!(tally.take().is_empty());
    }

    #[test]
    fn codes_without_end_do_not_make_kinds_without_end() {
        let mut tally = Tally::default();
        let mut kinds = BTreeSet::new();
        for number in 0..1000 {
            tally.count(DESCRIBE, Some(&error(format!("Code{number}"))));
            kinds.extend(tally.take().into_keys());
        }
        assert!(kinds.len() <= KINDS_MAX + 1, "{}", kinds.len());
        assert!(kinds.iter().any(|kind| kind.code == OTHER));
        tally.count(DESCRIBE, None);
        assert!(tally.take().into_keys().all(|kind| kind.code.is_empty()));
    }
}
