//! Putting right what a check found, on a ledger that no process serves.
//!
//! Only what gives no address away wrongly: a pod that is gone lets go as it would have, and an
//! ENI of nobody goes. Holds the lock of a running process meanwhile, leaves an entry in the
//! journal, and calls no cloud. Whether a finding is certain is for the caller to say.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::Result;

use crate::check::Repair;
use crate::id::PodUid;
use crate::ledger::journal::{self, word};
use crate::ledger::op::Op;
use crate::ledger::{Error, Job, Ledger};
use crate::settings::Settings;

/// Makes one change after the other, and says of each whether it was still needed. `wall` is the
/// wall clock.
///
/// # Errors
/// When a process runs on the ledger, or the file cannot be written. Changes are made together or
/// not at all.
pub fn repair(
    path: &Path,
    settings: Settings,
    wall: Timestamp,
    repairs: &[Repair],
) -> std::result::Result<Vec<bool>, Error> {
    let mut ledger = Ledger::open_as_it_is(path, settings, wall)?;
    let jobs: Vec<_> = repairs.iter().cloned().map(Job::Repair).collect();
    let batch = ledger.commit(wall, &jobs)?;
    batch
        .results
        .into_iter()
        .map(|result| Ok(result?.repaired))
        .collect()
}

impl Op<'_> {
    pub(super) fn repair(&mut self, repair: &Repair) -> Result<()> {
        let (what, pod) = match repair {
            Repair::LetGo {
                cluster,
                key,
                uid,
                address,
            } => {
                let holds = self
                    .pod(uid)?
                    .is_some_and(|pod| !pod.gone && pod.key == *key);
                if !holds || cluster.as_str() != self.cluster() {
                    return Ok(());
                }
                self.gone(uid)?;
                (format!("{key} is gone and let go of {address}"), Some(uid))
            }
            Repair::DeleteEni {
                token,
                eni,
                address,
            } => {
                let deleted = self.tx.execute(
                    "DELETE FROM sim_eni WHERE token = ?1 AND eni_id = ?2 \
                     AND NOT EXISTS (SELECT 1 FROM eni WHERE token = ?1 OR eni_id = ?2)",
                    (token.as_str(), eni.as_str()),
                )?;
                if deleted == 0 {
                    return Ok(());
                }
                (format!("{eni} of {address} was nobody's"), None)
            }
        };
        let entry = journal::Entry {
            what: word::REPAIRED,
            detail: Some(&what),
            claim: None,
            pod: pod.map(PodUid::as_str),
        };
        journal::write(self.tx, self.now, self.now, entry)?;
        self.out.repaired = true;
        Ok(())
    }
}
