use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::kubelet::scratch::ScratchStore;
use crate::kubelet::tree::{Node, Tree, TreePath};

mod bounds;
mod terminal;

fn world() -> World {
    let pod = json!({
        "metadata": {
            "name": "web-0", "namespace": "shop",
            "annotations": {"network.alibabacloud.com/allocated-eni-id": "eni-1"},
        },
        "spec": {"containers": [{"name": "app", "workingDir": "/srv"}]},
        "status": {"podIP": "192.168.1.4", "podIPs": [{"ip": "192.168.1.4"}]},
    });
    let now: jiff::Timestamp = "2026-11-28T10:00:05Z".parse().unwrap();
    let mut files = Tree::default();
    files.insert("/srv".into(), Node::directory(now));
    files.insert("/tmp".into(), Node::directory(now));
    files.insert(
        "/etc/hosts".into(),
        Node::file("192.168.1.4\tweb-0\n", 0o644, now),
    );
    files.insert(
        "/config/a.txt".into(),
        Node::file("one\ntwo\nthree\n", 0o444, now),
    );
    files.insert("/config/.hidden".into(), Node::file("", 0o600, now));
    World {
        pod: Arc::new(serde_json::from_value(pod).unwrap()),
        container: "app".into(),
        environment: [("PATH", "/bin"), ("GREETING", "hello  world")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        files,
        read_only: vec!["/config".into()],
        scratch: ScratchStore::default().of("u1", "app"),
        mac: Some("00:16:3e:00:00:01".into()),
        clock: Arc::new(move || now),
    }
}

/// Exit code, stdout and stderr.
async fn exec(world: &World, command: &[&str], stdin: &[u8]) -> (i32, Vec<u8>, String) {
    let command: Vec<_> = command.iter().map(|&word| word.to_owned()).collect();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let stdin = (!stdin.is_empty()).then_some(stdin);
    let status = run(world, &command, None, stdin, &mut stdout, Some(&mut stderr)).await;
    (status, stdout, String::from_utf8(stderr).unwrap())
}

/// A command whose input has no end: its status, and what it says of that.
async fn flooded(world: &World, command: &[&str]) -> (i32, String) {
    let command: Vec<_> = command.iter().map(|word| (*word).to_owned()).collect();
    let (endless, mut stderr) = (tokio::io::repeat(1), Vec::new());
    let status = run(
        world,
        &command,
        None,
        Some(endless),
        tokio::io::sink(),
        Some(&mut stderr),
    );
    let status = status.await;
    (status, String::from_utf8(stderr).unwrap())
}

async fn sh(world: &World, script: &str, stdin: &str) -> (i32, String, String) {
    let (status, stdout, stderr) = exec(world, &["sh", "-c", script], stdin.as_bytes()).await;
    (status, String::from_utf8(stdout).unwrap(), stderr)
}

#[tokio::test]
async fn scripts_do_what_a_shell_does() {
    for (script, status, stdout) in [
        ("echo a b", 0, "a b\n"),
        (
            "echo -n a; echo 'b  c' \"d $GREETING\"",
            0,
            "ab  c d hello  world\n",
        ),
        (
            "echo $GREETING ${GREETING} $NONE ${NONE:-else} '$GREETING'",
            0,
            "hello world hello world else $GREETING\n",
        ),
        ("X=1; echo $X; X=2 printenv X; echo $X", 0, "1\n2\n1\n"),
        ("X=1; printenv X", 1, ""),
        ("export X=1; printenv X", 0, "1\n"),
        ("false && echo no; echo $?", 0, "1\n"),
        ("false || echo yes && echo and", 0, "yes\nand\n"),
        ("! false && echo not", 0, "not\n"),
        ("set -e; false; echo never", 1, ""),
        ("false; true", 0, ""),
        ("exit 7; echo never", 7, ""),
        ("echo a | exit 3; echo $?", 0, "3\n"),
        ("echo one two | cat | wc -w", 0, "2\n"),
        ("echo a # comment\necho b", 0, "a\nb\n"),
        (
            "echo a; sh -c 'echo $0 $1; exit 4' zero one; echo $?",
            0,
            "a\nzero one\n4\n",
        ),
        (
            "echo hidden > /dev/null; echo error >&2; ls /nope 2>/dev/null || ls /nope 2>&1 | wc -l",
            0,
            "1\n",
        ),
        (
            "echo x > /tmp/f; echo y >> /tmp/f; cat /tmp/f; cat < /tmp/f",
            0,
            "x\ny\nx\ny\n",
        ),
        (
            "pwd; cd ../etc; pwd; cd -; pwd; cd ../../../..; pwd",
            0,
            "/srv\n/etc\n/srv\n/\n",
        ),
        (
            "cat /config/a.txt | head -n 1; tail -1 /config/a.txt; tail -n +2 /config/a.txt",
            0,
            "one\nthree\ntwo\nthree\n",
        ),
        (
            "head -c 5 /config/a.txt; tail -c 4 /config/a.txt; tail -c+9 /config/a.txt",
            0,
            "one\ntree\nthree\n",
        ),
        (
            "wc /config/a.txt; wc -l < /config/a.txt",
            0,
            "3 3 14 /config/a.txt\n3\n",
        ),
        (
            "grep -n t /config/a.txt; grep -c . /config/a.txt; grep -v o /config/a.txt",
            0,
            "2:two\n3:three\n3\nthree\n",
        ),
        (
            "grep 'one\\|two' /config/a.txt; grep -E 'tw|thr' /config/a.txt; grep -F . /config/a.txt",
            1,
            "one\ntwo\ntwo\nthree\n",
        ),
        (r"printf 'a@b.c\n' | grep -E '\w+@\w+\.\w+'", 0, "a@b.c\n"),
        (r"printf 'ü\n' | grep '[äöü]'", 0, "ü\n"),
        ("printf '%s=%03d\\n' a 7 b 12", 0, "a=007\nb=012\n"),
        ("printf '%5s|%-5s|%%' x y", 0, "    x|y    |%"),
        (
            "date; date +%F; date -u +%s",
            0,
            "Sat Nov 28 10:00:05 UTC 2026\n2026-11-28\n1795860005\n",
        ),
        ("hostname; hostname -i", 0, "web-0\n192.168.1.4\n"),
        (
            "id; whoami",
            0,
            "uid=0(root) gid=0(root) groups=0(root)\nroot\n",
        ),
        (
            "ls /config; ls -a /config",
            0,
            "a.txt\n.\n..\n.hidden\na.txt\n",
        ),
        (
            "ls -l /config/a.txt",
            0,
            "-r--r--r--    1 root     root            14 Nov 28 10:00 /config/a.txt\n",
        ),
        (
            "test -f /config/a.txt && [ -d /config ] && [ a != b ] && [ ! -e /x ] && test 2 -gt 1",
            0,
            "",
        ),
        ("[ a = b ]", 1, ""),
        (
            "command -v cat && ! command -v bash && exec echo done",
            0,
            "cat\ndone\n",
        ),
        (
            "mkdir -p /tmp/a/b && touch /tmp/a/b/c && ls /tmp/a/b && rm -r /tmp/a && ls /tmp/a",
            1,
            "c\n",
        ),
        ("sleep 0 && /bin/echo by path", 0, "by path\n"),
        ("env X=1 printenv X", 0, "1\n"),
    ] {
        let (got, out, err) = sh(&world(), script, "").await;
        assert_eq!((got, &*out), (status, stdout), "{script}: {err}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_refused_with_a_sentence() {
    let world = world();
    for (script, status, stderr) in [
        (
            "nginx -t",
            127,
            "sh: nginx: not found in this simulated container; it has: : [ cat",
        ),
        (
            "cat /nope",
            1,
            "cat: can't open /nope: No such file or directory\n",
        ),
        (
            "cat /config",
            1,
            "cat: can't open /config: Is a directory\n",
        ),
        (
            "echo x > /config/a.txt",
            1,
            "sh: can't create /config/a.txt: Read-only file system\n",
        ),
        (
            "echo x > /none/a.txt",
            1,
            "sh: can't create /none/a.txt: No such file or directory\n",
        ),
        (
            "cat < ../../../etc/passwd",
            1,
            "sh: can't open ../../../etc/passwd: No such file or directory\n",
        ),
        (
            "echo $(date)",
            2,
            "sh: syntax error: command substitution $( ) is not supported in this simulated container\n",
        ),
        (
            "sleep 1 &",
            2,
            "sh: syntax error: a command in the background (&) is not supported in this simulated container\n",
        ),
        (
            "while true; do date; done",
            2,
            "sh: syntax error: a compound command (if, for, while, case, {}) is not supported in this simulated container\n",
        ),
        (
            "echo 'a",
            2,
            "sh: syntax error: unterminated quoted string\n",
        ),
        (
            "echo a |",
            2,
            "sh: syntax error: \"end of file\" unexpected\n",
        ),
        ("; echo", 2, "sh: syntax error: \";\" unexpected\n"),
        (
            "ls -z",
            1,
            "ls: option -z is not supported in this simulated container\n",
        ),
        (
            "tar czf - /config",
            2,
            "tar: -z: not supported in this simulated container\n",
        ),
    ] {
        let (got, out, err) = sh(&world, script, "").await;
        assert_eq!((got, &*out), (status, ""), "{script}");
        assert!(err.starts_with(stderr), "{script}: {err}");
    }
    let (status, _, err) = exec(&world, &["nginx"], b"").await;
    assert!(
        status == 127 && err.starts_with("sh: nginx: not found"),
        "{err}"
    );
}

#[tokio::test]
async fn every_command_that_is_listed_is_there() {
    let world = world();
    for name in commands::NAMES {
        let (status, _, err) = exec(&world, &[name], b"").await;
        assert_ne!(status, 127, "{name}: {err}");
    }
}

#[tokio::test]
async fn ip_shows_the_pods_interface() {
    let (status, out, _) = sh(&world(), "ip addr; ip -4 a show eth0 | wc -l", "").await;
    assert_eq!(status, 0);
    for line in [
        "1: lo: <LOOPBACK,UP,LOWER_UP>",
        "    inet 127.0.0.1/8 scope host lo",
        "2: eth0: <BROADCAST,MULTICAST,UP,LOWER_UP>",
        "    link/ether 00:16:3e:00:00:01 brd ff:ff:ff:ff:ff:ff",
        "    alias eni-1",
        "    inet 192.168.1.4/32 scope global eth0",
    ] {
        assert!(
            out.lines().any(|one| one.starts_with(line)),
            "{line}: {out}"
        );
    }
    assert!(out.ends_with("\n5\n"), "{out}");
}

#[tokio::test]
async fn a_megabyte_each_way_stays_intact_however_slowly_it_is_read() {
    let world = world();
    let data: Vec<u8> = (0..1_048_576_u32).map(|n| (n * 7 % 251) as u8).collect();
    let (mut near_in, far_in) = tokio::io::duplex(1000);
    let (far_out, mut near_out) = tokio::io::duplex(100);
    let command = ["cat".to_owned()];
    let serve = run(
        &world,
        &command,
        None,
        Some(far_in),
        far_out,
        None::<tokio::io::Empty>,
    );
    let send = async {
        near_in.write_all(&data).await.unwrap();
        drop(near_in);
    };
    let receive = async {
        let mut got = Vec::new();
        near_out.read_to_end(&mut got).await.unwrap();
        got
    };
    let (status, (), got) = tokio::join!(serve, send, receive);
    assert_eq!(status, 0);
    assert!(got == data);
}

#[tokio::test]
async fn a_pipe_ends_when_its_reader_has_enough() {
    let endless = tokio::io::repeat(b'\n');
    let command = ["sh", "-c", "cat | head -n 2 | wc -l"].map(str::to_owned);
    let mut stdout = Vec::new();
    let world = world();
    let done = run(
        &world,
        &command,
        None,
        Some(endless),
        &mut stdout,
        None::<tokio::io::Empty>,
    );
    let status = tokio::time::timeout(Duration::from_secs(10), done).await;
    assert_eq!((status, &*stdout), (Ok(0), &b"2\n"[..]));
}

#[tokio::test]
async fn a_shell_reads_its_commands_from_stdin() {
    let world = world();
    let script = b"X=1\necho $X\necho 'a\nb'\nsh -c 'exit 3'\necho $?\nhead -n 1\nfor head\nexit 5\necho never\n";
    let (status, out, err) = exec(&world, &["sh"], script).await;
    let out = String::from_utf8(out).unwrap();
    assert_eq!((status, &*out, &*err), (5, "1\na\nb\n3\nfor head\n", ""));
    let (status, out, _) = exec(&world, &["sh"], b"false").await;
    assert_eq!(
        (status, out.len()),
        (1, 0),
        "the end of input ends it with the last status"
    );
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o640);
        // `set_path` refuses what a hostile archive has.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn what_is_copied_in_can_be_copied_out_by_a_later_exec() {
    let world = world();
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 253) as u8).collect();
    let sent = archive(&[("data/a.txt", b"hello"), ("data/large", &large)]);
    let (status, _, err) = exec(&world, &["tar", "-xmf", "-", "-C", "/tmp"], &sent).await;
    assert_eq!((status, &*err), (0, ""));
    assert_eq!(sh(&world, "cat /tmp/data/a.txt", "").await.1, "hello");
    let (status, got, err) = exec(&world, &["tar", "cf", "-", "/tmp/data"], b"").await;
    assert_eq!(
        (status, &*err),
        (0, "tar: Removing leading `/' from member names\n")
    );
    let mut archive = tar::Archive::new(&*got);
    let mut files = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        files.push((entry.path().unwrap().display().to_string(), content));
    }
    assert_eq!(files[0], ("tmp/data/".into(), vec![]));
    assert_eq!(files[1], ("tmp/data/a.txt".into(), b"hello".to_vec()));
    assert!(files[2].0 == "tmp/data/large" && files[2].1 == large);
    let (status, tail, _) = sh(
        &world,
        "tar cf - /tmp/data/a.txt 2>/dev/null | tail -c+513 | head -c 5",
        "",
    )
    .await;
    assert_eq!(
        (status, &*tail),
        (0, "hello"),
        "as kubectl cp goes on after a broken connection"
    );
}

#[tokio::test]
async fn an_archive_writes_nothing_outside_and_no_more_than_fits() {
    let world = world();
    for name in ["../../etc/hosts", "a/../../etc/hosts"] {
        let sent = archive(&[(name, b"stolen")]);
        let (status, _, err) = exec(&world, &["tar", "xf", "-", "-C", "/tmp"], &sent).await;
        assert_eq!(status, 1);
        assert!(err.contains("a name with `..` is not taken out"), "{err}");
    }
    let sent = archive(&[("/config/a.txt", b"x")]);
    let (status, _, err) = exec(&world, &["tar", "xf", "-", "-C", "/"], &sent).await;
    assert_eq!(
        (status, &*err),
        (1, "tar: /config/a.txt: Read-only file system\n")
    );
    assert_eq!(
        sh(&world, "cat /etc/hosts", "").await.1,
        "192.168.1.4\tweb-0\n"
    );
    let (status, err) = flooded(&world, &["tar", "xf", "-"]).await;
    assert_eq!(
        (status, &*err),
        (1, "tar: write error: No space left on device\n")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_script_panics_the_parser(text in "\\PC{0,60}|[-a-z'\"\\\\$`{}()|&;<>!?#=2 \n]{0,40}") {
        let _ = parse::parse(&text);
    }

    #[test]
    fn no_command_panics_or_leaves_the_tree(
        script in "(cat|ls|cd|head|tail|wc|grep|test|tar|printf|date|rm|mkdir|touch|ip|id|env|echo) ([-a-z0-9./%$+=~ ]|\\.\\./){0,20}",
    ) {
        let world = world();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(sh(&world, &format!("{script}; pwd"), "some\ninput\n"));
        let root = TreePath::root();
        for path in world.walk(&root).into_keys() {
            prop_assert!(path.is_within(&root));
            prop_assert!(path.to_string().split('/').all(|part| part != ".."));
        }
        prop_assert!(world.read(&"/etc/hosts".into()).is_ok(), "what the container began with stays");
    }
}
