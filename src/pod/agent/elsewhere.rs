//! Fixed-IP pods that are not on our nodes: unscheduled, or with somebody else.

use holdfast_provider::engine::{Event, Node, PodFacts};
use holdfast_provider::id::{NodeName, NodeType, PodKey, PodUid, Zone};
use holdfast_provider::policy::opt_in::FixedIp;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeSelectorTerm;

use super::accept::created;
use super::{Action, Agent, ForeignNode, Refused};
use crate::pod::api::ZONE_LABEL;
use crate::pod::view::{Phase, PodView};
use crate::webhook;

/// A fixed-IP pod that is not on our nodes.
pub(super) struct Other {
    pub(super) key: PodKey,
    pub(super) facts: Option<PodFacts>,
    /// The zone that it must be in, while the scheduler finds no node for it.
    pub(super) stranded_in: Option<Zone>,
    /// When that was last said.
    pub(super) told_at: Option<Timestamp>,
    /// Whether it is on a virtual node of another provider, where it is nothing to any claim.
    pub(super) is_others: bool,
}

impl Agent {
    /// A pod that is not on our nodes matters while it may come to them or takes a claim along.
    pub(super) fn seen_elsewhere(&mut self, uid: &PodUid, view: &PodView) {
        let meta = &view.metadata;
        if !webhook::opted_in(meta.labels.as_ref(), meta.annotations.as_ref()) {
            return;
        }
        let Some(name) = meta.name.as_deref() else {
            return;
        };
        let key = PodKey::new(meta.namespace.as_deref().unwrap_or("default"), name);
        let unbound = view.spec.node_name.is_none();
        if unbound
            && self.settings.tolerate
            && view.status.phase == Phase::Pending
            && meta.deletion_timestamp.is_none()
            && let Some(patch) = webhook::toleration_patch(&view.spec.tolerations)
            && self.tolerating.insert(uid.clone())
        {
            let version = meta.resource_version.clone().unwrap_or_default();
            self.actions
                .push(Action::Tolerate(uid.clone(), key.clone(), version, patch));
        }
        let (opt_in, _) = self.read_opt_in(view);
        // On the node's network it has no address of its own.
        if view.spec.host_network || !matches!(opt_in.fixed_ip, FixedIp::On { .. }) {
            return;
        }
        if let Some(other) = self.others.get_mut(uid) {
            other.stranded_in = stranded_in(view);
            if other.facts.is_some() || unbound {
                return;
            }
        }
        let mut other = Other {
            key: key.clone(),
            facts: None,
            stranded_in: stranded_in(view),
            told_at: None,
            is_others: false,
        };
        if let Some(node) = view.spec.node_name.as_deref().map(NodeName::from) {
            self.actions.push(Action::LookNode(node.clone()));
            other.facts = Some(PodFacts {
                uid: uid.clone(),
                key,
                created: created(view),
                node: Node {
                    name: node,
                    zone: "".into(),
                    node_type: NodeType::Ecs,
                },
                opt_in,
                published: None,
            });
        }
        self.keys.insert(&other.key, uid.clone());
        self.others.insert(uid.clone(), other);
    }

    /// A pod that no node takes may never be told of again, so it is looked at until it has the toleration or is gone.
    pub(super) fn tolerated(&mut self, uid: &PodUid, key: PodKey, result: Result<(), Refused>) {
        self.tolerating.remove(uid);
        match result {
            Ok(()) | Err(Refused::Gone) => {}
            Err(Refused::Stale | Refused::Later) => {
                self.untolerated.insert(key.clone());
                self.look(key);
            }
        }
    }

    pub(super) fn node_looked(
        &mut self,
        now: Timestamp,
        name: &NodeName,
        result: Result<Option<ForeignNode>, Refused>,
    ) {
        match result {
            Err(_) => self.actions.push(Action::LookNode(name.clone())),
            // A node that is gone tells nothing of its type; the pod on it is about to go too.
            Ok(None) => {}
            Ok(Some(node)) if node.is_virtual => {
                let is_on_it = |other: &&mut Other| {
                    let facts = other.facts.as_ref();
                    facts.is_some_and(|facts| facts.node.name == *name)
                };
                for other in self.others.values_mut().filter(is_on_it) {
                    other.is_others = true;
                }
            }
            Ok(Some(node)) => {
                let found: Vec<PodFacts> = self
                    .others
                    .values()
                    .filter_map(|other| other.facts.as_ref())
                    .filter(|facts| facts.node.name == *name)
                    .cloned()
                    .collect();
                for mut facts in found {
                    facts.node.zone = node.zone.clone();
                    self.tell(now, Event::OnForeignEcs(facts));
                }
            }
        }
    }
}

/// The zone that an unschedulable pod requires, as the webhook pins it: in every term.
fn stranded_in(view: &PodView) -> Option<Zone> {
    let unschedulable =
        view.status.conditions.iter().any(|condition| {
            condition.kind == "PodScheduled" && condition.reason == "Unschedulable"
        });
    if !unschedulable || view.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let affinity = view.spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required.as_ref()?;
    let zone_of = |term: &NodeSelectorTerm| {
        let mut expressions = term.match_expressions.iter().flatten();
        let pin = expressions.find(|one| one.key == ZONE_LABEL && one.operator == "In")?;
        match pin.values.as_deref() {
            Some([zone]) => Some(Zone::from(zone.as_str())),
            _ => None,
        }
    };
    let mut zones = required.node_selector_terms.iter().map(zone_of);
    let first = zones.next()??;
    zones
        .all(|zone| zone.as_ref() == Some(&first))
        .then_some(first)
}
