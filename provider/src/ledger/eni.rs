//! ENI rows: the next cloud call for each, and what its answer changes.

use std::net::Ipv4Addr;

use rusqlite::Result;

use crate::cloud::sim::Failure;
use crate::cloud::{Eni, EniState, Request, Response};
use crate::id::{ClientToken, EniId, PodUid};
use crate::ledger::op::{EniFacts, Op};
use crate::ledger::{EniRow, Task};
use crate::policy::eni::{self, State, Step, Target};

/// Why an address is free that has waited for it.
const DELETED: &str = "ENI is deleted";

impl Op<'_> {
    /// Brings the ENI closer to its target, and writes down what comes of it.
    pub(super) fn progress(&mut self, row: i64) -> Result<()> {
        let Some(known) = self.eni(row)? else {
            return Ok(());
        };
        let pod = self.pod_of(row)?.map(|pod| pod.uid);
        let left = self.bring(&known, known.clone(), pod.as_ref())?;
        match left.filter(|facts| *facts != known && facts.is_let_go()) {
            Some(facts) => self.detached(facts),
            None => Ok(()),
        }
    }

    /// Brings an ENI closer to its target, whose row is as `known`, and tells what is left of it.
    pub(super) fn bring(
        &mut self,
        known: &EniFacts,
        mut facts: EniFacts,
        pod: Option<&PodUid>,
    ) -> Result<Option<EniFacts>> {
        if self.approach(&mut facts, pod)? == Exists::No {
            self.finish(&facts, pod, DELETED)?;
            return Ok(None);
        }
        // One write for all the steps.
        self.save(known, &facts)?;
        Ok(Some(facts))
    }

    /// Brings the ENI closer to its target: by a task for the engine or, in a cloud that answers
    /// at once and never fails, right here, so that intent and outcome share one commit. Leaves
    /// its row to the caller.
    pub(super) fn approach(
        &mut self,
        facts: &mut EniFacts,
        pod: Option<&PodUid>,
    ) -> Result<Exists> {
        // A call of the time before the cloud was instant may still be on its way to it. The engine
        // knows, and looks after that.
        if !self.settings.cloud.is_instant() || facts.state == State::Unsure {
            let task = self.task(facts, pod.cloned());
            self.out.tasks.extend(task);
            return Ok(Exists::Yes);
        }
        let mut before = None;
        while let Some(task) = self.task(facts, pod.cloned()) {
            if let Some(eni) = self.launch(facts, &task.request)? {
                facts.describe(&eni);
                break;
            }
            // Begun while the cloud was slow: only time ends it, and the engine looks again then.
            if before.as_ref() == Some(&task) {
                self.out.tasks.push(task);
                break;
            }
            let response = match self.simulator.on(self.tx).settle(self.now, &task.request) {
                Ok(eni) => Response::Eni(eni),
                Err(Failure::Table(error)) => return Err(error),
                Err(Failure::Cloud(_)) => {
                    // Left to the engine, which shows the reason to the pod and retries.
                    self.out.tasks.push(task);
                    break;
                }
            };
            if facts.learn(task.step, &response) == Exists::No {
                return Ok(Exists::No);
            }
            before = Some(task);
        }
        Ok(Exists::Yes)
    }

    /// Creates and attaches in one write, if that is what is next and nothing stands against it.
    fn launch(&mut self, facts: &EniFacts, next: &Request) -> Result<Option<Eni>> {
        let (Target::InUse, Some(instance), Request::Create { .. }) =
            (facts.target, &facts.instance, next)
        else {
            return Ok(None);
        };
        self.simulator.on(self.tx).launch(next, instance)
    }

    /// Adds the next call for the ENI, if there is one, to what this operation tells.
    pub(super) fn review(&mut self, row: i64) -> Result<()> {
        let task = self.next_task(row)?;
        self.out.tasks.extend(task);
        Ok(())
    }

    /// A call was answered. An answer about an ENI that has been given up since, for another one
    /// under a token of its own, tells nothing.
    pub(super) fn record(
        &mut self,
        row: i64,
        token: &ClientToken,
        step: Step,
        response: &Response,
    ) -> Result<()> {
        let known = self.eni(row)?;
        if known.is_some_and(|facts| facts.token != *token) {
            return self.review(row);
        }
        let pod = self.pod_of(row)?.map(|pod| pod.uid);
        let now = self.look_now(token)?;
        let (step, response) = match &now {
            Some(found) => (Step::Describe, found),
            None => (step, response),
        };
        if self.apply(row, step, response)? {
            self.progress(row)?;
        }
        match pod {
            Some(uid) => self.report(&uid),
            None => Ok(()),
        }
    }

    /// Every intent that is open, but for pods of another cluster. What the cloud has is unknown,
    /// so each begins with a look.
    pub(super) fn open_intents(&mut self) -> Result<()> {
        let rows = self.tx.rows(
            "SELECT id FROM eni WHERE state IS NOT target AND NOT (target = 'Available' AND state IS NULL) \
             AND NOT EXISTS (SELECT 1 FROM pod WHERE pod.eni = eni.id AND pod.cluster <> ?1)",
            [self.cluster()],
            |row| row.get(0),
        )?;
        for row in rows {
            if let Some(mut task) = self.next_task(row)? {
                task.step = Step::Describe;
                task.request = Request::Describe {
                    token: task.token.clone(),
                };
                self.out.tasks.push(task);
            }
        }
        Ok(())
    }

    /// What an instant cloud says now. It may have been made instant since a call was asked for, and
    /// nothing has waited for the answer.
    fn look_now(&mut self, token: &ClientToken) -> Result<Option<Response>> {
        if !self.settings.cloud.is_instant() {
            return Ok(None);
        }
        let token = token.clone();
        let request = Request::Describe { token };
        match self.simulator.on(self.tx).run(self.now, &request) {
            Ok(response) => Ok(Some(response)),
            Err(Failure::Table(error)) => Err(error),
            Err(Failure::Cloud(_)) => Ok(None),
        }
    }

    fn next_task(&self, row: i64) -> Result<Option<Task>> {
        let Some(facts) = self.eni(row)? else {
            return Ok(None);
        };
        let pod = self.pod_of(row)?.map(|pod| pod.uid);
        Ok(self.task(&facts, pod))
    }

    /// The next call for an ENI, for which this pod waits.
    fn task(&self, facts: &EniFacts, pod: Option<PodUid>) -> Option<Task> {
        let step = eni::next(facts.state, facts.target)?;
        let under_way = match facts.state {
            State::Is(EniState::Attaching) => Some(Step::Attach),
            State::Is(EniState::Detaching) => Some(Step::Detach),
            State::Is(EniState::Deleting) => Some(Step::Delete),
            _ => None,
        };
        Some(Task {
            eni: EniRow(facts.row),
            token: facts.token.clone(),
            step,
            request: self.request(facts, step),
            under_way,
            pod,
        })
    }

    fn request(&self, facts: &EniFacts, step: Step) -> Request {
        let vswitch = self.vswitch(facts.vswitch);
        let token = facts.token.clone();
        let named = || facts.eni.clone().expect("an ENI in any state has a name");
        match step {
            Step::Create => Request::Create {
                token,
                vswitch: vswitch.id.clone(),
                zone: vswitch.zone.clone(),
                address: facts.address,
            },
            Step::Attach => Request::Attach {
                eni: named(),
                instance: facts
                    .instance
                    .clone()
                    .expect("the schema demands it for this target"),
                zone: vswitch.zone.clone(),
            },
            Step::Detach => Request::Detach { eni: named() },
            Step::Delete => Request::Delete { eni: named() },
            Step::Describe => Request::Describe { token },
        }
    }

    /// Writes what an answer tells, and whether the ENI still exists in the ledger.
    fn apply(&mut self, row: i64, step: Step, response: &Response) -> Result<bool> {
        let Some(known) = self.eni(row)? else {
            return Ok(false);
        };
        let mut facts = known.clone();
        if facts.learn(step, response) == Exists::No {
            let pod = self.pod_of(row)?.map(|pod| pod.uid);
            self.finish(&facts, pod.as_ref(), DELETED)?;
            return Ok(false);
        }
        self.save(&known, &facts)?;
        if facts.is_let_go() {
            self.detached(facts)?;
        }
        Ok(true)
    }

    /// Writes down what has become of an ENI, where that is not what its row has already.
    pub(super) fn save(&self, known: &EniFacts, facts: &EniFacts) -> Result<()> {
        // The token has an index, which would be written even where nothing changes.
        if facts.token != known.token {
            let sql = "UPDATE OR FAIL eni SET token = ?2 WHERE id = ?1";
            self.tx.execute(sql, (facts.row, facts.token.as_str()))?;
        }
        let is_as_known = (&facts.eni, facts.mac, facts.state, facts.target)
            == (&known.eni, known.mac, known.state, known.target);
        if !is_as_known {
            self.tx.execute(
                "UPDATE OR FAIL eni SET eni_id = ?2, mac = ?3, state = ?4, target = ?5 WHERE id = ?1",
                (
                    facts.row,
                    facts.eni.as_ref().map(EniId::as_str),
                    facts.mac.map(|mac| mac.to_string()),
                    facts.state.as_str(),
                    facts.target.as_str(),
                ),
            )?;
        }
        Ok(())
    }

    /// The ENI is deleted: its address is free, or leaves the pool if the operator excludes it. `pod`
    /// is the one that has a row and had the ENI.
    pub(super) fn finish(
        &mut self,
        facts: &EniFacts,
        pod: Option<&PodUid>,
        why: &str,
    ) -> Result<()> {
        self.tx.execute(
            // Before schema version 11 an end could be written before the cloud was asked.
            "INSERT INTO eni_end VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET at_ms = excluded.at_ms",
            (
                facts.row,
                facts.vswitch,
                u32::from(facts.address),
                facts.eni.as_ref().map(EniId::as_str),
                self.now_ms(),
            ),
        )?;
        if let Some(uid) = pod {
            let sql = "UPDATE OR FAIL pod SET eni = NULL WHERE uid = ?1 AND eni = ?2";
            self.tx.execute(sql, (uid.as_str(), facts.row))?;
        }
        self.tx.execute(
            "UPDATE OR FAIL address SET state = iif(barred, 'excluded', 'free'), claim = NULL, pod = NULL, \
             eni = NULL, gen = gen + 1, since_ms = ?2, why = ?3 WHERE eni = ?1",
            (facts.row, self.now_ms(), why),
        )?;
        self.tx
            .execute("DELETE FROM eni WHERE id = ?1", [facts.row])?;
        self.explained.clear();
        if self.free.knows(facts.vswitch)
            && self.address_state(facts.vswitch, facts.address)?.as_deref() == Some("free")
        {
            self.free.give(facts.vswitch);
        }
        self.out.freed.push(self.vswitch(facts.vswitch).id.clone());
        Ok(())
    }

    /// What an address of a vSwitch does, if it is in the pool.
    pub(super) fn address_state(&self, vswitch: i64, address: Ipv4Addr) -> Result<Option<String>> {
        let sql = "SELECT state FROM address WHERE vswitch = ?1 AND addr = ?2";
        self.tx
            .row(sql, (vswitch, u32::from(address)), |row| row.get(0))
    }
}

/// Whether an answer leaves an ENI to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exists {
    Yes,
    /// The cloud has it no longer, as was wanted.
    No,
}

impl EniFacts {
    /// Takes over what an answer tells.
    fn learn(&mut self, step: Step, response: &Response) -> Exists {
        match (step, response) {
            (_, Response::Eni(Some(eni))) => self.describe(eni),
            (_, Response::Eni(None)) if self.target == Target::Gone => return Exists::No,
            (_, Response::Eni(None)) => self.vanish(),
            (Step::Attach, Response::Accepted) => self.state = State::Is(EniState::Attaching),
            (Step::Detach, Response::Accepted) => self.state = State::Is(EniState::Detaching),
            (Step::Delete, Response::Accepted) => self.state = State::Is(EniState::Deleting),
            (Step::Create | Step::Describe, Response::Accepted) => {}
        }
        Exists::Yes
    }

    /// The ENI as the cloud describes it.
    pub(super) fn describe(&mut self, eni: &Eni) {
        self.eni = Some(eni.id.clone());
        self.mac = Some(eni.mac);
        self.state = State::Is(eni.state);
    }

    /// Somebody deleted the ENI behind our back. The address stays with its holder; another ENI
    /// is made for it under a token of its own when one is wanted.
    fn vanish(&mut self) {
        if self.eni.take().is_some() {
            self.token = format!("{}+", self.token).into();
        }
        self.mac = None;
        self.state = State::Absent;
    }

    /// Whether it holds on to nothing, and is to be kept for whoever comes.
    pub(super) fn is_let_go(&self) -> bool {
        !self.state.is_attached() && self.target == Target::Available
    }
}
