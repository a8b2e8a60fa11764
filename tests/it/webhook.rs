//! What admission adds to pods, and what becomes of them without it.

use holdfast_testbed::eventually;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::support::*;

const WORKER: &str = "holdfast-test-worker";
const VIRTUAL_TAINT: &str = "virtual-kubelet.io/provider";

/// A ready node without a taint, onto which the scheduler likes to put everything.
async fn create_real_node(scene: &Scene, name: &str) {
    let nodes: Api<Node> = Api::all(scene.client.clone());
    let node =
        json!({ "metadata": { "name": name, "labels": { "holdfast.dev/testbed": "true" } } });
    let node = serde_json::from_value(node).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let room = json!({ "cpu": "100k", "memory": "1Pi", "pods": "1000" });
    let ready = json!({ "type": "Ready", "status": "True", "reason": "Testing", "message": "",
        "lastHeartbeatTime": Timestamp::now(), "lastTransitionTime": Timestamp::now() });
    let status =
        json!({ "status": { "capacity": room, "allocatable": room, "conditions": [ready] } });
    nodes
        .patch_status(name, &PatchParams::default(), &Patch::Strategic(status))
        .await
        .unwrap();
}

/// The pod as it would be created now: admission happens, nothing is stored.
async fn as_admitted(scene: &Scene, pod: &TestPod) -> Result<Pod, String> {
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let created = scene.pods().create(&params, &pod.object()).await;
    created.map_err(|error| error.to_string())
}

fn tolerates(pod: &Pod) -> bool {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref());
    tolerations.is_some_and(|all| {
        all.iter()
            .any(|one| one.key.as_deref() == Some(VIRTUAL_TAINT))
    })
}

fn node_of(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .unwrap()
        .node_name
        .as_deref()
        .unwrap_or("")
}

/// The requirements of the only required term of the node affinity, as `KEY In VALUES`.
fn required(pod: &Pod) -> Vec<String> {
    let spec = serde_json::to_value(pod.spec.as_ref().unwrap()).unwrap();
    let required =
        &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = required["nodeSelectorTerms"].as_array();
    let [term] = terms.map_or(&[][..], Vec::as_slice) else {
        assert!(terms.is_none(), "{terms:?}");
        return Vec::new();
    };
    let text = |one: &Value| {
        format!("{} {} {}", one["key"], one["operator"], one["values"]).replace('"', "")
    };
    term["matchExpressions"]
        .as_array()
        .unwrap()
        .iter()
        .map(text)
        .collect()
}

#[tokio::test]
async fn the_spec_s_manifest_lands_on_virtual_nodes_and_other_pods_do_not() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    create_real_node(&scene, WORKER).await;
    let plain: Pod = serde_json::from_value(json!({
        "metadata": { "name": "plain" },
        "spec": { "containers": [{ "name": "main", "image": "nginx" }] },
    }))
    .unwrap();
    scene
        .pods()
        .create(&PostParams::default(), &plain)
        .await
        .unwrap();
    let plain = scene
        .pod_with("plain", "is bound", |pod| !node_of(pod).is_empty())
        .await;
    assert_eq!(node_of(&plain), WORKER);
    assert!(!tolerates(&plain), "{:?}", plain.spec);
    assert_eq!(required(&plain), [""; 0]);

    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/fixed-ip.yaml");
    let apply = ["-n", &scene.namespace, "apply", "-f", manifest];
    scene.plane.kubectl(&apply).await.unwrap();
    scene.rolled_out("web").await;
    for name in ["web-0", "web-1"] {
        let pod = scene.running(name).await;
        assert!(
            node_of(&pod).starts_with("virtual-kubelet-"),
            "{}",
            node_of(&pod)
        );
        assert!(tolerates(&pod), "{:?}", pod.spec);
        assert_eq!(required(&pod), ["type In [virtual-kubelet]"]);
    }
}

#[tokio::test]
async fn a_fixed_pod_comes_back_to_the_zone_of_its_claim_although_another_is_emptier() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    scene.create(&TestPod::fixed("web-0").in_zone(ZONE_B)).await;
    let had = identity(&scene.running("web-0").await);
    scene.delete("web-0").await;
    let heavy = json!({ "containers": [{ "name": "main", "image": "nginx",
        "resources": { "requests": { "cpu": "9000", "memory": "30Ti" } } }] });
    scene
        .create(&TestPod::ordinary("heavy").in_zone(ZONE_B).with(&heavy))
        .await;
    scene.running("heavy").await;

    scene.create(&TestPod::fixed("new-0")).await;
    let new = scene.running("new-0").await;
    assert_eq!(
        identity(&new).zone,
        ZONE_C,
        "the scheduler prefers the emptier zone"
    );
    assert_eq!(required(&new), ["type In [virtual-kubelet]"]);

    scene.create(&TestPod::fixed("web-0")).await;
    let back = scene.running("web-0").await;
    assert_eq!(identity(&back), had);
    let zone = format!("topology.kubernetes.io/zone In [{ZONE_B}]");
    assert_eq!(required(&back), ["type In [virtual-kubelet]", &zone]);
    scene.event(&back, "FixedIPReused").await;
}

#[tokio::test]
async fn a_pod_whose_zone_is_closed_is_not_pinned_and_comes_up_elsewhere_with_a_warning() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    scene.create(&TestPod::fixed("web-0").in_zone(ZONE_B)).await;
    let had = identity(&scene.running("web-0").await);
    scene.delete("web-0").await;
    let web = TestPod::fixed("web-0");
    let pin = format!("topology.kubernetes.io/zone In [{ZONE_B}]");
    let pinned = required(&as_admitted(&scene, &web).await.unwrap());
    assert!(pinned.contains(&pin), "{pinned:?}");

    scene.cordon(NODE_B, true).await;
    eventually("the webhook knows of the cordon", PATIENCE, async || {
        let required = required(&as_admitted(&scene, &web).await?);
        (!required.contains(&pin))
            .then_some(())
            .ok_or_else(|| format!("{required:?}"))
    })
    .await
    .unwrap();
    scene.create(&web).await;
    let pod = scene.running("web-0").await;
    let has = identity(&pod);
    assert_eq!(has.zone, ZONE_C);
    assert_ne!((&has.address, &has.eni), (&had.address, &had.eni));
    let event = scene.event(&pod, "FixedIPNotReused").await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    for zone in [ZONE_B, ZONE_C] {
        assert!(message(&event).contains(zone), "{}", message(&event));
    }
    let claims = scene.claims().await;
    assert_eq!(claims.len(), 1, "{claims:?}");
    assert_eq!(claims[0]["address"], has.address.as_str());
    scene.has_counts(&[("free", 252)]).await;
}

#[tokio::test]
async fn a_pod_made_while_the_webhook_is_away_gets_its_toleration_later() {
    let config = two_zones("profile: fast\nwebhook: {failurePolicy: Ignore}");
    let mut scene = Scene::start(&config).await;
    scene.stop().await;
    finds_no_node(&scene, "web-0").await;
    scene.spawn(&[]).await;
    let pod = scene.running("web-0").await;
    assert!(tolerates(&pod), "{:?}", pod.spec);
    assert_eq!(identity(&pod).zone, ZONE_B);
}

#[tokio::test]
async fn a_pod_made_while_holdfast_stood_still_gets_its_toleration_when_it_goes_on() {
    let config = two_zones("profile: fast\nwebhook: {failurePolicy: Ignore}");
    let mut scene = Scene::start(&config).await;
    scene.freeze_until_the_lease_is_over().await;
    finds_no_node(&scene, "web-0").await;
    // What the watch has told by now it sees before it has its Lease again, and nothing more is told.
    scene.thaw();
    let pod = scene.running("web-0").await;
    assert!(tolerates(&pod), "{:?}", pod.spec);
}

/// A pod that is made while nobody adds its toleration, and that the scheduler has given up.
async fn finds_no_node(scene: &Scene, name: &str) {
    let made = scene.create(&TestPod::fixed(name).in_zone(ZONE_B)).await;
    assert!(!tolerates(&made), "nobody was there to add it");
    let is_given_up = |pod: &Pod| {
        let conditions = pod
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref());
        let mut all = conditions.into_iter().flatten();
        all.any(|one| one.reason.as_deref() == Some("Unschedulable"))
    };
    scene.pod_with(name, "finds no node", is_given_up).await;
}

#[tokio::test]
async fn with_failure_policy_fail_no_pod_is_made_while_the_webhook_is_away_but_others_are() {
    let mut scene = Scene::start(&two_zones("profile: fast")).await;
    scene.stop().await;
    let refused = as_admitted(&scene, &TestPod::fixed("web-0"))
        .await
        .unwrap_err();
    assert!(refused.contains("pods.holdfast.dev"), "{refused}");
    let plain: Pod = serde_json::from_value(json!({
        "metadata": { "name": "plain" },
        "spec": { "containers": [{ "name": "main", "image": "nginx" }] },
    }))
    .unwrap();
    scene
        .pods()
        .create(&PostParams::default(), &plain)
        .await
        .unwrap();

    scene.spawn(&[]).await;
    scene.create_set("web", 1, &TestPod::fixed("web")).await;
    scene.running("web-0").await;
}

#[tokio::test]
async fn a_webhook_that_is_turned_off_keeps_no_pod_from_being_made() {
    let mut scene = Scene::start(&two_zones("profile: fast")).await;
    scene.stop().await;
    scene.configure(&two_zones("profile: fast\nwebhook: {enabled: false}"));
    scene.spawn(&[]).await;
    scene.is_serving().await;
    eventually("pods are admitted", PATIENCE, async || {
        let pod = as_admitted(&scene, &TestPod::fixed("web-0")).await?;
        let changed = tolerates(&pod).then(|| format!("{:?}", pod.spec));
        changed.map_or(Ok(()), Err)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_webhook_configuration_deleted_by_hand_is_put_back() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    let all: Api<MutatingWebhookConfiguration> = Api::all(scene.client.clone());
    all.delete("holdfast", &DeleteParams::default())
        .await
        .unwrap();
    eventually("the webhook is back", PATIENCE, async || {
        let found = all
            .get_opt("holdfast")
            .await
            .map_err(|error| error.to_string())?;
        found.map(drop).ok_or_else(|| "there is none".to_owned())
    })
    .await
    .unwrap();
    eventually("pods are admitted again", PATIENCE, async || {
        let pod = as_admitted(&scene, &TestPod::fixed("web-0")).await?;
        tolerates(&pod)
            .then_some(())
            .ok_or_else(|| format!("{:?}", pod.spec))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_first_container_of_a_cpu_pod_gets_what_its_instance_has_beyond_the_requests() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    let asks = |cpu: &str, memory: &str| json!({ "requests": { "cpu": cpu, "memory": memory } });
    let containers = json!({ "containers": [
        { "name": "a", "image": "nginx", "resources": asks("1500m", "3Gi") },
        { "name": "b", "image": "nginx", "resources": asks("500m", "512Mi") },
    ] });
    scene
        .create(&TestPod::ordinary("sized").with(&containers))
        .await;
    scene.create(&TestPod::ordinary("plain")).await;
    for (pod, first) in [
        ("sized", asks("1500m", "3584Mi")),
        (
            "plain",
            merged(
                &asks("2", "4Gi"),
                &json!({ "limits": { "cpu": "2", "memory": "4Gi" } }),
            ),
        ),
    ] {
        let pod = serde_json::to_value(scene.running(pod).await).unwrap();
        assert_eq!(pod["spec"]["containers"][0]["resources"], first);
        let size = &pod["metadata"]["annotations"]["alibabacloud.com/pod-use-spec"];
        assert_eq!(size, "2-4Gi");
    }
}
