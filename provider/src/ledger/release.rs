//! Letting go: deletions start clocks, detached pods that are gone release, claims run out.

use jiff::Timestamp;
use rusqlite::Result;

use crate::engine::Network;
use crate::id::{ClusterId, PodKey, PodUid};
use crate::ledger::eni::Exists;
use crate::ledger::op::{EniFacts, Op, PodRow, time};
use crate::ledger::{ClaimRef, Due};
use crate::policy::clock;
use crate::policy::eni::Target;
use crate::policy::retained::Close;
use crate::policy::retention;
use crate::sql::Tx;

/// When the next retention ends by itself. Asked with each COMMIT.
pub(super) fn next_deadline(tx: &Tx<'_>, cluster: &ClusterId) -> Result<Option<Timestamp>> {
    // By the index of deadlines: without the plus it would be the one of keys, with each open claim
    // of the cluster to be looked at.
    let sql = "SELECT expires_ms FROM claim \
         WHERE closed_ms IS NULL AND holder IS NULL AND +cluster = ?1 ORDER BY expires_ms LIMIT 1";
    Ok(tx.row(sql, [cluster.as_str()], |row| row.get(0))?.map(time))
}

/// Ends a claim; whoever held it holds it no longer. Its address is for the caller to deal with.
pub(super) fn close(tx: &Tx<'_>, now: Timestamp, claim: i64, why: &str) -> Result<()> {
    tx.execute(
        "UPDATE OR FAIL claim SET closed_ms = ?2, closed_why = ?3, holder = NULL, \
         deleted_ms = coalesce(deleted_ms, ?2), expires_ms = coalesce(expires_ms, ?2 + retain_ms) WHERE id = ?1",
        (claim, now.as_millisecond(), why),
    )?;
    Ok(())
}

/// Makes an address nobody's, and its ENI one to delete.
pub(super) fn give_up(tx: &Tx<'_>, now: Timestamp, eni: i64, why: &str) -> Result<()> {
    vacate(tx, now, eni, why)?;
    let sql = "UPDATE OR FAIL eni SET target = ?2 WHERE id = ?1";
    tx.execute(sql, (eni, Target::Gone.as_str()))?;
    Ok(())
}

/// Makes an address nobody's. That its ENI is to be deleted is for the caller to write.
fn vacate(tx: &Tx<'_>, now: Timestamp, eni: i64, why: &str) -> Result<()> {
    tx.execute(
        "UPDATE OR FAIL address SET state = 'detaching', claim = NULL, pod = NULL, gen = gen + 1, \
         since_ms = ?2, why = ?3 WHERE eni = ?1 AND state <> 'detaching'",
        (eni, now.as_millisecond(), why),
    )?;
    Ok(())
}

/// How a pod has come to want no network any more.
#[derive(Clone, Copy)]
enum End {
    Stopped,
    Ended,
    Gone,
}

impl Op<'_> {
    /// The pod's deletion was asked for at `at`. The first word of it counts; it starts the clock
    /// of the claim, also for a pod that was accepted and still waits.
    pub(super) fn deleted(&mut self, uid: &PodUid, at: Timestamp) -> Result<()> {
        let Some(pod) = self.pod(uid)? else {
            return Ok(());
        };
        self.write_deletion(&pod, at)?;
        let network = self.network(&pod)?;
        self.tell(pod, network);
        Ok(())
    }

    fn write_deletion(&self, pod: &PodRow, at: Timestamp) -> Result<()> {
        if pod.deleted {
            return Ok(());
        }
        let sql = "UPDATE pod SET deleted_ms = ?2 WHERE uid = ?1";
        self.tx
            .execute(sql, (pod.uid.as_str(), at.as_millisecond()))?;
        self.start_clock(pod, at)
    }

    /// A waiting pod has not the claim yet, so the claim is found by its key. One that another
    /// pod holds is that pod's, whose own deletion counts, unless that pod is gone and only its
    /// ENI is not detached yet: then the deletion of the pod that waits for it is the last one.
    fn start_clock(&self, pod: &PodRow, at: Timestamp) -> Result<()> {
        let Some(hours) = pod.hours else {
            return Ok(());
        };
        let retain_ms = self.period_ms(hours);
        let expires_at = retention::expires_at(at, self.settings.retention.period(hours));
        self.tx.execute(
            "UPDATE OR FAIL claim SET deleted_ms = ?5, expires_ms = ?6, retain_ms = ?7 \
             WHERE cluster = ?1 AND namespace = ?2 AND name = ?3 AND closed_ms IS NULL \
             AND (holder IS NULL OR holder = ?4 OR EXISTS \
             (SELECT 1 FROM pod WHERE uid = claim.holder AND gone_ms IS NOT NULL)) \
             AND (deleted_ms IS NULL OR deleted_ms < ?5)",
            (
                self.cluster(),
                &*pod.key.namespace,
                &*pod.key.name,
                pod.uid.as_str(),
                at.as_millisecond(),
                expires_at.as_millisecond(),
                retain_ms,
            ),
        )?;
        Ok(())
    }

    /// From when on a pod counts as deleted whose deletion nobody saw: from now, also where ledger time is ahead of that.
    fn absent_at(&self) -> Result<Timestamp> {
        if self.now <= self.wall {
            return Ok(self.now);
        }
        let sql = "SELECT max(created_ms) FROM pod_log";
        let newest: Option<Option<i64>> = self.tx.row(sql, [], |row| row.get(0))?;
        let is_behind = clock::is_behind(self.wall, self.now, newest.flatten().map(time));
        Ok(if is_behind { self.now } else { self.wall })
    }

    /// The pod's containers have ended: its ENI may be detached. Ends the attempts to make one.
    pub(super) fn stopped(&mut self, uid: &PodUid) -> Result<()> {
        self.over(uid, End::Stopped)
    }

    /// The first and the second, with the rows read once.
    pub(super) fn deleted_and_stopped(&mut self, uid: &PodUid, at: Timestamp) -> Result<()> {
        let Some(pod) = self.pod(uid)? else {
            return Ok(());
        };
        self.write_deletion(&pod, at)?;
        let pod = PodRow {
            deleted: true,
            ..pod
        };
        self.let_end(pod, End::Stopped)
    }

    /// The pod has succeeded or failed and stays: its ENI is detached at once.
    pub(super) fn ended(&mut self, uid: &PodUid) -> Result<()> {
        self.over(uid, End::Ended)
    }

    /// The pod is gone from the API. Its address is released once its ENI is detached.
    pub(super) fn gone(&mut self, uid: &PodUid) -> Result<()> {
        self.over(uid, End::Gone)
    }

    fn over(&mut self, uid: &PodUid, end: End) -> Result<()> {
        match self.pod(uid)? {
            Some(pod) => self.let_end(pod, end),
            // A late word about a pod that has let go long ago, or was never ours.
            None => Ok(()),
        }
    }

    fn let_end(&mut self, mut pod: PodRow, end: End) -> Result<()> {
        let known = match end {
            End::Stopped => &mut pod.stopped,
            End::Ended => &mut pod.ended,
            End::Gone => &mut pod.gone,
        };
        let is_news = !std::mem::replace(known, true);
        let Some(eni) = pod.eni else {
            if pod.gone {
                return self.release(&pod, None);
            }
            if is_news {
                self.write_end(&pod.uid, end)?;
            }
            let network = self.network(&pod)?;
            self.tell(pod, network);
            return Ok(());
        };
        let known = self.eni(eni)?.expect("a pod refers to an ENI that exists");
        let mut facts = known.clone();
        if facts.target == Target::InUse {
            facts.target = Target::Available;
            facts.state = facts.state.abandoned();
        }
        let was_attached = facts.state.is_attached();
        let mut left = if was_attached {
            self.bring(&known, facts, Some(&pod.uid))?
        } else {
            self.save(&known, &facts)?;
            Some(facts)
        };
        let lets_go = |facts: &EniFacts| !was_attached || facts.is_let_go();
        if let Some(facts) = left.take_if(|facts| lets_go(facts)) {
            if pod.gone {
                // With the row goes what would be written into it.
                return self.release(&pod, Some(facts));
            }
            left = self.let_go(&pod, facts)?;
        }
        if is_news {
            self.write_end(&pod.uid, end)?;
        }
        let network = match &left {
            Some(facts) => self.attachment(facts, pod.names.clone()),
            None => Network::Detached,
        };
        self.tell(pod, network);
        Ok(())
    }

    fn write_end(&self, uid: &PodUid, end: End) -> Result<()> {
        let sql = match end {
            End::Stopped => "UPDATE pod SET stopped_ms = ?2 WHERE uid = ?1",
            End::Ended => "UPDATE pod SET ended_ms = ?2 WHERE uid = ?1",
            End::Gone => "UPDATE pod SET gone_ms = ?2 WHERE uid = ?1",
        };
        self.tx.execute(sql, (uid.as_str(), self.now_ms()))?;
        Ok(())
    }

    /// The ENI holds on to nothing (any more): whoever only waited for that is served.
    pub(super) fn detached(&mut self, facts: EniFacts) -> Result<()> {
        match self.pod_of(facts.row)? {
            Some(pod) if pod.gone => self.release(&pod, Some(facts)),
            Some(pod) => self.let_go(&pod, facts).map(drop),
            None => Ok(()),
        }
    }

    /// A pod that has ended holds nothing that it could give back later. Tells what is left of its
    /// ENI.
    fn let_go(&mut self, pod: &PodRow, facts: EniFacts) -> Result<Option<EniFacts>> {
        if pod.ended && self.claim_of(facts.row, &pod.uid)?.is_none() {
            return self.give_up_known(&facts, Some(&pod.uid), "pod has ended");
        }
        Ok(Some(facts))
    }

    /// The open claim of an ENI's address, and whether the pod holds it and no deletion was seen.
    fn claim_of(&self, eni: i64, uid: &PodUid) -> Result<Option<(i64, bool)>> {
        self.tx.row(
            "SELECT c.id, c.holder IS ?2 AND c.deleted_ms IS NULL \
             FROM address a JOIN claim c ON c.id = a.claim WHERE a.eni = ?1",
            (eni, uid.as_str()),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// The pod is gone and nothing is attached: retained if it was fixed, else given up.
    fn release(&mut self, pod: &PodRow, eni: Option<EniFacts>) -> Result<()> {
        let sql = "DELETE FROM pod WHERE uid = ?1";
        self.tx.execute(sql, [pod.uid.as_str()])?;
        if let Some(facts) = eni {
            match self.claim_of(facts.row, &pod.uid)? {
                Some((claim, is_unseen)) => {
                    if is_unseen {
                        // The clock starts now that the absence is known.
                        self.start_clock(pod, self.absent_at()?)?;
                    }
                    self.retain(pod, &facts, claim)?;
                }
                None => {
                    self.give_up_known(&facts, None, "pod is gone")?;
                }
            }
        } else if pod.hours.is_some() && !pod.deleted {
            // It waited, was accepted, and vanished unseen: its end is now.
            self.start_clock(pod, self.absent_at()?)?;
        }
        self.out.released.push(pod.key.clone());
        Ok(())
    }

    fn retain(&mut self, pod: &PodRow, facts: &EniFacts, claim: i64) -> Result<()> {
        let fenced = "UPDATE OR FAIL claim SET holder = NULL WHERE id = ?1 AND holder = ?2 AND closed_ms IS NULL";
        self.tx.execute(fenced, (claim, pod.uid.as_str()))?;
        self.tx.execute(
            "UPDATE OR FAIL address SET state = 'retained', pod = NULL, gen = gen + 1, since_ms = ?3, \
             why = 'pod is gone' WHERE eni = ?1 AND pod = ?2",
            (facts.row, pod.uid.as_str(), self.now_ms()),
        )?;
        self.explained.clear();
        let vswitch = self.vswitch(facts.vswitch).id.clone();
        self.out.retained.push(vswitch);
        Ok(())
    }

    /// Nobody's any more: the address is free when the ENI's deletion is confirmed.
    pub(super) fn give_up(&mut self, eni: i64, why: &str) -> Result<()> {
        let Some(facts) = self.eni(eni)? else {
            return Ok(());
        };
        let pod = self.pod_of(eni)?.map(|pod| pod.uid);
        self.give_up_known(&facts, pod.as_ref(), why).map(drop)
    }

    /// The same of an ENI whose row was just read. Tells what is left of it.
    fn give_up_known(
        &mut self,
        known: &EniFacts,
        pod: Option<&PodUid>,
        why: &str,
    ) -> Result<Option<EniFacts>> {
        let mut facts = EniFacts {
            target: Target::Gone,
            ..known.clone()
        };
        // A cloud that answers at once leaves no time in which the address waits for it.
        if self.approach(&mut facts, pod)? == Exists::No {
            self.finish(&facts, pod, why)?;
            return Ok(None);
        }
        vacate(self.tx, self.now, known.row, why)?;
        self.explained.clear();
        self.save(known, &facts)?;
        Ok(Some(facts))
    }

    /// Ends a claim that nobody holds; its address follows when the ENI is deleted.
    pub(super) fn close(&mut self, claim: i64, eni: i64, why: Close) -> Result<()> {
        let why = why.as_str();
        close(self.tx, self.now, claim, why)?;
        self.counted().closed.push(why);
        self.give_up(eni, why)
    }

    /// Lists the claims whose time is over; whether a pod still comes in time is asked elsewhere.
    pub(super) fn due(&mut self, at: Timestamp, limit: usize) -> Result<()> {
        self.out.due = self.tx.rows(
            "SELECT id, namespace, name, expires_ms FROM claim \
             WHERE closed_ms IS NULL AND holder IS NULL AND expires_ms <= ?1 AND cluster = ?2 \
             ORDER BY expires_ms LIMIT ?3",
            (self.now.min(at).as_millisecond(), self.cluster(), limit),
            |row| {
                Ok(Due {
                    claim: ClaimRef(row.get(0)?),
                    key: PodKey::new(&row.get::<_, String>(1)?, &row.get::<_, String>(2)?),
                    expires_at: time(row.get(3)?),
                })
            },
        )?;
        Ok(())
    }

    /// Ends a claim whose time is over, unless a pod has taken it in the meantime.
    pub(super) fn expire(&mut self, claim: i64, at: Timestamp) -> Result<()> {
        let found = self.tx.row(
            "SELECT a.eni, c.expires_ms FROM claim c JOIN address a ON a.claim = c.id \
             WHERE c.id = ?1 AND c.closed_ms IS NULL AND c.holder IS NULL",
            [claim],
            |row| Ok((row.get::<_, i64>(0)?, time(row.get(1)?))),
        )?;
        match found {
            Some((eni, end)) if retention::is_over(end, self.now.min(at), None) => {
                self.close(claim, eni, Close::Expired)
            }
            _ => Ok(()),
        }
    }
}
