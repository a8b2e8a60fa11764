//! What is kept of a pod's containers and readiness gates, and the strings that many pods have in common. What containers
//! do is in [`observed`](crate::pod::observed).

use std::collections::HashSet;
use std::num::NonZeroI64;
use std::sync::Arc;

use crate::pod::quantity;
use crate::pod::view::{self, ConditionStatus, RestartPolicy, RestartRule};

/// One container or init container of the specification.
#[derive(Debug)]
pub(in crate::pod) struct Container {
    pub(in crate::pod) name: Arc<str>,
    pub(in crate::pod) image: Arc<str>,
    /// An init container that keeps running.
    pub(in crate::pod) sidecar: bool,
    /// What it says itself of being started again.
    pub(in crate::pod) restart: Option<Box<Restart>>,
    /// What it requests of the CPU, in thousandths of a core; 0: nothing.
    pub(in crate::pod) cpu_request_milli: u32,
    /// What it requests of the memory; 0: nothing.
    pub(in crate::pod) memory_request_bytes: u64,
    /// What it has been given since its pod was changed.
    pub(in crate::pod) resources: Option<Box<view::Resources>>,
}

/// `restartPolicy` and `restartPolicyRules` of a container.
#[derive(Debug)]
pub(in crate::pod) struct Restart {
    policy: RestartPolicy,
    rules: Box<[RestartRule]>,
}

impl Restart {
    fn of(container: &view::Container) -> Option<Box<Self>> {
        let policy = match container.restart_policy.as_deref()? {
            "Always" => RestartPolicy::Always,
            "OnFailure" => RestartPolicy::OnFailure,
            "Never" => RestartPolicy::Never,
            // Of a Kubernetes to come: that of the pod counts.
            _ => return None,
        };
        let rules = container.restart_policy_rules.clone().into();
        Some(Box::new(Self { policy, rules }))
    }
}

impl Container {
    pub(super) fn new(container: &view::Container, names: &mut Names) -> Self {
        let (cpu_request_milli, memory_request_bytes) = requests(container);
        Self {
            name: names.share(&container.name),
            image: names.share(&container.image),
            sidecar: container.is_sidecar(),
            restart: Restart::of(container),
            cpu_request_milli,
            memory_request_bytes,
            resources: None,
        }
    }

    /// Whether it is started again after this end: its rules say it first, then its own policy, then that of the pod
    /// (`ContainerShouldRestart` in pkg/api/v1/pod/util.go). The API server refuses a status that says otherwise.
    pub(in crate::pod) fn restarts(&self, exit_code: i32, of_pod: RestartPolicy) -> bool {
        let own = self.restart.as_deref();
        let is_ruled = own.is_some_and(|own| own.rules.iter().any(|rule| rule.matches(exit_code)));
        is_ruled
            || match own.map_or(of_pod, |own| own.policy) {
                RestartPolicy::Always => true,
                RestartPolicy::OnFailure => exit_code != 0,
                RestartPolicy::Never => false,
            }
    }

    /// Images and resources are all that an update may change of a container.
    pub(super) fn refresh(
        &mut self,
        seen: &view::Container,
        generation: Option<NonZeroI64>,
        names: &mut Names,
    ) {
        if *self.image != *seen.image {
            self.image = names.share(&seen.image);
        }
        (self.cpu_request_milli, self.memory_request_bytes) = requests(seen);
        // A specification that was never changed need not be told back.
        let told = generation.is_some_and(|it| it.get() > 1)
            && seen.resources != view::Resources::default();
        self.resources = told.then(|| Box::new(seen.resources.clone()));
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
pub(in crate::pod) struct Gate {
    pub(in crate::pod) kind: Arc<str>,
    pub(in crate::pod) status: Option<ConditionStatus>,
}

impl Gate {
    pub(super) fn new(gate: &view::ReadinessGate, names: &mut Names) -> Self {
        Self {
            kind: names.share(&gate.condition_type),
            status: None,
        }
    }

    pub(super) fn refresh(&mut self, conditions: &[view::Condition]) {
        let found = conditions.iter().find(|one| one.kind == *self.kind);
        self.status = found.map(|condition| condition.status);
    }
}

/// Strings that many records have in common, such as images, kept once.
#[derive(Debug, Default)]
pub struct Names {
    pub(super) all: HashSet<Arc<str>>,
    /// Sweeping at twice the number that was left keeps its cost below that of the insertions.
    sweep_at: usize,
}

impl Names {
    pub(super) fn share(&mut self, text: &str) -> Arc<str> {
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
