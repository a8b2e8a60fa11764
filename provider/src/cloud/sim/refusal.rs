//! How the simulated cloud says no: the codes of ECS, and a sentence that names what stands in the way. When it does is
//! decided by the calls.

use std::borrow::Cow;

use super::store::Row;
use crate::cloud::{Eni, Error};
use crate::id::InstanceId;

pub(super) fn refused(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Error {
    Error {
        code: code.into(),
        message: message.into(),
    }
}

pub(super) fn wrong_state(row: &Row, needed: &str) -> Error {
    let Eni { id, state, .. } = &row.eni;
    let message = format!("ENI {id} is {}, but must be {needed}.", state.as_str());
    refused("InvalidOperation.InvalidEniState", message)
}

pub(super) fn ip_assigned(holder: &Row) -> Error {
    let message = format!(
        "Address {} is assigned to ENI {}.",
        holder.address, holder.eni.id
    );
    refused("InvalidIp.IpAssigned", message)
}

pub(super) fn conflict(holder: &Row) -> Error {
    let Eni { id, mac, .. } = &holder.eni;
    let message = format!("ENI {id} with MAC {mac} has address {}.", holder.address);
    refused("Operation.Conflict", message)
}

pub(super) fn instance_full(instance: &InstanceId, holder: &Row) -> Error {
    let message = format!("{instance} has ENI {} and takes no other.", holder.eni.id);
    refused("EniPerInstanceLimitExceeded", message)
}

pub(super) fn token_used(row: &Row) -> Error {
    let message = format!(
        "ClientToken {} was used with other arguments, for ENI {}.",
        row.token, row.eni.id
    );
    refused("IdempotentFailed", message)
}
