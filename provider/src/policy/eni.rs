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

    /// The target with this name in the ledger, whose schema allows no other.
    pub(crate) fn parse(name: &str) -> Self {
        match name {
            "InUse" => Self::InUse,
            "Available" => Self::Available,
            _ => Self::Gone,
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

/// What the ledger knows of an ENI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Not made yet.
    Absent,
    /// A call was under way when the target changed: only the cloud knows what became of it.
    Unsure,
    /// As the cloud last said.
    Is(EniState),
}

impl State {
    /// The name in the ledger; an ENI that is not made yet has none.
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Absent => None,
            Self::Unsure => Some("Unsure"),
            Self::Is(state) => Some(state.as_str()),
        }
    }

    /// The state with this name in the ledger, whose schema allows no other.
    pub(crate) fn parse(name: Option<&str>) -> Self {
        match name {
            None => Self::Absent,
            Some(name) => EniState::parse(name).map_or(Self::Unsure, Self::Is),
        }
    }

    /// Whether the ENI may hold on to an instance, so that its address is not the next pod's yet.
    pub fn is_attached(self) -> bool {
        match self {
            Self::Absent => false,
            Self::Unsure => true,
            Self::Is(state) => {
                matches!(
                    state,
                    EniState::Attaching | EniState::InUse | EniState::Detaching
                )
            }
        }
    }

    /// The state once its pod no longer wants it. Where a call may be under way, nothing is sure.
    #[must_use]
    pub fn abandoned(self) -> Self {
        match self {
            Self::Absent | Self::Is(EniState::Available) => Self::Unsure,
            other => other,
        }
    }
}

/// The next step from `state` towards `target`.
///
/// An ENI that may not exist is never created for a pod that no longer wants it, and its address
/// is not called free before the cloud was asked.
pub fn next(state: State, target: Target) -> Option<Step> {
    use EniState::{Attaching, Available, Deleting, Detaching, InUse};
    use State::{Absent, Is, Unsure};
    match (state, target) {
        (Absent, Target::InUse) => Some(Step::Create),
        (Absent | Is(Available), Target::Available) | (Is(InUse), Target::InUse) => None,
        (Is(Available), Target::InUse) => Some(Step::Attach),
        (Is(Available), Target::Gone) => Some(Step::Delete),
        (Is(InUse), Target::Available | Target::Gone) => Some(Step::Detach),
        (Absent, Target::Gone) | (Unsure | Is(Attaching | Detaching | Deleting), _) => {
            Some(Step::Describe)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_reached_and_then_left_alone() {
        use EniState::{Attaching, Available, Deleting, Detaching, InUse};
        let known = [Available, Attaching, InUse, Detaching, Deleting].map(State::Is);
        for start in known.into_iter().chain([State::Absent, State::Unsure]) {
            for target in [Target::InUse, Target::Available, Target::Gone] {
                let end = settle(start, target);
                let reached = match target {
                    Target::InUse => end == State::Is(InUse),
                    Target::Available => !end.is_attached(),
                    Target::Gone => end == State::Absent,
                };
                assert!(reached, "{start:?} to {target:?} ended at {end:?}");
            }
        }
    }

    #[test]
    fn an_abandoned_call_counts_as_attached_until_the_cloud_was_asked() {
        for state in [State::Absent, State::Is(EniState::Available)] {
            assert!(state.abandoned().is_attached());
            assert_eq!(
                next(state.abandoned(), Target::Available),
                Some(Step::Describe)
            );
        }
    }

    fn settle(mut state: State, target: Target) -> State {
        for _ in 0..8 {
            let Some(step) = next(state, target) else {
                return state;
            };
            if (state, step) == (State::Absent, Step::Describe) {
                return State::Absent;
            }
            state = after(state, step);
        }
        panic!("no end from {state:?} to {target:?}");
    }

    /// What the cloud does, every asynchronous call being through by the next look.
    fn after(state: State, step: Step) -> State {
        use EniState::{Attaching, Available, Deleting, Detaching, InUse};
        match (state, step) {
            (State::Absent, Step::Create)
            | (State::Unsure | State::Is(Detaching), Step::Describe) => State::Is(Available),
            (State::Is(Available), Step::Attach) => State::Is(Attaching),
            (State::Is(Attaching), Step::Describe) => State::Is(InUse),
            (State::Is(InUse), Step::Detach) => State::Is(Detaching),
            (State::Is(Available), Step::Delete) => State::Is(Deleting),
            (State::Is(Deleting), Step::Describe) => State::Absent,
            other => panic!("the cloud refuses {other:?}"),
        }
    }
}
