//! What there is at one moment: looked up for each answer, and kept nowhere.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use holdfast_provider::id::NodeName;
use holdfast_provider::ledger::Totals;
use jiff::{SignedDuration, Timestamp};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::process::Process;
use crate::node::NodeTable;
use crate::pod::agent::Figures;

type Seconds = Gauge<f64, AtomicU64>;

/// What there is when somebody asks a node.
#[derive(Debug)]
pub struct Moment {
    /// When.
    pub now: Timestamp,
    /// The node that is asked.
    pub node: NodeName,
    /// Pods, in numbers.
    pub figures: Figures,
    /// The ledger, in numbers.
    pub totals: Arc<Totals>,
    /// All nodes.
    pub nodes: NodeTable,
    /// What the process takes, where that can be told.
    pub process: Option<Process>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Node {
    node: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ContainerState {
    container_state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Phase {
    phase: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Address {
    vswitch: String,
    zone: String,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VSwitch {
    vswitch: String,
}

impl Moment {
    pub(super) fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        self.node(&mut registry);
        self.pods(&mut registry);
        self.addresses(&mut registry);
        if let Some(process) = &self.process {
            process.register(&mut registry);
        }
        registry
    }

    /// What a kubelet tells of itself (kubernetes/kubernetes, pkg/kubelet/metrics): the node that
    /// is asked.
    fn node(&self, registry: &mut Registry) {
        let figures = &self.figures;
        let node = Family::<Node, Gauge>::default();
        let name = Node {
            node: self.node.to_string(),
        };
        node.get_or_create(&name).set(1);
        registry.register(
            "kubelet_node_name",
            "The node's name. The count is always 1",
            node,
        );
        let running = Gauge::<i64>::default();
        running.set(number(figures.running_pods));
        registry.register(
            "kubelet_running_pods",
            "Number of pods of this node with containers that run",
            running,
        );
        let states = [
            ("running", figures.running_containers),
            ("exited", figures.exited_containers),
        ];
        let states =
            states.map(|(container_state, count)| (ContainerState { container_state }, count));
        registry.register(
            "kubelet_running_containers",
            "Number of containers of this node by state",
            family(states),
        );
    }

    fn pods(&self, registry: &mut Registry) {
        let figures = &self.figures;
        let phases = figures.phases.iter();
        let phases = phases.map(|(phase, count)| (Phase { phase }, *count));
        registry.register(
            "holdfast_pods",
            "Pods on all virtual nodes by phase",
            family(phases),
        );
        let waiting = figures.waiting.iter();
        let waiting = waiting.map(|(reason, count)| (Reason { reason }, *count));
        registry.register(
            "holdfast_waiting_pods",
            "Pods that wait for an address or its ENI, by the reason of their event",
            family(waiting),
        );
        let oldest = Seconds::default();
        let waits = figures
            .waiting_since
            .map(|since| self.now.duration_since(since));
        oldest.set(
            waits
                .unwrap_or_default()
                .max(SignedDuration::ZERO)
                .as_secs_f64(),
        );
        registry.register("holdfast_oldest_wait_seconds", "How long the pod has waited that has waited longest for an address to be free; 0: none waits", oldest);
        let mut states = [("ready", 0), ("not_ready", 0), ("unregistered", 0)];
        for node in self.nodes.all() {
            let index = match (node.is_registered(), node.ready) {
                (true, true) => 0,
                (true, false) => 1,
                (false, _) => 2,
            };
            states[index].1 += 1;
        }
        let states = states.map(|(state, count)| (State { state }, count));
        registry.register(
            "holdfast_nodes",
            "Virtual nodes as the API server shows them",
            family(states),
        );
    }

    fn addresses(&self, registry: &mut Registry) {
        let totals = &self.totals;
        let addresses = totals.vswitches.iter().flat_map(|row| {
            let counts = row.counts;
            let states = [
                ("free", counts.free),
                ("in_use", counts.in_use),
                ("retained", counts.retained),
                ("detaching", counts.detaching),
                ("excluded", counts.excluded),
            ];
            states.map(|(state, count)| {
                let address = Address {
                    vswitch: row.id.to_string(),
                    zone: row.zone.to_string(),
                    state,
                };
                (address, count)
            })
        });
        registry.register("holdfast_addresses", "Addresses by vSwitch and state; without those that are excluded they are what pods can have", family(addresses));
        let releases = Family::<VSwitch, Seconds>::default();
        for row in &totals.vswitches {
            if let Some(next) = &row.next_release {
                let vswitch = VSwitch {
                    vswitch: row.id.to_string(),
                };
                let seconds = next.at.as_duration().as_secs_f64();
                releases.get_or_create(&vswitch).set(seconds);
            }
        }
        registry.register("holdfast_next_release_timestamp_seconds", "When the next retained address of a vSwitch comes free by itself, since the Unix epoch; absent without one", releases);
        let claims = totals.claims.iter();
        let claims = claims.map(|(state, count)| {
            (
                State {
                    state: state.as_str(),
                },
                *count,
            )
        });
        registry.register(
            "holdfast_claims",
            "Open claims on fixed addresses: held, terminating, retained, or over (due to end)",
            family(claims),
        );
        let enis = totals.enis.iter();
        let enis = enis.map(|(state, count)| (State { state }, *count));
        registry.register(
            "holdfast_enis",
            "ENIs that the ledger knows, by what the simulated cloud last said of them",
            family(enis),
        );
    }
}

/// A count; more than fit are not there.
pub(super) fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn family<S>(counts: impl IntoIterator<Item = (S, u64)>) -> Family<S, Gauge>
where
    S: Clone + std::hash::Hash + Eq,
{
    let family = Family::<S, Gauge>::default();
    for (labels, count) in counts {
        family.get_or_create(&labels).set(number(count));
    }
    family
}
