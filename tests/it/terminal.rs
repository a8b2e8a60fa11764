//! exec and attach with `-it`: kubectl on a terminal, over WebSocket and over SPDY.

use std::time::Duration;

use holdfast_testbed::eventually;
use pty_process::{OwnedReadPty, OwnedWritePty, Size};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tokio::time::timeout;

use crate::streams::{SPDY, WEBSOCKET};
use crate::support::*;

const CTRL_C: &str = "\u{3}";
pub(crate) const CTRL_D: &str = "\u{4}";
pub(crate) const PROMPT: &str = "/ # ";

/// kubectl on a terminal.
pub(crate) struct Terminal {
    keys: OwnedWritePty,
    screen: OwnedReadPty,
    /// What was shown and not looked at yet.
    shown: String,
    kubectl: Child,
}

impl Terminal {
    pub(crate) async fn open(
        scene: &Scene,
        env: &[(&str, &str)],
        args: &[&str],
        size: (u16, u16),
    ) -> Self {
        let plain = scene.plane.kubectl_command().await.unwrap();
        let plain = plain.as_std();
        let set = plain
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)));
        let (pty, side) = pty_process::open().unwrap();
        pty.resize(Size::new(size.0, size.1)).unwrap();
        let kubectl = pty_process::Command::new(plain.get_program())
            .args(plain.get_args())
            .args(["-n", &scene.namespace])
            .args(args)
            .envs(set)
            .envs(env.iter().copied())
            .kill_on_drop(true)
            .spawn(side)
            .unwrap();
        let (screen, keys) = pty.into_split();
        let shown = String::new();
        Self {
            keys,
            screen,
            shown,
            kubectl,
        }
    }

    pub(crate) async fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).await.unwrap();
    }

    fn resize(&self, lines: u16, columns: u16) {
        self.keys.resize(Size::new(lines, columns)).unwrap();
    }

    /// More of what is shown; false at the end.
    async fn look(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let read = timeout(PATIENCE, self.screen.read(&mut bytes)).await;
        let read = read.unwrap_or_else(|_| panic!("nothing comes after {:?}", self.shown));
        // A terminal that nobody has open any more fails in place of ending.
        let length = read.unwrap_or(0);
        self.shown += &String::from_utf8_lossy(&bytes[..length]);
        length > 0
    }

    /// Waits until `text` is shown and gives what was shown before it.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.shown.find(text) {
                let rest = self.shown.split_off(at + text.len());
                let mut before = std::mem::replace(&mut self.shown, rest);
                before.truncate(at);
                return before;
            }
            assert!(self.look().await, "{text:?} is not in {:?}", self.shown);
        }
    }

    /// What a command shows before the next prompt.
    pub(crate) async fn run(&mut self, command: &str) -> String {
        self.press(&format!("{command}\r")).await;
        self.until(&format!("{command}\r\n")).await;
        self.until(PROMPT).await
    }

    /// What is shown to the end, and the exit code.
    pub(crate) async fn end(mut self) -> (String, Option<i32>) {
        while self.look().await {}
        let ended = timeout(PATIENCE, self.kubectl.wait()).await;
        let status = ended.expect("kubectl ends with what it runs").unwrap();
        (self.shown, status.code())
    }
}

async fn scene() -> Scene {
    let scene = Scene::start(&two_zones("profile: fast\nwebhook: {enabled: false}")).await;
    let interactive = json!({ "containers": [
        { "name": "main", "image": "nginx", "stdin": true, "tty": true },
    ] });
    let pod = TestPod::ordinary("web-0")
        .annotated("holdfast.dev/log-lines", "still here")
        .annotated("holdfast.dev/log-every", "200ms")
        .with(&interactive);
    scene.create(&pod.on_node(NODE_B)).await;
    scene.running("web-0").await;
    scene
}

async fn a_shell_in_a_terminal(env: &[(&str, &str)]) {
    let scene = scene().await;
    let exec = ["exec", "-it", "web-0", "--", "sh"];
    let mut terminal = Terminal::open(&scene, env, &exec, (40, 100)).await;
    terminal.until(PROMPT).await;
    assert_eq!(terminal.run("stty size").await, "40 100\r\n");
    terminal.resize(50, 132);
    eventually(
        "the new size is known",
        Duration::from_secs(20),
        async || {
            let size = terminal.run("stty size").await;
            (size == "50 132\r\n").then_some(()).ok_or(size)
        },
    )
    .await
    .unwrap();
    terminal.press("sleep 1000\r").await;
    terminal.until("sleep 1000\r\n").await;
    terminal.press(CTRL_C).await;
    terminal.until("^C\r\n").await;
    terminal.until(PROMPT).await;
    assert_eq!(terminal.run("echo $?").await, "130\r\n");
    terminal.run("sh -c 'exit 7'").await;
    terminal.press(CTRL_D).await;
    let (shown, code) = terminal.end().await;
    assert_eq!(code, Some(7), "{shown}");

    let script = "echo begun; sleep 1000";
    let exec = ["exec", "-it", "web-0", "--", "sh", "-c", script];
    let mut terminal = Terminal::open(&scene, env, &exec, (24, 80)).await;
    terminal.until("begun").await;
    scene.delete("web-0").await;
    let (shown, code) = terminal.end().await;
    assert_eq!(code, Some(137), "{shown}");
}

#[tokio::test]
async fn exec_has_a_terminal_with_size_keys_and_exit_code_over_websocket() {
    a_shell_in_a_terminal(&WEBSOCKET).await;
}

#[tokio::test]
async fn exec_has_a_terminal_with_size_keys_and_exit_code_over_spdy() {
    a_shell_in_a_terminal(&SPDY).await;
}

async fn lines_in_a_terminal(env: &[(&str, &str)]) {
    let scene = scene().await;
    let before = scene.running("web-0").await;
    for key in [CTRL_C, CTRL_D] {
        let attach = ["attach", "-it", "web-0"];
        let mut terminal = Terminal::open(&scene, env, &attach, (24, 80)).await;
        // Without the return the next line would begin where this one ends.
        terminal.until("still here\r\n").await;
        terminal.press(key).await;
        let (shown, code) = terminal.end().await;
        assert_eq!(code, Some(0), "{shown}");
    }
    let after = scene.running("web-0").await;
    assert_eq!(before.metadata.uid, after.metadata.uid);
}

#[tokio::test]
async fn attach_has_a_terminal_that_can_be_left_over_websocket() {
    lines_in_a_terminal(&WEBSOCKET).await;
}

#[tokio::test]
async fn attach_has_a_terminal_that_can_be_left_over_spdy() {
    lines_in_a_terminal(&SPDY).await;
}
