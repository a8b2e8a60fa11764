//! One tenant's single pods while another's burst goes on: how long they take, and whether leases are kept.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::{
    leases::Leases,
    load::{self, Load},
    options::{Kind, pods_beside},
    scenario::{Bench, Sample, Scene, millis, quantile},
};

/// Several, so that a lease is due every second.
const NODES: usize = 10;

/// One single pod after another, no sooner than this.
const SINGLE_INTERVAL: Duration = Duration::from_millis(100);

/// Single pods before the burst, to compare with.
const QUIET: usize = 50;

impl Bench<'_> {
    /// A burst of `pods`, created and then deleted, with single pods of another namespace from its first request until
    /// the last of it is gone.
    pub(crate) async fn fairness(&mut self, kind: Kind, pods: usize) -> Result<Sample> {
        let mut setup = self.setup(pods_beside(pods));
        setup.nodes = NODES;
        let leases = Leases::start(&self.plane, &format!("{}-", setup.node)).await?;
        let scene = self.scene_of(kind, &setup).await?;
        let single = Load::start(&self.plane, &scene.system.nodes, 1).await?;
        let mut quiet = Vec::new();
        let mut every = unhurried();
        for index in 0..QUIET {
            every.tick().await;
            quiet.push(self.one(&scene, &single, "quiet", index).await?);
        }
        leases.begin();
        let (during, deletions_per_s) = self.beside(&scene, &single, pods).await?;
        let renewals = leases.renewals()?;
        quiet.sort_unstable();
        let sample = Sample::Fairness {
            burst: pods,
            singles: during.len(),
            quiet_p99_ms: millis(quantile(&quiet, 0.99)),
            p50_ms: millis(quantile(&during, 0.5)),
            p99_ms: millis(quantile(&during, 0.99)),
            max_ms: millis(quantile(&during, 1.0)),
            deletions_per_s,
            renewals,
        };
        scene.system.stop().await?;
        Ok(sample)
    }

    /// How long each of the single pods took while the burst went on, sorted, and how fast the burst was deleted.
    async fn beside(
        &self,
        scene: &Scene,
        single: &Load,
        pods: usize,
    ) -> Result<(Vec<Duration>, f64)> {
        let names = load::names("burst", pods);
        let is_over = Cell::new(false);
        let burst = async {
            let created = self.create_all(scene, &names).await;
            let deleted = match created {
                Ok(_) => self.delete_all(scene, &names).await,
                Err(e) => Err(e),
            };
            is_over.set(true);
            deleted
        };
        // The last of them is waited for, so that none is left behind.
        let singles = async {
            let (mut every, mut took) = (unhurried(), Vec::new());
            while !is_over.get() {
                every.tick().await;
                took.push(self.one(scene, single, "single", took.len()).await?);
            }
            took.sort_unstable();
            anyhow::Ok(took)
        };
        let (deletions_per_s, took) = tokio::join!(burst, singles);
        Ok((took?, deletions_per_s?))
    }

    /// From the request for a pod until it is seen Running; then it is deleted.
    async fn one(
        &self,
        scene: &Scene,
        single: &Load,
        prefix: &str,
        index: usize,
    ) -> Result<Duration> {
        let name = [format!("{prefix}-{index:05}")];
        let running = single.counts().running;
        let began = Instant::now();
        single.create(&name).await?;
        let waited = single.wait(
            &self.progress,
            "single pods Running",
            |counts| counts.running,
            running + 1,
        );
        let waited = waited.await;
        waited.with_context(|| scene.system.log_tail())?;
        let (at, _) = single.running_span(&name).context("it does not run")?;
        single.delete(&name).await?;
        Ok(at - began)
    }
}

fn unhurried() -> Interval {
    let mut every = interval(SINGLE_INTERVAL);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    every
}
