//! `kubectl run -i`, `kubectl attach -i` and `kubectl debug -it`: a container that is the shell somebody works in.

use std::process::Stdio;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::streams::{SPDY, WEBSOCKET, kubectl, text};
use crate::support::*;
use crate::terminal::{CTRL_D, PROMPT, Terminal};

async fn scene() -> Scene {
    Scene::start(&two_zones("profile: fast")).await
}

/// Opts in: such a pod needs nothing else to come to a virtual node.
const LABEL: &str = "--labels=alibabacloud.com/acs=true";

fn main_status(pod: &Pod) -> &ContainerStatus {
    let status = pod.status.as_ref().unwrap();
    &status.container_statuses.as_ref().unwrap()[0]
}

async fn a_pod_to_try_things_in(env: &[(&str, &str)]) {
    let scene = scene().await;
    let run = |name: &'static str, more: &[&'static str]| {
        let mut args = vec!["run", "-i", name, "--image=busybox", LABEL];
        args.extend(more);
        args
    };
    for (name, input, code) in [
        ("left", "hostname -i; exit 3\n", 3),
        // The shell reads the end of its input, which is the end of a script as well.
        ("read", "hostname -i\n", 0),
        ("cut", "hostname -i; false", 1),
    ] {
        let args = run(name, &["--rm", "--restart=Never", "--", "sh"]);
        let output = kubectl(&scene, env, &args, input.as_bytes()).await;
        let (shown, said) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{shown}\n{said}");
        // kubectl shows the log first.
        let answers = shown.lines().any(|line| line.starts_with("192.168."));
        assert!(answers, "{shown}\n{said}");
        if code != 0 {
            let why = format!("{name} terminated (Error)");
            assert!(said.contains(&why), "{said}");
        }
        scene.is_gone(name).await;
    }

    let kept = run("kept", &["-t", "--rm", "--", "sh"]);
    let mut terminal = Terminal::open(&scene, env, &kept, (24, 80)).await;
    terminal.until(PROMPT).await;
    assert_eq!(terminal.run("echo $HOSTNAME").await, "kept\r\n");
    terminal.press("exit 4\r").await;
    let (shown, code) = terminal.end().await;
    // A pod that is started again has no exit code.
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("Session ended"), "{shown}");
    assert!(shown.contains("pod \"kept\" deleted"), "{shown}");
    scene.is_gone("kept").await;
}

#[tokio::test]
async fn run_ends_with_the_shell_and_takes_over_its_exit_code_over_websocket() {
    a_pod_to_try_things_in(&WEBSOCKET).await;
}

#[tokio::test]
async fn run_ends_with_the_shell_and_takes_over_its_exit_code_over_spdy() {
    a_pod_to_try_things_in(&SPDY).await;
}

#[tokio::test]
async fn a_shell_is_left_with_its_container_or_alone_and_outlives_a_restart() {
    let mut scene = scene().await;
    let interactive = json!({
        "restartPolicy": "OnFailure",
        "containers": [{
            "name": "main", "image": "busybox", "command": ["sh"], "stdin": true, "tty": true,
        }],
    });
    scene
        .create(&TestPod::ordinary("box").with(&interactive).on_node(NODE_B))
        .await;
    let first = scene.running("box").await;
    let attach = ["attach", "-it", "box"];
    let open = async |scene: &Scene| {
        let mut terminal = Terminal::open(scene, &WEBSOCKET, &attach, (24, 80)).await;
        terminal.until(PROMPT).await;
        terminal
    };
    let mut one = open(&scene).await;
    one.run("echo kept > /tmp/note").await;
    let mut other = open(&scene).await;
    assert_eq!(other.run("cat /tmp/note").await, "kept\r\n");
    // A client that goes is no exit.
    drop(one);
    assert_eq!(other.run("cat /tmp/note").await, "kept\r\n");
    scene.restart().await;
    other.end().await;
    let kept = scene.running("box").await;
    assert_eq!(main_status(&kept).restart_count, 0);
    assert_eq!(main_status(&kept).state, main_status(&first).state);

    let mut again = open(&scene).await;
    let beside = open(&scene).await;
    again.press("exit 3\r").await;
    let (shown, code) = again.end().await;
    assert_eq!(code, Some(0), "attaching went well: {shown}");
    let restarted = scene
        .pod_with("box", "was started again", |pod| {
            main_status(pod).restart_count == 1
        })
        .await;
    let last = main_status(&restarted).last_state.as_ref().unwrap();
    let last = last.terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    // Whoever was in the run that ended is out, and does not end the next.
    beside.end().await;
    let mut last = open(&scene).await;
    assert_eq!(main_status(&scene.running("box").await).restart_count, 1);
    last.run("true").await;
    last.press(CTRL_D).await;
    last.end().await;
    scene
        .pod_with("box", "has completed", |pod| pod_phase(pod) == "Succeeded")
        .await;
}

#[tokio::test]
async fn without_stdin_once_a_shell_goes_on_when_its_input_ends() {
    let scene = scene().await;
    let spec = json!({
        "restartPolicy": "Never",
        "containers": [{ "name": "main", "image": "busybox", "stdin": true }],
    });
    scene
        .create(&TestPod::ordinary("box").with(&spec).on_node(NODE_B))
        .await;
    scene.running("box").await;
    let attach = ["attach", "-i", "box"];
    let output = kubectl(&scene, &WEBSOCKET, &attach, b"hostname\n").await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "box\n");
    let output = kubectl(&scene, &WEBSOCKET, &attach, b"exit 5\n").await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let ended = scene
        .pod_with("box", "has failed", |pod| pod_phase(pod) == "Failed")
        .await;
    let state = main_status(&ended).state.as_ref().unwrap();
    // The first session did not end it, or there would have been no second.
    assert_eq!(state.terminated.as_ref().unwrap().exit_code, 5);
}

#[tokio::test]
async fn with_stdin_once_a_client_that_dies_ends_the_shell() {
    let scene = scene().await;
    let spec = json!({
        "restartPolicy": "Never",
        "containers": [{ "name": "main", "image": "busybox", "stdin": true, "stdinOnce": true }],
    });
    scene
        .create(&TestPod::ordinary("box").with(&spec).on_node(NODE_B))
        .await;
    scene.running("box").await;
    let mut command = scene.plane.kubectl_command().await.unwrap();
    let mut child = command
        .args(["-n", &scene.namespace, "attach", "-i", "box"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"hostname\n").await.unwrap();
    let mut shown = [0; 4];
    let read = child.stdout.as_mut().unwrap().read_exact(&mut shown);
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("the shell answers")
        .unwrap();
    assert_eq!(&shown, b"box\n");
    child.kill().await.unwrap();
    scene
        .pod_with("box", "has completed", |pod| pod_phase(pod) == "Succeeded")
        .await;
}

#[tokio::test]
async fn a_debug_container_is_a_shell_that_ends_when_it_is_left() {
    let scene = scene().await;
    scene
        .create(&TestPod::ordinary("web-0").on_node(NODE_B))
        .await;
    let pod = scene.running("web-0").await;
    let debug = [
        "debug",
        "-it",
        "web-0",
        "--image=busybox",
        "--container=look",
    ];
    let mut terminal = Terminal::open(&scene, &WEBSOCKET, &debug, (24, 80)).await;
    terminal.until(PROMPT).await;
    let own = format!("{}\r\n", address(&pod).unwrap());
    assert_eq!(terminal.run("hostname -i").await, own);
    terminal.press("exit 2\r").await;
    let (shown, code) = terminal.end().await;
    assert_eq!(code, Some(0), "{shown}");
    let after = scene
        .pod_with("web-0", "has a debug container that ended", |pod| {
            let status = pod.status.as_ref().unwrap();
            let mut all = status.ephemeral_container_statuses.iter().flatten();
            all.any(|one| {
                let ended = one
                    .state
                    .as_ref()
                    .and_then(|state| state.terminated.as_ref());
                ended.is_some_and(|ended| ended.exit_code == 2)
            })
        })
        .await;
    assert!(is_ready(&after));
}
