//! What the schema refuses, whoever asks: each refusal leaves the rows as they were, also for one
//! statement by hand that is a transaction of its own.

use super::fault_tests::{begin, facts, ordinary, settings};
use super::*;
use crate::engine::PodFacts;

const FREE: &str = "UPDATE address SET state = 'free', claim = NULL, pod = NULL, eni = NULL, gen = gen + 1 \
     WHERE state = 'in_use'";

/// A ledger in which one fixed pod has an address.
fn held() -> Ledger {
    held_by(facts(0))
}

fn held_by(pod: PodFacts) -> Ledger {
    let mut ledger = Ledger::in_memory(settings(), begin()).unwrap();
    let batch = ledger.commit(begin(), &[Job::Acquire(pod)]).unwrap();
    assert!(batch.results[0].is_ok());
    ledger
}

/// Everything that a step of a pod may write.
fn rows(ledger: &Ledger) -> Vec<String> {
    let texts = [
        "SELECT json_array(state, claim, pod, eni, gen, since_ms) FROM address",
        "SELECT json_array(state, gen, from_ms, to_ms) FROM address_span",
        "SELECT json_array(holder, deleted_ms, closed_ms) FROM claim",
        "SELECT json_array(claim, holder, closed_why) FROM claim_event",
        "SELECT json_array(id, state, target) FROM eni",
        "SELECT json_array(uid, eni) FROM pod",
    ];
    let tx = Tx::new(&ledger.conn);
    let rows = |sql| tx.rows(sql, [], |row| row.get(0)).unwrap();
    texts.into_iter().flat_map(rows).collect()
}

#[track_caller]
fn refused(ledger: &Ledger, sql: &str, why: &str) {
    let before = rows(ledger);
    let error = ledger.conn.execute(sql, []).unwrap_err().to_string();
    assert!(error.contains(why), "{sql}: {error}");
    assert!(ledger.conn.is_autocommit(), "{sql}");
    assert_eq!(rows(ledger), before, "{sql}");
}

#[test]
fn an_address_takes_no_step_that_is_none() {
    let ledger = held();
    let steps = [
        (FREE, "given up by ending the claim"),
        (
            "UPDATE address SET state = 'detaching', claim = NULL, pod = NULL, gen = gen + 1 \
             WHERE state = 'in_use'",
            "given up by ending the claim",
        ),
        (
            "UPDATE address SET pod = 'other', gen = gen + 1 WHERE state = 'in_use'",
            "cannot take this step",
        ),
        (
            "UPDATE address SET state = 'in_use', pod = 'uid-0', eni = 1, gen = gen + 1 \
             WHERE addr = (SELECT max(addr) FROM address)",
            "UNIQUE",
        ),
        (
            "UPDATE address SET state = 'in_use', pod = 'uid-0', eni = 2, gen = gen + 1 \
             WHERE addr = (SELECT max(addr) FROM address)",
            "the pod that has its ENI",
        ),
    ];
    for (sql, why) in steps {
        refused(&ledger, sql, why);
        refused(&ledger, &sql.replace("UPDATE", "UPDATE OR FAIL"), why);
    }
}

#[test]
fn an_address_is_not_free_while_its_eni_may_exist() {
    let ledger = held_by(ordinary(0));
    let excluded = FREE.replace("'free'", "'excluded', barred = 1");
    for sql in [FREE, &excluded] {
        refused(&ledger, sql, "before its ENI is deleted");
    }
}

#[test]
fn an_address_does_not_change_without_a_generation_nor_back_in_time() {
    let ledger = held();
    let why = "without a new generation, or back in time";
    for set in [
        "gen = gen",
        "gen = gen + 2",
        "gen = gen + 1, since_ms = since_ms - 1",
    ] {
        let sql = format!("UPDATE address SET state = state, {set} WHERE state = 'in_use'");
        refused(&ledger, &sql, why);
    }
}

#[test]
fn an_address_whose_history_does_not_end_with_its_row_does_not_change() {
    let ledger = held();
    let sql = "DELETE FROM address_span WHERE state = 'in_use'";
    ledger.conn.execute(sql, []).unwrap();
    let step = "UPDATE address SET state = state, gen = gen + 1 WHERE state = 'in_use'";
    refused(&ledger, step, "does not end with its row");
}

/// Nothing of that batch stands, and whoever asked hears why.
#[test]
fn a_job_that_meets_such_a_history_ends_the_batch_with_its_words() {
    let mut ledger = held();
    let sql = "DELETE FROM address_span WHERE state = 'in_use'";
    ledger.conn.execute(sql, []).unwrap();
    let before = rows(&ledger);
    let uid = facts(0).uid;
    let jobs = [
        Job::Acquire(facts(1)),
        Job::Deleted(uid.clone(), begin()),
        Job::Stopped(uid.clone()),
        Job::DeletedAndStopped(uid.clone(), begin()),
        Job::Gone(uid),
    ];
    let error = ledger.commit(begin(), &jobs).unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("does not end with its row"), "{error}: {why}");
    assert!(ledger.conn.is_autocommit());
    assert_eq!(rows(&ledger), before);
}

#[test]
fn an_eni_that_may_exist_is_not_forgotten() {
    refused(&held(), "DELETE FROM eni", "not forgotten");
}

#[test]
fn a_claim_neither_ends_early_nor_changes_after_its_end() {
    let ledger = held();
    let close =
        "UPDATE claim SET holder = NULL, deleted_ms = 1, expires_ms = 1 << 50, closed_ms = 1";
    ledger
        .conn
        .execute("UPDATE claim SET deleted_ms = 1, expires_ms = 1 << 50", [])
        .unwrap();
    let early = format!("{close}, closed_why = 'expired'");
    refused(&ledger, &early, "before its deadline");
    let sql = format!("{close}, closed_why = 'forfeited'");
    ledger.conn.execute(&sql, []).unwrap();
    refused(
        &ledger,
        "UPDATE claim SET node = 'other'",
        "does not change",
    );
}

#[test]
fn a_pod_and_an_address_refer_to_what_there_is() {
    let ledger = held();
    refused(&ledger, "UPDATE pod SET eni = 77", "FOREIGN KEY");
    refused(&ledger, "DELETE FROM claim", "FOREIGN KEY");
}
