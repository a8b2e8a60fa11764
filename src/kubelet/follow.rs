//! A container's log while it is written, for `logs -f` and `attach`.
//!
//! Owns how far a log is known, and where it ends: with the run of the container that it is of, as the kubelet's does
//! (kubernetes/kubernetes, pkg/kubelet/kuberuntime/logs/logs.go, `ReadLogs`). It selects no lines and prints none.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::sleep;

use super::gone::Gone;
use super::life::{self, LogLine};
use super::logs::read;
use super::routes::Endpoint;

/// How often a followed log is looked at: one GET of the pod each.
const PERIOD: Duration = Duration::from_secs(1);

/// A log that is written on.
pub(super) struct Follow {
    endpoint: Endpoint,
    container: String,
    restarts: i32,
    /// The pod as it was read last, and when.
    pod: Box<Pod>,
    seen_at: Timestamp,
    known: Known,
    ended: bool,
}

impl Follow {
    /// What comes after the lines that are there now.
    pub(super) fn after(lines: &[LogLine], endpoint: &Endpoint, pod: Pod, container: &str) -> Self {
        let run = Run::of(&pod, container);
        Self {
            endpoint: endpoint.clone(),
            container: container.to_owned(),
            restarts: run.restarts,
            pod: essence(pod),
            seen_at: Timestamp::now(),
            known: Known::all(lines),
            ended: run.has_ended,
        }
    }

    /// Whether no more will come.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The next lines, or `None` when no more will come.
    pub(super) async fn next(&mut self) -> Option<Vec<LogLine>> {
        let shutdown = self.endpoint.shared.shutdown.clone();
        while !self.ended {
            let turn = async {
                sleep(PERIOD).await;
                self.endpoint.shared.limits.look().await;
            };
            shutdown.run_until_cancelled(turn).await?;
            let meta = &self.pod.metadata;
            let namespace = meta.namespace.as_deref().unwrap_or_default();
            let name = meta.name.as_deref().unwrap_or_default();
            let lines = match read(&self.endpoint, namespace, name).await {
                Ok(Some(pod)) if pod.metadata.uid == meta.uid => {
                    self.look(pod, Timestamp::now())?
                }
                Ok(_) => self.rest(Timestamp::now())?,
                // The API server is away: the log is there again when it comes back.
                Err(_) => continue,
            };
            if !lines.is_empty() {
                return Some(lines);
            }
        }
        None
    }

    /// The lines that the pod has more than it had, or `None` when its container has been started again more than once.
    fn look(&mut self, pod: Pod, now: Timestamp) -> Option<Vec<LogLine>> {
        let run = Run::of(&pod, &self.container);
        let is_over = run.restarts != self.restarts;
        if is_over && run.restarts != self.restarts + 1 {
            return None;
        }
        let lines = life::log_lines(&pod, &self.container, is_over, now).ok()?;
        self.ended = is_over || run.has_ended;
        (self.pod, self.seen_at) = (essence(pod), now);
        Some(self.unknown(lines))
    }

    /// The last lines of a pod that is no longer there: it may have gone before its status told of its end.
    fn rest(&mut self, now: Timestamp) -> Option<Vec<LogLine>> {
        self.ended = true;
        let gone = Gone {
            seen_at: self.seen_at,
            stop: self.endpoint.shared.stop,
            told_at: self.known.0.map_or(Timestamp::MIN, |(at, _)| at),
            now,
        };
        let pod = gone.ended(std::mem::take(&mut *self.pod));
        let lines = life::log_lines(&pod, &self.container, false, now).ok()?;
        Some(self.unknown(lines))
    }

    /// Those of the lines that were not given yet.
    fn unknown(&mut self, mut lines: Vec<LogLine>) -> Vec<LogLine> {
        let known = self.known.of(&lines);
        if !lines.is_empty() {
            self.known = Known::all(&lines);
        }
        // Not what is left of a long log, which would keep all of its room.
        lines.split_off(known)
    }
}

/// A followed log keeps of its pod what lines tell of, and what tells how it ends.
fn essence(pod: Pod) -> Box<Pod> {
    let meta = pod.metadata;
    let metadata = ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        annotations: meta.annotations,
        deletion_timestamp: meta.deletion_timestamp,
        deletion_grace_period_seconds: meta.deletion_grace_period_seconds,
        ..ObjectMeta::default()
    };
    let container = |one: Container| Container {
        name: one.name,
        command: one.command,
        args: one.args,
        restart_policy: one.restart_policy,
        ..Container::default()
    };
    let spec = pod.spec.map(|spec| PodSpec {
        node_name: spec.node_name,
        restart_policy: spec.restart_policy,
        containers: spec.containers.into_iter().map(container).collect(),
        init_containers: spec
            .init_containers
            .map(|all| all.into_iter().map(container).collect()),
        ephemeral_containers: spec.ephemeral_containers,
        ..PodSpec::default()
    });
    Box::new(Pod {
        metadata,
        spec,
        status: pod.status,
    })
}

/// Which run of a container its present log is of.
struct Run {
    restarts: i32,
    /// Whether nothing more will be written to that log.
    has_ended: bool,
}

impl Run {
    fn of(pod: &Pod, container: &str) -> Self {
        let status = pod.status.as_ref();
        let is_over = status
            .and_then(|status| status.phase.as_deref())
            .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed"));
        let mut statuses = status.into_iter().flat_map(life::statuses);
        let Some(found) = statuses.find(|one| one.name == container) else {
            return Self {
                restarts: 0,
                has_ended: is_over,
            };
        };
        let runs = found.state.as_ref().is_some_and(|it| it.running.is_some());
        Self {
            restarts: found.restart_count,
            has_ended: is_over || !runs,
        }
    }
}

/// How far a log is known: the time of the last line, and how many lines have that time. A number of lines alone would
/// not do, for the oldest lines of a long log are left out.
#[derive(Clone, Copy, Debug, Default)]
struct Known(Option<(Timestamp, usize)>);

impl Known {
    fn all(lines: &[LogLine]) -> Self {
        Self(lines.last().map(|last| {
            let earlier = lines.partition_point(|line| line.at < last.at);
            (last.at, lines.len() - earlier)
        }))
    }

    /// How many of these lines are known.
    fn of(self, lines: &[LogLine]) -> usize {
        let Some((at, count)) = self.0 else {
            return 0;
        };
        let earlier = lines.partition_point(|line| line.at < at);
        let at_once = lines[earlier..].partition_point(|line| line.at == at);
        earlier + at_once.min(count)
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use serde_json::{Value, json};

    use super::super::life::Stream;
    use super::super::routes::testing::{answering, endpoint};
    use super::*;

    fn pod(started_at: Timestamp, metadata: &Value) -> Pod {
        let mut pod = json!({
            "metadata": {
                "name": "web-0", "namespace": "shop", "uid": "u1",
                "annotations": {"holdfast.dev/log-lines": "line", "holdfast.dev/log-every": "1s"},
            },
            "spec": {"nodeName": "vk-b", "containers": [{"name": "app"}]},
            "status": {"phase": "Running", "containerStatuses": [{
                "name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {"startedAt": started_at}},
            }]},
        });
        for (name, value) in metadata.as_object().unwrap() {
            pod["metadata"][name] = value.clone();
        }
        serde_json::from_value(pod).unwrap()
    }

    /// What is given of a log of which `told` lines are known when its pod is no longer there.
    fn rest(
        pod: Pod,
        told: &[LogLine],
        stop_s: i64,
        seen_at: Timestamp,
        now: Timestamp,
    ) -> Vec<String> {
        let mut endpoint = endpoint(answering(|| unreachable!()));
        let shared = std::sync::Arc::get_mut(&mut endpoint.shared).unwrap();
        shared.stop = SignedDuration::from_secs(stop_s);
        let mut follow = Follow::after(told, &endpoint, pod, "app");
        follow.seen_at = seen_at;
        let lines = follow.rest(now).unwrap();
        assert!(follow.ended);
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        let text =
            |line: &LogLine| format!("{} {}", line.at.duration_since(start).as_secs(), line.text);
        lines.iter().map(text).collect()
    }

    #[tokio::test]
    async fn the_log_of_a_pod_that_is_gone_is_given_to_the_end_of_its_container() {
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let signal = "holdfast: the pod is being deleted, stop signal received";
        let end = "holdfast: container app ended with exit code 0 (Completed)";
        let killed = "holdfast: container app ended with exit code 137 (Error)";
        let deletion = json!({"deletionTimestamp": at(35), "deletionGracePeriodSeconds": 30});
        for (metadata, stop_s, want) in [
            // Its deletion was not seen: it came after the last look at the pod.
            (
                &json!({}),
                0,
                [
                    "4 line",
                    "5 line",
                    "6 line",
                    &format!("6 {signal}"),
                    &format!("6 {end}"),
                ],
            ),
            // Faster than its container stops: it was killed.
            (
                &json!({}),
                9,
                [
                    "4 line",
                    "5 line",
                    &format!("5 {signal}"),
                    "6 line",
                    &format!("6 {killed}"),
                ],
            ),
            (
                &deletion,
                0,
                [
                    "4 line",
                    "5 line",
                    &format!("5 {signal}"),
                    &format!("5 {end}"),
                    "",
                ],
            ),
            (
                &deletion,
                9,
                [
                    "4 line",
                    "5 line",
                    &format!("5 {signal}"),
                    "6 line",
                    &format!("6 {end}"),
                ],
            ),
        ] {
            let pod = pod(at(0), metadata);
            let told = life::log_lines(&pod, "app", false, at(5)).unwrap();
            let mut lines = rest(pod, &told, stop_s, at(5), at(6));
            lines.resize(5, String::new());
            assert_eq!(lines, want, "{metadata} {stop_s}");
        }
    }

    #[tokio::test]
    async fn what_was_given_before_does_not_hide_the_end_of_a_container_that_ended_earlier() {
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let pod = pod(
            at(0),
            &json!({"deletionTimestamp": at(1), "deletionGracePeriodSeconds": 0}),
        );
        let told = life::log_lines(&pod, "app", false, at(9)).unwrap();
        let lines = rest(pod, &told, 0, at(9), at(10));
        assert_eq!(
            lines,
            ["7 holdfast: container app ended with exit code 0 (Completed)"]
        );
    }

    fn lines(seconds: &[i64]) -> Vec<LogLine> {
        let line = |(number, &at): (usize, &i64)| LogLine {
            at: Timestamp::from_second(1_800_000_000 + at).unwrap(),
            stream: Stream::Stdout,
            text: number.to_string().into(),
        };
        seconds.iter().enumerate().map(line).collect()
    }

    #[test]
    fn what_is_known_of_a_log_is_known_when_its_oldest_lines_are_left_out() {
        for (before, after, new) in [
            (&[][..], &[0, 0][..], 2),
            (&[0, 0, 1], &[0, 0, 1], 0),
            (&[0, 0, 1], &[0, 0, 1, 1, 2], 2),
            (&[0, 1, 2], &[2, 3, 4], 2),
            (&[0, 1, 2], &[3, 4, 5], 3),
            (&[1, 1, 1], &[1, 1, 2], 1),
        ] {
            let after = lines(after);
            let known = Known::all(&lines(before)).of(&after);
            assert_eq!(after.len() - known, new, "{before:?}, then {after:?}");
        }
    }
}
