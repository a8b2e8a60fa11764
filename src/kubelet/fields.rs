//! The downward API: what a container may know of its pod.
//!
//! Owns field paths, resource fields and `$(NAME)`, with the kubelet's rules (kubernetes/kubernetes,
//! pkg/fieldpath, pkg/api/v1/resource and third_party/forked/golang/expansion).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Container, Pod, PodIP, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod::quantity;

/// What a node has, for containers without a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocatable {
    /// CPU in thousandths of a core.
    pub cpu_milli: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Local storage in bytes.
    pub storage_bytes: u64,
}

/// The value of a field path; `None` for a path that is not supported.
pub(super) fn field(pod: &Pod, path: &str) -> Option<String> {
    let (meta, spec, status) = (&pod.metadata, pod.spec.as_ref(), pod.status.as_ref());
    let text = |value: Option<&String>| Some(value.cloned().unwrap_or_default());
    if let Some((of, key)) = path
        .strip_suffix("']")
        .and_then(|path| path.split_once("['"))
    {
        let map = match of {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return None,
        };
        return text(map.as_ref().and_then(|map| map.get(key)));
    }
    match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => Some(listed(meta.labels.as_ref())),
        "metadata.annotations" => Some(listed(meta.annotations.as_ref())),
        "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.hostIP" => text(status.and_then(|status| status.host_ip.as_ref())),
        "status.podIP" => text(status.and_then(|status| status.pod_ip.as_ref())),
        "status.hostIPs" => {
            let ips = status
                .and_then(|status| status.host_ips.as_deref())
                .unwrap_or_default();
            Some(
                ips.iter()
                    .map(|one| one.ip.clone())
                    .collect::<Vec<_>>()
                    .join(","),
            )
        }
        "status.podIPs" => {
            let ips = status
                .and_then(|status| status.pod_ips.as_deref())
                .unwrap_or_default();
            let ips: Vec<&str> = ips.iter().map(|PodIP { ip }| &**ip).collect();
            Some(ips.join(","))
        }
        _ => None,
    }
}

/// `key="value"`, one a line.
fn listed(map: Option<&BTreeMap<String, String>>) -> String {
    let mut text = String::new();
    for (key, value) in map.into_iter().flatten() {
        if !text.is_empty() {
            text.push('\n');
        }
        // A String takes all text.
        let _ = write!(text, "{key}={value:?}");
    }
    text
}

/// The value of a resource field of a container; `None` for one that is not supported.
pub(super) fn resource(
    pod: &Pod,
    container: &str,
    selector: &ResourceFieldSelector,
    node: Allocatable,
) -> Option<String> {
    let name = selector
        .container_name
        .as_deref()
        .filter(|name| !name.is_empty());
    let container = find(pod, name.unwrap_or(container))?;
    let (kind, resource) = selector.resource.split_once('.')?;
    let resources = container.resources.as_ref();
    let of = |map: Option<&BTreeMap<String, Quantity>>| Some(map?.get(resource)?.0.clone());
    let given = match kind {
        "limits" => of(resources.and_then(|all| all.limits.as_ref())),
        "requests" => of(resources.and_then(|all| all.requests.as_ref())),
        _ => return None,
    };
    let divisor = selector.divisor.as_ref().map_or("0", |divisor| &*divisor.0);
    let (value, divisor) = if resource == "cpu" {
        let value = given.map_or(Some(node.cpu_milli), |given| quantity::milli(&given));
        (value, quantity::milli(divisor)?)
    } else {
        let from_node = match resource {
            "memory" => node.memory_bytes,
            "ephemeral-storage" => node.storage_bytes,
            hugepages if hugepages.starts_with("hugepages-") => 0,
            _ => return None,
        };
        let value = given.map_or(Some(from_node), |given| quantity::bytes(&given));
        (value, quantity::bytes(divisor)?)
    };
    let none =
        kind == "requests" && !has(resources.and_then(|all| all.requests.as_ref()), resource);
    let value = if none { 0 } else { value? };
    let unit = if resource == "cpu" { 1000 } else { 1 };
    // A divisor that is not given, or 0, is 1.
    let divisor = if divisor == 0 { unit } else { divisor };
    Some(value.div_ceil(divisor).to_string())
}

fn has(map: Option<&BTreeMap<String, Quantity>>, resource: &str) -> bool {
    map.is_some_and(|map| map.contains_key(resource))
}

/// The specification of a container or init container.
pub(super) fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    let mut all = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    all.find(|container| container.name == name)
}

/// Replaces `$(NAME)` by what `value` says; `$$` is a dollar, and unknown names stay as they are.
pub(super) fn expanded(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = after
            .strip_prefix('(')
            .and_then(|after| after.split_once(')'))
        {
            match value(name) {
                Some(value) => result.push_str(&value),
                None => {
                    // A String takes all text.
                    let _ = write!(result, "$({name})");
                }
            }
            rest = after;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "web-0", "namespace": "shop", "uid": "u1",
                "labels": {"app": "web", "b": "say \"x\""}, "annotations": {"example.com/a": "1"},
            },
            "spec": {
                "nodeName": "vk-b", "serviceAccountName": "robot",
                "containers": [
                    {"name": "app", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}},
                    {"name": "bare"},
                ],
            },
            "status": {
                "podIP": "192.168.1.4", "podIPs": [{"ip": "192.168.1.4"}, {"ip": "fd00::4"}],
                "hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.1"}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn fields_of_the_pod_are_known() {
        for (path, want) in [
            ("metadata.name", Some("web-0")),
            ("metadata.namespace", Some("shop")),
            ("metadata.uid", Some("u1")),
            ("metadata.labels['app']", Some("web")),
            ("metadata.labels['none']", Some("")),
            ("metadata.annotations['example.com/a']", Some("1")),
            ("metadata.labels", Some("app=\"web\"\nb=\"say \\\"x\\\"\"")),
            ("spec.nodeName", Some("vk-b")),
            ("spec.serviceAccountName", Some("robot")),
            ("status.podIP", Some("192.168.1.4")),
            ("status.podIPs", Some("192.168.1.4,fd00::4")),
            ("status.hostIP", Some("10.0.0.1")),
            ("status.hostIPs", Some("10.0.0.1")),
            ("spec.containers", None),
            ("spec.labels['app']", None),
        ] {
            assert_eq!(field(&pod(), path).as_deref(), want, "{path}");
        }
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let node = Allocatable {
            cpu_milli: 8000,
            memory_bytes: 1 << 30,
            storage_bytes: 7,
        };
        for (container, resource_name, divisor, want) in [
            ("app", "limits.cpu", None, Some("2")),
            ("app", "limits.cpu", Some("1m"), Some("1500")),
            ("app", "limits.cpu", Some("0"), Some("2")),
            ("app", "requests.cpu", None, Some("1")),
            ("app", "limits.memory", None, Some("67108864")),
            ("app", "limits.memory", Some("1Mi"), Some("64")),
            ("app", "limits.memory", Some("50Mi"), Some("2")),
            ("app", "requests.memory", None, Some("0")),
            ("bare", "limits.cpu", None, Some("8")),
            ("bare", "limits.memory", Some("1Gi"), Some("1")),
            ("bare", "limits.ephemeral-storage", None, Some("7")),
            ("bare", "limits.gpu", None, None),
            ("none", "limits.cpu", None, None),
        ] {
            let selector = ResourceFieldSelector {
                resource: resource_name.into(),
                divisor: divisor.map(|divisor| Quantity(divisor.to_owned())),
                container_name: None,
            };
            let got = resource(&pod(), container, &selector, node);
            assert_eq!(
                got.as_deref(),
                want,
                "{container} {resource_name} {divisor:?}"
            );
        }
    }

    #[test]
    fn names_are_expanded_as_the_kubelet_does() {
        for (text, want) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("$()", "$()"),
        ] {
            let value = |name: &str| (name == "A").then(|| "1".to_owned());
            assert_eq!(expanded(text, value), want, "{text}");
        }
    }
}
