//! One pod on one of our nodes: what the engine is told of it, and its next write.

use std::borrow::Cow;
use std::num::NonZeroU64;
use std::sync::Arc;

use foldhash::HashMap;
use holdfast_provider::engine::{Creation, Engine, Event, Network, Node, PodFacts, Published};
use holdfast_provider::id::{NodeName, PodUid};
use holdfast_provider::policy::opt_in::OptIn;
use jiff::{SignedDuration, Timestamp};

use super::supply::Search;
use super::{Action, Agent, Refused, Settings, StatusWrite};
use crate::pod::base::Base;
use crate::pod::core::{self, Facts, Topic};
use crate::pod::needs::Supply;
use crate::pod::record::Record;

/// The first and the longest pause before a refused write is tried again.
const BACK_OFF: SignedDuration = SignedDuration::from_millis(200);
const BACK_OFF_MAX: SignedDuration = SignedDuration::from_secs(30);
/// How long an accepted status may take to be seen, before it is written again. The watch is late when the API server
/// is, and then must not be given more to do.
const PATIENCE: SignedDuration = SignedDuration::from_secs(30);
/// The same of an accepted DELETE.
const DELETE_PATIENCE: SignedDuration = SignedDuration::from_secs(5);

static COMPLETE: Supply = Supply::Complete;

/// A pod on one of our nodes.
pub(super) struct Pod {
    pub(super) record: Record,
    pub(super) seen_at: Timestamp,
    /// What the engine is told with [`Event::Bound`], until it was.
    pub(super) introduction: Option<Box<Introduction>>,
    /// Fixed IP on a class that offers none: the pod stays Pending and says so.
    pub(super) refused: Option<Box<Network>>,
    /// What its containers wait for.
    pub(super) search: Option<Box<Search>>,
    pub(super) told: Told,
    pub(super) busy: bool,
    pub(super) queued: bool,
    pub(super) attempts: u32,
    pub(super) not_before: Option<Timestamp>,
    /// The version that the last status write led to, until a view of the pod shows it.
    pub(super) awaited: Option<NonZeroU64>,
    pub(super) wake_at: Option<Timestamp>,
}

/// What of a pod only the engine needs.
#[derive(Debug)]
pub(super) struct Introduction {
    pub(super) opt_in: OptIn,
    /// The address that the API showed first.
    pub(super) published: Option<Published>,
}

/// What else the engine was told of a pod, each once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) deleted: bool,
    pub(super) stopped: bool,
    pub(super) ended: bool,
}

impl Pod {
    fn supply(&self) -> &Supply {
        let search = self.search.as_ref();
        search.map_or(&COMPLETE, |search| &search.supply)
    }
}

impl Agent {
    /// Makes a pod known to the engine that needs to know it.
    fn introduce(&mut self, now: Timestamp, uid: &PodUid) {
        if let Some(pod) = self.pods.get_mut(uid)
            && let Some(facts) = introduction(pod, &self.engine, &self.settings, &self.shutdowns)
        {
            self.tell(now, Event::Bound(facts));
        }
    }

    /// Tells the engine what it does not know of the pod yet, and does the pod's next step.
    pub(super) fn evaluate(&mut self, now: Timestamp, uid: &PodUid) {
        self.introduce(now, uid);
        self.search(now, uid);
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        if let Some(at) = pod.wake_at.take() {
            self.timers.remove(&(at, uid.clone()));
        }
        let Some(node) = self.settings.nodes.get(pod.record.node()) else {
            return;
        };
        let deleted_at = untold_deletion(pod, &self.engine, &self.shutdowns);
        let network = network_of(pod, &self.engine);
        let facts = Facts {
            network: &network,
            node,
            lifecycle: &self.settings.lifecycle,
            seen_at: pod.seen_at,
            supply: pod.supply(),
            shutdown_at: self.shutdowns.get(pod.record.node()).copied(),
        };
        let step = core::step(&pod.record, &facts, now);
        let look_at = pod.search.as_ref().and_then(|search| search.look_at);
        let mut wake_at = step.wake_at.into_iter().chain(look_at).min();
        let mut event = deleted_at.map(|at| Event::Deleted(uid.clone(), at));
        let ready = !pod.busy && pod.not_before.is_none_or(|at| at <= now);
        let settled = !pod.busy && (pod.awaited.is_none() || ready);
        match step.action {
            Some(core::Action::StopNetwork) if !pod.told.stopped => {
                pod.told.stopped = true;
                let uid = uid.clone();
                event = Some(match deleted_at {
                    Some(at) => Event::DeletedAndStopped(uid, at),
                    None => Event::Stopped(uid),
                });
            }
            // A status that was written and not seen yet may put the phase back.
            Some(core::Action::EndNetwork) if !pod.told.ended && settled => {
                pod.told.ended = true;
                event = Some(Event::Ended(uid.clone()));
            }
            None | Some(core::Action::StopNetwork | core::Action::EndNetwork) => {}
            Some(_) if !ready => wake_at = pod.not_before.filter(|_| !pod.busy).or(wake_at),
            Some(_) if self.writes >= self.settings.writes_max => {
                if !std::mem::replace(&mut pod.queued, true) {
                    self.queue.push(&pod.record.key().namespace, uid.clone());
                }
            }
            Some(write) => {
                let base = self.bases.remove(uid);
                self.actions.push(request(&pod.record, base, &write));
                self.actions.extend(events(&pod.record, step.said));
                pod.busy = true;
                self.writes += 1;
            }
        }
        if let Some(at) = wake_at {
            self.wake(uid, at);
        }
        if let Some(event) = event {
            self.tell(now, event);
            self.evaluate(now, uid);
        }
    }

    /// A write was answered: with the version that it led to, if it was a status.
    pub(super) fn answered(
        &mut self,
        now: Timestamp,
        uid: &PodUid,
        result: Result<Option<u64>, Refused>,
    ) {
        self.writes -= 1;
        self.answered_one(now, uid, result);
        while self.writes < self.settings.writes_max
            && let Some(next) = self.queue.pop()
        {
            if let Some(pod) = self.pods.get_mut(&next) {
                pod.queued = false;
                self.evaluate(now, &next);
            }
        }
    }

    fn answered_one(&mut self, now: Timestamp, uid: &PodUid, result: Result<Option<u64>, Refused>) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        pod.busy = false;
        match result {
            Ok(version) => {
                pod.attempts = 0;
                let awaited = version.filter(|version| *version > pod.record.version());
                pod.awaited = awaited.and_then(NonZeroU64::new);
                pod.not_before = match version {
                    None => Some(now + DELETE_PATIENCE),
                    Some(_) => pod.awaited.map(|_| now + PATIENCE),
                };
                if pod.awaited.is_some() {
                    // The view that shows it will say what is next.
                    self.wake(uid, now + PATIENCE);
                    return;
                }
            }
            Err(refused) => {
                pod.attempts += 1;
                let factor = 1_i32 << pod.attempts.min(16);
                let pause = BACK_OFF.checked_mul(factor).unwrap_or(BACK_OFF_MAX);
                // What was seen since is tried at once, or else a patch; both can be refused as well.
                let is_soon = refused == Refused::Stale && pod.attempts == 1;
                pod.not_before = (!is_soon).then(|| now + pause.min(BACK_OFF_MAX));
                if refused == Refused::Gone {
                    // Its own DELETED event will say so too; a look proves it should that be lost.
                    let key = pod.record.key().clone();
                    self.look(key);
                }
            }
        }
        self.evaluate(now, uid);
    }

    /// Sees to it that a pod is evaluated at `at`, or earlier.
    fn wake(&mut self, uid: &PodUid, at: Timestamp) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        if pod.wake_at.is_some_and(|earlier| earlier <= at) {
            return;
        }
        if let Some(later) = pod.wake_at.replace(at) {
            self.timers.remove(&(later, uid.clone()));
        }
        self.timers.insert((at, uid.clone()));
    }
}

/// Whether the engine is told of this pod at all.
fn is_for_engine(pod: &Pod, engine: &Engine, shutdowns: &HashMap<NodeName, Timestamp>) -> bool {
    let record = &pod.record;
    let shutdown_at = shutdowns.get(record.node());
    let is_rejected = shutdown_at.is_some_and(|at| core::is_rejected(record, pod.seen_at, *at));
    // One that was made known before needs to be told of as ever.
    let is_unknown = pod.introduction.is_some() && engine.network(record.uid()).is_none();
    !(record.host_network() || pod.refused.is_some() || is_rejected && is_unknown)
}

/// What the engine is told of a pod first, if it needs to know the pod.
fn introduction(
    pod: &mut Pod,
    engine: &Engine,
    settings: &Settings,
    shutdowns: &HashMap<NodeName, Timestamp>,
) -> Option<PodFacts> {
    if !is_for_engine(pod, engine, shutdowns) {
        return None;
    }
    let record = &pod.record;
    let leaving = record.deletion().is_some();
    // A pod that leaves and holds nothing needs nothing; one that holds an address is made known
    // even so, or its address would be given away before it is gone.
    let holds = record.pod_ip().is_some() || engine.network(record.uid()).is_some();
    if record.phase().is_terminal() || leaving && !holds {
        return None;
    }
    let introduction = pod.introduction.take()?;
    let node = settings.nodes.get(record.node())?;
    Some(PodFacts {
        uid: record.uid().clone(),
        key: record.key().clone(),
        created: Creation {
            at: record.created_at(),
            revision: record.version(),
        },
        node: Node {
            name: record.node().clone(),
            zone: node.zone.clone(),
            node_type: node.node_type,
        },
        opt_in: introduction.opt_in,
        published: introduction.published,
    })
}

/// When the pod's deletion was asked for, once, for the engine to be told.
fn untold_deletion(
    pod: &mut Pod,
    engine: &Engine,
    shutdowns: &HashMap<NodeName, Timestamp>,
) -> Option<Timestamp> {
    let tells = !pod.told.deleted && is_for_engine(pod, engine, shutdowns);
    let deletion = pod.record.deletion().filter(|_| tells)?;
    pod.told.deleted = true;
    Some(deletion.deleted_at)
}

pub(super) fn network_of<'a>(pod: &'a Pod, engine: &'a Engine) -> Cow<'a, Network> {
    let leaving = pod.record.deletion().is_some() || pod.record.phase().is_terminal();
    let unknown = if leaving {
        Network::Detached
    } else {
        Network::Pending
    };
    match (&pod.refused, engine.network(pod.record.uid())) {
        (Some(refused), _) if !leaving => Cow::Borrowed(&**refused),
        (Some(_), _) | (None, None) => Cow::Owned(unknown),
        (None, Some(network)) => Cow::Borrowed(network),
    }
}

/// What is said of a pod.
pub(super) fn events(record: &Record, said: Vec<(Topic, String)>) -> impl Iterator<Item = Action> {
    let uid = (!said.is_empty()).then(|| Arc::new(record.uid().clone()));
    let of_one = uid.into_iter().cycle();
    said.into_iter()
        .zip(of_one)
        .map(|((topic, note), uid)| Action::Event(uid, record.key().clone(), topic, note))
}

fn request(record: &Record, base: Option<Base>, write: &core::Action<'_>) -> Action {
    let (uid, key) = (record.uid().clone(), record.key().clone());
    match write {
        core::Action::WriteStatus(wanted) => {
            let write = match base {
                Some(base) => {
                    StatusWrite::Put(base.with(wanted).expect("it was taken apart before"))
                }
                None => StatusWrite::Patch(serde_json::to_vec(wanted).expect("plain data")),
            };
            Action::WriteStatus { uid, key, write }
        }
        core::Action::DeleteObject => Action::Delete(uid, key),
        core::Action::StopNetwork | core::Action::EndNetwork => {
            unreachable!("these are told to the engine")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There is one for each of tens of thousands of pods; the allocator's next size is 640 bytes.
    #[test]
    fn what_is_kept_of_a_pod_fits_the_allocator_s_size() {
        assert!(size_of::<Pod>() <= 512, "{} bytes", size_of::<Pod>());
    }
}
