//! Both directions of a session of `github.com/moby/spdystream` v0.5.1 with itself, recorded from its sockets: the
//! client opens error, stdin, stdout and stderr as `k8s.io/client-go/tools/remotecommand` does, pings, writes two
//! pieces to stdin and ends it; the server answers in upper case, warns and reports success.

use std::time::Instant;

use super::{deliver, events, id, read, session, take_output};
use crate::{Decoder, Event, Frame, GoAwayStatus, Item, Limits, Read, Role};

const CLIENT: &[u8] = include_bytes!("fixtures/spdystream-client.bin");
const SERVER: &[u8] = include_bytes!("fixtures/spdystream-server.bin");

#[test]
fn a_recorded_client_opens_writes_and_goes() {
    for piece in [1, 7, CLIENT.len()] {
        let mut server = session(Role::Server);
        let mut kinds = Vec::new();
        let mut gone = None;
        let (mut stdin, mut end) = (Vec::new(), Read::Pending);
        for bytes in CLIENT.chunks(piece) {
            for event in deliver(&mut server, bytes) {
                match event {
                    Event::Opened { id, headers } => {
                        kinds.push((id.get(), headers.get("streamType").unwrap().to_owned()));
                        server.accept(id);
                    }
                    Event::Readable(stream) if stream == id(3) => {
                        let (more, how) = read(&mut server, id(3));
                        stdin.extend(more);
                        end = how;
                    }
                    Event::GoAway(status) => gone = Some(status),
                    _ => {}
                }
            }
        }
        let opened = [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")];
        assert_eq!(kinds, opened.map(|(id, kind)| (id, kind.to_owned())));
        assert_eq!(stdin, b"hello, world\n");
        assert_eq!(end, Read::End);
        assert_eq!(gone, Some(GoAwayStatus::OK));
        let ping = take_output(&mut server);
        let pinged = frames(&ping)
            .into_iter()
            .any(|frame| frame == Frame::Ping(1));
        assert!(pinged, "the ping is answered with its own id");
    }
}

#[test]
fn a_recorded_server_accepts_and_answers() {
    let mut client = session(Role::Client);
    for kind in ["error", "stdin", "stdout", "stderr"] {
        client.open(super::kind(kind)).unwrap();
    }
    let accepted: Vec<_> = deliver(&mut client, SERVER)
        .into_iter()
        .filter_map(|event| match event {
            Event::Accepted(id) => Some(id.get()),
            _ => None,
        })
        .collect();
    assert_eq!(accepted, [1, 3, 5, 7]);
    let status = br#"{"metadata":{},"status":"Success"}"#.to_vec();
    assert_eq!(read(&mut client, id(1)), (status, Read::End));
    assert_eq!(read(&mut client, id(3)), (vec![], Read::End));
    assert_eq!(
        read(&mut client, id(5)),
        (b"HELLO, WORLD\n".to_vec(), Read::End)
    );
    assert_eq!(
        read(&mut client, id(7)),
        (b"a warning\n".to_vec(), Read::End)
    );
    assert!(events(&mut client).is_empty());
}

fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut decoder = Decoder::new(&Limits::default());
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let step = decoder.step(bytes, |_| usize::MAX).unwrap();
        bytes = &bytes[step.consumed..];
        if let Some(Item::Control(frame)) = step.item {
            frames.push(frame);
        }
    }
    frames
}

#[test]
fn a_client_that_is_only_slow_is_not_idle() {
    let limits = Limits::default();
    let start = Instant::now();
    let mut server = crate::Session::new(Role::Server, limits.clone(), start);
    let late = start + limits.idle_timeout.mul_f64(0.9);
    server.receive(CLIENT, late).unwrap();
    server.expire(start + limits.idle_timeout).unwrap();
    server.expire(late + limits.idle_timeout).unwrap_err();
}
