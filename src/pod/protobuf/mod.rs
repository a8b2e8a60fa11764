//! Objects of Kubernetes in protobuf, read into the same types as from JSON, and written out of JSON.
//!
//! In protobuf a field is a number, so a [`Message`] says which numbers are known and what they are called in JSON; all
//! else is skipped by its length. Owns the envelope and the form of these tables; [`schema`] has the tables of a pod,
//! `decode` reads by them and [`encode`] writes (Kubernetes, "API Concepts", "Kubernetes Protobuf encoding").
//!
//! Absent is what JSON would leave out. Go writes an empty string or a 0 that is not behind a pointer into protobuf,
//! and `omitempty` keeps it out of JSON; [`Kind`] tells the two apart.

#[cfg(test)]
pub(super) mod as_sent;
mod decode;
pub mod encode;
pub mod schema;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

pub use self::decode::from_slice;
use self::encode::append_bytes;

/// The fields of a message that are known.
pub type Message = &'static [Field];

/// One field of a message.
#[derive(Debug)]
pub struct Field {
    /// In protobuf.
    pub number: u32,
    /// In JSON.
    pub name: &'static str,
    /// How it is written.
    pub kind: Kind,
}

/// How a field is written.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A string; absent when it is empty.
    Text,
    /// Strings.
    Texts,
    /// A map from strings to strings.
    TextMap,
    /// A map from strings to quantities, each a message with a string.
    Quantities,
    /// True or false.
    Bool,
    /// A number; absent when it is 0.
    Count,
    /// A number behind a pointer: it may be 0.
    Number,
    /// A time; absent when it is no time. JSON has it in RFC 3339.
    Time,
    /// A message.
    One(Message),
    /// Messages.
    Many(Message),
    /// A message whose fields belong to the parent in JSON, for Go embeds it.
    Embedded(Message),
}

/// What was read is not what the table says, or not what the type wants.
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
    /// The field is written in another way.
    #[error("the field `{0}` is not written as expected")]
    Mistyped(&'static str),
    /// No number is known for the field.
    #[error("the field `{0}` has no number")]
    Unnumbered(String),
    /// The type does not take the value.
    #[error("{0}")]
    Refused(String),
}

impl serde::de::Error for Error {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Refused(message.to_string())
    }
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
pub fn envelope(version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
    let mut type_meta = Vec::new();
    append_bytes(1, version.as_bytes(), &mut type_meta);
    append_bytes(2, kind.as_bytes(), &mut type_meta);
    let mut all = MAGIC.to_vec();
    append_bytes(1, &type_meta, &mut all);
    append_bytes(2, object, &mut all);
    all
}

/// A field as it is on the wire.
pub(super) struct RawField<'a> {
    pub(super) number: u32,
    /// With its number.
    pub(super) whole: &'a [u8],
    /// Without, if it is a message or a text.
    pub(super) bytes: &'a [u8],
}

/// The fields of a message, in the order in which they were written.
///
/// # Errors
/// The bytes are no message.
pub(super) fn raw_fields(mut from: &[u8]) -> Result<Vec<RawField<'_>>, Error> {
    let mut all = Vec::new();
    while !from.is_empty() {
        let begin = from;
        let (number, wire) = decode_key(&mut from)?;
        let bytes = match Raw::take(wire, number, &mut from)? {
            Some(Raw::Bytes(bytes)) => bytes,
            Some(Raw::Varint(_)) | None => &[],
        };
        all.push(RawField {
            number,
            whole: &begin[..begin.len() - from.len()],
            bytes,
        });
    }
    Ok(all)
}

/// A value as it is on the wire.
#[derive(Clone, Copy)]
enum Raw<'de> {
    Varint(u64),
    Bytes(&'de [u8]),
}

impl<'de> Raw<'de> {
    /// `None` after a value that no field here has.
    fn take(wire: WireType, number: u32, from: &mut &'de [u8]) -> Result<Option<Self>, Error> {
        Ok(match wire {
            WireType::Varint => Some(Self::Varint(decode_varint(from)?)),
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(from)?).map_err(|_| Error::Short)?;
                let (bytes, rest) = from.split_at_checked(length).ok_or(Error::Short)?;
                *from = rest;
                Some(Self::Bytes(bytes))
            }
            _ => {
                skip_field(wire, number, from, DecodeContext::default())?;
                None
            }
        })
    }

    fn bytes(self, name: &'static str) -> Result<&'de [u8], Error> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) => Err(Error::Mistyped(name)),
        }
    }

    fn text(self, name: &'static str) -> Result<&'de str, Error> {
        std::str::from_utf8(self.bytes(name)?).map_err(|_| Error::Mistyped(name))
    }

    fn is_absent(self, kind: Kind) -> bool {
        match (kind, self) {
            (Kind::Text | Kind::Time, Self::Bytes(bytes)) => bytes.is_empty(),
            (Kind::Count, Self::Varint(number)) => number == 0,
            _ => false,
        }
    }
}

/// Fields 1 and 2 of a message: the two of a map's entry, or of a time.
fn pair(mut from: &[u8]) -> Result<[Option<Raw<'_>>; 2], Error> {
    let mut found = [None; 2];
    while !from.is_empty() {
        let (number, wire) = decode_key(&mut from)?;
        let raw = Raw::take(wire, number, &mut from)?;
        if let 1 | 2 = number {
            found[number as usize - 1] = raw;
        }
    }
    Ok(found)
}
