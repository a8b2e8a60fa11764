//! The time that the agent lives by: the wall clock, kept from jumping.
//!
//! Timers need a time that goes on at its own pace, and retentions need the true one. So this
//! clock runs with the monotonic one and follows the wall clock only forward, and only once a
//! jump has stood (see [`holdfast_provider::policy::clock`]).

use std::time::Instant;

use holdfast_provider::policy::clock::{Guard, Reading, Verdict};
use jiff::{SignedDuration, Timestamp};

/// See the module.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    base: Timestamp,
    guard: Guard,
}

impl Clock {
    /// A clock that starts at the wall clock's time.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            base: wall(),
            guard: Guard::default(),
        }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.base + self.monotonic()
    }

    /// Compares with the wall clock; to be called every second or so.
    pub fn check(&mut self) -> Verdict {
        let reading = Reading {
            wall: wall(),
            monotonic: self.monotonic(),
        };
        let verdict = self.guard.observe(reading);
        if verdict.may_expire && reading.wall > self.now() {
            self.base = reading.wall - reading.monotonic;
        }
        verdict
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

/// The wall clock.
pub fn wall() -> Timestamp {
    Timestamp::now()
}
