//! How long to wait before the next try, and how not to try all at once.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// Doubling waits after failures, from `first` to `most`.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            failures: 0,
        }
    }

    /// The wait after one more failure.
    pub(crate) fn failed(&mut self) -> Duration {
        // Beyond 16 doublings every `most` in use is reached.
        let factor = 1_u32 << self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        self.first.saturating_mul(factor).min(self.most)
    }

    pub(crate) fn worked(&mut self) {
        self.failures = 0;
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(jitter(self.failed(), 20))
    }
}

/// The waits of a watch, which begin anew when it has held for a while. That it brings something proves nothing: a list
/// that breaks off in its middle does too, each time.
pub(crate) struct WatchBackoff {
    waits: Backoff,
    /// The longest wait, and what a watch must hold for beyond it.
    calm: Duration,
    failed_at: Option<Instant>,
}

impl WatchBackoff {
    pub(crate) fn new(waits: Backoff, calm: Duration) -> Self {
        Self {
            waits,
            calm,
            failed_at: None,
        }
    }

    fn next_at(&mut self, now: Instant) -> Option<Duration> {
        let before = self.failed_at.replace(now);
        if before.is_none_or(|at| now.duration_since(at) > self.calm) {
            self.waits.worked();
        }
        self.waits.next()
    }
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.next_at(Instant::now())
    }
}

impl kube::runtime::utils::Backoff for WatchBackoff {
    /// See the type.
    fn reset(&mut self) {}
}

/// `duration` shortened by a random part of up to `share` per cent, so that what was started
/// together does not stay together.
pub(crate) fn jitter(duration: Duration, share: u32) -> Duration {
    // The standard library seeds every RandomState anew: random enough to spread requests.
    let random = RandomState::new().hash_one(()) % 1000;
    let permille = u32::try_from(random).expect("below 1000");
    duration.saturating_sub(duration * share / 100 * permille / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_doubles_up_to_its_bound_and_starts_over_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));
        let waits: Vec<_> = (0..5).map(|_| backoff.failed().as_millis()).collect();
        backoff.worked();

        assert_eq!(waits, [200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.failed().as_millis(), 200);
    }

    #[test]
    fn a_watch_that_breaks_off_again_and_again_is_waited_for_ever_longer() {
        let (second, calm) = (Duration::from_secs(1), Duration::from_secs(30));
        let mut backoff = WatchBackoff::new(Backoff::new(second, second * 4), calm);
        let mut now = Instant::now();
        let mut wait = |holds: Duration| {
            // It brings something, and breaks off so much later.
            kube::runtime::utils::Backoff::reset(&mut backoff);
            now += holds;
            backoff.next_at(now).unwrap()
        };
        assert!(wait(second) <= second);
        assert!(wait(second) > second);
        assert!(wait(second) > second * 2);
        assert!(wait(calm * 2) <= second, "it has held for a while");
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
