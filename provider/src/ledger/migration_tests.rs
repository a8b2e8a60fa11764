//! Every older schema with rows in it comes to this one with all of them, whatever interrupts it;
//! and neither a released migration nor what they make together changes unnoticed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rusqlite::types::Value;
use uuid::Uuid;

use super::tests::{migrate, migrate_with};
use super::*;
use crate::check;
use crate::failpoint::{self, Died};
use crate::ledger::fault_tests::{begin, settings};
use crate::ledger::{self, Ledger};
use crate::settings::Settings;
use crate::sql::Tx;

/// Name-based UUIDs of the texts. A released migration is never edited: write another one.
const RELEASED: &[(&str, &str)] = &[
    ("0001-ledger", "86caad07-09cb-561f-8c3a-1a52b598f2c5"),
    ("0002-simulator", "ec60915a-2bc5-5204-a197-f70330bb6694"),
    ("0003-history", "e69fb1a2-27f9-5ad4-bc26-c302dd5216f5"),
    ("0004-faults", "5ad40904-622a-5dfe-b57f-b8b1e9fdee15"),
    ("0005-creation", "2b0b5f92-cabf-56dc-bf9e-f5aaa78d553f"),
    (
        "0006-security-groups",
        "4535d3f8-c7a3-5053-9e5e-9dd48c8d6700",
    ),
    ("0007-checks", "b31c4d3f-5786-5878-a559-eab3370927ef"),
    ("0008-order", "1a016e24-6886-5071-afe5-dd1c02170b42"),
    ("0009-log", "1bc8c8a6-1e85-5aa6-836e-a371d8bb190d"),
    ("0010-steps", "f9ca051e-66d9-5da1-9e83-27794e3486d4"),
    ("0011-trees", "b976e33c-5cee-5b29-909f-0afc6f8d169a"),
];

const V3: &str = include_str!("fixtures/version-3.sql");
const V4: &str = include_str!("fixtures/version-4.sql");
const V5: &str = include_str!("fixtures/version-5.sql");
const V6: &str = include_str!("fixtures/version-6.sql");
const V7: &str = include_str!("fixtures/version-7.sql");
const V8: &str = include_str!("fixtures/version-8.sql");
const V9: &str = include_str!("fixtures/version-9.sql");
const V10: &str = include_str!("fixtures/version-10.sql");

/// Rows as each older version may have left them: one held, one retained and one free address,
/// and one more whose ENI is not deleted yet.
const FIXTURES: &[&[&str]] = &[
    &[],
    &[include_str!("fixtures/version-1.sql")],
    &[include_str!("fixtures/version-2.sql")],
    &[V3],
    &[V3, V4],
    &[V3, V4, V5],
    &[V3, V4, V5, V6],
    &[V3, V4, V5, V6, V7],
    &[V8],
    &[V8, V9],
    &[V8, V9, V10],
];

/// The process dies here, not the machine: what is written needs no sync to be there afterwards.
fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.pragma_update(None, "synchronous", "OFF").unwrap();
    conn
}

fn old(path: &Path, version: usize) -> Connection {
    let mut conn = open(path);
    migrate_with(&mut conn, &migrations()[..version]).unwrap();
    conn.execute_batch(&FIXTURES[version].concat()).unwrap();
    conn
}

fn version(conn: &Connection) -> usize {
    let read = conn.query_row("PRAGMA user_version", [], |row| row.get(0));
    read.unwrap()
}

fn tables(conn: &Connection) -> Vec<String> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let mut statement = conn.prepare(sql).unwrap();
    let names = statement.query_map([], |row| row.get(0)).unwrap();
    names.map(Result::unwrap).collect()
}

/// A query for every column that a table has by now: later versions add some.
fn query(conn: &Connection, table: &str) -> String {
    let statement = conn.prepare(&format!("SELECT * FROM {table}")).unwrap();
    let columns: Vec<_> = statement.column_names().collect();
    format!("SELECT {} FROM {table}", columns.join(", "))
}

fn rows(conn: &Connection, query: &str) -> Vec<Vec<Value>> {
    let mut statement = conn.prepare(query).unwrap();
    let columns = statement.column_count();
    let read = |row: &rusqlite::Row<'_>| (0..columns).map(|column| row.get(column)).collect();
    let rows = statement.query_map([], read).unwrap();
    rows.map(Result::unwrap).collect()
}

fn queries(conn: &Connection) -> Vec<String> {
    let tables = tables(conn);
    tables.iter().map(|table| query(conn, table)).collect()
}

fn all(conn: &Connection, queries: &[String]) -> Vec<Vec<Vec<Value>>> {
    queries.iter().map(|query| rows(conn, query)).collect()
}

#[track_caller]
fn is_whole(conn: &Connection) {
    let tx = Tx::new(conn);
    assert_eq!(check::file(&tx).unwrap(), []);
    assert_eq!(check::all(&tx).unwrap(), []);
}

#[test]
fn every_older_version_has_a_fixture() {
    assert_eq!(FIXTURES.len(), migrations().len(), "one for each older one");
    for fixture in &FIXTURES[1..] {
        let fixture = fixture.concat();
        assert!(fixture.contains("INSERT INTO claim"), "{fixture}");
    }
}

#[test]
fn rows_of_every_older_version_come_to_this_one_with_nothing_lost() {
    for at in 0..migrations().len() {
        let dir = tempfile::tempdir().unwrap();
        let mut conn = old(&dir.path().join("old.db"), at);
        let queries = queries(&conn);
        let before = all(&conn, &queries);
        migrate(&mut conn).unwrap();
        assert_eq!(version(&conn), migrations().len());
        assert_eq!(all(&conn, &queries), before, "from version {at}");
        is_whole(&conn);
    }
}

/// With a vSwitch that is somewhat larger than that of the fixtures.
fn larger() -> Settings {
    let mut settings = settings();
    settings.vswitches[0].cidr = "10.0.0.0/28".parse().unwrap();
    settings
}

fn start(path: &Path) -> Result<(), ledger::Error> {
    Ledger::open(path, larger(), begin()).map(drop)
}

#[test]
fn a_death_in_a_migration_leaves_the_old_or_the_new_version_and_the_next_start_goes_on() {
    for at in 0..migrations().len() {
        let dir = tempfile::tempdir().unwrap();
        let original = dir.path().join("original.db");
        let conn = old(&original, at);
        let queries = queries(&conn);
        let before = all(&conn, &queries);
        drop(conn);
        let of_copy = |name: &str| {
            let path = dir.path().join(name);
            std::fs::copy(&original, &path).unwrap();
            path
        };
        let undisturbed = of_copy("undisturbed.db");
        start(&undisturbed).unwrap();
        let after = all(&open(&undisturbed), &queries);
        let mut points = 0;
        loop {
            let path = of_copy(&format!("{points}.db"));
            failpoint::arm(points, || {});
            let result = catch_unwind(AssertUnwindSafe(|| start(&path)));
            failpoint::disarm();
            let conn = open(&path);
            let is_new = version(&conn) == migrations().len();
            assert!(is_new || version(&conn) == at, "{}", version(&conn));
            // The vSwitches have grown with the new version or not at all.
            let expected = if is_new { &after } else { &before };
            assert_eq!(&all(&conn, &queries), expected, "from {at}, point {points}");
            drop(conn);
            start(&path).unwrap();
            let conn = open(&path);
            assert_eq!(all(&conn, &queries), after, "from {at}, point {points}");
            is_whole(&conn);
            match result {
                Ok(done) => break done.unwrap(),
                Err(death) => assert!(death.is::<Died>(), "a panic that is no death"),
            }
            points += 1;
        }
        println!("from version {at}: {points} crash points");
        assert!(points >= 4, "from version {at}: only {points} points");
    }
}

#[test]
fn a_start_that_is_refused_leaves_a_file_of_every_older_version_as_it_is() {
    for at in 1..migrations().len() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.db");
        let conn = old(&path, at);
        let queries = queries(&conn);
        let before = all(&conn, &queries);
        drop(conn);
        let mut settings = settings();
        settings.vswitches[0].id = "vsw-other".into();
        let refused = Ledger::open(&path, settings, begin()).err().unwrap();
        assert!(matches!(refused, ledger::Error::VSwitches(_)), "{refused}");
        let conn = open(&path);
        assert_eq!(version(&conn), at);
        assert_eq!(all(&conn, &queries), before, "of version {at}");
    }
}

#[test]
fn a_start_brings_a_file_of_every_older_version_to_this_one_and_lets_its_vswitch_grow() {
    for at in 1..migrations().len() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.db");
        drop(old(&path, at));
        let ledger = Ledger::open(&path, settings(), begin()).unwrap();
        assert_eq!(ledger.addresses(true).unwrap().len(), 252);
        drop(ledger);
        let conn = open(&path);
        assert_eq!(version(&conn), migrations().len());
        is_whole(&conn);
    }
}

#[test]
fn a_released_migration_is_never_edited() {
    let found: Vec<_> = migrations()
        .into_iter()
        .map(|(name, text)| {
            let sum = Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes());
            (name, sum.to_string())
        })
        .collect();
    let found: Vec<_> = found.iter().map(|(name, sum)| (*name, &**sum)).collect();
    assert_eq!(found, RELEASED, "add a migration instead of editing one");
}

#[test]
fn the_migrations_make_the_schema_that_is_written_down() {
    let mut conn = Connection::open_in_memory().unwrap();
    migrate(&mut conn).unwrap();
    let sql = "SELECT sql || ';' FROM sqlite_schema WHERE sql IS NOT NULL \
               AND name NOT LIKE 'sqlite_%' ORDER BY type, name";
    let mut statement = conn.prepare(sql).unwrap();
    let texts = statement.query_map([], |row| row.get(0)).unwrap();
    let texts: Vec<String> = texts.map(Result::unwrap).collect();
    let schema = texts.join("\n\n") + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ledger/fixtures/schema.sql");
    if std::env::var_os("HOLDFAST_WRITE_SCHEMA").is_some() {
        std::fs::write(&path, &schema).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        schema, known,
        "run this test with HOLDFAST_WRITE_SCHEMA=1 and review the difference"
    );
}
