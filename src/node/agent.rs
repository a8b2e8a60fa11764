//! Registration and status: one watch for all nodes, a bounded number of requests at a time.
//!
//! The watch is begun anew every minute, and with it a list. So whatever an event did not tell is
//! noticed then, and a connection that died in silence is dropped.

use std::collections::HashMap;
use std::time::Duration;

use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use holdfast_provider::id::NodeName;
use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::Request;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use tokio::time::{Instant, MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::object::{GRACEFUL, NODE_TYPE_LABEL, SHUTDOWN, Template};
use super::plan::{Action, Seen, next_action};
use super::schedule::{Outage, Schedule};
use super::table::NodeTable;
use super::view::NodeView;
use crate::config::{Config, NodeSpec};
use crate::kube_client;
use crate::metrics::WatchMetrics;
use crate::pause::{Backoff, jitter};

/// As a kubelet does when nothing changes (`nodeStatusReportFrequency`).
const STATUS_INTERVAL: Duration = Duration::from_mins(5);
/// How often the watch begins anew.
const RELIST_INTERVAL: Duration = Duration::from_mins(1);
/// A request without an answer by then is given up and made again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Each takes a socket (kube speaks HTTP/1.1). More do not register a thousand nodes sooner.
const REQUESTS_MAX: usize = 32;
/// Between two patches of one node, should somebody undo each of them at once.
const PATCH_PAUSE: Duration = Duration::from_secs(1);

/// How one request ended.
enum Outcome {
    /// With the node as it is now.
    Seen(Box<NodeView>),
    /// There is no such node.
    Gone,
    /// There is one already.
    Exists,
    /// Without success.
    Failed(kube::Error),
    /// Without an answer.
    TimedOut,
}

/// The request on its way for a node; never more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InFlight {
    None,
    /// Carries no status.
    Plain,
    /// Carries a status, which is still due when it fails.
    Report,
    /// The node was deleted meanwhile: the answer may be older than that.
    Overtaken,
}

/// One configured node.
struct Entry {
    spec: NodeSpec,
    seen: Seen,
    /// Whether the running list, or an answer since it began, has shown the node.
    listed: bool,
    request: InFlight,
    heartbeat_at: Instant,
    not_before: Instant,
    backoff: Backoff,
    foreign_reported: bool,
}

struct Agent {
    client: Client,
    template: Template,
    table: NodeTable,
    watches: WatchMetrics,
    entries: Vec<Entry>,
    index: HashMap<NodeName, usize>,
    schedule: Schedule,
    requests: FuturesUnordered<BoxFuture<'static, (usize, Outcome)>>,
    outage: Outage,
    watch_outage: Outage,
    /// Whether one list was read to its end: what is missing before that may exist.
    synced: bool,
}

/// Keeps the nodes of `config` registered until `shutdown`.
pub(super) async fn run(
    client: Client,
    config: &Config,
    table: NodeTable,
    watches: WatchMetrics,
    shutdown: CancellationToken,
) {
    let version = tokio::select! {
        version = server_version(&client) => version,
        () = shutdown.cancelled() => return,
    };
    let mut agent = Agent::new(
        client,
        Template::new(config, &version),
        config,
        table,
        watches,
    );
    let mut relist = tokio::time::interval(RELIST_INTERVAL);
    relist.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = agent.watch();

    loop {
        let room = agent.synced && agent.requests.len() < REQUESTS_MAX;
        let wake = agent.schedule.first().filter(|_| room);
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = relist.tick() => watch = agent.watch(),
            Some(event) = watch.next() => agent.watched(event),
            Some((index, outcome)) = agent.requests.next() => agent.answered(index, outcome),
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                agent.start_due();
            }
        }
    }
}

/// Asks until there is an answer: every node object names the version.
async fn server_version(client: &Client) -> String {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut outage = Outage::new("read the version of the API server");
    loop {
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, client.apiserver_version()).await;
        match answer {
            Ok(Ok(info)) => {
                outage.worked(0);
                return info.git_version;
            }
            Ok(Err(error)) => outage.failed(0, "", &error),
            Err(elapsed) => outage.failed(0, "", &elapsed),
        }
        tokio::time::sleep(backoff.failed()).await;
    }
}

impl Agent {
    fn new(
        client: Client,
        template: Template,
        config: &Config,
        table: NodeTable,
        watches: WatchMetrics,
    ) -> Self {
        let now = Instant::now();
        let entry = |spec: &NodeSpec| Entry {
            spec: spec.clone(),
            seen: Seen::Unknown,
            listed: false,
            request: InFlight::None,
            // A node that was there before gets a heartbeat at once: it may have gone stale.
            heartbeat_at: now,
            not_before: now,
            backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(30)),
            foreign_reported: false,
        };
        let entries: Vec<Entry> = config.nodes.iter().map(entry).collect();
        Self {
            client,
            template,
            table,
            watches,
            index: entries
                .iter()
                .map(|entry| entry.spec.name.clone())
                .zip(0..)
                .collect(),
            schedule: Schedule::new(entries.len()),
            entries,
            requests: FuturesUnordered::new(),
            outage: Outage::new("register nodes or report their status"),
            watch_outage: Outage::new("watch the nodes"),
            synced: false,
        }
    }

    fn watch(&self) -> BoxStream<'static, watcher::Result<watcher::Event<NodeView>>> {
        let config = watcher::Config::default().labels(NODE_TYPE_LABEL);
        watcher(Api::all(self.client.clone()), config)
            .backoff(kube_client::watch_backoff())
            .boxed()
    }

    fn watched(&mut self, event: watcher::Result<watcher::Event<NodeView>>) {
        match event {
            Ok(watcher::Event::Init) => {
                self.entries
                    .iter_mut()
                    .for_each(|entry| entry.listed = false);
            }
            Ok(watcher::Event::InitApply(node) | watcher::Event::Apply(node)) => {
                if let Some(&index) = self.index.get(&NodeName::from(node.name())) {
                    self.observe(index, node);
                    self.wake(index, Instant::now());
                }
            }
            Ok(watcher::Event::InitDone) => self.list_ended(),
            Ok(watcher::Event::Delete(node)) => {
                if let Some(&index) = self.index.get(&NodeName::from(node.name())) {
                    let current = matches!(
                        &self.entries[index].seen,
                        Seen::Present(seen) if seen.uid() == node.uid()
                    );
                    if current {
                        let request = &mut self.entries[index].request;
                        if *request != InFlight::None {
                            *request = InFlight::Overtaken;
                        }
                        self.vanished(index);
                    }
                }
            }
            Err(error) => {
                self.watches.broke("nodes");
                self.watch_outage.failed(0, "", &error);
            }
        }
    }

    fn list_ended(&mut self) {
        self.watch_outage.worked(0);
        self.synced = true;
        for index in 0..self.entries.len() {
            let entry = &self.entries[index];
            // A request on its way knows better than a list that may be older.
            if !entry.listed && entry.request == InFlight::None {
                self.vanished(index);
            }
        }
        self.table.set_listed();
    }

    /// The node does not exist, or no longer carries our label.
    fn vanished(&mut self, index: usize) {
        let entry = &mut self.entries[index];
        if entry.seen.is_registered() {
            let node = &entry.spec.name;
            warn!(%node, "the node is gone or lost its label {NODE_TYPE_LABEL}; registering it");
        }
        entry.seen = Seen::Absent;
        self.table.update(&entry.spec.name, None);
        self.wake(index, Instant::now());
    }

    fn observe(&mut self, index: usize, node: NodeView) {
        let entry = &mut self.entries[index];
        entry.listed = true;
        if let Seen::Present(known) = &entry.seen
            && !node.is_newer_than(known)
        {
            return;
        }
        let foreign = node.is_foreign();
        if foreign && !entry.foreign_reported {
            let owner = node.owner();
            error!(
                node = %entry.spec.name,
                owner,
                "a node of that name belongs to somebody else and is left alone; \
                 give ours another name"
            );
        }
        entry.foreign_reported = foreign;
        if let Some(word) = node.odd_shutdown()
            && !matches!(&entry.seen, Seen::Present(known) if known.odd_shutdown() == Some(word))
        {
            warn!(
                node = %entry.spec.name,
                "annotation {SHUTDOWN} is {word:?} and means nothing: write {GRACEFUL:?}, or take it off"
            );
        }
        self.table
            .update(&entry.spec.name, Some(&node).filter(|_| !foreign));
        let before = std::mem::replace(&mut entry.seen, Seen::Present(Box::new(node)));
        if !before.is_registered() && entry.seen.is_registered() {
            debug!(node = %entry.spec.name, "the node is registered");
            if self.entries.iter().all(|entry| entry.seen.is_registered()) {
                info!(nodes = self.entries.len(), "all nodes are registered");
            }
        }
    }

    /// Looks at the node at `at`, or as soon after as it may be written again.
    fn wake(&mut self, index: usize, at: Instant) {
        let entry = &self.entries[index];
        // The answer of a running request looks again anyway.
        if entry.request == InFlight::None {
            self.schedule.no_later_than(index, at.max(entry.not_before));
        }
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        while self.requests.len() < REQUESTS_MAX {
            let Some(index) = self.schedule.pop(now) else {
                return;
            };
            let entry = &mut self.entries[index];
            let heartbeat_due = entry.heartbeat_at <= now;
            let action = next_action(
                &self.template,
                &entry.spec,
                &entry.seen,
                heartbeat_due,
                Timestamp::now(),
            );
            let Some(action) = action else {
                if !heartbeat_due {
                    self.schedule.no_later_than(index, entry.heartbeat_at);
                }
                continue;
            };
            entry.request = match action {
                Action::Create(_) | Action::PatchStatus(_) => InFlight::Report,
                Action::Get | Action::PatchMetadata(_) => InFlight::Plain,
            };
            if entry.request == InFlight::Report {
                entry.heartbeat_at = now + jitter(STATUS_INTERVAL, 20);
            }
            if matches!(action, Action::PatchMetadata(_) | Action::PatchStatus(_)) {
                entry.not_before = now + PATCH_PAUSE;
            }
            let request = perform(self.client.clone(), entry.spec.name.clone(), action);
            self.requests
                .push(request.map(move |outcome| (index, outcome)).boxed());
        }
    }

    fn answered(&mut self, index: usize, outcome: Outcome) {
        let now = Instant::now();
        let entry = &mut self.entries[index];
        let request = std::mem::replace(&mut entry.request, InFlight::None);
        if request == InFlight::Overtaken {
            entry.seen = Seen::Unknown;
            return self.wake(index, now);
        }
        if request == InFlight::Report && matches!(outcome, Outcome::Failed(_) | Outcome::TimedOut)
        {
            entry.heartbeat_at = now;
        }
        match outcome {
            Outcome::Seen(node) => {
                entry.backoff.worked();
                self.outage.worked(index);
                self.observe(index, *node);
                self.wake(index, now);
            }
            Outcome::Gone => self.vanished(index),
            Outcome::Exists => {
                entry.seen = Seen::Unknown;
                self.wake(index, now);
            }
            Outcome::Failed(error) => self.failed(index, &error),
            Outcome::TimedOut => self.failed(index, &NoAnswer),
        }
    }

    fn failed(&mut self, index: usize, error: &(dyn std::error::Error + 'static)) {
        let now = Instant::now();
        let entry = &mut self.entries[index];
        self.outage.failed(index, entry.spec.name.as_str(), error);
        entry.not_before = now + jitter(entry.backoff.failed(), 20);
        self.wake(index, now);
    }
}

/// The API server did not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", REQUEST_TIMEOUT.as_secs())]
struct NoAnswer;

async fn perform(client: Client, name: NodeName, action: Action) -> Outcome {
    let Ok(answer) = tokio::time::timeout(REQUEST_TIMEOUT, request(client, &name, action)).await
    else {
        return Outcome::TimedOut;
    };
    match answer {
        Ok(node) => Outcome::Seen(Box::new(node)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Outcome::Gone,
        Err(kube::Error::Api(status)) if status.is_already_exists() => Outcome::Exists,
        Err(error) => Outcome::Failed(error),
    }
}

async fn request(client: Client, name: &NodeName, action: Action) -> kube::Result<NodeView> {
    let nodes: Api<NodeView> = Api::all(client.clone());
    let name = name.as_str();
    let params = PatchParams::default();
    match action {
        Action::Get => nodes.get(name).await,
        Action::PatchMetadata(patch) => nodes.patch(name, &params, &Patch::Merge(patch)).await,
        Action::PatchStatus(patch) => {
            nodes
                .patch_status(name, &params, &Patch::Strategic(patch))
                .await
        }
        Action::Create(node) => {
            // Not by `Api`, which would answer with the type it sent: a whole Node to decode.
            let body = serde_json::to_vec(&node).map_err(kube::Error::SerdeError)?;
            let request = Request::new(NodeView::url_path(&(), None))
                .create(&PostParams::default(), body)
                .map_err(kube::Error::BuildRequest)?;
            client.request(request).await
        }
    }
}
