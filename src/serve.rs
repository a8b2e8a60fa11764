//! `holdfast run`: every part started, wired to the others, and stopped in order.
//!
//! Owns start and stop. The order of a start keeps two processes from serving one ledger (the
//! lock beside the file) and two ledgers from serving one cluster (the cluster's Lease). The kubelet
//! API has a thread to itself. Contains no rule of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::{Fuse, FusedFuture as _};
use holdfast_provider::engine::Engine;
use holdfast_provider::id::{ClusterId, PodKey, Zone};
use holdfast_provider::ledger::{Ledger, Reader, Writer};
use holdfast_provider::settings::Settings;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::chain::chain;
use crate::clock::{self, Clock};
use crate::cluster_lease::{ClusterLease, Tenure};
use crate::config::{Config, PROCESS};
use crate::descriptors;
use crate::https;
use crate::kube_client;
use crate::kubelet::scratch::ScratchStore;
use crate::kubelet::{self, Listeners};
use crate::metrics::Metrics;
use crate::node::{self, NodeTable};
use crate::pod::agent::{self, Agent};
use crate::pod::core::{Lifecycle, NodeInfo};
use crate::pod::run::{self as pods, Asker, Parts, Questions};
use crate::webhook::{self, Candidate, ClaimPlace, Claims, Nodes};

/// Status writes and deletions under way at once. Each holds a connection, and more than this
/// only queue inside the API server.
const WRITES_MAX: usize = 32;
/// For the first answer of the API server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the virtual nodes of `config` until SIGTERM or SIGINT. `source` is the file that is read
/// again at SIGHUP.
///
/// # Errors
/// When the ledger, the cluster or the configuration make serving impossible.
pub async fn run(
    config: Config,
    source: PathBuf,
    kubeconfig: Option<PathBuf>,
    take_over: bool,
) -> anyhow::Result<()> {
    // First of all: a start can take as long as a Lease, and SIGHUP would end a process that does not listen.
    let mut signals = Signals::listen();
    descriptors::raise_limit();
    let access = kube_client::access(kubeconfig.as_deref()).await?;
    let (started, mut lease) = tokio::select! {
        // A Lease that was taken is given back below.
        biased;
        started = start(&access, &config, take_over) => started?,
        () = signals.stop() => return stopped_early(),
    };
    let alone_after = lease.alone_after();
    let bound = tokio::select! {
        bound = bind(alone_after, &config) => bound.map(Some),
        lost = lease.hold() => Err(anyhow::Error::new(lost)),
        () = signals.stop() => Ok(None),
    };
    let result = match bound {
        Ok(Some(listeners)) => {
            let (ledger, nodes) = (config.ledger.display(), config.nodes.len());
            tracing::info!(%ledger, nodes, "serving the cluster");
            let started = (started, &mut lease);
            serve(&access, config, started, listeners, &source, &mut signals).await
        }
        Ok(None) => stopped_early(),
        Err(error) => Err(error),
    };
    let given_back = lease.release().await;
    finish(given_back.context("could not give the cluster's lease back"));
    result
}

#[expect(clippy::unnecessary_wraps, reason = "it is how a run ends")]
fn stopped_early() -> anyhow::Result<()> {
    tracing::info!("told to stop before the cluster was served");
    Ok(())
}

/// What a start has made certain: nobody else serves this ledger or this cluster.
struct Started {
    client: Client,
    /// Of the nodes' Leases, with connections of its own.
    heartbeats: Client,
    settings: Settings,
    ledger: Ledger,
}

async fn start(
    access: &kube_client::Access,
    config: &Config,
    take_over: bool,
) -> anyhow::Result<(Started, ClusterLease)> {
    let client = kube_client::client(access)?;
    let cluster = cluster_id(config.cluster.as_ref(), &client).await?;
    let settings = config.settings(cluster);
    let ledger = Ledger::open(&config.ledger, settings.clone(), clock::wall())?;
    // Before the Lease is taken, which nobody renews while this waits for an answer.
    node::names::check(client.clone(), config).await?;
    // The lease has connections of its own: pods must not hold up its renewal.
    let lane = kube_client::client(access)?;
    let heartbeats = kube_client::client(access)?;
    let lease = ClusterLease::acquire(lane, ledger.id(), take_over).await?;
    let started = Started {
        client,
        heartbeats,
        settings,
        ledger,
    };
    Ok((started, lease))
}

/// What is listened to from outside.
struct Bound {
    kubelet: Listeners,
    /// None where the webhook is off.
    webhook: Option<std::net::TcpListener>,
}

/// Before a node is written: none must be published with a port of somebody else, and none be left behind by a start that
/// comes to nothing.
async fn bind(alone_after: Duration, config: &Config) -> anyhow::Result<Bound> {
    tokio::time::sleep(alone_after).await;
    let give_up = Instant::now() + https::PORT_PATIENCE;
    let kubelet = Listeners::bind(config, give_up).await?;
    let webhook = if config.webhook.enabled {
        Some(webhook::bind(&config.webhook, give_up).await?)
    } else {
        None
    };
    Ok(Bound { kubelet, webhook })
}

async fn serve(
    access: &kube_client::Access,
    config: Config,
    (started, lease): (Started, &mut ClusterLease),
    listeners: Bound,
    source: &Path,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let Started {
        client,
        heartbeats,
        settings,
        ledger,
    } = started;
    let metrics = Metrics::new(access.requests());
    let shutdown = CancellationToken::new();
    let stopping = shutdown.clone().drop_guard();
    let config = Arc::new(config);
    let table = NodeTable::new(&config);
    let (changes, changed) = watch::channel(settings.clone());
    let (asker, questions) = Asker::new();
    let scratch = ScratchStore::default();
    let (serving, is_serving) = watch::channel(false);
    let outside = Outside {
        tenure: lease.tenure(),
        questions,
        metrics: metrics.clone(),
        scratch: scratch.clone(),
    };
    let watches = metrics.watches.clone();
    // First whatever can fail: nothing is served yet, and so nobody has to be waited for.
    let parts = parts(&config, client.clone(), ledger, &table, changed, outside)?;
    let webhook = webhook_parts(listeners.webhook, &config, &settings)?;
    let sources = kubelet::Sources {
        pods: asker,
        nodes: table.clone(),
        metrics,
        scratch,
    };
    let mut kubelet = start_kubelet(access, &config, listeners.kubelet, sources, &shutdown)?;
    let nodes = node::run(
        client.clone(),
        heartbeats,
        config.clone(),
        table.clone(),
        watches,
        shutdown.clone(),
    );
    let mut nodes = tokio::spawn(nodes).fuse();
    let mut pods = tokio::spawn(pods::run(parts, serving, shutdown.clone())).fuse();
    let mut webhook = start_webhook(&config, &client, webhook, &table, &shutdown).fuse();
    let ready = tokio::spawn(announce(is_serving));
    let result = tokio::select! {
        () = signals.serve(source, &config, &changes) => Ok(()),
        lost = lease.hold() => Err(anyhow::Error::new(lost)),
        ended = &mut pods => pods_ended(ended),
        ended = &mut nodes => ended.context("keeping nodes panicked"),
        ended = &mut kubelet => ended.context("the kubelet API panicked").flatten(),
        ended = &mut webhook => webhook_ended(ended),
    };
    drop(stopping);
    ready.abort();
    // Whoever creates a pod at this moment has its answer.
    end(webhook, webhook_ended).await;
    end(pods, pods_ended).await;
    end(nodes, |ended| ended.context("keeping nodes panicked")).await;
    result
}

/// Waits for a part that is told to stop, unless it is known how it ended.
async fn end<T>(
    task: Fuse<JoinHandle<T>>,
    ended: impl FnOnce(Result<T, JoinError>) -> anyhow::Result<()>,
) {
    if !task.is_terminated() {
        finish(ended(task.await));
    }
}

/// Tells when new pods are served.
async fn announce(mut is_serving: watch::Receiver<bool>) {
    // An error means that serving ended first, which is reported elsewhere.
    drop(is_serving.wait_for(|serving| *serving).await);
    tracing::info!("every running pod is known; new pods are served");
}

fn pods_ended(ended: Result<Result<(), pods::Error>, JoinError>) -> anyhow::Result<()> {
    Ok(ended.context("serving pods panicked")??)
}

fn webhook_ended(ended: Result<Result<(), webhook::Error>, JoinError>) -> anyhow::Result<()> {
    Ok(ended.context("the webhook panicked")??)
}

/// What fails while everything stops is told, and does not keep the rest from stopping.
fn finish(result: anyhow::Result<()>) {
    if let Err(error) = result {
        tracing::error!(error = %chain(error.as_ref()), "stopping");
    }
}

/// The configured cluster id, or else the UID of the namespace that every cluster has.
pub(crate) async fn cluster_id(
    configured: Option<&ClusterId>,
    client: &Client,
) -> anyhow::Result<ClusterId> {
    if let Some(id) = configured {
        return Ok(id.clone());
    }
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace = tokio::time::timeout(ANSWER_TIMEOUT, api.get_metadata("kube-system"))
        .await
        .with_context(|| {
            let limit_s = ANSWER_TIMEOUT.as_secs();
            format!("the API server takes connections and gives no answer within {limit_s} s")
        })?
        .context("could not reach the cluster")?;
    let uid = namespace
        .metadata
        .uid
        .context("namespace kube-system has no uid; set `cluster`")?;
    Ok(uid.into())
}

/// What serving pods shares with other parts.
pub struct Outside {
    /// Whether pods may be written.
    pub tenure: Tenure,
    /// What the kubelet API asks.
    pub questions: Questions,
    /// Counts what happens.
    pub metrics: Metrics,
    /// The files of simulated containers.
    pub scratch: ScratchStore,
}

/// What [`pods::run`] needs, around a ledger that was just opened: its rows are loaded, and its
/// writer is started.
///
/// # Errors
/// When the ledger cannot be read, or the system refuses a thread.
pub fn parts(
    config: &Config,
    client: Client,
    mut ledger: Ledger,
    table: &NodeTable,
    settings: watch::Receiver<Settings>,
    outside: Outside,
) -> anyhow::Result<Parts> {
    let clock = Clock::new();
    let loaded = ledger.load(clock::wall())?;
    let engine = Engine::new(ledger.cloud().clone(), loaded, clock.now());
    let (results, done) = mpsc::unbounded_channel();
    let time = clock.clone();
    let writer = Writer::start(
        ledger,
        move || time.now(),
        move |result| {
            // Once serving has ended nobody needs results any more; they are committed all the same.
            drop(results.send(result));
        },
    )
    .context("could not start the ledger's writer")?;
    let nodes = table.all().into_iter().map(|node| {
        let info = NodeInfo {
            host_ip: node.host_ip,
            zone: node.spec.zone.clone(),
            region: config.region.as_str().into(),
            vpc: config.vpc.as_str().into(),
            node_type: node.spec.node_type,
        };
        (node.spec.name.clone(), info)
    });
    let agent = Agent::new(
        agent::Settings {
            nodes: nodes.collect(),
            lifecycle: Lifecycle {
                profile: config.profile,
                creating: config.delays.creating,
                running: config.delays.running,
                stop: config.delays.stop,
            },
            unsupported_class: config.unsupported_class,
            default_hours: config.retention.default_hours,
            tolerate: config.webhook.enabled,
            writes_max: WRITES_MAX,
        },
        engine,
    );
    Ok(Parts {
        client,
        nodes: table.clone(),
        agent,
        writer,
        done,
        clock,
        settings,
        tenure: outside.tenure,
        questions: outside.questions,
        metrics: outside.metrics,
        forget: Box::new(move |uid| outside.scratch.forget(uid.as_str())),
    })
}

/// Starts the kubelet API with connections and a thread of its own: whoever reads logs or runs something
/// in a container must hold up neither pods nor leases.
fn start_kubelet(
    access: &kube_client::Access,
    config: &Arc<Config>,
    listeners: Listeners,
    sources: kubelet::Sources,
    shutdown: &CancellationToken,
) -> anyhow::Result<oneshot::Receiver<anyhow::Result<()>>> {
    let (access, config, shutdown) = (access.clone(), Arc::clone(config), shutdown.clone());
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let serve = move || {
        runtime.enable_all().build()?.block_on(async {
            let client = kube_client::client(&access)?;
            Ok(kubelet::run(client, config, listeners, sources, shutdown).await?)
        })
    };
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("kubelet".into())
        // Nobody waits for it when everything stops.
        .spawn(move || drop(end.send(serve())))
        .context("could not start the kubelet API")?;
    Ok(ended)
}

/// What the webhook listens on and reads, if it is on.
type WebhookParts = Option<(std::net::TcpListener, LedgerClaims)>;

fn webhook_parts(
    listener: Option<std::net::TcpListener>,
    config: &Config,
    settings: &Settings,
) -> anyhow::Result<WebhookParts> {
    let Some(listener) = listener else {
        return Ok(None);
    };
    let claims = LedgerClaims {
        reader: Reader::open(&config.ledger)?,
        cluster: settings.cluster.clone(),
    };
    Ok(Some((listener, claims)))
}

type WebhookTask = JoinHandle<Result<(), webhook::Error>>;

fn start_webhook(
    config: &Config,
    client: &Client,
    serving: WebhookParts,
    table: &NodeTable,
    shutdown: &CancellationToken,
) -> WebhookTask {
    let Some((listener, claims)) = serving else {
        let (client, shutdown) = (client.clone(), shutdown.clone());
        return tokio::spawn(async move {
            shutdown
                .run_until_cancelled(webhook::withdraw(client))
                .await;
            shutdown.cancelled().await;
            Ok(())
        });
    };
    // It logs that it is registered; nothing else waits for it.
    let (ready, _) = oneshot::channel();
    tokio::spawn(webhook::run(
        client.clone(),
        config.webhook.clone(),
        listener,
        Arc::new(claims),
        Arc::new(OurNodes(table.clone())),
        ready,
        shutdown.clone(),
    ))
}

/// What the process is asked for from outside. It is listened to from the start on, and answered where a part of this
/// waits for it.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Self {
        let hook = |kind| signal(kind).expect("a process can listen for its signals");
        Self {
            terminate: hook(SignalKind::terminate()),
            interrupt: hook(SignalKind::interrupt()),
            hangup: hook(SignalKind::hangup()),
        }
    }

    /// Waits for SIGTERM or SIGINT.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// The same, and takes over changed settings at SIGHUP.
    async fn serve(&mut self, source: &Path, running: &Config, changes: &watch::Sender<Settings>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hangup.recv() => reload(source, running, changes),
            }
        }
        tracing::info!("stopping; nodes and leases stay, `holdfast uninstall` removes them");
    }
}

/// vSwitches, retention, the simulated cloud and history are taken over; the rest at a restart.
fn reload(source: &Path, running: &Config, changes: &watch::Sender<Settings>) {
    let config = match Config::load_with(source, PROCESS) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(error = %chain(&error), "the changed configuration is refused; the old one stays");
            return;
        }
    };
    if let Some(node) = config.without_vswitch(running) {
        let (node, zone) = (&node.name, &node.zone);
        tracing::error!(
            "the changed configuration is refused, and the old one stays: zone {zone} has no vSwitch in it, and its node {node} \
             is there until the next start; leave a vSwitch in the zone, or restart holdfast in place of SIGHUP"
        );
        return;
    }
    let left = config.left_for_a_start(running);
    if !left.is_empty() {
        let keys = left.join(", ");
        tracing::warn!(keys, "these keys have changed, and wait for the next start");
    }
    let config = Config {
        region: running.region.clone(),
        vpc: running.vpc.clone(),
        ..config
    };
    let cluster = changes.borrow().cluster.clone();
    changes.send_replace(config.settings(cluster));
}

/// Claims as the webhook reads them.
struct LedgerClaims {
    reader: Reader,
    cluster: ClusterId,
}

impl Claims for LedgerClaims {
    fn unexpired(
        &self,
        key: &PodKey,
        now: Timestamp,
    ) -> Result<Option<ClaimPlace>, Box<dyn std::error::Error + Send + Sync>> {
        let claim = self.reader.open_claim(&self.cluster, key, now)?;
        Ok(claim.map(|claim| ClaimPlace {
            zone: claim.zone,
            vswitch: claim.vswitch,
        }))
    }
}

/// Our nodes as the webhook sees them.
struct OurNodes(NodeTable);

impl Nodes for OurNodes {
    fn candidates(&self, zone: &Zone) -> Vec<Candidate> {
        let all = self.0.all().into_iter();
        all.filter(|node| node.spec.zone == *zone && node.spec.node_type.keeps_addresses())
            .filter(|node| node.is_up())
            .map(|node| Candidate {
                name: node.spec.name.to_string(),
                labels: node.labels.clone(),
                taints: node.taints.clone(),
                unschedulable: node.unschedulable,
            })
            .collect()
    }
}
