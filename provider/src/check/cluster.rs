//! The ledger against what a cluster shows: who has which address there and here.
//!
//! Pure. Pods that have ended or use the host's network show no address that counts. A holder
//! that a list lacks is only a question: whoever asks looks for it by name first, because a list
//! proves no absence.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use crate::check::Violation;
use crate::check::finding::{Finding, LEAKED, ONCE, PRESENT, Repair, SHOWN};
use crate::id::{ClientToken, ClusterId, EniId, PodKey, PodUid};

/// A pod as the API has it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Who.
    pub uid: PodUid,
    /// Namespace and name.
    pub key: PodKey,
    /// `status.podIP`, if it is an IPv4 address.
    pub address: Option<Ipv4Addr>,
    /// The ENI that its annotation names.
    pub eni: Option<EniId>,
    /// Whether it is bound to a node of ours.
    pub ours: bool,
    /// Whether its address counts: it has not ended, and has a network of its own.
    pub counts: bool,
}

/// A pod that has an address in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub uid: PodUid,
    /// The cluster of its key.
    pub cluster: ClusterId,
    /// Namespace and name.
    pub key: PodKey,
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether it is known to be gone, and only its ENI is not detached yet.
    pub gone: bool,
}

/// An ENI of the simulated cloud of which the ledger knows nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// The token of its creation.
    pub token: ClientToken,
    /// Its id.
    pub eni: EniId,
    /// Its address.
    pub address: String,
}

/// What the ledger says about holders, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Holders {
    /// Pods with an address.
    pub holders: Vec<Holder>,
    /// ENIs of nobody.
    pub leaks: Vec<Leak>,
}

impl Holders {
    /// The holders of `cluster` that are not among `shown`: each is to be looked for by name.
    pub fn unseen<'a>(&'a self, cluster: &ClusterId, shown: &[Shown]) -> Vec<&'a Holder> {
        let seen: BTreeSet<&PodUid> = shown.iter().map(|pod| &pod.uid).collect();
        let of_cluster = self.holders.iter();
        of_cluster
            .filter(|holder| holder.cluster == *cluster && !holder.gone)
            .filter(|holder| !seen.contains(&holder.uid))
            .collect()
    }

    /// What differs from the pods `shown` in `cluster`.
    pub fn compare(&self, cluster: &ClusterId, shown: &[Shown]) -> Vec<Finding> {
        let mut found = self.shown(cluster, shown);
        found.extend(twice(shown));
        found
    }

    fn shown(&self, cluster: &ClusterId, shown: &[Shown]) -> Vec<Finding> {
        let by_uid: HashMap<_, _> = self.holders.iter().map(|one| (&one.uid, one)).collect();
        let by_address: HashMap<_, _> = self.holders.iter().map(|one| (one.address, one)).collect();
        let mut found = Vec::new();
        for pod in shown.iter().filter(|pod| pod.ours && pod.counts) {
            let Some(address) = pod.address else { continue };
            let has = match by_uid.get(&pod.uid) {
                Some(holder) if holder.address == address && holder.cluster == *cluster => continue,
                Some(holder) if holder.cluster != *cluster => {
                    format!("has it for cluster {}", holder.cluster)
                }
                Some(holder) => format!("has {} for it", holder.address),
                None => "has no address for it".to_owned(),
            };
            let other = by_address
                .get(&address)
                .filter(|holder| holder.uid != pod.uid)
                .map_or_else(String::new, |holder| {
                    format!(", and {address} for {} (uid {})", holder.key, holder.uid)
                });
            let Shown { key, uid, .. } = pod;
            found.push(finding(
                SHOWN,
                format!("{key} (uid {uid}) shows {address}; the ledger {has}{other}"),
            ));
        }
        found
    }

    /// What is to be said about ENIs of nobody. One that a pod of the cluster shows is not
    /// touched: a ledger that was lost knows nothing of it yet.
    pub fn leaked(&self, shown: Option<&[Shown]>) -> Vec<Finding> {
        let mut found = Vec::with_capacity(self.leaks.len());
        for leak in &self.leaks {
            let Leak {
                token,
                eni,
                address,
            } = leak;
            let shows = |pod: &&Shown| {
                pod.eni.as_ref() == Some(eni)
                    || pod
                        .address
                        .is_some_and(|shown| shown.to_string() == *address)
            };
            let user = shown.and_then(|shown| shown.iter().find(shows));
            let used = user.map_or_else(String::new, |pod| format!("; {} shows it", pod.key));
            let mut finding = finding(
                LEAKED,
                format!(
                    "{address} has {eni} in the cloud, of which the ledger knows nothing{used}"
                ),
            );
            if let Some(pod) = user {
                finding.advice = format!(
                    "start holdfast, which imports what {} shows; nothing is to be deleted",
                    pod.key
                );
            } else if shown.is_some() {
                finding.repair = Some(Repair::DeleteEni {
                    token: token.clone(),
                    eni: eni.clone(),
                    address: address.clone(),
                });
            }
            found.push(finding);
        }
        found
    }
}

/// A holder whose own GET found nothing, or another pod under its name.
pub fn absent(holder: &Holder) -> Finding {
    let Holder {
        uid,
        cluster,
        key,
        address,
        ..
    } = holder;
    let what = format!("{address} is with {key} (uid {uid}), which is not in the cluster");
    Finding {
        repair: Some(Repair::LetGo {
            cluster: cluster.clone(),
            key: key.clone(),
            uid: uid.clone(),
            address: *address,
        }),
        ..finding(PRESENT, what)
    }
}

/// Addresses that several pods show, at least one of them ours.
fn twice(shown: &[Shown]) -> Vec<Finding> {
    let mut by_address: BTreeMap<Ipv4Addr, Vec<&Shown>> = BTreeMap::new();
    for pod in shown.iter().filter(|pod| pod.counts) {
        if let Some(address) = pod.address {
            by_address.entry(address).or_default().push(pod);
        }
    }
    let shared = by_address
        .into_iter()
        .filter(|(_, pods)| pods.len() > 1 && pods.iter().any(|pod| pod.ours));
    shared
        .map(|(address, pods)| {
            let pods: Vec<_> = pods
                .iter()
                .map(|pod| format!("{} (uid {})", pod.key, pod.uid))
                .collect();
            let what = format!("{address} is shown by {}", pods.join(" and by "));
            finding(ONCE, what)
        })
        .collect()
}

fn finding(rule: &'static str, what: String) -> Finding {
    Finding::new(Violation {
        rule: rule.into(),
        what,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, address: &str) -> Shown {
        Shown {
            uid: format!("uid-{name}").into(),
            key: PodKey::new("default", name),
            address: address.parse().ok(),
            eni: None,
            ours: true,
            counts: true,
        }
    }

    fn holder(name: &str, address: &str) -> Holder {
        Holder {
            uid: format!("uid-{name}").into(),
            cluster: "here".into(),
            key: PodKey::new("default", name),
            address: address.parse().unwrap(),
            gone: false,
        }
    }

    fn ledger(holders: &[Holder]) -> Holders {
        Holders {
            holders: holders.to_vec(),
            leaks: Vec::new(),
        }
    }

    #[track_caller]
    fn check(holders: &[Holder], shown: &[Shown], want: &[&str]) {
        let found = ledger(holders).compare(&"here".into(), shown);
        let what: Vec<_> = found
            .iter()
            .map(|one| one.violation.what.as_str())
            .collect();
        assert_eq!(what, want);
    }

    #[test]
    fn a_pod_that_shows_what_the_ledger_has_is_no_finding() {
        check(&[holder("a", "10.0.0.1")], &[pod("a", "10.0.0.1")], &[]);
        check(&[holder("a", "10.0.0.1")], &[pod("a", "")], &[]);
    }

    #[test]
    fn a_pod_that_shows_another_address_or_an_unknown_one_is_found() {
        check(
            &[holder("a", "10.0.0.1")],
            &[pod("a", "10.0.0.2")],
            &["default/a (uid uid-a) shows 10.0.0.2; the ledger has 10.0.0.1 for it"],
        );
        check(
            &[holder("b", "10.0.0.1")],
            &[pod("a", "10.0.0.1"), pod("b", "")],
            &[
                "default/a (uid uid-a) shows 10.0.0.1; the ledger has no address for it, and 10.0.0.1 for default/b (uid uid-b)",
            ],
        );
    }

    #[test]
    fn an_address_shown_twice_is_found_and_those_that_do_not_count_are_not() {
        let foreign = Shown {
            ours: false,
            ..pod("b", "10.0.0.1")
        };
        check(
            &[holder("a", "10.0.0.1")],
            &[pod("a", "10.0.0.1"), foreign.clone()],
            &["10.0.0.1 is shown by default/a (uid uid-a) and by default/b (uid uid-b)"],
        );
        // Ended, or on the host's network; or both of somebody else.
        let ended = Shown {
            counts: false,
            ..foreign.clone()
        };
        check(
            &[holder("a", "10.0.0.1")],
            &[pod("a", "10.0.0.1"), ended],
            &[],
        );
        check(&[], &[foreign.clone(), foreign], &[]);
    }

    #[test]
    fn only_holders_of_this_cluster_that_are_not_known_to_be_gone_are_looked_for() {
        let mut other = holder("b", "10.0.0.2");
        other.cluster = "there".into();
        let mut gone = holder("c", "10.0.0.3");
        gone.gone = true;
        let ledger = ledger(&[
            holder("a", "10.0.0.1"),
            other,
            gone,
            holder("d", "10.0.0.4"),
        ]);
        let unseen = ledger.unseen(&"here".into(), &[pod("d", "")]);
        assert_eq!(unseen, [&holder("a", "10.0.0.1")]);
    }

    #[test]
    fn an_eni_of_nobody_is_deleted_only_when_no_pod_shows_it() {
        let ledger = Holders {
            holders: Vec::new(),
            leaks: vec![Leak {
                token: "t".into(),
                eni: "eni-1".into(),
                address: "10.0.0.1".to_owned(),
            }],
        };
        let can = |shown: Option<&[Shown]>| ledger.leaked(shown)[0].repair.is_some();
        assert!(!can(None), "nobody has looked");
        assert!(can(Some(&[pod("a", "10.0.0.2")])));
        assert!(!can(Some(&[pod("a", "10.0.0.1")])));
        let by_annotation = Shown {
            eni: Some("eni-1".into()),
            ..pod("a", "")
        };
        assert!(!can(Some(&[by_annotation])));
    }
}
