//! An ENI that is created and attached at once.
//!
//! Owns the one write that takes the place of two calls. Answers nothing that they would not: where something stands in
//! the way it does nothing, and the calls tell what.

use super::Session;
use crate::cloud::sim::store::{self, Row};
use crate::cloud::{Eni, EniState, Request};
use crate::id::InstanceId;

impl Session<'_> {
    /// Creates an ENI and attaches it, in one write: two calls to a cloud that answers both at once.
    /// `None` when that is not so simple, because something that is unique is taken: then nothing was
    /// written, and the calls one by one tell what it is.
    pub(crate) fn launch(
        &mut self,
        create: &Request,
        instance: &InstanceId,
    ) -> rusqlite::Result<Option<Eni>> {
        let Request::Create {
            token,
            vswitch,
            zone,
            address,
        } = create
        else {
            return Ok(None);
        };
        if !self.sim.config.is_instant() {
            return Ok(None);
        }
        let serial = match self.sim.next_serial.take() {
            Some(serial) => serial,
            None => store::next_serial(self.tx)?,
        };
        let eni = self.insert_at(serial, &|sim, serial| Row {
            serial,
            token: token.clone(),
            vswitch: vswitch.clone(),
            zone: zone.clone(),
            address: *address,
            eni: Eni {
                id: sim.eni_id(serial),
                mac: sim.mac(serial),
                state: EniState::InUse,
                instance: Some(instance.clone()),
            },
            until_ms: None,
        })?;
        if eni.is_some() {
            self.sim.next_serial = Some(serial + 1);
            self.sim.tally.count(create.action(), None);
            self.sim.tally.count(Request::ATTACH, None);
        }
        Ok(eni)
    }
}
