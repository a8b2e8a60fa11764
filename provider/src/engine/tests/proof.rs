//! The checker itself: a ledger that was broken by hand and a history that was falsified are each
//! found out, and an honest one is not.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use rusqlite::Connection;

use super::*;
use crate::check::{self, History, Violation};
use crate::sql::Tx;

/// A ledger that has seen most of what can happen, with an honest history.
fn lived() -> World {
    let mut world = World::new();
    let hour = |name| Wish {
        hours: Some(1),
        ..fixed(name)
    };
    // Kept and given back; retained; run out; moved; crossed; ordinary and freed; in use.
    for name in ["kept", "retained", "moved", "crossed"] {
        let pod = world.create(&fixed(name));
        world.delete(&pod);
    }
    let pod = world.create(&hour("run-out"));
    world.delete(&pod);
    world.create(&fixed("kept"));
    world.create(&Wish {
        zone: "c",
        ..fixed("moved")
    });
    world.create(&Wish {
        node_type: NodeType::Ecs,
        ..fixed("crossed")
    });
    let pod = world.create(&ordinary("freed"));
    world.delete(&pod);
    world.create(&ordinary("used"));
    world.pass(HOUR * 2);
    world
}

fn rules(found: &[Violation]) -> BTreeSet<&str> {
    found.iter().map(|violation| &*violation.rule).collect()
}

/// A copy without triggers, constraints and keys, broken by `sql`.
fn broken(world: &World, sql: &str) -> Vec<Violation> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy.db");
    world.ledger.copy_to(&path).unwrap();
    let conn = Connection::open(&path).unwrap();
    conn.pragma_update(None, "synchronous", "OFF").unwrap();
    let names = |kind: &str| -> Vec<String> {
        let sql = "SELECT name FROM sqlite_schema WHERE type = ?1 AND name NOT LIKE 'sqlite_%'";
        let mut names = conn.prepare(sql).unwrap();
        let names = names.query_map([kind], |row| row.get(0)).unwrap();
        names.collect::<rusqlite::Result<_>>().unwrap()
    };
    let mut script = "PRAGMA foreign_keys = OFF; PRAGMA legacy_alter_table = ON;".to_owned();
    for trigger in names("trigger") {
        write!(script, "DROP TRIGGER {trigger};").unwrap();
    }
    for table in names("table") {
        write!(
            script,
            "CREATE TABLE bare AS SELECT * FROM {table}; DROP TABLE {table}; ALTER TABLE bare RENAME TO {table};"
        )
        .unwrap();
    }
    conn.execute_batch(&script).unwrap();
    let honest = check::all(&Tx::new(&conn)).unwrap();
    assert!(honest.is_empty(), "{honest:#?}");
    let before = conn.total_changes();
    conn.execute_batch(sql).unwrap();
    assert_ne!(conn.total_changes(), before, "nothing is broken by: {sql}");
    check::all(&Tx::new(&conn)).unwrap()
}

const BREAKS: &[(&str, &str)] = &[
    // A second holder.
    (
        "UPDATE address SET state = 'in_use', pod = (SELECT uid FROM pod WHERE name = 'used') \
         WHERE addr = (SELECT min(addr) FROM address WHERE state = 'free')",
        "a pod has one address",
    ),
    (
        "UPDATE address SET claim = (SELECT max(claim) FROM address) \
         WHERE addr = (SELECT min(addr) FROM address WHERE state = 'free')",
        "a claim has one address",
    ),
    (
        "INSERT INTO claim SELECT 99, cluster, namespace, name, node, 'uid-99', retain_ms, opened_ms, \
         NULL, NULL, NULL, NULL FROM claim WHERE name = 'kept'",
        "a key has one open claim",
    ),
    // An early release.
    (
        "UPDATE address SET state = 'free', claim = NULL, eni = NULL WHERE state = 'retained'",
        "an open claim has an address, and a closed one has none",
    ),
    // A stolen retained address.
    (
        "UPDATE address SET state = 'in_use', pod = 'uid-99' WHERE state = 'retained'",
        "the holder of a claim is the pod that has its address",
    ),
    (
        "UPDATE address SET claim = (SELECT id FROM claim WHERE name = 'retained'), pod = NULL, state = 'retained' \
         WHERE pod = (SELECT uid FROM pod WHERE name = 'used')",
        "a claim has one address",
    ),
    (
        "UPDATE claim SET deleted_ms = NULL, expires_ms = NULL WHERE name = 'retained'",
        "what is retained has a deadline, its period after the deletion",
    ),
    (
        "UPDATE claim SET expires_ms = expires_ms - 1 WHERE name = 'retained'",
        "what is retained has a deadline, its period after the deletion",
    ),
    (
        "UPDATE address SET state = 'free' WHERE pod = (SELECT uid FROM pod WHERE name = 'used')",
        "a free address belongs to nobody",
    ),
    (
        "DELETE FROM eni WHERE id = (SELECT eni FROM pod WHERE name = 'used')",
        "an address that is not free has its ENI, and an ENI its address",
    ),
    (
        "UPDATE eni SET mac = (SELECT max(mac) FROM eni)",
        "an ENI has an id and a MAC of its own",
    ),
    (
        "UPDATE eni SET eni_id = (SELECT max(eni_id) FROM eni)",
        "an ENI has an id and a MAC of its own",
    ),
    (
        "UPDATE eni SET target = 'Gone' WHERE id = (SELECT eni FROM pod WHERE name = 'used')",
        "an ENI becomes what its address is for",
    ),
    // A lost row.
    (
        "DELETE FROM pod WHERE name = 'used'",
        "a pod and its address have the same ENI",
    ),
    (
        "DELETE FROM pod WHERE name = 'used'",
        "every pod is in the log as long as it holds on",
    ),
    (
        "UPDATE claim SET name = 'another' WHERE name = 'kept'",
        "a claim serves its own key, for pods that ask for it",
    ),
    // A wrong count.
    (
        "DELETE FROM address WHERE addr = (SELECT min(addr) FROM address WHERE state = 'free')",
        "the pool has the addresses of its CIDR",
    ),
    (
        "UPDATE vswitch SET cidr = '192.168.1.0/25' WHERE name = 'vsw-b'",
        "the pool has the addresses of its CIDR",
    ),
    (
        "UPDATE address SET gen = gen + 1 WHERE state = 'retained'",
        "the open span of an address equals its row",
    ),
    (
        "UPDATE ledger SET last_ms = last_ms - 100000000",
        "nothing is later than the last commit",
    ),
    (
        "UPDATE sim_eni SET token = 'another' WHERE state = 'Available'",
        "the cloud has no ENI that the ledger does not know",
    ),
    (
        "UPDATE sim_eni SET state = 'Available', instance = NULL",
        "an ENI in use is attached in the cloud",
    ),
];

#[test]
fn every_broken_ledger_is_found_out() {
    let world = lived();
    for (sql, rule) in BREAKS {
        let found = broken(&world, sql);
        assert!(rules(&found).contains(rule), "{sql}\n{found:#?}");
    }
}

#[test]
fn every_invariant_is_broken_by_a_test() {
    let tested: BTreeSet<&str> = BREAKS.iter().map(|(_, rule)| *rule).collect();
    let all: BTreeSet<&str> = check::invariant_names().collect();
    assert_eq!(tested, all);
}

/// A falsification and the rule that it breaks.
type Lie = (&'static str, fn(&mut History), &'static str);

fn claim_id(history: &History, name: &str) -> i64 {
    let named = |claim: &&check::history::Claim| claim.key.name == name;
    history
        .claims
        .iter()
        .find(named)
        .expect("it has a claim")
        .id
}

/// The last event of a claim and the claim itself, changed together: only the rules can tell.
fn both(history: &mut History, name: &str, change: impl Fn(&mut check::history::ClaimState)) {
    let id = claim_id(history, name);
    let event = history.events.iter_mut().rfind(|event| event.claim == id);
    change(&mut event.expect("it has a history").state);
    let claim = history.claims.iter_mut().find(|claim| claim.id == id);
    change(&mut claim.expect("it was just found").now);
}

const LIES: &[Lie] = &[
    (
        "an address goes to another pod while one has it",
        |history| {
            let used = history
                .spans
                .iter_mut()
                .find(|span| span.state == "in_use" && span.to_ms.is_some());
            let used = used.expect("a pod came and went");
            used.to_ms = used.to_ms.map(|to_ms| to_ms + 1);
        },
        "an address has one holder at a time, and a pod or claim one address",
    ),
    (
        "one pod has two addresses",
        |history| {
            let pods: Vec<_> = history
                .spans
                .iter()
                .filter_map(|span| span.pod.clone())
                .collect();
            let last = history
                .spans
                .iter_mut()
                .rfind(|span| span.pod.is_some())
                .expect("a pod has one");
            last.pod = pods.first().cloned();
        },
        "an address has one holder at a time, and a pod or claim one address",
    ),
    (
        "a span is lost",
        |history| history.spans.retain(|span| span.state != "retained"),
        "an address goes from one state to the next without a gap",
    ),
    (
        "an address is free while its claim is open",
        |history| {
            let retained = history
                .spans
                .iter_mut()
                .filter(|span| span.state == "retained");
            retained.for_each(|span| {
                span.state = "free".into();
                span.claim = None;
                span.eni = None;
            });
        },
        "an address goes from one state to the next without a gap",
    ),
    (
        "an address in use is free later than its ENI was deleted, and did not wait for that",
        |history| {
            let ends = history.eni_ends.values_mut();
            ends.for_each(|end_ms| *end_ms -= 1);
        },
        "an address goes from one state to the next without a gap",
    ),
    (
        "an address is freed before the end of its ENI",
        |history| {
            history
                .eni_ends
                .values_mut()
                .for_each(|end_ms| *end_ms += 1);
        },
        "an address is free after its ENI's deletion",
    ),
    (
        "an address is freed without an end of its ENI",
        |history| history.eni_ends.clear(),
        "an address is free after its ENI's deletion",
    ),
    (
        "an address appears from nowhere",
        |history| history.sizes[0].addresses -= 1,
        "states add up to the pool at every moment",
    ),
    (
        "a row changed without a history",
        |history| history.addresses[0].gen_ += 1,
        "rows equal the replayed history",
    ),
    (
        "a claim's row changed without a history",
        |history| history.claims[0].now.retain_ms += 1,
        "rows equal the replayed history",
    ),
    (
        "time runs backwards",
        |history| history.events.swap(0, 5),
        "recorded time does not run backwards",
    ),
    (
        "a claim ends a millisecond early",
        |history| {
            let closed_ms = history
                .claims
                .iter()
                .find(|claim| claim.key.name == "run-out")
                .and_then(|claim| claim.closed_ms);
            let late_ms = closed_ms.expect("it ran out") + 1;
            let id = claim_id(history, "run-out");
            for event in history.events.iter_mut().filter(|event| event.claim == id) {
                let state = &mut event.state;
                if state.deleted_ms.is_some() {
                    state.deleted_ms = Some(late_ms - state.retain_ms);
                    state.expires_ms = Some(late_ms);
                }
            }
        },
        "a claim does not end early",
    ),
    (
        "a claim ends while a pod that was made in time waits",
        |history| {
            let mut pod = history
                .pods
                .iter()
                .find(|pod| pod.key.name == "run-out")
                .expect("it was accepted")
                .clone();
            pod.uid = "uid-in-time".into();
            pod.let_go_ms = None;
            history.pods.push(pod);
        },
        "a claim does not end early",
    ),
    (
        "a claim ends in its holder's hands",
        |history| {
            let id = claim_id(history, "run-out");
            for event in history
                .events
                .iter_mut()
                .filter(|event| event.claim == id && event.state.closed_why.is_none())
            {
                event.state.holder = Some("uid-5".into());
            }
        },
        "a claim does not end early",
    ),
    (
        "a claim is forgotten for three seconds",
        |history| {
            let id = claim_id(history, "run-out");
            let claim = history
                .claims
                .iter_mut()
                .find(|claim| claim.id == id)
                .expect("it was just found");
            claim.closed_ms = claim.closed_ms.map(|closed| closed + 3000);
        },
        "a claim ends at most two seconds late",
    ),
    (
        "a claim is forgotten for good",
        |history| history.now_ms += 1000 * 3_600_000,
        "a claim ends at most two seconds late",
    ),
    (
        "a claim's clock is set back",
        |history| {
            both(history, "retained", |state| {
                state.deleted_ms = state.deleted_ms.map(|deleted| deleted - 1);
                state.expires_ms = state.expires_ms.map(|expires| expires - 1);
            });
        },
        "a claim's clock starts at the last deletion and only there",
    ),
    (
        "a claim's period changes by itself",
        |history| {
            both(history, "retained", |state| {
                state.retain_ms += 1;
                state.expires_ms = state.expires_ms.map(|expires| expires + 1);
            });
        },
        "a claim's clock starts at the last deletion and only there",
    ),
    (
        "a claim is closed for no reason that is known",
        |history| {
            both(history, "run-out", |state| {
                state.closed_why = Some("tidied up".into());
            });
        },
        "a claim ends before its deadline only by crossing, moving or release",
    ),
    (
        "a claim is released by nobody",
        |history| {
            both(history, "run-out", |state| {
                state.closed_why = Some("released by an operator".into());
            });
        },
        "a claim ends before its deadline only by crossing, moving or release",
    ),
    (
        "a claim moves without a pod",
        |history| history.journal.retain(|entry| entry.what != "forfeited"),
        "a claim ends before its deadline only by crossing, moving or release",
    ),
    (
        "a claim moves because of a pod that stayed",
        |history| {
            history
                .pods
                .iter_mut()
                .filter(|pod| pod.key.name == "moved")
                .for_each(|pod| pod.zone = "b".into());
        },
        "a claim ends before its deadline only by crossing, moving or release",
    ),
    (
        "a claim crosses because of a pod that stayed",
        |history| history.pods.iter_mut().for_each(|pod| pod.is_ecs = false),
        "a claim ends before its deadline only by crossing, moving or release",
    ),
    (
        "a retained address is stolen",
        |history| {
            let thief = history
                .pods
                .iter()
                .find(|pod| pod.key.name == "moved")
                .expect("it was accepted")
                .uid
                .clone();
            let id = claim_id(history, "kept");
            let kept = history
                .spans
                .iter_mut()
                .rfind(|span| span.pod.is_some() && span.claim == Some(id));
            kept.expect("a claim is held").pod = Some(thief);
        },
        "a claim is answered with its own address until its deadline",
    ),
    (
        "a key is answered with another address before its deadline",
        |history| {
            let id = claim_id(history, "moved");
            let claim = history
                .claims
                .iter_mut()
                .find(|claim| claim.id == id)
                .expect("it was just found");
            claim.closed_ms = claim.closed_ms.map(|closed| closed + 1);
        },
        "a claim is answered with its own address until its deadline",
    ),
    (
        "an ordinary pod gets a claimed address",
        |history| {
            history
                .pods
                .iter_mut()
                .filter(|pod| pod.key.name == "kept")
                .for_each(|pod| pod.is_fixed = false);
        },
        "a claim is answered with its own address until its deadline",
    ),
    (
        "an address is given back after its end",
        |history| {
            let id = claim_id(history, "kept");
            let of_claim = history.events.iter_mut().filter(|event| event.claim == id);
            for event in of_claim.filter(|event| event.state.deleted_ms.is_some()) {
                event.state.retain_ms = 0;
                event.state.expires_ms = event.state.deleted_ms;
            }
        },
        "a claim is answered with its own address until its deadline",
    ),
    (
        "a key has two claims at once",
        |history| {
            let id = claim_id(history, "moved");
            let claim = history
                .claims
                .iter_mut()
                .find(|claim| claim.id == id)
                .expect("it was just found");
            claim.closed_ms = None;
        },
        "a key has one open claim at a time",
    ),
];

#[test]
fn every_falsified_history_is_found_out() {
    let world = lived();
    let honest = world.ledger.history().unwrap();
    assert_eq!(check::history::check(&honest), []);
    for (name, lie, rule) in LIES {
        let mut history = honest.clone();
        lie(&mut history);
        let found = check::history::check(&history);
        assert!(rules(&found).contains(rule), "{name}\n{found:#?}");
    }
}

#[test]
fn every_rule_of_the_history_is_broken_by_a_test() {
    let tested: BTreeSet<&str> = LIES.iter().map(|(.., rule)| *rule).collect();
    let all: BTreeSet<&str> = check::history::RULES.into_iter().collect();
    assert_eq!(tested, all);
}

#[test]
fn a_key_that_crosses_within_a_millisecond_is_not_accused() {
    let mut world = World::new();
    for node_type in [NodeType::Ecs, NodeType::Acs] {
        world.api.clear();
        world.create(&Wish {
            node_type,
            ..fixed("web-0")
        });
    }
    assert_eq!(world.ledger.check().unwrap(), []);
}

#[test]
fn a_pod_that_comes_in_the_millisecond_of_the_end_is_not_called_one_in_time() {
    let mut world = World::new();
    let hour = Wish {
        hours: Some(1),
        ..fixed("web-0")
    };
    let pod = world.create(&hour);
    world.vanish_unseen(&pod);
    world.pass(SignedDuration::from_millis(1));
    world.list();
    world.pass(HOUR);
    assert!(world.claims().is_empty());
    world.create(&hour);
    assert_eq!(world.ledger.check().unwrap(), []);
}
