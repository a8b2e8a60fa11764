//! What one turn of the writer came to, in plain numbers for whoever counts.
//!
//! Adds nothing up and keeps nothing: a turn is told once, after its COMMIT.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cloud::sim::Called;
use crate::ledger::{Allocated, Error, Job, Outcome};
use crate::policy::retained::Close;

/// The numbers of one turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Jobs by kind, and whether they were committed; one that was not failed alone.
    pub jobs: BTreeMap<(&'static str, bool), u64>,
    /// How long they took together, from BEGIN until the COMMIT was on the disk, and waits for
    /// other processes with it. `None` without jobs.
    pub commit: Option<Duration>,
    /// Calls that the cloud answered, those within a job too.
    pub calls: BTreeMap<Called, u64>,
    /// Addresses that pods got.
    pub allocated: BTreeMap<Allocated, u64>,
    /// Claims that ended, by why. Those that operators ended beside the process are told when it notices.
    pub closed: BTreeMap<&'static str, u64>,
}

impl Turn {
    pub(super) fn committed(
        &mut self,
        took: Duration,
        jobs: &[Job],
        results: &[Result<Outcome, Error>],
    ) {
        self.commit = Some(took);
        for (job, result) in jobs.iter().zip(results) {
            *self.jobs.entry((job.kind(), result.is_ok())).or_default() += 1;
        }
        let counted = results.iter().flatten();
        for counted in counted.filter_map(|outcome| outcome.counted.as_ref()) {
            for allocated in &counted.allocated {
                *self.allocated.entry(allocated.clone()).or_default() += 1;
            }
            for why in &counted.closed {
                *self.closed.entry(why).or_default() += 1;
            }
        }
    }

    /// Operators have ended so many claims.
    pub(super) fn released(&mut self, claims: u64) {
        if claims > 0 {
            *self.closed.entry(Close::Released.as_str()).or_default() += claims;
        }
    }

    /// Whether there is nothing to tell.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
