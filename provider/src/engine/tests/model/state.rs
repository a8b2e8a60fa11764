//! What the model knows, and what it can see of the provider.

use super::*;
use crate::ledger::AddressRow;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Nobody's since then.
    Free(Timestamp),
    Pod(PodUid),
    Kept(usize),
    /// Nobody's since then, but its ENI is not deleted.
    Leaving(Timestamp),
}

#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) held: Held,
    pub(super) excluded: bool,
    pub(super) vswitch: &'static str,
    /// ENI and MAC, as soon as the cloud has named them.
    pub(super) carrier: Option<(String, String)>,
}

#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) name: usize,
    pub(super) hours: Option<u32>,
    pub(super) place: Place,
    pub(super) vswitches: &'static [&'static str],
    pub(super) created: Creation,
    pub(super) deleted: bool,
    pub(super) over: bool,
    pub(super) ended: bool,
    pub(super) gone: bool,
    pub(super) address: Option<Ipv4Addr>,
    /// When it last became clear that its ENI is wanted no more.
    pub(super) let_go_from: Option<Timestamp>,
    /// Its place among those that wait in this process.
    pub(super) waits: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) address: Ipv4Addr,
    pub(super) holder: Option<PodUid>,
    pub(super) hours: u32,
    pub(super) deleted: Option<Timestamp>,
    pub(super) expires: Option<Timestamp>,
    /// Since when nothing speaks against its end.
    pub(super) due: Option<Timestamp>,
}

/// What can be seen of the provider.
pub(super) struct Seen {
    /// By the clock that the provider lives by.
    pub(super) now: Timestamp,
    /// By the ledger's.
    pub(super) time: Timestamp,
    /// From when on a pod counts as deleted whose deletion nobody saw.
    pub(super) absent: Timestamp,
    pub(super) may_expire: bool,
    /// The wall clock is not the API server's.
    pub(super) is_skewed: bool,
    /// No clock was set lately: how long something took can be told.
    pub(super) calm: bool,
    pub(super) addresses: Vec<AddressRow>,
    pub(super) claims: Vec<ClaimRow>,
    /// Fixed-IP pods in the API: name and creation.
    pub(super) made: Vec<(usize, Timestamp)>,
    /// Those that are gone, which nobody has said.
    pub(super) unseen: Vec<(usize, Timestamp)>,
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) pods: BTreeMap<PodUid, Pod>,
    pub(super) claims: BTreeMap<usize, Claim>,
    pub(super) addresses: BTreeMap<Ipv4Addr, Address>,
    /// vSwitches in configuration order with their zones.
    pub(super) vswitches: Vec<(&'static str, &'static str)>,
    pub(super) outcomes: Outcomes,
    pub(super) counter: u64,
}

/// How often the model predicted what.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcomes {
    pub(super) kept: u64,
    pub(super) new: u64,
    pub(super) waits: u64,
    pub(super) refused: u64,
    pub(super) expired: u64,
    pub(super) forfeited: u64,
    pub(super) released: u64,
}

impl std::ops::AddAssign for Outcomes {
    fn add_assign(&mut self, other: Self) {
        self.kept += other.kept;
        self.new += other.new;
        self.waits += other.waits;
        self.refused += other.refused;
        self.expired += other.expired;
        self.forfeited += other.forfeited;
        self.released += other.released;
    }
}
