//! What answers at a port of a simulated container: a small HTTP/1.1 server.
//!
//! Owns the answers and which ports there are. How bytes come here from `kubectl port-forward` is
//! not its concern.
//!
//! `/healthz` answers `ok`; `/bytes/N` answers with N bytes; every other path tells the pod's name
//! and network, the request and the size of its body, as JSON or, when that is asked for, as text.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use http::{Method, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};
use tokio::io::DuplexStream;

/// Most bytes on their way in one direction of a connection.
const BUFFER: usize = 64 * 1024;
/// Most bytes that `/bytes/N` answers with.
const BYTES_MAX: u64 = 1 << 30;
/// Most bytes of a request's head.
const HEAD_MAX: usize = 64 * 1024;

/// Nothing listens at a port: what a kubelet says then (containerd, pkg/cri/sbserver,
/// `portForward`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "error forwarding port {port} to pod {pod}, uid {uid}: failed to connect to localhost:{port} \
     inside the pod: dial tcp4 127.0.0.1:{port}: connect: connection refused"
)]
pub struct Refusal {
    /// The port.
    pub port: u16,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod.
    pub uid: String,
}

/// Connects to a port that a running container of the pod declares for TCP.
///
/// The connection is served until its other end is dropped. Must be called in a tokio runtime.
pub fn answer(pod: &Pod, port: u16) -> Result<DuplexStream, Refusal> {
    let Some(container) = listening(pod, port) else {
        return Err(Refusal {
            port,
            pod: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        });
    };
    let facts = facts(pod, &container, port);
    let (near, far) = tokio::io::duplex(BUFFER);
    tokio::spawn(async move {
        let service = hyper::service::service_fn(move |request| {
            let facts = facts.clone();
            async move { Ok::<_, Infallible>(respond(&facts, request).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .max_buf_size(HEAD_MAX)
            .serve_connection(TokioIo::new(far), service);
        if let Err(error) = served.await {
            tracing::debug!(%error, "a forwarded connection broke off");
        }
    });
    Ok(near)
}

/// The container that listens at a port.
fn listening(pod: &Pod, port: u16) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref()?;
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let is_running = |name: &str| {
        let mut all = lists.into_iter().flatten().flatten();
        let found = all.find(|one| one.name == name);
        found
            .and_then(|one| one.state.as_ref())
            .is_some_and(|state| state.running.is_some())
    };
    let mut containers = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    let found = containers.find(|container| {
        let mut ports = container.ports.iter().flatten();
        let declared = ports.any(|one| {
            one.container_port == i32::from(port)
                && one.protocol.as_deref().unwrap_or("TCP") == "TCP"
        });
        declared && is_running(&container.name)
    });
    found.map(|container| container.name.clone())
}

/// What every answer tells of the pod.
fn facts(pod: &Pod, container: &str, port: u16) -> Map<String, Value> {
    let meta = &pod.metadata;
    let annotations = meta.annotations.as_ref();
    let annotation = |name: &str| annotations.and_then(|all| all.get(name));
    let facts = json!({
        "pod": meta.name,
        "namespace": meta.namespace,
        "uid": meta.uid,
        "container": container,
        "port": port,
        "node": pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()),
        "zone": annotation("topology.kubernetes.io/zone"),
        "address": pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()),
        "eni": annotation("network.alibabacloud.com/allocated-eni-id"),
    });
    match facts {
        Value::Object(facts) => facts,
        _ => Map::new(),
    }
}

async fn respond<B>(facts: &Map<String, Value>, request: http::Request<B>) -> Response
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    let request: Request = request.map(Body::new);
    let path = request.uri().path().to_owned();
    if path == "/healthz" {
        return "ok\n".into_response();
    }
    if let Some(count) = path.strip_prefix("/bytes/") {
        return match count.parse() {
            Ok(count) if count <= BYTES_MAX => bytes(count),
            _ => {
                let message = format!("/bytes/N: N is a number up to {BYTES_MAX}\n");
                (StatusCode::BAD_REQUEST, message).into_response()
            }
        };
    }
    let (head, body) = request.into_parts();
    let size = match size(body).await {
        Ok(size) => size,
        Err(error) => {
            let message = format!("the body broke off: {error}\n");
            return (StatusCode::BAD_REQUEST, message).into_response();
        }
    };
    let mut answer = facts.clone();
    let mut headers = Map::new();
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        match headers.get_mut(name.as_str()) {
            // A header that comes again is one list (RFC 9110, section 5.3).
            Some(Value::String(known)) => known.extend([", ", &value]),
            _ => {
                headers.insert(name.to_string(), value.into());
            }
        }
    }
    answer.insert("method".into(), head.method.as_str().into());
    answer.insert("path".into(), head.uri.to_string().into());
    answer.insert("headers".into(), headers.into());
    answer.insert("bodyBytes".into(), size.into());
    let accept = head
        .headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    let mut response = if accept.is_some_and(|accept| accept.starts_with("text/plain")) {
        text(&answer).into_response()
    } else {
        axum::Json(Value::Object(answer)).into_response()
    };
    if head.method == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
    response
}

async fn size(body: Body) -> Result<u64, axum::Error> {
    let (mut chunks, mut size) = (body.into_data_stream(), 0);
    while let Some(chunk) = chunks.next().await {
        size += chunk?.len() as u64;
    }
    Ok(size)
}

/// An answer of so many bytes, made as they are sent.
fn bytes(count: u64) -> Response {
    const CHUNK: &[u8] = &[b'x'; 16 * 1024];
    let chunks = futures::stream::unfold(count, |left| async move {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK.len());
        let chunk = Bytes::from_static(&CHUNK[..length]);
        (length > 0).then(|| (Ok::<_, Infallible>(chunk), left - length as u64))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, count.to_string()),
    ];
    (headers, Body::from_stream(chunks)).into_response()
}

/// `name: value`, one a line, the request's headers below.
fn text(answer: &Map<String, Value>) -> String {
    let line = |indent: &str, name: &str, value: &Value| match value {
        Value::String(value) => format!("{indent}{name}: {value}\n"),
        value => format!("{indent}{name}: {value}\n"),
    };
    let mut text = String::new();
    for (name, value) in answer.iter().filter(|(_, value)| !value.is_null()) {
        if let Value::Object(headers) = value {
            text.extend([name, ":\n"]);
            text.extend(headers.iter().map(|(name, value)| line("  ", name, value)));
        } else {
            text.push_str(&line("", name, value));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn pod() -> Pod {
        let running = json!({"running": {"startedAt": "2026-11-28T10:00:00Z"}});
        let status = |name: &str, state: &Value| json!({"name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state});
        serde_json::from_value(json!({
            "metadata": {
                "name": "web-0", "namespace": "shop", "uid": "u1",
                "annotations": {"network.alibabacloud.com/allocated-eni-id": "eni-1"},
            },
            "spec": {"nodeName": "vk-b", "containers": [
                {"name": "app", "ports": [{"containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]},
                {"name": "down", "ports": [{"containerPort": 9090}]},
            ]},
            "status": {"podIP": "192.168.1.4", "containerStatuses": [
                status("app", &running), status("down", &json!({"waiting": {}})),
            ]},
        }))
        .unwrap()
    }

    async fn reply(stream: &mut DuplexStream) -> (String, Vec<u8>) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        (head, body)
    }

    #[tokio::test]
    async fn a_declared_port_tells_the_pod_and_the_request() {
        let mut stream = answer(&pod(), 8080).unwrap();
        let request = b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 5\r\n\r\nhello";
        stream.write_all(request).await.unwrap();
        let (head, body) = reply(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let got: Value = serde_json::from_slice(&body).unwrap();
        let want = json!({
            "pod": "web-0", "namespace": "shop", "uid": "u1", "container": "app", "port": 8080,
            "node": "vk-b", "zone": null, "address": "192.168.1.4", "eni": "eni-1",
            "method": "POST", "path": "/a?b=c", "bodyBytes": 5,
            "headers": {"host": "x", "x-a": "1, 2", "content-length": "5"},
        });
        assert_eq!(got, want);
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n")
            .await
            .unwrap();
        let text = String::from_utf8(reply(&mut stream).await.1).unwrap();
        assert!(
            text.contains("address: 192.168.1.4\n") && text.contains("  host: x\n"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn one_connection_carries_many_requests_and_large_bodies() {
        let mut stream = answer(&pod(), 8080).unwrap();
        for _ in 0..100 {
            stream
                .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap();
            assert_eq!(reply(&mut stream).await.1, b"ok\n");
        }
        stream
            .write_all(b"GET /bytes/10000000 HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(reply(&mut stream).await.1.len(), 10_000_000);
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n")
            .await
            .unwrap();
        stream.write_all(&vec![b'y'; 10_000_000]).await.unwrap();
        let got: Value = serde_json::from_slice(&reply(&mut stream).await.1).unwrap();
        assert_eq!(got["bodyBytes"], 10_000_000);
        for path in ["/bytes/x", "/bytes/9999999999999"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let (head, _) = reply(&mut stream).await;
            assert!(head.starts_with("HTTP/1.1 400"), "{head}");
        }
    }

    #[tokio::test]
    async fn other_ports_are_refused() {
        for port in [80, 53, 9090] {
            let want = format!(
                "error forwarding port {port} to pod web-0, uid u1: failed to connect to localhost:{port} \
                 inside the pod: dial tcp4 127.0.0.1:{port}: connect: connection refused"
            );
            assert_eq!(answer(&pod(), port).unwrap_err().to_string(), want);
        }
    }
}
