//! Commands in a terminal: echo, keys and its size.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::kubelet::streaming::TerminalSize;

/// A terminal of `width` and `height` whose size is never said again.
fn terminal_of(size: Option<(u16, u16)>) -> Terminal {
    let size = size.map(|(width, height)| TerminalSize { width, height });
    Terminal::new(tokio::sync::watch::channel(size).1)
}

#[tokio::test]
async fn the_size_of_a_terminal_is_what_the_client_said_last() {
    let world = world();
    let (said, size) = tokio::sync::watch::channel(None);
    let command = ["sh", "-c", "stty size"].map(str::to_owned);
    let ask = async |terminal: Option<Terminal>| {
        let (mut stdout, stdin) = (Vec::new(), tokio::io::empty());
        let none = None::<tokio::io::Empty>;
        let status = run(&world, &command, terminal, Some(stdin), &mut stdout, none).await;
        (status, String::from_utf8(stdout).unwrap())
    };
    let terminal = || Some(Terminal::new(size.clone()));
    // The command runs before the first size comes.
    let say = async |width, height| said.send(Some(TerminalSize { width, height })).unwrap();
    let (shown, ()) = tokio::join!(ask(terminal()), say(100, 40));
    assert_eq!(shown, (0, "40 100\r\n".to_owned()));
    say(132, 50).await;
    assert_eq!(ask(terminal()).await, (0, "50 132\r\n".to_owned()));
    assert_eq!(ask(None).await, (1, String::new()));
    assert_eq!(
        ask(Some(terminal_of(None))).await,
        (0, "0 0\r\n".to_owned()),
        "nobody will say it"
    );
}

#[tokio::test]
async fn a_terminal_echoes_prompts_and_interrupts() {
    let world = world();
    let (mut near, far) = tokio::io::duplex(4096);
    let (far_out, mut near_out) = tokio::io::duplex(65536);
    let command = ["sh".to_owned()];
    let serve = run(
        &world,
        &command,
        Some(terminal_of(None)),
        Some(far),
        far_out,
        None::<tokio::io::Empty>,
    );
    let type_keys = async {
        near.write_all(b"echo hx\x7fi\r").await.unwrap();
        near.write_all(b"nope\x03sleep 1000\r").await.unwrap();
        // Typed only once the command runs, as people do; earlier it would end the line.
        let mut seen = Vec::new();
        while !seen.ends_with(b"sleep 1000\r\n") {
            seen.push(near_out.read_u8().await.unwrap());
        }
        near.write_all(b"\x03echo $?\rexit 6\r").await.unwrap();
        near_out.read_to_end(&mut seen).await.unwrap();
        String::from_utf8(seen).unwrap()
    };
    let both = async { tokio::join!(serve, type_keys) };
    let (status, seen) = tokio::time::timeout(Duration::from_secs(10), both)
        .await
        .unwrap();
    assert_eq!(status, 6);
    let want = "/srv # echo hx\u{8} \u{8}i\r\nhi\r\n/srv # nope^C\r\n/srv # sleep 1000\r\n^C\r\n\
        /srv # echo $?\r\n130\r\n/srv # exit 6\r\n";
    assert_eq!(seen, want);
}

#[tokio::test]
async fn the_end_key_ends_what_reads_a_terminal() {
    let mut stdout = Vec::new();
    let command = ["cat".to_owned()];
    let world = world();
    let keys = &b"ab\r\x04never"[..];
    let status = run(
        &world,
        &command,
        Some(terminal_of(None)),
        Some(keys),
        &mut stdout,
        None::<tokio::io::Empty>,
    )
    .await;
    assert_eq!((status, &*stdout), (0, &b"ab\r\nab\r\n"[..]));
}
