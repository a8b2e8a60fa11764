//! The Node object: what a new one holds, and the patches that keep an existing one right.
//! Pure; [`super::plan`] decides which of them is due.

use std::collections::BTreeMap;

use holdfast_provider::id::NodeType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec as ApiSpec,
    NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Map, Value, json};

use super::view::NodeView;
use crate::config::{Capacity, Config, NodeSpec};

/// Label that all nodes of holdfast carry: `acs` or `ecs`.
pub const NODE_TYPE_LABEL: &str = "holdfast.dev/node-type";
/// Label that makes a node a virtual one for Terway, autoscalers and DaemonSets.
pub const VIRTUAL_TYPE_LABEL: &str = "type";
/// Its value on ACS nodes; simulated ECS nodes lack the label.
pub const VIRTUAL_TYPE_VALUE: &str = "virtual-kubelet";
/// Beginning of `spec.providerID`. Cloud controllers delete nodes that have no provider id.
pub const PROVIDER_SCHEME: &str = "holdfast://";

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const REGION_LABEL: &str = "topology.kubernetes.io/region";
/// Where metrics-server finds the metrics of a node that shares its port (its README,
/// "Configuration": annotation of the node).
pub(super) const METRICS_PATH: &str = "metrics.k8s.io/resource-metrics-path";
/// Annotation of a node by which somebody shuts it down, and without which it is up again.
pub(super) const SHUTDOWN: &str = "holdfast.dev/shutdown";
/// Its only value.
pub(super) const GRACEFUL: &str = "graceful";
/// A condition that route controllers own where there are some; so it is only filled in.
const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";
/// What an ECI node in the field shows; nothing here uses storage.
const EPHEMERAL_STORAGE: &str = "60000Gi";

/// Type, status, reason and message as a healthy kubelet reports them.
const CONDITIONS: [(&str, &str, &str, &str); 5] = [
    ("Ready", "True", "KubeletReady", "kubelet is ready."),
    (
        "MemoryPressure",
        "False",
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
    ),
    (
        "DiskPressure",
        "False",
        "KubeletHasNoDiskPressure",
        "kubelet has no disk pressure",
    ),
    (
        "PIDPressure",
        "False",
        "KubeletHasSufficientPID",
        "kubelet has sufficient PID available",
    ),
    (
        NETWORK_UNAVAILABLE,
        "False",
        "RouteCreated",
        "pods have network interfaces of their own",
    ),
];

/// Ready of a node that shuts down (kubernetes/kubernetes, pkg/kubelet/nodestatus/setters.go).
const SHUTTING_DOWN: (&str, &str, &str, &str) =
    ("Ready", "False", "KubeletNotReady", "node is shutting down");

/// What all nodes of the process have in common.
#[derive(Clone, Debug)]
pub(super) struct Template {
    region: String,
    address: String,
    capacity: Capacity,
    kubelet_version: String,
}

impl Template {
    /// `server_version` is `gitVersion` of the API server: version-skew tools compare the two.
    pub(super) fn new(config: &Config, server_version: &str) -> Self {
        let release = server_version
            .split(['-', '+'])
            .next()
            .unwrap_or(server_version);
        Self {
            region: config.region.clone(),
            address: config.kubelet.address.to_string(),
            capacity: config.capacity.clone(),
            kubelet_version: format!("{release}-aliyun.1"),
        }
    }

    /// A node that does not exist yet. The API server keeps the status of a new node.
    pub(super) fn node(&self, spec: &NodeSpec, now: Timestamp) -> Node {
        let text = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let mut labels = self.identity_labels(spec);
        labels.extend(
            [
                ("kubernetes.io/role", "agent"),
                (
                    "node.kubernetes.io/exclude-from-external-load-balancers",
                    "",
                ),
            ]
            .map(text),
        );
        let annotations =
            metrics_path(spec).map(|path| BTreeMap::from([(METRICS_PATH.to_owned(), path)]));
        Node {
            metadata: ObjectMeta {
                name: Some(spec.name.to_string()),
                labels: Some(labels),
                annotations,
                ..ObjectMeta::default()
            },
            spec: Some(ApiSpec {
                provider_id: Some(self.provider_id(spec)),
                taints: Some(vec![taint(spec.node_type)]),
                ..ApiSpec::default()
            }),
            status: Some(self.status(spec, false, now)),
        }
    }

    /// Brings identity back, or `None` when it is intact. A JSON merge patch.
    pub(super) fn metadata_patch(&self, spec: &NodeSpec, seen: &NodeView) -> Option<Value> {
        let mut labels = Map::new();
        for (key, value) in self.identity_labels(spec) {
            if seen.label(&key) != Some(&value) {
                labels.insert(key, value.into());
            }
        }
        let poses_as_virtual = seen.label(VIRTUAL_TYPE_LABEL) == Some(VIRTUAL_TYPE_VALUE);
        if spec.node_type == NodeType::Ecs && poses_as_virtual {
            labels.insert(VIRTUAL_TYPE_LABEL.to_owned(), Value::Null);
        }

        let mut patch = json!({"metadata": {"uid": seen.uid()}});
        let mut due = !labels.is_empty();
        if due {
            patch["metadata"]["labels"] = labels.into();
        }
        if let Some(path) = metrics_path(spec)
            && seen.annotation(METRICS_PATH) != Some(&path)
        {
            patch["metadata"]["annotations"] = json!({METRICS_PATH: path});
            due = true;
        }
        // Once set it cannot be changed (ValidateNodeUpdate).
        if seen.provider_id().is_empty() {
            patch["spec"] = json!({"providerID": self.provider_id(spec)});
            due = true;
        }
        due.then_some(patch)
    }

    /// Whether the status of `seen` differs from what it should be, heartbeats aside.
    pub(super) fn status_differs(seen: &NodeView) -> bool {
        wanted(seen.is_shutting_down())
            .iter()
            .any(|&(kind, status, ..)| match seen.condition(kind) {
                Some(found) => kind != NETWORK_UNAVAILABLE && found != status,
                None => true,
            })
    }

    /// The whole status with a new heartbeat. A strategic merge patch: conditions and addresses
    /// merge by type and resources by name, so foreign ones stay.
    pub(super) fn status_patch(&self, spec: &NodeSpec, seen: &NodeView, now: Timestamp) -> Value {
        let mut status = self.status(spec, seen.is_shutting_down(), now);
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain_mut(|condition| {
            let found = seen.condition(&condition.type_);
            if found == Some(&condition.status) {
                // Left out, it keeps the time of the real transition.
                condition.last_transition_time = None;
            }
            condition.type_ != NETWORK_UNAVAILABLE || found.is_none()
        });
        json!({"metadata": {"uid": seen.uid()}, "status": status})
    }

    fn identity_labels(&self, spec: &NodeSpec) -> BTreeMap<String, String> {
        let virtual_type = (VIRTUAL_TYPE_LABEL, VIRTUAL_TYPE_VALUE);
        [
            (NODE_TYPE_LABEL, spec.node_type.as_str()),
            ("kubernetes.io/hostname", spec.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", "amd64"),
            (ZONE_LABEL, spec.zone.as_str()),
            (REGION_LABEL, &self.region),
        ]
        .into_iter()
        .chain((spec.node_type == NodeType::Acs).then_some(virtual_type))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
    }

    fn provider_id(&self, spec: &NodeSpec) -> String {
        format!(
            "{PROVIDER_SCHEME}{}/{}/{}",
            self.region, spec.zone, spec.name
        )
    }

    fn status(&self, spec: &NodeSpec, shuts_down: bool, now: Timestamp) -> NodeStatus {
        let resources: BTreeMap<_, _> = [
            ("cpu", self.capacity.cpu.clone()),
            ("memory", self.capacity.memory.clone()),
            ("pods", self.capacity.pods.to_string()),
            ("ephemeral-storage", EPHEMERAL_STORAGE.to_owned()),
        ]
        .map(|(name, quantity)| (name.to_owned(), Quantity(quantity)))
        .into();
        let address = |kind: &str, address: &str| NodeAddress {
            type_: kind.to_owned(),
            address: address.to_owned(),
        };
        NodeStatus {
            addresses: Some(vec![
                address("InternalIP", &self.address),
                address("Hostname", spec.name.as_str()),
            ]),
            allocatable: Some(resources.clone()),
            capacity: Some(resources),
            conditions: Some(conditions(shuts_down, now)),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint {
                    port: spec.kubelet_port.into(),
                }),
            }),
            // The API server then hands WebSocket sessions on as they are, instead of as SPDY.
            declared_features: Some(vec!["ExtendWebSocketsToKubelet".to_owned()]),
            node_info: Some(self.node_info(spec)),
            ..NodeStatus::default()
        }
    }

    fn node_info(&self, spec: &NodeSpec) -> NodeSystemInfo {
        NodeSystemInfo {
            architecture: "amd64".to_owned(),
            operating_system: "linux".to_owned(),
            os_image: "holdfast virtual node".to_owned(),
            kernel_version: "0.0.0-simulated".to_owned(),
            kubelet_version: self.kubelet_version.clone(),
            container_runtime_version: format!("{PROVIDER_SCHEME}{}", env!("CARGO_PKG_VERSION")),
            machine_id: spec.name.to_string(),
            system_uuid: spec.name.to_string(),
            boot_id: spec.name.to_string(),
            ..NodeSystemInfo::default()
        }
    }
}

/// Type, status, reason and message of all conditions.
fn wanted(shuts_down: bool) -> [(&'static str, &'static str, &'static str, &'static str); 5] {
    CONDITIONS.map(|condition| match condition {
        ("Ready", ..) if shuts_down => SHUTTING_DOWN,
        other => other,
    })
}

fn conditions(shuts_down: bool, now: Timestamp) -> Vec<NodeCondition> {
    wanted(shuts_down)
        .map(|(kind, status, reason, message)| NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(Time(now)),
        })
        .into()
}

/// Keeps pods away that did not ask for such a node.
fn taint(node_type: NodeType) -> Taint {
    let (key, value) = match node_type {
        NodeType::Acs => ("virtual-kubelet.io/provider", "alibabacloud"),
        NodeType::Ecs => ("holdfast.dev/simulated", "ecs"),
    };
    Taint {
        key: key.to_owned(),
        value: Some(value.to_owned()),
        effect: "NoSchedule".to_owned(),
        time_added: None,
    }
}

/// Only nodes that share a port need a path that names them.
fn metrics_path(spec: &NodeSpec) -> Option<String> {
    spec.shared_port
        .then(|| format!("/nodes/{}/metrics/resource", spec.name))
}
