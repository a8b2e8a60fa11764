//! One operation under way: the transaction, the time, and what comes of it.
//!
//! Owns reading rows into facts and the few writes that every operation is made of. Which of them
//! happen is decided by the policy; the sequences stand in the sibling modules.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Result, Row};
use serde::de::DeserializeOwned;

use crate::cloud::EniState;
use crate::cloud::sim::Simulator;
use crate::engine::{Assignment, Network, PodFacts};
use crate::id::{ClientToken, ClusterId, EniId, InstanceId, Mac, PodKey, PodUid, VSwitchId};
use crate::ledger::free::Free;
use crate::ledger::plan::Rows;
use crate::ledger::pool::VSwitchRef;
use crate::ledger::{Counted, Job, Loaded, LoadedPod, Outcome, PodState};
use crate::policy::eni::{State, Target};
use crate::policy::pool::Counts;
use crate::settings::Settings;
use crate::sql::Tx;

/// See the module.
pub(crate) struct Op<'a> {
    pub(crate) tx: &'a Tx<'a>,
    pub(crate) now: Timestamp,
    /// The wall clock, which ledger time is ahead of after a clock that was wrong.
    pub(crate) wall: Timestamp,
    pub(crate) settings: &'a Settings,
    pub(crate) vswitches: &'a [VSwitchRef],
    pub(crate) free: &'a Free,
    pub(crate) simulator: &'a mut Simulator,
    pub(crate) explained: &'a mut Explained,
    pub(crate) out: Outcome,
}

/// Why vSwitches are exhausted, as long as no address has changed: in a burst of pods that wait for
/// the same ones, the addresses are counted once.
pub(crate) type Explained = HashMap<Vec<VSwitchId>, (String, Vec<Counts>)>;

/// A row of table `pod`.
#[derive(Clone, Debug)]
pub(crate) struct PodRow {
    pub(crate) uid: PodUid,
    pub(crate) cluster: ClusterId,
    pub(crate) key: PodKey,
    pub(crate) hours: Option<u32>,
    pub(crate) deleted: bool,
    pub(crate) stopped: bool,
    pub(crate) ended: bool,
    pub(crate) gone: bool,
    pub(crate) eni: Option<i64>,
    pub(crate) names: Names,
    /// The vSwitches that it named when it was accepted.
    pub(crate) vswitches: Vec<VSwitchId>,
}

/// What a pod is called in the cloud.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) instance: InstanceId,
    pub(crate) request_id: String,
}

const POD: &str = "SELECT uid, namespace, name, hours, deleted_ms IS NOT NULL, stopped_ms IS NOT NULL, ended_ms IS NOT NULL, gone_ms IS NOT NULL, eni, instance, request_id, cluster, vswitches \
     FROM pod";

impl PodRow {
    fn read(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            uid: row.get_ref(0)?.as_str()?.into(),
            cluster: row.get_ref(11)?.as_str()?.into(),
            key: PodKey::new(row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?),
            hours: row.get(3)?,
            deleted: row.get(4)?,
            stopped: row.get(5)?,
            ended: row.get(6)?,
            gone: row.get(7)?,
            eni: row.get(8)?,
            names: Names {
                instance: row.get_ref(9)?.as_str()?.into(),
                request_id: row.get(10)?,
            },
            vswitches: ids(row, 12)?,
        })
    }

    /// Whether its containers have ended, one way or another: it wants no network any more.
    pub(crate) fn is_over(&self) -> bool {
        self.stopped || self.ended || self.gone
    }
}

/// A row of table `eni`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EniFacts {
    pub(crate) row: i64,
    pub(crate) token: ClientToken,
    pub(crate) eni: Option<EniId>,
    pub(crate) mac: Option<Mac>,
    pub(crate) vswitch: i64,
    pub(crate) address: Ipv4Addr,
    pub(crate) state: State,
    pub(crate) target: Target,
    pub(crate) instance: Option<InstanceId>,
}

impl EniFacts {
    fn read(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            row: row.get(0)?,
            token: row.get_ref(1)?.as_str()?.into(),
            eni: row.get_ref(2)?.as_str_or_null()?.map(Into::into),
            mac: row.get_ref(3)?.as_str_or_null()?.map(|mac| {
                mac.parse()
                    .expect("the ledger writes MACs as it reads them")
            }),
            vswitch: row.get(4)?,
            address: Ipv4Addr::from(row.get::<_, u32>(5)?),
            state: State::parse(row.get_ref(6)?.as_str_or_null()?),
            target: Target::parse(row.get_ref(7)?.as_str()?),
            instance: row.get_ref(8)?.as_str_or_null()?.map(Into::into),
        })
    }
}

impl<'a> Op<'a> {
    pub(crate) fn new(
        tx: &'a Tx<'a>,
        (now, wall): (Timestamp, Timestamp),
        settings: &'a Settings,
        (vswitches, free): (&'a [VSwitchRef], &'a Free),
        simulator: &'a mut Simulator,
        explained: &'a mut Explained,
    ) -> Self {
        Self {
            tx,
            now,
            wall,
            settings,
            vswitches,
            free,
            simulator,
            explained,
            out: Outcome::default(),
        }
    }

    /// Runs one job.
    pub(crate) fn run(mut self, job: &Job) -> Result<Outcome> {
        match job {
            Job::Acquire(pod) => self.acquire(pod, &[]),
            Job::AcquireBehind(pod, awaited) => self.acquire(pod, awaited),
            Job::Disprove(pod) => self.disprove(pod),
            Job::Import(pod) => self.import(pod),
            Job::SeenOnEcs(pod) => self.seen_on_ecs(pod),
            Job::Deleted(uid, at) => self.deleted(uid, *at),
            Job::Stopped(uid) => self.stopped(uid),
            Job::DeletedAndStopped(uid, at) => self.deleted_and_stopped(uid, *at),
            Job::Ended(uid) => self.ended(uid),
            Job::Gone(uid) => self.gone(uid),
            Job::Record {
                eni,
                token,
                step,
                response,
            } => self.record(eni.0, token, *step, response),
            Job::Due(at, limit) => self.due(*at, *limit),
            Job::Expire(claim, at) => self.expire(claim.0, *at),
            Job::Open => self.open_intents(),
            Job::Repair(repair) => self.repair(repair),
            Job::Prune(portion) => self.prune(portion),
            Job::Note(clock, note) => self.note(*clock, note),
        }?;
        Ok(self.out)
    }

    /// Everything that a starting engine needs.
    pub(crate) fn load(mut self) -> Result<Loaded> {
        let sql = format!("{POD} WHERE cluster = ?1");
        let pods = self
            .tx
            .rows(&sql, [self.settings.cluster.as_str()], PodRow::read)?;
        let mut loaded = Vec::with_capacity(pods.len());
        for pod in pods {
            let network = self.network(&pod)?;
            loaded.push(LoadedPod {
                state: PodState {
                    uid: pod.uid.clone(),
                    network,
                    blocked: None,
                },
                key: pod.key.clone(),
                fixed: pod.hours.is_some(),
                deleted: pod.deleted,
                stopped: pod.stopped || pod.ended,
                ended: pod.ended,
                gone: pod.gone,
            });
        }
        self.open_intents()?;
        let next_deadline = super::release::next_deadline(self.tx, &self.settings.cluster)?;
        Ok(Loaded {
            pods: loaded,
            tasks: self.out.tasks,
            next_deadline,
        })
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.now.as_millisecond()
    }

    pub(crate) fn cluster(&self) -> &'a str {
        self.settings.cluster.as_str()
    }

    pub(crate) fn period_ms(&self, hours: u32) -> i64 {
        millis(self.settings.retention.period(hours))
    }

    pub(crate) fn pod(&self, uid: &PodUid) -> Result<Option<PodRow>> {
        pod(self.tx, uid)
    }

    /// What this operation reads before it decides.
    pub(crate) fn rows(&self) -> Rows<'a> {
        Rows {
            tx: self.tx,
            now: self.now,
            wall: self.wall,
            cluster: self.cluster(),
            vswitches: self.vswitches,
            free: self.free,
        }
    }

    /// The pods of its name that were made before this one. Those that were made in one second and
    /// whose revisions are not known count as older.
    pub(crate) fn older_pods(&self, pod: &PodFacts) -> Result<Vec<PodRow>> {
        self.tx.rows(
            &format!(
                "{POD} WHERE cluster = ?1 AND namespace = ?2 AND name = ?3 AND uid <> ?4 \
                 AND (created_ms, revision) <= (?5, ?6)"
            ),
            (
                self.cluster(),
                &*pod.key.namespace,
                &*pod.key.name,
                pod.uid.as_str(),
                pod.created.at.as_millisecond(),
                pod.created.revision.cast_signed(),
            ),
            PodRow::read,
        )
    }

    /// The pod that an ENI is, or was last, attached to.
    pub(crate) fn pod_of(&self, eni: i64) -> Result<Option<PodRow>> {
        self.tx
            .row(&format!("{POD} WHERE eni = ?1"), [eni], PodRow::read)
    }

    pub(crate) fn eni(&self, row: i64) -> Result<Option<EniFacts>> {
        self.tx.row(
            "SELECT id, token, eni_id, mac, vswitch, addr, state, target, instance \
             FROM eni WHERE id = ?1",
            [row],
            EniFacts::read,
        )
    }

    pub(crate) fn vswitch(&self, row: i64) -> &'a VSwitchRef {
        self.rows().vswitch(row)
    }

    /// A pod's network as the rows have it.
    pub(crate) fn network(&self, pod: &PodRow) -> Result<Network> {
        let Some(eni) = pod.eni.map(|row| self.eni(row)).transpose()?.flatten() else {
            return Ok(if pod.is_over() {
                Network::Detached
            } else {
                Network::Pending
            });
        };
        Ok(self.attachment(&eni, pod.names.clone()))
    }

    /// The network of the pod that an ENI is for.
    pub(crate) fn attachment(&self, eni: &EniFacts, names: Names) -> Network {
        if eni.target != Target::InUse {
            return if eni.state.is_attached() {
                Network::Pending
            } else {
                Network::Detached
            };
        }
        let (State::Is(EniState::InUse), Some(id), Some(mac)) = (eni.state, &eni.eni, eni.mac)
        else {
            return Network::Pending;
        };
        let vswitch = self.vswitch(eni.vswitch);
        Network::Attached(Assignment {
            address: eni.address,
            eni: id.clone(),
            mac,
            vswitch: vswitch.id.clone(),
            zone: vswitch.zone.clone(),
            instance: names.instance,
            request_id: names.request_id,
        })
    }

    /// Adds the pod's network to what this operation tells.
    pub(crate) fn report(&mut self, uid: &PodUid) -> Result<()> {
        if let Some(pod) = self.pod(uid)? {
            let network = self.network(&pod)?;
            self.tell(pod, network);
        }
        Ok(())
    }

    /// Adds this network of the pod to what this operation tells.
    pub(crate) fn tell(&mut self, pod: PodRow, network: Network) {
        self.out.pods.push(PodState {
            uid: pod.uid,
            network,
            blocked: None,
        });
    }

    pub(crate) fn counted(&mut self) -> &mut Counted {
        self.out.counted.get_or_insert_default()
    }
}

/// The row of a pod.
pub(crate) fn pod(tx: &Tx<'_>, uid: &PodUid) -> Result<Option<PodRow>> {
    let sql = format!("{POD} WHERE uid = ?1");
    tx.row(&sql, [uid.as_str()], PodRow::read)
}

/// Ids as the ledger stores them; none where it has nothing.
pub(crate) fn ids<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<Vec<T>> {
    let Some(ids) = row.get_ref(column)?.as_str_or_null()? else {
        return Ok(Vec::new());
    };
    serde_json::from_str(ids).map_err(|source| {
        let kind = rusqlite::types::Type::Text;
        rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(source))
    })
}

/// A duration as the ledger stores it; absurdly long ones end at the largest number.
pub(crate) fn millis(duration: SignedDuration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A time as the ledger stores it.
pub(crate) fn time(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}
