//! The test bed on a real control plane: it serves, it lends clean planes, and it leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{
    env, fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use holdfast_testbed::{ControlPlane, Options, PodRecorder, PodRow, eventually, lease};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Node, Pod},
    },
    serde::de::DeserializeOwned,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Whether the test bed uses a cluster of the user's and starts nothing.
fn is_external() -> bool {
    env::var_os("KUBECONFIG").is_some_and(|value| !value.is_empty())
}

/// A ready node that nobody stands behind.
async fn create_node(client: &Client, name: &str) {
    let nodes = Api::<Node>::all(client.clone());
    let node =
        from(json!({"metadata": {"name": name, "labels": {"holdfast.dev/testbed": "true"}}}));
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let room = json!({"cpu": "4", "memory": "8Gi", "pods": "10"});
    let ready = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": Timestamp::now(),
        "lastTransitionTime": Timestamp::now(), "reason": "Testing", "message": ""}]);
    let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": ready}});
    nodes
        .patch_status(name, &PatchParams::default(), &Patch::Strategic(status))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_deployment_is_served_by_controllers_and_scheduler_and_recorded() {
    let plane = lease().await.unwrap();
    let client = plane.client().await.unwrap();
    let namespace = plane.create_namespace("deployment").await.unwrap();
    let recorder = PodRecorder::start(client.clone(), &namespace)
        .await
        .unwrap();
    create_node(&client, "testbed-a").await;

    let deployment: Deployment = from(json!({
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "nodeSelector": {"holdfast.dev/testbed": "true"},
                    "containers": [{"name": "web", "image": "web"}],
                },
            },
        },
    }));
    Api::namespaced(client.clone(), &namespace)
        .create(&PostParams::default(), &deployment)
        .await
        .unwrap();
    let row = eventually("a pod on the node", LIMIT, async || {
        let rows = recorder.rows();
        rows.iter()
            .find(|row| row.node.is_some())
            .cloned()
            .ok_or_else(|| format!("{rows:?}"))
    })
    .await
    .unwrap();
    assert_eq!(
        (row.status.as_str(), row.node.as_deref()),
        ("Pending", Some("testbed-a"))
    );
    assert_eq!(
        recorder.rows_of(&row.name)[0].node,
        None,
        "it was recorded before it was scheduled"
    );

    Api::<Pod>::namespaced(client, &namespace)
        .delete(
            &row.name,
            &kube::api::DeleteParams::default().grace_period(0),
        )
        .await
        .unwrap();
    eventually("the pod is recorded as gone", LIMIT, async || {
        let last = recorder.rows_of(&row.name).pop().ok_or("no rows")?;
        last.gone.then_some(()).ok_or_else(|| format!("{last:?}"))
    })
    .await
    .unwrap();

    if let Some(log) = plane.audit_log() {
        let writes = fs::read_to_string(log).unwrap();
        assert!(
            writes.contains(&format!(
                "/namespaces/{namespace}/pods/{}/binding",
                row.name
            )),
            "the log has writes"
        );
        assert!(!writes.contains(r#""verb":"watch""#), "and nothing else");
    }
}

#[tokio::test]
async fn kubectl_prints_the_columns_of_a_row() {
    let plane = lease().await.unwrap();
    let client = plane.client().await.unwrap();
    let namespace = plane.create_namespace("columns").await.unwrap();
    let pods = Api::<Pod>::namespaced(client, &namespace);
    let ready =
        json!([{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}]);
    let not_ready = json!([{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "False"}]);
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    let ended =
        |code: i32, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason}});
    let running = json!({"running": {}});
    let cases = [
        (
            "Pending",
            &not_ready,
            waiting("ContainerCreating"),
            waiting("ContainerCreating"),
        ),
        (
            "Running",
            &not_ready,
            json!({"running": {}}),
            waiting("CrashLoopBackOff"),
        ),
        ("Running", &ready, running.clone(), running.clone()),
        (
            "Running",
            &not_ready,
            ended(0, "Completed"),
            running.clone(),
        ),
        (
            "Failed",
            &not_ready,
            ended(0, "Completed"),
            ended(1, "Error"),
        ),
        ("Failed", &not_ready, ended(0, "Completed"), ended(3, "")),
        (
            "Succeeded",
            &not_ready,
            ended(0, "Completed"),
            ended(0, "Completed"),
        ),
    ];
    for (index, (phase, conditions, first, second)) in cases.into_iter().enumerate() {
        let name = format!("pod-{index}");
        // No such node, so nobody else writes this status.
        let pod = from(
            json!({"metadata": {"name": name}, "spec": {"nodeName": "nowhere", "restartPolicy": "OnFailure",
            "containers": [{"name": "a", "image": "a"}, {"name": "b", "image": "b"}]}}),
        );
        pods.create(&PostParams::default(), &pod).await.unwrap();
        let container = |name: &str, state: &Value| json!({"name": name, "image": name, "imageID": "", "restartCount": 1, "ready": *state == running, "state": state});
        let status = json!({"status": {"phase": phase, "conditions": conditions, "podIPs": [{"ip": "192.0.2.1"}],
            "podIP": "192.0.2.1", "containerStatuses": [container("a", &first), container("b", &second)]}});
        let pod = pods
            .patch_status(&name, &PatchParams::default(), &Patch::Strategic(status))
            .await
            .unwrap();

        let shown = plane
            .kubectl(&[
                "get",
                "pod",
                &name,
                "-n",
                &namespace,
                "-o",
                "wide",
                "--no-headers",
            ])
            .await
            .unwrap();
        let row = PodRow::new(&pod, Timestamp::now()).to_string();
        let mut columns: Vec<_> = shown.split_whitespace().collect();
        let mut want: Vec<_> = row.split_whitespace().collect();
        // The age: a second may have passed in between.
        (columns[4], want[4]) = ("", "");
        assert_eq!(columns, want, "{phase}");
    }
}

#[tokio::test]
async fn a_plane_is_clean_when_it_is_lent_again() {
    let plane = lease().await.unwrap();
    let kubeconfig = plane.kubeconfig().to_owned();
    let client = plane.client().await.unwrap();
    let namespace = plane.create_namespace("dirty").await.unwrap();
    create_node(&client, "testbed-b").await;
    let stuck: Pod = from(json!({
        "metadata": {"name": "stuck", "finalizers": ["holdfast.dev/never-removed"]},
        "spec": {"nodeName": "testbed-b", "containers": [{"name": "a", "image": "a"}]},
    }));
    Api::namespaced(client, &namespace)
        .create(&PostParams::default(), &stuck)
        .await
        .unwrap();
    drop(plane);

    // There are two; the other is held while waiting for this one.
    let first = lease().await.unwrap();
    let second = if first.kubeconfig() == kubeconfig {
        None
    } else {
        Some(lease().await.unwrap())
    };
    let plane = second.as_ref().unwrap_or(&first);
    assert_eq!(plane.kubeconfig(), kubeconfig);
    let client = plane.client().await.unwrap();
    let pods = Api::<Pod>::namespaced(client.clone(), &namespace)
        .list(&ListParams::default())
        .await
        .unwrap();
    let nodes = Api::<Node>::all(client)
        .list(&ListParams::default().labels("holdfast.dev/testbed"))
        .await
        .unwrap();
    let left: Vec<_> = pods
        .iter()
        .map(ResourceExt::name_any)
        .chain(nodes.iter().map(ResourceExt::name_any))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn kubectl_that_fails_says_why() {
    let plane = lease().await.unwrap();
    let error = plane
        .kubectl(&["get", "pod", "no-such-pod"])
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("pods \"no-such-pod\" not found"), "{error}");
}

/// Whether the process runs; one that waits for its parent to ask after it does not.
fn runs(pid: u32) -> bool {
    let number = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let is_zombie =
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
    test_kill_process(number).is_ok() && !is_zombie
}

#[tokio::test]
async fn no_process_is_left_after_the_owner_is_killed() {
    if is_external() {
        // Nothing runs that could be left, and what would run instead may not be built.
        return;
    }
    let mut owner = Command::new(env!("CARGO_BIN_EXE_up"))
        .args(["/bin/sh", "-c", "exec sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(owner.stdout.take().unwrap());
    let pids = tokio::task::spawn_blocking(move || {
        let lines = output.lines().map_while(Result::ok);
        let line = lines
            .into_iter()
            .find_map(|line| Some(line.strip_prefix("# running as ")?.to_owned()));
        serde_json::from_str::<Vec<u32>>(&line.expect("it says what runs")).unwrap()
    })
    .await
    .unwrap();
    assert_eq!(
        pids.len(),
        5,
        "etcd, API server, controllers, scheduler and the program"
    );
    assert!(pids.iter().all(|pid| runs(*pid)), "{pids:?}");

    kill_process(Pid::from_child(&owner), Signal::KILL).unwrap();
    owner.wait().unwrap();
    eventually("all processes are gone", LIMIT, async || {
        let left: Vec<_> = pids.iter().filter(|pid| runs(**pid)).collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?} still run"))
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn flags_that_cannot_work_are_reported_with_the_reason() {
    let options = Options {
        apiserver_flags: vec!["--no-such-flag".to_owned()],
        ..Options::default()
    };
    let error = ControlPlane::start(options).await.unwrap_err().to_string();
    let wants = if is_external() {
        ["cannot be given", "unset KUBECONFIG"]
    } else {
        ["kube-apiserver ended", "unknown flag: --no-such-flag"]
    };
    for want in wants {
        assert!(error.contains(want), "{error}");
    }
}
