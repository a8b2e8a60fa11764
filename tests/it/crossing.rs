//! Node types and zones.

use crate::support::*;

#[tokio::test]
async fn acs_to_ecs_and_back_is_a_new_address_each_time_and_carries_no_claim() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    scene.create(&TestPod::fixed("web-0").in_zone(ZONE_B)).await;
    let on_acs = identity(&scene.running("web-0").await);
    scene.delete("web-0").await;

    scene.create(&TestPod::fixed("web-0").on_ecs()).await;
    let pod = scene.running("web-0").await;
    assert_ne!(address(&pod), Some(on_acs.address.clone()));
    let event = scene.event(&pod, "FixedIPNotRetained").await;
    for words in [
        format!("ACS virtual node {NODE_B}"),
        "ECS node ecs-1".to_owned(),
    ] {
        assert!(message(&event).contains(&words), "{}", message(&event));
    }
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert!(
        scene.claims().await.is_empty(),
        "{:?}",
        scene.claims().await
    );
    let on_ecs = address(&pod);
    scene.delete("web-0").await;
    assert!(scene.claims().await.is_empty());

    scene.create(&TestPod::fixed("web-0").in_zone(ZONE_B)).await;
    let back = scene.running("web-0").await;
    assert_ne!(address(&back), on_ecs);
    assert_ne!(address(&back), Some(on_acs.address));
    let event = scene.event(&back, "FixedIPNotRetained").await;
    assert!(
        message(&event).contains("ECS node ecs-1"),
        "{}",
        message(&event)
    );
    assert_eq!(scene.claims().await.len(), 1);
}

#[tokio::test]
async fn another_zone_gets_a_new_address_and_the_old_one_is_free() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    scene.create(&TestPod::fixed("web-0").in_zone(ZONE_B)).await;
    scene.running("web-0").await;
    scene.delete("web-0").await;
    scene.create(&TestPod::fixed("web-0").in_zone(ZONE_C)).await;
    let pod = scene.running("web-0").await;
    assert_eq!(identity(&pod).zone, ZONE_C);
    let event = scene.event(&pod, "FixedIPNotReused").await;
    for zone in [ZONE_B, ZONE_C] {
        assert!(message(&event).contains(zone), "{}", message(&event));
    }
    assert_eq!(scene.count("vsw-b", "free").await, 252);
    assert_eq!(scene.claims().await.len(), 1, "one open claim per key");
}

#[tokio::test]
async fn a_pod_pinned_to_a_zone_that_has_closed_since_is_told_to_be_deleted() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    // More than the node offers keeps the second pod Pending while its zone is still open.
    scene.create(&TestPod::fixed("web-0").in_zone(ZONE_B)).await;
    scene.running("web-0").await;
    scene.delete("web-0").await;
    let huge = serde_json::json!({ "containers": [{
        "name": "main",
        "image": "nginx",
        "resources": { "requests": { "cpu": "20000" } },
    }] });
    let pod = scene.create(&TestPod::fixed("web-0").with(&huge)).await;
    scene.cordon(NODE_B, true).await;
    let event = scene.event(&pod, "FixedIPZoneClosed").await;
    assert!(message(&event).contains(ZONE_B), "{}", message(&event));
    scene.delete("web-0").await;
}
