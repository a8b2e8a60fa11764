//! What all sessions together may cost: how many there are, and what they ask of the API server.
//!
//! A session is an `exec`, `attach`, `port-forward` or log: it lasts as long as its client likes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

use crate::descriptors;

/// Sessions at a time. Each keeps a connection and its buffers.
const SESSIONS_MAX: usize = 1024;
/// Sessions that are being opened at a time: each reads a handful of objects and the ledger.
const BEGINNINGS_MAX: usize = 16;
/// Sessions look at their pods by turns: all together so often, however many there are.
const LOOK_GAP: Duration = Duration::from_millis(20);

/// No session begins, for there are too many.
#[derive(Debug, thiserror::Error)]
#[error(
    "{max} sessions (exec, attach, port-forward, logs) are open here, and no more are served: end some and try again"
)]
pub(super) struct Full {
    max: usize,
}

/// The place of a session, free again when dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

pub(super) struct Limits {
    max: usize,
    places: Arc<Semaphore>,
    beginnings: Semaphore,
    next_look: Mutex<Instant>,
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(descriptors::share(SESSIONS_MAX))
    }
}

impl Limits {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            places: Arc::new(Semaphore::new(max)),
            beginnings: Semaphore::new(BEGINNINGS_MAX),
            next_look: Mutex::new(Instant::now()),
        }
    }

    /// A place for one more session.
    pub(super) fn place(&self) -> Result<Place, Full> {
        let permit = Arc::clone(&self.places).try_acquire_owned();
        let permit = permit.map_err(|_| Full { max: self.max })?;
        Ok(Place { _permit: permit })
    }

    /// Waits until a session may be opened, and keeps others waiting until it is.
    pub(super) async fn beginning(&self) -> SemaphorePermit<'_> {
        let permit = self.beginnings.acquire().await;
        permit.expect("the semaphore is never closed")
    }

    /// Waits for the turn to look at a pod.
    pub(super) async fn look(&self) {
        sleep_until(self.turn(Instant::now())).await;
    }

    fn turn(&self, now: Instant) -> Instant {
        let next = self.next_look.lock();
        let mut next = next.unwrap_or_else(PoisonError::into_inner);
        let turn = (*next).max(now);
        *next = turn + LOOK_GAP;
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_session_too_many_is_refused_until_another_ends() {
        let limits = Limits::new(2);
        let first = limits.place().unwrap();
        let _second = limits.place().unwrap();
        let refused = limits.place().err().unwrap();
        assert!(refused.to_string().starts_with("2 sessions"), "{refused}");
        drop(first);
        limits.place().unwrap();
    }

    #[test]
    fn many_look_no_more_often_than_few() {
        let limits = Limits::new(1);
        let now = Instant::now();
        let turns: Vec<_> = (0..100).map(|_| limits.turn(now)).collect();
        assert_eq!(turns[99] - turns[0], LOOK_GAP * 99);
        let later = now + Duration::from_mins(1);
        assert_eq!(limits.turn(later), later, "time that passed is no debt");
        assert_eq!(limits.turn(later), later + LOOK_GAP);
    }
}
