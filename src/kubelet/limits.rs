//! What all sessions together may cost: how many there are, and what they ask of the API server.
//!
//! A session is an `exec`, `attach`, `port-forward`, or followed or long log: it lasts as long as its client likes. A
//! client that pauses, and takes nothing of what there is, keeps its session until somebody else needs the place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout};

use super::CONNECTIONS_MAX;
use crate::descriptors;
use crate::https::Outflow;

/// Sessions at a time. Each keeps a connection and its buffers.
const SESSIONS_MAX: usize = 1024;
/// Sessions that are being opened at a time: each reads a handful of objects and the ledger.
const BEGINNINGS_MAX: usize = 16;
/// Sessions look at their pods by turns: all together so often, however many there are.
const LOOK_GAP: Duration = Duration::from_millis(20);

/// A client that has taken nothing for so long makes room.
const STUCK_MIN: Duration = Duration::from_mins(1);
/// For a session to end that makes room.
const END_PATIENCE: Duration = Duration::from_secs(1);

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
    sessions: Arc<Sessions>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.lock().open.remove(&self.number);
    }
}

/// The sessions that there are.
#[derive(Default)]
struct Sessions(Mutex<Open>);

#[derive(Default)]
struct Open {
    open: BTreeMap<u64, Outflow>,
    next: u64,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the one whose client has taken nothing for longest, and for so long. Tells whether there is one.
    fn make_room(&self, stuck_min: Duration) -> bool {
        let (now, mut open) = (Instant::now(), self.lock());
        let stuck = open.open.iter().filter_map(|(number, outflow)| {
            let since = outflow.stuck_since()?;
            (now.saturating_duration_since(since) >= stuck_min).then_some((since, *number))
        });
        let Some((_, number)) = stuck.min() else {
            return false;
        };
        let outflow = open.open.remove(&number).expect("it was just found");
        drop(open);
        outflow.end();
        true
    }
}

/// Of so many connections, how many may be sessions: a log keeps one as long as it lasts, and who comes must have one to
/// ask for a place.
fn sessions_max(connections: usize) -> usize {
    SESSIONS_MAX.min(connections / 2).max(1)
}

pub(super) struct Limits {
    max: usize,
    places: Arc<Semaphore>,
    sessions: Arc<Sessions>,
    stuck_min: Duration,
    beginnings: Semaphore,
    next_look: Mutex<Instant>,
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(sessions_max(descriptors::share(CONNECTIONS_MAX)))
    }
}

impl Limits {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            places: Arc::new(Semaphore::new(max)),
            sessions: Arc::default(),
            stuck_min: STUCK_MIN,
            beginnings: Semaphore::new(BEGINNINGS_MAX),
            next_look: Mutex::new(Instant::now()),
        }
    }

    /// A place for one more session, whose client is written to by `outflow`.
    pub(super) async fn place(&self, outflow: Outflow) -> Result<Place, Full> {
        let full = || Full { max: self.max };
        let permit = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) if self.sessions.make_room(self.stuck_min) => {
                let freed = Arc::clone(&self.places).acquire_owned();
                let freed = timeout(END_PATIENCE, freed).await.map_err(|_| full())?;
                freed.expect("the semaphore is never closed")
            }
            Err(_) => return Err(full()),
        };
        let mut open = self.sessions.lock();
        let number = open.next;
        open.next += 1;
        open.open.insert(number, outflow);
        Ok(Place {
            _permit: permit,
            sessions: Arc::clone(&self.sessions),
            number,
        })
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
    use tokio::io::{AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::https::Watched;

    #[tokio::test]
    async fn one_session_too_many_is_refused_until_another_ends() {
        let limits = Limits::new(2);
        let place = || limits.place(Outflow::default());
        let first = place().await.unwrap();
        let _second = place().await.unwrap();
        let refused = place().await.err().unwrap();
        assert!(refused.to_string().starts_with("2 sessions"), "{refused}");
        drop(first);
        place().await.unwrap();
    }

    /// A session that is writing more than its client takes, and that client.
    async fn unread(limits: &Limits) -> (tokio::task::JoinHandle<()>, DuplexStream) {
        let (near, far) = tokio::io::duplex(16);
        let outflow = Outflow::default();
        let mut watched = Watched::new(far, outflow.clone());
        let place = limits.place(outflow.clone()).await.unwrap();
        let session = tokio::spawn(async move {
            let _place = place;
            let error = watched.write_all(&[0; 64]).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        });
        outflow.stuck().await;
        (session, near)
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_makes_room_when_somebody_needs_it() {
        let mut limits = Limits::new(2);
        let (first, _first_client) = unread(&limits).await;
        let (second, _second_client) = unread(&limits).await;
        let place = async |limits: &Limits| limits.place(Outflow::default()).await;
        assert!(place(&limits).await.is_err(), "not yet");
        limits.stuck_min = Duration::ZERO;
        assert!(!first.is_finished() && !second.is_finished());
        let _third = place(&limits).await.unwrap();
        first.await.unwrap();
        assert!(!second.is_finished(), "one place was needed");
        let _fourth = place(&limits).await.unwrap();
        second.await.unwrap();
        assert!(place(&limits).await.is_err());
    }

    #[test]
    fn sessions_leave_connections_to_who_asks_for_a_place() {
        let limits = [(2048, 1024), (1024, 512), (256, 128), (1, 1)];
        assert_eq!(
            limits.map(|(all, _)| sessions_max(all)),
            limits.map(|(_, most)| most)
        );
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
