//! One stream of a session: what it holds and may send.
//!
//! Knows no frames; the session writes them.

use bytes::{Buf, BytesMut};
use thiserror::Error;

/// A stream's and the session's window before anything is said about it (section 2.6.8 of the draft).
pub(crate) const WINDOW: u32 = 64 * 1024;
const WINDOW_MAX: i64 = 0x7fff_ffff;

/// What [`crate::Session::read`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes, at least one.
    Data(usize),
    /// Nothing now; [`crate::Event::Readable`] tells.
    Pending,
    /// The peer has ended its side and everything was read.
    End,
    /// The stream or the session was broken off and everything that came before was read.
    Reset,
}

/// Why nothing more can be sent on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WriteError {
    /// This side has ended, or it has no side to send on.
    #[error("this side of the stream has ended")]
    Ended,
    /// The peer reset the stream, or the session is over.
    #[error("the peer has given up the stream")]
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    Open,
    Ended,
    Reset,
}

/// A count of bytes in one direction against a window, for a stream or the session.
#[derive(Debug)]
pub(crate) struct Window {
    left: i64,
}

impl Window {
    pub(crate) fn new(size: u32) -> Self {
        Self {
            left: i64::from(size),
        }
    }

    pub(crate) fn room(&self) -> usize {
        usize::try_from(self.left).unwrap_or(0)
    }

    pub(crate) fn spend(&mut self, len: usize) {
        self.left = self
            .left
            .saturating_sub(i64::try_from(len).unwrap_or(i64::MAX));
    }

    /// False when the window would grow beyond 31 bits, which is an error of the peer.
    pub(crate) fn grow(&mut self, delta: i64) -> bool {
        self.left = self.left.saturating_add(delta);
        self.left <= WINDOW_MAX
    }

    pub(crate) fn overrun(&self) -> bool {
        self.left < 0
    }
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) received: BytesMut,
    pub(crate) remote: Half,
    pub(crate) local: Half,
    /// Data may be sent only after SYN_REPLY: spdystream drops what comes before it.
    pub(crate) accepted: bool,
    /// Nobody reads it: what comes is dropped.
    pub(crate) ignored: bool,
    pub(crate) receive_window: Window,
    /// Read since the last WINDOW_UPDATE.
    pub(crate) unacknowledged: u32,
    pub(crate) send_window: Window,
}

impl Stream {
    pub(crate) fn new(remote: Half, local: Half, send_window: Window) -> Self {
        Self {
            received: BytesMut::new(),
            remote,
            local,
            accepted: false,
            ignored: false,
            receive_window: Window::new(WINDOW),
            unacknowledged: 0,
            send_window,
        }
    }

    pub(crate) fn read(&mut self, out: &mut [u8]) -> Read {
        if self.received.is_empty() {
            return match self.remote {
                Half::Open => Read::Pending,
                Half::Ended => Read::End,
                Half::Reset => Read::Reset,
            };
        }
        let len = out.len().min(self.received.len());
        self.received.copy_to_slice(&mut out[..len]);
        if self.received.is_empty() {
            // An idle stream keeps no buffer.
            self.received = BytesMut::new();
        }
        Read::Data(len)
    }

    /// Nothing more can come of it, in either direction.
    pub(crate) fn is_done(&self) -> bool {
        self.ignored && self.remote != Half::Open && self.local != Half::Open
    }

    pub(crate) fn reset(&mut self) {
        if self.remote == Half::Open {
            self.remote = Half::Reset;
        }
        self.local = Half::Reset;
    }
}
