//! vSwitches and their addresses: bringing the rows to the configuration, picking a free address,
//! and counting what the others do.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use rusqlite::Result;
use rusqlite::types::Type;

use crate::id::{PodKey, VSwitchId, Zone};
use crate::ledger::Error;
use crate::ledger::op::{Op, time};
use crate::ledger::plan::{Asks, Rows};
use crate::policy::placement::Candidate;
use crate::policy::pool::{Counts, Exhausted, NextRelease};
use crate::settings::{Settings, VSwitch};
use crate::sql::Tx;

const READ_HELD: &str = "read held addresses";

/// A configured vSwitch and its row.
#[derive(Clone, Debug)]
pub(crate) struct VSwitchRef {
    pub(crate) row: i64,
    pub(crate) id: VSwitchId,
    pub(crate) zone: Zone,
    pub(crate) cidr: Ipv4Net,
}

/// Makes the rows follow the configuration. What is held stays where it is: a vSwitch that would
/// lose a held address, or move it to another zone, is refused and named.
pub(super) fn sync(
    tx: &Tx<'_>,
    settings: &Settings,
    now: Timestamp,
) -> std::result::Result<Vec<VSwitchRef>, Error> {
    let sql = Error::sql;
    let known = tx
        .rows("SELECT id, name FROM vswitch WHERE active", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
        })
        .map_err(sql("read vSwitches"))?;
    for (row, name) in known {
        if !settings
            .vswitches
            .iter()
            .any(|vswitch| vswitch.id.as_str() == name)
        {
            remove(tx, row, &name)?;
        }
    }
    let mut refs = Vec::with_capacity(settings.vswitches.len());
    for (position, vswitch) in settings.vswitches.iter().enumerate() {
        let row = upsert(tx, vswitch, position)?;
        sync_addresses(tx, row, vswitch, now)?;
        refs.push(VSwitchRef {
            row,
            id: vswitch.id.clone(),
            zone: vswitch.zone.clone(),
            cidr: vswitch.cidr,
        });
    }
    Ok(refs)
}

/// The configured vSwitches as the rows have them, in configuration order.
pub(super) fn active(tx: &Tx<'_>) -> Result<Vec<VSwitchRef>> {
    tx.rows(
        "SELECT id, name, zone, cidr FROM vswitch WHERE active ORDER BY position",
        [],
        |row| {
            let cidr: String = row.get(3)?;
            Ok(VSwitchRef {
                row: row.get(0)?,
                id: row.get::<_, String>(1)?.into(),
                zone: row.get::<_, String>(2)?.into(),
                cidr: cidr.parse().map_err(|source| {
                    rusqlite::Error::FromSqlConversionFailure(3, Type::Text, Box::new(source))
                })?,
            })
        },
    )
}

fn remove(tx: &Tx<'_>, row: i64, name: &str) -> std::result::Result<(), Error> {
    if let Some(held) = held(tx, row, |_| false).map_err(Error::sql(READ_HELD))? {
        return Err(Error::VSwitches(format!(
            "vSwitch {name} is no longer configured, but {held}: configure it again, and take it out once `holdfast addresses` shows all of its addresses free"
        )));
    }
    let delete = "DELETE FROM address WHERE vswitch = ?1";
    tx.execute(delete, [row])
        .map_err(Error::sql("remove a vSwitch's addresses"))?;
    tx.execute("UPDATE vswitch SET active = 0 WHERE id = ?1", [row])
        .map_err(Error::sql("remove a vSwitch"))?;
    Ok(())
}

fn upsert(tx: &Tx<'_>, vswitch: &VSwitch, position: usize) -> std::result::Result<i64, Error> {
    let name = vswitch.id.as_str();
    let known = tx
        .row(
            "SELECT id, zone FROM vswitch WHERE name = ?1",
            [name],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)),
        )
        .map_err(Error::sql("read a vSwitch"))?;
    if let Some((row, zone)) = known.filter(|(_, zone)| zone != vswitch.zone.as_str())
        && let Some(held) = held(tx, row, |_| false).map_err(Error::sql(READ_HELD))?
    {
        return Err(Error::VSwitches(format!(
            "vSwitch {name} is configured in zone {}, but it was in {zone} and {held}: an ENI cannot leave its zone; configure a vSwitch with another id",
            vswitch.zone
        )));
    }
    let row = tx
        .row(
            "INSERT INTO vswitch (name, zone, cidr, position, active) VALUES (?1, ?2, ?3, ?4, 1) \
             ON CONFLICT (name) DO UPDATE SET zone = excluded.zone, cidr = excluded.cidr, \
             position = excluded.position, active = 1 RETURNING id",
            (
                name,
                vswitch.zone.as_str(),
                vswitch.cidr.to_string(),
                position,
            ),
            |row| row.get(0),
        )
        .map_err(Error::sql("write a vSwitch"))?;
    Ok(row.expect("an upsert returns its row"))
}

fn sync_addresses(
    tx: &Tx<'_>,
    row: i64,
    vswitch: &VSwitch,
    now: Timestamp,
) -> std::result::Result<(), Error> {
    let wanted: BTreeSet<u32> = vswitch.usable().map(u32::from).collect();
    let left_out = held(tx, row, |addr| wanted.contains(&addr));
    if let Some(held) = left_out.map_err(Error::sql(READ_HELD))? {
        return Err(Error::VSwitches(format!(
            "vSwitch {} is configured with {}, which leaves out an address that is held: {held}; widen the CIDR again until `holdfast addresses` shows it free",
            vswitch.id, vswitch.cidr
        )));
    }
    let known: Vec<(u32, bool)> = tx
        .rows(
            "SELECT addr, barred FROM address WHERE vswitch = ?1",
            [row],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .map_err(Error::sql("read addresses"))?;
    let write = || Error::sql("write addresses");
    for (addr, barred) in &known {
        let excluded = vswitch.excludes(Ipv4Addr::from(*addr));
        if !wanted.contains(addr) {
            tx.execute(
                "DELETE FROM address WHERE vswitch = ?1 AND addr = ?2",
                (row, addr),
            )
            .map_err(write())?;
        } else if excluded != *barred {
            bar(tx, row, *addr, excluded, now).map_err(write())?;
        }
    }
    let known: BTreeSet<u32> = known.into_iter().map(|(addr, _)| addr).collect();
    for addr in wanted.difference(&known) {
        let excluded = vswitch.excludes(Ipv4Addr::from(*addr));
        let state = if excluded { "excluded" } else { "free" };
        tx.execute(
            "INSERT INTO address (vswitch, addr, state, barred, gen, since_ms, why) \
             VALUES (?1, ?2, ?3, ?4, 0, ?5, 'configured')",
            (row, addr, state, excluded, now.as_millisecond()),
        )
        .map_err(write())?;
    }
    Ok(())
}

/// An address in use keeps its state; the mark makes it leave the pool at its release.
fn bar(tx: &Tx<'_>, row: i64, addr: u32, excluded: bool, now: Timestamp) -> Result<()> {
    tx.execute(
        "UPDATE address SET barred = ?3, \
         state = CASE state WHEN 'free' THEN 'excluded' WHEN 'excluded' THEN 'free' ELSE state END, \
         gen = gen + 1, since_ms = ?4, why = 'configured' WHERE vswitch = ?1 AND addr = ?2",
        (row, addr, excluded, now.as_millisecond()),
    )?;
    Ok(())
}

/// The first address of a vSwitch that somebody holds and `keeps` does not cover, as a phrase.
pub(super) fn held(tx: &Tx<'_>, row: i64, keeps: impl Fn(u32) -> bool) -> Result<Option<String>> {
    let held: Vec<(u32, String, Option<String>)> = tx.rows(
        "SELECT a.addr, a.state, coalesce(c.namespace || '/' || c.name, p.namespace || '/' || p.name) \
         FROM address a LEFT JOIN claim c ON c.id = a.claim LEFT JOIN pod p ON p.uid = a.pod \
         WHERE a.vswitch = ?1 AND a.state NOT IN ('free', 'excluded') ORDER BY a.addr",
        [row],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let left_out = held.into_iter().find(|(addr, ..)| !keeps(*addr));
    Ok(left_out.map(|(addr, state, key)| {
        let address = Ipv4Addr::from(addr);
        let what = if state == "retained" {
            "retained"
        } else {
            "in use"
        };
        match key {
            Some(key) => format!("{address} is {what} for {key}"),
            None => format!("the ENI of {address} is not deleted yet"),
        }
    }))
}

/// What the addresses of one vSwitch do, counted.
pub(crate) fn counts(tx: &Tx<'_>, row: i64) -> Result<Counts> {
    let mut counts = Counts::default();
    let groups = tx.rows(
        "SELECT state, count(*) FROM address WHERE vswitch = ?1 GROUP BY state",
        [row],
        |row| Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?)),
    )?;
    for (state, count) in groups {
        match state.as_str() {
            "free" => counts.free = count,
            "in_use" => counts.in_use = count,
            "retained" => counts.retained = count,
            "detaching" => counts.detaching = count,
            _ => counts.excluded = count,
        }
    }
    Ok(counts)
}

/// The retained address of one vSwitch that comes free first by itself. One whose time is over waits for something else,
/// one of another cluster than `cluster` for a process of that, and one that is excluded leaves.
pub(crate) fn next_release(
    tx: &Tx<'_>,
    row: i64,
    wall: Timestamp,
    cluster: Option<&str>,
) -> Result<Option<NextRelease>> {
    tx.row(
        "SELECT a.addr, c.namespace, c.name, c.expires_ms FROM address a JOIN claim c ON c.id = a.claim \
         WHERE a.vswitch = ?1 AND a.state = 'retained' AND a.barred = 0 AND c.expires_ms > ?2 \
         AND (?3 IS NULL OR c.cluster = ?3) \
         ORDER BY c.expires_ms, a.addr LIMIT 1",
        (row, wall.as_millisecond(), cluster),
        |row| {
            Ok(NextRelease {
                address: Ipv4Addr::from(row.get::<_, u32>(0)?),
                key: PodKey::new(&row.get::<_, String>(1)?, &row.get::<_, String>(2)?),
                at: time(row.get(3)?),
            })
        },
    )
}

impl Rows<'_> {
    /// The configured vSwitches as the placement policy wants them. Free addresses are counted
    /// only where more than one vSwitch of the zone makes the count matter, and the pod names none.
    pub(super) fn candidates(&self, asks: &Asks<'_>) -> Result<Vec<Candidate>> {
        let zone = &asks.node.zone;
        let in_zone = self
            .vswitches
            .iter()
            .filter(|vswitch| vswitch.zone == *zone)
            .count();
        let matters = in_zone > 1 && asks.vswitches.is_empty();
        self.vswitches
            .iter()
            .map(|vswitch| {
                let count = matters && vswitch.zone == *zone;
                let free = if count { self.free(vswitch.row)? } else { 0 };
                Ok(Candidate {
                    id: vswitch.id.clone(),
                    zone: vswitch.zone.clone(),
                    free,
                })
            })
            .collect()
    }

    fn free(&self, row: i64) -> Result<u64> {
        let sql = "SELECT count(*) FROM address WHERE vswitch = ?1 AND state = 'free'";
        let count = || Ok(self.tx.row(sql, [row], |row| row.get(0))?.unwrap_or(0));
        self.free.of(row, count)
    }

    /// The least recently used free address of the first vSwitch that has one.
    pub(super) fn first_free(&self, allowed: &[VSwitchId]) -> Result<Option<(i64, Ipv4Addr)>> {
        for vswitch in self.named(allowed) {
            let found = self.tx.row(
                "SELECT addr FROM address WHERE vswitch = ?1 AND state = 'free' \
                 ORDER BY since_ms, addr LIMIT 1",
                [vswitch.row],
                |row| row.get::<_, u32>(0),
            )?;
            if let Some(addr) = found {
                return Ok(Some((vswitch.row, Ipv4Addr::from(addr))));
            }
        }
        Ok(None)
    }

    /// Why none of the allowed vSwitches has an address.
    pub(super) fn exhausted(&self, allowed: &[VSwitchId]) -> Result<(String, Vec<Counts>)> {
        let exhausted: Vec<Exhausted> = self
            .named(allowed)
            .map(|vswitch| {
                Ok(Exhausted {
                    vswitch: vswitch.id.clone(),
                    zone: vswitch.zone.clone(),
                    cidr: vswitch.cidr,
                    counts: counts(self.tx, vswitch.row)?,
                    next_release: next_release(
                        self.tx,
                        vswitch.row,
                        self.wall,
                        Some(self.cluster),
                    )?,
                    now: self.wall,
                })
            })
            .collect::<Result<_>>()?;
        let sentences: Vec<String> = exhausted.iter().map(Exhausted::to_string).collect();
        let counts = exhausted.iter().map(|one| one.counts).collect();
        Ok((sentences.join("; "), counts))
    }

    fn named<'b>(&'b self, allowed: &'b [VSwitchId]) -> impl Iterator<Item = &'b VSwitchRef> {
        allowed
            .iter()
            .filter_map(|id| self.vswitches.iter().find(|vswitch| vswitch.id == *id))
    }
}

impl Op<'_> {
    /// Why none of the allowed vSwitches has an address, counted once as long as none changes.
    pub(super) fn exhausted(&mut self, allowed: &[VSwitchId]) -> Result<(String, Vec<Counts>)> {
        if let Some(known) = self.explained.get(allowed) {
            return Ok(known.clone());
        }
        let answer = self.rows().exhausted(allowed)?;
        self.explained.insert(allowed.to_vec(), answer.clone());
        Ok(answer)
    }
}
