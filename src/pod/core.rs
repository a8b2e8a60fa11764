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
//! seen, so the caller must not have two writes of one pod under way. What a status contains is
//! in `draft`; addresses are decided in the provider.

use std::net::IpAddr;

use holdfast_provider::engine::Network;
use holdfast_provider::id::{NodeType, Zone};
use jiff::{SignedDuration, Timestamp};

use super::draft::Outcome;
use super::record::{Deletion, Record, later};
use super::status::Wanted;
use super::view::RestartPolicy;
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
            wake_at: None,
        }
    }

    fn wake(at: Timestamp) -> Self {
        Self {
            action: None,
            wake_at: Some(at),
        }
    }

    /// A write, unless it would change nothing.
    fn write(record: &Record, wanted: Wanted<'a>, wake_at: Option<Timestamp>) -> Self {
        let differs = wanted.differs_from(&record.observed);
        Self {
            action: differs.then(|| Action::WriteStatus(Box::new(wanted))),
            wake_at,
        }
    }
}

/// Decides what to do about a pod at the time `now`.
pub fn step<'a>(record: &'a Record, facts: &Facts<'a>, now: Timestamp) -> Step<'a> {
    match &record.deletion {
        Some(deletion) => leave(record, deletion, facts, now),
        None if record.observed.phase.is_terminal() => {
            if is_detached(record, facts) {
                Step::default()
            } else {
                Step::act(Action::EndNetwork)
            }
        }
        None => live(record, facts, now),
    }
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
        // Whatever is shown was true when it was written; the provider is still finding out.
        Network::Pending | Network::Waiting { .. } | Network::Detached => return Step::default(),
    };
    match stage(record, facts, now) {
        Stage::Bound { until } => Step::wake(until),
        Stage::Creating { until } => Step::write(
            record,
            Wanted::creating(record, facts, assignment, now),
            until,
        ),
        Stage::Running => Step::write(
            record,
            Wanted::running(record, facts, assignment, now),
            None,
        ),
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
    let (stops_at, outcome) = if has_started {
        containers_end(record, deletion, facts.lifecycle.stop)
    } else {
        (now, Outcome::NeverStarted)
    };
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
        return Step::write(record, Wanted::ended(record, outcome, stops_at, now), None);
    }
    match deletion.final_at.map(|at| later(at, FINAL_PATIENCE)) {
        // Its last finalizer takes it away.
        Some(_) if record.has_finalizers => Step::default(),
        Some(at) if now < at => Step::wake(at),
        _ => Step::act(Action::DeleteObject),
    }
}

/// When and how the running containers of a deleted pod end.
fn containers_end(
    record: &Record,
    deletion: &Deletion,
    stop: SignedDuration,
) -> (Timestamp, Outcome) {
    if stop > deletion.grace() {
        return (deletion.kill_at, Outcome::Killed);
    }
    let outcome = match record.restart_policy {
        RestartPolicy::Always => Outcome::Completed,
        RestartPolicy::OnFailure | RestartPolicy::Never => Outcome::Interrupted,
    };
    (later(deletion.seen_at, stop), outcome)
}

#[cfg(test)]
mod tests;
