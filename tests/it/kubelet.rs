//! The kubelet API of a node, asked as its clients ask it.

use std::collections::BTreeMap;
use std::process::Stdio;

use holdfast_testbed::eventually;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;

use crate::support::*;

const PATHS: [&str; 16] = [
    "/healthz",
    "/pods",
    "/runningpods/",
    "/stats/summary",
    "/metrics",
    "/metrics/resource",
    "/metrics/cadvisor",
    "/metrics/probes",
    "/metrics/slis",
    "/containerLogs/default/pod/c",
    "/exec/default/pod/c?command=id&output=1",
    "/attach/default/pod/c?output=1",
    "/portForward/default/pod",
    "/configz",
    "/logs/",
    "/nowhere",
];

fn config() -> String {
    two_zones("profile: fast\nwebhook: {enabled: false}")
}

/// Asks the node of zone b with curl and gives the code and the body of the answer.
async fn ask(scene: &Scene, path: &str, args: &[&str]) -> (u16, String) {
    let nodes: Api<Node> = Api::all(scene.client.clone());
    let node = nodes.get(NODE_B).await.unwrap();
    let endpoints = node.status.unwrap().daemon_endpoints.unwrap();
    let port = endpoints.kubelet_endpoint.unwrap().port;
    let output = tokio::process::Command::new("curl")
        .args(["-sk", "--max-time", "20", "-w", "\n%{http_code}"])
        .args(args)
        .arg(format!("https://127.0.0.1:{port}{path}"))
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, code) = text.rsplit_once('\n').unwrap();
    (code.parse().unwrap(), body.to_owned())
}

/// The arguments of curl that show one of the control plane's client certificates.
fn certificate(scene: &Scene, name: &str) -> [String; 4] {
    let file = |suffix: &str| {
        let path = scene.plane.dir().join(format!("{name}.{suffix}"));
        path.to_str().unwrap().to_owned()
    };
    ["--cert".into(), file("crt"), "--key".into(), file("key")]
}

async fn ask_as(scene: &Scene, user: &str, path: &str) -> (u16, String) {
    let args = certificate(scene, user);
    ask(scene, path, &args.each_ref().map(String::as_str)).await
}

/// Waits until the client CA is known.
async fn knows_certificates(scene: &Scene) {
    eventually("the client CA is known", PATIENCE, async || {
        match ask_as(scene, "kubelet-client", "/healthz").await {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
}

/// The body of an answer that closes its connection.
fn closing(answer: &str) -> &str {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let closes = |line: &str| line.eq_ignore_ascii_case("connection: close");
    assert!(head.lines().any(closes), "{head}");
    body
}

#[tokio::test]
async fn every_path_is_refused_without_identity_and_without_the_right() {
    let scene = Scene::start(&config()).await;
    knows_certificates(&scene).await;
    let namespace = scene.namespace.as_str();
    let created = scene
        .plane
        .kubectl(&["create", "token", "default", "-n", namespace])
        .await
        .unwrap();
    let token = format!("Authorization: Bearer {}", created.trim());
    for path in PATHS {
        let (code, answer) = ask(&scene, path, &["-i"]).await;
        assert_eq!((code, closing(&answer)), (401, "Unauthorized"), "{path}");
        let wrong = ["-H", "Authorization: Bearer wrong"];
        assert_eq!(ask(&scene, path, &wrong).await.0, 401, "{path}");
        let (code, answer) = ask(&scene, path, &["-i", "-H", &token]).await;
        let body = closing(&answer);
        assert_eq!(code, 403, "{path}: {body}");
        let user = format!("Forbidden (user=system:serviceaccount:{namespace}:default, verb=get");
        assert!(body.starts_with(&user), "{path}: {body}");
        // Known to the cluster, but without any right on nodes.
        let (code, body) = ask_as(&scene, "front-proxy", path).await;
        assert_eq!(code, 403, "{path}: {body}");
    }
    assert_eq!(ask_as(&scene, "kubelet-client", "/nowhere").await.0, 404);
}

/// Gives the namespace's service account the right to read metrics; its `Authorization` header,
/// and the name of the role and its binding.
async fn may_read_metrics(scene: &Scene) -> (String, String) {
    let namespace = scene.namespace.as_str();
    let role = format!("{namespace}-metrics");
    let kubectl = async |args: &[&str]| scene.plane.kubectl(args).await.unwrap();
    kubectl(&[
        "create",
        "clusterrole",
        &role,
        "--verb=get",
        "--resource=nodes/metrics,nodes/healthz",
    ])
    .await;
    let account = format!("--serviceaccount={namespace}:default");
    kubectl(&[
        "create",
        "clusterrolebinding",
        &role,
        "--clusterrole",
        &role,
        &account,
    ])
    .await;
    let token = kubectl(&["create", "token", "default", "-n", namespace]).await;
    let token = format!("Authorization: Bearer {}", token.trim());
    (token, role)
}

#[tokio::test]
async fn a_right_on_one_subresource_opens_its_paths_and_no_others() {
    let scene = Scene::start(&config()).await;
    let (token, role) = may_read_metrics(&scene).await;
    let kubectl = async |args: &[&str]| scene.plane.kubectl(args).await.unwrap();
    eventually("the right counts", PATIENCE, async || {
        match ask(&scene, "/metrics/resource", &["-H", &token]).await {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    assert_eq!(
        ask(&scene, "/healthz", &["-H", &token]).await,
        (200, "ok".to_owned())
    );
    for path in ["/pods", "/stats/summary", "/containerLogs/default/pod/c"] {
        assert_eq!(ask(&scene, path, &["-H", &token]).await.0, 403, "{path}");
    }
    kubectl(&["delete", "clusterrole,clusterrolebinding", &role]).await;
}

/// Every sample by its name with labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
        (name.to_owned(), value)
    };
    lines.map(sample).collect()
}

/// What is told of the process is what the system tells of it, within what may change meanwhile.
#[cfg(target_os = "linux")]
fn told_of_the_process(scene: &Scene, told: &BTreeMap<String, f64>) {
    let file = |name: &str| {
        let path = format!("/proc/{}/{name}", scene.pid());
        std::fs::read_to_string(path).unwrap()
    };
    let status = file("status");
    let field = |name: &str| -> f64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let word = line.unwrap().split_whitespace().next().unwrap();
        word.parse().unwrap()
    };
    let limits = file("limits");
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let limit: f64 = limit
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let files = std::fs::read_dir(format!("/proc/{}/fd", scene.pid())).unwrap();
    let files = u32::try_from(files.count()).unwrap();
    let near = |name: &str, value: f64, by: f64| {
        let range = value / by..value * by;
        assert!(
            range.contains(&told[name]),
            "{name}: {} is not in {range:?}",
            told[name]
        );
    };
    near(
        "process_resident_memory_bytes",
        field("VmRSS:") * 1024.0,
        1.5,
    );
    near(
        "process_virtual_memory_bytes",
        field("VmSize:") * 1024.0,
        1.5,
    );
    near("process_threads", field("Threads:"), 1.5);
    near("process_open_fds", files.into(), 2.0);
    near("process_max_fds", limit, 1.000_1);
    let now = jiff::Timestamp::now().as_duration().as_secs_f64();
    let age_s = now - told["process_start_time_seconds"];
    // The system counts in hundredths and tells when it began in whole seconds.
    assert!(
        (-1.0..PATIENCE.as_secs_f64() * 5.0).contains(&age_s),
        "{age_s}"
    );
    let cpu_s = told["process_cpu_seconds_total"];
    assert!(cpu_s > 0.0 && cpu_s < age_s * 64.0, "{cpu_s} in {age_s}");
}

#[cfg(not(target_os = "linux"))]
fn told_of_the_process(_: &Scene, told: &BTreeMap<String, f64>) {
    assert!(told.keys().all(|name| !name.starts_with("process_")));
}

#[tokio::test]
async fn metrics_tell_how_many_addresses_claims_and_pods_there_are() {
    let scene = Scene::start(&config()).await;
    let (token, role) = may_read_metrics(&scene).await;
    for pod in [
        TestPod::fixed("kept").on_node(NODE_B),
        TestPod::fixed("db-0").on_node(NODE_B),
        TestPod::ordinary("once").on_node(NODE_B),
    ] {
        scene.create(&pod).await;
    }
    for name in ["kept", "db-0", "once"] {
        scene.running(name).await;
    }
    scene.delete("kept").await;
    scene.is_gone("kept").await;
    let zone_b = |state: &str| {
        let place = format!("vswitch=\"vsw-b\",zone=\"{ZONE_B}\"");
        format!("holdfast_addresses{{{place},state=\"{state}\"}}")
    };
    let want: BTreeMap<String, f64> = [
        (zone_b("free"), 249.0),
        (zone_b("in_use"), 2.0),
        (zone_b("retained"), 1.0),
        (zone_b("detaching"), 0.0),
        ("holdfast_claims{state=\"held\"}".into(), 1.0),
        ("holdfast_claims{state=\"retained\"}".into(), 1.0),
        ("holdfast_enis{state=\"InUse\"}".into(), 2.0),
        ("holdfast_enis{state=\"Available\"}".into(), 1.0),
        ("holdfast_pods{phase=\"Running\"}".into(), 2.0),
        (
            "holdfast_waiting_pods{reason=\"IPPoolExhausted\"}".into(),
            0.0,
        ),
        ("holdfast_nodes{state=\"ready\"}".into(), 3.0),
        ("holdfast_pod_start_duration_seconds_count".into(), 3.0),
        (
            "holdfast_allocations_total{vswitch=\"vsw-b\",kind=\"fixed\",how=\"allocated\"}".into(),
            2.0,
        ),
        (
            "holdfast_allocations_total{vswitch=\"vsw-b\",kind=\"ordinary\",how=\"allocated\"}"
                .into(),
            1.0,
        ),
        (
            "holdfast_cloud_calls_total{action=\"CreateNetworkInterface\",outcome=\"ok\"}".into(),
            3.0,
        ),
        (
            "holdfast_ledger_jobs_total{job=\"acquire\",outcome=\"ok\"}".into(),
            3.0,
        ),
        (
            "holdfast_ledger_jobs_total{job=\"gone\",outcome=\"ok\"}".into(),
            1.0,
        ),
        (
            "holdfast_api_writes_total{verb=\"update\",resource=\"pods/status\",outcome=\"ok\"}"
                .into(),
            3.0,
        ),
        (
            "holdfast_api_writes_total{verb=\"delete\",resource=\"pods\",outcome=\"ok\"}".into(),
            1.0,
        ),
        (
            "holdfast_watch_restarts_total{resource=\"pods\"}".into(),
            0.0,
        ),
        (format!("kubelet_node_name{{node=\"{NODE_B}\"}}"), 1.0),
        ("kubelet_running_pods".into(), 2.0),
        (
            "kubelet_running_containers{container_state=\"running\"}".into(),
            2.0,
        ),
    ]
    .into();
    let text = eventually("the figures are right", PATIENCE, async || {
        let (code, text) = ask(&scene, "/metrics", &["-H", &token]).await;
        if code != 200 {
            return Err(format!("{code} {text}"));
        }
        let told = samples(&text);
        let wrong: Vec<_> = want
            .iter()
            .filter(|(sample, value)| told.get(*sample) != Some(value))
            .map(|(sample, value)| format!("{sample}: {value}, not {:?}", told.get(sample)))
            .collect();
        // How often is a matter of time; the first may be seconds away.
        let renewals = ["node", "cluster"].map(|lease| {
            format!("holdfast_lease_renewals_total{{lease=\"{lease}\",outcome=\"ok\"}}")
        });
        let none = renewals.into_iter().filter(|one| !told.contains_key(one));
        let wrong: Vec<_> = wrong.into_iter().chain(none).collect();
        let same = wrong.is_empty().then_some(text);
        same.ok_or_else(|| wrong.join("\n"))
    })
    .await
    .unwrap();
    told_of_the_process(&scene, &samples(&text));
    for pod in ["kept", "db-0", "once"] {
        assert!(
            !text.contains(&format!("\"{pod}\"")),
            "a pod's name: {text}"
        );
    }
    let kubectl = async |args: &[&str]| scene.plane.kubectl(args).await.unwrap();
    kubectl(&["delete", "clusterrole,clusterrolebinding", &role]).await;
}

#[tokio::test]
async fn pods_stats_metrics_and_logs_tell_of_the_nodes_own_pods() {
    let scene = Scene::start(&config()).await;
    scene
        .create(&TestPod::ordinary("one").on_node(NODE_B))
        .await;
    let pod = scene.running("one").await;
    knows_certificates(&scene).await;
    let uid = pod.metadata.uid.clone().unwrap();
    let namespace = scene.namespace.as_str();

    let read = async |path: &str| {
        let (code, body) = ask_as(&scene, "kubelet-client", path).await;
        assert_eq!(code, 200, "{path}: {body}");
        body
    };
    for path in ["/pods", "/runningpods/"] {
        let list: Value = serde_json::from_str(&read(path).await).unwrap();
        assert_eq!(list["kind"], "PodList", "{path}");
        let items = list["items"].as_array().unwrap();
        let uids: Vec<_> = items.iter().map(|item| &item["metadata"]["uid"]).collect();
        assert_eq!(uids, [&Value::from(uid.clone())], "{path}");
    }
    let summary: Value = serde_json::from_str(&read("/stats/summary").await).unwrap();
    assert_eq!(summary["node"]["nodeName"], NODE_B);
    assert_eq!(summary["pods"][0]["podRef"]["uid"], uid);
    let metrics = read("/metrics/resource").await;
    let container = &pod.spec.as_ref().unwrap().containers[0].name;
    let series = format!(
        "container_cpu_usage_seconds_total{{container=\"{container}\",pod=\"one\",namespace=\"{namespace}\"}}"
    );
    assert!(metrics.contains(&series), "{metrics}");
    let metrics = read("/metrics/cadvisor").await;
    let image = pod.spec.as_ref().unwrap().containers[0].image.as_ref();
    let image = image.unwrap();
    let series = format!(
        "container_memory_working_set_bytes{{container=\"{container}\",image=\"{image}\",namespace=\"{namespace}\",pod=\"one\"}}"
    );
    assert!(metrics.contains(&series), "{metrics}");
    assert_eq!(read("/metrics/probes").await, "");
    assert_eq!(read("/metrics/slis").await, "");

    let logs = async |args: &[&str]| {
        let mut all = vec!["logs", "one", "-n", namespace];
        all.extend(args);
        scene.plane.kubectl(&all).await
    };
    let whole = logs(&[]).await.unwrap();
    let lines: Vec<_> = whole.lines().collect();
    assert!(!lines.is_empty());
    let last = format!("{}\n", lines.last().unwrap());
    assert_eq!(logs(&["--tail=1"]).await.unwrap(), last);
    assert_eq!(logs(&["--since=1h"]).await.unwrap(), whole);
    assert_eq!(
        logs(&["--since-time=2099-01-01T00:00:00Z"]).await.unwrap(),
        ""
    );
    assert_eq!(logs(&["--limit-bytes=5"]).await.unwrap(), whole[..5]);
    assert!(logs(&["--timestamps"]).await.unwrap().starts_with("20"));
    let refused = logs(&["--previous"]).await.unwrap_err().to_string();
    assert!(
        refused.contains("previous terminated container"),
        "{refused}"
    );
    let refused = logs(&["-c", "other"]).await.unwrap_err().to_string();
    assert!(
        refused.contains("container other is not valid for pod one"),
        "{refused}"
    );

    // What is followed ends with the pod.
    let file = scene.dir.path().join("followed");
    let path = format!("/containerLogs/{namespace}/one/{container}?follow=true");
    let mut args = certificate(&scene, "kubelet-client").to_vec();
    args.extend(["-N", "-o", file.to_str().unwrap()].map(str::to_owned));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let begun = eventually("the followed log has begun", PATIENCE, async || {
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        text.starts_with(&whole).then_some(()).ok_or(text)
    });
    let deleted = async {
        begun.await.unwrap();
        scene.delete("one").await;
    };
    let ((code, _), ()) = tokio::join!(ask(&scene, &path, &args), deleted);
    assert_eq!(code, 200);
}

#[tokio::test]
async fn an_approved_request_replaces_the_self_signed_certificate() {
    let scene = Scene::start(&config()).await;
    let api: Api<CertificateSigningRequest> = Api::all(scene.client.clone());
    let mine = eventually("a request for each node", PATIENCE, async || {
        let all = api
            .list(&ListParams::default())
            .await
            .map_err(|error| error.to_string())?;
        let names: Vec<_> = all
            .items
            .into_iter()
            .filter(|one| one.spec.signer_name == "kubernetes.io/kubelet-serving")
            .filter(|one| {
                one.status
                    .as_ref()
                    .is_none_or(|status| status.certificate.is_none())
            })
            .filter_map(|one| one.metadata.name)
            .collect();
        (names.len() >= 3)
            .then_some(names.clone())
            .ok_or_else(|| format!("{names:?}"))
    })
    .await
    .unwrap();
    for name in mine {
        scene
            .plane
            .kubectl(&["certificate", "approve", &name])
            .await
            .unwrap();
    }
    let ca = scene.plane.dir().join("ca.crt");
    // Without `-k` curl trusts the control plane's authority only.
    eventually("a signed certificate", PATIENCE, async || {
        let nodes: Api<Node> = Api::all(scene.client.clone());
        let node = nodes.get(NODE_B).await.map_err(|error| error.to_string())?;
        let port = node
            .status
            .unwrap()
            .daemon_endpoints
            .unwrap()
            .kubelet_endpoint
            .unwrap()
            .port;
        let output = tokio::process::Command::new("curl")
            .args(["-sS", "--max-time", "5", "--cacert"])
            .arg(&ca)
            .arg(format!("https://127.0.0.1:{port}/healthz"))
            .output()
            .await
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text == "Unauthorized")
            .then_some(())
            .ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())
    })
    .await
    .unwrap();
}
