//! What goes into the ledger and what comes out: jobs, and the data that they lead to. Does nothing with either.

use jiff::Timestamp;

use crate::check::Repair;
use crate::cloud::{Request, Response};
use crate::engine::{Network, PodFacts, Reason};
use crate::id::{ClientToken, PodKey, PodUid, VSwitchId};
use crate::ledger::{Error, Note, Portion};
use crate::policy::eni::Step;
use crate::policy::pool::Counts;

/// One operation, one transaction. Each may be tried again with the same effect.
#[derive(Clone, Debug)]
pub enum Job {
    /// A pod on one of our nodes wants a network.
    Acquire(PodFacts),
    /// The same, where others have waited longer for the free addresses of these vSwitches.
    AcquireBehind(PodFacts, Vec<VSwitchId>),
    /// A running pod of ours shows an address that the ledger does not know: the claim of its key ends unless it is of
    /// that address. To be asked of all such pods before any of them is imported.
    Disprove(PodFacts),
    /// The pod gets the address that it shows.
    Import(PodFacts),
    /// A fixed-IP pod is bound to an ECS node that is not ours.
    SeenOnEcs(PodFacts),
    /// The pod's deletion was seen; it was asked for at this time.
    Deleted(PodUid, Timestamp),
    /// The pod's containers have ended.
    Stopped(PodUid),
    /// Both, in one transaction.
    DeletedAndStopped(PodUid, Timestamp),
    /// The pod has succeeded or failed, and stays in the API.
    Ended(PodUid),
    /// The pod is gone from the API.
    Gone(PodUid),
    /// A cloud call was answered.
    Record {
        /// The ENI.
        eni: EniRow,
        /// The token that it had when the call was made.
        token: ClientToken,
        /// The call.
        step: Step,
        /// The answer.
        response: Response,
    },
    /// Which claims have run out at this time? Ledger time can be ahead of it after a clock that
    /// jumped forward was set back, and ends nothing by itself. The first so many are told.
    Due(Timestamp, usize),
    /// Ends a claim that has run out at this time and whose key has no pod.
    Expire(ClaimRef, Timestamp),
    /// Which intents are open? Asked when another process has written to the file.
    Open,
    /// Puts right what a check found.
    Repair(Repair),
    /// Forgets a portion of the history that is older than configured.
    Prune(Portion),
    /// Writes down what only the program knows, at this time by its clock.
    Note(Timestamp, Note),
}

impl Job {
    /// Whether it tells of a pod that wants nothing any more.
    pub(super) fn is_of_a_leaving_pod(&self) -> bool {
        matches!(
            self,
            Self::Deleted(..)
                | Self::Stopped(_)
                | Self::DeletedAndStopped(..)
                | Self::Ended(_)
                | Self::Gone(_)
        )
    }

    /// One word for what kind of job it is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Acquire(_) | Self::AcquireBehind(..) => "acquire",
            Self::Disprove(_) => "disprove",
            Self::Import(_) => "import",
            Self::SeenOnEcs(_) => "seen_on_ecs",
            Self::Deleted(..) => "deleted",
            Self::Stopped(_) => "stopped",
            Self::DeletedAndStopped(..) => "deleted_and_stopped",
            Self::Ended(_) => "ended",
            Self::Gone(_) => "gone",
            Self::Record { .. } => "record",
            Self::Due(..) => "due",
            Self::Expire(..) => "expire",
            Self::Open => "open",
            Self::Repair(_) => "repair",
            Self::Prune(_) => "prune",
            Self::Note(..) => "note",
        }
    }
}

/// The ledger's own number of an ENI, known before the cloud has named it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EniRow(pub(crate) i64);

/// The ledger's own number of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimRef(pub(crate) i64);

/// What a committed job leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Pods whose network changed or was asked for.
    pub pods: Vec<PodState>,
    /// Cloud calls that are next.
    pub tasks: Vec<Task>,
    /// Events for pods.
    pub notices: Vec<Notice>,
    /// vSwitches that got a free address.
    pub freed: Vec<VSwitchId>,
    /// vSwitches whose addresses do something else now, without one more being free.
    pub retained: Vec<VSwitchId>,
    /// Pods that are gone, as a newer one of their name shows.
    pub superseded: Vec<PodUid>,
    /// Keys whose old pod has let go of its address.
    pub released: Vec<PodKey>,
    /// Claims that have run out.
    pub due: Vec<Due>,
    /// Where to go on with forgetting history.
    pub pruning: Option<Box<Portion>>,
    /// Why holdfast must not start on this ledger.
    pub refusal: Option<String>,
    /// Whether a repair was still needed, and made.
    pub repaired: bool,
    /// What is worth counting, and happens to few jobs.
    pub counted: Option<Box<Counted>>,
}

/// What a job did that somebody may count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Addresses that pods got.
    pub allocated: Vec<Allocated>,
    /// Claims that have ended, and why, in the ledger's words.
    pub closed: Vec<&'static str>,
}

/// An address that a pod got.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Allocated {
    /// Its vSwitch.
    pub vswitch: VSwitchId,
    /// Whether it stays the pod's after the pod.
    pub fixed: bool,
    /// `allocated`, `reused` or `imported`: the ledger's word for it.
    pub how: &'static str,
}

/// A pod's network after a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodState {
    /// Who.
    pub uid: PodUid,
    /// Its network.
    pub network: Network,
    /// What would have to change before asking again makes sense.
    pub blocked: Option<Blocked>,
}

/// What a pod without an address waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// An older pod of its key.
    Key,
    /// A free address in one of some vSwitches.
    Pool {
        /// Which.
        vswitches: Vec<VSwitchId>,
        /// What their addresses do: as long as that is the same there is nothing new to tell.
        counts: Vec<Counts>,
    },
}

impl Blocked {
    /// Whether addresses are free that others have waited longer for.
    pub(crate) fn is_for_others(&self) -> bool {
        match self {
            Self::Pool { counts, .. } => counts.iter().any(|counts| counts.free > 0),
            Self::Key => false,
        }
    }

    /// The vSwitches out of which it would take any address.
    pub(crate) fn vswitches(&self) -> &[VSwitchId] {
        match self {
            Self::Pool { vswitches, .. } => vswitches,
            Self::Key => &[],
        }
    }
}

/// A cloud call to make for an ENI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The ENI.
    pub eni: EniRow,
    /// The token of its creation, by which a look finds it.
    pub token: ClientToken,
    /// The call, as the policy named it.
    pub step: Step,
    /// The call, with everything in it.
    pub request: Request,
    /// The call before it that is still under way: when to look first.
    pub under_way: Option<Step>,
    /// The pod that waits for it.
    pub pod: Option<PodUid>,
}

/// An event for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Which pod.
    pub uid: PodUid,
    /// Why.
    pub reason: Reason,
    /// One sentence.
    pub note: String,
}

/// A claim that has run out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Which.
    pub claim: ClaimRef,
    /// Its key.
    pub key: PodKey,
    /// When it ran out.
    pub expires_at: Timestamp,
}

/// What the engine needs to go on where an earlier process stopped.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Every pod in the ledger.
    pub pods: Vec<LoadedPod>,
    /// Every open intent; each starts with a look at what the cloud has.
    pub tasks: Vec<Task>,
    /// When the next retention ends.
    pub next_deadline: Option<Timestamp>,
}

/// A pod in the ledger at start.
#[derive(Clone, Debug)]
pub struct LoadedPod {
    /// Its network and whatever else a job would have told.
    pub state: PodState,
    /// Its key.
    pub key: PodKey,
    /// Whether it was accepted with a fixed address.
    pub fixed: bool,
    /// Whether its deletion was recorded.
    pub deleted: bool,
    /// Whether the end of its containers, or its own, was recorded.
    pub stopped: bool,
    /// Whether it was recorded as ended.
    pub ended: bool,
    /// Whether it was recorded as gone (and only its ENI is not detached yet).
    pub gone: bool,
}

/// Results of one COMMIT.
#[derive(Debug)]
pub struct Batch {
    /// One result per job, in order.
    pub results: Vec<Result<Outcome, Error>>,
    /// When the next retention ends.
    pub next_deadline: Option<Timestamp>,
}
