//! What `holdfast check` finds in a ledger and a cluster, and what it puts right.

use std::path::Path;
use std::process::Output;

use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::cli::{errors, holdfast};
use crate::support::*;

/// Everything that the ledger's files say.
fn bytes(ledger: &Path) -> Vec<Vec<u8>> {
    let wal = ledger.with_extension("db-wal");
    [ledger, &wal]
        .map(|path| std::fs::read(path).unwrap_or_default())
        .into()
}

async fn check(scene: &Scene, args: &[&str]) -> Output {
    let kubeconfig = scene.plane.kubeconfig();
    let cluster = [
        "check",
        "--kubeconfig",
        kubeconfig.to_str().unwrap(),
        "-o",
        "json",
    ];
    scene.command(&[&cluster, args].concat()).await
}

fn answer(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", errors(output)))
}

/// The rules and sentences of what was found.
fn found(output: &Output) -> Vec<(String, String)> {
    let answer = answer(output);
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let findings = answer["findings"].as_array().unwrap().iter();
    findings
        .map(|finding| (text(finding, "rule"), text(finding, "what")))
        .collect()
}

async fn show(scene: &Scene, name: &str, address: &str) {
    let status = json!({ "status": { "podIP": address, "podIPs": [{ "ip": address }] } });
    scene
        .pods()
        .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
}

async fn delete_by_force(scene: &Scene, name: &str) {
    let force = DeleteParams::default().grace_period(0);
    scene.pods().delete(name, &force).await.unwrap();
    scene.is_gone(name).await;
}

/// The same sighting three times, as if it had been made ten seconds apart.
fn age(report: &Path) {
    let text = std::fs::read_to_string(report).unwrap();
    let newest: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let at: Timestamp = newest["at"].as_str().unwrap().parse().unwrap();
    let lines = [20, 10, 0].map(|seconds| {
        let mut sighting = newest.clone();
        sighting["at"] = json!(at - SignedDuration::from_secs(seconds));
        format!("{sighting}\n")
    });
    std::fs::write(report, lines.concat()).unwrap();
}

#[tokio::test]
async fn a_check_finds_what_differs_and_changes_nothing() {
    let mut scene = Scene::start(&two_zones("profile: fast\nwebhook: {enabled: false}")).await;
    for pod in [
        TestPod::fixed("web-0"),
        TestPod::fixed("web-1"),
        TestPod::ordinary("job"),
    ] {
        scene.create(&pod.on_node(NODE_B)).await;
    }
    // Both show the address of their node, which is nobody's.
    for name in ["host-0", "host-1"] {
        let pod = TestPod::ordinary(name).on_node(NODE_B);
        scene
            .create(&pod.with(&json!({ "hostNetwork": true })))
            .await;
        scene.running(name).await;
    }
    let web = identity(&scene.running("web-0").await);
    let job = identity(&scene.running("job").await);
    scene.running("web-1").await;
    scene.delete("web-1").await;
    let clean = check(&scene, &[]).await;
    assert_eq!(clean.status.code(), Some(0), "{:?}", found(&clean));
    assert_eq!(answer(&clean)["running"], true);
    scene.kill9().await;

    let before = bytes(&scene.ledger());
    show(&scene, "job", &web.address).await;
    let differs = check(&scene, &[]).await;
    assert_eq!(differs.status.code(), Some(3), "{}", errors(&differs));
    let rules: Vec<_> = found(&differs).into_iter().map(|(rule, _)| rule).collect();
    assert_eq!(
        rules,
        [
            "a pod shows the address that the ledger has for it",
            "no two pods show one address"
        ]
    );
    show(&scene, "job", &job.address).await;
    delete_by_force(&scene, "web-0").await;
    let gone = check(&scene, &[]).await;
    let findings = found(&gone);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].0, "a pod that has an address exists");
    assert!(findings[0].1.contains(&web.address), "{findings:?}");

    let alone = scene.command(&["check"]).await;
    assert_eq!(alone.status.code(), Some(0), "the file alone is right");
    let text = String::from_utf8(alone.stdout).unwrap();
    assert!(text.contains("nothing contradicts the promises"), "{text}");
    assert_eq!(bytes(&scene.ledger()), before);

    let unreachable = scene
        .command(&["check", "--kubeconfig", "/nonexistent"])
        .await;
    assert_eq!(unreachable.status.code(), Some(1));
    assert!(errors(&unreachable).starts_with("holdfast: cannot use the kubeconfig /nonexistent"));
}

#[tokio::test]
async fn a_repair_needs_three_sightings_and_nobody_who_runs_and_keeps_the_address() {
    let mut scene = Scene::start(&two_zones("profile: fast\nwebhook: {enabled: false}")).await;
    let pod = TestPod::fixed("web-0").on_node(NODE_B);
    scene.create(&pod).await;
    let web = identity(&scene.running("web-0").await);
    scene.kill9().await;
    delete_by_force(&scene, "web-0").await;

    let report = scene.dir.path().join("report");
    let file = report.to_str().unwrap();
    let seen = check(&scene, &["--report", file]).await;
    assert_eq!(seen.status.code(), Some(3), "{}", errors(&seen));
    let before = bytes(&scene.ledger());
    let once = check(&scene, &["--repair", file, "--yes"]).await;
    assert_eq!(once.status.code(), Some(3), "{}", errors(&once));
    assert_eq!(answer(&once)[0]["outcome"], "not_certain");
    age(&report);
    let dry = check(&scene, &["--repair", file]).await;
    assert_eq!(dry.status.code(), Some(3), "{}", errors(&dry));
    assert_eq!(answer(&dry)[0]["outcome"], "would_be_done");
    assert_eq!(answer(&dry)[0]["sightings"], 3);
    assert_eq!(bytes(&scene.ledger()), before, "a dry run");

    let ledger = scene.ledger();
    let ledger = ledger.to_str().unwrap();
    let done = check(&scene, &["--ledger", ledger, "--repair", file, "--yes"]).await;
    assert_eq!(done.status.code(), Some(0), "{}", errors(&done));
    assert_eq!(answer(&done)[0]["outcome"], "done");
    let again = check(&scene, &["--repair", file, "--yes"]).await;
    assert_eq!(answer(&again), json!([]), "it is put right");

    scene.spawn(&[]).await;
    scene.is_serving().await;
    let running = check(&scene, &["--repair", file, "--yes"]).await;
    assert_eq!(running.status.code(), Some(1), "{running:?}");
    assert!(
        errors(&running).contains("stop it before a repair"),
        "{}",
        errors(&running)
    );
    scene.create(&pod).await;
    assert_eq!(
        identity(&scene.running("web-0").await),
        web,
        "nothing was given away"
    );
    let clean = check(&scene, &[]).await;
    assert_eq!(clean.status.code(), Some(0), "{:?}", found(&clean));
}

#[tokio::test]
async fn a_repair_of_a_ledger_by_its_file_needs_its_configuration_by_name() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (ledger, config) = (path("holdfast.db"), path("holdfast.yaml"));
    std::fs::write(&config, two_zones("")).unwrap();
    let report = path("report");
    let args = [
        "check",
        "--ledger",
        &ledger,
        "--kubeconfig",
        "/nonexistent",
        "--repair",
        &report,
        "--yes",
    ];
    let refused = holdfast(&args).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert_eq!(
        errors(&refused),
        "holdfast: --yes with --ledger needs the configuration too, with -c: its \
         `retention.hour` decides when a repaired claim ends\n"
    );
    let named = holdfast(&[&args[..], &["-c", &config]].concat()).await;
    assert_eq!(named.status.code(), Some(1), "there is no ledger");
    let sentence = format!("holdfast: could not open the ledger {ledger}");
    assert!(errors(&named).starts_with(&sentence), "{}", errors(&named));
}

#[tokio::test]
async fn a_damaged_ledger_is_a_finding_or_cannot_be_checked_and_never_clean() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("holdfast.db");
    std::fs::write(
        &path,
        "not a database, but long enough to look like something",
    )
    .unwrap();
    let output = holdfast(&["check", "--ledger", path.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        errors(&output).contains("file is not a database"),
        "{}",
        errors(&output)
    );
}
