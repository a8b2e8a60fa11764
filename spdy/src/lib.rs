//! SPDY/3.1 as Kubernetes speaks it, without I/O.
//!
//! Owns the frames, the header blocks and the life of streams in one session: bytes and a time go in,
//! events and bytes come out. Opens no socket, reads no clock, starts no thread and knows nothing of what the
//! streams carry.
//!
//! The protocol is [SPDY draft 3.1](https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/); the
//! peers it has to get on with are `github.com/moby/spdystream` below `k8s.io/streaming/pkg/httpstream/spdy`,
//! which is what kubectl and the API server are built with. Where those two differ from the draft, the place
//! in the code says so.
//!
//! A peer costs bounded memory whatever it sends: see [`Limits`].

mod decode;
mod frame;
mod headers;
mod session;
mod stream;
#[cfg(test)]
mod tests;

pub use decode::{DecodeError, Decoder, Item, Step};
pub use frame::{EncodeError, Encoder, Frame, GoAwayStatus, RstStatus, Setting, StreamId};
pub use headers::{HeaderError, Headers};
pub use session::{Event, Limits, OpenError, Role, Session, SessionError};
pub use stream::{Read, WriteError};
