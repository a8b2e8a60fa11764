use std::sync::Mutex;

use kube::Client;
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
    let forwarded = begin_port_forward(&endpoint, &Path(parts.collect()), Outflow::default()).await;
    let forwarded = forwarded.unwrap();
    for (step, code, pod, is_answered) in [
        (
            "before it runs",
            200,
            pod_with("u1", "vk-b", &waiting),
            false,
        ),
        ("while it runs", 200, pod_with("u1", "vk-b", &running), true),
        ("while nobody can say", 500, json!({}), true),
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
        let refusal = connected.as_ref().err().map_or("refused", String::as_str);
        assert_eq!(connected.is_ok(), is_answered, "{step}: {refusal}");
        assert!(refusal.ends_with("refused"), "{step}: {refusal}");
    }
}

#[tokio::test]
async fn a_session_whose_objects_do_not_come_gives_its_place_among_the_beginnings_back() {
    let never = tower::service_fn(|_: http::Request<kube::client::Body>| {
        std::future::pending::<Result<http::Response<kube::client::Body>, Infallible>>()
    });
    let endpoint = endpoint(Client::new(never, "default"));
    let pod = serde_json::from_value(pod_with("u1", "vk-b", &json!({}))).unwrap();
    let world = world_within(&endpoint, Arc::new(pod), "app", Duration::from_millis(50));
    let refused = tokio::time::timeout(Duration::from_secs(5), world).await;
    let refused = refused.expect("it gives up").err().unwrap();
    let words = "the API server did not answer within 50ms for what pod \"web-0\" refers to";
    assert_eq!(refused.to_string(), words);
    assert_eq!(refused.into_response().status(), 500);
}
