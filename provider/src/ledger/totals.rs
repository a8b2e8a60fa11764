//! How many there are of everything, without naming one: what a monitor asks for again and again.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::Result;

use crate::cloud::EniState;
use crate::ledger::Error;
use crate::ledger::op::time;
use crate::ledger::query::{self, ClaimState, Reader, VSwitchRow};
use crate::policy::eni::State;
use crate::sql::Tx;

/// The numbers of one moment.
#[derive(Clone, Debug)]
pub struct Totals {
    /// Configured vSwitches with what their addresses do.
    pub vswitches: Vec<VSwitchRow>,
    /// Open claims by what they do, each state with its number.
    pub claims: BTreeMap<ClaimState, u64>,
    /// ENIs by what the cloud last said of them, each state with its number.
    pub enis: BTreeMap<&'static str, u64>,
}

/// An ENI that the cloud was not asked for yet.
const ABSENT: &str = "Absent";

impl Reader {
    /// How many there are of everything at the time `now`, all of one snapshot.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn totals(&self, now: Timestamp) -> std::result::Result<Totals, Error> {
        self.read("count what the ledger holds", |tx| {
            Ok(Totals {
                vswitches: query::vswitches(tx, now)?,
                claims: claims(tx, now)?,
                enis: enis(tx)?,
            })
        })
    }
}

fn claims(tx: &Tx<'_>, now: Timestamp) -> Result<BTreeMap<ClaimState, u64>> {
    let mut counts: BTreeMap<_, _> = ClaimState::ALL.map(|state| (state, 0)).into();
    let rows = tx.rows(
        "SELECT holder IS NOT NULL, expires_ms FROM claim WHERE closed_ms IS NULL",
        [],
        |row| Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?.map(time))),
    )?;
    for (is_held, expires_at) in rows {
        *counts
            .entry(ClaimState::of(is_held, expires_at, now))
            .or_default() += 1;
    }
    Ok(counts)
}

fn enis(tx: &Tx<'_>) -> Result<BTreeMap<&'static str, u64>> {
    let name = |state: State| state.as_str().unwrap_or(ABSENT);
    let states = EniState::ALL.map(State::Is).into_iter();
    let states = states.chain([State::Absent, State::Unsure]);
    let mut counts: BTreeMap<_, _> = states.map(|state| (name(state), 0)).collect();
    let rows = tx.rows(
        "SELECT state, count(*) FROM eni GROUP BY state",
        [],
        |row| Ok((row.get::<_, Option<String>>(0)?, row.get(1)?)),
    )?;
    for (state, count) in rows {
        counts.insert(name(State::parse(state.as_deref())), count);
    }
    Ok(counts)
}
