//! A limit of calls per second, counted in whole seconds from the first call on.
//!
//! Fixed windows and not a token bucket: a bucket that starts full lets a second's calls through
//! on top, so that a measurement of ten seconds would be a tenth too high.

use jiff::{SignedDuration, Timestamp};

const WINDOW: SignedDuration = SignedDuration::from_secs(1);

/// The calls let through in the second under way. Lives in memory only.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    window: Option<Timestamp>,
    passed: u32,
}

impl Throttle {
    /// Counts a call at `now`, unless `calls_per_s` of this second have passed already.
    pub(super) fn admit(&mut self, now: Timestamp, calls_per_s: u32) -> bool {
        let begin = self.window.map_or(now, |begin| window_at(begin, now));
        if self.window != Some(begin) {
            self.window = Some(begin);
            self.passed = 0;
        }
        if self.passed >= calls_per_s {
            return false;
        }
        self.passed += 1;
        true
    }
}

/// The begin of the window that `now` falls into. Windows stay whole seconds apart, so that calls
/// at odd times do not stretch them; a clock that was set back begins anew.
fn window_at(begin: Timestamp, now: Timestamp) -> Timestamp {
    let elapsed = now.duration_since(begin);
    if elapsed < SignedDuration::ZERO {
        return now;
    }
    if elapsed < WINDOW {
        return begin;
    }
    now - SignedDuration::new(0, elapsed.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_calls_is_kept_within_five_per_cent_over_ten_seconds() {
        for (calls_per_s, step_ms) in [(20, 1), (20, 7), (500, 1), (33, 13)] {
            let mut throttle = Throttle::default();
            let begin = Timestamp::UNIX_EPOCH;
            let calls =
                (0..10_000 / step_ms).map(|n| begin + SignedDuration::from_millis(n * step_ms));
            let passed = calls
                .filter(|now| throttle.admit(*now, calls_per_s))
                .count();
            let rate = f64::from(u32::try_from(passed).unwrap()) / f64::from(10 * calls_per_s);
            assert!((0.95..=1.05).contains(&rate), "{calls_per_s}/s: {rate}");
        }
    }

    #[test]
    fn calls_left_over_from_a_quiet_time_are_not_made_up_for() {
        let mut throttle = Throttle::default();
        assert!(throttle.admit(Timestamp::UNIX_EPOCH, 2));
        let later = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(60);
        let passed = (0..10).filter(|_| throttle.admit(later, 2));
        assert_eq!(passed.count(), 2);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_close_the_cloud() {
        let mut throttle = Throttle::default();
        let now = Timestamp::UNIX_EPOCH;
        assert!(throttle.admit(now, 1));
        assert!(!throttle.admit(now, 1));
        assert!(throttle.admit(now - SignedDuration::from_hours(1), 1));
    }
}
