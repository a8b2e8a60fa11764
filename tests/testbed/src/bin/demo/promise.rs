//! What the documentation of ACS promises, as checks over what was seen.
//!
//! Pure: rows and facts in, a sentence out when they are not as promised.

use std::fmt::{self, Display, Formatter};

use anyhow::{Result, ensure};
use holdfast_testbed::PodRow;

/// STATUS of a pod from its creation on, as the documentation's tables show it: bound late, and with its address as
/// soon as the containers are being created.
const CREATED: [&str; 4] = [
    "Pending",
    "Pending on a node",
    "ContainerCreating on a node with an address",
    "Running on a node with an address",
];

/// STATUS of a pod from its deletion on: it keeps its address to the end.
const DELETED: [&str; 3] = [
    "Terminating on a node with an address",
    "Completed on a node with an address",
    "gone",
];

/// What a pod has, in the API and in the ledger alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    pub(crate) address: String,
    pub(crate) eni: String,
    pub(crate) mac: String,
}

/// A pod and its successor of the same name.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// What was done to the pod.
    pub(crate) step: &'static str,
    pub(crate) before: Holding,
    pub(crate) after: Holding,
    /// Why the successor has what it has.
    pub(crate) why: String,
}

impl Change {
    pub(crate) fn is_kept(&self) -> bool {
        self.after.is_same_as(&self.before)
    }
}

/// Same address, ENI and MAC on the same node.
pub(crate) fn check_kept(before: &Holding, after: &Holding) -> Result<()> {
    ensure!(
        after.is_same_as(before) && after.node == before.node,
        "{} had to keep its address, ENI, MAC and zone; it had {before} and now has {after}",
        after.pod,
    );
    Ok(())
}

/// Another address and another ENI.
pub(crate) fn check_lost(before: &Holding, after: &Holding) -> Result<()> {
    ensure!(
        before.address != after.address && before.eni != after.eni,
        "{} had to get another address and another ENI; it had {before} and now has {after}",
        after.pod,
    );
    Ok(())
}

impl Holding {
    /// Whether both are the same address, ENI and MAC.
    fn is_same_as(&self, other: &Self) -> bool {
        let what = |it: &Self| [it.address.clone(), it.eni.clone(), it.mac.clone()];
        what(self) == what(other)
    }
}

impl Display for Holding {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            node,
            address,
            eni,
            mac,
            ..
        } = self;
        write!(f, "{address} with {eni} and {mac} on {node}")
    }
}

/// Checks the life of a pod that runs, or with `deleted` is gone: each STATUS of the documentation in its order, and
/// one address throughout.
pub(crate) fn check_life(rows: &[PodRow], uid: &str, deleted: bool) -> Result<()> {
    let rows: Vec<&PodRow> = rows.iter().filter(|row| row.uid == uid).collect();
    let name = rows.first().map_or("a pod", |row| &row.name);

    let mut seen: Vec<String> = rows.iter().map(|row| stage(row)).collect();
    seen.dedup();
    let mut promised = CREATED.to_vec();
    if deleted {
        promised.extend(DELETED);
    }
    ensure!(
        seen == promised,
        "{name} had to be {}; it was {}",
        promised.join(", "),
        seen.join(", ")
    );

    let mut addresses: Vec<_> = rows.iter().filter_map(|row| row.ip.as_deref()).collect();
    addresses.dedup();
    ensure!(
        addresses.len() == 1,
        "{name} had to have one address all its life; it had {}",
        addresses.join(", then ")
    );
    Ok(())
}

fn stage(row: &PodRow) -> String {
    if row.gone {
        return "gone".to_owned();
    }
    let node = if row.node.is_some() { " on a node" } else { "" };
    let address = if row.ip.is_some() {
        " with an address"
    } else {
        ""
    };
    format!("{}{node}{address}", row.status)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn holding(address: &str, mac: &str, node: &str) -> Holding {
        Holding {
            pod: "web-0".to_owned(),
            uid: "u".to_owned(),
            node: node.to_owned(),
            address: address.to_owned(),
            eni: format!("eni-of-{address}"),
            mac: mac.to_owned(),
        }
    }

    #[test]
    fn kept_means_the_same_address_eni_mac_and_node() {
        let before = holding("10.0.0.1", "m", "n");
        check_kept(&before, &before).unwrap();
        for after in [
            holding("10.0.0.2", "m", "n"),
            holding("10.0.0.1", "other", "n"),
            holding("10.0.0.1", "m", "other"),
        ] {
            let refusal = check_kept(&before, &after).unwrap_err().to_string();
            assert!(refusal.contains(&after.to_string()), "{refusal}");
        }
    }

    #[test]
    fn lost_means_another_address_and_another_eni() {
        let before = holding("10.0.0.1", "m", "n");
        check_lost(&before, &holding("10.0.0.2", "m", "n")).unwrap();
        assert!(check_lost(&before, &before).is_err());
    }

    fn row(status: &str, node: bool, ip: Option<&str>) -> PodRow {
        PodRow {
            at: Timestamp::UNIX_EPOCH,
            name: "web-0".to_owned(),
            uid: "u".to_owned(),
            ready: "0/1".to_owned(),
            status: status.to_owned(),
            restarts: 0,
            created: None,
            ip: ip.map(str::to_owned),
            node: node.then(|| "n".to_owned()),
            nominated_node: None,
            readiness_gates: None,
            gone: false,
        }
    }

    fn life(last_ip: &str) -> Vec<PodRow> {
        vec![
            row("Pending", false, None),
            row("Pending", true, None),
            row("Pending", true, None),
            row("ContainerCreating", true, Some("10.0.0.1")),
            row("Running", true, Some(last_ip)),
        ]
    }

    #[test]
    fn a_life_as_in_the_documentation_is_accepted() {
        check_life(&life("10.0.0.1"), "u", false).unwrap();
    }

    #[test]
    fn a_life_that_lacks_a_status_or_an_address_is_refused_with_both_sequences() {
        let mut rows = life("10.0.0.1");
        rows[3].ip = None;
        let refusal = check_life(&rows, "u", false).unwrap_err().to_string();
        assert!(
            refusal.contains("ContainerCreating on a node,"),
            "{refusal}"
        );
        rows.remove(3);
        assert!(check_life(&rows, "u", false).is_err());
        assert!(
            check_life(&life("10.0.0.1"), "u", true).is_err(),
            "not gone"
        );
    }

    #[test]
    fn an_address_that_changes_within_a_life_is_refused() {
        let refusal = check_life(&life("10.0.0.2"), "u", false).unwrap_err();
        assert!(refusal.to_string().contains("10.0.0.1, then 10.0.0.2"));
    }
}
