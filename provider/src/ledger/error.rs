//! What a ledger cannot do, in one sentence each, and which of it ends the process.

use std::fmt;

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
    /// What has to be done on the file cannot be done, and the process has to end.
    #[error("the ledger {path} cannot be used any further")]
    Unusable {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// The configured vSwitches do not fit the addresses that are held.
    #[error("{0}")]
    VSwitches(String),
    /// A statement failed.
    #[error("could not {operation}{}", Remedy(*.remedy))]
    Sql {
        /// What was being done.
        operation: &'static str,
        /// What to do where the file itself is the trouble (full disk, I/O, damage, read-only).
        remedy: Option<&'static str>,
        /// Why.
        #[source]
        source: Cause,
    },
}

impl Error {
    pub(super) fn sql(operation: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Sql {
            operation,
            remedy: remedy(&source),
            source: source.into(),
        }
    }

    /// Whether trying again cannot help: the process has to end, losing nothing.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Sql { remedy: None, .. })
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

/// What to do after an error after which the file must not be used any further.
fn remedy(error: &rusqlite::Error) -> Option<&'static str> {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseCorrupt, DiskFull, NotADatabase, ReadOnly, SystemIoFailure,
    };
    match error.sqlite_error_code()? {
        DiskFull => Some("free some space on the ledger's disk; what was committed is not lost"),
        SystemIoFailure => Some("see what is wrong with the ledger's disk"),
        DatabaseCorrupt | NotADatabase => Some(
            "the ledger is damaged: restore a backup, or move it away to start with an empty one",
        ),
        ReadOnly | CannotOpen => {
            Some("let this user read and write the ledger's file and its directory")
        }
        _ => None,
    }
}

/// After what could not be done, if there is one.
struct Remedy(Option<&'static str>);

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |remedy| write!(f, " ({remedy})"))
    }
}
