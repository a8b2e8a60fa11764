//! The configuration file: what an operator writes, checked whole before anything starts.
//!
//! Owns the YAML keys, their defaults and every sentence that refuses one. `raw` is the file as
//! written, `check` turns it into a [`Config`] and collects all refusals rather than the first.
//! The environment is read only where an address asks for it. Does not watch the file or open the
//! ledger.

mod check;
mod network;
mod nodes;
mod raw;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use holdfast_provider::cloud::sim;
use holdfast_provider::id::{ClusterId, NodeName, NodeType, Zone};
use holdfast_provider::policy::opt_in::UnsupportedClass;
use holdfast_provider::settings::{Retention, Settings, VSwitch};
use jiff::SignedDuration;

pub use raw::{FailurePolicy, Profile};

/// A configuration that was accepted. Nothing in it needs checking again.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's id when the file names one; else the UID of namespace `kube-system`.
    pub cluster: Option<ClusterId>,
    /// Region of all zones.
    pub region: String,
    /// VPC of all vSwitches.
    pub vpc: String,
    /// The ledger's file. A relative path starts at the working directory.
    pub ledger: PathBuf,
    /// Which stages pods go through.
    pub profile: Profile,
    /// In the order of the file, which breaks ties between equally free ones.
    pub vswitches: Vec<VSwitch>,
    /// All nodes, `count` entries expanded.
    pub nodes: Vec<NodeSpec>,
    /// How long a released address is kept.
    pub retention: Retention,
    /// What happens to a fixed-IP pod of a compute class without fixed addresses.
    pub unsupported_class: UnsupportedClass,
    /// Capacity of every node.
    pub capacity: Capacity,
    /// How long pods stay in each stage.
    pub delays: Delays,
    /// The simulated cloud.
    pub cloud: sim::Config,
    /// Days of history that the ledger keeps.
    pub history_days: u32,
    /// Where the kubelet API listens.
    pub kubelet: KubeletConfig,
    /// The admission webhook.
    pub webhook: WebhookConfig,
}

/// One virtual node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// `metadata.name`.
    pub name: NodeName,
    /// Its zone; there is a vSwitch in it.
    pub zone: Zone,
    /// What it stands for.
    pub node_type: NodeType,
    /// Index of the entry of `nodes` it comes from.
    pub entry: usize,
    /// Port of its kubelet API: `kubelet.port` plus `entry`.
    pub kubelet_port: u16,
    /// Whether other nodes have that port too (entries with `count`).
    pub shared_port: bool,
}

/// What every node offers to the scheduler, as Kubernetes quantities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Cores.
    pub cpu: String,
    /// Bytes.
    pub memory: String,
    /// Pods. Never derived from a vSwitch: the scheduler would hide that addresses ran out.
    pub pods: u32,
}

/// How long a pod stays in each stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    /// From bound to ContainerCreating.
    pub creating: SignedDuration,
    /// From ContainerCreating to Running.
    pub running: SignedDuration,
    /// From deleted until the containers have stopped.
    pub stop: SignedDuration,
}

/// Where the kubelet API listens, and what it serves to anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeletConfig {
    /// Address of all nodes, also published as their InternalIP.
    pub address: IpAddr,
    /// Port of the first entry of `nodes`.
    pub port: u16,
    /// Paths served without a caller's identity.
    pub anonymous: Vec<String>,
}

/// The admission webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// Address it listens on.
    pub address: IpAddr,
    /// Port it listens on; 0: any free one.
    pub port: u16,
    /// Whether pods that opt in are kept off other nodes.
    pub bind: bool,
    /// Whether a pod with a kept address is pinned to its zone.
    pub zone_pin: bool,
    /// Whether the first container of a CPU pod gets what its instance has beyond the requests.
    pub surplus: bool,
    /// What the API server does with an opted-in pod when the webhook is away.
    pub failure_policy: FailurePolicy,
    /// How the API server reaches it inside the cluster; `None`: by URL.
    pub service: Option<ServiceRef>,
}

/// A Service of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The port of the Service.
    pub port: u16,
}

/// Where the variables come from that addresses of the file name, such as `$(POD_IP)`.
#[derive(Clone, Copy)]
pub enum Environment<'a> {
    /// Whoever listens at the addresses needs them all.
    Given(&'a dyn Fn(&str) -> Option<String>),
    /// A command that listens nowhere runs elsewhere, without them.
    Unused,
}

/// The environment of this process.
pub const PROCESS: Environment<'static> = Environment::Given(&|name| std::env::var(name).ok());

impl Config {
    /// Reads and checks the file at `path`, for a command that listens nowhere.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::load_with(path, Environment::Unused)
    }

    /// Reads and checks the file at `path`, with the variables that it names.
    pub fn load_with(path: &Path, environment: Environment<'_>) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path, environment)
    }

    /// Checks `text`; `path` only appears in the refusals.
    pub fn parse(text: &str, path: &Path, environment: Environment<'_>) -> Result<Self, Error> {
        let refused = |refusals| {
            Error::Refused(Refused {
                path: path.to_owned(),
                refusals,
            })
        };
        let raw = raw::parse(text).map_err(|refusal| refused(vec![refusal]))?;
        check::config(&raw, environment).map_err(refused)
    }

    /// The keys in which it differs from `running` and which only a start takes over.
    pub fn left_for_a_start(&self, running: &Self) -> Vec<&'static str> {
        let keys = [
            ("cluster", self.cluster != running.cluster),
            ("region", self.region != running.region),
            ("vpc", self.vpc != running.vpc),
            ("ledger", self.ledger != running.ledger),
            ("profile", self.profile != running.profile),
            ("nodes", self.nodes != running.nodes),
            (
                "fixedIP.unsupportedClass",
                self.unsupported_class != running.unsupported_class,
            ),
            ("capacity", self.capacity != running.capacity),
            ("delays", self.delays != running.delays),
            ("kubelet", self.kubelet != running.kubelet),
            ("webhook", self.webhook != running.webhook),
        ];
        let changed = keys.into_iter().filter(|(_, differs)| *differs);
        changed.map(|(key, _)| key).collect()
    }

    /// The first node of the process that runs on `running` for whose pods this file, read at SIGHUP, has no vSwitch any
    /// more: nodes go only at a start, so they would go on attracting pods that get no address.
    pub fn without_vswitch<'a>(&self, running: &'a Self) -> Option<&'a NodeSpec> {
        let zones: BTreeSet<_> = self.vswitches.iter().map(|vswitch| &vswitch.zone).collect();
        running
            .nodes
            .iter()
            .find(|node| !zones.contains(&node.zone))
    }

    /// What the provider needs of it.
    pub fn settings(&self, cluster: ClusterId) -> Settings {
        Settings {
            cluster,
            region: self.region.clone(),
            vpc: self.vpc.clone(),
            vswitches: self.vswitches.clone(),
            retention: self.retention,
            cloud: self.cloud.clone(),
            history_days: self.history_days,
        }
    }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file says something that cannot be done.
    #[error("{0}")]
    Refused(Refused),
}

/// Everything that is wrong with a file, one line each: `path:line:column: reason`.
#[derive(Debug)]
pub struct Refused {
    path: PathBuf,
    refusals: Vec<Refusal>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (
            index,
            Refusal {
                line,
                column,
                reason,
            },
        ) in self.refusals.iter().enumerate()
        {
            let separator = if index == 0 { "" } else { "\n" };
            write!(
                f,
                "{separator}{}:{line}:{column}: {reason}",
                self.path.display()
            )?;
        }
        Ok(())
    }
}

/// One thing that is wrong, and where (both counted from 1).
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Refusal {
    line: u64,
    column: u64,
    reason: String,
}
