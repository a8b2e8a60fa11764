//! The durable truth: vSwitches, addresses, ENIs, claims, pods and their history, in one file.
//!
//! One operation is one [`Job`] and one transaction: it reads the facts, asks the policy, and
//! writes the effects. Many jobs share a COMMIT, and one that fails is undone alone. What a job leads
//! to comes back as an [`Outcome`], data that the engine acts on once it is committed.
//!
//! Owns the schema, ledger time and the rows. Decides nothing that the policy can decide, calls
//! no cloud (except one so simple that its calls may share the commit) and knows no Kubernetes.
//! Its face names no type of the database behind it.

mod acquire;
mod checkpoint;
#[cfg(test)]
mod cost_tests;
mod eni;
mod error;
pub mod explain;
mod face;
#[cfg(test)]
pub(crate) mod fault_tests;
pub mod faults;
mod free;
mod gathering;
pub mod history;
mod import;
mod integrity;
pub(crate) mod journal;
mod op;
mod open;
pub mod operator;
mod plan;
mod pool;
mod prune;
mod query;
#[cfg(test)]
mod refusal_tests;
mod release;
mod repair;
mod schema;
mod totals;
mod turn;
mod writer;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;

use crate::check::cluster::Holders;
use crate::check::{self, Violation};
use crate::cloud::sim::{self, Failure, Simulator};
use crate::cloud::{self, Request, Response};
use crate::id::EniId;
use crate::ledger::checkpoint::Checkpointer;
use crate::ledger::free::Free;
use crate::ledger::integrity::Inspection;
use crate::ledger::op::{Explained, Op};
use crate::settings::Settings;
use crate::sql::{self, Tx};

pub use error::{Cause, Error};
pub use face::{
    Allocated, Batch, Blocked, ClaimRef, Counted, Due, EniRow, Job, Loaded, LoadedPod, Notice,
    Outcome, PodState, Task,
};
pub use journal::{Hold, Note};
pub use open::is_running;
pub use prune::Portion;
pub use query::{AddressRow, ClaimRow, ClaimState, Reader, VSwitchRow};
pub use repair::repair;
pub use totals::Totals;
pub use turn::Turn;
pub use writer::{Done, Gone, Work, Writer};

/// A wall clock that is behind the last commit by more than this is worth an entry in the journal.
const STANDSTILL: SignedDuration = SignedDuration::from_secs(1);

/// What is undone when a job fails alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Undo {
    /// All that was done with it, to be done again one by one.
    Batch,
    /// Only that job.
    Job,
}

/// The ledger file, open for writing. One per process; the lock beside the file sees to it.
pub struct Ledger {
    conn: Connection,
    settings: Settings,
    vswitches: Vec<pool::VSwitchRef>,
    free: Free,
    simulator: Simulator,
    id: String,
    data_version: i64,
    /// The journal's last entry when claims that operators ended were last counted, and how many were since
    /// somebody took their number.
    journal_end: i64,
    released: u64,
    /// The ledger time that the journal says stands still, because the wall clock is behind it.
    stands_at: Option<Timestamp>,
    /// After the connection, whose end it waits for.
    checkpointer: Option<Checkpointer>,
    /// Of a large file, whose history no start waits for.
    inspection: Option<Inspection>,
    /// Held as long as the ledger is open; a ledger in memory needs none.
    _lock: Option<std::fs::File>,
}

impl Ledger {
    /// The ledger's own id: the holder of the cluster's Lease.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the ledger was opened with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// From now on a thread of its own brings the log into the file.
    fn checkpoint_aside(&mut self, limits: checkpoint::Limits) -> std::io::Result<()> {
        self.checkpointer = Checkpointer::start(&mut self.conn, limits)?;
        Ok(())
    }

    /// Runs `jobs` in order and commits them together. `wall` is the wall clock; the time that
    /// counts is the later of it and the last commit.
    ///
    /// # Errors
    /// When nothing was committed. A job that failed alone has its error in the batch.
    pub fn commit(&mut self, wall: Timestamp, jobs: &[Job]) -> Result<Batch, Error> {
        // Next to no job fails, and a savepoint copies each page before a job changes it.
        let together = self.try_commit(wall, jobs, Undo::Batch)?;
        if let Some(batch) = together {
            return Ok(batch);
        }
        let one_by_one = self.try_commit(wall, jobs, Undo::Job)?;
        Ok(one_by_one.expect("a job that fails is undone alone"))
    }

    /// Nothing is written when it returns no batch.
    fn try_commit(
        &mut self,
        wall: Timestamp,
        jobs: &[Job],
        undo: Undo,
    ) -> Result<Option<Batch>, Error> {
        let begin = Error::sql("begin a transaction");
        self.conn.execute_batch("BEGIN IMMEDIATE").map_err(begin)?;
        let stands_at = self.stands_at;
        let results = self.run_all(wall, jobs, undo);
        let committed = results.and_then(|batch| {
            if batch.is_some() {
                sql::commit(&self.conn).map_err(Error::sql("commit"))?;
            }
            Ok(batch)
        });
        if !matches!(committed, Ok(Some(_))) {
            self.stands_at = stands_at;
            self.free.forget();
        }
        if !self.conn.is_autocommit() {
            // The first error is the one to report; a rollback that fails as well adds nothing, and
            // whatever begins next fails.
            drop(self.conn.execute_batch("ROLLBACK"));
        }
        committed
    }

    fn run_all(
        &mut self,
        wall: Timestamp,
        jobs: &[Job],
        undo: Undo,
    ) -> Result<Option<Batch>, Error> {
        self.free.is_at(open::data_version(&self.conn)?);
        let now = open::advance_time(&Tx::new(&self.conn), wall)?;
        self.note_standstill(now, wall)?;
        let tx = Tx::new(&self.conn);
        let mut results = Vec::with_capacity(jobs.len());
        let mut explained = Explained::new();
        for job in jobs {
            if undo == Undo::Job {
                tx.execute("SAVEPOINT job", [])
                    .map_err(Error::sql("begin a job"))?;
            }
            let op = Op::new(
                &tx,
                (now, wall),
                &self.settings,
                (&self.vswitches, &self.free),
                &mut self.simulator,
                &mut explained,
            );
            let result = match op.run(job).map_err(Error::sql("run a job")) {
                // The schema gives the whole transaction up where the file contradicts itself.
                Err(error) if error.is_fatal() || self.conn.is_autocommit() => return Err(error),
                Err(_) if undo == Undo::Batch => return Ok(None),
                result => result,
            };
            if result.is_err() {
                explained.clear();
                self.free.forget();
                tx.execute("ROLLBACK TO job", [])
                    .map_err(Error::sql("undo a job"))?;
            }
            if undo == Undo::Job {
                tx.execute("RELEASE job", [])
                    .map_err(Error::sql("end a job"))?;
            }
            results.push(result);
        }
        let next_deadline = release::next_deadline(&tx, &self.settings.cluster)
            .map_err(Error::sql("read deadlines"))?;
        Ok(Some(Batch {
            results,
            next_deadline,
        }))
    }

    /// Ledger time that stands still makes endings look late that are not.
    fn note_standstill(&mut self, now: Timestamp, wall: Timestamp) -> Result<(), Error> {
        if now.duration_since(wall) <= STANDSTILL || self.stands_at == Some(now) {
            return Ok(());
        }
        let entry = journal::Entry {
            what: journal::word::STANDS,
            ..journal::Entry::default()
        };
        journal::write(&Tx::new(&self.conn), now, wall, entry)
            .map_err(Error::sql("write the journal"))?;
        self.stands_at = Some(now);
        Ok(())
    }

    /// Makes calls to the simulated cloud, which commits on its own, as a real one would.
    ///
    /// # Errors
    /// When the simulator's tables cannot be written. What the cloud refuses is in the results.
    pub fn call(
        &mut self,
        now: Timestamp,
        requests: &[Request],
    ) -> Result<Vec<Result<Response, cloud::Error>>, Error> {
        let tx = self
            .conn
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(Error::sql("begin a cloud transaction"))?;
        let handle = Tx::new(&tx);
        let mut cloud = self.simulator.on(&handle);
        let mut results = Vec::with_capacity(requests.len());
        for request in requests {
            results.push(match cloud.run(now, request) {
                Ok(response) => Ok(response),
                Err(Failure::Cloud(error)) => Err(error),
                Err(Failure::Table(error)) => return Err(Error::sql("run a cloud call")(error)),
            });
        }
        sql::commit(&tx).map_err(Error::sql("commit cloud calls"))?;
        Ok(results)
    }

    /// The calls that the cloud has answered since this was last asked.
    pub(crate) fn take_calls(&mut self) -> BTreeMap<sim::Called, u64> {
        self.simulator.take_calls()
    }

    /// How many claims operators have ended, as far as [`Ledger::changed`] has noticed, since this was last
    /// asked. Those from before the ledger was opened are not among them.
    pub(crate) fn take_released(&mut self) -> u64 {
        std::mem::take(&mut self.released)
    }

    /// Everything an engine needs to start.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn load(&mut self, wall: Timestamp) -> Result<Loaded, Error> {
        let tx = Tx::new(&self.conn);
        let now = open::advance_time(&tx, wall)?;
        let mut explained = Explained::new();
        let op = Op::new(
            &tx,
            (now, wall),
            &self.settings,
            (&self.vswitches, &self.free),
            &mut self.simulator,
            &mut explained,
        );
        op.load().map_err(Error::sql("load the ledger"))
    }

    /// Whether another process has written to the file since the last time this was asked. Faults
    /// that it has set or cleared are in force from then on.
    ///
    /// # Errors
    /// When the file cannot be read, or what no start waited for was found damaged.
    pub fn changed(&mut self) -> Result<bool, Error> {
        if let Some(inspection) = &mut self.inspection {
            inspection.found()?;
        }
        let version = open::data_version(&self.conn)?;
        let is_changed = std::mem::replace(&mut self.data_version, version) != version;
        if is_changed {
            self.obey_faults()?;
            let tx = Tx::new(&self.conn);
            let cluster = &self.settings.cluster;
            let failed = Error::sql("read the journal");
            let end = journal::end(&tx);
            let (end, released) = end
                .and_then(|end| Ok((end, journal::released(&tx, cluster, self.journal_end, end)?)))
                .map_err(failed)?;
            self.journal_end = end;
            self.released += released;
        }
        Ok(is_changed)
    }
}

/// What [`Reader`] answers beside a running process, for whoever has the ledger itself.
impl Ledger {
    /// All open claims, by key. `now` tells which have run out.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn claims(&self, now: Timestamp) -> Result<Vec<ClaimRow>, Error> {
        query::claims(&Tx::new(&self.conn), now).map_err(Error::sql("list claims"))
    }

    /// The addresses that somebody has or had, or with `all` the free ones too.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn addresses(&self, all: bool) -> Result<Vec<AddressRow>, Error> {
        query::addresses(&Tx::new(&self.conn), all).map_err(Error::sql("list addresses"))
    }

    /// What contradicts the promises, from the rows and the history alone.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn check(&self) -> Result<Vec<Violation>, Error> {
        check::all(&Tx::new(&self.conn)).map_err(Error::sql("check the ledger"))
    }

    /// Who has which address, and which ENIs are nobody's.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn holders(&self) -> Result<Holders, Error> {
        query::holders(&Tx::new(&self.conn)).map_err(Error::sql("list holders"))
    }
}

/// What tests ask and break.
#[cfg(test)]
impl Ledger {
    /// The one number that a query answers with.
    pub(crate) fn number(&self, sql: &str) -> i64 {
        let answer = self.conn.query_row(sql, [], |row| row.get(0));
        answer.expect("the query answers with a number")
    }

    /// vSwitches of which another number of free addresses is known than there is.
    pub(crate) fn miscounted(&self) -> Vec<i64> {
        self.free.is_at(open::data_version(&self.conn).unwrap());
        let known = self.free.known().into_iter();
        let sql = "SELECT count(*) FROM address WHERE state = 'free' AND vswitch =";
        known
            .filter(|(row, free)| self.number(&format!("{sql} {row}")).cast_unsigned() != *free)
            .map(|(row, _)| row)
            .collect()
    }

    /// Whether the history is being looked through.
    pub(crate) fn is_being_inspected(&self) -> bool {
        let inspection = self.inspection.as_ref();
        inspection.is_some_and(Inspection::goes_on)
    }

    /// How many rows were ever written.
    pub(crate) fn writes(&self) -> u64 {
        self.conn.total_changes()
    }

    /// Writes a copy of the file for a test that breaks it.
    pub(crate) fn copy_to(&self, path: &std::path::Path) -> rusqlite::Result<()> {
        let sql = "VACUUM INTO ?1";
        Tx::new(&self.conn).execute(sql, [path.display().to_string()])?;
        Ok(())
    }

    /// What was recorded.
    pub(crate) fn history(&self) -> rusqlite::Result<crate::check::History> {
        crate::check::History::read(&Tx::new(&self.conn))
    }

    /// What contradicts the promises between the rows.
    pub(crate) fn invariants(&self) -> rusqlite::Result<Vec<crate::check::Violation>> {
        crate::check::invariants(&Tx::new(&self.conn))
    }
}

/// An address and the ENI that carries it, for texts.
pub(crate) fn carrier(eni: Option<&EniId>, address: Ipv4Addr) -> String {
    match eni {
        Some(eni) => format!("{eni} ({address})"),
        None => format!("the ENI of {address}"),
    }
}
