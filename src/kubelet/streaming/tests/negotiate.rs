//! What is asked for, and what is refused with which answer.

use super::super::options::ports;
use super::super::{
    ExecOptions, ExitStatus, OptionsError, serve_attach, serve_exec, serve_port_forward,
};
use super::{client, serve, soon};

#[test]
fn options_are_read_as_the_kubelet_reads_them() {
    let options = |stdin, stdout, stderr, tty, command: &[&str]| ExecOptions {
        stdin,
        stdout,
        stderr,
        tty,
        command: command.iter().map(ToString::to_string).collect(),
        container: "app".to_owned(),
    };
    let table = [
        (
            "command=sh&command=-c&command=a+%26+b&input=1&output=1&tty=1",
            options(true, true, false, true, &["sh", "-c", "a & b"]),
        ),
        (
            "output=1&error=1&command=",
            options(false, true, true, false, &[""]),
        ),
        (
            "stdin=true&stdout=true&stderr=true",
            options(true, true, true, false, &[]),
        ),
        (
            "output=1&error=1&tty=1",
            options(false, true, false, true, &[]),
        ),
        (
            "output=1&input=0&error=yes",
            options(false, true, false, false, &[]),
        ),
    ];
    for (query, expected) in table {
        assert_eq!(
            ExecOptions::from_query(query, "app"),
            Ok(expected),
            "{query}"
        );
    }
    for none in ["", "command=ls", "tty=1", "error=1&tty=1"] {
        let refused = ExecOptions::from_query(none, "app");
        assert_eq!(refused, Err(OptionsError::NoStream), "{none}");
    }
}

#[test]
fn ports_are_numbers_from_1_to_65535() {
    assert_eq!(ports("port=80&port=443,8080"), Ok(vec![80, 443, 8080]));
    assert_eq!(ports("ports=80"), Err(OptionsError::NoPort));
    for wrong in ["", "0", "65536", "-1", "http"] {
        let refused = Err(OptionsError::Port(wrong.to_owned()));
        assert_eq!(ports(&format!("port={wrong}")), refused);
    }
    let many = vec!["port=1"; 128].join("&");
    assert_eq!(ports(&many), Err(OptionsError::Ports(128)));
}

/// Head and body of the answer to a request with these lines.
async fn ask(path: &str, method: &str, lines: &[&str]) -> String {
    let address = serve(async |request| match request.uri().path() {
        "/exec" => {
            let options = ExecOptions::from_query("output=1", "app").unwrap();
            serve_exec(request, options, (), async |_| ExitStatus::SUCCESS).await
        }
        "/attach" => {
            let options = ExecOptions::from_query("output=1", "app").unwrap();
            serve_attach(request, options, (), async |_| ExitStatus::SUCCESS).await
        }
        _ => serve_port_forward(request, async |_| Ok(tokio::io::empty())).await,
    })
    .await;
    let lines = lines.join("\r\n");
    let request = format!("{method} /{path} HTTP/1.1\r\nHost: node\r\n{lines}\r\n\r\n");
    soon(client::send(address, &request)).await.0
}

#[tokio::test]
async fn upgrades_that_cannot_be_are_refused_as_by_the_kubelet() {
    let upgrade = ["Connection: Upgrade", "Upgrade: SPDY/3.1"];
    let websocket = [
        "Connection: keep-alive, Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ];
    let spdy = |lines: &[&'static str]| [&upgrade[..], lines].concat();
    let ws = |lines: &[&'static str]| [&websocket[..], lines].concat();
    let forward = "Sec-WebSocket-Protocol: v4.channel.k8s.io";
    let table = [
        ("exec", "POST", spdy(&[]), "400"),
        (
            "exec",
            "POST",
            spdy(&["X-Stream-Protocol-Version: ,"]),
            "400",
        ),
        (
            "exec",
            "POST",
            spdy(&["X-Stream-Protocol-Version: v9"]),
            "403",
        ),
        (
            "exec",
            "POST",
            vec!["X-Stream-Protocol-Version: channel.k8s.io"],
            "400",
        ),
        (
            "exec",
            "POST",
            spdy(&[
                "X-Stream-Protocol-Version: v5.channel.k8s.io",
                "X-Stream-Protocol-Version: v4.channel.k8s.io",
            ]),
            "101",
        ),
        (
            "attach",
            "POST",
            spdy(&["X-Stream-Protocol-Version: v5.channel.k8s.io, channel.k8s.io"]),
            "101",
        ),
        (
            "exec",
            "GET",
            ws(&["Sec-WebSocket-Protocol: v6.channel.k8s.io"]),
            "403",
        ),
        ("exec", "GET", ws(&[]), "101"),
        ("exec", "POST", ws(&[]), "405"),
        ("exec", "GET", websocket[..3].to_vec(), "400"),
        (
            "forward",
            "POST",
            spdy(&["X-Stream-Protocol-Version: v4.channel.k8s.io"]),
            "403",
        ),
        ("forward", "GET", ws(&[forward]), "400"),
        ("forward?port=80", "GET", ws(&[forward]), "101"),
        (
            "forward",
            "GET",
            ws(&["Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io"]),
            "101",
        ),
        (
            "forward",
            "GET",
            ws(&["Sec-WebSocket-Protocol: SPDY/3.1+v4.channel.k8s.io"]),
            "403",
        ),
    ];
    for (path, method, lines, status) in table {
        let head = ask(path, method, &lines).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(head.starts_with(&expected), "{path} {lines:?}: {head}");
    }
}

#[tokio::test]
async fn a_refusal_lists_what_would_do_and_an_agreement_says_what_was_chosen() {
    let upgrade = "Connection: Upgrade\r\nUpgrade: SPDY/3.1";
    let refused = ask("exec", "POST", &[upgrade, "X-Stream-Protocol-Version: v9"]).await;
    let ours = refused.matches("x-accepted-stream-protocol-versions: ");
    assert_eq!(ours.count(), 4, "{refused}");
    let offered = "X-Stream-Protocol-Version: v5.channel.k8s.io, v3.channel.k8s.io";
    let agreed = ask("exec", "POST", &[upgrade, offered]).await;
    let chosen = "x-stream-protocol-version: v3.channel.k8s.io\r\n";
    assert!(agreed.contains(chosen), "{agreed}");
    // The example of RFC 6455 section 1.3.
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let agreed = ask("exec", "GET", &[websocket]).await;
    let accept = "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    assert!(agreed.contains(accept), "{agreed}");
}
