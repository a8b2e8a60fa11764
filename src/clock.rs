//! The time that the agent and the ledger live by: the wall clock, kept from jumping.
//!
//! Timers need a time that goes on at its own pace, and retentions need the true one. So this
//! clock runs with the monotonic one and follows the wall clock only forward, and only once a
//! jump has stood (see [`holdfast_provider::policy::clock`]). While it is ahead of the wall clock,
//! because a jump was undone, no retention ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use holdfast_provider::policy::clock::{Guard, Reading, Verdict};
use jiff::{SignedDuration, Timestamp};

/// How far this clock may be ahead of the wall clock without a jump: scheduling and rounding.
const AHEAD_MAX: SignedDuration = SignedDuration::from_secs(1);

/// See the module. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct Clock {
    start: Instant,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    base: Timestamp,
    guard: Guard,
}

impl Clock {
    /// A clock that starts at the wall clock's time.
    pub fn new() -> Self {
        let inner = Inner {
            base: wall(),
            guard: Guard::default(),
        };
        Self {
            start: Instant::now(),
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.base + self.monotonic()
    }

    /// Compares with the wall clock; to be called every second or so.
    pub fn check(&self) -> Verdict {
        let reading = Reading {
            wall: wall(),
            monotonic: self.monotonic(),
        };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.observe(reading)
    }

    fn monotonic(&self) -> SignedDuration {
        SignedDuration::try_from(self.start.elapsed()).unwrap_or(SignedDuration::MAX)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn observe(&mut self, reading: Reading) -> Verdict {
        let mut verdict = self.guard.observe(reading);
        let ours = self.base + reading.monotonic;
        if verdict.may_expire && reading.wall > ours {
            self.base = reading.wall - reading.monotonic;
        }
        verdict.may_expire &= ours.duration_since(reading.wall) <= AHEAD_MAX;
        verdict
    }
}

/// The wall clock.
pub fn wall() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_jump_is_followed_once_it_has_stood_and_an_undone_one_holds_retentions() {
        let mut clock = Inner {
            base: at(1000),
            guard: Guard::default(),
        };
        let mut observe = |wall: i64, monotonic: i64| {
            let reading = Reading {
                wall: at(wall),
                monotonic: SignedDuration::from_secs(monotonic),
            };
            let verdict = clock.observe(reading);
            (
                verdict.may_expire,
                (clock.base + reading.monotonic).as_second(),
            )
        };
        assert_eq!(observe(1000, 0), (true, 1000));
        assert_eq!(observe(4601, 1), (false, 1001), "an hour forward");
        assert_eq!(observe(4661, 61), (true, 4661), "it has stood");
        assert_eq!(observe(1062, 62), (false, 4662), "undone: ours goes on");
        assert_eq!(observe(1122, 122), (false, 4722), "ahead of the wall clock");
        assert_eq!(observe(4723, 123), (false, 4723));
        assert_eq!(
            observe(4783, 183),
            (true, 4783),
            "caught up, and it has stood"
        );
    }
}
