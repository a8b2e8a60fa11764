//! How a session or the opening of a stream fails.

use std::time::Duration;

use thiserror::Error;

use crate::decode::DecodeError;
use crate::frame::{EncodeError, StreamId};

/// Why a session is over.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SessionError {
    /// The peer's bytes are no SPDY/3, or more than is allowed.
    #[error("the peer sent what is no SPDY/3 frame")]
    Decode(#[from] DecodeError),
    /// The number has the wrong parity or is not above all before it.
    #[error("the peer opened stream {0}, whose turn it is not")]
    StreamOrder(StreamId),
    /// A window beyond 31 bits.
    #[error("the peer made the session's window larger than 31 bits")]
    WindowOverflow,
    /// Nothing went either way for [`Limits::idle_timeout`].
    #[error("nothing was sent or received for {0:?}")]
    Idle(Duration),
}

/// Why no stream was opened.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OpenError {
    /// The session is over or its numbers are used up.
    #[error("the session opens no more streams")]
    Over,
    /// The headers.
    #[error("the headers are too long")]
    Headers(#[from] EncodeError),
}
