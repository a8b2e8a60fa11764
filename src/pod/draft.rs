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
use jiff::{SignedDuration, Timestamp};

use super::core::{Facts, Topic};
use super::life::{Plan, has_passed};
use super::observed::{ConditionType, Ended};
use super::record::{Record, whole_seconds};
use super::status::{Annotations, Condition, ContainerStatus, IpList, Metadata, Status, Wanted};
use super::view::{ConditionStatus, ContainerReason, Phase, RestartPolicy};

/// How a container was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A service stopped when it was asked to.
    Completed,
    /// A job was asked to stop before it was done.
    Interrupted,
    /// Did not stop in time.
    Killed,
    /// There was none, or nobody knows.
    Unknown,
    /// Its pod lasted longer than it may.
    DeadlineExceeded,
}

impl Outcome {
    /// How a container ends that is told to stop and takes so long, of the time that it may take.
    pub(super) fn of_stop(
        policy: RestartPolicy,
        takes: SignedDuration,
        grace: SignedDuration,
    ) -> Self {
        match policy {
            _ if takes > grace => Self::Killed,
            RestartPolicy::Always => Self::Completed,
            RestartPolicy::OnFailure | RestartPolicy::Never => Self::Interrupted,
        }
    }

    pub(crate) fn ended(self, started_at: Timestamp, finished_at: Timestamp) -> Ended {
        let (exit_code, reason) = match self {
            Self::Completed => (0, ContainerReason::Completed),
            // 128 plus the signal: SIGTERM, SIGKILL.
            Self::Interrupted | Self::DeadlineExceeded => (143, ContainerReason::Error),
            Self::Killed => (137, ContainerReason::Error),
            Self::Unknown => (137, ContainerReason::ContainerStatusUnknown),
        };
        Ended {
            exit_code,
            reason,
            started_at,
            finished_at,
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
        let (reason, message) = match kind {
            ConditionType::ContainerInstanceCreated => acs_words(reason, note),
            _ => (reason.as_str(), note.into()),
        };
        let mut draft = Draft::new(record, Phase::Pending, now);
        draft.fails(kind, reason, message);
        draft.host(facts);
        draft.wanted
    }

    /// The container instance is being created: shown as `Pending` too.
    pub(super) fn announced(record: &'a Record, facts: &Facts<'a>, now: Timestamp) -> Self {
        let mut draft = Draft::new(record, Phase::Pending, now);
        let kind = ConditionType::ContainerInstanceCreated;
        draft.fails(kind, "Creating", "Creating");
        draft.host(facts);
        draft.wanted
    }

    /// The network is shown, and containers do what is planned.
    pub(super) fn living(
        record: &'a Record,
        facts: &Facts<'a>,
        assignment: Option<&'a Assignment>,
        plan: Plan<'a>,
        now: Timestamp,
    ) -> Self {
        let mut draft = Draft::new(record, plan.phase, now);
        draft.network(facts, assignment);
        draft.initialized(&plan);
        let sidecars = plan.init.iter().filter(|one| one.container.sidecar);
        let all = sidecars.chain(&plan.containers);
        let unready: Vec<_> = all.filter(|one| !one.ready).collect();
        if unready.is_empty() {
            draft.holds(ConditionType::ContainersReady);
            let gates = closed_gates(record);
            let reason = if gates.is_empty() {
                ""
            } else {
                "ReadinessGatesNotReady"
            };
            draft.condition(ConditionType::Ready, gates.is_empty(), reason, gates);
        } else {
            let message = names("unready", unready.into_iter());
            let reason = "ContainersNotReady";
            draft.fails(ConditionType::ContainersReady, reason, message.clone());
            draft.fails(ConditionType::Ready, reason, message);
        }
        draft.containers(plan);
        draft.wanted
    }

    /// The end of a pod. Addresses and annotations stay as they are.
    pub(super) fn ended(record: &'a Record, plan: Plan<'a>, now: Timestamp) -> Self {
        Draft::ended(record, plan, now).wanted
    }

    /// The end of a pod by its node, whatever its containers made of it.
    pub(super) fn failed(
        record: &'a Record,
        mut plan: Plan<'a>,
        cause: Cause,
        now: Timestamp,
    ) -> Self {
        plan.phase = Phase::Failed;
        let (reason, message) = cause.words();
        let mut draft = Draft::ended(record, plan, now);
        draft.wanted.status.reason = Some(reason);
        draft.wanted.status.message = Some(message);
        if cause == Cause::NodeShutdown {
            // Job controllers tell it from a failure of the pod's own by this (Kubernetes, "Disruptions").
            let kind = ConditionType::DisruptionTarget;
            draft.condition(kind, true, "TerminationByKubelet", message);
        }
        draft.wanted
    }
}

/// Why a node ended a pod, in the words of the kubelet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The pod lasted longer than it may.
    DeadlineExceeded,
    /// The node shuts down.
    NodeShutdown,
    /// The node was shutting down when the pod came.
    Rejected,
}

impl Cause {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::DeadlineExceeded => (
                "DeadlineExceeded",
                "Pod was active on the node longer than the specified deadline",
            ),
            Self::NodeShutdown => (
                "Terminated",
                "Pod was terminated in response to imminent node shutdown.",
            ),
            Self::Rejected => (
                "NodeShutdown",
                "Pod was rejected: Pod was rejected as the node is shutting down.",
            ),
        }
    }

    /// The event of a pod that came too late.
    pub(super) fn rejection() -> (Topic, String) {
        let note = "Pod was rejected as the node is shutting down.".to_owned();
        (Topic::warning("NodeShutdown"), note)
    }
}

/// Reason and message of why a container instance is not created, in the words of ACS where it has some
/// (ACS, "Custom conditions of ACS pods"). It has none for addresses and claims; events tell all of them
/// in words of our own.
fn acs_words(reason: Reason, note: &str) -> (&'static str, Cow<'_, str>) {
    match reason {
        Reason::CloudCallThrottled => (
            "Throttling",
            "The request was denied due to system flow control, please wait and try again later"
                .into(),
        ),
        Reason::CloudCallFailed => (
            "UnknownError",
            format!("An unknown error occurred for {note}").into(),
        ),
        _ => (reason.as_str(), note.into()),
    }
}

/// `containers with unready status: [a b]`.
fn names<'a, 'b: 'a>(
    what: &str,
    containers: impl Iterator<Item = &'a ContainerStatus<'b>>,
) -> String {
    let names: Vec<_> = containers.map(|one| &*one.container.name).collect();
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
                status: Status::new(phase, record.generation),
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

    /// The end of a pod.
    fn ended(record: &'a Record, plan: Plan<'a>, now: Timestamp) -> Self {
        let succeeded = plan.phase == Phase::Succeeded;
        let reason = if succeeded {
            "PodCompleted"
        } else {
            "PodFailed"
        };
        let mut draft = Self::new(record, plan.phase, now);
        draft.fails(ConditionType::PodReadyToStartContainers, "", "");
        if record
            .observed
            .condition(ConditionType::SandboxReady)
            .is_some()
        {
            draft.fails(ConditionType::SandboxReady, "", "");
        }
        if succeeded {
            draft.condition(ConditionType::Initialized, true, reason, "");
        } else {
            draft.initialized(&plan);
        }
        draft.fails(ConditionType::ContainersReady, reason, "");
        draft.fails(ConditionType::Ready, reason, "");
        draft.containers(plan);
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
            last_transition_time: same
                .and_then(super::observed::Condition::since)
                .unwrap_or(self.now),
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

    fn initialized(&mut self, plan: &Plan<'_>) {
        if plan.initialized {
            self.holds(ConditionType::Initialized);
        } else {
            let message = names(
                "incomplete",
                plan.init.iter().filter(|one| !has_passed(one)),
            );
            let reason = "ContainersNotInitialized";
            self.fails(ConditionType::Initialized, reason, message);
        }
    }

    fn containers(&mut self, plan: Plan<'a>) {
        let status = &mut self.wanted.status;
        status.init_container_statuses = plan.init;
        status.container_statuses = plan.containers;
        status.ephemeral_container_statuses = plan.ephemeral;
    }

    fn host(&mut self, facts: &Facts<'_>) {
        let observed = &self.record.observed;
        let (address, status) = (facts.node.host_ip, &mut self.wanted.status);
        status.start_time = Some(whole_seconds(
            observed.start_time().unwrap_or(facts.seen_at),
        ));
        status.host_ip = Some(address);
        status.host_ips = Some(IpList::new(address, observed.host_ip));
    }
}
