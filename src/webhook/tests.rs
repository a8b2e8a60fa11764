//! The webhook against a stand-in for the API server, and a real TLS client against the webhook.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::{FailurePolicy, ServiceRef, WebhookConfig};

use super::*;

/// Far above what anything here takes; only a failing test waits so long.
const LIMIT: Duration = Duration::from_secs(20);
const OBJECT: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}";
const OBJECTS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

/// One `MutatingWebhookConfiguration`, and a version that counts its writes.
#[derive(Clone)]
struct ApiServer(Arc<watch::Sender<Option<Value>>>);

impl ApiServer {
    fn new() -> Self {
        Self(Arc::new(watch::channel(None).0))
    }

    fn client(&self) -> Client {
        let router = Router::new()
            .route(OBJECT, get(read).put(replace).delete(remove))
            .route(OBJECTS, post(create))
            .route("/api/v1/namespaces/default/pods", post(forbid))
            .with_state(self.clone());
        Client::new(router, "default")
    }

    fn set(&self, object: Option<Value>) {
        self.0.send_replace(object);
    }

    /// The one webhook, once `want` holds for it.
    async fn webhook(&self, want: impl Fn(&Value) -> bool) -> Value {
        let mut objects = self.0.subscribe();
        let found = objects.wait_for(|object| {
            object
                .as_ref()
                .is_some_and(|object| want(&object["webhooks"][0]))
        });
        let object = timeout(LIMIT, found).await.unwrap().unwrap().clone();
        object.unwrap()["webhooks"][0].clone()
    }
}

fn status(code: StatusCode) -> Response {
    let reason = code.canonical_reason().unwrap().replace(' ', "");
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code.as_u16(), "reason": reason,
    });
    (code, Json(status)).into_response()
}

async fn read(State(api): State<ApiServer>) -> Response {
    match &*api.0.borrow() {
        Some(object) => Json(object.clone()).into_response(),
        None => status(StatusCode::NOT_FOUND),
    }
}

async fn create(State(api): State<ApiServer>, Json(mut object): Json<Value>) -> Response {
    let created = api.0.send_if_modified(|stored| {
        let free = stored.is_none();
        if free {
            object["metadata"]["resourceVersion"] = json!("1");
            *stored = Some(object.clone());
        }
        free
    });
    if created {
        Json(object).into_response()
    } else {
        status(StatusCode::CONFLICT)
    }
}

async fn replace(State(api): State<ApiServer>, Json(mut object): Json<Value>) -> Response {
    let replaced = api.0.send_if_modified(|stored| {
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        let current = stored
            .as_ref()
            .is_some_and(|stored| version(stored) == version(&object));
        if current {
            object["metadata"]["resourceVersion"] = json!(format!("{}+", version(&object)));
            *stored = Some(object.clone());
        }
        current
    });
    if replaced {
        Json(object).into_response()
    } else {
        status(StatusCode::CONFLICT)
    }
}

async fn remove(State(api): State<ApiServer>) -> Response {
    match api.0.send_replace(None) {
        Some(object) => Json(object).into_response(),
        None => status(StatusCode::NOT_FOUND),
    }
}

async fn forbid() -> Response {
    status(StatusCode::FORBIDDEN)
}

fn settings() -> WebhookConfig {
    WebhookConfig {
        enabled: true,
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        port: 0,
        service: None,
        bind: true,
        zone_pin: true,
        surplus: false,
        failure_policy: FailurePolicy::Fail,
    }
}

/// Knows the claim of `default/web-0` in zone b, or cannot read it.
struct Ledger {
    readable: bool,
}

impl Claims for Ledger {
    fn unexpired(
        &self,
        key: &PodKey,
        _now: Timestamp,
    ) -> Result<Option<ClaimPlace>, Box<dyn std::error::Error + Send + Sync>> {
        if !self.readable {
            return Err("disk I/O error".into());
        }
        Ok(
            (*key == PodKey::new("default", "web-0")).then(|| ClaimPlace {
                zone: "b".into(),
                vswitch: "vsw-b".into(),
            }),
        )
    }
}

/// One node in every zone.
struct OneNode;

impl Nodes for OneNode {
    fn candidates(&self, zone: &Zone) -> Vec<Candidate> {
        let labels = [
            ("type", "virtual-kubelet"),
            ("topology.kubernetes.io/zone", zone.as_str()),
        ];
        vec![Candidate {
            name: format!("virtual-kubelet-{zone}"),
            labels: labels
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            taints: vec![taint()],
            unschedulable: false,
        }]
    }
}

struct Running {
    api: ApiServer,
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    async fn start(settings: WebhookConfig, readable: bool) -> Self {
        Self::start_on(ApiServer::new(), settings, readable).await
    }

    async fn start_on(api: ApiServer, settings: WebhookConfig, readable: bool) -> Self {
        let shutdown = CancellationToken::new();
        let (ready, readied) = oneshot::channel();
        let listener = bind(&settings, Instant::now()).await.unwrap();
        let task = tokio::spawn(run(
            api.client(),
            settings,
            listener,
            Arc::new(Ledger { readable }),
            Arc::new(OneNode),
            ready,
            shutdown.clone(),
        ));
        let address = timeout(LIMIT, readied).await.unwrap().unwrap();
        Self {
            api,
            address,
            shutdown,
            task,
        }
    }

    async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let webhook = self.api.webhook(|_| true).await;
        let bundle: MutatingWebhookConfiguration =
            serde_json::from_value(json!({"metadata": {}, "webhooks": [webhook]})).unwrap();
        let bundle = bundle.webhooks.unwrap()[0]
            .client_config
            .ca_bundle
            .clone()
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&bundle.0).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::from(self.address.ip());
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap()
    }

    /// Sends `body` as the API server would; the status code and the answer.
    async fn post(&self, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let head = format!(
            "POST /mutate HTTP/1.1\r\nhost: webhook\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let exchange = async {
            let mut stream = self.connect().await;
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(body.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = timeout(LIMIT, exchange).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(LIMIT, self.task).await.unwrap().unwrap().unwrap();
    }
}

fn review(operation: &str) -> Value {
    let pods = json!({"group": "", "version": "v1", "resource": "pods"});
    let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
    json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "0c9a8d74", "kind": kind, "resource": pods, "namespace": "default",
            "operation": operation, "userInfo": {"username": "admin"}, "dryRun": true,
            "object": {
                "kind": "Pod", "apiVersion": "v1",
                "metadata": {
                    "name": "web-0",
                    "annotations": {"network.alibabacloud.com/enable-fixed-ip": "true"},
                },
                "spec": {"containers": [{"name": "nginx", "image": "nginx"}]},
                "status": {},
            },
            "oldObject": null,
        },
    })
}

/// The pod of the review as the answer changes it.
fn patched(answer: &Value) -> Value {
    let bytes: Vec<u8> = serde_json::from_value(answer["response"]["patch"].clone()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&bytes).unwrap();
    let mut pod = review("CREATE")["request"]["object"].clone();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

#[tokio::test]
async fn the_registration_stands_and_names_the_listener_before_ready() {
    let webhook = Running::start(settings(), true).await;
    let registered = webhook.api.0.borrow().clone().unwrap();
    let registered = &registered["webhooks"][0];
    let url = format!("https://{}/mutate", webhook.address);
    assert_eq!(registered["clientConfig"]["url"], json!(url));
    assert_eq!(registered["failurePolicy"], json!("Fail"));
    webhook.stop().await;
}

#[tokio::test]
async fn a_restart_on_another_port_is_registered_at_once_and_stopping_leaves_it() {
    let first = Running::start(settings(), true).await;
    let api = first.api.clone();
    first.stop().await;
    assert!(api.0.borrow().is_some());
    let second = Running::start_on(api, settings(), true).await;
    let url = format!("https://{}/mutate", second.address);
    let registered = second.api.0.borrow().clone().unwrap();
    assert_eq!(registered["webhooks"][0]["clientConfig"]["url"], json!(url));
    second.stop().await;
}

#[tokio::test]
async fn a_claimed_pod_is_pinned_over_tls_with_the_registered_ca() {
    let webhook = Running::start(settings(), true).await;
    let (code, answer) = webhook.post(&review("CREATE")).await;
    assert_eq!(code, 200);
    assert_eq!(answer["response"]["uid"], json!("0c9a8d74"));
    assert_eq!(answer["response"]["allowed"], json!(true));
    let spec = &patched(&answer)["spec"];
    let required =
        &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(
        required["nodeSelectorTerms"][0]["matchExpressions"][1],
        json!({"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["b"]})
    );
    webhook.stop().await;
}

#[tokio::test]
async fn what_is_no_creation_passes_unchanged() {
    let webhook = Running::start(settings(), true).await;
    let (_, answer) = webhook.post(&review("UPDATE")).await;
    assert_eq!(answer["response"]["allowed"], json!(true));
    assert_eq!(answer["response"]["patch"], Value::Null);
    webhook.stop().await;
}

#[tokio::test]
async fn an_unreadable_claim_refuses_the_pod_when_the_policy_is_fail() {
    let webhook = Running::start(settings(), false).await;
    let (_, answer) = webhook.post(&review("CREATE")).await;
    assert_eq!(answer["response"]["allowed"], json!(false));
    assert_eq!(answer["response"]["status"]["code"], json!(500));
    let message = answer["response"]["status"]["message"].as_str().unwrap();
    assert!(
        message.contains("reading the claim failed: disk I/O error"),
        "{message}"
    );
    webhook.stop().await;
}

#[tokio::test]
async fn an_unreadable_claim_costs_only_the_pin_when_the_policy_is_ignore() {
    let ignore = WebhookConfig {
        failure_policy: FailurePolicy::Ignore,
        ..settings()
    };
    let webhook = Running::start(ignore, false).await;
    let (_, answer) = webhook.post(&review("CREATE")).await;
    assert_eq!(answer["response"]["allowed"], json!(true));
    assert!(answer["response"]["warnings"][0].is_string());
    let spec = &patched(&answer)["spec"];
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 1);
    assert!(!spec["affinity"].to_string().contains("zone"));
    webhook.stop().await;
}

#[tokio::test]
async fn an_answer_repeats_no_more_than_a_caller_may_have_kept_in_memory() {
    let webhook = Running::start(settings(), true).await;
    for (length, want) in [(100 << 10, 200), (300 << 10, 413)] {
        let mut long = review("CREATE");
        long["request"]["uid"] = json!("u".repeat(length));
        let (code, _) = webhook.post(&long).await;
        assert_eq!(code, want, "{length}");
    }
    webhook.stop().await;
}

#[tokio::test]
async fn a_body_that_is_no_review_is_refused() {
    let webhook = Running::start(settings(), true).await;
    let (code, _) = webhook.post(&json!({"kind": "Pod"})).await;
    assert_eq!(code, 422);
    let empty = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"});
    let (_, answer) = webhook.post(&empty).await;
    assert_eq!(answer["response"]["allowed"], json!(false));
    webhook.stop().await;
}

#[tokio::test]
async fn stopping_does_not_wait_for_idle_connections() {
    let webhook = Running::start(settings(), true).await;
    let mut idle = webhook.connect().await;
    let answered = async {
        let body = review("UPDATE").to_string();
        let head = format!(
            "POST /mutate HTTP/1.1\r\nhost: webhook\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        idle.write_all((head + &body).as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(idle.read_u8().await.unwrap());
        }
        answer
    };
    let answer = timeout(LIMIT, answered).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    // Calls in flight are given 5 s.
    let stopped = timeout(Duration::from_secs(4), webhook.stop()).await;
    assert!(stopped.is_ok());
    let ended = timeout(LIMIT, idle.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok());
}

#[tokio::test]
async fn a_registration_that_somebody_removes_or_changes_is_put_back() {
    let api = ApiServer::new();
    let client = api.client();
    let listening = "127.0.0.1:4443".parse().unwrap();
    let webhook = register::webhook(&settings(), listening, "PEM");
    let wanted = json!(webhook);
    let period = Duration::from_millis(1);
    let keeper = tokio::spawn(async move { keep_registered(&client, &webhook, period).await });

    api.webhook(|webhook| *webhook == wanted).await;
    api.set(None);
    api.webhook(|webhook| *webhook == wanted).await;

    let mut changed = wanted.clone();
    changed["failurePolicy"] = json!("Ignore");
    api.set(Some(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "holdfast", "resourceVersion": "7", "labels": {"team": "net"}},
        "webhooks": [changed, {"name": "other.example.com"}],
    })));
    api.webhook(|webhook| *webhook == wanted).await;
    let object = api.0.borrow().clone().unwrap();
    assert_eq!(object["webhooks"].as_array().unwrap().len(), 1);
    assert_eq!(object["metadata"]["labels"]["team"], json!("net"));
    keeper.abort();
}

#[tokio::test]
async fn a_right_registration_is_not_written_again() {
    let api = ApiServer::new();
    let webhook = register::webhook(&settings(), "127.0.0.1:4443".parse().unwrap(), "PEM");
    let found = register::register(&api.client(), &webhook).await.unwrap();
    assert_eq!(found, register::Found::Missing);
    let mut writes = api.0.subscribe();
    writes.mark_unchanged();
    let found = register::register(&api.client(), &webhook).await.unwrap();
    assert_eq!(found, register::Found::Right);
    assert!(!writes.has_changed().unwrap());
}

#[tokio::test]
async fn a_port_that_is_taken_is_waited_for_and_then_named() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let settings = WebhookConfig {
        port: address.port(),
        ..settings()
    };
    let error = bind(&settings, Instant::now()).await.unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let waits = bind(&settings, Instant::now() + LIMIT);
    let frees = async { drop(other) };
    let (bound, ()) = tokio::join!(waits, frees);
    assert_eq!(bound.unwrap().local_addr().unwrap(), address);
}

#[tokio::test]
async fn unregistering_removes_it_and_may_be_repeated() {
    let api = ApiServer::new();
    let webhook = register::webhook(&settings(), "127.0.0.1:4443".parse().unwrap(), "PEM");
    register::register(&api.client(), &webhook).await.unwrap();
    unregister(api.client()).await.unwrap();
    assert_eq!(*api.0.borrow(), None);
    unregister(api.client()).await.unwrap();
}

#[tokio::test]
async fn a_registration_refused_for_good_ends_the_start() {
    let forbidding = Router::new().fallback(forbid);
    let client = Client::new(forbidding, "default");
    let (ready, _readied) = oneshot::channel();
    let ended = run(
        client,
        settings(),
        bind(&settings(), Instant::now()).await.unwrap(),
        Arc::new(Ledger { readable: true }),
        Arc::new(OneNode),
        ready,
        CancellationToken::new(),
    );
    let ended = timeout(LIMIT, ended).await.unwrap();
    assert!(matches!(ended, Err(Error::Register(_))), "{ended:?}");
}

#[test]
fn a_service_is_registered_by_name_and_is_in_the_certificate() {
    let service = ServiceRef {
        namespace: "kube-system".to_owned(),
        name: "holdfast".to_owned(),
        port: 443,
    };
    let settings = WebhookConfig {
        service: Some(service),
        ..settings()
    };
    let webhook = register::webhook(&settings, "10.0.0.1:4443".parse().unwrap(), "PEM");
    assert_eq!(webhook.client_config.url, None);
    assert_eq!(
        json!(webhook.client_config.service),
        json!({"namespace": "kube-system", "name": "holdfast", "port": 443, "path": "/mutate"})
    );
    assert_eq!(names(&settings), ["holdfast.kube-system.svc", "127.0.0.1"]);
}
