//! `exec` and `port-forward`: which container a caller means, and what it is connected to.
//!
//! Owns the lookup, also for [`super::attach`], and when a session ends because its container does. Protocols are in
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
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::container::{self, ContainerError, NodeFacts};
use super::fields::Allocatable;
use super::hosts::Dns;
use super::life::{self, NoLogs};
use super::limits::{Full, Place};
use super::logs;
use super::objects::ApiObjects;
use super::port;
use super::routes::{Endpoint, refused};
use super::scratch::ScratchStore;
use super::shell::{self, Terminal, World};
use super::streaming::{
    ExecOptions, ExitStatus, OptionsError, Streams, serve_exec, serve_port_forward,
};
use crate::chain::chain;
use crate::config::Config;
use crate::https::Outflow;
use crate::pod::quantity;

/// How often the container of a session is looked at: one GET of the pod each.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// A process that is killed with its container (128 + SIGKILL).
const KILLED: i32 = 137;

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
pub(super) enum Error {
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
    #[error("the API server did not answer within {limit:?} for what pod {pod:?} refers to")]
    TimedOut { pod: String, limit: Duration },
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
            Self::Container(_) | Self::TimedOut { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Full(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        refused(status, &self)
    }
}

/// The parts of a path: namespace and pod, sometimes a UID, and a container.
pub(super) type Parts = Path<Vec<(String, String)>>;

pub(super) fn part<'a>(parts: &'a Parts, name: &str) -> &'a str {
    let found = parts.0.iter().find(|(known, _)| known == name);
    found.map_or("", |(_, value)| value)
}

/// The pod of a path, of the UID in it if it has one.
pub(super) async fn pod(endpoint: &Endpoint, parts: &Parts) -> Result<Pod, Error> {
    let (namespace, name, uid) = (
        part(parts, "namespace"),
        part(parts, "pod"),
        part(parts, "uid"),
    );
    let uid = Some(uid).filter(|uid| !uid.is_empty());
    Ok(of_uid(endpoint, namespace, name, uid).await?)
}

async fn of_uid(
    endpoint: &Endpoint,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
) -> Result<Pod, logs::Error> {
    let pod = logs::read_here(endpoint, namespace, name).await?;
    if uid.is_some() && pod.metadata.uid.as_deref() != uid {
        return Err(logs::Error::NoPod(name.to_owned()));
    }
    Ok(pod)
}

/// The run that a container is in, by how often it was restarted; none while it does not run.
pub(super) fn running(pod: &Pod, container: &str) -> Option<u32> {
    let mut statuses = life::statuses(pod.status.as_ref()?);
    let found = statuses.find(|status| status.name == container)?;
    let runs = found.state.as_ref()?.running.is_some();
    runs.then(|| u32::try_from(found.restart_count).unwrap_or(0))
}

pub(super) async fn exec(
    State(endpoint): State<Endpoint>,
    parts: Parts,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let outflow = Outflow::of(request.extensions());
    match begin_exec(&endpoint, &parts, &query.unwrap_or_default(), outflow).await {
        Ok((world, restarts, options, place)) => {
            let (command, tty) = (options.command.clone(), options.tty);
            let run = async move |streams| {
                tokio::select! {
                    code = run(&world, &command, tty, streams) => ExitStatus::Exited(code),
                    () = ended(&endpoint, &world.pod, &world.container, restarts) => {
                        ExitStatus::Exited(KILLED)
                    }
                }
            };
            serve_exec(request, options, place, run).await
        }
        Err(error) => error.into_response(),
    }
}

async fn begin_exec(
    endpoint: &Endpoint,
    parts: &Parts,
    query: &str,
    outflow: Outflow,
) -> Result<(World, u32, ExecOptions, Place), Error> {
    let options = ExecOptions::from_query(query, part(parts, "container"))?;
    if options.command.is_empty() {
        return Err(Error::NoCommand);
    }
    let place = endpoint.shared.limits.place(outflow).await?;
    let _beginning = endpoint.shared.limits.beginning().await;
    let pod = pod(endpoint, parts).await?;
    let Some(restarts) = running(&pod, &options.container) else {
        return Err(Error::NotRunning(options.container));
    };
    let world = world(endpoint, Arc::new(pod), &options.container).await?;
    Ok((world, restarts, options, place))
}

/// What the commands of a container can see.
pub(super) async fn world(
    endpoint: &Endpoint,
    pod: Arc<Pod>,
    container: &str,
) -> Result<World, Error> {
    world_within(endpoint, pod, container, logs::REQUEST_TIMEOUT).await
}

/// One limit for all that is read: few sessions may begin at a time, and a slow one keeps others waiting.
async fn world_within(
    endpoint: &Endpoint,
    pod: Arc<Pod>,
    container: &str,
    limit: Duration,
) -> Result<World, Error> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let read = timeout(limit, read_world(endpoint, pod, container)).await;
    let read = read.map_err(|_| Error::TimedOut { pod: name, limit })?;
    Ok(read?)
}

async fn read_world(
    endpoint: &Endpoint,
    pod: Arc<Pod>,
    container: &str,
) -> Result<World, ContainerError> {
    let sessions = &endpoint.shared.sessions;
    let node = NodeFacts {
        dns: dns(endpoint).await,
        allocatable: sessions.allocatable,
    };
    let mac = sessions.mac(&pod).await;
    container::world(
        pod,
        container,
        &ApiObjects(endpoint.shared.client.clone()),
        &node,
        &sessions.scratch,
        mac,
        Arc::new(Timestamp::now),
    )
    .await
}

/// How names would be resolved: by the cluster's DNS Service, if it has one under the usual name.
async fn dns(endpoint: &Endpoint) -> Dns {
    let api: Api<Service> = Api::namespaced(endpoint.shared.client.clone(), "kube-system");
    let service = api.get_opt("kube-dns").await.unwrap_or_else(|error| {
        let error = chain(&error).to_string();
        tracing::warn!(error, "a session does not know the cluster's DNS");
        None
    });
    let address = service
        .and_then(|service| service.spec?.cluster_ip)
        .and_then(|address| address.parse().ok());
    Dns {
        cluster_servers: address.into_iter().collect(),
        cluster_domain: "cluster.local".to_owned(),
        ..Dns::default()
    }
}

/// Runs a command to its exit code.
pub(super) async fn run(world: &World, command: &[String], tty: bool, streams: Streams) -> i32 {
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
        code = run => code,
        never = resize => match never {},
    }
}

/// Returns once this run of the container has ended.
pub(super) async fn ended(endpoint: &Endpoint, pod: &Pod, container: &str, restarts: u32) {
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
        match logs::read_here(endpoint, namespace, name).await {
            Ok(now)
                if now.metadata.uid == pod.metadata.uid
                    && running(&now, container) == Some(restarts) => {}
            // The API server is away: the container may well run.
            Err(logs::Error::Unreachable { .. } | logs::Error::TimedOut { .. }) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

pub(super) async fn port_forward(
    State(endpoint): State<Endpoint>,
    parts: Parts,
    request: Request,
) -> Response {
    let outflow = Outflow::of(request.extensions());
    match begin_port_forward(&endpoint, &parts, outflow).await {
        Ok(forwarded) => {
            let forwarded = Arc::new(forwarded);
            let connect = move |port| {
                let forwarded = Arc::clone(&forwarded);
                async move { forwarded.connect(port).await }
            };
            serve_port_forward(request, connect).await
        }
        Err(error) => error.into_response(),
    }
}

async fn begin_port_forward(
    endpoint: &Endpoint,
    parts: &Parts,
    outflow: Outflow,
) -> Result<Forwarded, Error> {
    let place = endpoint.shared.limits.place(outflow).await?;
    let _beginning = endpoint.shared.limits.beginning().await;
    let pod = pod(endpoint, parts).await?;
    let meta = pod.metadata.clone();
    Ok(Forwarded {
        endpoint: endpoint.clone(),
        namespace: meta.namespace.unwrap_or_default(),
        name: meta.name.unwrap_or_default(),
        uid: meta.uid.unwrap_or_default(),
        last: tokio::sync::Mutex::new(Some(pod)),
        _place: place,
    })
}

/// The pod whose ports a session forwards, and no other of its name.
struct Forwarded {
    endpoint: Endpoint,
    namespace: String,
    name: String,
    uid: String,
    /// The pod as it was read last, unless it was gone.
    last: tokio::sync::Mutex<Option<Pod>>,
    _place: Place,
}

impl Forwarded {
    /// Connects to a port of the pod as it is now: a session outlives its containers, and the pod.
    async fn connect(&self, port: u16) -> Result<DuplexStream, String> {
        let read = {
            // A client opens connections as fast as it likes, and each asks the API server.
            let _beginning = self.endpoint.shared.limits.beginning().await;
            of_uid(&self.endpoint, &self.namespace, &self.name, Some(&self.uid)).await
        };
        let mut last = self.last.lock().await;
        match read {
            Ok(pod) => *last = Some(pod),
            Err(logs::Error::NoPod(pod)) => {
                *last = None;
                let uid = self.uid.clone();
                return Err(port::Refusal { port, pod, uid }.to_string());
            }
            // A refusal would end the session, and the pod may well be there.
            Err(error) => {
                let error = chain(&error).to_string();
                tracing::warn!(
                    error,
                    "a port of a pod is answered for as the pod was before"
                );
                if last.is_none() {
                    return Err(error);
                }
            }
        }
        let pod = last.as_ref().expect("it was read, now or before");
        port::answer(pod, port).map_err(|refusal| refusal.to_string())
    }
}

#[cfg(test)]
mod tests;
