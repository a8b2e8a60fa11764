//! Faults of the simulated cloud that an operator has set in the file.
//!
//! Owns the table `fault` and how it adds to the configured faults. A row is in force until it is
//! deleted, also after a restart. What a fault does is the simulated cloud's business.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, Row};
use serde::Serialize;

use crate::cloud::sim::{self, Fault, Invalid};
use crate::id::VSwitchId;
use crate::ledger::op::time;
use crate::ledger::{self, Ledger, open, pool};
use crate::sql::Tx;

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to clear.
    #[error(
        "no fault {name} was set by a command: `holdfast faults` lists those that are in force; one of the configuration ends when it is taken out of the file and SIGHUP is sent"
    )]
    NotSet {
        /// The name.
        name: String,
    },
    /// The fault makes no sense here.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The file cannot be used.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
}

/// A fault that an operator has set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FaultRow {
    /// Its kind and what it acts on.
    pub name: String,
    /// What goes wrong.
    pub fault: Fault,
    /// Since when it is set.
    pub since: Timestamp,
}

/// A connection that switches faults beside a running process.
pub struct Switchboard {
    conn: Connection,
}

impl Switchboard {
    /// Opens the file at `path`, beside a process that may run on it.
    ///
    /// # Errors
    /// When there is no such file, or another version of holdfast wrote it.
    pub fn open(path: &Path) -> Result<Self, ledger::Error> {
        Ok(Self {
            conn: open::writer(path)?,
        })
    }

    /// Sets a fault, in place of one that has its name. `wall` is the wall clock.
    ///
    /// # Errors
    /// When its values make no sense, or the file cannot be written. Nothing is changed then.
    pub fn set(&mut self, wall: Timestamp, fault: &Fault) -> Result<FaultRow, Error> {
        open::change(&mut self.conn, wall, |tx, now| {
            let vswitches = pool::active(tx).map_err(ledger::Error::sql("read vSwitches"))?;
            let ids: Vec<VSwitchId> = vswitches.into_iter().map(|vswitch| vswitch.id).collect();
            fault.check(&ids)?;
            let name = fault.name();
            let definition = serde_json::to_string(fault)
                .map_err(|source| rusqlite::Error::ToSqlConversionFailure(source.into()));
            let put = definition.and_then(|definition| {
                tx.execute(
                    "INSERT INTO fault VALUES (?1, ?2, ?3) ON CONFLICT (name) \
                     DO UPDATE SET definition = excluded.definition, since_ms = excluded.since_ms",
                    (&name, definition, now.as_millisecond()),
                )
            });
            put.map_err(ledger::Error::sql("set a fault"))?;
            Ok(FaultRow {
                name,
                fault: fault.clone(),
                since: now,
            })
        })
    }

    /// Clears the faults of these names, and tells which they were.
    ///
    /// # Errors
    /// When one of them is not set, or the file cannot be written. Nothing is changed then.
    pub fn clear(&mut self, wall: Timestamp, names: &[String]) -> Result<Vec<FaultRow>, Error> {
        open::change(&mut self.conn, wall, |tx, _| {
            let mut cleared = Vec::with_capacity(names.len());
            for name in names {
                let row = tx
                    .row(
                        "DELETE FROM fault WHERE name = ?1 RETURNING name, definition, since_ms",
                        [name],
                        fault_row,
                    )
                    .map_err(ledger::Error::sql("clear a fault"))?;
                cleared.push(row.ok_or_else(|| Error::NotSet { name: name.clone() })?);
            }
            Ok(cleared)
        })
    }

    /// Clears all faults, and tells which they were.
    ///
    /// # Errors
    /// When the file cannot be written. Nothing is changed then.
    pub fn clear_all(&mut self, wall: Timestamp) -> Result<Vec<FaultRow>, Error> {
        open::change(&mut self.conn, wall, |tx, _| {
            let set = rows(tx).map_err(ledger::Error::sql("read faults"))?;
            tx.execute("DELETE FROM fault", [])
                .map_err(ledger::Error::sql("clear the faults"))?;
            Ok(set)
        })
    }
}

/// All faults that are set, by name.
pub(super) fn rows(tx: &Tx<'_>) -> rusqlite::Result<Vec<FaultRow>> {
    tx.rows(
        "SELECT name, definition, since_ms FROM fault ORDER BY name",
        [],
        fault_row,
    )
}

fn fault_row(row: &Row<'_>) -> rusqlite::Result<FaultRow> {
    let definition: String = row.get(1)?;
    Ok(FaultRow {
        name: row.get(0)?,
        fault: serde_json::from_str(&definition).map_err(|source| {
            rusqlite::Error::FromSqlConversionFailure(1, Type::Text, source.into())
        })?,
        since: time(row.get(2)?),
    })
}

/// The configured cloud with the faults of the file added.
pub(super) fn added_to(
    configured: &sim::Config,
    tx: &Tx<'_>,
) -> Result<sim::Config, ledger::Error> {
    let rows = rows(tx).map_err(ledger::Error::sql("read faults"))?;
    let faults = rows.into_iter().map(|row| row.fault).collect();
    Ok(configured.clone().with_faults(faults))
}

impl Ledger {
    /// The simulated cloud as it is in force: configured, with the faults of the file.
    pub fn cloud(&self) -> &sim::Config {
        self.simulator.config()
    }

    /// Takes over what an operator has set or cleared.
    pub(super) fn obey_faults(&mut self) -> Result<(), ledger::Error> {
        let cloud = added_to(&self.settings.cloud, &Tx::new(&self.conn))?;
        if cloud != *self.simulator.config() {
            say(&cloud);
            self.simulator.set_config(cloud);
        }
        Ok(())
    }
}

/// A fault that somebody has forgotten is hard to find otherwise.
pub(super) fn say(cloud: &sim::Config) {
    let names: Vec<String> = cloud.faults.iter().map(Fault::name).collect();
    if names.is_empty() {
        tracing::info!("no fault of the simulated cloud is set");
    } else {
        tracing::warn!(
            faults = names.join(", "),
            "faults of the simulated cloud are set"
        );
    }
}
