//! Whether the ConfigMaps and Secrets are there that a pod names.
//!
//! Owns when they are asked for: before the pod's containers are started, and again and again
//! while one is missing. Pods that name the same object share an answer, so that a thousand
//! replicas cost one request; nothing is watched (an identity of a node may not list Secrets).

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_provider::id::PodUid;
use jiff::{SignedDuration, Timestamp};

use super::step::{Pod, events};
use super::{Action, Agent, ObjectKey};
use crate::pod::needs::{Found, Supply};
use crate::pod::record::Record;

/// The first and the longest pause before a missing object is looked for again.
const PAUSE: SignedDuration = SignedDuration::from_secs(5);
const PAUSE_MAX: SignedDuration = SignedDuration::from_secs(60);
/// How long an answer counts. Below the first pause, so that looking again asks again.
const FRESH: SignedDuration = SignedDuration::from_secs(4);

/// What is looked for on behalf of one pod; there is none once all of it is there.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) supply: Supply,
    /// When to look; `None` while the answers are on their way.
    pub(super) look_at: Option<Timestamp>,
    tries: u32,
}

impl Search {
    /// The search of a pod that was seen at `now`; `None` when there is nothing to look for.
    pub(super) fn begin(record: &Record, now: Timestamp) -> Option<Box<Self>> {
        (record.needs().is_some() && !record.has_started_all()).then(|| {
            Box::new(Self {
                supply: Supply::Unknown,
                look_at: Some(now),
                tries: 0,
            })
        })
    }

    fn pause(&mut self) -> SignedDuration {
        let factor = 1_i32 << self.tries.min(8);
        self.tries += 1;
        PAUSE
            .checked_mul(factor)
            .unwrap_or(PAUSE_MAX)
            .min(PAUSE_MAX)
    }
}

/// The objects that were looked for lately.
#[derive(Debug, Default)]
pub(super) struct Objects {
    all: HashMap<ObjectKey, Object>,
    /// Sweeping at twice the number that was left keeps its cost below that of the insertions.
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Object {
    /// When it was looked for, and what came of it.
    answer: Option<(Timestamp, Found)>,
    is_asked: bool,
    waiting: Vec<PodUid>,
}

impl Object {
    fn is_fresh(&self, now: Timestamp) -> bool {
        let fresh = |(at, _): &(Timestamp, _)| now.duration_since(*at) < FRESH;
        self.answer.as_ref().is_some_and(fresh)
    }
}

impl Objects {
    fn entry(&mut self, key: &ObjectKey, now: Timestamp) -> &mut Object {
        if self.all.len() >= self.sweep_at {
            self.all.retain(|_, one| one.is_asked || one.is_fresh(now));
            self.sweep_at = (2 * self.all.len()).max(64);
        }
        self.all.entry(key.clone()).or_default()
    }

    fn found(&self, key: &ObjectKey) -> &Found {
        let answer = self.all.get(key).and_then(|one| one.answer.as_ref());
        answer.map_or(&Found::Nothing, |(_, found)| found)
    }
}

impl Agent {
    /// Looks for what the pod names, when it is time.
    pub(super) fn search(&mut self, now: Timestamp, uid: &PodUid) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        if pod.record.deletion().is_some() || pod.record.phase().is_terminal() {
            pod.search = None;
        }
        let Pod { record, search, .. } = &mut **pod;
        let (Some(running), Some(needs)) = (search.as_deref_mut(), record.needs()) else {
            return;
        };
        if running.look_at.is_none_or(|at| now < at) {
            return;
        }
        let namespace = &record.key().namespace;
        let key_of = |object: &crate::pod::needs::Object| ObjectKey {
            namespace: Arc::clone(namespace),
            object: object.clone(),
        };
        let mut pending = false;
        for key in needs.objects().map(key_of) {
            let known = self.objects.entry(&key, now);
            if known.is_fresh(now) {
                continue;
            }
            pending = true;
            if !known.waiting.contains(uid) {
                known.waiting.push(uid.clone());
            }
            if !std::mem::replace(&mut known.is_asked, true) {
                self.actions.push(Action::LookObject(key));
            }
        }
        if pending {
            running.look_at = None;
            return;
        }
        let objects = &self.objects;
        let (supply, said) = needs.weigh(namespace, |object| objects.found(&key_of(object)));
        if supply != running.supply {
            self.actions.extend(events(record, said));
        }
        if supply == Supply::Complete {
            *search = None;
        } else {
            running.look_at = Some(now + running.pause());
            running.supply = supply;
        }
    }

    /// An object was looked for.
    pub(super) fn object_looked(&mut self, now: Timestamp, key: &ObjectKey, found: Found) {
        let Some(known) = self.objects.all.get_mut(key) else {
            return;
        };
        known.is_asked = false;
        known.answer = Some((now, found));
        for uid in std::mem::take(&mut known.waiting) {
            let search = self.pods.get_mut(&uid).and_then(|pod| pod.search.as_mut());
            if let Some(search) = search {
                search.look_at = Some(now);
                self.evaluate(now, &uid);
            }
        }
    }
}
