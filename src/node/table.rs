//! The nodes as others see them: webhook, pods, kubelet API.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use holdfast_provider::id::NodeName;
use k8s_openapi::api::core::v1::Taint;
use tokio::sync::watch;

use super::view::NodeView;
use crate::config::{Config, NodeSpec};

/// A node as the API server last showed it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeState {
    /// As configured.
    pub spec: NodeSpec,
    /// Its InternalIP: the address of its kubelet API and of host-network pods.
    pub host_ip: IpAddr,
    /// `metadata.uid`; `None` while it is not registered, or when its name belongs to somebody else.
    pub uid: Option<Arc<str>>,
    /// All labels, foreign ones too.
    pub labels: BTreeMap<String, String>,
    /// All taints, foreign ones too.
    pub taints: Vec<Taint>,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Whether its condition Ready is True.
    pub ready: bool,
    /// Whether it is asked to shut down gracefully, by its annotation `holdfast.dev/shutdown`.
    pub shutting_down: bool,
}

impl NodeState {
    /// Whether there is a Node object of ours.
    pub fn is_registered(&self) -> bool {
        self.uid.is_some()
    }

    /// Whether it is there for pods that come, cordon and taints aside.
    pub fn is_up(&self) -> bool {
        self.is_registered() && !self.shutting_down
    }

    fn unregistered(spec: NodeSpec, host_ip: IpAddr) -> Self {
        Self {
            spec,
            host_ip,
            uid: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            unschedulable: false,
            ready: false,
            shutting_down: false,
        }
    }
}

/// All configured nodes, shared and kept fresh. Readers never wait for the API server.
#[derive(Clone, Debug)]
pub struct NodeTable {
    nodes: Arc<BTreeMap<NodeName, RwLock<Arc<NodeState>>>>,
    /// Whether all nodes that the API server has were seen once.
    listed: watch::Sender<bool>,
}

impl NodeTable {
    /// The nodes of `config`, none of them registered yet.
    pub fn new(config: &Config) -> Self {
        let host_ip = config.kubelet.address;
        let state = |spec: &NodeSpec| Arc::new(NodeState::unregistered(spec.clone(), host_ip));
        let nodes = config
            .nodes
            .iter()
            .map(|spec| (spec.name.clone(), RwLock::new(state(spec))))
            .collect();
        Self {
            nodes: Arc::new(nodes),
            listed: watch::Sender::new(false),
        }
    }

    /// The configured node called `name`.
    pub fn get(&self, name: &NodeName) -> Option<Arc<NodeState>> {
        self.nodes.get(name).map(read)
    }

    /// All configured nodes, by name.
    pub fn all(&self) -> Vec<Arc<NodeState>> {
        self.nodes.values().map(read).collect()
    }

    /// Waits until every node that the API server has was seen once.
    pub async fn listed(&self) {
        // The sender is this table's own, and outlives the wait.
        drop(self.listed.subscribe().wait_for(|listed| *listed).await);
    }

    /// All nodes that the API server has were seen.
    pub fn set_listed(&self) {
        self.listed
            .send_if_modified(|listed| !std::mem::replace(listed, true));
    }

    /// Takes over what the API server showed; `None`: no node of ours has that name.
    pub(super) fn update(&self, name: &NodeName, view: Option<&NodeView>) {
        let Some(slot) = self.nodes.get(name) else {
            return;
        };
        let old = read(slot);
        let mut new = NodeState::unregistered(old.spec.clone(), old.host_ip);
        if let Some(view) = view {
            new.uid = Some(view.uid().into());
            new.labels = view.labels();
            new.taints = view.taints().to_vec();
            new.unschedulable = view.unschedulable();
            new.shutting_down = view.is_shutting_down();
            new.ready = view.condition("Ready") == Some("True");
        }
        if *old != new {
            *slot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        }
    }
}

fn read(slot: &RwLock<Arc<NodeState>>) -> Arc<NodeState> {
    // A poisoned slot still holds a whole value: writers only replace it.
    Arc::clone(&slot.read().unwrap_or_else(PoisonError::into_inner))
}
