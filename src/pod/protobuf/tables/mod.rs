//! The encoding once more, by tables that name each field as JSON does: for tests and benchmarks, which have their pods
//! in JSON. Shares nothing with what the program reads and writes by, so that each proves the other.
//!
//! Owns the form of the tables and what an API server puts around an object; [`schema`] has the tables of a pod,
//! [`decode`] reads by them and [`encode`] writes.

pub(crate) mod decode;
mod encode;
mod schema;

use prost::encoding::{
    DecodeContext, WireType, bytes, decode_key, decode_varint, skip_field, string,
};
use serde_json::Value;

pub(crate) use self::encode::encode;
pub(crate) use self::schema::POD;

/// The fields of a message that are known.
pub(crate) type Message = &'static [Field];

/// One field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    /// In protobuf.
    pub(crate) number: u32,
    /// In JSON.
    pub(crate) name: &'static str,
    /// How it is written.
    pub(crate) kind: Kind,
}

/// How a field is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A string; absent when it is empty.
    Text,
    /// Strings.
    Texts,
    /// Numbers, each on its own.
    Numbers,
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
pub(crate) enum Error {
    /// The bytes are no protobuf.
    #[error("not a protobuf message")]
    Wire(#[from] prost::DecodeError),
    /// The bytes end within a field.
    #[error("the field ends before its length")]
    Short,
    /// The field is written in another way.
    #[error("the field `{0}` is not written as expected")]
    Mistyped(&'static str),
    /// The type does not take the value.
    #[error("{0}")]
    Refused(String),
}

impl serde::de::Error for Error {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Refused(message.to_string())
    }
}

/// An object in its envelope, as an API server sends it: after four bytes an `Unknown` of
/// k8s.io/apimachinery/pkg/runtime/generated.proto.
pub(crate) fn enveloped(object: &Value, message: Message) -> Vec<u8> {
    let (mut type_meta, mut unknown) = (Vec::new(), b"k8s\0".to_vec());
    for (number, name) in [(1, "apiVersion"), (2, "kind")] {
        let text = object[name].as_str().unwrap_or_default();
        string::encode(number, &text.to_owned(), &mut type_meta);
    }
    bytes::encode(1, &type_meta, &mut unknown);
    bytes::encode(2, &encode(object, message), &mut unknown);
    unknown
}

/// What a watch tells of an object: `WatchEvent` of k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto, with its
/// length before it. The object is in its envelope.
pub(crate) fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    let (mut raw, mut event) = (Vec::new(), Vec::new());
    bytes::encode(1, &object.to_vec(), &mut raw);
    string::encode(1, &kind.to_owned(), &mut event);
    bytes::encode(2, &raw, &mut event);
    let length = u32::try_from(event.len()).expect("a short event");
    [&length.to_be_bytes()[..], &event].concat()
}

/// A field of an object, or of one in it, that the table does not have.
pub(crate) fn unknown(object: &Value, message: Message) -> Option<&str> {
    let fields = object.as_object().into_iter().flatten();
    let mut all = fields.map(|(name, value)| match field(name, message) {
        None => Some(name.as_str()),
        Some(Kind::One(inner)) => unknown(value, inner),
        Some(Kind::Many(inner)) => {
            let mut list = value.as_array().into_iter().flatten();
            list.find_map(|one| unknown(one, inner))
        }
        Some(_) => None,
    });
    all.find_map(|found| found)
}

/// How the field of this name is written.
fn field(name: &str, message: Message) -> Option<Kind> {
    message.iter().find_map(|known| match known.kind {
        Kind::Embedded(inner) => field(name, inner),
        kind => (known.name == name && known.number != 0).then_some(kind),
    })
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
