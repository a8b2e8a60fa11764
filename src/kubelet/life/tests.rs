use serde_json::{Value, json};

use super::*;

const START: &str = "2026-11-28T10:00:00Z";

fn at(seconds: i64) -> Timestamp {
    START.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

fn pod(state: &Value, last: &Value, restarts: i32, annotations: &Value) -> Pod {
    let mut all = json!({
        "network.alibabacloud.com/allocated-eni-id": "eni-1",
        "network.alibabacloud.com/vswitch-id": "vsw-b",
        "network.alibabacloud.com/vpc-id": "vpc-1",
        "topology.kubernetes.io/zone": "cn-b",
    });
    for (name, value) in annotations.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "web-0", "namespace": "default", "uid": "u1", "annotations": all},
        "spec": {"nodeName": "vk-b", "containers": [{"name": "app", "image": "nginx", "args": ["-x"]}]},
        "status": {"podIP": "192.168.1.4", "containerStatuses": [{
            "name": "app", "image": "nginx", "imageID": "", "ready": true, "restartCount": restarts,
            "state": state, "lastState": last,
        }]},
    }))
    .unwrap()
}

fn running() -> Value {
    json!({"running": {"startedAt": START}})
}

fn ended(code: i32, reason: &str, finished_s: i64) -> Value {
    json!({"terminated": {
        "exitCode": code, "reason": reason, "startedAt": START,
        "finishedAt": at(finished_s).to_string(),
    }})
}

fn texts(lines: &[LogLine]) -> Vec<String> {
    let text = |line: &LogLine| {
        let seconds = line.at.duration_since(at(0)).as_secs();
        let mark = if line.stream == Stream::Stderr {
            "!"
        } else {
            ""
        };
        format!("{seconds}{mark} {}", line.text)
    };
    lines.iter().map(text).collect()
}

fn log(pod: &Pod, now_s: i64) -> Vec<String> {
    texts(&log_lines(pod, "app", false, at(now_s)).unwrap())
}

#[test]
fn a_log_tells_where_the_container_runs_and_by_what_address() {
    let pod = pod(&running(), &json!({}), 0, &json!({}));
    let want = [
        "0 holdfast: container app (nginx) of pod default/web-0 (uid u1) started",
        "0 holdfast: command [\"-x\"] is not run, it is simulated",
        "0 holdfast: node vk-b, zone cn-b",
        "0 holdfast: address 192.168.1.4, ENI eni-1, vSwitch vsw-b, VPC vpc-1",
    ];
    assert_eq!(log(&pod, 0), want);
}

#[test]
fn a_restart_tells_how_the_instance_before_ended_and_that_is_the_previous_log() {
    let last = json!({"terminated": {
        "exitCode": 137, "reason": "OOMKilled", "startedAt": START, "finishedAt": at(8).to_string(),
    }});
    let state = json!({"running": {"startedAt": at(10).to_string()}});
    let pod = pod(&state, &last, 2, &json!({}));
    let lines = log(&pod, 20);
    let want =
        "10 holdfast: restart 2, after the instance before it ended with exit code 137 (OOMKilled)";
    assert_eq!(lines.last().unwrap(), want);
    let previous = texts(&log_lines(&pod, "app", true, at(20)).unwrap());
    assert_eq!(
        previous.last().unwrap(),
        "8! holdfast: container app ended with exit code 137 (OOMKilled)"
    );
    assert!(
        previous.contains(&"0 holdfast: restart 1".to_owned()),
        "{previous:?}"
    );
}

#[test]
fn annotated_lines_come_at_their_time_and_end_with_the_container() {
    let annotations = json!({"holdfast.dev/log-lines": "hello\n+3s stderr: oops", "holdfast.dev/log-every": "10s"});
    let live = pod(&running(), &json!({}), 0, &annotations);
    let own = |lines: Vec<String>| -> Vec<String> {
        lines
            .into_iter()
            .filter(|line| !line.contains("holdfast:"))
            .collect()
    };
    assert_eq!(own(log(&live, 0)), ["0 hello"]);
    assert_eq!(
        own(log(&live, 4)),
        ["0 hello"],
        "lines come late by the lag"
    );
    assert_eq!(own(log(&live, 12)), ["0 hello", "3! oops", "10 hello"]);
    let done = pod(&ended(0, "Completed", 11), &json!({}), 0, &annotations);
    assert_eq!(own(log(&done, 60)), ["0 hello", "3! oops", "10 hello"]);
    assert_eq!(
        log(&done, 60).last().unwrap(),
        "11 holdfast: container app ended with exit code 0 (Completed)"
    );
}

#[test]
fn later_asks_only_append() {
    let annotations =
        json!({"holdfast.dev/log-lines": "a\n+700ms b\n+25s c", "holdfast.dev/log-every": "1s"});
    let live = pod(&running(), &json!({}), 0, &annotations);
    let mut deleted = live.clone();
    let time = |seconds| k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(seconds));
    deleted.metadata.deletion_timestamp = Some(time(70));
    deleted.metadata.deletion_grace_period_seconds = Some(30);
    let mut done = pod(&ended(0, "Completed", 41), &json!({}), 0, &annotations);
    done.metadata = deleted.metadata.clone();
    let asks = (0..40)
        .map(|now| (&live, now))
        .chain([(&deleted, 41), (&done, 42), (&done, 90)]);
    let mut before: Vec<String> = Vec::new();
    for (pod, now) in asks {
        let lines = log(pod, now);
        assert_eq!(lines, log(pod, now), "the same facts give the same lines");
        assert!(
            lines.starts_with(&before),
            "at {now}: {before:?} then {lines:?}"
        );
        before = lines;
    }
    assert!(before.contains(&"40 holdfast: the pod is being deleted, stop signal received".into()));
}

#[test]
fn a_long_log_keeps_its_newest_lines() {
    let annotations =
        json!({"holdfast.dev/log-lines": "tick\n+30s tock", "holdfast.dev/log-every": "10ms"});
    let pod = pod(&running(), &json!({}), 0, &annotations);
    let lines = log_lines(&pod, "app", false, at(86_400)).unwrap();
    assert_eq!(lines.len(), LINES_MAX);
    assert_eq!(lines.last().unwrap().at, at(86_400 - 2));
    let tocks = lines.iter().filter(|line| &*line.text == "tock").count();
    assert_eq!(
        tocks,
        LINES_MAX / 2,
        "late lines of earlier rounds are among the newest"
    );
}

#[test]
fn a_log_of_long_lines_keeps_the_newest_that_a_kubelet_would_keep() {
    let long = "x".repeat(200_000);
    let annotations = json!({"holdfast.dev/log-lines": long, "holdfast.dev/log-every": "10ms"});
    let pod = pod(&running(), &json!({}), 0, &annotations);
    let lines = log_lines(&pod, "app", false, at(86_400)).unwrap();
    let bytes: usize = lines.iter().map(|line| line.text.len() + 1).sum();
    assert!(
        (LOG_MAX_BYTES - 200_001..=LOG_MAX_BYTES).contains(&bytes),
        "{bytes} bytes"
    );
    let [.., before, last] = &*lines else {
        panic!("two lines fit")
    };
    assert_eq!(last.at, at(86_400 - 2));
    assert!(Arc::ptr_eq(&before.text, &last.text), "each has its copy");
}

#[test]
fn without_a_log_the_kubelets_words_say_why() {
    let waiting = |reason: &str| {
        pod(
            &json!({"waiting": {"reason": reason}}),
            &json!({}),
            0,
            &json!({}),
        )
    };
    let refused = |pod: &Pod, container: &str, previous| {
        log_lines(pod, container, previous, at(0))
            .unwrap_err()
            .to_string()
    };
    for (reason, words) in [
        ("ContainerCreating", "ContainerCreating"),
        ("ErrImagePull", "image can't be pulled"),
        ("ImagePullBackOff", "trying and failing to pull image"),
    ] {
        let want = format!("container \"app\" in pod \"web-0\" is waiting to start: {words}");
        assert_eq!(refused(&waiting(reason), "app", false), want);
    }
    let live = pod(&running(), &json!({}), 0, &json!({}));
    assert_eq!(
        refused(&live, "db", false),
        "container \"db\" not found in pod \"web-0\""
    );
    assert_eq!(
        refused(&live, "app", true),
        "previous terminated container \"app\" in pod \"web-0\" not found"
    );
    let mut bare = live;
    bare.status = None;
    assert_eq!(
        refused(&bare, "app", false),
        "container \"app\" in pod \"web-0\" is not available"
    );
}

#[test]
fn a_container_that_waits_for_its_restart_shows_the_run_that_ended() {
    let back_off = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    let pod = pod(&back_off, &ended(1, "Error", 5), 3, &json!({}));
    assert_eq!(
        log(&pod, 9).last().unwrap(),
        "5! holdfast: container app ended with exit code 1 (Error)"
    );
}
