//! Two sessions of this crate, one at each end.

use std::time::Instant;

use super::{deliver, events, exchange, id, kind, read, session, take_output};
use crate::stream::WINDOW;
use crate::{
    Encoder, Event, Frame, GoAwayStatus, Limits, Read, Role, RstStatus, Session, SessionError,
    Setting, StreamId, WriteError,
};

fn encode(frames: &[Frame]) -> Vec<u8> {
    let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
    for frame in frames {
        encoder.encode(frame, &mut bytes).unwrap();
    }
    bytes
}

/// A client and a server with one accepted stream.
fn pair() -> (Session, Session, StreamId) {
    let (mut client, mut server) = (session(Role::Client), session(Role::Server));
    let stream = client.open(kind("stdin")).unwrap();
    exchange(&mut client, &mut server);
    server.accept(stream);
    exchange(&mut client, &mut server);
    (client, server, stream)
}

#[test]
fn nothing_is_sent_on_a_stream_before_it_is_accepted() {
    let (mut client, mut server) = (session(Role::Client), session(Role::Server));
    let stream = client.open(kind("stdin")).unwrap();
    let (_, seen) = exchange(&mut client, &mut server);
    let headers = kind("stdin");
    assert_eq!(
        seen,
        [Event::Opened {
            id: stream,
            headers
        }]
    );
    assert_eq!(client.write(stream, b"early"), Ok(0));
    assert_eq!(server.write(stream, b"early"), Ok(0));
    server.accept(stream);
    server.accept(stream);
    let (seen, _) = exchange(&mut client, &mut server);
    assert_eq!(seen, [Event::Accepted(stream)]);
    assert_eq!(client.write(stream, b"now"), Ok(3));
}

#[test]
fn each_side_ends_alone_and_the_other_goes_on() {
    let (mut client, mut server, stream) = pair();
    client.write(stream, b"in").unwrap();
    client.finish(stream);
    assert_eq!(client.write(stream, b"more"), Err(WriteError::Ended));
    exchange(&mut client, &mut server);
    assert_eq!(read(&mut server, stream), (b"in".to_vec(), Read::End));
    assert_eq!(server.write(stream, b"out"), Ok(3));
    exchange(&mut client, &mut server);
    assert_eq!(read(&mut client, stream), (b"out".to_vec(), Read::Pending));
    server.finish(stream);
    let (seen, _) = exchange(&mut client, &mut server);
    assert_eq!(seen, [Event::Readable(stream)]);
    assert_eq!(read(&mut client, stream), (vec![], Read::End));
    server.release(stream);
    assert_eq!(server.output(), b"", "an ended stream needs no reset");
}

#[test]
fn what_came_before_a_reset_is_still_read() {
    let (mut client, mut server, stream) = pair();
    client.write(stream, b"tail").unwrap();
    client.release(stream);
    exchange(&mut client, &mut server);
    assert_eq!(read(&mut server, stream), (b"tail".to_vec(), Read::Reset));
    assert_eq!(server.write(stream, b"x"), Err(WriteError::Reset));
    server.release(stream);
    assert_eq!(server.output(), b"", "a reset is not answered");
}

#[test]
fn a_refused_stream_is_reset_and_the_session_goes_on() {
    let (mut client, mut server) = (session(Role::Client), session(Role::Server));
    let stream = client.open(kind("nonsense")).unwrap();
    exchange(&mut client, &mut server);
    server.reset(stream, RstStatus::REFUSED_STREAM);
    exchange(&mut client, &mut server);
    assert_eq!(read(&mut client, stream).1, Read::Reset);
    let next = client.open(kind("stdin")).unwrap();
    let (_, seen) = exchange(&mut client, &mut server);
    assert!(matches!(seen[..], [Event::Opened { id, .. }] if id == next));
}

#[test]
fn streams_beyond_the_limit_are_refused() {
    let (mut client, mut server) = (session(Role::Client), session(Role::Server));
    let max = Limits::default().streams;
    let streams: Vec<_> = (0..max + 5)
        .map(|_| client.open(kind("data")).unwrap())
        .collect();
    exchange(&mut client, &mut server);
    assert_eq!(server.streams(), max);
    assert_eq!(read(&mut client, streams[max - 1]).1, Read::Pending);
    for refused in &streams[max..] {
        assert_eq!(read(&mut client, *refused).1, Read::Reset);
    }
    server.release(streams[0]);
    let again = client.open(kind("data")).unwrap();
    exchange(&mut client, &mut server);
    assert_eq!(read(&mut client, again).1, Read::Pending);
}

#[test]
fn a_megabyte_each_way_arrives_whole() {
    let (mut client, mut server, stream) = pair();
    let up: Vec<u8> = (0..1_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let down: Vec<u8> = up.iter().rev().copied().collect();
    let (mut sent_up, mut sent_down) = (0, 0);
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    while got_up.len() < up.len() || got_down.len() < down.len() {
        sent_up += client.write(stream, &up[sent_up..]).unwrap();
        sent_down += server.write(stream, &down[sent_down..]).unwrap();
        exchange(&mut client, &mut server);
        got_up.extend(read(&mut server, stream).0);
        got_down.extend(read(&mut client, stream).0);
    }
    assert!(got_up == up && got_down == down);
}

#[test]
fn what_nobody_reads_is_not_taken() {
    let (_, mut server, stream) = pair();
    let limit = Limits::default().stream_buffer_len;
    let bytes = vec![1; 3 * limit];
    let data = encode(&[Frame::Data {
        id: stream,
        fin: true,
        bytes,
    }]);
    let taken = server.receive(&data, Instant::now()).unwrap();
    assert_eq!(taken, 8 + limit);
    assert_eq!(server.receive(&data[taken..], Instant::now()), Ok(0));
    let mut some = [0; 10];
    assert_eq!(server.read(stream, &mut some), Read::Data(10));
    assert_eq!(server.receive(&data[taken..], Instant::now()), Ok(10));
    let mut left = &data[taken + 10..];
    let mut got = 10;
    while !left.is_empty() {
        got += read(&mut server, stream).0.len();
        left = &left[server.receive(left, Instant::now()).unwrap()..];
    }
    let (tail, end) = read(&mut server, stream);
    assert_eq!((got + tail.len(), end), (3 * limit, Read::End));
}

#[test]
fn output_waits_for_the_transport() {
    let (_, mut server, stream) = pair();
    let limit = Limits::default().output_len;
    let piece = vec![0; 50_000];
    while server.write(stream, &piece).unwrap() > 0 {}
    assert!(server.output().len() < limit + 100);
    events(&mut server);
    server.sent(1000, Instant::now());
    assert_eq!(events(&mut server), [Event::Writable(None)]);
    assert!(server.write(stream, &piece).unwrap() > 0);
}

#[test]
fn a_peer_that_keeps_no_windows_is_sent_more_than_one() {
    let (mut client, mut server, stream) = pair();
    let piece = vec![0; WINDOW as usize];
    let mut sent = 0;
    for _ in 0..8 {
        sent += server.write(stream, &piece).unwrap();
        take_output(&mut server);
    }
    assert!(sent > 2 * WINDOW as usize);
    assert!(events(&mut client).is_empty());
}

#[test]
fn a_peer_that_keeps_windows_is_sent_no_more_than_they_allow() {
    let (_, mut server, stream) = pair();
    deliver(
        &mut server,
        &encode(&[Frame::Settings {
            clear: false,
            entries: vec![Setting {
                flags: 0,
                id: Setting::INITIAL_WINDOW_SIZE,
                value: 10,
            }],
        }]),
    );
    assert_eq!(server.write(stream, &[0; 100]), Ok(10));
    assert_eq!(server.write(stream, &[0; 100]), Ok(0));
    let grown = deliver(
        &mut server,
        &encode(&[Frame::WindowUpdate {
            id: Some(stream),
            delta: 5,
        }]),
    );
    assert_eq!(grown, [Event::Writable(Some(stream))]);
    assert_eq!(server.write(stream, &[0; 100]), Ok(5));
}

#[test]
fn a_peer_that_keeps_windows_gets_them_back() {
    let (_, mut server, stream) = pair();
    let data = |len| {
        let bytes = vec![0; len];
        encode(&[Frame::Data {
            id: stream,
            fin: false,
            bytes,
        }])
    };
    let full = WINDOW as usize;
    deliver(&mut server, &data(full - 1));
    read(&mut server, stream);
    assert_eq!(server.output(), b"");
    deliver(&mut server, &data(1));
    read(&mut server, stream);
    let update = |id| Frame::WindowUpdate { id, delta: WINDOW };
    let both = encode(&[update(None), update(Some(stream))]);
    assert_eq!(server.output(), both);
}

#[test]
fn a_peer_that_overruns_its_window_is_told_nothing_of_windows() {
    let (_, mut server, stream) = pair();
    for _ in 0..4 {
        let bytes = vec![0; WINDOW as usize / 2 + 1];
        let data = Frame::Data {
            id: stream,
            fin: false,
            bytes,
        };
        let data = encode(&[data]);
        let taken = server.receive(&data, Instant::now()).unwrap();
        if taken < data.len() {
            read(&mut server, stream);
            server.receive(&data[taken..], Instant::now()).unwrap();
            read(&mut server, stream);
        }
    }
    assert_eq!(server.output(), b"");
}

#[test]
fn a_window_beyond_31_bits_resets_its_stream() {
    let (_, mut server, stream) = pair();
    let id = Some(stream);
    let delta = 0x7fff_ffff;
    deliver(&mut server, &encode(&[Frame::WindowUpdate { id, delta }]));
    assert_eq!(server.write(stream, b"x"), Err(WriteError::Reset));
    let mut server = session(Role::Server);
    let grown = encode(&[Frame::WindowUpdate { id: None, delta }]);
    let refused = server.receive(&grown, Instant::now());
    assert_eq!(refused, Err(SessionError::WindowOverflow));
}

#[test]
fn streams_open_in_order_and_with_the_peers_parity() {
    for (before, wrong) in [(None, 2), (Some(5), 5), (Some(5), 3)] {
        let mut server = session(Role::Server);
        let open = |id| Frame::SynStream {
            id,
            associated: None,
            priority: 0,
            fin: false,
            unidirectional: false,
            headers: kind("data"),
        };
        let frames: Vec<_> = before
            .into_iter()
            .chain([wrong])
            .map(|number| open(id(number)))
            .collect();
        let refused = server.receive(&encode(&frames), Instant::now());
        assert_eq!(refused, Err(SessionError::StreamOrder(id(wrong))));
        let last_good = before.unwrap_or(0);
        let status = GoAwayStatus::PROTOCOL_ERROR;
        assert_eq!(
            server.output(),
            encode(&[Frame::GoAway { last_good, status }])
        );
        assert_eq!(server.receive(b"anything", Instant::now()), Ok(8));
    }
}

#[test]
fn data_for_a_stream_never_opened_resets_it_and_late_data_does_not() {
    let (_, mut server, stream) = pair();
    let data = |id| Frame::Data {
        id,
        fin: false,
        bytes: vec![1],
    };
    deliver(&mut server, &encode(&[data(id(99))]));
    let status = RstStatus::INVALID_STREAM;
    let reset = encode(&[Frame::RstStream { id: id(99), status }]);
    assert_eq!(take_output(&mut server), reset);
    server.release(stream);
    take_output(&mut server);
    deliver(&mut server, &encode(&[data(stream)]));
    assert_eq!(server.output(), b"");
}

#[test]
fn half_a_frame_does_not_count_as_life() {
    let start = Instant::now();
    let limits = Limits::default();
    let timeout = limits.idle_timeout;
    let mut server = Session::new(Role::Server, limits, start);
    let frame = encode(&[Frame::Ping(1)]);
    let almost = start + timeout.mul_f64(0.9);
    server.receive(&frame[..5], almost).unwrap();
    server.expire(almost).unwrap();
    let ended = server.expire(start + timeout);
    assert_eq!(ended, Err(SessionError::Idle(timeout)));
    let status = GoAwayStatus::OK;
    let goodbye = Frame::GoAway {
        last_good: 0,
        status,
    };
    assert_eq!(server.output(), encode(&[goodbye]));
}

#[test]
fn a_transport_that_ends_breaks_off_what_is_open() {
    let (mut client, mut server, stream) = pair();
    client.write(stream, b"half").unwrap();
    exchange(&mut client, &mut server);
    server.end_of_input();
    assert_eq!(read(&mut server, stream), (b"half".to_vec(), Read::Reset));
}

#[test]
fn an_ignored_stream_holds_nothing_up_and_is_forgotten_at_its_end() {
    let (mut client, mut server, stream) = pair();
    let other = client.open(kind("stdout")).unwrap();
    exchange(&mut client, &mut server);
    client.write(stream, &[0; 1000]).unwrap();
    exchange(&mut client, &mut server);
    server.ignore(stream);
    let mut sent = 0;
    while sent < 1_000_000 {
        sent += client.write(stream, &[0; 10_000]).unwrap();
        exchange(&mut client, &mut server);
    }
    server.accept(other);
    exchange(&mut client, &mut server);
    client.write(other, b"heard").unwrap();
    exchange(&mut client, &mut server);
    assert_eq!(read(&mut server, other), (b"heard".to_vec(), Read::Pending));
    server.finish(stream);
    assert_eq!(server.streams(), 2, "the client has not ended it");
    client.finish(stream);
    exchange(&mut client, &mut server);
    assert_eq!(server.streams(), 1);
}
