//! Pods of a cluster, or of a manifest, at one moment, as far as their addresses are concerned.
//!
//! For commands that look once. Owns which pods count and what one asks for; judges nothing (the
//! provider's `check` and `explain` do), and changes nothing.

use std::collections::BTreeSet;

use holdfast_provider::check::cluster::Shown;
use holdfast_provider::id::{NodeName, PodKey, PodUid};
use holdfast_provider::ledger::explain::Subject;
use holdfast_provider::policy::opt_in::{UnsupportedClass, Warning};
use kube::api::ListParams;
use kube::{Api, Client};

use super::agent::{ForeignNode, asks, class, published};
use super::api;
use super::view::PodView;
use crate::kube_client::{self, ListError};
use crate::node;

/// Pods in one answer.
const PAGE: u32 = 500;

/// The cluster could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its pods could not be listed.
    #[error("cannot list the pods")]
    Pods(#[source] ListError),
    /// Our nodes could not be told from others.
    #[error("cannot tell which nodes are holdfast's")]
    Nodes(#[source] node::Error),
    /// A pod that the list lacks could not be looked for.
    #[error("cannot look for pod {0}, which the list does not have")]
    Look(PodKey),
    /// A pod could not be looked at.
    #[error("cannot look at pod {0}: the cluster did not answer, or does not let us")]
    Pod(PodKey),
    /// A node could not be looked at.
    #[error("cannot look at node {0}: the cluster did not answer, or does not let us")]
    Node(NodeName),
}

/// A pod as far as its address is concerned.
#[derive(Clone, Debug)]
pub struct Asking {
    /// Who it is, and what it asks for.
    pub subject: Subject,
    /// Its compute class.
    pub class: Option<String>,
    /// What is wrong with its annotations.
    pub warnings: Vec<Warning>,
    /// Whether it has the network of its node.
    pub host_network: bool,
    /// The node that it is bound to.
    pub node: Option<NodeName>,
}

/// Reads a pod as the agent does when it first sees it.
pub fn asking(
    view: &PodView,
    key: &PodKey,
    unsupported: UnsupportedClass,
    default_hours: u32,
) -> Asking {
    let (opt_in, warnings) = asks(view, unsupported, default_hours);
    let metadata = &view.metadata;
    Asking {
        subject: Subject {
            uid: metadata.uid.as_deref().map(Into::into),
            key: key.clone(),
            created_at: metadata.creation_timestamp.as_ref().map(|time| time.0),
            opt_in,
        },
        class: class(view).map(str::to_owned),
        warnings,
        host_network: view.spec.host_network,
        node: view.spec.node_name.as_deref().map(NodeName::from),
    }
}

/// The pod of this name.
pub async fn pod(client: &Client, key: &PodKey) -> Result<Option<Box<PodView>>, Error> {
    let found = api::look(client, key).await;
    found.map_err(|_| Error::Pod(key.clone()))
}

/// A node that is not ours.
pub async fn node(client: &Client, name: &NodeName) -> Result<Option<ForeignNode>, Error> {
    let found = api::look_node(client, name).await;
    found.map_err(|_| Error::Node(name.clone()))
}

/// Every pod there is.
pub async fn pods(client: &Client) -> Result<Vec<Shown>, Error> {
    let ours = node::ours(client.clone()).await.map_err(Error::Nodes)?;
    let api: Api<PodView> = Api::all(client.clone());
    let mut pods = Vec::new();
    kube_client::list(&api, ListParams::default().limit(PAGE), |view| {
        pods.extend(shown(&view, &ours));
    })
    .await
    .map_err(Error::Pods)?;
    Ok(pods)
}

/// Whether a pod that a list lacks is there after all, by a GET of its own.
pub async fn exists(client: &Client, key: &PodKey, uid: &PodUid) -> Result<bool, Error> {
    match api::look(client, key).await {
        Ok(found) => {
            Ok(found.is_some_and(|view| view.metadata.uid.as_deref() == Some(uid.as_str())))
        }
        Err(_) => Err(Error::Look(key.clone())),
    }
}

/// An object without name or UID is none that an API server sends.
fn shown(view: &PodView, ours: &BTreeSet<NodeName>) -> Option<Shown> {
    let metadata = &view.metadata;
    let node = view.spec.node_name.as_deref().map(NodeName::from);
    let published = published(view);
    Some(Shown {
        uid: metadata.uid.as_deref()?.into(),
        key: PodKey::new(metadata.namespace.as_deref()?, metadata.name.as_deref()?),
        address: published.as_ref().map(|shown| shown.address),
        eni: published.and_then(|shown| shown.eni),
        ours: node.is_some_and(|node| ours.contains(&node)),
        counts: !view.spec.host_network && !view.status.phase.is_terminal(),
    })
}
