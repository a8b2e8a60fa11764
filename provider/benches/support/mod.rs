//! A ledger on the disk and pods for it.

use std::ops::Range;
use std::path::Path;

use holdfast_provider::cloud::sim;
use holdfast_provider::engine::{Creation, Node, PodFacts};
use holdfast_provider::id::{NodeType, PodKey, PodUid};
use holdfast_provider::ledger::{Job, Ledger};
use holdfast_provider::policy::opt_in::{FixedIp, OptIn};
use holdfast_provider::settings::{Retention, Settings, VSwitch};
use jiff::{SignedDuration, Timestamp};

/// A ledger with 65,532 addresses and a cloud that answers at once, as profile `fast` has it.
pub(crate) fn ledger(path: &Path) -> Ledger {
    let settings = Settings {
        cluster: "bench".into(),
        region: "cn-wulanchabu".into(),
        vpc: "vpc-bench".into(),
        vswitches: vec![VSwitch {
            id: "vsw-b".into(),
            zone: "cn-wulanchabu-b".into(),
            cidr: "10.64.0.0/16".parse().expect("a CIDR"),
            exclude: Vec::new(),
        }],
        retention: Retention {
            default_hours: 48,
            hour: SignedDuration::from_hours(1),
        },
        cloud: sim::Config::default(),
        history_days: 30,
    };
    Ledger::open(path, settings, now()).expect("a new file")
}

/// The wall clock: ids of the ledger follow it.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// A fixed-IP pod: claim, address, ENI and history are written for it.
pub(crate) fn facts(index: usize) -> PodFacts {
    PodFacts {
        uid: uid(index),
        key: PodKey::new("bench", &format!("web-{index}")),
        created: Creation {
            at: now(),
            revision: 0,
        },
        node: Node {
            name: "virtual-kubelet-cn-wulanchabu-b".into(),
            zone: "cn-wulanchabu-b".into(),
            node_type: NodeType::Acs,
        },
        opt_in: OptIn {
            fixed_ip: FixedIp::On { hours: 48 },
            vswitches: Vec::new(),
            security_groups: Vec::new(),
        },
        published: None,
    }
}

/// As random as the API server's, so that no index is filled in order.
pub(crate) fn uid(index: usize) -> PodUid {
    let seed = u64::try_from(index).expect("a small number");
    let mut random = fastrand::Rng::with_seed(seed);
    format!(
        "{:08x}-{:04x}-4000-8000-{:012x}",
        random.u32(..),
        random.u16(..),
        seed
    )
    .into()
}

/// The jobs of a pod's life under profile `fast`, in their order.
fn life(index: usize) -> [Job; 3] {
    [
        Job::Acquire(facts(index)),
        Job::DeletedAndStopped(uid(index), now()),
        Job::Gone(uid(index)),
    ]
}

/// The lives of several, step by step: the jobs of a step share a COMMIT.
#[allow(dead_code, reason = "each bench needs some of this")]
pub(crate) fn lives(indices: Range<usize>) -> [Vec<Job>; 3] {
    let mut steps: [Vec<Job>; 3] = Default::default();
    for index in indices {
        for (step, job) in steps.iter_mut().zip(life(index)) {
            step.push(job);
        }
    }
    steps
}
