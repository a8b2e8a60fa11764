//! Pods: what is wanted for each, what of it is committed, and the next job that closes the gap.
//!
//! One job per pod is under way at a time, in the order of a pod's life, so that a late result
//! never overtakes a later wish.

mod waits;

use jiff::Timestamp;

use self::waits::Waiting;
use crate::engine::{Assignment, Context, Effect, Engine, Network, PodFacts, Stage, Timer, calls};
use crate::id::{PodKey, PodUid};
use crate::ledger::{Job, LoadedPod};
use crate::policy::opt_in::FixedIp;

/// See the module.
pub(super) struct Pod {
    key: PodKey,
    /// Needed until the pod has its address.
    facts: Option<Box<PodFacts>>,
    /// Bound to an ECS node that is not ours: forfeits, and gets nothing.
    foreign: bool,
    pub(super) want: Want,
    have: Have,
    /// Whether it was accepted with a fixed address, which later annotations do not change.
    fixed: Option<bool>,
    busy: bool,
    attempts: u32,
    /// When the job that failed is due again.
    retry_at: Option<Timestamp>,
    network: Network,
    /// Boxed: most pods do not wait.
    blocked: Option<Box<Waiting>>,
    /// What was last said about a failing cloud call.
    failing: Option<Box<str>>,
}

/// What the outside has told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Want {
    pub(super) deleted: Option<Timestamp>,
    pub(super) stopped: bool,
    pub(super) ended: bool,
    pub(super) gone: bool,
}

/// What of it is committed.
#[derive(Clone, Copy, Debug, Default)]
struct Have {
    row: bool,
    acquired: bool,
    deleted: bool,
    stopped: bool,
    ended: bool,
}

/// The jobs of a pod's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Acquire,
    Deleted,
    Stopped,
    DeletedAndStopped,
    Ended,
    Gone,
}

impl Pod {
    pub(super) fn loaded(pod: LoadedPod) -> Self {
        let acquired = !matches!(pod.state.network, Network::Pending) || pod.stopped || pod.gone;
        Self {
            key: pod.key,
            facts: None,
            foreign: false,
            want: Want {
                gone: pod.gone,
                ..Want::default()
            },
            have: Have {
                row: true,
                acquired,
                deleted: pod.deleted,
                stopped: pod.stopped,
                ended: pod.ended,
            },
            fixed: Some(pod.fixed),
            busy: false,
            attempts: 0,
            retry_at: None,
            network: pod.state.network,
            blocked: None,
            failing: None,
        }
    }

    fn seen(key: PodKey) -> Self {
        Self {
            key,
            facts: None,
            foreign: false,
            want: Want::default(),
            have: Have::default(),
            fixed: None,
            busy: false,
            attempts: 0,
            retry_at: None,
            network: Network::Pending,
            blocked: None,
            failing: None,
        }
    }

    pub(super) fn key(&self) -> &PodKey {
        &self.key
    }

    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    fn is_over(&self) -> bool {
        self.want.stopped || self.want.ended || self.want.gone
    }

    /// The next job, if there is one to do now.
    fn next(&self, uid: &PodUid) -> Option<(Kind, Job)> {
        if self.busy {
            return None;
        }
        if let Some(facts) = &self.facts
            && !self.have.acquired
            && self.blocked.is_none()
            && !self.is_over()
        {
            return Some(self.acquire(facts));
        }
        if !self.have.row {
            return None;
        }
        let deleted_at = self.want.deleted.filter(|_| !self.have.deleted);
        let ends = self.want.ended && !self.have.ended;
        let stops = self.want.stopped && !self.have.stopped;
        match deleted_at {
            Some(at) if stops && !ends => {
                let job = Job::DeletedAndStopped(uid.clone(), at);
                return Some((Kind::DeletedAndStopped, job));
            }
            Some(at) => return Some((Kind::Deleted, Job::Deleted(uid.clone(), at))),
            None => {}
        }
        if ends {
            return Some((Kind::Ended, Job::Ended(uid.clone())));
        }
        if stops {
            return Some((Kind::Stopped, Job::Stopped(uid.clone())));
        }
        self.want.gone.then(|| (Kind::Gone, Job::Gone(uid.clone())))
    }

    /// Asks again for what it waits for.
    fn retry(&self, uid: &PodUid) -> Option<(Kind, Job)> {
        if self.is_over() {
            return self.next(uid);
        }
        self.facts.as_deref().map(|facts| self.acquire(facts))
    }

    /// It is accepted with what it wants now, unless that was before.
    fn keep_wish(&mut self) {
        if let Some(facts) = &self.facts {
            let is_fixed = matches!(facts.opt_in.fixed_ip, FixedIp::On { .. });
            self.fixed.get_or_insert(is_fixed);
        }
    }

    fn is_ordinary(&self) -> bool {
        self.fixed == Some(false)
    }

    fn acquire(&self, facts: &PodFacts) -> (Kind, Job) {
        let job = if self.foreign {
            Job::SeenOnEcs
        } else {
            Job::Acquire
        };
        (Kind::Acquire, job(facts.clone()))
    }
}

impl Engine {
    pub(super) fn bound(&mut self, facts: PodFacts, foreign: bool) {
        let uid = facts.uid.clone();
        self.found(&uid, &facts.key);
        if !self.pods.contains_key(&uid) {
            self.supersede_waiting(&facts);
        }
        let pod = self
            .pods
            .entry(uid.clone())
            .or_insert_with(|| Box::new(Pod::seen(facts.key.clone())));
        pod.foreign = foreign;
        if !pod.have.acquired && pod.facts.is_none() {
            pod.facts = Some(Box::new(facts));
        }
        self.effects.push(Effect::Publish(uid.clone()));
        self.drive(&uid);
    }

    /// A pod proves those of its name that were made before it gone. The ledger sees to those that it
    /// has; one that waits to forfeit a claim has no row, and must not do so any more.
    fn supersede_waiting(&mut self, newer: &PodFacts) {
        for uid in self.waiting.of_key(&newer.key) {
            let pod = self.pods.get(&uid);
            let facts = pod.and_then(|pod| pod.facts.as_ref());
            if facts.is_some_and(|older| older.created <= newer.created) {
                self.gone(&uid);
            }
        }
    }

    pub(super) fn want(&mut self, uid: &PodUid, tell: impl FnOnce(&mut Want)) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        tell(&mut pod.want);
        if pod.want.deleted.is_some() {
            self.leaving.insert((pod.key.clone(), uid.clone()));
        }
        let shown = pod
            .facts
            .as_ref()
            .is_some_and(|facts| facts.published.is_some());
        let is_known = self.stage == Stage::Serving || !shown;
        if pod.is_over() && is_known && !pod.have.row && !pod.busy {
            // Nothing was ever given to it, and nothing will be.
            pod.network = Network::Detached;
            self.effects.push(Effect::Publish(uid.clone()));
        }
        if self.pods.get(uid).is_some_and(|pod| pod.is_over()) {
            self.unblock(uid);
        }
        self.drive(uid);
    }

    pub(super) fn gone(&mut self, uid: &PodUid) {
        self.expiry.let_go_of(uid);
        self.want(uid, |want| want.gone = true);
    }

    /// Starts the pod's next job, or forgets a pod that is done with.
    pub(super) fn drive(&mut self, uid: &PodUid) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        let lets_go = self.stage == Stage::Looking && pod.want.gone && pod.have.row;
        if self.stage != Stage::Serving && !lets_go {
            return;
        }
        if let Some((kind, job)) = pod.next(uid) {
            self.begin(uid, kind, job);
        } else if pod.want.gone && !pod.have.row && !pod.busy {
            self.forget(uid);
        }
    }

    fn forget(&mut self, uid: &PodUid) {
        self.unblock(uid);
        if let Some(pod) = self.pods.remove(uid) {
            self.found(uid, &pod.key);
            self.leaving.remove(&(pod.key, uid.clone()));
        }
    }

    /// Whether the pod was accepted without a fixed address: it comes for no claim.
    pub(super) fn is_ordinary(&self, uid: &PodUid) -> bool {
        self.pods.get(uid).is_some_and(|pod| pod.is_ordinary())
    }

    /// Pods of this key that are being deleted and have let go of nothing yet.
    pub(super) fn leaving_of(&self, key: &PodKey) -> Vec<PodUid> {
        let of_key = self.leaving.range((key.clone(), "".into())..);
        let of_key = of_key.take_while(|(of, _)| of == key);
        let uids = of_key.map(|(_, uid)| uid);
        uids.filter(|uid| self.pods.get(*uid).is_some_and(|pod| pod.have.row))
            .cloned()
            .collect()
    }

    pub(super) fn pod_job_done(&mut self, uid: &PodUid, kind: Kind) {
        self.rest(uid);
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        pod.attempts = 0;
        match kind {
            Kind::Acquire if pod.foreign => pod.have.acquired = pod.blocked.is_none(),
            Kind::Acquire => {
                pod.have.row = true;
                pod.have.acquired = pod.blocked.is_none();
                pod.keep_wish();
                if pod.is_ordinary() {
                    self.expiry.let_go_of(uid);
                }
                if pod.have.acquired {
                    pod.facts = None;
                }
            }
            Kind::Deleted => pod.have.deleted = true,
            Kind::Stopped => pod.have.stopped = true,
            Kind::DeletedAndStopped => {
                pod.have.deleted = true;
                pod.have.stopped = true;
            }
            Kind::Ended => pod.have.ended = true,
            Kind::Gone => {
                self.forget(uid);
                return;
            }
        }
        if pod.is_over() && !pod.have.row {
            pod.network = Network::Detached;
            self.effects.push(Effect::Publish(uid.clone()));
        }
        self.drive(uid);
        if kind == Kind::Acquire {
            self.wake_for_what_is_free(uid);
        }
    }

    pub(super) fn pod_job_failed(&mut self, now: Timestamp, uid: &PodUid) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        pod.attempts += 1;
        let at = now + calls::back_off(pod.attempts);
        pod.retry_at = Some(at);
        self.timers.insert((at, Timer::Pod(uid.clone())));
    }

    /// Every row that is read brings names of its own, and few vSwitches have many pods.
    pub(super) fn share_place(&mut self, network: &mut Network) {
        let Network::Attached(Assignment { vswitch, zone, .. }) = network else {
            return;
        };
        match self.places.get_key_value(vswitch) {
            Some((known, of)) if of == zone => {
                *vswitch = known.clone();
                *zone = of.clone();
            }
            _ => {
                self.places.insert(vswitch.clone(), zone.clone());
            }
        }
    }

    /// Running pods whose addresses the ledger does not know.
    pub(super) fn imports(&self) -> impl Iterator<Item = (&PodUid, &PodFacts)> {
        let unknown = self.pods.iter();
        let unknown = unknown.filter(|(_, pod)| !pod.have.acquired && !pod.foreign);
        unknown
            .filter_map(|(uid, pod)| Some((uid, pod.facts.as_deref()?)))
            .filter(|(_, facts)| facts.published.is_some())
    }

    /// They come first; see [`Stage`].
    pub(super) fn start_imports(&mut self) {
        self.import_all(Stage::Disproving);
        self.go_on_when_imported();
    }

    fn import_all(&mut self, stage: impl FnOnce(usize) -> Stage) {
        let imports: Vec<(PodUid, PodFacts)> = self
            .imports()
            .map(|(uid, facts)| (uid.clone(), facts.clone()))
            .collect();
        self.stage = stage(imports.len());
        for (uid, facts) in imports {
            self.import(uid, facts);
        }
    }

    fn import(&mut self, uid: PodUid, facts: PodFacts) {
        if let Some(pod) = self.pods.get_mut(&uid) {
            pod.busy = true;
        }
        let job = match self.stage {
            Stage::Disproving(_) => Job::Disprove,
            _ => Job::Import,
        };
        self.commit(Context::Import(uid), job(facts));
    }

    pub(super) fn import_done(&mut self, now: Timestamp, uid: &PodUid) {
        if self.unblock(uid) {
            // Whoever had the address has not let go yet.
            self.pod_job_failed(now, uid);
            return;
        }
        self.rest(uid);
        let is_imported = matches!(self.stage, Stage::Importing(_));
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.attempts = 0;
            if is_imported {
                pod.have.row = true;
                pod.have.acquired = true;
                pod.keep_wish();
                pod.facts = None;
            }
        }
        if let Stage::Disproving(left) | Stage::Importing(left) = &mut self.stage {
            *left -= 1;
        }
        self.go_on_when_imported();
    }

    fn go_on_when_imported(&mut self) {
        if self.stage == Stage::Disproving(0) {
            self.import_all(Stage::Importing);
        }
        if self.stage != Stage::Importing(0) {
            return;
        }
        self.stage = Stage::Serving;
        self.expiry.serving();
        // Who was made first has waited longest.
        let made = |pod: &Pod| pod.facts.as_ref().map(|facts| facts.created);
        let all = self.pods.iter();
        let mut all: Vec<_> = all.map(|(uid, pod)| (made(pod), uid.clone())).collect();
        all.sort_unstable();
        for (_, uid) in all {
            self.drive(&uid);
        }
    }
}
