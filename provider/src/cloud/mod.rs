//! The cloud as the provider sees it: five ECS calls on ENIs, their states and their errors.
//!
//! Owns the vocabulary and the trait. Does not decide when to call (the engine does) and keeps
//! no state (an implementation does). The only implementation is the simulator in [`sim`].
//!
//! ```text
//!            create            attach                 (time)
//!   (none) ─────────▶ Available ──────▶ Attaching ─────────────▶ InUse
//!                      ▲   │                                       │ detach
//!                      │   │ delete      Detaching ◀───────────────┘
//!                      │   ▼                 │ (time)
//!                      │ Deleting ──▶ gone   │
//!                      └─────────────────────┘
//! ```

pub mod sim;

use std::borrow::Cow;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{ClientToken, EniId, InstanceId, Mac, VSwitchId, Zone};

/// The states of an ENI that DescribeNetworkInterfaces shows (ECS API reference).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EniState {
    /// Exists, attached to nothing.
    Available,
    /// Attach was accepted and is under way.
    Attaching,
    /// Attached.
    InUse,
    /// Detach was accepted and is under way.
    Detaching,
    /// Delete was accepted and is under way; the address is not free yet.
    Deleting,
}

impl EniState {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Available,
        Self::Attaching,
        Self::InUse,
        Self::Detaching,
        Self::Deleting,
    ];

    /// The name ECS uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "Available",
            Self::Attaching => "Attaching",
            Self::InUse => "InUse",
            Self::Detaching => "Detaching",
            Self::Deleting => "Deleting",
        }
    }

    /// The state with this name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// One call to the cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// CreateNetworkInterface with a primary address. The same token answers with the same ENI.
    Create {
        /// Makes the call idempotent, and finds the ENI again when the answer was lost.
        token: ClientToken,
        /// Where.
        vswitch: VSwitchId,
        /// The zone of that vSwitch.
        zone: Zone,
        /// The primary private address.
        address: Ipv4Addr,
    },
    /// AttachNetworkInterface: asynchronous, needs `Available` and the same zone.
    Attach {
        /// Which.
        eni: EniId,
        /// To what.
        instance: InstanceId,
        /// The zone of that instance.
        zone: Zone,
    },
    /// DetachNetworkInterface: asynchronous, needs `InUse`, may be repeated while `Detaching`; of
    /// a missing ENI it succeeds.
    Detach {
        /// Which.
        eni: EniId,
    },
    /// DeleteNetworkInterface: asynchronous, needs `Available`, may be repeated while `Deleting`;
    /// of a missing ENI it succeeds.
    Delete {
        /// Which.
        eni: EniId,
    },
    /// DescribeNetworkInterfaces for one ENI, found by the token of its creation: the only way
    /// that works when the answer to the creation was lost.
    Describe {
        /// The token of the creation.
        token: ClientToken,
    },
}

impl Request {
    /// The ECS action of an attachment.
    pub(crate) const ATTACH: &str = "AttachNetworkInterface";

    /// The name of the ECS action.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Create { .. } => "CreateNetworkInterface",
            Self::Attach { .. } => Self::ATTACH,
            Self::Detach { .. } => "DetachNetworkInterface",
            Self::Delete { .. } => "DeleteNetworkInterface",
            Self::Describe { .. } => "DescribeNetworkInterfaces",
        }
    }
}

/// What the cloud answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// An asynchronous call was accepted; describe tells when it is through.
    Accepted,
    /// The ENI as it is now, or `None` when there is none (any more). Create answers with this too.
    Eni(Option<Eni>),
}

/// One ENI as the cloud describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eni {
    /// Its id.
    pub id: EniId,
    /// Its MAC.
    pub mac: Mac,
    /// Its state.
    pub state: EniState,
    /// What it is attached to, or being attached to or detached from.
    pub instance: Option<InstanceId>,
}

/// A call that the cloud refused or that got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    /// The ECS error code, such as `InvalidVSwitchId.IpNotEnough` or `Throttling.User`.
    pub code: Cow<'static, str>,
    /// The text that ECS sends with it.
    pub message: String,
}

impl Error {
    /// Whether the call was one too many and so had no effect: `Throttling`, `Throttling.User` and
    /// `Throttling.Api` mean the same.
    pub fn is_throttling(&self) -> bool {
        self.code.starts_with("Throttling")
    }
}

/// The ECS calls that the provider makes. Errors are retried without end by the caller.
pub trait Cloud {
    /// Makes one call at the time `now`.
    ///
    /// # Errors
    /// What ECS would answer: quotas, throttling, wrong states, or a call without an answer.
    fn call(&mut self, now: Timestamp, request: &Request) -> Result<Response, Error>;
}
