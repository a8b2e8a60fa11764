//! The environment of a container.
//!
//! Owns the kubelet's rules for `env`, `envFrom` and the variables of Services
//! (kubernetes/kubernetes, pkg/kubelet/kubelet_pods.go, `makeEnvironmentVariables`, and
//! pkg/kubelet/envvars). What an image or a runtime adds is not known here.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, Pod, Service, ServicePort};

use super::fields::{self, Allocatable};
use super::objects::{Objects, Once, Unreadable};

/// Why a container cannot be configured, in the kubelet's words: the message of
/// `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// A ConfigMap that must be there is not.
    #[error("configmap {name:?} not found")]
    ConfigMapNotFound {
        /// Its name.
        name: String,
    },
    /// A Secret that must be there is not.
    #[error("secret {name:?} not found")]
    SecretNotFound {
        /// Its name.
        name: String,
    },
    /// A ConfigMap lacks a key.
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    ConfigMapKeyNotFound {
        /// The key.
        key: String,
        /// Namespace of the ConfigMap.
        namespace: String,
        /// Name of the ConfigMap.
        name: String,
    },
    /// A Secret lacks a key.
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    SecretKeyNotFound {
        /// The key.
        key: String,
        /// Namespace of the Secret.
        namespace: String,
        /// Name of the Secret.
        name: String,
    },
    /// A field that the downward API does not have.
    #[error("unsupported fieldPath: {path}")]
    UnsupportedField {
        /// The path.
        path: String,
    },
    /// A resource that the downward API does not have, or of a container that there is not.
    #[error("unsupported container resource: {resource}")]
    UnsupportedResource {
        /// The resource.
        resource: String,
    },
    /// An object could not be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// A container's environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Values by name.
    pub variables: BTreeMap<String, String>,
    /// Keys of `envFrom` that are no names of variables, for the event
    /// `InvalidEnvironmentVariableNames`.
    pub invalid_names: Vec<String>,
}

/// The environment of a container of a pod whose status has its address.
pub(super) async fn resolve<O: Objects>(
    pod: &Pod,
    container: &Container,
    objects: &Once<'_, O>,
    node: Allocatable,
) -> Result<Environment, EnvironmentError> {
    let mut services = service_variables(pod, objects).await?;
    let mut environment = Environment::default();
    for source in container.env_from.iter().flatten() {
        from_source(source, objects, &mut environment).await?;
    }
    for variable in container.env.iter().flatten() {
        services.remove(&variable.name);
        let known = |name: &str| {
            let own = environment.variables.get(name);
            own.or_else(|| services.get(name)).cloned()
        };
        let value = match variable.value.as_deref().filter(|value| !value.is_empty()) {
            Some(value) => Some(fields::expanded(value, known)),
            None => from_field(pod, &container.name, variable, objects, node).await?,
        };
        // An optional reference to nothing sets nothing.
        if let Some(value) = value {
            environment.variables.insert(variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        environment.variables.entry(name).or_insert(value);
    }
    Ok(environment)
}

async fn from_source<O: Objects>(
    source: &EnvFromSource,
    objects: &Once<'_, O>,
    environment: &mut Environment,
) -> Result<(), EnvironmentError> {
    let prefix = source.prefix.as_deref().unwrap_or_default();
    let mut add = |key: &str, value: String| {
        let name = format!("{prefix}{key}");
        if is_name(&name) {
            environment.variables.insert(name, value);
        } else {
            environment.invalid_names.push(name);
        }
    };
    if let Some(reference) = &source.config_map_ref {
        match objects.config_map(&reference.name).await? {
            Some(map) => {
                for (key, value) in map.data.unwrap_or_default() {
                    add(&key, value);
                }
            }
            None if reference.optional == Some(true) => {}
            None => {
                let name = reference.name.clone();
                return Err(EnvironmentError::ConfigMapNotFound { name });
            }
        }
    } else if let Some(reference) = &source.secret_ref {
        match objects.secret(&reference.name).await? {
            Some(secret) => {
                for (key, value) in secret.data.unwrap_or_default() {
                    add(&key, String::from_utf8_lossy(&value.0).into_owned());
                }
            }
            None if reference.optional == Some(true) => {}
            None => {
                let name = reference.name.clone();
                return Err(EnvironmentError::SecretNotFound { name });
            }
        }
    }
    Ok(())
}

/// Whether the API allows a variable of this name: printable ASCII but `=` (KEP-4369).
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=')
}

/// The value of a variable with `valueFrom`, `None` where an optional reference leads to nothing.
async fn from_field<O: Objects>(
    pod: &Pod,
    container: &str,
    variable: &EnvVar,
    objects: &Once<'_, O>,
    node: Allocatable,
) -> Result<Option<String>, EnvironmentError> {
    let Some(source) = &variable.value_from else {
        return Ok(Some(String::new()));
    };
    if let Some(field) = &source.field_ref {
        let path = field.field_path.clone();
        let value = fields::field(pod, &path);
        return value
            .map(Some)
            .ok_or(EnvironmentError::UnsupportedField { path });
    }
    if let Some(selector) = &source.resource_field_ref {
        let value = fields::resource(pod, container, selector, node);
        return value
            .map(Some)
            .ok_or_else(|| EnvironmentError::UnsupportedResource {
                resource: selector.resource.clone(),
            });
    }
    let namespace = objects.namespace().to_owned();
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let (name, key) = (reference.name.clone(), reference.key.clone());
        let Some(map) = objects.config_map(&name).await? else {
            let missing = EnvironmentError::ConfigMapNotFound { name };
            return if optional { Ok(None) } else { Err(missing) };
        };
        return match map.data.unwrap_or_default().remove(&key) {
            Some(value) => Ok(Some(value)),
            None if optional => Ok(None),
            None => Err(EnvironmentError::ConfigMapKeyNotFound {
                key,
                namespace,
                name,
            }),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let (name, key) = (reference.name.clone(), reference.key.clone());
        let Some(secret) = objects.secret(&name).await? else {
            let missing = EnvironmentError::SecretNotFound { name };
            return if optional { Ok(None) } else { Err(missing) };
        };
        return match secret.data.unwrap_or_default().remove(&key) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(EnvironmentError::SecretKeyNotFound {
                key,
                namespace,
                name,
            }),
        };
    }
    Ok(Some(String::new()))
}

/// The variables that tell of Services: of `kubernetes` always, of those beside the pod unless
/// `enableServiceLinks` is false.
async fn service_variables<O: Objects>(
    pod: &Pod,
    objects: &Once<'_, O>,
) -> Result<BTreeMap<String, String>, Unreadable> {
    const MASTER: (&str, &str) = ("default", "kubernetes");
    let mut variables = BTreeMap::new();
    for service in objects.objects.services(MASTER.0).await? {
        if service.metadata.name.as_deref() == Some(MASTER.1) {
            add_service(&service, &mut variables);
        }
    }
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links);
    if links.unwrap_or(true) {
        for service in objects.objects.services(objects.namespace()).await? {
            add_service(&service, &mut variables);
        }
    }
    Ok(variables)
}

fn add_service(service: &Service, variables: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let address = spec.cluster_ip.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports
        .first()
        .filter(|_| !address.is_empty() && address != "None")
    else {
        return;
    };
    let env_name = |name: &str| name.to_uppercase().replace('-', "_");
    let name = env_name(service.metadata.name.as_deref().unwrap_or_default());
    let host = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    };
    let mut set = |key: String, value: String| {
        variables.insert(format!("{name}_{key}"), value);
    };
    set("SERVICE_HOST".into(), address.into());
    set("SERVICE_PORT".into(), first.port.to_string());
    for port in ports {
        if let Some(port_name) = port
            .name
            .as_deref()
            .filter(|port_name| !port_name.is_empty())
        {
            set(
                format!("SERVICE_PORT_{}", env_name(port_name)),
                port.port.to_string(),
            );
        }
    }
    let protocol = |port: &ServicePort| port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let url =
        |port: &ServicePort| format!("{}://{host}:{}", protocol(port).to_lowercase(), port.port);
    set("PORT".into(), url(first));
    for port in ports {
        let prefix = format!("PORT_{}_{}", port.port, protocol(port).to_uppercase());
        set(prefix.clone(), url(port));
        set(format!("{prefix}_PROTO"), protocol(port).to_lowercase());
        set(format!("{prefix}_PORT"), port.port.to_string());
        set(format!("{prefix}_ADDR"), address.into());
    }
}

#[cfg(test)]
mod tests {
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
    async fn what_is_missing_is_named_in_the_kubelets_words() {
        let env = |from: Value| json!({"env": [{"name": "X", "valueFrom": from}]});
        for (container, want) in [
            (
                env(json!({"configMapKeyRef": {"name": "no", "key": "k"}})),
                "configmap \"no\" not found",
            ),
            (
                env(json!({"configMapKeyRef": {"name": "cm", "key": "z"}})),
                "couldn't find key z in ConfigMap shop/cm",
            ),
            (
                env(json!({"secretKeyRef": {"name": "no", "key": "k"}})),
                "secret \"no\" not found",
            ),
            (
                env(json!({"secretKeyRef": {"name": "sec", "key": "z"}})),
                "couldn't find key z in Secret shop/sec",
            ),
            (
                env(json!({"fieldRef": {"fieldPath": "spec.x"}})),
                "unsupported fieldPath: spec.x",
            ),
            (
                env(json!({"resourceFieldRef": {"resource": "limits.x"}})),
                "unsupported container resource: limits.x",
            ),
            (
                json!({"envFrom": [{"configMapRef": {"name": "no"}}]}),
                "configmap \"no\" not found",
            ),
            (
                json!({"envFrom": [{"secretRef": {"name": "no"}}]}),
                "secret \"no\" not found",
            ),
        ] {
            assert_eq!(environment(container, true).await.unwrap_err(), want);
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
}
