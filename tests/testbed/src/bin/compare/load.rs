//! The load: pods made and deleted, and one watch that tells when each runs and when it is gone.
//!
//! Pods are bound to a node when they are made, so that the scheduler has no part in it. Times are taken where the
//! watch event arrives, the same way for every system.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result, anyhow, bail};
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_testbed::ControlPlane;
use http::{Method, Request};
use kube::Client;
use prost::Message;
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle, time::sleep_until};

use crate::{
    feed::{Change, Feed, Metadata, View},
    progress::Progress,
};

/// How long nothing may happen before a wait is given up; KWOK's longest pause, after `kill -9`, is 41 s.
const STANDSTILL: Duration = Duration::from_mins(2);

/// A pod as far as it is looked at.
#[derive(Clone, PartialEq, Message)]
struct PodView {
    #[prost(message, required, tag = "1")]
    metadata: Metadata,
    #[prost(message, required, tag = "3")]
    status: Status,
}

impl View for PodView {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "1")]
    phase: String,
    #[prost(string, tag = "6")]
    pod_ip: String,
}

/// When a pod was seen.
#[derive(Clone, Debug, Default)]
struct Seen {
    running: Option<Instant>,
    gone: Option<Instant>,
    address: Option<String>,
}

/// How many pods have come how far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) running: usize,
    pub(crate) gone: usize,
}

/// See the module. Ends its watch when dropped.
pub(crate) struct Load {
    client: Client,
    namespace: String,
    nodes: Vec<String>,
    /// Pods so far.
    made: AtomicUsize,
    concurrency: usize,
    seen: Arc<Mutex<HashMap<String, Seen>>>,
    counts: watch::Receiver<Counts>,
    ended: Arc<Mutex<Option<Error>>>,
    watch: JoinHandle<()>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Load {
    /// A namespace of its own for pods on `nodes`, one after the other, and a watch of it.
    ///
    /// # Errors
    /// The namespace or the watch cannot be made.
    pub(crate) async fn start(
        plane: &ControlPlane,
        nodes: &[String],
        concurrency: usize,
    ) -> Result<Self> {
        let client = plane.client().await?;
        let namespace = plane.create_namespace("compare").await?;
        let seen = Arc::<Mutex<HashMap<String, Seen>>>::default();
        let ended = Arc::<Mutex<Option<Error>>>::default();
        let (told, counts) = watch::channel(Counts::default());
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let mut feed = Feed::<PodView>::open(plane.client().await?, &path).await?;
        let (kept, why) = (Arc::clone(&seen), Arc::clone(&ended));
        let watch = tokio::spawn(async move {
            let error = loop {
                match feed.next().await {
                    Ok(change) => note(change, &kept, &told),
                    Err(error) => break error,
                }
            };
            // Before `told` goes, which wakes whoever waits.
            *why.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            drop(told);
        });
        Ok(Self {
            client,
            namespace,
            nodes: nodes.to_vec(),
            made: AtomicUsize::new(0),
            concurrency,
            seen,
            counts,
            ended,
            watch,
        })
    }

    /// Makes the pods, as fast as the API server takes them.
    ///
    /// # Errors
    /// One of them is refused.
    pub(crate) async fn create(&self, names: &[String]) -> Result<()> {
        self.each(names, |name| self.create_one(name)).await
    }

    /// Deletes the pods, as fast as the API server takes it.
    ///
    /// # Errors
    /// One of the deletions is refused.
    pub(crate) async fn delete(&self, names: &[String]) -> Result<()> {
        self.each(names, |name| self.delete_one(name)).await
    }

    async fn each<'a, F>(&self, names: &'a [String], request: impl Fn(&'a str) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        stream::iter(names)
            .map(|name| request(name))
            .buffer_unordered(self.concurrency)
            .try_collect::<()>()
            .await
    }

    /// Makes the pods at a fixed rate, whether or not the ones before are answered, and returns the time from when each
    /// was due until it was seen Running.
    ///
    /// # Errors
    /// One of them is refused, or does not run.
    pub(crate) async fn create_at(
        &self,
        names: &[String],
        rate: u32,
        progress: &Progress,
    ) -> Result<Vec<Duration>> {
        let began = Instant::now();
        let due = |index: usize| began + Duration::from_secs_f64(index as f64 / f64::from(rate));
        let running = self.counts.borrow().running;
        let requests = stream::iter(names.iter().enumerate())
            .then(async |(index, name)| {
                sleep_until(due(index).into()).await;
                name
            })
            .map(|name| self.create_one(name))
            // Open loop: as many as it takes.
            .buffer_unordered(usize::MAX)
            .try_collect::<()>();
        requests.await?;
        self.wait(
            progress,
            "Running",
            |counts| counts.running - running,
            names.len(),
        )
        .await?;
        let seen = lock(&self.seen);
        let mut latencies = Vec::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            let at = seen.get(name).and_then(|it| it.running);
            let at = at.with_context(|| format!("pod {name} was not seen Running"))?;
            latencies.push(at - due(index));
        }
        Ok(latencies)
    }

    /// How many pods have come how far until now.
    pub(crate) fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Waits until `count` of the counts has reached `wanted`.
    ///
    /// # Errors
    /// Nothing happens for two minutes, or the watch ends.
    pub(crate) async fn wait(
        &self,
        progress: &Progress,
        what: &str,
        count: impl Fn(Counts) -> usize,
        wanted: usize,
    ) -> Result<()> {
        let mut counts = self.counts.clone();
        loop {
            let now = count(*counts.borrow_and_update());
            if now >= wanted {
                return Ok(());
            }
            progress.tick(now, wanted, what);
            match tokio::time::timeout(STANDSTILL, counts.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => {
                    let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
                    let why = ended.take().unwrap_or_else(|| anyhow!("nobody knows why"));
                    return Err(why.context(format!(
                        "the pod watch ended at {now} of {wanted} pods {what}"
                    )));
                }
                Err(_) => bail!(
                    "{now} of {wanted} pods {what}, and nothing has happened for {STANDSTILL:?}"
                ),
            }
        }
    }

    /// When the first and the last of the pods were seen Running.
    pub(crate) fn running_span(&self, names: &[String]) -> Option<(Instant, Instant)> {
        self.span(names, |it| it.running)
    }

    /// When the first and the last of the pods were seen gone.
    pub(crate) fn gone_span(&self, names: &[String]) -> Option<(Instant, Instant)> {
        self.span(names, |it| it.gone)
    }

    fn span(
        &self,
        names: &[String],
        of: impl Fn(&Seen) -> Option<Instant>,
    ) -> Option<(Instant, Instant)> {
        let seen = lock(&self.seen);
        let times: Option<Vec<_>> = names.iter().map(|name| of(seen.get(name)?)).collect();
        let times = times?;
        Some((*times.iter().min()?, *times.iter().max()?))
    }

    /// Addresses that more than one pod has now.
    pub(crate) fn doubled(&self) -> usize {
        let seen = lock(&self.seen);
        let mut holders = HashMap::<&str, usize>::new();
        for address in seen
            .values()
            .filter(|it| it.gone.is_none())
            .filter_map(|it| it.address.as_deref())
        {
            *holders.entry(address).or_default() += 1;
        }
        holders.values().filter(|count| **count > 1).count()
    }

    async fn create_one(&self, name: &str) -> Result<()> {
        let made = self.made.fetch_add(1, Ordering::Relaxed);
        let node = self.nodes.get(made % self.nodes.len().max(1));
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "nodeName": node,
                "containers": [{"name": "app", "image": "registry.local/app:v1"}],
                "tolerations": [{"operator": "Exists"}],
            },
        });
        let path = format!("/api/v1/namespaces/{}/pods", self.namespace);
        self.send(Method::POST, &path, &pod, name).await
    }

    async fn delete_one(&self, name: &str) -> Result<()> {
        let path = format!("/api/v1/namespaces/{}/pods/{name}", self.namespace);
        self.send(Method::DELETE, &path, &json!({}), name).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &serde_json::Value,
        name: &str,
    ) -> Result<()> {
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.to_string().into_bytes())
            .context("cannot build a request")?;
        let answer = self.client.request_text(request).await;
        answer
            .map(drop)
            .with_context(|| format!("{method} of pod {name}"))
    }
}

fn note(
    change: Change<PodView>,
    seen: &Mutex<HashMap<String, Seen>>,
    told: &watch::Sender<Counts>,
) {
    let now = Instant::now();
    let mut seen = lock(seen);
    match change {
        Change::Is(pod) => {
            let it = seen.entry(pod.metadata.name).or_default();
            it.address = Some(pod.status.pod_ip).filter(|ip| !ip.is_empty());
            if it.running.is_none() && pod.status.phase == "Running" {
                it.running = Some(now);
                told.send_modify(|counts| counts.running += 1);
            }
        }
        Change::Gone(pod) => {
            let it = seen.entry(pod.metadata.name).or_default();
            it.gone = Some(now);
            told.send_modify(|counts| counts.gone += 1);
        }
    }
}

fn lock(seen: &Mutex<HashMap<String, Seen>>) -> MutexGuard<'_, HashMap<String, Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `count` names that begin with `prefix`.
pub(crate) fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|index| format!("{prefix}-{index:05}"))
        .collect()
}
