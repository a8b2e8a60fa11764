//! Pods as the API has them, whatever the provider was told.

use super::*;

/// An object in the API.
#[derive(Clone)]
pub(super) struct Object {
    pub(super) uid: PodUid,
    pub(super) facts: Facts,
    pub(super) deleted_at: Option<Timestamp>,
    pub(super) stopped: bool,
    pub(super) ended: bool,
}

impl Object {
    /// What is said of it when it is bound.
    pub(super) fn pod_facts(&self) -> PodFacts {
        let facts = &self.facts;
        let node_type = if facts.place.is_ecs() {
            NodeType::Ecs
        } else {
            NodeType::Acs
        };
        PodFacts {
            uid: self.uid.clone(),
            key: key(facts.name),
            created: facts.created,
            node: Node {
                name: format!("{:?}", facts.place).as_str().into(),
                zone: facts.place.zone().into(),
                node_type,
            },
            opt_in: OptIn {
                fixed_ip: facts
                    .hours
                    .map_or(FixedIp::Off, |hours| FixedIp::On { hours }),
                vswitches: facts.vswitches.iter().map(|id| (*id).into()).collect(),
                security_groups: Vec::new(),
            },
            published: None,
        }
    }
}

pub(super) fn key(name: usize) -> PodKey {
    PodKey::new("default", NAMES[name])
}

/// As the API writes times.
pub(super) fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap()
}
