//! Pods in protobuf say what they say in JSON.

use holdfast::pod::protobuf;
use holdfast::pod::protobuf::read::message;
use holdfast::pod::view::PodView;
use holdfast_testbed::lease;
use kube::Client;
use serde_json::{Value, json};

#[path = "../../src/pod/protobuf/tables/mod.rs"]
#[allow(dead_code, reason = "shared with the tests of the encoding")]
mod tables;

use crate::support::*;
use tables::POD;
use tables::decode::from_slice;

/// The same that the fields are tested with.
const EVERYTHING: &str = include_str!("../../src/pod/protobuf/pod.json");

/// What is in it of a status that is written and never read.
const WRITTEN: [&str; 4] = [
    "/status/message",
    "/status/containerStatuses/0/allocatedResources",
    "/status/initContainerStatuses/0/state/terminated/message",
    "/status/initContainerStatuses/0/state/terminated/containerID",
];

async fn asked(client: &Client, method: &str, path: &str, kind: &str, body: Value) -> Value {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind);
    let body = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    client.request(request.body(body).unwrap()).await.unwrap()
}

/// A client that speaks protobuf can write what is no text, and nobody before us minds.
#[tokio::test]
async fn a_pod_whose_annotation_is_no_text_holds_up_nobody() {
    let mut scene = Scene::start(&two_zones("profile: fast")).await;
    let pod = TestPod::fixed("odd").annotated("example.com/note", "caf#");
    let mut pod = serde_json::to_value(pod.object()).unwrap();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    let mut body = tables::enveloped(&pod, POD);
    let note = body.windows(4).position(|bytes| bytes == b"caf#").unwrap();
    body[note + 3] = 0xe9;
    let request = http::Request::post(format!("/api/v1/namespaces/{}/pods", scene.namespace))
        .header("content-type", "application/vnd.kubernetes.protobuf");
    let created: Value = scene
        .client
        .request(request.body(body).unwrap())
        .await
        .unwrap();
    assert_eq!(
        created["metadata"]["annotations"]["example.com/note"],
        "caf\u{fffd}"
    );
    let before = identity(&scene.running("odd").await);
    scene.restart().await;
    scene.create(&TestPod::fixed("other").in_zone(ZONE_B)).await;
    scene.running("other").await;
    scene.delete("odd").await;
    scene.is_gone("odd").await;
    scene.create(&TestPod::fixed("odd")).await;
    assert_eq!(identity(&scene.running("odd").await), before);
}

/// The numbers of the fields are those of the API server, whatever is in the pod.
#[tokio::test]
async fn a_pod_reads_the_same_in_both_encodings() {
    let plane = lease().await.unwrap();
    let client = plane.client().await.unwrap();
    let namespace = plane.create_namespace("encoding").await.unwrap();
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let path = format!("{pods}/everything");

    let mut pod: Value = serde_json::from_str(EVERYTHING).unwrap();
    pod["metadata"]["namespace"] = json!(namespace);
    for read_only in ["uid", "resourceVersion", "deletionTimestamp"] {
        pod["metadata"].as_object_mut().unwrap().remove(read_only);
    }
    let later = pod["spec"]["ephemeralContainers"].take();
    asked(&client, "POST", &pods, "application/json", pod.clone()).await;
    let merge = "application/merge-patch+json";
    let patch = json!({"spec": {"ephemeralContainers": later}});
    let ephemeral = format!("{path}/ephemeralcontainers");
    asked(&client, "PATCH", &ephemeral, merge, patch).await;
    let patch = json!({"status": pod["status"]});
    asked(&client, "PATCH", &format!("{path}/status"), merge, patch).await;
    // With its finalizers it stays, and has a time of deletion from now on.
    asked(&client, "DELETE", &path, "application/json", Value::Null).await;

    let request = http::Request::get(&path).header("accept", "application/vnd.kubernetes.protobuf");
    let request = request.body(kube::client::Body::empty()).unwrap();
    let answer = client.send(request).await.unwrap();
    let body = answer.into_body().collect_bytes().await.unwrap();
    let raw = protobuf::enclosed(&body).unwrap();
    let in_protobuf: PodView = message(&raw).unwrap();
    let in_json = asked(&client, "GET", &path, "application/json", Value::Null).await;

    // What is written, and never read again.
    let by_tables: Value = from_slice(&raw, POD).unwrap();
    for path in WRITTEN {
        let (found, expected) = (by_tables.pointer(path), in_json.pointer(path));
        assert!(expected.is_some(), "{path}: {in_json:#}");
        assert_eq!(found, expected, "{path}");
    }

    let expected: PodView = serde_json::from_value(in_json.clone()).unwrap();
    assert_eq!(format!("{in_protobuf:#?}"), format!("{expected:#?}"));
    // Nothing that the test is about was dropped by the API server.
    for part in ["deletionTimestamp", "ownerReferences", "generation"] {
        assert!(!in_json["metadata"][part].is_null(), "{part}: {in_json:#}");
    }
    for part in pod["spec"].as_object().unwrap().keys() {
        assert!(!in_json["spec"][part].is_null(), "{part}: {in_json:#}");
    }
    for part in pod["status"].as_object().unwrap().keys() {
        assert!(!in_json["status"][part].is_null(), "{part}: {in_json:#}");
    }

    let patch = json!({"metadata": {"finalizers": null}});
    asked(&client, "PATCH", &path, merge, patch).await;
}
