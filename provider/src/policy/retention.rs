//! When a retention starts and ends.

use jiff::{SignedDuration, Timestamp};

/// Kubernetes writes times in whole seconds, cut off: the true instant is up to this much later.
pub const API_TRUNCATION: SignedDuration = SignedDuration::from_secs(1);

/// The instant of a deletion, never too early: `deletionTimestamp` lies the grace period after
/// the request and has lost its fraction.
///
/// Source: spec, "The retention period of the static IP address starts from the time you delete
/// the pod".
pub fn deleted_at(deletion_timestamp: Timestamp, grace: SignedDuration) -> Timestamp {
    let truncated = deletion_timestamp
        .checked_sub(grace)
        .unwrap_or(deletion_timestamp);
    truncated.checked_add(API_TRUNCATION).unwrap_or(truncated)
}

/// When a retention of `period` ends that began at `deleted_at`.
pub fn expires_at(deleted_at: Timestamp, period: SignedDuration) -> Timestamp {
    deleted_at.checked_add(period).unwrap_or(Timestamp::MAX)
}

/// Whether a retention that ends at `expires_at` is over at `now` for a key whose fixed-IP pod,
/// if there is one, was created at `pod_created_at`: a pod made in time is not punished for
/// waiting.
pub fn is_over(expires_at: Timestamp, now: Timestamp, pod_created_at: Option<Timestamp>) -> bool {
    now >= expires_at && pod_created_at.is_none_or(|created_at| created_at >= expires_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    #[test]
    fn the_clock_starts_at_the_request_and_never_before_it() {
        let deleted = deleted_at(ms(130_000), SignedDuration::from_secs(30));
        assert_eq!(deleted, ms(101_000));
    }

    #[test]
    fn released_at_the_deadline_and_not_a_millisecond_before() {
        let end = expires_at(ms(1000), SignedDuration::from_hours(48));
        assert!(!is_over(end, ms(1000 + 48 * 3_600_000 - 1), None));
        assert!(is_over(end, ms(1000 + 48 * 3_600_000), None));
    }

    #[test]
    fn a_pod_created_in_time_holds_it_off() {
        assert!(!is_over(ms(5000), ms(9000), Some(ms(4000))));
        assert!(is_over(ms(5000), ms(9000), Some(ms(5000))));
    }

    #[test]
    fn an_absurd_period_does_not_overflow() {
        assert_eq!(expires_at(ms(0), SignedDuration::MAX), Timestamp::MAX);
    }
}
