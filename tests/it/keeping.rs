//! Addresses, ENIs and MACs that stay, whatever happens to pods and to holdfast.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::*;

/// What must not change, by pod name: address, ENI, MAC, zone.
async fn belongings(scene: &Scene, replicas: usize) -> BTreeMap<String, (Identity, String)> {
    let claims = scene.claims().await;
    let pods = scene.all_pods().await;
    assert_eq!(pods.len(), replicas);
    pods.iter()
        .map(|pod| {
            let claim = claims
                .iter()
                .find(|claim| claim["name"] == name(pod))
                .expect("a claim");
            let seen = identity(pod);
            assert_eq!(claim["address"], seen.address.as_str());
            assert_eq!(claim["eni"], seen.eni.as_str());
            (
                name(pod).to_owned(),
                (seen, claim["mac"].as_str().unwrap().to_owned()),
            )
        })
        .collect()
}

#[tokio::test]
async fn a_stateful_set_over_two_zones_keeps_everything_through_twenty_restarts() {
    let mut scene = Scene::start(&two_zones("profile: fast")).await;
    scene.create_set("web", 5, &TestPod::fixed("web")).await;
    scene.rolled_out("web").await;
    let before = belongings(&scene, 5).await;
    let zones: std::collections::BTreeSet<_> =
        before.values().map(|(seen, _)| &seen.zone).collect();
    assert_eq!(
        zones.len(),
        2,
        "the scheduler spreads the set over both zones: {before:?}"
    );
    for round in 1..=20 {
        if round == 20 {
            scene.configure(&two_zones("profile: acs"));
            scene.restart().await;
        }
        scene.rollout_restart("web", round).await;
        scene.rolled_out("web").await;
        assert_eq!(belongings(&scene, 5).await, before, "round {round}");
    }
}

#[tokio::test]
async fn killed_in_the_middle_of_a_rollout_nothing_is_lost_doubled_or_rewritten() {
    let mut scene = Scene::start(&two_zones("profile: fast")).await;
    scene.create_set("web", 5, &TestPod::fixed("web")).await;
    scene.rolled_out("web").await;
    let before = belongings(&scene, 5).await;
    // Only web-3 and web-4 are rolled: the others must not be touched by anybody.
    let strategy = json!({ "rollingUpdate": { "partition": 3 } });
    scene
        .patch_set("web", json!({ "spec": { "updateStrategy": strategy } }))
        .await;
    for round in 1..=3 {
        let untouched = versions(&scene).await;
        let old = scene.running("web-4").await;
        scene.rollout_restart("web", round).await;
        let uid = old.metadata.uid.clone();
        scene
            .pod_with("web-4", "is leaving or new", |pod| {
                pod.metadata.deletion_timestamp.is_some() || pod.metadata.uid != uid
            })
            .await;
        scene.kill9().await;
        scene.spawn(&[]).await;
        scene.is_serving().await;
        scene.rolled_out("web").await;
        assert_eq!(belongings(&scene, 5).await, before, "round {round}");
        assert_eq!(versions(&scene).await, untouched, "round {round}");
    }
    assert_eq!(
        scene.count("vsw-b", "in_use").await + scene.count("vsw-c", "in_use").await,
        5
    );
}

async fn versions(scene: &Scene) -> Vec<Option<String>> {
    let pods = scene.all_pods().await;
    let kept = pods
        .iter()
        .filter(|pod| ["web-0", "web-1", "web-2"].contains(&name(pod)));
    kept.map(|pod| pod.metadata.resource_version.clone())
        .collect()
}

#[tokio::test]
async fn an_ordinary_address_is_free_after_its_pod_and_a_fixed_one_is_retained() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    scene
        .create(&TestPod::ordinary("plain").in_zone(ZONE_B))
        .await;
    scene.create(&TestPod::fixed("kept").in_zone(ZONE_B)).await;
    scene.running("plain").await;
    let kept = identity(&scene.running("kept").await);
    assert_eq!(scene.count("vsw-b", "in_use").await, 2);
    scene.delete("plain").await;
    scene.delete("kept").await;
    scene.has_counts(&[("free", 251), ("retained", 1)]).await;
    assert_eq!(scene.claims().await[0]["address"], kept.address.as_str());
}

#[tokio::test]
async fn a_stateful_set_made_anew_under_the_same_name_gets_its_addresses() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    scene.create_set("web", 3, &TestPod::fixed("web")).await;
    scene.rolled_out("web").await;
    let before = belongings(&scene, 3).await;
    scene
        .sets()
        .delete("web", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    for pod in ["web-0", "web-1", "web-2"] {
        scene.is_gone(pod).await;
    }
    scene.create_set("web", 3, &TestPod::fixed("web")).await;
    scene.rolled_out("web").await;
    assert_eq!(belongings(&scene, 3).await, before);
}

#[tokio::test]
async fn a_forced_deletion_makes_the_new_pod_wait_for_the_old_eni_only() {
    let extra = "profile: fast\ncloud: {attach: 0s, detach: 4s}";
    let scene = Scene::start(&two_zones(extra)).await;
    scene.create(&TestPod::fixed("web-0").in_zone(ZONE_B)).await;
    let old = scene.running("web-0").await;
    let forced = kube::api::DeleteParams::default().grace_period(0);
    scene.pods().delete("web-0", &forced).await.unwrap();
    scene.is_gone("web-0").await;
    let new = scene.create(&TestPod::fixed("web-0").in_zone(ZONE_B)).await;
    let waiting = scene.event(&new, "FixedIPWaiting").await;
    assert!(
        message(&waiting).contains(old.metadata.uid.as_deref().unwrap()),
        "{waiting:?}"
    );
    let pending = scene.pods().get("web-0").await.unwrap();
    assert_eq!((pod_phase(&pending), address(&pending)), ("Pending", None));
    assert_eq!(identity(&scene.running("web-0").await), identity(&old));
}
