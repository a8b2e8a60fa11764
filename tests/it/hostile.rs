//! Clients that mean harm, against the kubelet API and the webhook of a running holdfast.
//!
//! What one of them may cost in memory, that others are still answered, and that it does not stay
//! for ever.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt, join_all};
use holdfast_spdy::{Encoder, Frame, Headers, StreamId};
use holdfast_testbed::eventually;
use kube::api::PostParams;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::support::*;

/// A legitimate client waits no longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const MEGABYTE: u64 = 1 << 20;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}
type Connection = Box<dyn Stream>;

/// What holdfast serves, and ways to it.
#[derive(Clone)]
struct Target {
    port: u16,
    webhook_port: u16,
    namespace: String,
    pid: u32,
    /// As the API server.
    known: TlsConnector,
    /// As nobody.
    unknown: TlsConnector,
}

impl Target {
    fn new(scene: &Scene, webhook_port: u16) -> Self {
        let file = |name: &str| scene.plane.dir().join(name);
        Self {
            port: scene.kubelet_port,
            webhook_port,
            namespace: scene.namespace.clone(),
            pid: scene.pid(),
            known: connector(Some((
                &file("kubelet-client.crt"),
                &file("kubelet-client.key"),
            ))),
            unknown: connector(None),
        }
    }

    async fn tcp(&self, port: u16) -> TcpStream {
        let connected = TcpStream::connect(("127.0.0.1", port)).await;
        connected.expect("the listener takes connections")
    }

    async fn tls(&self, port: u16, connector: &TlsConnector) -> Connection {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connected = connector.connect(name, self.tcp(port).await).await;
        Box::new(connected.expect("the handshake succeeds"))
    }

    /// A connection on which `head` was sent, and the code that it was answered with.
    async fn answer(&self, head: &str) -> (u16, Connection) {
        let mut connection = self.tls(self.port, &self.known).await;
        send(&mut connection, head.as_bytes()).await;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let byte = connection.read_u8().await;
            answer.push(byte.unwrap_or_else(|error| panic!("{error} after {answer:?}")));
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let code = answer
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3));
        (code.unwrap().parse().unwrap(), connection)
    }

    /// A session that does nothing, or what it is refused with.
    async fn exec(&self, upgrade: &str) -> (u16, Connection) {
        let path = format!("/exec/{}/web-0/main", self.namespace);
        let head = format!(
            "GET {path}?command=sleep&command=1000&input=1&output=1 HTTP/1.1\r\nHost: it\r\n\
             Connection: Upgrade\r\n{upgrade}\r\n\r\n"
        );
        self.answer(&head).await
    }

    async fn spdy(&self) -> Connection {
        let upgrade = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io";
        let (code, connection) = self.exec(upgrade).await;
        assert_eq!(code, 101);
        connection
    }

    async fn websocket(&self) -> Connection {
        let (code, connection) = self.exec_over_websocket().await;
        assert_eq!(code, 101);
        connection
    }

    async fn exec_over_websocket(&self) -> (u16, Connection) {
        self.exec(
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: v5.channel.k8s.io",
        )
        .await
    }

    /// How long a legitimate client waits for its answer.
    async fn answers(&self) -> Duration {
        let began = Instant::now();
        let head = "GET /healthz HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n";
        let (code, _) = timeout(Duration::from_mins(1), self.answer(head))
            .await
            .expect("holdfast answers");
        assert_eq!(code, 200);
        began.elapsed()
    }

    fn status(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let number = line
            .unwrap()
            .trim_start_matches(':')
            .split_whitespace()
            .next();
        number.unwrap().parse().unwrap()
    }

    fn resident_bytes(&self) -> u64 {
        self.status("VmRSS") * 1024
    }

    /// The most that was resident since [`Self::forget_peak`].
    fn peak_bytes(&self) -> u64 {
        self.status("VmHWM") * 1024
    }

    fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid), "5").unwrap();
    }

    /// Sockets of the process.
    fn sockets(&self) -> usize {
        let all = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap();
        let targets = all.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        let sockets = targets.filter(|target| target.to_string_lossy().starts_with("socket:"));
        sockets.count()
    }
}

/// A client's TLS, which believes every server.
fn connector(identity: Option<(&Path, &Path)>) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let schemes = provider
        .signature_verification_algorithms
        .supported_schemes();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous(schemes)));
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let certificate = CertificateDer::from_pem_file(certificate).unwrap();
            let key = PrivateKeyDer::from_pem_file(key).unwrap();
            config
                .with_client_auth_cert(vec![certificate], key)
                .unwrap()
        }
    };
    config.resumption = rustls::client::Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

#[derive(Debug)]
struct Credulous(Vec<SignatureScheme>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

async fn send(connection: &mut Connection, bytes: &[u8]) {
    connection.write_all(bytes).await.unwrap();
    connection.flush().await.unwrap();
}

/// So many connections that are made alike, a few at a time.
async fn many<F: Future<Output = Connection>>(
    count: usize,
    connect: impl Fn() -> F,
) -> Vec<Connection> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let some = (all.len()..count).take(50).map(|_| connect());
        all.extend(join_all(some).await);
    }
    all
}

/// `piece` again and again, until the server has closed or has taken a gigabyte.
async fn feed(mut connection: Connection, piece: &[u8]) -> Connection {
    let mut sent = 0;
    while sent < 1 << 30 {
        // A server that listens no more and does not close either is found later.
        match timeout(Duration::from_secs(2), connection.write(piece)).await {
            Ok(Ok(length @ 1..)) => sent += length,
            Ok(_) | Err(_) => break,
        }
    }
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    connection
}

fn syn(id: u32) -> Vec<u8> {
    let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
    let syn = Frame::SynStream {
        id: StreamId::new(id).unwrap(),
        associated: None,
        priority: 0,
        fin: false,
        unidirectional: false,
        headers: Headers::new([("streamtype", "error")]),
    };
    encoder.encode(&syn, &mut bytes).unwrap();
    bytes
}

/// 15 MB of one letter, compressed to 15 kB, as the headers of a stream.
fn zlib_bomb() -> Vec<u8> {
    let mut block = include_bytes!("../../src/kubelet/streaming/tests/zlib-bomb.bin").to_vec();
    let length = u32::try_from(block.len() + 10).unwrap();
    let mut frame = vec![0x80, 3, 0, 1];
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    frame.append(&mut block);
    frame
}

/// Sends `piece` every now and then until the server closes the connection.
async fn closed(mut connection: Connection, piece: &[u8]) {
    let mut bytes = [0; 4096];
    loop {
        match timeout(Duration::from_millis(200), connection.read(&mut bytes)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => return,
            // Whether it can be written does not tell whether it is closed.
            Err(_) => drop(connection.write_all(piece).await),
        }
    }
}

async fn slow_bodies(target: Target, port: u16) -> Vec<Connection> {
    let mut all = many(400, || target.tls(port, &target.unknown)).await;
    let head = b"POST /mutate HTTP/1.1\r\nHost: it\r\nContent-Type: application/json\r\n\
        Content-Length: 1000000\r\n\r\n{";
    for connection in &mut all {
        send(connection, head).await;
    }
    all
}

/// What a hostile client does, and what it may cost.
struct Attack {
    name: &'static str,
    begin: fn(Target) -> BoxFuture<'static, Vec<Connection>>,
    /// What each of its connections goes on to send.
    piece: &'static [u8],
    /// More than was resident before.
    bytes_max: u64,
    /// When the last of its connections is closed; `None` if they may stay.
    closed_within: Option<Duration>,
}

const ATTACKS: [Attack; 9] = [
    Attack {
        name: "half a SPDY frame and then silence",
        begin: |target| {
            async move {
                let mut all = many(20, || target.spdy()).await;
                let half = syn(1);
                for connection in &mut all {
                    send(connection, &half[..half.len() / 2]).await;
                }
                all
            }
            .boxed()
        },
        piece: b"",
        bytes_max: 32 * MEGABYTE,
        closed_within: Some(Duration::from_secs(45)),
    },
    Attack {
        name: "a thousand connections without a handshake",
        begin: |target| {
            async move {
                many(1000, async || {
                    Box::new(target.tcp(target.port).await) as Connection
                })
                .await
            }
            .boxed()
        },
        piece: b"",
        bytes_max: 32 * MEGABYTE,
        closed_within: Some(Duration::from_secs(10)),
    },
    Attack {
        name: "a thousand connections without a request",
        begin: |target| {
            async move { many(1000, || target.tls(target.port, &target.unknown)).await }.boxed()
        },
        piece: b"",
        bytes_max: 48 * MEGABYTE,
        closed_within: Some(Duration::from_secs(15)),
    },
    Attack {
        name: "a thousand idle exec sessions, and more until they are refused",
        begin: |target| {
            async move {
                let mut all = many(1000, || target.websocket()).await;
                for _ in 0..100 {
                    let (code, connection) = target.exec_over_websocket().await;
                    if code == 503 {
                        return all;
                    }
                    assert_eq!(code, 101);
                    all.push(connection);
                }
                panic!("{} sessions were let in", all.len());
            }
            .boxed()
        },
        piece: b"",
        bytes_max: 112 * MEGABYTE,
        closed_within: None,
    },
    Attack {
        name: "a zlib bomb as the headers of a SPDY stream",
        begin: |target| {
            async move {
                let mut all = many(50, || target.spdy()).await;
                let bomb = zlib_bomb();
                for connection in &mut all {
                    send(connection, &bomb).await;
                }
                all
            }
            .boxed()
        },
        piece: b"",
        bytes_max: 32 * MEGABYTE,
        closed_within: Some(Duration::from_secs(15)),
    },
    Attack {
        name: "a gigabyte of HTTP headers",
        begin: |target| {
            async move {
                let all = many(20, || target.tls(target.port, &target.unknown)).await;
                let line = format!("X-Much: {}\r\n", "a".repeat(8000));
                let all = all.into_iter().map(|mut connection| {
                    let line = &line;
                    async move {
                        let head = b"GET /healthz HTTP/1.1\r\nHost: it\r\n";
                        send(&mut connection, head).await;
                        feed(connection, line.as_bytes()).await
                    }
                });
                join_all(all).await
            }
            .boxed()
        },
        piece: b"",
        bytes_max: 32 * MEGABYTE,
        closed_within: Some(Duration::from_secs(15)),
    },
    Attack {
        name: "a body that comes a byte at a time",
        begin: |target| slow_bodies(target.clone(), target.port).boxed(),
        piece: b" ",
        bytes_max: 32 * MEGABYTE,
        closed_within: Some(Duration::from_secs(10)),
    },
    Attack {
        name: "a body that comes a byte at a time, to the webhook",
        begin: |target| slow_bodies(target.clone(), target.webhook_port).boxed(),
        piece: b" ",
        bytes_max: 32 * MEGABYTE,
        closed_within: Some(Duration::from_secs(10)),
    },
    Attack {
        name: "a WebSocket frame of four exabytes",
        begin: |target| {
            async move {
                let mut all = many(50, || target.websocket()).await;
                let mut frame = vec![0x82, 0xff];
                frame.extend((1_u64 << 62).to_be_bytes());
                frame.extend([0; 4 + 4096]);
                for connection in &mut all {
                    send(connection, &frame).await;
                }
                all
            }
            .boxed()
        },
        piece: b"",
        bytes_max: 32 * MEGABYTE,
        closed_within: Some(Duration::from_secs(15)),
    },
];

/// How long the API server waits until holdfast lets a pod onto its nodes.
async fn admission(scene: &Scene) -> Duration {
    let began = Instant::now();
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pod = TestPod::ordinary("asked").object();
    let pod = scene.pods().create(&params, &pod).await.unwrap();
    let tolerations = pod.spec.unwrap().tolerations.unwrap_or_default();
    let tolerates = |key| {
        tolerations
            .iter()
            .any(|one| one.key.as_deref() == Some(key))
    };
    assert!(tolerates("virtual-kubelet.io/provider"));
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_cost_bounded_memory_and_nobody_elses_answers() {
    let webhook_port = free_ports_in_a_row(1);
    let webhook = format!("profile: fast\nwebhook: {{port: {webhook_port}}}");
    let scene = Scene::start_alone(&two_zones(&webhook)).await;
    scene
        .create(&TestPod::ordinary("web-0").on_node(NODE_B))
        .await;
    scene.running("web-0").await;
    let target = Target::new(&scene, webhook_port);
    eventually("certificates are known", PATIENCE, async || {
        let head = "GET /healthz HTTP/1.1\r\nHost: it\r\n\r\n";
        match target.answer(head).await {
            (200, _) => Ok(()),
            (code, _) => Err(code.to_string()),
        }
    })
    .await
    .unwrap();
    let sockets_before = target.sockets();
    let mut closings = BTreeMap::new();
    for attack in ATTACKS {
        let began = Instant::now();
        let before = target.resident_bytes();
        target.forget_peak();
        let connections = (attack.begin)(target.clone()).await;
        let begun = began.elapsed();
        let mut waited = Vec::new();
        for _ in 0..3 {
            waited.push(target.answers().await);
        }
        let cost = target.peak_bytes().saturating_sub(before);
        println!(
            "{}: {} connections in {begun:?}, {} KiB, answers after {waited:?}",
            attack.name,
            connections.len(),
            cost / 1024
        );
        assert!(cost <= attack.bytes_max, "{}: {cost} bytes", attack.name);
        waited.push(admission(&scene).await);
        let slowest = waited.into_iter().max().unwrap();
        assert!(slowest < ANSWER_LIMIT, "{}: {slowest:?}", attack.name);
        if let Some(limit) = attack.closed_within {
            let all = connections.into_iter().map(|one| closed(one, attack.piece));
            let all = join_all(all);
            let closing = tokio::spawn(async move {
                all.await;
                began.elapsed()
            });
            closings.insert(attack.name, (began + limit, limit, closing));
        } else {
            drop(connections);
        }
    }
    for (name, (deadline, limit, closing)) in closings {
        let took = tokio::time::timeout_at(deadline.max(Instant::now()).into(), closing).await;
        let took = took.unwrap_or_else(|_| panic!("{name}: connections are open after {limit:?}"));
        let took = took.unwrap();
        println!("{name}: all are closed after {took:?}");
        assert!(took <= limit, "{name}: closed after {took:?}");
    }
    eventually("no connection is left", PATIENCE, async || {
        let left = target.sockets();
        // Some more to the API server are kept for a while.
        (left <= sockets_before + 256)
            .then_some(())
            .ok_or(format!("{left} sockets, {sockets_before} before"))
    })
    .await
    .unwrap();
}
