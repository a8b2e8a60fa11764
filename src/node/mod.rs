//! The virtual nodes of this process: Node objects, their status, their leases.
//!
//! Owns registration (also again, when somebody deletes a node), the heartbeat in the node's
//! status, the leases in `kube-node-lease`, and [`NodeTable`], the view of the nodes that the
//! other parts read. Does not know pods, and never waits for them: leases have a lane of their
//! own, with connections and a deadline of their own. Stopping leaves all nodes in place, so that
//! a restart does not turn their pods unready; only [`uninstall()`] removes them.
//!
//! Three kinds of things stand on a node, and each is treated differently:
//! - What identifies it (labels for type, zone, region, node type, host name and platform, the
//!   path of its metrics) is restored whenever it is seen changed.
//! - What a new node starts with (taints, role, the exclusion from load balancers) is written
//!   when the object is created, also when it is created again, and never after: an operator who
//!   takes a taint off an existing node has decided so.
//! - Everything else, foreign labels, taints, annotations and conditions, a cordon, is left alone.
//!
//! The annotation `holdfast.dev/shutdown: graceful`, which is others', makes a node not ready, and
//! its pods are ended as a kubelet ends them whose machine is switched off in order.
//!
//! A node that carries a configured name and belongs to somebody else is left alone too; one that is there before a start,
//! and was never ours, keeps holdfast from starting ([`names`]).

mod agent;
mod lease;
pub mod names;
mod object;
mod plan;
mod schedule;
mod table;
#[cfg(test)]
mod tests;
mod uninstall;
mod view;

use std::sync::Arc;

use futures::FutureExt as _;
use kube::Client;
use tokio_util::sync::CancellationToken;

pub use object::{NODE_TYPE_LABEL, PROVIDER_SCHEME, VIRTUAL_TYPE_LABEL, VIRTUAL_TYPE_VALUE};
pub use table::{NodeState, NodeTable};
pub use uninstall::{Error, Uninstalled, ours, uninstall};

use crate::config::Config;
use crate::metrics::WatchMetrics;

/// Registers the nodes of `config` and keeps them alive until `shutdown`.
///
/// `heartbeats` carries the leases and must not share connections with `api` (every call of
/// [`crate::kube_client::client`] gives new ones). No failure ends this: each is logged once and
/// retried.
pub async fn run(
    api: Client,
    heartbeats: Client,
    config: Arc<Config>,
    table: NodeTable,
    watches: WatchMetrics,
    shutdown: CancellationToken,
) {
    let leases = tokio::spawn(lease::run(heartbeats, table.clone(), shutdown.clone()));
    let leases = leases.map(|ended| {
        // At once, and not when everything stops: nobody would renew them until then.
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    });
    tokio::join!(leases, agent::run(api, &config, table, watches, shutdown));
}
