//! What others ask about the pods: answered out of what is known, changing nothing.

use std::collections::BTreeMap;

use holdfast_provider::engine::{Network, Reason};
use holdfast_provider::id::NodeName;
use jiff::Timestamp;

use super::Agent;
use super::step::{Pod, network_of};
use crate::pod::observed::State;
use crate::pod::running::{self, RunningPod};
use crate::pod::view::Phase;

/// What a pod without an address can wait for, so that each is told when none does.
const WAITS: [Reason; 5] = [
    Reason::FixedIPWaiting,
    Reason::FixedIPUnsupported,
    Reason::IPPoolExhausted,
    Reason::NoAllowedVSwitch,
    Reason::CloudCallFailed,
];

/// How many pods there are, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Pods on all our nodes by phase.
    pub phases: BTreeMap<&'static str, u64>,
    /// Pods that wait for an address, by the reason of their event.
    pub waiting: BTreeMap<&'static str, u64>,
    /// Since when the one waits that has waited longest for an address to be free.
    pub waiting_since: Option<Timestamp>,
    /// Pods of the node that was asked about, with containers that run.
    pub running_pods: u64,
    /// Containers of that node that run.
    pub running_containers: u64,
    /// Containers of that node that have ended and whose pods are still there.
    pub exited_containers: u64,
}

impl Agent {
    /// The pods of a node that are Running, and what runs of each at `now`, by namespace and name. Of one that waits for
    /// its next start nothing does.
    pub fn running(&self, node: &NodeName, now: Timestamp) -> Vec<RunningPod> {
        let stop = self.settings.lifecycle.stop;
        let here = self.pods.values().filter(|pod| pod.record.node() == node);
        let mut found: Vec<_> = here
            .filter_map(|pod| running::running(&pod.record, stop, now))
            .collect();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found
    }

    /// Whether a request for a pod of this node is under way, or led to what was not seen since: whoever watches may know
    /// more by then than [`running`](Self::running) tells.
    pub fn has_unseen(&self, node: &NodeName) -> bool {
        let mut here = self.pods.values().filter(|pod| pod.record.node() == node);
        here.any(|pod| pod.busy || pod.awaited.is_some())
    }

    /// How many pods there are, and what runs on one node.
    pub fn figures(&self, node: &NodeName, now: Timestamp) -> Figures {
        let mut figures = Figures {
            phases: ["Pending", "Running", "Succeeded", "Failed", "Unknown"]
                .map(|phase| (phase, 0))
                .into(),
            waiting: WAITS.map(|reason| (reason.as_str(), 0)).into(),
            waiting_since: self.engine.waiting_since(),
            ..Figures::default()
        };
        for pod in self.pods.values() {
            let phase = phase(pod.record.phase());
            *figures.phases.entry(phase).or_default() += 1;
            if let Some(reason) = self.waits_for(pod) {
                *figures.waiting.entry(reason.as_str()).or_default() += 1;
            }
            if pod.record.node() == node {
                self.add(&mut figures, pod, now);
            }
        }
        figures
    }

    fn waits_for(&self, pod: &Pod) -> Option<Reason> {
        let record = &pod.record;
        // The ENI of one that leaves may wait for the cloud, but the pod wants none any more.
        let wants_one =
            !(record.host_network() || record.deletion().is_some() || record.phase().is_terminal());
        match &*network_of(pod, &self.engine) {
            Network::Waiting { reason, .. } if wants_one => Some(*reason),
            _ => None,
        }
    }

    fn add(&self, figures: &mut Figures, pod: &Pod, now: Timestamp) {
        let runs = running::runs(&pod.record, self.settings.lifecycle.stop, now);
        figures.running_pods += u64::from(runs);
        for (_, status) in pod.record.containers_with_status() {
            match status.state {
                State::Running { .. } if runs => figures.running_containers += 1,
                State::Terminated(_) => figures.exited_containers += 1,
                State::Running { .. } | State::Waiting { .. } => {}
            }
        }
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
        Phase::Unknown => "Unknown",
    }
}
