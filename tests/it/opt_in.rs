//! What pods ask for, and what they should not.

use holdfast_testbed::status_column;
use jiff::{SignedDuration, Timestamp};
use kube::api::DeleteParams;
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn a_gpu_pod_with_fixed_ip_stays_pending_and_says_why() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    let gpu = TestPod::fixed("gpu").labelled("alibabacloud.com/compute-class", "gpu");
    scene.create(&gpu.in_zone(ZONE_B)).await;
    let bound = scene.pod_with("gpu", "is bound", |pod| {
        pod.spec
            .as_ref()
            .is_some_and(|spec| spec.node_name.is_some())
    });
    let event = scene.event(&bound.await, "FixedIPUnsupported").await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    for words in ["gpu", FIXED_IP] {
        assert!(message(&event).contains(words), "{}", message(&event));
    }
    let pod = scene.pods().get("gpu").await.unwrap();
    assert_eq!(
        (status_column(&pod).as_str(), address(&pod)),
        ("Pending", None)
    );
    assert!(scene.claims().await.is_empty());
    scene.delete("gpu").await;
}

#[tokio::test]
async fn bad_hours_warn_and_mean_48_and_never_for_ever() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    for (index, hours) in ["0", "-1", "1.5", "soon", "8761", ""]
        .into_iter()
        .enumerate()
    {
        let name = format!("web-{index}");
        let pod = TestPod::fixed(&name)
            .annotated(RELEASE_AFTER, hours)
            .in_zone(ZONE_B);
        scene.create(&pod).await;
        let pod = scene.running(&name).await;
        let event = scene.event(&pod, "FixedIPInvalidReleaseAfter").await;
        assert!(
            message(&event).contains("48"),
            "{hours:?}: {}",
            message(&event)
        );
        let before = Timestamp::now();
        scene
            .pods()
            .delete(&name, &DeleteParams::default())
            .await
            .unwrap();
        scene.is_gone(&name).await;
        let claim = holdfast_testbed::eventually("its clock runs", PATIENCE, async || {
            let claims = scene.claims().await;
            let found = claims
                .into_iter()
                .find(|claim| claim["name"] == name.as_str())
                .unwrap();
            if found["state"] == "retained" {
                Ok(found)
            } else {
                Err(found.to_string())
            }
        })
        .await
        .unwrap();
        let expires_at: Timestamp = claim["expires_at"].as_str().unwrap().parse().unwrap();
        let period = expires_at.duration_since(before) - SignedDuration::from_hours(48);
        assert!(
            period.abs() < SignedDuration::from_secs(60),
            "{hours:?}: {claim}"
        );
    }
}

#[tokio::test]
async fn annotations_count_when_the_pod_is_accepted_and_only_true_means_on() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    scene
        .create(
            &TestPod::ordinary("odd")
                .annotated(FIXED_IP, "yes")
                .in_zone(ZONE_B),
        )
        .await;
    let odd = scene.running("odd").await;
    scene.event(&odd, "FixedIPInvalidAnnotation").await;
    assert!(scene.claims().await.is_empty());
    let late = serde_json::json!({ "metadata": { "annotations": { FIXED_IP: "true" } } });
    let patch = kube::api::Patch::Merge(late);
    scene
        .pods()
        .patch("odd", &kube::api::PatchParams::default(), &patch)
        .await
        .unwrap();
    scene.delete("odd").await;
    assert!(
        scene.claims().await.is_empty(),
        "edits on a live pod change nothing"
    );
}

#[tokio::test]
async fn host_network_pods_get_the_node_s_address_and_no_eni() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    let host = serde_json::json!({ "hostNetwork": true });
    scene
        .create(&TestPod::ordinary("agent").with(&host).in_zone(ZONE_B))
        .await;
    let pod = scene.running("agent").await;
    assert_eq!(address(&pod).as_deref(), Some("127.0.0.1"));
    assert!(
        !pod.metadata
            .annotations
            .unwrap_or_default()
            .contains_key(ENI)
    );
    assert_eq!(scene.count("vsw-b", "in_use").await, 0);
    scene.delete("agent").await;
}

#[tokio::test]
async fn security_groups_are_shown_with_the_eni_and_a_list_that_is_none_is_told() {
    const GROUPS: &str = "network.alibabacloud.com/security-group-ids";
    let scene = Scene::start(&two_zones("profile: fast\nwebhook: {enabled: false}")).await;
    let named = TestPod::fixed("named").annotated(GROUPS, "sg-b2,sg-a1");
    let wrong = TestPod::fixed("wrong").annotated(GROUPS, "b2");
    scene.create(&named.on_node(NODE_B)).await;
    let wrong = scene.create(&wrong.on_node(NODE_B)).await;
    scene.running("named").await;
    scene.running("wrong").await;
    let event = scene.event(&wrong, "InvalidSecurityGroupIds").await;
    assert!(message(&event).contains("is \"b2\""), "{}", message(&event));
    scene.delete("named").await;
    for command in ["addresses", "claims"] {
        let rows = scene.ask(&[command, "-o", "json"]).await;
        let groups: Vec<_> = rows
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["security_groups"].clone())
            .collect();
        assert_eq!(groups, [json!(["sg-b2", "sg-a1"]), json!([])], "{command}");
    }
}
