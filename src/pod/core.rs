//! What to do about one pod now: a pure function of its record, the facts and the time.
//!
//! ```text
//!                (creating)         (running)
//!   bound ──────────▶ ContainerCreating ──────▶ Running        profile acs
//!   bound ─────────────────────────────────────▶ Running        profile fast
//!
//!   deleted ─(stop)─▶ containers ended ─▶ network detached ─▶ terminal status ─▶ DELETE
//!                                                           └───────(fast)─────▶ DELETE
//! ```
//!
//! Owns the order and the delays. Level-triggered: it says the same until what it asked for can be
//! seen, so the caller must not have two writes of one pod under way. What containers do is in
//! `life`, what a status contains in `draft`; addresses are decided in the provider.

use std::net::IpAddr;

use holdfast_provider::engine::{Assignment, Network, Reason};
use holdfast_provider::id::{NodeType, Zone};
use jiff::{SignedDuration, Timestamp};

use super::draft::{Cause, Outcome};
use super::life::{self, Circumstances, Plan};
use super::needs::Supply;
use super::observed::ConditionType;
use super::record::{Deletion, Record, later, whole_seconds};
use super::status::Wanted;
use super::stop::{self, Stop};
use super::view::Phase;
use crate::config::Profile;

/// What is known beside the pod itself.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its network. Not looked at for a pod on the node's network.
    pub network: &'a Network,
    /// Its node.
    pub node: &'a NodeInfo,
    /// How long the stages last.
    pub lifecycle: &'a Lifecycle,
    /// When this process first saw the pod bound.
    pub seen_at: Timestamp,
    /// Whether the ConfigMaps and Secrets that it names are there.
    pub supply: &'a Supply,
    /// Since when its node shuts down, if it does.
    pub shutdown_at: Option<Timestamp>,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Topic {
    /// One word, by which tools know it.
    pub reason: &'static str,
    /// Whether the event is of type Warning (or else Normal).
    pub is_warning: bool,
    /// Whether it tells what always happens, and gives way to others when there is much to tell.
    pub is_routine: bool,
}

impl Topic {
    /// Something that somebody should look at.
    pub const fn warning(reason: &'static str) -> Self {
        Self {
            reason,
            is_warning: true,
            is_routine: false,
        }
    }

    /// Something that happens.
    pub const fn normal(reason: &'static str) -> Self {
        Self {
            reason,
            is_warning: false,
            is_routine: false,
        }
    }

    /// What happens to every pod.
    pub const fn routine(reason: &'static str) -> Self {
        Self {
            reason,
            is_warning: false,
            is_routine: true,
        }
    }
}

impl From<Reason> for Topic {
    fn from(reason: Reason) -> Self {
        Self {
            reason: reason.as_str(),
            is_warning: reason.is_warning(),
            is_routine: false,
        }
    }
}

/// The node, as far as its pods show it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Its address.
    pub host_ip: IpAddr,
    /// Its zone.
    pub zone: Zone,
    /// Its region.
    pub region: Box<str>,
    /// The VPC of its vSwitches.
    pub vpc: Box<str>,
    /// Only ACS nodes have container instances.
    pub node_type: NodeType,
}

/// The stages and how long they last.
#[derive(Clone, Copy, Debug)]
pub struct Lifecycle {
    /// Which stages.
    pub profile: Profile,
    /// From bound to ContainerCreating, if the network is there by then.
    pub creating: SignedDuration,
    /// From ContainerCreating to Running.
    pub running: SignedDuration,
    /// From the stop signal to the end of the containers.
    pub stop: SignedDuration,
}

/// How long an object may outlive its final DELETE. The API server writes grace 0 first and removes the
/// object then; when the request's client dies or the server stops in between, only another DELETE
/// removes it (`BeforeDelete` in k8s.io/apiserver says so).
const FINAL_PATIENCE: SignedDuration = SignedDuration::from_secs(1);

/// What to do now, and when to ask again at the latest.
#[derive(Debug, Default)]
pub struct Step<'a> {
    /// At most one thing; its result brings the next.
    pub action: Option<Action<'a>>,
    /// When time alone changes the answer.
    pub wake_at: Option<Timestamp>,
    /// Events that are due with the action.
    pub said: Vec<(Topic, String)>,
}

/// One thing to do. Said again until its effect can be seen.
#[derive(Debug)]
pub enum Action<'a> {
    /// Write this status, and give the answer to [`Record::observe`].
    WriteStatus(Box<Wanted<'a>>),
    /// The pod is deleted and its containers have ended: the ENI may be detached.
    StopNetwork,
    /// The pod has ended and stays in the API: the ENI is to be detached now.
    EndNetwork,
    /// DELETE the object with grace 0 and its UID as a precondition.
    DeleteObject,
}

impl<'a> Step<'a> {
    fn act(action: Action<'a>) -> Self {
        Self {
            action: Some(action),
            ..Self::default()
        }
    }

    fn wake(at: Timestamp) -> Self {
        Self {
            wake_at: Some(at),
            ..Self::default()
        }
    }

    /// A write, unless it would change nothing.
    fn write(record: &Record, wanted: Wanted<'a>, wake_at: Option<Timestamp>) -> Self {
        let differs = wanted.differs_from(&record.observed);
        Self {
            action: differs.then(|| Action::WriteStatus(Box::new(wanted))),
            wake_at,
            said: Vec::new(),
        }
    }

    fn wake_too(mut self, at: Option<Timestamp>) -> Self {
        self.wake_at = self.wake_at.into_iter().chain(at).min();
        self
    }
}

/// Decides what to do about a pod at the time `now`.
pub fn step<'a>(record: &'a Record, facts: &Facts<'a>, now: Timestamp) -> Step<'a> {
    match record.deletion() {
        Some(deletion) => leave(record, deletion, facts, now),
        None if record.observed.phase.is_terminal() => {
            if is_detached(record, facts) {
                Step::default()
            } else {
                Step::act(Action::EndNetwork)
            }
        }
        None => {
            let deadline = deadline(record, facts);
            match (deadline.filter(|at| *at <= now), facts.shutdown_at) {
                (Some(at), _) => overdue(record, facts, at, now),
                (None, Some(since)) => shut_down(record, facts, since, now),
                (None, None) => live(record, facts, now).wake_too(deadline),
            }
        }
    }
}

/// When a pod has been active for too long.
fn deadline(record: &Record, facts: &Facts<'_>) -> Option<Timestamp> {
    let lasts = record.active_deadline()?;
    Some(later(bound_at(record, facts), lasts))
}

/// When a node first knew of the pod.
fn bound_at(record: &Record, facts: &Facts<'_>) -> Timestamp {
    whole_seconds(record.observed.start_time().unwrap_or(facts.seen_at))
}

/// Ends a pod at its deadline (Kubernetes, "Pod", `activeDeadlineSeconds`).
fn overdue<'a>(
    record: &'a Record,
    facts: &Facts<'a>,
    deadline: Timestamp,
    now: Timestamp,
) -> Step<'a> {
    let started = record.observed.has_started();
    let stop = Stop {
        outcome: Outcome::DeadlineExceeded,
        at: if started {
            later(deadline, facts.lifecycle.stop)
        } else {
            deadline
        },
        apart: facts.lifecycle.stop,
        kill_at: later(deadline, record.grace()),
    };
    let last_at = stop.last_at(record);
    if now < last_at {
        return Step::wake(last_at);
    }
    let plan = stop::stopped(record, &stop);
    let wanted = Wanted::failed(record, plan, Cause::DeadlineExceeded, now);
    Step::write(record, wanted, None)
}

/// Ends a pod because its node shuts down, or lets it not begin (Kubernetes, "Node Shutdowns";
/// kubernetes/kubernetes, pkg/kubelet/nodeshutdown). Unlike there, the grace is the pod's own.
fn shut_down<'a>(
    record: &'a Record,
    facts: &Facts<'a>,
    since: Timestamp,
    now: Timestamp,
) -> Step<'a> {
    if is_rejected(record, facts.seen_at, since) {
        let never = Stop::at_once(Outcome::Unknown, now);
        let plan = stop::stopped(record, &never);
        let wanted = Wanted::failed(record, plan, Cause::Rejected, now);
        let mut step = Step::write(record, wanted, None);
        step.said.push(Cause::rejection());
        return step;
    }
    let stop = if record.observed.has_started() {
        let limits = (record.grace(), later(since, record.grace()));
        Stop::asked(record.restart_policy, since, limits, facts.lifecycle.stop)
    } else {
        Stop::at_once(Outcome::Unknown, now)
    };
    let stops_at = stop.last_at(record);
    if now < stops_at {
        return Step::wake(stops_at);
    }
    let plan = stop::stopped(record, &stop);
    let wanted = Wanted::failed(record, plan, Cause::NodeShutdown, now);
    Step::write(record, wanted, None)
}

/// Whether a pod came to a node that was shutting down `since` then: nothing of it was ever shown.
pub(super) fn is_rejected(record: &Record, seen_at: Timestamp, since: Timestamp) -> bool {
    seen_at >= since && record.observed.start_time().is_none()
}

fn is_detached(record: &Record, facts: &Facts<'_>) -> bool {
    record.host_network || *facts.network == Network::Detached
}

/// The stage of a pod that is not deleted and has not ended.
enum Stage {
    /// Nothing is shown of it before `until`.
    Bound { until: Timestamp },
    /// Until when, once it can be seen.
    Creating { until: Option<Timestamp> },
    /// To the end.
    Running,
}

fn live<'a>(record: &'a Record, facts: &Facts<'a>, now: Timestamp) -> Step<'a> {
    let observed = &record.observed;
    let assignment = match facts.network {
        _ if record.host_network => None,
        Network::Attached(assignment) => Some(assignment),
        Network::Waiting { reason, note } if !observed.has_started() && !observed.is_creating() => {
            let wanted = Wanted::waiting(record, facts, (*reason, note), now);
            return Step::write(record, wanted, None);
        }
        Network::Pending if announces(record, facts) => {
            return Step::write(record, Wanted::announced(record, facts, now), None);
        }
        // Whatever is shown was true when it was written; the provider is still finding out.
        Network::Pending | Network::Waiting { .. } => return Step::default(),
        Network::Detached => return ended_before(record, now),
    };
    let (plan, until) = match stage(record, facts, now) {
        Stage::Bound { until } if announces(record, facts) => {
            return Step::write(record, Wanted::announced(record, facts, now), Some(until));
        }
        Stage::Bound { until } => return Step::wake(until),
        Stage::Creating { until } => (life::waiting(record), until),
        // The answer wakes.
        Stage::Running if *facts.supply == Supply::Unknown => return Step::default(),
        Stage::Running if !observed.has_started() && !facts.supply.has_volumes() => {
            (life::waiting(record), None)
        }
        Stage::Running => (
            life::proceed(record, circumstances(record, facts, now)),
            None,
        ),
    };
    publish(record, facts, assignment, plan, now).wake_too(until)
}

/// A pod that is neither deleted nor shown as ended loses its network only by an end that was seen:
/// a write that was under way for long has put the phase back since. An end is for good.
fn ended_before(record: &Record, now: Timestamp) -> Step<'_> {
    let phase = record.ended.unwrap_or(Phase::Failed);
    let outcome = if phase == Phase::Succeeded {
        Outcome::Completed
    } else {
        Outcome::Unknown
    };
    let stop = Stop::at_once(outcome, now);
    let plan = Plan {
        phase,
        ..stop::stopped(record, &stop)
    };
    Step::write(record, Wanted::ended(record, plan, now), None)
}

/// Whether it is yet to be told that the container instance of a pod is being created. Once told, or once
/// something else was told of it, nothing is said until there is more to say.
fn announces(record: &Record, facts: &Facts<'_>) -> bool {
    let kind = ConditionType::ContainerInstanceCreated;
    facts.lifecycle.profile == Profile::Acs
        && facts.node.node_type == NodeType::Acs
        && !record.observed.has_started()
        && record.observed.condition(kind).is_none()
}

fn circumstances<'a>(record: &Record, facts: &Facts<'a>, now: Timestamp) -> Circumstances<'a> {
    Circumstances {
        bound_at: bound_at(record, facts),
        stop: facts.lifecycle.stop,
        supply: facts.supply,
        tells_routine: facts.lifecycle.profile == Profile::Acs,
        now,
    }
}

/// Writes what is planned.
fn publish<'a>(
    record: &'a Record,
    facts: &Facts<'a>,
    assignment: Option<&'a Assignment>,
    mut plan: Plan<'a>,
    now: Timestamp,
) -> Step<'a> {
    let (said, wake_at) = (std::mem::take(&mut plan.said), plan.wake_at);
    let wanted = if plan.phase.is_terminal() {
        Wanted::ended(record, plan, now)
    } else {
        Wanted::living(record, facts, assignment, plan, now)
    };
    Step {
        said,
        ..Step::write(record, wanted, wake_at)
    }
}

fn stage(record: &Record, facts: &Facts<'_>, now: Timestamp) -> Stage {
    let Lifecycle {
        profile,
        creating,
        running,
        ..
    } = *facts.lifecycle;
    if record.observed.has_started() {
        return Stage::Running;
    }
    let creating_at = later(facts.seen_at, creating);
    let (running_at, before) = match (profile, record.creating_since) {
        (Profile::Fast, _) => {
            let at = later(creating_at, running);
            (at, Stage::Bound { until: at })
        }
        (Profile::Acs, Some(since)) => {
            let at = later(since, running);
            (at, Stage::Creating { until: Some(at) })
        }
        (Profile::Acs, None) if now < creating_at => return Stage::Bound { until: creating_at },
        (Profile::Acs, None) => return Stage::Creating { until: None },
    };
    if now < running_at {
        before
    } else {
        Stage::Running
    }
}

/// Takes a deleted pod to its end.
fn leave<'a>(
    record: &'a Record,
    deletion: &Deletion,
    facts: &Facts<'a>,
    now: Timestamp,
) -> Step<'a> {
    let has_ended = record.observed.phase.is_terminal();
    let has_started = record.observed.has_started();
    let stop = if has_started {
        let limits = (deletion.grace(), deletion.kill_at);
        let policy = record.restart_policy;
        Stop::asked(policy, deletion.seen_at, limits, facts.lifecycle.stop)
    } else {
        Stop::at_once(Outcome::Unknown, now)
    };
    let stops_at = stop.last_at(record);
    if !has_ended && now < stops_at {
        return Step::wake(stops_at);
    }
    if !is_detached(record, facts) {
        return Step::act(Action::StopNetwork);
    }
    // A Job counts its pods by their phase, and holds each with a finalizer until it has.
    let is_watched =
        record.has_finalizers || (has_started && facts.lifecycle.profile == Profile::Acs);
    if !has_ended && is_watched {
        let wanted = Wanted::ended(record, stop::stopped(record, &stop), now);
        return Step::write(record, wanted, None);
    }
    match deletion.final_at.map(|at| later(at, FINAL_PATIENCE)) {
        // Its last finalizer takes it away.
        Some(_) if record.has_finalizers => Step::default(),
        Some(at) if now < at => Step::wake(at),
        _ => Step::act(Action::DeleteObject),
    }
}

#[cfg(test)]
mod tests;
