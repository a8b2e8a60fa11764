//! The calls that a transaction makes to the simulated cloud.
//!
//! Owns what each call needs, what it changes, and how a transition goes on. Commits nothing.

mod launch;

use std::net::Ipv4Addr;

use jiff::Timestamp;

use super::refusal::{conflict, instance_full, ip_assigned, refused, token_used, wrong_state};
use super::store::{self, Key, Row};
use super::{Simulator, Transition};
use crate::cloud::{Cloud, Eni, EniState, Error, Request, Response};
use crate::id::{ClientToken, EniId, InstanceId, Mac, VSwitchId, Zone};
use crate::sql::Tx;

/// How many serials are tried for one whose id and MAC are free: as many as there are MACs. Each process
/// begins somewhere else among them, and may begin where ENIs of an earlier one stand in a row.
const SERIALS_MAX: i64 = 1 << 24;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The cloud says no, or nothing. What the call has written stands all the same: to commit
    /// after it is what makes a lost answer lost.
    #[error(transparent)]
    Cloud(#[from] Error),
    /// The simulator could not read or write its table. The transaction is to be rolled back.
    #[error("the simulated cloud cannot use its table")]
    Table(#[from] rusqlite::Error),
}

/// An ENI of which there is proof outside of the cloud's table: a pod that runs with it.
#[derive(Clone, Debug)]
pub(crate) struct Adoption {
    /// The token by which it will be described.
    pub(crate) token: ClientToken,
    /// Its id; `None` gives it a new one.
    pub(crate) id: Option<EniId>,
    /// Its MAC; `None` gives it a new one.
    pub(crate) mac: Option<Mac>,
    /// The vSwitch of its address.
    pub(crate) vswitch: VSwitchId,
    /// The zone of that vSwitch.
    pub(crate) zone: Zone,
    /// Its primary address.
    pub(crate) address: Ipv4Addr,
    /// What it is attached to.
    pub(crate) instance: InstanceId,
}

/// The cloud within a transaction that somebody else commits.
pub(crate) struct Session<'a> {
    sim: &'a mut Simulator,
    tx: &'a Tx<'a>,
}

impl<'a> Session<'a> {
    pub(super) fn new(sim: &'a mut Simulator, tx: &'a Tx<'a>) -> Self {
        Self { sim, tx }
    }
}

impl Cloud for Session<'_> {
    fn call(&mut self, now: Timestamp, request: &Request) -> Result<Response, Error> {
        self.run(now, request).map_err(|failure| match failure {
            Failure::Cloud(error) => error,
            Failure::Table(source) => refused("InternalError", source.to_string()),
        })
    }
}

impl Session<'_> {
    /// [`Cloud::call`], for callers that tell a refusal from a broken table.
    pub(crate) fn run(&mut self, now: Timestamp, request: &Request) -> Result<Response, Failure> {
        let eni = self.settle(now, request)?;
        Ok(match request {
            Request::Create { .. } | Request::Describe { .. } => Response::Eni(eni),
            Request::Attach { .. } | Request::Detach { .. } | Request::Delete { .. } => {
                Response::Accepted
            }
        })
    }

    /// Makes a call and tells of its ENI what a look right after it would.
    pub(crate) fn settle(
        &mut self,
        now: Timestamp,
        request: &Request,
    ) -> Result<Option<Eni>, Failure> {
        let result = self.answer(now, request);
        match &result {
            Ok(_) => self.sim.tally.count(request.action(), None),
            Err(Failure::Cloud(error)) => self.sim.tally.count(request.action(), Some(error)),
            Err(Failure::Table(_)) => {}
        }
        result
    }

    fn answer(&mut self, now: Timestamp, request: &Request) -> Result<Option<Eni>, Failure> {
        self.sim.admit(now)?;
        self.sim.faults.before(request)?;
        let eni = match request {
            Request::Create {
                token,
                vswitch,
                zone,
                address,
            } => Some(self.create(now, token, vswitch, zone, *address)?),
            Request::Attach {
                eni,
                instance,
                zone,
            } => self.attach(now, eni, instance, zone)?,
            Request::Detach { eni } => self.detach(now, eni)?,
            Request::Delete { eni } => self.delete(now, eni)?,
            Request::Describe { token } => self.load(now, Key::Token(token))?.map(|row| row.eni),
        };
        self.sim.faults.after(request)?;
        Ok(eni)
    }

    /// Makes an ENI known that exists because a running pod shows it, attached. One that is known
    /// under the same address (and id, when that is given) is brought to that state.
    ///
    /// Neither limits nor faults apply: no call to the cloud stands behind it.
    pub(crate) fn adopt(&mut self, now: Timestamp, adoption: &Adoption) -> Result<Eni, Failure> {
        let known = self.load(now, Key::Address(adoption.address))?;
        if let Some(row) = &known
            && adoption.id.as_ref().is_some_and(|id| *id != row.eni.id)
        {
            return Err(ip_assigned(row).into());
        }
        let other = |key| -> rusqlite::Result<Option<Row>> {
            let found = self.load(now, key)?;
            Ok(found.filter(|row| {
                known
                    .as_ref()
                    .is_none_or(|known| known.serial != row.serial)
            }))
        };
        if let Some(holder) = other(Key::Instance(&adoption.instance))? {
            return Err(instance_full(&adoption.instance, &holder).into());
        }
        if let Some(holder) = other(Key::Token(&adoption.token))? {
            return Err(token_used(&holder).into());
        }
        let id_and_mac = [
            adoption.id.as_ref().map(Key::Id),
            adoption.mac.map(Key::Mac),
        ];
        for key in id_and_mac.into_iter().flatten() {
            if let Some(holder) = other(key)? {
                return Err(conflict(&holder).into());
            }
        }
        if let Some(mut row) = known {
            row.token = adoption.token.clone();
            row.eni.state = EniState::InUse;
            row.eni.instance = Some(adoption.instance.clone());
            row.until_ms = None;
            store::update(self.tx, &row)?;
            store::update_token(self.tx, &row)?;
            return Ok(row.eni);
        }
        self.insert(|sim, serial| Row {
            serial,
            token: adoption.token.clone(),
            vswitch: adoption.vswitch.clone(),
            zone: adoption.zone.clone(),
            address: adoption.address,
            eni: Eni {
                id: adoption.id.clone().unwrap_or_else(|| sim.eni_id(serial)),
                mac: adoption.mac.unwrap_or_else(|| sim.mac(serial)),
                state: EniState::InUse,
                instance: Some(adoption.instance.clone()),
            },
            until_ms: None,
        })
    }

    fn create(
        &self,
        now: Timestamp,
        token: &ClientToken,
        vswitch: &VSwitchId,
        zone: &Zone,
        address: Ipv4Addr,
    ) -> Result<Eni, Failure> {
        let new = |sim: &Simulator, serial| Row {
            serial,
            token: token.clone(),
            vswitch: vswitch.clone(),
            zone: zone.clone(),
            address,
            eni: Eni {
                id: sim.eni_id(serial),
                mac: sim.mac(serial),
                state: EniState::Available,
                instance: None,
            },
            until_ms: None,
        };
        if let Some(row) = self.load(now, Key::Token(token))? {
            let same = (&row.vswitch, &row.zone, row.address) == (vswitch, zone, address);
            return if same {
                Ok(row.eni)
            } else {
                Err(token_used(&row).into())
            };
        }
        if self.sim.faults.is_out_of_addresses(vswitch) {
            let message = format!("The specified VSwitch \"{vswitch}\" has not enough IpAddress.");
            return Err(refused("InvalidVSwitchId.IpNotEnough", message).into());
        }
        if let Some(row) = self.load(now, Key::Address(address))? {
            return Err(ip_assigned(&row).into());
        }
        let configured = Some(self.sim.config.enis_max).filter(|max| *max > 0);
        let max = [configured, self.sim.faults.enis_max()];
        if let Some(max) = max.into_iter().flatten().min()
            && store::count(self.tx, now.as_millisecond())? >= max
        {
            let message = format!("The maximum number of ENIs, {max}, is exceeded.");
            return Err(refused("MaxEniCountExceeded", message).into());
        }
        self.insert(new)
    }

    fn attach(
        &self,
        now: Timestamp,
        id: &EniId,
        instance: &InstanceId,
        zone: &Zone,
    ) -> Result<Option<Eni>, Failure> {
        let Some(mut row) = self.load(now, Key::Id(id))? else {
            let message = format!("The specified ENI {id} does not exist.");
            return Err(refused("InvalidEniId.NotFound", message).into());
        };
        if row.eni.state != EniState::Available {
            return Err(wrong_state(&row, "Available").into());
        }
        if row.zone != *zone {
            let message = format!("ENI {id} is in zone {}, {instance} in {zone}.", row.zone);
            return Err(refused("InvalidOperation.AvailabilityZoneMismatch", message).into());
        }
        if let Some(holder) = self.load(now, Key::Instance(instance))? {
            return Err(instance_full(instance, &holder).into());
        }
        row.eni.instance = Some(instance.clone());
        self.begin(now, row, Transition::Attach)
    }

    fn detach(&self, now: Timestamp, id: &EniId) -> Result<Option<Eni>, Failure> {
        match self.load(now, Key::Id(id))? {
            None => Ok(None),
            Some(row) => match row.eni.state {
                EniState::InUse => self.begin(now, row, Transition::Detach),
                EniState::Detaching => Ok(Some(row.eni)),
                _ => Err(wrong_state(&row, "InUse").into()),
            },
        }
    }

    fn delete(&self, now: Timestamp, id: &EniId) -> Result<Option<Eni>, Failure> {
        match self.load(now, Key::Id(id))? {
            None => Ok(None),
            Some(row) => match row.eni.state {
                EniState::Available => self.begin(now, row, Transition::Delete),
                EniState::Deleting => Ok(Some(row.eni)),
                _ => Err(wrong_state(&row, "Available").into()),
            },
        }
    }

    /// Starts a transition, and ends it at once when it takes no time.
    fn begin(
        &self,
        now: Timestamp,
        mut row: Row,
        transition: Transition,
    ) -> Result<Option<Eni>, Failure> {
        row.eni.state = transition.state();
        row.until_ms = if self.sim.faults.is_stuck(transition) {
            None
        } else {
            let latency_ms = self.sim.config.latency(transition).as_millis();
            let latency_ms = i64::try_from(latency_ms).unwrap_or(i64::MAX);
            Some(now.as_millisecond().saturating_add(latency_ms))
        };
        match self.advance(now, &mut row) {
            Progress::None | Progress::AtRest => store::update(self.tx, &row)?,
            Progress::Gone => {
                store::remove(self.tx, row.serial)?;
                return Ok(None);
            }
        }
        Ok(Some(row.eni))
    }

    /// Finds an ENI as it is at `now`, and writes down what has come to its end until then.
    fn load(&self, now: Timestamp, key: Key<'_>) -> rusqlite::Result<Option<Row>> {
        let Some(mut row) = store::find(self.tx, key)? else {
            return Ok(None);
        };
        match self.advance(now, &mut row) {
            Progress::None => {}
            Progress::AtRest => store::update(self.tx, &row)?,
            Progress::Gone => {
                store::remove(self.tx, row.serial)?;
                return Ok(None);
            }
        }
        // Detached since: it is no longer what the instance has.
        let is_found = !matches!(key, Key::Instance(_)) || row.eni.instance.is_some();
        Ok(Some(row).filter(|_| is_found))
    }

    fn advance(&self, now: Timestamp, row: &mut Row) -> Progress {
        let Some(transition) = Transition::under_way_in(row.eni.state) else {
            return Progress::None;
        };
        let is_through = match row.until_ms {
            Some(until_ms) => until_ms <= now.as_millisecond(),
            None => !self.sim.faults.is_stuck(transition),
        };
        if !is_through {
            return Progress::None;
        }
        row.until_ms = None;
        match transition {
            Transition::Attach => row.eni.state = EniState::InUse,
            Transition::Detach => {
                row.eni.state = EniState::Available;
                row.eni.instance = None;
            }
            Transition::Delete => return Progress::Gone,
        }
        Progress::AtRest
    }

    /// Adds the row that `with_serial` makes of the first serial whose id and MAC are free.
    fn insert(&self, with_serial: impl Fn(&Simulator, i64) -> Row) -> Result<Eni, Failure> {
        let next = store::next_serial(self.tx)?;
        for serial in next..next.saturating_add(SERIALS_MAX) {
            if let Some(eni) = self.insert_at(serial, &with_serial)? {
                return Ok(eni);
            }
        }
        Err(refused("InternalError", "No MAC is free.").into())
    }

    /// Adds a row, unless something that is unique in it is taken.
    fn insert_at(
        &self,
        serial: i64,
        with_serial: &impl Fn(&Simulator, i64) -> Row,
    ) -> rusqlite::Result<Option<Eni>> {
        let row = with_serial(self.sim, serial);
        Ok(store::insert(self.tx, &row)?.then_some(row.eni))
    }
}

/// How far a look at an ENI has brought it.
enum Progress {
    /// It is as it was.
    None,
    /// Its transition is through.
    AtRest,
    /// Its deletion is through.
    Gone,
}
