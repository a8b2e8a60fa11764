use serde_json::{Value, json};

use super::*;

/// A pod with one container that has this beside its name.
fn pod(container: &Value, annotations: &Value) -> Pod {
    let mut container = container.clone();
    container["name"] = "main".into();
    serde_json::from_value(json!({
        "metadata": {"name": "web-0", "annotations": annotations},
        "spec": {"containers": [container]},
    }))
    .unwrap()
}

fn is_shell_with(container: &Value, annotations: &Value) -> bool {
    let pod = pod(container, annotations);
    is_shell(&pod, &specification(&pod, "main").unwrap())
}

#[test]
fn a_container_that_keeps_stdin_open_is_a_shell_by_its_command_or_for_want_of_one() {
    for (words, want) in [
        (json!([]), true),
        (json!(["sh"]), true),
        (json!(["/bin/sh"]), true),
        (json!(["/usr/bin/bash", "--login"]), true),
        (json!(["bash", "-il"]), true),
        // They are given what to do.
        (json!(["sh", "-c", "exit 1"]), false),
        (json!(["bash", "-lc", "exit 1"]), false),
        (json!(["sh", "/entrypoint.sh"]), false),
        (json!(["bash", "-o", "pipefail"]), false),
        (json!(["nginx"]), false),
        (json!(["cat", "sh"]), false),
    ] {
        for name in ["command", "args"] {
            let container = json!({ name: words, "stdin": true });
            assert_eq!(is_shell_with(&container, &json!({})), want, "{container}");
            let container = json!({ name: words });
            assert!(!is_shell_with(&container, &json!({})), "{container}");
        }
    }
    let writes = json!({ "main.holdfast.dev/log-lines": "a line" });
    assert!(!is_shell_with(&json!({ "stdin": true }), &writes));
}

#[test]
fn only_without_a_terminal_the_end_of_stdin_is_told_to_the_process_and_only_once_asked() {
    for (container, want) in [
        (json!({ "stdinOnce": true }), true),
        (json!({ "stdinOnce": true, "tty": true }), false),
        (json!({ "stdinOnce": false }), false),
        (json!({}), false),
    ] {
        let pod = pod(&container, &json!({}));
        let spec = specification(&pod, "main").unwrap();
        assert_eq!(ends_with_stdin(&spec), want, "{container}");
    }
}

#[test]
fn a_debug_container_is_a_shell_as_any_other() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web-0"},
        "spec": {"containers": [], "ephemeralContainers": [
            {"name": "debugger-x", "image": "busybox", "stdin": true, "tty": true},
        ]},
    }))
    .unwrap();
    assert!(is_shell(&pod, &specification(&pod, "debugger-x").unwrap()));
}

fn streams(stdin: impl AsyncRead + Send + Unpin + 'static) -> (Streams, DuplexStream) {
    let (stdout, shown) = tokio::io::duplex(16);
    let streams = Streams {
        stdin: Some(Box::new(stdin)),
        stdout: Some(Box::new(stdout)),
        stderr: None,
        resizes: None,
    };
    (streams, shown)
}

#[tokio::test]
async fn all_that_a_shell_writes_reaches_the_client_before_the_session_ends() {
    let (client, mut shown) = streams(tokio::io::empty());
    let (inner, pipes) = Pipes::between(client);
    let shell = async {
        inner
            .stdout
            .unwrap()
            .write_all(&vec![7; 100_000])
            .await
            .unwrap();
    };
    let mut seen = Vec::new();
    let ((), (), read) = tokio::join!(shell, pipes.carry(), shown.read_to_end(&mut seen));
    assert_eq!(read.unwrap(), 100_000);
}

#[tokio::test]
async fn a_shell_reads_to_its_end_what_a_client_has_sent_that_left() {
    let (mut keys, stdin) = tokio::io::duplex(16);
    keys.write_all(b"echo there").await.unwrap();
    let (client, shown) = streams(stdin);
    let (inner, pipes) = Pipes::between(client);
    let (mut stdin, mut stdout) = (inner.stdin.unwrap(), inner.stdout.unwrap());
    let mut line = [0; 10];
    {
        let mut carry = Box::pin(pipes.carry());
        tokio::select! {
            read = stdin.read_exact(&mut line) => assert_eq!(read.unwrap(), 10),
            () = &mut carry => panic!("the shell has not ended"),
        }
    }
    drop((keys, shown));
    assert_eq!(&line, b"echo there");
    stdout.write_all(&vec![7; 2 * PIPE_BYTES]).await.unwrap();
    assert_eq!(stdin.read(&mut line).await.unwrap(), 0);
}

#[tokio::test]
async fn the_end_of_stdin_is_noticed_when_it_is_read_and_not_before() {
    let is_read = Arc::new(AtomicBool::new(false));
    let mut watched = Watched {
        inner: Box::new(io::Cursor::new(b"exit 3")),
        is_read: Arc::clone(&is_read),
    };
    let mut line = [0; 16];
    assert_eq!(watched.read(&mut line).await.unwrap(), 6);
    assert!(!is_read.load(Ordering::Relaxed));
    assert_eq!(watched.read(&mut line).await.unwrap(), 0);
    assert!(is_read.load(Ordering::Relaxed));
}
