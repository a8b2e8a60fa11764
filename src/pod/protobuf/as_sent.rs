//! Objects in protobuf as an API server sends them, out of JSON: for tests and benchmarks.

use serde_json::Value;

use super::Message;
use super::encode::{append_bytes, append_fields};

/// The number of what no table has: it must be skipped.
const UNREAD: u32 = 1000;

/// An object in its envelope.
pub(crate) fn enveloped(object: &Value, message: Message) -> Vec<u8> {
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    super::envelope(text("apiVersion"), text("kind"), &encode(object, message))
}

/// What a watch tells of an object: `WatchEvent` of k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto, with its
/// length before it. The object is in its envelope.
pub(crate) fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    append_bytes(1, object, &mut raw);
    let mut event = Vec::new();
    append_bytes(1, kind.as_bytes(), &mut event);
    append_bytes(2, &raw, &mut event);
    let length = u32::try_from(event.len()).expect("a short event");
    [&length.to_be_bytes()[..], &event].concat()
}

/// The fields of a message, and, as fields that are not read, what the table does not have.
pub(crate) fn encode(object: &Value, message: Message) -> Vec<u8> {
    let mut all = Vec::new();
    let unread = |_: &str, value: &Value, to: &mut Vec<u8>| {
        append_bytes(UNREAD, value.to_string().as_bytes(), to);
        Ok(())
    };
    append_fields(object, message, unread, &mut all).expect("an object as the table has it");
    all
}
