//! What `holdfast explain` says of a pod, and that it then comes so.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cli::errors;
use crate::support::*;

/// The manifest of a fixed-IP pod that names no node.
fn manifest(scene: &Scene, name: &str) -> PathBuf {
    let path = scene.dir.path().join(format!("{name}.yaml"));
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": scene.namespace,
            "annotations": { FIXED_IP: "true", RELEASE_AFTER: "5" },
        },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    });
    std::fs::write(&path, pod.to_string()).unwrap();
    path
}

/// Node, verdict and address of each line.
fn outlooks(answer: &Value) -> Vec<(&str, &str, Option<&str>)> {
    let outlooks = answer["outlooks"].as_array().unwrap().iter();
    outlooks
        .map(|one| {
            let text = |key: &str| one[key].as_str();
            let (node, verdict) = (text("node").unwrap(), text("verdict").unwrap());
            (node, verdict, text("address"))
        })
        .collect()
}

#[tokio::test]
async fn what_is_explained_of_a_pod_is_what_it_gets() {
    let scene = Scene::start(&two_zones("profile: fast\nwebhook: {enabled: false}")).await;
    let kubeconfig = scene.plane.kubeconfig();
    let kubeconfig = kubeconfig.to_str().unwrap();
    let key = format!("{}/web-0", scene.namespace);
    let file = manifest(&scene, "web-0");
    let file = file.to_str().unwrap();
    scene.create(&TestPod::fixed("web-0").on_node(NODE_B)).await;
    let had = identity(&scene.running("web-0").await);
    let address = Some(had.address.as_str());

    let from_ledger = scene.ask(&["explain", &key, "-o", "json"]).await;
    assert_eq!(from_ledger["source"], "ledger");
    let args = ["explain", &key, "--kubeconfig", kubeconfig, "-o", "json"];
    let from_cluster = scene.ask(&args).await;
    assert_eq!(from_cluster["source"], "cluster");
    for answer in [&from_ledger, &from_cluster] {
        assert_eq!(outlooks(answer), [(NODE_B, "has", address)]);
        assert_eq!(answer["outlooks"][0]["next"]["verdict"], "keep");
        assert_eq!(
            (&answer["fixed_ip"], &answer["hours"]),
            (&json!("on"), &json!(48))
        );
    }
    let next = scene
        .ask(&["explain", "-f", file, "--zone", ZONE_B, "-o", "json"])
        .await;
    assert_eq!(outlooks(&next)[0], (NODE_B, "wait", None));

    scene.delete("web-0").await;
    scene.has_counts(&[("retained", 1)]).await;
    let next = scene.ask(&["explain", "-f", file, "-o", "json"]).await;
    assert_eq!(
        (&next["source"], &next["hours"]),
        (&json!("manifest"), &json!(5))
    );
    let lines = outlooks(&next);
    assert_eq!(lines[0], (NODE_B, "keep", address));
    assert_eq!(lines[1].1, "new");
    assert_eq!((lines[2].0, lines[2].1), ("ecs-1", "ordinary"));
    assert_eq!(next["outlooks"][1]["reason"], "FixedIPNotReused");
    let table = scene
        .command(&["explain", &key, "--kubeconfig", kubeconfig])
        .await;
    let table = String::from_utf8(table.stdout).unwrap();
    let sentence = format!("{NODE_B}: gets {} ({}) back", had.address, had.eni);
    assert!(
        table.contains(&sentence) && table.contains("retained"),
        "{table}"
    );

    scene.create(&TestPod::fixed("web-0").on_node(NODE_B)).await;
    assert_eq!(identity(&scene.running("web-0").await), had, "as explained");
    refusals(&scene, file, &had.address).await;
}

/// What cannot be answered has an exit code and a sentence of its own.
async fn refusals(scene: &Scene, file: &str, address: &str) {
    let stranger = format!("{}/stranger", scene.namespace);
    for (args, code, sentence) in [
        (&["explain", &stranger][..], 3, "nothing is known of"),
        (
            &["explain", "-f", file, "--node", "n"],
            2,
            "node n is not in the configuration",
        ),
        (
            &["explain", "-f", file, "--zone", "z"],
            2,
            "no node of the configuration is in zone z",
        ),
        (&["explain", &stranger, "-f", file], 2, "and not of"),
    ] {
        let output = scene.command(args).await;
        assert_eq!(output.status.code(), Some(code), "{}", errors(&output));
        assert!(errors(&output).contains(sentence), "{}", errors(&output));
    }
    let past = scene
        .command(&["who", address, "--at", "2020-01-01T00:00:00Z"])
        .await;
    assert_eq!(past.status.code(), Some(3));
    let said = String::from_utf8(past.stdout).unwrap();
    assert!(
        said.contains("unknown") && !said.contains("nobody"),
        "{said}"
    );
}
