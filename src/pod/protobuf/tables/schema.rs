//! The numbers of the fields that are read or written of a pod, those of Kubernetes 1.36,
//! `k8s.io/api/core/v1/generated.proto` and `k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto`.
//!
//! A test that reads a type with a field that is missing here fails.

use super::Kind::{
    Bool, Count, Embedded, Many, Number, Numbers, One, Quantities, Text, TextMap, Texts, Time,
};
use super::{Field, Kind, Message};

/// The number of a field that the type has for the sake of another message. No field has it.
const NONE: u32 = 0;

const fn f(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind }
}

/// `Pod`.
pub(crate) static POD: Message = &[
    f(1, "metadata", One(OBJECT_META)),
    f(2, "spec", One(POD_SPEC)),
    f(3, "status", One(POD_STATUS)),
];

static OBJECT_META: Message = &[
    f(1, "name", Text),
    f(3, "namespace", Text),
    f(5, "uid", Text),
    f(6, "resourceVersion", Text),
    f(7, "generation", Count),
    f(8, "creationTimestamp", Time),
    f(9, "deletionTimestamp", Time),
    f(10, "deletionGracePeriodSeconds", Number),
    f(11, "labels", TextMap),
    f(12, "annotations", TextMap),
    f(14, "finalizers", Texts),
];

static POD_SPEC: Message = &[
    f(1, "volumes", Many(VOLUME)),
    f(2, "containers", Many(CONTAINER)),
    f(3, "restartPolicy", Text),
    f(4, "terminationGracePeriodSeconds", Number),
    f(5, "activeDeadlineSeconds", Number),
    f(10, "nodeName", Text),
    f(11, "hostNetwork", Bool),
    f(18, "affinity", One(AFFINITY)),
    f(20, "initContainers", Many(CONTAINER)),
    f(22, "tolerations", Many(TOLERATION)),
    f(28, "readinessGates", Many(READINESS_GATE)),
    f(34, "ephemeralContainers", Many(EPHEMERAL_CONTAINER)),
];

static CONTAINER: Message = &[
    f(1, "name", Text),
    f(2, "image", Text),
    f(7, "env", Many(ENV_VAR)),
    f(8, "resources", One(RESOURCES)),
    f(19, "envFrom", Many(ENV_FROM)),
    f(24, "restartPolicy", Text),
    f(25, "restartPolicyRules", Many(RESTART_RULE)),
];

/// `ContainerRestartRule`.
static RESTART_RULE: Message = &[f(2, "exitCodes", One(EXIT_CODES))];

/// `ContainerRestartRuleOnExitCodes`.
static EXIT_CODES: Message = &[f(1, "operator", Text), f(2, "values", Numbers)];

/// `EphemeralContainer`, whose common part has the numbers of a container.
static EPHEMERAL_CONTAINER: Message = &[f(1, "", Embedded(CONTAINER))];

static ENV_VAR: Message = &[f(3, "valueFrom", One(ENV_SOURCE))];

static ENV_SOURCE: Message = &[
    f(3, "configMapKeyRef", One(KEY_REF)),
    f(4, "secretKeyRef", One(KEY_REF)),
];

static ENV_FROM: Message = &[
    f(2, "configMapRef", One(OBJECT_REF)),
    f(3, "secretRef", One(OBJECT_REF)),
];

static LOCAL_REFERENCE: Message = &[f(1, "name", Text)];

/// `ConfigMapKeySelector` and `SecretKeySelector`.
static KEY_REF: Message = &[
    f(1, "", Embedded(LOCAL_REFERENCE)),
    f(2, "key", Text),
    f(3, "optional", Bool),
];

/// `ConfigMapEnvSource` and `SecretEnvSource`.
static OBJECT_REF: Message = &[
    f(NONE, "key", Text),
    f(1, "", Embedded(LOCAL_REFERENCE)),
    f(2, "optional", Bool),
];

static VOLUME: Message = &[f(1, "name", Text), f(2, "", Embedded(VOLUME_SOURCE))];

static VOLUME_SOURCE: Message = &[
    f(6, "secret", One(SECRET_FILES)),
    f(19, "configMap", One(OBJECT_FILES)),
    f(26, "projected", One(PROJECTED)),
];

static SECRET_FILES: Message = &[
    f(NONE, "name", Text),
    f(1, "secretName", Text),
    f(2, "items", Many(KEY_TO_PATH)),
    f(4, "optional", Bool),
];

/// `ConfigMapVolumeSource`, `ConfigMapProjection` and `SecretProjection`.
static OBJECT_FILES: Message = &[
    f(NONE, "secretName", Text),
    f(1, "", Embedded(LOCAL_REFERENCE)),
    f(2, "items", Many(KEY_TO_PATH)),
    f(4, "optional", Bool),
];

static KEY_TO_PATH: Message = &[
    f(NONE, "name", Text),
    f(NONE, "optional", Bool),
    f(1, "key", Text),
];

static PROJECTED: Message = &[f(1, "sources", Many(PROJECTION))];

static PROJECTION: Message = &[
    f(1, "secret", One(OBJECT_FILES)),
    f(3, "configMap", One(OBJECT_FILES)),
];

static RESOURCES: Message = &[f(1, "limits", Quantities), f(2, "requests", Quantities)];

static READINESS_GATE: Message = &[f(1, "conditionType", Text)];

static TOLERATION: Message = &[
    f(1, "key", Text),
    f(2, "operator", Text),
    f(3, "value", Text),
    f(4, "effect", Text),
    f(5, "tolerationSeconds", Number),
];

static AFFINITY: Message = &[f(1, "nodeAffinity", One(NODE_AFFINITY))];

static NODE_AFFINITY: Message = &[f(
    1,
    "requiredDuringSchedulingIgnoredDuringExecution",
    One(NODE_SELECTOR),
)];

static NODE_SELECTOR: Message = &[f(1, "nodeSelectorTerms", Many(SELECTOR_TERM))];

static SELECTOR_TERM: Message = &[
    f(1, "matchExpressions", Many(SELECTOR_REQUIREMENT)),
    f(2, "matchFields", Many(SELECTOR_REQUIREMENT)),
];

static SELECTOR_REQUIREMENT: Message = &[
    f(1, "key", Text),
    f(2, "operator", Text),
    f(3, "values", Texts),
];

static POD_STATUS: Message = &[
    f(1, "phase", Text),
    f(2, "conditions", Many(CONDITION)),
    f(3, "message", Text),
    f(4, "reason", Text),
    f(5, "hostIP", Text),
    f(6, "podIP", Text),
    f(7, "startTime", Time),
    f(8, "containerStatuses", Many(CONTAINER_STATUS)),
    f(10, "initContainerStatuses", Many(CONTAINER_STATUS)),
    f(12, "podIPs", Many(IP)),
    f(13, "ephemeralContainerStatuses", Many(CONTAINER_STATUS)),
    f(16, "hostIPs", Many(IP)),
    f(17, "observedGeneration", Count),
];

/// `PodIP` and `HostIP`.
static IP: Message = &[f(1, "ip", Text)];

static CONDITION: Message = &[
    f(1, "type", Text),
    f(2, "status", Text),
    f(4, "lastTransitionTime", Time),
    f(5, "reason", Text),
    f(6, "message", Text),
    f(7, "observedGeneration", Count),
];

static CONTAINER_STATUS: Message = &[
    f(1, "name", Text),
    f(2, "state", One(CONTAINER_STATE)),
    f(3, "lastState", One(CONTAINER_STATE)),
    f(4, "ready", Bool),
    f(5, "restartCount", Count),
    f(6, "image", Text),
    f(7, "imageID", Text),
    f(8, "containerID", Text),
    f(9, "started", Bool),
    f(10, "allocatedResources", Quantities),
    f(11, "resources", One(RESOURCES)),
];

static CONTAINER_STATE: Message = &[
    f(1, "waiting", One(WAITING)),
    f(2, "running", One(RUNNING)),
    f(3, "terminated", One(TERMINATED)),
];

static WAITING: Message = &[f(1, "reason", Text), f(2, "message", Text)];

static RUNNING: Message = &[f(1, "startedAt", Time)];

static TERMINATED: Message = &[
    f(1, "exitCode", Count),
    f(3, "reason", Text),
    f(4, "message", Text),
    f(5, "startedAt", Time),
    f(6, "finishedAt", Time),
    f(7, "containerID", Text),
];

/// The first of `wanted` that a message does not have.
pub(super) fn missing(message: Message, wanted: &[&'static str]) -> Option<&'static str> {
    let has = |name: &str| {
        message.iter().any(|field| match field.kind {
            Embedded(inner) => inner.iter().any(|field| field.name == name),
            _ => field.name == name,
        })
    };
    wanted.iter().copied().find(|name| !has(name))
}
