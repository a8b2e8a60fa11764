//! Objects written in protobuf, out of JSON.
//!
//! Owns how the kinds of fields are written; numbers and kinds come from the tables that reading has. Knows no envelope.

use prost::encoding::{WireType, encode_key, encode_varint};
use serde::de::Error as _;
use serde_json::Value;

use super::{Error, Field, Kind, Message};

/// What is done with a field that the table does not have.
type Unknown = fn(&str, &Value, &mut Vec<u8>) -> Result<(), Error>;

/// The fields of a message.
///
/// # Errors
/// The table does not have a field, or has another kind of value.
pub fn encode(object: &Value, message: Message) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    let refused: Unknown = |name, _, _| Err(Error::Unnumbered(name.to_owned()));
    append_fields(object, message, refused, &mut all)?;
    Ok(all)
}

/// Appends the fields of a message.
///
/// # Errors
/// The table has another kind of value, or `unknown` says so.
pub fn append_fields(
    object: &Value,
    message: Message,
    unknown: Unknown,
    to: &mut Vec<u8>,
) -> Result<(), Error> {
    known_fields(object, message, unknown, to)?;
    let all = object.as_object().into_iter().flatten();
    for (name, value) in all.filter(|(name, _)| !is_in(name, message)) {
        unknown(name, value, to)?;
    }
    Ok(())
}

/// Appends one field as bytes with their length.
pub fn append_bytes(number: u32, value: &[u8], to: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, to);
    encode_varint(value.len() as u64, to);
    to.extend_from_slice(value);
}

fn append_varint(number: u32, value: i64, to: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, to);
    encode_varint(value.cast_unsigned(), to);
}

fn is_in(name: &str, message: Message) -> bool {
    message.iter().any(|field| match field.kind {
        Kind::Embedded(inner) => is_in(name, inner),
        _ => field.name == name && field.number != 0,
    })
}

fn known_fields(
    object: &Value,
    message: Message,
    unknown: Unknown,
    to: &mut Vec<u8>,
) -> Result<(), Error> {
    for field in message.iter().filter(|field| field.number != 0) {
        if let Kind::Embedded(inner) = field.kind {
            let mut embedded = Vec::new();
            known_fields(object, inner, unknown, &mut embedded)?;
            append_bytes(field.number, &embedded, to);
        } else if let Some(value) = object.get(field.name).filter(|value| !value.is_null()) {
            one_field(field, value, unknown, to)?;
        }
    }
    Ok(())
}

fn one_field(
    field: &Field,
    value: &Value,
    unknown: Unknown,
    to: &mut Vec<u8>,
) -> Result<(), Error> {
    let number = field.number;
    let of_kind = Error::Mistyped(field.name);
    match field.kind {
        Kind::Text => append_bytes(number, value.as_str().ok_or(of_kind)?.as_bytes(), to),
        Kind::Time => append_time(number, value.as_str().ok_or(of_kind)?, to)?,
        Kind::Bool => append_varint(number, value.as_bool().ok_or(of_kind)?.into(), to),
        Kind::Count | Kind::Number => append_varint(number, value.as_i64().ok_or(of_kind)?, to),
        Kind::Texts => {
            for one in value.as_array().ok_or(of_kind)? {
                let text = one.as_str().ok_or(Error::Mistyped(field.name))?;
                append_bytes(number, text.as_bytes(), to);
            }
        }
        Kind::TextMap | Kind::Quantities => {
            for (key, value) in value.as_object().ok_or(of_kind)? {
                let text = value.as_str().ok_or(Error::Mistyped(field.name))?;
                let mut value = text.as_bytes().to_vec();
                if matches!(field.kind, Kind::Quantities) {
                    let text = std::mem::take(&mut value);
                    append_bytes(1, &text, &mut value);
                }
                let mut entry = Vec::new();
                append_bytes(1, key.as_bytes(), &mut entry);
                append_bytes(2, &value, &mut entry);
                append_bytes(number, &entry, to);
            }
        }
        Kind::One(message) => append_message(field, value, message, unknown, to)?,
        Kind::Many(message) => {
            for one in value.as_array().ok_or(of_kind)? {
                append_message(field, one, message, unknown, to)?;
            }
        }
        Kind::Embedded(_) => unreachable!("it has no value of its own"),
    }
    Ok(())
}

fn append_message(
    field: &Field,
    value: &Value,
    message: Message,
    unknown: Unknown,
    to: &mut Vec<u8>,
) -> Result<(), Error> {
    if !value.is_object() {
        return Err(Error::Mistyped(field.name));
    }
    let mut inner = Vec::new();
    append_fields(value, message, unknown, &mut inner)?;
    append_bytes(field.number, &inner, to);
    Ok(())
}

fn append_time(number: u32, text: &str, to: &mut Vec<u8>) -> Result<(), Error> {
    let time: jiff::Timestamp = text.parse().map_err(Error::custom)?;
    let mut parts = Vec::new();
    append_varint(1, time.as_second(), &mut parts);
    append_varint(2, time.subsec_nanosecond().into(), &mut parts);
    append_bytes(number, &parts, to);
    Ok(())
}
