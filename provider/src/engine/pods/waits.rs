//! What a job has said of a pod's network, and pods that cannot have theirs yet: what each is told, and when it is tried
//! again.
//!
//! In what order they wait is [`line`](crate::engine::line)'s; which job is next, that of the module above.

use jiff::{SignedDuration, Timestamp};

use crate::engine::line::{LAST, Place};
use crate::engine::pods::Kind;
use crate::engine::{Context, Effect, Engine, Network, Reason, Stage, Timer};
use crate::id::{PodKey, PodUid, VSwitchId};
use crate::ledger::{Blocked, Job, Notice, PodState};

/// How long a new pod waits for the old one before it says so: most waits are shorter.
const WAITING_NOTICE: SignedDuration = SignedDuration::from_secs(1);
/// How many waiting pods are tried again at once: each costs a transaction and perhaps an event.
const RETRIES: usize = 64;
/// How soon, and how often at most, waiting pods tell changed arithmetic.
const REFRESH: SignedDuration = SignedDuration::from_secs(1);
const REFRESH_PAUSE: SignedDuration = SignedDuration::from_secs(10);

/// A pod that cannot have its address yet.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    blocked: Blocked,
    place: Place,
    reason: Reason,
    note: String,
    /// Whether the pod was told; a short wait is not worth saying.
    said: bool,
}

impl Waiting {
    /// Whether it would tell nothing new. The time left until the next release is nothing new.
    fn tells(&self, blocked: &Blocked, reason: Reason, note: &str) -> bool {
        let same_note = self.note == note || matches!(blocked, Blocked::Pool { .. });
        self.reason == reason && self.blocked == *blocked && same_note
    }
}

impl Engine {
    /// A wait has become long enough to say so, or a failed job is due again.
    pub(in crate::engine) fn pod_due(&mut self, now: Timestamp, uid: &PodUid) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        if let Some(waiting) = pod.blocked.as_mut().filter(|waiting| !waiting.said) {
            waiting.said = true;
            let (reason, note) = (waiting.reason, waiting.note.clone());
            self.say(uid, reason, note);
        }
        let retry_at = self.pods.get(uid).and_then(|pod| pod.retry_at);
        if retry_at.is_some_and(|at| at <= now) {
            self.rest(uid);
            let facts = self.pods.get(uid);
            let facts = facts.and_then(|pod| pod.facts.as_deref().cloned());
            let is_import = matches!(self.stage, Stage::Disproving(_) | Stage::Importing(_));
            match facts.filter(|_| is_import) {
                Some(facts) => self.import(uid.clone(), facts),
                None => self.wake(uid),
            }
        }
    }

    /// What a job says about a pod's network.
    pub(in crate::engine) fn pod_state(&mut self, now: Timestamp, mut state: PodState) {
        self.share_place(&mut state.network);
        let Some(pod) = self.pods.get_mut(&state.uid) else {
            return;
        };
        let (Some(blocked), Network::Waiting { reason, note }) = (state.blocked, &state.network)
        else {
            if state.network != Network::Pending {
                pod.failing = None;
            }
            pod.network = state.network;
            self.unblock(&state.uid);
            self.effects.push(Effect::Publish(state.uid));
            return;
        };
        let (reason, note) = (*reason, note.clone());
        let before = pod.blocked.as_ref();
        if before.is_some_and(|waiting| waiting.tells(&blocked, reason, &note)) {
            return;
        }
        self.next_number += 1;
        let mut place = (now, self.next_number);
        if let Some(old) = &pod.blocked {
            place = old.place;
            self.waiting.leave(place, &pod.key, &old.blocked);
        }
        self.waiting.join(place, state.uid.clone(), &pod.key);
        if !pod.busy {
            self.waiting.rest(place, &blocked);
        }
        // What is free is given out at once, to this one too if there is enough.
        let soon = reason == Reason::FixedIPWaiting || blocked.is_for_others();
        pod.blocked = Some(Box::new(Waiting {
            blocked,
            place,
            reason,
            note: note.clone(),
            said: !soon,
        }));
        if soon {
            self.timers
                .insert((now + WAITING_NOTICE, Timer::Pod(state.uid)));
        } else {
            self.say(&state.uid, reason, note);
        }
    }

    /// Tells the pod why it waits, by its network and by an event.
    pub(in crate::engine) fn say(&mut self, uid: &PodUid, reason: Reason, note: String) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        pod.network = Network::Waiting {
            reason,
            note: note.clone(),
        };
        self.effects.push(Effect::Notice(Notice {
            uid: uid.clone(),
            reason,
            note,
        }));
        self.effects.push(Effect::Publish(uid.clone()));
    }

    /// Tells the pod that a cloud call fails, once for each reason: it is tried again without end.
    pub(in crate::engine) fn say_failing(&mut self, uid: &PodUid, reason: Reason, note: String) {
        // Whatever is wrong with an ENI that a pod has let go of is no matter of the pod's.
        let pod = self.pods.get_mut(uid);
        let Some(pod) = pod.filter(|pod| pod.network != Network::Detached) else {
            return;
        };
        if pod.failing.as_deref() != Some(&*note) {
            pod.failing = Some(note.as_str().into());
            self.say(uid, reason, note);
            return;
        }
        pod.network = Network::Waiting { reason, note };
        self.effects.push(Effect::Publish(uid.clone()));
    }

    pub(super) fn unblock(&mut self, uid: &PodUid) -> bool {
        let Some(pod) = self.pods.get_mut(uid) else {
            return false;
        };
        let Some(old) = pod.blocked.take() else {
            return false;
        };
        self.waiting.leave(old.place, &pod.key, &old.blocked);
        let had = match &pod.network {
            Network::Attached(assignment) => Some(&assignment.vswitch),
            _ => None,
        };
        // The free address for which it was being tried may be left.
        let left = old.blocked.vswitches().iter();
        let left = left.filter(|vswitch| pod.busy && had != Some(vswitch));
        let left: Vec<VSwitchId> = left.cloned().collect();
        for vswitch in left {
            self.wake_pool(&vswitch);
        }
        true
    }

    /// Tries a waiting pod again; it keeps its place if it still has to wait.
    fn wake(&mut self, uid: &PodUid) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        if pod.busy {
            return;
        }
        if let (Some(_), Some((kind, job))) = (&pod.blocked, pod.retry(uid)) {
            self.begin(uid, kind, job);
        } else {
            self.drive(uid);
        }
    }

    /// The old pod of this key has let go.
    pub(in crate::engine) fn wake_key(&mut self, key: &PodKey) {
        for uid in self.waiting.of_key(key) {
            self.wake(&uid);
        }
    }

    /// A vSwitch has one more free address: the pod that has waited longest for one is next.
    pub(in crate::engine) fn wake_pool(&mut self, vswitch: &VSwitchId) {
        if let Some(uid) = self.waiting.next(vswitch).cloned() {
            self.wake(&uid);
        }
    }

    /// A job of the pod is under way from now on.
    pub(super) fn begin(&mut self, uid: &PodUid, kind: Kind, job: Job) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.busy = true;
            if let Some(waiting) = &pod.blocked {
                self.waiting.stir(waiting.place, &waiting.blocked);
            }
        }
        let job = self.in_line(uid, job);
        self.commit(Context::Pod(uid.clone(), kind), job);
    }

    /// None is under way any more.
    pub(super) fn rest(&mut self, uid: &PodUid) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.busy = false;
            pod.retry_at = None;
            if let Some(waiting) = &pod.blocked {
                self.waiting.rest(waiting.place, &waiting.blocked);
            }
        }
    }

    /// A pod's job, made so that it overtakes nobody who rests. Who is being tried has a job before it, or one that failed.
    fn in_line(&self, uid: &PodUid, job: Job) -> Job {
        let Job::Acquire(facts) = job else {
            return job;
        };
        let own = self.pods.get(uid).and_then(|pod| pod.blocked.as_ref());
        let own = own.map_or(LAST, |waiting| waiting.place);
        let awaited = self.waiting.pools().filter(|(_, first)| *first < own);
        let awaited: Vec<VSwitchId> = awaited.map(|(vswitch, _)| vswitch.clone()).collect();
        if awaited.is_empty() {
            Job::Acquire(facts)
        } else {
            Job::AcquireBehind(facts, awaited)
        }
    }

    /// Others were before it, and there were free addresses: they have not been told of them, or more
    /// of them are left than they take.
    pub(super) fn wake_for_what_is_free(&mut self, uid: &PodUid) {
        let blocked = self.pods.get(uid).and_then(|pod| pod.blocked.as_ref());
        let Some(Blocked::Pool { vswitches, counts }) = blocked.map(|waiting| &waiting.blocked)
        else {
            return;
        };
        let free = vswitches.iter().cloned().zip(counts);
        let free: Vec<_> = free
            .map(|(vswitch, counts)| (vswitch, counts.free))
            .collect();
        for (vswitch, free) in free {
            for _ in 0..free {
                let Some(next) = self.waiting.next(&vswitch).cloned() else {
                    break;
                };
                self.wake(&next);
            }
        }
    }

    pub(in crate::engine) fn retry_waiting(&mut self) {
        for uid in self.waiting.all() {
            self.wake(&uid);
        }
    }

    /// Tries the next few waiting pods again, in turn, so that each has its turn; and whoever is first
    /// for a vSwitch, which is the only one that can get something there.
    pub(in crate::engine) fn retry_some(&mut self) {
        let pools = self.waiting.pools().map(|(vswitch, _)| vswitch.clone());
        for vswitch in pools.collect::<Vec<_>>() {
            self.wake_pool(&vswitch);
        }
        let next = self.waiting.after(self.retried_to, RETRIES);
        for (place, uid) in next {
            self.retried_to = place;
            self.wake(&uid);
        }
    }

    /// Plans an update of what waiting pods say, unless one is planned.
    pub(in crate::engine) fn refresh_soon(&mut self, now: Timestamp) {
        if self.waiting.is_empty() || self.refresh_at > now {
            return;
        }
        self.refresh_at = (now + REFRESH).max(self.refresh_at + REFRESH_PAUSE);
        self.timers.insert((self.refresh_at, Timer::Refresh));
    }
}
