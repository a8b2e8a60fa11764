//! Retentions that run out: found by the ledger, and ended only after a look at the API, since a
//! pod made before the deadline may exist that no watch has shown yet.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use crate::engine::{Context, Engine, Found, Stage, Timer};
use crate::id::{PodKey, PodUid};
use crate::ledger::{ClaimRef, Due, Hold, Job, Note};
use crate::policy::retention;

/// How often claims that are held off are asked about again: half of the two seconds by which an
/// ending may be late.
const PASS: SignedDuration = SignedDuration::from_millis(900);

/// How many claims are newly looked at in one pass: each look is a request to the API server.
const LOOKS: usize = 256;

/// An answer of the API that takes longer than this is worth an entry in the journal: it takes
/// half of the time by which an ending may be late. So are more claims than are looked at at once.
const SLOW: SignedDuration = SignedDuration::from_secs(1);

/// See the module.
pub(super) struct Expiry {
    next_deadline: Option<Timestamp>,
    allowed: bool,
    /// A pass was made, and the next one waits for its timer.
    passed: bool,
    timer: Option<Timestamp>,
    /// How many claims were asked for, and whether so many had run out: then there are more.
    asked: usize,
    more: bool,
    /// What is being asked about, and since when.
    looking: HashMap<PodKey, (Due, Timestamp)>,
    /// Claims whose time is over, but whose key has a pod that was made in time.
    held_off: HashMap<PodKey, (PodUid, ClaimRef)>,
    /// Keys that the API could not be asked about.
    unanswered: BTreeSet<PodKey>,
    /// Whether the journal is told that endings wait for the API.
    awaits_api: bool,
    /// What the journal does not say yet, and when it began.
    news: Vec<(Option<Timestamp>, Note)>,
}

impl Expiry {
    pub(super) fn new(next_deadline: Option<Timestamp>) -> Self {
        Self {
            next_deadline,
            allowed: true,
            passed: false,
            timer: None,
            asked: 0,
            more: false,
            looking: HashMap::new(),
            held_off: HashMap::new(),
            unanswered: BTreeSet::new(),
            awaits_api: false,
            news: vec![(None, Note::Started)],
        }
    }

    pub(super) fn set_deadline(&mut self, deadline: Option<Timestamp>) {
        self.next_deadline = deadline;
    }

    pub(super) fn set_allowed(&mut self, allowed: bool) {
        if std::mem::replace(&mut self.allowed, allowed) != allowed {
            let note = if allowed { Note::LetGo } else { Note::Held };
            self.news.push((None, note(Hold::Clock)));
        }
    }

    /// Whether the clock can be relied on.
    pub(super) fn is_allowed(&self) -> bool {
        self.allowed
    }

    pub(super) fn serving(&mut self) {
        self.news.push((None, Note::Serving));
    }

    /// An entry could not be written, and is written with the next ones.
    pub(super) fn note_again(&mut self, at: Timestamp, note: Note) {
        self.news.push((Some(at), note));
    }

    pub(super) fn timer_fired(&mut self) {
        self.passed = false;
        self.timer = None;
    }

    /// A claim has run out. Answers with the key to look at, unless that is known or under way.
    pub(super) fn due(&mut self, due: Due, now: Timestamp) -> Option<PodKey> {
        if self.held_off.contains_key(&due.key) || self.looking.contains_key(&due.key) {
            return None;
        }
        let key = due.key.clone();
        self.looking.insert(key.clone(), (due, now));
        Some(key)
    }

    /// What a look showed. Answers with the claim to end.
    pub(super) fn looked(
        &mut self,
        key: &PodKey,
        found: Option<&Found>,
        now: Timestamp,
    ) -> Option<ClaimRef> {
        let (due, asked_at) = self.looking.remove(key)?;
        self.unanswered.remove(key);
        if now.duration_since(asked_at) > SLOW {
            self.wait_for_api(asked_at);
        }
        self.go_on(now);
        if self.looking.is_empty() && std::mem::take(&mut self.more) {
            self.passed = false;
        }
        let in_time = found.filter(|found| {
            let created_at = Some(found.created_at);
            found.fixed_ip && !retention::is_over(due.expires_at, due.expires_at, created_at)
        });
        if let Some(found) = in_time {
            let uid = found.uid.clone();
            let claim = due.claim;
            self.held_off.insert(key.clone(), (uid.clone(), claim));
            self.news
                .push((Some(asked_at), Note::Held(Hold::Pod { claim, uid })));
            return None;
        }
        Some(due.claim)
    }

    pub(super) fn look_failed(&mut self, key: &PodKey) {
        let Some((_, asked_at)) = self.looking.remove(key) else {
            return;
        };
        self.unanswered.insert(key.clone());
        self.wait_for_api(asked_at);
    }

    /// Endings wait for answers of the API since then.
    fn wait_for_api(&mut self, since: Timestamp) {
        if !std::mem::replace(&mut self.awaits_api, true) {
            self.news.push((Some(since), Note::Held(Hold::Api)));
        }
    }

    /// Endings wait no more, unless there is an answer that fails or is slow, or more to be asked than at once.
    fn go_on(&mut self, now: Timestamp) {
        let is_over = || self.unanswered.is_empty() && !self.more && self.slow_look(now).is_none();
        if self.awaits_api && is_over() {
            self.awaits_api = false;
            self.news.push((None, Note::LetGo(Hold::Api)));
        }
    }

    /// Since when an answer is awaited that is slow by now.
    fn slow_look(&self, now: Timestamp) -> Option<Timestamp> {
        let first = self.looking.values().map(|(_, asked_at)| *asked_at).min();
        first.filter(|asked_at| now.duration_since(*asked_at) > SLOW)
    }

    /// The claims that have run out are these (the first of them at least); a key that is not
    /// among them was answered in another way.
    pub(super) fn only_due(&mut self, due: &[Due], now: Timestamp) {
        self.more = !due.is_empty() && due.len() >= self.asked;
        let still: HashSet<&PodKey> = due.iter().map(|due| &due.key).collect();
        self.unanswered.retain(|key| still.contains(key));
        if let Some(since) = self.slow_look(now).or(self.more.then_some(now)) {
            self.wait_for_api(since);
        }
        self.go_on(now);
    }

    pub(super) fn forget_looks(&mut self) {
        self.looking.clear();
    }

    /// The pod is gone, or was accepted without a fixed address: no claim waits for it.
    pub(super) fn let_go_of(&mut self, uid: &PodUid) {
        self.let_go(|pod| pod == uid);
    }

    /// Pods that a new list does not show may have gone unseen: they are looked at again.
    pub(super) fn listed(&mut self, seen: &BTreeSet<PodUid>) {
        self.let_go(|pod| !seen.contains(pod));
    }

    fn let_go(&mut self, which: impl Fn(&PodUid) -> bool) {
        let news = &mut self.news;
        self.held_off.retain(|_, (uid, claim)| {
            let over = which(uid);
            if over {
                let (claim, uid) = (*claim, uid.clone());
                news.push((None, Note::LetGo(Hold::Pod { claim, uid })));
            }
            !over
        });
    }
}

impl Engine {
    /// Asks the ledger what has run out, once per pass while anything has.
    pub(super) fn run_expiry(&mut self, now: Timestamp) {
        for (at, note) in std::mem::take(&mut self.expiry.news) {
            let at = at.unwrap_or(now);
            self.commit(Context::Note(at, note.clone()), Job::Note(at, note));
        }
        if self.stage != Stage::Serving || !self.expiry.allowed {
            return;
        }
        if self.expiry.next_deadline.is_none_or(|at| at > now) {
            // Nothing is due, so the next that is need not wait for a pass made before.
            self.expiry.passed = false;
            self.expiry.only_due(&[], now);
        }
        let next = match self.expiry.next_deadline {
            Some(at) if at > now => at,
            Some(_) if !self.expiry.passed => {
                self.expiry.passed = true;
                // Those that are held off or unanswered come first, and must not be all.
                let known = self.expiry.held_off.len() + self.expiry.unanswered.len();
                self.expiry.asked = known + self.expiry.looking.len() + LOOKS;
                self.commit(Context::Due, Job::Due(now, self.expiry.asked));
                now + PASS
            }
            _ => return,
        };
        let old = self.expiry.timer.replace(next);
        if let Some(old) = old.filter(|old| *old != next) {
            self.timers.remove(&(old, Timer::Expiry));
        }
        self.timers.insert((next, Timer::Expiry));
    }
}
