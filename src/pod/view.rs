//! A pod as far as this program reads it.
//!
//! Owns which fields are decoded; everything else in a pod is skipped by the parser. A whole
//! `Pod` of k8s-openapi costs 35 kB and most of the time of a list. Views are read once and
//! dropped: what is kept of them is a [`Record`](super::record::Record).

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_provider::policy::use_spec;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NodeAffinity, Pod, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use serde::{Deserialize, Deserializer, Serialize};

use super::quantity;

/// A pod, as the API server sends it, without what is never read.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PodView {
    /// Without `managedFields`, which can be larger than the rest of the pod.
    #[serde(deserialize_with = "lean_metadata")]
    pub metadata: ObjectMeta,
    /// What its maker asked for.
    #[serde(default)]
    pub spec: Spec,
    /// What was last reported of it.
    #[serde(default)]
    pub status: Status,
    /// All of it as it was sent, if that was protobuf; empty otherwise.
    #[serde(skip)]
    pub encoded: Bytes,
}

impl Resource for PodView {
    type DynamicType = ();
    type Scope = <Pod as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        Pod::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        Pod::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        Pod::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        Pod::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

fn lean_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Lean {
        annotations: Option<BTreeMap<String, String>>,
        creation_timestamp: Option<Time>,
        deletion_grace_period_seconds: Option<i64>,
        deletion_timestamp: Option<Time>,
        finalizers: Option<Vec<String>>,
        generation: Option<i64>,
        labels: Option<BTreeMap<String, String>>,
        name: Option<String>,
        namespace: Option<String>,
        owner_references: Option<Vec<OwnerReference>>,
        resource_version: Option<String>,
        uid: Option<String>,
    }
    let lean = Lean::deserialize(deserializer)?;
    Ok(ObjectMeta {
        annotations: lean.annotations,
        creation_timestamp: lean.creation_timestamp,
        deletion_grace_period_seconds: lean.deletion_grace_period_seconds,
        deletion_timestamp: lean.deletion_timestamp,
        finalizers: lean.finalizers,
        generation: lean.generation,
        labels: lean.labels,
        name: lean.name,
        namespace: lean.namespace,
        owner_references: lean.owner_references,
        resource_version: lean.resource_version,
        uid: lean.uid,
        ..ObjectMeta::default()
    })
}

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
    /// `Always` makes an init container a sidecar.
    pub restart_policy: Option<String>,
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

/// `status` of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Where it is in its life.
    pub phase: Phase,
    /// Why it is there, such as `Evicted`.
    pub reason: Option<String>,
    /// Its address.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// All its addresses, the same one first.
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<Ip>,
    /// Its node's address.
    #[serde(rename = "hostIP")]
    pub host_ip: Option<String>,
    /// All addresses of its node, the same one first.
    #[serde(rename = "hostIPs")]
    pub host_ips: Vec<Ip>,
    /// When a node first took notice of it.
    pub start_time: Option<Timestamp>,
    /// The generation of the specification that this status speaks of.
    pub observed_generation: Option<i64>,
    /// Ours and those of others.
    pub conditions: Vec<Condition>,
    /// Empty until containers are being created.
    pub container_statuses: Vec<ContainerStatus>,
    /// Empty until containers are being created.
    pub init_container_statuses: Vec<ContainerStatus>,
    /// Of the containers that were added since.
    pub ephemeral_container_statuses: Vec<ContainerStatus>,
}

/// `status.phase` of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not all containers have been started.
    #[default]
    Pending,
    /// Bound, and at least one container runs or is being restarted.
    Running,
    /// Ended well. Never left again.
    Succeeded,
    /// Ended badly. Never left again.
    Failed,
    /// The node could not be asked.
    #[serde(other)]
    Unknown,
}

impl Phase {
    /// Whether the pod has ended for good.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// One entry of `podIPs` or `hostIPs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Ip {
    /// The address, as text: one pod with an odd one must not spoil a whole list.
    pub ip: String,
}

/// One entry of `status.conditions`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One word for the present status.
    #[serde(default)]
    pub reason: String,
    /// One sentence for people.
    #[serde(default)]
    pub message: String,
    /// When `status` last changed.
    #[serde(default)]
    pub last_transition_time: Option<Timestamp>,
    /// The generation of the specification that it speaks of.
    #[serde(default)]
    pub observed_generation: Option<i64>,
}

/// `status` of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody can tell.
    #[serde(other)]
    Unknown,
}

/// The status of one container or init container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// Which one.
    pub name: String,
    /// What it is doing.
    pub state: ContainerState,
    /// Whether it counts for the readiness of the pod; of an init container: whether it is done.
    pub ready: bool,
    /// Whether it runs and its startup probe has passed.
    pub started: Option<bool>,
    /// How often it was started again.
    pub restart_count: i32,
    /// The image it runs.
    pub image: String,
    /// The image as the runtime knows it.
    #[serde(rename = "imageID")]
    pub image_id: String,
    /// `<runtime>://<id>`, absent until it is created.
    #[serde(rename = "containerID")]
    pub container_id: Option<String>,
    /// How it ended before it was started again.
    pub last_state: ContainerState,
    /// What it was last given, once that could be changed.
    pub resources: Option<Resources>,
}

/// What a container is doing: at most one of the three is set, none means waiting.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    /// Not started.
    pub waiting: Option<Waiting>,
    /// Started and not ended.
    pub running: Option<Running>,
    /// Ended.
    pub terminated: Option<Terminated>,
}

/// Details of a container that is not started.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Waiting {
    /// One word, which kubectl shows as the pod's STATUS.
    pub reason: ContainerReason,
    /// One sentence for people.
    pub message: Option<String>,
}

/// Details of a container that runs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Running {
    /// Since when.
    pub started_at: Option<Timestamp>,
}

/// Details of a container that has ended.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Terminated {
    /// Of its first process.
    pub exit_code: i32,
    /// One word, which kubectl shows as the pod's STATUS.
    pub reason: ContainerReason,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// Why a container waits or has ended. Only the reasons that are written here are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerReason {
    /// The network is there, the container not yet.
    ContainerCreating,
    /// Init containers come first.
    PodInitializing,
    /// Ended with exit code 0.
    Completed,
    /// Ended with another exit code.
    Error,
    /// Killed because it used more memory than it may.
    #[serde(rename = "OOMKilled")]
    OomKilled,
    /// Its image could not be pulled.
    ErrImagePull,
    /// Its image could not be pulled and is tried again later.
    ImagePullBackOff,
    /// Ended too often and is started again later.
    CrashLoopBackOff,
    /// What its variables are made of is missing.
    CreateContainerConfigError,
    /// Nothing is known of it, it was never started.
    ContainerStatusUnknown,
    /// Any other.
    #[default]
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_view_is_asked_for_where_pods_are() {
        assert_eq!(
            PodView::url_path(&(), Some("shop")),
            "/api/v1/namespaces/shop/pods"
        );
        assert_eq!(
            (PodView::kind(&()), PodView::api_version(&())),
            ("Pod".into(), "v1".into())
        );
    }

    #[test]
    fn a_view_reads_what_it_needs_and_skips_the_rest() {
        let view: PodView = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web-0", "namespace": "shop", "uid": "u", "resourceVersion": "7",
                "creationTimestamp": "2026-11-24T10:00:00Z",
                "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": {
                "nodeName": "n", "restartPolicy": "OnFailure", "volumes": [{"name": "v"}],
                "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}],
                "initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always"}],
            },
            "status": {
                "phase": "Failed", "reason": "Evicted", "qosClass": "Burstable",
                "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
                "conditions": [{"type": "Ready", "status": "False", "lastProbeTime": null, "lastTransitionTime": null}],
                "containerStatuses": [{
                    "name": "c", "ready": false, "restartCount": 2, "image": "i", "imageID": "",
                    "lastState": {}, "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                }],
            },
        }))
        .unwrap();

        assert_eq!(view.metadata.managed_fields, None);
        assert_eq!(view.spec.restart_policy, RestartPolicy::OnFailure);
        assert!(view.spec.init_containers[0].is_sidecar());
        assert_eq!(view.spec.containers[0].resources.requests["cpu"], "1");
        assert_eq!(view.status.phase, Phase::Failed);
        assert_eq!(view.status.conditions[0].status, ConditionStatus::False);
        let terminated = view.status.container_statuses[0]
            .state
            .terminated
            .as_ref()
            .unwrap();
        assert_eq!(
            (terminated.exit_code, terminated.reason),
            (137, ContainerReason::OomKilled)
        );
    }

    #[test]
    fn an_empty_pod_is_pending() {
        let view: PodView = serde_json::from_str(r#"{"metadata":{}}"#).unwrap();
        assert_eq!(view.status.phase, Phase::Pending);
    }
}
