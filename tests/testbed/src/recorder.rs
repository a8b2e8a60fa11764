//! Watches the pods of a namespace and keeps every row that kubectl would print, in order.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::PodRow;

/// Records the rows of a namespace's pods until it is dropped.
#[derive(Debug)]
pub struct PodRecorder {
    rows: Arc<Mutex<Vec<PodRow>>>,
    task: JoinHandle<()>,
}

impl PodRecorder {
    /// Starts recording; returns once the pods that exist now are recorded, so that nothing later is missed.
    ///
    /// A row is kept when it differs from the last one of that UID; a pod that has left the API gets a last row that
    /// says `gone`.
    ///
    /// # Errors
    /// The watch ended before it had listed the pods.
    pub async fn start(client: Client, namespace: &str) -> Result<Self> {
        Self::start_with(client, namespace, |_| {}).await
    }

    /// As [`PodRecorder::start`]; `on_row` sees each row as it comes.
    ///
    /// # Errors
    /// As [`PodRecorder::start`].
    pub async fn start_with(
        client: Client,
        namespace: &str,
        on_row: impl FnMut(&PodRow) + Send + 'static,
    ) -> Result<Self> {
        let rows = Arc::default();
        let recording = Recording {
            rows: Arc::clone(&rows),
            last: HashMap::new(),
            on_row,
        };
        let (listed, has_listed) = oneshot::channel();
        let task = tokio::spawn(recording.run(Api::namespaced(client, namespace), listed));
        let recorder = Self { rows, task };
        has_listed
            .await
            .context("the pod watch ended before it had listed the pods")?;
        Ok(recorder)
    }

    /// All rows so far.
    pub fn rows(&self) -> Vec<PodRow> {
        self.rows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The rows so far of the pods called `name`, predecessors and successors in order.
    pub fn rows_of(&self, name: &str) -> Vec<PodRow> {
        let mut rows = self.rows();
        rows.retain(|row| row.name == name);
        rows
    }
}

impl Drop for PodRecorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Recording<F> {
    rows: Arc<Mutex<Vec<PodRow>>>,
    /// The last row of each pod that is in the API, by UID.
    last: HashMap<String, PodRow>,
    on_row: F,
}

impl<F: FnMut(&PodRow)> Recording<F> {
    async fn run(mut self, pods: Api<Pod>, listed: oneshot::Sender<()>) {
        let mut listed = Some(listed);
        let mut seen = HashSet::new();
        let mut events =
            std::pin::pin!(watcher(pods, watcher::Config::default()).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => seen.clear(),
                Ok(watcher::Event::InitApply(pod)) => {
                    let row = PodRow::new(&pod, Timestamp::now());
                    seen.insert(row.uid.clone());
                    self.record(row);
                }
                Ok(watcher::Event::InitDone) => {
                    self.record_vanished(&seen);
                    if let Some(listed) = listed.take() {
                        // The caller has given up; the task is about to be aborted.
                        let _ = listed.send(());
                    }
                }
                Ok(watcher::Event::Apply(pod)) => self.record(PodRow::new(&pod, Timestamp::now())),
                Ok(watcher::Event::Delete(pod)) => {
                    self.record(PodRow {
                        gone: true,
                        ..PodRow::new(&pod, Timestamp::now())
                    });
                }
                // The stream tries again, with back-off; a test that misses rows finds the reason in its output.
                Err(e) => eprintln!("testbed: the pod watch was interrupted: {e}"),
            }
        }
    }

    /// Pods that left the API while the watch was interrupted are missing from the new list.
    fn record_vanished(&mut self, seen: &HashSet<String>) {
        let vanished: Vec<_> = self
            .last
            .values()
            .filter(|row| !seen.contains(&row.uid))
            .cloned()
            .collect();
        for row in vanished {
            self.record(PodRow {
                gone: true,
                at: Timestamp::now(),
                ..row
            });
        }
    }

    fn record(&mut self, row: PodRow) {
        if self
            .last
            .get(&row.uid)
            .is_some_and(|last| !row.differs_from(last))
        {
            return;
        }
        if row.gone {
            self.last.remove(&row.uid);
        } else {
            self.last.insert(row.uid.clone(), row.clone());
        }
        (self.on_row)(&row);
        self.rows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(row);
    }
}
