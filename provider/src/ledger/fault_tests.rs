//! What is wrong with a file, or with its disk, is said in one sentence; nothing is lost by it.

use std::error::Error as _;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::cloud::sim;
use crate::engine::{Creation, Node, PodFacts};
use crate::id::{NodeType, PodKey};
use crate::policy::opt_in::{FixedIp, OptIn};
use crate::settings::{Retention, VSwitch};

const PAGE: usize = 4096;

pub(super) fn settings() -> Settings {
    Settings {
        cluster: "cluster".into(),
        region: "region".into(),
        vpc: "vpc".into(),
        vswitches: vec![VSwitch {
            id: "vsw-b".into(),
            zone: "b".into(),
            cidr: "10.0.0.0/24".parse().unwrap(),
            exclude: Vec::new(),
        }],
        retention: Retention {
            default_hours: 48,
            hour: SignedDuration::from_hours(1),
        },
        cloud: sim::Config::default(),
        history_days: 30,
    }
}

pub(super) fn begin() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// A fixed-IP pod.
pub(crate) fn facts(number: impl Display) -> PodFacts {
    PodFacts {
        uid: format!("uid-{number}").into(),
        key: PodKey::new("default", &format!("web-{number}")),
        created: Creation {
            at: begin(),
            revision: 0,
        },
        node: Node {
            name: "node".into(),
            zone: "b".into(),
            node_type: NodeType::Acs,
        },
        opt_in: OptIn {
            fixed_ip: FixedIp::On { hours: 48 },
            vswitches: Vec::new(),
            security_groups: Vec::new(),
        },
        published: None,
    }
}

/// The same pod without a fixed address.
pub(super) fn ordinary(number: impl Display) -> PodFacts {
    let mut facts = facts(number);
    facts.opt_in.fixed_ip = FixedIp::Off;
    facts
}

pub(super) fn open(path: &Path) -> Result<Ledger, Error> {
    Ledger::open(path, settings(), begin())
}

/// A directory with a whole ledger in it, closed.
pub(super) fn closed() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("holdfast.db");
    drop(open(&path).unwrap());
    (dir, path)
}

/// The sentence and its causes, as a command prints them.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

#[track_caller]
fn refused(path: &Path, words: &[&str]) {
    let before = std::fs::read(path).ok();
    let error = open(path).err().expect("it is refused");
    let text = told(&error);
    assert!(error.is_fatal(), "{text}");
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(std::fs::read(path).ok(), before, "the file is as it was");
}

pub(super) fn write(ledger: &mut Ledger) -> Result<Batch, Error> {
    ledger.commit(begin(), &[Job::Note(begin(), Note::Started)])
}

pub(super) fn entries(ledger: &Ledger) -> i64 {
    ledger.number("SELECT count(*) FROM journal WHERE what = 'started'")
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.txt");
    std::fs::write(&path, "these are my notes\n".repeat(1000)).unwrap();
    refused(&path, &["damaged", "not a database", "restore a backup"]);
}

#[test]
fn an_empty_file_is_a_new_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("holdfast.db");
    std::fs::write(&path, "").unwrap();
    assert_eq!(open(&path).unwrap().check().unwrap(), []);
}

#[test]
fn a_missing_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nowhere").join("holdfast.db");
    refused(&path, &["could not open", "No such file or directory"]);
}

#[test]
fn a_damaged_file_is_refused_and_left() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 3] = [
        ("header", |bytes| bytes[..16].fill(0xff)),
        ("pages", |bytes| bytes[PAGE..5 * PAGE].fill(0xff)),
        ("truncated", |bytes| bytes.truncate(3 * PAGE + 100)),
    ];
    for (name, damage) in damages {
        let (_dir, path) = closed();
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        println!("{name}");
        refused(&path, &["damaged", "restore a backup"]);
    }
}

/// Overwrites the first page of a table.
fn damage(path: &Path, table: &str) {
    let conn = Connection::open(path).unwrap();
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
    let page: usize = conn.query_row(sql, [table], |row| row.get(0)).unwrap();
    drop(conn);
    let mut bytes = std::fs::read(path).unwrap();
    bytes[(page - 1) * PAGE..page * PAGE].fill(0xff);
    std::fs::write(path, bytes).unwrap();
}

/// As if it were large.
fn open_large(path: &Path) -> Result<Ledger, Error> {
    Ledger::open_inspected(path, settings(), begin(), 0)
}

/// What the inspection beside the start has found.
fn inspected(ledger: &mut Ledger) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_mins(1);
    while ledger.is_being_inspected() {
        ledger.changed()?;
        assert!(Instant::now() < deadline, "the inspection has no end");
        std::thread::yield_now();
    }
    Ok(())
}

#[test]
fn a_start_waits_for_no_history_of_a_large_file_and_damage_in_it_ends_the_process_later() {
    let (_dir, path) = closed();
    inspected(&mut open_large(&path).unwrap()).unwrap();
    damage(&path, "pod_log");
    refused(&path, &["damaged", "restore a backup"]);
    let error = inspected(&mut open_large(&path).unwrap()).unwrap_err();
    let text = told(&error);
    assert!(error.is_fatal() && text.contains("is damaged"), "{text}");
    assert!(text.contains("restore a backup"), "{text}");
}

#[test]
fn a_large_file_whose_addresses_are_damaged_is_refused_and_left() {
    for table in ["address", "pod", "eni", "sim_eni", "ledger", "placement"] {
        let (_dir, path) = closed();
        damage(&path, table);
        let before = std::fs::read(&path).unwrap();
        let error = open_large(&path).err().expect(table);
        assert!(matches!(error, Error::Damaged { .. }), "{table}: {error}");
        assert_eq!(std::fs::read(&path).unwrap(), before, "{table}");
    }
}

#[test]
fn a_ledger_of_a_newer_holdfast_is_refused_with_both_versions_and_left() {
    for journal in ["wal", "delete"] {
        let (_dir, path) = closed();
        let conn = Connection::open(&path).unwrap();
        let mode = conn.pragma_update(None, "journal_mode", journal);
        assert!(mode.is_ok(), "{mode:?}");
        conn.pragma_update(None, "user_version", 99).unwrap();
        drop(conn);
        let known = format!("knows {}", schema::known());
        refused(&path, &["schema version 99", &known, "newer holdfast"]);
    }
}

#[test]
fn a_full_disk_is_fatal_and_loses_nothing_that_was_committed() {
    let (_dir, path) = closed();
    let mut ledger = open(&path).unwrap();
    let pages = ledger.number("PRAGMA page_count");
    ledger.number(&format!("PRAGMA max_page_count = {pages}"));
    let mut written = 0;
    let error = loop {
        match write(&mut ledger) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100_000, "the disk is never full");
    };
    assert!(error.is_fatal(), "{error}");
    let text = told(&ledger.cannot_go_on(error));
    for word in [path.to_str().unwrap(), "full", "free some space"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(entries(&ledger), written);
    drop(ledger);
    let mut ledger = open(&path).unwrap();
    assert_eq!(entries(&ledger), written);
    assert_eq!(ledger.check().unwrap(), []);
    write(&mut ledger).unwrap();
}

#[test]
fn a_file_that_cannot_be_written_is_fatal_and_loses_nothing() {
    let (_dir, path) = closed();
    let mut ledger = open(&path).unwrap();
    write(&mut ledger).unwrap();
    // Permissions do not bind every user; SQLite answers the same (SQLITE_READONLY) to this.
    ledger.conn.pragma_update(None, "query_only", true).unwrap();
    let error = write(&mut ledger).unwrap_err();
    let text = told(&error);
    assert!(error.is_fatal() && text.contains("readonly"), "{text}");
    drop(ledger);
    assert_eq!(entries(&open(&path).unwrap()), 1);
}

#[test]
fn a_file_that_may_only_be_read_is_named_at_the_start_with_what_to_do() {
    let (_dir, path) = closed();
    // By the version of its format, for permissions do not bind every user.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[18] = 3;
    std::fs::write(&path, bytes).unwrap();
    refused(&path, &["read and write"]);
}

#[test]
fn who_reads_what_is_no_ledger_is_told_so() {
    let (_dir, path) = closed();
    std::fs::write(&path, "these are notes\n".repeat(100)).unwrap();
    let text = told(&Reader::open(&path).err().unwrap());
    for word in [path.to_str().unwrap(), "not a database", "restore a backup"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(!text.contains("bring"), "{text}");
}

#[test]
fn a_file_that_cannot_be_written_ends_the_process_at_changed_settings_too() {
    let (_dir, path) = closed();
    let ledger = open(&path).unwrap();
    ledger.conn.pragma_update(None, "query_only", true).unwrap();
    let (sender, done) = std::sync::mpsc::channel();
    let writer = Writer::start(ledger, begin, move |done| sender.send(done).unwrap()).unwrap();
    let work = Work::Reconfigure(Box::new(settings()));
    assert!(writer.submit(work).unwrap().is_none());
    let first = done.recv_timeout(Duration::from_mins(1)).unwrap();
    let Done::Fatal(error) = first else {
        panic!("{first:?}");
    };
    let text = told(&error);
    assert!(
        text.contains(path.to_str().unwrap()) && text.contains("readonly"),
        "{text}"
    );
    writer.stop();
}

#[test]
fn a_busy_file_is_waited_for() {
    let (_dir, path) = closed();
    let mut ledger = open(&path).unwrap();
    assert_eq!(ledger.number("PRAGMA busy_timeout"), 5000);
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| write(&mut ledger).map(|_| ()));
        // Whichever comes first: the outcome is the same.
        std::thread::yield_now();
        other.execute_batch("COMMIT").unwrap();
        waits.join().unwrap().unwrap();
    });
    assert_eq!(entries(&ledger), 1);
}

#[test]
fn a_file_that_stays_busy_is_told_and_nothing_is_lost() {
    let (_dir, path) = closed();
    let mut ledger = open(&path).unwrap();
    let wait = Duration::from_millis(20);
    ledger.conn.busy_timeout(wait).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = write(&mut ledger).unwrap_err();
    let text = told(&error);
    assert!(!error.is_fatal() && text.contains("locked"), "{text}");
    other.execute_batch("COMMIT").unwrap();
    write(&mut ledger).unwrap();
    assert_eq!(entries(&ledger), 1);
}

/// What comes first of work for a file that another process holds for longer than SQLite waits.
fn done_after_another(work: Work) -> Done {
    let (_dir, path) = closed();
    let ledger = open(&path).unwrap();
    let wait = Duration::from_millis(20);
    ledger.conn.busy_timeout(wait).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (sender, done) = std::sync::mpsc::channel();
    let tell = move |done| sender.send(done).unwrap();
    let writer = Writer::start(ledger, begin, tell).unwrap();
    assert!(writer.submit(work).unwrap().is_none());
    let early = done.recv_timeout(wait * 10);
    assert!(early.is_err(), "the file is held: {early:?}");
    other.execute_batch("COMMIT").unwrap();
    let first = done.recv_timeout(Duration::from_mins(1)).unwrap();
    writer.stop();
    first
}

#[test]
fn the_writer_outlives_another_process_that_holds_the_file_for_longer_than_sqlite_waits() {
    let job = Work::Job(1, Job::Note(begin(), Note::Stopped));
    let first = done_after_another(job);
    assert!(matches!(first, Done::Job(1, Ok(_))), "{first:?}");
}

#[test]
fn changed_settings_wait_for_another_process_and_are_not_called_refused() {
    let first = done_after_another(Work::Reconfigure(Box::new(settings())));
    assert!(matches!(first, Done::Reconfigured(Ok(_))), "{first:?}");
}

#[test]
fn a_job_that_fails_is_undone_alone_and_the_others_of_its_commit_are_done_once() {
    let (_dir, path) = closed();
    let mut ledger = open(&path).unwrap();
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON journal WHEN new.what = 'stopped' \
         BEGIN SELECT RAISE(ABORT, 'refused'); END";
    ledger.conn.execute_batch(refuse).unwrap();
    let note = |note| Job::Note(begin(), note);
    // The wall clock is behind, which is worth an entry of its own that must survive as well.
    let late = begin() - SignedDuration::from_secs(60);
    let jobs = [
        note(Note::Started),
        note(Note::Stopped),
        note(Note::Started),
    ];
    let batch = ledger.commit(late, &jobs).unwrap();

    let [first, second, third] = batch.results.try_into().unwrap();
    assert!(first.is_ok() && third.is_ok());
    let text = told(&second.unwrap_err());
    assert!(text.contains("refused"), "{text}");
    assert_eq!(entries(&ledger), 2);
    let stands = "SELECT count(*) FROM journal WHERE what = 'time stands'";
    assert_eq!(ledger.number(stands), 1);
}

#[test]
fn the_schema_refuses_a_pod_or_a_claim_a_second_address() {
    let (_dir, path) = closed();
    let ledger = open(&path).unwrap();
    let script = "INSERT INTO claim (id, cluster, namespace, name, node, holder, retain_ms, opened_ms) \
           VALUES (7, 'cluster', 'default', 'web-0', 'node', 'uid-1', 1, 1); \
         INSERT INTO eni (id, token, vswitch, addr, target, instance) \
           SELECT column1, column1, 1, addr, 'InUse', 'acs-1' FROM (VALUES (1), (2)) \
           JOIN (SELECT addr, row_number() OVER () AS number FROM address LIMIT 2) ON number = column1; \
         INSERT INTO pod (uid, cluster, namespace, name, node, node_type, zone, vswitches, created_ms, \
           accepted_ms, eni, instance, request_id, revision) \
           VALUES ('uid-1', 'cluster', 'default', 'web-0', 'node', 'acs', 'b', '[]', 1, 1, 1, 'acs-1', 'R', 0)";
    ledger.conn.execute_batch(script).unwrap();
    let bind = |eni: i64, pod: &str, claim: &str| {
        let sql = format!(
            "UPDATE address SET state = 'in_use', pod = '{pod}', eni = {eni}, claim = {claim}, \
             gen = gen + 1 WHERE addr = (SELECT addr FROM eni WHERE id = {eni})"
        );
        ledger.conn.execute(&sql, [])
    };
    let why = "used by the pod that has its ENI";
    for (eni, pod) in [(2, "uid-1"), (2, "uid-2"), (1, "uid-2")] {
        let refused = bind(eni, pod, "NULL").unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    ledger
        .conn
        .execute("UPDATE claim SET holder = 'uid-2'", [])
        .unwrap();
    let refused = bind(1, "uid-1", "7").unwrap_err().to_string();
    assert!(refused.contains(why), "{refused}");
    ledger
        .conn
        .execute("UPDATE claim SET holder = 'uid-1'", [])
        .unwrap();
    bind(1, "uid-1", "7").unwrap();
}
