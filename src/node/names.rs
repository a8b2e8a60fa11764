//! Whether the names of our nodes are free for us, before anything is written.
//!
//! A name that is somebody else's is not only a node that cannot be registered: the pods that are bound to it are served
//! by somebody else, and would be served by us too. It reserves nothing, and looks at no node with our label: who takes a
//! name later finds our node there.

use holdfast_provider::id::NodeName;
use kube::Client;
use kube::api::{Api, ListParams};

use super::object::NODE_TYPE_LABEL;
use super::view::NodeView;
use crate::config::Config;
use crate::kube_client::{self, ListError};

/// Nodes in one answer; a real node takes some 10 kB, and at a start nothing else may take more.
const PAGE: u32 = 100;

/// Nothing may be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody registered a node under a configured name.
    #[error(
        "node {name} belongs to somebody else ({owner}): give ours another name in `nodes`, or, if nothing serves it any more, delete that Node object"
    )]
    Taken {
        /// The first such name.
        name: NodeName,
        /// Its `spec.providerID`, or how else it is known.
        owner: String,
    },
    /// The nodes could not be listed.
    #[error("cannot look whether the names of the nodes are free")]
    List(#[source] ListError),
}

/// Looks whether a name of `config` is somebody else's.
///
/// # Errors
/// One is, or the API server does not tell.
pub async fn check(client: Client, config: &Config) -> Result<(), Error> {
    let nodes: Api<NodeView> = Api::all(client);
    // Ours have the label, and may be thousands.
    let others = ListParams::default().labels(&format!("!{NODE_TYPE_LABEL}"));
    let mut taken = None;
    kube_client::list(&nodes, others.limit(PAGE), |node: NodeView| {
        let is_configured = config
            .nodes
            .iter()
            .any(|spec| spec.name.as_str() == node.name());
        if node.is_foreign() && is_configured {
            taken.get_or_insert(Error::Taken {
                name: node.name().into(),
                owner: node.owner().to_owned(),
            });
        }
    })
    .await
    .map_err(Error::List)?;
    taken.map_or(Ok(()), Err)
}
