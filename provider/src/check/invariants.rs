//! What must hold between the rows after every commit, one query each.
//!
//! A query lists what contradicts it: an address, if it is about one, and the rest of a sentence.

use std::net::Ipv4Addr;

use rusqlite::Result;

use crate::check::{LEAKED, Violation};
use crate::sql::Tx;

/// Name and query.
type Invariant = (&'static str, &'static str);

/// Looks at the rows.
pub(crate) fn invariants(tx: &Tx<'_>) -> Result<Vec<Violation>> {
    run(tx, INVARIANTS)
}

/// Looks at the file: every page, index and constraint.
pub(crate) fn file(tx: &Tx<'_>) -> Result<Vec<Violation>> {
    run(tx, FILE)
}

fn run(tx: &Tx<'_>, invariants: &[Invariant]) -> Result<Vec<Violation>> {
    let mut found = Vec::new();
    for (rule, sql) in invariants {
        let what = tx.rows(sql, [], |row| {
            let text: String = row.get(1)?;
            Ok(match row.get::<_, Option<u32>>(0)? {
                Some(addr) => format!("{} {text}", Ipv4Addr::from(addr)),
                None => text,
            })
        })?;
        found.extend(what.into_iter().map(|what| Violation {
            rule: (*rule).into(),
            what,
        }));
    }
    Ok(found)
}

/// The names, for the test that each is broken once.
#[cfg(test)]
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    INVARIANTS.iter().map(|(rule, _)| *rule)
}

const FILE: &[Invariant] = &[
    (
        "the file is whole",
        "SELECT NULL, integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok' LIMIT 20",
    ),
    (
        "no row refers to a missing one",
        "SELECT NULL, 'a row of ' || \"table\" || ' refers to a missing row of ' || parent \
         FROM pragma_foreign_key_check",
    ),
];

const INVARIANTS: &[Invariant] = &[
    (
        "a pod has one address",
        "SELECT min(addr), 'and ' || (count(*) - 1) || ' more belong to pod ' || pod \
         FROM address WHERE pod IS NOT NULL GROUP BY pod HAVING count(*) > 1",
    ),
    (
        "a claim has one address",
        "SELECT min(addr), 'and ' || (count(*) - 1) || ' more belong to claim ' || claim \
         FROM address WHERE claim IS NOT NULL GROUP BY claim HAVING count(*) > 1",
    ),
    (
        "a key has one open claim",
        "SELECT NULL, namespace || '/' || name || ' has ' || count(*) || ' open claims' \
         FROM claim WHERE closed_ms IS NULL GROUP BY cluster, namespace, name HAVING count(*) > 1",
    ),
    (
        "an open claim has an address, and a closed one has none",
        "SELECT NULL, 'open claim ' || c.id || ' of ' || c.namespace || '/' || c.name || ' has no address' \
         FROM claim c LEFT JOIN address a ON a.claim = c.id WHERE c.closed_ms IS NULL AND a.addr IS NULL \
         UNION ALL \
         SELECT a.addr, 'belongs to claim ' || a.claim || ', which is closed or missing' \
         FROM address a LEFT JOIN claim c ON c.id = a.claim \
         WHERE a.claim IS NOT NULL AND (c.id IS NULL OR c.closed_ms IS NOT NULL)",
    ),
    (
        "the holder of a claim is the pod that has its address",
        "SELECT a.addr, 'is with pod ' || ifnull(a.pod, 'none') || ', but its claim with ' || ifnull(c.holder, 'none') \
         FROM address a JOIN claim c ON c.id = a.claim WHERE a.pod IS NOT c.holder",
    ),
    (
        "what is retained has a deadline, its period after the deletion",
        "SELECT a.addr, 'is retained without an end' FROM address a LEFT JOIN claim c ON c.id = a.claim \
         WHERE a.state = 'retained' AND c.expires_ms IS NULL \
         UNION ALL \
         SELECT NULL, 'claim ' || id || ' of ' || namespace || '/' || name || ' ends at another time than its deletion and period give' \
         FROM claim WHERE expires_ms IS NOT deleted_ms + retain_ms AND deleted_ms IS NOT NULL AND closed_ms IS NULL",
    ),
    (
        "a free address belongs to nobody",
        "SELECT addr, 'is ' || state || ' and yet somebody''s' FROM address \
         WHERE state IN ('free', 'excluded') AND (claim IS NOT NULL OR pod IS NOT NULL OR eni IS NOT NULL)",
    ),
    (
        "an address that is not free has its ENI, and an ENI its address",
        "SELECT a.addr, 'is ' || a.state || ' and has no ENI of its own' \
         FROM address a LEFT JOIN eni e ON e.id = a.eni AND e.vswitch = a.vswitch AND e.addr = a.addr \
         WHERE a.state NOT IN ('free', 'excluded') AND e.id IS NULL \
         UNION ALL \
         SELECT e.addr, 'is not held by ENI ' || e.id || ', which is made for it' \
         FROM eni e LEFT JOIN address a ON a.eni = e.id WHERE a.addr IS NULL \
         UNION ALL \
         SELECT e.addr, 'has ENI ' || e.id || ', which has ended' FROM eni e JOIN eni_end n ON n.eni = e.id",
    ),
    (
        "an ENI has an id and a MAC of its own",
        "SELECT min(addr), 'and ' || (count(*) - 1) || ' more have the ENI ' || eni_id \
         FROM eni WHERE eni_id IS NOT NULL GROUP BY eni_id HAVING count(*) > 1 \
         UNION ALL \
         SELECT min(addr), 'and ' || (count(*) - 1) || ' more have an ENI with MAC ' || mac \
         FROM eni WHERE mac IS NOT NULL GROUP BY mac HAVING count(*) > 1",
    ),
    (
        "an ENI becomes what its address is for",
        "SELECT a.addr, 'is ' || a.state || ', but its ENI is to become ' || e.target \
         FROM address a JOIN eni e ON e.id = a.eni LEFT JOIN pod p ON p.uid = a.pod \
         WHERE e.target <> CASE a.state WHEN 'retained' THEN 'Available' WHEN 'detaching' THEN 'Gone' \
           ELSE iif(coalesce(p.stopped_ms, p.ended_ms, p.gone_ms) IS NULL, 'InUse', 'Available') END",
    ),
    (
        "a pod and its address have the same ENI",
        "SELECT a.addr, 'is with pod ' || a.pod || ', which is unknown or has another ENI' \
         FROM address a LEFT JOIN pod p ON p.uid = a.pod WHERE a.pod IS NOT NULL AND p.eni IS NOT a.eni \
         UNION ALL \
         SELECT a.addr, 'has the ENI of pod ' || p.uid || ', which does not hold it' \
         FROM pod p LEFT JOIN address a ON a.eni = p.eni \
         WHERE p.eni IS NOT NULL AND a.pod IS NOT p.uid AND a.state IS NOT 'detaching'",
    ),
    (
        "a claim serves its own key, for pods that ask for it",
        "SELECT a.addr, 'is claimed by ' || c.namespace || '/' || c.name || ' and with ' || p.namespace || '/' || p.name \
         FROM address a JOIN claim c ON c.id = a.claim JOIN pod p ON p.uid = a.pod \
         WHERE (c.cluster, c.namespace, c.name) <> (p.cluster, p.namespace, p.name) \
         UNION ALL \
         SELECT a.addr, iif(a.claim IS NULL, 'is not claimed', 'is claimed') || ' for pod ' || p.uid || ' on ' || p.node_type \
           || iif(p.hours IS NULL, ' without', ' with') || ' a fixed address' \
         FROM address a JOIN pod p ON p.uid = a.pod \
         WHERE (a.claim IS NOT NULL) <> (p.hours IS NOT NULL AND p.node_type = 'acs') \
         AND NOT EXISTS (SELECT 1 FROM claim r WHERE (r.cluster, r.namespace, r.name) = (p.cluster, p.namespace, p.name) \
           AND r.closed_why = 'released by an operator' AND r.closed_ms >= p.accepted_ms)",
    ),
    (
        "the pool has the addresses of its CIDR",
        "SELECT NULL, v.name || ' has ' || count(a.addr) || ' addresses, and ' || v.cidr || ' has ' || v.size \
         FROM (SELECT *, active * max(0, (1 << (32 - substr(cidr, instr(cidr, '/') + 1))) - 4) AS size FROM vswitch) v \
         LEFT JOIN address a ON a.vswitch = v.id GROUP BY v.id HAVING count(a.addr) <> v.size",
    ),
    (
        "the open span of an address equals its row",
        "SELECT a.addr, 'has a row that its history does not end with' \
         FROM address a LEFT JOIN address_span s ON s.vswitch = a.vswitch AND s.addr = a.addr AND s.to_ms IS NULL \
         WHERE (a.state, a.claim, a.pod, a.eni, a.gen, a.since_ms) IS NOT (s.state, s.claim, s.pod, s.eni, s.gen, s.from_ms) \
         UNION ALL \
         SELECT s.addr, 'has an open span and no row' \
         FROM address_span s LEFT JOIN address a ON a.vswitch = s.vswitch AND a.addr = s.addr \
         WHERE s.to_ms IS NULL AND a.addr IS NULL",
    ),
    (
        "every pod is in the log as long as it holds on",
        "SELECT NULL, 'pod ' || p.uid || ' is not in the log, or has let go there' \
         FROM pod p LEFT JOIN pod_log l ON l.created_ms = p.created_ms AND l.uid = p.uid AND l.let_go_ms IS NULL WHERE l.uid IS NULL \
         UNION ALL \
         SELECT NULL, 'pod ' || l.uid || ' has not let go in the log, and has no row' \
         FROM pod_log l LEFT JOIN pod p ON p.uid = l.uid WHERE l.let_go_ms IS NULL AND p.uid IS NULL",
    ),
    (
        "nothing is later than the last commit",
        "SELECT addr, 'changed at a time that is still to come' FROM address, ledger WHERE since_ms > last_ms \
         UNION ALL \
         SELECT NULL, 'claim ' || claim || ' changed at a time that is still to come' \
         FROM claim_event, ledger WHERE at_ms > last_ms",
    ),
    (
        LEAKED,
        "SELECT NULL, s.address || ' has ' || s.eni_id || ' in the cloud, of which the ledger knows nothing' \
         FROM sim_eni s LEFT JOIN eni e ON e.token = s.token \
           AND s.address = printf('%d.%d.%d.%d', e.addr >> 24, (e.addr >> 16) & 255, (e.addr >> 8) & 255, e.addr & 255) \
         WHERE e.id IS NULL",
    ),
    (
        "an ENI in use is attached in the cloud",
        "SELECT e.addr, 'is in use by ' || e.instance || ', to which the cloud has attached nothing' \
         FROM eni e LEFT JOIN sim_eni s ON s.token = e.token AND s.instance = e.instance AND s.state = 'InUse' \
         WHERE e.state = 'InUse' AND e.target = 'InUse' AND s.serial IS NULL",
    ),
];
