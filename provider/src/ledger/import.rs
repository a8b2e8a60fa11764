//! A running pod shows an address that the ledger does not know: the ledger was lost, or is
//! older than the cluster. The pod is right, so the row is made, before anything is allocated.

use rusqlite::Result;

use crate::cloud::sim::{Adoption, Failure};
use crate::engine::PodFacts;
use crate::ledger::op::Op;
use crate::policy::eni::Target;
use crate::policy::opt_in::FixedIp;
use crate::policy::retained::Close;

impl Op<'_> {
    /// Makes the rows of a pod that runs with an address of its own, or refuses to start.
    pub(super) fn import(&mut self, pod: &PodFacts) -> Result<()> {
        let Some(published) = &pod.published else {
            return self.report(&pod.uid);
        };
        if self.pod(&pod.uid)?.is_some() {
            return self.report(&pod.uid);
        }
        let address = published.address;
        let inside = self
            .vswitches
            .iter()
            .find(|vswitch| vswitch.cidr.contains(&address));
        let Some(vswitch) = inside else {
            self.out.refusal = Some(format!(
                "the running pod {} (uid {}) has {address}, which is in no configured vSwitch: configure its vSwitch, or delete the pod",
                pod.key, pod.uid
            ));
            return Ok(());
        };
        if let Some(claim) = self.open_claim(&pod.key)?
            && claim.address == address
            && claim.facts.holder.is_none()
        {
            return self.acquire(pod);
        }
        let state = self.address_state(vswitch.row, address)?;
        if state.as_deref() != Some("free") {
            self.out.refusal = Some(format!(
                "the running pod {} (uid {}) has {address} of {}, which the ledger has as {}: use the ledger that this cluster was served with, or delete the pod",
                pod.key,
                pod.uid,
                vswitch.id,
                state.as_deref().unwrap_or("reserved by the VPC")
            ));
            return Ok(());
        }
        let hours = match pod.opt_in.fixed_ip {
            FixedIp::On { hours } if pod.node.node_type.keeps_addresses() => Some(hours),
            _ => None,
        };
        let eni = self.new_eni(&pod.uid, vswitch.row, address, Target::InUse)?;
        self.accept(pod, false, hours, Some(eni))?;
        let claim = match hours {
            Some(hours) => {
                self.drop_other_claim(pod)?;
                Some(self.new_claim(pod, hours)?)
            }
            None => None,
        };
        self.bind_address(vswitch.row, address, &pod.uid, claim, eni, "imported")?;
        let facts = self.eni(eni)?.expect("it was just inserted");
        let adoption = Adoption {
            token: facts.token.as_str().into(),
            id: published.eni.clone(),
            mac: None,
            vswitch: vswitch.id.clone(),
            zone: vswitch.zone.clone(),
            address,
            instance: facts
                .instance
                .clone()
                .expect("it was just inserted with one"),
        };
        match self.simulator.on(self.tx).adopt(self.now, &adoption) {
            Ok(known) => self.describe(eni, &known)?,
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

    /// An older ledger may keep another address for the key; the running pod shows that it is void.
    fn drop_other_claim(&mut self, pod: &PodFacts) -> Result<()> {
        match self.open_claim(&pod.key)? {
            Some(claim) if claim.facts.holder.is_none() => {
                self.end(&claim, Close::Disproved, &pod.uid)
            }
            _ => Ok(()),
        }
    }
}
