//! Which cloud call brings an ENI closer to what the ledger wants of it.
//!
//! The ledger stores two facts per ENI: its state as last committed, and the target. An intent is
//! open exactly while [`next`] answers something.

use crate::cloud::EniState;

/// What the ledger wants an ENI to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Attached to its pod's instance.
    InUse,
    /// Attached to nothing, and kept if it exists.
    Available,
    /// Deleted, so that its address is free.
    Gone,
}

impl Target {
    /// The name in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InUse => "InUse",
            Self::Available => "Available",
            Self::Gone => "Gone",
        }
    }
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// CreateNetworkInterface.
    Create,
    /// AttachNetworkInterface.
    Attach,
    /// DetachNetworkInterface.
    Detach,
    /// DeleteNetworkInterface.
    Delete,
    /// DescribeNetworkInterfaces: something is under way, or may have happened unseen.
    Describe,
}

/// The next step from `state` (`None`: not known to exist) towards `target`.
///
/// An ENI that may not exist is never created for a pod that no longer wants it, and its address
/// is not called free before the cloud was asked.
pub fn next(state: Option<EniState>, target: Target) -> Option<Step> {
    use EniState::{Attaching, Available, Deleting, Detaching, InUse};
    match (state, target) {
        (None, Target::InUse) => Some(Step::Create),
        (None | Some(Available), Target::Available) | (Some(InUse), Target::InUse) => None,
        (Some(Available), Target::InUse) => Some(Step::Attach),
        (Some(Available), Target::Gone) => Some(Step::Delete),
        (Some(InUse), Target::Available | Target::Gone) => Some(Step::Detach),
        (None, Target::Gone) | (Some(Attaching | Detaching | Deleting), _) => Some(Step::Describe),
    }
}

/// Whether the ENI holds on to an instance, so that its address is not the next pod's yet.
pub fn is_attached(state: Option<EniState>) -> bool {
    matches!(
        state,
        Some(EniState::Attaching | EniState::InUse | EniState::Detaching)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_reached_and_then_left_alone() {
        let states = [
            None,
            Some(EniState::Available),
            Some(EniState::Attaching),
            Some(EniState::InUse),
            Some(EniState::Detaching),
            Some(EniState::Deleting),
        ];
        for target in [Target::InUse, Target::Available, Target::Gone] {
            for start in states {
                let mut state = start;
                let mut steps = 0;
                while let Some(step) = next(state, target) {
                    let done = state.is_none() && step == Step::Describe;
                    state = after(state, step);
                    steps += 1;
                    assert!(steps < 8, "no end from {start:?} to {target:?}");
                    if done {
                        break;
                    }
                }
                let reached = match target {
                    Target::InUse => state == Some(EniState::InUse),
                    Target::Available => !is_attached(state),
                    Target::Gone => state.is_none(),
                };
                assert!(reached, "{start:?} to {target:?} ended at {state:?}");
            }
        }
    }

    /// What the cloud does, every asynchronous call being through by the next look.
    fn after(state: Option<EniState>, step: Step) -> Option<EniState> {
        match (state, step) {
            (None, Step::Create) | (Some(EniState::Detaching), Step::Describe) => {
                Some(EniState::Available)
            }
            (Some(EniState::Available), Step::Attach) => Some(EniState::Attaching),
            (Some(EniState::Attaching), Step::Describe) => Some(EniState::InUse),
            (Some(EniState::InUse), Step::Detach) => Some(EniState::Detaching),
            (Some(EniState::Available), Step::Delete) => Some(EniState::Deleting),
            (None | Some(EniState::Deleting), Step::Describe) => None,
            other => panic!("the cloud refuses {other:?}"),
        }
    }
}
