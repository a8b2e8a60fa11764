//! The pods of a node, as `/pods` and `/runningpods/` tell them.
//!
//! Whole pods are read from the API server when somebody asks, and passed on while they come: ten
//! thousand of them in memory for a caller who may come never would be most of what this process
//! holds. What runs is known from the pod watch.

use std::time::Duration;

use axum::body::Body;
use holdfast_provider::id::NodeName;
use http::Request;
use kube::Client;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::pod::running::RunningPod;

/// Until the head of an answer is there.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

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

/// The `PodList` of a node as the API server sends it.
///
/// Out of its watch cache (`resourceVersion=0`), which asks nothing of etcd; a `limit` would have
/// no effect there (Kubernetes, "API concepts", "Resource versions").
pub(super) async fn raw(client: &Client, node: &NodeName) -> Result<Body, Error> {
    let uri = format!("/api/v1/pods?resourceVersion=0&fieldSelector=spec.nodeName%3D{node}");
    let request = Request::get(uri).body(kube::client::Body::empty());
    let request = request.expect("a node's name is valid in a URI");
    let answer = timeout(REQUEST_TIMEOUT, client.send(request)).await;
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

/// The list that `/runningpods/` answers: names and containers, as the runtime knows them.
pub(super) fn pod_list(pods: &[RunningPod]) -> Value {
    let item = |pod: &RunningPod| {
        let containers: Vec<_> = pod
            .containers
            .iter()
            .map(|one| json!({ "name": one.name, "image": one.image, "resources": {} }))
            .collect();
        json!({
            "metadata": { "name": pod.key.name, "namespace": pod.key.namespace, "uid": pod.uid },
            "spec": { "containers": containers },
            "status": {},
        })
    };
    json!({
        "kind": "PodList",
        "apiVersion": "v1",
        "metadata": {},
        "items": pods.iter().filter(|pod| !pod.containers.is_empty()).map(item).collect::<Vec<_>>(),
    })
}
