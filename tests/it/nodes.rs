//! Node objects and their leases.

use std::fmt::Debug;
use std::process::Stdio;

use holdfast_testbed::eventually;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::*;

const NODE_C: &str = "virtual-kubelet-cn-wulanchabu-c";
const ALL: [&str; 3] = ["ecs-1", NODE_B, NODE_C];
const NO_WEBHOOK: &str = "webhook: {enabled: false}";

fn nodes(scene: &Scene) -> Api<Node> {
    Api::all(scene.client.clone())
}

fn node_leases(scene: &Scene) -> Api<Lease> {
    Api::namespaced(scene.client.clone(), "kube-node-lease")
}

async fn has_webhook(scene: &Scene) -> bool {
    let all: Api<MutatingWebhookConfiguration> = Api::all(scene.client.clone());
    all.get_opt("holdfast").await.unwrap().is_some()
}

/// A node as the API has it.
async fn node(scene: &Scene, name: &str) -> Value {
    serde_json::to_value(nodes(scene).get(name).await.unwrap()).unwrap()
}

/// Waits until the object `name` is there and is as it should be.
async fn object_that<K>(api: &Api<K>, name: &str, what: &str, holds: impl Fn(&K) -> bool) -> K
where
    K: Clone + Debug + DeserializeOwned,
{
    eventually(&format!("{name} {what}"), PATIENCE, async || {
        let found = api.get_opt(name).await.map_err(|error| error.to_string())?;
        found
            .clone()
            .filter(&holds)
            .ok_or_else(|| format!("{found:?}"))
    })
    .await
    .unwrap()
}

/// Status and reason of a node's condition.
fn condition(node: &Node, kind: &str) -> Option<(String, String)> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|one| one.type_ == kind)?;
    Some((
        found.status.clone(),
        found.reason.clone().unwrap_or_default(),
    ))
}

fn is_ready_node(node: &Node) -> bool {
    condition(node, "Ready") == Some(("True".to_owned(), "KubeletReady".to_owned()))
}

async fn set_condition(scene: &Scene, name: &str, kind: &str, status: &str) {
    let condition = json!({ "type": kind, "status": status, "reason": "ByHand", "message": "" });
    let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
    nodes(scene)
        .patch_status(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

async fn patch_node(scene: &Scene, name: &str, patch: Value) {
    nodes(scene)
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
}

fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap()
}

fn renewed(lease: &Lease) -> Option<Timestamp> {
    Some(lease.spec.as_ref()?.renew_time.as_ref()?.0)
}

fn is_owned_by(lease: &Lease, node: &Node) -> bool {
    let owners = lease.metadata.owner_references.as_deref();
    owners.is_some_and(|owners| {
        owners.len() == 1
            && owners[0].kind == "Node"
            && Some(&owners[0].name) == node.metadata.name.as_ref()
            && owners[0].uid == uid(&node.metadata)
    })
}

/// A node that another program registered, as far as its object tells.
async fn create_foreign_node(scene: &Scene, name: &str) {
    let node = json!({
        "metadata": { "name": name, "labels": { "holdfast.dev/testbed": "true" } },
        "spec": { "providerID": format!("other://{name}") },
    });
    nodes(scene)
        .create(
            &PostParams::default(),
            &serde_json::from_value(node).unwrap(),
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn an_acs_node_looks_like_a_virtual_kubelet_and_a_simulated_ecs_node_does_not() {
    let extra = "capacity: {cpu: 64, memory: 1Ti, pods: 500}\nwebhook: {enabled: false}";
    let scene = Scene::start(&two_zones(extra)).await;
    let version = scene.client.apiserver_version().await.unwrap().git_version;

    let acs = node(&scene, NODE_B).await;
    let labels = &acs["metadata"]["labels"];
    for (key, value) in [
        ("type", "virtual-kubelet"),
        ("kubernetes.io/role", "agent"),
        ("kubernetes.io/hostname", NODE_B),
        ("topology.kubernetes.io/zone", ZONE_B),
        ("topology.kubernetes.io/region", "cn-wulanchabu"),
    ] {
        assert_eq!(labels[key], value, "{key}");
    }
    let taint = json!({ "key": "virtual-kubelet.io/provider", "value": "alibabacloud", "effect": "NoSchedule" });
    assert_eq!(acs["spec"]["taints"], json!([taint]));
    assert_eq!(
        acs["spec"]["providerID"],
        format!("holdfast://cn-wulanchabu/{ZONE_B}/{NODE_B}")
    );
    let status = &acs["status"];
    let room =
        json!({ "cpu": "64", "memory": "1Ti", "pods": "500", "ephemeral-storage": "60000Gi" });
    assert_eq!(status["capacity"], room);
    assert_eq!(status["allocatable"], room);
    let addresses = json!([
        { "type": "InternalIP", "address": "127.0.0.1" },
        { "type": "Hostname", "address": NODE_B },
    ]);
    assert_eq!(status["addresses"], addresses);
    let info = &status["nodeInfo"]["kubeletVersion"];
    let release = version.split(['-', '+']).next().unwrap();
    assert_eq!(*info, format!("{release}-aliyun.1"));
    let mut conditions: Vec<_> = status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["type"].as_str().unwrap(),
                one["status"].as_str().unwrap(),
            )
        })
        .collect();
    conditions.sort_unstable();
    let healthy = [
        ("DiskPressure", "False"),
        ("MemoryPressure", "False"),
        ("NetworkUnavailable", "False"),
        ("PIDPressure", "False"),
        ("Ready", "True"),
    ];
    assert_eq!(conditions, healthy);

    let ecs = node(&scene, "ecs-1").await;
    assert_eq!(ecs["metadata"]["labels"]["type"], Value::Null);
    assert_eq!(ecs["metadata"]["labels"]["holdfast.dev/node-type"], "ecs");
    let taint = json!({ "key": "holdfast.dev/simulated", "value": "ecs", "effect": "NoSchedule" });
    assert_eq!(ecs["spec"]["taints"], json!([taint]));

    let port = |node: &Value| node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].clone();
    let ports = [port(&acs), port(&node(&scene, NODE_C).await), port(&ecs)];
    let first = scene.kubelet_port;
    assert_eq!(ports, [first, first + 1, first + 2].map(Value::from));
}

#[tokio::test]
async fn nodes_publish_and_serve_the_address_that_an_environment_variable_gives() {
    let port = free_ports_in_a_row(4);
    let kubelet = format!("kubelet: {{address: $({ADDRESS_VARIABLE}), port: {port}}}");
    let scene = Scene::start(&two_zones(&format!(
        "profile: fast\n{NO_WEBHOOK}\n{kubelet}"
    )))
    .await;
    let shown = node(&scene, NODE_B).await;
    let addresses = shown["status"]["addresses"].as_array().unwrap();
    let internal = addresses.iter().find(|one| one["type"] == "InternalIP");
    assert_eq!(internal.unwrap()["address"], OTHER_ADDRESS);
    // kubectl asks the API server, which asks the node there.
    scene
        .create(&TestPod::ordinary("web").on_node(NODE_B))
        .await;
    let pod = scene.running("web").await;
    assert_eq!(pod.status.unwrap().host_ip.as_deref(), Some(OTHER_ADDRESS));
    let logs = ["logs", "web", "-n", &scene.namespace];
    assert!(!scene.plane.kubectl(&logs).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_lease_belongs_to_its_node_and_is_renewed_every_ten_seconds() {
    let scene = Scene::start(&two_zones(NO_WEBHOOK)).await;
    let node = nodes(&scene).get(NODE_B).await.unwrap();
    let leases = node_leases(&scene);
    let mut times = Vec::new();
    for _ in 0..3 {
        let last = times.last().copied();
        let what = format!("is renewed after {last:?}");
        let lease = object_that(&leases, NODE_B, &what, |lease| renewed(lease) > last).await;
        assert!(is_owned_by(&lease, &node), "{lease:?}");
        let spec = lease.spec.as_ref().unwrap();
        assert_eq!(spec.holder_identity.as_deref(), Some(NODE_B));
        assert_eq!(spec.lease_duration_seconds, Some(40));
        times.extend(renewed(&lease));
    }
    // The first renewals of many nodes are spread over ten seconds; from then on it is ten.
    let spread = times[1].duration_since(times[0]);
    let period = times[2].duration_since(times[1]);
    let slow = SignedDuration::from_secs(20);
    assert!(spread < slow, "{times:?}");
    assert!(
        period > SignedDuration::from_secs(8) && period < slow,
        "{times:?}"
    );
}

#[tokio::test]
async fn a_deleted_node_comes_back_with_a_lease_of_its_own() {
    let scene = Scene::start(&two_zones(NO_WEBHOOK)).await;
    let old = nodes(&scene).get(NODE_B).await.unwrap();
    let owned = |lease: &Lease| is_owned_by(lease, &old);
    object_that(&node_leases(&scene), NODE_B, "belongs to the node", owned).await;

    nodes(&scene)
        .delete(NODE_B, &DeleteParams::default())
        .await
        .unwrap();
    let new = object_that(&nodes(&scene), NODE_B, "is another one and ready", |node| {
        uid(&node.metadata) != uid(&old.metadata) && is_ready_node(node)
    })
    .await;
    let owned = |lease: &Lease| is_owned_by(lease, &new);
    let what = "belongs to the new node";
    object_that(&node_leases(&scene), NODE_B, what, owned).await;
    scene.create(&TestPod::fixed("web-0").on_node(NODE_B)).await;
    scene.running("web-0").await;
}

#[tokio::test]
async fn a_deleted_lease_comes_back() {
    let scene = Scene::start(&two_zones(NO_WEBHOOK)).await;
    let node = nodes(&scene).get(NODE_B).await.unwrap();
    let leases = node_leases(&scene);
    let old = object_that(&leases, NODE_B, "is there", |_| true).await;
    leases
        .delete(NODE_B, &DeleteParams::default())
        .await
        .unwrap();
    let new = object_that(&leases, NODE_B, "is another one", |lease| {
        uid(&lease.metadata) != uid(&old.metadata)
    })
    .await;
    assert!(is_owned_by(&new, &node), "{new:?}");
}

#[tokio::test]
async fn what_others_put_on_a_node_stays_across_a_restart_and_a_taint_taken_off_stays_off() {
    let mut scene = Scene::start(&two_zones(NO_WEBHOOK)).await;
    let ours = node(&scene, NODE_B).await["spec"]["taints"][0].clone();
    let foreign = json!({ "key": "example.com/spot", "value": "1", "effect": "PreferNoSchedule" });
    let marks = json!({
        "metadata": {
            "labels": { "example.com/team": "a" },
            "annotations": { "example.com/note": "keep" },
        },
        "spec": { "taints": [ours, foreign], "unschedulable": true },
    });
    patch_node(&scene, NODE_B, marks).await;
    set_condition(&scene, NODE_B, "example.com/Disk", "True").await;
    patch_node(&scene, NODE_C, json!({ "spec": { "taints": null } })).await;
    scene.stop().await;
    // Once both are right again, the new process has written all that it wants to write.
    let elsewhere = json!({ "topology.kubernetes.io/zone": "elsewhere" });
    for name in [NODE_B, NODE_C] {
        set_condition(&scene, name, "MemoryPressure", "Unknown").await;
        let elsewhere = json!({ "metadata": { "labels": elsewhere } });
        patch_node(&scene, name, elsewhere).await;
    }
    scene.spawn(&[]).await;

    let node = restored(&scene, NODE_B, ZONE_B).await;
    assert_eq!(node["metadata"]["labels"]["example.com/team"], "a");
    assert_eq!(node["metadata"]["annotations"]["example.com/note"], "keep");
    assert_eq!(node["spec"]["unschedulable"], true);
    let taints = node["spec"]["taints"].as_array().unwrap();
    assert!(taints.contains(&foreign), "{taints:?}");
    assert!(taints.contains(&ours), "{taints:?}");
    let conditions = node["status"]["conditions"].as_array().unwrap();
    let disk = conditions
        .iter()
        .find(|one| one["type"] == "example.com/Disk");
    assert_eq!(disk.unwrap()["reason"], "ByHand");

    let node = restored(&scene, NODE_C, ZONE_C).await;
    let taints = node["spec"]["taints"].as_array();
    assert!(
        !taints.is_some_and(|taints| taints.contains(&ours)),
        "{taints:?}"
    );
}

/// Waits until holdfast has put back what it owns on a node.
async fn restored(scene: &Scene, name: &str, zone: &str) -> Value {
    let node = object_that(&nodes(scene), name, "is restored", |node| {
        let labels = node.metadata.labels.as_ref();
        let found = labels.and_then(|labels| labels.get("topology.kubernetes.io/zone"));
        let pressure = condition(node, "MemoryPressure").map(|(status, _)| status);
        found.is_some_and(|found| found == zone) && pressure.as_deref() == Some("False")
    })
    .await;
    serde_json::to_value(node).unwrap()
}

#[tokio::test]
async fn a_node_that_was_marked_unready_is_ready_again() {
    let scene = Scene::start(&two_zones(NO_WEBHOOK)).await;
    set_condition(&scene, NODE_B, "Ready", "Unknown").await;
    object_that(&nodes(&scene), NODE_B, "is ready again", is_ready_node).await;
}

#[tokio::test]
async fn two_hundred_nodes_of_one_entry_are_ready_with_leases_in_seconds() {
    let one = format!("- {{zone: {ZONE_B}}}\n");
    let many = format!("- {{name: load-%d, zone: {ZONE_B}, count: 200}}\n");
    let config = two_zones(NO_WEBHOOK).replace(&one, &many);
    let mut scene = Scene::start(&config).await;
    let is_ours = |meta: &ObjectMeta| meta.name.as_deref().unwrap().starts_with("load-");
    let ready = eventually("200 ready nodes", PATIENCE, async || {
        let all = nodes(&scene).list(&ListParams::default()).await;
        let mut all = all.map_err(|error| error.to_string())?.items;
        all.retain(|node| is_ours(&node.metadata) && is_ready_node(node));
        (all.len() == 200)
            .then_some(all.clone())
            .ok_or_else(|| format!("{}", all.len()))
    })
    .await
    .unwrap();
    let created = ready
        .iter()
        .map(|node| node.metadata.creation_timestamp.as_ref().unwrap().0);
    let (first, last) = (created.clone().min().unwrap(), created.max().unwrap());
    let took = last.duration_since(first);
    assert!(took < SignedDuration::from_secs(20), "{took:?}");
    eventually("200 leases", PATIENCE, async || {
        let all = node_leases(&scene).list(&ListParams::default()).await;
        let all = all.map_err(|error| error.to_string())?.items;
        let count = all.iter().filter(|lease| is_ours(&lease.metadata)).count();
        (count == 200)
            .then_some(())
            .ok_or_else(|| count.to_string())
    })
    .await
    .unwrap();

    scene.stop().await;
    let removed = uninstall(&scene).await;
    assert!(
        removed.contains("removed 202 nodes, 202 node leases"),
        "{removed}"
    );
}

/// What a successful `holdfast uninstall` writes.
async fn uninstall(scene: &Scene) -> String {
    let output = scene.command(&["uninstall"]).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn sigterm_leaves_nodes_and_leases_and_uninstall_removes_what_is_holdfasts() {
    let mut scene = Scene::start(&two_zones("")).await;
    let mut before = Vec::new();
    for name in ALL {
        let lease = object_that(&node_leases(&scene), name, "is there", |_| true).await;
        let node = nodes(&scene).get(name).await.unwrap();
        before.push((
            uid(&node.metadata).to_owned(),
            uid(&lease.metadata).to_owned(),
        ));
    }
    scene.stop().await;
    for (name, (node_uid, lease_uid)) in ALL.iter().zip(&before) {
        let node = nodes(&scene).get(name).await.unwrap();
        let lease = node_leases(&scene).get(name).await.unwrap();
        assert_eq!(
            (uid(&node.metadata), uid(&lease.metadata)),
            (node_uid.as_str(), lease_uid.as_str())
        );
        assert!(is_ready_node(&node), "{node:?}");
    }
    assert!(has_webhook(&scene).await);
    let lease = scene.cluster_lease().await;
    assert_eq!(lease, None, "a clean exit gives it back");

    create_foreign_node(&scene, "worker-1").await;
    create_foreign_node(&scene, "taken").await;
    // One node is no longer configured, and another name belongs to somebody else.
    scene.configure(&two_zones("").replace("name: ecs-1", "name: taken"));
    let said = uninstall(&scene).await;
    for line in [
        "removed node ecs-1\n",
        "removed 3 nodes, 3 node leases, the cluster's lease and the webhook configuration\n",
        "left alone: node taken, which holdfast did not make\n",
    ] {
        assert!(said.contains(line), "{said}");
    }
    for name in ALL {
        assert_eq!(nodes(&scene).get_opt(name).await.unwrap(), None);
        assert_eq!(node_leases(&scene).get_opt(name).await.unwrap(), None);
    }
    for name in ["worker-1", "taken"] {
        assert!(
            nodes(&scene).get_opt(name).await.unwrap().is_some(),
            "{name}"
        );
    }
    assert!(!has_webhook(&scene).await);
    assert_eq!(scene.cluster_lease().await, None);

    let again = uninstall(&scene).await;
    assert!(again.contains("removed 0 nodes, 0 node leases"), "{again}");
}

#[tokio::test]
async fn a_name_that_is_somebody_else_s_is_refused_before_anything_is_written() {
    let mut scene = Scene::start(&two_zones("")).await;
    scene.stop().await;
    create_foreign_node(&scene, "worker-1").await;
    scene.configure(&two_zones("").replace("name: ecs-1", "name: worker-1"));
    let config = scene.config();
    let refusal = refused(&scene, &["run", "-c", config.to_str().unwrap()]).await;
    assert_eq!(
        refusal,
        "holdfast: node worker-1 belongs to somebody else (other://worker-1): give ours another name in `nodes`, or, \
         if nothing serves it any more, delete that Node object"
    );
    let node = nodes(&scene).get("worker-1").await.unwrap();
    let writers = node.metadata.managed_fields.into_iter().flatten();
    let writers: Vec<_> = writers.filter_map(|one| one.manager).collect();
    assert!(!writers.contains(&"holdfast".to_owned()), "{writers:?}");
    let lease = node_leases(&scene).get_opt("worker-1").await.unwrap();
    assert_eq!(lease, None);
    assert_eq!(scene.cluster_lease().await, None);
}

#[tokio::test]
async fn a_start_whose_webhook_finds_its_port_taken_leaves_no_node_behind() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let webhook = format!("webhook: {{port: {}}}", address.port());
    let scene = Scene::prepare(
        holdfast_testbed::lease().await.unwrap(),
        &two_zones(&webhook),
    )
    .await;
    let config = scene.config();
    let refusal = refused(&scene, &["run", "-c", config.to_str().unwrap()]).await;
    let words = format!("holdfast: webhook cannot listen on {address}: free that port");
    assert!(refusal.starts_with(&words), "{refusal}");
    let nodes: Api<Node> = Api::all(scene.client.clone());
    let node = nodes.get_opt(NODE_B).await.unwrap();
    assert_eq!(node, None);
    assert_eq!(scene.cluster_lease().await, None);
}

#[tokio::test]
async fn uninstall_is_refused_beside_a_running_holdfast_and_cleans_up_after_a_killed_one() {
    let mut scene = Scene::start(&two_zones("")).await;
    let config = scene.config();
    let refusal = refused(&scene, &["uninstall", "-c", config.to_str().unwrap()]).await;
    let ledger = scene.ledger();
    let sentence = format!("a holdfast still runs on the ledger {}", ledger.display());
    assert!(refusal.contains(&sentence), "{refusal}");
    assert!(nodes(&scene).get_opt(NODE_B).await.unwrap().is_some());
    assert!(has_webhook(&scene).await);

    scene.kill9().await;
    assert!(scene.cluster_lease().await.is_some());
    uninstall(&scene).await;
    assert_eq!(scene.cluster_lease().await, None);
    assert_eq!(nodes(&scene).get_opt(NODE_B).await.unwrap(), None);
    assert!(!has_webhook(&scene).await);
}

#[tokio::test]
async fn uninstall_needs_no_ledger_and_waits_out_a_lease_that_nobody_renews() {
    let mut scene = Scene::start(&two_zones(NO_WEBHOOK)).await;
    scene.kill9().await;
    std::fs::remove_file(scene.ledger()).unwrap();
    let before = scene
        .cluster_lease()
        .await
        .as_ref()
        .and_then(renewed)
        .unwrap();
    uninstall(&scene).await;
    let took = Timestamp::now().duration_since(before);
    assert!(took > SignedDuration::from_secs(15), "{took:?}");
    assert_eq!(scene.cluster_lease().await, None);
    assert_eq!(nodes(&scene).get_opt(NODE_B).await.unwrap(), None);
    assert!(!scene.ledger().exists(), "it made no ledger");
}

/// Runs a command that must end with exit code 1, and gives what it says.
pub(crate) async fn refused(scene: &Scene, args: &[&str]) -> String {
    let run = tokio::process::Command::new(program())
        .args(args)
        .env("KUBECONFIG", scene.plane.kubeconfig())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said.lines().last().unwrap().to_owned()
}
