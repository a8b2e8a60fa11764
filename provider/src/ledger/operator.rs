//! What an operator changes in a ledger file by hand, whether a process runs on it or not.
//!
//! One change is one transaction on a connection of its own, without the lock of a running
//! process, which notices within a second. Calls no cloud: what is to be done there is an intent
//! in the rows, settled by the process that runs or by the next one.

use std::net::Ipv4Addr;
use std::path::Path;

use jiff::Timestamp;
use rusqlite::Connection;
use serde::Serialize;

use crate::id::{ClusterId, EniId, PodKey, PodUid, VSwitchId};
use crate::ledger::journal::{self, word};
use crate::ledger::{self, open, release};
use crate::policy::eni::State;
use crate::policy::retained::Close;
use crate::sql::Tx;

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to release.
    #[error("there is no open claim of {key}: `holdfast claims` lists those that there are")]
    NoClaim {
        /// The key that was named.
        key: PodKey,
    },
    /// The ledger has served several clusters, and more than one has this key.
    #[error("clusters {clusters} each have a claim of {key}: say which one with --cluster")]
    Ambiguous {
        /// The key that was named.
        key: PodKey,
        /// The clusters.
        clusters: String,
    },
    /// A pod has the address.
    #[error(
        "{address} is in use by {key} (uid {holder}): delete the pod first; or end the claim with --force, and the pod keeps the address as an ordinary one until it goes"
    )]
    InUse {
        /// Its key.
        key: PodKey,
        /// Its address.
        address: Ipv4Addr,
        /// Its UID.
        holder: PodUid,
    },
    /// The file cannot be used.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
}

/// A claim to end before its time.
#[derive(Clone, Debug)]
pub struct Release<'a> {
    /// Whose.
    pub key: &'a PodKey,
    /// Of which cluster; needed only when the ledger has the key for several.
    pub cluster: Option<&'a ClusterId>,
    /// The operator's words for the history.
    pub reason: Option<&'a str>,
    /// Whether the claim of a pod that is there ends too.
    pub force: bool,
}

/// A claim that was ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Released {
    /// The cluster of its key.
    pub cluster: ClusterId,
    /// Its key.
    #[serde(flatten)]
    pub key: PodKey,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its ENI.
    pub eni: Option<EniId>,
    /// The vSwitch of the address.
    pub vswitch: VSwitchId,
    /// The pod that keeps the address, as an ordinary one. `None`: the address is free once its
    /// ENI is deleted.
    pub kept_by: Option<PodUid>,
}

/// A connection for changes by hand.
pub struct Operator {
    conn: Connection,
}

/// An open claim, as far as its end is concerned.
struct Open {
    claim: i64,
    eni: i64,
    eni_state: State,
    holder: Option<PodUid>,
    /// The holder has succeeded or failed, and stays in the API.
    ended: bool,
    released: Released,
}

impl Operator {
    /// Opens the file at `path`, beside a process that may run on it.
    ///
    /// # Errors
    /// When there is no such file, or another version of holdfast wrote it.
    pub fn open(path: &Path) -> Result<Self, ledger::Error> {
        Ok(Self {
            conn: open::writer(path)?,
        })
    }

    /// Ends a claim. A retained address is free once its ENI is deleted; one that a pod has stays
    /// that pod's. `wall` is the wall clock.
    ///
    /// # Errors
    /// When there is no such claim, when a pod has its address and `force` is not set, or when the
    /// file cannot be written. Nothing is changed then.
    pub fn release(&mut self, wall: Timestamp, what: &Release<'_>) -> Result<Released, Error> {
        open::change(&mut self.conn, wall, |tx, now| {
            let claim = find(tx, what)?;
            if let Some(holder) = claim.holder.clone().filter(|_| !what.force) {
                return Err(Error::InUse {
                    key: what.key.clone(),
                    address: claim.released.address,
                    holder,
                });
            }
            let entry = journal::Entry {
                what: word::RELEASED,
                detail: what.reason,
                claim: Some(claim.claim),
                pod: None,
            };
            let released = journal::write(tx, now, wall, entry).and_then(|()| end(tx, now, claim));
            Ok(released.map_err(ledger::Error::sql("release an address"))?)
        })
    }
}

fn find(tx: &Tx<'_>, what: &Release<'_>) -> Result<Open, Error> {
    let found = tx
        .rows(
            "SELECT c.id, c.cluster, c.holder, a.eni, a.addr, e.eni_id, e.state, v.name, \
             p.ended_ms IS NOT NULL \
             FROM claim c JOIN address a ON a.claim = c.id JOIN eni e ON e.id = a.eni \
             JOIN vswitch v ON v.id = a.vswitch LEFT JOIN pod p ON p.uid = c.holder \
             WHERE c.namespace = ?1 AND c.name = ?2 AND c.closed_ms IS NULL ORDER BY c.cluster",
            (&*what.key.namespace, &*what.key.name),
            |row| {
                Ok(Open {
                    claim: row.get(0)?,
                    eni: row.get(3)?,
                    eni_state: State::parse(row.get::<_, Option<String>>(6)?.as_deref()),
                    holder: row.get::<_, Option<String>>(2)?.map(Into::into),
                    ended: row.get(8)?,
                    released: Released {
                        cluster: row.get::<_, String>(1)?.into(),
                        key: what.key.clone(),
                        address: Ipv4Addr::from(row.get::<_, u32>(4)?),
                        eni: row.get::<_, Option<String>>(5)?.map(Into::into),
                        vswitch: row.get::<_, String>(7)?.into(),
                        kept_by: None,
                    },
                })
            },
        )
        .map_err(ledger::Error::sql("look for a claim"))?;
    let mut found: Vec<Open> = found
        .into_iter()
        .filter(|open| {
            what.cluster
                .is_none_or(|cluster| *cluster == open.released.cluster)
        })
        .collect();
    if found.len() > 1 {
        let clusters: Vec<_> = found
            .iter()
            .map(|open| open.released.cluster.as_str())
            .collect();
        return Err(Error::Ambiguous {
            key: what.key.clone(),
            clusters: clusters.join(" and "),
        });
    }
    found.pop().ok_or_else(|| Error::NoClaim {
        key: what.key.clone(),
    })
}

fn end(tx: &Tx<'_>, now: Timestamp, claim: Open) -> rusqlite::Result<Released> {
    let why = Close::Released.as_str();
    release::close(tx, now, claim.claim, why)?;
    // An ordinary pod that has ended holds nothing either.
    let lets_go = claim.holder.is_none() || (claim.ended && !claim.eni_state.is_attached());
    if lets_go {
        release::give_up(tx, now, claim.eni, why)?;
        return Ok(claim.released);
    }
    tx.execute(
        "UPDATE address SET claim = NULL, gen = gen + 1, since_ms = ?2, why = ?3 WHERE claim = ?1",
        (claim.claim, now.as_millisecond(), why),
    )?;
    tx.execute(
        "UPDATE pod SET hours = NULL WHERE uid = ?1",
        [claim.holder.as_ref().map(PodUid::as_str)],
    )?;
    Ok(Released {
        kept_by: claim.holder,
        ..claim.released
    })
}
