//! What is kept in memory of each pod, between the views that come in.
//!
//! Owns what is read once (identity, deletion) and what the newest view says. A record is small
//! on purpose: there are tens of thousands. It decides nothing; [`step`](super::core::step) does.

mod container;
mod deletion;
mod extra;

use std::net::IpAddr;
use std::num::NonZeroI64;

use holdfast_provider::id::{NodeName, PodKey, PodUid};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub use self::container::Names;
pub(super) use self::container::{Container, Gate};
pub use self::deletion::Deletion;
use self::extra::Extra;
pub use self::extra::ProcessExit;
use super::behaviour::Behaviours;
use super::observed::{ConditionType, ContainerStatus, Observed, State};
use super::view::{self, GoneView, Phase, PodView, RestartPolicy};

/// What the API server fills in for `terminationGracePeriodSeconds`.
const GRACE_DEFAULT_S: i64 = 30;

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
            extra: Extra::of(&view.spec, behaviours),
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
        for (kept, seen) in [
            (&mut self.containers, &view.spec.containers),
            (&mut self.init_containers, &view.spec.init_containers),
        ] {
            for (kept, seen) in kept.iter_mut().zip(seen) {
                kept.refresh(seen, self.generation, names);
            }
        }
        for gate in &mut self.gates {
            gate.refresh(&view.status.conditions);
        }
        self.refresh_deletion(
            meta.deletion_timestamp.as_ref(),
            meta.deletion_grace_period_seconds,
            now,
        );
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

    /// Takes in what the last view of the pod says of its deletion.
    pub(super) fn observe_gone(&mut self, view: &GoneView, now: Timestamp) {
        let meta = &view.metadata;
        self.refresh_deletion(
            meta.deletion_timestamp.as_ref(),
            meta.deletion_grace_period_seconds,
            now,
        );
    }

    fn refresh_deletion(&mut self, at: Option<&Time>, grace_s: Option<i64>, now: Timestamp) {
        if let Some(Time(at)) = at {
            let deletion = self
                .deletion
                .get_or_insert_with(|| Box::new(Deletion::new(*at, grace_s, now)));
            deletion.refresh(*at, grace_s, now);
        }
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

/// `time` plus `by`, within what can be told.
pub(super) fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    let end = if by.is_negative() {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    };
    time.checked_add(by).unwrap_or(end)
}

/// Kubernetes times have whole seconds.
pub(super) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests;
