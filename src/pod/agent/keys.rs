//! Which pods have a name. A look asks for a name, and must not pass over all pods for its answer.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};

use holdfast_provider::id::{PodKey, PodUid};

/// Pods by a hash of their key, which costs half the memory that whole keys would: whoever asks
/// compares these. Mostly one pod has a key, and two for a moment.
#[derive(Debug, Default)]
pub(super) struct Keys {
    hasher: RandomState,
    pods: BTreeSet<(u64, PodUid)>,
}

impl Keys {
    pub(super) fn insert(&mut self, key: &PodKey, uid: PodUid) {
        self.pods.insert((self.hasher.hash_one(key), uid));
    }

    pub(super) fn remove(&mut self, key: &PodKey, uid: &PodUid) {
        self.pods.remove(&(self.hasher.hash_one(key), uid.clone()));
    }

    /// All pods of this key, and perhaps others.
    pub(super) fn candidates(&self, key: &PodKey) -> impl Iterator<Item = &PodUid> {
        let hash = self.hasher.hash_one(key);
        let from = self.pods.range((hash, PodUid::from(""))..);
        from.take_while(move |(of, _)| *of == hash)
            .map(|(_, uid)| uid)
    }
}
