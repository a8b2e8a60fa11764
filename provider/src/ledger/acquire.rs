//! A pod wants a network: the facts for the policy, and the writes that follow its verdict.

use std::net::Ipv4Addr;

use jiff::{SignedDuration, Timestamp};
use rusqlite::Result;
use uuid::Uuid;

use crate::cloud::sim::{region_code, resource_id};
use crate::engine::{Network, PodFacts, Reason};
use crate::id::{InstanceId, NodeType, PodKey, PodUid, VSwitchId};
use crate::ledger::op::{Op, PodRow, time};
use crate::ledger::{Blocked, Notice, PodState, carrier};
use crate::policy::eni::Target;
use crate::policy::opt_in::FixedIp;
use crate::policy::placement;
use crate::policy::pool::Remaining;
use crate::policy::retained::{self, Applicant, Claim, Close, Holder, Lost, Placement, Verdict};

/// An open claim with what is needed to act on it.
pub(super) struct OpenClaim {
    pub(super) id: i64,
    pub(super) eni: i64,
    pub(super) address: Ipv4Addr,
    pub(super) deleted_ms: Option<i64>,
    pub(super) facts: Claim,
}

impl Op<'_> {
    /// Gives the pod a network, the one it has, or the reason why not yet. Asking again, however
    /// often, gives the same answer. One that is being deleted gets nothing that it has not yet.
    pub(super) fn acquire(&mut self, pod: &PodFacts) -> Result<()> {
        let known = self.pod(&pod.uid)?;
        if known
            .as_ref()
            .is_some_and(|row| row.eni.is_some() || row.deleted || row.is_over())
        {
            return self.report(&pod.uid);
        }
        if known.is_none() && self.has_let_go(&pod.uid)? {
            self.out.pods.push(PodState {
                uid: pod.uid.clone(),
                network: Network::Detached,
                blocked: None,
            });
            return Ok(());
        }
        self.supersede(pod, pod.created_at)?;
        let hours = accepted_hours(pod, known.as_ref());
        let allowed = match self.allowed(pod) {
            Ok(allowed) => allowed?,
            Err(note) => {
                self.accept(pod, known.is_some(), hours, None)?;
                self.wait(
                    &pod.uid,
                    Reason::NoAllowedVSwitch,
                    note,
                    Blocked::Pool {
                        vswitches: Vec::new(),
                        counts: Vec::new(),
                    },
                );
                return Ok(());
            }
        };
        let claim = self.open_claim(&pod.key)?;
        let last = self.placement(&pod.key)?;
        let applicant = Applicant {
            key: &pod.key,
            created_at: pod.created_at,
            node: &pod.node.name,
            node_type: pod.node.node_type,
            zone: &pod.node.zone,
            fixed_ip: hours.is_some(),
            allowed: &allowed,
        };
        let facts = claim.as_ref().map(|claim| &claim.facts);
        match (
            retained::decide(&applicant, facts, last.as_ref(), self.now),
            claim,
        ) {
            (Verdict::Keep, Some(claim)) => self.keep(pod, known.is_some(), hours, &claim),
            (Verdict::Keep, None) => unreachable!("nothing to keep without a claim"),
            (Verdict::Wait(note), _) => {
                self.accept(pod, known.is_some(), hours, None)?;
                self.wait(&pod.uid, Reason::FixedIPWaiting, note, Blocked::Key);
                Ok(())
            }
            (
                Verdict::Fresh {
                    close,
                    claim: claimed,
                    notice,
                },
                claim,
            ) => {
                let fresh = Fresh {
                    known: known.is_some(),
                    hours,
                    claimed,
                    notice,
                };
                let close = close.zip(claim);
                self.fresh(pod, &allowed, &fresh, close.as_ref())
            }
        }
    }

    /// A fixed-IP pod on an ECS node that is not ours: its claim is forfeited once the old pod
    /// has let go; it gets nothing from us.
    pub(super) fn seen_on_ecs(&mut self, pod: &PodFacts) -> Result<()> {
        // No row tells whether this pod is itself gone by now, so one of the same second may be
        // the newer one.
        self.supersede(pod, pod.created_at - SignedDuration::from_millis(1))?;
        let claim = self.open_claim(&pod.key)?;
        let last = self.placement(&pod.key)?;
        let applicant = Applicant {
            key: &pod.key,
            created_at: pod.created_at,
            node: &pod.node.name,
            node_type: NodeType::Ecs,
            zone: &pod.node.zone,
            fixed_ip: true,
            allowed: &[],
        };
        let facts = claim.as_ref().map(|claim| &claim.facts);
        match retained::decide(&applicant, facts, last.as_ref(), self.now) {
            Verdict::Keep => unreachable!("an ECS node keeps nothing"),
            Verdict::Wait(note) => {
                self.wait(&pod.uid, Reason::FixedIPWaiting, note, Blocked::Key);
            }
            Verdict::Fresh { close, notice, .. } => {
                if let Some((close, claim)) = close.zip(claim) {
                    self.end(&claim, close, &pod.uid)?;
                }
                self.remember_placement(pod)?;
                self.notice(&pod.uid, notice);
            }
        }
        Ok(())
    }

    /// What the pod's existence proves: every pod of its name that was created until `created_by`
    /// is gone from the API. A newer one proves the contrary: this view of the pod is stale.
    pub(super) fn supersede(&mut self, pod: &PodFacts, created_by: Timestamp) -> Result<()> {
        for older in self.older_pods(&pod.key, &pod.uid, created_by)? {
            self.gone(&older.uid)?;
            self.out.superseded.push(older.uid);
        }
        Ok(())
    }

    /// Whether the pod was accepted, is gone and has let go: a late view of it changes nothing.
    fn has_let_go(&self, uid: &PodUid) -> Result<bool> {
        let sql = "SELECT 1 FROM pod_log WHERE uid = ?1 AND let_go_ms IS NOT NULL";
        Ok(self.tx.row(sql, [uid.as_str()], |_| Ok(()))?.is_some())
    }

    fn allowed(&self, pod: &PodFacts) -> std::result::Result<Result<Vec<VSwitchId>>, String> {
        match self.candidates(&pod.node.zone) {
            Ok(found) => placement::allowed(&pod.node.zone, &pod.opt_in.vswitches, &found).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    pub(super) fn open_claim(&self, key: &PodKey) -> Result<Option<OpenClaim>> {
        self.tx.row(
            "SELECT c.id, a.eni, a.addr, c.deleted_ms, c.expires_ms, c.node, c.holder, e.eni_id, a.vswitch \
             FROM claim c JOIN address a ON a.claim = c.id JOIN eni e ON e.id = a.eni \
             WHERE c.cluster = ?1 AND c.namespace = ?2 AND c.name = ?3 AND c.closed_ms IS NULL",
            (self.cluster(), &*key.namespace, &*key.name),
            |row| {
                let address = Ipv4Addr::from(row.get::<_, u32>(2)?);
                let eni_id = row.get::<_, Option<String>>(7)?.map(Into::into);
                let holder = row.get::<_, Option<String>>(6)?.map(|uid| Holder {
                    uid: uid.into(),
                    eni: carrier(eni_id.as_ref(), address),
                });
                let vswitch = self.vswitch(row.get(8)?);
                Ok(OpenClaim {
                    id: row.get(0)?,
                    eni: row.get(1)?,
                    address,
                    deleted_ms: row.get(3)?,
                    facts: Claim {
                        vswitch: vswitch.id.clone(),
                        zone: vswitch.zone.clone(),
                        node: row.get::<_, String>(5)?.into(),
                        holder,
                        expires_at: row.get::<_, Option<i64>>(4)?.map(time),
                    },
                })
            },
        )
    }

    fn placement(&self, key: &PodKey) -> Result<Option<Placement>> {
        self.tx.row(
            "SELECT node, node_type FROM placement \
             WHERE cluster = ?1 AND namespace = ?2 AND name = ?3",
            (self.cluster(), &*key.namespace, &*key.name),
            |row| {
                let node_type: String = row.get(1)?;
                Ok(Placement {
                    node: row.get::<_, String>(0)?.into(),
                    node_type: NodeType::parse(&node_type),
                })
            },
        )
    }

    fn remember_placement(&self, pod: &PodFacts) -> Result<()> {
        self.tx.execute(
            "INSERT INTO placement VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
             ON CONFLICT DO UPDATE SET node = excluded.node, node_type = excluded.node_type, \
             seen_ms = excluded.seen_ms",
            (
                self.cluster(),
                &*pod.key.namespace,
                &*pod.key.name,
                pod.node.name.as_str(),
                pod.node.node_type.as_str(),
                self.now_ms(),
            ),
        )?;
        Ok(())
    }

    /// The retained address, ENI and MAC go to the pod.
    pub(super) fn keep(
        &mut self,
        pod: &PodFacts,
        known: bool,
        hours: Option<u32>,
        claim: &OpenClaim,
    ) -> Result<()> {
        self.accept(pod, known, hours, Some(claim.eni))?;
        self.tx.execute(
            "UPDATE claim SET holder = ?2, node = ?3, retain_ms = ?4, deleted_ms = NULL, \
             expires_ms = NULL WHERE id = ?1",
            (
                claim.id,
                pod.uid.as_str(),
                pod.node.name.as_str(),
                self.period_ms(hours.unwrap_or(0)),
            ),
        )?;
        self.tx.execute(
            "UPDATE address SET state = 'in_use', pod = ?2, gen = gen + 1, since_ms = ?3, \
             why = 'reused' WHERE claim = ?1",
            (claim.id, pod.uid.as_str(), self.now_ms()),
        )?;
        self.tx.execute(
            "UPDATE eni SET target = 'InUse', instance = ?2 WHERE id = ?1",
            (claim.eni, self.instance(&pod.uid).as_str()),
        )?;
        self.explained.clear();
        let since = claim.deleted_ms.map(|ms| self.now.duration_since(time(ms)));
        let ago = since.map_or(String::new(), |ago| {
            format!(", deleted {} ago", Remaining(ago))
        });
        self.out.notices.push(Notice {
            uid: pod.uid.clone(),
            reason: Reason::FixedIPReused,
            note: format!(
                "has {} again, as the pod of this name before it{ago}",
                claim.address
            ),
        });
        self.progress(claim.eni)?;
        self.report(&pod.uid)
    }

    fn fresh(
        &mut self,
        pod: &PodFacts,
        allowed: &[VSwitchId],
        fresh: &Fresh,
        close: Option<&(Close, OpenClaim)>,
    ) -> Result<()> {
        let mut found = self.first_free(allowed)?;
        // An expired claim ends in any case. One that stands in the way of the only addresses
        // that the pod may use ends too: it would be waited for in vain.
        let close = match close {
            Some((why, claim))
                if found.is_none()
                    && (*why == Close::Expired || allowed.contains(&claim.facts.vswitch)) =>
            {
                self.end(claim, *why, &pod.uid)?;
                // A cloud that answers at once has freed its address by now.
                found = self.first_free(allowed)?;
                None
            }
            other => other,
        };
        let Some((vswitch, address)) = found else {
            self.accept(pod, fresh.known, fresh.hours, None)?;
            let (note, counts) = self.exhausted(allowed)?;
            let blocked = Blocked::Pool {
                vswitches: allowed.to_vec(),
                counts,
            };
            self.wait(&pod.uid, Reason::IPPoolExhausted, note, blocked);
            return Ok(());
        };
        if let Some((why, claim)) = close {
            self.end(claim, *why, &pod.uid)?;
        }
        let eni = self.new_eni(&pod.uid, vswitch, address, Target::InUse)?;
        self.accept(pod, fresh.known, fresh.hours, Some(eni))?;
        let claim = match fresh.hours.filter(|_| fresh.claimed) {
            Some(hours) => Some(self.new_claim(pod, hours)?),
            None => None,
        };
        self.bind_address(vswitch, address, &pod.uid, claim, eni, "allocated")?;
        self.notice(&pod.uid, fresh.notice.clone());
        self.progress(eni)?;
        self.report(&pod.uid)
    }

    /// Ends a claim because of what this pod is or where.
    pub(super) fn end(&mut self, claim: &OpenClaim, why: Close, uid: &PodUid) -> Result<()> {
        if why != Close::Expired {
            self.forfeited(claim.id, why.as_str(), uid)?;
        }
        self.close(claim.id, claim.eni, why.as_str())
    }

    /// The row's number is one that no ENI had before, so that a late answer cannot meet another.
    pub(super) fn new_eni(
        &self,
        uid: &PodUid,
        vswitch: i64,
        address: Ipv4Addr,
        target: Target,
    ) -> Result<i64> {
        let token = named_uuid(&format!("eni/{uid}/{address}/{}", self.now_ms()));
        self.tx.execute(
            "INSERT INTO eni (id, token, vswitch, addr, target, instance) VALUES (\
             1 + max(ifnull((SELECT max(id) FROM eni), 0), ifnull((SELECT max(eni) FROM eni_end), 0)), \
             ?1, ?2, ?3, ?4, ?5)",
            (
                token.to_string(),
                vswitch,
                u32::from(address),
                target.as_str(),
                self.instance(uid).as_str(),
            ),
        )?;
        Ok(self.tx.last_id())
    }

    pub(super) fn new_claim(&self, pod: &PodFacts, hours: u32) -> Result<i64> {
        self.tx.execute(
            "INSERT INTO claim (cluster, namespace, name, node, holder, retain_ms, opened_ms) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            (
                self.cluster(),
                &*pod.key.namespace,
                &*pod.key.name,
                pod.node.name.as_str(),
                pod.uid.as_str(),
                self.period_ms(hours),
                self.now_ms(),
            ),
        )?;
        Ok(self.tx.last_id())
    }

    pub(super) fn bind_address(
        &mut self,
        vswitch: i64,
        address: Ipv4Addr,
        uid: &PodUid,
        claim: Option<i64>,
        eni: i64,
        why: &str,
    ) -> Result<()> {
        let changed = self.tx.execute(
            "UPDATE address SET state = 'in_use', claim = ?3, pod = ?4, eni = ?5, gen = gen + 1, \
             since_ms = ?6, why = ?7 WHERE vswitch = ?1 AND addr = ?2",
            (
                vswitch,
                u32::from(address),
                claim,
                uid.as_str(),
                eni,
                self.now_ms(),
                why,
            ),
        )?;
        self.explained.clear();
        assert_eq!(changed, 1, "{address} is not in the pool it was taken from");
        Ok(())
    }

    /// Writes the pod down: its annotations count as they are now.
    pub(super) fn accept(
        &self,
        pod: &PodFacts,
        known: bool,
        hours: Option<u32>,
        eni: Option<i64>,
    ) -> Result<()> {
        if hours.is_some() && eni.is_some() {
            self.remember_placement(pod)?;
        }
        if known {
            if eni.is_some() {
                let sql = "UPDATE pod SET eni = ?2 WHERE uid = ?1";
                self.tx.execute(sql, (pod.uid.as_str(), eni))?;
            }
            return Ok(());
        }
        let vswitches = serde_json::to_string(&pod.opt_in.vswitches).expect("ids are strings");
        self.tx.execute(
            "INSERT INTO pod (uid, cluster, namespace, name, node, node_type, zone, hours, \
             vswitches, created_ms, accepted_ms, eni, instance, request_id) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
            rusqlite::params![
                pod.uid.as_str(),
                self.cluster(),
                &*pod.key.namespace,
                &*pod.key.name,
                pod.node.name.as_str(),
                pod.node.node_type.as_str(),
                pod.node.zone.as_str(),
                hours,
                vswitches,
                pod.created_at.as_millisecond(),
                self.now_ms(),
                eni,
                self.instance(&pod.uid).as_str(),
                format!(
                    "{:X}",
                    named_uuid(&format!("request/{}", pod.uid)).hyphenated()
                ),
            ],
        )?;
        Ok(())
    }

    /// The simulated container instance of a pod: always the same for one UID.
    fn instance(&self, uid: &PodUid) -> InstanceId {
        let seed = named_uuid(&format!("instance/{uid}")).as_u64_pair().0;
        resource_id("acs", &region_code(&self.settings.region), seed).into()
    }

    pub(super) fn wait(&mut self, uid: &PodUid, reason: Reason, note: String, blocked: Blocked) {
        let network = Network::Waiting { reason, note };
        self.out.pods.push(PodState {
            uid: uid.clone(),
            network,
            blocked: Some(blocked),
        });
    }

    fn notice(&mut self, uid: &PodUid, lost: Option<Lost>) {
        let (reason, note) = match lost {
            Some(Lost::NotReused(note)) => (Reason::FixedIPNotReused, note),
            Some(Lost::NotRetained(note)) => (Reason::FixedIPNotRetained, note),
            None => return,
        };
        self.out.notices.push(Notice {
            uid: uid.clone(),
            reason,
            note,
        });
    }
}

/// How a fresh allocation is written down.
struct Fresh {
    known: bool,
    hours: Option<u32>,
    claimed: bool,
    notice: Option<Lost>,
}

/// The hours a pod asked for when it was accepted, or asks for now if it was not yet.
fn accepted_hours(pod: &PodFacts, known: Option<&PodRow>) -> Option<u32> {
    match (known, &pod.opt_in.fixed_ip) {
        (Some(row), _) => row.hours,
        (None, FixedIp::On { hours }) => Some(*hours),
        (None, FixedIp::Off | FixedIp::Unsupported { .. }) => None,
    }
}

/// A UUID that depends on nothing but `name`, so that a repeated operation names the same thing.
fn named_uuid(name: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
}
