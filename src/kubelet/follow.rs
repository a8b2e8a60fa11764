//! A container's log while it is written, for `logs -f` and `attach`.
//!
//! Owns how far a log is known, and where it ends: with the run of the container that it is of, as the kubelet's does
//! (kubernetes/kubernetes, pkg/kubelet/kuberuntime/logs/logs.go, `ReadLogs`). It selects no lines and prints none.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::sleep;

use super::life::{self, LogLine};
use super::logs::read;
use super::routes::Endpoint;

/// How often a followed log is looked at: one GET of the pod each.
const PERIOD: Duration = Duration::from_secs(1);

/// A log that is written on.
pub(super) struct Follow {
    endpoint: Endpoint,
    namespace: String,
    pod: String,
    uid: Option<String>,
    container: String,
    restarts: i32,
    known: Known,
    ended: bool,
}

impl Follow {
    /// What comes after the lines that are there now.
    pub(super) fn after(
        lines: &[LogLine],
        endpoint: &Endpoint,
        pod: &Pod,
        container: &str,
    ) -> Self {
        let run = Run::of(pod, container);
        Self {
            endpoint: endpoint.clone(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            pod: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone(),
            container: container.to_owned(),
            restarts: run.restarts,
            known: Known::all(lines),
            ended: run.has_ended,
        }
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
            let pod = match read(&self.endpoint, &self.namespace, &self.pod).await {
                Ok(pod) => pod?,
                // The API server is away: the log is there again when it comes back.
                Err(_) => continue,
            };
            if pod.metadata.uid != self.uid {
                return None;
            }
            let lines = self.look(&pod, Timestamp::now())?;
            if !lines.is_empty() {
                return Some(lines);
            }
        }
        None
    }

    /// The lines that the pod has more than it had, or `None` when its container has been started again more than once.
    fn look(&mut self, pod: &Pod, now: Timestamp) -> Option<Vec<LogLine>> {
        let run = Run::of(pod, &self.container);
        let is_over = run.restarts != self.restarts;
        if is_over && run.restarts != self.restarts + 1 {
            return None;
        }
        let mut lines = life::log_lines(pod, &self.container, is_over, now).ok()?;
        self.ended = is_over || run.has_ended;
        let known = self.known.of(&lines);
        if !lines.is_empty() {
            self.known = Known::all(&lines);
        }
        lines.drain(..known);
        Some(lines)
    }
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
    use super::super::life::Stream;
    use super::*;

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
