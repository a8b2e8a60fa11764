//! Graceful node shutdown, asked for by an annotation of the node.

use holdfast_testbed::eventually;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::support::*;

async fn annotate(scene: &Scene, value: Value) {
    let api: Api<Node> = Api::all(scene.client.clone());
    let patch = json!({ "metadata": { "annotations": { "holdfast.dev/shutdown": value } } });
    let params = PatchParams::default();
    api.patch(NODE_B, &params, &Patch::Merge(patch))
        .await
        .unwrap();
}

/// Waits for status, reason and message of Ready.
async fn node_is(scene: &Scene, wanted: [&str; 3]) {
    let api: Api<Node> = Api::all(scene.client.clone());
    eventually(&format!("the node is {wanted:?}"), PATIENCE, async || {
        let node = api.get(NODE_B).await.map_err(|error| error.to_string())?;
        let conditions = node.status.and_then(|status| status.conditions);
        let mut all = conditions.into_iter().flatten();
        let ready = all.find(|one| one.type_ == "Ready").ok_or("no Ready")?;
        let reason = ready.reason.as_deref().unwrap_or_default();
        let message = ready.message.as_deref().unwrap_or_default();
        ([&*ready.status, reason, message] == wanted)
            .then_some(())
            .ok_or_else(|| format!("{ready:?}"))
    })
    .await
    .unwrap();
}

fn reason(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.reason.as_deref()
}

#[tokio::test]
async fn a_node_that_shuts_down_ends_its_pods_and_gives_the_fixed_ones_their_address_back_when_it_is_up()
 {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    let web = TestPod::fixed("web").in_zone(ZONE_B);
    scene.create_set("web", 1, &web).await;
    scene
        .create(&TestPod::ordinary("plain").in_zone(ZONE_B))
        .await;
    scene
        .create(&TestPod::ordinary("far").in_zone(ZONE_C))
        .await;
    for pod in ["web-0", "plain", "far"] {
        scene.running(pod).await;
    }
    let old = scene.running("web-0").await;

    annotate(&scene, json!("graceful")).await;
    node_is(
        &scene,
        ["False", "KubeletNotReady", "node is shutting down"],
    )
    .await;
    let ended = scene
        .pod_with("plain", "was terminated", |pod| {
            reason(pod) == Some("Terminated")
        })
        .await;
    let status = ended.status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let words = "Pod was terminated in response to imminent node shutdown.";
    assert_eq!(status.message.as_deref(), Some(words));
    let conditions = status.conditions.unwrap();
    let target = conditions
        .iter()
        .find(|one| one.type_ == "DisruptionTarget");
    let target = target.unwrap();
    assert_eq!(target.reason.as_deref(), Some("TerminationByKubelet"));
    // Its controller has made it anew, and the scheduler finds it no place: it selects this zone.
    let waits = scene
        .pod_with("web-0", "waits", |pod| {
            pod.metadata.uid != old.metadata.uid && pod_phase(pod) == "Pending"
        })
        .await;
    scene
        .create(&TestPod::ordinary("late").on_node(NODE_B))
        .await;
    scene
        .pod_with("late", "is rejected", |pod| {
            reason(pod) == Some("NodeShutdown")
        })
        .await;
    scene.has_counts(&[("in_use", 0), ("retained", 1)]).await;
    scene.running("far").await;
    let still = scene.pods().get("web-0").await.unwrap();
    assert_eq!(still.metadata.uid, waits.metadata.uid);
    assert_eq!(still.spec.unwrap().node_name, None);

    annotate(&scene, Value::Null).await;
    node_is(&scene, ["True", "KubeletReady", "kubelet is ready."]).await;
    assert_eq!(identity(&scene.running("web-0").await), identity(&old));
    let plain = scene.pods().get("plain").await.unwrap();
    assert_eq!(pod_phase(&plain), "Failed", "what has ended has ended");
}

#[tokio::test]
async fn a_pod_whose_zone_shuts_down_is_not_pinned_and_comes_up_elsewhere() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    scene.create(&TestPod::fixed("web-0").in_zone(ZONE_B)).await;
    let had = identity(&scene.running("web-0").await);
    scene.delete("web-0").await;

    annotate(&scene, json!("graceful")).await;
    node_is(
        &scene,
        ["False", "KubeletNotReady", "node is shutting down"],
    )
    .await;
    scene.create(&TestPod::fixed("web-0")).await;
    let pod = scene.running("web-0").await;
    let has = identity(&pod);
    assert_eq!(has.zone, ZONE_C);
    assert_ne!(has.address, had.address);
    scene.event(&pod, "FixedIPNotReused").await;
}

#[tokio::test]
async fn a_pod_that_comes_onto_a_node_which_shuts_down_while_holdfast_is_away_is_rejected_too() {
    let mut scene = Scene::start(&two_zones("profile: fast\nwebhook: {enabled: false}")).await;
    annotate(&scene, json!("graceful")).await;
    node_is(
        &scene,
        ["False", "KubeletNotReady", "node is shutting down"],
    )
    .await;
    scene.stop().await;
    for (name, of_host) in [("late", false), ("host", true)] {
        let pod = TestPod::ordinary(name).on_node(NODE_B);
        scene
            .create(&pod.with(&json!({"hostNetwork": of_host})))
            .await;
    }
    scene.spawn(&[]).await;
    for name in ["late", "host"] {
        let pod = scene
            .pod_with(name, "is rejected", |pod| {
                reason(pod) == Some("NodeShutdown")
            })
            .await;
        let status = pod.status.unwrap();
        assert_eq!(status.start_time, None, "{name} was never started");
    }
    scene.has_counts(&[("in_use", 0), ("retained", 0)]).await;
}
