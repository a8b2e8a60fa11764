//! The part of a pod's status that is written here, as the API server has it now.
//!
//! Owns the form in which a status is kept so that it can be compared with the wanted one.
//! Conditions, annotations and fields of others are not in it, and so never cause a write.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::num::NonZeroI64;

use holdfast_provider::id::PodUid;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::behaviour::Exit;
use super::record::{Container, Record};
use super::status::SYSTEM_ANNOTATIONS;
use super::view::{self, ConditionStatus, ContainerReason, Phase, PodView};

/// The part of a status that is written here, as the API has it.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) phase: Phase,
    pub(super) host_ip: Addresses,
    pub(super) pod_ip: Addresses,
    start_time: Option<WholeSecond>,
    pub(super) generation: Option<NonZeroI64>,
    pub(super) conditions: Box<[Condition]>,
    pub(super) init_containers: Box<[ContainerStatus]>,
    pub(super) containers: Box<[ContainerStatus]>,
    pub(super) ephemeral_containers: Box<[ContainerStatus]>,
    /// Digests of the values of [`SYSTEM_ANNOTATIONS`], in that order; 0 for one that is absent.
    pub(super) annotations: [u64; SYSTEM_ANNOTATIONS.len()],
}

impl Observed {
    pub(super) fn new(view: &PodView, record: &Record) -> Self {
        let status = &view.status;
        let annotations = view.metadata.annotations.as_ref();
        Self {
            phase: status.phase,
            host_ip: Addresses::new(status.host_ip.as_deref(), &status.host_ips),
            pod_ip: Addresses::new(status.pod_ip.as_deref(), &status.pod_ips),
            start_time: status.start_time.and_then(WholeSecond::new),
            generation: status.observed_generation.and_then(NonZeroI64::new),
            conditions: status
                .conditions
                .iter()
                .filter_map(Condition::new)
                .collect(),
            init_containers: ContainerStatus::list(
                &status.init_container_statuses,
                &record.init_containers,
                &record.uid,
            ),
            containers: ContainerStatus::list(
                &status.container_statuses,
                &record.containers,
                &record.uid,
            ),
            ephemeral_containers: ContainerStatus::list(
                &status.ephemeral_container_statuses,
                record.ephemeral_containers(),
                &record.uid,
            ),
            annotations: SYSTEM_ANNOTATIONS
                .map(|key| annotations.and_then(|all| all.get(key)).map_or(0, digest)),
        }
    }

    /// When a node first took notice of it.
    pub(super) fn start_time(&self) -> Option<Timestamp> {
        self.start_time.map(WholeSecond::time)
    }

    /// The condition of type `kind`.
    pub(super) fn condition(&self, kind: ConditionType) -> Option<&Condition> {
        self.conditions
            .iter()
            .find(|condition| condition.kind == kind)
    }

    /// Whether a container has ever run.
    pub(super) fn has_started(&self) -> bool {
        let mut all = self.init_containers.iter().chain(&self.containers);
        self.phase == Phase::Running || all.any(ContainerStatus::has_run)
    }

    /// Whether the network is shown and no container has run yet.
    pub(super) fn is_creating(&self) -> bool {
        self.pod_ip.first.is_some() && !self.containers.is_empty() && !self.has_started()
    }
}

/// Digest of a value, never 0.
pub(super) fn digest<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish().max(1)
}

/// `podIP` with `podIPs`, or `hostIP` with `hostIPs`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Addresses {
    pub(super) first: Option<IpAddr>,
    /// Whether the list has others than the first.
    pub(super) more: bool,
}

impl Addresses {
    fn new(first: Option<&str>, all: &[view::Ip]) -> Self {
        Self {
            first: first.and_then(|text| text.parse().ok()),
            more: all.iter().any(|entry| Some(entry.ip.as_str()) != first),
        }
    }
}

/// A time as Kubernetes tells it, in whole seconds: optional, it takes a third of what a `Timestamp` takes.
#[derive(Clone, Copy, Debug)]
struct WholeSecond(NonZeroI64);

impl WholeSecond {
    fn new(time: Timestamp) -> Option<Self> {
        NonZeroI64::new(time.as_second()).map(Self)
    }

    fn time(self) -> Timestamp {
        Timestamp::from_second(self.0.get()).expect("it was read out of a time")
    }
}

/// One condition as the API has it.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) kind: ConditionType,
    pub(super) status: ConditionStatus,
    /// Reason and message; most conditions have none most of the time.
    pub(super) why: Option<Box<(Box<str>, Box<str>)>>,
    since: Option<WholeSecond>,
    /// The generation of the specification that it speaks of.
    pub(super) generation: Option<NonZeroI64>,
}

impl Condition {
    fn new(condition: &view::Condition) -> Option<Self> {
        let kind = ConditionType::ALL
            .into_iter()
            .find(|kind| kind.as_str() == condition.kind)?;
        let (reason, message) = (&*condition.reason, &*condition.message);
        let told = !(reason.is_empty() && message.is_empty());
        Some(Self {
            kind,
            status: condition.status,
            why: told.then(|| Box::new((reason.into(), message.into()))),
            since: condition.last_transition_time.and_then(WholeSecond::new),
            generation: condition.observed_generation.and_then(NonZeroI64::new),
        })
    }

    /// When its status last changed.
    pub(super) fn since(&self) -> Option<Timestamp> {
        self.since.map(WholeSecond::time)
    }
}

/// The conditions that are written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum ConditionType {
    /// Set by whoever binds the pod; only a pod made with a node name comes without it.
    PodScheduled,
    /// The network is there.
    PodReadyToStartContainers,
    /// ACS: the container instance, with its ENI, is there.
    ContainerInstanceCreated,
    /// ACS: the sandbox is there.
    SandboxReady,
    /// The init containers are done.
    Initialized,
    /// All containers are ready.
    ContainersReady,
    /// The containers and the readiness gates are ready.
    Ready,
    /// The pod was ended for no fault of its own; written here when its node shuts down.
    DisruptionTarget,
}

impl ConditionType {
    pub(super) const ALL: [Self; 8] = [
        Self::PodScheduled,
        Self::PodReadyToStartContainers,
        Self::ContainerInstanceCreated,
        Self::SandboxReady,
        Self::Initialized,
        Self::ContainersReady,
        Self::Ready,
        Self::DisruptionTarget,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::PodScheduled => "PodScheduled",
            Self::PodReadyToStartContainers => "PodReadyToStartContainers",
            Self::ContainerInstanceCreated => "ContainerInstanceCreated",
            Self::SandboxReady => "SandboxReady",
            Self::Initialized => "Initialized",
            Self::ContainersReady => "ContainersReady",
            Self::Ready => "Ready",
            Self::DisruptionTarget => "DisruptionTarget",
        }
    }
}

/// One container's status as the API has it, in the order of the specification.
#[derive(Debug)]
pub(super) struct ContainerStatus {
    pub(super) state: State,
    pub(super) ready: bool,
    pub(super) started: bool,
    pub(super) identity: Identity,
    pub(super) restarts: u32,
    rare: Option<Box<Rare>>,
}

/// What most containers never have.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rare {
    /// Why it waits.
    message: Box<str>,
    last: Option<Ended>,
    /// Digest of what it was given, 0 for nothing.
    resources: u64,
    /// The image that it was started with, when the specification names another one.
    image: Box<str>,
}

impl ContainerStatus {
    fn list(seen: &[view::ContainerStatus], wanted: &[Container], uid: &PodUid) -> Box<[Self]> {
        let wanted = wanted.iter().map(Some).chain(std::iter::repeat(None));
        seen.iter()
            .zip(wanted)
            .map(|(status, container)| {
                let identity = container.map_or(Identity::Other, |container| {
                    Identity::new(status, container, uid)
                });
                Self {
                    state: State::new(&status.state),
                    ready: status.ready,
                    started: status.started.unwrap_or(false),
                    restarts: u32::try_from(status.restart_count).unwrap_or(0),
                    rare: Rare::new(status, identity),
                    identity,
                }
            })
            .collect()
    }

    /// Whether it runs, or ran before.
    pub(super) fn has_run(&self) -> bool {
        !matches!(self.state, State::Waiting { .. }) || self.last().is_some()
    }

    /// How it ended before it was last restarted, or while it waits for that.
    pub(super) fn last(&self) -> Option<Ended> {
        self.rare.as_ref()?.last
    }

    /// How its newest run ended, if it has.
    pub(super) fn last_end(&self) -> Option<Ended> {
        match self.state {
            State::Terminated(ended) => Some(ended),
            State::Waiting { .. } => self.last(),
            State::Running { .. } => None,
        }
    }

    /// The image that it was started with, when the specification names another one.
    pub(super) fn older_image(&self) -> Option<&str> {
        let rare = self.rare.as_ref()?;
        (self.identity == Identity::Outdated).then_some(&*rare.image)
    }

    /// Why it waits.
    pub(super) fn message(&self) -> &str {
        self.rare.as_ref().map_or("", |rare| &rare.message)
    }

    /// Digest of what it was given, 0 for nothing.
    pub(super) fn resources(&self) -> u64 {
        self.rare.as_ref().map_or(0, |rare| rare.resources)
    }
}

impl Rare {
    fn new(status: &view::ContainerStatus, identity: Identity) -> Option<Box<Self>> {
        let waiting = status.state.waiting.as_ref();
        let message = waiting.and_then(|waiting| waiting.message.as_deref());
        let resources = status.resources.as_ref();
        let resources = resources.filter(|given| **given != view::Resources::default());
        let rare = Self {
            message: message.unwrap_or_default().into(),
            last: status.last_state.terminated.as_ref().map(Ended::new),
            resources: resources.map_or(0, digest),
            image: match identity {
                Identity::Outdated => status.image.as_str().into(),
                Identity::Blank | Identity::Ours | Identity::Other => "".into(),
            },
        };
        (rare != Self::default()).then(|| Box::new(rare))
    }
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not started.
    Waiting { reason: ContainerReason },
    /// Started and not ended.
    Running { started_at: Timestamp },
    /// Ended.
    Terminated(Ended),
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) exit_code: i32,
    pub(crate) reason: ContainerReason,
    pub(crate) started_at: Timestamp,
    pub(crate) finished_at: Timestamp,
}

impl Ended {
    /// Of a container that its annotations let end.
    pub(crate) fn by_itself(exit: Exit, started_at: Timestamp, finished_at: Timestamp) -> Self {
        Self {
            exit_code: exit.code.into(),
            reason: match exit.code {
                _ if exit.out_of_memory => ContainerReason::OomKilled,
                0 => ContainerReason::Completed,
                _ => ContainerReason::Error,
            },
            started_at,
            finished_at,
        }
    }

    fn new(seen: &view::Terminated) -> Self {
        Self {
            exit_code: seen.exit_code,
            reason: seen.reason,
            started_at: seen.started_at.unwrap_or(Timestamp::UNIX_EPOCH),
            finished_at: seen.finished_at.unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }

    /// How long it ran.
    pub(super) fn ran(&self) -> SignedDuration {
        self.finished_at.duration_since(self.started_at)
    }

    /// Whether both say the same to everybody who does not look at the times.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (self.exit_code, self.reason) == (other.exit_code, other.reason)
    }
}

impl State {
    fn new(state: &view::ContainerState) -> Self {
        if let Some(running) = &state.running {
            Self::Running {
                started_at: running.started_at.unwrap_or(Timestamp::UNIX_EPOCH),
            }
        } else if let Some(ended) = &state.terminated {
            Self::Terminated(Ended::new(ended))
        } else {
            Self::Waiting {
                reason: state
                    .waiting
                    .as_ref()
                    .map_or(ContainerReason::Other, |waiting| waiting.reason),
            }
        }
    }

    /// Whether two states say the same to everybody who does not look at the times.
    pub(super) fn is_like(self, other: Self) -> bool {
        match (self, other) {
            (Self::Waiting { reason: a }, Self::Waiting { reason: b }) => a == b,
            (Self::Running { .. }, Self::Running { .. }) => true,
            (Self::Terminated(a), Self::Terminated(b)) => a.is_like(&b),
            _ => false,
        }
    }
}

/// Whose container a status speaks of. The id is computed again and compared, not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// The right name and image, not created yet.
    Blank,
    /// The right name, image and id.
    Ours,
    /// The right name and id of a run that began with another image.
    Outdated,
    /// Anything else.
    Other,
}

impl Identity {
    fn new(status: &view::ContainerStatus, container: &Container, uid: &PodUid) -> Self {
        if status.name != *container.name {
            return Self::Other;
        }
        let is_current = status.image == *container.image;
        let restarts = u32::try_from(status.restart_count).unwrap_or(0);
        let ours = ContainerId::new(uid, &container.name, restarts);
        match status.container_id.as_deref().unwrap_or_default() {
            "" if status.image_id.is_empty() && is_current => Self::Blank,
            id if status.image_id == status.image && id == ours.to_string() => {
                if is_current {
                    Self::Ours
                } else {
                    Self::Outdated
                }
            }
            _ => Self::Other,
        }
    }
}

/// The id of a container: the same for the same pod, name and run, so that it needs no place to be
/// kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct ContainerId<'a> {
    uid: &'a PodUid,
    name: &'a str,
    restarts: u32,
}

impl<'a> ContainerId<'a> {
    pub(super) fn new(uid: &'a PodUid, name: &'a str, restarts: u32) -> Self {
        Self {
            uid,
            name,
            restarts,
        }
    }
}

impl fmt::Display for ContainerId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        hash.update(self.uid.as_str().as_bytes());
        hash.update(b"/");
        hash.update(self.name.as_bytes());
        if self.restarts > 0 {
            hash.update(b"/");
            hash.update(&self.restarts.to_be_bytes());
        }
        f.write_str("holdfast://")?;
        let hash = hash.finish();
        let (halves, _) = hash.as_ref().as_chunks();
        // This is done for each view of each container, and two numbers are told sooner than 32 bytes.
        halves
            .iter()
            .try_for_each(|half| write!(f, "{:032x}", u128::from_be_bytes(*half)))
    }
}

impl Serialize for ContainerId<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Statuses hold it: with another one each would be written again.
    #[test]
    fn the_id_of_a_container_is_the_digest_that_it_always_was() {
        let uid = PodUid::from("3ed0e16d-c374-422d-aa8b-6ae38e40311d");
        let id = |uid, name, restarts| ContainerId::new(uid, name, restarts).to_string();
        assert_eq!(
            id(&uid, "app", 0),
            "holdfast://193fa28f49798bb2f3760e43c70e8fa82dc6b55b813d03fc7a9e01494fff3c18"
        );
        assert_eq!(
            id(&PodUid::from("u"), "app", 1),
            "holdfast://1bc52179bcc742e60f3069fd992a2a58f0b796469b91294e78e97ad44de4055f"
        );
    }
}
