use proptest::prelude::*;

use super::*;

fn read(annotations: &[(&str, &str)]) -> (Behaviours, Vec<String>) {
    let annotations = annotations
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let (behaviours, warnings) = parse(&annotations, ["app", "sidecar"]);
    (
        behaviours,
        warnings
            .into_iter()
            .map(|warning| warning.message)
            .collect(),
    )
}

fn s(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

#[test]
fn every_annotation_is_read() {
    let (behaviours, warnings) = read(&[
        ("holdfast.dev/run-for", "90s"),
        ("holdfast.dev/exit-code", "3"),
        ("holdfast.dev/crash-after", "1h30m"),
        ("holdfast.dev/oom-after", "2m"),
        ("holdfast.dev/not-ready", "30s-1m, 2m-"),
        ("holdfast.dev/start-after", "1500ms"),
        ("holdfast.dev/image-pull-error", "20s"),
        ("holdfast.dev/log-lines", "+2s stderr: late\nfirst\n"),
        ("holdfast.dev/log-every", "10s"),
        ("holdfast.dev/cpu", "250m"),
        ("holdfast.dev/memory", "64Mi"),
        ("example.com/run-for", "x"),
    ]);
    let line = |after, is_error, text: &str| LogTemplate {
        after: s(after),
        is_error,
        text: text.into(),
    };
    let span = |from, until: Option<i64>| Span {
        from: s(from),
        until: until.map(s),
    };
    let want = Behaviour {
        run_for: Some(s(90)),
        exit_code: Some(3),
        crash_after: Some(s(5400)),
        oom_after: Some(s(120)),
        not_ready: Some(vec![span(30, Some(60)), span(120, None)]),
        start_after: Some(SignedDuration::from_millis(1500)),
        image_pull_error: Some(PullError::For(s(20))),
        log_lines: Some(vec![line(0, false, "first"), line(2, true, "late")]),
        log_every: Some(s(10)),
        cpu_milli: Some(250),
        memory_bytes: Some(64 << 20),
    };
    assert_eq!((behaviours.of("app"), warnings), (&want, vec![]));
}

#[test]
fn an_annotation_for_one_container_goes_before_that_for_all() {
    let (behaviours, warnings) = read(&[
        ("holdfast.dev/run-for", "90s"),
        ("holdfast.dev/exit-code", "1"),
        ("app.holdfast.dev/run-for", "5s"),
    ]);
    assert_eq!(warnings, Vec::<String>::new());
    let exit = |container| behaviours.of(container).exit().unwrap();
    assert_eq!((exit("app").after, exit("app").code), (s(5), 1));
    assert_eq!(exit("sidecar").after, s(90));
}

#[test]
fn invalid_values_are_absent_and_named_with_what_would_be_right() {
    for (name, value, want) in [
        (
            "run-for",
            "soon",
            "\"soon\" is not a duration such as 90s or 1h30m",
        ),
        (
            "run-for",
            "-5s",
            "\"-5s\" is not a duration such as 90s or 1h30m",
        ),
        (
            "run-for",
            "5",
            "\"5\" is not a duration such as 90s or 1h30m",
        ),
        (
            "run-for",
            "9999999h",
            "\"9999999h\" is not a duration such as 90s or 1h30m",
        ),
        (
            "exit-code",
            "256",
            "\"256\" is not a whole number from 0 to 255",
        ),
        (
            "not-ready",
            "1m-30s",
            "\"1m-30s\" is not a list of spans such as 30s-1m,2m-",
        ),
        (
            "not-ready",
            "30s",
            "\"30s\" is not a list of spans such as 30s-1m,2m-",
        ),
        (
            "image-pull-error",
            "yes",
            "\"yes\" is not true, false or a duration such as 90s",
        ),
        (
            "log-every",
            "0s",
            "\"0s\" is not a duration of at least 10ms",
        ),
        (
            "log-lines",
            "+x y",
            "\"+x y\" is not lines, in which a plus sign at the start begins a duration (+5s text)",
        ),
        ("cpu", "much", "\"much\" is not a quantity such as 250m"),
        ("memory", "64MB", "\"64MB\" is not a quantity such as 64Mi"),
    ] {
        let annotation = format!("holdfast.dev/{name}");
        let (behaviours, warnings) = read(&[(&annotation, value)]);
        assert_eq!(behaviours.of("app"), &Behaviour::default(), "{name}");
        let want = format!("annotation {annotation} is ignored: {want}");
        assert_eq!(warnings, [want], "{name}");
    }
}

#[test]
fn unknown_names_and_containers_are_named() {
    let (_, warnings) = read(&[("holdfast.dev/runfor", "1s"), ("db.holdfast.dev/cpu", "1")]);
    let [container, name] = &*warnings else {
        panic!("{warnings:?}")
    };
    assert!(name.contains("its name is not one of run-for, exit-code"));
    assert!(container.contains("no container \"db\"; it has app, sidecar"));
}

#[test]
fn what_comes_first_ends_the_container() {
    let (behaviours, _) = read(&[
        ("holdfast.dev/run-for", "20s"),
        ("app.holdfast.dev/oom-after", "10s"),
    ]);
    let exit = behaviours.of("app").exit().unwrap();
    assert_eq!(
        (exit.after, exit.code, exit.out_of_memory),
        (s(10), 137, true)
    );
    assert_eq!(Behaviour::default().exit(), None);
}

#[test]
fn a_container_is_unready_while_it_starts_and_in_its_spans() {
    let (behaviours, _) = read(&[
        ("holdfast.dev/start-after", "5s"),
        ("holdfast.dev/not-ready", "10s-20s,30s-"),
    ]);
    let unready = [0, 4, 5, 9, 10, 19, 20, 30, 1000].map(|age| {
        let unready = behaviours.of("app").is_unready(s(age));
        (age, unready)
    });
    let want = [0, 4, 10, 19, 30, 1000];
    for (age, unready) in unready {
        assert_eq!(unready, want.contains(&age), "{age}");
    }
}

proptest! {
    #[test]
    fn no_value_panics(name in "(app\\.)?holdfast\\.dev/(run-for|exit-code|not-ready|image-pull-error|log-lines|log-every|cpu|memory)", value in ".{0,40}|[-+0-9smh,.]{0,20}") {
        read(&[(&name, &value)]);
    }
}
