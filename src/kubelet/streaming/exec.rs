//! `exec` and `attach`: a command's streams, its end, and that nothing of it is lost.
//!
//! The order at the end is what clients rely on: all output, then the status, then the end of the connection,
//! which waits for the client to close first.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures::future::OptionFuture;
use holdfast_spdy::{Limits, Role, Session, StreamId};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use super::channels::{Channels, Codec, Direction};
use super::mux::{Multiplexer, Shared};
use super::negotiate::{self, Agreed, Protocols};
use super::spdy::{self, Opened};
use super::{
    ExecOptions, ExitStatus, Input, Output, Streams, TIMEOUTS, Timeouts, resize, websocket,
};

/// What the versions of the protocol over SPDY differ in. Version 5 is for WebSocket only.
#[derive(Debug, Clone, Copy)]
pub(super) struct SpdyVersion {
    json_status: bool,
    resizes: bool,
}

pub(super) const SPDY: &Protocols<SpdyVersion> = &[
    ("v4.channel.k8s.io", spdy_version(true, true)),
    ("v3.channel.k8s.io", spdy_version(false, true)),
    ("v2.channel.k8s.io", spdy_version(false, false)),
    ("channel.k8s.io", spdy_version(false, false)),
];

const fn spdy_version(json_status: bool, resizes: bool) -> SpdyVersion {
    SpdyVersion {
        json_status,
        resizes,
    }
}

/// What the versions of the protocol over WebSocket differ in.
#[derive(Debug, Clone, Copy)]
pub(super) struct WebSocketVersion {
    codec: Codec,
    json_status: bool,
    close_signal: bool,
}

pub(super) const WEBSOCKET: &Protocols<WebSocketVersion> = &[
    (
        "v5.channel.k8s.io",
        websocket_version(Codec::Raw, true, true),
    ),
    (
        "v4.channel.k8s.io",
        websocket_version(Codec::Raw, true, false),
    ),
    (
        "v4.base64.channel.k8s.io",
        websocket_version(Codec::Base64, true, false),
    ),
    (
        "v3.channel.k8s.io",
        websocket_version(Codec::Raw, false, false),
    ),
    (
        "v2.channel.k8s.io",
        websocket_version(Codec::Raw, false, false),
    ),
    (
        "channel.k8s.io",
        websocket_version(Codec::Raw, false, false),
    ),
    (
        "base64.channel.k8s.io",
        websocket_version(Codec::Base64, false, false),
    ),
    ("", websocket_version(Codec::Raw, false, false)),
];

const fn websocket_version(
    codec: Codec,
    json_status: bool,
    close_signal: bool,
) -> WebSocketVersion {
    WebSocketVersion {
        codec,
        json_status,
        close_signal,
    }
}

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// Streams of a SPDY client: it opens at most five, and more only when it errs.
const SPDY_STREAMS: usize = 16;

/// Runs a command with the streams that the client asked for and tells the client how it ended.
///
/// `run` begins when the client has opened its streams; it is dropped when the client leaves. `held` is dropped when
/// the connection ends, which outlasts the command. The answer is 101, or what the kubelet answers when client and
/// server have no protocol in common.
pub async fn serve_exec<H, F, R>(
    request: Request,
    options: ExecOptions,
    held: H,
    run: F,
) -> Response
where
    H: Send + 'static,
    F: FnOnce(Streams) -> R + Send + 'static,
    R: Future<Output = ExitStatus> + Send + 'static,
{
    serve(request, &options, TIMEOUTS, held, run)
}

/// As [`serve_exec`], with the container's own process in place of a command.
pub async fn serve_attach<H, F, R>(
    request: Request,
    options: ExecOptions,
    held: H,
    run: F,
) -> Response
where
    H: Send + 'static,
    F: FnOnce(Streams) -> R + Send + 'static,
    R: Future<Output = ExitStatus> + Send + 'static,
{
    serve_exec(request, options, held, run).await
}

pub(super) fn serve<H, F, R>(
    mut request: Request,
    options: &ExecOptions,
    timeouts: Timeouts,
    held: H,
    run: F,
) -> Response
where
    H: Send + 'static,
    F: FnOnce(Streams) -> R + Send + 'static,
    R: Future<Output = ExitStatus> + Send + 'static,
{
    let wanted = Wanted::of(options);
    if negotiate::is_websocket(request.headers()) {
        let Agreed { protocol, answer } = match negotiate::websocket(&request, WEBSOCKET) {
            Ok(agreed) => agreed,
            Err(refused) => return refused.into_response(),
        };
        upgrade(&mut request, move |io| async move {
            let _held = held;
            over_websocket(io, wanted, protocol, timeouts, run).await;
        });
        return answer;
    }
    let Agreed { protocol, answer } = match negotiate::spdy(&request, SPDY) {
        Ok(agreed) => agreed,
        Err(refused) => return refused.into_response(),
    };
    upgrade(&mut request, move |io| async move {
        let _held = held;
        over_spdy(io, wanted, protocol, timeouts, run).await;
    });
    answer
}

/// The streams that a client has asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    resizes: bool,
}

impl Wanted {
    pub(super) fn of(options: &ExecOptions) -> Self {
        Self {
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr,
            resizes: options.tty,
        }
    }
}

/// Where the streams of a command go.
struct Ends<I> {
    stdin: Option<I>,
    stdout: Option<I>,
    stderr: Option<I>,
    resize: Option<I>,
    error: I,
}

pub(super) async fn over_websocket<S, F, R>(
    io: S,
    wanted: Wanted,
    version: WebSocketVersion,
    timeouts: Timeouts,
    run: F,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    F: FnOnce(Streams) -> R + Send,
    R: Future<Output = ExitStatus> + Send,
{
    let on = |wanted, direction| {
        if wanted {
            direction
        } else {
            Direction::Ignored
        }
    };
    let mut channels = Channels::new(
        version.codec,
        version.close_signal,
        &[
            on(wanted.stdin, Direction::FromClient),
            on(wanted.stdout, Direction::ToClient),
            on(wanted.stderr, Direction::ToClient),
            Direction::ToClient,
            on(wanted.resizes, Direction::FromClient),
        ],
    );
    // The kubelet as well says so that the connection stands.
    let first = match (wanted.stdout, wanted.stderr) {
        (true, _) => STDOUT,
        (false, true) => STDERR,
        (false, false) => ERROR,
    };
    channels.put(first, &[]);
    let ends = Ends {
        stdin: wanted.stdin.then_some(STDIN),
        stdout: wanted.stdout.then_some(STDOUT),
        stderr: wanted.stderr.then_some(STDERR),
        resize: wanted.resizes.then_some(RESIZE),
        error: ERROR,
    };
    let shared = Shared::new(channels);
    let socket = websocket::accept(io).await;
    let driver = websocket::drive(socket, shared.clone(), timeouts.idle);
    tokio::pin!(driver);
    let work = execute(&shared, &ends, version.json_status, run);
    tokio::select! {
        () = &mut driver => debug!("the client left before its command ended"),
        () = work => shared.close(driver, timeouts.linger).await,
    }
}

pub(super) async fn over_spdy<S, F, R>(
    io: S,
    wanted: Wanted,
    version: SpdyVersion,
    timeouts: Timeouts,
    run: F,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    F: FnOnce(Streams) -> R + Send,
    R: Future<Output = ExitStatus> + Send,
{
    let limits = Limits {
        streams: SPDY_STREAMS,
        idle_timeout: timeouts.idle,
        ..Limits::default()
    };
    let (shared, opened, driver) = spdy::connect(io, Role::Server, limits, timeouts.linger);
    tokio::pin!(driver);
    let wanted = Wanted {
        resizes: wanted.resizes && version.resizes,
        ..wanted
    };
    let work = async {
        match timeout(timeouts.creation, collect(&shared, opened, wanted)).await {
            Ok(Some(ends)) => {
                execute(&shared, &ends, version.json_status, run).await;
                let silent = [ends.stdin, ends.resize];
                for id in silent.into_iter().flatten() {
                    shared.with(|session| session.finish(id));
                }
            }
            Ok(None) => {}
            Err(_) => debug!("the client did not open the streams that it asked for"),
        }
        shared.with(Session::go_away);
    };
    tokio::select! {
        ended = &mut driver => debug!(?ended, "the client left before its command ended"),
        () = work => shared.close(driver, timeouts.linger).await,
    }
}

/// Waits until the client has opened all streams that it asked for. Those that are of no use are accepted, as
/// the kubelet does, and ended; those that come later are refused.
async fn collect(
    shared: &Shared<Session>,
    mut opened: mpsc::UnboundedReceiver<Opened>,
    wanted: Wanted,
) -> Option<Ends<StreamId>> {
    let kinds = [
        ("error", true),
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("resize", wanted.resizes),
    ];
    let expected = kinds.iter().filter(|(_, wanted)| *wanted).count();
    let mut ids = BTreeMap::new();
    while ids.len() < expected {
        let Opened { id, headers } = opened.recv().await?;
        let kind = headers.get("streamtype").unwrap_or_default();
        let known = kinds
            .iter()
            .find(|(own, wanted)| *own == kind && *wanted)
            .map(|(own, _)| *own)
            .filter(|own| !ids.contains_key(own));
        shared.with(|session| session.accept(id));
        if let Some(kind) = known {
            ids.insert(kind, id);
        } else {
            shared.with(|session| session.ignore(id));
            shared.with(|session| session.finish(id));
        }
    }
    let end = |kind| ids.get(kind).copied();
    Some(Ends {
        stdin: end("stdin"),
        stdout: end("stdout"),
        stderr: end("stderr"),
        resize: end("resize"),
        error: end("error")?,
    })
}

/// Runs the command and says how it ended after all of its output.
async fn execute<M, F, R>(shared: &Arc<Shared<M>>, ends: &Ends<M::Id>, json_status: bool, run: F)
where
    M: Multiplexer,
    F: FnOnce(Streams) -> R,
    R: Future<Output = ExitStatus>,
{
    let outputs = [ends.stdout, ends.stderr, Some(ends.error)];
    for id in outputs.into_iter().flatten() {
        shared.with(|mux| mux.ignore(id));
    }
    let input = |id| Box::new(shared.reader(id)) as Input;
    let output = |id| Box::new(shared.writer(id)) as Output;
    let (sizes, resizes) = mpsc::channel(1);
    let pump = OptionFuture::from(ends.resize.map(|id| resize::pump(shared.reader(id), sizes)));
    let command = run(Streams {
        stdin: ends.stdin.map(input),
        stdout: ends.stdout.map(output),
        stderr: ends.stderr.map(output),
        resizes: ends.resize.map(|_| resizes),
    });
    tokio::pin!(pump, command);
    let status = tokio::select! {
        status = &mut command => status,
        _ = &mut pump => command.await,
    };
    for id in [ends.stdout, ends.stderr].into_iter().flatten() {
        shared.with(|mux| mux.finish(id));
    }
    let text = if json_status {
        status.to_json()
    } else {
        status.to_text().into_bytes()
    };
    let mut error = shared.writer(ends.error);
    if let Err(error) = error.write_all(&text).await {
        debug!(
            error = &error as &dyn std::error::Error,
            "the client does not want to know how its command ended"
        );
    }
}

/// Hands the connection to `serve` once the answer is sent.
pub(super) fn upgrade<F, R>(request: &mut Request, serve: F)
where
    F: FnOnce(TokioIo<hyper::upgrade::Upgraded>) -> R + Send + 'static,
    R: Future<Output = ()> + Send,
{
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(io) => serve(TokioIo::new(io)).await,
            Err(error) => debug!(
                error = &error as &dyn std::error::Error,
                "a connection was not upgraded"
            ),
        }
    });
}
