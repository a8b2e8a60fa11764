//! Forwarded ports: over SPDY, over SPDY in a WebSocket, over channels.

use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use holdfast_spdy::StreamId;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::tungstenite::Message;

use super::super::port_forward;
use super::super::tunnel::Tunnel;
use super::super::{TIMEOUTS, Timeouts};
use super::client::{SpdyClient, websocket};
use super::{SHORT, noise, serve, soon};

const PROTOCOL: &[&str] = &["portforward.k8s.io"];
const MEGABYTE: usize = 1024 * 1024;

/// Port 80 says the port and everything it has heard when it has heard all; port 7 echoes; no other listens.
async fn connect(port: u16) -> Result<DuplexStream, String> {
    let (near, mut far) = tokio::io::duplex(10_000);
    match port {
        80 => {
            tokio::spawn(async move {
                let mut heard = b"80:".to_vec();
                far.read_to_end(&mut heard).await.unwrap();
                // A client that breaks off hears nothing.
                let _ = far.write_all(&heard).await;
            });
            Ok(near)
        }
        7 => {
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(far);
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
            Ok(near)
        }
        _ => Err(format!("connection refused by port {port}")),
    }
}

async fn server(timeouts: Timeouts) -> SocketAddr {
    serve(move |request| async move { port_forward::serve(request, timeouts, connect) }).await
}

/// The client over SPDY itself, and over SPDY in a WebSocket.
async fn clients(address: SocketAddr) -> [SpdyClient; 2] {
    let tunnel = "SPDY/3.1+portforward.k8s.io";
    let socket = websocket(address, "", tunnel).await.unwrap();
    [
        SpdyClient::connect(address, "", PROTOCOL).await,
        SpdyClient::over(Tunnel::new(socket)),
    ]
}

fn open(client: &SpdyClient, port: &str, request: &str) -> (StreamId, StreamId) {
    let stream = |kind| client.open([("streamType", kind), ("port", port), ("requestID", request)]);
    let error = stream("error");
    // As kubectl does: it has nothing to say there.
    drop(client.shared.writer(error));
    (error, stream("data"))
}

#[tokio::test]
async fn many_connections_each_get_their_own_answer_after_they_have_ended() {
    let address = server(TIMEOUTS).await;
    for client in clients(address).await {
        let client = &client;
        let one = async |number: usize| {
            let (error, data) = open(client, "80", &number.to_string());
            let sent = noise(number * 1000);
            let mut writer = client.shared.writer(data);
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
            let heard = client.read_all(data).await.unwrap();
            assert!(heard == [b"80:", &sent[..]].concat(), "{number}");
            assert_eq!(client.read_all(error).await.unwrap(), b"");
        };
        // 100 at a time, and more over all than a session may have streams.
        for _ in 0..3 {
            soon(futures::future::join_all((0..100).map(one))).await;
        }
    }
}

#[tokio::test]
async fn a_megabyte_goes_through_and_back() {
    let address = server(TIMEOUTS).await;
    for client in clients(address).await {
        soon(async {
            let (error, data) = open(&client, "7", "0");
            let mut writer = client.shared.writer(data);
            let sent = noise(MEGABYTE);
            let send = async {
                writer.write_all(&sent).await?;
                writer.shutdown().await
            };
            let (heard, ()) = tokio::try_join!(client.read_all(data), send).unwrap();
            assert!(heard == sent);
            assert_eq!(client.read_all(error).await.unwrap(), b"");
        })
        .await;
    }
}

#[tokio::test]
async fn a_port_that_does_not_listen_is_told_and_the_others_go_on() {
    let address = server(TIMEOUTS).await;
    for client in clients(address).await {
        soon(async {
            let (error, data) = open(&client, "81", "0");
            let told = client.read_all(error).await.unwrap();
            let text = String::from_utf8(told).unwrap();
            let expected = "error forwarding port 81 to pod: connection refused by port 81";
            assert_eq!(text, expected);
            client.read_all(data).await.unwrap_err();

            let (_, data) = open(&client, "80", "1");
            drop(client.shared.writer(data));
            assert_eq!(client.read_all(data).await.unwrap(), b"80:");
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_resets_its_data_hears_of_no_error() {
    let address = server(TIMEOUTS).await;
    for client in clients(address).await {
        soon(async {
            let (error, data) = open(&client, "7", "0");
            let (mut writer, mut reader) = (client.shared.writer(data), client.shared.reader(data));
            writer.write_all(b"x").await.unwrap();
            reader.read_u8().await.unwrap();
            client.shared.with(|session| session.release(data));
            assert_eq!(client.read_all(error).await.unwrap(), b"");
        })
        .await;
    }
}

#[tokio::test]
async fn clients_that_name_no_request_are_paired_by_the_order_of_their_streams() {
    let client = SpdyClient::connect(server(TIMEOUTS).await, "", PROTOCOL).await;
    let _error = client.open([("streamType", "error"), ("port", "80")]);
    let data = client.open([("streamType", "data"), ("port", "80")]);
    drop(client.shared.writer(data));
    assert_eq!(soon(client.read_all(data)).await.unwrap(), b"80:");
}

#[tokio::test]
async fn streams_that_make_no_sense_are_reset_and_the_others_go_on() {
    let client = SpdyClient::connect(server(TIMEOUTS).await, "", PROTOCOL).await;
    soon(async {
        let (_, data) = open(&client, "80", "0");
        let wrong: [[(&str, &str); 3]; 5] = [
            [("streamType", "data"), ("requestID", "1"), ("x", "")],
            [("streamType", "data"), ("requestID", "1"), ("port", "0")],
            [("streamType", "data"), ("requestID", "1"), ("port", "http")],
            [("streamType", "stdin"), ("requestID", "1"), ("port", "80")],
            [("streamType", ""), ("requestID", "1"), ("port", "80")],
        ];
        for headers in wrong {
            let id = client.open(headers);
            client.read_all(id).await.unwrap_err();
        }
        let same = [("streamType", "data"), ("requestID", "2"), ("port", "80")];
        client.open(same);
        let second = client.open(same);
        client.read_all(second).await.unwrap_err();
        drop(client.shared.writer(data));
        assert_eq!(client.read_all(data).await.unwrap(), b"80:");
    })
    .await;
}

#[tokio::test]
async fn half_a_pair_is_given_up_in_time() {
    let timeouts = Timeouts {
        idle: TIMEOUTS.idle,
        ..SHORT
    };
    let client = SpdyClient::connect(server(timeouts).await, "", PROTOCOL).await;
    soon(async {
        let half = |kind| [("streamType", kind), ("requestID", "1"), ("port", "80")];
        let error = client.open(half("error"));
        let told = client.read_all(error).await.unwrap();
        assert_eq!(told, b"timed out waiting for streams");
        let data = client.open(half("data"));
        client.read_all(data).await.unwrap_err();
    })
    .await;
}

#[tokio::test]
async fn channels_begin_with_their_port_and_carry_data_and_errors() {
    let address = server(TIMEOUTS).await;
    soon(async {
        let query = "?port=7&port=81";
        let mut socket = websocket(address, query, "v4.channel.k8s.io")
            .await
            .unwrap();
        let mut channels = vec![Vec::new(); 4];
        socket
            .send(Message::binary(b"\x00hello".to_vec()))
            .await
            .unwrap();
        while channels[0].len() < 7 || channels[3].len() < 3 {
            let message = socket.next().await.unwrap().unwrap().into_data();
            channels[usize::from(message[0])].extend_from_slice(&message[1..]);
        }
        assert_eq!(channels[0], b"\x07\x00hello");
        assert_eq!(channels[1], b"\x07\x00");
        assert_eq!(channels[2], b"\x51\x00");
        let expected = b"\x51\x00error forwarding port 81 to pod: connection refused by port 81";
        assert_eq!(channels[3], expected);
    })
    .await;
}
