//! Objects in protobuf as an API server sends them, out of JSON: for tests and benchmarks.

use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::Value;

use super::{Field, Kind, Message};

/// The number of what no table has: it must be skipped.
const UNREAD: u32 = 1000;

/// An object in its envelope.
pub(crate) fn enveloped(object: &Value, message: Message) -> Vec<u8> {
    let mut all = b"k8s\0".to_vec();
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    let mut type_meta = Vec::new();
    bytes(1, text("apiVersion").as_bytes(), &mut type_meta);
    bytes(2, text("kind").as_bytes(), &mut type_meta);
    bytes(1, &type_meta, &mut all);
    bytes(2, &encode(object, message), &mut all);
    bytes(3, b"", &mut all);
    all
}

/// What a watch tells of an object: `WatchEvent` of k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto, with its
/// length before it. The object is in its envelope.
pub(crate) fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    bytes(1, object, &mut raw);
    let mut event = Vec::new();
    bytes(1, kind.as_bytes(), &mut event);
    bytes(2, &raw, &mut event);
    let length = u32::try_from(event.len()).expect("a short event");
    [&length.to_be_bytes()[..], &event].concat()
}

/// The fields of a message, and, as one that is not read, what the table does not have.
pub(crate) fn encode(object: &Value, message: Message) -> Vec<u8> {
    let mut all = Vec::new();
    fields(object, message, &mut all);
    let unread: Vec<u8> = object
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| !is_in(name, message))
        .flat_map(|(_, value)| value.to_string().into_bytes())
        .collect();
    bytes(UNREAD, &unread, &mut all);
    all
}

/// One field as bytes with their length.
pub(crate) fn bytes(number: u32, value: &[u8], to: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, to);
    encode_varint(value.len() as u64, to);
    to.extend_from_slice(value);
}

fn is_in(name: &str, message: Message) -> bool {
    message.iter().any(|field| match field.kind {
        Kind::Embedded(inner) => is_in(name, inner),
        _ => field.name == name && field.number != 0,
    })
}

fn fields(object: &Value, message: Message, to: &mut Vec<u8>) {
    for field in message.iter().filter(|field| field.number != 0) {
        if let Kind::Embedded(inner) = field.kind {
            let mut embedded = Vec::new();
            fields(object, inner, &mut embedded);
            bytes(field.number, &embedded, to);
        } else if !object[field.name].is_null() {
            one_field(field, &object[field.name], to);
        }
    }
}

fn one_field(field: &Field, value: &Value, to: &mut Vec<u8>) {
    let number = field.number;
    let text = |value: &Value| value.as_str().expect("a string").as_bytes().to_vec();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    match field.kind {
        Kind::Text => bytes(number, &text(value), to),
        Kind::Texts => list(value)
            .iter()
            .for_each(|one| bytes(number, &text(one), to)),
        Kind::TextMap | Kind::Quantities => {
            for (key, value) in value.as_object().expect("a map") {
                let mut value = text(value);
                if matches!(field.kind, Kind::Quantities) {
                    let bare = std::mem::take(&mut value);
                    bytes(1, &bare, &mut value);
                }
                let mut entry = Vec::new();
                bytes(1, key.as_bytes(), &mut entry);
                bytes(2, &value, &mut entry);
                bytes(number, &entry, to);
            }
        }
        Kind::Bool | Kind::Count | Kind::Number => {
            let value = value.as_i64().or(value.as_bool().map(i64::from));
            varint(number, value.expect("a number"), to);
        }
        Kind::Time => {
            let time: jiff::Timestamp = value.as_str().expect("a time").parse().expect("a time");
            let mut parts = Vec::new();
            varint(1, time.as_second(), &mut parts);
            varint(2, time.subsec_nanosecond().into(), &mut parts);
            bytes(number, &parts, to);
        }
        Kind::One(message) => bytes(number, &encode(value, message), to),
        Kind::Many(message) => list(value)
            .iter()
            .for_each(|one| bytes(number, &encode(one, message), to)),
        Kind::Embedded(_) => unreachable!("it has no value of its own"),
    }
}

fn varint(number: u32, value: i64, to: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, to);
    encode_varint(value.cast_unsigned(), to);
}
