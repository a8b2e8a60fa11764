use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::super::objects::testing::Memory;
use super::*;

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn memory() -> Memory {
    let meta = |name: &str| json!({"name": name, "namespace": "shop"});
    let service = |namespace: &str, name: &str, ip: &str| {
        object(json!({
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": ip, "ports": [{"name": "https", "port": 443}]},
        }))
    };
    Memory {
        config_maps: vec![object(
            json!({"metadata": meta("cm"), "data": {"k": "v", "a=b": "x"}}),
        )],
        secrets: vec![object(
            json!({"metadata": meta("sec"), "data": {"s": "aGk="}}),
        )],
        services: vec![
            service("default", "kubernetes", "10.96.0.1"),
            service("default", "other", "10.96.0.2"),
            service("shop", "my-db", "10.96.0.3"),
            service("shop", "headless", "None"),
        ],
        ..Memory::default()
    }
}

fn pod(container: &Value, links: bool) -> Pod {
    let mut container = container.clone();
    container["name"] = json!("app");
    object(json!({
        "metadata": {"name": "web-0", "namespace": "shop"},
        "spec": {"containers": [container], "enableServiceLinks": links},
        "status": {"podIP": "192.168.1.4"},
    }))
}

async fn environment(container: Value, links: bool) -> Result<Environment, String> {
    let (memory, pod) = (memory(), pod(&container, links));
    let once = Once::new(&memory, "shop");
    let container = fields::find(&pod, "app").unwrap();
    let result = resolve(&pod, container, &once, Allocatable::default()).await;
    result.map_err(|error| error.to_string())
}

#[tokio::test]
async fn values_come_from_everywhere() {
    let env = json!([
        {"name": "PLAIN", "value": "x"},
        {"name": "EMPTY"},
        {"name": "EXPANDED", "value": "$(PLAIN)-$(P_k)-$(MY_DB_SERVICE_HOST)-$(LATER)-$$(PLAIN)"},
        {"name": "LATER", "value": "y"},
        {"name": "CM", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
        {"name": "SEC", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "s"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
        {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "k", "optional": true}}},
        {"name": "NOKEY", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "no", "optional": true}}},
    ]);
    let env_from = json!([
        {"prefix": "P_", "configMapRef": {"name": "cm"}},
        {"secretRef": {"name": "sec"}},
        {"secretRef": {"name": "no", "optional": true}},
    ]);
    let got = environment(json!({"env": env, "envFrom": env_from}), true)
        .await
        .unwrap();
    for (name, want) in [
        ("PLAIN", Some("x")),
        ("EMPTY", Some("")),
        ("EXPANDED", Some("x-v-10.96.0.3-$(LATER)-$(PLAIN)")),
        ("CM", Some("v")),
        ("SEC", Some("hi")),
        ("s", Some("hi")),
        ("P_k", Some("v")),
        ("IP", Some("192.168.1.4")),
        ("CPU", Some("0")),
        ("NONE", None),
        ("NOKEY", None),
    ] {
        assert_eq!(got.variables.get(name).map(String::as_str), want, "{name}");
    }
    assert_eq!(got.invalid_names, ["P_a=b"]);
}

#[tokio::test]
async fn services_are_told_and_the_pods_own_values_go_first() {
    let env = json!([{"name": "MY_DB_PORT", "value": "mine"}]);
    let got = environment(json!({"env": env}), true)
        .await
        .unwrap()
        .variables;
    for (name, want) in [
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
        ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
        ("KUBERNETES_PORT_443_TCP", "tcp://10.96.0.1:443"),
        ("KUBERNETES_PORT_443_TCP_PROTO", "tcp"),
        ("KUBERNETES_PORT_443_TCP_PORT", "443"),
        ("KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"),
        ("MY_DB_SERVICE_HOST", "10.96.0.3"),
        ("MY_DB_PORT", "mine"),
    ] {
        assert_eq!(got[name], want, "{name}");
    }
    let other = |name: &&String| name.starts_with("OTHER") || name.starts_with("HEADLESS");
    assert_eq!(got.keys().find(other), None);
    let bare = environment(json!({}), false).await.unwrap().variables;
    assert!(
        bare.keys().all(|name| name.starts_with("KUBERNETES_")),
        "{bare:?}"
    );
}

#[tokio::test]
async fn what_the_downward_api_does_not_have_is_named_in_the_kubelets_words() {
    let env = |from: Value| json!({"env": [{"name": "X", "valueFrom": from}]});
    for (container, want) in [
        (
            env(json!({"fieldRef": {"fieldPath": "spec.x"}})),
            "unsupported fieldPath: spec.x",
        ),
        (
            env(json!({"resourceFieldRef": {"resource": "limits.x"}})),
            "unsupported container resource: limits.x",
        ),
    ] {
        assert_eq!(environment(container, true).await.unwrap_err(), want);
    }
}

#[tokio::test]
async fn what_is_not_there_any_more_sets_nothing() {
    let env = |from: Value| json!({"env": [{"name": "X", "valueFrom": from}]});
    for container in [
        env(json!({"configMapKeyRef": {"name": "no", "key": "k"}})),
        env(json!({"configMapKeyRef": {"name": "cm", "key": "z"}})),
        env(json!({"secretKeyRef": {"name": "no", "key": "k"}})),
        env(json!({"secretKeyRef": {"name": "sec", "key": "z"}})),
        json!({"envFrom": [{"configMapRef": {"name": "no"}}]}),
        json!({"envFrom": [{"secretRef": {"name": "no"}}]}),
    ] {
        let bare = environment(json!({}), true).await;
        assert_eq!(
            environment(container.clone(), true).await,
            bare,
            "{container}"
        );
    }
}

#[tokio::test]
async fn no_more_is_taken_than_a_process_can_be_started_with() {
    let long = |bytes: usize| json!({"name": "A", "value": "a".repeat(bytes)});
    let twice = |of: &str, name: &str| json!({"name": name, "value": format!("$({of})$({of})")});
    let fits = json!({"env": [long(1000), twice("A", "B"), twice("B", "C")]});
    let got = environment(fits, true).await.unwrap();
    assert_eq!(got.variables["C"].len(), 4000);
    let copies: Vec<_> = (0..20)
        .map(|n| json!({"name": format!("X{n}"), "value": "$(A)"}))
        .collect();
    let many = [vec![long(120_000)], copies].concat();
    for env in [
        json!([long(128 << 10)]),
        json!([long(40_000), twice("A", "B"), twice("B", "C")]),
        json!([long(1000), {"name": "B", "value": "$(A)".repeat(100_000)}]),
        json!(many),
    ] {
        let refused = environment(json!({"env": env}), true).await;
        assert_eq!(refused.unwrap_err(), "argument list too long");
    }
}

#[tokio::test]
async fn an_object_is_read_once() {
    let env: Vec<_> = (0..10)
        .map(|n| json!({"name": format!("X{n}"), "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}))
        .collect();
    let (memory, pod) = (memory(), pod(&json!({"env": env}), true));
    let once = Once::new(&memory, "shop");
    let container = fields::find(&pod, "app").unwrap();
    resolve(&pod, container, &once, Allocatable::default())
        .await
        .unwrap();
    assert_eq!(memory.asked.load(Ordering::Relaxed), 1);
}
