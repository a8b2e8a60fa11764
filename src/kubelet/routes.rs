//! Which path answers what, and to whom: identity and rights come before anything is looked up.
//!
//! Owns paths, methods and the words of refusals (kubernetes/kubernetes,
//! pkg/kubelet/server/server.go). What is behind a path is in the other modules.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::handler::Handler;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use holdfast_provider::id::NodeName;
use http::{Extensions, StatusCode, header};
use kube::Client;
use tokio_util::sync::CancellationToken;

use super::attach;
use super::auth::{Auth, Right, subresources, verb};
use super::limits::Limits;
use super::listing;
use super::metrics::Scraper;
use super::sessions::{self, Sessions};
use super::{Sources, logs, stats};
use crate::chain::chain;
use crate::config::Config;
use crate::https::{Outflow, PeerCertificates};
use crate::metrics;
use crate::pod::run::{Asker, NoAnswer};

/// The nodes of one listener.
#[derive(Debug)]
pub(super) struct Nodes {
    names: BTreeSet<NodeName>,
    shared: bool,
}

impl Nodes {
    /// `shared`: paths have to name the node.
    pub(super) fn new(names: impl Iterator<Item = NodeName>, shared: bool) -> Self {
        Self {
            names: names.collect(),
            shared,
        }
    }

    pub(super) fn first(&self) -> &NodeName {
        self.names.first().expect("a listener has a node")
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.names.contains(&NodeName::from(name))
    }

    /// The node that a path without a name is about.
    fn only(&self) -> Option<&NodeName> {
        (!self.shared).then(|| self.first())
    }
}

/// What the listeners have in common.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) pods: Asker,
    scraper: Scraper,
    pub(super) counters: stats::Counters,
    pub(super) sessions: Sessions,
    pub(super) limits: Limits,
    /// How long containers take to stop.
    pub(super) stop: jiff::SignedDuration,
    pub(super) shutdown: CancellationToken,
    auth: Arc<Auth>,
    anonymous: Vec<String>,
}

impl Shared {
    pub(super) fn new(
        client: Client,
        auth: Arc<Auth>,
        config: &Config,
        sources: Sources,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            scraper: Scraper::new(
                sources.metrics,
                config.ledger.clone(),
                sources.nodes,
                sources.pods.clone(),
            ),
            pods: sources.pods,
            client,
            counters: stats::Counters::default(),
            sessions: Sessions::new(config, sources.scratch),
            limits: Limits::default(),
            stop: config.delays.stop,
            shutdown,
            auth,
            anonymous: config.kubelet.anonymous.clone(),
        }
    }
}

/// One listener's part of a request.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) shared: Arc<Shared>,
    pub(super) nodes: Arc<Nodes>,
}

/// All paths of one listener.
pub(super) fn router(endpoint: Endpoint) -> Router {
    let node = Router::new()
        .route("/healthz", get(healthz))
        .route("/healthz/{check}", get(healthz))
        .route("/pods", get(pods))
        .route("/pods/", get(pods))
        .route("/runningpods", get(running_pods))
        .route("/runningpods/", get(running_pods))
        .route("/stats/summary", get(summary))
        .route("/stats/summary/", get(summary))
        .route("/metrics", get(all_metrics))
        .route("/metrics/", get(all_metrics))
        .route("/metrics/resource", get(resource_metrics))
        .route("/metrics/cadvisor", get(cadvisor_metrics))
        .route("/metrics/probes", get(no_metrics))
        .route("/metrics/slis", get(no_metrics));
    let paths = if endpoint.nodes.shared {
        Router::new().nest("/nodes/{node}", node)
    } else {
        node
    };
    let paths = session(paths, "exec", "/{container}", || both(sessions::exec));
    let paths = session(paths, "attach", "/{container}", || both(attach::attach));
    let paths = session(paths, "portForward", "", || both(sessions::port_forward));
    paths
        .route(
            "/containerLogs/{namespace}/{pod}/{container}",
            get(container_logs),
        )
        .layer(from_fn_with_state(endpoint.clone(), guard))
        .fallback(unknown)
        .layer(from_fn_with_state(endpoint.clone(), admit))
        .with_state(endpoint)
}

/// The paths of a session, with and without the UID of the pod.
fn session(
    router: Router<Endpoint>,
    name: &str,
    rest: &str,
    handler: impl Fn() -> MethodRouter<Endpoint>,
) -> Router<Endpoint> {
    let pod = format!("/{name}/{{namespace}}/{{pod}}");
    router
        .route(&format!("{pod}{rest}"), handler())
        .route(&format!("{pod}/{{uid}}{rest}"), handler())
}

/// WebSocket begins with GET, SPDY with either.
fn both<H, T>(handler: H) -> MethodRouter<Endpoint>
where
    H: Handler<T, Endpoint> + Clone,
    T: 'static,
{
    get(handler.clone()).post(handler)
}

/// Paths that a node does not have are for nobody to tell apart without an identity.
async fn unknown() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// Lets through who may ask for the path, before it is routed.
async fn admit(State(endpoint): State<Endpoint>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let (named, rest) = endpoint.target(&path);
    if let Some(name) = &named
        && !endpoint.nodes.contains(name.as_str())
    {
        // Asked for as it would be on a node of that name, and answered as for any other.
        request.extensions_mut().insert(Absent);
    }
    if endpoint.shared.anonymous.iter().any(|open| open == rest) {
        if let Some(node) = named {
            request.extensions_mut().insert(Target(node));
        }
        return next.run(request).await;
    }
    let shown = request.extensions().get::<PeerCertificates>().cloned();
    let shown = shown.unwrap_or_default();
    let authorization = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let user = match endpoint.shared.auth.who(&shown.0, authorization).await {
        Ok(Some(user)) => user,
        Ok(None) => return unauthorized(),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "cannot tell who asks the kubelet API");
            return unauthorized();
        }
    };
    let verb = verb(request.method());
    let asked = subresources(rest);
    for &subresource in asked {
        let right = Right {
            node: named.as_ref().map(ToString::to_string),
            verb,
            subresource,
        };
        match endpoint.shared.auth.may(&user, &right).await {
            Ok(true) => {
                if let Some(node) = named {
                    request.extensions_mut().insert(Target(node));
                }
                return next.run(request).await;
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot tell what a caller of the kubelet API may do");
                let message = format!(
                    "Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})",
                    user.name
                );
                return text(StatusCode::INTERNAL_SERVER_ERROR, message);
            }
        }
    }
    let message = format!(
        "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
        user.name,
        asked.join(" ")
    );
    text(StatusCode::FORBIDDEN, message)
}

fn unauthorized() -> Response {
    text(StatusCode::UNAUTHORIZED, "Unauthorized".to_owned())
}

/// The node that a request is about, once its caller may ask.
#[derive(Clone, Debug)]
struct Target(NodeName);

/// The path names a node that this listener does not have.
#[derive(Clone, Copy, Debug)]
struct Absent;

/// Only a node of this listener has paths.
async fn guard(request: Request, next: Next) -> Response {
    if request.extensions().get::<Absent>().is_some() {
        return unknown().await;
    }
    next.run(request).await
}

impl Endpoint {
    /// The node that a path is about, and the path on that node. On a shared port a path may
    /// name no node; the right on all nodes is then asked for.
    fn target<'a>(&self, path: &'a str) -> (Option<NodeName>, &'a str) {
        if let Some(only) = self.nodes.only() {
            return (Some(only.clone()), path);
        }
        let Some(named) = path.strip_prefix("/nodes/") else {
            return (None, path);
        };
        let end = named.find('/').unwrap_or(named.len());
        (Some(NodeName::from(&named[..end])), &named[end..])
    }
}

async fn healthz() -> Response {
    text(StatusCode::OK, "ok")
}

async fn pods(
    State(endpoint): State<Endpoint>,
    axum::Extension(Target(node)): axum::Extension<Target>,
) -> Response {
    match listing::raw(&endpoint.shared.client, &node).await {
        Ok(body) => json(body),
        Err(error) => failed(&error),
    }
}

async fn running_pods(
    State(endpoint): State<Endpoint>,
    axum::Extension(Target(node)): axum::Extension<Target>,
) -> Response {
    match endpoint.shared.pods.running_as_told(&node).await {
        Ok(pods) => json(listing::pod_list(&pods).to_string().into()),
        Err(error) => unknown_pods(&error),
    }
}

async fn summary(
    State(endpoint): State<Endpoint>,
    axum::Extension(Target(node)): axum::Extension<Target>,
) -> Response {
    let tell = |sample: &_| json(stats::summary(node.as_str(), sample).to_string().into());
    told(&endpoint, &node, tell).await
}

/// What a node uses now, in one form or another.
async fn told(
    endpoint: &Endpoint,
    node: &NodeName,
    tell: impl FnOnce(&stats::Sample) -> Response,
) -> Response {
    match endpoint.sample(node).await {
        Ok(sample) => tell(&sample),
        Err(error) => unknown_pods(&error),
    }
}

async fn resource_metrics(
    State(endpoint): State<Endpoint>,
    axum::Extension(Target(node)): axum::Extension<Target>,
) -> Response {
    let tell = |sample: &_| exposition(stats::resource_metrics(sample));
    told(&endpoint, &node, tell).await
}

async fn cadvisor_metrics(
    State(endpoint): State<Endpoint>,
    axum::Extension(Target(node)): axum::Extension<Target>,
) -> Response {
    let tell = |sample: &_| exposition(stats::cadvisor_metrics(sample));
    told(&endpoint, &node, tell).await
}

/// No container is probed and no part of a node has a health of its own, and so there is nothing to
/// count; but a path that is not there makes Prometheus call the node down.
async fn no_metrics() -> Response {
    exposition(String::new())
}

async fn all_metrics(
    State(endpoint): State<Endpoint>,
    axum::Extension(Target(node)): axum::Extension<Target>,
) -> Response {
    match endpoint.shared.scraper.text(&node).await {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => failed(&error),
    }
}

async fn container_logs(
    State(endpoint): State<Endpoint>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    extensions: Extensions,
) -> Response {
    let query = query.unwrap_or_default();
    let outflow = Outflow::of(&extensions);
    match logs::open(&endpoint, &namespace, &pod, &container, &query, outflow).await {
        Ok(body) => ([(header::CONTENT_TYPE, "text/plain")], body).into_response(),
        Err(error) => refused(error.status(), &error),
    }
}

impl Endpoint {
    async fn sample(&self, node: &NodeName) -> Result<stats::Sample, NoAnswer> {
        let pods = self.shared.pods.running(node).await?;
        let now = jiff::Timestamp::now();
        Ok(self.shared.counters.sample(node, pods, now))
    }
}

/// A scraper comes again.
fn unknown_pods(error: &NoAnswer) -> Response {
    text(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

/// What a caller did is for the caller to know; what failed here is for the log as well.
pub(super) fn refused(status: StatusCode, error: &(dyn std::error::Error + 'static)) -> Response {
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        return failed(error);
    }
    text(status, chain(error).to_string())
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Response {
    tracing::warn!(error = %chain(error), "cannot answer a request to the kubelet API");
    text(StatusCode::INTERNAL_SERVER_ERROR, chain(error).to_string())
}

/// Prometheus' text format.
fn exposition(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

fn json(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn text(status: StatusCode, message: impl Into<String>) -> Response {
    (status, message.into()).into_response()
}

#[cfg(test)]
pub(super) mod testing {
    use std::path::Path;

    use http::Request;
    use kube::client::Body;
    use serde_json::Value;

    use super::*;
    use crate::config::Environment;
    use crate::metrics::{Metrics, Requests};
    use crate::node::NodeTable;

    /// A listener of node `vk-b`, with what it reads of an API server.
    pub(in crate::kubelet) fn endpoint(client: Client) -> Endpoint {
        let text = "region: cn-b\n\
                    vswitches: [{id: vsw-b, zone: cn-b-b, cidr: 192.168.1.0/24}]\n\
                    nodes: [{name: vk-b, zone: cn-b-b}]\n";
        let config = Config::parse(text, Path::new("holdfast.yaml"), Environment::Unused).unwrap();
        let auth = Arc::new(Auth::new(client.clone()));
        let sources = Sources {
            pods: Asker::new().0,
            nodes: NodeTable::new(&config),
            metrics: Metrics::new(&Requests::default()),
            scratch: crate::kubelet::scratch::ScratchStore::default(),
        };
        let shutdown = CancellationToken::new();
        Endpoint {
            shared: Arc::new(Shared::new(client, auth, &config, sources, shutdown)),
            nodes: Arc::new(Nodes::new(std::iter::once("vk-b".into()), false)),
        }
    }

    /// An API server that answers each request with what this says, a code and an object.
    pub(in crate::kubelet) fn answering(
        answer: impl Fn() -> (u16, Value) + Clone + Send + 'static,
    ) -> Client {
        let service = tower::service_fn(move |_: Request<Body>| {
            let (code, object) = answer();
            let answer = http::Response::builder().status(code);
            let answer = answer.body(Body::from(object.to_string().into_bytes()));
            std::future::ready(Ok::<_, std::convert::Infallible>(answer.unwrap()))
        });
        Client::new(service, "default")
    }
}
