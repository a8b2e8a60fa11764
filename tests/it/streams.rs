//! exec, attach, cp and port-forward with kubectl, over WebSocket and over SPDY.

use std::collections::BTreeMap;
use std::process::{Output, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout};

use crate::support::*;

/// Lets kubectl speak SPDY only, as it did before 1.31.
pub(crate) const SPDY: [(&str, &str); 2] = [
    ("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"),
    ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false"),
];
/// Lets it begin with WebSocket, as it does by itself from 1.31 on.
pub(crate) const WEBSOCKET: [(&str, &str); 2] = [
    ("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "true"),
    ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "true"),
];
const MEGABYTE: usize = 1 << 20;

fn serving() -> TestPod {
    let port = serde_json::json!({ "containers": [
        { "name": "main", "image": "nginx", "ports": [
            { "containerPort": 80 }, { "containerPort": 8080 },
        ] },
        { "name": "beside", "image": "nginx", "env": [{ "name": "WHO", "value": "beside" }] },
    ] });
    TestPod::ordinary("web-0").with(&port).on_node(NODE_B)
}

async fn scene() -> Scene {
    let scene = Scene::start(&two_zones("profile: fast\nwebhook: {enabled: false}")).await;
    scene.create(&serving()).await;
    scene.running("web-0").await;
    scene
}

/// Runs kubectl with this on its standard input.
pub(crate) async fn kubectl(
    scene: &Scene,
    env: &[(&str, &str)],
    args: &[&str],
    input: &[u8],
) -> Output {
    let mut command = scene.plane.kubectl_command().await.unwrap();
    let mut child = command
        .args(["-n", &scene.namespace])
        .args(args)
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let write = async {
        // A command that does not read all of it may end before.
        let _ = stdin.write_all(input).await;
        drop(stdin);
    };
    let run = async { tokio::join!(child.wait_with_output(), write) };
    let ended = tokio::time::timeout(PATIENCE, run).await;
    ended.expect("kubectl ends").0.unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Bytes that no text mode leaves as they are.
fn noise(length: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

async fn exec_keeps_everything(env: &[(&str, &str)]) {
    let scene = scene().await;
    let pod = scene.running("web-0").await;
    for (args, code, stdout) in [
        (
            &["exec", "web-0", "-c", "main", "--", "hostname", "-i"][..],
            0,
            format!("{}\n", address(&pod).unwrap()),
        ),
        (
            &[
                "exec",
                "web-0",
                "-c",
                "beside",
                "--",
                "sh",
                "-c",
                "echo $WHO; exit 7",
            ],
            7,
            "beside\n".to_owned(),
        ),
        (
            &["exec", "web-0", "-c", "main", "--", "python3"],
            127,
            String::new(),
        ),
    ] {
        let output = kubectl(&scene, env, args, b"").await;
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {complaint}");
        assert_eq!(text(&output.stdout), stdout, "{args:?}: {complaint}");
    }
    let sent = noise(MEGABYTE);
    let cat = ["exec", "-i", "web-0", "-c", "main", "--", "cat"];
    let output = kubectl(&scene, env, &cat, &sent).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        output.stdout == sent,
        "{} bytes came back",
        output.stdout.len()
    );
    let absent = ["exec", "web-0", "-c", "nobody", "--", "true"];
    assert!(!kubectl(&scene, env, &absent, b"").await.status.success());
}

#[tokio::test]
async fn exec_keeps_exit_codes_and_every_byte_over_websocket() {
    exec_keeps_everything(&WEBSOCKET).await;
}

#[tokio::test]
async fn exec_keeps_exit_codes_and_every_byte_over_spdy() {
    exec_keeps_everything(&SPDY).await;
}

#[tokio::test]
async fn what_cp_brings_in_it_brings_out_again() {
    let scene = scene().await;
    let dir = tempfile::TempDir::new().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::write(&from, noise(3 * MEGABYTE)).unwrap();
    for (env, name) in [(&WEBSOCKET[..], "websocket"), (&SPDY[..], "spdy")] {
        let inside = format!("web-0:/tmp/{name}");
        let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        for args in [
            ["cp", "-c", "main", &path(&from), &inside],
            ["cp", "-c", "main", &inside, &path(&to)],
        ] {
            let output = kubectl(&scene, env, &args, b"").await;
            assert!(
                output.status.success(),
                "{args:?}: {}",
                text(&output.stderr)
            );
        }
        assert!(
            std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap(),
            "{name}"
        );
        std::fs::remove_file(&to).unwrap();
    }
}

#[tokio::test]
async fn a_directory_of_many_files_with_odd_names_comes_back_as_it_went() {
    let scene = scene().await;
    let dir = tempfile::TempDir::new().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir_all(from.join("deep/er")).unwrap();
    let mut files: BTreeMap<String, Vec<u8>> = (0..300)
        .map(|number| (format!("deep/{number}"), format!("{number}\n").into_bytes()))
        .collect();
    files.insert("nothing".into(), Vec::new());
    files.insert("a name with spaces".into(), b"spaces".to_vec());
    files.insert("ümläut".into(), b"letters".to_vec());
    // Longer than the name of an entry may be without an entry of its own for the name.
    files.insert(format!("deep/er/{}", "n".repeat(150)), noise(1000));
    for (name, content) in &files {
        std::fs::write(from.join(name), content).unwrap();
    }
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    for args in [
        [
            "cp",
            "-c",
            "main",
            &path(&from),
            "web-0:/tmp/there and back",
        ],
        ["cp", "-c", "main", "web-0:/tmp/there and back", &path(&to)],
    ] {
        let output = kubectl(&scene, &WEBSOCKET, &args, b"").await;
        assert!(
            output.status.success(),
            "{args:?}: {}",
            text(&output.stderr)
        );
    }
    let back = |name: &String| (name.clone(), std::fs::read(to.join(name)).unwrap());
    assert!(files.keys().map(back).collect::<BTreeMap<_, _>>() == files);
}

async fn attach_shows_lines(env: &[(&str, &str)]) {
    let scene = Scene::start(&two_zones("profile: fast\nwebhook: {enabled: false}")).await;
    let pod = TestPod::ordinary("web-0")
        .annotated("holdfast.dev/log-lines", "still here")
        .annotated("holdfast.dev/log-every", "200ms")
        .on_node(NODE_B);
    scene.create(&pod).await;
    scene.running("web-0").await;
    let mut command = scene.plane.kubectl_command().await.unwrap();
    let mut attached = command
        .args(["-n", &scene.namespace, "attach", "web-0"])
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(attached.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
    let line = line.expect("a line comes").unwrap();
    assert_eq!(line.as_deref(), Some("still here"));
    scene.delete("web-0").await;
    let end = async { while lines.next_line().await.unwrap().is_some() {} };
    tokio::time::timeout(PATIENCE, end)
        .await
        .expect("the session ends with the container");
    assert!(attached.wait().await.unwrap().success());
}

#[tokio::test]
async fn attach_shows_what_is_written_and_ends_with_the_container_over_websocket() {
    attach_shows_lines(&WEBSOCKET).await;
}

#[tokio::test]
async fn attach_shows_what_is_written_and_ends_with_the_container_over_spdy() {
    attach_shows_lines(&SPDY).await;
}

#[tokio::test]
async fn a_followed_log_tells_how_its_deleted_pod_ended() {
    let scene = scene().await;
    let mut command = scene.plane.kubectl_command().await.unwrap();
    let logs = ["logs", "-f", "web-0", "-c", "main"];
    let mut followed = command
        .args(["-n", &scene.namespace])
        .args(logs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(followed.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
    let line = line.expect("a line comes").unwrap();
    assert!(line.is_some_and(|line| line.ends_with("started")));
    scene.delete("web-0").await;
    let rest = async {
        let mut rest = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            rest.push(line);
        }
        rest
    };
    let rest = tokio::time::timeout(PATIENCE, rest).await;
    let rest = rest.expect("the log ends with the pod");
    let last = rest
        .last_chunk()
        .map(|last: &[String; 2]| last.each_ref().map(String::as_str));
    let want = [
        "holdfast: the pod is being deleted, stop signal received",
        "holdfast: container main ended with exit code 0 (Completed)",
    ];
    assert_eq!(last, Some(want), "{rest:?}");
    assert!(followed.wait().await.unwrap().success());
}

/// A port-forward. kubectl dies of a line that nobody reads, so its output stays open.
struct Forward {
    address: String,
    kubectl: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

async fn forward(scene: &Scene, env: &[(&str, &str)], ports: &[&str]) -> Forward {
    let mut command = scene.plane.kubectl_command().await.unwrap();
    let mut child = command
        .args(["-n", &scene.namespace, "port-forward", "web-0"])
        .args(ports)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    Forward {
        address: listening(&mut lines).await,
        kubectl: child,
        lines,
    }
}

/// The next address at which kubectl listens.
async fn listening(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    let line = tokio::time::timeout(PATIENCE, lines.next_line())
        .await
        .expect("kubectl says where it listens");
    let line = line.unwrap().expect("kubectl listens");
    let address = line.strip_prefix("Forwarding from ").unwrap();
    address.split(' ').next().unwrap().to_owned()
}

async fn two_ports_at_once(env: &[(&str, &str)]) {
    let scene = scene().await;
    let mut open = forward(&scene, env, &[":80", ":8080"]).await;
    let mut second = listening(&mut open.lines).await;
    // It listens on both kinds of loopback for each port, where there are both.
    if second.starts_with('[') {
        second = listening(&mut open.lines).await;
    }
    for _ in 0..10 {
        let (one, other) = tokio::join!(get(&open.address, "/"), get(&second, "/"));
        assert!(text(&one).contains("\"port\":80,"), "{}", text(&one));
        assert!(text(&other).contains("\"port\":8080,"), "{}", text(&other));
    }
}

#[tokio::test]
async fn two_ports_are_forwarded_at_once_over_websocket() {
    two_ports_at_once(&WEBSOCKET).await;
}

#[tokio::test]
async fn two_ports_are_forwarded_at_once_over_spdy() {
    two_ports_at_once(&SPDY).await;
}

async fn get(address: &str, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: web-0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer).await;
    end.unwrap_or_else(|error| panic!("{path}: {error} after {} bytes", answer.len()));
    let head = answer.windows(4).position(|it| it == b"\r\n\r\n");
    let head = head.unwrap_or_else(|| panic!("no answer: {:?}", text(&answer)));
    answer.split_off(head + 4)
}

async fn no_answer_for_another_pod(env: &[(&str, &str)]) {
    let scene = scene().await;
    let before = scene.running("web-0").await;
    let open = forward(&scene, env, &[":80"]).await;
    let body = text(&get(&open.address, "/").await);
    assert!(body.contains(&before.metadata.uid.unwrap()), "{body}");
    scene.delete("web-0").await;
    scene.create(&serving()).await;
    scene.running("web-0").await;
    let mut kubectl = open.kubectl;
    let mut stream = TcpStream::connect(&open.address).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream
        .write_all(b"GET / HTTP/1.1\r\nHost: web-0\r\nConnection: close\r\n\r\n")
        .await;
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{}", text(&answer));
    let ended = tokio::time::timeout(PATIENCE, kubectl.wait()).await;
    let ended = ended.expect("kubectl loses its connection to the pod");
    assert!(!ended.unwrap().success());
}

#[tokio::test]
async fn a_port_forward_answers_for_no_other_pod_of_the_name_over_websocket() {
    no_answer_for_another_pod(&WEBSOCKET).await;
}

#[tokio::test]
async fn a_port_forward_answers_for_no_other_pod_of_the_name_over_spdy() {
    no_answer_for_another_pod(&SPDY).await;
}

async fn a_hundred_requests_and_ten_megabytes(env: &[(&str, &str)]) {
    let scene = scene().await;
    let pod = scene.running("web-0").await;
    let open = forward(&scene, env, &[":80"]).await;
    for _ in 0..100 {
        let body = text(&get(&open.address, "/").await);
        assert!(body.contains(&address(&pod).unwrap()), "{body}");
    }
    let many = get(&open.address, "/bytes/10485760").await;
    assert_eq!(many.len(), 10 * MEGABYTE);
    let closed = forward(&scene, env, &[":81"]).await;
    let mut stream = TcpStream::connect(&closed.address).await.unwrap();
    let mut answer = Vec::new();
    // Refused like a connection to a port where nobody listens.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{}", text(&answer));
}

#[tokio::test]
async fn port_forward_serves_declared_ports_over_websocket() {
    a_hundred_requests_and_ten_megabytes(&WEBSOCKET).await;
}

#[tokio::test]
async fn port_forward_serves_declared_ports_over_spdy() {
    a_hundred_requests_and_ten_megabytes(&SPDY).await;
}
