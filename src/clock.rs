//! The time that the agent and the ledger live by: the wall clock, kept from jumping.
//!
//! Timers need a time that goes on at its own pace, and retentions need the true one. So this
//! clock runs with the monotonic one and follows the wall clock only forward, and only once a
//! jump has stood (see [`holdfast_provider::policy::clock`]). While it is ahead of the wall clock,
//! because that was set back, no retention ends. A step back that is no jump it makes up for at half
//! its pace. It does not follow a jump back: only a start does, which has no timers yet.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use holdfast_provider::policy::clock::{Guard, JUMP, Reading, Verdict};
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
    /// The time when the monotonic clock was at `since`.
    base: Timestamp,
    since: SignedDuration,
    /// It goes at half the pace of the monotonic clock.
    is_slow: bool,
    /// It is far ahead because of a jump.
    has_jumped: bool,
    guard: Guard,
}

impl Clock {
    /// A clock that starts at the wall clock's time.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            inner: Arc::new(Mutex::new(Inner::at(wall()))),
        }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.time(self.monotonic())
    }

    /// Compares with the wall clock; to be called every second or so.
    pub fn check(&self) -> Verdict {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // Read behind the lock: nobody has been told a later time.
        let reading = Reading {
            wall: wall(),
            monotonic: self.monotonic(),
        };
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
    fn at(base: Timestamp) -> Self {
        Self {
            base,
            since: SignedDuration::ZERO,
            is_slow: false,
            has_jumped: false,
            guard: Guard::default(),
        }
    }

    fn time(&self, monotonic: SignedDuration) -> Timestamp {
        let passed = monotonic - self.since;
        self.base + if self.is_slow { passed / 2 } else { passed }
    }

    fn observe(&mut self, reading: Reading) -> Verdict {
        let mut verdict = self.guard.observe(reading);
        self.base = self.time(reading.monotonic);
        self.since = reading.monotonic;
        if verdict.may_expire {
            self.base = self.base.max(reading.wall);
        }
        let ahead = self.base.duration_since(reading.wall);
        let is_ahead = ahead > AHEAD_MAX;
        // Made up for a jump, it would double every delay for as long as twice the jump.
        self.has_jumped = ahead > JUMP && (self.has_jumped || verdict.jump.is_some());
        self.is_slow = verdict.may_expire && is_ahead && !self.has_jumped;
        verdict.may_expire &= !is_ahead;
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
    fn a_step_back_that_is_no_jump_is_made_up_for_without_going_back() {
        let mut clock = Inner::at(at(1000));
        let mut observe = |back: i64, monotonic: i64| {
            let reading = Reading {
                wall: at(1000 + monotonic - back),
                monotonic: SignedDuration::from_secs(monotonic),
            };
            (
                clock.observe(reading).may_expire,
                clock.time(reading.monotonic),
            )
        };
        let (mut last, mut held) = (at(1000), 0);
        for second in 1..=100 {
            let (may_expire, now) = observe(20, second);
            assert!(now >= last, "{now} after {last}");
            let ahead = now.duration_since(at(1000 + second - 20));
            assert!(!may_expire || ahead <= AHEAD_MAX, "{ahead} in {second}");
            held += i64::from(!may_expire);
            last = now;
        }
        assert!((38..=40).contains(&held), "{held}");
    }

    #[test]
    fn steps_back_that_add_up_to_more_than_a_jump_are_made_up_for_too() {
        let mut clock = Inner::at(at(1000));
        let mut held = 0;
        for second in 1..=300 {
            let back = if second > 30 { 90 } else { 45 };
            let verdict = clock.observe(Reading {
                wall: at(1000 + second - back),
                monotonic: SignedDuration::from_secs(second),
            });
            assert!(verdict.jump.is_none());
            held += i64::from(!verdict.may_expire);
        }
        assert!((170..=180).contains(&held), "{held}");
    }

    #[test]
    fn what_is_left_of_a_jump_that_was_undone_is_made_up_for() {
        let mut clock = Inner::at(at(1000));
        let mut observe = |second: i64| {
            let back = match second {
                0..10 => 0,
                10..100 => 3600,
                _ => 5,
            };
            clock.observe(Reading {
                wall: at(1000 + second - back),
                monotonic: SignedDuration::from_secs(second),
            })
        };
        let held: i64 = (0..300)
            .map(|second| i64::from(!observe(second).may_expire))
            .sum();
        assert!((90..180).contains(&held), "{held}");
        assert!(observe(300).may_expire);
    }

    #[test]
    fn a_jump_is_followed_once_it_has_stood_and_an_undone_one_holds_retentions() {
        let mut clock = Inner::at(at(1000));
        let mut observe = |wall: i64, monotonic: i64| {
            let reading = Reading {
                wall: at(wall),
                monotonic: SignedDuration::from_secs(monotonic),
            };
            let verdict = clock.observe(reading);
            (
                verdict.may_expire,
                clock.time(reading.monotonic).as_second(),
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
