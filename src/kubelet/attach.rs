//! `attach`: the shell that a container is, or the lines that it writes.
//!
//! Owns which containers are shells, what a session with one is connected to, and which ends of a session are the
//! end of the container. What a shell answers is in [`super::shell`], what becomes of the pod in [`crate::pod`]. A shell
//! lives no longer than its session: who comes again, and whoever comes beside, gets one of their own.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::extract::{RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, copy};

use super::container::specification;
use super::follow::Follow;
use super::life::{self, Stream};
use super::limits::Place;
use super::routes::Endpoint;
use super::sessions::{self, Error, Parts, part};
use super::shell::World;
use super::streaming::{ExecOptions, ExitStatus, Input, Streams, serve_attach};
use crate::chain::chain;
use crate::https::Outflow;
use crate::pod::behaviour;
use crate::pod::record::ProcessExit;

/// `^C` and `^D`.
const LEAVE: [u8; 2] = [0x03, 0x04];
/// What a shell may write ahead of a slow client.
const PIPE_BYTES: usize = 64 * 1024;
const SHELLS: [&str; 4] = ["sh", "ash", "bash", "dash"];

pub(super) async fn attach(
    State(endpoint): State<Endpoint>,
    parts: Parts,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let outflow = Outflow::of(request.extensions());
    match begin(&endpoint, &parts, &query.unwrap_or_default(), outflow).await {
        Ok((process, options, place)) => {
            let tty = options.tty;
            // The session may outlast the process, and a shell that reads to the end the session.
            let place = Arc::new(place);
            let of_process = Arc::clone(&place);
            let run = async move |streams| match process {
                Process::Shell(shell) => shell.serve(tty, streams, of_process).await,
                Process::Lines(follow) => show(follow, tty, streams).await,
            };
            serve_attach(request, options, place, run).await
        }
        Err(error) => error.into_response(),
    }
}

/// What a container's first process is.
enum Process {
    Shell(Box<Attached>),
    Lines(Follow),
}

async fn begin(
    endpoint: &Endpoint,
    parts: &Parts,
    query: &str,
    outflow: Outflow,
) -> Result<(Process, ExecOptions, Place), Error> {
    let options = ExecOptions::from_query(query, part(parts, "container"))?;
    let container = &options.container;
    let place = endpoint.shared.limits.place(outflow).await?;
    let _beginning = endpoint.shared.limits.beginning().await;
    let pod = sessions::pod(endpoint, parts).await?;
    let Some(restarts) = sessions::running(&pod, container) else {
        return Err(Error::NotRunning(options.container));
    };
    let spec = specification(&pod, container).filter(|_| options.stdin);
    let process = if let Some(spec) = spec.filter(|spec| is_shell(&pod, spec)) {
        Process::Shell(Box::new(Attached {
            endpoint: endpoint.clone(),
            world: sessions::world(endpoint, Arc::new(pod), container).await?,
            restarts,
            ends_with_stdin: ends_with_stdin(&spec),
        }))
    } else {
        let lines = life::log_lines(&pod, container, false, Timestamp::now())?;
        Process::Lines(Follow::after(&lines, endpoint, pod, container))
    };
    Ok((process, options, place))
}

/// Whether a container is a shell that reads commands: by its command, or for want of one, as images to try things
/// in are. A shell that was given a script reads none, and what annotations say is written comes from no shell.
fn is_shell(pod: &Pod, container: &Container) -> bool {
    let mut words = container
        .command
        .iter()
        .flatten()
        .chain(container.args.iter().flatten());
    let program = words.next().map(|program| program.rsplit('/').next());
    let is_known = program.is_none_or(|name| name.is_some_and(|name| SHELLS.contains(&name)));
    let is_flag =
        |word: &String| word.starts_with("--") || word.starts_with('-') && !word.contains('c');
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let containers = pod.spec.iter().flat_map(life::container_names);
    let (behaviours, _) = behaviour::parse(&annotations, containers);
    container.stdin == Some(true)
        && is_known
        && words.all(is_flag)
        && behaviours.of(&container.name).log_lines.is_none()
}

/// Whether the end of what a session sends is the end of what the container's process reads. A terminal stays open
/// (containerd, internal/cri/io/container_io.go, `Attach`).
fn ends_with_stdin(container: &Container) -> bool {
    container.stdin_once == Some(true) && container.tty != Some(true)
}

/// A session with a container that is a shell.
struct Attached {
    endpoint: Endpoint,
    world: World,
    /// Which run of the container.
    restarts: u32,
    ends_with_stdin: bool,
}

impl Attached {
    /// Attaching went well however the shell ends: its exit code is the container's. So says the kubelet.
    async fn serve(self, tty: bool, streams: Streams, place: Arc<Place>) -> ExitStatus {
        if !self.ends_with_stdin {
            self.run(tty, streams, place).await;
            return ExitStatus::SUCCESS;
        }
        // It reads to the end what a client has sent that leaves.
        let (inner, pipes) = Pipes::between(streams);
        let shell = tokio::spawn(self.run(tty, inner, place));
        let (ended, ()) = tokio::join!(shell, pipes.carry());
        match ended {
            Ok(()) => ExitStatus::SUCCESS,
            Err(error) => ExitStatus::Failed(error.to_string()),
        }
    }

    /// Runs the shell, and ends the container with it.
    async fn run(self, tty: bool, mut streams: Streams, _place: Arc<Place>) {
        let is_read = Arc::new(AtomicBool::new(false));
        streams.stdin = streams.stdin.map(|inner| {
            let is_read = Arc::clone(&is_read);
            Box::new(Watched { inner, is_read }) as Input
        });
        let (world, command) = (&self.world, ["sh".to_owned()]);
        let pod = Arc::clone(&world.pod);
        let ended = sessions::ended(&self.endpoint, &pod, &world.container, self.restarts);
        let code = tokio::select! {
            code = sessions::run(world, &command, tty, streams) => code,
            () = ended => return,
        };
        let is_left = is_read.load(Ordering::Relaxed) && !self.ends_with_stdin;
        if is_left || self.endpoint.shared.shutdown.is_cancelled() {
            return;
        }
        let exit = ProcessExit {
            container: world.container.as_str().into(),
            restarts: self.restarts,
            code: u8::try_from(code).unwrap_or(u8::MAX),
        };
        let uid = pod.metadata.uid.as_deref().unwrap_or_default().into();
        if let Err(error) = self.endpoint.shared.pods.exited(uid, exit).await {
            let container = &world.container;
            tracing::warn!(error = %chain(&error), container, "a container outlives its shell");
        }
    }
}

/// Notices when its end was read.
struct Watched {
    inner: Input,
    is_read: Arc<AtomicBool>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, out));
        if read.is_err() || out.filled().len() == before {
            self.is_read.store(true, Ordering::Relaxed);
        }
        Poll::Ready(read)
    }
}

/// The client's ends of the pipes to a shell that may outlive it.
struct Pipes {
    client: Streams,
    stdin: Option<DuplexStream>,
    stdout: Option<DuplexStream>,
    stderr: Option<DuplexStream>,
}

impl Pipes {
    /// The streams of the shell, and what is between them and those of the client.
    fn between(mut client: Streams) -> (Streams, Self) {
        let pipe = |is_wanted: bool| is_wanted.then(|| tokio::io::duplex(PIPE_BYTES)).unzip();
        let (stdin, keys) = pipe(client.stdin.is_some());
        let (stdout, out) = pipe(client.stdout.is_some());
        let (stderr, err) = pipe(client.stderr.is_some());
        let shell = Streams {
            stdin: keys.map(|it| Box::new(it) as Input),
            stdout: out.map(|it| Box::new(Patient(it)) as _),
            stderr: err.map(|it| Box::new(Patient(it)) as _),
            resizes: client.resizes.take(),
        };
        let pipes = Self {
            client,
            stdin,
            stdout,
            stderr,
        };
        (shell, pipes)
    }

    /// Carries bytes until the shell has closed its ends. What cannot be carried has nobody who waits for it.
    async fn carry(self) {
        let Self { client, .. } = self;
        let feed = async {
            if let (Some(mut from), Some(mut to)) = (client.stdin, self.stdin) {
                let _ = copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            }
            std::future::pending::<()>().await;
        };
        let show = async |from: Option<DuplexStream>, to| {
            if let (Some(mut from), Some(mut to)) = (from, to) {
                let _ = copy(&mut from, &mut to).await;
            }
        };
        let shown = async {
            tokio::join!(
                show(self.stdout, client.stdout),
                show(self.stderr, client.stderr)
            )
        };
        tokio::select! {
            _ = shown => {}
            () = feed => {}
        }
    }
}

/// Takes everything, also when nobody reads any more: a container's output goes to its log as well, which does not
/// break.
struct Patient(DuplexStream);

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.0).poll_write(cx, bytes));
        Poll::Ready(Ok(written.unwrap_or(bytes.len())))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// What the container writes from now on. It reads nothing: whatever is sent to it is thrown away, but for the keys
/// that end what runs in a terminal. They end the session, which nobody could leave otherwise: kubectl hands all
/// keys on.
async fn show(mut follow: Follow, tty: bool, streams: Streams) -> ExitStatus {
    let Streams {
        stdin,
        mut stdout,
        mut stderr,
        ..
    } = streams;
    let line_end: &[u8] = if tty { b"\r\n" } else { b"\n" };
    let write = async {
        while let Some(lines) = follow.next().await {
            for line in lines {
                let out = match line.stream {
                    Stream::Stderr => stderr.as_mut().or(stdout.as_mut()),
                    Stream::Stdout => stdout.as_mut(),
                };
                if let Some(out) = out {
                    out.write_all(line.text.as_bytes()).await?;
                    out.write_all(line_end).await?;
                }
            }
        }
        std::io::Result::Ok(())
    };
    let read = async {
        let mut sent = [0; 1024];
        if let Some(mut stdin) = stdin {
            // How it ends does not matter, the session goes on.
            while let Ok(length @ 1..) = stdin.read(&mut sent).await {
                if tty && sent[..length].iter().any(|key| LEAVE.contains(key)) {
                    return;
                }
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        written = write => match written {
            Ok(()) => ExitStatus::SUCCESS,
            Err(error) => ExitStatus::Failed(error.to_string()),
        },
        () = read => ExitStatus::SUCCESS,
    }
}

#[cfg(test)]
mod tests;
