//! Faults by name: what can go wrong in the simulated cloud, and how often.
//!
//! Owns the vocabulary and the counting. Knows no ENI and no table; the counts live in memory
//! and start anew with the process and with every change of the configuration.

use std::num::NonZeroU32;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::refused;
use crate::cloud::{EniState, Error, Request};
use crate::id::VSwitchId;

/// The five calls, as faults name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// CreateNetworkInterface.
    Create,
    /// AttachNetworkInterface.
    Attach,
    /// DetachNetworkInterface.
    Detach,
    /// DeleteNetworkInterface.
    Delete,
    /// DescribeNetworkInterfaces.
    Describe,
}

impl Action {
    /// Which call a request is.
    pub fn of(request: &Request) -> Self {
        match request {
            Request::Create { .. } => Self::Create,
            Request::Attach { .. } => Self::Attach,
            Request::Detach { .. } => Self::Detach,
            Request::Delete { .. } => Self::Delete,
            Request::Describe { .. } => Self::Describe,
        }
    }
}

/// The calls that are accepted first and take effect later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transition {
    /// `Available` to `InUse`, by way of `Attaching`.
    Attach,
    /// `InUse` to `Available`, by way of `Detaching`.
    Detach,
    /// `Available` to gone, by way of `Deleting`.
    Delete,
}

impl Transition {
    /// The transition that is under way in `state`.
    pub(super) fn under_way_in(state: EniState) -> Option<Self> {
        match state {
            EniState::Attaching => Some(Self::Attach),
            EniState::Detaching => Some(Self::Detach),
            EniState::Deleting => Some(Self::Delete),
            EniState::Available | EniState::InUse => None,
        }
    }

    /// The state while it is under way.
    pub(super) fn state(self) -> EniState {
        match self {
            Self::Attach => EniState::Attaching,
            Self::Detach => EniState::Detaching,
            Self::Delete => EniState::Deleting,
        }
    }
}

/// One thing that goes wrong, until the configuration changes again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Every n-th call of an action fails and has no effect.
    Fail {
        /// Which calls.
        action: Action,
        /// 1: every call.
        #[serde(default = "always")]
        every: NonZeroU32,
        /// The ECS error code to answer with.
        #[serde(default = "internal_error")]
        code: String,
    },
    /// No more than so many calls in a second are let through; the others get
    /// `Throttling.User`. The smallest such limit counts, that of the configuration included.
    Throttle {
        /// 0: no call at all.
        calls_per_s: u32,
    },
    /// A transition takes at least so long.
    Slow {
        /// Which.
        action: Transition,
        /// From the call on; less than nothing counts as nothing.
        latency: SignedDuration,
    },
    /// Transitions that begin now do not end before this fault is taken away.
    Stuck {
        /// Which.
        action: Transition,
    },
    /// Every n-th call of an action takes effect, but is answered with `RequestTimeout`.
    LostAnswer {
        /// Which calls.
        action: Action,
        /// 1: every call.
        #[serde(default = "always")]
        every: NonZeroU32,
    },
    /// A vSwitch has no address for another ENI: `InvalidVSwitchId.IpNotEnough`.
    OutOfAddresses {
        /// Which.
        vswitch: VSwitchId,
    },
}

fn always() -> NonZeroU32 {
    NonZeroU32::MIN
}

fn internal_error() -> String {
    "InternalError".to_owned()
}

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

    /// The latency of `transition` where the configuration says `configured`; never negative.
    pub(super) fn latency(
        &self,
        transition: Transition,
        configured: SignedDuration,
    ) -> SignedDuration {
        let slow = self.faults().filter_map(|fault| match fault {
            Fault::Slow { action, latency } if *action == transition => Some(*latency),
            _ => None,
        });
        slow.fold(configured.max(SignedDuration::ZERO), SignedDuration::max)
    }

    pub(super) fn is_stuck(&self, transition: Transition) -> bool {
        self.faults()
            .any(|fault| matches!(fault, Fault::Stuck { action } if *action == transition))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_written_by_name_and_unknown_ones_refused() {
        let text = r#"[
            {"fail": {"action": "create"}},
            {"throttle": {"calls_per_s": 5}},
            {"slow": {"action": "attach", "latency": "3s"}},
            {"stuck": {"action": "detach"}},
            {"lost_answer": {"action": "delete", "every": 4}},
            {"out_of_addresses": {"vswitch": "vsw-b"}}
        ]"#;
        let faults: Vec<Fault> = serde_json::from_str(text).unwrap();
        let first = Fault::Fail {
            action: Action::Create,
            every: NonZeroU32::MIN,
            code: "InternalError".to_owned(),
        };
        assert_eq!(faults[0], first);
        let again = serde_json::to_string(&faults).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Fault>>(&again).unwrap(), faults);

        for wrong in [
            r#"{"stuck": {"action": "create"}}"#,
            r#"{"lost_answer": {"action": "create", "every": 0}}"#,
            r#"{"throttle": {"calls_per_s": 5, "burst": 1}}"#,
            r#"{"explode": {}}"#,
        ] {
            assert!(serde_json::from_str::<Fault>(wrong).is_err(), "{wrong}");
        }
    }
}
