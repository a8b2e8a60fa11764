//! Writing, out of JSON.

use jiff::Timestamp;
use prost::encoding::{bytes, int64};
use serde_json::Value;

use super::{Field, Kind, Message};

/// The number of what no table has: it must be skipped.
const UNREAD: u32 = 1000;

/// The fields of a message, and, as fields that are not read, what the table does not have.
pub(crate) fn encode(object: &Value, message: Message) -> Vec<u8> {
    let mut all = known_fields(object, message);
    let fields = object.as_object().into_iter().flatten();
    for (_, value) in fields.filter(|(name, _)| !is_in(name, message)) {
        append_text(UNREAD, &value.to_string(), &mut all);
    }
    all
}

fn is_in(name: &str, message: Message) -> bool {
    message.iter().any(|field| match field.kind {
        Kind::Embedded(inner) => is_in(name, inner),
        _ => field.name == name && field.number != 0,
    })
}

fn known_fields(object: &Value, message: Message) -> Vec<u8> {
    let mut all = Vec::new();
    for field in message.iter().filter(|field| field.number != 0) {
        if let Kind::Embedded(inner) = field.kind {
            append_bytes(field.number, known_fields(object, inner), &mut all);
        } else if let Some(value) = object.get(field.name).filter(|value| !value.is_null()) {
            one_field(field, value, &mut all);
        }
    }
    all
}

/// # Panics
/// The table has another kind of value.
fn one_field(field: &Field, value: &Value, to: &mut Vec<u8>) {
    let (number, name) = (field.number, field.name);
    let text = |value: &Value| value.as_str().expect(name).to_owned();
    match field.kind {
        Kind::Text => append_text(number, &text(value), to),
        Kind::Time => append_bytes(number, time(&text(value)), to),
        Kind::Bool => int64::encode(number, &value.as_bool().expect(name).into(), to),
        Kind::Count | Kind::Number => int64::encode(number, &value.as_i64().expect(name), to),
        Kind::Texts => {
            for one in value.as_array().expect(name) {
                append_text(number, &text(one), to);
            }
        }
        Kind::TextMap | Kind::Quantities => {
            for (key, value) in value.as_object().expect(name) {
                let mut entry = Vec::new();
                append_text(1, key, &mut entry);
                if matches!(field.kind, Kind::Quantities) {
                    let mut quantity = Vec::new();
                    append_text(1, &text(value), &mut quantity);
                    append_bytes(2, quantity, &mut entry);
                } else {
                    append_text(2, &text(value), &mut entry);
                }
                append_bytes(number, entry, to);
            }
        }
        Kind::One(message) => append_bytes(number, encode(value, message), to),
        Kind::Many(message) => {
            for one in value.as_array().expect(name) {
                append_bytes(number, encode(one, message), to);
            }
        }
        Kind::Embedded(_) => unreachable!("it has no value of its own"),
    }
}

fn time(text: &str) -> Vec<u8> {
    let time: Timestamp = text.parse().expect("a time");
    let mut parts = Vec::new();
    int64::encode(1, &time.as_second(), &mut parts);
    int64::encode(2, &time.subsec_nanosecond().into(), &mut parts);
    parts
}

fn append_text(number: u32, text: &str, to: &mut Vec<u8>) {
    append_bytes(number, text.as_bytes().to_vec(), to);
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "what is appended was made for it"
)]
fn append_bytes(number: u32, value: Vec<u8>, to: &mut Vec<u8>) {
    bytes::encode(number, &value, to);
}
