//! What a node offers under the kubelet's name: the HTTPS API that kubectl, metrics-server and
//! others use through it.
//!
//! Owns one listener for each entry of `nodes`, its certificate, who may ask for what, and the
//! answers. Does not decide what happens to pods, and keeps none: a whole pod is read from the API
//! server when a caller asks for it, what runs is asked of those who know the pods. It has tasks and connections of its
//! own, and nothing waits for it.

mod attach;
mod auth;
mod certificate;
mod client_certificate;
pub mod container;
pub mod environment;
pub mod fields;
mod follow;
mod gone;
pub mod hosts;
pub mod life;
mod limits;
mod listing;
mod logs;
mod metrics;
pub mod objects;
pub mod port;
mod routes;
pub mod scratch;
mod sessions;
pub mod shell;
mod stats;
pub mod streaming;
pub mod tree;
pub mod volumes;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use holdfast_provider::id::NodeName;
use jiff::Timestamp;
use kube::Client;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::scratch::ScratchStore;
use crate::config::{Config, NodeSpec};
use crate::descriptors;
use crate::https;
use crate::metrics::Metrics;
use crate::node::NodeTable;
use crate::pod::run::Asker;

/// Connections of all listeners together, without those that became a session by an upgrade; more
/// wait in the backlog. Above the number of logs, which hold one as long as they last.
const CONNECTIONS_MAX: usize = 2048;

/// The kubelet API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is taken, or the address not of this machine.
    #[error(
        "the kubelet API of node {node} cannot listen on {address}: free that port, or set `kubelet.port` or `kubelet.address`"
    )]
    Listen {
        /// The first node of the entry.
        node: NodeName,
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No certificate can be made.
    #[error("the kubelet API of node {node} has no certificate")]
    Certificate {
        /// The first node of the entry.
        node: NodeName,
        /// Why.
        #[source]
        source: Box<certificate::Error>,
    },
}

/// A bound listener and the nodes that it speaks for.
struct Endpoint {
    address: SocketAddr,
    listener: std::net::TcpListener,
    nodes: Arc<routes::Nodes>,
}

/// The bound listeners of all nodes.
pub struct Listeners(Vec<Endpoint>);

impl Listeners {
    /// Binds a port for each entry of `nodes`. Those that are taken are waited for until `give_up`.
    ///
    /// # Errors
    /// When one of them cannot be bound.
    pub async fn bind(config: &Config, give_up: Instant) -> Result<Self, Error> {
        let mut entries: BTreeMap<usize, Vec<&NodeSpec>> = BTreeMap::new();
        for node in &config.nodes {
            entries.entry(node.entry).or_default().push(node);
        }
        let mut endpoints = Vec::with_capacity(entries.len());
        for nodes in entries.values() {
            // An entry of `count: 0` has no node, and so is not among them.
            let first = nodes[0];
            let address = SocketAddr::new(config.kubelet.address, first.kubelet_port);
            let listener = https::listen(address, give_up).await;
            let listener = listener.map_err(|source| Error::Listen {
                node: first.name.clone(),
                address,
                source,
            })?;
            let names = nodes.iter().map(|node| node.name.clone());
            endpoints.push(Endpoint {
                address,
                listener,
                nodes: Arc::new(routes::Nodes::new(names, first.shared_port)),
            });
        }
        Ok(Self(endpoints))
    }
}

/// What is known beside the API server.
pub struct Sources {
    /// The pods.
    pub pods: Asker,
    /// The nodes.
    pub nodes: NodeTable,
    /// What was counted.
    pub metrics: Metrics,
    /// What was written in containers.
    pub scratch: ScratchStore,
}

/// Serves the kubelet API of all nodes until `shutdown`. `client` should share connections with
/// nothing that must not wait.
///
/// # Errors
/// When a certificate cannot be made. Later failures are logged, and end one request each.
pub async fn run(
    client: Client,
    config: Arc<Config>,
    listeners: Listeners,
    sources: Sources,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let auth = Arc::new(auth::Auth::new(client.clone()));
    let places = Arc::new(https::Places::new(descriptors::share(CONNECTIONS_MAX)));
    let shared = Arc::new(routes::Shared::new(
        client.clone(),
        Arc::clone(&auth),
        &config,
        sources,
        shutdown.clone(),
    ));
    let mut tasks = JoinSet::new();
    for endpoint in listeners.0 {
        let Endpoint {
            address,
            listener,
            nodes,
        } = endpoint;
        let node = nodes.first().clone();
        let listener = TcpListener::from_std(listener).map_err(|source| Error::Listen {
            node: node.clone(),
            address,
            source,
        })?;
        let ip = address.ip().to_string();
        let identity =
            certificate::Identity::new(node.as_str(), &ip, Timestamp::now()).map_err(|source| {
                Error::Certificate {
                    node,
                    source: Box::new(source),
                }
            })?;
        let identity = Arc::new(identity);
        let (signed, client) = (Arc::clone(&identity), client.clone());
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(async move {
            signed.keep_signed(client).await;
        }));
        let router = routes::router(routes::Endpoint {
            shared: Arc::clone(&shared),
            nodes,
        });
        let served = https::serve(
            listener,
            identity,
            router,
            Arc::clone(&places),
            shutdown.clone(),
        );
        tasks.spawn(async move {
            served.await;
            Some(())
        });
    }
    tracing::info!(listeners = tasks.len() / 2, "the kubelet API is served");
    let keep_ca = shutdown.clone().run_until_cancelled_owned(async move {
        auth.keep_ca().await;
    });
    tasks.spawn(keep_ca);
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a task of the kubelet API failed");
        }
    }
    Ok(())
}
