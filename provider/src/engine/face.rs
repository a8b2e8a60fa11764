//! What goes in and out of the engine, and what it tells about a pod.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::Serialize;

use crate::cloud::{self, Request, Response};
use crate::id::{EniId, InstanceId, Mac, NodeName, NodeType, PodKey, PodUid, VSwitchId, Zone};
use crate::ledger::{self, Job, Notice, Outcome};
use crate::policy::opt_in::OptIn;
use crate::policy::retained::Lost;

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A pod is bound to one of our nodes, and lives.
    Bound(PodFacts),
    /// A fixed-IP pod is bound to an ECS node that is not ours.
    OnForeignEcs(PodFacts),
    /// The pod's deletion was seen; it was asked for at this time.
    Deleted(PodUid, Timestamp),
    /// The pod's containers have ended.
    Stopped(PodUid),
    /// Both: its containers had nothing to do between the one and the other.
    DeletedAndStopped(PodUid, Timestamp),
    /// The pod has succeeded or failed, and stays in the API.
    Ended(PodUid),
    /// The pod is gone from the API: its own DELETED event, another UID under its name, or an
    /// answer to its own GET. Sent for every fixed-IP pod, bound or not.
    Gone(PodUid),
    /// A whole list of pods was read, and these are in it. What is missing is not thereby gone.
    Listed(BTreeSet<PodUid>),
    /// The answer to [`Effect::Look`].
    Looked(PodKey, Option<Found>),
    /// There was no answer to [`Effect::Look`].
    LookFailed(PodKey),
    /// The result of [`Effect::Commit`].
    Committed(u64, Result<Outcome, ledger::Error>),
    /// The result of [`Effect::Call`].
    Called(u64, Result<Response, cloud::Error>),
    /// The next retention ends then.
    NextDeadline(Option<Timestamp>),
    /// Another process has written to the ledger, or the settings have changed.
    LedgerChanged,
    /// Whether the wall clock is to be believed.
    Clock {
        /// Whether retentions may end.
        may_expire: bool,
    },
    /// Time has passed.
    Tick,
}

/// A pod that a GET found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its UID.
    pub uid: PodUid,
    /// Whether it wants a fixed address and may have one.
    pub fixed_ip: bool,
    /// `metadata.creationTimestamp`.
    pub created_at: Timestamp,
}

/// Something to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Commit a job and bring back the result under this number.
    Commit(u64, Job),
    /// Call the cloud and bring back the result under this number.
    Call(u64, Request),
    /// GET the pod of this name, now.
    Look(PodKey),
    /// The network of this pod is worth another look.
    Publish(PodUid),
    /// Send an event.
    Notice(Notice),
    /// Stop: serving on would lose or double an address. One sentence says why.
    Refuse(String),
}

/// A pod bound to a node, as far as its network is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Who.
    pub uid: PodUid,
    /// Namespace and name.
    pub key: PodKey,
    /// When it was made.
    pub created: Creation,
    /// The node it is bound to.
    pub node: Node,
    /// What its annotations and class ask for.
    pub opt_in: OptIn,
    /// `status.podIP` as the API server has it; imported when the ledger has no address of the pod.
    pub published: Option<Published>,
}

/// When a pod was made. Pods of one name are made one after the other, which this orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Creation {
    /// `metadata.creationTimestamp`, whole seconds: two pods of one name may share it.
    pub at: Timestamp,
    /// A revision of the API server at which the pod existed: its `metadata.resourceVersion` in any
    /// view of it, all of which lie between those of the pods before and after it (KEP-5504,
    /// Comparable Resource Version). 0 when it is not known.
    pub revision: u64,
}

/// The address that the API server shows for a pod, and the ENI annotation beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// `status.podIP`.
    pub address: Ipv4Addr,
    /// Annotation `network.alibabacloud.com/allocated-eni-id`.
    pub eni: Option<EniId>,
}

/// A node, as far as addresses are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its zone.
    pub zone: Zone,
    /// Its type.
    pub node_type: NodeType,
}

/// What is known of a pod's network. Nothing in here was not committed before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// Being decided or set up, and nothing to tell yet.
    Pending,
    /// Cannot go on for now; retried without end.
    Waiting {
        /// Reason of the Warning event and of the pod's condition.
        reason: Reason,
        /// What it waits for, in one sentence.
        note: String,
    },
    /// The ENI is attached: address, ENI and MAC may be published.
    Attached(Assignment),
    /// Detaching is committed, or there was nothing attached: the pod's end may be published and
    /// the object deleted.
    Detached,
}

/// What a pod got. Committed, and the same for as long as the pod exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Assignment {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its ENI.
    pub eni: EniId,
    /// The ENI's MAC.
    pub mac: Mac,
    /// The vSwitch the address belongs to.
    pub vswitch: VSwitchId,
    /// The zone of that vSwitch.
    pub zone: Zone,
    /// The simulated container instance, `acs-…`.
    pub instance: InstanceId,
    /// The simulated request, an upper-case UUID.
    pub request_id: String,
}

/// Reasons of pod events (rules of retention in README.md say when each is sent).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The retained address was given back.
    FixedIPReused,
    /// There was a retained address, and the pod did not get it.
    FixedIPNotReused,
    /// The pod crossed between node types; nothing was kept.
    FixedIPNotRetained,
    /// The retained address is still held by the ENI of the old pod.
    FixedIPWaiting,
    /// The pod is pinned to a zone that takes no pods any more.
    FixedIPZoneClosed,
    /// The compute class does not offer fixed addresses.
    FixedIPUnsupported,
    /// `enable-fixed-ip` is neither "true" nor "false".
    FixedIPInvalidAnnotation,
    /// `fixed-ip-release-after` is no number of hours from 1 to 8760.
    FixedIPInvalidReleaseAfter,
    /// `security-group-ids` is no list of security groups.
    InvalidSecurityGroupIds,
    /// No allowed vSwitch has a free address.
    IPPoolExhausted,
    /// No configured vSwitch is allowed for the pod.
    NoAllowedVSwitch,
    /// A cloud call failed and is being retried.
    CloudCallFailed,
    /// The same, because there were too many of them. One event reason tells both.
    CloudCallThrottled,
}

impl Reason {
    /// The text of the event's `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FixedIPReused => "FixedIPReused",
            Self::FixedIPNotReused => "FixedIPNotReused",
            Self::FixedIPNotRetained => "FixedIPNotRetained",
            Self::FixedIPWaiting => "FixedIPWaiting",
            Self::FixedIPZoneClosed => "FixedIPZoneClosed",
            Self::FixedIPUnsupported => "FixedIPUnsupported",
            Self::FixedIPInvalidAnnotation => "FixedIPInvalidAnnotation",
            Self::FixedIPInvalidReleaseAfter => "FixedIPInvalidReleaseAfter",
            Self::InvalidSecurityGroupIds => "InvalidSecurityGroupIds",
            Self::IPPoolExhausted => "IPPoolExhausted",
            Self::NoAllowedVSwitch => "NoAllowedVSwitch",
            Self::CloudCallFailed | Self::CloudCallThrottled => "CloudCallFailed",
        }
    }

    /// Of an address that was there and is not given back, with the words for it.
    pub(crate) fn of_loss(lost: Lost) -> (Self, String) {
        match lost {
            Lost::NotReused(note) => (Self::FixedIPNotReused, note),
            Lost::NotRetained(note) => (Self::FixedIPNotRetained, note),
        }
    }

    /// Whether the event is of type Warning (or else Normal).
    pub fn is_warning(self) -> bool {
        self != Self::FixedIPReused
    }
}
