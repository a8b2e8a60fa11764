//! What is read of a pod's specification. Owns the names of the fields; what they mean for the pod is no matter of it.

use std::collections::BTreeMap;

use holdfast_provider::policy::use_spec;
use k8s_openapi::api::core::v1::{NodeSelector, Toleration};
use serde::{Deserialize, Serialize};

use crate::pod::quantity;

/// `spec` of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// The node it is bound to; absent until it is scheduled.
    pub node_name: Option<String>,
    /// Whether it uses the node's network and address.
    pub host_network: bool,
    /// What happens when a container ends.
    pub restart_policy: RestartPolicy,
    /// In the order of the manifest, which their statuses keep.
    pub containers: Vec<Container>,
    /// Run before the containers, sidecars included.
    pub init_containers: Vec<Container>,
    /// Added to a running pod, by `kubectl debug` for one.
    pub ephemeral_containers: Vec<Container>,
    /// What its containers may mount.
    pub volumes: Vec<Volume>,
    /// How long it may last, from its start.
    pub active_deadline_seconds: Option<i64>,
    /// Conditions of others without which the pod is not ready.
    pub readiness_gates: Vec<ReadinessGate>,
    /// Taints it may stand on.
    pub tolerations: Vec<Toleration>,
    /// Where it may go.
    pub affinity: Option<Affinity>,
    /// Seconds between the stop signal and the kill of an ordinary deletion.
    pub termination_grace_period_seconds: Option<i64>,
}

/// `spec.affinity` of a pod, as far as it speaks of nodes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Affinity {
    /// Which nodes it requires.
    pub node_affinity: Option<NodeAffinity>,
}

/// `nodeAffinity` of a pod, without what it prefers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeAffinity {
    /// What the scheduler keeps to.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Option<NodeSelector>,
}

/// `spec.restartPolicy` of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum RestartPolicy {
    /// A service.
    #[default]
    Always,
    /// A job that may fail and be tried again in place.
    OnFailure,
    /// A job that is tried once.
    Never,
}

/// One container or init container of the specification.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Unique in the pod.
    pub name: String,
    /// As the manifest writes it.
    pub image: String,
    /// Whether it is started again, in place of what the pod says; `Always` makes an init container a sidecar.
    pub restart_policy: Option<String>,
    /// What counts before that.
    pub restart_policy_rules: Vec<RestartRule>,
    /// What it needs and what it may use.
    pub resources: Resources,
    /// Its variables, as far as they come out of other objects.
    pub env: Vec<EnvVar>,
    /// Objects of which each key is a variable.
    pub env_from: Vec<EnvFrom>,
}

impl Container {
    /// Whether an init container keeps running beside the containers
    /// (Kubernetes, "Sidecar Containers").
    pub fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }

    /// CPU and memory that it requests and that limit it.
    pub fn asks(&self) -> use_spec::Resources {
        self.resources.numbers()
    }
}

/// A rule after which ends a container is started again (Kubernetes, "Restart All Containers and Container Restart
/// Rules"). Its action is not read: each one that there is starts the container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RestartRule {
    /// The ends that it is about.
    pub exit_codes: Option<ExitCodes>,
}

/// Exit codes of a rule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ExitCodes {
    /// `In` or `NotIn`.
    pub operator: String,
    /// Which ones.
    pub values: Vec<i32>,
}

impl RestartRule {
    /// Whether it is about this end.
    pub fn matches(&self, exit_code: i32) -> bool {
        self.exit_codes.as_ref().is_some_and(|codes| {
            let is_named = codes.values.contains(&exit_code);
            match &*codes.operator {
                "In" => is_named,
                "NotIn" => !is_named,
                _ => false,
            }
        })
    }
}

/// One entry of `env`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvVar {
    /// Where the value comes from, unless it stands there.
    pub value_from: Option<EnvSource>,
}

/// `valueFrom` of a variable, as far as it names another object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvSource {
    /// A key of a ConfigMap.
    pub config_map_key_ref: Option<KeyRef>,
    /// A key of a Secret.
    pub secret_key_ref: Option<KeyRef>,
}

/// One entry of `envFrom`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvFrom {
    /// A whole ConfigMap.
    pub config_map_ref: Option<KeyRef>,
    /// A whole Secret.
    pub secret_ref: Option<KeyRef>,
}

/// A ConfigMap or Secret of the pod's namespace, or one of its keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct KeyRef {
    /// Its name.
    pub name: String,
    /// The key, where one is meant.
    pub key: Option<String>,
    /// Whether the pod may do without.
    pub optional: Option<bool>,
}

/// One entry of `spec.volumes`, as far as it is made of other objects.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// Unique in the pod.
    pub name: String,
    /// A ConfigMap's keys as files.
    pub config_map: Option<ObjectFiles>,
    /// A Secret's keys as files.
    pub secret: Option<ObjectFiles>,
    /// Several of them in one directory.
    pub projected: Option<Projected>,
}

/// `configMap` or `secret` of a volume or a projection.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectFiles {
    /// Its name, but for a Secret as a volume.
    pub name: String,
    /// The name of a Secret as a volume.
    pub secret_name: String,
    /// The keys that are mounted; all of them, when there are none here.
    pub items: Vec<KeyRef>,
    /// Whether the pod may do without.
    pub optional: Option<bool>,
}

/// `projected` of a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Projected {
    /// What is in it.
    pub sources: Vec<Projection>,
}

/// One entry of the sources of a projected volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Projection {
    /// A ConfigMap's keys as files.
    pub config_map: Option<ObjectFiles>,
    /// A Secret's keys as files.
    pub secret: Option<ObjectFiles>,
}

/// Quantities by resource name, as written, such as `500m` or `1Gi`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// What the scheduler counts.
    pub requests: BTreeMap<String, String>,
    /// What must not be exceeded.
    pub limits: BTreeMap<String, String>,
}

impl Resources {
    /// CPU and memory as numbers. What is no quantity counts as absent.
    pub fn numbers(&self) -> use_spec::Resources {
        let of = |list: &BTreeMap<String, String>, name: &str, read: fn(&str) -> Option<u64>| {
            list.get(name).and_then(|quantity| read(quantity))
        };
        let Self { requests, limits } = self;
        use_spec::Resources {
            cpu_request_milli: of(requests, "cpu", quantity::milli),
            cpu_limit_milli: of(limits, "cpu", quantity::milli),
            memory_request_bytes: of(requests, "memory", quantity::bytes),
            memory_limit_bytes: of(limits, "memory", quantity::bytes),
        }
    }
}

/// One entry of `spec.readinessGates`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadinessGate {
    /// The type of the condition that must be True.
    pub condition_type: String,
}
