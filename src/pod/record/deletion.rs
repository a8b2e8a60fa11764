//! The deletion of a pod, as the views of the pod tell it. What is to be done about it is not decided here.

use jiff::{SignedDuration, Timestamp};

use super::later;

/// The API cuts its timestamps to whole seconds, so a time read from it is up to this much early.
const TRUNCATION: SignedDuration = SignedDuration::from_secs(1);

/// The longest grace that Go's `time.Duration` holds. With a longer one the API server's reckoning wraps around, and its
/// timestamp says nothing.
const GRACE_MAX: SignedDuration = SignedDuration::from_nanos(i64::MAX);

/// A deletion, graceful or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// When its stop signal went out: when it was seen, or `deleted_at` if nobody was watching then.
    pub seen_at: Timestamp,
    /// When it was asked for: deletionTimestamp minus grace, plus the second that the API may have
    /// cut off, so never early. Read once: the final DELETE with grace 0 rewrites the timestamp.
    pub deleted_at: Timestamp,
    /// When containers are killed: the earliest of all deletionTimestamps seen.
    pub kill_at: Timestamp,
    /// When it was first seen with grace 0. The API server takes the object away in a second step,
    /// at once or with the last finalizer.
    pub final_at: Option<Timestamp>,
}

impl Deletion {
    /// As the first view that carries it tells of it.
    pub(super) fn new(at: Timestamp, grace_s: Option<i64>, now: Timestamp) -> Self {
        let grace = SignedDuration::from_secs(grace_s.unwrap_or(0).max(0));
        let deleted_at = if grace > GRACE_MAX {
            now
        } else {
            later(at, TRUNCATION - grace)
        };
        Self {
            seen_at: now,
            deleted_at,
            kill_at: killed_at(at, grace_s, now),
            final_at: None,
        }
    }

    /// Takes in what a view tells of it.
    pub(super) fn refresh(&mut self, at: Timestamp, grace_s: Option<i64>, now: Timestamp) {
        let at = killed_at(at, grace_s, now);
        // A second deletion moves the timestamp back, possibly to before the moment it was sent.
        if at < self.kill_at {
            self.kill_at = self.kill_at.min(at.max(now));
        }
        if grace_s == Some(0) {
            self.final_at.get_or_insert(now);
        }
    }

    /// When it was asked for at the earliest.
    pub(in crate::pod) fn asked_at(&self) -> Timestamp {
        later(self.deleted_at, -TRUNCATION)
    }

    /// How long containers may take to stop.
    pub fn grace(&self) -> SignedDuration {
        self.kill_at.duration_since(self.deleted_at) + TRUNCATION
    }
}

/// When containers are killed, by what one view tells.
fn killed_at(at: Timestamp, grace_s: Option<i64>, now: Timestamp) -> Timestamp {
    let grace = SignedDuration::from_secs(grace_s.unwrap_or(0));
    if grace > GRACE_MAX {
        later(now, grace)
    } else {
        at
    }
}
