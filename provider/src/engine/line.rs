//! The line of pods that wait for an address: longest first, and found by what they wait for, since
//! thousands may wait while others come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use jiff::Timestamp;

use crate::id::{PodKey, PodUid, VSwitchId};
use crate::ledger::Blocked;

/// Since when a pod waits, and a number that tells pods of one moment apart.
pub(super) type Place = (Timestamp, u64);

const FIRST: Place = (Timestamp::MIN, 0);
pub(super) const LAST: Place = (Timestamp::MAX, u64::MAX);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Line {
    places: BTreeMap<Place, PodUid>,
    keys: BTreeSet<(PodKey, Place)>,
    /// By vSwitch, the places of those that are not being tried.
    pools: BTreeSet<(VSwitchId, Place)>,
}

impl Line {
    /// A pod that is being tried has its place, and is not next for anything until it rests.
    pub(super) fn join(&mut self, place: Place, uid: PodUid, key: &PodKey) {
        self.places.insert(place, uid);
        self.keys.insert((key.clone(), place));
    }

    /// It is not being tried any more, and waits on.
    pub(super) fn rest(&mut self, place: Place, blocked: &Blocked) {
        for vswitch in blocked.vswitches() {
            self.pools.insert((vswitch.clone(), place));
        }
    }

    /// It is being tried.
    pub(super) fn stir(&mut self, place: Place, blocked: &Blocked) {
        for vswitch in blocked.vswitches() {
            self.pools.remove(&(vswitch.clone(), place));
        }
    }

    pub(super) fn leave(&mut self, place: Place, key: &PodKey, blocked: &Blocked) {
        self.places.remove(&place);
        self.keys.remove(&(key.clone(), place));
        self.stir(place, blocked);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Where the pod stands that has waited longest.
    pub(super) fn first(&self) -> Option<Place> {
        self.places.keys().next().copied()
    }

    pub(super) fn all(&self) -> Vec<PodUid> {
        self.places.values().cloned().collect()
    }

    /// The next so many after a place; behind the last comes the first.
    pub(super) fn after(&self, place: Place, count: usize) -> Vec<(Place, PodUid)> {
        let later = (Bound::Excluded(place), Bound::Unbounded);
        let later = self.places.range(later);
        let round = later.chain(self.places.range(..=place)).take(count);
        round.map(|(place, uid)| (*place, uid.clone())).collect()
    }

    /// Pods of this key, longest first.
    pub(super) fn of_key(&self, key: &PodKey) -> Vec<PodUid> {
        let found = self.keys.range((key.clone(), FIRST)..=(key.clone(), LAST));
        found
            .filter_map(|(_, place)| self.places.get(place).cloned())
            .collect()
    }

    /// The pod that has waited longest for an address of this vSwitch, of those that are not being tried.
    pub(super) fn next(&self, vswitch: &VSwitchId) -> Option<&PodUid> {
        let whole = (vswitch.clone(), FIRST)..=(vswitch.clone(), LAST);
        let (_, place) = self.pools.range(whole).next()?;
        self.places.get(place)
    }

    /// The vSwitches of which somebody who is not being tried waits for an address, with the place of the first.
    pub(super) fn pools(&self) -> impl Iterator<Item = (&VSwitchId, Place)> {
        let mut next = self.pools.first();
        std::iter::from_fn(move || {
            let (vswitch, place) = next?;
            let rest = (Bound::Excluded((vswitch.clone(), LAST)), Bound::Unbounded);
            next = self.pools.range(rest).next();
            Some((vswitch, *place))
        })
    }
}
