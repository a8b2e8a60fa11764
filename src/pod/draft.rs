//! What a pod's status says at each stage of its life.
//!
//! Owns phase, conditions, container states, addresses and annotations of the stages. Which stage
//! it is, and since when, is decided in [`step`](super::core::step). Reasons and messages are those
//! of the kubelet (kubernetes/kubernetes, pkg/kubelet/status/generate.go), because tools match on
//! them.

use std::borrow::Cow;
use std::fmt::Write as _;

use holdfast_provider::engine::{Assignment, Reason};
use holdfast_provider::id::NodeType;
use jiff::Timestamp;

use super::core::Facts;
use super::observed::{self, ConditionType, State};
use super::record::{Container, Record};
use super::status::{Annotations, Condition, ContainerStatus, IpList, Metadata, Status, Wanted};
use super::view::{ConditionStatus, ContainerReason, Phase};

/// How the containers of a pod ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A service stopped when it was asked to.
    Completed,
    /// A job was asked to stop before it was done.
    Interrupted,
    /// Did not stop in time.
    Killed,
    /// There were none.
    NeverStarted,
}

impl Outcome {
    fn phase(self) -> Phase {
        match self {
            Self::Completed => Phase::Succeeded,
            Self::Interrupted | Self::Killed | Self::NeverStarted => Phase::Failed,
        }
    }

    fn exit(self) -> (i32, ContainerReason) {
        match self {
            Self::Completed => (0, ContainerReason::Completed),
            // 128 plus the signal: SIGTERM, SIGKILL.
            Self::Interrupted => (143, ContainerReason::Error),
            Self::Killed => (137, ContainerReason::Error),
            Self::NeverStarted => (137, ContainerReason::ContainerStatusUnknown),
        }
    }
}

impl<'a> Wanted<'a> {
    /// No network yet: the pod stays Pending without container statuses, which kubectl shows as
    /// `Pending`, and a condition says why it waits.
    pub(super) fn waiting(
        record: &'a Record,
        facts: &Facts<'a>,
        (reason, note): (Reason, &'a str),
        now: Timestamp,
    ) -> Self {
        let kind = match facts.node.node_type {
            NodeType::Acs => ConditionType::ContainerInstanceCreated,
            NodeType::Ecs => ConditionType::PodReadyToStartContainers,
        };
        let mut draft = Draft::new(record, Phase::Pending, now);
        draft.fails(kind, reason.as_str(), note);
        draft.host(facts);
        draft.wanted
    }

    /// The network is shown; containers are being created.
    pub(super) fn creating(
        record: &'a Record,
        facts: &Facts<'a>,
        assignment: Option<&'a Assignment>,
        now: Timestamp,
    ) -> Self {
        let reason = if record.init_containers.is_empty() {
            ContainerReason::ContainerCreating
        } else {
            ContainerReason::PodInitializing
        };
        let mut draft = Draft::new(record, Phase::Pending, now);
        draft.network(facts, assignment);
        draft.initialized_when_there_is_nothing_to_initialize();
        let unready = record
            .init_containers
            .iter()
            .filter(|container| container.sidecar);
        let unready = names("unready", unready.chain(&record.containers));
        draft.fails(
            ConditionType::ContainersReady,
            "ContainersNotReady",
            unready.clone(),
        );
        draft.fails(ConditionType::Ready, "ContainersNotReady", unready);
        draft.containers(|_, _| State::Waiting { reason });
        draft.wanted
    }

    /// Everything runs.
    pub(super) fn running(
        record: &'a Record,
        facts: &Facts<'a>,
        assignment: Option<&'a Assignment>,
        now: Timestamp,
    ) -> Self {
        let mut draft = Draft::new(record, Phase::Running, now);
        draft.network(facts, assignment);
        draft.holds(ConditionType::Initialized);
        draft.holds(ConditionType::ContainersReady);
        let gates = closed_gates(record);
        let reason = if gates.is_empty() {
            ""
        } else {
            "ReadinessGatesNotReady"
        };
        draft.condition(ConditionType::Ready, gates.is_empty(), reason, gates);
        let now = whole_seconds(now);
        draft.containers(|role, seen| {
            let wanted = match role {
                Role::Init => ended(Outcome::Completed, now, now),
                Role::Lasting => State::Running { started_at: now },
            };
            seen.filter(|state| state.is_like(wanted)).unwrap_or(wanted)
        });
        draft.wanted
    }

    /// The end of a deleted pod. Addresses and annotations stay as they are.
    pub(super) fn ended(
        record: &'a Record,
        outcome: Outcome,
        finished_at: Timestamp,
        now: Timestamp,
    ) -> Self {
        let phase = outcome.phase();
        let reason = if phase == Phase::Succeeded {
            "PodCompleted"
        } else {
            "PodFailed"
        };
        let mut draft = Draft::new(record, phase, now);
        draft.fails(ConditionType::PodReadyToStartContainers, "", "");
        if record
            .observed
            .condition(ConditionType::SandboxReady)
            .is_some()
        {
            draft.fails(ConditionType::SandboxReady, "", "");
        }
        match outcome {
            Outcome::Completed => draft.condition(ConditionType::Initialized, true, reason, ""),
            Outcome::NeverStarted => draft.initialized_when_there_is_nothing_to_initialize(),
            _ => draft.holds(ConditionType::Initialized),
        }
        draft.fails(ConditionType::ContainersReady, reason, "");
        draft.fails(ConditionType::Ready, reason, "");
        let finished_at = whole_seconds(finished_at);
        draft.containers(|role, seen| match (role, seen) {
            (_, Some(state @ State::Terminated { .. })) => state,
            (_, Some(State::Running { started_at })) => {
                ended(outcome, started_at, finished_at.max(started_at))
            }
            (Role::Init, _) if outcome != Outcome::NeverStarted => {
                ended(Outcome::Completed, finished_at, finished_at)
            }
            _ => ended(outcome, finished_at, finished_at),
        });
        draft.wanted
    }
}

/// Kubernetes times have whole seconds.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn ended(outcome: Outcome, started_at: Timestamp, finished_at: Timestamp) -> State {
    let (exit_code, reason) = outcome.exit();
    State::Terminated {
        exit_code,
        reason,
        started_at,
        finished_at,
    }
}

/// `containers with unready status: [a b]`.
fn names<'a>(what: &str, containers: impl Iterator<Item = &'a Container>) -> String {
    let names: Vec<_> = containers.map(|container| &*container.name).collect();
    format!("containers with {what} status: [{}]", names.join(" "))
}

/// Why readiness gates keep the pod from being ready; empty when none does.
fn closed_gates(record: &Record) -> String {
    let mut text = String::new();
    for gate in record
        .gates
        .iter()
        .filter(|gate| gate.status != Some(ConditionStatus::True))
    {
        if !text.is_empty() {
            text.push_str(", ");
        }
        let kind = &gate.kind;
        let written = match gate.status {
            None => write!(
                text,
                "corresponding condition of pod readiness gate \"{kind}\" does not exist."
            ),
            Some(status) => write!(
                text,
                "the status of pod readiness gate \"{kind}\" is not \"True\", but {status:?}"
            ),
        };
        written.expect("a String takes all text");
    }
    text
}

/// What becomes of a container once the pod runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Runs once, before the others.
    Init,
    /// Keeps running: a container, or a sidecar.
    Lasting,
}

/// A wanted status in the making.
struct Draft<'a> {
    record: &'a Record,
    now: Timestamp,
    wanted: Wanted<'a>,
}

impl<'a> Draft<'a> {
    fn new(record: &'a Record, phase: Phase, now: Timestamp) -> Self {
        let mut draft = Self {
            record,
            now: whole_seconds(now),
            wanted: Wanted {
                metadata: Metadata {
                    uid: &record.uid,
                    annotations: Annotations::default(),
                },
                status: Status {
                    observed_generation: record.generation,
                    phase,
                    host_ip: None,
                    host_ips: None,
                    pod_ip: None,
                    pod_ips: None,
                    start_time: None,
                    conditions: Vec::with_capacity(7),
                    init_container_statuses: Vec::new(),
                    container_statuses: Vec::new(),
                },
            },
        };
        if record
            .observed
            .condition(ConditionType::PodScheduled)
            .is_none()
        {
            draft.holds(ConditionType::PodScheduled);
        }
        draft
    }

    fn holds(&mut self, kind: ConditionType) {
        self.condition(kind, true, "", "");
    }

    fn fails(
        &mut self,
        kind: ConditionType,
        reason: &'static str,
        message: impl Into<Cow<'a, str>>,
    ) {
        self.condition(kind, false, reason, message);
    }

    fn condition(
        &mut self,
        kind: ConditionType,
        holds: bool,
        reason: &'static str,
        message: impl Into<Cow<'a, str>>,
    ) {
        let status = if holds {
            ConditionStatus::True
        } else {
            ConditionStatus::False
        };
        let same = self
            .record
            .observed
            .condition(kind)
            .filter(|seen| seen.status == status);
        self.wanted.status.conditions.push(Condition {
            kind,
            status,
            reason,
            message: message.into(),
            last_transition_time: same.and_then(|seen| seen.since).unwrap_or(self.now),
            observed_generation: self.record.generation,
        });
    }

    fn network(&mut self, facts: &Facts<'a>, assignment: Option<&'a Assignment>) {
        let node = facts.node;
        let address = assignment.map_or(node.host_ip, |assigned| assigned.address.into());
        self.host(facts);
        self.wanted.status.pod_ip = Some(address);
        self.wanted.status.pod_ips = Some(IpList::new(address, self.record.observed.pod_ip));
        let acs = node.node_type == NodeType::Acs;
        self.wanted.metadata.annotations = Annotations([
            assignment.map(|assigned| assigned.eni.as_str()),
            assignment.map(|_| &*node.vpc),
            assignment.map(|assigned| assigned.vswitch.as_str()),
            Some(&*node.region),
            Some(node.zone.as_str()),
            assignment
                .filter(|_| acs)
                .map(|assigned| assigned.instance.as_str()),
            assignment
                .filter(|_| acs)
                .map(|assigned| &*assigned.request_id),
            acs.then_some(&*self.record.pod_use_spec),
        ]);
        self.holds(ConditionType::PodReadyToStartContainers);
        if acs {
            self.holds(ConditionType::ContainerInstanceCreated);
            self.holds(ConditionType::SandboxReady);
        }
    }

    fn initialized_when_there_is_nothing_to_initialize(&mut self) {
        let containers = &self.record.init_containers;
        if containers.is_empty() {
            self.holds(ConditionType::Initialized);
        } else {
            let message = names("incomplete", containers.iter());
            let reason = "ContainersNotInitialized";
            self.fails(ConditionType::Initialized, reason, message);
        }
    }

    /// Fills in all container statuses; `state` is given the state that the API has.
    fn containers(&mut self, state: impl Fn(Role, Option<State>) -> State) {
        let uid = &self.record.uid;
        let list =
            |containers: &'a [Container], observed: &[observed::ContainerStatus], lasting| {
                let mut observed = observed.iter().map(|status| status.state);
                let status = |container: &'a Container| {
                    let role = if lasting || container.sidecar {
                        Role::Lasting
                    } else {
                        Role::Init
                    };
                    let state = state(role, observed.next());
                    let runs = matches!(state, State::Running { .. });
                    // An init container is ready when it is done.
                    let done = matches!(state, State::Terminated { exit_code: 0, .. });
                    let ready = runs || (role == Role::Init && done);
                    ContainerStatus {
                        uid,
                        container,
                        state,
                        ready,
                        started: runs,
                    }
                };
                containers.iter().map(status).collect()
            };
        let (record, status) = (self.record, &mut self.wanted.status);
        status.init_container_statuses = list(
            &record.init_containers,
            &record.observed.init_containers,
            false,
        );
        status.container_statuses = list(&record.containers, &record.observed.containers, true);
    }

    fn host(&mut self, facts: &Facts<'_>) {
        let observed = &self.record.observed;
        let (address, status) = (facts.node.host_ip, &mut self.wanted.status);
        status.start_time = Some(whole_seconds(observed.start_time.unwrap_or(facts.seen_at)));
        status.host_ip = Some(address);
        status.host_ips = Some(IpList::new(address, observed.host_ip));
    }
}
