//! A bad day, rehearsed: faults of the simulated cloud in the configuration and at run time.

use holdfast_testbed::eventually;
use serde_json::json;

use crate::cli::errors;
use crate::support::*;

async fn says(scene: &Scene, args: &[&str]) -> String {
    let output = scene.command(args).await;
    assert!(output.status.success(), "{}", errors(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_fault_set_in_a_running_holdfast_holds_a_pod_up_until_it_is_cleared() {
    let extra = "profile: fast\nwebhook: {enabled: false}";
    let scene = Scene::start(&two_zones(extra)).await;
    for (name, value) in [
        ("fail/attach", "every=0"),
        ("fail/attach", "code=a-b"),
        ("slow/detach", "latency=48h"),
    ] {
        let wrong = scene.command(&["faults", "set", name, value]).await;
        assert_eq!(wrong.status.code(), Some(2), "{}", errors(&wrong));
    }
    let said = says(
        &scene,
        &["faults", "set", "fail/attach", "code=Operation.Conflict"],
    )
    .await;
    assert_eq!(
        said,
        "set fail/attach: the running holdfast obeys within a second\n"
    );
    obeyed(&scene, "faults of the simulated cloud are set").await;

    let pod = scene.create(&TestPod::fixed("web-0").on_node(NODE_B)).await;
    let event = scene.event(&pod, "CloudCallFailed").await;
    let begin =
        "AttachNetworkInterface failed and is tried again until it succeeds: Operation.Conflict";
    assert!(message(&event).starts_with(begin), "{}", message(&event));
    let waiting = scene.pods().get("web-0").await.unwrap();
    assert_eq!((pod_phase(&waiting), address(&waiting)), ("Pending", None));

    let listed = scene.ask(&["faults", "-o", "json"]).await;
    let fault = json!({ "fail": { "action": "attach", "every": 1, "code": "Operation.Conflict" } });
    assert_eq!(listed[0]["name"], "fail/attach");
    assert_eq!(listed[0]["fault"], fault);
    assert_eq!(listed[0]["source"], "command");
    let said = says(&scene, &["faults", "clear", "--all"]).await;
    assert!(said.starts_with("cleared fail/attach: "), "{said}");
    identity(&scene.running("web-0").await);
    assert_eq!(scene.ask(&["faults", "-o", "json"]).await, json!([]));
    let again = scene.command(&["faults", "clear", "fail/attach"]).await;
    assert_eq!(again.status.code(), Some(1));
    scene.delete("web-0").await;
}

#[tokio::test]
async fn a_fault_of_the_configuration_holds_until_it_is_taken_out_of_the_file() {
    let base = "profile: fast\nwebhook: {enabled: false}";
    let faults = format!("{base}\ncloud: {{faults: [{{out_of_addresses: {{vswitch: vsw-b}}}}]}}");
    let mut scene = Scene::start(&two_zones(&faults)).await;
    let pod = scene.create(&TestPod::fixed("web-0").on_node(NODE_B)).await;
    let event = scene.event(&pod, "CloudCallFailed").await;
    let code = "InvalidVSwitchId.IpNotEnough";
    assert!(message(&event).contains(code), "{}", message(&event));
    let table = says(&scene, &["faults"]).await;
    assert!(
        table.contains("out_of_addresses/vsw-b") && table.contains("configuration"),
        "{table}"
    );

    scene.configure(&two_zones(base));
    scene.hang_up().await;
    identity(&scene.running("web-0").await);
}

/// Waits until the running process says that it does what it was told.
async fn obeyed(scene: &Scene, sentence: &str) {
    eventually(sentence, PATIENCE, async || {
        let log = scene.log();
        log.contains(sentence).then_some(()).ok_or(log)
    })
    .await
    .unwrap();
}
