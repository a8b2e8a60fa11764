//! Channels in WebSocket messages: the first byte says which, the rest is its data.
//!
//! No I/O; `websocket` carries the messages. `base64` protocols write the channel as a digit and the data in base64.

use std::collections::VecDeque;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use holdfast_spdy::{Read, WriteError};
use thiserror::Error;
use tokio_tungstenite::tungstenite::Message;

use super::mux::Multiplexer;

/// First byte of the message that ends a channel, from version 5 on.
const CLOSE: u8 = 255;
/// Data of one message. Clients read with buffers of 32 KiB.
const MESSAGE_LEN: usize = 32 * 1024;
/// Messages that wait to be sent, in bytes.
const OUTPUT_LEN: usize = 128 * 1024;
/// A channel with more than so many unread bytes holds up the connection, as with the kubelet.
const INPUT_LEN: usize = 64 * 1024;

/// How channels stand in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    /// As they are, in binary messages.
    Raw,
    /// In base64, in text messages.
    Base64,
}

/// Who sends on a channel. What is sent the other way is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Ignored,
    FromClient,
    ToClient,
    Both,
}

/// A message that no client sends.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum MessageError {
    #[error("a close signal names no channel")]
    Close,
    #[error("a message on channel {0} is not base64")]
    Base64(u8),
}

#[derive(Debug)]
struct Channel {
    readable: bool,
    writable: bool,
    received: VecDeque<Bytes>,
    unread_len: usize,
    /// The client sends no more.
    ended: bool,
}

/// The channels of one connection.
#[derive(Debug)]
pub(super) struct Channels {
    codec: Codec,
    close_signal: bool,
    by_id: Vec<Channel>,
    output: VecDeque<Message>,
    output_len: usize,
    /// A message was taken to be sent and no other one asked for yet.
    sending: bool,
    /// The client is gone.
    broken: bool,
}

impl Channels {
    pub(super) fn new(codec: Codec, close_signal: bool, directions: &[Direction]) -> Self {
        let channel = |direction: &Direction| Channel {
            readable: matches!(direction, Direction::FromClient | Direction::Both),
            writable: matches!(direction, Direction::ToClient | Direction::Both),
            received: VecDeque::new(),
            unread_len: 0,
            ended: false,
        };
        Self {
            codec,
            close_signal,
            by_id: directions.iter().map(channel).collect(),
            output: VecDeque::new(),
            output_len: 0,
            sending: false,
            broken: false,
        }
    }

    /// Whether the next message may be received.
    pub(super) fn has_room(&self) -> bool {
        self.by_id
            .iter()
            .all(|channel| channel.unread_len < INPUT_LEN)
    }

    /// Takes a message and says which channel has got something.
    pub(super) fn receive(&mut self, mut message: Bytes) -> Result<Option<u8>, MessageError> {
        let Ok(first) = message.try_get_u8() else {
            return Ok(None);
        };
        if self.close_signal && first == CLOSE {
            let [id] = message[..] else {
                return Err(MessageError::Close);
            };
            let channel = self.by_id.get_mut(usize::from(id));
            channel.ok_or(MessageError::Close)?.ended = true;
            return Ok(Some(id));
        }
        let id = match self.codec {
            Codec::Raw => first,
            Codec::Base64 => first.wrapping_sub(b'0'),
        };
        // The kubelet as well lets clients send on channels that they did not ask for.
        let channel = self.by_id.get_mut(usize::from(id));
        let Some(channel) = channel.filter(|channel| channel.readable && !channel.ended) else {
            return Ok(None);
        };
        let data = match self.codec {
            Codec::Raw => message,
            Codec::Base64 => {
                let data = STANDARD.decode(&message);
                data.map_err(|_| MessageError::Base64(id))?.into()
            }
        };
        if data.is_empty() {
            return Ok(None);
        }
        channel.unread_len += data.len();
        channel.received.push_back(data);
        Ok(Some(id))
    }

    /// The client is gone: what it has sent can still be read.
    pub(super) fn break_off(&mut self) {
        self.broken = true;
    }

    /// The next message to send, and whether that makes room to write. To be called when the one before is sent.
    pub(super) fn message(&mut self) -> Option<(Message, bool)> {
        self.sending = !self.output.is_empty();
        let message = self.output.pop_front()?;
        let full = self.output_len >= OUTPUT_LEN;
        self.output_len -= message.len();
        Some((message, full && self.output_len < OUTPUT_LEN))
    }

    /// Sends a message even without data, which says that the channel is there.
    pub(super) fn put(&mut self, id: u8, data: &[u8]) {
        let message = match self.codec {
            Codec::Raw => {
                let mut message = Vec::with_capacity(1 + data.len());
                message.push(id);
                message.extend_from_slice(data);
                Message::binary(message)
            }
            Codec::Base64 => {
                let mut message = String::with_capacity(1 + data.len().div_ceil(3) * 4);
                message.push(char::from(b'0'.wrapping_add(id)));
                STANDARD.encode_string(data, &mut message);
                Message::text(message)
            }
        };
        self.output_len += message.len();
        self.output.push_back(message);
    }
}

impl Multiplexer for Channels {
    type Id = u8;

    fn read(&mut self, id: u8, out: &mut [u8]) -> Read {
        let Some(channel) = self.by_id.get_mut(usize::from(id)) else {
            return Read::Reset;
        };
        let Some(front) = channel.received.front_mut() else {
            return match (channel.ended, self.broken) {
                (true, _) => Read::End,
                (false, true) => Read::Reset,
                (false, false) => Read::Pending,
            };
        };
        let len = front.len().min(out.len());
        front.copy_to_slice(&mut out[..len]);
        if front.is_empty() {
            channel.received.pop_front();
        }
        channel.unread_len -= len;
        Read::Data(len)
    }

    fn write(&mut self, id: u8, bytes: &[u8]) -> Result<usize, WriteError> {
        let channel = self.by_id.get(usize::from(id));
        if self.broken {
            return Err(WriteError::Reset);
        }
        if !channel.is_some_and(|channel| channel.writable) {
            return Err(WriteError::Ended);
        }
        let room = OUTPUT_LEN.saturating_sub(self.output_len);
        let len = bytes.len().min(MESSAGE_LEN).min(room);
        if len > 0 {
            self.put(id, &bytes[..len]);
        }
        Ok(len)
    }

    /// No version of the protocol tells a client that one channel has ended.
    fn finish(&mut self, id: u8) {
        if let Some(channel) = self.by_id.get_mut(usize::from(id)) {
            channel.writable = false;
        }
    }

    fn ignore(&mut self, id: u8) {
        if let Some(channel) = self.by_id.get_mut(usize::from(id)) {
            channel.readable = false;
            channel.received.clear();
            channel.unread_len = 0;
        }
    }

    fn is_sent(&self) -> bool {
        self.output.is_empty() && !self.sending
    }
}
