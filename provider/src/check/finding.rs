//! What a check tells: a promise that was not kept, what to do about it, and whether it can be
//! put right here.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::check::Violation;
use crate::id::{ClientToken, ClusterId, EniId, PodKey, PodUid};

/// Only the simulated cloud has it; neither a pod nor a claim does.
pub const LEAKED: &str = "the cloud has no ENI that the ledger does not know";
/// See [`super::cluster`].
pub(crate) const PRESENT: &str = "a pod that has an address exists";
pub(crate) const SHOWN: &str = "a pod shows the address that the ledger has for it";
pub(crate) const ONCE: &str = "no two pods show one address";

/// A violation with what follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The promise, and what contradicts it.
    #[serde(flatten)]
    pub violation: Violation,
    /// What to do, in one sentence.
    pub advice: String,
    /// What would put it right without a risk that an address is given away wrongly.
    pub repair: Option<Repair>,
}

/// A change that can be made for a finding once it is certain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Repair {
    /// A pod that is gone from the API lets go, as if its end had been seen: a fixed address is
    /// retained from now on, an ordinary one is free after its ENI's deletion.
    LetGo {
        /// The cluster of the pod.
        cluster: ClusterId,
        /// Namespace and name.
        #[serde(flatten)]
        key: PodKey,
        /// Who.
        uid: PodUid,
        /// What it has.
        address: Ipv4Addr,
    },
    /// An ENI that nobody has is deleted in the simulated cloud.
    DeleteEni {
        /// The token of its creation.
        token: ClientToken,
        /// Its id.
        eni: EniId,
        /// Its address.
        address: String,
    },
}

impl Finding {
    /// A finding that only a person can do something about.
    pub fn new(violation: Violation) -> Self {
        Self {
            advice: advice(&violation.rule).to_owned(),
            violation,
            repair: None,
        }
    }

    /// Whether it can be seen in the file alone, without a cluster.
    pub fn is_of_file(&self) -> bool {
        ![PRESENT, SHOWN, ONCE].contains(&&*self.violation.rule)
    }
}

/// What to do about a violation of `rule`.
fn advice(rule: &str) -> &'static str {
    match rule {
        "the file is whole" | "no row refers to a missing one" => {
            "stop holdfast and restore a backup of the file together with its -wal; pods that run are imported at the next start"
        }
        LEAKED => {
            "nobody uses it, and its address cannot be given out; `holdfast check --repair` deletes it"
        }
        "an ENI in use is attached in the cloud" => {
            "delete the pod; one with a fixed address is made again with the same one"
        }
        "the pool has the addresses of its CIDR" => {
            "restart holdfast, which brings the pool to its configuration"
        }
        PRESENT => {
            "a running holdfast lets go of it within seconds; otherwise start one, or use `holdfast check --repair`"
        }
        SHOWN => {
            "restart holdfast, which imports what it does not know and names what it cannot; or delete the pod"
        }
        ONCE => "delete the pod that the ledger does not have this address for",
        "an address has one holder at a time, and a pod or claim one address"
        | "an address goes from one state to the next without a gap"
        | "an address is free after its ENI's deletion"
        | "states add up to the pool at every moment"
        | "recorded time does not run backwards"
        | "a claim is answered with its own address until its deadline"
        | "a claim does not end early"
        | "a claim ends at most two seconds late"
        | "a claim's clock starts at the last deletion and only there"
        | "a claim ends before its deadline only by crossing, moving or release"
        | "a key has one open claim at a time" => {
            "it is past: `holdfast history` of the address or the pod tells the rest; keep a copy of the file and report it"
        }
        _ => {
            "stop holdfast, keep a copy of the file and report it; then restore a backup from before, or delete the pods that are named and `holdfast release` their claims"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::history::RULES;
    use crate::check::invariant_names;

    #[test]
    fn the_rules_that_advice_names_exist() {
        let past = advice(RULES[0]);
        assert!(past.starts_with("it is past"));
        // "rows equal the replayed history" is about now.
        let others = RULES.iter().filter(|rule| advice(rule) != past);
        assert_eq!(
            others.collect::<Vec<_>>(),
            [&"rows equal the replayed history"]
        );
        let named = [
            LEAKED,
            "an ENI in use is attached in the cloud",
            "the pool has the addresses of its CIDR",
        ];
        for rule in named {
            assert!(invariant_names().any(|name| name == rule), "{rule}");
        }
    }
}
