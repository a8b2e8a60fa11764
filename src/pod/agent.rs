//! All pods of our nodes and what is next for each: a synchronous state machine around the pod
//! core and the provider's engine.
//!
//! [`Input`]s and the time go in, [`Action`]s come out as data. Owns which pods matter, what of
//! each was told to the engine, that a pod has at most one write under way, and when a refused
//! write is tried again. Does no I/O and reads no clock; the shell in [`super::run`] does.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use holdfast_provider::cloud::Request;
use holdfast_provider::engine::{
    Effect, Engine, Event, Found, Network, Node, PodFacts, Published, Reason,
};
use holdfast_provider::id::{NodeName, PodKey, PodUid, Zone};
use holdfast_provider::ledger::{Job, Notice};
use holdfast_provider::policy::opt_in::{self, FixedIp, OptIn, UnsupportedClass, WarningKind};
use holdfast_provider::policy::use_spec::{Resources, use_spec};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::NodeSelectorTerm;

use super::api::ZONE_LABEL;
use super::core::{self, Facts, Lifecycle, NodeInfo};
use super::quantity;
use super::record::{Names, Record};
use super::status::SYSTEM_ANNOTATIONS;
use super::view::{Phase, PodView};
use crate::webhook;

/// The first and the longest pause before a refused write is tried again.
const BACK_OFF: SignedDuration = SignedDuration::from_millis(200);
const BACK_OFF_MAX: SignedDuration = SignedDuration::from_secs(30);
/// How long an accepted DELETE may stay without effect before it is sent again.
const DELETE_PATIENCE: SignedDuration = SignedDuration::from_secs(5);

/// What the agent is set to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our nodes.
    pub nodes: HashMap<NodeName, NodeInfo>,
    /// How long the stages of a pod last.
    pub lifecycle: Lifecycle,
    /// What becomes of a fixed IP on a class that offers none.
    pub unsupported_class: UnsupportedClass,
    /// Retention in hours for pods that name none.
    pub default_hours: u32,
    /// Whether opted-in pods that lack the toleration get it.
    pub tolerate: bool,
    /// How many writes to the API may be under way: each holds a body and a connection.
    pub writes_max: usize,
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A list of all pods begins.
    ListBegan,
    /// A pod as it is now, from the list or the watch.
    Seen(Box<PodView>),
    /// The list is complete.
    ListDone,
    /// A pod's DELETED event.
    Deleted(Box<PodView>),
    /// A status write was answered with the object.
    Wrote(PodUid, Result<Box<PodView>, Refused>),
    /// A DELETE was answered; the object, if it stays.
    DeleteSent(PodUid, Result<Option<Box<PodView>>, Refused>),
    /// The toleration was added, or not.
    Tolerated(PodUid, Result<(), Refused>),
    /// A GET was answered: the pod of that name, if there is one.
    Looked(PodKey, Result<Option<Box<PodView>>, Refused>),
    /// A node that is not ours was looked at.
    NodeLooked(NodeName, Result<Option<ForeignNode>, Refused>),
    /// For the engine.
    Engine(Event),
}

/// Why a request had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The object is gone, or another one has its name.
    Gone,
    /// Not now: worth another try.
    Later,
}

/// A node that somebody else keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignNode {
    /// Whether it is a virtual node (label `type=virtual-kubelet`), which is no ECS node.
    pub is_virtual: bool,
    /// Its zone, if it has the label.
    pub zone: Zone,
}

/// Something to do.
#[derive(Debug)]
pub enum Action {
    /// Run a ledger job and bring back the result under this number.
    Commit(u64, Job),
    /// Call the cloud and bring back the result under this number.
    Call(u64, Request),
    /// PATCH the status; `body` is a strategic merge patch.
    WriteStatus {
        /// Whose.
        uid: PodUid,
        /// Namespace and name.
        key: PodKey,
        /// The JSON.
        body: Vec<u8>,
    },
    /// DELETE with grace 0 and the UID as precondition.
    Delete(PodUid, PodKey),
    /// Add our toleration to a pod that lacks it.
    ///
    /// Only to the version that was seen: it may have got it since.
    Tolerate(PodUid, PodKey, String, json_patch::PatchOperation),
    /// GET the pod of this name.
    Look(PodKey),
    /// GET the node of this name.
    LookNode(NodeName),
    /// Send an event.
    Event(Arc<PodUid>, PodKey, Reason, String),
    /// Stop, and say why.
    Refuse(String),
}

/// See the module.
pub struct Agent {
    settings: Settings,
    engine: Engine,
    /// Boxed, so that growing the map moves pointers and its spare places cost little.
    pods: HashMap<PodUid, Box<Pod>>,
    /// Fixed-IP pods that are not on our nodes: unscheduled, or with somebody else.
    others: HashMap<PodUid, Other>,
    names: Names,
    /// UIDs that the running list has shown so far.
    listing: Option<BTreeSet<PodUid>>,
    /// Pods that a list did not show, until a GET says more.
    unseen: HashSet<PodUid>,
    timers: BTreeSet<(Timestamp, PodUid)>,
    writes: usize,
    /// Pods that have something to write once a place is free.
    queue: VecDeque<PodUid>,
    actions: Vec<Action>,
}

/// A pod on one of our nodes.
struct Pod {
    record: Record,
    seen_at: Timestamp,
    opt_in: OptIn,
    /// Fixed IP on a class that offers none: the pod stays Pending and says so.
    refused: Option<Box<Network>>,
    /// The address that the API showed first, until the engine was told.
    published: Option<Box<Published>>,
    told: Told,
    busy: bool,
    queued: bool,
    attempts: u32,
    not_before: Option<Timestamp>,
    wake_at: Option<Timestamp>,
}

/// What the engine was told of a pod, each once.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    bound: bool,
    deleted: bool,
    stopped: bool,
    ended: bool,
}

/// A fixed-IP pod that is not on our nodes.
struct Other {
    key: PodKey,
    facts: Option<PodFacts>,
    /// The zone that it must be in, while the scheduler finds no node for it.
    stranded_in: Option<Zone>,
}

impl Agent {
    /// An agent around an engine that has just been loaded.
    pub fn new(settings: Settings, engine: Engine) -> Self {
        Self {
            settings,
            engine,
            pods: HashMap::new(),
            others: HashMap::new(),
            names: Names::default(),
            listing: None,
            unseen: HashSet::new(),
            timers: BTreeSet::new(),
            writes: 0,
            queue: VecDeque::new(),
            actions: Vec::new(),
        }
    }

    /// Takes an input and says what to do about it, in order.
    pub fn handle(&mut self, now: Timestamp, input: Input) -> Vec<Action> {
        match input {
            Input::ListBegan => self.listing = Some(BTreeSet::new()),
            Input::Seen(view) => self.seen(now, &view),
            Input::ListDone => self.list_done(now),
            Input::Deleted(view) => self.deleted(now, &view),
            Input::Wrote(uid, result) => self.answered(now, &uid, result.map(Some), None),
            Input::DeleteSent(uid, result) => {
                self.answered(now, &uid, result, Some(DELETE_PATIENCE));
            }
            Input::Tolerated(_, Ok(())) => {}
            Input::Tolerated(uid, Err(error)) => {
                // The next view of the pod, at the latest that of the next list, asks again.
                tracing::warn!(%uid, ?error, "a pod could not be given our toleration");
            }
            Input::Looked(key, result) => self.looked(now, key, result),
            Input::NodeLooked(name, result) => self.node_looked(now, &name, result),
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

    /// Fixed-IP pods that must be in a zone and for which the scheduler finds no node there.
    pub fn stranded(&self) -> impl Iterator<Item = (&PodUid, &PodKey, &Zone)> {
        self.others.iter().filter_map(|(uid, other)| {
            let zone = other.stranded_in.as_ref()?;
            Some((uid, &other.key, zone))
        })
    }

    /// Takes over changed settings of the provider. Pods that were accepted keep what they got.
    pub fn reconfigure(&mut self, settings: holdfast_provider::settings::Settings) {
        self.settings.default_hours = settings.retention.default_hours;
        self.engine.set_cloud(settings.cloud);
    }

    fn seen(&mut self, now: Timestamp, view: &PodView) {
        let Some(uid) = view.metadata.uid.as_deref().map(PodUid::from) else {
            return;
        };
        if let Some(pod) = self.pods.get_mut(&uid) {
            if pod.record.observe(view, &mut self.names, now) {
                self.evaluate(now, &uid);
            }
        } else if let Some(node) = view.spec.node_name.as_deref().map(NodeName::from)
            && self.settings.nodes.contains_key(&node)
        {
            self.others.remove(&uid);
            self.accept(now, &uid, node, view);
        } else {
            self.seen_elsewhere(&uid, view);
        }
        let ours = self.pods.contains_key(&uid) || self.others.contains_key(&uid);
        if let Some(listing) = self.listing.as_mut().filter(|_| ours) {
            listing.insert(uid);
        }
    }

    /// A pod on one of our nodes, for the first time in this process.
    fn accept(&mut self, now: Timestamp, uid: &PodUid, node: NodeName, view: &PodView) {
        let (opt_in, warnings) = self.read_opt_in(view);
        let spec = use_spec(&resources(view)).into_boxed_str();
        let Some(record) = Record::from_view(view, node, spec, &mut self.names, now) else {
            return;
        };
        let is_news = self.engine.network(uid).is_none()
            && record.phase() == Phase::Pending
            && !record.host_network();
        let mut refused = None;
        for warning in warnings {
            let reason = match warning.kind {
                WarningKind::InvalidAnnotation => Reason::FixedIPInvalidAnnotation,
                WarningKind::InvalidReleaseAfter => Reason::FixedIPInvalidReleaseAfter,
                WarningKind::Unsupported => Reason::FixedIPUnsupported,
            };
            if matches!(opt_in.fixed_ip, FixedIp::Unsupported { .. })
                && reason == Reason::FixedIPUnsupported
            {
                refused = Some(Box::new(Network::Waiting {
                    reason,
                    note: warning.note.clone(),
                }));
            }
            if is_news {
                let uid = Arc::new(uid.clone());
                self.actions.push(Action::Event(
                    uid,
                    record.key().clone(),
                    reason,
                    warning.note,
                ));
            }
        }
        let refused = refused.filter(|_| !record.host_network());
        let pod = Pod {
            record,
            seen_at: now,
            opt_in,
            refused,
            published: published(view).map(Box::new),
            told: Told::default(),
            busy: false,
            queued: false,
            attempts: 0,
            not_before: None,
            wake_at: None,
        };
        self.pods.insert(uid.clone(), Box::new(pod));
        self.evaluate(now, uid);
    }

    fn read_opt_in(&self, view: &PodView) -> (OptIn, Vec<opt_in::Warning>) {
        let annotations = view.metadata.annotations.as_ref();
        let annotation = |name: &str| annotations?.get(name).map(String::as_str);
        let class = view
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(opt_in::COMPUTE_CLASS));
        let settings = &self.settings;
        opt_in::read(
            annotation,
            class.map(String::as_str),
            settings.unsupported_class,
            settings.default_hours,
        )
    }

    /// A pod that is not on our nodes matters while it may come to them or takes a claim along.
    fn seen_elsewhere(&mut self, uid: &PodUid, view: &PodView) {
        let meta = &view.metadata;
        if !webhook::opted_in(meta.labels.as_ref(), meta.annotations.as_ref()) {
            return;
        }
        let Some(name) = meta.name.as_deref() else {
            return;
        };
        let key = PodKey::new(meta.namespace.as_deref().unwrap_or("default"), name);
        let unbound = view.spec.node_name.is_none();
        if unbound
            && self.settings.tolerate
            && view.status.phase == Phase::Pending
            && meta.deletion_timestamp.is_none()
            && let Some(patch) = webhook::toleration_patch(&view.spec.tolerations)
        {
            let version = meta.resource_version.clone().unwrap_or_default();
            self.actions
                .push(Action::Tolerate(uid.clone(), key.clone(), version, patch));
        }
        let (opt_in, _) = self.read_opt_in(view);
        if !matches!(opt_in.fixed_ip, FixedIp::On { .. }) {
            return;
        }
        if let Some(other) = self.others.get_mut(uid) {
            other.stranded_in = stranded_in(view);
            if other.facts.is_some() || unbound {
                return;
            }
        }
        let mut other = Other {
            key: key.clone(),
            facts: None,
            stranded_in: stranded_in(view),
        };
        if let Some(node) = view.spec.node_name.as_deref().map(NodeName::from) {
            self.actions.push(Action::LookNode(node.clone()));
            other.facts = Some(PodFacts {
                uid: uid.clone(),
                key,
                created_at: created_at(view),
                node: Node {
                    name: node,
                    zone: "".into(),
                    node_type: holdfast_provider::id::NodeType::Ecs,
                },
                opt_in,
                published: None,
            });
        }
        self.others.insert(uid.clone(), other);
    }

    fn node_looked(
        &mut self,
        now: Timestamp,
        name: &NodeName,
        result: Result<Option<ForeignNode>, Refused>,
    ) {
        match result {
            Err(_) => self.actions.push(Action::LookNode(name.clone())),
            // A node that is gone tells nothing of its type; the pod on it is about to go too.
            Ok(None) => {}
            Ok(Some(node)) if node.is_virtual => {}
            Ok(Some(node)) => {
                let found: Vec<PodFacts> = self
                    .others
                    .values()
                    .filter_map(|other| other.facts.as_ref())
                    .filter(|facts| facts.node.name == *name)
                    .cloned()
                    .collect();
                for mut facts in found {
                    facts.node.zone = node.zone.clone();
                    self.tell(now, Event::OnForeignEcs(facts));
                }
            }
        }
    }

    fn deleted(&mut self, now: Timestamp, view: &PodView) {
        let Some(uid) = view.metadata.uid.as_deref().map(PodUid::from) else {
            return;
        };
        if let Some(pod) = self.pods.get_mut(&uid) {
            // The DELETED event of a forced deletion can be the first to carry its time.
            pod.record.observe(view, &mut self.names, now);
        }
        self.gone(now, &uid);
    }

    /// The object is proved to be gone.
    fn gone(&mut self, now: Timestamp, uid: &PodUid) {
        self.unseen.remove(uid);
        self.others.remove(uid);
        if let Some(pod) = self.pods.remove(uid) {
            if let Some(at) = pod.wake_at {
                self.timers.remove(&(at, uid.clone()));
            }
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
        let looks: Vec<Action> = missing
            .into_iter()
            .map(|(_, key)| Action::Look(key.clone()))
            .collect();
        self.actions.extend(looks);
        self.tell(now, Event::Listed(seen));
    }

    fn looked(
        &mut self,
        now: Timestamp,
        key: PodKey,
        result: Result<Option<Box<PodView>>, Refused>,
    ) {
        let Ok(found) = result else {
            self.tell(now, Event::LookFailed(key.clone()));
            if self.unseen.iter().any(|uid| self.key_of(uid) == Some(&key)) {
                self.actions.push(Action::Look(key));
            }
            return;
        };
        let uid = found
            .as_ref()
            .and_then(|view| view.metadata.uid.as_deref())
            .map(PodUid::from);
        let others: Vec<PodUid> = self
            .pods
            .iter()
            .map(|(uid, pod)| (uid, pod.record.key()))
            .chain(self.others.iter().map(|(uid, other)| (uid, &other.key)))
            .filter(|(known, of)| **of == key && Some(*known) != uid.as_ref())
            .map(|(known, _)| known.clone())
            .collect();
        for gone in others {
            self.gone(now, &gone);
        }
        if let Some(uid) = &uid {
            self.unseen.remove(uid);
        }
        let summary = found.as_deref().zip(uid).map(|(view, uid)| Found {
            uid,
            fixed_ip: matches!(self.read_opt_in(view).0.fixed_ip, FixedIp::On { .. }),
            created_at: created_at(view),
        });
        if let Some(view) = &found {
            self.seen(now, view);
        }
        self.tell(now, Event::Looked(key, summary));
    }

    /// Gives the engine an event and does what comes of it.
    fn tell(&mut self, now: Timestamp, event: Event) {
        let mut dirty = BTreeSet::new();
        for effect in self.engine.handle(now, event) {
            match effect {
                Effect::Commit(number, job) => self.actions.push(Action::Commit(number, job)),
                Effect::Call(number, request) => self.actions.push(Action::Call(number, request)),
                Effect::Look(key) => self.actions.push(Action::Look(key)),
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
                .push(Action::Event(uid, key, notice.reason, notice.note));
        }
    }

    fn key_of(&self, uid: &PodUid) -> Option<&PodKey> {
        let here = self.pods.get(uid).map(|pod| pod.record.key());
        here.or_else(|| self.others.get(uid).map(|other| &other.key))
    }

    /// Tells the engine what it does not know of the pod yet, and does the pod's next step.
    fn evaluate(&mut self, now: Timestamp, uid: &PodUid) {
        if let Some(event) = self
            .pods
            .get_mut(uid)
            .and_then(|pod| news(pod, &self.engine, &self.settings))
        {
            // Whatever the engine makes of it ends in another evaluation, or in this one.
            self.tell(now, event);
            self.evaluate(now, uid);
            return;
        }
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        if let Some(at) = pod.wake_at.take() {
            self.timers.remove(&(at, uid.clone()));
        }
        let Some(node) = self.settings.nodes.get(pod.record.node()) else {
            return;
        };
        let network = network_of(pod, &self.engine);
        let facts = Facts {
            network: &network,
            node,
            lifecycle: &self.settings.lifecycle,
            seen_at: pod.seen_at,
        };
        let step = core::step(&pod.record, &facts, now);
        let mut wake_at = step.wake_at;
        let mut event = None;
        let ready = !pod.busy && pod.not_before.is_none_or(|at| at <= now);
        match step.action {
            Some(core::Action::StopNetwork) if !pod.told.stopped => {
                pod.told.stopped = true;
                event = Some(Event::Stopped(uid.clone()));
            }
            // A status under way may yet put the phase back; its answer tells.
            Some(core::Action::EndNetwork) if !pod.told.ended && !pod.busy => {
                pod.told.ended = true;
                event = Some(Event::Ended(uid.clone()));
            }
            None | Some(core::Action::StopNetwork | core::Action::EndNetwork) => {}
            Some(_) if !ready => wake_at = pod.not_before.filter(|_| !pod.busy),
            Some(_) if self.writes >= self.settings.writes_max => {
                let is_new = !std::mem::replace(&mut pod.queued, true);
                self.queue.extend(is_new.then(|| uid.clone()));
            }
            Some(write) => {
                self.actions.push(request(&pod.record, &write));
                pod.busy = true;
                self.writes += 1;
            }
        }
        if let Some(at) = wake_at {
            pod.wake_at = Some(at);
            self.timers.insert((at, uid.clone()));
        }
        if let Some(event) = event {
            self.tell(now, event);
            self.evaluate(now, uid);
        }
    }

    /// A write was answered. `patience` is how long its effect may take to be seen.
    fn answered(
        &mut self,
        now: Timestamp,
        uid: &PodUid,
        result: Result<Option<Box<PodView>>, Refused>,
        patience: Option<SignedDuration>,
    ) {
        self.writes -= 1;
        self.answered_one(now, uid, result, patience);
        while self.writes < self.settings.writes_max
            && let Some(next) = self.queue.pop_front()
        {
            if let Some(pod) = self.pods.get_mut(&next) {
                pod.queued = false;
                self.evaluate(now, &next);
            }
        }
    }

    fn answered_one(
        &mut self,
        now: Timestamp,
        uid: &PodUid,
        result: Result<Option<Box<PodView>>, Refused>,
        patience: Option<SignedDuration>,
    ) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        pod.busy = false;
        match result {
            Ok(view) => {
                pod.attempts = 0;
                pod.not_before = patience.map(|patience| now + patience);
                if let Some(view) = view {
                    pod.record.observe(&view, &mut self.names, now);
                }
            }
            Err(refused) => {
                pod.attempts += 1;
                let factor = 1_i32 << pod.attempts.min(16);
                let pause = BACK_OFF.checked_mul(factor).unwrap_or(BACK_OFF_MAX);
                pod.not_before = Some(now + pause.min(BACK_OFF_MAX));
                if refused == Refused::Gone {
                    // Its own DELETED event will say so too; a look proves it should that be lost.
                    let key = pod.record.key().clone();
                    self.actions.push(Action::Look(key));
                }
            }
        }
        self.evaluate(now, uid);
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

/// The next thing that the engine has to know of a pod, each told once.
fn news(pod: &mut Pod, engine: &Engine, settings: &Settings) -> Option<Event> {
    let record = &pod.record;
    if record.host_network() || pod.refused.is_some() {
        return None;
    }
    let uid = record.uid();
    let ended = record.phase().is_terminal();
    let leaving = record.deletion().is_some();
    // A pod that leaves and holds nothing needs nothing; one that holds an address is made known
    // even so, or its address would be given away before it is gone.
    let holds = record.pod_ip().is_some() || engine.network(uid).is_some();
    if !pod.told.bound && !ended && (!leaving || holds) {
        pod.told.bound = true;
        let node = settings.nodes.get(record.node())?;
        return Some(Event::Bound(PodFacts {
            uid: uid.clone(),
            key: record.key().clone(),
            created_at: record.created_at(),
            node: Node {
                name: record.node().clone(),
                zone: node.zone.clone(),
                node_type: node.node_type,
            },
            opt_in: pod.opt_in.clone(),
            published: pod.published.take().map(|published| *published),
        }));
    }
    if let Some(deletion) = record.deletion().filter(|_| !pod.told.deleted) {
        pod.told.deleted = true;
        return Some(Event::Deleted(uid.clone(), deletion.deleted_at));
    }
    None
}

/// The zone that an unschedulable pod requires, as the webhook pins it: in every term.
fn stranded_in(view: &PodView) -> Option<Zone> {
    let unschedulable =
        view.status.conditions.iter().any(|condition| {
            condition.kind == "PodScheduled" && condition.reason == "Unschedulable"
        });
    if !unschedulable || view.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let affinity = view.spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let zone_of = |term: &NodeSelectorTerm| {
        let mut expressions = term.match_expressions.iter().flatten();
        let pin = expressions.find(|one| one.key == ZONE_LABEL && one.operator == "In")?;
        match pin.values.as_deref() {
            Some([zone]) => Some(Zone::from(zone.as_str())),
            _ => None,
        }
    };
    let mut zones = required.node_selector_terms.iter().map(zone_of);
    let first = zones.next()??;
    zones
        .all(|zone| zone.as_ref() == Some(&first))
        .then_some(first)
}

fn network_of(pod: &Pod, engine: &Engine) -> Network {
    let leaving = pod.record.deletion().is_some() || pod.record.phase().is_terminal();
    let unknown = if leaving {
        Network::Detached
    } else {
        Network::Pending
    };
    match (&pod.refused, engine.network(pod.record.uid())) {
        (Some(refused), _) if !leaving => Network::clone(refused),
        (Some(_), _) | (None, None) => unknown,
        (None, Some(network)) => network.clone(),
    }
}

fn request(record: &Record, write: &core::Action<'_>) -> Action {
    let (uid, key) = (record.uid().clone(), record.key().clone());
    match write {
        core::Action::WriteStatus(wanted) => {
            let body = serde_json::to_vec(wanted).expect("a status is plain data");
            Action::WriteStatus { uid, key, body }
        }
        core::Action::DeleteObject => Action::Delete(uid, key),
        core::Action::StopNetwork | core::Action::EndNetwork => {
            unreachable!("these are told to the engine")
        }
    }
}

/// The address that a pod shows, and the ENI beside it.
fn published(view: &PodView) -> Option<Published> {
    let address = view.status.pod_ip.as_deref()?.parse().ok()?;
    let annotations = view.metadata.annotations.as_ref();
    let eni = annotations.and_then(|all| all.get(SYSTEM_ANNOTATIONS[0]));
    Some(Published {
        address,
        eni: eni.map(|id| id.as_str().into()),
    })
}

fn created_at(view: &PodView) -> Timestamp {
    // No object from an API server lacks it; the oldest time holds the most off.
    view.metadata
        .creation_timestamp
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

fn resources(view: &PodView) -> Vec<Resources> {
    let containers = view.spec.containers.iter();
    containers
        .map(|container| {
            let of = |list: &std::collections::BTreeMap<String, String>, name: &str| {
                list.get(name).map(String::as_str).map(str::to_owned)
            };
            let (requests, limits) = (&container.resources.requests, &container.resources.limits);
            Resources {
                cpu_request_milli: of(requests, "cpu").as_deref().and_then(quantity::milli),
                cpu_limit_milli: of(limits, "cpu").as_deref().and_then(quantity::milli),
                memory_request_bytes: of(requests, "memory").as_deref().and_then(quantity::bytes),
                memory_limit_bytes: of(limits, "memory").as_deref().and_then(quantity::bytes),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
