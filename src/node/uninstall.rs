//! Removing the nodes: the only thing that does. Running it again removes what is left.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use holdfast_provider::id::NodeName;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Api, DeleteParams, Preconditions};

use super::lease;
use super::view::NodeView;
use crate::config::Config;

/// As many as the lanes that made the nodes.
const REQUESTS_MAX: usize = 16;
/// For one request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What was found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uninstalled {
    /// Nodes that were removed, by name.
    pub nodes: Vec<NodeName>,
    /// How many leases were removed.
    pub leases: usize,
    /// Nodes with a configured name that are not certainly ours, and were left alone.
    pub kept: Vec<NodeName>,
}

/// Nodes or leases could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be reached.
    #[error("cannot {operation} of node {node}")]
    Request {
        /// What was tried.
        operation: &'static str,
        /// For which node.
        node: NodeName,
        /// Why it failed.
        #[source]
        source: kube::Error,
    },
    /// The API server did not answer.
    #[error("no answer within {} s while removing node {node}", TIMEOUT.as_secs())]
    TimedOut {
        /// For which node.
        node: NodeName,
    },
}

enum Removed {
    Nothing,
    Lease,
    Node { with_lease: bool },
    Kept,
}

/// Removes the nodes of `config` and their leases, as far as they carry our label and our
/// provider id.
pub async fn uninstall(client: Client, config: &Config) -> Result<Uninstalled, Error> {
    let mut removed: Vec<(NodeName, Removed)> = stream::iter(&config.nodes)
        .map(|spec| {
            let (client, name) = (client.clone(), spec.name.clone());
            async move {
                let removed = tokio::time::timeout(TIMEOUT, remove(client, &name))
                    .await
                    .map_err(|_| Error::TimedOut { node: name.clone() })??;
                Ok((name, removed))
            }
        })
        .buffer_unordered(REQUESTS_MAX)
        .try_collect()
        .await?;
    removed.sort_by(|(a, _), (b, _)| a.cmp(b));

    let mut result = Uninstalled::default();
    for (name, removed) in removed {
        match removed {
            Removed::Nothing => {}
            Removed::Lease => result.leases += 1,
            Removed::Node { with_lease } => {
                result.nodes.push(name);
                result.leases += usize::from(with_lease);
            }
            Removed::Kept => result.kept.push(name),
        }
    }
    Ok(result)
}

async fn remove(client: Client, name: &NodeName) -> Result<Removed, Error> {
    let failed = |operation| {
        move |source| Error::Request {
            operation,
            node: name.clone(),
            source,
        }
    };
    let nodes: Api<NodeView> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client, lease::NAMESPACE);

    let found = nodes
        .get_opt(name.as_str())
        .await
        .map_err(failed("read the object"))?;
    if found.as_ref().is_some_and(|node| !node.is_ours()) {
        return Ok(Removed::Kept);
    }
    // The lease first: once its owner is gone, the garbage collector may be sooner.
    let with_lease = absent_is_fine(leases.delete(name.as_str(), &DeleteParams::default()).await)
        .map_err(failed("delete the lease"))?;
    if let Some(node) = &found {
        let uid = Preconditions {
            uid: Some(node.uid().to_owned()),
            resource_version: None,
        };
        let params = DeleteParams::default().preconditions(uid);
        absent_is_fine(nodes.delete(name.as_str(), &params).await)
            .map_err(failed("delete the object"))?;
    }
    Ok(match (found, with_lease) {
        (Some(_), with_lease) => Removed::Node { with_lease },
        (None, true) => Removed::Lease,
        (None, false) => Removed::Nothing,
    })
}

/// Whether there was something to delete.
fn absent_is_fine<T>(answer: kube::Result<T>) -> kube::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}
