//! The frames of SPDY/3 and how they are written.
//!
//! Reading them is [`crate::Decoder`]'s job, since it has to bear what a peer makes up.

use thiserror::Error;

use crate::headers::{self, Headers};

pub(crate) const VERSION: u16 = 3;
/// The length field has 24 bits.
pub(crate) const LEN_MAX: usize = (1 << 24) - 1;
pub(crate) const HEAD_LEN: usize = 8;

pub(crate) const FLAG_FIN: u8 = 0x01;
pub(crate) const FLAG_UNIDIRECTIONAL: u8 = 0x02;
pub(crate) const FLAG_CLEAR_SETTINGS: u8 = 0x01;

pub(crate) mod kind {
    pub(crate) const SYN_STREAM: u16 = 1;
    pub(crate) const SYN_REPLY: u16 = 2;
    pub(crate) const RST_STREAM: u16 = 3;
    pub(crate) const SETTINGS: u16 = 4;
    pub(crate) const PING: u16 = 6;
    pub(crate) const GOAWAY: u16 = 7;
    pub(crate) const HEADERS: u16 = 8;
    pub(crate) const WINDOW_UPDATE: u16 = 9;
}

/// Number of a stream: 31 bits, never zero; odd where the client opened it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u32);

impl StreamId {
    /// None for zero and for what does not fit into 31 bits.
    pub fn new(id: u32) -> Option<Self> {
        (id != 0 && id <= 0x7fff_ffff).then_some(Self(id))
    }

    /// The number as it stands in a frame.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a stream is reset (section 2.6.3 of the draft).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RstStatus(pub u32);

impl RstStatus {
    /// The peer broke the protocol on this stream.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// A frame for a stream that was never opened.
    pub const INVALID_STREAM: Self = Self(2);
    /// Refused before anything was done for it.
    pub const REFUSED_STREAM: Self = Self(3);
    /// The one who opened or serves it has no use for it any more.
    pub const CANCEL: Self = Self(5);
    /// The peer overran or overflowed a window.
    pub const FLOW_CONTROL_ERROR: Self = Self(7);
}

/// Why a session ends (section 2.6.6 of the draft).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoAwayStatus(pub u32);

impl GoAwayStatus {
    /// An ordinary end.
    pub const OK: Self = Self(0);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1);
}

/// One entry of SETTINGS: flags in the upper byte, a 24-bit id, a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// 1: the peer is asked to keep it; 2: the peer kept it.
    pub flags: u8,
    /// What is set; 7 is the initial window of each stream in bytes.
    pub id: u32,
    /// The value.
    pub value: u32,
}

impl Setting {
    pub(crate) const INITIAL_WINDOW_SIZE: u32 = 7;
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are those of the draft, by its names"
)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        id: StreamId,
        associated: Option<StreamId>,
        /// 0 (highest) to 7.
        priority: u8,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        id: StreamId,
        fin: bool,
        headers: Headers,
    },
    /// Ends a stream at once, both ways.
    RstStream { id: StreamId, status: RstStatus },
    /// Parameters of the session.
    Settings { clear: bool, entries: Vec<Setting> },
    /// To be sent back by whoever did not choose the id.
    Ping(u32),
    /// No new streams; `last_good` is the last that was accepted, 0 for none.
    GoAway {
        last_good: u32,
        status: GoAwayStatus,
    },
    /// Further headers of a stream.
    Headers {
        id: StreamId,
        fin: bool,
        headers: Headers,
    },
    /// More bytes may be sent: on one stream or, without an id, in the session.
    WindowUpdate { id: Option<StreamId>, delta: u32 },
    /// Bytes of a stream.
    Data {
        id: StreamId,
        fin: bool,
        bytes: Vec<u8>,
    },
}

/// A frame that SPDY cannot express.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EncodeError {
    /// The length field has 24 bits.
    #[error("a frame of {0} bytes does not fit the 24 bits of its length")]
    TooLong(usize),
}

/// Writes the frames of one direction of one session.
#[derive(Debug, Default)]
pub struct Encoder {
    headers: headers::Deflater,
}

impl Encoder {
    /// Appends `frame` to `out`. On an error nothing is appended and nothing has changed.
    pub fn encode(&mut self, frame: &Frame, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match frame {
            Frame::SynStream {
                id,
                associated,
                priority,
                fin,
                unidirectional,
                headers,
            } => {
                let mut fixed = Vec::with_capacity(10);
                fixed.extend(id.get().to_be_bytes());
                fixed.extend(associated.map_or(0, StreamId::get).to_be_bytes());
                fixed.extend([priority << 5, 0]);
                let flags = flag(*fin, FLAG_FIN) | flag(*unidirectional, FLAG_UNIDIRECTIONAL);
                self.with_headers(kind::SYN_STREAM, flags, &fixed, headers, out)
            }
            Frame::SynReply { id, fin, headers } => {
                let fixed = id.get().to_be_bytes();
                self.with_headers(kind::SYN_REPLY, flag(*fin, FLAG_FIN), &fixed, headers, out)
            }
            Frame::Headers { id, fin, headers } => {
                let fixed = id.get().to_be_bytes();
                self.with_headers(kind::HEADERS, flag(*fin, FLAG_FIN), &fixed, headers, out)
            }
            Frame::RstStream { id, status } => {
                words(kind::RST_STREAM, &[id.get(), status.0], out);
                Ok(())
            }
            Frame::Ping(id) => {
                words(kind::PING, &[*id], out);
                Ok(())
            }
            Frame::GoAway { last_good, status } => {
                words(kind::GOAWAY, &[*last_good, status.0], out);
                Ok(())
            }
            Frame::WindowUpdate { id, delta } => {
                let id = id.map_or(0, StreamId::get);
                words(kind::WINDOW_UPDATE, &[id, *delta], out);
                Ok(())
            }
            Frame::Settings { clear, entries } => settings(*clear, entries, out),
            Frame::Data { id, fin, bytes } => {
                out.extend(data_head(*id, *fin, bytes.len())?);
                out.extend(bytes);
                Ok(())
            }
        }
    }

    fn with_headers(
        &mut self,
        kind: u16,
        flags: u8,
        fixed: &[u8],
        headers: &Headers,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let plain = headers.to_block();
        let len = fixed.len() + self.headers.len(plain.len());
        out.extend(control_head(kind, flags, len)?);
        out.extend(fixed);
        self.headers.deflate(&plain, out);
        Ok(())
    }
}

/// Head of a data frame of `len` bytes.
pub(crate) fn data_head(
    id: StreamId,
    fin: bool,
    len: usize,
) -> Result<[u8; HEAD_LEN], EncodeError> {
    Ok(head(id.get(), flag(fin, FLAG_FIN), checked(len)?))
}

fn control_head(kind: u16, flags: u8, len: usize) -> Result<[u8; HEAD_LEN], EncodeError> {
    let first = 1 << 31 | u32::from(VERSION) << 16 | u32::from(kind);
    Ok(head(first, flags, checked(len)?))
}

fn checked(len: usize) -> Result<u32, EncodeError> {
    match u32::try_from(len) {
        Ok(short) if len <= LEN_MAX => Ok(short),
        _ => Err(EncodeError::TooLong(len)),
    }
}

fn head(first: u32, flags: u8, len: u32) -> [u8; HEAD_LEN] {
    let second = u32::from(flags) << 24 | len;
    (u64::from(first) << 32 | u64::from(second)).to_be_bytes()
}

fn words(kind: u16, words: &[u32], out: &mut Vec<u8>) {
    let first = 1 << 31 | u32::from(VERSION) << 16 | u32::from(kind);
    let len = u32::try_from(words.len() * 4).unwrap_or(u32::MAX);
    out.extend(head(first, 0, len));
    out.extend(words.iter().flat_map(|word| word.to_be_bytes()));
}

fn settings(clear: bool, entries: &[Setting], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let len = 4 + 8 * entries.len();
    let flags = flag(clear, FLAG_CLEAR_SETTINGS);
    out.extend(control_head(kind::SETTINGS, flags, len)?);
    out.extend(checked(entries.len())?.to_be_bytes());
    for Setting { flags, id, value } in entries {
        let word = u32::from(*flags) << 24 | (id & 0x00ff_ffff);
        out.extend(word.to_be_bytes());
        out.extend(value.to_be_bytes());
    }
    Ok(())
}

fn flag(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}
