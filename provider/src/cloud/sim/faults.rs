//! The faults in force: whose turn it is, and what the smallest limit is.
//!
//! Owns the counting. Knows no ENI and no table; the counts live in memory and start anew with
//! the process and with every change of the faults.

use std::num::NonZeroU32;

use super::fault::{Action, Fault, Transition};
use super::refusal::refused;
use crate::cloud::{Error, Request};
use crate::id::VSwitchId;

/// The faults in force, and how many calls each has seen.
#[derive(Debug, Default)]
pub(super) struct Faults {
    counted: Vec<(Fault, u32)>,
}

impl Faults {
    pub(super) fn new(faults: &[Fault]) -> Self {
        Self {
            counted: faults.iter().map(|fault| (fault.clone(), 0)).collect(),
        }
    }

    /// Fails a call before it has an effect, when it is the turn of one. Every fault counts the
    /// call, also when an earlier one in the list has failed it already.
    pub(super) fn before(&mut self, request: &Request) -> Result<(), Error> {
        let called = Action::of(request);
        let mut result = Ok(());
        for (fault, calls) in &mut self.counted {
            if let Fault::Fail {
                action,
                every,
                code,
            } = fault
                && *action == called
                && is_turn(calls, *every)
                && result.is_ok()
            {
                let message = format!("fault `fail` is set for {}", request.action());
                result = Err(refused(code.clone(), message));
            }
        }
        result
    }

    /// Loses the answer to a call that has taken effect, when it is the turn of one.
    pub(super) fn after(&mut self, request: &Request) -> Result<(), Error> {
        let called = Action::of(request);
        let mut result = Ok(());
        for (fault, calls) in &mut self.counted {
            if let Fault::LostAnswer { action, every } = fault
                && *action == called
                && is_turn(calls, *every)
            {
                let message = format!("no answer to {} came in time", request.action());
                result = Err(refused("RequestTimeout", message));
            }
        }
        result
    }

    /// The smallest limit that a fault sets.
    pub(super) fn calls_per_s(&self) -> Option<u32> {
        let limits = self.faults().filter_map(|fault| match fault {
            Fault::Throttle { calls_per_s } => Some(*calls_per_s),
            _ => None,
        });
        limits.min()
    }

    pub(super) fn is_stuck(&self, transition: Transition) -> bool {
        self.faults()
            .any(|fault| matches!(fault, Fault::Stuck { action } if *action == transition))
    }

    /// The smallest number of ENIs that a fault sets.
    pub(super) fn enis_max(&self) -> Option<u32> {
        let limits = self.faults().filter_map(|fault| match fault {
            Fault::EniQuota { enis_max } => Some(*enis_max),
            _ => None,
        });
        limits.min()
    }

    pub(super) fn is_out_of_addresses(&self, id: &VSwitchId) -> bool {
        self.faults()
            .any(|fault| matches!(fault, Fault::OutOfAddresses { vswitch } if vswitch == id))
    }

    fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.counted.iter().map(|(fault, _)| fault)
    }
}

/// Counts one call and says whether it is the n-th.
fn is_turn(calls: &mut u32, every: NonZeroU32) -> bool {
    *calls = (*calls + 1) % every;
    *calls == 0
}
