//! What the status of a deleted pod would have told of the end of its containers.
//!
//! Owns only how that end is guessed from when the pod was seen last. What is told of it is decided in [`super::life`].

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// How a pod went that may not have lived to tell how its containers ended.
pub(super) struct Gone {
    /// When it was seen last.
    pub(super) seen_at: Timestamp,
    /// How long its containers take to stop.
    pub(super) stop: SignedDuration,
    /// What was told up to here stays true.
    pub(super) told_at: Timestamp,
    /// When it was not there any more.
    pub(super) now: Timestamp,
}

impl Gone {
    /// The pod, with the end of each container that ran when it was seen last.
    pub(super) fn ended(&self, mut pod: Pod) -> Pod {
        let (asked_at, grace) = self.asked(&mut pod);
        let spec = pod.spec.as_ref();
        let policy = spec.and_then(|spec| spec.restart_policy.as_deref());
        let (code, reason) = match (grace, policy) {
            (Some(grace), _) if self.stop > grace => (137, "Error"),
            (_, None | Some("Always")) => (0, "Completed"),
            _ => (143, "Error"),
        };
        let takes = self.stop.min(grace.unwrap_or(self.stop));
        let end = asked_at.checked_add(takes).unwrap_or(self.now);
        let end = end.min(self.now).max(self.told_at);
        let lists = pod.status.as_mut().map(|status| {
            [
                &mut status.init_container_statuses,
                &mut status.container_statuses,
                &mut status.ephemeral_container_statuses,
            ]
        });
        let all = lists.into_iter().flatten().flatten().flatten();
        for state in all.filter_map(|status| status.state.as_mut()) {
            let Some(running) = state.running.take() else {
                continue;
            };
            state.terminated = Some(ContainerStateTerminated {
                exit_code: code,
                reason: Some(reason.to_owned()),
                started_at: running.started_at,
                finished_at: Some(Time(end)),
                ..ContainerStateTerminated::default()
            });
        }
        pod
    }

    /// When the deletion was asked for, and the time that it gives containers to stop. One that nobody saw came after
    /// the pod was seen, and no later than its containers needed to stop.
    fn asked(&self, pod: &mut Pod) -> (Timestamp, Option<SignedDuration>) {
        let meta = &mut pod.metadata;
        if let Some(time) = &meta.deletion_timestamp {
            let grace = meta.deletion_grace_period_seconds.unwrap_or(0);
            let grace = SignedDuration::from_secs(grace);
            let at = time.0.checked_sub(grace).unwrap_or(time.0);
            return (at, Some(grace));
        }
        let at = self.now.checked_sub(self.stop).unwrap_or(self.seen_at);
        let at = at.max(self.seen_at).min(self.now);
        meta.deletion_timestamp = Some(Time(at));
        meta.deletion_grace_period_seconds = Some(0);
        (at, None)
    }
}
