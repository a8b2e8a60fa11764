//! A wanted status: compared with what the API server has, and written as a patch.
//!
//! Owns the shape of the patch and what counts as a difference. What a status says at each stage
//! is in `draft`.

use std::borrow::Cow;
use std::net::IpAddr;

use holdfast_provider::id::PodUid;
use jiff::Timestamp;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use super::observed::{
    self, Addresses, ConditionType, ContainerId, Identity, Observed, State, digest,
};
use super::record::Container;
use super::view::{ConditionStatus, ContainerReason, Phase};

/// The annotations that the system writes on a pod (ACS, "Pod annotations"); a user's own values
/// are overwritten.
pub const SYSTEM_ANNOTATIONS: [&str; 8] = [
    "network.alibabacloud.com/allocated-eni-id",
    "network.alibabacloud.com/vpc-id",
    "network.alibabacloud.com/vswitch-id",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "alibabacloud.com/instance-id",
    "alibabacloud.com/request-id",
    "alibabacloud.com/pod-use-spec",
];

/// What the kubelet says of a container that it cannot find when its pod ends.
const NOT_LOCATED: &str = "The container could not be located when the pod was terminated";

/// A wanted status. Serialises to the body of a strategic merge patch of the subresource `status`.
///
/// The body carries `metadata.uid`, so that it cannot hit a later pod of the same name.
#[derive(Debug, Serialize)]
pub struct Wanted<'a> {
    pub(super) metadata: Metadata<'a>,
    pub(super) status: Status<'a>,
}

impl Wanted<'_> {
    /// Whether writing it would change anything that is ours. Times do not count, and neither
    /// does a generation that the API server does not keep (before 1.34).
    pub(super) fn differs_from(&self, observed: &Observed) -> bool {
        let status = &self.status;
        let outdated = |seen: Option<i64>| seen.is_some() && seen != status.observed_generation;
        let moved = |wanted: Option<IpAddr>, seen: &Addresses| {
            wanted.is_some() && (wanted != seen.first || seen.more)
        };
        status.phase != observed.phase
            || outdated(observed.generation)
            || moved(status.host_ip, &observed.host_ip)
            || moved(status.pod_ip, &observed.pod_ip)
            || (status.start_time.is_some() && observed.start_time.is_none())
            || status.conditions.iter().any(|wanted| {
                observed.condition(wanted.kind).is_none_or(|seen| {
                    let why = seen.why.as_deref().map_or(("", ""), |(a, b)| (&**a, &**b));
                    seen.status != wanted.status
                        || why != (wanted.reason, &*wanted.message)
                        || outdated(seen.generation)
                })
            })
            || differ(&status.init_container_statuses, &observed.init_containers)
            || differ(&status.container_statuses, &observed.containers)
            || self.metadata.annotations.differ_from(&observed.annotations)
    }
}

fn differ(wanted: &[ContainerStatus<'_>], seen: &[observed::ContainerStatus]) -> bool {
    !wanted.is_empty()
        && (wanted.len() != seen.len()
            || wanted.iter().zip(seen).any(|(wanted, seen)| {
                !wanted.state.is_like(seen.state)
                    || (wanted.ready, wanted.started) != (seen.ready, seen.started)
                    || wanted.identity() != seen.identity
            }))
}

#[derive(Debug, Serialize)]
pub(super) struct Metadata<'a> {
    pub(super) uid: &'a PodUid,
    #[serde(skip_serializing_if = "Annotations::is_empty")]
    pub(super) annotations: Annotations<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) observed_generation: Option<i64>,
    pub(super) phase: Phase,
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub(super) host_ip: Option<IpAddr>,
    #[serde(rename = "hostIPs", skip_serializing_if = "Option::is_none")]
    pub(super) host_ips: Option<IpList>,
    #[serde(rename = "podIP", skip_serializing_if = "Option::is_none")]
    pub(super) pod_ip: Option<IpAddr>,
    #[serde(rename = "podIPs", skip_serializing_if = "Option::is_none")]
    pub(super) pod_ips: Option<IpList>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start_time: Option<Timestamp>,
    pub(super) conditions: Vec<Condition<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) init_container_statuses: Vec<ContainerStatus<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) container_statuses: Vec<ContainerStatus<'a>>,
}

/// Values of [`SYSTEM_ANNOTATIONS`], in that order.
#[derive(Debug, Default)]
pub(super) struct Annotations<'a>(pub(super) [Option<&'a str>; SYSTEM_ANNOTATIONS.len()]);

impl Annotations<'_> {
    fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    fn differ_from(&self, observed: &[u64; SYSTEM_ANNOTATIONS.len()]) -> bool {
        let mut pairs = self.0.iter().zip(observed);
        pairs.any(|(wanted, seen)| wanted.is_some_and(|value| digest(value) != *seen))
    }
}

impl Serialize for Annotations<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in SYSTEM_ANNOTATIONS.iter().zip(&self.0) {
            if let Some(value) = value {
                map.serialize_entry(key, value)?;
            }
        }
        map.end()
    }
}

/// `podIPs` or `hostIPs` with one address.
#[derive(Debug)]
pub(super) struct IpList {
    pub(super) ip: IpAddr,
    /// A strategic patch merges these lists by address, so another address would be added to the
    /// list, and the API server refuses two of one family.
    pub(super) replace: bool,
}

impl IpList {
    pub(super) fn new(ip: IpAddr, seen: Addresses) -> Self {
        Self {
            ip,
            replace: seen.more || seen.first.is_some_and(|first| first != ip),
        }
    }
}

impl Serialize for IpList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Entry {
            ip: IpAddr,
        }
        #[derive(Serialize)]
        struct Directive {
            #[serde(rename = "$patch")]
            patch: &'static str,
        }
        let mut list = serializer.serialize_seq(None)?;
        list.serialize_element(&Entry { ip: self.ip })?;
        if self.replace {
            list.serialize_element(&Directive { patch: "replace" })?;
        }
        list.end()
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Condition<'a> {
    #[serde(rename = "type")]
    pub(super) kind: ConditionType,
    pub(super) status: ConditionStatus,
    // Written when empty too: conditions merge field by field, so an old reason would stay.
    pub(super) reason: &'static str,
    pub(super) message: Cow<'a, str>,
    pub(super) last_transition_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) observed_generation: Option<i64>,
}

#[derive(Debug)]
pub(super) struct ContainerStatus<'a> {
    pub(super) uid: &'a PodUid,
    pub(super) container: &'a Container,
    pub(super) state: State,
    pub(super) ready: bool,
    pub(super) started: bool,
}

impl ContainerStatus<'_> {
    fn identity(&self) -> Identity {
        match self.state {
            State::Waiting { .. }
            | State::Terminated {
                reason: ContainerReason::ContainerStatusUnknown,
                ..
            } => Identity::Blank,
            State::Running { .. } | State::Terminated { .. } => Identity::Ours,
        }
    }
}

impl Serialize for ContainerStatus<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            name: &'a str,
            state: StateBody<'a>,
            ready: bool,
            started: bool,
            restart_count: u32,
            image: &'a str,
            #[serde(rename = "imageID")]
            image_id: &'a str,
            #[serde(rename = "containerID", skip_serializing_if = "Option::is_none")]
            container_id: Option<ContainerId<'a>>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
        enum StateBody<'a> {
            Waiting {
                reason: ContainerReason,
            },
            Running {
                started_at: Timestamp,
            },
            Terminated {
                exit_code: i32,
                reason: ContainerReason,
                #[serde(skip_serializing_if = "Option::is_none")]
                message: Option<&'static str>,
                #[serde(skip_serializing_if = "Option::is_none")]
                started_at: Option<Timestamp>,
                finished_at: Timestamp,
                #[serde(rename = "containerID", skip_serializing_if = "Option::is_none")]
                container_id: Option<ContainerId<'a>>,
            },
        }
        let Container { name, image, .. } = self.container;
        let exists = self.identity() == Identity::Ours;
        let container_id = exists.then(|| ContainerId::new(self.uid, name));
        let state = match self.state {
            State::Waiting { reason } => StateBody::Waiting { reason },
            State::Running { started_at } => StateBody::Running { started_at },
            State::Terminated {
                exit_code,
                reason,
                started_at,
                finished_at,
            } => StateBody::Terminated {
                exit_code,
                reason,
                message: (!exists).then_some(NOT_LOCATED),
                started_at: exists.then_some(started_at),
                finished_at,
                container_id,
            },
        };
        let image_id = if exists { image } else { "" };
        let (ready, started) = (self.ready, self.started);
        let body = Body {
            name,
            state,
            ready,
            started,
            restart_count: 0,
            image,
            image_id,
            container_id,
        };
        body.serialize(serializer)
    }
}
