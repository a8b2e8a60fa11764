//! All pods of our nodes and what is next for each: a synchronous state machine around the pod
//! core and the provider's engine.
//!
//! [`Input`]s and the time go in, [`Action`]s come out as data. Owns which pods matter, what of
//! each was told to the engine, that a pod has at most one write under way, and when a refused
//! write is tried again. Does no I/O and reads no clock; the shell in [`super::run`] does.

mod accept;
mod asked;
mod elsewhere;
mod face;
mod keys;
mod line;
mod step;
mod supply;
#[cfg(test)]
mod tests;

use std::collections::hash_map::Entry;
use std::collections::{self, BTreeSet};
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use holdfast_provider::cloud::sim;
use holdfast_provider::engine::{Effect, Engine, Event, Found};
use holdfast_provider::id::{NodeName, PodKey, PodUid, Zone};
use holdfast_provider::ledger::Notice;
use holdfast_provider::policy::opt_in::FixedIp;
use jiff::{SignedDuration, Timestamp};

use self::accept::created;
pub(super) use self::accept::{asks, class, published};
use self::elsewhere::Other;
use self::keys::Keys;
use self::line::Line;
use self::step::Pod;
use self::supply::Objects;
use super::base::Base;
use super::record::{Names, ProcessExit};
use super::view::{GoneView, Phase, PodView};

pub(crate) use accept::instance_size;
pub use asked::Figures;
pub use face::{Action, ForeignNode, Input, ObjectKey, Refused, Settings, StatusWrite};

/// Pods that are kept whole at most; the status of others is written by a patch. Each takes some 3 kB.
const BASES_MAX: usize = 512;
/// How often a pod is told that its zone has closed. Longer than the recorder keeps silent about what it has said, for of
/// thousands of pods it does not remember all.
const STRANDED_AGAIN: SignedDuration = SignedDuration::from_mins(6);
/// How many are told of it at once: a part of the events that may wait to be sent.
const STRANDED_MAX: usize = 256;

/// See the module.
pub struct Agent {
    settings: Settings,
    engine: Engine,
    /// Boxed, so that growing the map moves pointers and its spare places cost little.
    pods: HashMap<PodUid, Box<Pod>>,
    /// Fixed-IP pods that are not on our nodes: unscheduled, or with somebody else.
    others: HashMap<PodUid, Other>,
    /// Pods that are being given our toleration.
    tolerating: HashSet<PodUid>,
    /// Keys of pods that were refused it, until they were looked at again.
    untolerated: collections::HashSet<PodKey>,
    /// All of both by their keys.
    keys: Keys,
    /// Nodes that shut down, and since when.
    shutdowns: HashMap<NodeName, Timestamp>,
    names: Names,
    objects: Objects,
    /// Pods on our nodes as they were last seen, until a status is written.
    bases: HashMap<PodUid, Base>,
    /// UIDs that the running list has shown so far.
    listing: Option<BTreeSet<PodUid>>,
    /// Pods that a list did not show, until a GET says more.
    unseen: HashSet<PodUid>,
    /// Keys whose GET is under way. People choose these.
    looking: collections::HashMap<PodKey, Looking>,
    /// How many inputs there have been.
    turn: u64,
    timers: BTreeSet<(Timestamp, PodUid)>,
    writes: usize,
    /// Pods that have something to write once a place is free.
    queue: Line,
    actions: Vec<Action>,
}

/// A GET that is under way.
#[derive(Default)]
struct Looking {
    /// The input that asked for it.
    turn: u64,
    /// The pods first seen since it was asked for: an answer that may be older than a pod proves
    /// nothing of it.
    newer: Vec<PodUid>,
    /// Whether another input has asked for it since.
    again: bool,
}

impl Agent {
    /// An agent around an engine that has just been loaded.
    pub fn new(settings: Settings, engine: Engine) -> Self {
        Self {
            settings,
            engine,
            pods: HashMap::new(),
            others: HashMap::new(),
            tolerating: HashSet::new(),
            untolerated: collections::HashSet::new(),
            keys: Keys::default(),
            shutdowns: HashMap::new(),
            names: Names::default(),
            objects: Objects::default(),
            bases: HashMap::new(),
            listing: None,
            unseen: HashSet::new(),
            looking: collections::HashMap::new(),
            turn: 0,
            timers: BTreeSet::new(),
            writes: 0,
            queue: Line::default(),
            actions: Vec::new(),
        }
    }

    /// Takes an input and says what to do about it, in order.
    pub fn handle(&mut self, now: Timestamp, input: Input) -> Vec<Action> {
        self.turn += 1;
        match input {
            Input::ListBegan => self.listing = Some(BTreeSet::new()),
            Input::Seen(view) => self.seen(now, &view),
            Input::ListDone => self.list_done(now),
            Input::Deleted(view) => self.deleted(now, &view),
            Input::Wrote(uid, result) => self.answered(now, &uid, result.map(Some)),
            Input::DeleteSent(uid, result) => self.answered(now, &uid, result.map(|()| None)),
            Input::Tolerated(uid, key, result) => self.tolerated(&uid, key, result),
            Input::Looked(key, result) => self.looked(now, key, result),
            Input::NodeLooked(name, result) => self.node_looked(now, &name, result),
            Input::ObjectLooked(key, found) => self.object_looked(now, &key, found),
            Input::Exited(uid, exit) => self.exited(now, &uid, exit),
            Input::ShutDown(node, begins) => self.shut_down(now, node, begins),
            Input::Engine(event) => self.tell(now, event),
        }
        self.run_timers(now);
        std::mem::take(&mut self.actions)
    }

    /// When [`Event::Tick`] is next worth sending.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let own = self.timers.first().map(|(at, _)| *at);
        [own, self.engine.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether every running pod is known and new ones are served.
    pub fn is_serving(&self) -> bool {
        self.engine.is_serving()
    }

    /// Whether all places for writes are taken and somebody is in line for one, while nobody waits for an
    /// address: whoever leaves then only stands in line himself, and has nothing that another one wants.
    pub fn is_backed_up(&self) -> bool {
        !self.queue.is_empty() && self.engine.waiting_since().is_none()
    }

    /// Fixed-IP pods that must be in one of these zones, which are closed, and for which the scheduler finds no node. Each
    /// is named once in [`STRANDED_AGAIN`], and [`STRANDED_MAX`] at a time.
    pub fn stranded(
        &mut self,
        now: Timestamp,
        closed: &BTreeSet<Zone>,
    ) -> Vec<(PodUid, PodKey, Zone)> {
        let mut stranded = Vec::new();
        for (uid, other) in &mut self.others {
            if stranded.len() >= STRANDED_MAX {
                break;
            }
            if let Some(zone) = other
                .stranded_in
                .as_ref()
                .filter(|zone| closed.contains(*zone))
                && other
                    .told_at
                    .is_none_or(|at| now.duration_since(at) >= STRANDED_AGAIN)
            {
                other.told_at = Some(now);
                stranded.push((uid.clone(), other.key.clone(), zone.clone()));
            }
        }
        stranded
    }

    /// Takes over changed settings of the provider. Pods that were accepted keep what they got.
    pub fn reconfigure(&mut self, settings: holdfast_provider::settings::Settings) {
        self.settings.default_hours = settings.retention.default_hours;
        self.set_cloud(settings.cloud);
    }

    /// Takes over changed latencies and faults of the simulated cloud.
    pub fn set_cloud(&mut self, cloud: sim::Config) {
        self.engine.set_cloud(cloud);
    }

    fn seen(&mut self, now: Timestamp, view: &PodView) {
        let Some(uid) = view.metadata.uid.as_deref().map(PodUid::from) else {
            return;
        };
        let was_known = self.key_of(&uid).is_some();
        if self.pods.contains_key(&uid) {
            self.keep_base(&uid, view);
            if self.observe(now, &uid, view) {
                self.evaluate(now, &uid);
            }
        } else if let Some(node) = view.spec.node_name.as_deref().map(NodeName::from)
            && self.settings.nodes.contains_key(&node)
        {
            self.others.remove(&uid);
            self.keep_base(&uid, view);
            self.accept(now, &uid, node, view);
        } else {
            self.seen_elsewhere(&uid, view);
        }
        let ours = self.pods.contains_key(&uid) || self.others.contains_key(&uid);
        if ours
            && !was_known
            && let Some(key) = self.key_of(&uid).cloned()
            && let Some(looking) = self.looking.get_mut(&key)
        {
            looking.newer.push(uid.clone());
        }
        if let Some(listing) = self.listing.as_mut().filter(|_| ours) {
            listing.insert(uid);
        }
    }

    /// The status that is written next is put on this view, and on no earlier one.
    fn keep_base(&mut self, uid: &PodUid, view: &PodView) {
        self.bases.remove(uid);
        if self.bases.len() < BASES_MAX
            && let Some(base) = Base::of(view)
        {
            self.bases.insert(uid.clone(), base);
        }
    }

    fn exited(&mut self, now: Timestamp, uid: &PodUid, exit: ProcessExit) {
        let pod = self.pods.get_mut(uid);
        if pod.is_some_and(|pod| pod.record.exited(exit, now)) {
            self.evaluate(now, uid);
        }
    }

    /// A node begins to shut down, or is up again.
    fn shut_down(&mut self, now: Timestamp, node: NodeName, begins: bool) {
        let on_it = |pod: &Pod| *pod.record.node() == node;
        let pods = self.pods.iter().filter(|(_, pod)| on_it(pod));
        let pods: Vec<PodUid> = pods.map(|(uid, _)| uid.clone()).collect();
        if begins {
            self.shutdowns.entry(node).or_insert(now);
        } else {
            self.shutdowns.remove(&node);
        }
        for uid in pods {
            self.evaluate(now, &uid);
        }
    }

    fn deleted(&mut self, now: Timestamp, view: &GoneView) {
        let Some(uid) = view.metadata.uid.as_deref().map(PodUid::from) else {
            return;
        };
        // The DELETED event of a forced deletion can be the first to carry its time.
        if let Some(pod) = self.pods.get_mut(&uid) {
            pod.record.observe_gone(view, now);
        }
        self.gone(now, &uid);
    }

    /// Takes in a later view of a pod on one of our nodes; whether it was news.
    fn observe(&mut self, now: Timestamp, uid: &PodUid, view: &PodView) -> bool {
        let Some(pod) = self.pods.get_mut(uid) else {
            return false;
        };
        let was_pending = pod.record.phase() == Phase::Pending;
        let is_news = pod.record.observe(view, &mut self.names, now);
        if pod
            .awaited
            .is_some_and(|version| version.get() <= pod.record.version())
        {
            pod.awaited = None;
            pod.not_before = None;
        }
        if was_pending && pod.record.phase() == Phase::Running {
            let after = now.duration_since(pod.seen_at);
            self.actions.push(Action::Started(after));
        }
        is_news
    }

    /// The object is proved to be gone.
    fn gone(&mut self, now: Timestamp, uid: &PodUid) {
        self.unseen.remove(uid);
        self.bases.remove(uid);
        if let Some(key) = self.key_of(uid).cloned() {
            self.keys.remove(&key, uid);
        }
        self.others.remove(uid);
        if let Some(pod) = self.pods.remove(uid) {
            if let Some(at) = pod.wake_at {
                self.timers.remove(&(at, uid.clone()));
            }
            self.actions.push(Action::Forget(uid.clone()));
            if !pod.told.deleted
                && let Some(deletion) = pod.record.deletion()
            {
                self.tell(now, Event::Deleted(uid.clone(), deletion.deleted_at));
            }
        }
        self.tell(now, Event::Gone(uid.clone()));
    }

    fn list_done(&mut self, now: Timestamp) {
        let Some(seen) = self.listing.take() else {
            return;
        };
        let known = self.pods.iter().map(|(uid, pod)| (uid, pod.record.key()));
        let known = known.chain(self.others.iter().map(|(uid, other)| (uid, &other.key)));
        let missing: Vec<_> = known.filter(|(uid, _)| !seen.contains(uid)).collect();
        self.unseen = missing.iter().map(|(uid, _)| (*uid).clone()).collect();
        let keys: BTreeSet<PodKey> = missing.into_iter().map(|(_, key)| key.clone()).collect();
        for key in keys {
            self.look(key);
        }
        self.tell(now, Event::Listed(seen));
    }

    fn looked(
        &mut self,
        now: Timestamp,
        key: PodKey,
        result: Result<Option<Box<PodView>>, Refused>,
    ) {
        let looking = self.looking.remove(&key).unwrap_or_default();
        let Ok(found) = result else {
            self.tell(now, Event::LookFailed(key.clone()));
            if looking.again
                || self.untolerated.contains(&key)
                || self.of_key(&key).any(|uid| self.unseen.contains(uid))
            {
                self.look(key);
            }
            return;
        };
        let uid = found
            .as_ref()
            .and_then(|view| view.metadata.uid.as_deref())
            .map(PodUid::from);
        let is_newer = |newer: &PodUid| Some(newer) != uid.as_ref();
        if looking.again || looking.newer.iter().any(is_newer) {
            self.look(key);
            return;
        }
        self.untolerated.remove(&key);
        let others = self
            .of_key(&key)
            .filter(|known| Some(*known) != uid.as_ref());
        let others: Vec<PodUid> = others.cloned().collect();
        for gone in others {
            self.gone(now, &gone);
        }
        if let Some(uid) = &uid {
            self.unseen.remove(uid);
        }
        let is_others = |uid: &PodUid| self.others.get(uid).is_some_and(|other| other.is_others);
        let summary = found.as_deref().zip(uid).map(|(view, uid)| Found {
            fixed_ip: !view.spec.host_network
                && !is_others(&uid)
                && matches!(self.read_opt_in(view).0.fixed_ip, FixedIp::On { .. }),
            created_at: created(view).at,
            uid,
        });
        if let Some(view) = &found {
            self.seen(now, view);
        }
        self.tell(now, Event::Looked(key, summary));
    }

    /// Asks the API for the pod of this name; once more when that is under way, for its answer may
    /// be older than the question.
    pub(super) fn look(&mut self, key: PodKey) {
        match self.looking.entry(key) {
            Entry::Occupied(mut looking) => {
                let looking = looking.get_mut();
                looking.again |= looking.turn != self.turn;
            }
            Entry::Vacant(place) => {
                self.actions.push(Action::Look(place.key().clone()));
                place.insert(Looking {
                    turn: self.turn,
                    ..Looking::default()
                });
            }
        }
    }

    /// Gives the engine an event and does what comes of it.
    fn tell(&mut self, now: Timestamp, event: Event) {
        let mut dirty = BTreeSet::new();
        for effect in self.engine.handle(now, event) {
            match effect {
                Effect::Commit(number, job) => self.actions.push(Action::Commit(number, job)),
                Effect::Call(number, request) => self.actions.push(Action::Call(number, request)),
                Effect::Look(key) => self.look(key),
                Effect::Refuse(why) => self.actions.push(Action::Refuse(why)),
                Effect::Notice(notice) => self.notify(notice),
                Effect::Publish(uid) => {
                    dirty.insert(uid);
                }
            }
        }
        for uid in dirty {
            self.evaluate(now, &uid);
        }
    }

    fn notify(&mut self, notice: Notice) {
        if let Some(key) = self.key_of(&notice.uid).cloned() {
            let uid = Arc::new(notice.uid);
            self.actions
                .push(Action::Event(uid, key, notice.reason.into(), notice.note));
        }
    }

    fn key_of(&self, uid: &PodUid) -> Option<&PodKey> {
        let here = self.pods.get(uid).map(|pod| pod.record.key());
        here.or_else(|| self.others.get(uid).map(|other| &other.key))
    }

    /// The pods that are known under this name, on our nodes or not.
    fn of_key(&self, key: &PodKey) -> impl Iterator<Item = &PodUid> {
        let candidates = self.keys.candidates(key);
        candidates.filter(move |uid| self.key_of(uid) == Some(key))
    }

    fn run_timers(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.timers.first()
            && *at <= now
        {
            let Some((_, uid)) = self.timers.pop_first() else {
                break;
            };
            if let Some(pod) = self.pods.get_mut(&uid) {
                pod.wake_at = None;
                self.evaluate(now, &uid);
            }
        }
        if self.engine.next_deadline().is_some_and(|at| at <= now) {
            self.tell(now, Event::Tick);
        }
    }
}
