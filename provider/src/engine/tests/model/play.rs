//! Lets one sequence happen to the provider and to the model.

use std::path::PathBuf;

use tempfile::TempDir;

use super::clock::Clock;
use super::object::{Object, key, whole_second};
use super::pool::{addresses, configured, zones};
use super::state::{Held, Model, Outcomes, Seen};
use super::*;
use crate::ledger::operator::{Error, Operator, Release};
use crate::policy::retention;

/// How often the shell looks at the wall clock.
const LOOK: SignedDuration = SECOND;

pub(super) struct Play {
    world: World,
    model: Model,
    objects: BTreeMap<usize, Object>,
    /// Objects that are gone without anybody having been told.
    unseen: BTreeMap<usize, Vec<Object>>,
    last: BTreeMap<usize, Object>,
    clock: Clock,
    operator: Option<Operator>,
    /// Stands in while the file is closed.
    spare: Option<Ledger>,
    pool: Pool,
    cloud: Config,
    /// How much had been written at the last look.
    looked_at: u64,
    dir: TempDir,
}

impl Play {
    pub(super) fn new(cloud: Config) -> Self {
        // A file in memory where there is such a place: what is proved here is not the disk.
        let memory = PathBuf::from("/dev/shm");
        let dir = if memory.is_dir() {
            TempDir::new_in(memory)
        } else {
            TempDir::new()
        };
        let dir = dir.unwrap();
        let path = dir.path().join("holdfast.db");
        let settings = configured(Pool::Plain, &cloud);
        let spare = Ledger::in_memory(settings.clone(), World::begin()).unwrap();
        let world = World::on(Ledger::open(&path, settings.clone(), World::begin()).unwrap());
        let mut model = Model {
            vswitches: zones(&settings),
            ..Model::default()
        };
        model.configure(&addresses(&settings), World::begin());
        Self {
            operator: Some(Operator::open(&path).unwrap()),
            clock: Clock::new(World::begin(), SignedDuration::ZERO),
            objects: BTreeMap::new(),
            unseen: BTreeMap::new(),
            last: BTreeMap::new(),
            spare: Some(spare),
            pool: Pool::Plain,
            world,
            model,
            cloud,
            looked_at: 0,
            dir,
        }
    }

    /// The sequence has failed: the end of the world is not judged as well.
    pub(super) fn give_up(self) {
        let Self {
            mut world, spare, ..
        } = self;
        world.ledger = spare.expect("it stands in only while the file is closed");
    }

    pub(super) fn happen(&mut self, step: Step) -> Result<(), String> {
        if let Step::Crash(after, step) = step {
            // Where the next process will have another time, what was torn would be dated anew.
            let same_time = self.clock.truth + self.clock.skew == self.world.now;
            self.world.fuse = same_time.then_some(after);
            self.tell_step(*step)?;
            if !same_time {
                self.look()?;
            }
            self.world.fuse = None;
            return self.restart();
        }
        self.tell_step(step)?;
        self.look()
    }

    fn tell_step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Create(act) => self.create(&act),
            Step::Again(name) => {
                if let Some(object) = self.objects.get(&name).cloned() {
                    self.bound(&object);
                }
            }
            Step::Bind(name, place) => self.bind(name, place),
            Step::Delete(name) => self.delete(name),
            Step::Stop(name) => self.stop(name),
            Step::Fail(name) => self.fail(name),
            Step::Gone(name) => self.gone(name),
            Step::Force(name) => {
                self.delete(name);
                self.gone(name);
            }
            Step::Vanish(name) => {
                if let Some(object) = self.objects.remove(&name) {
                    self.world.api.remove(&key(name));
                    self.unseen.entry(name).or_default().push(object);
                }
            }
            Step::Late(name) => self.late(name),
            Step::List => self.list(),
            Step::StaleList => {
                let lost: Vec<usize> = self.unseen.keys().copied().collect();
                self.found_missing(&lost);
                self.world.tell(Event::Listed(BTreeSet::new()));
            }
            Step::Restart => return self.restart(),
            Step::Crash(..) => unreachable!("a crash does not crash"),
            Step::Release(name, force) => return self.release(name, force),
            Step::Configure(pool) => return self.configure(pool),
            Step::Pass(ms) => return self.pass(SignedDuration::from_millis(ms)),
            Step::ToDeadline(ms) => return self.pass_to_deadline(SignedDuration::from_millis(ms)),
            Step::Jump(hours) => {
                self.clock.skew += HOUR * i32::from(hours);
                self.clock.disturbed_until = self.clock.truth + SECOND * 130;
                self.look_at_clock();
            }
        }
        Ok(())
    }

    fn create(&mut self, act: &Act) {
        let old = self.objects.remove(&act.name);
        self.world.api.remove(&key(act.name));
        if let Some(old) = &old {
            if matches!(act.told, Told::Before) {
                self.tell_gone(old);
            } else {
                self.unseen.entry(act.name).or_default().push(old.clone());
            }
        }
        self.world.next_uid += 1;
        let facts = Facts {
            name: act.name,
            hours: act.hours,
            place: act.place,
            vswitches: WANTED[act.wanted],
            created: Creation {
                at: whole_second(self.clock.truth),
                revision: self.world.next_uid,
            },
        };
        let object = Object {
            uid: format!("uid-{}", self.world.next_uid).into(),
            facts,
            deleted_at: None,
            stopped: false,
            ended: false,
        };
        let pod = ApiPod {
            facts: object.pod_facts(),
            foreign: false,
            deleted_at: None,
            stopped: false,
            ended: false,
        };
        self.world.api.insert(key(act.name), pod);
        self.objects.insert(act.name, object.clone());
        self.bound(&object);
        if let Some(old) = old.filter(|_| matches!(act.told, Told::After)) {
            self.unseen.entry(act.name).or_default().pop();
            self.tell_gone(&old);
        }
    }

    /// Says that a pod is bound, if it is and if anybody would say so.
    fn bound(&mut self, object: &Object) {
        let facts = &object.facts;
        let is_told = match facts.place {
            Place::Nowhere => false,
            Place::Foreign => facts.hours.is_some(),
            _ => true,
        };
        if !is_told || object.ended {
            return;
        }
        let (time, absent) = (self.time(), self.absent());
        self.model.bound(&object.uid, facts, time, absent);
        let pod = object.pod_facts();
        self.world.tell(match facts.place {
            Place::Foreign => Event::OnForeignEcs(pod),
            _ => Event::Bound(pod),
        });
    }

    fn bind(&mut self, name: usize, place: Place) {
        let found = self.objects.get_mut(&name);
        let unbound = found.filter(|one| one.facts.place == Place::Nowhere);
        let Some(object) = unbound.filter(|one| one.deleted_at.is_none() && !one.ended) else {
            return;
        };
        object.facts.place = place;
        let object = object.clone();
        if let Some(pod) = self.world.api.get_mut(&key(name)) {
            pod.facts = object.pod_facts();
        }
        self.bound(&object);
    }

    fn delete(&mut self, name: usize) {
        if let Some((uid, at)) = self.begin_deletion(name) {
            self.world.tell(Event::Deleted(uid, at));
        }
    }

    fn begin_deletion(&mut self, name: usize) -> Option<(PodUid, Timestamp)> {
        let truth = self.clock.truth;
        let object = self.objects.get_mut(&name)?;
        if object.deleted_at.is_none() {
            // As README says it: never too early, and whole seconds are all there is.
            self.model
                .deleted(&object.uid, whole_second(truth) + SECOND);
        }
        // The API writes the end of the grace period, without its fraction.
        let grace = SECOND * 30;
        let timestamp = whole_second(truth + grace);
        let at = *object
            .deleted_at
            .get_or_insert_with(|| retention::deleted_at(timestamp, grace));
        Some((object.uid.clone(), at))
    }

    /// Only a pod that is being deleted stops: one that is not is deleted with it.
    fn stop(&mut self, name: usize) {
        let known = self.objects.get(&name);
        let was_deleted = known.is_some_and(|object| object.deleted_at.is_some());
        let Some((uid, at)) = self.begin_deletion(name) else {
            return;
        };
        if let Some(object) = self.objects.get_mut(&name) {
            object.stopped = true;
        }
        self.model.stopped(&uid, self.world.now);
        self.world.tell(if was_deleted {
            Event::Stopped(uid)
        } else {
            Event::DeletedAndStopped(uid, at)
        });
    }

    fn fail(&mut self, name: usize) {
        let Some(object) = self.objects.get_mut(&name) else {
            return;
        };
        if object.facts.place == Place::Nowhere {
            return;
        }
        object.ended = true;
        let uid = object.uid.clone();
        self.model.ended(&uid, self.world.now);
        self.world.tell(Event::Ended(uid));
    }

    fn gone(&mut self, name: usize) {
        let is_deleted = |object: &Object| object.deleted_at.is_some();
        if self.objects.get(&name).is_some_and(is_deleted) {
            let object = self.objects.remove(&name).expect("it was just there");
            self.world.api.remove(&key(name));
            self.tell_gone(&object);
        }
    }

    fn tell_gone(&mut self, object: &Object) {
        self.last.insert(object.facts.name, object.clone());
        let (time, absent) = (self.time(), self.absent());
        self.model.gone(&object.uid, time, absent);
        self.world.tell(Event::Gone(object.uid.clone()));
    }

    fn late(&mut self, name: usize) {
        let Some(object) = self.last.get(&name).cloned() else {
            return;
        };
        if let Some(at) = object.deleted_at {
            let uid = || object.uid.clone();
            self.world.tell(Event::Deleted(uid(), at));
            self.world.tell(Event::DeletedAndStopped(uid(), at));
        }
        self.world.tell(Event::Stopped(object.uid.clone()));
        self.world.tell(Event::Ended(object.uid.clone()));
        self.world.tell(Event::Gone(object.uid));
    }

    /// A list finds out whoever is gone and was never said to be.
    fn list(&mut self) {
        let lost: Vec<usize> = self.unseen.keys().copied().collect();
        self.found_missing(&lost);
        self.world.list();
    }

    fn found_missing(&mut self, names: &[usize]) {
        for name in names {
            for object in self.unseen.remove(name).unwrap_or_default() {
                let (time, absent) = (self.time(), self.absent());
                self.model.gone(&object.uid, time, absent);
                self.last.insert(*name, object);
            }
        }
    }

    fn release(&mut self, name: usize, force: bool) -> Result<(), String> {
        let release = Release {
            key: &key(name),
            cluster: None,
            reason: None,
            force,
        };
        let wall = self.clock.truth + self.clock.skew;
        let operator = self.operator.as_mut().expect("it is there");
        let result = operator.release(wall, &release);
        let claim = self.model.claims.get(&name);
        match (result, claim) {
            (Ok(_), Some(claim)) if force || claim.holder.is_none() => {
                self.model.released(name, self.time());
                if self.world.ledger.changed().unwrap() {
                    self.world.tell(Event::LedgerChanged);
                }
                Ok(())
            }
            (Err(Error::NoClaim { .. }), None) => Ok(()),
            (Err(Error::InUse { .. }), Some(claim)) if claim.holder.is_some() && !force => Ok(()),
            (result, claim) => Err(format!("release: {result:?}, but {claim:?}")),
        }
    }

    fn configure(&mut self, pool: Pool) -> Result<(), String> {
        let settings = configured(pool, &self.cloud);
        let wanted = addresses(&settings);
        let left_out = self.model.left_out(&wanted);
        let result = self
            .world
            .ledger
            .reconfigure(settings.clone(), self.world.now);
        match (&result, left_out) {
            (Ok(()), None) => {
                self.pool = pool;
                self.model.vswitches = zones(&settings);
                self.model.configure(&wanted, self.time());
                self.world.tell(Event::LedgerChanged);
                Ok(())
            }
            (Err(_), Some(_)) => Ok(()),
            (result, left_out) => Err(format!("{result:?}, but {left_out:?} is held")),
        }
    }

    /// Another process goes on with the file. It is told what the API has.
    fn restart(&mut self) -> Result<(), String> {
        let spare = self.spare.take().expect("the file is open");
        self.operator = None;
        drop(std::mem::replace(&mut self.world.ledger, spare));
        let path = self.dir.path().join("holdfast.db");
        self.clock = Clock::new(self.clock.truth, self.clock.skew);
        let now = self.clock.now();
        let ledger = Ledger::open(&path, configured(self.pool, &self.cloud), now).unwrap();
        self.spare = Some(std::mem::replace(&mut self.world.ledger, ledger));
        self.operator = Some(Operator::open(&path).unwrap());
        self.world.now = now;
        self.world.pending.clear();
        let loaded = self.world.ledger.load(now).unwrap();
        self.world.engine = Engine::new(self.cloud.clone(), loaded, now);
        self.model.restarted(now);
        for object in self.objects.values().cloned().collect::<Vec<_>>() {
            self.bound(&object);
            let uid = object.uid;
            if let Some(at) = object.deleted_at {
                self.world.tell(Event::Deleted(uid.clone(), at));
            }
            if object.ended {
                self.world.tell(Event::Ended(uid.clone()));
            }
            if object.stopped {
                self.world.tell(Event::Stopped(uid));
            }
        }
        self.list();
        self.look()
    }

    /// Lets time pass, with a look wherever the provider does something.
    fn pass(&mut self, time: SignedDuration) -> Result<(), String> {
        let end = self.clock.truth + time;
        while self.clock.truth < end {
            let left = end.duration_since(self.clock.truth);
            let deadline = self.world.engine.next_deadline();
            let mut step = deadline.map_or(left, |at| {
                at.duration_since(self.world.now)
                    .clamp(SignedDuration::ZERO, left)
            });
            if self.clock.truth < self.clock.disturbed_until || !self.clock.may_expire {
                step = step.min(LOOK);
            }
            self.clock.truth += step;
            self.look_at_clock();
            self.world.tell(Event::Tick);
            if self.world.ledger.writes() != self.looked_at {
                self.look_at_rows()?;
            }
        }
        Ok(())
    }

    fn look_at_clock(&mut self) {
        let before = self.clock.may_expire;
        self.clock.observe();
        self.world.now = self.clock.now();
        let may_expire = self.clock.may_expire;
        if may_expire != before {
            self.world.tell(Event::Clock { may_expire });
        }
    }

    fn pass_to_deadline(&mut self, more: SignedDuration) -> Result<(), String> {
        let now = self.world.now;
        let deadlines = self.model.claims.values().filter_map(|claim| claim.expires);
        let next = deadlines.map(|at| (at + more).duration_since(now));
        match next.filter(SignedDuration::is_positive).min() {
            Some(time) => self.pass(time),
            None => Ok(()),
        }
    }

    /// The ledger's time once something is committed now.
    fn time(&self) -> Timestamp {
        self.world.now.max(self.last_commit())
    }

    /// From when on a pod counts as deleted whose deletion nobody saw: by ledger time, unless that is days ahead of the clock
    /// and no pod tells the same.
    fn absent(&self) -> Timestamp {
        let newest = "SELECT ifnull(max(created_ms), 0) FROM pod_log";
        let newest = Timestamp::from_millisecond(self.world.ledger.number(newest)).unwrap();
        let now = self.world.now;
        if self.time() > now + HOUR * 24 && newest <= now + SECOND * 60 {
            now
        } else {
            self.time()
        }
    }

    fn last_commit(&self) -> Timestamp {
        let ms = self.world.ledger.number("SELECT last_ms FROM ledger");
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn look(&mut self) -> Result<(), String> {
        self.look_at_rows()?;
        self.judge_networks()?;
        let found = self.world.ledger.invariants().unwrap();
        let miscounted = self.world.ledger.miscounted();
        if found.is_empty() && miscounted.is_empty() {
            Ok(())
        } else {
            Err(format!("{found:#?}, miscounted: {miscounted:?}"))
        }
    }

    /// The look at a deadline also shows that a pod that waited or was being deleted is gone, which
    /// nobody had said. It is gone in truth, so it may let go from then on.
    fn find_out(&mut self) {
        let (time, absent) = (self.time(), self.absent());
        for object in self.unseen.values().flatten() {
            let network = self.world.engine.network(&object.uid);
            let known = self.model.pods.get(&object.uid);
            let has_let_go = known.is_some_and(|pod| match network {
                None => pod.address.is_none() || pod.deleted,
                // As one is that has ended and is there.
                Some(network) => *network == Network::Detached && pod.deleted,
            });
            if has_let_go {
                self.model.gone(&object.uid, time, absent);
            }
        }
    }

    fn look_at_rows(&mut self) -> Result<(), String> {
        self.looked_at = self.world.ledger.writes();
        if let Some(why) = self.world.refusals.first() {
            return Err(format!("refused: {why}"));
        }
        self.find_out();
        let fixed = |object: &Object| {
            let facts = &object.facts;
            facts.hours.map(|_| (facts.name, facts.created.at))
        };
        let seen = Seen {
            now: self.world.now,
            time: self.last_commit(),
            absent: self.absent(),
            may_expire: self.clock.may_expire,
            is_skewed: self.clock.skew != SignedDuration::ZERO,
            calm: self.clock.truth >= self.clock.disturbed_until,
            addresses: self.world.ledger.addresses(true).unwrap(),
            claims: self.world.claims(),
            made: self.objects.values().filter_map(fixed).collect(),
            unseen: self.unseen.values().flatten().filter_map(fixed).collect(),
        };
        self.model.look(&seen)
    }

    /// What pods are told is what was committed.
    fn judge_networks(&self) -> Result<(), String> {
        for (uid, pod) in &self.model.pods {
            if pod.over || pod.place == Place::Foreign {
                continue;
            }
            let network = self.world.network(uid);
            let is_right = match (&network, pod.address) {
                (Network::Attached(got), address) => Some(got.address) == address,
                (Network::Pending, Some(_)) => true,
                (Network::Pending, None) => {
                    pod.deleted || self.model.waits_for(pod) == Some(Reason::FixedIPWaiting)
                }
                (Network::Waiting { reason, .. }, None) => {
                    // A wait for the old pod is told after a second; until then the last word is.
                    let due = self.model.waits_for(pod);
                    pod.deleted || due == Some(Reason::FixedIPWaiting) || due == Some(*reason)
                }
                (Network::Waiting { .. }, Some(_)) | (Network::Detached, _) => false,
            };
            if !is_right {
                return Err(format!("{uid} is told {network:?}: {pod:?}"));
            }
        }
        Ok(())
    }

    /// Everybody goes and every address comes back; then the whole history is judged.
    pub(super) fn end(mut self) -> Result<Outcomes, String> {
        let ended = self.drain();
        let outcomes = self.model.outcomes;
        let found = self.world.ledger.check().unwrap();
        self.give_up();
        ended?;
        if found.is_empty() {
            Ok(outcomes)
        } else {
            Err(format!("{found:#?}"))
        }
    }

    fn drain(&mut self) -> Result<(), String> {
        self.restart()?;
        // Behind the ledger the clock first has to come back to where it was.
        let behind = self.time().duration_since(self.world.now);
        self.pass(behind + SECOND * 30)?;
        for name in 0..NAMES.len() {
            self.tell_step(Step::Force(name))?;
            self.look()?;
        }
        self.pass(HOUR_LASTS * 4 + self.clock.skew.abs())?;
        let left = self.model.addresses.iter();
        let mut left = left.filter(|(_, one)| !matches!(one.held, Held::Free(_)));
        match left.next() {
            Some(left) => Err(format!("{left:?} does not come back")),
            None => Ok(()),
        }
    }
}
