//! Which of many nodes is due when, and how failures are reported.

use std::collections::BTreeSet;
use std::error::Error;

use tokio::time::Instant;
use tracing::{info, warn};

/// A due time for each of a fixed number of things.
#[derive(Debug)]
pub(super) struct Schedule {
    due: Vec<Option<Instant>>,
    order: BTreeSet<(Instant, usize)>,
}

impl Schedule {
    /// For `count` things, none of them due.
    pub(super) fn new(count: usize) -> Self {
        Self {
            due: vec![None; count],
            order: BTreeSet::new(),
        }
    }

    /// Makes `index` due at `at`, or earlier if it was due earlier already.
    pub(super) fn no_later_than(&mut self, index: usize, at: Instant) {
        if let Some(before) = self.due[index] {
            if before <= at {
                return;
            }
            self.order.remove(&(before, index));
        }
        self.due[index] = Some(at);
        self.order.insert((at, index));
    }

    /// When the first thing is due.
    pub(super) fn first(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the first thing that is due at `now`.
    pub(super) fn pop(&mut self, now: Instant) -> Option<usize> {
        let (at, index) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.order.pop_first();
        self.due[index] = None;
        Some(index)
    }
}

/// Reports a kind of failure when it begins and when it is over, not once for every node.
#[derive(Debug)]
pub(super) struct Outage {
    what: &'static str,
    failing: BTreeSet<usize>,
}

impl Outage {
    /// `what` cannot be done while it lasts.
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            what,
            failing: BTreeSet::new(),
        }
    }

    /// The thing `index` failed.
    pub(super) fn failed(&mut self, index: usize, node: &str, error: &(dyn Error + 'static)) {
        let begins = self.failing.is_empty();
        if self.failing.insert(index) && begins {
            warn!(node, error, "cannot {}; trying until it works", self.what);
        }
    }

    /// The thing `index` works.
    pub(super) fn worked(&mut self, index: usize) {
        if self.failing.remove(&index) && self.failing.is_empty() {
            info!("can {} again", self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_earlier_of_two_due_times_counts() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut schedule = Schedule::new(2);
        schedule.no_later_than(0, at(5));
        schedule.no_later_than(0, at(9));
        schedule.no_later_than(1, at(7));
        schedule.no_later_than(1, at(3));

        assert_eq!(schedule.first(), Some(at(3)));
        assert_eq!(schedule.pop(at(2)), None);
        assert_eq!(schedule.pop(at(5)), Some(1));
        assert_eq!(schedule.pop(at(5)), Some(0));
        assert_eq!(schedule.pop(at(60)), None);
    }
}
