use std::sync::Mutex;

use serde_json::{Value, json};

use super::super::routes::testing::{answering, endpoint};
use super::*;

fn pod_with(uid: &str, node: &str, state: &Value) -> Value {
    json!({
        "metadata": {"name": "web-0", "namespace": "shop", "uid": uid},
        "spec": {"nodeName": node, "containers": [{"name": "app", "ports": [{"containerPort": 80}]}]},
        "status": {"phase": "Running", "containerStatuses": [{
            "name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state,
        }]},
    })
}

#[tokio::test]
async fn each_connection_is_answered_by_the_pod_as_it_is_then() {
    let running = json!({"running": {"startedAt": "2026-11-28T10:00:00Z"}});
    let waiting = json!({"waiting": {}});
    let gone = json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"});
    let now = Arc::new(Mutex::new((200, pod_with("u1", "vk-b", &waiting))));
    let answer = Arc::clone(&now);
    let endpoint = endpoint(answering(move || answer.lock().unwrap().clone()));
    let parts = ["namespace", "pod"].map(str::to_owned);
    let parts = parts
        .into_iter()
        .zip(["shop".to_owned(), "web-0".to_owned()]);
    let forwarded = begin_port_forward(&endpoint, &Path(parts.collect())).await;
    let forwarded = forwarded.unwrap();
    for (step, code, pod, is_answered) in [
        (
            "before it runs",
            200,
            pod_with("u1", "vk-b", &waiting),
            false,
        ),
        ("while it runs", 200, pod_with("u1", "vk-b", &running), true),
        (
            "on another node",
            200,
            pod_with("u1", "vk-c", &running),
            false,
        ),
        ("made anew", 200, pod_with("u2", "vk-b", &running), false),
        ("gone", 404, gone, false),
    ] {
        *now.lock().unwrap() = (code, pod);
        let connected = forwarded.connect(80).await;
        let refusal = connected
            .as_ref()
            .err()
            .map(String::as_str)
            .unwrap_or("refused");
        assert_eq!(connected.is_ok(), is_answered, "{step}: {refusal}");
        assert!(refusal.ends_with("refused"), "{step}: {refusal}");
    }
}
