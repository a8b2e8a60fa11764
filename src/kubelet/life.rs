//! What the log of a simulated container says: its life.
//!
//! Owns the lines. They are made of the pod's own status and annotations whenever they are asked
//! for, and kept nowhere: two readers see the same, and so does one after a restart of holdfast.
//! It does not know how logs are selected or sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Container, ContainerStateTerminated, ContainerStatus, Pod, PodStatus,
};

use crate::pod::behaviour::{self, Behaviour};

/// No more lines are given; the oldest are left out, as by a log that is rotated.
pub const LINES_MAX: usize = 10_000;
/// Nor more bytes with the ends of lines: a kubelet's `containerLogMaxSize`.
pub const LOG_MAX_BYTES: usize = 10 << 20;
/// How long after its time a line is given. The end of a container is known later than it is, by
/// the cut of its time to whole seconds and the way of the status; a line in between would
/// otherwise be given and then taken back.
const LAG: SignedDuration = SignedDuration::from_secs(2);

/// A line of a container's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written.
    pub at: Timestamp,
    /// Where it was written.
    pub stream: Stream,
    /// The line, without its end. Lines that are written again and again share it.
    pub text: Arc<str>,
}

/// Where a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Why there is no log, in the kubelet's words (kubernetes/kubernetes,
/// pkg/kubelet/kubelet_pods.go, `validateContainerLogStatus`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoLogs {
    /// The pod has no container of this name.
    #[error("container {container:?} not found in pod {pod:?}")]
    NoSuchContainer {
        /// Name of the container.
        container: String,
        /// Name of the pod.
        pod: String,
    },
    /// The container has no status yet.
    #[error("container {container:?} in pod {pod:?} is not available")]
    NotAvailable {
        /// Name of the container.
        container: String,
        /// Name of the pod.
        pod: String,
    },
    /// The container did not start yet.
    #[error("container {container:?} in pod {pod:?} is waiting to start: {reason}")]
    Waiting {
        /// Name of the container.
        container: String,
        /// Name of the pod.
        pod: String,
        /// What it waits for.
        reason: String,
    },
    /// The container was never restarted.
    #[error("previous terminated container {container:?} in pod {pod:?} not found")]
    NoPrevious {
        /// Name of the container.
        container: String,
        /// Name of the pod.
        pod: String,
    },
}

/// The log of a container up to `now`, or with `previous` that of the instance before its last
/// start.
///
/// The same facts give the same lines. Asked again later of the same instance, the lines given
/// before come first, unless there are more than [`LINES_MAX`] or [`LOG_MAX_BYTES`], or the
/// annotations were changed.
pub fn log_lines(
    pod: &Pod,
    container: &str,
    previous: bool,
    now: Timestamp,
) -> Result<Vec<LogLine>, NoLogs> {
    let instance = Instance::find(pod, container, previous)?;
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let containers = pod.spec.iter().flat_map(container_names);
    let (behaviours, _) = behaviour::parse(&annotations, containers);
    let mut lines = instance.beginning(pod, &annotations);
    let until = instance.finished_at().unwrap_or(now - LAG);
    lines.extend(written(
        behaviours.of(container),
        instance.started_at,
        until,
    ));
    lines.extend(instance.stop_asked(pod).filter(|line| line.at <= until));
    lines.extend(instance.ended.map(|ended| end(instance.name, ended)));
    lines.retain(|line| line.at <= now);
    lines.sort_by_key(|line| line.at);
    rotate(&mut lines);
    Ok(lines)
}

/// Leaves out the oldest of too many lines.
fn rotate(lines: &mut Vec<LogLine>) {
    let mut left_bytes = LOG_MAX_BYTES;
    let fits = |line: &&LogLine| {
        let left = left_bytes.checked_sub(line.text.len() + 1);
        left_bytes = left.unwrap_or(0);
        left.is_some()
    };
    let kept = lines.iter().rev().take(LINES_MAX).take_while(fits).count();
    lines.drain(..lines.len() - kept);
}

/// Names of the containers of all kinds.
pub(super) fn container_names(
    spec: &k8s_openapi::api::core::v1::PodSpec,
) -> impl Iterator<Item = &str> {
    let inits = spec.init_containers.iter().flatten();
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let containers = inits.chain(&spec.containers).map(|one| &*one.name);
    containers.chain(ephemeral.map(|one| &*one.name))
}

/// Of containers of all kinds.
pub(super) fn statuses(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let lists = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    lists.into_iter().flatten().flatten()
}

/// One run of a container, from a start to its end.
struct Instance<'a> {
    name: &'a str,
    image: &'a str,
    started_at: Timestamp,
    ended: Option<&'a ContainerStateTerminated>,
    restarts: i32,
    before: Option<&'a ContainerStateTerminated>,
}

impl<'a> Instance<'a> {
    fn find(pod: &'a Pod, container: &str, previous: bool) -> Result<Self, NoLogs> {
        let name = || {
            let pod = pod.metadata.name.clone().unwrap_or_default();
            (container.to_owned(), pod)
        };
        let mut known = pod.spec.iter().flat_map(container_names);
        if !known.any(|known| known == container) {
            let (container, pod) = name();
            return Err(NoLogs::NoSuchContainer { container, pod });
        }
        let mut all = pod.status.iter().flat_map(statuses);
        let Some(status) = all.find(|status| status.name == container) else {
            let (container, pod) = name();
            return Err(NoLogs::NotAvailable { container, pod });
        };
        let last = status.last_state.as_ref();
        let last = last.and_then(|state| state.terminated.as_ref());
        let of_last = |ended: &'a ContainerStateTerminated, restarts: i32| Self {
            restarts,
            before: None,
            ..Self::of(status, Some(ended))
        };
        if previous {
            let Some(ended) = last else {
                let (container, pod) = name();
                return Err(NoLogs::NoPrevious { container, pod });
            };
            return Ok(of_last(ended, (status.restart_count - 1).max(0)));
        }
        let state = status.state.clone().unwrap_or_default();
        if state.running.is_some() {
            return Ok(Self::of(status, None));
        }
        let ended = status.state.as_ref();
        if let Some(ended) = ended.and_then(|state| state.terminated.as_ref()) {
            return Ok(Self::of(status, Some(ended)));
        }
        // It waits for its next start: what is shown is the run that ended.
        if let Some(ended) = last {
            return Ok(of_last(ended, status.restart_count));
        }
        let reason = state.waiting.and_then(|waiting| waiting.reason);
        let (container, pod) = name();
        Err(NoLogs::Waiting {
            container,
            pod,
            reason: waiting_words(reason),
        })
    }

    fn of(status: &'a ContainerStatus, ended: Option<&'a ContainerStateTerminated>) -> Self {
        let running = status
            .state
            .as_ref()
            .and_then(|state| state.running.as_ref());
        let start = match ended {
            Some(ended) => ended.started_at.as_ref().or(ended.finished_at.as_ref()),
            None => running.and_then(|running| running.started_at.as_ref()),
        };
        let last = status.last_state.as_ref();
        Self {
            name: &status.name,
            image: &status.image,
            started_at: start.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            ended,
            restarts: status.restart_count,
            before: last.and_then(|state| state.terminated.as_ref()),
        }
    }

    fn finished_at(&self) -> Option<Timestamp> {
        let ended = self.ended?;
        Some(
            ended
                .finished_at
                .as_ref()
                .map_or(self.started_at, |time| time.0),
        )
    }

    fn beginning(&self, pod: &Pod, annotations: &BTreeMap<String, String>) -> Vec<LogLine> {
        let meta = &pod.metadata;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let mut texts = vec![format!(
            "holdfast: container {} ({}) of pod {}/{} (uid {}) started",
            self.name,
            self.image,
            text(&meta.namespace),
            text(&meta.name),
            text(&meta.uid),
        )];
        if let Some(command) = pod.spec.as_ref().and_then(|spec| {
            let mut all = spec
                .init_containers
                .iter()
                .flatten()
                .chain(&spec.containers);
            all.find(|one| one.name == self.name).and_then(command)
        }) {
            texts.push(format!(
                "holdfast: command {command:?} is not run, it is simulated"
            ));
        }
        if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) {
            let zone = annotations.get("topology.kubernetes.io/zone");
            let zone = zone.map_or_else(String::new, |zone| format!(", zone {zone}"));
            texts.push(format!("holdfast: node {node}{zone}"));
        }
        texts.extend(network(pod, annotations));
        if self.restarts > 0 {
            let why = self.before.map_or_else(String::new, |before| {
                format!(", after the instance before it ended with {}", how(before))
            });
            texts.push(format!("holdfast: restart {}{why}", self.restarts));
        }
        let line = |text: String| LogLine {
            at: self.started_at,
            stream: Stream::Stdout,
            text: text.into(),
        };
        texts.into_iter().map(line).collect()
    }

    /// The signal that a deletion sends, in an instance that lived to see it.
    fn stop_asked(&self, pod: &Pod) -> Option<LogLine> {
        let at = pod.metadata.deletion_timestamp.as_ref()?.0;
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        let at = at.checked_sub(SignedDuration::from_secs(grace)).ok()?;
        let alive = self.started_at <= at && self.finished_at().is_none_or(|end| at <= end);
        alive.then(|| LogLine {
            at,
            stream: Stream::Stdout,
            text: "holdfast: the pod is being deleted, stop signal received".into(),
        })
    }
}

/// What a container that has not started waits for, as the kubelet says it.
fn waiting_words(reason: Option<String>) -> String {
    match reason.as_deref() {
        Some("ErrImagePull") => "image can't be pulled".to_owned(),
        Some("ImagePullBackOff") => "trying and failing to pull image".to_owned(),
        _ => reason.unwrap_or_default(),
    }
}

fn command(container: &Container) -> Option<Vec<String>> {
    let words = container.command.iter().flatten();
    let words: Vec<_> = words
        .chain(container.args.iter().flatten())
        .cloned()
        .collect();
    (!words.is_empty()).then_some(words)
}

fn network(pod: &Pod, annotations: &BTreeMap<String, String>) -> Option<String> {
    let address = pod.status.as_ref()?.pod_ip.as_ref()?;
    let of = |name: &str| annotations.get(&format!("network.alibabacloud.com/{name}"));
    let named = [
        ("ENI", of("allocated-eni-id")),
        ("vSwitch", of("vswitch-id")),
        ("VPC", of("vpc-id")),
    ];
    let mut text = format!("holdfast: address {address}");
    for (what, id) in named {
        if let Some(id) = id {
            text = format!("{text}, {what} {id}");
        }
    }
    Some(text)
}

fn how(ended: &ContainerStateTerminated) -> String {
    let reason = ended.reason.as_ref();
    let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
    format!("exit code {}{reason}", ended.exit_code)
}

fn end(name: &str, ended: &ContainerStateTerminated) -> LogLine {
    let at = ended.finished_at.as_ref().or(ended.started_at.as_ref());
    LogLine {
        at: at.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        stream: if ended.exit_code == 0 {
            Stream::Stdout
        } else {
            Stream::Stderr
        },
        text: format!("holdfast: container {name} ended with {}", how(ended)).into(),
    }
}

/// What the annotations have a container write, from its start to `until`.
fn written(behaviour: &Behaviour, start: Timestamp, until: Timestamp) -> Vec<LogLine> {
    let templates = behaviour.log_lines.as_deref().unwrap_or_default();
    let age = until.duration_since(start);
    let (first, last) = match behaviour.log_every {
        None => (0, 0),
        Some(_) if templates.is_empty() => (0, 0),
        Some(every) => {
            let last = age.as_millis().max(0) / every.as_millis().max(1);
            // Whole rounds, and enough of them: the caller leaves out the oldest lines. Lines that
            // come late in their round need rounds that began before.
            let late = templates.last().map_or(0, |line| line.after.as_millis());
            let rounds = i128::try_from(LINES_MAX / templates.len() + 1).unwrap_or(i128::MAX);
            let rounds = rounds + (late / every.as_millis().max(1)).min(rounds);
            ((last - rounds).max(0), last)
        }
    };
    let every = behaviour.log_every.unwrap_or(SignedDuration::ZERO);
    let mut lines = Vec::new();
    for round in first..=last {
        let offset = i64::try_from(round * every.as_millis()).unwrap_or(i64::MAX);
        let offset = SignedDuration::from_millis(offset);
        for template in templates {
            let Ok(at) = start.checked_add(offset + template.after) else {
                continue;
            };
            if at <= until || (at == start && until < start) {
                lines.push(LogLine {
                    at,
                    stream: if template.is_error {
                        Stream::Stderr
                    } else {
                        Stream::Stdout
                    },
                    text: Arc::clone(&template.text),
                });
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests;
