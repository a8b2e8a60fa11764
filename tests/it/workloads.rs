//! Workloads of every kind reach what their controllers want of them.

use holdfast_testbed::eventually;
use kube::Api;
use kube::api::{DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::support::*;

/// One manifest, made in the namespace of the scene.
async fn make(scene: &Scene, manifest: Value) {
    let resource = resource(&manifest);
    let api: Api<DynamicObject> =
        Api::namespaced_with(scene.client.clone(), &scene.namespace, &resource);
    let object = serde_json::from_value(manifest).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

fn resource(manifest: &Value) -> ApiResource {
    let text = |field: &str| manifest[field].as_str().unwrap();
    let (group, version) = text("apiVersion")
        .split_once('/')
        .unwrap_or(("", text("apiVersion")));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("kind")))
}

/// Waits until the object's status is as it should be.
async fn reaches(
    scene: &Scene,
    api_version: &str,
    kind: &str,
    name: &str,
    holds: impl Fn(&Value) -> bool,
) -> Value {
    let resource = resource(&json!({"apiVersion": api_version, "kind": kind}));
    let api: Api<DynamicObject> =
        Api::namespaced_with(scene.client.clone(), &scene.namespace, &resource);
    eventually(&format!("{kind} {name}"), PATIENCE, async || {
        let found = api.get(name).await.map_err(|error| error.to_string())?;
        let status = found.data["status"].clone();
        if holds(&status) {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    })
    .await
    .unwrap()
}

/// A pod template that opts in, with annotations under holdfast's prefix.
fn template(app: &str, asks: &Value, spec: &Value) -> Value {
    let plain = json!({
        "containers": [{"name": "main", "image": "busybox"}],
        "terminationGracePeriodSeconds": 5,
    });
    json!({
        "metadata": {
            "labels": {"app": app, "alibabacloud.com/acs": "true"},
            "annotations": asks,
        },
        "spec": merged(&plain, spec),
    })
}

fn job(asks: &Value) -> Value {
    json!({
        "completions": 3,
        "parallelism": 2,
        "backoffLimit": 0,
        "template": template("work", asks, &json!({"restartPolicy": "Never"})),
    })
}

#[tokio::test]
async fn a_job_completes_fails_and_is_made_by_a_cron_job() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    let works = json!({"holdfast.dev/run-for": "1s"});
    let fails = json!({"holdfast.dev/crash-after": "1s"});
    for (name, asks) in [("works", &works), ("fails", &fails)] {
        make(
            &scene,
            json!({
                "apiVersion": "batch/v1", "kind": "Job",
                "metadata": {"name": name}, "spec": job(asks),
            }),
        )
        .await;
    }
    make(
        &scene,
        json!({
            "apiVersion": "batch/v1", "kind": "CronJob",
            "metadata": {"name": "nightly"},
            "spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": job(&works)}},
        }),
    )
    .await;
    let by_hand = ["create", "job", "by-hand", "--from=cronjob/nightly"];
    kubectl(&scene, &by_hand).await;
    for name in ["works", "by-hand"] {
        reaches(&scene, "batch/v1", "Job", name, |status| {
            status["succeeded"] == 3 && has_condition(status, "Complete")
        })
        .await;
    }
    reaches(&scene, "batch/v1", "Job", "fails", |status| {
        has_condition(status, "Failed")
    })
    .await;
    // Nobody holds an address any more.
    eventually("all addresses are free", PATIENCE, async || {
        let mut used = 0;
        for vswitch in ["vsw-b", "vsw-c"] {
            used += scene.count(vswitch, "in_use").await;
        }
        (used == 0)
            .then_some(())
            .ok_or(format!("{used} are in use"))
    })
    .await
    .unwrap();
}

fn has_condition(status: &Value, kind: &str) -> bool {
    let all = status["conditions"].as_array().into_iter().flatten();
    all.into_iter()
        .any(|one| one["type"] == kind && one["status"] == "True")
}

async fn kubectl(scene: &Scene, args: &[&str]) -> String {
    let args: Vec<&str> = ["-n", &scene.namespace]
        .iter()
        .chain(args)
        .copied()
        .collect();
    scene.plane.kubectl(&args).await.unwrap()
}

fn workload(kind: &str, name: &str, spec: &Value, asks: &Value, pod: &Value) -> Value {
    let base = json!({
        "selector": {"matchLabels": {"app": name}},
        "template": template(name, asks, pod),
    });
    json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": name}, "spec": merged(&base, spec),
    })
}

#[tokio::test]
async fn deployments_daemon_sets_and_stateful_sets_become_available() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    let (none, slow) = (json!({}), json!({"holdfast.dev/start-after": "1s"}));
    let init = json!({"initContainers": [
        {"name": "migrate", "image": "m"},
        {"name": "mesh", "image": "s", "restartPolicy": "Always"},
    ]});
    // Its controller looks at the template, which no webhook changes.
    let tolerations = json!([{"key": "virtual-kubelet.io/provider", "operator": "Exists"}]);
    let everywhere = json!({"hostNetwork": true, "tolerations": tolerations});
    let ordered = json!({"replicas": 3, "serviceName": "ordered"});
    let parallel = json!({"replicas": 3, "podManagementPolicy": "Parallel"});
    for manifest in [
        workload("Deployment", "web", &json!({"replicas": 3}), &slow, &init),
        workload("DaemonSet", "agent", &none, &none, &everywhere),
        workload("StatefulSet", "ordered", &ordered, &slow, &none),
        workload("StatefulSet", "parallel", &parallel, &none, &none),
    ] {
        make(&scene, manifest).await;
    }
    reaches(&scene, "apps/v1", "Deployment", "web", |status| {
        status["availableReplicas"] == 3
    })
    .await;
    reaches(&scene, "apps/v1", "DaemonSet", "agent", |status| {
        status["numberAvailable"] == 2 && status["desiredNumberScheduled"] == 2
    })
    .await;
    for name in ["ordered", "parallel"] {
        reaches(&scene, "apps/v1", "StatefulSet", name, |status| {
            status["availableReplicas"] == 3
        })
        .await;
    }
    // One was ready before the next was made.
    let started = |pod: &k8s_openapi::api::core::v1::Pod| pod.metadata.creation_timestamp.clone();
    let mut made = Vec::new();
    for n in 0..3 {
        made.push(started(
            &scene.pods().get(&format!("ordered-{n}")).await.unwrap(),
        ));
    }
    assert!(made[0] < made[1] && made[1] < made[2], "{made:?}");
    // A rollout by kubectl's own measure.
    kubectl(&scene, &["rollout", "restart", "deployment/web"]).await;
    kubectl(
        &scene,
        &["rollout", "status", "deployment/web", "--timeout=60s"],
    )
    .await;
}

#[tokio::test]
async fn a_drain_waits_for_the_disruption_budget_and_gets_there() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    let asks = json!({});
    let spec = json!({"replicas": 4});
    make(
        &scene,
        workload("Deployment", "web", &spec, &asks, &json!({})),
    )
    .await;
    make(
        &scene,
        json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "web"},
            "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "web"}}},
        }),
    )
    .await;
    reaches(
        &scene,
        "policy/v1",
        "PodDisruptionBudget",
        "web",
        |status| status["disruptionsAllowed"] == 1,
    )
    .await;
    let drain = [
        "drain",
        NODE_B,
        "--ignore-daemonsets",
        "--force",
        "--timeout=60s",
        "--pod-selector=app=web",
    ];
    let drained = scene.plane.kubectl(&drain).await;
    scene.plane.kubectl(&["uncordon", NODE_B]).await.unwrap();
    drained.unwrap();
    let left = scene.all_pods().await;
    let on_b = |pod: &&k8s_openapi::api::core::v1::Pod| {
        pod.spec.as_ref().unwrap().node_name.as_deref() == Some(NODE_B)
    };
    assert_eq!(left.iter().filter(on_b).count(), 0);
    reaches(&scene, "apps/v1", "Deployment", "web", |status| {
        status["availableReplicas"] == 4
    })
    .await;
}

#[tokio::test]
async fn a_debug_container_runs_and_resources_change_in_place() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    let spec = json!({"containers": [{
        "name": "main", "image": "busybox", "resources": {"requests": {"cpu": "1"}},
    }]});
    let pod = TestPod::ordinary("web").in_zone(ZONE_B).with(&spec);
    scene.create(&pod).await;
    let before = scene.running("web").await;
    let debug = [
        "debug",
        "web",
        "--image=busybox",
        "--container=look",
        "--attach=false",
    ];
    kubectl(&scene, &debug).await;
    scene
        .pod_with("web", "has a running debug container", |pod| {
            let status = pod.status.as_ref().unwrap();
            let all = status.ephemeral_container_statuses.iter().flatten();
            let runs = |one: &k8s_openapi::api::core::v1::ContainerStatus| {
                one.state
                    .as_ref()
                    .is_some_and(|state| state.running.is_some())
            };
            all.into_iter().any(runs)
        })
        .await;
    let patch = json!({"spec": {"containers": [
        {"name": "main", "resources": {"requests": {"cpu": "2"}}},
    ]}});
    let patch = patch.to_string();
    kubectl(
        &scene,
        &["patch", "pod", "web", "--subresource=resize", "-p", &patch],
    )
    .await;
    let after = scene
        .pod_with("web", "has been resized", |pod| {
            let status = json!(pod.status.as_ref().unwrap().container_statuses);
            status[0]["resources"]["requests"]["cpu"] == "2"
                && status[0]["allocatedResources"]["cpu"] == "2"
        })
        .await;
    assert_eq!(identity(&before), identity(&after));
    let restarts = after.status.unwrap().container_statuses.unwrap()[0].restart_count;
    assert_eq!(restarts, 0);
}

#[tokio::test]
async fn a_changed_image_restarts_its_container_within_the_pod() {
    let scene = Scene::start(&two_zones("profile: fast\nwebhook: {enabled: false}")).await;
    scene.create(&TestPod::fixed("web").on_node(NODE_B)).await;
    let before = scene.running("web").await;
    kubectl(&scene, &["set", "image", "pod/web", "main=nginx:2"]).await;
    let after = scene
        .pod_with("web", "has been restarted and is ready", |pod| {
            let status = json!(pod.status.as_ref().unwrap().container_statuses);
            status[0]["restartCount"] == 1 && is_ready(pod)
        })
        .await;
    assert_eq!(identity(&before), identity(&after));
    let status = json!(after.status.as_ref().unwrap().container_statuses);
    assert_eq!(
        (&status[0]["image"], &status[0]["imageID"]),
        (&json!("nginx:2"), &json!("nginx:2"))
    );
    let ended = &status[0]["lastState"]["terminated"];
    assert_eq!(ended["reason"], "Completed", "{status:#}");
    let event = scene.event(&after, "Killing").await;
    assert_eq!(
        message(&event),
        "Container main definition changed, will be restarted"
    );
}

/// The API server refuses a status that starts a container again which is not to be, and with it all that the status
/// says of the others.
#[tokio::test]
async fn a_container_s_own_restart_policy_counts_before_the_pod_s() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    let pod = TestPod::ordinary("web")
        .in_zone(ZONE_B)
        .annotated("once.holdfast.dev/run-for", "1s")
        .annotated("ruled.holdfast.dev/run-for", "1s")
        .annotated("ruled.holdfast.dev/exit-code", "42")
        .annotated("main.holdfast.dev/run-for", "4s")
        .with(&json!({"containers": [
            {"name": "main", "image": "busybox"},
            {"name": "once", "image": "busybox", "restartPolicy": "Never"},
            {"name": "ruled", "image": "busybox", "restartPolicy": "Never", "restartPolicyRules": [
                {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}},
            ]},
        ]}));
    scene.create(&pod).await;
    scene
        .pod_with("web", "goes on beside a container that has ended", |pod| {
            let status = json!(pod.status.as_ref().unwrap().container_statuses);
            let of = |name: &str| {
                let all = status.as_array().into_iter().flatten();
                all.clone().find(|one| one["name"] == name).cloned()
            };
            let ended = of("once").is_some_and(|once| {
                once["state"]["terminated"]["reason"] == "Completed" && once["restartCount"] == 0
            });
            let again = |name| of(name).is_some_and(|one| one["restartCount"].as_i64() > Some(0));
            ended && again("main") && again("ruled")
        })
        .await;
}

#[tokio::test]
async fn a_followed_log_ends_with_its_container_and_not_with_its_pod() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    let pod = TestPod::ordinary("web")
        .in_zone(ZONE_B)
        .annotated("holdfast.dev/run-for", "5s")
        .annotated("holdfast.dev/exit-code", "3")
        .annotated("holdfast.dev/log-lines", "tick")
        .annotated("holdfast.dev/log-every", "1s");
    scene.create(&pod).await;
    scene.running("web").await;
    let log = kubectl(&scene, &["logs", "-f", "web"]).await;
    let last = log.lines().last();
    assert_eq!(
        last,
        Some("holdfast: container main ended with exit code 3 (Error)"),
        "{log}"
    );
    let ticks = log.lines().filter(|line| *line == "tick").count();
    assert!((5..=6).contains(&ticks), "{log}");
    assert!(!log.contains("restart 1"), "{log}");
}

#[tokio::test]
async fn a_pod_waits_for_its_config_map_and_starts_when_it_appears() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    let spec = json!({"containers": [{
        "name": "main", "image": "busybox",
        "envFrom": [{"configMapRef": {"name": "settings"}}],
    }]});
    let pod = TestPod::ordinary("web").in_zone(ZONE_B).with(&spec);
    scene.create(&pod).await;
    let waits = scene
        .pod_with("web", "waits for its ConfigMap", |pod| {
            let status = json!(pod.status);
            let reason = &status["containerStatuses"][0]["state"]["waiting"]["reason"];
            reason == "CreateContainerConfigError"
        })
        .await;
    let event = scene.event(&waits, "MandatoryConfigMapNotFound").await;
    assert_eq!(message(&event), "configmap \"settings\" not found");
    kubectl(
        &scene,
        &["create", "configmap", "settings", "--from-literal=a=b"],
    )
    .await;
    scene.running("web").await;
}
