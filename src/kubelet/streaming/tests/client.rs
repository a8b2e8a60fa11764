//! Clients: SPDY by the session of this project in its other role, WebSocket by tungstenite's.

use std::net::SocketAddr;
use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use holdfast_spdy::{Headers, Limits, Role, Session, StreamId};
use http::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::super::mux::Shared;
use super::super::spdy;
use super::PATIENCE;

pub(super) struct SpdyClient {
    pub(super) shared: Arc<Shared<Session>>,
    pub(super) driver: JoinHandle<std::io::Result<()>>,
}

impl SpdyClient {
    pub(super) fn over<S>(io: S) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let limits = Limits {
            streams: usize::MAX,
            ..Limits::default()
        };
        let (shared, _, driver) = spdy::connect(io, Role::Client, limits, PATIENCE);
        let driver = tokio::spawn(driver);
        Self { shared, driver }
    }

    pub(super) async fn connect(address: SocketAddr, query: &str, protocols: &[&str]) -> Self {
        let (head, stream) = upgrade(address, query, protocols).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("upgrade: SPDY/3.1"), "{head}");
        Self::over(stream)
    }

    pub(super) fn open<const N: usize>(&self, headers: [(&str, &str); N]) -> StreamId {
        let headers = Headers::new(headers);
        self.shared.with(|session| session.open(headers)).unwrap()
    }

    pub(super) fn open_kind(&self, kind: &str) -> StreamId {
        self.open([("streamType", kind)])
    }

    pub(super) async fn read_all(&self, id: StreamId) -> std::io::Result<Vec<u8>> {
        let mut all = Vec::new();
        self.shared.reader(id).read_to_end(&mut all).await?;
        Ok(all)
    }
}

/// Asks for SPDY; the head of the answer, and the connection after it.
pub(super) async fn upgrade(
    address: SocketAddr,
    query: &str,
    protocols: &[&str],
) -> (String, TcpStream) {
    let offers = protocols
        .iter()
        .map(|protocol| format!("X-Stream-Protocol-Version: {protocol}\r\n"));
    let offers: String = offers.collect();
    let upgrade = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
    let head = format!("POST /{query} HTTP/1.1\r\nHost: node\r\n{upgrade}{offers}\r\n");
    send(address, &head).await
}

/// Sends the head of a request and reads that of the answer.
pub(super) async fn send(address: SocketAddr, request: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (String::from_utf8(head).unwrap(), stream)
}

pub(super) async fn websocket(
    address: SocketAddr,
    query: &str,
    protocol: &str,
) -> Result<WebSocketStream<TcpStream>, Error> {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut request = format!("ws://{address}/{query}").into_client_request()?;
    if !protocol.is_empty() {
        let protocol = HeaderValue::from_str(protocol).unwrap();
        let headers = request.headers_mut();
        headers.insert("Sec-WebSocket-Protocol", protocol);
    }
    let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
    Ok(socket)
}

/// What a server has sent on each channel until it closed the WebSocket in good order.
pub(super) async fn collect(
    socket: &mut (impl StreamExt<Item = Result<Message, Error>> + Unpin),
) -> Vec<Vec<u8>> {
    let mut channels = vec![Vec::new(); 8];
    loop {
        match socket.next().await.expect("a close message comes first") {
            Ok(Message::Binary(message)) => {
                channels[usize::from(message[0])].extend_from_slice(&message[1..]);
            }
            Ok(Message::Text(text)) => {
                use base64::Engine;
                let data = base64::engine::general_purpose::STANDARD.decode(&text.as_bytes()[1..]);
                channels[usize::from(text.as_bytes()[0] - b'0')].extend(data.unwrap());
            }
            Ok(Message::Close(Some(frame))) => {
                assert_eq!(u16::from(frame.code), 1000);
                return channels;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Sends `bytes` on a channel in messages of 20,000 bytes.
pub(super) async fn send_all(
    socket: &mut (impl SinkExt<Message, Error = Error> + Unpin),
    channel: u8,
    bytes: &[u8],
) {
    for piece in bytes.chunks(20_000) {
        let message = [&[channel], piece].concat();
        socket.send(Message::binary(message)).await.unwrap();
    }
}
