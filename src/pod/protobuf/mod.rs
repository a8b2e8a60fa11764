//! Objects of Kubernetes in protobuf: the envelope they come in, and how fields are read and written.
//!
//! In protobuf a field is a number. The types that are read or written have theirs beside them
//! ([`view`](super::view) and [`status`](super::status)); what is not known is skipped by its length (Kubernetes, "API
//! Concepts", "Kubernetes Protobuf encoding"). prost's derive would do for messages of its own types; a view has times and
//! enums out of strings, and is the same type in JSON. The varints and keys are prost's.

pub mod read;
#[cfg(test)]
pub(super) mod tables;
#[cfg(test)]
mod tests;
pub(super) mod write;

use bytes::Bytes;
use prost::Message as _;

use self::write::{append_bytes, append_message};

/// What was read is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no envelope.
    #[error("not in the protobuf encoding of Kubernetes")]
    Foreign,
    /// The bytes are no protobuf.
    #[error("not a protobuf message")]
    Wire(#[from] prost::DecodeError),
    /// The bytes end within a field.
    #[error("the field ends before its length")]
    Short,
    /// What every object has is not there.
    #[error("{0} has no metadata")]
    Bare(&'static str),
    /// The field is written in another way.
    #[error("field {1} of {0} is not written as expected")]
    Mistyped(&'static str, u32),
}

/// What an object in protobuf begins with.
pub(super) const MAGIC: &[u8] = b"k8s\0";

/// `Unknown` of k8s.io/apimachinery/pkg/runtime/generated.proto, the envelope of every object.
#[derive(prost::Message)]
struct Envelope {
    #[prost(bytes = "bytes", tag = "2")]
    raw: Bytes,
}

/// Whether this is an object in protobuf, and not in JSON.
pub fn is_protobuf(body: &[u8]) -> bool {
    body.starts_with(MAGIC)
}

/// The object in its envelope.
///
/// # Errors
/// This is no object in protobuf.
pub fn enclosed(body: &Bytes) -> Result<Bytes, Error> {
    let rest = body.strip_prefix(MAGIC).ok_or(Error::Foreign)?;
    Ok(Envelope::decode(body.slice_ref(rest))?.raw)
}

/// An object in an envelope, as it is sent.
pub(super) fn envelope(version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
    let mut all = MAGIC.to_vec();
    append_message(1, &mut all, |to| {
        append_bytes(1, version.as_bytes(), to);
        append_bytes(2, kind.as_bytes(), to);
    });
    append_bytes(2, object, &mut all);
    all
}
