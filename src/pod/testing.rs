//! What an API server does to pods, and what kubectl shows of them: for tests.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::view::PodView;

pub(super) fn view(pod: &Value) -> PodView {
    serde_json::from_value(pod.clone()).unwrap()
}

/// READY, STATUS and IP as `kubectl get pod -o wide` prints them.
pub(super) fn kubectl(pod: &Value) -> String {
    let status = &pod["status"];
    let containers = status["containerStatuses"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let inits = status["initContainerStatuses"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let ready = containers.iter().filter(|one| one["ready"] == true).count();
    let of = pod["spec"]["containers"].as_array().unwrap().len();
    let mut text = status["reason"]
        .as_str()
        .or(status["phase"].as_str())
        .unwrap()
        .to_owned();
    let done = |(at, one): (usize, &Value)| {
        let sidecar = pod["spec"]["initContainers"][at]["restartPolicy"] == "Always";
        one["state"]["terminated"]["exitCode"] == 0 || (sidecar && one["started"] == true)
    };
    if let Some(at) = inits.iter().enumerate().position(|one| !done(one)) {
        let state = &inits[at]["state"];
        let reason = state["waiting"]["reason"].as_str();
        let reason = reason.filter(|reason| *reason != "PodInitializing");
        text = match reason.or(state["terminated"]["reason"].as_str()) {
            Some(reason) => format!("Init:{reason}"),
            None => format!("Init:{at}/{}", inits.len()),
        };
    } else {
        for container in containers.iter().rev() {
            let state = &container["state"];
            let reason = state["waiting"]["reason"].as_str();
            if let Some(reason) = reason.or(state["terminated"]["reason"].as_str()) {
                reason.clone_into(&mut text);
            }
        }
    }
    let is_terminal = ["Succeeded", "Failed"].contains(&status["phase"].as_str().unwrap());
    if !pod["metadata"]["deletionTimestamp"].is_null() && !is_terminal {
        "Terminating".clone_into(&mut text);
    }
    format!(
        "{ready}/{of} {text} {}",
        status["podIP"].as_str().unwrap_or("<none>")
    )
}

/// A time as the API writes it.
pub(super) fn cut(time: Timestamp) -> Value {
    Timestamp::from_second(time.as_second())
        .unwrap()
        .to_string()
        .into()
}

/// A strategic merge patch, for the fields of a pod's metadata and status.
pub(super) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(fields) = patch else {
        *target = patch;
        return;
    };
    for (name, value) in fields {
        let key = match &*name {
            "conditions" => "type",
            "podIPs" | "hostIPs" => "ip",
            _ if value.is_object() => {
                merge(&mut target[&name], value);
                continue;
            }
            _ => {
                target[&name] = value;
                continue;
            }
        };
        let Value::Array(entries) = value else {
            panic!("{name} is no list")
        };
        if target[&name].is_null() || entries.iter().any(|one| one["$patch"] == "replace") {
            target[&name] = json!([]);
        }
        let list = target[&name].as_array_mut().unwrap();
        for entry in entries.into_iter().filter(|one| one["$patch"].is_null()) {
            match list.iter_mut().find(|old| old[key] == entry[key]) {
                Some(old) => merge(old, entry),
                None => list.push(entry),
            }
        }
    }
}

pub(super) fn without_times(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().map(without_times).collect(),
        Value::Object(map) => {
            let kept = map.iter().filter(|(name, _)| {
                !["lastTransitionTime", "startTime", "startedAt", "finishedAt"].contains(&&***name)
            });
            kept.map(|(name, value)| (name.clone(), without_times(value)))
                .collect()
        }
        _ => value.clone(),
    }
}
