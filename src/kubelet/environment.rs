//! The environment of a container.
//!
//! Owns the kubelet's rules for `env`, `envFrom` and the variables of Services
//! (kubernetes/kubernetes, pkg/kubelet/kubelet_pods.go, `makeEnvironmentVariables`, and
//! pkg/kubelet/envvars). What an image or a runtime adds is not known here, nor whether a container may start
//! ([`crate::pod`]): one that runs has started, and may well outlive what it names. What is not there any more sets
//! nothing.

use std::cell::Cell;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, Pod, Service, ServicePort};

use super::fields::{self, Allocatable};
use super::objects::{Objects, Once, Unreadable};

/// Longest string that Linux starts a process with (MAX_ARG_STRLEN).
const STRING_BYTES_MAX: usize = 128 << 10;
/// Most of all of them: a quarter of the usual stack.
const BYTES_MAX: usize = 2 << 20;

/// Why there is no environment, in the kubelet's words: the message of `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
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
    /// More than a process can be started with, in the words of strerror.
    #[error("argument list too long")]
    TooLong,
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
    /// What the variables take of what a process can be started with.
    bytes: usize,
}

impl Environment {
    fn set(&mut self, name: String, value: String) -> Result<(), EnvironmentError> {
        // The name, `=`, the value, NUL and a pointer, as execve(2) counts.
        let cost = |name: &str, value: &str| name.len() + value.len() + 2 + 8;
        let old = self.variables.get(&name).map_or(0, |old| cost(&name, old));
        let bytes = self.bytes - old + cost(&name, &value);
        if name.len() + value.len() + 2 > STRING_BYTES_MAX || bytes > BYTES_MAX {
            return Err(EnvironmentError::TooLong);
        }
        self.bytes = bytes;
        self.variables.insert(name, value);
        Ok(())
    }
}

/// A value with its `$(NAME)` replaced, unless it becomes longer than a process can have it.
pub(super) fn expanded(
    text: &str,
    known: impl Fn(&str) -> Option<String>,
) -> Result<String, EnvironmentError> {
    let bytes = Cell::new(text.len());
    let value = |name: &str| {
        let value = known(name)?;
        bytes.set(bytes.get() + value.len());
        // Nothing is put in once it is too long: it must not grow first to be refused then.
        let fits = bytes.get() <= STRING_BYTES_MAX;
        Some(if fits { value } else { String::new() })
    };
    let result = fields::expanded(text, value);
    let fits = bytes.get() <= STRING_BYTES_MAX;
    fits.then_some(result).ok_or(EnvironmentError::TooLong)
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
            Some(value) => Some(expanded(value, known)?),
            None => from_field(pod, &container.name, variable, objects, node).await?,
        };
        if let Some(value) = value {
            environment.set(variable.name.clone(), value)?;
        }
    }
    for (name, value) in services {
        if !environment.variables.contains_key(&name) {
            environment.set(name, value)?;
        }
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
            return environment.set(name, value);
        }
        environment.invalid_names.push(name);
        Ok(())
    };
    if let Some(reference) = &source.config_map_ref {
        let map = objects.config_map(&reference.name).await?;
        for (key, value) in map.and_then(|map| map.data).unwrap_or_default() {
            add(&key, value)?;
        }
    } else if let Some(reference) = &source.secret_ref {
        let secret = objects.secret(&reference.name).await?;
        for (key, value) in secret.and_then(|secret| secret.data).unwrap_or_default() {
            add(&key, String::from_utf8_lossy(&value.0).into_owned())?;
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

/// The value of a variable with `valueFrom`, `None` where it leads to nothing.
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
    if let Some(reference) = &source.config_map_key_ref {
        let map = objects.config_map(&reference.name).await?;
        let mut data = map.and_then(|map| map.data).unwrap_or_default();
        return Ok(data.remove(&reference.key));
    }
    if let Some(reference) = &source.secret_key_ref {
        let secret = objects.secret(&reference.name).await?;
        let mut data = secret.and_then(|secret| secret.data).unwrap_or_default();
        let value = data.remove(&reference.key);
        return Ok(value.map(|value| String::from_utf8_lossy(&value.0).into_owned()));
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
mod tests;
