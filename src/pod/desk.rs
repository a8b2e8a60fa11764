//! Where requests about pods are made, and their answers handed on.
//!
//! Owns how many questions are under way, and what keeps a write from being sent without the cluster's Lease
//! ([`fenced`]). How many writes there are the agent counts; what is asked, and what its answer means, is in
//! [`super::api`] and the agent.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{Semaphore, mpsc};

use super::agent::{Input, Refused};
use crate::cluster_lease::Tenure;

/// Questions of a lane under way at once: each takes a connection, and a list may lack thousands of pods.
const ASKED_MAX: usize = 64;

/// Questions that wait for each other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lane {
    /// Looks at pods.
    Pods,
    /// All others, such as what a pod needs to start.
    Others,
}

/// Where requests are made, and their answers handed on.
pub(super) struct Desk {
    pub(super) client: Client,
    answers: mpsc::UnboundedSender<Input>,
    /// [`ASKED_MAX`] of each lane.
    places: [Arc<Semaphore>; 2],
}

impl Desk {
    pub(super) fn new(client: Client, answers: mpsc::UnboundedSender<Input>) -> Self {
        Self {
            client,
            answers,
            places: std::array::from_fn(|_| Arc::new(Semaphore::new(ASKED_MAX))),
        }
    }

    /// Makes a request at once: the agent has counted it.
    pub(super) fn write<F>(&self, request: impl FnOnce(Client) -> F)
    where
        F: Future<Output = Input> + Send + 'static,
    {
        let answers = self.answers.clone();
        // A request of kube's is 3 kB, which would be moved several times on its way to a task and within it.
        let request = Box::pin(request(self.client.clone()));
        tokio::spawn(async move {
            // Nobody listens any more once serving has ended; then the answer does not matter.
            drop(answers.send(request.await));
        });
    }

    /// Makes a request when a place is free, and hands its answer on after the pause that it comes with. Thousands may
    /// wait for a place, so what waits is not a request yet.
    pub(super) fn ask<F>(&self, lane: Lane, request: impl FnOnce(Client) -> F + Send + 'static)
    where
        F: Future<Output = (Input, Duration)> + Send + 'static,
    {
        let (answers, client) = (self.answers.clone(), self.client.clone());
        let places = Arc::clone(&self.places[lane as usize]);
        tokio::spawn(async move {
            let place = places.acquire().await;
            let (input, pause) = Box::pin(request(client)).await;
            drop(place);
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            drop(answers.send(input));
        });
    }
}

/// A write, unless somebody else may serve the cluster by now.
pub(super) async fn fenced<T>(
    tenure: &Tenure,
    write: impl Future<Output = Result<T, Refused>>,
) -> Result<T, Refused> {
    if tenure.is_certain() {
        write.await
    } else {
        Err(Refused::Later)
    }
}

/// The pause that an answer comes with.
pub(super) fn after_failure<T>(result: &Result<T, Refused>, pause: Duration) -> Duration {
    if result.is_err() {
        pause
    } else {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use holdfast_provider::id::PodKey;

    use super::*;

    const A_DAY: Duration = Duration::from_hours(24);

    #[tokio::test]
    async fn nothing_is_written_while_somebody_else_may_serve_the_cluster() {
        let lapsed = Tenure::lapsed();
        let refused = fenced(&lapsed, async { panic!("it is written") });
        assert_eq!(refused.await, Err::<(), _>(Refused::Later));
        assert_eq!(fenced(&Tenure::unshared(), async { Ok(7) }).await, Ok(7));
    }

    #[tokio::test]
    async fn thousands_of_questions_are_asked_a_few_at_a_time_and_a_pause_keeps_no_place() {
        const QUESTIONS: usize = 2000;
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Ok::<_, Infallible>(http::Response::new(kube::client::Body::empty()))
        });
        let (answers, mut inbox) = mpsc::unbounded_channel();
        let desk = Desk::new(Client::new(service, "default"), answers);
        let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        for n in 0..QUESTIONS {
            let (gate, asked) = (Arc::clone(&gate), Arc::clone(&asked));
            desk.ask(Lane::Pods, move |_| async move {
                asked.fetch_add(1, Ordering::Relaxed);
                gate.acquire().await.unwrap().forget();
                let key = PodKey::new("default", &format!("web-{n}"));
                let pause = if n < ASKED_MAX { A_DAY } else { Duration::ZERO };
                (Input::Looked(key, Err(Refused::Later)), pause)
            });
        }
        // On the one thread of this test, every task runs as far as it can.
        for _ in 0..QUESTIONS {
            tokio::task::yield_now().await;
        }
        assert_eq!(asked.load(Ordering::Relaxed), ASKED_MAX);
        gate.add_permits(QUESTIONS);
        for _ in ASKED_MAX..QUESTIONS {
            inbox.recv().await.unwrap();
        }
        assert!(inbox.try_recv().is_err(), "the first ones pause");
    }
}
