//! Reads frames out of bytes that come in pieces of any size.
//!
//! Holds at most one control frame; the bytes of data frames are handed on as they come.

use thiserror::Error;

use crate::frame::{
    FLAG_CLEAR_SETTINGS, FLAG_FIN, FLAG_UNIDIRECTIONAL, Frame, GoAwayStatus, HEAD_LEN, RstStatus,
    Setting, StreamId, VERSION, kind,
};
use crate::headers::{HeaderError, Headers, Inflater};
use crate::session::Limits;

/// Bytes that are no SPDY/3. The session cannot go on after them.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Another version of the protocol, or no SPDY at all.
    #[error("a control frame is of SPDY/{0}, only SPDY/3 is spoken")]
    Version(u16),
    /// A control frame above [`Limits::control_frame_len`].
    #[error("a control frame of type {kind} has {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Type of the frame.
        kind: u16,
        /// Its length without the head.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The length of a control frame is not one that its type has.
    #[error("a control frame of type {kind} has {len} bytes, which its type does not")]
    Length {
        /// Type of the frame.
        kind: u16,
        /// Its length without the head.
        len: usize,
    },
    /// Stream 0 stands for the session and carries nothing.
    #[error("a frame names stream 0")]
    StreamZero,
    /// The header block.
    #[error("cannot read the headers of stream {id}")]
    Headers {
        /// The stream.
        id: StreamId,
        /// What is wrong with them.
        source: HeaderError,
    },
}

/// What a call of [`Decoder::step`] has found.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A whole frame that is not of data.
    Control(Frame),
    /// The next bytes of a data frame.
    Data {
        /// Whose bytes they are.
        id: StreamId,
        /// None when the frame is empty.
        bytes: &'a [u8],
        /// They are the last of a frame that ends its side of the stream.
        fin: bool,
    },
}

/// What a call of [`Decoder::step`] has taken and found.
#[derive(Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// So many bytes of the input are dealt with.
    pub consumed: usize,
    /// What they completed.
    pub item: Option<Item<'a>>,
}

/// Reads the frames of one direction of one session.
#[derive(Debug)]
pub struct Decoder {
    control_frame_len: usize,
    header_block_len: usize,
    headers: u32,
    inflater: Inflater,
    /// The head or the control frame that is being read.
    partial: Vec<u8>,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Head,
    Control {
        kind: u16,
        flags: u8,
        len: usize,
    },
    Data {
        id: StreamId,
        fin: bool,
        left: usize,
    },
    Skip {
        left: usize,
    },
}

impl Decoder {
    /// Keeps to the limits on control frames and headers.
    pub fn new(limits: &Limits) -> Self {
        Self {
            control_frame_len: limits.control_frame_len,
            header_block_len: limits.header_block_len,
            headers: limits.headers,
            inflater: Inflater::default(),
            partial: Vec::new(),
            state: State::Head,
        }
    }

    /// Reads on until something is complete or the input is used up. `room` says how many bytes of a stream
    /// may be handed out now. Call again until nothing is consumed; after an error, never.
    pub fn step<'a>(
        &mut self,
        input: &'a [u8],
        room: impl FnOnce(StreamId) -> usize,
    ) -> Result<Step<'a>, DecodeError> {
        let mut rest = input;
        loop {
            let before = input.len() - rest.len();
            match self.state {
                State::Head => {
                    if !self.fill(&mut rest, HEAD_LEN) {
                        return Ok(Step::nothing(input.len() - rest.len()));
                    }
                    self.begin()?;
                    if let State::Data { id, fin, left: 0 } = self.state {
                        self.state = State::Head;
                        let item = Item::Data {
                            id,
                            bytes: &[],
                            fin,
                        };
                        return Ok(Step::found(input.len() - rest.len(), item));
                    }
                }
                State::Control { kind, flags, len } => {
                    if !self.fill(&mut rest, len) {
                        return Ok(Step::nothing(input.len() - rest.len()));
                    }
                    let body = std::mem::take(&mut self.partial);
                    self.state = State::Head;
                    let frame = self.control(kind, flags, &body)?;
                    return Ok(Step::found(input.len() - rest.len(), Item::Control(frame)));
                }
                State::Data { id, fin, left } => {
                    let now = left.min(rest.len()).min(room(id));
                    let Some(bytes) = rest.get(..now).filter(|bytes| !bytes.is_empty()) else {
                        return Ok(Step::nothing(before));
                    };
                    let left = left - now;
                    self.state = match left {
                        0 => State::Head,
                        _ => State::Data { id, fin, left },
                    };
                    let fin = fin && left == 0;
                    return Ok(Step::found(before + now, Item::Data { id, bytes, fin }));
                }
                State::Skip { left } => {
                    let now = left.min(rest.len());
                    rest = &rest[now..];
                    if now < left {
                        self.state = State::Skip { left: left - now };
                        return Ok(Step::nothing(input.len()));
                    }
                    self.state = State::Head;
                }
            }
        }
    }

    /// Moves input until `len` bytes are there; false when it does not suffice.
    fn fill(&mut self, rest: &mut &[u8], len: usize) -> bool {
        let missing = len.saturating_sub(self.partial.len());
        let (taken, left) = rest.split_at(missing.min(rest.len()));
        self.partial.extend_from_slice(taken);
        *rest = left;
        taken.len() == missing
    }

    fn begin(&mut self) -> Result<(), DecodeError> {
        let mut head = 0_u64;
        for byte in self.partial.drain(..) {
            head = head << 8 | u64::from(byte);
        }
        let flags = (head >> 24 & 0xff) as u8;
        let len = (head & 0x00ff_ffff) as usize;
        let first = (head >> 32) as u32;
        if first >> 31 == 0 {
            let id = StreamId::new(first).ok_or(DecodeError::StreamZero)?;
            let fin = flags & FLAG_FIN != 0;
            self.state = State::Data { id, fin, left: len };
            return Ok(());
        }
        let version = (first >> 16 & 0x7fff) as u16;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let kind = (first & 0xffff) as u16;
        let known =
            matches!(kind, kind::SYN_STREAM..=kind::SETTINGS | kind::PING..=kind::WINDOW_UPDATE);
        if !known {
            // Section 2.2.1: unrecognized control frames are ignored.
            self.state = State::Skip { left: len };
        } else if len > self.control_frame_len {
            let max = self.control_frame_len;
            return Err(DecodeError::TooLong { kind, len, max });
        } else {
            self.state = State::Control { kind, flags, len };
        }
        Ok(())
    }

    fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> Result<Frame, DecodeError> {
        let length = || DecodeError::Length {
            kind,
            len: body.len(),
        };
        let fin = flags & FLAG_FIN != 0;
        match kind {
            kind::SYN_STREAM => {
                let (words, block) = body.split_first_chunk::<8>().ok_or_else(length)?;
                let (id, associated) = two_words(words).ok_or_else(length)?;
                let ([priority, _slot], block) =
                    block.split_first_chunk::<2>().ok_or_else(length)?;
                let id = stream(id)?;
                Ok(Frame::SynStream {
                    id,
                    associated: StreamId::new(associated & 0x7fff_ffff),
                    priority: priority >> 5,
                    fin,
                    unidirectional: flags & FLAG_UNIDIRECTIONAL != 0,
                    headers: self.headers(id, block)?,
                })
            }
            kind::SYN_REPLY | kind::HEADERS => {
                let (id, block) = body.split_first_chunk::<4>().ok_or_else(length)?;
                let id = stream(u32::from_be_bytes(*id))?;
                let headers = self.headers(id, block)?;
                Ok(match kind {
                    kind::SYN_REPLY => Frame::SynReply { id, fin, headers },
                    _ => Frame::Headers { id, fin, headers },
                })
            }
            kind::SETTINGS => {
                let (count, entries) = body.split_first_chunk::<4>().ok_or_else(length)?;
                let (entries, rest) = entries.as_chunks::<8>();
                if !rest.is_empty() || u32::from_be_bytes(*count) as usize != entries.len() {
                    return Err(length());
                }
                let clear = flags & FLAG_CLEAR_SETTINGS != 0;
                let entries = entries.iter().copied().map(setting).collect();
                Ok(Frame::Settings { clear, entries })
            }
            kind::PING => match body.as_array() {
                Some(id) => Ok(Frame::Ping(u32::from_be_bytes(*id))),
                None => Err(length()),
            },
            _ => {
                let (first, second) = two_words(body).ok_or_else(length)?;
                Ok(match kind {
                    kind::RST_STREAM => Frame::RstStream {
                        id: stream(first)?,
                        status: RstStatus(second),
                    },
                    kind::GOAWAY => Frame::GoAway {
                        last_good: first & 0x7fff_ffff,
                        status: GoAwayStatus(second),
                    },
                    _ => Frame::WindowUpdate {
                        id: StreamId::new(first & 0x7fff_ffff),
                        delta: second & 0x7fff_ffff,
                    },
                })
            }
        }
    }

    fn headers(&mut self, id: StreamId, block: &[u8]) -> Result<Headers, DecodeError> {
        let plain = self.inflater.inflate(block, self.header_block_len);
        plain
            .and_then(|plain| Headers::from_block(&plain, self.headers))
            .map_err(|source| DecodeError::Headers { id, source })
    }
}

impl<'a> Step<'a> {
    fn nothing(consumed: usize) -> Self {
        Self {
            consumed,
            item: None,
        }
    }

    fn found(consumed: usize, item: Item<'a>) -> Self {
        Self {
            consumed,
            item: Some(item),
        }
    }
}

fn stream(id: u32) -> Result<StreamId, DecodeError> {
    StreamId::new(id & 0x7fff_ffff).ok_or(DecodeError::StreamZero)
}

fn setting(entry: [u8; 8]) -> Setting {
    let [flags, a, b, c, value @ ..] = entry;
    Setting {
        flags,
        id: u32::from_be_bytes([0, a, b, c]),
        value: u32::from_be_bytes(value),
    }
}

fn two_words(body: &[u8]) -> Option<(u32, u32)> {
    let (first, rest) = body.split_first_chunk::<4>()?;
    let second = rest.as_array()?;
    Some((u32::from_be_bytes(*first), u32::from_be_bytes(*second)))
}
