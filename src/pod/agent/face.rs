//! What goes in and out of the agent.

use std::fmt;
use std::sync::Arc;

use foldhash::HashMap;
use holdfast_provider::cloud::Request;
use holdfast_provider::engine::Event;
use holdfast_provider::id::{NodeName, PodKey, PodUid, Zone};
use holdfast_provider::ledger::Job;
use holdfast_provider::policy::opt_in::UnsupportedClass;
use jiff::SignedDuration;

use crate::pod::core::{Lifecycle, NodeInfo, Topic};
use crate::pod::needs::{self, Found};
use crate::pod::record::ProcessExit;
use crate::pod::view::{GoneView, PodView};

/// What the agent is set to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our nodes.
    pub nodes: HashMap<NodeName, NodeInfo>,
    /// How long the stages of a pod last.
    pub lifecycle: Lifecycle,
    /// What becomes of a fixed IP on a class that offers none.
    pub unsupported_class: UnsupportedClass,
    /// Retention in hours for pods that name none.
    pub default_hours: u32,
    /// Whether opted-in pods that lack the toleration get it.
    pub tolerate: bool,
    /// How many writes to the API may be under way: each holds a body and a connection.
    pub writes_max: usize,
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A list of all pods begins.
    ListBegan,
    /// A pod as it is now, from the list or the watch.
    Seen(Box<PodView>),
    /// The list is complete.
    ListDone,
    /// A pod's DELETED event.
    Deleted(GoneView),
    /// A status write was answered with the version of the pod that it led to.
    Wrote(PodUid, Result<u64, Refused>),
    /// A DELETE was answered.
    DeleteSent(PodUid, Result<(), Refused>),
    /// The toleration was added, or not.
    Tolerated(PodUid, PodKey, Result<(), Refused>),
    /// A GET was answered: the pod of that name, if there is one.
    Looked(PodKey, Result<Option<Box<PodView>>, Refused>),
    /// A node that is not ours was looked at.
    NodeLooked(NodeName, Result<Option<ForeignNode>, Refused>),
    /// A ConfigMap or Secret was looked for: its keys, if it is there.
    ObjectLooked(ObjectKey, Found),
    /// The first process of a container has ended.
    Exited(PodUid, ProcessExit),
    /// One of our nodes begins to shut down, or (`false`) is up again.
    ShutDown(NodeName, bool),
    /// For the engine.
    Engine(Event),
}

/// A ConfigMap or Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    /// Where it is.
    pub namespace: Arc<str>,
    /// Its kind and name.
    pub object: needs::Object,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let needs::Object { kind, name } = &self.object;
        write!(f, "{kind} {}/{name}", self.namespace)
    }
}

/// Why a request had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The object is gone, or another one has its name.
    Gone,
    /// It has another version than the one that was to be changed.
    Stale,
    /// Not now: worth another try.
    Later,
}

/// A node that somebody else keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignNode {
    /// Whether it is a virtual node (label `type=virtual-kubelet`), which is no ECS node.
    pub is_virtual: bool,
    /// Its zone, if it has the label.
    pub zone: Zone,
}

/// How a status is written, each with its body.
#[derive(Debug)]
pub enum StatusWrite {
    /// PUT of the whole pod in protobuf, for the version that was seen.
    Put(Vec<u8>),
    /// PATCH with a strategic merge patch in JSON, whatever the version.
    Patch(Vec<u8>),
}

/// Something to do.
#[derive(Debug)]
pub enum Action {
    /// Run a ledger job and bring back the result under this number.
    Commit(u64, Job),
    /// Call the cloud and bring back the result under this number.
    Call(u64, Request),
    /// Write the status.
    WriteStatus {
        /// Whose.
        uid: PodUid,
        /// Namespace and name.
        key: PodKey,
        /// With what request.
        write: StatusWrite,
    },
    /// DELETE with grace 0 and the UID as precondition.
    Delete(PodUid, PodKey),
    /// Add our toleration to a pod that lacks it.
    ///
    /// Only to the version that was seen: it may have got it since.
    Tolerate(PodUid, PodKey, String, json_patch::PatchOperation),
    /// GET the pod of this name.
    Look(PodKey),
    /// GET the node of this name.
    LookNode(NodeName),
    /// GET the keys of an object.
    LookObject(ObjectKey),
    /// Send an event.
    Event(Arc<PodUid>, PodKey, Topic, String),
    /// A pod's containers have been started, so long after it was first seen.
    Started(SignedDuration),
    /// A pod that was on one of our nodes is gone: nobody needs what is kept for it elsewhere.
    Forget(PodUid),
    /// Stop, and say why.
    Refuse(String),
}
