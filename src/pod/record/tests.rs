use std::mem::{size_of, size_of_val};
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

fn view(version: u64, edit: impl FnOnce(&mut Value)) -> PodView {
    let mut pod = json!({
        "metadata": {
            "name": "web-0", "namespace": "default", "resourceVersion": version.to_string(),
            "uid": "0b9e3a51-6f0e-4c53-9a44-0f6f0f1c7d11", "generation": 1,
            "creationTimestamp": "2026-11-24T10:00:00Z",
        },
        "spec": {"containers": [{"name": "nginx", "image": "nginx:1.14.1-8.6"}]},
        "status": {
            "phase": "Running", "startTime": "2026-11-24T10:00:00Z",
            "hostIP": "10.0.0.1", "podIP": "192.168.1.8",
            "conditions": ConditionType::ALL.map(|kind| json!({
                "type": kind, "status": "True", "lastTransitionTime": "2026-11-24T10:00:00Z",
            })),
            "containerStatuses": [{
                "name": "nginx", "image": "nginx:1.14.1-8.6", "ready": true,
                "state": {"running": {"startedAt": "2026-11-24T10:00:04Z"}},
            }],
        },
    });
    edit(&mut pod);
    serde_json::from_value(pod).unwrap()
}

fn record(view: &PodView, names: &mut Names) -> Record {
    let now = "2026-11-24T10:00:01Z".parse().unwrap();
    Record::from_view(view, terms(), names, now).unwrap()
}

fn terms() -> Terms {
    Terms {
        node: "n".into(),
        pod_use_spec: "0.25-0.5Gi".into(),
        behaviours: Behaviours::default(),
    }
}

/// What one record takes, without what it shares with others.
fn size_bytes(record: &Record) -> usize {
    // An allocation of shared text has two counters before it.
    let shared = |text: &str| text.len() + 2 * size_of::<usize>();
    let whys = record
        .observed
        .conditions
        .iter()
        .filter_map(|condition| condition.why.as_deref());
    size_of::<Record>()
        + shared(record.uid.as_str())
        + shared(&record.key.name)
        + record.pod_use_spec.len()
        + size_of_val(&*record.containers)
        + size_of_val(&*record.init_containers)
        + size_of_val(&*record.gates)
        + size_of_val(&*record.observed.conditions)
        + size_of_val(&*record.observed.containers)
        + size_of_val(&*record.observed.init_containers)
        + whys
            .map(|why| size_of_val(why) + why.0.len() + why.1.len())
            .sum::<usize>()
}

#[test]
fn a_record_of_a_running_pod_stays_small() {
    let record = record(&view(1, |_| ()), &mut Names::default());
    let size = size_bytes(&record);
    assert!(
        size <= 900,
        "{size} bytes, {} of them the record itself",
        size_of::<Record>()
    );
}

#[test]
fn equal_names_are_kept_once_and_only_while_they_are_used() {
    let mut names = Names::default();
    let (a, b) = (
        record(&view(1, |_| ()), &mut names),
        record(&view(1, |_| ()), &mut names),
    );
    assert!(Arc::ptr_eq(&a.containers[0].image, &b.containers[0].image));
    drop((a, b));
    for i in 0..10_000 {
        names.share(&i.to_string());
    }
    assert!(names.all.len() <= 64, "{}", names.all.len());
}

#[test]
fn a_view_of_another_pod_or_an_older_one_is_not_taken() {
    let mut names = Names::default();
    let mut record = record(&view(9, |_| ()), &mut names);
    let now = record.created_at;
    let other = view(11, |pod| pod["metadata"]["uid"] = "another".into());
    assert!(!record.observe(&other, &mut names, now));
    let older = view(8, |pod| pod["status"]["phase"] = "Pending".into());
    assert!(!record.observe(&older, &mut names, now));
    assert_eq!(record.phase(), Phase::Running);
    let newer = view(10, |pod| pod["status"]["phase"] = "Failed".into());
    assert!(record.observe(&newer, &mut names, now));
    assert_eq!(record.phase(), Phase::Failed);
}

#[test]
fn the_deletion_is_never_told_too_early() {
    let deleted = view(1, |pod| {
        // Asked for at 10:05:00.9 with 30 s of grace; the API cut the fraction.
        pod["metadata"]["deletionTimestamp"] = "2026-11-24T10:05:30Z".into();
        pod["metadata"]["deletionGracePeriodSeconds"] = 30.into();
    });
    let record = record(&deleted, &mut Names::default());
    let deletion = record.deletion().unwrap();
    assert_eq!(deletion.deleted_at, "2026-11-24T10:05:01Z".parse().unwrap());
    assert_eq!(deletion.grace(), SignedDuration::from_secs(30));
    assert_eq!(deletion.final_at, None);
}

/// The API server takes any grace, multiplies it by 10^9 in 64 bits, and adds what is left to the time.
#[test]
fn a_grace_beyond_what_the_api_server_can_reckon_moves_no_deletion() {
    let now = "2026-11-24T10:05:00Z".parse().unwrap();
    for (grace_s, told) in [
        (i64::MAX, "2026-11-24T10:04:59Z"),
        (31_536_000_000, "1856-09-08T01:16:46Z"),
    ] {
        let running = view(1, |_| ());
        let deleted = view(2, |pod| {
            pod["metadata"]["deletionTimestamp"] = told.into();
            pod["metadata"]["deletionGracePeriodSeconds"] = grace_s.into();
        });
        let mut names = Names::default();
        let mut record = record(&running, &mut names);
        assert!(record.observe(&deleted, &mut names, now));
        let deletion = *record.deletion().unwrap();
        assert_eq!(
            (deletion.seen_at, deletion.deleted_at),
            (now, now),
            "{grace_s}"
        );
        let century = SignedDuration::from_hours(100 * 365 * 24);
        assert!(deletion.grace() > century, "{grace_s}: {deletion:?}");
        // A time before the first that can be told is not the last.
        assert!(deletion.asked_at() < now);
        // The second one counts.
        let forced = view(3, |pod| {
            pod["metadata"]["deletionTimestamp"] = "2026-11-24T10:05:07Z".into();
            pod["metadata"]["deletionGracePeriodSeconds"] = 2.into();
        });
        let now = "2026-11-24T10:05:05Z".parse().unwrap();
        assert!(record.observe(&forced, &mut names, now));
        let deletion = record.deletion().unwrap();
        assert_eq!(deletion.kill_at, "2026-11-24T10:05:07Z".parse().unwrap());
    }
}

#[test]
fn an_object_without_identity_makes_no_record() {
    let view = view(1, |pod| pod["metadata"]["uid"] = Value::Null);
    let made = Record::from_view(&view, terms(), &mut Names::default(), Timestamp::now());
    assert!(made.is_none());
}
