//! How long to wait before the next try, and how not to try all at once.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

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

/// A watch that brings something works.
impl kube::runtime::utils::Backoff for Backoff {
    fn reset(&mut self) {
        self.worked();
    }
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
