//! Clients that mean harm, over a pipe. What a connection has taken of them when it ends, whether it has ended it
//! at once or has stopped to listen until nothing was said for too long, is all that it can have held.

use std::sync::{Arc, Mutex};

use axum::extract::Request;
use holdfast_spdy::{Encoder, Frame, Headers, StreamId};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, Semaphore};

use super::super::exec::{self, WEBSOCKET, Wanted};
use super::super::{ExecOptions, ExitStatus, Streams, TIMEOUTS, Timeouts, port_forward, websocket};
use super::client::SpdyClient;
use super::{SHORT, soon};
use crate::https::{Outflow, Watched};

const PIPE_LEN: usize = 16 * 1024;
/// The pipe, the buffers of a session, and some room for those of the layers between.
const BOUND: usize = 512 * 1024;

/// A port that neither reads nor writes, as long as its other end is kept.
async fn deaf(_: u16) -> Result<DuplexStream, String> {
    let (near, far) = tokio::io::duplex(1);
    std::mem::forget(far);
    Ok(near)
}

/// Sends `first` and then `piece` over and over until the server closes.
async fn feed(mut client: DuplexStream, first: &[u8], piece: &[u8]) -> usize {
    let mut taken = 0;
    if client.write_all(first).await.is_ok() {
        taken += first.len();
        while let Ok(len) = client.write(piece).await {
            taken += len;
            if piece.is_empty() {
                // Said enough: only the server can end it now.
                client.write_all(&[]).await.unwrap();
                tokio::io::AsyncReadExt::read_to_end(&mut client, &mut Vec::new())
                    .await
                    .unwrap();
                break;
            }
        }
    }
    taken
}

fn encode(frames: &[Frame]) -> Vec<u8> {
    let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
    for frame in frames {
        encoder.encode(frame, &mut bytes).unwrap();
    }
    bytes
}

fn syn(id: u32, kind: &str, port: &str, request: &str) -> Frame {
    Frame::SynStream {
        id: StreamId::new(id).unwrap(),
        associated: None,
        priority: 0,
        fin: false,
        unidirectional: false,
        headers: Headers::new([("streamtype", kind), ("port", port), ("requestid", request)]),
    }
}

/// 15 MB of one letter, compressed to 15 kB, as the headers of a stream.
fn bomb() -> Vec<u8> {
    let mut frame = include_bytes!("zlib-bomb.bin").to_vec();
    let len = u32::try_from(frame.len() + 10).unwrap();
    let mut head = vec![0x80, 3, 0, 1];
    head.extend(len.to_be_bytes());
    head.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    head.append(&mut frame);
    head
}

#[tokio::test]
async fn a_spdy_client_costs_bounded_memory_whatever_it_sends() {
    let pair = encode(&[syn(1, "error", "80", "1"), syn(3, "data", "80", "1")]);
    let endless_data = [&pair[..], &[0, 0, 0, 3, 0, 0xff, 0xff, 0xff]].concat();
    let ping = encode(&vec![Frame::Ping(1); 100]);
    let table: [(&str, Vec<u8>, Vec<u8>); 7] = [
        ("nothing", vec![], vec![]),
        ("half a head", vec![0x80, 3, 0, 1], vec![]),
        ("half a frame", pair[..pair.len() - 5].to_vec(), vec![]),
        ("a zlib bomb", bomb(), vec![0; 1000]),
        (
            "a gigabyte of headers",
            vec![0x80, 3, 0, 8, 0, 0xff, 0xff, 0xff],
            vec![0; 1000],
        ),
        ("data that nobody reads", endless_data, vec![0; 1000]),
        ("pings without reading", vec![], ping),
    ];
    for (name, first, piece) in table {
        let (near, far) = tokio::io::duplex(PIPE_LEN);
        let server = port_forward::over_spdy(far, SHORT, deaf);
        let (taken, ()) = soon(async { tokio::join!(feed(near, &first, &piece), server) }).await;
        assert!(taken < BOUND, "{name}: {taken} bytes");
    }
}

#[tokio::test]
async fn a_websocket_client_costs_bounded_memory_whatever_it_sends() {
    const THROWN_AWAY: usize = websocket::THROWN_AWAY_MAX as usize;
    // Masked with zeroes: the data stands as it is.
    let head = |len: u64| [&[0x82, 0xff][..], &len.to_be_bytes(), &[0; 4]].concat();
    let stdin = [head(30_000), vec![0; 30_000]].concat();
    let fragments = {
        let mut first = head(30_000);
        first[0] = 0x02;
        first
    };
    let fragment = {
        let mut next = stdin.clone();
        next[0] = 0;
        next
    };
    let table: [(&str, Vec<u8>, Vec<u8>, usize); 6] = [
        ("nothing", vec![], vec![], BOUND),
        ("half a head", vec![0x82, 0xff], vec![], BOUND),
        ("half a message", stdin[..100].to_vec(), vec![], BOUND),
        (
            "a message of a gigabyte",
            head(1 << 30),
            vec![0; 1000],
            BOUND + THROWN_AWAY,
        ),
        (
            "a message of a gigabyte in pieces",
            [fragments, vec![0; 30_000]].concat(),
            fragment,
            BOUND + 2 * 1024 * 1024,
        ),
        ("input that nobody reads", vec![], stdin, BOUND),
    ];
    let wanted = Wanted::of(&ExecOptions::from_query("input=1", "app").unwrap());
    for (name, first, piece, bound) in table {
        let (near, far) = tokio::io::duplex(PIPE_LEN);
        let (_, version) = WEBSOCKET[0];
        let run = async |streams| {
            let _keep = streams;
            std::future::pending::<ExitStatus>().await
        };
        let server = exec::over_websocket(far, wanted, version, SHORT, run);
        let (taken, ()) = soon(async { tokio::join!(feed(near, &first, &piece), server) }).await;
        assert!(taken < bound, "{name}: {taken} bytes");
    }
}

#[tokio::test]
async fn of_a_thousand_idle_streams_most_are_refused() {
    let (near, far) = tokio::io::duplex(PIPE_LEN);
    let timeouts = Timeouts {
        idle: SHORT.idle,
        ..TIMEOUTS
    };
    let server = tokio::spawn(port_forward::over_spdy(far, timeouts, deaf));
    let client = SpdyClient::over(near);
    let streams: Vec<_> = (0..1000)
        .map(|number: u32| {
            let request = number.to_string();
            client.open([
                ("streamType", "data"),
                ("port", "80"),
                ("requestID", &request),
            ])
        })
        .collect();
    soon(async {
        let (kept, refused) = streams.split_at(256);
        for id in refused {
            client.read_all(*id).await.unwrap_err();
        }
        for id in kept {
            let mut writer = client.shared.writer(*id);
            writer.write_all(b"accepted").await.unwrap();
        }
        // None of them is ever paired or used: the connection ends as idle.
        server.await.unwrap();
    })
    .await;
}

/// Asks over a short pipe for a command that ends before anything of what it wrote was read. `streams`: what a client
/// sends that opens them.
async fn unread(
    protocol: &str,
    streams: &[u8],
    held: impl Send + 'static,
    outflow: &Outflow,
) -> DuplexStream {
    let (mut near, far) = tokio::io::duplex(PIPE_LEN);
    let ended = Arc::new(Notify::new());
    let (held, end) = (Arc::new(Mutex::new(Some(held))), ended.clone());
    let router = axum::Router::new().fallback(move |request: Request| {
        let (held, end) = (held.lock().unwrap().take().unwrap(), end.clone());
        let options = ExecOptions::from_query("output=1", "app").unwrap();
        let timeouts = Timeouts {
            linger: SHORT.linger,
            ..TIMEOUTS
        };
        let run = async move |streams: Streams| {
            let mut stdout = streams.stdout.unwrap();
            stdout.write_all(&vec![0; 2 * PIPE_LEN]).await.unwrap();
            end.notify_one();
            ExitStatus::SUCCESS
        };
        let answer = exec::serve(request, &options, timeouts, held, run);
        std::future::ready(answer)
    });
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .serve_connection(TokioIo::new(Watched::new(far, outflow.clone())), service)
        .with_upgrades();
    tokio::spawn(connection);
    let head =
        format!("GET /exec HTTP/1.1\r\nHost: it\r\nConnection: Upgrade\r\n{protocol}\r\n\r\n");
    near.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(near.read_u8().await.unwrap());
    }
    near.write_all(streams).await.unwrap();
    soon(ended.notified()).await;
    near
}

#[tokio::test]
async fn a_client_that_does_not_read_keeps_its_place_after_its_command_until_it_is_ended() {
    let websocket = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                     Sec-WebSocket-Protocol: v5.channel.k8s.io";
    let spdy = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io";
    let streams = encode(&[syn(1, "error", "0", "0"), syn(3, "stdout", "0", "0")]);
    for (protocol, streams) in [(websocket, &[][..]), (spdy, &streams)] {
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().try_acquire_owned().unwrap();
        let outflow = Outflow::default();
        let client = unread(protocol, streams, place, &outflow).await;
        soon(outflow.stuck()).await;
        tokio::time::sleep(SHORT.linger * 3).await;
        assert_eq!(places.available_permits(), 0, "it has not got everything");
        outflow.end();
        let _free = soon(places.acquire()).await.unwrap();
        drop(client);
    }
}
