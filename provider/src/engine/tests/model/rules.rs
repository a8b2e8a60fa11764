//! The plain model: what README's rules promise, on maps, without a look at how it is done.
//!
//! When a cloud call or a look at the API is through is not the model's to say. It sees such a
//! moment in the rows, judges whether the rules allow it and whether it came in time, and
//! predicts from there: who has which address, who waits for what, when a claim's clock started.

use std::net::Ipv4Addr;

use jiff::{SignedDuration, Timestamp};

use super::state::{Address, Claim, Held, Model, Pod, Seen};
use super::*;
use crate::ledger::AddressRow;

/// How late a claim may end, and how long a cloud without faults may take.
const LATE_MAX: SignedDuration = SignedDuration::from_secs(2);
const CLOUD_MAX: SignedDuration = SignedDuration::from_secs(15);

fn hours(hours: u32) -> SignedDuration {
    HOUR_LASTS * i32::try_from(hours).unwrap()
}

impl Model {
    /// A pod is bound: every older pod of its name is gone.
    pub(super) fn bound(&mut self, uid: &PodUid, pod: &Facts, time: Timestamp, absent: Timestamp) {
        if self.pods.contains_key(uid) {
            return;
        }
        let older = |old: &Pod| old.name == pod.name && old.created < pod.created;
        let gone: Vec<PodUid> = self
            .pods
            .iter()
            .filter(|(_, old)| older(old))
            .map(|(uid, _)| uid.clone())
            .collect();
        self.counter += 1;
        let new = Pod {
            name: pod.name,
            hours: pod.hours,
            place: pod.place,
            vswitches: pod.vswitches,
            created: pod.created,
            deleted: false,
            over: false,
            ended: false,
            gone: false,
            address: None,
            let_go_from: None,
            waits: Some(self.counter),
        };
        self.pods.insert(uid.clone(), new);
        for old in gone {
            self.gone(&old, time, absent);
        }
    }

    /// The first word of a deletion starts the clock of the key's claim, unless a pod that is
    /// there holds it.
    pub(super) fn deleted(&mut self, uid: &PodUid, at: Timestamp) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        if !std::mem::replace(&mut pod.deleted, true) {
            let pod = pod.clone();
            self.start_clock(uid, &pod, at);
        }
    }

    fn start_clock(&mut self, uid: &PodUid, pod: &Pod, at: Timestamp) {
        if pod.place == Place::Foreign {
            return;
        }
        let Some((claim, period)) = self.claims.get_mut(&pod.name).zip(pod.hours) else {
            return;
        };
        let is_others = claim.holder.as_ref().is_some_and(|holder| {
            holder != uid && self.pods.get(holder).is_some_and(|holder| !holder.gone)
        });
        if !is_others && claim.deleted.is_none_or(|before| before < at) {
            claim.deleted = Some(at);
            claim.hours = period;
            claim.expires = Some(at + hours(period));
            claim.due = None;
        }
    }

    pub(super) fn stopped(&mut self, uid: &PodUid, now: Timestamp) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.over = true;
            pod.waits = None;
            pod.let_go_from.get_or_insert(now);
        }
    }

    pub(super) fn ended(&mut self, uid: &PodUid, now: Timestamp) {
        self.stopped(uid, now);
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.ended = true;
        }
    }

    /// Gone from the API: one that waited and whose deletion nobody saw starts the clock now.
    pub(super) fn gone(&mut self, uid: &PodUid, time: Timestamp, absent: Timestamp) {
        self.stopped(uid, time);
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        pod.gone = true;
        pod.let_go_from = Some(pod.let_go_from.map_or(time, |from| from.max(time)));
        if pod.address.is_none() {
            let pod = pod.clone();
            if !pod.deleted {
                self.start_clock(uid, &pod, absent);
            }
            self.pods.remove(uid);
        }
    }

    /// An operator ends the claim of a name; a pod that has the address keeps it as its own.
    pub(super) fn released(&mut self, name: usize, time: Timestamp) {
        let claim = self.claims.remove(&name).expect("there is one to release");
        self.outcomes.released += 1;
        match claim.holder {
            Some(uid) => {
                if let Some(pod) = self.pods.get_mut(&uid) {
                    pod.hours = None;
                    pod.let_go_from = pod.let_go_from.map(|from| from.max(time));
                }
            }
            None => self.leave(claim.address, time),
        }
    }

    /// A new process: whoever waits queues up anew.
    pub(super) fn restarted(&mut self, now: Timestamp) {
        for pod in self.pods.values_mut() {
            pod.waits = None;
            pod.let_go_from = pod.let_go_from.map(|_| now);
        }
        for claim in self.claims.values_mut() {
            claim.due = None;
        }
        for address in self.addresses.values_mut() {
            if let Held::Leaving(since) = &mut address.held {
                *since = now;
            }
        }
    }

    /// The clock was set back over a restart: what the cloud had begun ends when its own time has
    /// come again.
    fn stand_still(&mut self, until: Timestamp) {
        for pod in self.pods.values_mut() {
            pod.let_go_from = pod.let_go_from.map(|from| from.max(until));
        }
        for address in self.addresses.values_mut() {
            if let Held::Leaving(since) = &mut address.held {
                *since = until.max(*since);
            }
        }
    }

    pub(super) fn configure(&mut self, wanted: &[(Ipv4Addr, &'static str, bool)], time: Timestamp) {
        let all: BTreeSet<Ipv4Addr> = wanted.iter().map(|(address, ..)| *address).collect();
        self.addresses.retain(|address, _| all.contains(address));
        for (address, vswitch, excluded) in wanted {
            let new = Address {
                held: Held::Free(time),
                excluded: *excluded,
                vswitch,
                carrier: None,
            };
            let known = self.addresses.entry(*address).or_insert(new);
            if known.excluded != *excluded {
                known.excluded = *excluded;
                if matches!(known.held, Held::Free(_)) {
                    known.held = Held::Free(time);
                }
            }
        }
    }

    /// The first held address that a configuration would leave out.
    pub(super) fn left_out(&self, wanted: &[(Ipv4Addr, &'static str, bool)]) -> Option<Ipv4Addr> {
        let held = self
            .addresses
            .iter()
            .filter(|(_, one)| !matches!(one.held, Held::Free(_)));
        let mut left_out = held.filter(|(address, _)| !wanted.iter().any(|(a, ..)| a == *address));
        left_out.next().map(|(address, _)| *address)
    }

    fn leave(&mut self, address: Ipv4Addr, now: Timestamp) {
        let row = self.addresses.get_mut(&address).expect("it is in the pool");
        row.held = Held::Leaving(now);
    }

    /// Takes a look at the provider: what moved, was it allowed, and is it as predicted?
    pub(super) fn look(&mut self, seen: &Seen) -> Result<(), String> {
        if seen.now < seen.time || !seen.calm {
            self.stand_still(seen.time.max(seen.now));
        }
        self.let_go(seen)?;
        self.end_claims(seen)?;
        let freed = self.free(seen)?;
        self.allocate(seen, freed)?;
        self.judge_waiting(seen)?;
        self.compare(seen)
    }

    fn let_go(&mut self, seen: &Seen) -> Result<(), String> {
        let row = |address: Ipv4Addr| seen.addresses.iter().find(|row| row.address == address);
        let held: Vec<(PodUid, Ipv4Addr)> = self
            .pods
            .iter()
            .filter_map(|(uid, pod)| Some((uid.clone(), pod.address?)))
            .collect();
        for (uid, address) in held {
            let row = row(address).ok_or(format!("{address} has left the pool in use"))?;
            let pod = self.pods[&uid].clone();
            let claimed = self
                .claims
                .get(&pod.name)
                .is_some_and(|claim| claim.holder.as_ref() == Some(&uid));
            let may_go = pod.gone || (pod.ended && !claimed);
            if row.state == "in_use" && row.uid.as_ref() == Some(&uid) {
                let overdue = pod
                    .let_go_from
                    .is_some_and(|from| may_go && seen.now.duration_since(from) > CLOUD_MAX);
                if overdue {
                    return Err(format!("{uid} still holds {address}"));
                }
                continue;
            }
            if !may_go {
                return Err(format!("{uid} has lost {address} to {row:?}"));
            }
            if claimed {
                if self.claims[&pod.name].deleted.is_none() {
                    self.start_clock(&uid, &pod, seen.absent);
                }
                let claim = self.claims.get_mut(&pod.name).expect("it is claimed");
                claim.holder = None;
                let row = self.addresses.get_mut(&address).expect("it is in the pool");
                row.held = Held::Kept(pod.name);
            } else {
                self.leave(address, seen.now);
            }
            if pod.gone {
                self.pods.remove(&uid);
            } else if let Some(pod) = self.pods.get_mut(&uid) {
                pod.address = None;
            }
        }
        Ok(())
    }

    fn end_claims(&mut self, seen: &Seen) -> Result<(), String> {
        for name in self.claims.keys().copied().collect::<Vec<_>>() {
            let claim = &self.claims[&name];
            // The next claim of the name may have the same address, with an ENI of its own.
            let carrier = self.addresses[&claim.address].carrier.as_ref();
            let is_same = |mac: &Option<String>| match (mac, carrier) {
                (Some(mac), Some((_, known))) => mac == known,
                _ => true,
            };
            let is_open = seen.claims.iter().any(|row| {
                *row.key.name == *NAMES[name] && row.address == claim.address && is_same(&row.mac)
            });
            let free_to_end = claim.holder.is_none();
            let in_time = |pods: &[(usize, Timestamp)], expires| {
                let mut pods = pods.iter();
                pods.any(|(of, created_at)| *of == name && *created_at < expires)
            };
            let over = claim
                .expires
                .filter(|at| free_to_end && *at <= seen.now && seen.may_expire);
            let due = over.is_some_and(|at| !in_time(&seen.made, at));
            // By a clock that is ahead of the API server's, a claim can end before a pod comes
            // that the API server's own clock has come in time.
            let due_by_skew = seen.is_skewed && over.is_some();
            if is_open {
                let is_held = claim.expires.is_some_and(|at| in_time(&seen.unseen, at));
                let claim = self.claims.get_mut(&name).expect("it was just there");
                let since = (due && !is_held).then(|| claim.due.unwrap_or(seen.now));
                claim.due = since;
                if since.is_some_and(|since| seen.now.duration_since(since) > LATE_MAX) {
                    return Err(format!("the claim of {} does not end", NAMES[name]));
                }
                continue;
            }
            let bound: Vec<&Pod> = self
                .pods
                .values()
                .filter(|pod| pod.name == name && pod.hours.is_some() && !pod.gone)
                .collect();
            let too_late = claim
                .expires
                .is_some_and(|at| at <= seen.time && bound.iter().any(|pod| pod.created.at >= at));
            let crossed = bound.iter().any(|pod| pod.place.is_ecs());
            let vswitch = self.addresses[&claim.address].vswitch;
            let moved = bound.iter().any(|pod| {
                !pod.place.is_ecs() && !self.allowed(pod).iter().any(|(id, _)| *id == vswitch)
            });
            if !free_to_end || !(due || due_by_skew || too_late || crossed || moved) {
                return Err(format!("the claim of {} has ended: {claim:?}", NAMES[name]));
            }
            if due || due_by_skew || too_late {
                self.outcomes.expired += 1;
            } else {
                self.outcomes.forfeited += 1;
            }
            let address = claim.address;
            self.claims.remove(&name);
            self.leave(address, seen.now);
        }
        Ok(())
    }

    /// Answers with how many addresses became free.
    fn free(&mut self, seen: &Seen) -> Result<usize, String> {
        let mut freed = 0;
        for row in &seen.addresses {
            let Some(known) = self.addresses.get_mut(&row.address) else {
                return Err(format!("{} is not in the pool", row.address));
            };
            let Held::Leaving(since) = known.held else {
                continue;
            };
            if row.state != "detaching" {
                known.held = Held::Free(seen.time);
                known.carrier = None;
                freed += 1;
            } else if seen.now.duration_since(since) > CLOUD_MAX {
                return Err(format!("{} is not freed", row.address));
            }
        }
        Ok(freed)
    }

    /// The vSwitches that a pod may use, best first, with what is free in each.
    fn allowed(&self, pod: &Pod) -> Vec<(&'static str, usize)> {
        let zone = pod.place.zone();
        let free = |id: &str| {
            let mut all = self.addresses.values();
            let is_free = |one: &&Address| {
                one.vswitch == id && !one.excluded && matches!(one.held, Held::Free(_))
            };
            all.by_ref().filter(is_free).count()
        };
        let of_zone = self.vswitches.iter().filter(|(_, of)| *of == zone);
        let mut found: Vec<_> = of_zone.map(|(id, _)| (*id, free(id))).collect();
        if pod.vswitches.is_empty() {
            found.sort_by_key(|(_, free)| std::cmp::Reverse(*free));
            return found;
        }
        let named = pod.vswitches.iter();
        named
            .filter_map(|id| found.iter().find(|(of, _)| of == id).copied())
            .collect()
    }

    /// What a pod that asks now must get out of the pool.
    fn next_free(&self, pod: &Pod) -> Option<Ipv4Addr> {
        let allowed = self.allowed(pod);
        let (vswitch, _) = allowed.iter().find(|(_, free)| *free > 0)?;
        let free = self.addresses.iter().filter_map(|(address, one)| {
            let Held::Free(since) = one.held else {
                return None;
            };
            (one.vswitch == *vswitch && !one.excluded).then_some((since, *address))
        });
        free.min().map(|(_, address)| address)
    }

    fn allocate(&mut self, seen: &Seen, freed: usize) -> Result<(), String> {
        let new: Vec<(&AddressRow, PodUid)> = seen
            .addresses
            .iter()
            .filter(|row| row.state == "in_use")
            .filter_map(|row| Some((row, row.uid.clone()?)))
            .filter(|(_, uid)| self.pods.get(uid).is_none_or(|pod| pod.address.is_none()))
            .collect();
        let is_alone = new.len() == 1 && freed == 0;
        for (row, uid) in new {
            let Some(pod) = self.pods.get(&uid).cloned() else {
                return Err(format!("{uid} is unknown and has {}", row.address));
            };
            if pod.place == Place::Foreign || pod.deleted || pod.over {
                return Err(format!("{uid} should get nothing and has {}", row.address));
            }
            let claimed = pod.hours.is_some() && !pod.place.is_ecs();
            let kept = claimed
                .then(|| self.claims.get(&pod.name).cloned())
                .flatten();
            let known = &self.addresses[&row.address];
            let allowed = self.allowed(&pod);
            if !allowed.iter().any(|(id, _)| *id == known.vswitch) {
                return Err(format!("{uid} may not use {}", known.vswitch));
            }
            if let Some(claim) = kept {
                self.judge_kept(seen, row, &pod, &claim)?;
                self.outcomes.kept += 1;
            } else {
                if !matches!(known.held, Held::Free(_)) || known.excluded {
                    return Err(format!("{uid} has {}: {known:?}", row.address));
                }
                let want = self.next_free(&pod);
                if is_alone && want != Some(row.address) {
                    return Err(format!("{uid} has {} and not {want:?}", row.address));
                }
                self.judge_turn(&pod, known.vswitch)?;
                self.outcomes.new += 1;
            }
            if let Some(hours) = pod.hours.filter(|_| claimed) {
                let claim = Claim {
                    address: row.address,
                    holder: Some(uid.clone()),
                    hours,
                    deleted: None,
                    expires: None,
                    due: None,
                };
                self.claims.insert(pod.name, claim);
            }
            let known = self.addresses.get_mut(&row.address).expect("it was there");
            known.held = Held::Pod(uid.clone());
            let pod = self.pods.get_mut(&uid).expect("it was there");
            (pod.address, pod.waits) = (Some(row.address), None);
        }
        Ok(())
    }

    fn judge_kept(
        &self,
        seen: &Seen,
        row: &AddressRow,
        pod: &Pod,
        claim: &Claim,
    ) -> Result<(), String> {
        let is_over = claim
            .expires
            .is_some_and(|at| at <= seen.time && pod.created.at >= at);
        if claim.address != row.address || claim.holder.is_some() || is_over {
            return Err(format!("{row:?} answers {claim:?} of {pod:?}"));
        }
        let carrier = &self.addresses[&row.address].carrier;
        let now = row.eni.as_ref().zip(row.mac.as_ref());
        let now = now.map(|(eni, mac)| (eni.to_string(), mac.clone()));
        if carrier.is_some() && *carrier != now {
            return Err(format!("{} had {carrier:?}, has {now:?}", row.address));
        }
        Ok(())
    }

    /// Nobody overtakes a pod that waits longer for the same addresses.
    fn judge_turn(&self, pod: &Pod, vswitch: &str) -> Result<(), String> {
        let earlier = self.pods.iter().find(|(_, other)| {
            let waits_longer = matches!((other.waits, pod.waits), (Some(a), Some(b)) if a < b);
            waits_longer
                && other.created.at < pod.created.at
                && self.waits_for_pool(other)
                && self.allowed(other).iter().any(|(id, _)| *id == vswitch)
        });
        match earlier {
            Some((uid, _)) => Err(format!("{pod:?} has overtaken {uid}")),
            None => Ok(()),
        }
    }

    fn waits_for_pool(&self, pod: &Pod) -> bool {
        let claimed = pod.hours.is_some() && self.claims.contains_key(&pod.name);
        pod.address.is_none()
            && !pod.deleted
            && !pod.over
            && pod.place != Place::Foreign
            && !claimed
    }

    /// Why a pod of ours has no address; `None`: it should have one.
    pub(super) fn waits_for(&self, pod: &Pod) -> Option<Reason> {
        let claim = pod.hours.and_then(|_| self.claims.get(&pod.name));
        let allowed = self.allowed(pod);
        if allowed.is_empty() {
            return Some(Reason::NoAllowedVSwitch);
        }
        if claim.is_some_and(|claim| claim.holder.is_some()) {
            return Some(Reason::FixedIPWaiting);
        }
        let can_keep = claim.is_some_and(|claim| {
            let vswitch = self.addresses[&claim.address].vswitch;
            !pod.place.is_ecs() && allowed.iter().any(|(id, _)| *id == vswitch)
        });
        let is_full = allowed.iter().all(|(_, free)| *free == 0);
        (is_full && !can_keep).then_some(Reason::IPPoolExhausted)
    }

    fn judge_waiting(&mut self, seen: &Seen) -> Result<(), String> {
        for (uid, pod) in &self.pods {
            let is_ours = pod.place != Place::Foreign && !pod.deleted && !pod.over;
            if !is_ours || pod.address.is_some() {
                continue;
            }
            match self.waits_for(pod) {
                Some(Reason::FixedIPWaiting) => self.outcomes.waits += 1,
                Some(_) => self.outcomes.refused += 1,
                None => return Err(format!("{uid} waits for nothing at {}: {pod:?}", seen.now)),
            }
        }
        Ok(())
    }

    /// The rows are what the model says, address by address and claim by claim.
    fn compare(&mut self, seen: &Seen) -> Result<(), String> {
        if seen.addresses.len() != self.addresses.len() {
            return Err("the pool has another size".into());
        }
        for row in &seen.addresses {
            let known = self
                .addresses
                .get_mut(&row.address)
                .expect("looked at before");
            let (state, uid) = match &known.held {
                Held::Free(_) if known.excluded => ("excluded", None),
                Held::Free(_) => ("free", None),
                Held::Pod(uid) => ("in_use", Some(uid)),
                Held::Kept(_) => ("retained", None),
                Held::Leaving(_) => ("detaching", None),
            };
            if row.state != state || row.uid.as_ref() != uid {
                return Err(format!("{row:?} should be {known:?}"));
            }
            if let Some((eni, mac)) = row.eni.as_ref().zip(row.mac.as_ref()) {
                known.carrier = Some((eni.to_string(), mac.clone()));
            }
        }
        for (name, claim) in &self.claims {
            let row = seen
                .claims
                .iter()
                .find(|row| *row.key.name == *NAMES[*name]);
            let same = row.is_some_and(|row| {
                row.address == claim.address
                    && row.holder == claim.holder
                    && row.deleted_at == claim.deleted
                    && row.expires_at == claim.expires
            });
            if !same {
                return Err(format!("{row:?} should be {claim:?}"));
            }
        }
        if seen.claims.len() != self.claims.len() {
            return Err(format!("{:?} should be {:?}", seen.claims, self.claims));
        }
        Ok(())
    }
}
