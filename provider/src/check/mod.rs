//! Whether a ledger lost, doubled or stole an address: judged from its rows and its history.
//!
//! [`invariants`] hold between the rows at any moment. [`history`] is a pure function that
//! replays what was recorded and asks of every past moment what the rules promise. Neither knows
//! the policy: a rule that is decided wrongly is not judged by the code that decided it.
//! [`cluster`] compares with what an API server shows. Changes nothing.

pub mod cluster;
mod finding;
pub mod history;
mod invariants;
mod late;
mod read;

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use finding::{Finding, LEAKED, Repair};
pub use history::History;
#[cfg(test)]
pub(crate) use invariants::names as invariant_names;
pub(crate) use invariants::{file, invariants};

use crate::sql::Tx;

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Violation {
    /// The promise.
    pub rule: Cow<'static, str>,
    /// What contradicts it, in one sentence.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// Everything that can be judged from the file alone.
pub(crate) fn all(tx: &Tx<'_>) -> rusqlite::Result<Vec<Violation>> {
    let mut found = invariants(tx)?;
    found.extend(history::check(&History::read(tx)?));
    Ok(found)
}
