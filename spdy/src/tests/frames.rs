//! Frames: written and read again, in pieces of any size, and whatever bytes come.

use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;

use super::id;
use crate::frame::LEN_MAX;
use crate::headers::{DICTIONARY_ID, Deflater, Inflater};
use crate::{
    Decoder, EncodeError, Encoder, Frame, GoAwayStatus, Headers, Item, Limits, Read, Role,
    RstStatus, Session, Setting, StreamId,
};

/// More cases: `SPDY_CASES=100000 cargo test -p holdfast-spdy`.
pub(super) fn cases() -> ProptestConfig {
    let cases = std::env::var("SPDY_CASES").ok();
    let cases = cases.map_or(256, |cases| cases.parse().expect("SPDY_CASES is a number"));
    ProptestConfig::with_cases(cases)
}

fn stream_id() -> impl Strategy<Value = StreamId> {
    (1..=0x7fff_ffff_u32).prop_map(id)
}

fn headers() -> impl Strategy<Value = Headers> {
    let pair = ("[a-z:-]{1,20}", "[ -~\u{e9}\u{0}]{0,200}");
    proptest::collection::btree_map(pair.0, pair.1, 0..10).prop_map(Headers::new)
}

fn frame() -> impl Strategy<Value = Frame> {
    let setting = (any::<u8>(), 0..1_u32 << 24, any::<u32>());
    let setting = setting.prop_map(|(flags, id, value)| Setting { flags, id, value });
    prop_oneof![
        (
            stream_id(),
            proptest::option::of(stream_id()),
            0..8_u8,
            any::<(bool, bool)>(),
            headers(),
        )
            .prop_map(|(id, associated, priority, flags, headers)| {
                Frame::SynStream {
                    id,
                    associated,
                    priority,
                    fin: flags.0,
                    unidirectional: flags.1,
                    headers,
                }
            }),
        (stream_id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynReply {
            id,
            fin,
            headers
        }),
        (stream_id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::Headers {
            id,
            fin,
            headers
        }),
        (stream_id(), any::<u32>()).prop_map(|(id, status)| Frame::RstStream {
            id,
            status: RstStatus(status)
        }),
        (any::<bool>(), vec(setting, 0..10))
            .prop_map(|(clear, entries)| Frame::Settings { clear, entries }),
        any::<u32>().prop_map(Frame::Ping),
        (0..=0x7fff_ffff_u32, any::<u32>()).prop_map(|(last_good, status)| Frame::GoAway {
            last_good,
            status: GoAwayStatus(status),
        }),
        (proptest::option::of(stream_id()), 0..=0x7fff_ffff_u32)
            .prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
        (stream_id(), any::<bool>(), vec(any::<u8>(), 0..3000))
            .prop_map(|(id, fin, bytes)| Frame::Data { id, fin, bytes }),
    ]
}

fn encode(frames: &[Frame]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    let mut bytes = Vec::new();
    for frame in frames {
        encoder.encode(frame, &mut bytes).unwrap();
    }
    bytes
}

/// Decodes pieces of the given lengths, over and over; data frames come whole again.
fn decode(bytes: &[u8], pieces: &[usize]) -> Vec<Frame> {
    let mut decoder = Decoder::new(&Limits::default());
    let mut frames: Vec<Frame> = Vec::new();
    let mut lens = pieces.iter().cycle();
    let (mut begin, mut end) = (0, 0);
    while end < bytes.len() {
        end = bytes.len().min(end + lens.next().unwrap());
        loop {
            let step = decoder.step(&bytes[begin..end], |_| usize::MAX).unwrap();
            begin += step.consumed;
            match step.item {
                Some(Item::Control(frame)) => frames.push(frame),
                Some(Item::Data { id, bytes, fin }) => {
                    frames.push(Frame::Data {
                        id,
                        fin,
                        bytes: bytes.to_vec(),
                    });
                }
                None => break,
            }
        }
        assert_eq!(begin, end, "all is taken when there is room");
    }
    frames
}

/// Neighbouring pieces of one stream's data as one: where a frame of data ends says nothing.
fn joined(frames: Vec<Frame>) -> Vec<Frame> {
    let mut whole: Vec<Frame> = Vec::new();
    for frame in frames {
        if let Frame::Data { id, fin, bytes } = &frame
            && let Some(Frame::Data {
                id: before,
                fin: fin_before @ false,
                bytes: bytes_before,
            }) = whole.last_mut()
            && before == id
        {
            bytes_before.extend_from_slice(bytes);
            *fin_before = *fin;
        } else {
            whole.push(frame);
        }
    }
    whole
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn what_is_written_is_read_in_pieces_of_any_size(
        frames in vec(frame(), 1..8),
        pieces in vec(1..500_usize, 1..6),
    ) {
        let bytes = encode(&frames);
        let frames = joined(frames);
        prop_assert_eq!(&joined(decode(&bytes, &[bytes.len()])), &frames);
        prop_assert_eq!(&joined(decode(&bytes, &pieces)), &frames);
        prop_assert_eq!(&joined(decode(&bytes, &[1])), &frames);
    }

    /// Random bytes behind a valid beginning, so that they get past the first head.
    #[test]
    fn random_bytes_neither_panic_nor_cost_much(
        frames in vec(frame(), 0..4),
        noise in vec(any::<u8>(), 0..600),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        piece in 1..300_usize,
    ) {
        let mut bytes = encode(&frames);
        bytes.extend(noise);
        for (index, value) in changes {
            if !bytes.is_empty() {
                let index = index.index(bytes.len());
                bytes[index] = value;
            }
        }
        let now = Instant::now();
        let mut session = Session::new(Role::Server, Limits::default(), now);
        let mut buffer = [0; 1024];
        for mut piece in bytes.chunks(piece) {
            while !piece.is_empty() {
                let Ok(taken) = session.receive(piece, now) else {
                    prop_assert_eq!(session.receive(piece, now), Ok(piece.len()));
                    break;
                };
                piece = &piece[taken..];
                while let Some(event) = session.event() {
                    if let crate::Event::Readable(id) = event {
                        while let Read::Data(_) = session.read(id, &mut buffer) {}
                    }
                }
                session.sent(session.output().len(), now);
            }
        }
    }

    #[test]
    fn random_blocks_are_inflated_within_the_limit(block in vec(any::<u8>(), 0..300), max in 0..5000_usize) {
        let mut whole = vec![0x78, 0x20];
        whole.extend(DICTIONARY_ID.to_be_bytes());
        whole.extend(block);
        if let Ok(plain) = Inflater::default().inflate(&whole, max) {
            prop_assert!(plain.len() <= max);
        }
    }
}

#[test]
fn header_blocks_longer_than_a_stored_block_are_read_again() {
    for len in [0, 1, 511, 512, 513, 65_535, 65_536, 200_000] {
        let plain: Vec<u8> = (0..=255_u8).cycle().take(len).collect();
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        for _ in 0..2 {
            let mut block = Vec::new();
            let announced = deflater.len(plain.len());
            deflater.deflate(&plain, &mut block);
            assert_eq!(block.len(), announced);
            assert_eq!(inflater.inflate(&block, plain.len()).unwrap(), plain);
        }
    }
}

#[test]
fn a_frame_beyond_24_bits_is_refused_whole() {
    let bytes = vec![0; LEN_MAX + 1];
    let frame = Frame::Data {
        id: id(1),
        fin: false,
        bytes,
    };
    let mut out = Vec::new();
    let refused = Encoder::default().encode(&frame, &mut out);
    assert_eq!(refused, Err(EncodeError::TooLong(LEN_MAX + 1)));
    assert!(out.is_empty());
}

#[test]
fn control_frames_of_an_unknown_type_are_skipped() {
    let mut bytes = vec![0x80, 3, 0, 10, 0, 0, 1, 0];
    bytes.extend([7; 256]);
    bytes.extend(encode(&[Frame::Ping(1)]));
    assert_eq!(decode(&bytes, &[bytes.len()]), [Frame::Ping(1)]);
    assert_eq!(decode(&bytes, &[3]), [Frame::Ping(1)]);
}
