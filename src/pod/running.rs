//! What runs of a pod, and what it uses: what the kubelet API tells of it.
//!
//! Owns which containers run at a moment. The figures are the pod's own, from its specification
//! and its annotations; what they come to over time is not reckoned here.

use holdfast_provider::id::{PodKey, PodUid};
use jiff::{SignedDuration, Timestamp};

use super::observed::State;
use super::record::{Record, later};
use super::view::Phase;

/// A pod whose containers run, or will be started again.
#[derive(Clone, Debug, PartialEq)]
pub struct RunningPod {
    /// Namespace and name.
    pub key: PodKey,
    /// UID.
    pub uid: PodUid,
    /// When the node first knew of it.
    pub started_at: Timestamp,
    /// Those that run, sidecars first. None while all wait for their next start.
    pub containers: Vec<RunningContainer>,
}

/// A container that runs.
#[derive(Clone, Debug, PartialEq)]
pub struct RunningContainer {
    /// Name.
    pub name: String,
    /// Image.
    pub image: String,
    /// When it was started.
    pub started_at: Timestamp,
    /// Requested CPU in thousandths of a core; 0: none.
    pub cpu_request_milli: u64,
    /// Requested memory in bytes; 0: none.
    pub memory_request_bytes: u64,
    /// CPU that its pod's annotations say it uses, in thousandths of a core.
    pub cpu_milli: Option<u64>,
    /// Memory that its pod's annotations say it uses, in bytes.
    pub memory_bytes: Option<u64>,
}

/// Whether containers of the pod run at `now`. `stop` is how long they take to stop.
pub(super) fn runs(record: &Record, stop: SignedDuration, now: Timestamp) -> bool {
    lives(record, stop, now) && record.running_containers().next().is_some()
}

/// Whether its containers run at `now`, or may be started again.
fn lives(record: &Record, stop: SignedDuration, now: Timestamp) -> bool {
    let observed = &record.observed;
    // The containers of a deleted pod stop before its status can say so.
    let has_stopped = record
        .deletion()
        .is_some_and(|deletion| now >= later(deletion.asked_at(), stop));
    observed.phase == Phase::Running && record.ended.is_none() && !has_stopped
}

/// What runs of a pod at `now`; `None`: nothing does, or will again.
pub(super) fn running(record: &Record, stop: SignedDuration, now: Timestamp) -> Option<RunningPod> {
    if !lives(record, stop, now) {
        return None;
    }
    let containers: Vec<_> = record
        .containers_with_status()
        .filter_map(|(container, status)| {
            let State::Running { started_at } = status.state else {
                return None;
            };
            let asked = record.behaviour(&container.name);
            Some(RunningContainer {
                name: container.name.to_string(),
                image: status.older_image().unwrap_or(&container.image).to_owned(),
                started_at,
                cpu_request_milli: container.cpu_request_milli.into(),
                memory_request_bytes: container.memory_request_bytes,
                cpu_milli: asked.and_then(|asked| asked.cpu_milli),
                memory_bytes: asked.and_then(|asked| asked.memory_bytes),
            })
        })
        .collect();
    let first = containers.iter().map(|one| one.started_at).min();
    Some(RunningPod {
        key: record.key().clone(),
        uid: record.uid().clone(),
        started_at: record.observed.start_time().or(first).unwrap_or(now),
        containers,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::behaviour;
    use super::super::record::{Names, Terms};
    use super::super::testing::view;
    use super::*;

    fn pod() -> Value {
        json!({
            "metadata": { "name": "web-0", "namespace": "shop", "uid": "u", "resourceVersion": "1", "generation": 1 },
            "spec": { "nodeName": "n", "containers": [
                { "name": "c", "image": "i", "resources": { "requests": { "cpu": "250m", "memory": "1Ki" } } },
                { "name": "over", "image": "i" },
            ] },
            "status": {
                "phase": "Running",
                "startTime": "2026-11-24T09:59:00Z",
                "containerStatuses": [
                    { "name": "c", "image": "i", "state": { "running": { "startedAt": "2026-11-24T10:00:00Z" } } },
                    { "name": "over", "image": "i", "state": { "terminated": { "exitCode": 0 } } },
                ],
            },
        })
    }

    fn record(pod: &Value, names: &mut Names) -> Record {
        let view = view(pod);
        let annotations = view.metadata.annotations.clone().unwrap_or_default();
        let terms = Terms {
            node: "n".into(),
            pod_use_spec: "".into(),
            behaviours: behaviour::parse(&annotations, ["c", "over"]).0,
        };
        Record::from_view(&view, terms, names, at("2026-11-24T10:00:00Z")).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const SECOND: SignedDuration = SignedDuration::from_secs(1);

    #[test]
    fn nothing_runs_of_a_pod_that_waits_for_its_next_start_and_it_is_known_all_the_same() {
        let mut waits = pod();
        waits["status"]["containerStatuses"][0]["state"] =
            json!({ "waiting": { "reason": "CrashLoopBackOff" } });
        let record = record(&waits, &mut Names::default());
        let now = at("2026-11-24T11:00:00Z");
        assert_eq!(running(&record, SECOND, now).unwrap().containers, []);
        assert!(!runs(&record, SECOND, now));
    }

    #[test]
    fn a_container_that_has_ended_does_not_run() {
        let record = record(&pod(), &mut Names::default());
        let pod = running(&record, SECOND, at("2026-11-24T11:00:00Z")).unwrap();
        assert_eq!(pod.started_at, at("2026-11-24T09:59:00Z"));
        let [container] = &pod.containers[..] else {
            panic!("one runs: {pod:?}")
        };
        assert_eq!((&*container.name, &*container.image), ("c", "i"));
        assert_eq!(container.started_at, at("2026-11-24T10:00:00Z"));
        let requests = (container.cpu_request_milli, container.memory_request_bytes);
        assert_eq!(requests, (250, 1024));
    }

    #[test]
    fn a_deleted_pod_runs_until_its_containers_have_stopped() {
        let mut pod = pod();
        pod["metadata"]["deletionTimestamp"] = "2026-11-24T12:00:30Z".into();
        pod["metadata"]["deletionGracePeriodSeconds"] = 30.into();
        let record = record(&pod, &mut Names::default());
        assert!(running(&record, SECOND, at("2026-11-24T12:00:00.9Z")).is_some());
        assert!(running(&record, SECOND, at("2026-11-24T12:00:01Z")).is_none());
    }

    #[test]
    fn figures_follow_annotations_and_requests_of_a_running_pod() {
        let mut pod = pod();
        let mut names = Names::default();
        let mut record = record(&pod, &mut names);
        let now = at("2026-11-24T11:00:00Z");
        let mut change = |pod: &Value| {
            assert!(record.observe(&view(pod), &mut names, now));
            running(&record, SECOND, now).unwrap().containers.remove(0)
        };
        pod["metadata"]["annotations"] =
            json!({ "holdfast.dev/cpu": "700m", "c.holdfast.dev/memory": "5Mi" });
        pod["metadata"]["resourceVersion"] = "2".into();
        let container = change(&pod);
        assert_eq!(
            (container.cpu_milli, container.memory_bytes),
            (Some(700), Some(5 << 20))
        );
        // In place.
        pod["metadata"]["annotations"] = json!({});
        pod["metadata"]["resourceVersion"] = "3".into();
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "2".into();
        let container = change(&pod);
        assert_eq!((container.cpu_milli, container.memory_bytes), (None, None));
        assert_eq!(container.cpu_request_milli, 2000);
    }
}
