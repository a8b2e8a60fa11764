//! What a ledger cannot do, in one sentence each, and which of it ends the process.

use crate::ledger::schema;

/// What went wrong below the ledger.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What a ledger cannot do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file, or the lock beside it, cannot be opened.
    #[error("could not open the ledger {path}")]
    Open {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// Another process runs on the same file.
    #[error(
        "another holdfast runs on the ledger {path}: stop it, or give this one a ledger of its own"
    )]
    Locked {
        /// The file.
        path: String,
    },
    /// The file has another schema.
    #[error("could not bring the ledger {path} to this version's schema")]
    Schema {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: schema::Error,
    },
    /// The file fails SQLite's own check.
    #[error(
        "the ledger {path} is damaged: {report}; restore a backup, or move it away to start with an empty one"
    )]
    Damaged {
        /// The file.
        path: String,
        /// The first line of the check.
        report: String,
    },
    /// The configured vSwitches do not fit the addresses that are held.
    #[error("{0}")]
    VSwitches(String),
    /// A statement failed.
    #[error("could not {operation}")]
    Sql {
        /// What was being done.
        operation: &'static str,
        /// Whether the file itself is the trouble (full disk, I/O, damage, read-only).
        fatal: bool,
        /// Why.
        #[source]
        source: Cause,
    },
}

impl Error {
    pub(super) fn sql(operation: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Sql {
            operation,
            fatal: is_fatal(&source),
            source: source.into(),
        }
    }

    /// Whether trying again cannot help: the process has to end, losing nothing.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Sql { fatal: false, .. })
    }

    /// Whether another process holds the file. Nothing was written.
    pub(crate) fn is_busy(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
        let Self::Sql { source, .. } = self else {
            return false;
        };
        let cause = source.downcast_ref::<rusqlite::Error>();
        cause
            .and_then(rusqlite::Error::sqlite_error_code)
            .is_some_and(|code| matches!(code, DatabaseBusy | DatabaseLocked))
    }
}

/// Errors after which the file must not be used any further.
fn is_fatal(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseCorrupt, DiskFull, NotADatabase, ReadOnly, SystemIoFailure,
    };
    error.sqlite_error_code().is_some_and(|code| {
        matches!(
            code,
            DiskFull | SystemIoFailure | DatabaseCorrupt | ReadOnly | NotADatabase | CannotOpen
        )
    })
}
