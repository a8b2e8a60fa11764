//! What is read of a pod's status. Owns the names of the fields; what is kept of them
//! [`observed`](crate::pod::observed) says.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Resources;

/// Displays what is written of it in JSON.
macro_rules! named_as_written {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.serialize(f)
            }
        }
    };
}

/// `status` of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Where it is in its life.
    pub phase: Phase,
    /// Why it is there, such as `Evicted`.
    pub reason: Option<String>,
    /// Its address.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// All its addresses, the same one first.
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<Ip>,
    /// Its node's address.
    #[serde(rename = "hostIP")]
    pub host_ip: Option<String>,
    /// All addresses of its node, the same one first.
    #[serde(rename = "hostIPs")]
    pub host_ips: Vec<Ip>,
    /// When a node first took notice of it.
    pub start_time: Option<Timestamp>,
    /// The generation of the specification that this status speaks of.
    pub observed_generation: Option<i64>,
    /// Ours and those of others.
    pub conditions: Vec<Condition>,
    /// Empty until containers are being created.
    pub container_statuses: Vec<ContainerStatus>,
    /// Empty until containers are being created.
    pub init_container_statuses: Vec<ContainerStatus>,
    /// Of the containers that were added since.
    pub ephemeral_container_statuses: Vec<ContainerStatus>,
}

/// `status.phase` of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not all containers have been started.
    #[default]
    Pending,
    /// Bound, and at least one container runs or is being restarted.
    Running,
    /// Ended well. Never left again.
    Succeeded,
    /// Ended badly. Never left again.
    Failed,
    /// The node could not be asked.
    #[serde(other)]
    Unknown,
}

impl Phase {
    /// Whether the pod has ended for good.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// One entry of `podIPs` or `hostIPs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Ip {
    /// The address, as text: one pod with an odd one must not spoil a whole list.
    pub ip: String,
}

/// One entry of `status.conditions`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One word for the present status.
    #[serde(default)]
    pub reason: String,
    /// One sentence for people.
    #[serde(default)]
    pub message: String,
    /// When `status` last changed.
    #[serde(default)]
    pub last_transition_time: Option<Timestamp>,
    /// The generation of the specification that it speaks of.
    #[serde(default)]
    pub observed_generation: Option<i64>,
}

/// `status` of a condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody can tell.
    #[default]
    #[serde(other)]
    Unknown,
}

/// The status of one container or init container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// Which one.
    pub name: String,
    /// What it is doing.
    pub state: ContainerState,
    /// Whether it counts for the readiness of the pod; of an init container: whether it is done.
    pub ready: bool,
    /// Whether it runs and its startup probe has passed.
    pub started: Option<bool>,
    /// How often it was started again.
    pub restart_count: i32,
    /// The image it runs.
    pub image: String,
    /// The image as the runtime knows it.
    #[serde(rename = "imageID")]
    pub image_id: String,
    /// `<runtime>://<id>`, absent until it is created.
    #[serde(rename = "containerID")]
    pub container_id: Option<String>,
    /// How it ended before it was started again.
    pub last_state: ContainerState,
    /// What it was last given, once that could be changed.
    pub resources: Option<Resources>,
}

/// What a container is doing: at most one of the three is set, none means waiting.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    /// Not started.
    pub waiting: Option<Waiting>,
    /// Started and not ended.
    pub running: Option<Running>,
    /// Ended.
    pub terminated: Option<Terminated>,
}

/// Details of a container that is not started.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Waiting {
    /// One word, which kubectl shows as the pod's STATUS.
    pub reason: ContainerReason,
    /// One sentence for people.
    pub message: Option<String>,
}

/// Details of a container that runs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Running {
    /// Since when.
    pub started_at: Option<Timestamp>,
}

/// Details of a container that has ended.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Terminated {
    /// Of its first process.
    pub exit_code: i32,
    /// One word, which kubectl shows as the pod's STATUS.
    pub reason: ContainerReason,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// Why a container waits or has ended. Only the reasons that are written here are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerReason {
    /// The network is there, the container not yet.
    ContainerCreating,
    /// Init containers come first.
    PodInitializing,
    /// Ended with exit code 0.
    Completed,
    /// Ended with another exit code.
    Error,
    /// Killed because it used more memory than it may.
    #[serde(rename = "OOMKilled")]
    OomKilled,
    /// Its image could not be pulled.
    ErrImagePull,
    /// Its image could not be pulled and is tried again later.
    ImagePullBackOff,
    /// Ended too often and is started again later.
    CrashLoopBackOff,
    /// What its variables are made of is missing.
    CreateContainerConfigError,
    /// Nothing is known of it, it was never started.
    ContainerStatusUnknown,
    /// Any other.
    #[default]
    #[serde(other)]
    Other,
}

named_as_written!(Phase);
named_as_written!(ConditionStatus);
named_as_written!(ContainerReason);
