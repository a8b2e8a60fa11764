//! Brings a ledger file to the schema of this binary, or refuses it.
//!
//! Owns `PRAGMA user_version` and the order of `migrations/NNNN-name/up.sql`. There is no way
//! down: an older binary is run on a backup.

use std::cmp::Ordering;

use include_dir::{Dir, include_dir};
use rusqlite::{Connection, Transaction};

use crate::ledger;
use crate::sql;

static MIGRATIONS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../migrations");

/// A file that cannot be brought to the schema of this binary.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A newer binary wrote it.
    #[error(
        "the ledger has schema version {found} and this holdfast knows {known}: run the newer holdfast, or restore a backup"
    )]
    Newer {
        /// The version of the file.
        found: usize,
        /// The newest version this binary knows.
        known: usize,
    },
    /// An older binary wrote it, and it is only being read.
    #[error(
        "the ledger has schema version {found} and this holdfast needs {known}: start `holdfast run` of this version once to bring it up to date"
    )]
    Older {
        /// The version of the file.
        found: usize,
        /// The version this binary needs.
        known: usize,
    },
    /// A statement of a migration failed; nothing was changed.
    #[error("could not apply migration {name}")]
    Apply {
        /// The folder of the migration.
        name: String,
        /// Why.
        #[source]
        source: Box<ledger::Error>,
    },
    /// The version could not be read or written: the file is no ledger, or cannot be used.
    #[error(transparent)]
    Version(Box<ledger::Error>),
}

/// Applies every migration that the file lacks, all of them in the transaction that is open.
pub(crate) fn migrate(tx: &Transaction<'_>) -> Result<(), Error> {
    apply(tx, &migrations())
}

fn apply(tx: &Transaction<'_>, migrations: &[(&str, &str)]) -> Result<(), Error> {
    let found: usize = tx
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(version("read the schema version"))?;
    if found > migrations.len() {
        return Err(Error::Newer {
            found,
            known: migrations.len(),
        });
    }
    for (name, text) in &migrations[found..] {
        sql::script(tx, text).map_err(|source| Error::Apply {
            name: (*name).to_owned(),
            source: Box::new(ledger::Error::sql("run its statements")(source)),
        })?;
    }
    if found < migrations.len() {
        tx.pragma_update(None, "user_version", migrations.len())
            .map_err(version("write the schema version"))?;
    }
    Ok(())
}

fn version(operation: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
    move |source| Error::Version(Box::new(ledger::Error::sql(operation)(source)))
}

/// Refuses a file that a newer binary has written; changes nothing in any.
pub(crate) fn refuse_newer(conn: &Connection) -> Result<(), Error> {
    match expect_current(conn) {
        Err(Error::Older { .. }) => Ok(()),
        other => other,
    }
}

/// Refuses a file that has not the schema of this binary: a reader cannot migrate.
pub(crate) fn expect_current(conn: &Connection) -> Result<(), Error> {
    let known = migrations().len();
    let found: usize = conn
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(version("read the schema version"))?;
    match found.cmp(&known) {
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(Error::Newer { found, known }),
        Ordering::Less => Err(Error::Older { found, known }),
    }
}

/// The version of this binary.
#[cfg(test)]
pub(crate) fn known() -> usize {
    migrations().len()
}

/// Name and text of every migration, in order; number N stands at index N - 1.
fn migrations() -> Vec<(&'static str, &'static str)> {
    let mut found: Vec<_> = MIGRATIONS
        .dirs()
        .map(|dir| {
            let name = dir
                .path()
                .to_str()
                .expect("migration folders have ASCII names");
            let text = dir
                .get_file(dir.path().join("up.sql"))
                .and_then(|file| file.contents_utf8())
                .expect("every migration folder has an up.sql");
            (name, text)
        })
        .collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
#[path = "migration_tests.rs"]
mod migration_tests;
#[cfg(test)]
mod tests {
    use super::*;

    /// In a transaction of their own.
    pub(super) fn migrate_with(
        conn: &mut Connection,
        migrations: &[(&str, &str)],
    ) -> Result<(), Error> {
        let tx = conn.transaction().unwrap();
        apply(&tx, migrations)?;
        sql::commit(&tx).unwrap();
        Ok(())
    }

    pub(super) fn migrate(conn: &mut Connection) -> Result<(), Error> {
        migrate_with(conn, &migrations())
    }

    #[test]
    fn migrations_are_numbered_without_gaps() {
        for (index, (name, _)) in migrations().iter().enumerate() {
            assert!(name.starts_with(&format!("{:04}-", index + 1)), "{name}");
        }
    }

    #[test]
    fn a_database_from_a_newer_binary_is_refused() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn).unwrap();
        conn.pragma_update(None, "user_version", 99).unwrap();
        let error = migrate(&mut conn).unwrap_err();
        assert!(error.to_string().contains("schema version 99"), "{error}");
    }

    #[test]
    fn migrating_twice_changes_nothing() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn).unwrap();
        migrate(&mut conn).unwrap();
    }
}
