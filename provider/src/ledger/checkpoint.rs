//! Brings the log beside the ledger's file into the file, on a thread and a connection of its own.
//!
//! Owns when a checkpoint is made while the writer's thread runs. A checkpoint writes every page of
//! the log once more and syncs twice; in the thread that writes, each would hold up all who wait for
//! the next COMMIT. The log begins anew only with a transaction that finds all of it in the file.
//! Under steady load hardly any does, as each COMMIT adds to it, so the writer's connection brings
//! in the small rest by itself when the log has reached its bound: that is SQLite's own automatic
//! checkpoint, which holds whatever this thread does or fails to do.
//!
//! Deliberately only ever passive checkpoints: they wait for nobody, and to the writer's connection
//! the file does not look changed. Commands, and a ledger without a writer's thread, checkpoint as
//! SQLite does.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, TrySendError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::hooks::Wal;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, ErrorCode, MAIN_DB};

use crate::ledger::open;

/// Sizes of the log, in pages of 4 KiB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// From here on it is brought into the file beside the writer.
    pub begin: u32,
    /// How much it grows until the next try: enough to be worth a sync.
    pub step: u32,
    /// From here on the writer does it, after each COMMIT until the log begins anew.
    pub bound: u32,
}

/// The later it begins, the longer the syncs that those of the writer wait for; the sooner, the more
/// often a page is written. Until the bound a disk has time for three times what it begins with.
pub(super) const LIMITS: Limits = Limits {
    begin: 2000,
    step: 500,
    bound: 8000,
};

/// The thread. It ends when the connection that it was started beside is closed, and is waited for
/// when this is dropped: after that connection, or it never ends.
pub(super) struct Checkpointer {
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread beside `conn`, or none when that is in memory.
    ///
    /// # Errors
    /// When the file cannot be opened once more, or the system refuses a thread.
    pub(super) fn start(conn: &mut Connection, limits: Limits) -> io::Result<Option<Self>> {
        let Some(path) = conn.path().filter(|path| !path.is_empty()) else {
            return Ok(None);
        };
        let own = open::writer(Path::new(path)).map_err(io::Error::other)?;
        let (tell, told) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || run(&own, &told))?;
        let mut next = limits.begin;
        let after_commit = move |wal: &mut Wal, pages: i32| {
            let pages = u32::try_from(pages).unwrap_or_default();
            if pages < limits.begin {
                next = limits.begin;
            } else if pages >= limits.bound {
                finish(wal);
            } else if pages >= next {
                next = pages + limits.step;
                match tell.try_send(()) {
                    Ok(()) | Err(TrySendError::Full(())) => {}
                    // It has panicked; its part falls to the writer.
                    Err(TrySendError::Disconnected(())) => finish(wal),
                }
            }
            Ok(())
        };
        // In the place of SQLite's own, which does at its bound what this does.
        conn.wal_hook(Some(after_commit))
            .map_err(io::Error::other)?;
        Ok(Some(Self {
            thread: Some(thread),
        }))
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) {
            tracing::error!("the thread that checkpoints the ledger panicked");
        }
    }
}

/// By the writer, whose COMMIT is through whatever comes of this.
fn finish(wal: &mut Wal) {
    if let Err(error) = wal.checkpoint() {
        tell_failure(&error);
    }
}

fn run(conn: &Connection, told: &Receiver<()>) {
    while told.recv().is_ok() {
        if let Err(error) = conn.wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::PASSIVE) {
            tell_failure(&error);
        }
    }
    // The last connection to be closed brings in the rest and removes the log.
}

fn tell_failure(error: &rusqlite::Error) {
    // Another thread or process does it at this moment.
    if error.sqlite_error_code() != Some(ErrorCode::DatabaseBusy) {
        tracing::warn!(
            %error,
            "the log beside the ledger could not be brought into the file: nothing is lost, it grows \
             until that succeeds; free some space on its disk, or see what is wrong with it"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::ledger::fault_tests::{begin, closed, entries, open, settings, write};
    use crate::ledger::{Done, Job, Ledger, Note, Work, Writer};

    const SMALL: Limits = Limits {
        begin: 40,
        step: 10,
        bound: 80,
    };
    /// Nothing is left to the writer.
    const UNBOUNDED: Limits = Limits {
        bound: u32::MAX,
        ..SMALL
    };

    /// Pages in the log, and how many of them are in the file too.
    fn log(path: &Path) -> (i64, i64) {
        let conn = Connection::open(path).unwrap();
        let pages = |row: &rusqlite::Row<'_>| Ok((row.get(1)?, row.get(2)?));
        let pages = conn.query_row("PRAGMA wal_checkpoint(NOOP)", [], pages);
        pages.unwrap()
    }

    /// Pages for which the log has ever had room: it begins anew without being cut.
    fn room(path: &Path) -> u64 {
        let log = format!("{}-wal", path.display());
        std::fs::metadata(log).unwrap().len() / 4096
    }

    #[test]
    fn the_log_stays_bounded_under_a_writer_that_never_rests() {
        let (_dir, path) = closed();
        let mut ledger = open(&path).unwrap();
        ledger.checkpoint_aside(SMALL).unwrap();
        // Without an end of the log it has room for all of it.
        let mut written = 0;
        let mut last = 0;
        let mut begun = 0;
        while begun < 20 {
            write(&mut ledger).unwrap();
            written += 1;
            let (pages, _) = log(&path);
            begun += i32::from(pages < last);
            last = pages;
            assert!(written < 20_000, "the log begins anew too seldom: {begun}");
        }
        println!("{written} commits, room for {} pages", room(&path));
        assert!(room(&path) < 2000, "room for {} pages", room(&path));
        assert_eq!(entries(&ledger), written);
        assert_eq!(ledger.check().unwrap(), []);
    }

    #[test]
    fn the_log_is_brought_into_the_file_without_the_writer_which_sees_no_other_process() {
        let (_dir, path) = closed();
        let mut ledger = open(&path).unwrap();
        ledger.checkpoint_aside(UNBOUNDED).unwrap();
        assert!(!ledger.changed().unwrap());
        for _ in 0..3 {
            let wanted = i64::from(UNBOUNDED.begin);
            while log(&path).0 < wanted {
                write(&mut ledger).unwrap();
            }
            let deadline = Instant::now() + Duration::from_mins(1);
            while log(&path).1 < wanted {
                assert!(Instant::now() < deadline, "it is not brought in");
                std::thread::yield_now();
            }
            assert!(!ledger.changed().unwrap());
            // What the last of them has left over, or this one, whichever comes first.
            while log(&path).0 >= wanted {
                assert!(Instant::now() < deadline, "the log does not begin anew");
                write(&mut ledger).unwrap();
            }
            assert!(!ledger.changed().unwrap());
        }
        let other = open::writer(&path).unwrap();
        other
            .execute_batch("UPDATE ledger SET last_ms = last_ms + 1")
            .unwrap();
        assert!(ledger.changed().unwrap());
    }

    #[test]
    fn a_writer_that_is_stopped_leaves_all_of_it_in_the_file_and_no_log() {
        let (_dir, path) = closed();
        let (tell, done) = channel();
        let tell = move |done| tell.send(done).unwrap();
        let writer = Writer::start(open(&path).unwrap(), begin, tell).unwrap();
        let job = Work::Job(1, Job::Note(begin(), Note::Started));
        assert!(writer.submit(job).unwrap().is_none());
        writer.stop();
        assert!(done.iter().any(|done| matches!(done, Done::Job(1, Ok(_)))));
        for suffix in ["-wal", "-shm"] {
            let beside = format!("{}{suffix}", path.display());
            assert!(!Path::new(&beside).exists(), "{beside}");
        }
        assert_eq!(entries(&open(&path).unwrap()), 1);
    }

    #[test]
    fn what_is_brought_in_is_synced_and_others_checkpoint_as_sqlite_does() {
        let (_dir, path) = closed();
        let conn = open::writer(&path).unwrap();
        let number = |conn: &Connection, sql: &str| {
            conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap()
        };
        assert_eq!(number(&conn, "PRAGMA synchronous"), 2);
        assert_eq!(number(&conn, "PRAGMA wal_autocheckpoint"), 4000);
        let ledger = open(&path).unwrap();
        assert_eq!(ledger.number("PRAGMA wal_autocheckpoint"), 4000);
    }

    #[test]
    fn a_ledger_in_memory_has_no_log_and_no_thread() {
        let mut ledger = Ledger::in_memory(settings(), begin()).unwrap();
        ledger.checkpoint_aside(LIMITS).unwrap();
        assert!(ledger.checkpointer.is_none());
        write(&mut ledger).unwrap();
    }
}
