//! Whether SQLite finds a file whole, before a start relies on it and beside it.
//!
//! Owns what a start waits for. A small file is looked through at once. Of a large one most is history, which grows
//! with every pod that ever was and decides about no address: it is looked through by a thread of its own, so that a
//! restart takes as long after a year as after an hour. Damage that it finds ends the process, as any other does that
//! SQLite meets. Judges no rows: that is `check`'s part.

use std::path::Path;
use std::thread::JoinHandle;

use rusqlite::{Connection, ErrorCode, InterruptHandle, OpenFlags};

use crate::ledger::Error;

/// Up to this size all of a file is looked through before a start, which takes some tenths of a second.
pub(super) const AT_ONCE_BYTES: u64 = 64 << 20;

/// Tables that grow with every pod that ever was. An open claim is read before it decides anything, and SQLite tells
/// then that its page is damaged.
const HISTORY: [&str; 6] = [
    "address_span",
    "claim",
    "claim_event",
    "eni_end",
    "journal",
    "pod_log",
];

/// How much of a file was found whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// All of it.
    All,
    /// All but the history.
    AllButHistory,
}

/// Looks through the file at `path`, or with more than so many bytes through all but its history.
///
/// # Errors
/// When it is damaged or cannot be read.
pub(super) fn before_start(
    conn: &Connection,
    path: &Path,
    at_once_bytes: u64,
) -> Result<Seen, Error> {
    let sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
    let size: u64 = conn
        .query_row(sql, [], |row| row.get(0))
        .map_err(failed(path))?;
    if size <= at_once_bytes {
        look(conn, path, "PRAGMA quick_check(1)")?;
        return Ok(Seen::All);
    }
    for table in tables(conn).map_err(failed(path))? {
        if !HISTORY.contains(&&*table) {
            look(conn, path, &format!("PRAGMA quick_check('{table}')"))?;
        }
    }
    Ok(Seen::AllButHistory)
}

fn tables(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut tables = conn.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    tables.query_map([], |row| row.get(0))?.collect()
}

fn look(conn: &Connection, path: &Path, pragma: &str) -> Result<(), Error> {
    let report: String = conn
        .query_row(pragma, [], |row| row.get(0))
        .map_err(failed(path))?;
    if report == "ok" {
        Ok(())
    } else {
        Err(Error::Damaged {
            path: path.display().to_string(),
            report,
        })
    }
}

fn failed(path: &Path) -> impl FnOnce(rusqlite::Error) -> Error {
    move |error| match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Error::Damaged {
            path: path.display().to_string(),
            report: error.to_string(),
        },
        _ => Error::sql("check the ledger")(error),
    }
}

/// The look through the rest, beside a start. Breaks off when it is dropped.
pub(super) struct Inspection {
    thread: Option<JoinHandle<Result<(), Error>>>,
    interrupt: InterruptHandle,
}

impl Inspection {
    /// Starts it for the file at `path`.
    ///
    /// # Errors
    /// When the file cannot be opened once more, or the system refuses a thread.
    pub(super) fn start(path: &Path) -> Result<Self, Error> {
        let open = |source: super::Cause| Error::Open {
            path: path.display().to_string(),
            source,
        };
        let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .map_err(|error| open(error.into()))?;
        let interrupt = conn.get_interrupt_handle();
        let path_of_thread = path.to_owned();
        let thread = std::thread::Builder::new()
            .name("integrity".into())
            .spawn(move || look(&conn, &path_of_thread, "PRAGMA quick_check(1)"))
            .map_err(|error| open(error.into()))?;
        Ok(Self {
            thread: Some(thread),
            interrupt,
        })
    }

    /// What it has found, once it is through.
    ///
    /// # Errors
    /// When the file is damaged or cannot be read.
    pub(super) fn found(&mut self) -> Result<(), Error> {
        match self.thread.take_if(|thread| thread.is_finished()) {
            Some(thread) => thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
impl Inspection {
    pub(super) fn goes_on(&self) -> bool {
        self.thread.is_some()
    }
}

impl Drop for Inspection {
    fn drop(&mut self) {
        self.interrupt.interrupt();
    }
}
