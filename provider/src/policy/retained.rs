//! Who gets a retained address.
//!
//! [`decide`] is the whole rule. It is asked when a pod wants a network, inside the transaction
//! that writes what it answers, after everything that the pod's mere existence proves about
//! older pods of its name has been written.

use jiff::Timestamp;
use serde::Serialize;

use crate::id::{NodeName, NodeType, PodKey, PodUid, VSwitchId, Zone};
use crate::policy::retention;

/// The pod that asks.
#[derive(Clone, Copy, Debug)]
pub struct Applicant<'a> {
    /// Namespace and name.
    pub key: &'a PodKey,
    /// `metadata.creationTimestamp`, whole seconds.
    pub created_at: Timestamp,
    /// The node it is bound to.
    pub node: &'a NodeName,
    /// The type of that node.
    pub node_type: NodeType,
    /// The zone of that node.
    pub zone: &'a Zone,
    /// Whether it wants a fixed address.
    pub fixed_ip: bool,
    /// The vSwitches it may use: see [`crate::policy::placement`].
    pub allowed: &'a [VSwitchId],
}

/// The open claim of the applicant's key.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The vSwitch of its address.
    pub vswitch: VSwitchId,
    /// The zone of that vSwitch.
    pub zone: Zone,
    /// The node of its last holder.
    pub node: NodeName,
    /// The pod that holds it; `None` once that pod is gone and its ENI detached.
    pub holder: Option<Holder>,
    /// When it ends, if no pod of the key comes before.
    pub expires_at: Option<Timestamp>,
}

/// An older pod of the key that still holds the claim: gone from the API (the applicant exists
/// under its name), but its ENI is not detached yet.
#[derive(Clone, Debug)]
pub struct Holder {
    /// Who.
    pub uid: PodUid,
    /// Its ENI, or the address when the cloud has not named the ENI yet.
    pub eni: String,
}

/// Where the last fixed-IP pod of a key was bound.
#[derive(Clone, Debug, Serialize)]
pub struct Placement {
    /// The node.
    pub node: NodeName,
    /// Its type.
    pub node_type: NodeType,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The claim's address, ENI and MAC, and no other.
    Keep,
    /// Nothing yet: the old pod has not let go.
    Wait(String),
    /// An address out of the pool.
    Fresh {
        /// Ends the open claim in the same transaction as the new allocation, or neither.
        close: Option<Close>,
        /// Whether the new address is claimed (or else ordinary).
        claim: bool,
        /// What the pod's event says about an address it did not get.
        notice: Option<Lost>,
    },
}

/// Why a claim ended. The text is what the ledger and its history record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Its time was over.
    Expired,
    /// Its key was seen on a node of the other type.
    Crossed,
    /// Its key came back where the vSwitch cannot be used.
    Moved,
    /// A pod of its key runs with another address, which an older ledger did not know.
    Disproved,
    /// An operator released it.
    Released,
}

impl Close {
    /// The name in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Crossed => "crossed node types",
            Self::Moved => "moved to another zone or vSwitch",
            Self::Disproved => "the running pod has another address",
            Self::Released => "released by an operator",
        }
    }
}

/// A retained address that the applicant did not get, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Another zone, another vSwitch, out of time, or not asked for.
    NotReused(String),
    /// Across node types.
    NotRetained(String),
}

/// Decides about one applicant: the rule for who gets a retained address.
///
/// Source: spec, "Feature description" (same cluster, namespace and name; the old pod keeps the
/// address until it is completely deleted) and "Scope" (never across ECS and ACS nodes).
pub fn decide(
    pod: &Applicant<'_>,
    claim: Option<&Claim>,
    last: Option<&Placement>,
    now: Timestamp,
) -> Verdict {
    if !pod.fixed_ip {
        let notice = claim.filter(|claim| !is_over(claim, pod, now)).map(|claim| {
            Lost::NotReused(format!(
                "the address retained for {} on {} is not used, because this pod does not ask for a fixed IP; its retention runs on",
                pod.key, claim.vswitch
            ))
        });
        return Verdict::Fresh {
            close: None,
            claim: false,
            notice,
        };
    }
    let crossed = last.filter(|last| last.node_type != pod.node_type).map(|last| {
        Lost::NotRetained(format!(
            "a fixed IP is not kept across node types: {} was last on {} {} and is now on {} {}",
            pod.key, last.node_type, last.node, pod.node_type, pod.node
        ))
    });
    let claimed = pod.node_type == NodeType::Acs;
    let Some(claim) = claim else {
        return Verdict::Fresh {
            close: None,
            claim: claimed,
            notice: crossed,
        };
    };
    if let Some(holder) = &claim.holder {
        return Verdict::Wait(format!(
            "waits for the old pod with uid {} to let go of its address: {} is not detached yet",
            holder.uid, holder.eni
        ));
    }
    if pod.node_type == NodeType::Ecs {
        return Verdict::Fresh {
            close: Some(Close::Crossed),
            claim: false,
            notice: crossed,
        };
    }
    if is_over(claim, pod, now) {
        return Verdict::Fresh {
            close: Some(Close::Expired),
            claim: true,
            notice: crossed,
        };
    }
    if !pod.allowed.contains(&claim.vswitch) {
        let notice = Some(Lost::NotReused(not_reachable(pod, claim)));
        return Verdict::Fresh {
            close: Some(Close::Moved),
            claim: true,
            notice,
        };
    }
    Verdict::Keep
}

/// Whether the claim's time ran out before the applicant was created.
fn is_over(claim: &Claim, pod: &Applicant<'_>, now: Timestamp) -> bool {
    claim
        .expires_at
        .is_some_and(|at| retention::is_over(at, now, Some(pod.created_at)))
}

fn not_reachable(pod: &Applicant<'_>, claim: &Claim) -> String {
    if claim.zone == *pod.zone {
        let allowed: Vec<_> = pod.allowed.iter().map(VSwitchId::as_str).collect();
        format!(
            "the retained address of {} is on {}, which is not among the vSwitches this pod allows ({}); it gets a new one",
            pod.key,
            claim.vswitch,
            allowed.join(", ")
        )
    } else {
        format!(
            "the retained address of {} is on {} in zone {} (node {}), and node {} is in zone {}; it gets a new one",
            pod.key, claim.vswitch, claim.zone, claim.node, pod.node, pod.zone
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: i64 = 1000;

    struct Case {
        fixed_ip: bool,
        node_type: NodeType,
        created_at: i64,
        allowed: &'static [&'static str],
        claim: Option<Claim>,
        last: Option<NodeType>,
        now: i64,
    }

    impl Case {
        fn fixed() -> Self {
            Self {
                fixed_ip: true,
                node_type: NodeType::Acs,
                created_at: DEADLINE - 10,
                allowed: &["vsw-b"],
                claim: Some(claim()),
                last: Some(NodeType::Acs),
                now: DEADLINE - 5,
            }
        }

        fn decide(&self) -> Verdict {
            let key = PodKey::new("default", "web-0");
            let allowed: Vec<VSwitchId> = self.allowed.iter().map(|id| (*id).into()).collect();
            let pod = Applicant {
                key: &key,
                created_at: at(self.created_at),
                node: &"node-b".into(),
                node_type: self.node_type,
                zone: &"b".into(),
                fixed_ip: self.fixed_ip,
                allowed: &allowed,
            };
            let last = self.last.map(|node_type| Placement {
                node: "node-old".into(),
                node_type,
            });
            decide(&pod, self.claim.as_ref(), last.as_ref(), at(self.now))
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn claim() -> Claim {
        Claim {
            vswitch: "vsw-b".into(),
            zone: "b".into(),
            node: "node-b".into(),
            holder: None,
            expires_at: Some(at(DEADLINE)),
        }
    }

    #[track_caller]
    fn check_fresh(case: &Case, want_close: Option<Close>, want_claim: bool, want_note: &str) {
        let Verdict::Fresh {
            close,
            claim,
            notice,
        } = case.decide()
        else {
            panic!("expected a fresh address, got {:?}", case.decide());
        };
        assert_eq!((close, claim), (want_close, want_claim));
        let note = notice.map(|lost| format!("{lost:?}")).unwrap_or_default();
        assert!(
            note.contains(want_note) && note.is_empty() == want_note.is_empty(),
            "note: {note}"
        );
    }

    #[test]
    fn a_pod_of_the_same_key_keeps_the_address() {
        assert_eq!(Case::fixed().decide(), Verdict::Keep);
    }

    #[test]
    fn an_ordinary_pod_leaves_the_claim_to_its_clock() {
        let case = Case {
            fixed_ip: false,
            ..Case::fixed()
        };
        check_fresh(&case, None, false, "NotReused");
    }

    #[test]
    fn a_pod_created_before_the_deadline_keeps_the_address_even_later() {
        let case = Case {
            now: DEADLINE + 500,
            ..Case::fixed()
        };
        assert_eq!(case.decide(), Verdict::Keep);
    }

    #[test]
    fn a_pod_created_at_the_deadline_comes_too_late() {
        let case = Case {
            created_at: DEADLINE,
            now: DEADLINE,
            ..Case::fixed()
        };
        check_fresh(&case, Some(Close::Expired), true, "");
    }

    #[test]
    fn the_new_pod_waits_while_the_old_eni_is_attached() {
        let held = Claim {
            holder: Some(Holder {
                uid: "old".into(),
                eni: "eni-1".into(),
            }),
            ..claim()
        };
        for node_type in [NodeType::Acs, NodeType::Ecs] {
            let case = Case {
                node_type,
                claim: Some(held.clone()),
                ..Case::fixed()
            };
            let Verdict::Wait(note) = case.decide() else {
                panic!("{node_type} does not wait")
            };
            assert!(note.contains("uid old") && note.contains("eni-1"), "{note}");
        }
    }

    #[test]
    fn crossing_to_ecs_forfeits_the_claim() {
        let case = Case {
            node_type: NodeType::Ecs,
            ..Case::fixed()
        };
        check_fresh(
            &case,
            Some(Close::Crossed),
            false,
            "ACS virtual node node-old and is now on ECS node node-b",
        );
    }

    #[test]
    fn coming_from_ecs_starts_afresh() {
        let case = Case {
            claim: None,
            last: Some(NodeType::Ecs),
            ..Case::fixed()
        };
        check_fresh(
            &case,
            None,
            true,
            "ECS node node-old and is now on ACS virtual node node-b",
        );
    }

    #[test]
    fn an_ordinary_pod_on_ecs_forfeits_nothing() {
        let case = Case {
            fixed_ip: false,
            node_type: NodeType::Ecs,
            ..Case::fixed()
        };
        check_fresh(&case, None, false, "runs on");
    }

    #[test]
    fn another_zone_or_vswitch_gets_a_new_claim() {
        let zone = Case {
            claim: Some(Claim {
                zone: "c".into(),
                vswitch: "vsw-c".into(),
                ..claim()
            }),
            ..Case::fixed()
        };
        check_fresh(&zone, Some(Close::Moved), true, "in zone c");
        let vswitch = Case {
            allowed: &["vsw-d"],
            ..Case::fixed()
        };
        check_fresh(&vswitch, Some(Close::Moved), true, "(vsw-d)");
    }

    #[test]
    fn a_first_pod_gets_a_claim_without_a_word() {
        check_fresh(
            &Case {
                claim: None,
                last: None,
                ..Case::fixed()
            },
            None,
            true,
            "",
        );
    }
}
