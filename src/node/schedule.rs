//! Which of many nodes is due when, how long a failure waits, and how failures are reported.

use std::collections::BTreeSet;
use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

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

/// Doubling waits after failures, from `first` to `most`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            failures: 0,
        }
    }

    /// The wait after one more failure.
    pub(super) fn failed(&mut self) -> Duration {
        // Beyond 16 doublings every `most` in use is reached.
        let factor = 1_u32 << self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        self.first.saturating_mul(factor).min(self.most)
    }

    pub(super) fn worked(&mut self) {
        self.failures = 0;
    }
}

/// `duration` shortened by a random part of up to `share` per cent, so that what was started
/// together does not stay together.
pub(super) fn jitter(duration: Duration, share: u32) -> Duration {
    // The standard library seeds every RandomState anew: random enough to spread requests.
    let random = RandomState::new().hash_one(()) % 1000;
    let permille = u32::try_from(random).expect("below 1000");
    duration.saturating_sub(duration * share / 100 * permille / 1000)
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

    #[test]
    fn a_wait_doubles_up_to_its_bound_and_starts_over_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));
        let waits: Vec<_> = (0..5).map(|_| backoff.failed().as_millis()).collect();
        backoff.worked();

        assert_eq!(waits, [200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.failed().as_millis(), 200);
    }

    #[test]
    fn jitter_only_shortens_and_only_by_its_share() {
        let whole = Duration::from_secs(10);
        for _ in 0..1000 {
            let jittered = jitter(whole, 10);
            assert!(
                jittered <= whole && jittered > Duration::from_secs(9),
                "{jittered:?}"
            );
        }
    }
}
