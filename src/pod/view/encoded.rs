//! How a view is read out of protobuf.
//!
//! Owns no choice of fields: what a view has in JSON has its number here. The numbers are those of Kubernetes 1.36,
//! `k8s.io/api/core/v1/generated.proto` and `k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto`; a number that was
//! once given is never changed.

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::{
    Affinity, Condition, Container, ContainerState, ContainerStatus, EnvFrom, EnvSource, EnvVar,
    ExitCodes, GoneMetadata, GoneView, Ip, KeyRef, NodeAffinity, ObjectFiles, PodView, Projected,
    Projection, ReadinessGate, Resources, RestartRule, Running, Spec, Status, Terminated, Volume,
    Waiting,
};
use crate::pod::protobuf::Error;
use crate::pod::protobuf::read::{Field, Read};

/// Says for each field of a message where it goes.
macro_rules! read {
    ($type:ty as $name:literal, |$to:ident, $field:ident| { $($number:literal => $take:expr,)* }) => {
        impl Read for $type {
            const NAME: &'static str = $name;

            fn take(&mut self, $field: &Field<'_>) -> Result<(), Error> {
                let $to = self;
                match $field.number {
                    $($number => $take,)*
                    _ => {}
                }
                Ok(())
            }
        }
    };
}

read!(PodView as "Pod", |to, field| {
    1 => field.read_into(&mut to.metadata)?,
    2 => field.read_into(&mut to.spec)?,
    3 => field.read_into(&mut to.status)?,
});

read!(GoneView as "Pod", |to, field| {
    1 => field.read_into(&mut to.metadata)?,
});

read!(ObjectMeta as "ObjectMeta", |to, field| {
    1 => to.name = field.some_text()?,
    3 => to.namespace = field.some_text()?,
    5 => to.uid = field.some_text()?,
    6 => to.resource_version = field.some_text()?,
    7 => to.generation = field.count()?,
    8 => to.creation_timestamp = field.time()?.map(Time),
    9 => to.deletion_timestamp = field.time()?.map(Time),
    10 => to.deletion_grace_period_seconds = Some(field.int64()?),
    11 => field.text_entry(to.labels.get_or_insert_default())?,
    12 => field.text_entry(to.annotations.get_or_insert_default())?,
    14 => to.finalizers.get_or_insert_default().push(field.text()?),
});

read!(GoneMetadata as "ObjectMeta", |to, field| {
    5 => to.uid = field.some_text()?,
    6 => to.resource_version = field.some_text()?,
    9 => to.deletion_timestamp = field.time()?.map(Time),
    10 => to.deletion_grace_period_seconds = Some(field.int64()?),
});

read!(Spec as "PodSpec", |to, field| {
    1 => to.volumes.push(field.message()?),
    2 => to.containers.push(field.message()?),
    3 => to.restart_policy = field.name()?,
    4 => to.termination_grace_period_seconds = Some(field.int64()?),
    5 => to.active_deadline_seconds = Some(field.int64()?),
    10 => to.node_name = field.some_text()?,
    11 => to.host_network = field.flag()?,
    18 => field.read_into(to.affinity.get_or_insert_default())?,
    20 => to.init_containers.push(field.message()?),
    22 => to.tolerations.push(field.message()?),
    28 => to.readiness_gates.push(field.message()?),
    34 => to.ephemeral_containers.push(field.message::<Ephemeral>()?.0),
});

read!(Container as "Container", |to, field| {
    1 => to.name = field.text()?,
    2 => to.image = field.text()?,
    7 => to.env.push(field.message()?),
    8 => field.read_into(&mut to.resources)?,
    19 => to.env_from.push(field.message()?),
    24 => to.restart_policy = field.some_text()?,
    25 => to.restart_policy_rules.push(field.message()?),
});

read!(RestartRule as "ContainerRestartRule", |to, field| {
    2 => field.read_into(to.exit_codes.get_or_insert_default())?,
});

read!(ExitCodes as "ContainerRestartRuleOnExitCodes", |to, field| {
    1 => to.operator = field.text()?,
    2 => to.values.push(field.int32()?),
});

/// Its common part has the numbers of a container.
#[derive(Default)]
struct Ephemeral(Container);

read!(Ephemeral as "EphemeralContainer", |to, field| {
    1 => field.read_into(&mut to.0)?,
});

read!(EnvVar as "EnvVar", |to, field| {
    3 => field.read_into(to.value_from.get_or_insert_default())?,
});

read!(EnvSource as "EnvVarSource", |to, field| {
    3 => field.read_into(&mut Selector(to.config_map_key_ref.get_or_insert_default()))?,
    4 => field.read_into(&mut Selector(to.secret_key_ref.get_or_insert_default()))?,
});

read!(EnvFrom as "EnvFromSource", |to, field| {
    2 => field.read_into(&mut Whole(to.config_map_ref.get_or_insert_default()))?,
    3 => field.read_into(&mut Whole(to.secret_ref.get_or_insert_default()))?,
});

/// `ConfigMapKeySelector` or `SecretKeySelector`.
struct Selector<'a>(&'a mut KeyRef);

read!(Selector<'_> as "KeySelector", |to, field| {
    1 => field.read_into(&mut Reference(&mut to.0.name))?,
    2 => to.0.key = field.some_text()?,
    3 => to.0.optional = Some(field.flag()?),
});

/// `ConfigMapEnvSource` or `SecretEnvSource`.
struct Whole<'a>(&'a mut KeyRef);

read!(Whole<'_> as "EnvSource", |to, field| {
    1 => field.read_into(&mut Reference(&mut to.0.name))?,
    2 => to.0.optional = Some(field.flag()?),
});

/// The name in it.
struct Reference<'a>(&'a mut String);

read!(Reference<'_> as "LocalObjectReference", |to, field| {
    1 => *to.0 = field.text()?,
});

read!(Volume as "Volume", |to, field| {
    1 => to.name = field.text()?,
    2 => field.read_into(&mut Source(to))?,
});

/// What a volume is made of.
struct Source<'a>(&'a mut Volume);

read!(Source<'_> as "VolumeSource", |to, field| {
    6 => field.read_into(&mut SecretFiles(to.0.secret.get_or_insert_default()))?,
    19 => field.read_into(to.0.config_map.get_or_insert_default())?,
    26 => field.read_into(to.0.projected.get_or_insert_default())?,
});

/// `SecretVolumeSource`.
struct SecretFiles<'a>(&'a mut ObjectFiles);

read!(SecretFiles<'_> as "SecretVolumeSource", |to, field| {
    1 => to.0.secret_name = field.text()?,
    2 => to.0.items.push(field.message::<Path>()?.0),
    4 => to.0.optional = Some(field.flag()?),
});

// `ConfigMapVolumeSource`, `ConfigMapProjection` and `SecretProjection`.
read!(ObjectFiles as "Projection", |to, field| {
    1 => field.read_into(&mut Reference(&mut to.name))?,
    2 => to.items.push(field.message::<Path>()?.0),
    4 => to.optional = Some(field.flag()?),
});

/// A key that is mounted.
#[derive(Default)]
struct Path(KeyRef);

read!(Path as "KeyToPath", |to, field| {
    1 => to.0.key = field.some_text()?,
});

read!(Projected as "ProjectedVolumeSource", |to, field| {
    1 => to.sources.push(field.message()?),
});

read!(Projection as "VolumeProjection", |to, field| {
    1 => field.read_into(to.secret.get_or_insert_default())?,
    3 => field.read_into(to.config_map.get_or_insert_default())?,
});

read!(Resources as "ResourceRequirements", |to, field| {
    1 => field.quantity_entry(&mut to.limits)?,
    2 => field.quantity_entry(&mut to.requests)?,
});

read!(ReadinessGate as "PodReadinessGate", |to, field| {
    1 => to.condition_type = field.text()?,
});

read!(Toleration as "Toleration", |to, field| {
    1 => to.key = field.some_text()?,
    2 => to.operator = field.some_text()?,
    3 => to.value = field.some_text()?,
    4 => to.effect = field.some_text()?,
    5 => to.toleration_seconds = Some(field.int64()?),
});

read!(Affinity as "Affinity", |to, field| {
    1 => field.read_into(to.node_affinity.get_or_insert_default())?,
});

read!(NodeAffinity as "NodeAffinity", |to, field| {
    1 => field.read_into(to.required.get_or_insert_default())?,
});

read!(NodeSelector as "NodeSelector", |to, field| {
    1 => to.node_selector_terms.push(field.message()?),
});

read!(NodeSelectorTerm as "NodeSelectorTerm", |to, field| {
    1 => to.match_expressions.get_or_insert_default().push(field.message()?),
    2 => to.match_fields.get_or_insert_default().push(field.message()?),
});

read!(NodeSelectorRequirement as "NodeSelectorRequirement", |to, field| {
    1 => to.key = field.text()?,
    2 => to.operator = field.text()?,
    3 => to.values.get_or_insert_default().push(field.text()?),
});

read!(Status as "PodStatus", |to, field| {
    1 => to.phase = field.name()?,
    2 => to.conditions.push(field.message()?),
    4 => to.reason = field.some_text()?,
    5 => to.host_ip = field.some_text()?,
    6 => to.pod_ip = field.some_text()?,
    7 => to.start_time = field.time()?,
    8 => to.container_statuses.push(field.message()?),
    10 => to.init_container_statuses.push(field.message()?),
    12 => to.pod_ips.push(field.message()?),
    13 => to.ephemeral_container_statuses.push(field.message()?),
    16 => to.host_ips.push(field.message()?),
    17 => to.observed_generation = field.count()?,
});

// `PodIP` and `HostIP`.
read!(Ip as "IP", |to, field| {
    1 => to.ip = field.text()?,
});

read!(Condition as "PodCondition", |to, field| {
    1 => to.kind = field.text()?,
    2 => to.status = field.name()?,
    4 => to.last_transition_time = field.time()?,
    5 => to.reason = field.text()?,
    6 => to.message = field.text()?,
    7 => to.observed_generation = field.count()?,
});

read!(ContainerStatus as "ContainerStatus", |to, field| {
    1 => to.name = field.text()?,
    2 => field.read_into(&mut to.state)?,
    3 => field.read_into(&mut to.last_state)?,
    4 => to.ready = field.flag()?,
    5 => to.restart_count = field.int32()?,
    6 => to.image = field.text()?,
    7 => to.image_id = field.text()?,
    8 => to.container_id = field.some_text()?,
    9 => to.started = Some(field.flag()?),
    11 => field.read_into(to.resources.get_or_insert_default())?,
});

read!(ContainerState as "ContainerState", |to, field| {
    1 => field.read_into(to.waiting.get_or_insert_default())?,
    2 => field.read_into(to.running.get_or_insert_default())?,
    3 => field.read_into(to.terminated.get_or_insert_default())?,
});

read!(Waiting as "ContainerStateWaiting", |to, field| {
    1 => to.reason = field.name()?,
    2 => to.message = field.some_text()?,
});

read!(Running as "ContainerStateRunning", |to, field| {
    1 => to.started_at = field.time()?,
});

read!(Terminated as "ContainerStateTerminated", |to, field| {
    1 => to.exit_code = field.int32()?,
    3 => to.reason = field.name()?,
    5 => to.started_at = field.time()?,
    6 => to.finished_at = field.time()?,
});
