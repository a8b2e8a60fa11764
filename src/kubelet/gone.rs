//! What the status of a deleted pod would have told of the end of its containers.
//!
//! Owns only when the deletion must have been that nobody saw. How and when containers end that are stopped is
//! [`Stop`]'s, what is told of it is decided in [`super::life`].

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::life::container_names;
use crate::pod::behaviour;
use crate::pod::view::RestartPolicy;
use crate::pod::{Ended, Stop};

/// How a pod went that may not have lived to tell how its containers ended.
pub(super) struct Gone {
    /// When it was seen last.
    pub(super) seen_at: Timestamp,
    /// How long each of its containers takes to stop.
    pub(super) stop: SignedDuration,
    /// What was told up to here stays true.
    pub(super) told_at: Timestamp,
    /// When it was not there any more.
    pub(super) now: Timestamp,
}

impl Gone {
    /// The pod, with the end of each container that ran when it was seen last.
    pub(super) fn ended(&self, mut pod: Pod) -> Pod {
        let sidecars = running_sidecars(&pod);
        let (asked_at, limits) = self.asked(&mut pod.metadata, sidecars.len());
        let spec = pod.spec.as_ref();
        let policy = match spec.and_then(|spec| spec.restart_policy.as_deref()) {
            Some("OnFailure") => RestartPolicy::OnFailure,
            Some("Never") => RestartPolicy::Never,
            _ => RestartPolicy::Always,
        };
        let stop = Stop::asked(policy, asked_at, limits, self.stop);
        let annotations = pod.metadata.annotations.clone().unwrap_or_default();
        let (behaviours, _) =
            behaviour::parse(&annotations, spec.into_iter().flat_map(container_names));
        let lists = pod.status.as_mut().map(|status| {
            [
                &mut status.init_container_statuses,
                &mut status.container_statuses,
                &mut status.ephemeral_container_statuses,
            ]
        });
        let all = lists.into_iter().flatten().flatten().flatten();
        for ContainerStatus { name, state, .. } in all {
            let Some(running) = state.as_mut().and_then(|state| state.running.take()) else {
                continue;
            };
            let started_at = running.started_at.map_or(Timestamp::UNIX_EPOCH, |at| at.0);
            let exit = behaviours.of(name).exit();
            let by_itself = exit.and_then(|exit| {
                let at = started_at.checked_add(exit.after).ok()?;
                (at <= asked_at).then(|| Ended::by_itself(exit, started_at, at))
            });
            let ended = by_itself.unwrap_or_else(|| {
                let (at, outcome) = match sidecars.iter().position(|one| one == name) {
                    // The last one is stopped first.
                    Some(place) => stop.sidecar(sidecars.len() - place),
                    None => (stop.at, stop.outcome),
                };
                outcome.ended(started_at, at)
            });
            *state = Some(self.told(&ended));
        }
        pod
    }

    fn told(&self, ended: &Ended) -> ContainerState {
        let end = ended.finished_at.min(self.now).max(self.told_at);
        ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: ended.exit_code,
                reason: Some(ended.reason.to_string()),
                started_at: Some(Time(ended.started_at)),
                finished_at: Some(Time(end)),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        }
    }

    /// When the deletion was asked for, and the time that it gives containers to stop and when that is over. One that
    /// nobody saw came after the pod was seen, and no later than all its containers needed to stop: whatever needed
    /// longer was killed by the time the pod was gone.
    fn asked(
        &self,
        meta: &mut ObjectMeta,
        sidecars: usize,
    ) -> (Timestamp, (SignedDuration, Timestamp)) {
        if let Some(time) = &meta.deletion_timestamp {
            let grace = meta.deletion_grace_period_seconds.unwrap_or(0);
            let grace = SignedDuration::from_secs(grace);
            let at = time.0.checked_sub(grace).unwrap_or(time.0);
            return (at, (grace, time.0));
        }
        let turns = i32::try_from(sidecars + 1).unwrap_or(i32::MAX);
        let needed = self.stop.checked_mul(turns).unwrap_or(SignedDuration::MAX);
        let at = self.now.checked_sub(needed).unwrap_or(self.seen_at);
        let at = at.max(self.seen_at).min(self.now);
        meta.deletion_timestamp = Some(Time(at));
        meta.deletion_grace_period_seconds = Some(0);
        (at, (self.now.duration_since(at), self.now))
    }
}

/// The names of the sidecars that ran when the pod was seen last, in their order.
fn running_sidecars(pod: &Pod) -> Vec<String> {
    let spec = pod.spec.iter();
    let inits = spec.flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars = inits.filter(|one| one.restart_policy.as_deref() == Some("Always"));
    let status = pod.status.iter();
    let statuses = status.flat_map(|status| status.init_container_statuses.iter().flatten());
    let runs = |one: &ContainerStatus| one.state.as_ref().is_some_and(|it| it.running.is_some());
    let running: Vec<_> = statuses
        .filter(|one| runs(one))
        .map(|one| &one.name)
        .collect();
    let found = sidecars
        .map(|one| &one.name)
        .filter(|name| running.contains(name));
    found.cloned().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn running(name: &str) -> Value {
        json!({
            "name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": at(0)}},
        })
    }

    /// With two sidecars, an init container that is done, and a main container.
    fn pod(metadata: &Value) -> Pod {
        let mut done = running("setup");
        done["state"] = json!({"terminated": {"exitCode": 0}});
        let pod = json!({
            "metadata": metadata,
            "spec": {
                "initContainers": [
                    {"name": "proxy", "restartPolicy": "Always"},
                    {"name": "setup"},
                    {"name": "logs", "restartPolicy": "Always"},
                ],
                "containers": [{"name": "app"}],
            },
            "status": {
                "initContainerStatuses": [running("proxy"), done, running("logs")],
                "containerStatuses": [running("app")],
            },
        });
        serde_json::from_value(pod).unwrap()
    }

    /// When each container that ran has ended, in seconds, and its code.
    fn ends(metadata: &Value, stop_s: i64, seen: i64, now: i64) -> Vec<(String, i64, i32)> {
        let gone = Gone {
            seen_at: at(seen),
            stop: SignedDuration::from_secs(stop_s),
            told_at: Timestamp::MIN,
            now: at(now),
        };
        let status = gone.ended(pod(metadata)).status.unwrap();
        let all = super::super::life::statuses(&status);
        let ends = all.filter_map(|one| {
            let ended = one.state.as_ref()?.terminated.as_ref()?;
            let end = ended.finished_at.as_ref()?.0.duration_since(at(0));
            Some((one.name.clone(), end.as_secs(), ended.exit_code))
        });
        ends.collect()
    }

    #[test]
    fn sidecars_end_after_the_others_and_whatever_takes_too_long_is_killed() {
        let end = |name: &str, end, code| (name.to_owned(), end, code);
        let deleted = |grace: i64| json!({"deletionTimestamp": at(10 + grace), "deletionGracePeriodSeconds": grace});
        for (metadata, stop_s, now, want) in [
            (
                deleted(30),
                5,
                40,
                [("proxy", 25, 0), ("logs", 20, 0), ("app", 15, 0)],
            ),
            (
                deleted(12),
                5,
                40,
                [("proxy", 22, 137), ("logs", 20, 0), ("app", 15, 0)],
            ),
            (
                deleted(3),
                5,
                40,
                [("proxy", 13, 137), ("logs", 13, 137), ("app", 13, 137)],
            ),
            // Nobody saw the deletion: it came as late as it may have.
            (
                json!({}),
                5,
                40,
                [("proxy", 40, 0), ("logs", 35, 0), ("app", 30, 0)],
            ),
            (
                json!({}),
                5,
                13,
                [("proxy", 13, 137), ("logs", 13, 137), ("app", 13, 137)],
            ),
        ] {
            let want = want.map(|(name, at, code)| end(name, at, code));
            assert_eq!(ends(&metadata, stop_s, 10, now), want, "{metadata} {now}");
        }
    }

    #[test]
    fn a_container_that_had_ended_by_itself_was_not_stopped() {
        let metadata = json!({
            "annotations": {"app.holdfast.dev/run-for": "11s", "app.holdfast.dev/exit-code": "3"},
            "deletionTimestamp": at(12), "deletionGracePeriodSeconds": 0,
        });
        let of_app = ends(&metadata, 0, 10, 13).pop().unwrap();
        assert_eq!(of_app, ("app".to_owned(), 11, 3));
    }
}
