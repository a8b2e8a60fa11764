//! What `kubectl get pod -o wide -w` shows of a pod's life.

use std::time::Duration;

use holdfast_testbed::{PodRecorder, PodRow, eventually};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PatchParams, PostParams};
use serde_json::json;

use crate::support::*;

/// READY, STATUS and whether there is an IP and a node, without repetitions.
fn story(rows: &[PodRow]) -> Vec<String> {
    let mut story: Vec<String> = rows
        .iter()
        .filter(|row| !row.gone)
        .map(|row| {
            let mark = |there: bool, what| if there { what } else { "-" };
            format!(
                "{} {} {} {}",
                row.ready,
                row.status,
                mark(row.ip.is_some(), "ip"),
                mark(row.node.is_some(), "node")
            )
        })
        .collect();
    story.dedup();
    story
}

#[tokio::test]
async fn the_spec_s_two_tables_appear_in_their_order() {
    let scene = Scene::start(&two_zones("profile: acs")).await;
    let recorder = PodRecorder::start(scene.client.clone(), &scene.namespace)
        .await
        .unwrap();
    let manifest = std::fs::read_to_string("examples/fixed-ip.yaml").unwrap();
    let file = scene.dir.path().join("fixed-ip.yaml");
    std::fs::write(&file, manifest).unwrap();
    let apply = [
        "-n",
        &scene.namespace,
        "apply",
        "-f",
        file.to_str().unwrap(),
    ];
    scene.plane.kubectl(&apply).await.unwrap();
    scene.rolled_out("web").await;
    let born = [
        "0/1 Pending - -",
        "0/1 Pending - node",
        "0/1 ContainerCreating ip node",
        "1/1 Running ip node",
    ];
    for pod in ["web-0", "web-1"] {
        assert_eq!(story(&recorder.rows_of(pod)), born, "{pod}");
    }
    let pods = scene.all_pods().await;
    for reason in ["Pulling", "Pulled", "Created", "Started"] {
        let event = scene.event(&pods[0], reason).await;
        assert_eq!(event.type_.as_deref(), Some("Normal"), "{reason}");
        let component = event.source.unwrap().component;
        assert_eq!(component.as_deref(), Some("kubelet"), "{reason}");
    }
    let before: Vec<Identity> = pods.iter().map(identity).collect();
    let restart = [
        "-n",
        &scene.namespace,
        "rollout",
        "restart",
        "statefulset",
        "web",
    ];
    scene.plane.kubectl(&restart).await.unwrap();
    scene.rolled_out("web").await;
    let after: Vec<Identity> = scene.all_pods().await.iter().map(identity).collect();
    assert_eq!(after, before);
    let reborn = ["1/1 Terminating ip node", "0/1 Completed ip node"]
        .into_iter()
        .chain(born);
    let whole: Vec<&str> = born.into_iter().chain(reborn).collect();
    for pod in ["web-0", "web-1"] {
        eventually("the whole story", PATIENCE, async || {
            let told = story(&recorder.rows_of(pod));
            (told == whole)
                .then_some(())
                .ok_or_else(|| format!("{told:#?}"))
        })
        .await
        .unwrap();
    }
    let order: Vec<String> = recorder
        .rows()
        .iter()
        .filter(|row| row.gone)
        .map(|row| row.name.clone())
        .collect();
    assert_eq!(
        order,
        ["web-1", "web-0"],
        "the rollout goes from the highest ordinal down"
    );
}

#[tokio::test]
async fn a_second_shorter_deletion_and_a_forced_one_are_obeyed() {
    let extra = "profile: acs\ndelays: {creating: 0s, running: 0s, stop: 10m}\ncloud: {attach: 0s, detach: 0s}";
    let scene = Scene::start(&two_zones(extra)).await;
    let slow = json!({ "terminationGracePeriodSeconds": 600 });
    for pod in ["shortened", "forced"] {
        scene
            .create(&TestPod::fixed(pod).in_zone(ZONE_B).with(&slow))
            .await;
        scene.running(pod).await;
        scene
            .pods()
            .delete(pod, &DeleteParams::default())
            .await
            .unwrap();
    }
    scene
        .pod_with("shortened", "is terminating", |pod| {
            pod.metadata.deletion_timestamp.is_some()
        })
        .await;
    let shorter = DeleteParams::default().grace_period(1);
    scene.pods().delete("shortened", &shorter).await.unwrap();
    scene.is_gone("shortened").await;
    scene
        .pods()
        .delete("forced", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    scene.is_gone("forced").await;
    eventually("both claims are retained", PATIENCE, async || {
        let claims = scene.claims().await;
        let retained = claims
            .iter()
            .filter(|claim| claim["state"] == "retained")
            .count();
        (retained == 2)
            .then_some(())
            .ok_or_else(|| format!("{claims:#?}"))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_job_pod_deleted_halfway_has_failed_and_its_job_makes_another() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    let job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": { "name": "work" },
        "spec": {
            "backoffLimit": 3,
            "template": {
                "metadata": { "labels": { "alibabacloud.com/acs": "true" } },
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{ "name": "main", "image": "busybox" }],
                },
            },
        },
    });
    let jobs: kube::Api<k8s_openapi::api::batch::v1::Job> =
        kube::Api::namespaced(scene.client.clone(), &scene.namespace);
    let job = serde_json::from_value(job).unwrap();
    jobs.create(&kube::api::PostParams::default(), &job)
        .await
        .unwrap();
    let first = eventually("the job's pod runs", PATIENCE, async || {
        let pods = scene.all_pods().await;
        pods.into_iter()
            .find(|pod| pod_phase(pod) == "Running")
            .ok_or_else(|| "not yet".into())
    })
    .await
    .unwrap();
    scene
        .pods()
        .delete(name(&first), &DeleteParams::default())
        .await
        .unwrap();
    eventually(
        "the job counts a failure and goes on",
        PATIENCE,
        async || {
            let status = jobs
                .get("work")
                .await
                .map_err(|error| error.to_string())?
                .status;
            let status = status.unwrap_or_default();
            let counted = status.failed == Some(1) && status.succeeded.unwrap_or(0) == 0;
            (counted && status.active == Some(1))
                .then_some(())
                .ok_or_else(|| format!("{status:?}"))
        },
    )
    .await
    .unwrap();
}

/// Twenty pods like this one live and go; holdfast writes for each what is told here, and nothing else.
async fn writes_in_a_life(pod: impl Fn(&str) -> TestPod, writes: &[&str]) {
    let scene = Scene::start(&two_zones("profile: fast\nwebhook: {enabled: false}")).await;
    let names: Vec<String> = (0..20).map(|number| format!("p{number}")).collect();
    for name in &names {
        scene.create(&pod(name).on_node(NODE_B)).await;
    }
    for name in &names {
        scene.running(name).await;
    }
    for name in &names {
        scene.delete(name).await;
    }
    let mut wanted = writes.repeat(names.len());
    wanted.sort_unstable();
    let limit = Duration::from_secs(20);
    eventually("the writes of each pod", limit, async || {
        let Some(mut found) = scene.written() else {
            return Ok(());
        };
        found.sort_unstable();
        (found == wanted)
            .then_some(())
            .ok_or_else(|| format!("{found:?}"))
    })
    .await
    .unwrap();
}

/// The cheapest request that writes a status is a PUT.
#[tokio::test]
async fn the_fast_profile_writes_twice_in_a_pod_s_life() {
    writes_in_a_life(TestPod::ordinary, &["update pods", "delete pods"]).await;
}

#[tokio::test]
async fn the_fast_profile_writes_once_more_where_an_event_is_due() {
    let warned = |name: &str| TestPod::ordinary(name).annotated(FIXED_IP, "yes");
    let writes = ["update pods", "delete pods", "create events"];
    writes_in_a_life(warned, &writes).await;
}

#[tokio::test]
async fn the_first_status_leaves_all_else_as_it_was() {
    let scene = Scene::start(&two_zones("profile: fast")).await;
    let pods = scene.pods();
    let pod = TestPod::fixed("mine")
        .in_zone(ZONE_B)
        .labelled("app", "mine")
        .annotated("example.com/note", "n")
        .with(&json!({
            "schedulerName": "nobody",
            "readinessGates": [{"conditionType": "example.com/gate"}],
        }));
    let mut object = pod.object();
    object.metadata.finalizers = Some(vec!["example.com/mine".to_owned()]);
    pods.create(&PostParams::default(), &object).await.unwrap();
    let status = json!({"status": {
        "message": "theirs",
        "conditions": [{"type": "example.com/gate", "status": "True", "message": "theirs"}],
    }});
    let params = PatchParams::default();
    let patch = kube::api::Patch::Strategic(&status);
    let before = pods.patch_status("mine", &params, &patch).await.unwrap();

    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "mine"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": NODE_B},
    });
    let path = format!("/api/v1/namespaces/{}/pods/mine/binding", scene.namespace);
    let request = http::Request::post(path).header("content-type", "application/json");
    let request = request.body(binding.to_string().into_bytes()).unwrap();
    scene
        .client
        .request::<serde_json::Value>(request)
        .await
        .unwrap();

    scene.running("mine").await;
    let after = pods.get("mine").await.unwrap();
    let kept = |pod: &Pod| {
        let mut pod = serde_json::to_value(pod).unwrap();
        let metadata = pod["metadata"].as_object_mut().unwrap();
        metadata.retain(|name, _| !["managedFields", "resourceVersion"].contains(&&**name));
        let annotations = metadata["annotations"].as_object_mut().unwrap();
        let theirs = |name: &str| [FIXED_IP, "example.com/note"].contains(&name);
        annotations.retain(|name, _| theirs(name));
        // The API server's own, when it binds.
        let labels = metadata["labels"].as_object_mut().unwrap();
        labels.retain(|name, _| !name.starts_with("topology.kubernetes.io/"));
        pod["spec"].as_object_mut().unwrap().remove("nodeName");
        let status = &pod["status"];
        let gate = status["conditions"].as_array().unwrap().iter();
        let gate: Vec<_> = gate
            .filter(|one| one["type"] == "example.com/gate")
            .collect();
        json!([
            pod["metadata"],
            pod["spec"],
            status["qosClass"],
            status["message"],
            gate
        ])
    };
    assert_eq!(kept(&after), kept(&before));
    let managers = after.metadata.managed_fields.unwrap();
    let managers: Vec<_> = managers.into_iter().filter_map(|one| one.manager).collect();
    assert!(
        managers.iter().any(|name| name.starts_with("holdfast")),
        "{managers:?}"
    );
    assert!(managers.len() > 1, "{managers:?}");

    let free = json!({"metadata": {"finalizers": null}});
    let patch = kube::api::Patch::Merge(&free);
    pods.patch("mine", &params, &patch).await.unwrap();
}
