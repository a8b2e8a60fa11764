use std::collections::BTreeMap;
use std::fmt::Debug;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::read::{Read, message};
use super::tables::{self, Field, Kind, Message, POD, encode, enveloped};
use super::*;
use crate::pod::view::{GoneView, PodView};

/// A pod with every field that is read.
const EVERYTHING: &str = include_str!("pod.json");

fn everything() -> Value {
    serde_json::from_str(EVERYTHING).unwrap()
}

fn same(pod: &Value) {
    same_as::<PodView>(pod);
    same_as::<GoneView>(pod);
}

fn same_as<T: DeserializeOwned + Read + Default + Debug>(pod: &Value) {
    let from_json: T = serde_json::from_value(pod.clone()).unwrap();
    let body = Bytes::from(enveloped(pod, POD));
    let object = enclosed(&body).unwrap();
    let from_protobuf: T = message(&object).unwrap();
    assert_eq!(format!("{from_protobuf:#?}"), format!("{from_json:#?}"));
    // By tables in which a field that the type has in JSON must not be missing.
    let by_tables: T = tables::decode::from_slice(&object, POD).unwrap();
    assert_eq!(format!("{by_tables:#?}"), format!("{from_json:#?}"));
}

/// All objects of each message, by its table.
type Met<'a> = BTreeMap<*const Field, (Message, Vec<&'a Value>)>;

fn meet<'a>(message: Message, object: &'a Value, met: &mut Met<'a>) {
    let known = met.entry(message.as_ptr());
    known.or_insert((message, Vec::new())).1.push(object);
    for field in message {
        let value = &object[field.name];
        match field.kind {
            Kind::Embedded(inner) => meet(inner, object, met),
            Kind::One(inner) if !value.is_null() => meet(inner, value, met),
            Kind::Many(inner) => {
                let list = value.as_array().into_iter().flatten();
                list.for_each(|one| meet(inner, one, met));
            }
            _ => {}
        }
    }
}

#[test]
fn every_field_is_in_the_pod_that_is_read_in_both_encodings() {
    let (pod, mut met) = (everything(), Met::new());
    meet(POD, &pod, &mut met);
    let unmet: Vec<&str> = met
        .values()
        .flat_map(|(message, objects)| message.iter().map(move |field| (field, objects)))
        .filter(|(field, _)| field.number != 0 && !matches!(field.kind, Kind::Embedded(_)))
        .filter(|(field, objects)| objects.iter().all(|object| object[field.name].is_null()))
        .map(|(field, _)| field.name)
        .collect();
    assert_eq!(unmet, [""; 0]);
}

#[test]
fn a_pod_reads_the_same_in_protobuf_and_in_json() {
    same(&everything());
    same(&json!({"metadata": {}, "spec": {}, "status": {}}));
    same(&json!({"metadata": {"name": "a", "managedFields": [{"manager": "m"}]}}));
}

#[test]
fn an_empty_string_and_a_zero_are_absent_unless_they_are_behind_a_pointer() {
    let pod = json!({
        "metadata": {"uid": "", "generation": 0, "deletionGracePeriodSeconds": 0, "labels": {"": ""}},
        "spec": {"nodeName": "", "terminationGracePeriodSeconds": 0},
        "status": {"phase": "", "podIP": "", "observedGeneration": 0},
    });
    let view: PodView = message(&encode(&pod, POD)).unwrap();
    let meta = view.metadata;
    assert_eq!((meta.uid, meta.generation), (None, None));
    assert_eq!(meta.deletion_grace_period_seconds, Some(0));
    assert_eq!(meta.labels.unwrap()[""], "");
    assert_eq!(view.spec.node_name, None);
    assert_eq!(view.spec.termination_grace_period_seconds, Some(0));
    assert_eq!(
        (view.status.pod_ip, view.status.observed_generation),
        (None, None)
    );
}

#[test]
fn a_time_that_is_not_set_is_absent() {
    let mut meta = Vec::new();
    append_bytes(8, &[], &mut meta);
    let mut pod = Vec::new();
    append_bytes(1, &meta, &mut pod);
    let view: PodView = message(&pod).unwrap();
    assert_eq!(view.metadata.creation_timestamp, None);
}

/// Go's latest time of a calendar, and nonsense.
#[test]
fn a_time_that_only_go_can_tell_becomes_the_nearest_that_can_be_told() {
    let last = Timestamp::MAX.as_second();
    for (told_s, want_s) in [
        (253_402_300_799, last),
        (i64::MIN, Timestamp::MIN.as_second()),
    ] {
        let (mut time, mut meta, mut pod) = (Vec::new(), Vec::new(), Vec::new());
        prost::encoding::int64::encode(1, &told_s, &mut time);
        append_bytes(8, &time, &mut meta);
        append_bytes(1, &meta, &mut pod);
        let view: PodView = message(&pod).unwrap();
        let time = view.metadata.creation_timestamp.unwrap().0;
        assert_eq!(time.as_second(), want_s, "{told_s}");
    }
}

#[test]
fn what_the_type_does_not_want_is_not_looked_into() {
    let mut meta = Vec::new();
    append_bytes(5, b"u-1", &mut meta);
    // Labels, twice, and a specification that are no messages.
    append_bytes(11, &[0xff], &mut meta);
    append_bytes(11, &[0xff], &mut meta);
    let mut pod = Vec::new();
    append_bytes(1, &meta, &mut pod);
    append_bytes(2, &[0xff], &mut pod);
    assert!(message::<PodView>(&pod).is_err());
    let gone: GoneView = message(&pod).unwrap();
    assert_eq!(gone.metadata.uid.as_deref(), Some("u-1"));
}

#[test]
fn a_byte_that_is_no_text_reads_as_go_writes_it_in_json() {
    let uid = PodView::decode(vec![0x0a, 4, 0x2a, 2, b'u', 0xff].into());
    assert_eq!(uid.unwrap().metadata.uid.as_deref(), Some("u\u{fffd}"));
}

#[test]
fn what_is_no_pod_is_refused_wherever_it_ends() {
    let whole = encode(&everything(), POD);
    for end in 0..whole.len() {
        // Cut between two fields it is a smaller pod; nowhere may it panic.
        drop(PodView::decode(whole[..end].to_vec().into()));
    }
    let refused = |raw: &[u8], why: &str| {
        let error = PodView::decode(raw.to_vec().into()).unwrap_err();
        assert_eq!(error.to_string(), why);
    };
    // A specification alone.
    for bare in [&[][..], &[0x12, 0]] {
        refused(bare, "Pod has no metadata");
        assert!(GoneView::decode(bare).is_err());
    }
    refused(&[0x0a, 5, 1], "the field ends before its length");
    refused(&[0xff], "not a protobuf message");
    refused(&[0x08, 1], "field 1 of Pod is not written as expected");
    // A UID in four bytes without a length.
    refused(
        &[0x0a, 5, 0x2d, 1, 2, 3, 4],
        "field 5 of ObjectMeta is not written as expected",
    );
    // A restart policy that is none.
    refused(
        &[0x12, 3, 0x1a, 1, b'x'],
        "field 3 of PodSpec is not written as expected",
    );
    let json = Bytes::from_static(b"{\"kind\": \"Pod\"}");
    assert!(matches!(enclosed(&json), Err(Error::Foreign)));
}
