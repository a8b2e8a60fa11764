//! A Node as the watch decodes it: only the fields that something here reads.
//! Of a thousand nodes, images and managed fields would be most of the bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};

use super::object::{GRACEFUL, METRICS_PATH, PROVIDER_SCHEME, SHUTDOWN};

/// A Node as the API server showed it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct NodeView {
    #[serde(deserialize_with = "slim")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    #[serde(rename = "providerID")]
    provider_id: String,
    taints: Vec<Taint>,
    unschedulable: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    conditions: Vec<Condition>,
    node_info: NodeInfo,
}

#[derive(Clone, Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeInfo {
    container_runtime_version: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Annotations,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "metrics.k8s.io/resource-metrics-path")]
    metrics_path: Option<String>,
    #[serde(rename = "holdfast.dev/shutdown")]
    shutdown: Option<String>,
}

impl Annotations {
    fn kept(self) -> Option<BTreeMap<String, String>> {
        let all = [(METRICS_PATH, self.metrics_path), (SHUTDOWN, self.shutdown)];
        let there = all
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)));
        let kept: BTreeMap<_, _> = there.collect();
        (!kept.is_empty()).then_some(kept)
    }
}

fn slim<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let slim = Metadata::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: slim.name,
        uid: slim.uid,
        resource_version: slim.resource_version,
        labels: slim.labels,
        annotations: slim.annotations.kept(),
        ..ObjectMeta::default()
    })
}

impl NodeView {
    pub(super) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub(super) fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        self.metadata.labels.clone().unwrap_or_default()
    }

    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata
            .annotations
            .as_ref()?
            .get(key)
            .map(String::as_str)
    }

    /// Whether somebody asks it to shut down as a machine does that is switched off in order.
    pub(super) fn is_shutting_down(&self) -> bool {
        self.annotation(SHUTDOWN) == Some(GRACEFUL)
    }

    /// What somebody asks of it that is no way to shut down.
    pub(super) fn odd_shutdown(&self) -> Option<&str> {
        self.annotation(SHUTDOWN).filter(|word| *word != GRACEFUL)
    }

    pub(super) fn provider_id(&self) -> &str {
        &self.spec.provider_id
    }

    pub(super) fn taints(&self) -> &[Taint] {
        &self.spec.taints
    }

    pub(super) fn unschedulable(&self) -> bool {
        self.spec.unschedulable
    }

    /// Status of the condition `kind`: `True`, `False` or `Unknown`.
    pub(super) fn condition(&self, kind: &str) -> Option<&str> {
        let conditions = &self.status.conditions;
        conditions
            .iter()
            .find(|condition| condition.kind == kind)
            .map(|found| &*found.status)
    }

    /// Whether somebody else registered it: a kubelet, a cloud, another virtual kubelet.
    /// An object that nobody has filled in yet is nobody's.
    pub(super) fn is_foreign(&self) -> bool {
        let runtime = &self.status.node_info.container_runtime_version;
        [self.provider_id(), runtime]
            .iter()
            .any(|mark| !mark.is_empty() && !mark.starts_with(PROVIDER_SCHEME))
    }

    /// Who registered it, as far as its object tells.
    pub(super) fn owner(&self) -> &str {
        match self.provider_id() {
            "" => &self.status.node_info.container_runtime_version,
            id => id,
        }
    }

    /// Whether holdfast made or adopted it, beyond doubt: enough to delete it. Nobody else writes
    /// such a provider id, and nobody can change it afterwards (ValidateNodeUpdate).
    pub(super) fn is_ours(&self) -> bool {
        self.provider_id().starts_with(PROVIDER_SCHEME)
    }

    /// Whether `other` was read before this one. Resource versions of one kind are ordered
    /// numbers (Kubernetes 1.35, "resource version comparison"); where they are none, what came
    /// last wins.
    pub(super) fn is_newer_than(&self, other: &Self) -> bool {
        let version = |view: &Self| view.metadata.resource_version.as_ref()?.parse::<u64>().ok();
        version(self)
            .zip(version(other))
            .is_none_or(|(this, other)| this > other)
    }
}

impl Resource for NodeView {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        Node::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        Node::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        Node::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        Node::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
