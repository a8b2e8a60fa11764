//! The places of connections: how many there may be, and who makes room when all are taken.
//!
//! A connection either waits for its client (for the handshake, for a request, for the rest of its body) or serves it.
//! One that waits keeps its place for as long as nobody else needs it. That a stranger who holds all of them must not
//! keep the API server out counts for more than that the call of a client may fail, who after a long time sends in the
//! very moment in which it is closed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How long a connection may wait for its client before it makes room: far more than a client takes that has something
/// to ask, so that a crowd of such clients waits in line in place of driving each other out.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// For a connection to end that makes room, before the next one has to as well.
const END_PAUSE: Duration = Duration::from_millis(10);

/// Places for connections, which several listeners may share.
pub(crate) struct Places {
    free: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
}

/// The connections that wait for their clients.
#[derive(Default)]
struct Waiting {
    /// By when they began to wait, each with what withdraws its place.
    since: BTreeMap<(Instant, u64), CancellationToken>,
    next: u64,
}

impl Places {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(count)),
            waiting: Mutex::default(),
        }
    }

    /// A place for a connection that begins to wait for its client.
    pub(super) async fn take(self: &Arc<Self>) -> Place {
        let mut free = pin!(Arc::clone(&self.free).acquire_owned());
        let permit = tokio::select! {
            biased;
            permit = &mut free => permit,
            never = self.make_room() => match never {},
        };
        let place = Place {
            _permit: permit.expect("the semaphore is never closed"),
            places: Arc::clone(self),
            withdrawn: CancellationToken::new(),
            waits: Mutex::default(),
        };
        place.wait();
        place
    }

    /// Withdraws one place after the other, of who has waited longest.
    async fn make_room(&self) -> Infallible {
        loop {
            let now = Instant::now();
            let next = self.lock().take_longest(now);
            match next {
                Ok(place) => {
                    place.cancel();
                    sleep(END_PAUSE).await;
                }
                Err(wait) => sleep(wait).await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Who has waited longest, or how long from `now` on nobody will have waited long enough.
    fn take_longest(&mut self, now: Instant) -> Result<CancellationToken, Duration> {
        let entry = self.since.first_entry().ok_or(WAIT_MIN)?;
        let (since, _) = entry.key();
        let waited = now.saturating_duration_since(*since);
        if waited < WAIT_MIN {
            return Err(WAIT_MIN.saturating_sub(waited));
        }
        Ok(entry.remove())
    }
}

/// The place of one connection.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    places: Arc<Places>,
    withdrawn: CancellationToken,
    /// Where it stands among those that wait.
    waits: Mutex<Option<(Instant, u64)>>,
}

impl Place {
    /// The connection waits for its client from now on.
    pub(super) fn wait(&self) {
        self.wait_since(Instant::now());
    }

    /// The same, and has waited since `began` but for what it was served meanwhile.
    pub(super) fn wait_since(&self, began: Instant) {
        let mut waiting = self.places.lock();
        let stands = (began, waiting.next);
        waiting.next += 1;
        if let Some(before) = self.stands().replace(stands) {
            waiting.since.remove(&before);
        }
        waiting.since.insert(stands, self.withdrawn.clone());
    }

    /// The client waits for the connection from now on.
    pub(super) fn serve(&self) {
        let mut waiting = self.places.lock();
        if let Some(before) = self.stands().take() {
            waiting.since.remove(&before);
        }
    }

    /// What comes of `connection`, unless its place is withdrawn before.
    pub(super) async fn until_withdrawn<F: Future>(&self, connection: F) -> Option<F::Output> {
        self.withdrawn.run_until_cancelled(connection).await
    }

    /// Taken only while the places are locked.
    fn stands(&self) -> MutexGuard<'_, Option<(Instant, u64)>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.serve();
    }
}

/// The body of an answer. The connection waits for its client again when this has gone.
pub(super) struct Served {
    body: Body,
    place: Arc<Place>,
}

impl Served {
    pub(super) fn new(body: Body, place: Arc<Place>) -> Self {
        Self { body, place }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.place.wait();
    }
}

impl HttpBody for Served {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
