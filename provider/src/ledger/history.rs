//! What became of an address or of a key: the recorded past, as far as it is kept.
//!
//! Reads what was recorded with each change. Where nothing was recorded the answer is that nothing
//! is known, never that there was nobody.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use rusqlite::{Params, Result, Row};
use serde::Serialize;

use crate::id::{ClusterId, EniId, PodKey, PodUid, VSwitchId};
use crate::ledger::op::time;
use crate::ledger::{Error, Reader};
use crate::sql::Tx;

/// The past of an address or of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct History {
    /// Nothing is missing from here on.
    pub complete_from: Timestamp,
    /// The claims, oldest first.
    pub claims: Vec<PastClaim>,
    /// What the addresses did, oldest first.
    pub spans: Vec<Span>,
}

/// A time in which an address did one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Which address.
    pub address: Ipv4Addr,
    /// Its vSwitch.
    pub vswitch: VSwitchId,
    /// `free`, `in_use`, `retained`, `detaching` or `excluded`.
    pub state: String,
    /// The pod, or the key it is kept for.
    pub pod: Option<PodKey>,
    /// UID of the pod.
    pub uid: Option<PodUid>,
    /// Its ENI, once the cloud had named it.
    pub eni: Option<EniId>,
    /// Since when.
    pub from: Timestamp,
    /// Until when; `None`: still.
    pub to: Option<Timestamp>,
    /// Why it began.
    pub why: String,
}

/// A claim, open or closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PastClaim {
    /// The cluster of its key.
    pub cluster: ClusterId,
    /// Its key.
    #[serde(flatten)]
    pub key: PodKey,
    /// Its address.
    pub address: Ipv4Addr,
    /// When it began.
    pub opened_at: Timestamp,
    /// When it ended.
    pub closed_at: Option<Timestamp>,
    /// Why it ended.
    pub closed_why: Option<String>,
    /// The words of the operator who released it.
    pub reason: Option<String>,
    /// Its steps, oldest first.
    pub events: Vec<ClaimEvent>,
}

/// A step of a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClaimEvent {
    /// When it was written down.
    pub at: Timestamp,
    /// What it was.
    pub step: ClaimStep,
    /// The pod that has the claim from then on.
    pub holder: Option<PodUid>,
    /// When its clock started, if it runs.
    pub deleted_at: Option<Timestamp>,
    /// When it ends by itself, if its clock runs.
    pub expires_at: Option<Timestamp>,
}

/// The steps of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClaimStep {
    /// It began, with its first pod.
    Opened,
    /// A pod was deleted, so its clock started, or started anew.
    Deleted,
    /// Its pod is gone and detached: it is retained.
    Retained,
    /// A later pod of the key has taken it over.
    Reused,
    /// It ended.
    Closed,
}

impl ClaimStep {
    /// The name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Deleted => "deleted",
            Self::Retained => "retained",
            Self::Reused => "reused",
            Self::Closed => "closed",
        }
    }
}

/// Who had an address at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Who {
    /// Which address.
    pub address: Ipv4Addr,
    /// When.
    pub at: Timestamp,
    /// The answer.
    pub answer: Answer,
    /// Why nothing is known.
    pub unknown: Option<Unknown>,
    /// What the address did then; its pod had it, or it was kept for its key.
    pub span: Option<Span>,
}

/// Whether somebody had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// A pod.
    Pod,
    /// No pod.
    Nobody,
    /// The ledger cannot tell.
    Unknown,
}

/// Why the ledger cannot tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "because", content = "at", rename_all = "snake_case")]
pub enum Unknown {
    /// It was before the history that is kept, which begins then.
    BeforeHistory(Timestamp),
    /// It was not in the pool of any vSwitch.
    NotInPool,
    /// It has not come yet: this is now.
    Future(Timestamp),
}

impl Reader {
    /// What became of an address. Empty when it never was in the pool.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn history_of_address(&self, address: Ipv4Addr) -> std::result::Result<History, Error> {
        self.read("read the history of an address", |tx| {
            let address = u32::from(address);
            Ok(History {
                complete_from: complete_from(tx)?,
                claims: claims(tx, "s.addr = ?1", [address])?,
                spans: spans(tx, "s.addr = ?1", [address])?,
            })
        })
    }

    /// What became of the pods of a key and of their addresses, in all clusters that the ledger
    /// has served. Empty when there were none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn history_of_key(&self, key: &PodKey) -> std::result::Result<History, Error> {
        self.read("read the history of a pod", |tx| {
            let of_key = (&*key.namespace, &*key.name);
            Ok(History {
                complete_from: complete_from(tx)?,
                claims: claims(tx, "c.namespace = ?1 AND c.name = ?2", of_key)?,
                spans: spans(
                    tx,
                    // By the ENI, so that it is told too what became of the address: it waits for the
                    // deletion, or it is free at once and has none any more.
                    "s.rowid IN (WITH own AS (SELECT rowid AS span, vswitch, addr, gen, state, to_ms FROM address_span \
                     WHERE eni IN (SELECT s.eni FROM address_span s LEFT JOIN claim c ON c.id = s.claim \
                     LEFT JOIN pod_log p ON p.uid = s.pod \
                     WHERE (c.namespace = ?1 AND c.name = ?2) OR (p.namespace = ?1 AND p.name = ?2))) \
                     SELECT span FROM own UNION SELECT next.rowid FROM own JOIN address_span next \
                     ON next.vswitch = own.vswitch AND next.addr = own.addr AND next.from_ms = own.to_ms \
                     AND next.gen = own.gen + 1 WHERE own.state <> 'detaching' AND next.eni IS NULL)",
                    of_key,
                )?,
            })
        })
    }

    /// Who had an address at a moment. `now` is the wall clock.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn who(
        &self,
        address: Ipv4Addr,
        at: Timestamp,
        now: Timestamp,
    ) -> std::result::Result<Who, Error> {
        self.read("look who had an address", |tx| {
            let unknown = |because| Who {
                address,
                at,
                answer: Answer::Unknown,
                unknown: Some(because),
                span: None,
            };
            if at > self::now(tx, now)? {
                return Ok(unknown(Unknown::Future(now)));
            }
            let from = complete_from(tx)?;
            if at < from {
                return Ok(unknown(Unknown::BeforeHistory(from)));
            }
            let found = spans(
                tx,
                "s.addr = ?1 AND s.from_ms <= ?2 AND (s.to_ms IS NULL OR s.to_ms > ?2)",
                (u32::from(address), at.as_millisecond()),
            )?;
            let Some(span) = found.into_iter().next_back() else {
                return Ok(unknown(Unknown::NotInPool));
            };
            Ok(Who {
                answer: if span.state == "in_use" {
                    Answer::Pod
                } else {
                    Answer::Nobody
                },
                span: Some(span),
                address,
                at,
                unknown: None,
            })
        })
    }
}

/// A file that no process has used yet has no past at all.
fn complete_from(tx: &Tx<'_>) -> Result<Timestamp> {
    let from = tx.row("SELECT history_from_ms FROM ledger", [], |row| row.get(0))?;
    Ok(from.map_or(Timestamp::MAX, time))
}

/// Ledger time by the wall clock `wall`.
pub(super) fn now(tx: &Tx<'_>, wall: Timestamp) -> Result<Timestamp> {
    let last = tx.row("SELECT last_ms FROM ledger", [], |row| row.get(0))?;
    Ok(last.map_or(wall, |last| wall.max(time(last))))
}

/// The spans for which `condition` holds, by time.
fn spans(tx: &Tx<'_>, condition: &str, params: impl Params) -> Result<Vec<Span>> {
    let sql = format!(
        "SELECT s.addr, v.name, s.state, coalesce(c.namespace, p.namespace), \
         coalesce(c.name, p.name), s.pod, coalesce(e.eni_id, gone.eni_id), s.from_ms, s.to_ms, s.why \
         FROM address_span s JOIN vswitch v ON v.id = s.vswitch LEFT JOIN claim c ON c.id = s.claim \
         LEFT JOIN pod_log p ON p.uid = s.pod LEFT JOIN eni e ON e.id = s.eni \
         LEFT JOIN eni_end gone ON gone.eni = s.eni \
         WHERE {condition} ORDER BY s.from_ms, s.vswitch, s.addr, s.gen"
    );
    tx.rows(&sql, params, |row| {
        let namespace: Option<String> = row.get(3)?;
        let name: Option<String> = row.get(4)?;
        Ok(Span {
            address: Ipv4Addr::from(row.get::<_, u32>(0)?),
            vswitch: row.get::<_, String>(1)?.into(),
            state: row.get(2)?,
            pod: namespace
                .zip(name)
                .map(|(namespace, name)| PodKey::new(&namespace, &name)),
            uid: row.get::<_, Option<String>>(5)?.map(Into::into),
            eni: row.get::<_, Option<String>>(6)?.map(Into::into),
            from: time(row.get(7)?),
            to: optional_time(row, 8)?,
            why: row.get(9)?,
        })
    })
}

/// The claims for which `condition` holds, by time. A claim has one address all its life.
fn claims(tx: &Tx<'_>, condition: &str, params: impl Params) -> Result<Vec<PastClaim>> {
    let sql = format!(
        "SELECT DISTINCT c.id, c.cluster, c.namespace, c.name, s.addr, c.opened_ms, c.closed_ms, \
         c.closed_why, (SELECT j.detail FROM journal j WHERE j.claim = c.id AND j.what = 'released') \
         FROM claim c JOIN address_span s ON s.claim = c.id \
         WHERE {condition} ORDER BY c.opened_ms, c.id"
    );
    let found = tx.rows(&sql, params, |row| {
        let claim = PastClaim {
            cluster: row.get::<_, String>(1)?.into(),
            key: PodKey::new(&row.get::<_, String>(2)?, &row.get::<_, String>(3)?),
            address: Ipv4Addr::from(row.get::<_, u32>(4)?),
            opened_at: time(row.get(5)?),
            closed_at: optional_time(row, 6)?,
            closed_why: row.get(7)?,
            reason: row.get(8)?,
            events: Vec::new(),
        };
        Ok((row.get::<_, i64>(0)?, claim))
    })?;
    found
        .into_iter()
        .map(|(id, claim)| {
            Ok(PastClaim {
                events: events(tx, id)?,
                ..claim
            })
        })
        .collect()
}

fn events(tx: &Tx<'_>, claim: i64) -> Result<Vec<ClaimEvent>> {
    let rows = tx.rows(
        "SELECT at_ms, holder, deleted_ms, expires_ms, closed_why IS NOT NULL \
         FROM claim_event WHERE claim = ?1 ORDER BY rowid",
        [claim],
        |row| {
            let event = ClaimEvent {
                at: time(row.get(0)?),
                step: ClaimStep::Opened,
                holder: row.get::<_, Option<String>>(1)?.map(Into::into),
                deleted_at: optional_time(row, 2)?,
                expires_at: optional_time(row, 3)?,
            };
            Ok((event, row.get::<_, bool>(4)?))
        },
    )?;
    let mut events: Vec<ClaimEvent> = Vec::with_capacity(rows.len());
    for (mut event, closed) in rows {
        if let Some(before) = events.last() {
            event.step = match (closed, before.holder == event.holder, &event.holder) {
                (true, ..) => ClaimStep::Closed,
                (false, true, _) => ClaimStep::Deleted,
                (false, false, Some(_)) => ClaimStep::Reused,
                (false, false, None) => ClaimStep::Retained,
            };
        }
        events.push(event);
    }
    Ok(events)
}

fn optional_time(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(time))
}
