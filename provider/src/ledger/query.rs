//! What people and scripts ask of a ledger file, whether a process runs on it or not.
//!
//! Reads on a connection that can only read. Changes nothing.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Mutex;

use jiff::Timestamp;
use rusqlite::{Connection, Result, Row};
use serde::Serialize;

use crate::check::cluster::{Holder, Holders, Leak};
use crate::check::{self, Violation};
use crate::id::{ClusterId, EniId, NodeName, PodKey, PodUid, SecurityGroupId, VSwitchId, Zone};
use crate::ledger::faults::{self, FaultRow};
use crate::ledger::op::{self, time};
use crate::ledger::{Error, open, pool};
use crate::policy::pool::{Counts, NextRelease};
use crate::policy::retention;
use crate::sql::Tx;

/// A read-only view of a ledger file.
pub struct Reader {
    conn: Mutex<Connection>,
}

/// A vSwitch.
#[derive(Clone, Debug, Serialize)]
pub struct VSwitchRow {
    /// Its id.
    pub id: VSwitchId,
    /// Its zone.
    pub zone: Zone,
    /// Its CIDR.
    pub cidr: String,
    /// Addresses that pods can have.
    pub usable: u64,
    /// What they do.
    #[serde(flatten)]
    pub counts: Counts,
    /// The next one to come free by itself.
    pub next_release: Option<NextRelease>,
}

/// An address that is not free.
#[derive(Clone, Debug, Serialize)]
pub struct AddressRow {
    /// Which.
    pub address: Ipv4Addr,
    /// Its vSwitch.
    pub vswitch: VSwitchId,
    /// `free`, `in_use`, `retained`, `detaching` or `excluded`.
    pub state: String,
    /// The pod, or the key it is kept for.
    pub pod: Option<PodKey>,
    /// UID of the pod that holds it.
    pub uid: Option<PodUid>,
    /// Its ENI.
    pub eni: Option<EniId>,
    /// The MAC of that.
    pub mac: Option<String>,
    /// What the cloud last said about the ENI.
    pub eni_state: Option<String>,
    /// The security groups that its pod named for it; none: the cluster's.
    pub security_groups: Vec<SecurityGroupId>,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub why: String,
}

/// An open claim.
#[derive(Clone, Debug, Serialize)]
pub struct ClaimRow {
    /// The cluster of its key.
    pub cluster: ClusterId,
    /// Its key.
    #[serde(flatten)]
    pub key: PodKey,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its ENI.
    pub eni: Option<EniId>,
    /// The MAC of that.
    pub mac: Option<String>,
    /// The security groups that its last pod named for it; none: the cluster's.
    pub security_groups: Vec<SecurityGroupId>,
    /// Its vSwitch.
    pub vswitch: VSwitchId,
    /// Its zone.
    pub zone: Zone,
    /// The node of its last holder.
    pub node: NodeName,
    /// What it does.
    pub state: ClaimState,
    /// UID of its holder.
    pub holder: Option<PodUid>,
    /// When its clock started.
    pub deleted_at: Option<Timestamp>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

/// What a claim does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClaimState {
    /// A pod has it.
    Held,
    /// Its pod is being deleted and has not let go yet.
    Terminating,
    /// Nobody has it; its clock runs.
    Retained,
    /// Its clock has run out: it ends now, or when the pod that holds it off takes it.
    Over,
}

impl ClaimState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Held, Self::Terminating, Self::Retained, Self::Over];

    /// What a claim does with this holder and this end.
    pub(super) fn of(is_held: bool, expires_at: Option<Timestamp>, now: Timestamp) -> Self {
        match (is_held, expires_at) {
            (true, None) => Self::Held,
            (true, Some(_)) => Self::Terminating,
            (false, Some(at)) if retention::is_over(at, now, None) => Self::Over,
            (false, _) => Self::Retained,
        }
    }

    /// The name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Terminating => "terminating",
            Self::Retained => "retained",
            Self::Over => "over",
        }
    }
}

impl Reader {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// When there is no such file, or another version of holdfast wrote it.
    pub fn open(path: &Path) -> std::result::Result<Self, Error> {
        Ok(Self {
            conn: Mutex::new(open::reader(path)?),
        })
    }

    /// The ledger's own id, the holder of the cluster's Lease; `None` when it never was in use.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn id(&self) -> std::result::Result<Option<String>, Error> {
        self.read("read the ledger's identity", |tx| {
            tx.row("SELECT id FROM ledger", [], |row| row.get(0))
        })
    }

    /// The faults that were set by a command, by name.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn faults(&self) -> std::result::Result<Vec<FaultRow>, Error> {
        self.read("read faults", faults::rows)
    }

    /// All configured vSwitches, in configuration order. `now` tells which retentions have run out.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn vswitches(&self, now: Timestamp) -> std::result::Result<Vec<VSwitchRow>, Error> {
        self.read("list vSwitches", |tx| vswitches(tx, now))
    }

    /// The addresses that somebody has or had, or with `all` the free ones too.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn addresses(&self, all: bool) -> std::result::Result<Vec<AddressRow>, Error> {
        self.read("list addresses", |tx| addresses(tx, all))
    }

    /// All open claims, by key. `now` tells which have run out.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn claims(&self, now: Timestamp) -> std::result::Result<Vec<ClaimRow>, Error> {
        self.read("list claims", |tx| claims(tx, now))
    }

    /// The open claim of one key. Whether its time is over is for the ledger's own clock to say,
    /// which closes it then.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn open_claim(
        &self,
        cluster: &ClusterId,
        key: &PodKey,
        now: Timestamp,
    ) -> std::result::Result<Option<ClaimRow>, Error> {
        self.read("read a claim", |tx| claim(tx, cluster, key, now))
    }

    /// What contradicts the promises of the ledger, from the file alone.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn check(&self) -> std::result::Result<Vec<Violation>, Error> {
        self.read("check the ledger", |tx| {
            let mut found = check::file(tx)?;
            match check::all(tx) {
                Ok(more) => found.extend(more),
                // Rows of a damaged file cannot all be read, and that it is damaged says more.
                Err(_) if !found.is_empty() => {}
                Err(error) => return Err(error),
            }
            Ok(found)
        })
    }

    /// Who has which address, to be compared with what a cluster shows.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn holders(&self) -> std::result::Result<Holders, Error> {
        self.read("list holders", holders)
    }

    pub(super) fn read<T>(
        &self,
        operation: &'static str,
        query: impl FnOnce(&Tx<'_>) -> Result<T>,
    ) -> std::result::Result<T, Error> {
        // A reader that panicked has left nothing half done: it only reads.
        let conn = self
            .conn
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let snapshot = conn
            .unchecked_transaction()
            .map_err(Error::sql(operation))?;
        query(&Tx::new(&snapshot)).map_err(Error::sql(operation))
    }
}

pub(super) fn vswitches(tx: &Tx<'_>, now: Timestamp) -> Result<Vec<VSwitchRow>> {
    let rows = tx.rows(
        "SELECT id, name, zone, cidr FROM vswitch WHERE active ORDER BY position",
        [],
        |row| {
            let place = (row.get::<_, String>(1)?, row.get::<_, String>(2)?);
            Ok((row.get::<_, i64>(0)?, place, row.get::<_, String>(3)?))
        },
    )?;
    rows.into_iter()
        .map(|(row, (id, zone), cidr)| {
            let counts = pool::counts(tx, row)?;
            Ok(VSwitchRow {
                id: id.into(),
                zone: zone.into(),
                cidr,
                usable: counts.usable(),
                counts,
                next_release: pool::next_release(tx, row, now, None)?,
            })
        })
        .collect()
}

pub(super) fn addresses(tx: &Tx<'_>, all: bool) -> Result<Vec<AddressRow>> {
    tx.rows(
        "SELECT a.addr, v.name, a.state, a.since_ms, a.why, a.pod, e.eni_id, e.mac, e.state, \
         coalesce(c.namespace, p.namespace), coalesce(c.name, p.name), g.ids \
         FROM address a JOIN vswitch v ON v.id = a.vswitch LEFT JOIN eni e ON e.id = a.eni \
         LEFT JOIN eni_security_groups g ON g.eni = a.eni \
         LEFT JOIN claim c ON c.id = a.claim LEFT JOIN pod p ON p.uid = a.pod \
         WHERE ?1 OR a.state <> 'free' ORDER BY v.position, a.addr",
        [all],
        address_row,
    )
}

pub(super) fn holders(tx: &Tx<'_>) -> Result<Holders> {
    let holders = tx.rows(
        "SELECT p.uid, p.cluster, p.namespace, p.name, a.addr, p.gone_ms IS NOT NULL \
         FROM address a JOIN pod p ON p.uid = a.pod ORDER BY p.cluster, a.addr",
        [],
        |row| {
            Ok(Holder {
                uid: row.get::<_, String>(0)?.into(),
                cluster: row.get::<_, String>(1)?.into(),
                key: PodKey::new(&row.get::<_, String>(2)?, &row.get::<_, String>(3)?),
                address: Ipv4Addr::from(row.get::<_, u32>(4)?),
                gone: row.get(5)?,
            })
        },
    )?;
    let leaks = tx.rows(
        "SELECT token, eni_id, address FROM sim_eni \
         WHERE NOT EXISTS (SELECT 1 FROM eni WHERE eni.token = sim_eni.token) ORDER BY serial",
        [],
        |row| {
            Ok(Leak {
                token: row.get::<_, String>(0)?.into(),
                eni: row.get::<_, String>(1)?.into(),
                address: row.get(2)?,
            })
        },
    )?;
    Ok(Holders { holders, leaks })
}

pub(super) fn claims(tx: &Tx<'_>, now: Timestamp) -> Result<Vec<ClaimRow>> {
    let sql = format!("{CLAIM} ORDER BY c.cluster, c.namespace, c.name");
    tx.rows(&sql, [], |row| claim_row(row, now))
}

pub(super) fn claim(
    tx: &Tx<'_>,
    cluster: &ClusterId,
    key: &PodKey,
    now: Timestamp,
) -> Result<Option<ClaimRow>> {
    let sql = format!("{CLAIM} AND c.cluster = ?1 AND c.namespace = ?2 AND c.name = ?3");
    let key = (cluster.as_str(), &*key.namespace, &*key.name);
    tx.row(&sql, key, |row| claim_row(row, now))
}

const CLAIM: &str = "SELECT c.cluster, c.namespace, c.name, a.addr, e.eni_id, e.mac, v.name, v.zone, \
     c.node, c.holder, c.deleted_ms, c.expires_ms, g.ids \
     FROM claim c JOIN address a ON a.claim = c.id JOIN eni e ON e.id = a.eni \
     LEFT JOIN eni_security_groups g ON g.eni = a.eni \
     JOIN vswitch v ON v.id = a.vswitch WHERE c.closed_ms IS NULL";

fn claim_row(row: &Row<'_>, now: Timestamp) -> Result<ClaimRow> {
    let holder: Option<String> = row.get(9)?;
    let expires_at = row.get::<_, Option<i64>>(11)?.map(time);
    let state = ClaimState::of(holder.is_some(), expires_at, now);
    Ok(ClaimRow {
        cluster: row.get::<_, String>(0)?.into(),
        key: PodKey::new(&row.get::<_, String>(1)?, &row.get::<_, String>(2)?),
        address: Ipv4Addr::from(row.get::<_, u32>(3)?),
        eni: row.get::<_, Option<String>>(4)?.map(Into::into),
        mac: row.get(5)?,
        security_groups: op::ids(row, 12)?,
        vswitch: row.get::<_, String>(6)?.into(),
        zone: row.get::<_, String>(7)?.into(),
        node: row.get::<_, String>(8)?.into(),
        state,
        holder: holder.map(Into::into),
        deleted_at: row.get::<_, Option<i64>>(10)?.map(time),
        expires_at,
    })
}

fn address_row(row: &Row<'_>) -> Result<AddressRow> {
    let namespace: Option<String> = row.get(9)?;
    let name: Option<String> = row.get(10)?;
    Ok(AddressRow {
        address: Ipv4Addr::from(row.get::<_, u32>(0)?),
        vswitch: row.get::<_, String>(1)?.into(),
        state: row.get(2)?,
        since: time(row.get(3)?),
        why: row.get(4)?,
        uid: row.get::<_, Option<String>>(5)?.map(Into::into),
        eni: row.get::<_, Option<String>>(6)?.map(Into::into),
        mac: row.get(7)?,
        eni_state: row.get(8)?,
        security_groups: op::ids(row, 11)?,
        pod: namespace
            .zip(name)
            .map(|(namespace, name)| PodKey::new(&namespace, &name)),
    })
}
