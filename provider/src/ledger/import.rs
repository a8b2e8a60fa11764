//! A running pod shows an address that the ledger does not know: the ledger was lost, or is
//! older than the cluster. The pod is right, so the rows are made, before anything is allocated.

use std::net::Ipv4Addr;
use std::ops::ControlFlow;

use rusqlite::Result;

use crate::cloud::sim::{Adoption, Failure};
use crate::engine::{PodFacts, Published, Reason};
use crate::id::PodUid;
use crate::ledger::Blocked;
use crate::ledger::acquire::Accepted;
use crate::ledger::op::{EniFacts, Op, PodRow};
use crate::ledger::plan::{OpenClaim, Standing, accepted_hours};
use crate::ledger::pool::{self, VSwitchRef};
use crate::policy::retained::Close;

impl<'a> Op<'a> {
    /// Ends the claim of the pod's key if the pod runs with another address: whoever shows the address of that claim
    /// is to find it given up. Ends nothing while the ENI of an older pod of the key is not detached: to be asked again
    /// then.
    pub(super) fn disprove(&mut self, pod: &PodFacts) -> Result<()> {
        let Some(published) = &pod.published else {
            return Ok(());
        };
        let Standing::Asks(known) = self.rows().standing(&pod.uid, pod.created.at)? else {
            return Ok(());
        };
        self.supersede(pod)?;
        if kept_hours(pod, known.as_ref()).is_none() || self.around(published.address).is_none() {
            return Ok(());
        }
        let claim = self.open_claim(&pod.key)?;
        match claim.filter(|claim| claim.address != published.address) {
            Some(claim) if claim.facts.holder.is_some() => {
                self.wait_for_older(pod, &claim);
                Ok(())
            }
            Some(claim) => self.end(&claim, Close::Disproved, &pod.uid),
            None => Ok(()),
        }
    }

    /// Makes the rows of a pod that runs with an address of its own, or refuses to start. A pod that
    /// waits in an older ledger stays accepted as it was. Makes no rows while the ENI of an older pod of
    /// its key is not detached, or the cloud has not taken back the address from a pod that is gone: to be
    /// asked again then.
    pub(super) fn import(&mut self, pod: &PodFacts) -> Result<()> {
        let Some(published) = &pod.published else {
            return self.report(&pod.uid);
        };
        let ControlFlow::Continue(known) = self.asks(pod)? else {
            return Ok(());
        };
        // Whoever had the name before is gone, and holds at most what is not detached yet.
        self.supersede(pod)?;
        let address = published.address;
        let Some(vswitch) = self.around(address) else {
            self.out.refusal = Some(format!(
                "the running pod {} (uid {}) has {address}, which is in no configured vSwitch: configure its vSwitch, or delete the pod",
                pod.key, pod.uid
            ));
            return Ok(());
        };
        let hours = kept_hours(pod, known.as_ref());
        let accepted = Accepted {
            is_known: known.is_some(),
            names: known.map_or_else(|| self.names(pod), |row| row.names),
            hours,
        };
        if let Some(claim) = self.open_claim(&pod.key)?.filter(|_| hours.is_some()) {
            if claim.facts.holder.is_some() {
                self.wait_for_older(pod, &claim);
                return Ok(());
            }
            if claim.address == address {
                self.missed_deletion(&claim, pod)?;
                return self.keep(pod, &accepted, &claim);
            }
            self.end(&claim, Close::Disproved, &pod.uid)?;
        }
        let state = self.address_state(vswitch.row, address)?;
        if let Some("free" | "excluded") = state.as_deref() {
            return self.take_in(pod, published, &accepted, vswitch);
        }
        if self.is_given_up(vswitch.row, address)? {
            let note = format!("the ENI of a pod that is gone still has {address}");
            self.wait(&pod.uid, Reason::FixedIPWaiting, note, Blocked::Key);
            return Ok(());
        }
        let holder = pool::held(self.tx, vswitch.row, |other| other != u32::from(address))?;
        self.out.refusal = Some(format!(
            "the running pod {} (uid {}) has {address} of {}, but in the ledger {}: use the ledger that this cluster was served with, or delete the pod",
            pod.key,
            pod.uid,
            vswitch.id,
            holder.unwrap_or_else(|| format!("{address} is reserved by the VPC"))
        ));
        Ok(())
    }

    fn wait_for_older(&mut self, pod: &PodFacts, claim: &OpenClaim) {
        let note = format!("an older pod of the name still has {}", claim.address);
        self.wait(&pod.uid, Reason::FixedIPWaiting, note, Blocked::Key);
    }

    /// The vSwitch in which an address is.
    fn around(&self, address: Ipv4Addr) -> Option<&'a VSwitchRef> {
        let mut vswitches = self.vswitches.iter();
        vswitches.find(|vswitch| vswitch.cidr.contains(&address))
    }

    /// Whether the address is nobody's as soon as the cloud has detached and deleted its ENI.
    fn is_given_up(&self, vswitch: i64, address: Ipv4Addr) -> Result<bool> {
        let given_up = self.tx.row(
            "SELECT 1 FROM address a LEFT JOIN pod p ON p.uid = a.pod WHERE a.vswitch = ?1 AND a.addr = ?2 \
             AND a.claim IS NULL AND (a.state = 'detaching' OR (p.gone_ms IS NOT NULL AND p.cluster = ?3))",
            (vswitch, u32::from(address), self.cluster()),
            |_| Ok(()),
        )?;
        Ok(given_up.is_some())
    }

    /// The address that the pod shows and nobody has becomes its own, with the ENI that the cloud has there.
    fn take_in(
        &mut self,
        pod: &PodFacts,
        published: &Published,
        accepted: &Accepted,
        vswitch: &VSwitchRef,
    ) -> Result<()> {
        let address = published.address;
        let eni = self.new_eni(pod, &accepted.names, vswitch.row, address)?;
        self.insert_eni(pod, &eni)?;
        self.accept(pod, accepted, Some(eni.row))?;
        let hours = accepted.hours;
        let claim = hours.map(|hours| self.new_claim(pod, hours)).transpose()?;
        self.bind_imported(&eni, &pod.uid, claim)?;
        let adoption = Adoption {
            token: eni.token.clone(),
            id: published.eni.clone(),
            mac: None,
            vswitch: vswitch.id.clone(),
            zone: vswitch.zone.clone(),
            address,
            instance: accepted.names.instance.clone(),
        };
        match self.simulator.on(self.tx).adopt(self.now, &adoption) {
            Ok(known) => {
                let mut facts = eni.clone();
                facts.describe(&known);
                self.save(&eni, &facts)?;
            }
            Err(Failure::Table(error)) => return Err(error),
            Err(Failure::Cloud(error)) => {
                self.out.refusal = Some(format!(
                    "the running pod {} (uid {}) has {address}, but the cloud says {error}: delete the pod",
                    pod.key, pod.uid
                ));
                return Ok(());
            }
        }
        self.report(&pod.uid)
    }

    /// Whoever excludes an address that is in use wants it to leave at its release, and not before.
    fn bind_imported(&mut self, eni: &EniFacts, uid: &PodUid, claim: Option<i64>) -> Result<()> {
        let why = "imported";
        let address = (eni.vswitch, u32::from(eni.address));
        let excluded = self.tx.execute(
            "UPDATE OR FAIL address SET state = 'free', barred = 0, gen = gen + 1, since_ms = ?3, why = ?4 \
             WHERE vswitch = ?1 AND addr = ?2 AND state = 'excluded'",
            (address.0, address.1, self.now_ms(), why),
        )?;
        if excluded == 0 {
            return self.bind_address(eni, uid, claim, why);
        }
        self.free.give(eni.vswitch);
        self.bind_address(eni, uid, claim, why)?;
        let sql = "UPDATE OR FAIL address SET barred = 1 WHERE vswitch = ?1 AND addr = ?2";
        self.tx.execute(sql, address)?;
        Ok(())
    }

    /// A claim that had run out by the clock of an older ledger, and that a pod has all the same:
    /// its clock was started anew by a deletion that this ledger does not know.
    fn missed_deletion(&self, claim: &OpenClaim, pod: &PodFacts) -> Result<()> {
        self.tx.execute(
            "UPDATE claim SET deleted_ms = ?2, expires_ms = ?2 + retain_ms \
             WHERE id = ?1 AND expires_ms <= ?2",
            (claim.id, pod.created.at.as_millisecond()),
        )?;
        Ok(())
    }
}

/// The hours for which the pod's address is kept after it.
fn kept_hours(pod: &PodFacts, known: Option<&PodRow>) -> Option<u32> {
    accepted_hours(&pod.opt_in, known).filter(|_| pod.node.node_type.keeps_addresses())
}
