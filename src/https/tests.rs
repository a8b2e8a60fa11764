use axum::routing::{get, post};
use rustix::net::sockopt;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

/// Far above what anything here takes; only a failing test waits so long.
const LIMIT: Duration = Duration::from_secs(20);
/// Below every time-out, so that it is not one of them that makes room.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);
const PLACES: usize = 3;

/// Closes every connection.
struct NoCertificate;

impl Tls for NoCertificate {
    fn server_config(
        &self,
        _now: Timestamp,
    ) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error + Send + Sync>> {
        Err("there is none".into())
    }
}

#[tokio::test]
async fn a_listener_on_which_nobody_calls_holds_no_place() {
    let places = Arc::new(Places::new(1));
    let shutdown = CancellationToken::new();
    let mut addresses = Vec::new();
    let mut served = JoinSet::new();
    for _ in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        served.spawn(serve(
            listener,
            Arc::new(NoCertificate),
            Router::new(),
            Arc::clone(&places),
            shutdown.clone(),
        ));
    }
    for _ in 0..2 {
        for address in &addresses {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let answer = timeout(Duration::from_secs(10), stream.read(&mut [0; 1])).await;
            assert_eq!(answer.expect("it is accepted").unwrap(), 0);
        }
    }
    shutdown.cancel();
    served.join_all().await;
}

/// Shows one certificate.
struct OneCertificate(Arc<ServerConfig>);

impl Tls for OneCertificate {
    fn server_config(
        &self,
        _now: Timestamp,
    ) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Arc::clone(&self.0))
    }
}

/// A server with [`PLACES`], and who believes it.
struct Server {
    address: std::net::SocketAddr,
    connector: TlsConnector,
    _stop: tokio_util::sync::DropGuard,
}

impl Server {
    async fn start() -> Self {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let served = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let believed = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let router = Router::new()
            .route("/", get(async || "here"))
            .route("/slow", get(slow))
            .route("/echo", post(async |body: String| body));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(serve(
            listener,
            Arc::new(OneCertificate(Arc::new(served))),
            router,
            Arc::new(Places::new(PLACES)),
            shutdown.clone(),
        ));
        Self {
            address,
            connector: TlsConnector::from(Arc::new(believed)),
            _stop: shutdown.drop_guard(),
        }
    }

    /// A connection on which `request` was sent.
    async fn send(&self, request: &str) -> TlsStream<TcpStream> {
        let sent = async {
            let stream = TcpStream::connect(self.address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = self.connector.connect(name, stream).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            stream
        };
        timeout(LIMIT, sent).await.unwrap()
    }

    /// How long a new client waits for its answer.
    async fn answers(&self) -> Duration {
        let began = Instant::now();
        let mut stream = self.send("GET / HTTP/1.1\r\nhost: it\r\n\r\n").await;
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
        began.elapsed()
    }
}

/// Longer than who waits for his client keeps a place that somebody needs, by [`ANSWER_LIMIT`].
async fn slow() -> &'static str {
    tokio::time::sleep(ANSWER_LIMIT).await;
    "here"
}

/// The head of an answer, and whatever has come with it.
async fn answer(stream: &mut TlsStream<TcpStream>) -> String {
    let mut answer = vec![0; 4096];
    let length = timeout(LIMIT, stream.read(&mut answer)).await.unwrap();
    answer.truncate(length.unwrap());
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn idle_connections_make_room_for_who_has_something_to_ask() {
    let server = Server::start().await;
    let mut idle = Vec::new();
    for _ in 0..PLACES + 2 {
        let mut stream = server.send("GET / HTTP/1.1\r\nhost: it\r\n\r\n").await;
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
        idle.push(stream);
    }
    let waited = server.answers().await;
    assert!(waited < ANSWER_LIMIT, "{waited:?}");
}

#[tokio::test]
async fn halves_of_requests_make_room_for_who_has_something_to_ask() {
    let server = Server::start().await;
    let silent = TcpStream::connect(server.address).await.unwrap();
    let head = server.send("GET / HT").await;
    let body = "POST /echo HTTP/1.1\r\nhost: it\r\ncontent-length: 2\r\n\r\n1";
    let body = server.send(body).await;
    // Each needs the place of one of them.
    let began = Instant::now();
    let asked = (0..PLACES).map(|_| server.send("GET /slow HTTP/1.1\r\nhost: it\r\n\r\n"));
    let asked = futures::future::join_all(asked).await;
    assert!(began.elapsed() < ANSWER_LIMIT, "{:?}", began.elapsed());
    for mut stream in asked {
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
    drop((silent, head, body));
}

#[tokio::test]
async fn who_is_served_keeps_the_place_that_another_needs() {
    let server = Server::start().await;
    let mut served = Vec::new();
    for _ in 0..PLACES {
        served.push(server.send("GET /slow HTTP/1.1\r\nhost: it\r\n\r\n").await);
    }
    server.answers().await;
    for mut stream in served {
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn who_is_refused_is_sent_away_and_who_is_answered_may_ask_again() {
    let server = Server::start().await;
    let mut refused = server.send("GET /none HTTP/1.1\r\nhost: it\r\n\r\n").await;
    let head = answer(&mut refused).await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(answer(&mut refused).await, "");

    let echo = "POST /echo HTTP/1.1\r\nhost: it\r\ncontent-length: 2\r\n\r\n12";
    let mut answered = server.send(echo).await;
    for _ in 0..2 {
        let head = answer(&mut answered).await;
        assert!(head.contains("content-length: 2"), "{head}");
        answered.write_all(echo.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_dies_in_silence_is_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (stream, _place) = accept(&listener, &Arc::new(Places::new(1))).await.unwrap();
    assert!(sockopt::socket_keepalive(&stream).unwrap());
    assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), PROBE_IDLE);
    assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), PROBE_INTERVAL);
    assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), PROBES);
    assert!(stream.nodelay().unwrap());
}
