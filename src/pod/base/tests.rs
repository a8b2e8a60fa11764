use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::pod::observed::ConditionType;
use crate::pod::protobuf::enclosed;
use crate::pod::protobuf::tables::decode::from_slice;
use crate::pod::protobuf::tables::{POD, encode as as_sent};
use crate::pod::protobuf::write::append_bytes;
use crate::pod::status::{Annotations, Condition, Metadata, SYSTEM_ANNOTATIONS, Status};
use crate::pod::testing::{merge, view};
use crate::pod::view::{ConditionStatus, Phase};

/// Checks that a PUT of this status means what a patch of it does; whether a PUT would do at all.
pub(in crate::pod) fn means_what_the_patch_does(pod: &Value, wanted: &Wanted<'_>) -> bool {
    let seen = PodView {
        encoded: as_sent(pod, POD).into(),
        ..view(pod)
    };
    let patch = serde_json::to_value(wanted).unwrap();
    let Some(base) = Base::of(&seen) else {
        return false;
    };
    let mut patched = pod.clone();
    merge(&mut patched, patch);
    let patched = read(&as_sent(&patched, POD));
    let put = Bytes::from(base.with(wanted).unwrap());
    assert_eq!(read(&enclosed(&put).unwrap()), patched);
    true
}

/// What is read of a pod, its conditions by their names.
fn read(raw: &[u8]) -> Value {
    let mut pod: Value = from_slice(raw, POD).unwrap();
    if let Some(all) = pod["status"]["conditions"].as_array_mut() {
        all.sort_by_key(|one| one["type"].to_string());
    }
    pod
}

fn pod() -> Value {
    json!({
        "metadata": {
            "name": "web-0", "namespace": "default", "uid": "u", "resourceVersion": "10",
            "labels": {"app": "web"}, "finalizers": ["example.com/f"],
            "annotations": {"example.com/note": "n", SYSTEM_ANNOTATIONS[0]: "mine"},
        },
        "spec": {"nodeName": "acs-b", "containers": [{"name": "nginx", "image": "nginx"}]},
        "status": {
            "phase": "Pending", "qosClass": "BestEffort", "reason": "Before",
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "Old", "message": "old"},
                {"type": "example.com/gate", "status": "True", "reason": "Theirs"},
            ],
        },
    })
}

fn with_wanted<T>(run: impl FnOnce(&Wanted<'_>) -> T) -> T {
    let uid = "u".into();
    let mut annotations = [None; SYSTEM_ANNOTATIONS.len()];
    annotations[0] = Some("eni-1");
    let now = "2026-11-24T10:00:00Z".parse().unwrap();
    let ready = Condition {
        kind: ConditionType::Ready,
        status: ConditionStatus::True,
        reason: "",
        message: "".into(),
        last_transition_time: now,
        observed_generation: None,
    };
    run(&Wanted {
        metadata: Metadata {
            uid: &uid,
            annotations: Annotations(annotations),
        },
        status: Status {
            start_time: Some(now),
            conditions: vec![ready],
            ..Status::new(Phase::Running, None)
        },
    })
}

#[test]
fn what_others_wrote_stays_and_what_is_ours_is_replaced() {
    let checked = with_wanted(|wanted| means_what_the_patch_does(&pod(), wanted));
    assert!(checked);
}

#[test]
fn a_pod_that_shows_a_part_that_a_patch_would_replace_is_patched() {
    let put_on = |change: &dyn Fn(&mut Value)| {
        let mut pod = pod();
        change(&mut pod);
        with_wanted(|wanted| means_what_the_patch_does(&pod, wanted))
    };
    let container = json!([{"name": "nginx", "image": "nginx", "ready": false}]);
    for (part, value) in [
        ("hostIPs", json!([{"ip": "10.0.0.1"}])),
        ("podIPs", json!([{"ip": "192.168.1.8"}])),
        ("containerStatuses", container.clone()),
        ("initContainerStatuses", container.clone()),
        ("ephemeralContainerStatuses", container),
    ] {
        assert!(
            !put_on(&|pod| pod["status"][part] = value.clone()),
            "{part}"
        );
    }
    assert!(put_on(&|_| ()));
    assert!(Base::of(&view(&pod())).is_none(), "it came in JSON");
}

/// Fields that a later version of Kubernetes adds are in the PUT as they came; managed fields are not.
#[test]
fn a_field_that_nobody_here_knows_is_written_back() {
    let (unknown, managed) = (b"a field of the future", b"managed");
    let nested = |number: u32, inner: &[u8], field: u32, value: &[u8]| {
        let (mut message, mut all) = (inner.to_vec(), Vec::new());
        append_bytes(field, value, &mut message);
        append_bytes(number, &message, &mut all);
        all
    };
    let whole = as_sent(&pod(), POD);
    let raw: Vec<u8> = Fields::of("Pod", &whole)
        .map(Result::unwrap)
        .flat_map(|field| match (field.number, field.bytes().unwrap()) {
            (METADATA, bytes) => nested(METADATA, bytes, MANAGED_FIELDS, managed),
            (number, bytes) => nested(number, bytes, 2000, unknown),
        })
        .collect();
    let seen = PodView {
        encoded: raw.into(),
        ..view(&pod())
    };
    let put = with_wanted(|wanted| Base::of(&seen).unwrap().with(wanted).unwrap());
    let times = |what: &[u8]| put.windows(what.len()).filter(|part| part == &what).count();
    assert_eq!((times(unknown), times(managed)), (2, 0));
}

#[test]
fn a_pod_that_cannot_be_taken_apart_is_patched() {
    let whole = as_sent(&pod(), POD);
    let seen = PodView {
        encoded: whole[..whole.len() - 1].to_vec().into(),
        ..view(&pod())
    };
    assert!(Base::of(&seen).is_none());
}
