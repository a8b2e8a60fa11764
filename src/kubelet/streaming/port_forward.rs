//! `port-forward`: many connections to ports of a pod, over SPDY, over SPDY in a WebSocket, and over channels.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use holdfast_spdy::{Headers, Limits, Role, RstStatus, Session, StreamId};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::channels::{Channels, Codec, Direction};
use super::exec::upgrade;
use super::mux::{Multiplexer, Shared, is_by_client};
use super::negotiate::{self, Agreed, Protocols};
use super::options::ports;
use super::spdy::{self, Opened};
use super::tunnel::Tunnel;
use super::{TIMEOUTS, Timeouts, websocket};

const SPDY: &Protocols<()> = &[("portforward.k8s.io", ())];

#[derive(Debug, Clone, Copy)]
enum OverWebSocket {
    Spdy,
    Channels(Codec),
}

const WEBSOCKET: &Protocols<OverWebSocket> = &[
    ("SPDY/3.1+portforward.k8s.io", OverWebSocket::Spdy),
    ("v4.channel.k8s.io", OverWebSocket::Channels(Codec::Raw)),
    (
        "v4.base64.channel.k8s.io",
        OverWebSocket::Channels(Codec::Base64),
    ),
    ("", OverWebSocket::Channels(Codec::Raw)),
];

/// Connects the client with ports of a pod.
///
/// `connect` is called for each connection of the client, with the port; what it answers instead of a connection
/// is told to the client. Everything is dropped when the client leaves. The answer is 101, or what the kubelet
/// answers when client and server have no protocol in common.
pub async fn serve_port_forward<C, F, T>(request: Request, connect: C) -> Response
where
    C: Fn(u16) -> F + Send + Sync + 'static,
    F: Future<Output = Result<T, String>> + Send + 'static,
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    serve(request, TIMEOUTS, connect)
}

pub(super) fn serve<C, F, T>(mut request: Request, timeouts: Timeouts, connect: C) -> Response
where
    C: Fn(u16) -> F + Send + Sync + 'static,
    F: Future<Output = Result<T, String>> + Send + 'static,
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    if !negotiate::is_websocket(request.headers()) {
        let Agreed { answer, .. } = match negotiate::spdy(&request, SPDY) {
            Ok(agreed) => agreed,
            Err(refused) => return refused.into_response(),
        };
        upgrade(&mut request, move |io| over_spdy(io, timeouts, connect));
        return answer;
    }
    let Agreed { protocol, answer } = match negotiate::websocket(&request, WEBSOCKET) {
        Ok(agreed) => agreed,
        Err(refused) => return refused.into_response(),
    };
    match protocol {
        OverWebSocket::Spdy => upgrade(&mut request, move |io| async move {
            let socket = websocket::accept(io).await;
            over_spdy(Tunnel::new(socket), timeouts, connect).await;
        }),
        OverWebSocket::Channels(codec) => {
            let ports = match ports(request.uri().query().unwrap_or_default()) {
                Ok(ports) => ports,
                Err(error) => {
                    return (StatusCode::BAD_REQUEST, error.to_string()).into_response();
                }
            };
            upgrade(&mut request, move |io| async move {
                over_channels(io, codec, &ports, timeouts, connect).await;
            });
        }
    }
    answer
}

async fn over_channels<S, C, F, T>(
    io: S,
    codec: Codec,
    ports: &[u16],
    timeouts: Timeouts,
    connect: C,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    C: Fn(u16) -> F + Send + Sync,
    F: Future<Output = Result<T, String>> + Send,
    T: AsyncRead + AsyncWrite + Send,
{
    let directions = [Direction::Both, Direction::ToClient].repeat(ports.len());
    let mut channels = Channels::new(codec, false, &directions);
    let numbered = || (0_u8..).step_by(2).zip(ports.iter().copied());
    for (data, port) in numbered() {
        channels.put(data, &port.to_le_bytes());
        channels.put(data + 1, &port.to_le_bytes());
    }
    let shared = Shared::new(channels);
    let socket = websocket::accept(io).await;
    let driver = websocket::drive(socket, shared.clone(), timeouts.idle);
    tokio::pin!(driver);
    let forwards: FuturesUnordered<_> = numbered()
        .map(|(data, port)| forward(&shared, data, data + 1, port, &connect))
        .collect();
    let work = forwards.for_each(|_| std::future::ready(()));
    tokio::select! {
        () = &mut driver => {}
        () = work => shared.close(driver, timeouts.linger).await,
    }
}

/// Streams of one connection of the client, until both are there.
#[derive(Default)]
struct Pair {
    data: Option<StreamId>,
    error: Option<StreamId>,
}

pub(super) async fn over_spdy<S, C, F, T>(io: S, timeouts: Timeouts, connect: C)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    C: Fn(u16) -> F + Send + Sync,
    F: Future<Output = Result<T, String>> + Send,
    T: AsyncRead + AsyncWrite + Send,
{
    let limits = Limits {
        idle_timeout: timeouts.idle,
        ..Limits::default()
    };
    let (shared, mut opened, driver) = spdy::connect(io, Role::Server, limits, timeouts.linger);
    tokio::pin!(driver);
    // By request; bounded by the streams of the session.
    let mut pairs: BTreeMap<String, (Instant, Pair)> = BTreeMap::new();
    let mut forwards = FuturesUnordered::new();
    loop {
        let first = pairs.values().map(|(deadline, _)| *deadline).min();
        let late = async {
            match first {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        tokio::select! {
            ended = &mut driver => {
                debug!(?ended, "a port-forward ends");
                return;
            }
            Some(()) = forwards.next() => {}
            () = late => expire(&shared, &mut pairs),
            Some(stream) = opened.recv() => {
                let deadline = Instant::now() + timeouts.creation;
                if let Some((data, error, port)) = pair(&shared, &mut pairs, &stream, deadline) {
                    forwards.push(forward_spdy(&shared, data, error, port, &connect));
                }
            }
        }
    }
}

async fn forward_spdy<C, F, T>(
    shared: &Arc<Shared<Session>>,
    data: StreamId,
    error: StreamId,
    port: u16,
    connect: &C,
) where
    C: Fn(u16) -> F,
    F: Future<Output = Result<T, String>>,
    T: AsyncRead + AsyncWrite,
{
    if forward(shared, data, error, port, connect).await {
        shared.with(|session| session.release(data));
    }
}

/// Puts a new stream to its pair, and says which when both are there.
fn pair(
    shared: &Shared<Session>,
    pairs: &mut BTreeMap<String, (Instant, Pair)>,
    Opened { id, headers }: &Opened,
    deadline: Instant,
) -> Option<(StreamId, StreamId, u16)> {
    let refuse = |why: &str| {
        debug!(%id, why, "a stream of a port-forward is refused");
        shared.with(|session| session.reset(*id, RstStatus::CANCEL));
    };
    let port = headers.get("port").and_then(|port| port.parse().ok());
    let Some(port) = port.filter(|port| *port > 0) else {
        refuse("it names no port");
        return None;
    };
    let kind = headers.get("streamtype").unwrap_or_default();
    let Some(request) = request_id(*id, kind, headers) else {
        refuse("it is neither of data nor of errors");
        return None;
    };
    let (_, pair) = pairs
        .entry(request.clone())
        .or_insert_with(|| (deadline, Pair::default()));
    let side = match kind {
        "data" => &mut pair.data,
        _ => &mut pair.error,
    };
    if side.is_some() {
        refuse("its request has one of its kind");
        return None;
    }
    *side = Some(*id);
    shared.with(|session| session.accept(*id));
    if let Pair {
        data: Some(data),
        error: Some(error),
    } = *pair
    {
        pairs.remove(&request);
        return Some((data, error, port));
    }
    None
}

/// What belongs together. Clients that name no request open the stream for errors first and that for data next.
fn request_id(id: StreamId, kind: &str, headers: &Headers) -> Option<String> {
    let named = headers.get("requestid").filter(|named| !named.is_empty());
    match (kind, named) {
        ("data" | "error", Some(named)) => Some(named.to_owned()),
        ("error", None) => Some(id.to_string()),
        ("data", None) => Some(id.get().saturating_sub(2).to_string()),
        _ => None,
    }
}

/// Gives up the pairs whose second stream did not come.
fn expire(shared: &Shared<Session>, pairs: &mut BTreeMap<String, (Instant, Pair)>) {
    let now = Instant::now();
    pairs.retain(|request, (deadline, pair)| {
        if *deadline > now {
            return true;
        }
        debug!(request, "the second stream of a port-forward did not come");
        shared.with(|session| {
            if let Some(error) = pair.error {
                // A client that has sent no second stream may as well not read this.
                let _ = session.write(error, b"timed out waiting for streams");
                session.ignore(error);
                session.finish(error);
            }
            if let Some(data) = pair.data {
                session.release(data);
            }
        });
        false
    });
}

/// Connects one pair of streams; true when that has failed. A client that breaks off is no failure: kubectl
/// resets the data of every connection at its end, and takes any text on the other stream for the end of all.
async fn forward<M, C, F, T>(
    shared: &Arc<Shared<M>>,
    data: M::Id,
    error: M::Id,
    port: u16,
    connect: &C,
) -> bool
where
    M: Multiplexer,
    C: Fn(u16) -> F,
    F: Future<Output = Result<T, String>>,
    T: AsyncRead + AsyncWrite,
{
    shared.with(|mux| mux.ignore(error));
    let mut report = shared.writer(error);
    let copied = match connect(port).await {
        Ok(target) => copy(shared, data, target).await,
        Err(why) => Err(why),
    };
    let Err(why) = copied else {
        return false;
    };
    let text = format!("error forwarding port {port} to pod: {why}");
    if report.write_all(text.as_bytes()).await.is_err() {
        debug!(port, why, "a client does not want to know of an error");
    }
    true
}

/// Copies both ways until the pod ends its side. That the client has ended its own says nothing: the answer may
/// still be on its way.
async fn copy<M, T>(shared: &Arc<Shared<M>>, data: M::Id, target: T) -> Result<(), String>
where
    M: Multiplexer,
    T: AsyncRead + AsyncWrite,
{
    let (mut reader, mut writer) = (shared.reader(data), shared.writer(data));
    let (mut from_pod, mut to_pod) = tokio::io::split(target);
    let up = async {
        let copied = tokio::io::copy(&mut reader, &mut to_pod).await;
        // A pod that does not listen any more may still answer.
        drop(to_pod.shutdown().await);
        copied
    };
    let down = tokio::io::copy(&mut from_pod, &mut writer);
    tokio::pin!(up, down);
    let copied = tokio::select! {
        copied = &mut down => copied,
        copied = &mut up => match copied {
            Err(error) if is_by_client(&error) => return Ok(()),
            _ => down.await,
        },
    };
    match copied {
        Err(error) if !is_by_client(&error) => Err(error.to_string()),
        _ => Ok(()),
    }
}
