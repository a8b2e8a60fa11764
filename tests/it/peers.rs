//! Programs of other projects, unchanged, that take our nodes for kubelets.
//!
//! They reach nodes through the API server's proxy or by their address, and the API server's proxy
//! refuses loopback addresses. So each test runs in a network namespace of its own, in a process
//! of its own, where the interface `lo` has another address.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use holdfast_testbed::{
    CONTROL_PLANE, GoProgram, METRICS_SERVER, Options, VIRTUAL_KUBELET_SUITE, eventually, lease,
};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::support::*;

/// The address of everything in a test's network namespace.
const ADDRESS: &str = "10.77.0.1";

const LIMIT: Duration = Duration::from_mins(4);

/// Runs an ignored test of this module in a network namespace, and passes if it does.
async fn in_a_network_namespace(test: &str, programs: &[&GoProgram]) {
    // Holds its place among the tests that use a control plane; and nothing can be downloaded in there.
    let place = lease().await.unwrap();
    place.kubectl_command().await.unwrap();
    for program in [&CONTROL_PLANE].iter().chain(programs) {
        built(program).await;
    }
    let script = format!(
        "ip link set lo up && ip addr add {ADDRESS}/32 dev lo && exec \"$0\" --ignored --exact --nocapture \"$1\""
    );
    let output = Command::new("unshare")
        .args(["--map-root-user", "--net", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LIMIT, output)
        .await
        .expect("the test ends in time")
        .expect("unshare (util-linux) makes the network namespace of this test");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    println!("{said}\n{complained}");
    assert!(output.status.success(), "{}", output.status);
    assert!(said.contains("1 passed"), "no test is named {test}");
}

async fn built(program: &GoProgram) -> PathBuf {
    let program = *program;
    tokio::task::spawn_blocking(move || program.path())
        .await
        .unwrap()
        .unwrap()
}

async fn scene(kubelet: &str) -> Scene {
    let options = Options {
        apiserver_flags: vec![format!("--advertise-address={ADDRESS}")],
        ..Options::default()
    };
    let extra = format!("profile: fast\nkubelet: {{address: {ADDRESS}, {kubelet}}}");
    Scene::start_with(options, &two_zones(&extra)).await
}

#[tokio::test]
async fn the_nine_cases_of_virtual_kubelet_pass() {
    let inside = "peers::inside_the_nine_cases_of_virtual_kubelet_pass";
    in_a_network_namespace(inside, &[&VIRTUAL_KUBELET_SUITE]).await;
}

#[tokio::test]
#[ignore = "runs in a network namespace, started by the test of this name"]
async fn inside_the_nine_cases_of_virtual_kubelet_pass() {
    // The suite asks through the proxy of a pod, which adds no identity.
    let scene = scene("anonymous: [/stats/summary, /metrics/resource]").await;
    // It finds the node's server by a pod that is named like the node.
    let host = json!({ "hostNetwork": true });
    let pod = TestPod::ordinary(NODE_B).on_node(NODE_B).with(&host);
    scene.create(&pod).await;
    scene.running(NODE_B).await;
    let output = Command::new(built(&VIRTUAL_KUBELET_SUITE).await)
        .args(["-test.v", "-kubeconfig"])
        .arg(scene.plane.kubeconfig())
        .args(["-namespace", &scene.namespace, "-node-name", NODE_B])
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    let passed = said.matches("    --- PASS").count();
    assert!(output.status.success(), "{}", scene.log());
    assert_eq!(passed, 9);
}

#[tokio::test]
async fn metrics_server_shows_every_node_and_pod_in_kubectl_top() {
    let inside = "peers::inside_metrics_server_shows_every_node_and_pod_in_kubectl_top";
    in_a_network_namespace(inside, &[&METRICS_SERVER]).await;
}

#[tokio::test]
#[ignore = "runs in a network namespace, started by the test of this name"]
async fn inside_metrics_server_shows_every_node_and_pod_in_kubectl_top() {
    let scene = scene("anonymous: []").await;
    scene.create_set("web", 3, &TestPod::fixed("web")).await;
    scene.rolled_out("web").await;
    let two = json!({ "containers": [
        { "name": "main", "image": "nginx" },
        { "name": "beside", "image": "nginx" },
    ] });
    let pod = TestPod::ordinary("two").with(&two).on_node(NODE_B);
    scene.create(&pod).await;
    scene.running("two").await;
    let _server = metrics_server(&scene).await;
    let condition = "jsonpath={.status.conditions[?(@.type=='Available')]}";
    let available = [
        "get",
        "apiservice",
        "v1beta1.metrics.k8s.io",
        "-o",
        condition,
    ];
    eventually("metrics-server is available", PATIENCE, async || {
        let shown = scene.plane.kubectl(&available).await;
        let shown = shown.map_err(|error| format!("{error:#}"))?;
        let log = std::fs::read_to_string(scene.dir.path().join("metrics-server.log"));
        let is_so = shown.contains("\"status\":\"True\"");
        is_so
            .then_some(())
            .ok_or_else(|| format!("{shown}\n{}", log.unwrap_or_default()))
    })
    .await
    .unwrap();
    let kubectl = async |args: &[&str]| {
        eventually(&format!("kubectl {args:?}"), PATIENCE, async || {
            let shown = scene.plane.kubectl(args).await;
            shown.map_err(|error| format!("{error:#}"))
        })
        .await
        .unwrap()
    };
    eventually("all nodes and pods are measured", PATIENCE, async || {
        let nodes = kubectl(&["top", "node", "--no-headers"]).await;
        let pods = kubectl(&["top", "pod", "--no-headers", "-n", &scene.namespace]).await;
        let containers = ["top", "pod", "two", "--containers", "--no-headers"];
        let containers = kubectl(&[&containers[..], &["-n", &scene.namespace]].concat()).await;
        let (nodes, pods) = (nodes.trim(), pods.trim());
        let measured = containers.lines().filter_map(|line| {
            let mut columns = line.split_whitespace().skip(1);
            columns.next()
        });
        let measured: BTreeSet<&str> = measured.collect();
        let all = nodes.lines().count() == 3
            && pods.lines().count() == 4
            && measured == BTreeSet::from(["main", "beside"])
            && !nodes.contains("<unknown>");
        let mut shown = format!("{nodes}\n{pods}\n{containers}\n");
        let log = scene.dir.path().join("metrics-server.log");
        shown += &std::fs::read_to_string(log).unwrap();
        if all {
            println!("{shown}");
        }
        all.then_some(()).ok_or(shown)
    })
    .await
    .unwrap();
    is_scaled_by_its_cpu(&scene).await;
}

/// A Deployment whose pods use twice what they request, and an autoscaler that wants half of it.
async fn is_scaled_by_its_cpu(scene: &Scene) {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "busy" },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": { "app": "busy" } },
            "template": {
                "metadata": {
                    "labels": { "app": "busy", "alibabacloud.com/acs": "true" },
                    "annotations": { "holdfast.dev/cpu": "400m" },
                },
                "spec": { "containers": [{
                    "name": "main", "image": "nginx",
                    "resources": { "requests": { "cpu": "200m" } },
                }] },
            },
        },
    });
    let target = json!({ "type": "Utilization", "averageUtilization": 50 });
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": { "name": "busy" },
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "busy" },
            "minReplicas": 1, "maxReplicas": 4,
            "metrics": [{ "type": "Resource", "resource": { "name": "cpu", "target": target } }],
        },
    });
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [deployment, autoscaler] });
    let file = scene.dir.path().join("busy.json");
    std::fs::write(&file, list.to_string()).unwrap();
    let namespace = ["-n", &scene.namespace];
    let apply = [&["apply", "-f", file.to_str().unwrap()], &namespace[..]].concat();
    scene.plane.kubectl(&apply).await.unwrap();
    let available = [
        "get",
        "deployment",
        "busy",
        "-o",
        "jsonpath={.status.availableReplicas}",
    ];
    let available = [&available[..], &namespace].concat();
    // The autoscaler looks every 15 s, and at samples from after the pod was ready only.
    let patience = Duration::from_mins(2);
    eventually("the autoscaler has made four", patience, async || {
        let shown = scene.plane.kubectl(&available).await;
        let shown = shown.map_err(|error| format!("{error:#}"))?;
        (shown == "4").then_some(()).ok_or(shown)
    })
    .await
    .unwrap();
}

/// Starts metrics-server and registers it with the API server.
async fn metrics_server(scene: &Scene) -> Child {
    const PORT: u16 = 4443;
    let kubeconfig = scene.plane.kubeconfig();
    let log = std::fs::File::create(scene.dir.path().join("metrics-server.log")).unwrap();
    let mut command = Command::new(built(&METRICS_SERVER).await);
    for flag in [
        "kubeconfig",
        "authentication-kubeconfig",
        "authorization-kubeconfig",
    ] {
        command.arg(format!("--{flag}={}", kubeconfig.display()));
    }
    let server = command
        .arg(format!("--secure-port={PORT}"))
        .arg(format!("--cert-dir={}", scene.dir.path().display()))
        .args(["--metric-resolution=10s", "--kubelet-request-timeout=5s"])
        // As in the manifests that metrics-server is installed with.
        .args(["--kubelet-insecure-tls", "--kubelet-use-node-status-port"])
        .arg("--kubelet-preferred-address-types=InternalIP")
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "metrics-server", "namespace": "kube-system" },
        "spec": { "ports": [{ "name": "https", "port": 443, "targetPort": PORT }] },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "metrics-server", "namespace": "kube-system",
            "labels": { "kubernetes.io/service-name": "metrics-server" },
        },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [ADDRESS], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "port": PORT }],
    });
    let api = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": { "name": "v1beta1.metrics.k8s.io" },
        "spec": {
            "group": "metrics.k8s.io", "version": "v1beta1",
            "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true,
            "service": { "name": "metrics-server", "namespace": "kube-system" },
        },
    });
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [service, slice, api] });
    let file = scene.dir.path().join("metrics-server.json");
    std::fs::write(&file, list.to_string()).unwrap();
    let apply = ["apply", "-f", file.to_str().unwrap()];
    scene.plane.kubectl(&apply).await.unwrap();
    server
}
