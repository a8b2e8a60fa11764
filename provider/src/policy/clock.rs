//! What is believed of a wall clock: whether retentions may end while it jumps, and when a deletion was that nobody saw.
//!
//! A clock that leaps forward would end every retention at once. So a leap against the monotonic
//! clock holds endings back until the new time has stood for a while.

use jiff::{SignedDuration, Timestamp};

/// A difference to the monotonic clock that counts as a jump.
pub const JUMP: SignedDuration = SignedDuration::from_secs(60);
/// How long a jumped clock must stand before it is believed.
pub const STAND: SignedDuration = SignedDuration::from_secs(60);

/// By how much a clock may be off that somebody set, or that counts in another time zone.
pub const MISSET: SignedDuration = SignedDuration::from_hours(24);

/// Whether a wall clock that ledger time is ahead of is wrong itself, rather than ledger time. It is where it is behind by
/// no more than clocks are misset, or behind the newest pod, whose time is the API server's. In doubt it is: to take ledger
/// time ends a retention later, and to take the clock's ends it too early.
pub fn is_behind(wall: Timestamp, ledger: Timestamp, newest_pod: Option<Timestamp>) -> bool {
    ledger.duration_since(wall) <= MISSET
        || newest_pod.is_some_and(|created| created.duration_since(wall) > JUMP)
}

/// Compares the wall clock with the monotonic one, reading by reading.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    last: Option<Reading>,
    held_until: Option<SignedDuration>,
}

/// One look at both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The wall clock.
    pub wall: Timestamp,
    /// The monotonic clock, counted from any fixed point.
    pub monotonic: SignedDuration,
}

/// What a reading showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether retentions may end now.
    pub may_expire: bool,
    /// How far the wall clock jumped since the reading before, if it did: worth reporting.
    pub jump: Option<SignedDuration>,
}

impl Guard {
    /// Takes a reading into account.
    pub fn observe(&mut self, reading: Reading) -> Verdict {
        let jump = self.last.map(|last| {
            let wall = reading.wall.duration_since(last.wall);
            wall.saturating_sub(reading.monotonic.saturating_sub(last.monotonic))
        });
        let jump = jump.filter(|jump| jump.abs() > JUMP);
        if jump.is_some() {
            self.held_until = Some(reading.monotonic.saturating_add(STAND));
        }
        self.last = Some(reading);
        if self
            .held_until
            .is_some_and(|until| reading.monotonic >= until)
        {
            self.held_until = None;
        }
        Verdict {
            may_expire: self.held_until.is_none(),
            jump,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(wall: i64, monotonic: i64) -> Reading {
        Reading {
            wall: Timestamp::from_second(wall).unwrap(),
            monotonic: SignedDuration::from_secs(monotonic),
        }
    }

    #[test]
    fn a_clock_is_wrong_that_is_off_by_hours_or_behind_the_newest_pod() {
        let wall = Timestamp::from_second(1_800_000_000).unwrap();
        let day = SignedDuration::from_hours(24);
        assert!(is_behind(wall, wall + day, None));
        assert!(is_behind(wall, wall + day, Some(wall - day)));
        assert!(is_behind(wall, wall + day * 365, Some(wall + day)));
        assert!(!is_behind(wall, wall + day * 365, Some(wall + JUMP)));
        assert!(!is_behind(wall, wall + day * 365, None));
    }

    #[test]
    fn a_steady_clock_lets_retentions_end() {
        let mut guard = Guard::default();
        for second in 0..200 {
            assert!(guard.observe(reading(1000 + second, second)).may_expire);
        }
    }

    #[test]
    fn clock_step_back_and_forward_holds_expiry_for_a_minute() {
        for jump in [3600, -3600] {
            let mut guard = Guard::default();
            guard.observe(reading(100_000, 0));
            let verdict = guard.observe(reading(100_001 + jump, 1));
            assert_eq!(
                verdict,
                Verdict {
                    may_expire: false,
                    jump: Some(SignedDuration::from_secs(jump))
                }
            );
            assert!(!guard.observe(reading(100_060 + jump, 60)).may_expire);
            assert!(guard.observe(reading(100_061 + jump, 61)).may_expire);
        }
    }

    #[test]
    fn a_second_jump_starts_the_wait_anew() {
        let mut guard = Guard::default();
        guard.observe(reading(0, 0));
        guard.observe(reading(3600, 1));
        guard.observe(reading(10, 31));
        assert!(!guard.observe(reading(41, 62)).may_expire);
        assert!(guard.observe(reading(70, 91)).may_expire);
    }
}
