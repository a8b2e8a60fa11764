//! The journal: what the program did, or could not do, beyond the rows.
//!
//! Owns the words of table `journal`. Written at changes only: it is there so that whoever reads
//! the history later can tell a retention that was held back from one that was forgotten.

use jiff::Timestamp;
use rusqlite::Result;

use crate::id::{ClusterId, PodUid};
use crate::ledger::ClaimRef;
use crate::ledger::op::Op;
use crate::sql::Tx;

/// Something that only the program knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A process has opened the ledger; whatever ran before has ended.
    Started,
    /// Every running pod is known: from here on retentions end on time.
    Serving,
    /// The process ends in order.
    Stopped,
    /// Retentions do not end for now.
    Held(Hold),
    /// What held them back is over.
    LetGo(Hold),
    /// An operator ended a claim.
    Released {
        /// Which.
        claim: ClaimRef,
        /// In the operator's words.
        reason: String,
    },
}

/// What holds retentions back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The wall clock jumped, and is not believed yet.
    Clock,
    /// Answers of the API are awaited, and until then nobody knows whether a pod was made in time.
    Api,
    /// This pod of the claim's key was made in time; holds back this claim only.
    Pod {
        /// Which.
        claim: ClaimRef,
        /// Whose.
        uid: PodUid,
    },
}

/// The words of column `what`.
pub(crate) mod word {
    pub(crate) const RECORDING: &str = "recording";
    pub(crate) const STARTED: &str = "started";
    pub(crate) const SERVING: &str = "serving";
    pub(crate) const STOPPED: &str = "stopped";
    pub(crate) const HELD: &str = "held";
    pub(crate) const LET_GO: &str = "let go";
    pub(crate) const RELEASED: &str = "released";
    /// What a check had found was put right.
    pub(crate) const REPAIRED: &str = "repaired";
    /// A pod ended a claim before its time, by crossing or by moving.
    pub(crate) const FORFEITED: &str = "forfeited";
    /// The wall clock is behind the last commit, so ledger time stands still.
    pub(crate) const STANDS: &str = "time stands";

    /// Column `detail` of what holds all retentions back.
    pub(crate) const CLOCK: &str = "the wall clock jumped";
    pub(crate) const API: &str = "answers of the API are awaited";
    pub(crate) const POD: &str = "a pod was made in time";
}

/// One entry before it has a number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry<'e> {
    pub(super) what: &'e str,
    pub(super) detail: Option<&'e str>,
    pub(super) claim: Option<i64>,
    pub(super) pod: Option<&'e str>,
}

/// Writes an entry. `clock` is the time by the clock of whoever has it written.
pub(super) fn write(tx: &Tx<'_>, now: Timestamp, clock: Timestamp, entry: Entry<'_>) -> Result<()> {
    tx.execute(
        "INSERT INTO journal (at_ms, clock_ms, what, detail, claim, pod) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (
            now.as_millisecond(),
            clock.as_millisecond(),
            entry.what,
            entry.detail,
            entry.claim,
            entry.pod,
        ),
    )?;
    Ok(())
}

/// The number of the last entry.
pub(super) fn end(tx: &Tx<'_>) -> Result<i64> {
    let last = tx.row("SELECT max(seq) FROM journal", [], |row| row.get(0))?;
    Ok(last.flatten().unwrap_or(0))
}

/// How many claims of the cluster operators have ended after one entry and up to another.
pub(super) fn released(tx: &Tx<'_>, cluster: &ClusterId, after: i64, end: i64) -> Result<u64> {
    let count = tx.row(
        "SELECT count(*) FROM journal j JOIN claim c ON c.id = j.claim \
         WHERE j.seq > ?1 AND j.seq <= ?2 AND j.what = ?3 AND c.cluster = ?4",
        (after, end, word::RELEASED, cluster.as_str()),
        |row| row.get(0),
    )?;
    Ok(count.unwrap_or(0))
}

impl Op<'_> {
    pub(super) fn note(&mut self, clock: Timestamp, note: &Note) -> Result<()> {
        let plain = |what| Entry {
            what,
            ..Entry::default()
        };
        let entry = match note {
            Note::Started => plain(word::STARTED),
            Note::Serving => plain(word::SERVING),
            Note::Stopped => plain(word::STOPPED),
            Note::Held(hold) => hold.entry(word::HELD),
            Note::LetGo(hold) => hold.entry(word::LET_GO),
            Note::Released { claim, reason } => Entry {
                what: word::RELEASED,
                detail: Some(reason),
                claim: Some(claim.0),
                pod: None,
            },
        };
        write(self.tx, self.now, clock, entry)
    }

    /// Names the pod that ends a claim before its time.
    pub(super) fn forfeited(&self, claim: i64, why: &str, uid: &PodUid) -> Result<()> {
        let entry = Entry {
            what: word::FORFEITED,
            detail: Some(why),
            claim: Some(claim),
            pod: Some(uid.as_str()),
        };
        write(self.tx, self.now, self.now, entry)
    }
}

impl Hold {
    fn entry<'e>(&'e self, what: &'e str) -> Entry<'e> {
        let (detail, claim, pod) = match self {
            Self::Clock => (word::CLOCK, None, None),
            Self::Api => (word::API, None, None),
            Self::Pod { claim, uid } => (word::POD, Some(claim.0), Some(uid.as_str())),
        };
        Entry {
            what,
            detail: Some(detail),
            claim,
            pod,
        }
    }
}
