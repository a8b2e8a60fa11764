use super::*;

#[tokio::test]
async fn an_archive_of_holes_is_refused() {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_size(0);
    header.set_mode(0o644);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..4].copy_from_slice(b"hole");
    // Some data must be listed: none of it, at the end of eight megabytes of nothing.
    gnu.sparse[0].offset.copy_from_slice(b"00040000000\0");
    gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
    gnu.realsize.copy_from_slice(b"00040000000\0");
    header.set_cksum();
    let world = world();
    let sent = [&header.as_bytes()[..], &archive(&[("a", b"hello")])].concat();
    let (status, _, err) = exec(&world, &["tar", "xf", "-", "-C", "/tmp"], &sent).await;
    assert_eq!(
        (status, &*err),
        (
            1,
            "tar: hole: neither a file nor a directory, not supported in this simulated container\n"
        )
    );
    assert_eq!(
        sh(&world, "cat /tmp/a; ls /tmp", "").await.1,
        "helloa\n",
        "what comes after it is taken out"
    );
}

#[tokio::test]
async fn an_archive_of_many_files_lets_others_run() {
    let files: Vec<_> = (0..100).map(|number| format!("f{number}")).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|name| (&**name, &b"x"[..])).collect();
    let (world, sent) = (world(), archive(&files));
    let mut turns = 0;
    let others = async {
        loop {
            turns += 1;
            tokio::task::yield_now().await;
        }
    };
    let (status, ..) = tokio::select! {
        done = exec(&world, &["tar", "xf", "-", "-C", "/tmp"], &sent) => done,
        () = others => unreachable!(),
    };
    assert_eq!(status, 0);
    assert!(turns >= files.len(), "{turns}");
}

#[tokio::test]
async fn variables_and_words_are_bounded() {
    let doubled = format!("a=aaaaaaaa; {} echo never", "a=$a$a; ".repeat(30));
    let large = format!("a={};", "a".repeat(10_000));
    let world = world();
    for script in [
        doubled,
        format!("{large} echo {}; echo never", "$a ".repeat(1000)),
        "v=; ".repeat(200_000),
    ] {
        let (status, out, err) = sh(&world, &script, "").await;
        assert_eq!(
            (status, &*out, &*err),
            (2, "", "sh: out of memory\n"),
            "{}",
            &script[..40]
        );
    }
    for (script, name) in [
        (
            format!("printf {}; exit 7", "%4096d".repeat(5000)),
            "printf",
        ),
        (format!("date +{}; exit 7", "%255Y".repeat(20_000)), "date"),
    ] {
        let (status, out, err) = sh(&world, &script, "").await;
        assert_eq!(
            (status, &*out, err),
            (7, "", format!("{name}: out of memory\n"))
        );
    }
}

#[tokio::test]
async fn what_a_shell_does_again_and_again_stays_within_its_memory() {
    let large = "a".repeat(1 << 20);
    let script =
        "a=$1; X=$a true; echo $a $a > /dev/null; echo $a | cat > /dev/null; unset a\n".repeat(20);
    let (status, _, err) = exec(&world(), &["sh", "-c", &script, "sh", &large], b"").await;
    assert_eq!((status, &*err), (0, ""));
}

#[tokio::test]
async fn pipelines_are_bounded_however_they_nest() {
    let world = world();
    let long = format!("echo a{}", " | cat".repeat(40));
    assert_eq!(sh(&world, &long, "").await.1, "a\n");
    let too_long = format!("{long}{}", " | cat".repeat(40));
    let (status, out, err) = sh(&world, &too_long, "").await;
    assert_eq!(
        (status, &*out, &*err),
        (2, "", "sh: can't fork: Resource temporarily unavailable\n")
    );
    let bomb = "echo 'sh /tmp/b | sh /tmp/b' > /tmp/b; sh /tmp/b; echo $?";
    let (_, out, err) = sh(&world, bomb, "").await;
    assert_ne!(out, "0\n");
    assert!(err.contains("sh: can't fork"), "{err}");
}

#[tokio::test]
async fn a_path_of_any_depth_is_refused_without_taking_all_memory() {
    let script = format!("mkdir -p /tmp/{}", "a/".repeat(20_000));
    let (status, _, err) = sh(&world(), &script, "").await;
    assert_eq!(status, 1);
    assert!(err.ends_with(": No space left on device\n"), "{err}");
}

#[tokio::test]
async fn nesting_and_files_are_bounded() {
    let world = world();
    let (status, _, err) = sh(
        &world,
        "echo 'sh /tmp/again' > /tmp/again; sh /tmp/again",
        "",
    )
    .await;
    assert_eq!((status, &*err), (1, "sh: nested too deep\n"));
    let (status, _, err) = sh(&world, &"command ".repeat(20_000), "").await;
    assert_eq!((status, &*err), (2, "sh: nested too deep\n"));
    let (status, err) = flooded(&world, &["sh", "-c", "cat > /tmp/large"]).await;
    assert_ne!(status, 0);
    assert!(err.contains("No space left on device"), "{err}");
}

#[tokio::test]
async fn a_pattern_that_would_take_long_is_refused_and_a_long_line_is_not() {
    let world = world();
    let (status, _, err) = sh(&world, "grep -E '[01]*1[01]{9000}x'", "1\n").await;
    assert_eq!(status, 2);
    assert!(err.contains("size limit"), "{err}");
    let line = "a".repeat(1_000_000) + "b\n";
    let (status, out, _) = sh(&world, "grep -E '^a+[[:alpha:]]$|\\w\\s\\d'", &line).await;
    assert_eq!((status, out == line), (0, true));
}

#[tokio::test]
async fn the_end_of_a_stream_is_kept_in_bounded_memory() {
    let world = world();
    let large = vec![b'a'; 10 << 20];
    let (status, out, err) = exec(&world, &["tail", "-c", "9000000"], &large).await;
    assert_eq!((status, out.len(), &*err), (1, 0, "tail: out of memory\n"));
    let (status, out, _) = exec(&world, &["tail", "-c", "1000000"], &large).await;
    assert_eq!((status, out.len()), (0, 1_000_000));
}
