//! Opening a ledger: lock, pragmas, schema, identity, time.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use uuid::Uuid;

use crate::cloud::sim::Simulator;
use crate::ledger::free::Free;
use crate::ledger::integrity::{self, Inspection, Seen};
use crate::ledger::{Error, Ledger, faults, journal, pool, schema};
use crate::settings::Settings;
use crate::sql::{self, Tx};

/// Pages in the log beside the file before they are brought into it, which costs two syncs of its own and writes every
/// page once more: 16 MB.
const CHECKPOINT_PAGES: u32 = 4000;

/// How long a statement waits for a command of another process to finish its transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

impl Ledger {
    /// Opens (or makes) the file at `path`, brings it to this version's schema and its vSwitches
    /// to those of `settings`. `wall` is the wall clock.
    ///
    /// # Errors
    /// When another process runs on it, when it is damaged or newer than this binary, or when the
    /// configured vSwitches leave out an address that is held. Nothing is changed then. Damage in the
    /// history of a large file is an error of [`Ledger::changed`] later.
    pub fn open(path: &Path, settings: Settings, wall: Timestamp) -> Result<Self, Error> {
        Self::open_inspected(path, settings, wall, integrity::AT_ONCE_BYTES)
    }

    pub(super) fn open_inspected(
        path: &Path,
        settings: Settings,
        wall: Timestamp,
        at_once_bytes: u64,
    ) -> Result<Self, Error> {
        let lock = lock(path)?;
        let conn = Connection::open(path).map_err(|source| Error::Open {
            path: path.display().to_string(),
            source: source.into(),
        })?;
        let seen = integrity::before_start(&conn, path, at_once_bytes)?;
        // Before the first pragma that writes: a newer file is left as it is.
        schema::refuse_newer(&conn).map_err(not_this_schema(&path.display().to_string()))?;
        let ledger = Self::on(conn, settings, wall, Uuid::new_v4()).map_err(in_opening(path))?;
        Ok(Self {
            inspection: match seen {
                Seen::All => None,
                Seen::AllButHistory => Some(Inspection::start(path)?),
            },
            _lock: Some(lock),
            ..ledger
        })
    }

    /// Opens the file at `path` without bringing its schema or its vSwitches to anything: for a
    /// change by hand that needs the file to itself.
    ///
    /// # Errors
    /// When another process runs on it, or another version of holdfast wrote it.
    pub(super) fn open_as_it_is(
        path: &Path,
        settings: Settings,
        wall: Timestamp,
    ) -> Result<Self, Error> {
        // First, because the lock would be made for a file that is not there.
        let conn = writer(path)?;
        let lock = lock(path)?;
        let tx = conn
            .unchecked_transaction()
            .map_err(Error::sql("begin a transaction"))?;
        let handle = Tx::new(&tx);
        let id = identity(&handle, wall, Uuid::new_v4())?;
        let vswitches = pool::active(&handle).map_err(Error::sql("read vSwitches"))?;
        sql::commit(&tx).map_err(Error::sql("commit"))?;
        drop(tx);
        Ok(Self {
            _lock: Some(lock),
            ..Self::with(conn, settings, vswitches, id, wall)?
        })
    }

    /// A ledger that lives in memory and ends with the process: for simulations. The same settings,
    /// the same time and the same jobs give the same ids and addresses.
    ///
    /// # Errors
    /// As for [`Ledger::open`].
    pub fn in_memory(settings: Settings, wall: Timestamp) -> Result<Self, Error> {
        let conn = Connection::open_in_memory().map_err(Error::sql("open a ledger in memory"))?;
        let name = format!("{}/{}", settings.cluster, wall.as_millisecond());
        let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes());
        Self::on(conn, settings, wall, id)
    }

    fn on(
        mut conn: Connection,
        settings: Settings,
        wall: Timestamp,
        new_id: Uuid,
    ) -> Result<Self, Error> {
        configure(&conn)?;
        // One for all: vSwitches that do not fit leave an older file to the binary that wrote it.
        let tx = conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(Error::sql("begin a transaction"))?;
        schema::migrate(&tx).map_err(not_this_schema(tx.path().unwrap_or_default()))?;
        let handle = Tx::new(&tx);
        let id = identity(&handle, wall, new_id)?;
        let now = advance_time(&handle, wall)?;
        let vswitches = pool::sync(&handle, &settings, now)?;
        sql::commit(&tx).map_err(Error::sql("commit"))?;
        drop(tx);
        Self::with(conn, settings, vswitches, id, now)
    }

    fn with(
        conn: Connection,
        settings: Settings,
        vswitches: Vec<pool::VSwitchRef>,
        id: String,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let seed = seed(&id, now);
        let cloud = faults::added_to(&settings.cloud, &Tx::new(&conn))?;
        if !cloud.faults.is_empty() {
            faults::say(&cloud);
        }
        let simulator = Simulator::new(cloud, &settings.region, seed);
        let journal_end = journal::end(&Tx::new(&conn)).map_err(Error::sql("read the journal"))?;
        let data_version = data_version(&conn)?;
        Ok(Self {
            conn,
            settings,
            vswitches,
            free: Free::default(),
            simulator,
            id,
            data_version,
            journal_end,
            released: 0,
            stands_at: None,
            checkpointer: None,
            inspection: None,
            _lock: None,
        })
    }

    /// Names the file to whoever is told that the process ends.
    pub(super) fn cannot_go_on(&self, error: Error) -> Error {
        Error::Unusable {
            path: self.conn.path().unwrap_or_default().to_owned(),
            source: Box::new(error),
        }
    }

    /// Takes over changed settings: vSwitches may grow and exclude more, and lose what is free.
    ///
    /// # Errors
    /// When an address that is held would be left out; nothing is changed then.
    pub fn reconfigure(&mut self, settings: Settings, wall: Timestamp) -> Result<(), Error> {
        let tx = self
            .conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(Error::sql("begin a transaction"))?;
        let handle = Tx::new(&tx);
        let now = advance_time(&handle, wall)?;
        let vswitches = pool::sync(&handle, &settings, now)?;
        let cloud = faults::added_to(&settings.cloud, &handle)?;
        sql::commit(&tx).map_err(Error::sql("commit"))?;
        drop(tx);
        self.vswitches = vswitches;
        self.free.forget();
        self.settings = settings;
        self.simulator.set_config(cloud);
        Ok(())
    }
}

/// The lock file beside the ledger. SQLite's own locks are per transaction, and commands may
/// write between them; this one says that a process is running.
fn lock(path: &Path) -> Result<File, Error> {
    let name = lock_name(path).map_err(not_opened(path))?;
    let open = not_opened(&name);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name)
        .map_err(&open)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Locked {
            path: path.display().to_string(),
        }),
        Err(std::fs::TryLockError::Error(source)) => Err(open(source)),
    }
}

/// What cannot even tell its schema is no ledger, or cannot be read.
fn not_this_schema(path: &str) -> impl FnOnce(schema::Error) -> Error {
    let path = path.to_owned();
    move |source| match source {
        schema::Error::Version(source) => Error::Open { path, source },
        source => Error::Schema { path, source },
    }
}

/// A statement does not know the file that it fails on.
fn in_opening(path: &Path) -> impl FnOnce(Error) -> Error {
    let path = path.display().to_string();
    move |error| match error {
        Error::Sql { .. } => Error::Open {
            path,
            source: error.into(),
        },
        error => error,
    }
}

fn not_opened(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::Open {
        path: path.clone(),
        source: source.into(),
    }
}

fn lock_name(path: &Path) -> io::Result<PathBuf> {
    let file = file_of(path)?;
    Ok(PathBuf::from(format!("{}.lock", file.display())))
}

/// The file that a path leads to, as SQLite follows it, also where it is not made yet: one file has one lock.
fn file_of(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let folder = parent.unwrap_or(Path::new("."));
    if let Ok(target) = path.read_link() {
        return file_of(&folder.join(target));
    }
    let name = path.file_name().ok_or(io::ErrorKind::NotFound)?;
    Ok(folder.canonicalize()?.join(name))
}

/// Whether a process has the ledger at `path` open by [`Ledger::open`]. Makes no file.
///
/// # Errors
/// When the lock beside the ledger cannot be looked at.
pub fn is_running(path: &Path) -> Result<bool, Error> {
    let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let name = match lock_name(path) {
        Err(error) if is_missing(&error) => return Ok(false),
        name => name.map_err(not_opened(path))?,
    };
    let open = not_opened(&name);
    let file = match File::open(&name) {
        Err(error) if is_missing(&error) => return Ok(false),
        file => file.map_err(&open)?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(std::fs::TryLockError::WouldBlock) => Ok(true),
        Err(std::fs::TryLockError::Error(source)) => Err(open(source)),
    }
}

/// FULL and not NORMAL: in WAL mode NORMAL may lose the last commits at a power loss, and an
/// address that a pod already shows would be given out again.
fn configure(conn: &Connection) -> Result<(), Error> {
    conn.busy_timeout(BUSY_TIMEOUT)
        .map_err(Error::sql("set the busy timeout"))?;
    conn.set_prepared_statement_cache_capacity(128);
    // Without it, a statement that is bound to other values is prepared anew: plans might depend on
    // them, where there are partial indexes.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map_err(Error::sql("keep query plans"))?;
    conn.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)
        .map_err(Error::sql("set when to checkpoint"))?;
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
         PRAGMA trusted_schema = OFF; PRAGMA cache_size = -1024; PRAGMA temp_store = MEMORY;",
    )
    .map_err(Error::sql("configure the connection"))
}

/// A connection that can only read, for commands beside a running process.
pub(crate) fn reader(path: &Path) -> Result<Connection, Error> {
    beside(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// A connection that writes beside a running process, a transaction at a time.
pub(crate) fn writer(path: &Path) -> Result<Connection, Error> {
    let conn = beside(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    configure(&conn)?;
    Ok(conn)
}

/// A change by hand: one transaction in the ledger's time, or nothing at all.
pub(super) fn change<T, E: From<Error>>(
    conn: &mut Connection,
    wall: Timestamp,
    change: impl FnOnce(&Tx<'_>, Timestamp) -> Result<T, E>,
) -> Result<T, E> {
    let tx = conn
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(Error::sql("begin a transaction"))?;
    let handle = Tx::new(&tx);
    let now = advance_time(&handle, wall)?;
    let changed = change(&handle, now)?;
    sql::commit(&tx).map_err(Error::sql("commit"))?;
    Ok(changed)
}

/// Opens a file that is there already, and has the schema of this version.
fn beside(path: &Path, flags: OpenFlags) -> Result<Connection, Error> {
    let open = |source: rusqlite::Error| Error::Open {
        path: path.display().to_string(),
        source: source.into(),
    };
    if !path.exists() {
        let source = format!(
            "there is no such file; `holdfast run` makes it at {}",
            path.display()
        );
        return Err(Error::Open {
            path: path.display().to_string(),
            source: source.into(),
        });
    }
    let conn = Connection::open_with_flags(path, flags).map_err(open)?;
    conn.busy_timeout(BUSY_TIMEOUT).map_err(open)?;
    schema::expect_current(&conn).map_err(not_this_schema(&path.display().to_string()))?;
    Ok(conn)
}

fn identity(tx: &Tx<'_>, wall: Timestamp, new_id: Uuid) -> Result<String, Error> {
    let operation = "read the ledger's identity";
    let known = tx
        .row("SELECT id FROM ledger", [], |row| row.get(0))
        .map_err(Error::sql(operation))?;
    if let Some(id) = known {
        return Ok(id);
    }
    let id = new_id.to_string();
    let now_ms = wall.as_millisecond();
    tx.execute(
        "INSERT INTO ledger VALUES (1, ?1, ?2, ?2, ?2)",
        (&id, now_ms),
    )
    .map_err(Error::sql(operation))?;
    Ok(id)
}

/// Ledger time: the later of the wall clock and the last commit, and stored before anything
/// happens at it, so that the history's triggers and a clock set back can rely on it.
pub(crate) fn advance_time(tx: &Tx<'_>, wall: Timestamp) -> Result<Timestamp, Error> {
    let now_ms = tx
        .row(
            // With a function, or without the key, SQLite copies the page before it changes it.
            "UPDATE OR FAIL ledger SET last_ms = iif(last_ms < ?1, ?1, last_ms) WHERE only = 1 RETURNING last_ms",
            [wall.as_millisecond()],
            |row| row.get(0),
        )
        .map_err(Error::sql("advance ledger time"))?
        .expect("a ledger has an identity before it has a time");
    Ok(Timestamp::from_millisecond(now_ms).unwrap_or(wall))
}

pub(crate) fn data_version(conn: &Connection) -> Result<i64, Error> {
    conn.query_row("PRAGMA data_version", [], |row| row.get(0))
        .map_err(Error::sql("read the data version"))
}

/// Ids that the simulated cloud gives out differ from run to run of one ledger, and repeat for
/// one ledger and one instant.
fn seed(id: &str, now: Timestamp) -> u64 {
    let name = format!("{id}/{}", now.as_millisecond());
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
        .as_u64_pair()
        .0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::cloud::sim;
    use crate::settings::Retention;

    fn settings() -> Settings {
        Settings {
            cluster: "cluster".into(),
            region: "region".into(),
            vpc: "vpc".into(),
            vswitches: Vec::new(),
            retention: Retention {
                default_hours: 48,
                hour: jiff::SignedDuration::from_hours(1),
            },
            cloud: sim::Config::default(),
            history_days: 30,
        }
    }

    fn open(path: &Path) -> Result<Ledger, Error> {
        Ledger::open(path, settings(), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_ledger_is_running_exactly_while_it_is_open_and_asking_makes_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holdfast.db");
        assert!(!is_running(&path).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

        let ledger = open(&path).unwrap();
        assert!(is_running(&path).unwrap());
        assert!(matches!(open(&path), Err(Error::Locked { .. })));

        drop(ledger);
        assert!(!is_running(&path).unwrap());
    }

    #[test]
    fn a_ledger_has_one_lock_by_whatever_name_it_is_opened_also_before_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("holdfast.db");
        let (link, folder_link) = (dir.path().join("link.db"), dir.path().join("elsewhere"));
        symlink("folder/holdfast.db", &link).unwrap();
        symlink(&folder, &folder_link).unwrap();
        let names = [path, link, folder_link.join("holdfast.db")];
        for first in &names {
            assert!(!is_running(first).unwrap());
            let ledger = open(first).unwrap();
            for second in &names {
                assert!(is_running(second).unwrap(), "{first:?} {second:?}");
                assert!(matches!(open(second), Err(Error::Locked { .. })));
            }
            drop(ledger);
            for file in std::fs::read_dir(&folder).unwrap() {
                std::fs::remove_file(file.unwrap().path()).unwrap();
            }
        }
    }
}
