//! `exec`, `attach` and `port-forward`: which container a caller means, and what it is connected to.
//!
//! Owns the lookup, and when a session ends because its container does. Protocols are in
//! [`super::streaming`], what a container answers in [`super::shell`] and [`super::port`].

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use holdfast_provider::ledger::Reader;
use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, Pod, Service};
use kube::Api;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::container::{self, ContainerError, NodeFacts};
use super::fields::Allocatable;
use super::hosts::Dns;
use super::life::{self, NoLogs, Stream};
use super::limits::{Full, Place};
use super::logs::{self, Follow};
use super::objects::ApiObjects;
use super::port;
use super::routes::Endpoint;
use super::scratch::ScratchStore;
use super::shell::{self, Terminal, World};
use super::streaming::{
    ExecOptions, ExitStatus, OptionsError, Streams, serve_attach, serve_exec, serve_port_forward,
};
use crate::chain::chain;
use crate::config::Config;
use crate::pod::quantity;

/// How often the container of a session is looked at: one GET of the pod each.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// A process that is killed with its container (128 + SIGKILL).
const KILLED: i32 = 137;

/// `^C` and `^D`.
const LEAVE: [u8; 2] = [0x03, 0x04];

/// What all sessions share.
pub(super) struct Sessions {
    scratch: ScratchStore,
    ledger: PathBuf,
    allocatable: Allocatable,
}

impl Sessions {
    pub(super) fn new(config: &Config, scratch: ScratchStore) -> Self {
        let capacity = &config.capacity;
        Self {
            scratch,
            ledger: config.ledger.clone(),
            allocatable: Allocatable {
                cpu_milli: quantity::milli(&capacity.cpu).unwrap_or_default(),
                memory_bytes: quantity::bytes(&capacity.memory).unwrap_or_default(),
                storage_bytes: 0,
            },
        }
    }

    /// The MAC that the ledger has for the pod's ENI; the API does not show it.
    async fn mac(&self, pod: &Pod) -> Option<String> {
        let uid = pod.metadata.uid.clone()?;
        let ledger = self.ledger.clone();
        let found = tokio::task::spawn_blocking(move || {
            let rows = Reader::open(&ledger)?.addresses(false)?;
            let row = rows
                .into_iter()
                .find(|row| row.uid.as_ref().is_some_and(|it| it.as_str() == uid));
            Ok::<_, holdfast_provider::ledger::Error>(row.and_then(|row| row.mac))
        })
        .await
        .ok()?;
        found
            .inspect_err(|error| tracing::warn!(error = %chain(error), "no MAC for a session"))
            .ok()?
    }
}

/// No session begins.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error("you must specify a command to execute")]
    NoCommand,
    #[error(transparent)]
    Pod(#[from] logs::Error),
    #[error("container not found ({0:?})")]
    NotRunning(String),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    NoLogs(#[from] NoLogs),
    #[error(transparent)]
    Full(#[from] Full),
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Options(_) | Self::NoCommand => StatusCode::BAD_REQUEST,
            Self::Pod(error) => error.status(),
            Self::NotRunning(_) | Self::NoLogs(_) => StatusCode::NOT_FOUND,
            Self::Container(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Full(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, chain(&self).to_string()).into_response()
    }
}

/// The parts of a path: namespace and pod, sometimes a UID, and a container.
type Parts = Path<Vec<(String, String)>>;

fn part<'a>(parts: &'a Parts, name: &str) -> &'a str {
    let found = parts.0.iter().find(|(known, _)| known == name);
    found.map_or("", |(_, value)| value)
}

/// The pod of a path, of the UID in it if it has one.
async fn pod(endpoint: &Endpoint, parts: &Parts) -> Result<Pod, Error> {
    let (namespace, name, uid) = (
        part(parts, "namespace"),
        part(parts, "pod"),
        part(parts, "uid"),
    );
    let pod = logs::read_here(endpoint, namespace, name).await?;
    if !uid.is_empty() && pod.metadata.uid.as_deref() != Some(uid) {
        return Err(logs::Error::NoPod(name.to_owned()).into());
    }
    Ok(pod)
}

fn state<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerState> {
    let statuses = life::statuses(pod.status.as_ref()?);
    let mut found = statuses.filter(|status| status.name == container);
    found.next()?.state.as_ref()
}

fn is_running(pod: &Pod, container: &str) -> bool {
    state(pod, container).is_some_and(|state| state.running.is_some())
}

pub(super) async fn exec(
    State(endpoint): State<Endpoint>,
    parts: Parts,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    match begin_exec(&endpoint, &parts, &query.unwrap_or_default()).await {
        Ok((world, options, place)) => {
            let until = ended(endpoint, Arc::clone(&world.pod), world.container.clone());
            let (command, tty) = (options.command.clone(), options.tty);
            let run = async move |streams| {
                let _place = place;
                execute(&world, &command, tty, streams, until).await
            };
            serve_exec(request, options, run).await
        }
        Err(error) => error.into_response(),
    }
}

async fn begin_exec(
    endpoint: &Endpoint,
    parts: &Parts,
    query: &str,
) -> Result<(World, ExecOptions, Place), Error> {
    let options = ExecOptions::from_query(query, part(parts, "container"))?;
    if options.command.is_empty() {
        return Err(Error::NoCommand);
    }
    let place = endpoint.shared.limits.place()?;
    let _beginning = endpoint.shared.limits.beginning().await;
    let pod = pod(endpoint, parts).await?;
    if !is_running(&pod, &options.container) {
        return Err(Error::NotRunning(options.container));
    }
    let sessions = &endpoint.shared.sessions;
    let node = NodeFacts {
        dns: dns(endpoint).await,
        allocatable: sessions.allocatable,
    };
    let mac = sessions.mac(&pod).await;
    let world = container::world(
        Arc::new(pod),
        &options.container,
        &ApiObjects(endpoint.shared.client.clone()),
        &node,
        &sessions.scratch,
        mac,
        Arc::new(Timestamp::now),
    )
    .await?;
    Ok((world, options, place))
}

/// How names would be resolved: by the cluster's DNS Service, if it has one under the usual name.
async fn dns(endpoint: &Endpoint) -> Dns {
    let api: Api<Service> = Api::namespaced(endpoint.shared.client.clone(), "kube-system");
    let service = api.get_opt("kube-dns").await.ok().flatten();
    let address = service
        .and_then(|service| service.spec?.cluster_ip)
        .and_then(|address| address.parse().ok());
    Dns {
        cluster_servers: address.into_iter().collect(),
        cluster_domain: "cluster.local".to_owned(),
        ..Dns::default()
    }
}

async fn execute(
    world: &World,
    command: &[String],
    tty: bool,
    streams: Streams,
    until: impl Future<Output = ()> + Send,
) -> ExitStatus {
    let stdout = streams
        .stdout
        .unwrap_or_else(|| Box::new(tokio::io::sink()));
    let (newest, size) = watch::channel(None);
    let terminal = tty.then(|| Terminal::new(size));
    let resize = async {
        if let Some(mut sizes) = streams.resizes {
            while let Some(size) = sizes.recv().await {
                newest.send_replace(Some(size));
            }
        }
        drop(newest);
        std::future::pending::<Infallible>().await
    };
    let run = shell::run(
        world,
        command,
        terminal,
        streams.stdin,
        stdout,
        streams.stderr,
    );
    tokio::select! {
        code = run => ExitStatus::Exited(code),
        () = until => ExitStatus::Exited(KILLED),
        never = resize => match never {},
    }
}

/// Returns once the container does not run any more.
async fn ended(endpoint: Endpoint, pod: Arc<Pod>, container: String) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    loop {
        let shutdown = &endpoint.shared.shutdown;
        let turn = async {
            tokio::time::sleep(LOOK_PERIOD).await;
            endpoint.shared.limits.look().await;
        };
        if shutdown.run_until_cancelled(turn).await.is_none() {
            return;
        }
        match logs::read_here(&endpoint, namespace, name).await {
            Ok(now) if now.metadata.uid == pod.metadata.uid && is_running(&now, &container) => {}
            // The API server is away: the container may well run.
            Err(logs::Error::Unreachable(_)) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

pub(super) async fn attach(
    State(endpoint): State<Endpoint>,
    parts: Parts,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    match begin_attach(&endpoint, &parts, &query.unwrap_or_default()).await {
        Ok((follow, options, place)) => {
            let tty = options.tty;
            let run = async move |streams| {
                let _place = place;
                show(follow, tty, streams).await
            };
            serve_attach(request, options, run).await
        }
        Err(error) => error.into_response(),
    }
}

async fn begin_attach(
    endpoint: &Endpoint,
    parts: &Parts,
    query: &str,
) -> Result<(Follow, ExecOptions, Place), Error> {
    let options = ExecOptions::from_query(query, part(parts, "container"))?;
    let place = endpoint.shared.limits.place()?;
    let _beginning = endpoint.shared.limits.beginning().await;
    let pod = pod(endpoint, parts).await?;
    if !is_running(&pod, &options.container) {
        return Err(Error::NotRunning(options.container));
    }
    let follow = Follow::new(endpoint, &pod, &options.container, Timestamp::now())?;
    Ok((follow, options, place))
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

pub(super) async fn port_forward(
    State(endpoint): State<Endpoint>,
    parts: Parts,
    request: Request,
) -> Response {
    match begin_port_forward(&endpoint, &parts).await {
        Ok((pod, place)) => {
            let connect = move |port| {
                // As long as this may be called.
                let _ = &place;
                let answer = port::answer(&pod, port).map_err(|refusal| refusal.to_string());
                std::future::ready(answer)
            };
            serve_port_forward(request, connect).await
        }
        Err(error) => error.into_response(),
    }
}

async fn begin_port_forward(endpoint: &Endpoint, parts: &Parts) -> Result<(Pod, Place), Error> {
    let place = endpoint.shared.limits.place()?;
    let _beginning = endpoint.shared.limits.beginning().await;
    Ok((pod(endpoint, parts).await?, place))
}
