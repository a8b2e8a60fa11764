//! Many nodes in one process: how soon they are ready, and whether their leases are kept while pods come and go.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use prost::Message;
use tokio::time::timeout;

use crate::{
    feed::{Change, Feed, Metadata, View},
    leases::Leases,
    load,
    options::Kind,
    process,
    scenario::{Bench, Sample},
};

/// Pods that come and go at once.
const CHURN: usize = 200;

/// How long no further node may get ready, or get its lease.
const STANDSTILL: Duration = Duration::from_mins(2);

#[derive(Clone, PartialEq, Message)]
struct NodeView {
    #[prost(message, required, tag = "1")]
    metadata: Metadata,
    #[prost(message, required, tag = "3")]
    status: Status,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(message, repeated, tag = "4")]
    conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, Message)]
struct Condition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    status: String,
}

impl View for NodeView {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl NodeView {
    fn is_ready(&self) -> bool {
        let mut conditions = self.status.conditions.iter();
        conditions.any(|it| it.kind == "Ready" && it.status == "True")
    }
}

impl Bench<'_> {
    /// `nodes` nodes at once, then pods that come and go on all of them for as long as the plan says.
    ///
    /// KWOK's nodes are made before its process starts, outside the time measured; holdfast makes its own within it.
    pub(crate) async fn nodes(&mut self, kind: Kind, nodes: usize) -> Result<Sample> {
        let mut setup = self.setup(2 * CHURN);
        setup.nodes = nodes;
        let prefix = format!("{}-", setup.node);
        let leases = Leases::start(&self.plane, &prefix).await?;
        let feed = Feed::open(self.plane.client().await?, "/api/v1/nodes").await?;
        let wanted: HashSet<String> = setup.names().into_iter().collect();
        let watch = tokio::spawn(all_ready(feed, wanted));
        let scene = self.scene_of(kind, &setup).await?;
        let ready = watch
            .await
            .context("the watch of nodes panicked")?
            .with_context(|| scene.system.log_tail())?;
        self.wait_for_leases(&leases, nodes).await?;

        let cpu = process::cpu(scene.system.pid())?;
        leases.begin();
        let began = Instant::now();
        let (mut rounds, mut pods) = (0, 0);
        while began.elapsed() < self.plan.churn_for {
            let names = load::names(&format!("churn-{rounds}"), CHURN);
            self.create_all(&scene, &names).await?;
            self.delete_all(&scene, &names).await?;
            (rounds, pods) = (rounds + 1, pods + names.len());
        }
        let (renewals, lasted) = (leases.renewals()?, began.elapsed());
        let cpu = process::cpu(scene.system.pid())?.saturating_sub(cpu);
        let sample = Sample::Nodes {
            nodes,
            ready_per_s: nodes as f64 / (ready - scene.system.started).as_secs_f64(),
            churn_pods_per_s: pods as f64 / lasted.as_secs_f64(),
            churn_s: lasted.as_secs_f64(),
            cpu_cores: cpu.as_secs_f64() / lasted.as_secs_f64(),
            renewals,
            peak_resident_kb: process::peak_resident_kb(scene.system.pid())?,
        };
        scene.system.stop().await?;
        Ok(sample)
    }

    /// A node that is ready need not have its first lease yet.
    async fn wait_for_leases(&self, leases: &Leases, wanted: usize) -> Result<()> {
        let mut every = tokio::time::interval(Duration::from_millis(200));
        let all = async {
            while leases.count() < wanted {
                self.progress.tick(leases.count(), wanted, "leases");
                every.tick().await;
            }
        };
        let waited = timeout(STANDSTILL, all).await;
        waited.with_context(|| {
            let count = leases.count();
            format!("{count} of {wanted} nodes have a lease after {STANDSTILL:?}")
        })
    }
}

/// When the last of the `wanted` nodes was seen ready for the first time.
async fn all_ready(mut feed: Feed<NodeView>, mut wanted: HashSet<String>) -> Result<Instant> {
    let mut last = Instant::now();
    while !wanted.is_empty() {
        let change = timeout(STANDSTILL, feed.next()).await.with_context(|| {
            format!("{} nodes are not ready after {STANDSTILL:?}", wanted.len())
        })?;
        if let Change::Is(node) = change.context("the node watch ended")?
            && node.is_ready()
            && wanted.remove(&node.metadata.name)
        {
            last = Instant::now();
        }
    }
    Ok(last)
}
