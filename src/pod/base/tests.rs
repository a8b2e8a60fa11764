use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroI64;

use bytes::Bytes;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::*;
use crate::pod::observed::{Addresses, ConditionType, Ended, State};
use crate::pod::protobuf::enclosed;
use crate::pod::protobuf::tables::decode::from_slice;
use crate::pod::protobuf::tables::{POD, encode as as_sent, unknown};
use crate::pod::protobuf::write::append_bytes;
use crate::pod::record::Container;
use crate::pod::status::{
    Annotations, Condition, ContainerStatus, IpList, Metadata, SYSTEM_ANNOTATIONS, Status,
};
use crate::pod::testing::{merge, view};
use crate::pod::view::{ConditionStatus, ContainerReason, Phase, Resources};

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
    assert_eq!(
        unknown(&patch, POD),
        None,
        "what has no number is not compared"
    );
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

/// All that a status can say, in the lists of a pod that was never changed and of one that was.
#[test]
fn every_field_of_a_status_means_what_it_does_in_a_patch() {
    let uid = "u".into();
    let now = "2026-11-24T10:00:00Z".parse().unwrap();
    let ended = |reason| Ended {
        exit_code: 137,
        reason,
        started_at: now,
        finished_at: now + SignedDuration::from_secs(9),
    };
    let quantities = |cpu: &str| BTreeMap::from([("cpu".to_owned(), cpu.to_owned())]);
    let container = Container {
        name: "nginx".into(),
        image: "nginx:2".into(),
        sidecar: false,
        restart: None,
        cpu_request_milli: 500,
        memory_request_bytes: 0,
        resources: Some(Box::new(Resources {
            requests: quantities("500m"),
            limits: quantities("1"),
        })),
    };
    let status = |state| ContainerStatus {
        state,
        image: "nginx:1",
        ready: true,
        started: true,
        restarts: 3,
        last: Some(ended(ContainerReason::OomKilled)),
        message: Some("back-off 10s".to_owned()),
        ..ContainerStatus::waiting(&uid, &container, ContainerReason::CrashLoopBackOff)
    };
    let generation = NonZeroI64::new(4);
    let annotations = std::array::from_fn(|at| Some(SYSTEM_ANNOTATIONS[at]));
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let lists = |ip| Some(IpList::new(ip, Addresses::default()));
    let (host, ip) = (address("10.0.0.1"), address("fd00::8"));
    let wanted = Wanted {
        metadata: Metadata {
            uid: &uid,
            annotations: Annotations(annotations),
        },
        status: Status {
            reason: Some("Terminated"),
            message: Some("as a test does"),
            host_ip: Some(host),
            host_ips: lists(host),
            pod_ip: Some(ip),
            pod_ips: lists(ip),
            start_time: Some(now),
            conditions: vec![Condition {
                kind: ConditionType::Ready,
                status: ConditionStatus::False,
                reason: "ContainersNotReady",
                message: "not yet".into(),
                last_transition_time: now,
                observed_generation: generation,
            }],
            container_statuses: vec![
                status(State::Waiting {
                    reason: ContainerReason::CrashLoopBackOff,
                }),
                status(State::Running { started_at: now }),
            ],
            init_container_statuses: vec![status(State::Terminated(ended(ContainerReason::Error)))],
            ephemeral_container_statuses: vec![status(State::Terminated(ended(
                ContainerReason::ContainerStatusUnknown,
            )))],
            ..Status::new(Phase::Failed, generation)
        },
    };
    assert!(means_what_the_patch_does(&pod(), &wanted));
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
