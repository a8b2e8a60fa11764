//! Simulated CPU and memory use, as `/stats/summary`, `/metrics/resource` and `/metrics/cadvisor`
//! tell it.
//!
//! Owns the figures and the texts. A counter adds up from sample to sample, since what is used may
//! change at any time. A container's begins with what its whole life would have used at the pace of
//! its first sample, and so goes on after a restart of this process. A node's begins anew with the
//! process, as a real node's does with its boot.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use holdfast_provider::id::{NodeName, PodUid};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::pod::running::{RunningContainer, RunningPod};

/// What a node uses without pods.
const NODE: Usage = Usage {
    cpu_nanocores: 100_000_000,
    memory_bytes: 256 << 20,
};
/// Taken as the request of a container that requests no CPU.
const CPU_DEFAULT_MILLI: u64 = 100;
/// Taken as the request of a container that requests no memory.
const MEMORY_DEFAULT_BYTES: u64 = 64 << 20;

/// What is used at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Billionths of a core.
    pub(super) cpu_nanocores: u64,
    /// The working set.
    pub(super) memory_bytes: u64,
}

impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu_nanocores: self.cpu_nanocores.saturating_add(other.cpu_nanocores),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }
}

/// What a container uses: what its pod's annotations say, else a tenth of the CPU and half of the
/// memory that it requests, and never nothing, since metrics-server drops a pod with a zero in it.
fn usage(container: &RunningContainer) -> Usage {
    let milli = Some(container.cpu_request_milli).filter(|milli| *milli > 0);
    let bytes = Some(container.memory_request_bytes).filter(|bytes| *bytes > 1);
    let simulated = Usage {
        cpu_nanocores: milli
            .unwrap_or(CPU_DEFAULT_MILLI)
            .saturating_mul(1_000_000 / 10),
        memory_bytes: bytes.unwrap_or(MEMORY_DEFAULT_BYTES) / 2,
    };
    let nanocores = |milli: u64| milli.saturating_mul(1_000_000).max(1);
    Usage {
        cpu_nanocores: container
            .cpu_milli
            .map_or(simulated.cpu_nanocores, nanocores),
        memory_bytes: container
            .memory_bytes
            .map_or(simulated.memory_bytes, |bytes| bytes.max(1)),
    }
}

/// Core-nanoseconds used since `since` at a steady pace.
fn used(usage: Usage, since: Timestamp, at: Timestamp) -> u64 {
    let nanos = at.duration_since(since).as_nanos().max(0);
    let used = nanos.saturating_mul(i128::from(usage.cpu_nanocores)) / 1_000_000_000;
    u64::try_from(used).unwrap_or(u64::MAX)
}

/// What was used by a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Used {
    cpu_core_nanoseconds: u64,
    now: Usage,
}

/// A node and its pods at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    at: Timestamp,
    since: Timestamp,
    node: Used,
    pods: Vec<PodSample>,
}

#[derive(Clone, Debug)]
struct PodSample {
    pod: RunningPod,
    total: Used,
    /// One for each container of `pod`.
    containers: Vec<Used>,
}

/// The counters of the nodes, and of the pods that were in their last samples.
#[derive(Debug)]
pub(super) struct Counters {
    since: Timestamp,
    nodes: Mutex<HashMap<NodeName, NodeCounter>>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            since: Timestamp::now(),
            nodes: Mutex::default(),
        }
    }
}

/// In core-nanoseconds, as all counters.
#[derive(Debug)]
struct NodeCounter {
    /// When it was sampled last, and all that is below it.
    at: Timestamp,
    cpu: u64,
    pods: HashMap<PodUid, PodCounter>,
}

#[derive(Debug, Default)]
struct PodCounter {
    /// Of containers that ran in an earlier sample, and of earlier runs: the pod has used it still.
    ended: u64,
    /// By name and start.
    running: HashMap<(String, Timestamp), u64>,
}

impl Counters {
    /// What `node` and its running `pods` have used by `now`.
    pub(super) fn sample(&self, node: &NodeName, pods: Vec<RunningPod>, now: Timestamp) -> Sample {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = nodes.entry(node.clone()).or_insert_with(|| NodeCounter {
            at: self.since,
            cpu: 0,
            pods: HashMap::new(),
        });
        // Two scrapes may end in another order than they began.
        let (before, now) = (counter.at, now.max(counter.at));
        let mut old = std::mem::take(&mut counter.pods);
        let mut samples = Vec::with_capacity(pods.len());
        for pod in pods {
            let old = old.remove(&pod.uid).unwrap_or_default();
            let (next, sample) = old.sample(pod, before, now);
            counter.pods.insert(sample.pod.uid.clone(), next);
            // One whose containers all wait to be started again uses nothing, and has used what it has.
            if !sample.pod.containers.is_empty() {
                samples.push(sample);
            }
        }
        let usage = samples.iter().fold(NODE, |sum, pod| sum + pod.total.now);
        counter.cpu = counter.cpu.saturating_add(used(usage, before, now));
        counter.at = now;
        Sample {
            at: now,
            since: self.since,
            node: Used {
                cpu_core_nanoseconds: counter.cpu,
                now: usage,
            },
            pods: samples,
        }
    }
}

impl PodCounter {
    /// The counter and the sample of its pod at `now`. `before`: when it was sampled last.
    fn sample(mut self, pod: RunningPod, before: Timestamp, now: Timestamp) -> (Self, PodSample) {
        let mut next = Self::default();
        let mut total = Used::default();
        let mut containers = Vec::with_capacity(pod.containers.len());
        for container in &pod.containers {
            let usage = usage(container);
            let run = (container.name.clone(), container.started_at);
            let cpu = match self.running.remove(&run) {
                Some(cpu) => cpu.saturating_add(used(usage, before, now)),
                None => used(usage, container.started_at, now),
            };
            next.running.insert(run, cpu);
            total.cpu_core_nanoseconds = total.cpu_core_nanoseconds.saturating_add(cpu);
            total.now = total.now + usage;
            containers.push(Used {
                cpu_core_nanoseconds: cpu,
                now: usage,
            });
        }
        next.ended = self
            .running
            .values()
            .copied()
            .fold(self.ended, u64::saturating_add);
        total.cpu_core_nanoseconds = total.cpu_core_nanoseconds.saturating_add(next.ended);
        let sample = PodSample {
            pod,
            total,
            containers,
        };
        (next, sample)
    }
}

/// `/stats/summary`: `Summary` of k8s.io/kubelet/pkg/apis/stats/v1alpha1.
pub(super) fn summary(node: &str, sample: &Sample) -> Value {
    let cpu = |used: Used| {
        json!({
            "time": sample.at,
            "usageNanoCores": used.now.cpu_nanocores,
            "usageCoreNanoSeconds": used.cpu_core_nanoseconds,
        })
    };
    let memory = |used: Used| {
        json!({
            "time": sample.at,
            "usageBytes": used.now.memory_bytes,
            "workingSetBytes": used.now.memory_bytes,
            "rssBytes": used.now.memory_bytes,
        })
    };
    let pod = |one: &PodSample| {
        let containers = one.pod.containers.iter().zip(&one.containers);
        let containers: Vec<_> = containers
            .map(|(container, used)| {
                json!({
                    "name": container.name,
                    "startTime": container.started_at,
                    "cpu": cpu(*used),
                    "memory": memory(*used),
                })
            })
            .collect();
        json!({
            "podRef": {
                "name": one.pod.key.name, "namespace": one.pod.key.namespace, "uid": one.pod.uid,
            },
            "startTime": one.pod.started_at,
            "containers": containers,
            "cpu": cpu(one.total),
            "memory": memory(one.total),
        })
    };
    json!({
        "node": {
            "nodeName": node,
            "startTime": sample.since,
            "cpu": cpu(sample.node),
            "memory": memory(sample.node),
        },
        "pods": sample.pods.iter().map(pod).collect::<Vec<_>>(),
    })
}

/// `/metrics/resource`, in Prometheus' text format with times, which metrics-server computes
/// rates from. Written here because the usual encoders write no times. metrics-server finds
/// labels by name (kubernetes-sigs/metrics-server, pkg/scraper/client/resource/decode.go); the
/// pod comes second for readers that go by place.
pub(super) fn resource_metrics(sample: &Sample) -> String {
    let labels = |pod: &RunningPod, container: &RunningContainer| {
        format!(
            "container=\"{}\",pod=\"{}\",namespace=\"{}\"",
            container.name, pod.key.name, pod.key.namespace
        )
    };
    let mut text = String::new();
    let time = sample.at.as_millisecond();
    containers(&mut text, sample, "[STABLE] ", "", labels);
    family(
        &mut text,
        "node_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
        |text| {
            let seconds = seconds(sample.node.cpu_core_nanoseconds);
            let _ = writeln!(text, "node_cpu_usage_seconds_total {seconds} {time}");
        },
    );
    family(
        &mut text,
        "node_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the node in bytes",
        |text| {
            let bytes = sample.node.now.memory_bytes;
            let _ = writeln!(text, "node_memory_working_set_bytes {bytes} {time}");
        },
    );
    pods(&mut text, sample);
    family(
        &mut text,
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        |text| {
            let _ = writeln!(text, "resource_scrape_error 0");
        },
    );
    text
}

/// `/metrics/cadvisor`: what is known of containers, under the names and with the labels of cAdvisor
/// (google/cadvisor, metrics/prometheus.go; kubernetes/kubernetes, pkg/kubelet/server/server.go,
/// `containerPrometheusLabelsFunc`). Dashboards take what has an image for a container. There are no
/// cgroups here, and so no `id`.
pub(super) fn cadvisor_metrics(sample: &Sample) -> String {
    let labels = |pod: &RunningPod, container: &RunningContainer| {
        // The only label that is no name: an image may be any text.
        let image = container.image.replace('\\', r"\\");
        let image = image.replace('"', "\\\"").replace('\n', r"\n");
        format!(
            "container=\"{}\",image=\"{image}\",namespace=\"{}\",pod=\"{}\"",
            container.name, pod.key.namespace, pod.key.name
        )
    };
    let mut text = String::new();
    containers(&mut text, sample, "", ",cpu=\"total\"", labels);
    text
}

fn family(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    samples: impl FnOnce(&mut String),
) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    samples(text);
}

/// The families of pods.
fn pods(text: &mut String, sample: &Sample) {
    let time = sample.at.as_millisecond();
    family(
        text,
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
        |text| {
            for one in &sample.pods {
                let seconds = seconds(one.total.cpu_core_nanoseconds);
                let _ = writeln!(
                    text,
                    "pod_cpu_usage_seconds_total{{namespace=\"{}\",pod=\"{}\"}} {seconds} {time}",
                    one.pod.key.namespace, one.pod.key.name
                );
            }
        },
    );
    family(
        text,
        "pod_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the pod in bytes",
        |text| {
            for one in &sample.pods {
                let _ = writeln!(
                    text,
                    "pod_memory_working_set_bytes{{namespace=\"{}\",pod=\"{}\"}} {} {time}",
                    one.pod.key.namespace, one.pod.key.name, one.total.now.memory_bytes
                );
            }
        },
    );
}

/// The families of containers. `stability` begins each help, `cpu` ends the labels of CPU.
fn containers(
    text: &mut String,
    sample: &Sample,
    stability: &str,
    cpu: &str,
    labels: impl Fn(&RunningPod, &RunningContainer) -> String,
) {
    let time = sample.at.as_millisecond();
    let all = || {
        sample.pods.iter().flat_map(|one| {
            let all = one.pod.containers.iter().zip(&one.containers);
            all.map(|(container, used)| (labels(&one.pod, container), container, *used))
        })
    };
    let name = "container_cpu_usage_seconds_total";
    let help = format!("{stability}Cumulative cpu time consumed by the container in core-seconds");
    family(text, name, "counter", &help, |text| {
        for (labels, _, used) in all() {
            let seconds = seconds(used.cpu_core_nanoseconds);
            let _ = writeln!(text, "{name}{{{labels}{cpu}}} {seconds} {time}");
        }
    });
    let name = "container_memory_working_set_bytes";
    let help = format!("{stability}Current working set of the container in bytes");
    family(text, name, "gauge", &help, |text| {
        for (labels, _, used) in all() {
            let bytes = used.now.memory_bytes;
            let _ = writeln!(text, "{name}{{{labels}}} {bytes} {time}");
        }
    });
    let name = "container_start_time_seconds";
    let help = format!("{stability}Start time of the container since unix epoch in seconds");
    family(text, name, "gauge", &help, |text| {
        for (labels, container, _) in all() {
            let started = container.started_at.as_second();
            let _ = writeln!(text, "{name}{{{labels}}} {started}");
        }
    });
}

/// Nanoseconds as seconds, exactly.
fn seconds(nanoseconds: u64) -> String {
    format!(
        "{}.{:09}",
        nanoseconds / 1_000_000_000,
        nanoseconds % 1_000_000_000
    )
}

#[cfg(test)]
mod tests;
