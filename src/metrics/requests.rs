//! What the API server is asked, by all clients of the process.
//!
//! Owns a layer around kube's clients, so that no request can be forgotten, and what kind of
//! request a path is. The metrics `rest_client_*` are named as those of client-go
//! (k8s.io/component-base/metrics/prometheus/restclient), which dashboards of kubelets use.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tower::{Layer, Service};

/// Upper ends of the buckets in seconds, as client-go has them.
const BUCKETS: [f64; 12] = [
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0,
];
/// The label `code` of a request that got no answer, as client-go has it.
const NO_CODE: &str = "<error>";
/// What is written to; every other resource is [`OTHER`].
const RESOURCES: [&str; 8] = [
    "pods",
    "pods/status",
    "nodes",
    "nodes/status",
    "leases",
    "events",
    "certificatesigningrequests",
    "mutatingwebhookconfigurations",
];
const OTHER: &str = "other";
/// A question that is asked by POST and changes nothing.
const REVIEWS: [&str; 2] = ["tokenreviews", "subjectaccessreviews"];

/// See the module. Clones are the same counters; a client built with the layer raises them.
#[derive(Clone, Debug)]
pub struct Requests {
    sent: Family<Sent, Counter>,
    durations: Family<Verb, Histogram, fn() -> Histogram>,
    writes: Family<Write, Counter>,
    leases: Family<Renewal, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Sent {
    code: String,
    method: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Verb {
    verb: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Write {
    verb: &'static str,
    resource: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Renewal {
    lease: &'static str,
    outcome: &'static str,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            sent: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            writes: Family::default(),
            leases: Family::default(),
        }
    }
}

impl Requests {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "rest_client_requests",
            "Requests to the API server by status code and method",
            self.sent.clone(),
        );
        registry.register(
            "rest_client_request_duration_seconds",
            "From a request to the API server until the head of its answer, by verb",
            self.durations.clone(),
        );
        registry.register(
            "holdfast_api_writes",
            "Requests that write to the API server by verb and resource; outcome is ok, not_found, conflict, invalid, throttled, refused, failed (the server), unreachable or abandoned (no answer in time)",
            self.writes.clone(),
        );
        registry.register(
            "holdfast_lease_renewals",
            "Writes of leases: those of the nodes, and the one that keeps a second ledger from the cluster",
            self.leases.clone(),
        );
    }

    fn count(&self, asked: &Asked, end: End, took_s: f64) {
        let code = match end {
            End::Answered(status) => status.as_str().to_owned(),
            End::Unreachable | End::Abandoned => NO_CODE.to_owned(),
        };
        let sent = Sent {
            code,
            method: asked.method.to_string(),
        };
        self.sent.get_or_create(&sent).inc();
        let verb = Verb {
            verb: asked.method.to_string(),
        };
        self.durations.get_or_create(&verb).observe(took_s);
        let Some(verb) = verb_of(&asked.method) else {
            return;
        };
        let outcome = end.outcome();
        if let Some(resource) = asked.resource {
            let write = Write {
                verb,
                resource,
                outcome,
            };
            self.writes.get_or_create(&write).inc();
        }
        if let Some(lease) = asked.lease.filter(|_| verb != "delete") {
            self.leases.get_or_create(&Renewal { lease, outcome }).inc();
        }
    }
}

/// The verb of a request that changes something.
fn verb_of(method: &Method) -> Option<&'static str> {
    match *method {
        Method::POST => Some("create"),
        Method::PUT => Some("update"),
        Method::PATCH => Some("patch"),
        Method::DELETE => Some("delete"),
        _ => None,
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Answered(StatusCode),
    Unreachable,
    /// Whoever asked does not wait any longer.
    Abandoned,
}

impl End {
    fn outcome(self) -> &'static str {
        match self {
            Self::Answered(status) if status.is_success() => "ok",
            Self::Answered(StatusCode::NOT_FOUND) => "not_found",
            Self::Answered(StatusCode::CONFLICT) => "conflict",
            Self::Answered(StatusCode::UNPROCESSABLE_ENTITY) => "invalid",
            Self::Answered(StatusCode::TOO_MANY_REQUESTS) => "throttled",
            Self::Answered(status) if status.is_server_error() => "failed",
            Self::Answered(_) => "refused",
            Self::Unreachable => "unreachable",
            Self::Abandoned => "abandoned",
        }
    }
}

/// What kind of request it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    method: Method,
    /// What it is about; `None` for a review.
    resource: Option<&'static str>,
    /// Whose lease it is about.
    lease: Option<&'static str>,
}

impl Asked {
    /// Reads a path of the API (Kubernetes, "API concepts", "Resource URIs").
    fn new(method: &Method, path: &str) -> Self {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let rest = match parts.next() {
            Some("api") => parts.nth(0).map(|_version| parts),
            Some("apis") => parts.nth(1).map(|_version| parts),
            _ => None,
        };
        let mut rest: Vec<&str> = rest.into_iter().flatten().collect();
        let mut namespace = None;
        // What is in a namespace, and not the namespace.
        if let ["namespaces", name, _, ..] = rest[..] {
            namespace = Some(name);
            rest.drain(..2);
        }
        let name = rest.first().copied().unwrap_or_default();
        let full = match rest.get(2) {
            Some(subresource) => format!("{name}/{subresource}"),
            None => name.to_owned(),
        };
        let known = RESOURCES.into_iter().find(|known| *known == full);
        Self {
            method: method.clone(),
            resource: (!REVIEWS.contains(&name)).then(|| known.unwrap_or(OTHER)),
            lease: (name == "leases").then_some(match namespace {
                Some("kube-node-lease") => "node",
                _ => "cluster",
            }),
        }
    }
}

impl<S> Layer<S> for Requests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Counted {
            inner,
            requests: self.clone(),
        }
    }
}

/// A client's service whose requests are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    requests: Requests,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut ticket = Ticket {
            asked: Asked::new(request.method(), request.uri().path()),
            since: Instant::now(),
            end: End::Abandoned,
            requests: self.requests.clone(),
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            ticket.ended(match &answer {
                Ok(answer) => End::Answered(answer.status()),
                Err(_) => End::Unreachable,
            });
            answer
        })
    }
}

/// A request on its way. Counts it when dropped, which a deadline does too.
struct Ticket {
    asked: Asked,
    since: Instant,
    end: End,
    requests: Requests,
}

impl Ticket {
    fn ended(&mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let took_s = self.since.elapsed().as_secs_f64();
        self.requests.count(&self.asked, self.end, took_s);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_what_is_written_and_whose_lease() {
        let check = |path: &str, resource: Option<&str>, lease: Option<&str>| {
            let asked = Asked::new(&Method::PATCH, path);
            assert_eq!((asked.resource, asked.lease), (resource, lease), "{path}");
        };
        check(
            "/api/v1/namespaces/shop/pods/web-0/status",
            Some("pods/status"),
            None,
        );
        check("/api/v1/namespaces/shop/pods/web-0", Some("pods"), None);
        check("/api/v1/namespaces/status/pods/status", Some("pods"), None);
        check(
            "/api/v1/nodes/virtual-kubelet-b/status",
            Some("nodes/status"),
            None,
        );
        check("/api/v1/nodes", Some("nodes"), None);
        check("/api/v1/namespaces/kube-system", Some("other"), None);
        check("/apis/authentication.k8s.io/v1/tokenreviews", None, None);
        let leases = "/apis/coordination.k8s.io/v1/namespaces";
        check(
            &format!("{leases}/kube-node-lease/leases/n"),
            Some("leases"),
            Some("node"),
        );
        check(
            &format!("{leases}/kube-system/leases/holdfast"),
            Some("leases"),
            Some("cluster"),
        );
        check("/version", Some("other"), None);
        check("/", Some("other"), None);
    }

    #[test]
    fn a_request_that_nobody_waits_for_any_more_is_counted_as_abandoned() {
        let never = tower::service_fn(|_: Request<Body>| {
            std::future::pending::<Result<Response<()>, std::convert::Infallible>>()
        });
        let requests = Requests::default();
        let mut client = requests.layer(never);
        let request = Request::patch("/api/v1/namespaces/a/pods/b/status");
        let call = client.call(request.body(Body::empty()).unwrap());
        let write = Write {
            verb: "patch",
            resource: "pods/status",
            outcome: "abandoned",
        };
        assert_eq!(requests.writes.get_or_create(&write).get(), 0);
        drop(call);
        assert_eq!(requests.writes.get_or_create(&write).get(), 1);
        let sent = Sent {
            code: NO_CODE.into(),
            method: "PATCH".into(),
        };
        assert_eq!(requests.sent.get_or_create(&sent).get(), 1);
    }

    #[tokio::test]
    async fn an_answer_is_counted_by_its_status() {
        let busy = tower::service_fn(|_: Request<Body>| async {
            let answer = Response::builder().status(StatusCode::TOO_MANY_REQUESTS);
            Ok::<_, std::convert::Infallible>(answer.body(()).unwrap())
        });
        let requests = Requests::default();
        let mut client = requests.layer(busy);
        let request =
            Request::put("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n");
        client
            .call(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        let renewal = Renewal {
            lease: "node",
            outcome: "throttled",
        };
        assert_eq!(requests.leases.get_or_create(&renewal).get(), 1);
    }
}
