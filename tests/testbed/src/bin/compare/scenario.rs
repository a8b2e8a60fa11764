//! What is done to a system, and what is measured of it. Every scenario starts a process of its own.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_testbed::ControlPlane;
use kube::Client;
use serde::Serialize;

use crate::{
    leases::Renewals,
    load::{self, Load},
    options::{Kind, Plan, Restart, Turn},
    process,
    progress::Progress,
    requests::Writes,
    system::{Profile, Programs, Setup, System},
};

/// What still has to be done when the last pod is gone, such as committing that it is.
const AFTERMATH: Duration = Duration::from_millis(500);

/// What every scenario needs.
pub(crate) struct Bench<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) programs: Programs,
    pub(crate) plane: ControlPlane,
    pub(crate) client: Client,
    pub(crate) progress: Progress,
    /// Makes the name of each start's node.
    pub(crate) starts: usize,
}

/// One measurement of one system.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(crate) enum Sample {
    /// Many pods at once, then all of them deleted.
    Burst {
        pods: usize,
        /// Pods, divided by the time from the first request until the last was seen Running.
        running_per_s: f64,
        /// Pods, divided by the time from the first request until the last was seen gone.
        deletions_per_s: f64,
        /// Own processor time of a pod's creation and deletion.
        cpu_ms_per_pod: f64,
        /// The API server's and etcd's.
        control_plane_cpu_ms_per_pod: f64,
        /// Since the process started, until the pods were gone.
        peak_resident_kb: u64,
        /// Requests that change pods, but for those of the load.
        writes_per_pod: f64,
        /// Of requests that would have written to a pod.
        refused_per_pod: f64,
        events_per_pod: f64,
    },
    /// Pods made at a fixed rate.
    Latency {
        rate_per_s: u32,
        pods: usize,
        /// From when a pod's creation was due until it was seen Running.
        p50_ms: f64,
        p99_ms: f64,
        max_ms: f64,
        cpu_ms_per_pod: f64,
    },
    /// `kill -9`, and a new process with new pods waiting for it.
    Restart {
        old: usize,
        new: usize,
        /// From the start of the process until the first new pod was seen Running.
        first_running_s: f64,
        /// ... until the last was.
        all_running_s: f64,
        /// Requests that change pods or are refused, but for those of the load and one for each new pod.
        other_writes: i64,
        /// Addresses that more than one pod has.
        doubled_addresses: usize,
        /// Of the new process.
        peak_resident_kb: u64,
    },
    /// Many nodes, then pods that come and go on them.
    Nodes {
        nodes: usize,
        /// Nodes, divided by the time from the start of the process until the last was seen ready.
        ready_per_s: f64,
        /// Pods made, run, deleted and gone.
        churn_pods_per_s: f64,
        churn_s: f64,
        /// Own processor time for each second of it.
        cpu_cores: f64,
        /// While pods came and went.
        renewals: Renewals,
        /// Since the process started.
        peak_resident_kb: u64,
    },
    /// One tenant's single pods during another's burst.
    Fairness {
        burst: usize,
        singles: usize,
        /// From the request for a single pod until it was seen Running, before the burst.
        quiet_p99_ms: f64,
        /// ... while the burst's pods were made and deleted.
        p50_ms: f64,
        p99_ms: f64,
        max_ms: f64,
        /// Of the burst.
        deletions_per_s: f64,
        /// While the burst's pods were made and deleted.
        renewals: Renewals,
    },
    /// The delays of `profile: acs`.
    AcsDelays {
        pods: usize,
        /// From creation to Running.
        configured_ms: f64,
        p50_ms: f64,
        p99_ms: f64,
        p50_off_percent: f64,
        p99_off_percent: f64,
    },
    /// Its limit of calls to the cloud, reached.
    AcsThrottle {
        pods: usize,
        lasted_s: f64,
        configured_per_s: u32,
        /// Calls let through.
        calls_per_s: f64,
        off_percent: f64,
        refused_per_s: f64,
    },
}

/// A scenario under way.
pub(crate) struct Scene {
    pub(crate) system: System,
    pub(crate) load: Load,
}

impl Bench<'_> {
    /// One node of a name that no other start has, for `pods` pods.
    pub(crate) fn setup(&mut self, pods: usize) -> Setup {
        self.starts += 1;
        Setup {
            node: format!("compare-{}", self.starts),
            nodes: 1,
            pods,
            profile: Profile::Fast,
        }
    }

    /// Starts a system for `pods` pods and lets one pod live and die on it.
    async fn scene(&mut self, kind: Kind, pods: usize) -> Result<Scene> {
        let setup = self.setup(pods);
        self.scene_of(kind, &setup).await
    }

    /// Starts a system and lets one pod live and die on it.
    pub(crate) async fn scene_of(&self, kind: Kind, setup: &Setup) -> Result<Scene> {
        let system = System::start(kind, &self.programs, &self.plane, setup).await?;
        let load = Load::start(&self.plane, &system.nodes, self.plan.concurrency).await?;
        let scene = Scene { system, load };
        let first = load::names("first", 1);
        scene.load.create(&first).await?;
        scene.wait_running(&self.progress, 1).await?;
        scene.load.delete(&first).await?;
        scene.wait_gone(&self.progress, 1).await?;
        Ok(scene)
    }

    /// Pods of many, then none.
    pub(crate) async fn burst(&mut self, kind: Kind, pods: usize) -> Result<Sample> {
        let scene = self.scene(kind, pods).await?;
        let names = load::names("burst", pods);
        let pid = scene.system.pid();
        let writes = Writes::so_far(&self.client).await?;
        let (cpu, control_plane) = (process::cpu(pid)?, self.control_plane_cpu()?);
        let running_per_s = self.create_all(&scene, &names).await?;
        let deletions_per_s = self.delete_all(&scene, &names).await?;
        tokio::time::sleep(AFTERMATH).await;
        let (cpu, control_plane) = (
            process::cpu(pid)?.saturating_sub(cpu),
            self.control_plane_cpu()?.saturating_sub(control_plane),
        );
        let writes = Writes::so_far(&self.client).await?.since(writes);
        let sample = Sample::Burst {
            pods,
            running_per_s,
            deletions_per_s,
            cpu_ms_per_pod: per(cpu, pods),
            control_plane_cpu_ms_per_pod: per(control_plane, pods),
            peak_resident_kb: process::peak_resident_kb(pid)?,
            // The load made and deleted each.
            writes_per_pod: writes.pods as f64 / pods as f64 - 2.0,
            refused_per_pod: writes.refused as f64 / pods as f64,
            events_per_pod: writes.events as f64 / pods as f64,
        };
        scene.system.stop().await?;
        Ok(sample)
    }

    /// Tells what is done from now on.
    pub(crate) fn begin(&mut self, turn: Turn, what: &str) {
        let Turn {
            round,
            rounds,
            kind,
        } = turn;
        let name = kind.name();
        self.progress
            .begin(format!("round {round} of {rounds}, {name}, {what}"));
    }

    /// Pods at each of the rates, one rate after the other on one process.
    pub(crate) async fn latencies(&mut self, turn: Turn) -> Result<Vec<Sample>> {
        let plan = self.plan;
        let pods_of = |rate: u32| (plan.rate_for * rate).as_secs() as usize;
        let most = plan
            .rates
            .iter()
            .map(|rate| pods_of(*rate))
            .max()
            .unwrap_or(0);
        let scene = self.scene(turn.kind, most).await?;
        let pid = scene.system.pid();
        let mut samples = Vec::new();
        for rate in &plan.rates {
            let lasts = plan.rate_for;
            self.begin(turn, &format!("{rate} pods/s for {lasts:?}"));
            let names = load::names(&format!("rate-{rate}"), pods_of(*rate));
            let cpu = process::cpu(pid)?;
            let mut latencies = scene.load.create_at(&names, *rate, &self.progress).await?;
            self.delete_all(&scene, &names).await?;
            tokio::time::sleep(AFTERMATH).await;
            let cpu = process::cpu(pid)?.saturating_sub(cpu);
            latencies.sort_unstable();
            samples.push(Sample::Latency {
                rate_per_s: *rate,
                pods: names.len(),
                p50_ms: millis(quantile(&latencies, 0.5)),
                p99_ms: millis(quantile(&latencies, 0.99)),
                max_ms: millis(quantile(&latencies, 1.0)),
                cpu_ms_per_pod: per(cpu, names.len()),
            });
        }
        scene.system.stop().await?;
        Ok(samples)
    }

    /// `kill -9` with pods running, and as many new ones when the next process starts.
    pub(crate) async fn restart(
        &mut self,
        kind: Kind,
        Restart { old, new }: Restart,
    ) -> Result<Sample> {
        let mut scene = self.scene(kind, old + new).await?;
        let (old_names, new_names) = (load::names("old", old), load::names("new", new));
        self.create_all(&scene, &old_names).await?;
        let running = scene.load.counts().running;
        scene.system.kill9().await?;
        let writes = Writes::so_far(&self.client).await?;
        let began = Instant::now();
        scene.system.start_again().await?;
        scene.load.create(&new_names).await?;
        let waited = scene
            .load
            .wait(
                &self.progress,
                "new pods Running",
                |counts| counts.running - running,
                new,
            )
            .await;
        waited.with_context(|| scene.system.log_tail())?;
        // Whatever else it writes on what it has found, it does by then.
        tokio::time::sleep(4 * AFTERMATH).await;
        let writes = Writes::so_far(&self.client).await?.since(writes);
        let (first, last) = scene
            .load
            .running_span(&new_names)
            .context("a new pod does not run")?;
        let sample = Sample::Restart {
            old,
            new,
            first_running_s: (first - began).as_secs_f64(),
            all_running_s: (last - began).as_secs_f64(),
            other_writes: (writes.pods + writes.refused).cast_signed()
                - 2 * i64::try_from(new).unwrap_or(i64::MAX),
            doubled_addresses: scene.load.doubled(),
            peak_resident_kb: process::peak_resident_kb(scene.system.pid())?,
        };
        self.delete_all(&scene, &[old_names, new_names].concat())
            .await?;
        scene.system.stop().await?;
        Ok(sample)
    }

    pub(crate) async fn create_all(&self, scene: &Scene, names: &[String]) -> Result<f64> {
        let before = scene.load.counts().running;
        let began = Instant::now();
        let (created, running) = tokio::join!(
            scene.load.create(names),
            scene.wait_running(&self.progress, before + names.len())
        );
        created.and(running)?;
        let (_, last) = scene
            .load
            .running_span(names)
            .context("a pod does not run")?;
        Ok(names.len() as f64 / (last - began).as_secs_f64())
    }

    pub(crate) async fn delete_all(&self, scene: &Scene, names: &[String]) -> Result<f64> {
        let before = scene.load.counts().gone;
        let began = Instant::now();
        let (deleted, gone) = tokio::join!(
            scene.load.delete(names),
            scene.wait_gone(&self.progress, before + names.len())
        );
        deleted.and(gone)?;
        let (_, last) = scene.load.gone_span(names).context("a pod is not gone")?;
        Ok(names.len() as f64 / (last - began).as_secs_f64())
    }

    /// Of the API server and etcd; none of a cluster of KUBECONFIG.
    fn control_plane_cpu(&self) -> Result<Duration> {
        self.plane
            .pids()
            .into_iter()
            .take(2)
            .map(process::cpu)
            .sum()
    }
}

impl Scene {
    async fn wait_running(&self, progress: &Progress, wanted: usize) -> Result<()> {
        let waited = self
            .load
            .wait(progress, "Running", |counts| counts.running, wanted)
            .await;
        waited.with_context(|| self.system.log_tail())
    }

    async fn wait_gone(&self, progress: &Progress, wanted: usize) -> Result<()> {
        let waited = self
            .load
            .wait(progress, "gone", |counts| counts.gone, wanted)
            .await;
        waited.with_context(|| self.system.log_tail())
    }
}

fn per(time: Duration, pods: usize) -> f64 {
    millis(time) / pods as f64
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The smallest value that a share `q` of the sorted values does not exceed.
pub(crate) fn quantile(sorted: &[Duration], q: f64) -> Duration {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    let index = rank.clamp(1, sorted.len().max(1)) - 1;
    sorted.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(quantile(&values, 0.5), Duration::from_millis(100));
        assert_eq!(quantile(&values, 0.99), Duration::from_millis(198));
        assert_eq!(quantile(&values, 1.0), Duration::from_millis(200));
        assert_eq!(quantile(&values[..1], 0.99), Duration::from_millis(1));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
