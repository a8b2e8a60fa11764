//! What people do to nodes and workloads with kubectl, told by kubectl's own answers.

use std::process::Stdio;

use crate::support::*;

async fn kubectl(scene: &Scene, args: &[&str]) -> String {
    let args = [&["-n", &scene.namespace], args].concat();
    scene.plane.kubectl(&args).await.unwrap()
}

#[tokio::test]
async fn a_cordoned_node_keeps_its_pods_and_gets_no_new_ones() {
    let mut scene = Scene::start(&two_zones("profile: fast")).await;
    let pod = |name| TestPod::fixed(name).in_zone(ZONE_B);
    scene.create(&pod("old")).await;
    let old = scene.running("old").await;
    kubectl(&scene, &["cordon", NODE_B]).await;
    let node = [
        "get",
        "node",
        NODE_B,
        "-o",
        "jsonpath={.spec.unschedulable}",
    ];
    assert_eq!(kubectl(&scene, &node).await, "true");
    // Nor does a start of holdfast, which writes the node anew, open it again.
    scene.restart().await;
    let new = scene.create(&pod("new")).await;
    let why = scene.event(&new, "FailedScheduling").await;
    assert!(message(&why).contains("unschedulable"), "{}", message(&why));
    let kept = scene.running("old").await;
    assert_eq!(kept.metadata.uid, old.metadata.uid);
    assert_eq!(identity(&kept), identity(&old));
    assert_eq!(kubectl(&scene, &node).await, "true");
    kubectl(&scene, &["uncordon", NODE_B]).await;
    scene.running("new").await;
}

#[tokio::test]
async fn wait_sees_a_pod_become_ready_and_go() {
    // Long enough for a client to be there before the pod is gone: then it would have nothing to wait for.
    let scene = Scene::start(&two_zones("profile: fast\ndelays: {stop: 10s}")).await;
    let pod = TestPod::ordinary("web")
        .annotated("holdfast.dev/start-after", "2s")
        .in_zone(ZONE_B);
    scene.create(&pod).await;
    let ready = ["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"];
    assert_eq!(kubectl(&scene, &ready).await, "pod/web condition met\n");
    let gone = ["wait", "--for=delete", "pod/web", "--timeout=60s"];
    let waits = scene
        .plane
        .kubectl_command()
        .await
        .unwrap()
        .args(["-n", &scene.namespace])
        .args(gone)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    kubectl(&scene, &["delete", "pod", "web"]).await;
    let ended = waits.wait_with_output().await.unwrap();
    assert!(ended.status.success());
    assert_eq!(ended.stdout, b"pod/web condition met\n");
}

#[tokio::test]
async fn a_rollout_is_followed_restarted_and_undone_with_the_same_addresses() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    scene.create_set("web", 3, &TestPod::fixed("web")).await;
    scene.rolled_out("web").await;
    let identities = async || {
        let mut all = Vec::new();
        for number in 0..3 {
            all.push(identity(&scene.running(&format!("web-{number}")).await));
        }
        all
    };
    let before = identities().await;
    let image = "jsonpath={.items[*].spec.containers[0].image}";
    let images = ["get", "pod", "-l", "app=web", "-o", image];
    let status = ["rollout", "status", "sts/web", "--timeout=60s"];
    for (change, shown) in [
        (&["set", "image", "sts/web", "main=nginx:2"][..], "nginx:2"),
        (&["rollout", "undo", "sts/web"], "nginx"),
        (&["rollout", "restart", "sts/web"], "nginx"),
    ] {
        kubectl(&scene, change).await;
        let said = kubectl(&scene, &status).await;
        let done = said.lines().last().unwrap_or_default();
        assert!(
            done.contains("roll out complete: 3 new pods"),
            "{change:?}: {said}"
        );
        assert_eq!(
            kubectl(&scene, &images).await,
            [shown; 3].join(" "),
            "{change:?}"
        );
        assert_eq!(identities().await, before, "{change:?}");
    }
    let history = ["rollout", "history", "sts/web"];
    assert!(kubectl(&scene, &history).await.contains("REVISION"));
}
