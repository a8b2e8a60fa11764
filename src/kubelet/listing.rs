//! The pods of a node, read from the API server when somebody asks.
//!
//! Owns those reads. Nothing is kept between two requests: ten thousand pods in memory for a
//! caller who may come never would be most of what this process holds.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use holdfast_provider::id::NodeName;
use http::Request;
use jiff::{SignedDuration, Timestamp};
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::pod::behaviour::{self, Behaviour};
use crate::pod::quantity;
use crate::pod::view::{Container, ContainerStatus, Phase, PodView};

/// Until the head of an answer is there.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Pods per page; a page is what a listing has in memory.
const PAGE: u32 = 200;
static NONE: BTreeMap<String, String> = BTreeMap::new();

/// The pods of a node could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the API server refused to list the pods of node {node} or was not reached")]
    Request {
        node: NodeName,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("the API server answered {status} to the list of the pods of node {node}")]
    Status {
        node: NodeName,
        status: http::StatusCode,
    },
    #[error("the API server did not list the pods of node {node} within {} s", REQUEST_TIMEOUT.as_secs())]
    TimedOut { node: NodeName },
}

/// A pod with containers that run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RunningPod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) started_at: Timestamp,
    pub(super) containers: Vec<RunningContainer>,
}

/// A container that runs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RunningContainer {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) started_at: Timestamp,
    /// Requested CPU in thousandths of a core.
    pub(super) cpu_request_milli: Option<u64>,
    /// Requested memory in bytes.
    pub(super) memory_request_bytes: Option<u64>,
    /// CPU that its pod's annotations say it uses, in thousandths of a core.
    pub(super) cpu_milli: Option<u64>,
    /// Memory that its pod's annotations say it uses, in bytes.
    pub(super) memory_bytes: Option<u64>,
}

/// Reads lists for callers, few at a time.
pub(super) struct Listing {
    client: Client,
    places: Semaphore,
    /// From the deletion of a pod until its containers have stopped.
    stop: SignedDuration,
}

impl Listing {
    pub(super) fn new(client: Client, places: Semaphore, stop: SignedDuration) -> Self {
        Self {
            client,
            places,
            stop,
        }
    }

    /// The `PodList` of a node as the API server sends it, passed on while it comes.
    pub(super) async fn raw(&self, node: &NodeName) -> Result<Body, Error> {
        let uri = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}");
        let request = Request::get(uri).body(kube::client::Body::empty());
        let request = request.expect("a node's name is valid in a URI");
        let answer = timeout(REQUEST_TIMEOUT, self.client.send(request)).await;
        let answer = answer
            .map_err(|_| Error::TimedOut { node: node.clone() })?
            .map_err(|source| Error::Request {
                node: node.clone(),
                source: Box::new(source),
            })?;
        if answer.status().is_success() {
            return Ok(Body::new(answer.into_body()));
        }
        Err(Error::Status {
            node: node.clone(),
            status: answer.status(),
        })
    }

    /// The pods of a node that have running containers, by namespace and name.
    pub(super) async fn running(&self, node: &NodeName) -> Result<Vec<RunningPod>, Error> {
        let _place = self.places.acquire().await;
        let api: Api<PodView> = Api::all(self.client.clone());
        let mut params = ListParams::default()
            .fields(&format!("spec.nodeName={node}"))
            .limit(PAGE);
        let mut found = Vec::new();
        loop {
            let page = timeout(REQUEST_TIMEOUT, api.list(&params)).await;
            let page = page
                .map_err(|_| Error::TimedOut { node: node.clone() })?
                .map_err(|source| Error::Request {
                    node: node.clone(),
                    source: Box::new(source),
                })?;
            let now = Timestamp::now();
            found.extend(
                page.items
                    .iter()
                    .filter_map(|pod| running(pod, self.stop, now)),
            );
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
        found.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(found)
    }
}

/// What runs of a pod at `now`; `None`: nothing does.
fn running(pod: &PodView, stop: SignedDuration, now: Timestamp) -> Option<RunningPod> {
    let meta = &pod.metadata;
    if pod.status.phase != Phase::Running {
        return None;
    }
    if let Some(at) = &meta.deletion_timestamp {
        // The containers stop before the status can say so.
        let grace = meta.deletion_grace_period_seconds.unwrap_or(0);
        if now >= at.0 - SignedDuration::from_secs(grace) + stop {
            return None;
        }
    }
    let specs = pod.spec.init_containers.iter().chain(&pod.spec.containers);
    let annotations = meta.annotations.as_ref().unwrap_or(&NONE);
    let (asked, _) = behaviour::parse(annotations, specs.clone().map(|spec| &*spec.name));
    let statuses = &pod.status;
    let statuses = statuses
        .init_container_statuses
        .iter()
        .chain(&statuses.container_statuses);
    let containers: Vec<_> = statuses
        .filter_map(|status| {
            let spec = specs.clone().find(|spec| spec.name == status.name);
            container(status, spec, asked.of(&status.name))
        })
        .collect();
    let first = containers.iter().map(|one| one.started_at).min()?;
    Some(RunningPod {
        namespace: meta.namespace.clone()?,
        name: meta.name.clone()?,
        uid: meta.uid.clone()?,
        started_at: pod.status.start_time.unwrap_or(first),
        containers,
    })
}

fn container(
    status: &ContainerStatus,
    spec: Option<&Container>,
    asked: &Behaviour,
) -> Option<RunningContainer> {
    let started_at = status.state.running.as_ref()?.started_at?;
    let request = |name: &str| spec?.resources.requests.get(name).map(String::as_str);
    Some(RunningContainer {
        name: status.name.clone(),
        image: status.image.clone(),
        started_at,
        cpu_request_milli: request("cpu").and_then(quantity::milli),
        memory_request_bytes: request("memory").and_then(quantity::bytes),
        cpu_milli: asked.cpu_milli,
        memory_bytes: asked.memory_bytes,
    })
}

/// The list that `/runningpods/` answers: names and containers, as the runtime knows them.
pub(super) fn pod_list(pods: &[RunningPod]) -> Value {
    let item = |pod: &RunningPod| {
        let containers: Vec<_> = pod
            .containers
            .iter()
            .map(|one| json!({ "name": one.name, "image": one.image, "resources": {} }))
            .collect();
        json!({
            "metadata": { "name": pod.name, "namespace": pod.namespace, "uid": pod.uid },
            "spec": { "containers": containers },
            "status": {},
        })
    };
    json!({
        "kind": "PodList",
        "apiVersion": "v1",
        "metadata": {},
        "items": pods.iter().map(item).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(deleted: Option<&str>) -> PodView {
        let mut metadata = json!({ "name": "web-0", "namespace": "shop", "uid": "u" });
        if let Some(at) = deleted {
            metadata["deletionTimestamp"] = at.into();
            metadata["deletionGracePeriodSeconds"] = 30.into();
        }
        let pod = json!({
            "metadata": metadata,
            "spec": { "containers": [
                { "name": "c", "image": "i", "resources": { "requests": { "cpu": "250m" } } },
                { "name": "over", "image": "i" },
            ] },
            "status": {
                "phase": "Running",
                "containerStatuses": [
                    { "name": "c", "image": "i",
                      "state": { "running": { "startedAt": "2026-11-24T10:00:00Z" } } },
                    { "name": "over", "state": { "terminated": { "exitCode": 0 } } },
                ],
            },
        });
        serde_json::from_value(pod).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_container_that_has_ended_does_not_run() {
        let second = SignedDuration::from_secs(1);
        let pod = running(&pod(None), second, at("2026-11-24T11:00:00Z")).unwrap();
        let names: Vec<_> = pod.containers.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["c"]);
        assert_eq!(pod.containers[0].cpu_request_milli, Some(250));
    }

    #[test]
    fn a_deleted_pod_runs_until_its_containers_have_stopped() {
        let pod = pod(Some("2026-11-24T12:00:30Z"));
        let second = SignedDuration::from_secs(1);
        assert!(running(&pod, second, at("2026-11-24T12:00:00.9Z")).is_some());
        assert!(running(&pod, second, at("2026-11-24T12:00:01Z")).is_none());
    }
}
