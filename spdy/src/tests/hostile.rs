//! Peers that mean harm: what each costs at most is counted.

use std::time::Instant;

use flate2::{Compress, Compression, FlushCompress};

use super::{events, id, kind, session};
use crate::{
    DecodeError, Encoder, Frame, HeaderError, Headers, Limits, Role, Session, SessionError,
};

/// Feeds `piece` over and over, taking neither events nor output nor data, until nothing more is taken or a
/// gigabyte is; says how much was taken and what the session said.
fn feed(
    session: &mut Session,
    mut piece: impl FnMut() -> Vec<u8>,
) -> (usize, Option<SessionError>) {
    let mut taken = 0;
    while taken < 1 << 30 {
        let bytes = piece();
        match session.receive(&bytes, Instant::now()) {
            Ok(len) => {
                taken += len;
                if len < bytes.len() {
                    return (taken, None);
                }
            }
            Err(error) => return (taken, Some(error)),
        }
    }
    (taken, None)
}

fn syn(encoder: &mut Encoder, stream: u32, headers: Headers) -> Vec<u8> {
    let mut bytes = Vec::new();
    let frame = Frame::SynStream {
        id: id(stream),
        associated: None,
        priority: 0,
        fin: false,
        unidirectional: false,
        headers,
    };
    encoder.encode(&frame, &mut bytes).unwrap();
    bytes
}

/// A SYN_STREAM around a block that is compressed already.
fn raw_syn(block: &[u8]) -> Vec<u8> {
    let len = u32::try_from(block.len() + 10).unwrap();
    let mut bytes = vec![0x80, 3, 0, 1];
    bytes.extend(len.to_be_bytes());
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    bytes.extend(block);
    bytes
}

fn zlib(plain: &[u8]) -> Vec<u8> {
    let mut block = Vec::with_capacity(plain.len() / 100 + 100_000);
    let mut compress = Compress::new(Compression::best(), true);
    compress
        .set_dictionary(include_bytes!("../dictionary.bin"))
        .unwrap();
    compress
        .compress_vec(plain, &mut block, FlushCompress::Sync)
        .unwrap();
    block
}

#[test]
fn a_zlib_bomb_is_cut_off_at_the_limit() {
    let max = Limits::default().header_block_len;
    let mut plain = 1_u32.to_be_bytes().to_vec();
    plain.extend(15_000_000_u32.to_be_bytes());
    plain.resize(15_000_000, b'a');
    let block = zlib(&plain);
    assert!(block.len() < 16_000, "the bomb gets past the frame's limit");
    let mut server = session(Role::Server);
    let refused = server.receive(&raw_syn(&block), Instant::now());
    let source = HeaderError::TooLong(max);
    let error = DecodeError::Headers { id: id(1), source };
    assert_eq!(refused, Err(SessionError::Decode(error)));
}

#[test]
fn headers_that_cannot_be_read_end_the_session() {
    let two = |name: &str| {
        let mut plain = 2_u32.to_be_bytes().to_vec();
        for _ in 0..2 {
            plain.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
            plain.extend(name.as_bytes());
            plain.extend(0_u32.to_be_bytes());
        }
        plain
    };
    let count = 1_000_000_u32;
    let table: [(&str, Vec<u8>, HeaderError); 7] = [
        ("nothing", vec![], HeaderError::NotZlib),
        ("no zlib", b"GET / HTTP/1.1".to_vec(), HeaderError::NotZlib),
        (
            "a million headers",
            zlib(&count.to_be_bytes()),
            HeaderError::TooMany { count, max: 64 },
        ),
        (
            "a length beyond the block",
            zlib(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
            HeaderError::Truncated,
        ),
        (
            "bytes left over",
            zlib(&[0, 0, 0, 0, 1]),
            HeaderError::Truncated,
        ),
        ("a name twice", zlib(&two("port")), HeaderError::Malformed),
        ("upper case", zlib(&two("Port")), HeaderError::Malformed),
    ];
    for (name, block, source) in table {
        let mut server = session(Role::Server);
        let refused = server.receive(&raw_syn(&block), Instant::now());
        // An empty block inflates to nothing, in which even the count is missing.
        let source = if block.is_empty() {
            HeaderError::Truncated
        } else {
            source
        };
        let error = DecodeError::Headers { id: id(1), source };
        assert_eq!(refused, Err(SessionError::Decode(error)), "{name}");
        assert!(events(&mut server).len() <= 1, "{name}");
    }
}

#[test]
fn floods_are_taken_only_up_to_a_bound() {
    let limits = Limits::default();
    let bound = limits.session_buffer_len + 64 * 1024;
    let ping = |out: &mut Vec<u8>| Encoder::default().encode(&Frame::Ping(1), out).unwrap();

    let mut server = session(Role::Server);
    let (taken, error) = feed(&mut server, || {
        let mut bytes = Vec::new();
        ping(&mut bytes);
        bytes
    });
    assert!(error.is_none() && taken < bound, "pings: {taken}");
    assert!(server.output().len() < bound);

    let mut server = session(Role::Server);
    let (mut encoder, mut next) = (Encoder::default(), 1);
    let (taken, error) = feed(&mut server, || {
        next += 2;
        syn(&mut encoder, next, kind("data"))
    });
    assert!(error.is_none() && taken < bound, "streams: {taken}");

    let mut server = session(Role::Server);
    let opened = syn(&mut Encoder::default(), 1, kind("data"));
    server.receive(&opened, Instant::now()).unwrap();
    let mut head = Some(vec![0, 0, 0, 1, 0, 0xff, 0xff, 0xff]);
    let (taken, error) = feed(&mut server, || {
        head.take().unwrap_or_else(|| vec![0; 16_000])
    });
    assert!(error.is_none() && taken < bound, "data: {taken}");
}

#[test]
fn a_gigabyte_of_headers_is_refused_by_its_head() {
    for kind in [1, 2, 8] {
        let mut server = session(Role::Server);
        let head = [0x80, 3, 0, kind, 0, 0xff, 0xff, 0xff];
        let refused = server.receive(&head, Instant::now());
        let error = DecodeError::TooLong {
            kind: kind.into(),
            len: 0xff_ffff,
            max: 16 * 1024,
        };
        assert_eq!(refused, Err(SessionError::Decode(error)));
    }
}

#[test]
fn a_gigabyte_of_header_frames_costs_nothing() {
    let mut server = session(Role::Server);
    let mut encoder = Encoder::default();
    let opened = syn(&mut encoder, 1, kind("data"));
    server.receive(&opened, Instant::now()).unwrap();
    events(&mut server);
    let headers = Headers::new([("x", "y".repeat(15_000))]);
    let mut bytes = Vec::new();
    for _ in 0..1000 {
        let frame = Frame::Headers {
            id: id(1),
            fin: false,
            headers: headers.clone(),
        };
        encoder.encode(&frame, &mut bytes).unwrap();
    }
    assert_eq!(
        server.receive(&bytes, Instant::now()),
        Ok(bytes.len()),
        "15 MB of them"
    );
    assert_eq!(events(&mut server), []);
    assert_eq!(server.output(), b"");
}

#[test]
fn frames_that_are_no_spdy_3_end_the_session() {
    let length = |kind, len| DecodeError::Length { kind, len };
    let table: [(&str, &[u8], DecodeError); 7] = [
        (
            "SPDY/2",
            &[0x80, 2, 0, 1, 0, 0, 0, 0],
            DecodeError::Version(2),
        ),
        ("HTTP", b"\0\0\0\0POST /", DecodeError::StreamZero),
        (
            "a short reset",
            &[0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1],
            length(3, 4),
        ),
        (
            "a reset of stream 0",
            &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1],
            DecodeError::StreamZero,
        ),
        (
            "a ping of nothing",
            &[0x80, 3, 0, 6, 0, 0, 0, 0],
            length(6, 0),
        ),
        (
            "settings fewer than told",
            &[0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 9],
            length(4, 4),
        ),
        (
            "a stream without a priority",
            &[0x80, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1],
            length(1, 4),
        ),
    ];
    for (name, bytes, error) in table {
        let mut server = session(Role::Server);
        let refused = server.receive(bytes, Instant::now());
        assert_eq!(refused, Err(SessionError::Decode(error)), "{name}");
        let goodbye = [0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(server.output(), goodbye, "{name}");
    }
}
