//! Commands: output, input, exit codes and terminals, over every protocol.

use std::net::SocketAddr;
use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::super::exec;
use super::super::{ExecOptions, ExitStatus, Streams, TIMEOUTS, Timeouts};
use super::client::{SpdyClient, collect, send_all, websocket};
use super::{SHORT, noise, serve, soon};

const SPDY: [(&str, bool); 4] = [
    ("v4.channel.k8s.io", true),
    ("v3.channel.k8s.io", false),
    ("v2.channel.k8s.io", false),
    ("channel.k8s.io", false),
];
const WEBSOCKET: [(&str, bool); 7] = [
    ("v5.channel.k8s.io", true),
    ("v4.channel.k8s.io", true),
    ("v4.base64.channel.k8s.io", true),
    ("v3.channel.k8s.io", false),
    ("channel.k8s.io", false),
    ("base64.channel.k8s.io", false),
    ("", false),
];
const MEGABYTE: usize = 1024 * 1024;

/// A few commands, enough to see every stream used.
async fn command(options: ExecOptions, streams: Streams, gone: Arc<Notify>) -> ExitStatus {
    struct Gone(Arc<Notify>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let _gone = Gone(gone);
    let Streams {
        stdin,
        stdout,
        stderr,
        resizes,
    } = streams;
    let command: Vec<_> = options.command.iter().map(String::as_str).collect();
    match command[..] {
        ["cat"] => {
            let (mut stdin, mut stdout) = (stdin.unwrap(), stdout.unwrap());
            match tokio::io::copy(&mut stdin, &mut stdout).await {
                Ok(_) => ExitStatus::SUCCESS,
                Err(error) => ExitStatus::Failed(error.to_string()),
            }
        }
        ["pour", code] => {
            let (mut stdout, mut stderr) = (stdout.unwrap(), stderr.unwrap());
            stdout.write_all(&noise(MEGABYTE)).await.unwrap();
            stderr.write_all(&noise(100_000)).await.unwrap();
            ExitStatus::Exited(code.parse().unwrap())
        }
        ["sizes"] => {
            assert!(stderr.is_none(), "a terminal has no standard error");
            let (mut resizes, mut stdout) = (resizes.unwrap(), stdout.unwrap());
            while let Some(size) = resizes.recv().await {
                let text = format!("{}x{}\n", size.width, size.height);
                stdout.write_all(text.as_bytes()).await.unwrap();
                if size.width == 0 {
                    break;
                }
            }
            ExitStatus::SUCCESS
        }
        ["true"] => ExitStatus::SUCCESS,
        ["fail"] => ExitStatus::Failed("no such thing".to_owned()),
        _ => std::future::pending().await,
    }
}

/// A server of those commands, and what tells that one is over.
async fn server(timeouts: Timeouts) -> (SocketAddr, Arc<Notify>) {
    let gone = Arc::new(Notify::new());
    let told = gone.clone();
    let address = serve(move |request| {
        let gone = gone.clone();
        async move {
            let query = request.uri().query().unwrap_or_default();
            let options = ExecOptions::from_query(query, "app").unwrap();
            let run = options.clone();
            exec::serve(request, &options, timeouts, (), |streams| {
                command(run, streams, gone)
            })
        }
    })
    .await;
    (address, told)
}

fn parse(status: &[u8]) -> Value {
    serde_json::from_slice(status).unwrap()
}

fn exited(code: i32) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

fn assert_status(status: &[u8], json: bool, protocol: &str) {
    if json {
        assert_eq!(parse(status), exited(3), "{protocol}");
    } else {
        assert_eq!(
            String::from_utf8_lossy(status),
            "command terminated with non-zero exit code: 3",
            "{protocol}"
        );
    }
}

#[tokio::test]
async fn output_and_exit_code_arrive_whole_over_every_spdy_version() {
    let (address, _) = server(TIMEOUTS).await;
    for (protocol, json) in SPDY {
        soon(async {
            let query = "?command=pour&command=3&output=1&error=1";
            let client =
                SpdyClient::connect(address, query, &["v5.channel.k8s.io", protocol]).await;
            let error = client.open_kind("error");
            let stdout = client.open_kind("stdout");
            let stderr = client.open_kind("stderr");
            let (stdout, stderr, status) = tokio::try_join!(
                client.read_all(stdout),
                client.read_all(stderr),
                client.read_all(error),
            )
            .unwrap();
            assert!(stdout == noise(MEGABYTE), "{protocol}");
            assert!(stderr == noise(100_000), "{protocol}");
            assert_status(&status, json, protocol);
        })
        .await;
    }
}

#[tokio::test]
async fn output_and_exit_code_arrive_whole_over_every_websocket_version() {
    let (address, _) = server(TIMEOUTS).await;
    for (protocol, json) in WEBSOCKET {
        soon(async {
            let query = "?command=pour&command=3&output=1&error=1";
            let mut socket = websocket(address, query, protocol).await.unwrap();
            let channels = collect(&mut socket).await;
            assert!(channels[1] == noise(MEGABYTE), "{protocol}");
            assert!(channels[2] == noise(100_000), "{protocol}");
            assert_status(&channels[3], json, protocol);
        })
        .await;
    }
}

#[tokio::test]
async fn a_megabyte_each_way_over_spdy_until_the_client_ends_its_input() {
    let (address, _) = server(TIMEOUTS).await;
    soon(async {
        let query = "?command=cat&input=1&output=1";
        let client = SpdyClient::connect(address, query, &["v4.channel.k8s.io"]).await;
        let error = client.open_kind("error");
        let (stdin, stdout) = (client.open_kind("stdin"), client.open_kind("stdout"));
        let mut stdin = client.shared.writer(stdin);
        let sent = noise(MEGABYTE);
        let send = async {
            stdin.write_all(&sent).await?;
            stdin.shutdown().await
        };
        let (got, (), status) =
            tokio::try_join!(client.read_all(stdout), send, client.read_all(error)).unwrap();
        assert!(got == sent);
        assert_eq!(parse(&status), json!({"metadata": {}, "status": "Success"}));
        client.driver.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_megabyte_each_way_over_websocket_until_the_client_ends_its_input() {
    let (address, _) = server(TIMEOUTS).await;
    soon(async {
        let query = "?command=cat&stdin=true&stdout=true";
        let protocols = "v5.channel.k8s.io, v4.channel.k8s.io";
        let socket = websocket(address, query, protocols).await.unwrap();
        let (mut sink, mut stream) = socket.split();
        let sent = noise(MEGABYTE);
        let send = async {
            send_all(&mut sink, 0, &sent).await;
            sink.send(Message::binary([255, 0].to_vec())).await.unwrap();
        };
        let (channels, ()) = tokio::join!(collect(&mut stream), send);
        assert!(channels[1] == sent);
        assert_eq!(
            parse(&channels[3]),
            json!({"metadata": {}, "status": "Success"})
        );
    })
    .await;
}

#[tokio::test]
async fn the_first_message_says_that_the_connection_stands() {
    let (address, _) = server(TIMEOUTS).await;
    for (query, channel) in [("output=1&error=1", 1), ("error=1", 2), ("input=1", 3)] {
        let query = format!("?command=wait&{query}");
        let mut socket = websocket(address, &query, "v4.channel.k8s.io")
            .await
            .unwrap();
        let first = soon(socket.next()).await.unwrap().unwrap();
        assert_eq!(first, Message::binary([channel].to_vec()), "{query}");
    }
}

#[tokio::test]
async fn sizes_of_the_terminal_reach_the_command() {
    let (address, _) = server(TIMEOUTS).await;
    let query = "?command=sizes&output=1&error=1&tty=1";
    let first = br#"{"Width":80,"Height":24}"#;
    // Two at a time, one of them in two pieces, as a stream may bring them.
    let rest: [&[u8]; 2] = [b"\n{\"Width\":0,\"Hei", b"ght\":0}{\"Width\":1}"];

    for protocol in ["v4.channel.k8s.io", "v3.channel.k8s.io"] {
        soon(async {
            let client = SpdyClient::connect(address, query, &[protocol]).await;
            let _error = client.open_kind("error");
            let (stdout, resize) = (client.open_kind("stdout"), client.open_kind("resize"));
            let mut resize = client.shared.writer(resize);
            let mut stdout = client.shared.reader(stdout);
            let mut line = [0; 6];
            resize.write_all(first).await.unwrap();
            stdout.read_exact(&mut line).await.unwrap();
            assert_eq!(&line, b"80x24\n");
            for piece in rest {
                resize.write_all(piece).await.unwrap();
            }
            let mut left = Vec::new();
            stdout.read_to_end(&mut left).await.unwrap();
            assert_eq!(left, b"0x0\n", "{protocol}");
        })
        .await;
    }
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io"] {
        soon(async {
            let mut socket = websocket(address, query, protocol).await.unwrap();
            send_all(&mut socket, 4, first).await;
            let hello = socket.next().await.unwrap().unwrap();
            assert_eq!(hello.len(), 1);
            let size = socket.next().await.unwrap().unwrap();
            assert_eq!(size, Message::binary(b"\x0180x24\n".to_vec()));
            for piece in rest {
                send_all(&mut socket, 4, piece).await;
            }
            let channels = collect(&mut socket).await;
            assert_eq!(channels[1], b"0x0\n", "{protocol}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_command_that_cannot_run_says_why() {
    let (address, _) = server(TIMEOUTS).await;
    let mut socket = websocket(address, "?command=fail&output=1", "v5.channel.k8s.io")
        .await
        .unwrap();
    let status = parse(&soon(collect(&mut socket)).await[3]);
    assert_eq!(status["reason"], "InternalError");
    assert_eq!(status["code"], 500);
    let message = status["message"].as_str().unwrap();
    assert!(message.ends_with("no such thing"), "{message}");
}

#[tokio::test]
async fn input_that_no_command_reads_holds_up_neither_its_end_nor_the_status() {
    let (address, _) = server(TIMEOUTS).await;
    let query = "?command=true&input=1&output=1";
    soon(async {
        let client = SpdyClient::connect(address, query, &["v4.channel.k8s.io"]).await;
        let error = client.open_kind("error");
        let (stdin, _stdout) = (client.open_kind("stdin"), client.open_kind("stdout"));
        let mut stdin = client.shared.writer(stdin);
        let bytes = noise(MEGABYTE);
        let flood = async { while stdin.write_all(&bytes).await.is_ok() {} };
        let status = tokio::select! {
            status = client.read_all(error) => status.unwrap(),
            () = flood => panic!("the connection ends before the status is there"),
        };
        assert_eq!(parse(&status)["status"], "Success");
    })
    .await;
    soon(async {
        let socket = websocket(address, query, "v5.channel.k8s.io")
            .await
            .unwrap();
        let (mut sink, mut stream) = socket.split();
        let bytes = Message::binary(vec![0; 100_000]);
        let flood = async { while sink.send(bytes.clone()).await.is_ok() {} };
        let collected = async {
            let channels = collect(&mut stream).await;
            assert_eq!(parse(&channels[3])["status"], "Success");
        };
        tokio::join!(flood, collected);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_command() {
    let (address, gone) = server(TIMEOUTS).await;
    let query = "?command=wait&input=1&output=1";
    soon(async {
        let client = SpdyClient::connect(address, query, &["v4.channel.k8s.io"]).await;
        let kinds = ["error", "stdin", "stdout"].map(|kind| client.open_kind(kind));
        // Accepted: so the command runs.
        for id in kinds {
            let mut writer = client.shared.writer(id);
            writer.write_all(b"x").await.unwrap();
        }
        client.driver.abort();
        gone.notified().await;
    })
    .await;
    soon(async {
        let mut socket = websocket(address, query, "v5.channel.k8s.io")
            .await
            .unwrap();
        socket.next().await.unwrap().unwrap();
        drop(socket);
        gone.notified().await;
    })
    .await;
}

#[tokio::test]
async fn streams_that_are_not_opened_in_time_end_the_connection() {
    let (address, _) = server(SHORT).await;
    let query = "?command=cat&input=1&output=1";
    let client = SpdyClient::connect(address, query, &["v4.channel.k8s.io"]).await;
    client.open_kind("error");
    client.open_kind("nonsense");
    soon(client.driver).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_said_ends() {
    let (address, gone) = server(Timeouts {
        creation: TIMEOUTS.creation,
        ..SHORT
    })
    .await;
    let query = "?command=wait&input=1";
    let client = SpdyClient::connect(address, query, &["v4.channel.k8s.io"]).await;
    client.open_kind("error");
    client.open_kind("stdin");
    soon(client.driver).await.unwrap().unwrap();
    soon(gone.notified()).await;
    let mut socket = websocket(address, query, "v5.channel.k8s.io")
        .await
        .unwrap();
    soon(async { while let Some(Ok(_)) = socket.next().await {} }).await;
    soon(gone.notified()).await;
}

/// The command is over long before its client has got all of it.
#[tokio::test]
async fn a_client_may_be_slower_than_the_time_it_has_to_close() {
    let pour = |gone: &Arc<Notify>| {
        let options = "command=pour&command=3&output=1&error=1";
        let options = ExecOptions::from_query(options, "app").unwrap();
        let (wanted, gone) = (exec::Wanted::of(&options), gone.clone());
        (wanted, |streams| command(options, streams, gone))
    };
    let timeouts = Timeouts {
        linger: SHORT.linger,
        ..TIMEOUTS
    };
    let gone = Arc::new(Notify::new());

    let (near, far) = tokio::io::duplex(16 * 1024);
    let (wanted, run) = pour(&gone);
    let server = exec::over_spdy(far, wanted, exec::SPDY[0].1, timeouts, run);
    let server = tokio::spawn(server);
    soon(async {
        let client = SpdyClient::over(near);
        let (error, stderr) = (client.open_kind("error"), client.open_kind("stderr"));
        let stdout = client.open_kind("stdout");
        let mut reader = client.shared.reader(stdout);
        let mut got = vec![0; MEGABYTE - 130_000];
        reader.read_exact(&mut got).await.unwrap();
        gone.notified().await;
        tokio::time::sleep(3 * timeouts.linger).await;
        // Together: the end of the one comes after all of the other.
        let (_, warned, status) = tokio::try_join!(
            reader.read_to_end(&mut got),
            client.read_all(stderr),
            client.read_all(error),
        )
        .unwrap();
        assert!(got == noise(MEGABYTE) && warned == noise(100_000));
        assert_eq!(parse(&status), exited(3));
        server.await.unwrap();
    })
    .await;

    let (near, far) = tokio::io::duplex(16 * 1024);
    let (wanted, run) = pour(&gone);
    let server = exec::over_websocket(far, wanted, exec::WEBSOCKET[0].1, timeouts, run);
    let server = tokio::spawn(server);
    soon(async {
        let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
        let mut socket = WebSocketStream::from_raw_socket(near, role, None).await;
        let mut got = 0;
        while got < MEGABYTE - 33_000 {
            got += socket.next().await.unwrap().unwrap().len() - 1;
        }
        gone.notified().await;
        tokio::time::sleep(3 * timeouts.linger).await;
        let channels = collect(&mut socket).await;
        assert_eq!(got + channels[1].len(), MEGABYTE);
        assert!(channels[2] == noise(100_000));
        assert_eq!(parse(&channels[3]), exited(3));
        server.await.unwrap();
    })
    .await;
}
