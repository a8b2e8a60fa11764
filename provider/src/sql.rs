//! The one place through which every SQL statement of the provider passes.
//!
//! Owns: preparing (cached) and running statements inside a transaction that somebody else
//! opened, and the COMMIT. Does not begin or retry anything, and knows no table.

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::{Batch, CachedStatement, Connection, OptionalExtension, Params, Row};

/// An open transaction (or savepoint): the only handle that operations on the file get.
pub(crate) struct Tx<'c> {
    conn: &'c Connection,
}

impl<'c> Tx<'c> {
    /// Wraps a connection on which the caller has begun a transaction.
    pub(crate) fn new(conn: &'c Connection) -> Self {
        Self { conn }
    }

    /// Runs a statement and says how many rows it changed.
    pub(crate) fn execute(&self, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
        between_points(|| self.statement(sql)?.execute(params))
    }

    /// The first row, if there is one.
    pub(crate) fn row<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        between_points(|| self.statement(sql)?.query_row(params, read).optional())
    }

    /// All rows.
    pub(crate) fn rows<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        between_points(|| self.statement(sql)?.query_map(params, read)?.collect())
    }

    /// The row id of the last insert.
    pub(crate) fn last_id(&self) -> i64 {
        self.conn.last_insert_rowid()
    }

    fn statement(&self, sql: &str) -> rusqlite::Result<CachedStatement<'c>> {
        self.conn.prepare_cached(sql)
    }
}

/// Commits the open transaction. A [`rusqlite::Transaction`] that is dropped after it does nothing more.
pub(crate) fn commit(conn: &Connection) -> rusqlite::Result<()> {
    between_points(|| conn.execute_batch("COMMIT"))
}

/// Runs all statements of `text`, one after the other, in the open transaction.
pub(crate) fn script(conn: &Connection, text: &str) -> rusqlite::Result<()> {
    let mut batch = Batch::new(conn, text);
    while let Some(mut statement) = batch.next()? {
        between_points(|| statement.execute([]))?;
    }
    Ok(())
}

/// Runs something that a crash may come right before or right after.
fn between_points<T>(run: impl FnOnce() -> T) -> T {
    #[cfg(test)]
    crate::failpoint::pass();
    let done = run();
    #[cfg(test)]
    crate::failpoint::pass();
    done
}
