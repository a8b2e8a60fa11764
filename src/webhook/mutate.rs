//! What the webhook changes in a pod: the toleration of the virtual nodes' taint, the affinity
//! that attracts it to them, the zone pin, and the surplus of its instance. Pure: pod and facts in,
//! JSON patch out.
//!
//! Applied to its own result it changes nothing, so the API server may call twice.

use std::collections::BTreeMap;

use json_patch::jsonptr::{PointerBuf, Token};
use json_patch::{AddOperation, Patch, PatchOperation};
use k8s_openapi::api::core::v1::{
    NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use holdfast_provider::policy::opt_in::{COMPUTE_CLASS, ENABLE_FIXED_IP};
use holdfast_provider::policy::use_spec::{self, InvalidSpec};

use super::{Candidate, ClaimPlace, pin, selector, surplus};
use crate::config::WebhookConfig;
use crate::pod::agent::instance_size;
use crate::pod::view::Resources;

/// Label that sends a pod of an ACK cluster to ACS when it is `"true"`
/// (ACK, "Configure computing resources for the Argo workflow: ACS pods").
pub(super) const ACS: &str = "alibabacloud.com/acs";

const TAINT_KEY: &str = "virtual-kubelet.io/provider";
const TAINT_VALUE: &str = "alibabacloud";
const NO_SCHEDULE: &str = "NoSchedule";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// A pod as the webhook sees it. Anybody can send one, so nothing is kept that is not looked at: the managed fields of
/// a real pod, decoded, take dozens of times their length.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PodForAdmission {
    /// Who it is and what it asks for by label and annotation.
    #[serde(default)]
    pub metadata: MetadataForAdmission,
    /// What decides where it may run.
    pub spec: PodSpec,
}

/// The metadata of a pod, as far as admission looks at it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetadataForAdmission {
    /// Absent while the API server has not made one of `generateName`.
    pub name: Option<String>,
    /// Its labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Its annotations.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Whose it is.
    pub owner_references: Option<Vec<OwnerForAdmission>>,
}

/// An owner of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct OwnerForAdmission {
    /// Of which kind it is.
    #[serde(default)]
    pub kind: String,
    /// Whether it is the one that manages the pod.
    pub controller: Option<bool>,
}

/// The part of a pod's spec that decides where it may run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The node, when it was chosen without the scheduler.
    pub node_name: Option<String>,
    /// Whether the pod uses the node's network.
    pub host_network: Option<bool>,
    /// Labels that the node must have.
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Affinity to nodes.
    pub affinity: Option<Affinity>,
    /// Taints that the pod puts up with.
    pub tolerations: Option<Vec<Toleration>>,
    /// What its containers request. The API server writes `null` for none.
    pub containers: Option<Vec<ContainerForAdmission>>,
    /// What the pod requests as a whole.
    pub resources: Option<IgnoredAny>,
}

/// A container as the webhook sees it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ContainerForAdmission {
    /// What it requests and what limits it.
    pub resources: Option<Resources>,
}

/// The affinity to nodes; affinity to other pods is left out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Affinity {
    /// Affinity to nodes.
    pub node_affinity: Option<NodeAffinity>,
}

impl PodSpec {
    pub(super) fn has_node(&self) -> bool {
        self.node_name
            .as_deref()
            .is_some_and(|node| !node.is_empty())
    }

    /// What each of its containers requests.
    pub(super) fn asks(&self) -> Vec<use_spec::Resources> {
        let numbers = |one: &ContainerForAdmission| one.resources.as_ref().map(Resources::numbers);
        let all = self.containers.iter().flatten().map(numbers);
        all.map(Option::unwrap_or_default).collect()
    }

    fn has_node_selector(&self) -> bool {
        self.node_selector
            .as_ref()
            .is_some_and(|labels| !labels.is_empty())
    }

    /// The terms of the required node affinity; preferred ones keep a pod from nowhere.
    fn required_terms(&self) -> Option<&[NodeSelectorTerm]> {
        let affinity = self.affinity.as_ref()?.node_affinity.as_ref()?;
        let required = affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()?;
        Some(&required.node_selector_terms)
    }
}

/// Whether a pod asks for the virtual nodes: fixed IP on, label `alibabacloud.com/acs: "true"`,
/// or any compute class. The webhook's match condition says the same in CEL.
pub fn opted_in(
    labels: Option<&BTreeMap<String, String>>,
    annotations: Option<&BTreeMap<String, String>>,
) -> bool {
    let is_true = |map: Option<&BTreeMap<String, String>>, key: &str| {
        map.and_then(|map| map.get(key))
            .is_some_and(|value| value == "true")
    };
    is_true(annotations, ENABLE_FIXED_IP)
        || is_true(labels, ACS)
        || labels.is_some_and(|labels| labels.contains_key(COMPUTE_CLASS))
}

/// Why ACS would not create this pod.
pub(super) fn misfit(pod: &PodForAdmission) -> Option<InvalidSpec> {
    let metadata = &pod.metadata;
    let (labels, annotations) = (metadata.labels.as_ref(), metadata.annotations.as_ref());
    if !opted_in(labels, annotations) {
        return None;
    }
    instance_size(labels, annotations, &pod.spec.asks()).err()
}

/// The taint of the virtual nodes, which keeps pods away that did not opt in.
pub fn taint() -> Taint {
    Taint {
        key: TAINT_KEY.to_owned(),
        value: Some(TAINT_VALUE.to_owned()),
        effect: NO_SCHEDULE.to_owned(),
        time_added: None,
    }
}

/// The step of a JSON patch that makes a pod tolerate [`taint`], or `None` when it does already.
/// The API server lets tolerations be added to a pod that exists.
pub fn toleration_patch(tolerations: &[Toleration]) -> Option<PatchOperation> {
    if selector::tolerated(&taint(), tolerations) {
        return None;
    }
    let ours = json!(toleration());
    Some(if tolerations.is_empty() {
        add(["spec", "tolerations"], json!([ours]))
    } else {
        add(["spec", "tolerations", "-"], ours)
    })
}

/// What the webhook changes in a pod that is being created; nothing when it did not opt in.
/// `claim` is the unexpired claim of the pod's key, `candidates` our nodes in its zone.
pub fn mutate(
    pod: &PodForAdmission,
    claim: Option<&ClaimPlace>,
    candidates: &[Candidate],
    settings: &WebhookConfig,
) -> Patch {
    let metadata = &pod.metadata;
    if !opted_in(metadata.labels.as_ref(), metadata.annotations.as_ref()) {
        return Patch::default();
    }
    let tolerations = pod.spec.tolerations.as_deref().unwrap_or_default();
    let mut steps = Vec::from_iter(toleration_patch(tolerations));
    // Not one list of both, for there is no telling how long theirs is.
    let tolerations = [tolerations, &[toleration()]];

    let attracted = attracted(&pod.spec, settings);
    let terms = attracted.as_deref().or(pod.spec.required_terms());
    let pinned =
        claim.and_then(|claim| pin::pinned(pod, tolerations, terms, claim, candidates, settings));
    if let Some(terms) = pinned.or(attracted) {
        steps.extend(affinity_steps(&pod.spec, &terms));
    }
    if settings.surplus {
        steps.extend(surplus::steps(pod));
    }
    Patch(steps)
}

/// A requirement that the label `key` is `value`.
pub(super) fn requirement_in(key: &str, value: &str) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: key.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![value.to_owned()]),
    }
}

/// The term that attracts a pod which says nothing about nodes: a toleration alone would let it
/// land on a real one.
fn attracted(spec: &PodSpec, settings: &WebhookConfig) -> Option<Vec<NodeSelectorTerm>> {
    let free = !spec.has_node() && !spec.has_node_selector() && spec.required_terms().is_none();
    (settings.bind && free).then(|| {
        vec![NodeSelectorTerm {
            match_expressions: Some(vec![requirement_in("type", "virtual-kubelet")]),
            match_fields: None,
        }]
    })
}

/// The steps that turn the pod's required terms into `wanted`, which has the same terms in the
/// same order when the pod has any. Only what differs is written: a field of a newer Kubernetes
/// that this program does not know must survive.
fn affinity_steps(spec: &PodSpec, wanted: &[NodeSelectorTerm]) -> Vec<PatchOperation> {
    if let Some(present) = spec.required_terms() {
        let changed = present.iter().zip(wanted).enumerate();
        return changed
            .filter(|(_, (present, wanted))| present != wanted)
            .map(|(index, (_, wanted))| {
                let index = index.to_string();
                let path = [
                    "spec",
                    "affinity",
                    "nodeAffinity",
                    REQUIRED,
                    "nodeSelectorTerms",
                ];
                let path = path.into_iter().chain([index.as_str(), "matchExpressions"]);
                add(path, json!(wanted.match_expressions))
            })
            .collect();
    }
    let required = json!({"nodeSelectorTerms": wanted});
    let affinity = spec.affinity.as_ref();
    vec![match affinity.map(|affinity| &affinity.node_affinity) {
        None => add(
            ["spec", "affinity"],
            json!({"nodeAffinity": {REQUIRED: required}}),
        ),
        Some(None) => add(
            ["spec", "affinity", "nodeAffinity"],
            json!({REQUIRED: required}),
        ),
        Some(Some(_)) => add(["spec", "affinity", "nodeAffinity", REQUIRED], required),
    }]
}

pub(super) fn add<'a>(
    path: impl IntoIterator<Item: Into<Token<'a>>>,
    value: Value,
) -> PatchOperation {
    PatchOperation::Add(AddOperation {
        path: PointerBuf::from_tokens(path),
        value,
    })
}

fn toleration() -> Toleration {
    Toleration {
        key: Some(TAINT_KEY.to_owned()),
        operator: Some("Equal".to_owned()),
        value: Some(TAINT_VALUE.to_owned()),
        effect: Some(NO_SCHEDULE.to_owned()),
        toleration_seconds: None,
    }
}

#[cfg(test)]
mod tests;
