//! A pod as far as this program reads it.
//!
//! Owns which fields are decoded; everything else in a pod is skipped by the parser. A whole
//! `Pod` of k8s-openapi costs 35 kB and most of the time of a list. Views are read once and
//! dropped: what is kept of them is a [`Record`](super::record::Record).

mod encoded;
mod spec;
mod status;

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::{Deserialize, Deserializer};

use super::protobuf::{self, read};

pub use self::spec::{
    Affinity, Container, EnvFrom, EnvSource, EnvVar, ExitCodes, KeyRef, NodeAffinity, ObjectFiles,
    Projected, Projection, ReadinessGate, Resources, RestartPolicy, RestartRule, Spec, Volume,
};
pub use self::status::{
    Condition, ConditionStatus, ContainerReason, ContainerState, ContainerStatus, Ip, Phase,
    Running, Status, Terminated, Waiting,
};

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

/// The metadata of a pod that is gone: the rest of it has nothing to say any more.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct GoneView {
    /// What is read of it.
    pub metadata: GoneMetadata,
}

/// `metadata` of a pod that is gone.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GoneMetadata {
    /// Which one it was.
    pub uid: Option<String>,
    /// Of its removal.
    pub resource_version: Option<String>,
    /// When its containers had to be gone, if it was being deleted.
    pub deletion_timestamp: Option<Time>,
    /// Seconds that they had for it.
    pub deletion_grace_period_seconds: Option<i64>,
}

impl PodView {
    /// Reads a pod in protobuf, without its envelope, and keeps it as it was sent. What else is missing is as in an empty
    /// pod.
    ///
    /// # Errors
    /// It has no metadata, or a field that is read is written in another way than in a pod.
    pub fn decode(encoded: Bytes) -> Result<Self, protobuf::Error> {
        let mut view: Self = read::object(&encoded)?;
        view.encoded = encoded;
        Ok(view)
    }
}

impl GoneView {
    /// Reads the metadata of a pod in protobuf, without its envelope.
    ///
    /// # Errors
    /// As [`PodView::decode`].
    pub fn decode(encoded: &[u8]) -> Result<Self, protobuf::Error> {
        read::object(encoded)
    }
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
        resource_version: lean.resource_version,
        uid: lean.uid,
        ..ObjectMeta::default()
    })
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
