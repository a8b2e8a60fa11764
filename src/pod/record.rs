//! What is kept in memory of each pod, between the views that come in.
//!
//! Owns what is read once (identity, deletion) and what the newest view says. A record is small
//! on purpose: there are tens of thousands. It decides nothing; [`step`](super::core::step) does.

use std::collections::HashSet;
use std::net::IpAddr;
use std::num::NonZeroI64;
use std::sync::Arc;

use holdfast_provider::id::{NodeName, PodKey, PodUid};
use jiff::{SignedDuration, Timestamp};

use super::behaviour::{self, Behaviour, Behaviours};
use super::needs::Needs;
use super::observed::{ConditionType, ContainerStatus, Observed, State};
use super::quantity;
use super::view::{self, ConditionStatus, Phase, PodView, RestartPolicy};

/// The API cuts its timestamps to whole seconds, so a time read from it is up to this much early.
const TRUNCATION: SignedDuration = SignedDuration::from_secs(1);

/// What the API server fills in for `terminationGracePeriodSeconds`.
const GRACE_DEFAULT_S: i64 = 30;

/// A container that ran for this long starts its back-off anew (kubernetes/kubernetes,
/// client-go/util/flowcontrol: twice the longest back-off).
const RESTED: SignedDuration = SignedDuration::from_mins(10);

/// One pod on one of our nodes.
#[derive(Debug)]
pub struct Record {
    pub(super) uid: PodUid,
    pub(super) key: PodKey,
    pub(super) created_at: Timestamp,
    pub(super) node: NodeName,
    pub(super) pod_use_spec: Box<str>,
    pub(super) host_network: bool,
    pub(super) restart_policy: RestartPolicy,
    pub(super) has_finalizers: bool,
    grace_s: i64,
    pub(super) containers: Box<[Container]>,
    pub(super) init_containers: Box<[Container]>,
    pub(super) gates: Box<[Gate]>,
    /// Of its specification; they begin at 1.
    pub(super) generation: Option<NonZeroI64>,
    /// `resourceVersion` of the newest view: a number that grows with every write of the object
    /// (KEP-5504, Comparable Resource Version).
    pub(super) version: u64,
    /// Boxed: most pods are not being deleted.
    deletion: Option<Box<Deletion>>,
    /// When the status ContainerCreating was seen to stand in the API.
    pub(super) creating_since: Option<Timestamp>,
    pub(super) observed: Observed,
    /// How it ended, in the last view that showed an end.
    pub(super) ended: Option<Phase>,
    extra: Option<Box<Extra>>,
}

/// What few pods have.
#[derive(Debug, Default)]
struct Extra {
    behaviours: Behaviours,
    needs: Option<Needs>,
    ephemeral: Box<[Container]>,
    active_deadline: Option<SignedDuration>,
    /// Containers that have run for long, and how often they had been restarted by then: a
    /// failure after that is their first.
    rested: Vec<(Arc<str>, u32)>,
    /// Since when a container runs whose image was changed.
    outdated_since: Option<Timestamp>,
    /// Processes that have ended, the newest of each container, and when.
    exits: Vec<(ProcessExit, Timestamp)>,
}

/// The end of a container's first process, such as a shell that somebody left. The API does not show it before the
/// status that it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessExit {
    /// Name of the container.
    pub container: Box<str>,
    /// `restartCount` of the run that it was in. Any other run has a process of its own.
    pub restarts: u32,
    /// Its exit code.
    pub code: u8,
}

/// What a pod gets when it is accepted.
#[derive(Debug)]
pub struct Terms {
    /// The node that it is bound to.
    pub node: NodeName,
    /// What the annotation `alibabacloud.com/pod-use-spec` will say.
    pub pod_use_spec: Box<str>,
    /// What its annotations ask of its containers.
    pub behaviours: Behaviours,
}

impl Record {
    /// A record of a pod, seen for the first time at `now`. `None` when the object has no UID or
    /// name, which no object from an API server lacks.
    pub fn from_view(
        view: &PodView,
        terms: Terms,
        names: &mut Names,
        now: Timestamp,
    ) -> Option<Self> {
        let Terms {
            node,
            pod_use_spec,
            behaviours,
        } = terms;
        let extra = Extra {
            needs: Needs::of(&view.spec),
            behaviours,
            ..Extra::default()
        };
        let is_rare = extra.needs.is_some() || extra.behaviours != Behaviours::default();
        let meta = &view.metadata;
        let containers = |list: &[view::Container], names: &mut Names| {
            list.iter()
                .map(|container| Container::new(container, names))
                .collect()
        };
        let mut record = Self {
            uid: meta.uid.as_deref()?.into(),
            key: PodKey {
                namespace: names.share(meta.namespace.as_deref().unwrap_or("default")),
                name: meta.name.as_deref()?.into(),
            },
            created_at: meta.creation_timestamp.as_ref().map_or(now, |time| time.0),
            node,
            pod_use_spec,
            host_network: view.spec.host_network,
            restart_policy: view.spec.restart_policy,
            has_finalizers: false,
            grace_s: view
                .spec
                .termination_grace_period_seconds
                .unwrap_or(GRACE_DEFAULT_S),
            containers: containers(&view.spec.containers, names),
            init_containers: containers(&view.spec.init_containers, names),
            gates: view
                .spec
                .readiness_gates
                .iter()
                .map(|gate| Gate::new(gate, names))
                .collect(),
            generation: None,
            version: 0,
            deletion: None,
            creating_since: None,
            observed: Observed::default(),
            ended: None,
            extra: is_rare.then(|| Box::new(extra)),
        };
        record.refresh(view, names, now);
        // What was there before this process saw it began at the time that the API tells.
        if let Some(deletion) = &mut record.deletion {
            deletion.seen_at = deletion.seen_at.min(deletion.deleted_at);
        }
        if record.creating_since.is_some() {
            let network = record
                .observed
                .condition(ConditionType::PodReadyToStartContainers);
            record.creating_since = network
                .and_then(super::observed::Condition::since)
                .or(Some(now));
        }
        Some(record)
    }

    /// Takes in a later view of the same pod, from the watch or from a look at it.
    ///
    /// Returns whether it told anything new: a view of another UID or one that is not newer than
    /// the last changes nothing, since a look can overtake the watch.
    pub fn observe(&mut self, view: &PodView, names: &mut Names, now: Timestamp) -> bool {
        if view.metadata.uid.as_deref() != Some(self.uid.as_str()) {
            return false;
        }
        if version(view).is_some_and(|version| version <= self.version) {
            return false;
        }
        self.refresh(view, names, now);
        true
    }

    fn refresh(&mut self, view: &PodView, names: &mut Names, now: Timestamp) {
        let meta = &view.metadata;
        self.version = version(view).unwrap_or(self.version);
        self.generation = meta.generation.and_then(NonZeroI64::new);
        self.has_finalizers = meta
            .finalizers
            .as_ref()
            .is_some_and(|list| !list.is_empty());
        self.refresh_extra(view, names);
        // Images, resources and annotations are all that an update may change of a container.
        for (kept, seen) in [
            (&mut self.containers, &view.spec.containers),
            (&mut self.init_containers, &view.spec.init_containers),
        ] {
            for (kept, seen) in kept.iter_mut().zip(seen) {
                if *kept.image != *seen.image {
                    kept.image = names.share(&seen.image);
                }
                (kept.cpu_request_milli, kept.memory_request_bytes) = requests(seen);
                // A specification that was never changed need not be told back.
                let told = self.generation.is_some_and(|it| it.get() > 1)
                    && seen.resources != view::Resources::default();
                kept.resources = told.then(|| Box::new(seen.resources.clone()));
            }
        }
        for gate in &mut self.gates {
            let found = view
                .status
                .conditions
                .iter()
                .find(|one| one.kind == *gate.kind);
            gate.status = found.map(|condition| condition.status);
        }
        if let Some(at) = &meta.deletion_timestamp {
            self.refresh_deletion(at.0, meta.deletion_grace_period_seconds, now);
        }
        let observed = Observed::new(view, self);
        let before = std::mem::replace(&mut self.observed, observed);
        let phase = self.observed.phase;
        self.ended = Some(phase)
            .filter(|phase| phase.is_terminal())
            .or(self.ended);
        self.refresh_rested(&before);
        self.refresh_outdated(now);
        if self.observed.is_creating() {
            self.creating_since.get_or_insert(now);
        }
    }

    fn refresh_deletion(&mut self, at: Timestamp, grace_s: Option<i64>, now: Timestamp) {
        let grace = SignedDuration::from_secs(grace_s.unwrap_or(0));
        let deletion = self.deletion.get_or_insert_with(|| {
            Box::new(Deletion {
                seen_at: now,
                deleted_at: later(at, TRUNCATION - grace),
                kill_at: at,
                final_at: None,
            })
        });
        // A second deletion moves the timestamp back, possibly to before the moment it was sent.
        if at < deletion.kill_at {
            deletion.kill_at = deletion.kill_at.min(at.max(now));
        }
        if grace_s == Some(0) {
            deletion.final_at.get_or_insert(now);
        }
    }

    fn refresh_extra(&mut self, view: &PodView, names: &mut Names) {
        self.refresh_figures(view);
        let spec = &view.spec;
        let ephemeral = &spec.ephemeral_containers;
        if self.extra.is_none() && ephemeral.is_empty() && spec.active_deadline_seconds.is_none() {
            return;
        }
        let extra = self.extra.get_or_insert_default();
        extra.active_deadline = spec.active_deadline_seconds.map(SignedDuration::from_secs);
        // They can be added, and nothing else.
        if extra.ephemeral.len() != ephemeral.len() {
            let all = ephemeral.iter().map(|one| Container::new(one, names));
            extra.ephemeral = all.collect();
        }
    }

    /// What containers use may change while they run, as it does on a real node.
    fn refresh_figures(&mut self, view: &PodView) {
        let annotations = view.metadata.annotations.as_ref();
        let asked = annotations.and_then(|all| {
            let is_ours = |name: &String| name.contains(behaviour::PREFIX);
            let names = self.init_containers.iter().chain(&self.containers);
            let names = names.map(|container| &*container.name);
            all.keys()
                .any(is_ours)
                .then(|| behaviour::parse(all, names).0)
        });
        if let Some(asked) = asked {
            let extra = self.extra.get_or_insert_default();
            extra.behaviours.take_figures(&asked);
        } else if let Some(extra) = &mut self.extra {
            extra.behaviours.take_figures(&Behaviours::default());
        }
    }

    fn refresh_outdated(&mut self, now: Timestamp) {
        let is_outdated = self.containers_with_status().any(|(_, status)| {
            matches!(status.state, State::Running { .. }) && status.older_image().is_some()
        });
        if is_outdated {
            let extra = self.extra.get_or_insert_default();
            extra.outdated_since.get_or_insert(now);
        } else if let Some(extra) = &mut self.extra {
            extra.outdated_since = None;
        }
    }

    fn refresh_rested(&mut self, before: &Observed) {
        let all = [
            (
                &self.init_containers,
                &self.observed.init_containers,
                &before.init_containers,
            ),
            (
                &self.containers,
                &self.observed.containers,
                &before.containers,
            ),
        ];
        for (containers, seen, before) in all {
            let before = before.iter().map(Some).chain(std::iter::repeat(None));
            for ((container, seen), before) in containers.iter().zip(seen).zip(before) {
                let ran = seen.last_end().map(|ended| ended.ran());
                let has_rested = ran.is_some_and(|ran| ran >= RESTED);
                // The kubelet counts the failures of each image anew (pkg/kubelet/kuberuntime,
                // `getStableKey`).
                let is_another = before.is_some_and(|before| before.older_image().is_some())
                    && seen.older_image().is_none();
                if seen.restarts > 0 && (has_rested || is_another) {
                    let extra = self.extra.get_or_insert_default();
                    extra.rested.retain(|(name, _)| *name != container.name);
                    extra.rested.push((container.name.clone(), seen.restarts));
                }
            }
        }
    }

    /// What is asked of a container, if anything.
    pub(super) fn behaviour(&self, container: &str) -> Option<&Behaviour> {
        let extra = self.extra.as_deref()?;
        Some(extra.behaviours.of(container))
    }

    /// ConfigMaps and Secrets that it names.
    pub(super) fn needs(&self) -> Option<&Needs> {
        self.extra.as_deref()?.needs.as_ref()
    }

    /// Containers that were added since it was made.
    pub(super) fn ephemeral_containers(&self) -> &[Container] {
        self.extra.as_deref().map_or(&[], |extra| &extra.ephemeral)
    }

    /// How long it may last.
    pub(super) fn active_deadline(&self) -> Option<SignedDuration> {
        self.extra.as_deref()?.active_deadline
    }

    /// How often a container had been restarted when it last ran for long.
    pub(super) fn rested_at(&self, container: &str) -> u32 {
        let all = self.extra.as_deref().map_or(&[][..], |extra| &extra.rested);
        let found = all.iter().find(|(name, _)| **name == *container);
        found.map_or(0, |(_, restarts)| *restarts)
    }

    /// Takes note that a process ended at `at`; whether nothing had ended that run of the container before.
    pub(super) fn exited(&mut self, exit: ProcessExit, at: Timestamp) -> bool {
        let exits = &mut self.extra.get_or_insert_default().exits;
        let is_late = exits
            .iter()
            .any(|(known, _)| known.container == exit.container && known.restarts >= exit.restarts);
        if !is_late {
            exits.retain(|(known, _)| known.container != exit.container);
            exits.push((exit, at));
        }
        !is_late
    }

    /// With what code and when the process of this run of a container ended, if it did.
    pub(super) fn exit_of(&self, container: &str, restarts: u32) -> Option<(u8, Timestamp)> {
        let exits = self.extra.as_deref().map_or(&[][..], |extra| &extra.exits);
        let mut all = exits.iter();
        let is_of = |exit: &ProcessExit| *exit.container == *container && exit.restarts == restarts;
        let (exit, at) = all.find(|(exit, _)| is_of(exit))?;
        Some((exit.code, *at))
    }

    /// Since when a container of it runs whose image was changed.
    pub(super) fn outdated_since(&self) -> Option<Timestamp> {
        self.extra.as_deref()?.outdated_since
    }

    /// Whether all its containers have been started, so that none waits for anything.
    pub(super) fn has_started_all(&self) -> bool {
        let seen = &self.observed.containers;
        !seen.is_empty() && seen.iter().all(super::observed::ContainerStatus::has_run)
    }

    /// UID of the pod.
    pub fn uid(&self) -> &PodUid {
        &self.uid
    }

    /// Namespace and name of the pod.
    pub fn key(&self) -> &PodKey {
        &self.key
    }

    /// `metadata.creationTimestamp`, whole seconds.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// `metadata.resourceVersion` of the newest view.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How long its containers may take to stop.
    pub(super) fn grace(&self) -> SignedDuration {
        SignedDuration::from_secs(self.grace_s)
    }

    /// The node that it is bound to.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Whether it uses the node's network, and so has no ENI.
    pub fn host_network(&self) -> bool {
        self.host_network
    }

    /// Its deletion, from the first view that carried one.
    pub fn deletion(&self) -> Option<&Deletion> {
        self.deletion.as_deref()
    }

    /// `status.phase` in the newest view.
    pub fn phase(&self) -> Phase {
        self.observed.phase
    }

    /// `status.podIP` in the newest view.
    pub fn pod_ip(&self) -> Option<IpAddr> {
        self.observed.pod_ip.first
    }

    /// Init containers and containers, each with what the newest view says of it.
    pub(super) fn containers_with_status(
        &self,
    ) -> impl Iterator<Item = (&Container, &ContainerStatus)> {
        let init = self
            .init_containers
            .iter()
            .zip(&self.observed.init_containers);
        init.chain(self.containers.iter().zip(&self.observed.containers))
    }

    /// Names of the containers that run, sidecars first, and since when.
    pub fn running_containers(&self) -> impl Iterator<Item = (&str, Timestamp)> {
        self.containers_with_status()
            .filter_map(|(container, status)| match status.state {
                State::Running { started_at } => Some((&*container.name, started_at)),
                State::Waiting { .. } | State::Terminated { .. } => None,
            })
    }
}

pub(in crate::pod) fn version(view: &PodView) -> Option<u64> {
    view.metadata.resource_version.as_deref()?.parse().ok()
}

/// `time` plus `by`, at most the last moment that can be told.
pub(super) fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// Kubernetes times have whole seconds.
pub(super) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// A deletion, graceful or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// When its stop signal went out: when it was seen, or `deleted_at` if nobody was watching then.
    pub seen_at: Timestamp,
    /// When it was asked for: deletionTimestamp minus grace, plus the second that the API may have
    /// cut off, so never early. Read once: the final DELETE with grace 0 rewrites the timestamp.
    pub deleted_at: Timestamp,
    /// When containers are killed: the earliest of all deletionTimestamps seen.
    pub kill_at: Timestamp,
    /// When it was first seen with grace 0. The API server takes the object away in a second step,
    /// at once or with the last finalizer.
    pub final_at: Option<Timestamp>,
}

impl Deletion {
    /// When it was asked for at the earliest.
    pub(super) fn asked_at(&self) -> Timestamp {
        later(self.deleted_at, -TRUNCATION)
    }

    /// How long containers may take to stop.
    pub fn grace(&self) -> SignedDuration {
        self.kill_at.duration_since(self.deleted_at) + TRUNCATION
    }
}

/// One container or init container of the specification.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) name: Arc<str>,
    pub(super) image: Arc<str>,
    /// An init container that keeps running.
    pub(super) sidecar: bool,
    /// What it requests of the CPU, in thousandths of a core; 0: nothing.
    pub(super) cpu_request_milli: u32,
    /// What it requests of the memory; 0: nothing.
    pub(super) memory_request_bytes: u64,
    /// What it has been given since its pod was changed.
    pub(super) resources: Option<Box<view::Resources>>,
}

impl Container {
    fn new(container: &view::Container, names: &mut Names) -> Self {
        let (cpu_request_milli, memory_request_bytes) = requests(container);
        Self {
            name: names.share(&container.name),
            image: names.share(&container.image),
            sidecar: container.is_sidecar(),
            cpu_request_milli,
            memory_request_bytes,
            resources: None,
        }
    }
}

/// CPU in thousandths of a core, up to what four million cores have, and memory in bytes.
fn requests(container: &view::Container) -> (u32, u64) {
    let requests = &container.resources.requests;
    let cpu = requests.get("cpu").and_then(|cpu| quantity::milli(cpu));
    let memory = requests.get("memory");
    let memory = memory.and_then(|memory| quantity::bytes(memory));
    let cpu = u32::try_from(cpu.unwrap_or(0)).unwrap_or(u32::MAX);
    (cpu, memory.unwrap_or(0))
}

/// A readiness gate and the condition of that type, which somebody else writes.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) kind: Arc<str>,
    pub(super) status: Option<ConditionStatus>,
}

impl Gate {
    fn new(gate: &view::ReadinessGate, names: &mut Names) -> Self {
        Self {
            kind: names.share(&gate.condition_type),
            status: None,
        }
    }
}

/// Strings that many records have in common, such as images, kept once.
#[derive(Debug, Default)]
pub struct Names {
    all: HashSet<Arc<str>>,
    /// Sweeping at twice the number that was left keeps its cost below that of the insertions.
    sweep_at: usize,
}

impl Names {
    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.all.get(text) {
            return Arc::clone(known);
        }
        if self.all.len() >= self.sweep_at {
            self.all.retain(|name| Arc::strong_count(name) > 1);
            self.sweep_at = (2 * self.all.len()).max(64);
        }
        let new = Arc::from(text);
        self.all.insert(Arc::clone(&new));
        new
    }
}

#[cfg(test)]
mod tests;
