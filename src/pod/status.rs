//! A wanted status: compared with what the API server has, and written as a patch or in protobuf.
//!
//! Owns the shape of the patch and what counts as a difference. What a status says at each stage
//! is in `draft`.

mod encoded;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroI64;

use holdfast_provider::id::PodUid;
use jiff::Timestamp;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use super::observed::{
    self, Addresses, ConditionType, ContainerId, Ended, Identity, Observed, State, digest,
};
use super::record::Container;
use super::view::{ConditionStatus, ContainerReason, Phase, Resources};

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
        let outdated =
            |seen: Option<NonZeroI64>| seen.is_some() && seen != status.observed_generation;
        let moved = |wanted: Option<IpAddr>, seen: &Addresses| {
            wanted.is_some() && (wanted != seen.first || seen.more)
        };
        status.phase != observed.phase
            || outdated(observed.generation)
            || moved(status.host_ip, &observed.host_ip)
            || moved(status.pod_ip, &observed.pod_ip)
            || (status.start_time.is_some() && observed.start_time().is_none())
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
            || differ(
                &status.ephemeral_container_statuses,
                &observed.ephemeral_containers,
            )
            || self.metadata.annotations.differ_from(&observed.annotations)
    }
}

fn differ(wanted: &[ContainerStatus<'_>], seen: &[observed::ContainerStatus]) -> bool {
    !wanted.is_empty()
        && (wanted.len() != seen.len()
            || wanted.iter().zip(seen).any(|(wanted, seen)| {
                let last = match (&wanted.last, &seen.last()) {
                    (Some(wanted), Some(seen)) => wanted.is_like(seen),
                    (wanted, seen) => wanted.is_none() && seen.is_none(),
                };
                let resources = wanted.container.resources.as_deref();
                !wanted.state.is_like(seen.state)
                    || (wanted.ready, wanted.started) != (seen.ready, seen.started)
                    || wanted.restarts != seen.restarts
                    || !last
                    || wanted.message.as_deref().unwrap_or_default() != seen.message()
                    || wanted.identity() != seen.identity
                    || resources.map_or(0, digest) != seen.resources()
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
    pub(super) observed_generation: Option<NonZeroI64>,
    pub(super) phase: Phase,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<&'static str>,
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) ephemeral_container_statuses: Vec<ContainerStatus<'a>>,
}

impl Status<'_> {
    /// A status that says nothing else.
    pub(super) fn new(phase: Phase, observed_generation: Option<NonZeroI64>) -> Self {
        Self {
            observed_generation,
            phase,
            reason: None,
            message: None,
            host_ip: None,
            host_ips: None,
            pod_ip: None,
            pod_ips: None,
            start_time: None,
            conditions: Vec::with_capacity(7),
            init_container_statuses: Vec::new(),
            container_statuses: Vec::new(),
            ephemeral_container_statuses: Vec::new(),
        }
    }
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
    pub(super) observed_generation: Option<NonZeroI64>,
}

#[derive(Debug)]
pub(super) struct ContainerStatus<'a> {
    pub(super) uid: &'a PodUid,
    pub(super) container: &'a Container,
    /// What the run that is shown was started with.
    pub(super) image: &'a str,
    pub(super) state: State,
    pub(super) ready: bool,
    pub(super) started: bool,
    pub(super) restarts: u32,
    /// How the run before ended.
    pub(super) last: Option<Ended>,
    /// Why it waits.
    pub(super) message: Option<String>,
}

impl<'a> ContainerStatus<'a> {
    pub(super) fn waiting(
        uid: &'a PodUid,
        container: &'a Container,
        reason: ContainerReason,
    ) -> Self {
        Self {
            uid,
            container,
            image: &container.image,
            state: State::Waiting { reason },
            ready: false,
            started: false,
            restarts: 0,
            last: None,
            message: None,
        }
    }

    /// What the API has of it, without the message.
    pub(super) fn of(
        uid: &'a PodUid,
        container: &'a Container,
        seen: Option<&'a observed::ContainerStatus>,
    ) -> Self {
        let mut status = Self::waiting(uid, container, ContainerReason::ContainerCreating);
        if let Some(seen) = seen {
            status.state = seen.state;
            status.image = seen.older_image().unwrap_or(status.image);
            (status.ready, status.started) = (seen.ready, seen.started);
            (status.restarts, status.last) = (seen.restarts, seen.last());
        }
        status
    }

    fn identity(&self) -> Identity {
        match self.state {
            State::Waiting { .. } if self.last.is_none() => Identity::Blank,
            State::Terminated(ended) if ended.reason == ContainerReason::ContainerStatusUnknown => {
                Identity::Blank
            }
            _ if *self.image != *self.container.image => Identity::Outdated,
            _ => Identity::Ours,
        }
    }

    fn id(&self, restarts: u32) -> ContainerId<'a> {
        ContainerId::new(self.uid, &self.container.name, restarts)
    }

    /// The run before the one that is shown; while one waits, the one that is shown.
    fn last_id(&self) -> ContainerId<'a> {
        let waits = matches!(self.state, State::Waiting { .. });
        self.id(self.restarts.saturating_sub(u32::from(!waits)))
    }

    fn body(&self) -> Body<'_> {
        let Container {
            name, resources, ..
        } = self.container;
        let image = self.image;
        let exists = matches!(self.identity(), Identity::Ours | Identity::Outdated);
        let container_id = exists.then(|| self.id(self.restarts));
        let state = match self.state {
            State::Waiting { reason } => StateBody::Waiting {
                reason,
                message: self.message.as_deref(),
            },
            State::Running { started_at } => StateBody::Running { started_at },
            State::Terminated(ended) => StateBody::ended(ended, container_id),
        };
        Body {
            name,
            state,
            last_state: self
                .last
                .map(|ended| StateBody::ended(ended, Some(self.last_id()))),
            ready: self.ready,
            started: self.started,
            restart_count: self.restarts,
            image,
            image_id: if exists { image } else { "" },
            container_id,
            resources: resources.as_deref(),
            allocated_resources: resources.as_deref().map(|given| &given.requests),
        }
    }
}

/// A container's status as it is told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    name: &'a str,
    state: StateBody<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_state: Option<StateBody<'a>>,
    ready: bool,
    started: bool,
    restart_count: u32,
    image: &'a str,
    #[serde(rename = "imageID")]
    image_id: &'a str,
    #[serde(rename = "containerID", skip_serializing_if = "Option::is_none")]
    container_id: Option<ContainerId<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<&'a Resources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allocated_resources: Option<&'a BTreeMap<String, String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum StateBody<'a> {
    Waiting {
        reason: ContainerReason,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'a str>,
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

impl<'a> StateBody<'a> {
    /// `id` of a container that existed.
    fn ended(ended: Ended, id: Option<ContainerId<'a>>) -> Self {
        Self::Terminated {
            exit_code: ended.exit_code,
            reason: ended.reason,
            message: id.is_none().then_some(NOT_LOCATED),
            started_at: id.is_some().then_some(ended.started_at),
            finished_at: ended.finished_at,
            container_id: id,
        }
    }
}

impl Serialize for ContainerStatus<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.body().serialize(serializer)
    }
}
