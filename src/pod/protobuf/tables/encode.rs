//! Writing, out of JSON.

use jiff::Timestamp;
use prost::encoding::{bytes, int64, string};
use serde_json::Value;

use super::{Field, Kind, Message, field};

/// The number of what no table has: it must be skipped.
const UNREAD: u32 = 1000;

/// The fields of a message, and, as fields that are not read, what the table does not have.
pub(crate) fn encode(object: &Value, message: Message) -> Vec<u8> {
    let mut all = known_fields(object, message);
    let fields = object.as_object().into_iter().flatten();
    for (_, value) in fields.filter(|(name, _)| field(name, message).is_none()) {
        string::encode(UNREAD, &value.to_string(), &mut all);
    }
    all
}

fn known_fields(object: &Value, message: Message) -> Vec<u8> {
    let mut all = Vec::new();
    for field in message.iter().filter(|field| field.number != 0) {
        if let Kind::Embedded(inner) = field.kind {
            bytes::encode(field.number, &known_fields(object, inner), &mut all);
        } else if let Some(value) = object.get(field.name).filter(|value| !value.is_null()) {
            one_field(field, value, &mut all);
        }
    }
    all
}

/// Appends a field of the kind that the table has it of.
fn one_field(field: &Field, value: &Value, to: &mut Vec<u8>) {
    let (number, name) = (field.number, field.name);
    let text = |value: &Value| value.as_str().expect(name).to_owned();
    match field.kind {
        Kind::Text => string::encode(number, &text(value), to),
        Kind::Time => bytes::encode(number, &time(&text(value)), to),
        Kind::Bool => int64::encode(number, &value.as_bool().expect(name).into(), to),
        Kind::Count | Kind::Number => int64::encode(number, &value.as_i64().expect(name), to),
        Kind::Texts => {
            for one in value.as_array().expect(name) {
                string::encode(number, &text(one), to);
            }
        }
        Kind::Numbers => {
            for one in value.as_array().expect(name) {
                int64::encode(number, &one.as_i64().expect(name), to);
            }
        }
        Kind::TextMap | Kind::Quantities => {
            for (key, value) in value.as_object().expect(name) {
                let mut entry = Vec::new();
                string::encode(1, key, &mut entry);
                if matches!(field.kind, Kind::Quantities) {
                    let mut quantity = Vec::new();
                    string::encode(1, &text(value), &mut quantity);
                    bytes::encode(2, &quantity, &mut entry);
                } else {
                    string::encode(2, &text(value), &mut entry);
                }
                bytes::encode(number, &entry, to);
            }
        }
        Kind::One(message) => bytes::encode(number, &encode(value, message), to),
        Kind::Many(message) => {
            for one in value.as_array().expect(name) {
                bytes::encode(number, &encode(one, message), to);
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
