//! How the containers of a pod are stopped, and what is shown of those that were.
//!
//! Owns the order (sidecars last, the last one first) and the times. When a pod is to be stopped,
//! and as what it ends, is decided in `core` and `life`.

use holdfast_provider::id::PodUid;
use jiff::{SignedDuration, Timestamp};

use super::draft::Outcome;
use super::life::Plan;
use super::observed::{self, State};
use super::record::{Container, Record, later, whole_seconds};
use super::status::ContainerStatus;
use super::view::{Phase, RestartPolicy};

/// How and when running containers are stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    pub(crate) outcome: Outcome,
    /// When the containers end.
    pub(crate) at: Timestamp,
    /// From the end of one to that of the sidecar before it.
    pub(super) apart: SignedDuration,
    /// When whatever still runs is killed.
    pub(super) kill_at: Timestamp,
}

impl Stop {
    /// The containers are asked to stop at `asked_at`, each takes `takes` for it, and they have `grace` until they are
    /// killed.
    pub(crate) fn asked(
        policy: RestartPolicy,
        asked_at: Timestamp,
        (grace, kill_at): (SignedDuration, Timestamp),
        takes: SignedDuration,
    ) -> Self {
        let outcome = Outcome::of_stop(policy, takes, grace);
        let at = if outcome == Outcome::Killed {
            kill_at
        } else {
            later(asked_at, takes)
        };
        Self {
            outcome,
            at,
            apart: takes,
            // A sidecar that stops as fast as it may is not killed for the fraction that the API cut.
            kill_at: later(asked_at, grace).max(at),
        }
    }

    /// Whatever there is has ended by `now`, all at once.
    pub(super) fn at_once(outcome: Outcome, now: Timestamp) -> Self {
        Self {
            outcome,
            at: now,
            apart: SignedDuration::ZERO,
            kill_at: now,
        }
    }

    /// The end of the last container.
    pub(super) fn last_at(&self, record: &Record) -> Timestamp {
        self.sidecar(running_sidecars(record)).0
    }

    /// When and how the sidecar ends that is stopped as the `nth`, from 1.
    pub(crate) fn sidecar(&self, nth: usize) -> (Timestamp, Outcome) {
        let nth = i32::try_from(nth).unwrap_or(i32::MAX);
        let by = self.apart.checked_mul(nth).unwrap_or(SignedDuration::MAX);
        let at = later(self.at, by);
        if at > self.kill_at {
            (self.kill_at, Outcome::Killed)
        } else {
            (at, self.outcome)
        }
    }
}

fn running_sidecars(record: &Record) -> usize {
    let sidecars = pairs(&record.init_containers, &record.observed.init_containers)
        .filter(|(container, _)| container.sidecar);
    let runs = |seen: &observed::ContainerStatus| matches!(seen.state, State::Running { .. });
    sidecars.filter(|(_, seen)| seen.is_some_and(runs)).count()
}

/// Everything that runs has been stopped.
pub(super) fn stopped<'a>(record: &'a Record, stop: &Stop) -> Plan<'a> {
    let observed = &record.observed;
    let mut nth = running_sidecars(record) + 1;
    let end = |container: &'a Container, seen: Option<&'a observed::ContainerStatus>, (at, how)| {
        end(&record.uid, container, seen, at, how)
    };
    let init = pairs(&record.init_containers, &observed.init_containers)
        .map(|(container, seen)| {
            let runs = seen.is_some_and(|seen| matches!(seen.state, State::Running { .. }));
            if container.sidecar && runs {
                nth -= 1;
                end(container, seen, stop.sidecar(nth))
            } else {
                end(container, seen, (stop.at, stop.outcome))
            }
        })
        .collect();
    let all = |containers: &'a [Container], seen: &'a [observed::ContainerStatus]| -> Vec<_> {
        pairs(containers, seen)
            .map(|(container, seen)| end(container, seen, (stop.at, stop.outcome)))
            .collect()
    };
    let containers = all(&record.containers, &observed.containers);
    let succeeded = all_succeeded(&containers);
    Plan {
        init,
        phase: if succeeded {
            Phase::Succeeded
        } else {
            Phase::Failed
        },
        initialized: record.init_containers.is_empty()
            || observed
                .containers
                .iter()
                .any(observed::ContainerStatus::has_run),
        containers,
        ephemeral: all(
            record.ephemeral_containers(),
            &observed.ephemeral_containers,
        ),
        wake_at: None,
        said: Vec::new(),
    }
}

/// The status of a container that has been stopped.
pub(super) fn end<'a>(
    uid: &'a PodUid,
    container: &'a Container,
    seen: Option<&'a observed::ContainerStatus>,
    at: Timestamp,
    how: Outcome,
) -> ContainerStatus<'a> {
    let mut status = ContainerStatus::of(uid, container, seen);
    let at = whole_seconds(at);
    // An init container that is done stays ready.
    let had_ended = matches!(status.state, State::Terminated(_));
    let ended = match (status.state, status.last) {
        (State::Terminated(ended), _) => ended,
        (State::Running { started_at }, _) => how.ended(started_at, at.max(started_at)),
        (State::Waiting { .. }, Some(last)) => {
            status.last = None;
            last
        }
        (State::Waiting { .. }, None) => Outcome::Unknown.ended(at, at),
    };
    status.state = State::Terminated(ended);
    status.ready &= had_ended;
    status.started = false;
    status
}

/// Each container with what the API has of it.
pub(super) fn pairs<'a, 'o>(
    containers: &'a [Container],
    seen: &'o [observed::ContainerStatus],
) -> impl Iterator<Item = (&'a Container, Option<&'o observed::ContainerStatus>)> {
    let seen = seen.iter().map(Some).chain(std::iter::repeat(None));
    containers.iter().zip(seen)
}

/// Whether there are containers, and each ended with exit code 0.
pub(super) fn all_succeeded(containers: &[ContainerStatus<'_>]) -> bool {
    let ok = |one: &ContainerStatus<'_>| matches!(one.state, State::Terminated(ended) if ended.exit_code == 0);
    !containers.is_empty() && containers.iter().all(ok)
}
