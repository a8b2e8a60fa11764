//! What holdfast may do in a cluster: the rights of `examples/in-cluster.yaml`, and no other.

use serde_json::json;

use crate::support::*;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/in-cluster.yaml");
/// What of the example gives rights, or has them.
const KINDS: [&str; 6] = [
    "Namespace",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
];

/// The part of the example that is about rights, as a file of its own.
fn rights(scene: &Scene) -> String {
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    let kind = |document: &&str| {
        let line = document
            .lines()
            .find_map(|line| line.strip_prefix("kind: "));
        line.is_some_and(|kind| KINDS.contains(&kind))
    };
    let documents: Vec<_> = text.split("\n---\n").filter(kind).collect();
    let path = scene.dir.path().join("rights.yaml");
    std::fs::write(&path, documents.join("\n---\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// From now on holdfast comes as the example's service account.
async fn as_in_the_example(scene: &mut Scene) {
    let created = scene
        .plane
        .kubectl(&["create", "token", "holdfast", "-n", "holdfast"])
        .await;
    let token = format!("--token={}", created.unwrap().trim());
    let path = scene.dir.path().join("kubeconfig");
    std::fs::copy(&scene.kubeconfig, &path).unwrap();
    let file = format!("--kubeconfig={}", path.display());
    for change in [
        ["set-credentials", "example", &token],
        ["set-context", "--current", "--user=example"],
    ] {
        let args = [&[file.as_str(), "config"], &change[..]].concat();
        scene.plane.kubectl(&args).await.unwrap();
    }
    scene.kubeconfig = path;
}

#[tokio::test]
async fn the_rights_of_the_example_are_all_that_holdfast_needs() {
    let plane = holdfast_testbed::lease().await.unwrap();
    let mut scene = Scene::prepare(plane, &two_zones("profile: fast")).await;
    let rights = rights(&scene);
    scene
        .plane
        .kubectl(&["apply", "-f", &rights])
        .await
        .unwrap();
    as_in_the_example(&mut scene).await;
    scene.spawn(&[]).await;
    scene.is_serving().await;

    let namespace = scene.namespace.clone();
    let kubectl = async |args: &[&str]| {
        let args = [&["-n", &namespace], args].concat();
        scene.plane.kubectl(&args).await.unwrap()
    };
    kubectl(&["create", "configmap", "settings", "--from-literal=a=b"]).await;
    kubectl(&[
        "create",
        "secret",
        "generic",
        "password",
        "--from-literal=a=b",
    ])
    .await;
    let pod = TestPod::fixed("web-0").in_zone(ZONE_B).with(&json!({
        "containers": [{
            "name": "main", "image": "nginx",
            "envFrom": [{"configMapRef": {"name": "settings"}}],
            "volumeMounts": [{"name": "password", "mountPath": "/password"}],
        }],
        "volumes": [{"name": "password", "secret": {"secretName": "password"}}],
    }));
    scene.create(&pod).await;
    let first = scene.running("web-0").await;
    kubectl(&["logs", "web-0"]).await;
    let run = ["exec", "web-0", "--", "sh", "-c"];
    let told =
        kubectl(&[&run[..], &["echo $a; cat /password/a; echo; hostname -i"]].concat()).await;
    assert_eq!(told, format!("b\nb\n{}\n", address(&first).unwrap()));
    kubectl(&["cp", EXAMPLE, "web-0:/tmp/example"]).await;
    scene.delete("web-0").await;
    scene.is_gone("web-0").await;
    scene.create(&pod).await;
    let second = scene.running("web-0").await;
    assert_eq!(identity(&second), identity(&first));
    scene.stop().await;
    let kubeconfig = scene.kubeconfig.to_str().unwrap();
    let output = scene
        .command(&["uninstall", "--kubeconfig", kubeconfig])
        .await;
    assert!(output.status.success(), "{output:?}");
    let log = scene.log();
    assert!(!log.contains("forbidden"), "{log}");
    scene
        .plane
        .kubectl(&["delete", "-f", &rights, "--wait=false"])
        .await
        .unwrap();
}
