//! Removing the nodes: the only thing that does. Running it again removes what is left.
//!
//! A node is holdfast's when its provider id says so, whether the configuration still names it or
//! not. One that carries a configured name and another provider id is somebody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use holdfast_provider::id::NodeName;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Preconditions};

use super::lease;
use super::view::NodeView;
use crate::config::Config;
use crate::kube_client::{self, ListError};

/// As many as the lanes that made the nodes.
const REQUESTS_MAX: usize = 16;
/// Nodes in one answer; a real node takes some 10 kB.
const PAGE: u32 = 500;
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
    /// The nodes could not be listed.
    #[error("cannot list the nodes")]
    List(#[source] ListError),
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

/// What is there under one name.
enum Found {
    /// No node; a lease may be left.
    Nothing,
    /// Our node, with this UID.
    Ours(String),
    /// A node of somebody else.
    Foreign,
}

/// Removes all nodes that holdfast made and their leases, and the leases that are left of the
/// nodes of `config`.
///
/// # Errors
/// When the API server refuses or does not answer; what was removed by then stays removed.
pub async fn uninstall(client: Client, config: &Config) -> Result<Uninstalled, Error> {
    let found = find(&client, config).await?;
    let mut result = Uninstalled::default();
    let mut ours = Vec::new();
    for (name, found) in found {
        match found {
            Found::Foreign => result.kept.push(name),
            Found::Nothing => ours.push((name, None)),
            Found::Ours(uid) => ours.push((name, Some(uid))),
        }
    }
    let mut removals = stream::iter(ours)
        .map(|(name, uid)| {
            let client = client.clone();
            async move {
                let removal = remove(client, &name, uid.as_deref());
                let with_lease = tokio::time::timeout(TIMEOUT, removal)
                    .await
                    .map_err(|_| Error::TimedOut { node: name.clone() })??;
                Ok((name, uid.is_some(), with_lease))
            }
        })
        .buffered(REQUESTS_MAX);
    while let Some((name, is_node, with_lease)) = removals.try_next().await? {
        result.nodes.extend(is_node.then_some(name));
        result.leases += usize::from(with_lease);
    }
    Ok(result)
}

fn pages() -> ListParams {
    ListParams::default().limit(PAGE)
}

/// Our nodes, and what there is under the names of `config`.
async fn find(client: &Client, config: &Config) -> Result<BTreeMap<NodeName, Found>, Error> {
    let nodes: Api<NodeView> = Api::all(client.clone());
    let names = config.nodes.iter();
    let mut found: BTreeMap<NodeName, Found> = names
        .map(|spec| (spec.name.clone(), Found::Nothing))
        .collect();
    kube_client::list(&nodes, pages(), |node: NodeView| {
        let name = NodeName::from(node.name());
        if node.is_ours() {
            found.insert(name, Found::Ours(node.uid().to_owned()));
        } else if let Some(configured) = found.get_mut(&name) {
            *configured = Found::Foreign;
        }
    })
    .await
    .map_err(Error::List)?;
    Ok(found)
}

/// The names of all nodes that holdfast made, configured or not.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn ours(client: Client) -> Result<BTreeSet<NodeName>, Error> {
    let nodes: Api<NodeView> = Api::all(client);
    let mut ours = BTreeSet::new();
    kube_client::list(&nodes, pages(), |node: NodeView| {
        if node.is_ours() {
            ours.insert(node.name().into());
        }
    })
    .await
    .map_err(Error::List)?;
    Ok(ours)
}

/// Removes the lease `name` and the node of that `uid`, and says whether there was a lease.
async fn remove(client: Client, name: &NodeName, uid: Option<&str>) -> Result<bool, Error> {
    let failed = |operation| {
        move |source| Error::Request {
            operation,
            node: name.clone(),
            source,
        }
    };
    let nodes: Api<NodeView> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client, lease::NAMESPACE);

    // The lease first: once its owner is gone, the garbage collector may be sooner.
    let with_lease = absent_is_fine(leases.delete(name.as_str(), &DeleteParams::default()).await)
        .map_err(failed("delete the lease"))?;
    if let Some(uid) = uid {
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
        absent_is_fine(nodes.delete(name.as_str(), &params).await)
            .map_err(failed("delete the object"))?;
    }
    Ok(with_lease)
}

/// Whether there was something to delete.
fn absent_is_fine<T>(answer: kube::Result<T>) -> kube::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}
