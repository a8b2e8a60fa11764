//! Claims in a recorded history: who was answered with what, and when and why each claim ended.

use std::collections::HashMap;

use super::{
    ANSWER, CLOCK, Checker, Claim, ClaimEvent, ClaimState, Key, NOT_EARLY, NOT_LATE, ONE_CLAIM,
    Pod, REPLAY, Span, WHY, at, ip,
};
use crate::check::late::{Excuses, TOLERANCE_MS};
use crate::ledger::journal::word;
use crate::policy::retained::Close;

impl<'h> Checker<'h> {
    pub(super) fn claims(&mut self) {
        let mut events: HashMap<i64, Vec<&'h ClaimEvent>> = HashMap::new();
        for event in &self.history.events {
            events.entry(event.claim).or_default().push(event);
        }
        let mut pods: HashMap<&Key, Vec<&'h Pod>> = HashMap::new();
        for pod in &self.history.pods {
            pods.entry(&pod.key).or_default().push(pod);
        }
        let excuses = Excuses::read(self.history);
        for (key, mut claims) in self.claims_of.clone() {
            claims.sort_by_key(|claim| (claim.opened_ms, claim.id));
            self.one_at_a_time(&claims);
            let pods = pods.get(key).map_or(&[][..], Vec::as_slice);
            for claim in claims {
                let events = events.remove(&claim.id).unwrap_or_default();
                self.life(claim, &events, pods, &excuses);
            }
        }
        let history = self.history;
        for claim in events.keys() {
            self.violated(REPLAY, format!("claim {claim} has a history and no row"));
        }
        for entry in &history.journal {
            let is_of_known = entry.claim.is_none_or(|claim| {
                self.claims.contains_key(&claim) || entry.at_ms < history.from_ms
            });
            if entry.what == word::FORFEITED && !is_of_known {
                self.violated(
                    REPLAY,
                    format!("claim {:?} was forfeited and has no row", entry.claim),
                );
            }
        }
    }

    fn one_at_a_time(&mut self, claims: &[&Claim]) {
        for pair in claims.windows(2) {
            if pair[0]
                .closed_ms
                .is_none_or(|closed| closed > pair[1].opened_ms)
            {
                self.violated(
                    ONE_CLAIM,
                    format!(
                        "{} had claims {} and {} at {}",
                        pair[0].key,
                        pair[0].id,
                        pair[1].id,
                        at(pair[1].opened_ms)
                    ),
                );
            }
        }
    }

    fn life(&mut self, claim: &Claim, events: &[&ClaimEvent], pods: &[&Pod], excuses: &Excuses) {
        let Some((first, last)) = events.first().zip(events.last()) else {
            self.violated(
                REPLAY,
                format!("{} has a row and no history", self.claim(claim.id)),
            );
            return;
        };
        if last.state != claim.now {
            self.violated(
                REPLAY,
                format!(
                    "the row of {} is not what its history ends with",
                    self.claim(claim.id)
                ),
            );
        }
        if first.state.holder.is_none() || first.state.deleted_ms.is_some() {
            self.violated(
                CLOCK,
                format!("{} began without a holder", self.claim(claim.id)),
            );
        }
        for pair in events.windows(2) {
            if pair[1].at_ms >= self.history.from_ms {
                self.change(claim, pair[0], pair[1], pods);
            }
        }
        let before = events
            .iter()
            .rev()
            .find(|event| event.state.closed_why.is_none());
        match (claim.closed_ms, before) {
            (Some(closed_ms), Some(before)) if closed_ms >= self.history.from_ms => {
                self.end(claim, before, closed_ms, pods);
                if claim.now.closed_why.as_deref() == Some(Close::Expired.as_str()) {
                    self.lateness(claim, events, closed_ms, excuses);
                }
            }
            (None, _) => self.lateness(claim, events, self.history.now_ms, excuses),
            _ => {}
        }
    }

    fn change(&mut self, claim: &Claim, before: &ClaimEvent, after: &ClaimEvent, pods: &[&Pod]) {
        let (old, new) = (&before.state, &after.state);
        let name = self.claim(claim.id);
        let when = at(after.at_ms);
        if old.closed_why.is_some() {
            self.violated(REPLAY, format!("{name} changed at {when}, after its end"));
        }
        if let (Some(one), Some(other)) = (&old.holder, &new.holder)
            && one != other
        {
            self.violated(
                ANSWER,
                format!("{name} went at {when} from pod {one} to pod {other} without being let go"),
            );
        }
        // A claim that is released while a pod has it had no deletion.
        let is_released = new.closed_why.as_deref() == Some(Close::Released.as_str());
        if !is_released && new.deleted_ms.map(|deleted| deleted + new.retain_ms) != new.expires_ms {
            self.violated(
                CLOCK,
                format!("{name} has ended its period at another time since {when}"),
            );
        }
        match (old.deleted_ms, new.deleted_ms) {
            (Some(earlier), Some(later)) if later < earlier => {
                self.violated(CLOCK, format!("the clock of {name} was set back at {when}"));
            }
            (Some(earlier), Some(later)) if later == earlier && old.retain_ms != new.retain_ms => {
                self.violated(
                    CLOCK,
                    format!("the period of {name} changed at {when} without a deletion"),
                );
            }
            (Some(_), None) if old.holder.is_some() || new.holder.is_none() => {
                self.violated(
                    CLOCK,
                    format!("the clock of {name} was stopped at {when} and no pod had come"),
                );
            }
            _ => {}
        }
        if let (None, Some(uid), Some(expires_ms)) = (&old.holder, &new.holder, old.expires_ms)
            && after.at_ms >= expires_ms
            && !pods
                .iter()
                .any(|pod| pod.uid == *uid && pod.created_ms < expires_ms)
        {
            self.violated(
                ANSWER,
                format!(
                    "{name} was given to pod {uid} at {when}, which was made after its end at {}",
                    at(expires_ms)
                ),
            );
        }
    }

    /// Whether the claim was to end then, and why.
    fn end(&mut self, claim: &Claim, before: &ClaimEvent, closed_ms: i64, pods: &[&Pod]) {
        let name = self.claim(claim.id);
        let when = at(closed_ms);
        let why = claim.now.closed_why.as_deref().unwrap_or_default();
        if why == Close::Released.as_str() {
            if !self.is_in_journal(word::RELEASED, claim.id, closed_ms) {
                self.violated(
                    WHY,
                    format!("{name} was released at {when}, and by nobody that is recorded"),
                );
            }
            return;
        }
        if let Some(holder) = &before.state.holder {
            self.violated(
                NOT_EARLY,
                format!("{name} ended at {when} while pod {holder} held it"),
            );
            return;
        }
        if why == Close::Expired.as_str() {
            self.expiry(claim, &before.state, closed_ms, pods);
        } else if [Close::Crossed, Close::Moved, Close::Disproved]
            .iter()
            .any(|close| close.as_str() == why)
        {
            self.forfeit(claim, why, closed_ms, pods);
        } else {
            self.violated(WHY, format!("{name} ended at {when} because of {why:?}"));
        }
    }

    fn expiry(&mut self, claim: &Claim, state: &ClaimState, closed_ms: i64, pods: &[&Pod]) {
        let name = self.claim(claim.id);
        let Some(expires_ms) = state
            .expires_ms
            .filter(|expires_ms| *expires_ms <= closed_ms)
        else {
            self.violated(
                NOT_EARLY,
                format!(
                    "{name} ran out at {}, before its deadline {}",
                    at(closed_ms),
                    state.expires_ms.map_or_else(|| "was known".to_owned(), at)
                ),
            );
            return;
        };
        // One of the same millisecond came after the end: its creation has lost its fraction.
        let in_time = pods.iter().find(|pod| {
            // One on an ECS node keeps nothing: it would have ended the claim itself.
            pod.is_fixed
                && !pod.is_ecs
                && pod.created_ms < expires_ms
                // Those before were proved gone by the pod that the claim was opened for.
                && pod.accepted_ms >= claim.opened_ms
                && pod.accepted_ms < closed_ms
                && pod.let_go_ms.is_none_or(|let_go| let_go > closed_ms)
        });
        if let Some(pod) = in_time {
            self.violated(
                NOT_EARLY,
                format!(
                    "{name} ran out at {} although pod {} had been made in time",
                    at(closed_ms),
                    pod.uid
                ),
            );
        }
    }

    /// The pod that ended the claim is named, and was where the claim's address cannot be.
    fn forfeit(&mut self, claim: &Claim, why: &str, closed_ms: i64, pods: &[&Pod]) {
        let name = self.claim(claim.id);
        let entries = self.history.journal.iter();
        let by = entries
            .filter(|entry| entry.what == word::FORFEITED && entry.at_ms == closed_ms)
            .find(|entry| entry.claim == Some(claim.id));
        let Some(uid) = by.and_then(|entry| entry.pod.as_deref()) else {
            self.violated(
                WHY,
                format!(
                    "{name} ended at {} ({why}), and by no pod that is recorded",
                    at(closed_ms)
                ),
            );
            return;
        };
        let pod = pods.iter().find(|pod| pod.uid == uid);
        let place = self
            .history
            .spans
            .iter()
            .find(|span| span.claim == Some(claim.id));
        let vswitch = place.and_then(|span| self.vswitch(span.vswitch, closed_ms));
        let is_right = if why == Close::Moved.as_str() {
            pod.zip(vswitch).is_some_and(|(pod, vswitch)| {
                let named = format!("\"{}\"", vswitch.name);
                let excludes = pod.vswitches != "[]" && !pod.vswitches.contains(&named);
                pod.is_fixed && !pod.is_ecs && (pod.zone != vswitch.zone || excludes)
            })
        } else if why == Close::Crossed.as_str() {
            // A pod on a node that is not ours is known by the journal alone.
            pod.is_none_or(|pod| pod.is_fixed && pod.is_ecs)
        } else {
            true
        };
        if !is_right {
            self.violated(
                WHY,
                format!(
                    "{name} ended at {} ({why}) by pod {uid}, which was not in its way",
                    at(closed_ms)
                ),
            );
        }
    }

    /// `ended_ms` is when the claim ended, or until when it is known not to have ended.
    fn lateness(
        &mut self,
        claim: &Claim,
        events: &[&ClaimEvent],
        ended_ms: i64,
        excuses: &Excuses,
    ) {
        let open = events
            .iter()
            .rev()
            .find(|event| event.state.closed_why.is_none());
        let Some((state, since_ms)) = open.map(|event| (&event.state, event.at_ms)) else {
            return;
        };
        let Some(expires_ms) = state.expires_ms.filter(|_| state.holder.is_none()) else {
            return;
        };
        let due_ms = expires_ms.max(since_ms);
        let allowed_ms = excuses.until(claim.id, due_ms).saturating_add(TOLERANCE_MS);
        if ended_ms > allowed_ms && ended_ms >= self.history.from_ms {
            let name = self.claim(claim.id);
            let end = if claim.closed_ms.is_some() {
                format!("ended at {}", at(ended_ms))
            } else {
                format!("had not ended at {}", at(ended_ms))
            };
            self.violated(
                NOT_LATE,
                format!(
                    "{name} was due at {} and {end}, and nothing held it",
                    at(due_ms)
                ),
            );
        }
    }

    fn is_in_journal(&self, what: &str, claim: i64, at_ms: i64) -> bool {
        let mut entries = self.history.journal.iter();
        entries.any(|entry| {
            (entry.what.as_str(), entry.claim, entry.at_ms) == (what, Some(claim), at_ms)
        })
    }

    /// A pod got an address.
    pub(super) fn taken(&mut self, span: &Span) {
        let when = at(span.from_ms);
        let address = ip(span);
        let uid = span.pod.as_deref().unwrap_or_default();
        let Some(pod) = self.pods.get(uid).copied() else {
            self.violated(
                ANSWER,
                format!("{address} went to pod {uid} at {when}, which is not recorded"),
            );
            return;
        };
        let claim = span
            .claim
            .and_then(|claim| self.claims.get(&claim).copied());
        if span.claim.is_some() != (pod.is_fixed && !pod.is_ecs) {
            self.violated(
                ANSWER,
                format!("{address} went to pod {uid} ({}) at {when} with or without a claim, against its wish", pod.key),
            );
        }
        if let Some(claim) = claim.filter(|claim| claim.key != pod.key) {
            self.violated(
                ANSWER,
                format!(
                    "{address} went to pod {uid} ({}) at {when} and is claimed by {}",
                    pod.key, claim.key
                ),
            );
        }
        if !pod.is_fixed {
            return;
        }
        // Of two things in one millisecond nobody can tell which was first.
        let of_key = self.claims_of.get(&pod.key).into_iter().flatten();
        let other = of_key.copied().find(|claim| {
            Some(claim.id) != span.claim
                && claim.opened_ms < span.from_ms
                && claim.closed_ms.is_none_or(|closed| closed > span.from_ms)
        });
        if let Some(other) = other {
            self.violated(
                ANSWER,
                format!(
                    "pod {uid} was answered with {address} at {when}, while {} was open",
                    self.claim(other.id)
                ),
            );
        }
    }
}
