//! The zone pin: a pod that has an address to come back to is kept in the zone of that address,
//! when a node there would take it.
//!
//! Decides only. The claim and the nodes are handed in; nothing is read or written here.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};

use holdfast_provider::id::PodKey;
use holdfast_provider::policy::opt_in::{ENABLE_FIXED_IP, VSWITCH_IDS};

use super::mutate::{PodForAdmission, requirement_in};
use super::{Candidate, ClaimPlace, selector};
use crate::config::WebhookConfig;

const ZONE: &str = "topology.kubernetes.io/zone";

/// Taints that the node controller sets while nobody renews a node's lease. Whoever can answer an
/// admission request is also the one who renews it, so they are about to go; a pod admitted in
/// the seconds after a restart must not lose its address to them.
const PASSING: [&str; 2] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];

/// The key whose claim decides about the pin of `pod`, or `None` when no claim could matter:
/// fixed IP off, node chosen already, host network, DaemonSet, no name yet (`generateName`), or
/// pinning turned off.
pub(super) fn key(
    pod: &PodForAdmission,
    namespace: Option<&str>,
    settings: &WebhookConfig,
) -> Option<PodKey> {
    let name = pod
        .metadata
        .name
        .as_deref()
        .filter(|name| !name.is_empty())?;
    applies(pod, settings).then(|| PodKey::new(namespace.unwrap_or_default(), name))
}

fn applies(pod: &PodForAdmission, settings: &WebhookConfig) -> bool {
    let daemon = pod
        .metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.controller == Some(true) && owner.kind == "DaemonSet");
    settings.zone_pin
        && annotation(pod, ENABLE_FIXED_IP) == Some("true")
        && !pod.spec.has_node()
        && !pod.spec.host_network.unwrap_or_default()
        && !daemon
}

/// The terms of the pod's required node affinity with the zone of `claim` in each of them, or in
/// one new term. `None` when the pod must not be pinned: its zone would be out of its reach, and
/// an address in another zone is better than a pod that can never start.
///
/// `tolerations` and `terms` are the pod's own together with what the webhook has added so far.
pub(super) fn pinned(
    pod: &PodForAdmission,
    tolerations: [&[Toleration]; 2],
    terms: Option<&[NodeSelectorTerm]>,
    claim: &ClaimPlace,
    candidates: &[Candidate],
    settings: &WebhookConfig,
) -> Option<Vec<NodeSelectorTerm>> {
    if !applies(pod, settings) || !allows_vswitch(pod, claim) {
        return None;
    }
    let terms = with_zone(terms, requirement_in(ZONE, claim.zone.as_str()));
    candidates
        .iter()
        .any(|node| takes(node, pod, tolerations, &terms))
        .then_some(terms)
}

fn annotation<'a>(pod: &'a PodForAdmission, key: &str) -> Option<&'a str> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(key).map(String::as_str)
}

fn allows_vswitch(pod: &PodForAdmission, claim: &ClaimPlace) -> bool {
    let mut named = annotation(pod, VSWITCH_IDS)
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|id| !id.is_empty())
        .peekable();
    named.peek().is_none() || named.any(|id| id == claim.vswitch.as_str())
}

fn with_zone(
    terms: Option<&[NodeSelectorTerm]>,
    zone: NodeSelectorRequirement,
) -> Vec<NodeSelectorTerm> {
    let Some(terms) = terms else {
        return vec![NodeSelectorTerm {
            match_expressions: Some(vec![zone]),
            match_fields: None,
        }];
    };
    let mut terms = terms.to_vec();
    // An empty term matches no node; the zone would turn it into one that does.
    for term in terms.iter_mut().filter(|term| !selector::is_empty(term)) {
        let expressions = term.match_expressions.get_or_insert_default();
        if !expressions.contains(&zone) {
            expressions.push(zone.clone());
        }
    }
    terms
}

/// Whether the scheduler could put the pod, with these tolerations and terms, onto `node`.
fn takes(
    node: &Candidate,
    pod: &PodForAdmission,
    tolerations: [&[Toleration]; 2],
    terms: &[NodeSelectorTerm],
) -> bool {
    let cordon = node.unschedulable.then(|| Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        value: None,
        time_added: None,
    });
    let repelled = node.taints.iter().chain(&cordon).any(|taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !PASSING.contains(&taint.key.as_str())
            && !tolerations
                .iter()
                .any(|these| selector::tolerated(taint, these))
    });
    let selected = pod
        .spec
        .node_selector
        .as_ref()
        .is_none_or(|wanted| selector::selects(wanted, &node.labels));
    !repelled && selected && selector::any_term_matches(terms, &node.name, &node.labels)
}
