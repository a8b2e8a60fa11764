//! The files in `examples/`: each is accepted, and says what it is there to show.

use std::path::Path;

use serde_json::Value;

use super::{BASE, accepted};

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn example(name: &str) -> String {
    file(&format!("examples/{name}"))
}

#[test]
fn every_example_configuration_is_accepted() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let names: Vec<String> = std::fs::read_dir(examples)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| {
            name.starts_with("holdfast") && Path::new(name).extension() == Some("yaml".as_ref())
        })
        .collect();

    assert!(names.contains(&"holdfast.yaml".to_owned()), "{names:?}");
    for name in names {
        accepted(&example(&name));
    }
}

#[test]
fn the_example_shows_the_defaults() {
    let (shown, default) = (accepted(&example("holdfast.yaml")), accepted(BASE));

    assert_eq!(shown.cluster, default.cluster);
    assert_eq!(shown.ledger, default.ledger);
    assert_eq!(shown.profile, default.profile);
    assert_eq!(shown.retention, default.retention);
    assert_eq!(shown.unsupported_class, default.unsupported_class);
    assert_eq!(shown.capacity, default.capacity);
    assert_eq!(shown.delays, default.delays);
    assert_eq!(shown.cloud, default.cloud);
    assert_eq!(shown.history_days, default.history_days);
    assert_eq!(shown.kubelet, default.kubelet);
    assert_eq!(shown.webhook, default.webhook);
}

/// Whether there is something at a path such as `nodes[].zone`.
fn has(value: &Value, path: &str) -> bool {
    let (key, rest) = path.split_once('.').unwrap_or((path, ""));
    let below = |value: &Value| rest.is_empty() || has(value, rest);
    match key.strip_suffix("[]") {
        Some(list) => value[list]
            .as_array()
            .is_some_and(|all| all.iter().any(below)),
        None => value.get(key).is_some_and(below),
    }
}

#[test]
fn the_example_has_every_key_of_the_reference() {
    let mut text = example("holdfast.yaml");
    // Those that are commented out are there as well.
    for begin in ["cluster: ", "- {", "faults: ", "service: "] {
        text = text.replace(&format!("# {begin}"), begin);
    }
    let whole: Value = serde_saphyr::from_str(&text).unwrap();
    let readme = file("README.md");
    let (_, reference) = readme.split_once("\n## Configuration\n").unwrap();
    let (reference, _) = reference.split_once("\n## ").unwrap();
    let mut parent = "";
    let rows = reference.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split(" | ").next().unwrap());
    for key in cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)) {
        // `.port` stands for `webhook.port` behind `webhook.address`.
        let path = key.strip_prefix('.').map(|last| format!("{parent}.{last}"));
        let path = path.as_deref().unwrap_or(key);
        assert!(has(&whole, path), "{path}");
        if !key.starts_with('.') {
            parent = key.rsplit_once('.').map_or("", |(parent, _)| parent);
        }
    }
    assert_eq!(parent, "webhook", "the table was read to its end");
}

#[test]
fn the_configuration_inside_the_in_cluster_example_fits_the_objects_around_it() {
    let objects: Vec<Value> = serde_saphyr::from_multiple(&example("in-cluster.yaml")).unwrap();
    let object = |kind: &str| {
        let found = objects.iter().find(|object| object["kind"] == kind);
        found.unwrap_or_else(|| panic!("there is no {kind}"))
    };
    let config = accepted(
        object("ConfigMap")["data"]["holdfast.yaml"]
            .as_str()
            .unwrap(),
    );
    let service = config.webhook.service.as_ref().unwrap();
    let container = &object("StatefulSet")["spec"]["template"]["spec"]["containers"][0];
    // The nodes publish the address of the pod, at which the API server finds them.
    assert_eq!(config.kubelet.address.to_string(), "10.1.2.3");
    let variable = &container["env"][0];
    assert_eq!(variable["name"], "POD_IP");
    assert_eq!(
        variable["valueFrom"]["fieldRef"]["fieldPath"],
        "status.podIP"
    );
    let ports = container["ports"].as_array().unwrap();
    for node in &config.nodes {
        let is_theirs = |port: &&Value| port["containerPort"] == node.kubelet_port;
        assert!(ports.iter().any(|port| is_theirs(&port)), "{}", node.name);
    }

    let metadata = &object("Service")["metadata"];
    assert_eq!(metadata["namespace"], *service.namespace);
    assert_eq!(metadata["name"], *service.name);
    assert_eq!(object("Service")["spec"]["ports"][0]["port"], service.port);
    assert_eq!(container["ports"][0]["containerPort"], config.webhook.port);
    let mounts = container["volumeMounts"].as_array().unwrap();
    let ledger = mounts
        .iter()
        .find(|mount| mount["name"] == "ledger")
        .unwrap();
    assert!(
        config
            .ledger
            .starts_with(ledger["mountPath"].as_str().unwrap())
    );
}
