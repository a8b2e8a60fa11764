//! The clocks of the machine, as the shell reads them.

use super::*;
use crate::policy::clock::{Guard, Reading};

/// The clocks of the machine, and the one that the shell makes of them.
pub(super) struct Clock {
    /// The time of the API server, which nobody sets.
    pub(super) truth: Timestamp,
    pub(super) skew: SignedDuration,
    begin: Timestamp,
    base: Timestamp,
    guard: Guard,
    pub(super) may_expire: bool,
    /// Until then it is worth a look every second.
    pub(super) disturbed_until: Timestamp,
}

impl Clock {
    pub(super) fn new(truth: Timestamp, skew: SignedDuration) -> Self {
        let mut clock = Self {
            truth,
            skew,
            begin: truth,
            base: truth + skew,
            guard: Guard::default(),
            may_expire: true,
            disturbed_until: truth,
        };
        clock.observe();
        clock
    }

    fn monotonic(&self) -> SignedDuration {
        self.truth.duration_since(self.begin)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.base + self.monotonic()
    }

    /// What the shell does every second.
    pub(super) fn observe(&mut self) {
        let wall = self.truth + self.skew;
        let monotonic = self.monotonic();
        let verdict = self.guard.observe(Reading { wall, monotonic });
        let ours = self.now();
        if verdict.may_expire && wall > ours {
            self.base = wall - monotonic;
        }
        self.may_expire = verdict.may_expire && ours.duration_since(wall) <= SECOND;
    }
}
