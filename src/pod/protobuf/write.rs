//! Writing the fields of a message. Owns how a kind of field is written; knows no message.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;

use jiff::Timestamp;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

/// Appends bytes, or a text, with their length.
pub(in crate::pod) fn append_bytes(number: u32, value: &[u8], to: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, to);
    encode_varint(value.len() as u64, to);
    to.extend_from_slice(value);
}

/// Appends what something is as a text.
pub(in crate::pod) fn append_text(number: u32, value: impl fmt::Display, to: &mut Vec<u8>) {
    append_message(number, to, |to| {
        write!(to, "{value}").expect("a Vec takes all bytes");
    });
}

/// Appends a number, or a flag.
pub(in crate::pod) fn append_number(number: u32, value: impl Into<i64>, to: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, to);
    encode_varint(value.into().cast_unsigned(), to);
}

/// Appends a time.
pub(in crate::pod) fn append_time(number: u32, time: Timestamp, to: &mut Vec<u8>) {
    append_message(number, to, |to| {
        append_number(1, time.as_second(), to);
        append_number(2, time.subsec_nanosecond(), to);
    });
}

/// Appends a message that `write` appends the fields of.
pub(in crate::pod) fn append_message(
    number: u32,
    to: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>),
) {
    encode_key(number, WireType::LengthDelimited, to);
    let at = to.len();
    // Most lengths take one byte; a longer one moves what was written.
    to.push(0);
    write(to);
    let length = (to.len() - at - 1) as u64;
    let mut prefix = [0; 10];
    let taken = encoded_len_varint(length);
    encode_varint(length, &mut &mut prefix[..]);
    to.splice(at..=at, prefix[..taken].iter().copied());
}

/// Appends an entry of a map from texts to texts.
pub(in crate::pod) fn append_entry(number: u32, key: &str, value: &str, to: &mut Vec<u8>) {
    append_message(number, to, |to| {
        append_bytes(1, key.as_bytes(), to);
        append_bytes(2, value.as_bytes(), to);
    });
}

/// Appends a text, if there is one.
pub(in crate::pod) fn append_some_text(number: u32, text: Option<&str>, to: &mut Vec<u8>) {
    if let Some(text) = text {
        append_bytes(number, text.as_bytes(), to);
    }
}

/// Appends a map from texts to quantities, each a message with a text.
pub(in crate::pod) fn append_quantities(
    number: u32,
    all: &BTreeMap<String, String>,
    to: &mut Vec<u8>,
) {
    for (name, quantity) in all {
        append_message(number, to, |to| {
            append_bytes(1, name.as_bytes(), to);
            append_message(2, to, |to| append_bytes(1, quantity.as_bytes(), to));
        });
    }
}
