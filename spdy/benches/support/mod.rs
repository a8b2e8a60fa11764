//! Frames of a session of `kubectl exec`.

use holdfast_spdy::{Decoder, Encoder, Frame, Headers, Limits, StreamId};

fn id() -> StreamId {
    StreamId::new(1).expect("an id")
}

/// What opens the stream of standard output.
pub(crate) fn opening() -> Frame {
    Frame::SynStream {
        id: id(),
        associated: None,
        priority: 0,
        fin: false,
        unidirectional: false,
        headers: Headers::new([("streamtype", "stdout")]),
    }
}

/// What a copy of a file is made of.
pub(crate) fn data() -> Frame {
    Frame::Data {
        id: id(),
        fin: false,
        bytes: vec![b'x'; 32 * 1024],
    }
}

/// Of the receiving side.
pub(crate) fn decoder() -> Decoder {
    Decoder::new(&Limits::default())
}

pub(crate) fn encode(encoder: &mut Encoder, frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    encoder.encode(frame, &mut bytes).expect("a short frame");
    bytes
}

/// Reads frames to their end; how many items there were.
pub(crate) fn decode(decoder: &mut Decoder, mut bytes: &[u8]) -> usize {
    let mut items = 0;
    while !bytes.is_empty() {
        let step = decoder.step(bytes, |_| usize::MAX).expect("frames");
        items += usize::from(step.item.is_some());
        bytes = &bytes[step.consumed..];
    }
    items
}
