//! The recorded history out of the file.

use rusqlite::Result;

use crate::check::history::{
    AddressNow, Claim, ClaimEvent, ClaimState, Entry, History, Key, Pod, Size, Span,
};
use crate::ledger::journal::word;
use crate::sql::Tx;

impl History {
    /// Reads everything that was recorded and not pruned, in the order of its recording.
    pub(crate) fn read(tx: &Tx<'_>) -> Result<Self> {
        let (from_ms, now_ms) = tx
            .row("SELECT history_from_ms, last_ms FROM ledger", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .unwrap_or_default();
        // Older records lack half of what is needed; the instant itself has both kinds.
        let recording: Option<i64> = tx
            .row(
                "SELECT max(at_ms) + 1 FROM journal WHERE what = ?1",
                [word::RECORDING],
                |row| row.get(0),
            )?
            .flatten();
        Ok(Self {
            from_ms: recording.map_or(from_ms, |recording| recording.max(from_ms)),
            now_ms,
            sizes: sizes(tx)?,
            spans: spans(tx)?,
            claims: claims(tx)?,
            events: events(tx)?,
            pods: pods(tx)?,
            eni_ends: tx
                .rows("SELECT eni, at_ms FROM eni_end", [], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?
                .into_iter()
                .collect(),
            journal: journal(tx)?,
            addresses: addresses(tx)?,
        })
    }
}

fn sizes(tx: &Tx<'_>) -> Result<Vec<Size>> {
    tx.rows(
        "SELECT vswitch, at_ms, name, zone, \
         active * max(0, (1 << (32 - substr(cidr, instr(cidr, '/') + 1))) - 4) \
         FROM vswitch_event ORDER BY rowid",
        [],
        |row| {
            Ok(Size {
                vswitch: row.get(0)?,
                at_ms: row.get(1)?,
                name: row.get(2)?,
                zone: row.get(3)?,
                addresses: row.get(4)?,
            })
        },
    )
}

fn spans(tx: &Tx<'_>) -> Result<Vec<Span>> {
    tx.rows(
        "SELECT vswitch, addr, state, claim, pod, eni, gen, from_ms, to_ms \
         FROM address_span ORDER BY rowid",
        [],
        |row| {
            Ok(Span {
                vswitch: row.get(0)?,
                addr: row.get(1)?,
                state: row.get(2)?,
                claim: row.get(3)?,
                pod: row.get(4)?,
                eni: row.get(5)?,
                gen_: row.get(6)?,
                from_ms: row.get(7)?,
                to_ms: row.get(8)?,
            })
        },
    )
}

fn addresses(tx: &Tx<'_>) -> Result<Vec<AddressNow>> {
    tx.rows(
        "SELECT vswitch, addr, state, claim, pod, eni, gen FROM address",
        [],
        |row| {
            Ok(AddressNow {
                vswitch: row.get(0)?,
                addr: row.get(1)?,
                state: row.get(2)?,
                claim: row.get(3)?,
                pod: row.get(4)?,
                eni: row.get(5)?,
                gen_: row.get(6)?,
            })
        },
    )
}

fn key(row: &rusqlite::Row<'_>, first: usize) -> Result<Key> {
    Ok(Key {
        cluster: row.get(first)?,
        namespace: row.get(first + 1)?,
        name: row.get(first + 2)?,
    })
}

fn claims(tx: &Tx<'_>) -> Result<Vec<Claim>> {
    tx.rows(
        "SELECT id, opened_ms, closed_ms, holder, retain_ms, deleted_ms, expires_ms, closed_why, \
         cluster, namespace, name FROM claim",
        [],
        |row| {
            Ok(Claim {
                id: row.get(0)?,
                opened_ms: row.get(1)?,
                closed_ms: row.get(2)?,
                now: claim_state(row, 3)?,
                key: key(row, 8)?,
            })
        },
    )
}

fn claim_state(row: &rusqlite::Row<'_>, first: usize) -> Result<ClaimState> {
    Ok(ClaimState {
        holder: row.get(first)?,
        retain_ms: row.get(first + 1)?,
        deleted_ms: row.get(first + 2)?,
        expires_ms: row.get(first + 3)?,
        closed_why: row.get(first + 4)?,
    })
}

fn events(tx: &Tx<'_>) -> Result<Vec<ClaimEvent>> {
    tx.rows(
        "SELECT claim, at_ms, holder, retain_ms, deleted_ms, expires_ms, closed_why \
         FROM claim_event ORDER BY rowid",
        [],
        |row| {
            Ok(ClaimEvent {
                claim: row.get(0)?,
                at_ms: row.get(1)?,
                state: claim_state(row, 2)?,
            })
        },
    )
}

fn pods(tx: &Tx<'_>) -> Result<Vec<Pod>> {
    tx.rows(
        "SELECT uid, node_type, zone, hours, vswitches, created_ms, accepted_ms, let_go_ms, \
         cluster, namespace, name FROM pod_log",
        [],
        |row| {
            Ok(Pod {
                uid: row.get(0)?,
                is_ecs: row.get::<_, String>(1)? == "ecs",
                zone: row.get(2)?,
                is_fixed: row.get::<_, Option<u32>>(3)?.is_some(),
                vswitches: row.get(4)?,
                created_ms: row.get(5)?,
                accepted_ms: row.get(6)?,
                let_go_ms: row.get(7)?,
                key: key(row, 8)?,
            })
        },
    )
}

fn journal(tx: &Tx<'_>) -> Result<Vec<Entry>> {
    tx.rows(
        "SELECT at_ms, clock_ms, what, detail, claim, pod FROM journal ORDER BY seq",
        [],
        |row| {
            Ok(Entry {
                at_ms: row.get(0)?,
                clock_ms: row.get(1)?,
                what: row.get(2)?,
                detail: row.get(3)?,
                claim: row.get(4)?,
                pod: row.get(5)?,
            })
        },
    )
}
