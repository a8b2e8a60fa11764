//! The simulator's table: rows in and out. Decides nothing.

use std::net::Ipv4Addr;
use std::str::FromStr;

use rusqlite::types::Type;

use crate::cloud::{Eni, EniState};
use crate::id::{ClientToken, EniId, InstanceId, Mac, VSwitchId, Zone};
use crate::sql::Tx;

/// One ENI with all that is known of it.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) serial: i64,
    pub(super) token: ClientToken,
    pub(super) vswitch: VSwitchId,
    pub(super) zone: Zone,
    pub(super) address: Ipv4Addr,
    pub(super) eni: Eni,
    pub(super) until_ms: Option<i64>,
}

/// What an ENI can be found by; each is unique.
#[derive(Clone, Copy)]
pub(super) enum Key<'k> {
    Token(&'k ClientToken),
    Id(&'k EniId),
    Mac(Mac),
    Address(Ipv4Addr),
    Instance(&'k InstanceId),
}

macro_rules! select_where {
    ($condition:literal) => {
        concat!(
            "SELECT serial, token, vswitch, zone, address, eni_id, mac, state, instance, until_ms
             FROM sim_eni WHERE ",
            $condition
        )
    };
}

pub(super) fn find(tx: &Tx<'_>, key: Key<'_>) -> rusqlite::Result<Option<Row>> {
    match key {
        Key::Token(token) => tx.row(select_where!("token = ?1"), [token.as_str()], read),
        Key::Id(id) => tx.row(select_where!("eni_id = ?1"), [id.as_str()], read),
        Key::Mac(mac) => tx.row(select_where!("mac = ?1"), [mac.to_string()], read),
        Key::Address(address) => tx.row(select_where!("address = ?1"), [address.to_string()], read),
        Key::Instance(id) => tx.row(select_where!("instance = ?1"), [id.as_str()], read),
    }
}

/// Adds a row, unless one of its unique columns is taken: then nothing happens and it is false.
pub(super) fn insert(tx: &Tx<'_>, row: &Row) -> rusqlite::Result<bool> {
    let changed = tx.execute(
        "INSERT INTO sim_eni
             (serial, token, vswitch, zone, address, eni_id, mac, state, instance, until_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
        (
            row.serial,
            row.token.as_str(),
            row.vswitch.as_str(),
            row.zone.as_str(),
            row.address.to_string(),
            row.eni.id.as_str(),
            row.eni.mac.to_string(),
            row.eni.state.as_str(),
            row.eni.instance.as_ref().map(InstanceId::as_str),
            row.until_ms,
        ),
    )?;
    Ok(changed == 1)
}

/// Writes what changes in the life of an ENI.
pub(super) fn update(tx: &Tx<'_>, row: &Row) -> rusqlite::Result<()> {
    tx.execute(
        "UPDATE sim_eni SET state = ?2, instance = ?3, until_ms = ?4 WHERE serial = ?1",
        (
            row.serial,
            row.eni.state.as_str(),
            row.eni.instance.as_ref().map(InstanceId::as_str),
            row.until_ms,
        ),
    )?;
    Ok(())
}

/// Writes a token that another one gives way to.
pub(super) fn update_token(tx: &Tx<'_>, row: &Row) -> rusqlite::Result<()> {
    let sql = "UPDATE sim_eni SET token = ?2 WHERE serial = ?1";
    tx.execute(sql, (row.serial, row.token.as_str()))?;
    Ok(())
}

pub(super) fn remove(tx: &Tx<'_>, serial: i64) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM sim_eni WHERE serial = ?1", [serial])?;
    Ok(())
}

/// How many ENIs exist at `now_ms`.
pub(super) fn count(tx: &Tx<'_>, now_ms: i64) -> rusqlite::Result<u32> {
    let count = tx.row(
        "SELECT count(*) FROM sim_eni WHERE state <> 'Deleting' OR until_ms IS NULL OR until_ms > ?1",
        [now_ms],
        |row| row.get(0),
    )?;
    Ok(count.unwrap_or(0))
}

/// A serial that was never used.
pub(super) fn next_serial(tx: &Tx<'_>) -> rusqlite::Result<i64> {
    let last: Option<i64> = tx.row(
        "SELECT seq FROM sqlite_sequence WHERE name = 'sim_eni'",
        [],
        |row| row.get(0),
    )?;
    Ok(last.unwrap_or(0) + 1)
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        serial: row.get(0)?,
        token: row.get::<_, String>(1)?.into(),
        vswitch: row.get::<_, String>(2)?.into(),
        zone: row.get::<_, String>(3)?.into(),
        address: parsed(row, 4)?,
        eni: Eni {
            id: row.get::<_, String>(5)?.into(),
            mac: parsed(row, 6)?,
            state: state(row, 7)?,
            instance: row.get::<_, Option<String>>(8)?.map(InstanceId::from),
        },
        until_ms: row.get(9)?,
    })
}

fn parsed<T>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|source| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(source))
    })
}

fn state(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<EniState> {
    let states = [
        EniState::Available,
        EniState::Attaching,
        EniState::InUse,
        EniState::Detaching,
        EniState::Deleting,
    ];
    let text = row.get_ref(column)?.as_str()?;
    let state = states.into_iter().find(|state| state.as_str() == text);
    state.ok_or_else(|| {
        let source = format!("`{text}` is no state of an ENI").into();
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, source)
    })
}
