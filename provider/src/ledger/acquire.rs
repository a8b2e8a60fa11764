//! A pod wants a network: the writes that follow what was planned for it.
//!
//! What is to happen, and the facts it rests on, is for [`plan`](crate::ledger::plan) to say.

use std::net::Ipv4Addr;
use std::ops::ControlFlow;

use rusqlite::Result;
use uuid::Uuid;

use crate::cloud::sim::{region_code, resource_id};
use crate::engine::{Network, PodFacts, Reason};
use crate::id::{ClusterId, EniId, InstanceId, PodKey, PodUid, SecurityGroupId, VSwitchId};
use crate::ledger::op::{EniFacts, Names, Op, PodRow, time};
use crate::ledger::plan::{
    Asks, Fresh, OpenClaim, Plan, Planned, Standing, accepted_hours, accepted_vswitches,
};
use crate::ledger::{Allocated, Blocked, Notice, PodState};
use crate::policy::eni::{State, Target};
use crate::policy::pool::Remaining;
use crate::policy::retained::{Close, Lost};

impl Op<'_> {
    /// Gives the pod a network, the one it has, or the reason why not yet. Asking again, however
    /// often, gives the same answer. One that is being deleted gets nothing that it has not yet. Of the
    /// vSwitches in `awaited` it gets nothing that is free.
    pub(super) fn acquire(&mut self, pod: &PodFacts, awaited: &[VSwitchId]) -> Result<()> {
        let ControlFlow::Continue(known) = self.asks(pod)? else {
            return Ok(());
        };
        self.supersede(pod)?;
        let hours = accepted_hours(&pod.opt_in, known.as_ref());
        let asks = Asks {
            key: &pod.key,
            created: pod.created,
            node: &pod.node,
            fixed_ip: hours.is_some(),
            vswitches: accepted_vswitches(&pod.opt_in, known.as_ref()),
            foreign: false,
        };
        let Plan {
            allowed,
            claim,
            step,
            ..
        } = self.rows().plan(&asks)?;
        let accepted = Accepted {
            is_known: known.is_some(),
            names: known.map_or_else(|| self.names(pod), |row| row.names),
            hours,
        };
        match (step, claim) {
            (Planned::NoVSwitch(note), _) => {
                self.accept(pod, &accepted, None)?;
                let blocked = Blocked::Pool {
                    vswitches: Vec::new(),
                    counts: Vec::new(),
                };
                self.wait(&pod.uid, Reason::NoAllowedVSwitch, note, blocked);
                Ok(())
            }
            (Planned::Keep, Some(claim)) => self.keep(pod, &accepted, &claim),
            (Planned::Keep, None) => unreachable!("nothing to keep without a claim"),
            (Planned::Wait(note), _) => {
                self.accept(pod, &accepted, None)?;
                self.wait(&pod.uid, Reason::FixedIPWaiting, note, Blocked::Key);
                Ok(())
            }
            (Planned::Fresh(fresh), claim) => {
                let open = allowed.iter().filter(|id| !awaited.contains(id));
                let open: Vec<_> = open.cloned().collect();
                let found = if open.len() == allowed.len() {
                    fresh.found
                } else {
                    self.rows().first_free(&open)?
                };
                let fresh = Fresh { found, ..fresh };
                self.fresh(pod, accepted, (&allowed, &open), fresh, claim)
            }
        }
    }

    /// A fixed-IP pod on an ECS node that is not ours: its claim is forfeited once the old pod
    /// has let go; it gets nothing from us.
    pub(super) fn seen_on_ecs(&mut self, pod: &PodFacts) -> Result<()> {
        self.supersede(pod)?;
        let asks = Asks {
            key: &pod.key,
            created: pod.created,
            node: &pod.node,
            fixed_ip: true,
            vswitches: &[],
            foreign: true,
        };
        let plan = self.rows().plan(&asks)?;
        match plan.step {
            Planned::Keep => unreachable!("an ECS node keeps nothing"),
            Planned::NoVSwitch(_) => unreachable!("a node of others is asked for no vSwitch"),
            Planned::Wait(note) => {
                self.wait(&pod.uid, Reason::FixedIPWaiting, note, Blocked::Key);
            }
            Planned::Fresh(fresh) => {
                if let Some((close, claim)) = fresh.close.zip(plan.claim) {
                    self.end(&claim, close, &pod.uid)?;
                }
                self.remember_placement(pod)?;
                self.notice(&pod.uid, fresh.notice);
            }
        }
        Ok(())
    }

    /// The pod has let go, and this is a view of it from before that.
    fn holds_nothing(&mut self, uid: &PodUid) {
        self.out.pods.push(PodState {
            uid: uid.clone(),
            network: Network::Detached,
            blocked: None,
        });
    }

    /// Whether anything is still to be decided about the pod; with its row, if it has one. If not, what there
    /// is to tell is told.
    pub(super) fn asks(&mut self, pod: &PodFacts) -> Result<ControlFlow<(), Option<PodRow>>> {
        match self.rows().standing(&pod.uid, pod.created.at)? {
            Standing::Asks(known) => return Ok(ControlFlow::Continue(known)),
            Standing::Settled(_) => self.report(&pod.uid)?,
            Standing::LetGo => self.holds_nothing(&pod.uid),
            Standing::OfAnotherCluster(row) => self.refuse_other_cluster(pod, &row.cluster),
        }
        Ok(ControlFlow::Break(()))
    }

    /// No pod is in two clusters: the ledger has served this one under another name.
    fn refuse_other_cluster(&mut self, pod: &PodFacts, theirs: &ClusterId) {
        let ours = self.cluster();
        self.out.refusal = Some(format!(
            "the pod {} (uid {}) is in this ledger as one of cluster {theirs}, and this is cluster {ours}: set `cluster: {theirs}` again, or use a ledger of its own for cluster {ours}",
            pod.key, pod.uid
        ));
    }

    /// What the pod's existence proves: every pod of its name that was made before it is
    /// gone from the API. A newer one proves the contrary: this view of the pod is stale.
    pub(super) fn supersede(&mut self, pod: &PodFacts) -> Result<()> {
        for older in self.older_pods(pod)? {
            self.gone(&older.uid)?;
            self.out.superseded.push(older.uid);
        }
        Ok(())
    }

    pub(super) fn open_claim(&self, key: &PodKey) -> Result<Option<OpenClaim>> {
        self.rows().open_claim(key)
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
        accepted: &Accepted,
        claim: &OpenClaim,
    ) -> Result<()> {
        self.accept(pod, accepted, Some(claim.eni))?;
        self.tx.execute(
            "UPDATE OR FAIL claim SET holder = ?2, node = ?3, retain_ms = ?4, deleted_ms = NULL, \
             expires_ms = NULL WHERE id = ?1",
            (
                claim.id,
                pod.uid.as_str(),
                pod.node.name.as_str(),
                self.period_ms(accepted.hours.unwrap_or(0)),
            ),
        )?;
        self.tx.execute(
            "UPDATE OR FAIL address SET state = 'in_use', pod = ?2, gen = gen + 1, since_ms = ?3, \
             why = 'reused' WHERE claim = ?1",
            (claim.id, pod.uid.as_str(), self.now_ms()),
        )?;
        self.tx.execute(
            "UPDATE OR FAIL eni SET target = 'InUse', instance = ?2 WHERE id = ?1",
            (claim.eni, accepted.names.instance.as_str()),
        )?;
        self.set_security_groups(claim.eni, &pod.opt_in.security_groups)?;
        self.explained.clear();
        self.counted().allocated.push(Allocated {
            vswitch: claim.facts.vswitch.clone(),
            fixed: true,
            how: "reused",
        });
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
        accepted: Accepted,
        (allowed, open): (&[VSwitchId], &[VSwitchId]),
        fresh: Fresh,
        claim: Option<OpenClaim>,
    ) -> Result<()> {
        let mut close = fresh.close.zip(claim);
        let mut found = fresh.found;
        if fresh.close_first
            && let Some((why, claim)) = close.take()
        {
            self.end(&claim, why, &pod.uid)?;
            // A cloud that answers at once has freed its address by now.
            found = self.rows().first_free(open)?;
        }
        let Some((vswitch, address)) = found else {
            self.accept(pod, &accepted, None)?;
            let (note, counts) = self.exhausted(allowed)?;
            let blocked = Blocked::Pool {
                vswitches: allowed.to_vec(),
                counts,
            };
            self.wait(&pod.uid, Reason::IPPoolExhausted, note, blocked);
            return Ok(());
        };
        if let Some((why, claim)) = close {
            self.end(&claim, why, &pod.uid)?;
        }
        let mut eni = self.new_eni(pod, &accepted.names, vswitch, address)?;
        // Before its row, which is written once and with what a cloud that answers at once says.
        self.approach(&mut eni, Some(&pod.uid))?;
        self.insert_eni(pod, &eni)?;
        self.accept(pod, &accepted, Some(eni.row))?;
        let claim = match accepted.hours.filter(|_| fresh.claim) {
            Some(hours) => Some(self.new_claim(pod, hours)?),
            None => None,
        };
        self.bind_address(&eni, &pod.uid, claim, "allocated")?;
        self.notice(&pod.uid, fresh.notice);
        self.out.pods.push(PodState {
            uid: pod.uid.clone(),
            network: self.attachment(&eni, accepted.names),
            blocked: None,
        });
        Ok(())
    }

    /// Ends a claim because of what this pod is or where.
    pub(super) fn end(&mut self, claim: &OpenClaim, why: Close, uid: &PodUid) -> Result<()> {
        if why != Close::Expired {
            self.forfeited(claim.id, why.as_str(), uid)?;
        }
        self.close(claim.id, claim.eni, why)
    }

    /// An ENI for the pod, without a row yet. Its number is one that no ENI had before, so that a
    /// late answer cannot meet another.
    pub(super) fn new_eni(
        &self,
        pod: &PodFacts,
        names: &Names,
        vswitch: i64,
        address: Ipv4Addr,
    ) -> Result<EniFacts> {
        let token = self.token(&pod.uid, names, address);
        let row = self.tx.row(
            "SELECT 1 + max(ifnull((SELECT max(id) FROM eni), 0), ifnull((SELECT max(eni) FROM eni_end), 0))",
            [],
            |row| row.get(0),
        )?;
        Ok(EniFacts {
            row: row.expect("a query without a table has one row"),
            token: token.to_string().into(),
            eni: None,
            mac: None,
            vswitch,
            address,
            state: State::Absent,
            target: Target::InUse,
            instance: Some(names.instance.clone()),
        })
    }

    pub(super) fn insert_eni(&self, pod: &PodFacts, facts: &EniFacts) -> Result<()> {
        self.tx.execute(
            "INSERT INTO eni (id, token, eni_id, mac, vswitch, addr, state, target, instance) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            (
                facts.row,
                facts.token.as_str(),
                facts.eni.as_ref().map(EniId::as_str),
                facts.mac.map(|mac| mac.to_string()),
                facts.vswitch,
                u32::from(facts.address),
                facts.state.as_str(),
                facts.target.as_str(),
                facts.instance.as_ref().map(InstanceId::as_str),
            ),
        )?;
        if !pod.opt_in.security_groups.is_empty() {
            self.set_security_groups(facts.row, &pod.opt_in.security_groups)?;
        }
        Ok(())
    }

    /// The groups of an ENI are those of the pod that has it. ECS changes them on an ENI that exists
    /// (ModifyNetworkInterfaceAttribute); ACS does not say what becomes of those of a retained one.
    fn set_security_groups(&self, eni: i64, groups: &[SecurityGroupId]) -> Result<()> {
        if groups.is_empty() {
            let sql = "DELETE FROM eni_security_groups WHERE eni = ?1";
            self.tx.execute(sql, [eni])?;
            return Ok(());
        }
        let ids = serde_json::to_string(groups).expect("ids are strings");
        self.tx.execute(
            "INSERT INTO eni_security_groups VALUES (?1, ?2) ON CONFLICT DO UPDATE SET ids = excluded.ids",
            (eni, ids),
        )?;
        Ok(())
    }

    pub(super) fn new_claim(&self, pod: &PodFacts, hours: u32) -> Result<i64> {
        self.tx.execute(
            "INSERT OR FAIL INTO claim (cluster, namespace, name, node, holder, retain_ms, opened_ms) \
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
        eni: &EniFacts,
        uid: &PodUid,
        claim: Option<i64>,
        why: &'static str,
    ) -> Result<()> {
        let changed = self.tx.execute(
            "UPDATE OR FAIL address SET state = 'in_use', claim = ?3, pod = ?4, eni = ?5, gen = gen + 1, \
             since_ms = ?6, why = ?7 WHERE vswitch = ?1 AND addr = ?2",
            (
                eni.vswitch,
                u32::from(eni.address),
                claim,
                uid.as_str(),
                eni.row,
                self.now_ms(),
                why,
            ),
        )?;
        self.explained.clear();
        self.free.take(eni.vswitch);
        let allocated = Allocated {
            vswitch: self.vswitch(eni.vswitch).id.clone(),
            fixed: claim.is_some(),
            how: why,
        };
        self.counted().allocated.push(allocated);
        assert_eq!(
            changed, 1,
            "{} is not in the pool it was taken from",
            eni.address
        );
        Ok(())
    }

    /// Writes the pod down: its annotations count as they are now.
    pub(super) fn accept(
        &self,
        pod: &PodFacts,
        accepted: &Accepted,
        eni: Option<i64>,
    ) -> Result<()> {
        if accepted.hours.is_some() && eni.is_some() {
            self.remember_placement(pod)?;
        }
        if accepted.is_known {
            if eni.is_some() {
                let sql = "UPDATE pod SET eni = ?2 WHERE uid = ?1";
                self.tx.execute(sql, (pod.uid.as_str(), eni))?;
            }
            return Ok(());
        }
        let vswitches = serde_json::to_string(&pod.opt_in.vswitches).expect("ids are strings");
        self.tx.execute(
            "INSERT OR FAIL INTO pod (uid, cluster, namespace, name, node, node_type, zone, hours, \
             vswitches, created_ms, accepted_ms, eni, instance, request_id, revision) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            rusqlite::params![
                pod.uid.as_str(),
                self.cluster(),
                &*pod.key.namespace,
                &*pod.key.name,
                pod.node.name.as_str(),
                pod.node.node_type.as_str(),
                pod.node.zone.as_str(),
                accepted.hours,
                vswitches,
                pod.created.at.as_millisecond(),
                self.now_ms(),
                eni,
                accepted.names.instance.as_str(),
                &accepted.names.request_id,
                pod.created.revision.cast_signed(),
            ],
        )?;
        Ok(())
    }

    /// What a pod is called in the simulated cloud: always the same for one UID.
    pub(super) fn names(&self, pod: &PodFacts) -> Names {
        let name = named_uuid(&format!("instance/{}", pod.uid));
        let made_s = pod.created.at.as_second().cast_unsigned();
        let region_code = region_code(&self.settings.region);
        Names {
            instance: resource_id("acs", &region_code, made_s, name.as_u64_pair().0).into(),
            request_id: format!("{:X}", name.hyphenated()),
        }
    }

    /// A token for the creation of an ENI: of this time, pod and address, so that a repeated
    /// operation asks for the same ENI. Tokens of one moment stand together in an index.
    fn token(&self, uid: &PodUid, names: &Names, address: Ipv4Addr) -> Uuid {
        let name = Uuid::parse_str(&names.request_id);
        let name = name.unwrap_or_else(|_| named_uuid(&format!("instance/{uid}")));
        let mut bytes = name.into_bytes();
        bytes[..6].copy_from_slice(&self.now_ms().to_be_bytes()[2..]);
        for (byte, part) in bytes[12..].iter_mut().zip(address.octets()) {
            *byte ^= part;
        }
        Uuid::new_v8(bytes)
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
        let Some((reason, note)) = lost.map(Reason::of_loss) else {
            return;
        };
        self.out.notices.push(Notice {
            uid: uid.clone(),
            reason,
            note,
        });
    }
}

/// How a pod was accepted, or is to be.
pub(super) struct Accepted {
    /// Whether it has a row.
    pub(super) is_known: bool,
    pub(super) names: Names,
    pub(super) hours: Option<u32>,
}

/// A UUID that depends on nothing but `name`, so that a repeated operation names the same thing.
fn named_uuid(name: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
}
