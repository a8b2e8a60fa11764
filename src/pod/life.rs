//! What the containers of a pod do next: start, run, end by themselves, wait and start again.
//!
//! Owns the order of init containers, sidecars and containers, the restart policy, both back-offs
//! and what annotations ask for. A pure function of what the API shows, so it goes on where it was
//! after a restart of holdfast. Times of the kubelet are those of kubernetes/kubernetes,
//! pkg/kubelet/kuberuntime and pkg/kubelet/images. It does not know networks or conditions.

use jiff::{SignedDuration, Timestamp};

use super::back_off::{doubled, last_pull, seconds};
use super::behaviour::{Behaviour, Exit, PREFIX, PullError};
use super::core::Topic;
use super::draft::Outcome;
use super::needs::Supply;
use super::observed::{self, Ended, State};
use super::record::{Container, Record, later, whole_seconds};
use super::status::ContainerStatus;
use super::stop::{Stop, all_succeeded, end, pairs};
use super::view::{ContainerReason, Phase};

/// Reason of the event of a container that used too much memory.
pub(super) const OOM_KILLED: &str = "OOMKilled";
/// How long a failed pull is shown before the pause until the next is.
const PULL_SHOWN: SignedDuration = SignedDuration::from_secs(2);

/// What becomes of the containers of a pod.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) init: Vec<ContainerStatus<'a>>,
    pub(super) containers: Vec<ContainerStatus<'a>>,
    pub(super) ephemeral: Vec<ContainerStatus<'a>>,
    pub(super) phase: Phase,
    /// Whether the init containers are done and the sidecars started.
    pub(super) initialized: bool,
    /// When time alone changes it.
    pub(super) wake_at: Option<Timestamp>,
    /// Events that are due when it is written.
    pub(super) said: Vec<(Topic, String)>,
}

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Runs before the others, until it succeeds.
    Init,
    /// Is started before the others and stopped after them.
    Sidecar,
    /// What the pod is for.
    Main,
    /// Added to look at the others.
    Ephemeral,
}

impl Role {
    fn of_init(container: &Container) -> Self {
        if container.sidecar {
            Self::Sidecar
        } else {
            Self::Init
        }
    }
}

/// What the containers of a pod depend on beside the pod itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances<'a> {
    /// Since when a node knows of the pod.
    pub(super) bound_at: Timestamp,
    /// From the stop signal to the end of a container.
    pub(super) stop: SignedDuration,
    pub(super) supply: &'a Supply,
    /// Whether events tell what always happens.
    pub(super) tells_routine: bool,
    pub(super) now: Timestamp,
}

/// Nothing has been started, and nothing may be.
pub(super) fn waiting<'a>(record: &'a Record) -> Plan<'a> {
    let reason = if record.init_containers.is_empty() {
        ContainerReason::ContainerCreating
    } else {
        ContainerReason::PodInitializing
    };
    let all = |containers: &'a [Container]| {
        let waits = |container| ContainerStatus::waiting(&record.uid, container, reason);
        containers.iter().map(waits).collect()
    };
    Plan {
        init: all(&record.init_containers),
        containers: all(&record.containers),
        ephemeral: Vec::new(),
        phase: Phase::Pending,
        initialized: record.init_containers.is_empty(),
        wake_at: None,
        said: Vec::new(),
    }
}

/// The next of a pod whose network and volumes are there.
pub(super) fn proceed<'a>(record: &'a Record, around: Circumstances<'a>) -> Plan<'a> {
    let observed = &record.observed;
    let mut life = Life {
        record,
        around,
        wake_at: None,
        said: Vec::new(),
    };
    // What has been reached is not lost when a sidecar fails.
    let begun = observed
        .containers
        .iter()
        .any(observed::ContainerStatus::has_run);
    let mut turn = true;
    let init: Vec<_> = pairs(&record.init_containers, &observed.init_containers)
        .map(|(container, seen)| {
            let role = Role::of_init(container);
            let status = life.advance(role, container, seen, turn || begun);
            turn &= has_passed(&status);
            status
        })
        .collect();
    let initialized = turn || begun;
    let containers: Vec<_> = pairs(&record.containers, &observed.containers)
        .map(|(container, seen)| life.advance(Role::Main, container, seen, initialized))
        .collect();
    let ephemeral = pairs(
        record.ephemeral_containers(),
        &observed.ephemeral_containers,
    )
    .map(|(container, seen)| life.advance(Role::Ephemeral, container, seen, true))
    .collect();
    let mut plan = Plan {
        init,
        containers,
        ephemeral,
        phase: Phase::Pending,
        initialized,
        wake_at: None,
        said: Vec::new(),
    };
    plan.phase = life.phase(&mut plan);
    (plan.wake_at, plan.said) = (life.wake_at, life.said);
    plan
}

/// Whether the next init container or the containers may be started.
pub(super) fn has_passed(status: &ContainerStatus<'_>) -> bool {
    if status.container.sidecar {
        status.started
    } else {
        matches!(status.state, State::Terminated(ended) if ended.exit_code == 0)
    }
}

struct Life<'a> {
    record: &'a Record,
    around: Circumstances<'a>,
    wake_at: Option<Timestamp>,
    said: Vec<(Topic, String)>,
}

impl<'a> Life<'a> {
    /// `turn`: whether those before it have been started or are done.
    fn advance(
        &mut self,
        role: Role,
        container: &'a Container,
        seen: Option<&'a observed::ContainerStatus>,
        turn: bool,
    ) -> ContainerStatus<'a> {
        let mut status = ContainerStatus::of(&self.record.uid, container, seen);
        (status.ready, status.started) = (false, false);
        let (was, image) = (status.state, status.image);
        match (status.state, status.last) {
            (State::Running { started_at }, _)
                if *status.image != *container.image
                    && matches!(role, Role::Main | Role::Sidecar) =>
            {
                self.replace(role, &mut status, started_at);
            }
            (State::Running { started_at }, _) => self.run(role, &mut status, started_at),
            (State::Terminated(ended), _) | (State::Waiting { .. }, Some(ended)) => {
                self.follow(role, &mut status, ended);
            }
            (State::Waiting { .. }, None) if turn => self.start(role, &mut status, None),
            (State::Waiting { .. }, None) => {
                status.state = State::Waiting {
                    reason: ContainerReason::PodInitializing,
                };
            }
        }
        let replaced = status.image != image;
        if replaced || !status.state.is_like(was) {
            self.tell(&status, was, replaced);
        }
        status
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |first| first.min(at)));
    }

    /// A container that has ended.
    fn follow(&mut self, role: Role, status: &mut ContainerStatus<'a>, ended: Ended) {
        if !self.restarts(role, status.container, ended) {
            status.ready = role == Role::Init && ended.exit_code == 0;
            return;
        }
        let failures = status
            .restarts
            .saturating_sub(self.record.rested_at(&status.container.name));
        // Another image has no failures yet.
        let pause = if failures == 0 || *status.image != *status.container.image {
            SignedDuration::ZERO
        } else {
            doubled(failures - 1)
        };
        let due = later(ended.finished_at, pause);
        if due <= self.around.now {
            self.start(role, status, Some(ended));
            return;
        }
        self.wake(due);
        status.last = Some(ended);
        status.state = State::Waiting {
            reason: ContainerReason::CrashLoopBackOff,
        };
        status.message = Some(format!(
            "back-off {} restarting failed container={} pod={}",
            seconds(pause),
            status.container.name,
            self.pod()
        ));
    }

    /// The pod as the kubelet names it in messages.
    fn pod(&self) -> String {
        let key = &self.record.key;
        format!("{}_{}({})", key.name, key.namespace, self.record.uid)
    }

    fn restarts(&self, role: Role, container: &Container, ended: Ended) -> bool {
        let exit_code = ended.exit_code;
        let is_wanted = container.restarts(exit_code, self.record.restart_policy);
        match role {
            Role::Main | Role::Sidecar => is_wanted,
            // One that has succeeded is done.
            Role::Init => is_wanted && exit_code != 0,
            Role::Ephemeral => false,
        }
    }

    /// A container that runs and whose image was changed is stopped and started anew, whatever the
    /// restart policy says (`computePodActions` in pkg/kubelet/kuberuntime).
    fn replace(&mut self, role: Role, status: &mut ContainerStatus<'a>, started_at: Timestamp) {
        let (takes, grace) = (self.around.stop, self.record.grace());
        let since = self.record.outdated_since().unwrap_or(self.around.now);
        let at = later(since, takes.min(grace));
        if at > self.around.now {
            self.wake(at);
            self.run(role, status, started_at);
            return;
        }
        let how = Outcome::of_stop(self.record.restart_policy, takes, grace);
        let at = whole_seconds(at).max(started_at);
        let name = &status.container.name;
        let note = match role {
            Role::Sidecar => format!("Init container {name} definition changed"),
            _ => format!("Container {name} definition changed, will be restarted"),
        };
        self.said.push((Topic::normal("Killing"), note));
        self.start(role, status, Some(how.ended(started_at, at)));
    }

    fn start(&mut self, role: Role, status: &mut ContainerStatus<'a>, last: Option<Ended>) {
        status.last = last;
        status.image = &status.container.image;
        let name = &*status.container.name;
        if last.is_none() && self.fails_to_pull(status) {
            return;
        }
        if let Some(why) = self.around.supply.missing_for(name) {
            status.state = State::Waiting {
                reason: ContainerReason::CreateContainerConfigError,
            };
            status.message = Some(why.to_owned());
            return;
        }
        status.restarts += u32::from(last.is_some());
        self.run(role, status, whole_seconds(self.around.now));
    }

    fn run(&mut self, role: Role, status: &mut ContainerStatus<'a>, started_at: Timestamp) {
        let behaviour = self.record.behaviour(&status.container.name);
        if let Some((at, exit)) = self.exit(role, status, started_at) {
            if at <= self.around.now {
                let ended = Ended::by_itself(exit, started_at, whole_seconds(at));
                status.state = State::Terminated(ended);
                status.ready = role == Role::Init && exit.code == 0;
                return;
            }
            self.wake(at);
        }
        status.state = State::Running { started_at };
        if role == Role::Ephemeral {
            return;
        }
        (status.started, status.ready) = (true, role != Role::Init);
        if let Some(behaviour) = behaviour {
            let age = self.around.now.duration_since(started_at);
            status.started = behaviour.start_after.is_none_or(|start| start <= age);
            status.ready &= !behaviour.is_unready(age);
            let spans = behaviour.not_ready.iter().flatten();
            let edges = spans.flat_map(|span| [Some(span.from), span.until]);
            let edges = edges.chain([behaviour.start_after]).flatten();
            if let Some(edge) = edges.filter(|edge| *edge > age).min() {
                self.wake(later(started_at, edge));
            }
        }
    }

    /// When and how this run of a container ends, if that is known: as annotations ask, or as its process did,
    /// whatever comes first.
    fn exit(
        &self,
        role: Role,
        status: &ContainerStatus<'_>,
        started_at: Timestamp,
    ) -> Option<(Timestamp, Exit)> {
        let name = &status.container.name;
        let with_code = |code| Exit {
            after: SignedDuration::ZERO,
            code,
            out_of_memory: false,
        };
        let asked = self.record.behaviour(name).and_then(Behaviour::exit);
        let asked = asked.or((role == Role::Init).then(|| with_code(0)));
        let asked = asked.map(|exit| (later(started_at, exit.after), exit));
        let seen = self.record.exit_of(name, status.restarts);
        let seen = seen.map(|(code, at)| (at.max(started_at), with_code(code)));
        asked.into_iter().chain(seen).min_by_key(|(at, _)| *at)
    }

    /// Whether its image cannot be pulled now.
    fn fails_to_pull(&mut self, status: &mut ContainerStatus<'a>) -> bool {
        let Circumstances { bound_at, now, .. } = self.around;
        let behaviour = self.record.behaviour(&status.container.name);
        let Some(error) = behaviour.and_then(|behaviour| behaviour.image_pull_error) else {
            return false;
        };
        if let PullError::For(time) = error {
            let until = later(bound_at, time);
            if until <= now {
                return false;
            }
            self.wake(until);
        }
        let (tried_at, pause) = last_pull(now.duration_since(bound_at));
        let (tried_at, image) = (later(bound_at, tried_at), &status.container.image);
        let shown_until = later(tried_at, PULL_SHOWN);
        let reason = if now < shown_until {
            self.wake(shown_until);
            status.message = Some(format!(
                "failed to pull image {image:?}: not found, as annotation {PREFIX}/image-pull-error asks"
            ));
            ContainerReason::ErrImagePull
        } else {
            self.wake(later(tried_at, pause));
            status.message = Some(format!("Back-off pulling image {image:?}"));
            ContainerReason::ImagePullBackOff
        };
        status.state = State::Waiting { reason };
        true
    }

    /// The phase, as the kubelet reckons it (`getPhase` in pkg/kubelet/kubelet_pods.go). Stops the
    /// sidecars of a pod that is done.
    fn phase(&mut self, plan: &mut Plan<'a>) -> Phase {
        let done = |role, one: &ContainerStatus<'_>| match one.state {
            State::Terminated(ended) if !self.restarts(role, one.container, ended) => Some(ended),
            _ => None,
        };
        let failed_init = plan.init.iter().find_map(|one| {
            done(Role::of_init(one.container), one).filter(|ended| ended.exit_code != 0)
        });
        let mains: Option<Vec<Ended>> = plan
            .containers
            .iter()
            .map(|one| done(Role::Main, one))
            .collect();
        let over = failed_init.is_some() || mains.as_ref().is_some_and(|all| !all.is_empty());
        if over {
            let ends = failed_init.iter().chain(mains.iter().flatten());
            let at = ends.map(|ended| ended.finished_at).max();
            if self.stops_sidecars(plan, at.unwrap_or(self.around.now)) {
                return if failed_init.is_none() && all_succeeded(&plan.containers) {
                    Phase::Succeeded
                } else {
                    Phase::Failed
                };
            }
        }
        let waits = |one: &ContainerStatus<'_>| {
            matches!(one.state, State::Waiting { .. }) && one.last.is_none()
        };
        if !plan.initialized || plan.containers.iter().any(waits) {
            Phase::Pending
        } else {
            Phase::Running
        }
    }

    /// Stops the sidecars of a pod that was done at `at`, the last one first; whether all are down.
    fn stops_sidecars(&mut self, plan: &mut Plan<'a>, at: Timestamp) -> bool {
        let stop = Stop {
            outcome: Outcome::Completed,
            at,
            apart: self.around.stop,
            kill_at: Timestamp::MAX,
        };
        let seen: Vec<_> = pairs(
            &self.record.init_containers,
            &self.record.observed.init_containers,
        )
        .collect();
        let (mut nth, mut runs) = (0, false);
        for (status, (container, seen)) in plan.init.iter_mut().zip(seen).rev() {
            if !container.sidecar {
                continue;
            }
            let stops = seen.is_some_and(|seen| matches!(seen.state, State::Running { .. }));
            nth += usize::from(stops);
            let (ends_at, how) = stop.sidecar(nth);
            if stops && ends_at > self.around.now {
                runs = true;
                self.wake(ends_at);
            } else if seen.is_some_and(observed::ContainerStatus::has_run) {
                *status = end(&self.record.uid, container, seen, ends_at, how);
            } else {
                *status = ContainerStatus::of(&self.record.uid, container, seen);
            }
        }
        if !runs {
            let at = self.around.now;
            let seen = &self.record.observed.ephemeral_containers;
            let all = pairs(self.record.ephemeral_containers(), seen);
            plan.ephemeral = all
                .map(|(one, seen)| end(&self.record.uid, one, seen, at, Outcome::Killed))
                .collect();
        }
        !runs
    }

    /// The events of what a container has come to. `replaced`: with another image than before.
    fn tell(&mut self, status: &ContainerStatus<'_>, was: State, replaced: bool) {
        let Container { name, image, .. } = status.container;
        let ran = !matches!(status.state, State::Waiting { .. });
        let is_new = replaced || !matches!(was, State::Running { .. });
        if self.around.tells_routine && ran && is_new {
            let pulls = replaced || status.last.is_none();
            let pulled = [
                ("Pulling", format!("pulling image {image:?}")),
                ("Pulled", format!("Successfully pulled image {image:?}")),
            ];
            let started = [
                ("Created", "Created container".to_owned()),
                ("Started", "Started container".to_owned()),
            ];
            // As ECI tells them (Alibaba Cloud, ACK, "Run Jobs on virtual nodes"); ACS is not known to
            // tell others.
            let all = pulled.into_iter().filter(|_| pulls).chain(started);
            let all = all.map(|(reason, note)| (Topic::routine(reason), note));
            self.said.extend(all);
        }
        let message = status.message.as_deref().unwrap_or_default();
        let said = &mut self.said;
        let mut say = |topic, note: String| said.push((topic, note));
        match status.state {
            State::Waiting { reason } => match reason {
                ContainerReason::ErrImagePull => {
                    say(Topic::warning("Failed"), message.to_owned());
                    say(Topic::warning("Failed"), "Error: ErrImagePull".to_owned());
                }
                ContainerReason::ImagePullBackOff => {
                    say(
                        Topic::normal("BackOff"),
                        format!("Back-off pulling image {image:?}"),
                    );
                    say(
                        Topic::warning("Failed"),
                        "Error: ImagePullBackOff".to_owned(),
                    );
                }
                ContainerReason::CrashLoopBackOff => {
                    let key = &self.record.key;
                    let uid = &self.record.uid;
                    let pod = format!("{}_{}({uid})", key.name, key.namespace);
                    let note = format!("Back-off restarting failed container {name} in pod {pod}");
                    say(Topic::warning("BackOff"), note);
                }
                _ => {}
            },
            State::Terminated(ended) if ended.reason == ContainerReason::OomKilled => {
                // The reason and the word are those of ACS ("Pod events").
                say(Topic::warning(OOM_KILLED), "invoked".to_owned());
            }
            State::Running { .. } | State::Terminated(_) => {}
        }
    }
}
