//! Takes reviews in: reads and decodes them, in bounded memory whoever sends them.
//!
//! Callers are not authenticated, and what they send may be slow, long, and many times its length when it is decoded.
//! A body that is not long is read without asking anybody, so that nobody who sends slowly keeps the API server's
//! ordinary reviews waiting; only the few that are longer wait for each other. While a very long one is decoded, all
//! others wait: that bounds the memory.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Json, Request};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures::StreamExt;
use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::review::Review;

/// The API server takes objects of up to 3 MiB; the review adds who asked and how.
const BODY_BYTES_MAX: usize = 4 << 20;
/// What each connection may send without asking, and its buffers hold as much again. The review of an ordinary pod has
/// some 10 KiB.
const SHORT_BYTES_MAX: usize = 64 << 10;
/// Longer bodies in memory, 16 MiB together.
const LONG_MAX: usize = 4;
/// For a place among the longer ones.
const LONG_WAIT: Duration = Duration::from_secs(3);
/// For the rest of a longer body from then on. An API server has it whole; who does not must make room for it.
const LONG_TIMEOUT: Duration = Duration::from_secs(1);
/// Bodies that are decoded, in bytes as they were sent: enough for the longest, and for as many ordinary ones as an API
/// server has under way. A list of empty tolerations takes up to ninety times as much while it is decoded.
const DECODED_BYTES_MAX: usize = BODY_BYTES_MAX;

/// What is being taken in.
pub(super) struct Intake {
    long: Arc<Semaphore>,
    decoded: Arc<Semaphore>,
}

/// A review, and its places among those in memory.
pub(super) struct Taken {
    pub(super) review: Review,
    _places: Places,
}

/// Kept until what has them is decoded, also when nobody waits for it any more.
struct Places {
    long: Option<OwnedSemaphorePermit>,
    _decoded: OwnedSemaphorePermit,
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            long: Arc::new(Semaphore::new(LONG_MAX)),
            decoded: Arc::new(Semaphore::new(DECODED_BYTES_MAX)),
        }
    }
}

impl Intake {
    /// Takes a review in before `deadline`, or says what the caller is answered.
    pub(super) async fn take(
        &self,
        request: Request,
        deadline: Instant,
    ) -> Result<Taken, Response> {
        match timeout_at(deadline, self.take_in(request)).await {
            Ok(taken) => taken,
            Err(_) => Err(busy()),
        }
    }

    async fn take_in(&self, request: Request) -> Result<Taken, Response> {
        let (body, long) = self.read(request.into_body()).await?;
        let weight = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let decoded = Arc::clone(&self.decoded).acquire_many_owned(weight).await;
        let places = Places {
            long,
            _decoded: decoded.expect("the semaphore is never closed"),
        };
        let is_long = places.long.is_some();
        let decode = move || (Json::from_bytes(&body), places);
        let (decoded, places) = if is_long {
            // Pods and leases must not wait until it is decoded.
            tokio::task::spawn_blocking(decode).await.map_err(refused)?
        } else {
            decode()
        };
        let Json(review) = decoded.map_err(IntoResponse::into_response)?;
        Ok(Taken {
            review,
            _places: places,
        })
    }

    async fn read(&self, body: Body) -> Result<(BytesMut, Option<OwnedSemaphorePermit>), Response> {
        let mut pieces = body.into_data_stream();
        let mut read = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(refused)?;
            if read.len() + piece.len() > SHORT_BYTES_MAX {
                let place = timeout(LONG_WAIT, Arc::clone(&self.long).acquire_owned()).await;
                let place = place.map_err(|_| busy())?;
                let place = place.expect("the semaphore is never closed");
                read.extend_from_slice(&piece);
                let rest = timeout(LONG_TIMEOUT, read_on(&mut pieces, &mut read)).await;
                rest.map_err(refused)??;
                return Ok((read, Some(place)));
            }
            read.extend_from_slice(&piece);
        }
        Ok((read, None))
    }
}

async fn read_on(
    pieces: &mut axum::body::BodyDataStream,
    read: &mut BytesMut,
) -> Result<(), Response> {
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(refused)?;
        if read.len() + piece.len() > BODY_BYTES_MAX {
            return Err(StatusCode::PAYLOAD_TOO_LARGE.into_response());
        }
        read.extend_from_slice(&piece);
    }
    Ok(())
}

fn refused(error: impl std::fmt::Display) -> Response {
    let text = format!("cannot read the review: {error}");
    (StatusCode::BAD_REQUEST, text).into_response()
}

fn busy() -> Response {
    let text = "too many reviews are under way, or this one was not sent in time";
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::stream;

    fn soon() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    fn request(body: Body) -> Request {
        let request = Request::post("/").header("content-type", "application/json");
        request.body(body).unwrap()
    }

    /// A review with so many maps in its options.
    fn review(maps: usize) -> String {
        let maps = vec![r#"{"a":1}"#; maps].join(",");
        format!(
            r#"{{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":
            {{"uid":"1","operation":"CREATE","options":[{maps}]}}}}"#
        )
    }

    /// Begins with so many bytes, and never ends.
    fn stalled(bytes: usize) -> Request {
        let begin = stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![b' '; bytes]))]);
        request(Body::from_stream(begin.chain(stream::pending())))
    }

    #[tokio::test]
    async fn an_ordinary_review_waits_for_no_slow_sender() {
        let intake = Intake::default();
        let slow = (0..20).map(|count| {
            let bytes = if count % 2 == 0 {
                1
            } else {
                SHORT_BYTES_MAX + 1
            };
            intake.take(stalled(bytes), soon())
        });
        let began = Instant::now();
        tokio::select! {
            biased;
            _ = futures::future::join_all(slow) => panic!("the slow ones ended"),
            taken = intake.take(request(review(1).into()), soon()) => assert!(taken.is_ok()),
        }
        assert!(began.elapsed() < LONG_TIMEOUT, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_long_review_waits_a_second_for_slow_senders_of_long_ones() {
        let intake = Intake::default();
        let slow = (0..LONG_MAX).map(|_| intake.take(stalled(SHORT_BYTES_MAX + 1), soon()));
        let began = Instant::now();
        let long = intake.take(request(review(20_000).into()), soon());
        let (slow, long) = tokio::join!(futures::future::join_all(slow), long);
        assert!(slow.iter().all(Result::is_err));
        assert!(long.is_ok());
        assert!(began.elapsed() < LONG_WAIT, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_review_that_is_being_answered_keeps_its_places() {
        let intake = Intake::default();
        let mut taken = Vec::new();
        for _ in 0..LONG_MAX {
            let long = intake.take(request(review(20_000).into()), soon()).await;
            taken.push(long.map_err(|refusal| refusal.status()).unwrap());
        }
        let refused = intake
            .take(request(review(20_000).into()), soon())
            .await
            .err();
        assert_eq!(refused.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(intake.decoded.available_permits() < DECODED_BYTES_MAX);
        drop(taken);
        assert_eq!(intake.decoded.available_permits(), DECODED_BYTES_MAX);
    }

    #[test]
    fn a_long_review_that_nobody_waits_for_keeps_its_places_until_it_is_decoded() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().max_blocking_threads(1).build();
        runtime.unwrap().block_on(async {
            // Until then nothing is decoded.
            let (decode, may_decode) = std::sync::mpsc::channel::<()>();
            tokio::task::spawn_blocking(move || may_decode.recv());
            let intake = Intake::default();
            let body = review(20_000);
            let length = body.len();
            let mut take = Box::pin(intake.take(request(body.into()), soon()));
            while intake.decoded.available_permits() == DECODED_BYTES_MAX {
                assert!(futures::poll!(&mut take).is_pending());
            }
            drop(take);
            let left = intake.decoded.available_permits();
            assert_eq!(left, DECODED_BYTES_MAX - length);
            decode.send(()).unwrap();
            let all = u32::try_from(DECODED_BYTES_MAX).unwrap();
            let given_back = timeout(Duration::from_mins(1), intake.decoded.acquire_many(all));
            let _all = given_back.await.unwrap().unwrap();
        });
    }

    #[tokio::test]
    async fn a_review_that_does_not_come_in_time_is_refused() {
        let intake = Intake::default();
        let deadline = Instant::now() + Duration::from_millis(10);
        let refused = intake.take(stalled(1), deadline).await.err().unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn a_review_of_more_than_four_mib_is_refused() {
        let intake = Intake::default();
        let piece = || Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1 << 20]));
        let pieces = std::iter::repeat_with(piece).take(5);
        let refused = intake.take(request(Body::from_stream(stream::iter(pieces))), soon());
        let refused = refused.await.err().unwrap();
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}
