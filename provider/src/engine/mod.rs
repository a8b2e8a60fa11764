//! The order of things: decide, commit the intent, call the cloud, commit the outcome, publish.
//!
//! A synchronous state machine. [`Event`]s and the time go in; [`Effect`]s come out as data, and
//! their results come back in as events. Owns the order, the retries and who waits for what.
//! Holds no truth that a restart would lose (the ledger has it), takes no decision about
//! addresses (the policy does), reads no clock and does no I/O.
//!
//! ```text
//!   Bound ──▶ Acquire ──▶ (tasks) ──▶ Attached          one job per pod at a time, in this order
//!   Deleted ─▶ Deleted     the clock of the claim starts
//!   Stopped ─▶ Stopped ─▶ (tasks) ──▶ Detached         with the one before, when both are known first
//!   Gone ────▶ Gone        released, waiters woken
//! ```

mod calls;
mod expiry;
mod face;
mod line;
mod pace;
mod pods;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use foldhash::{HashMap, HashMapExt as _};
use jiff::{SignedDuration, Timestamp};

use crate::cloud::sim;
use crate::engine::calls::{Asked, Flight};
use crate::engine::expiry::Expiry;
use crate::engine::line::{Line, Place};
use crate::engine::pace::Pace;
use crate::engine::pods::Pod;
use crate::id::{PodKey, PodUid, VSwitchId, Zone};
use crate::ledger::{EniRow, Job, Loaded, Note, Outcome, Portion};

pub use face::{
    Assignment, Creation, Effect, Event, Found, Network, Node, PodFacts, Published, Reason,
};

/// How often pods that wait are tried again without a reason, so that no lost wake-up lasts.
const PERIOD: SignedDuration = SignedDuration::from_secs(30);
/// How often a pass over the history begins that prunes it.
const PRUNE_PERIOD: SignedDuration = SignedDuration::from_hours(1);
/// How long after a start the first one begins, or after a moment at which the clock could not be relied on.
const PRUNE_DELAY: SignedDuration = SignedDuration::from_mins(1);
/// How often a look at an absent pod is repeated while the API gives no answer.
const LOOK_PERIOD: SignedDuration = SignedDuration::from_secs(5);

/// See the module.
pub struct Engine {
    cloud: sim::Config,
    /// Boxed, so that growing the map moves pointers and its spare places cost little.
    pods: HashMap<PodUid, Box<Pod>>,
    /// vSwitches that pods have addresses of, with their zones, so that pods share the names.
    places: BTreeMap<VSwitchId, Zone>,
    /// Pods without an address.
    waiting: Line,
    /// Pods that are being deleted, by their key.
    leaving: BTreeSet<(PodKey, PodUid)>,
    flights: BTreeMap<EniRow, Flight>,
    /// While the cloud refuses calls for being too many, and when its timer is set to.
    pace: Option<Box<Pace>>,
    pace_at: Option<Timestamp>,
    expiry: Expiry,
    /// Pods of the ledger that a list did not show, by their key, until a GET says more.
    missing: BTreeMap<PodKey, BTreeSet<PodUid>>,
    /// Keys whose GET is under way, and was not asked for before the last list.
    asked: BTreeSet<PodKey>,
    /// When they are looked for again.
    look_at: Option<Timestamp>,
    jobs: HashMap<u64, Context>,
    calls: HashMap<u64, Asked>,
    timers: BTreeSet<(Timestamp, Timer)>,
    /// Where among the waiting pods the next periodic retry goes on.
    retried_to: Place,
    /// When the notes of waiting pods are next brought up to date, or were last.
    refresh_at: Timestamp,
    next_number: u64,
    stage: Stage,
    effects: Vec<Effect>,
}

/// How far the start has come. Nothing is allocated before every running pod is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The first list is not complete.
    Listing,
    /// Running pods are to be imported, and the addresses that they show may be those of pods that the
    /// list lacks: these are looked for first, and those that are gone let go.
    Looking,
    /// Claims of an older ledger may stand for addresses that other pods show: of so many running pods it is still
    /// to be told that their own addresses disprove one.
    Disproving(usize),
    /// So many running pods are still being imported.
    Importing(usize),
    /// Pods are served.
    Serving,
}

/// What a job is for.
#[derive(Clone, Debug)]
enum Context {
    Pod(PodUid, pods::Kind),
    Import(PodUid),
    Record(EniRow),
    Due,
    Expire,
    Note(Timestamp, Note),
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Flight(EniRow),
    Pace,
    Pod(PodUid),
    Expiry,
    Missing,
    Period,
    Refresh,
    Prune,
}

impl Engine {
    /// An engine that goes on where the ledger stands.
    pub fn new(cloud: sim::Config, loaded: Loaded, now: Timestamp) -> Self {
        let mut engine = Self {
            cloud,
            pods: HashMap::with_capacity(loaded.pods.len()),
            places: BTreeMap::new(),
            waiting: Line::default(),
            leaving: BTreeSet::new(),
            flights: BTreeMap::new(),
            pace: None,
            pace_at: None,
            expiry: Expiry::new(loaded.next_deadline),
            missing: BTreeMap::new(),
            asked: BTreeSet::new(),
            look_at: None,
            jobs: HashMap::new(),
            calls: HashMap::new(),
            timers: BTreeSet::new(),
            retried_to: (now, 0),
            refresh_at: now,
            next_number: 0,
            stage: Stage::Listing,
            effects: Vec::new(),
        };
        for mut pod in loaded.pods {
            engine.share_place(&mut pod.state.network);
            let uid = pod.state.uid.clone();
            if pod.deleted {
                engine.leaving.insert((pod.key.clone(), uid.clone()));
            }
            engine.pods.insert(uid, Box::new(Pod::loaded(pod)));
        }
        for task in loaded.tasks {
            engine.resume(now, task);
        }
        engine.timers.insert((now + PERIOD, Timer::Period));
        engine.timers.insert((now + PRUNE_DELAY, Timer::Prune));
        engine
    }

    /// Takes an event and says what to do about it, in order.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Vec<Effect> {
        match event {
            Event::Bound(facts) => self.bound(facts, false),
            Event::OnForeignEcs(facts) => self.bound(facts, true),
            Event::Deleted(uid, at) => self.want(&uid, |want| {
                want.deleted.get_or_insert(at);
            }),
            Event::Stopped(uid) => self.want(&uid, |want| want.stopped = true),
            Event::DeletedAndStopped(uid, at) => self.want(&uid, |want| {
                want.deleted.get_or_insert(at);
                want.stopped = true;
            }),
            Event::Ended(uid) => self.want(&uid, |want| want.ended = true),
            Event::Gone(uid) => self.gone(&uid),
            Event::Listed(seen) => self.listed(now, &seen),
            Event::Looked(key, found) => self.looked(now, &key, found.as_ref()),
            Event::LookFailed(key) => {
                self.asked.remove(&key);
                self.expiry.look_failed(&key);
            }
            Event::Committed(number, result) => self.committed(now, number, result),
            Event::Called(number, result) => self.called(now, number, result),
            Event::NextDeadline(deadline) => self.expiry.set_deadline(deadline),
            Event::LedgerChanged => {
                self.commit(Context::Other, Job::Open);
                self.retry_waiting();
            }
            Event::Clock { may_expire } => self.expiry.set_allowed(may_expire),
            Event::Tick => {}
        }
        if self.stage == Stage::Looking && self.missing.is_empty() {
            self.start_imports();
        }
        self.run_timers(now);
        self.run_line(now);
        self.run_expiry(now);
        std::mem::take(&mut self.effects)
    }

    /// When [`Event::Tick`] is next worth sending.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The network of a pod, as last committed.
    pub fn network(&self, uid: &PodUid) -> Option<&Network> {
        self.pods.get(uid).map(|pod| pod.network())
    }

    /// Since when the pod waits for an address that has waited longest.
    pub fn waiting_since(&self) -> Option<Timestamp> {
        self.waiting.first().map(|(since, _)| since)
    }

    /// Whether every running pod is known and new ones are served.
    pub fn is_serving(&self) -> bool {
        self.stage == Stage::Serving
    }

    /// Takes over changed latencies and faults of the cloud, which tell when to look at what is under way.
    pub fn set_cloud(&mut self, cloud: sim::Config) {
        if self.cloud != cloud
            && let Some(pace) = &mut self.pace
        {
            pace.probe();
        }
        self.cloud = cloud;
    }

    fn commit(&mut self, context: Context, job: Job) -> u64 {
        self.next_number += 1;
        self.jobs.insert(self.next_number, context);
        self.effects.push(Effect::Commit(self.next_number, job));
        self.next_number
    }

    fn committed(
        &mut self,
        now: Timestamp,
        number: u64,
        result: Result<Outcome, crate::ledger::Error>,
    ) {
        let Some(context) = self.jobs.remove(&number) else {
            return;
        };
        match result {
            Ok(Outcome {
                refusal: Some(why), ..
            }) => {
                // Not done: nothing more is begun for that pod, and a start goes no further.
                self.effects.push(Effect::Refuse(why));
            }
            Ok(outcome) => {
                self.outcome(now, outcome);
                self.done(now, context);
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, ?context, "a ledger operation failed and is tried again");
                self.failed(now, context);
            }
        }
    }

    fn done(&mut self, now: Timestamp, context: Context) {
        match context {
            Context::Pod(uid, kind) => self.pod_job_done(&uid, kind),
            Context::Import(uid) => self.import_done(now, &uid),
            Context::Record(eni) => self.recorded(eni),
            Context::Due | Context::Expire | Context::Note(..) | Context::Other => {}
        }
    }

    fn failed(&mut self, now: Timestamp, context: Context) {
        match context {
            Context::Pod(uid, _) | Context::Import(uid) => self.pod_job_failed(now, &uid),
            Context::Record(eni) => self.look_again(now, eni),
            Context::Expire | Context::Due => self.expiry.forget_looks(),
            Context::Note(at, note) => self.expiry.note_again(at, note),
            Context::Other => {}
        }
    }

    fn outcome(&mut self, now: Timestamp, outcome: Outcome) {
        self.effects
            .extend(outcome.notices.into_iter().map(Effect::Notice));
        for task in outcome.tasks {
            self.start_call(now, task);
        }
        for state in outcome.pods {
            self.pod_state(now, state);
        }
        if !outcome.retained.is_empty() {
            self.refresh_soon(now);
        }
        for uid in outcome.superseded {
            self.gone(&uid);
        }
        for key in outcome.released {
            self.wake_key(&key);
        }
        for vswitch in outcome.freed {
            self.wake_pool(&vswitch);
        }
        if let Some(portion) = outcome.pruning {
            self.commit(Context::Other, Job::Prune(*portion));
        }
        if !outcome.due.is_empty() {
            self.expiry.only_due(&outcome.due, now);
        }
        for due in outcome.due {
            if let Some(key) = self.expiry.due(due, now) {
                self.look(key);
            }
        }
    }

    fn run_timers(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.timers.first()
            && *at <= now
        {
            let Some((_, timer)) = self.timers.pop_first() else {
                break;
            };
            match timer {
                Timer::Flight(eni) => self.flight_due(now, eni),
                Timer::Pace => self.pace_at = None,
                Timer::Pod(uid) => self.pod_due(now, &uid),
                Timer::Expiry => self.expiry.timer_fired(),
                Timer::Missing => self.look_for_missing(now),
                Timer::Refresh => self.retry_some(),
                Timer::Period => {
                    self.retry_some();
                    self.timers.insert((now + PERIOD, Timer::Period));
                }
                Timer::Prune => {
                    // A clock that is ahead would make everything old.
                    let wait = if self.expiry.is_allowed() {
                        self.commit(Context::Other, Job::Prune(Portion::FIRST));
                        PRUNE_PERIOD
                    } else {
                        PRUNE_DELAY
                    };
                    self.timers.insert((now + wait, Timer::Prune));
                }
            }
        }
    }

    /// A list proves no absence: every pod that it lacks is looked for by name.
    fn listed(&mut self, now: Timestamp, seen: &BTreeSet<PodUid>) {
        self.missing.clear();
        self.asked.clear();
        for (uid, pod) in self.pods.iter().filter(|(uid, _)| !seen.contains(*uid)) {
            let of_key = self.missing.entry(pod.key().clone()).or_default();
            of_key.insert(uid.clone());
        }
        self.expiry.listed(seen);
        self.look_for_missing(now);
        if self.stage == Stage::Listing {
            self.stage = Stage::Looking;
            if self.imports().next().is_none() {
                // Nobody waits for what the looks will say.
                self.start_imports();
            }
        }
    }

    fn look_for_missing(&mut self, now: Timestamp) {
        if let Some(old) = self.look_at.take() {
            self.timers.remove(&(old, Timer::Missing));
        }
        if self.missing.is_empty() {
            return;
        }
        // One that takes long is waited for: asked again, its answer would count as too old.
        let unasked = |key: &&PodKey| !self.asked.contains(*key);
        let keys: Vec<PodKey> = self.missing.keys().filter(unasked).cloned().collect();
        for key in keys {
            self.look(key);
        }
        self.look_later(now);
    }

    fn look(&mut self, key: PodKey) {
        self.asked.insert(key.clone());
        self.effects.push(Effect::Look(key));
    }

    /// Whoever gets no answer is looked for again.
    fn look_later(&mut self, now: Timestamp) {
        if self.look_at.is_none() {
            let at = now + LOOK_PERIOD;
            self.look_at = Some(at);
            self.timers.insert((at, Timer::Missing));
        }
    }

    /// A pod is not looked for any more.
    fn found(&mut self, uid: &PodUid, key: &PodKey) {
        if let Some(of_key) = self.missing.get_mut(key) {
            of_key.remove(uid);
            if of_key.is_empty() {
                self.missing.remove(key);
            }
        }
    }

    fn looked(&mut self, now: Timestamp, key: &PodKey, found: Option<&Found>) {
        self.asked.remove(key);
        // Whoever was found is there; whoever was not is gone: either way the search ends.
        for uid in self.missing.remove(key).unwrap_or_default() {
            if found.is_none_or(|found| found.uid != uid) {
                self.gone(&uid);
            }
        }
        let comes = found.filter(|found| !self.is_ordinary(&found.uid));
        let Some(claim) = self.expiry.looked(key, comes, now) else {
            return;
        };
        // A pod that waits starts the clock anew when it goes, and one that is being deleted is
        // not yet known to be gone. Either may have come since this look was asked for, so it gets
        // one of its own; the claim is due again by then.
        let waiting = self.waiting.of_key(key);
        let unproved: BTreeSet<PodUid> = waiting
            .into_iter()
            .chain(self.leaving_of(key))
            .filter(|uid| found.is_none_or(|found| found.uid != *uid))
            .collect();
        if unproved.is_empty() {
            self.commit(Context::Expire, Job::Expire(claim, now));
        } else {
            self.missing
                .entry(key.clone())
                .or_default()
                .extend(unproved);
            self.look(key.clone());
            self.look_later(now);
        }
    }
}
