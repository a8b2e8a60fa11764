//! An HTTPS listener: TLS, a bound on connections, time-outs, and an orderly end.
//!
//! Knows nothing of what is served or who may ask; a [`Tls`] gives the certificate, a [`Router`]
//! the answers. What a client can cost is bounded here: connections, the time of a handshake, the
//! time and size of a request's head, and the time of its body. When all places are taken, a connection that
//! waits for its client makes room: see [`Places`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use futures::{StreamExt, stream};
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl,
};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

mod outflow;
mod places;

pub(crate) use outflow::{Outflow, Watched};
pub(crate) use places::Places;
use places::{Place, Served};

/// What a listener shows in a TLS handshake.
pub(crate) trait Tls: Send + Sync + 'static {
    /// What to serve a connection with that begins at `now`.
    ///
    /// # Errors
    /// When no certificate can be made; the connection is closed.
    fn server_config(
        &self,
        now: Timestamp,
    ) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error + Send + Sync>>;
}

/// The certificates that the client of a connection has shown, its own first. That it holds the
/// key is proved; nothing else about them is. An extension of every request.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerCertificates(pub(crate) Arc<[CertificateDer<'static>]>);

/// All of a request's head together. Go's `http.Server` allows 1 MiB; no client here needs more than a
/// token and a query.
const HEAD_MAX_BYTES: usize = 64 * 1024;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// From the handshake on. Whoever connects has something to ask; who has not yet shown who he is
/// must not hold a place for long.
const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// From the head on, for all of the body. Only API servers send one, to the webhook, and they have it whole.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the 90 s after which the API server closes an idle connection: if this side
/// closed first, a call sent at that moment would fail, and with it the creation of a pod.
const IDLE_TIMEOUT: Duration = Duration::from_mins(2);
/// As long as the API server waits for an answer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Probes of a silent connection, as many and as often as Go's servers send: whoever follows a silent log is known to
/// be gone after two and a half minutes. Of one that is written to the system knows it when it gives up sending again.
const PROBE_IDLE: Duration = Duration::from_secs(15);
const PROBE_INTERVAL: Duration = Duration::from_secs(15);
const PROBES: u32 = 9;
/// Pause after a failed accept, which means that the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Connections that nobody has taken yet, as many as Go's servers let wait; the system may allow fewer
/// (`net.core.somaxconn`). One more is not refused, but tries again after a second.
const BACKLOG: u32 = 4096;

/// How long all ports together are waited for that are taken, and how often they are tried: the process whose place this
/// one takes has to notice first that it lost it.
pub(crate) const PORT_PATIENCE: Duration = Duration::from_secs(10);
const PORT_RETRY: Duration = Duration::from_millis(200);

/// A listener on whose backlog a burst of connections finds room, of no runtime yet: who binds it need not serve it. A
/// port that is taken is waited for until `give_up`.
///
/// # Errors
/// When the address stays taken, or is none of this machine.
pub(crate) async fn listen(
    address: SocketAddr,
    give_up: Instant,
) -> io::Result<std::net::TcpListener> {
    loop {
        match listen_now(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up => {
                tokio::time::sleep(PORT_RETRY).await;
            }
            bound => return bound?.into_std(),
        }
    }
}

fn listen_now(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // As the library's own listeners: what a process before this one has left behind is in nobody's way.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `router` until `shutdown`; calls in flight are then answered first. A connection needs
/// one of `places`, which several listeners may share; more wait in the listener's backlog, but for
/// the first of them.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<dyn Tls>,
    router: Router,
    places: Arc<Places>,
    shutdown: CancellationToken,
) {
    let mut connections = JoinSet::new();
    // Kept while connections end: it may have a stream already.
    let mut accepting = Box::pin(accept(&listener, &places));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            accepted = &mut accepting => accepted,
        };
        accepting.set(accept(&listener, &places));
        match accepted {
            Ok((stream, place)) => {
                let connection = Connection {
                    tls: Arc::clone(&tls),
                    router: router.clone(),
                    shutdown: shutdown.clone(),
                    place: Arc::new(place),
                };
                connections.spawn(connection.run_in_place(stream));
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
    drop(accepting);
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

async fn accept(listener: &TcpListener, places: &Arc<Places>) -> io::Result<(TcpStream, Place)> {
    // Not before there is somebody: a listener on which nobody calls would hold a place.
    let (stream, _) = listener.accept().await?;
    if let Err(error) = probe(&stream) {
        // It is served all the same: the client may have gone already.
        debug!(
            error = &error as &dyn std::error::Error,
            "a connection is not probed"
        );
    }
    Ok((stream, places.take().await))
}

/// Has the system find out whether the client is still there, and send what is written at once.
fn probe(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    set_socket_keepalive(stream, true)?;
    set_tcp_keepidle(stream, PROBE_IDLE)?;
    set_tcp_keepintvl(stream, PROBE_INTERVAL)?;
    set_tcp_keepcnt(stream, PROBES)?;
    Ok(())
}

struct Connection {
    tls: Arc<dyn Tls>,
    router: Router,
    shutdown: CancellationToken,
    place: Arc<Place>,
}

impl Connection {
    /// Ends when another connection needs the place more.
    async fn run_in_place(self, stream: TcpStream) {
        let place = Arc::clone(&self.place);
        if place.until_withdrawn(self.run(stream)).await.is_none() {
            debug!("a connection that waited for its client made room for another");
        }
    }

    /// Failures here are the caller's (a port scan, a wrong CA) and end this connection only.
    async fn run(self, stream: TcpStream) {
        let config = match self.tls.server_config(Timestamp::now()) {
            Ok(config) => config,
            Err(error) => {
                error!(
                    error = &*error as &dyn std::error::Error,
                    "no certificate to serve with"
                );
                return;
            }
        };
        let outflow = Outflow::default();
        let stream = Watched::new(stream, outflow.clone());
        let handshake = Box::pin(handshake(config, stream));
        let handshake = self.shutdown.run_until_cancelled(handshake);
        let Some(Some(stream)) = handshake.await else {
            return;
        };
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = PeerCertificates(shown.iter().map(|one| one.clone().into_owned()).collect());
        // Not a layer of the router: that would be a copy of all its routes for each connection.
        let router = TowerToHyperService::new(self.router);
        let place = self.place;
        let asked = CancellationToken::new();
        let has_asked = asked.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            has_asked.cancel();
            request.extensions_mut().insert(peer.clone());
            request.extensions_mut().insert(outflow.clone());
            let answer = router.call(request.map(|body| bounded(body, &place)));
            let place = Arc::clone(&place);
            async move { answer.await.map(|answer| finished(answer, place)) }
        });
        let http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .max_buf_size(HEAD_MAX_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(http);
        let asks_nothing = async {
            if timeout(FIRST_HEAD_TIMEOUT, asked.cancelled()).await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        let ended = tokio::select! {
            ended = &mut http => ended,
            () = asks_nothing => {
                debug!("no request came on a new connection");
                return;
            }
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

async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ServerConfig>,
    stream: S,
) -> Option<TlsStream<S>> {
    let handshake = TlsAcceptor::from(config).accept(stream);
    match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => {
            debug!(
                error = &error as &dyn std::error::Error,
                "TLS handshake failed"
            );
        }
        Err(_) => debug!("TLS handshake timed out"),
    }
    None
}

/// Whoever was refused has no reason to stay, and may be nobody who should have come.
fn finished(mut answer: Response<Body>, place: Arc<Place>) -> Response<Served> {
    let status = answer.status();
    if !status.is_success() && !status.is_informational() {
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(CONNECTION, close);
    }
    answer.map(|body| Served::new(body, place))
}

/// A body that fails when it has not come to its end in time. Until then the client is waited for.
fn bounded(body: Incoming, place: &Arc<Place>) -> Body {
    if body.is_end_stream() {
        place.serve();
        return Body::empty();
    }
    let began = Instant::now();
    place.wait_since(began);
    let place = Arc::clone(place);
    let deadline = began + BODY_TIMEOUT;
    let pieces = Body::new(body).into_data_stream();
    Body::from_stream(stream::unfold(Some(pieces), move |pieces| {
        let place = Arc::clone(&place);
        async move {
            let mut pieces = pieces?;
            // Between two pieces it is the client who waits.
            place.wait_since(began);
            let piece = timeout_at(deadline, pieces.next()).await;
            place.serve();
            match piece {
                Ok(piece) => Some((piece?, Some(pieces))),
                Err(late) => Some((Err(axum::Error::new(late)), None)),
            }
        }
    }))
}

#[cfg(test)]
mod tests;
