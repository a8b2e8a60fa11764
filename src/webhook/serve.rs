//! HTTPS for the API server: one path, `POST /mutate`, with an `AdmissionReview` in and out.
//!
//! Knows nothing of what an answer says. The API server shows no certificate of its own here
//! (it has none unless its operator configures one), so callers are not authenticated: an answer
//! tells a caller nothing but the zone of a claim.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::certificate::Identity;

/// The API server opens one HTTP/1.1 connection for each call in flight, and by default handles
/// at most 200 changing requests at a time; this leaves room for two of them. More wait in the
/// listener's backlog.
const CONNECTIONS_MAX: usize = 512;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the 90 s after which the API server closes an idle connection: if this side
/// closed first, a call sent at that moment would fail, and with it the creation of a pod.
const IDLE_TIMEOUT: Duration = Duration::from_mins(2);
/// As long as the API server waits for an answer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept, which means that the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves `router` until `shutdown`; calls in flight are then answered first.
pub(super) async fn serve(
    listener: TcpListener,
    identity: Arc<Identity>,
    router: Router,
    shutdown: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            accepted = accept(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let connection = Connection {
                    identity: identity.clone(),
                    router: router.clone(),
                    shutdown: shutdown.clone(),
                    _permit: permit,
                };
                connections.spawn(connection.run(stream));
            }
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot accept a connection"
                );
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        warn!("calls still open at shutdown are dropped");
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!(
            error = &error as &dyn std::error::Error,
            "a connection's task failed"
        );
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await;
    let permit = permit.expect("the semaphore is never closed");
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

struct Connection {
    identity: Arc<Identity>,
    router: Router,
    shutdown: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// Failures here are the caller's (a port scan, a wrong CA) and end this connection only.
    async fn run(self, stream: TcpStream) {
        let config = match self.identity.server_config(Timestamp::now()) {
            Ok(config) => config,
            Err(error) => {
                error!(
                    error = &error as &dyn std::error::Error,
                    "no certificate to serve with"
                );
                return;
            }
        };
        let handshake = TlsAcceptor::from(config).accept(stream);
        let stream = tokio::select! {
            () = self.shutdown.cancelled() => return,
            finished = timeout(HANDSHAKE_TIMEOUT, handshake) => match finished {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    debug!(error = &error as &dyn std::error::Error, "TLS handshake failed");
                    return;
                }
                Err(_) => {
                    debug!("TLS handshake timed out");
                    return;
                }
            },
        };
        let service = TowerToHyperService::new(self.router);
        let http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(http);
        let ended = tokio::select! {
            ended = &mut http => ended,
            () = self.shutdown.cancelled() => {
                http.as_mut().graceful_shutdown();
                http.await
            }
        };
        if let Err(error) = ended {
            debug!(
                error = &error as &dyn std::error::Error,
                "connection ended early"
            );
        }
    }
}
