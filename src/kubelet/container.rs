//! Puts a simulated container together: environment, files and scratch of one exec.
//!
//! Owns what an image and a runtime would bring, which is little. The rules for environment and
//! volumes are beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::environment::{self, EnvironmentError};
use super::fields::{self, Allocatable};
use super::hosts::{self, Dns};
use super::objects::{Objects, Once};
use super::scratch::ScratchStore;
use super::shell::{Clock, World};
use super::tree::{Node, Tree, TreePath};
use super::volumes::{self, MountError};

/// What a container sees of its node.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// How names are resolved.
    pub dns: Dns,
    /// What the node has.
    pub allocatable: Allocatable,
}

/// Why a container that runs cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The pod has no such container.
    #[error("container {0:?} not found in the pod")]
    NotFound(String),
    /// Its environment cannot be made: `CreateContainerConfigError`.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// A volume cannot be mounted: `FailedMount`.
    #[error(transparent)]
    Mount(#[from] MountError),
}

/// The world of a container, from the pod with its status and the objects that it refers to.
///
/// An ephemeral container has its own name, variables, mounts and files, like any other; address, host
/// names and volumes are the pod's.
pub async fn world<O: Objects>(
    pod: Arc<Pod>,
    container: &str,
    objects: &O,
    node: &NodeFacts,
    scratch: &ScratchStore,
    mac: Option<String>,
    clock: Clock,
) -> Result<World, ContainerError> {
    let now = clock();
    let spec = specification(&pod, container)
        .ok_or_else(|| ContainerError::NotFound(container.to_owned()))?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let once = Once::new(objects, namespace);
    let own = environment::resolve(&pod, &spec, &once, node.allocatable).await?;
    let mut variables = BTreeMap::from([
        ("HOME".to_owned(), "/root".to_owned()),
        ("HOSTNAME".to_owned(), hosts::host_name(&pod)),
        (
            "PATH".to_owned(),
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ),
    ]);
    variables.extend(own.variables);
    let mut files = image(&pod, &spec, node, now);
    let read_only = volumes::mount(
        &pod,
        &spec,
        &once,
        node.allocatable,
        &variables,
        now,
        &mut files,
    )
    .await?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    Ok(World {
        container: container.to_owned(),
        environment: variables.into_iter().collect(),
        files,
        read_only,
        scratch: scratch.of(uid, container),
        mac,
        clock,
        pod: Arc::clone(&pod),
    })
}

/// The specification of a container of any kind.
pub(super) fn specification(pod: &Pod, name: &str) -> Option<Container> {
    if let Some(container) = fields::find(pod, name) {
        return Some(container.clone());
    }
    let ephemeral = pod.spec.as_ref()?.ephemeral_containers.as_ref()?;
    let ephemeral = ephemeral.iter().find(|one| one.name == name)?;
    Some(Container {
        name: ephemeral.name.clone(),
        command: ephemeral.command.clone(),
        args: ephemeral.args.clone(),
        stdin: ephemeral.stdin,
        stdin_once: ephemeral.stdin_once,
        tty: ephemeral.tty,
        env: ephemeral.env.clone(),
        env_from: ephemeral.env_from.clone(),
        volume_mounts: ephemeral.volume_mounts.clone(),
        working_dir: ephemeral.working_dir.clone(),
        ..Container::default()
    })
}

/// What is there without volumes.
fn image(pod: &Pod, container: &Container, node: &NodeFacts, now: Timestamp) -> Tree {
    let mut tree = Tree::default();
    let working_dir = container.working_dir.as_deref().unwrap_or("/");
    for path in ["/etc", "/home", "/root", "/tmp", "/var/log", working_dir] {
        tree.insert(TreePath::from(path), Node::directory(now));
    }
    let host_name = hosts::host_name(pod) + "\n";
    for (path, content) in [
        ("/etc/hostname", host_name),
        ("/etc/hosts", hosts::hosts_file(pod, &node.dns)),
        ("/etc/resolv.conf", hosts::resolv_conf(pod, &node.dns)),
    ] {
        tree.insert(TreePath::from(path), Node::file(content, 0o644, now));
    }
    tree
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::objects::testing::Memory;
    use super::*;

    #[tokio::test]
    async fn a_container_sees_its_environment_its_names_and_its_volumes() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "shop", "uid": "u1", "labels": {"a": "b"}},
            "spec": {
                "volumes": [{"name": "v", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}}],
                "containers": [{
                    "name": "app", "workingDir": "/srv/app",
                    "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                    "volumeMounts": [{"name": "v", "mountPath": "/pod"}],
                }],
                "ephemeralContainers": [{"name": "debug", "env": [{"name": "D", "value": "1"}]}],
            },
            "status": {"podIP": "192.168.1.4", "podIPs": [{"ip": "192.168.1.4"}]},
        }))
        .unwrap();
        let pod = Arc::new(pod);
        let (memory, store, node) = (
            Memory::default(),
            ScratchStore::default(),
            NodeFacts::default(),
        );
        let exec = async |container: &str, script: &str| {
            let clock: Clock = Arc::new(|| Timestamp::UNIX_EPOCH);
            let world = world(
                Arc::clone(&pod),
                container,
                &memory,
                &node,
                &store,
                None,
                clock,
            );
            let world = world.await.unwrap();
            let command = ["sh", "-c", script].map(str::to_owned);
            let (mut stdout, none) = (Vec::new(), None::<tokio::io::Empty>);
            super::super::shell::run(
                &world,
                &command,
                None,
                none,
                &mut stdout,
                Some(tokio::io::sink()),
            )
            .await;
            String::from_utf8(stdout).unwrap()
        };
        let seen = exec(
            "app",
            "pwd; echo $IP $HOSTNAME; cat /pod/l /etc/hostname; echo kept > f",
        )
        .await;
        assert_eq!(seen, "/srv/app\n192.168.1.4 web-0\na=\"b\"web-0\n");
        assert_eq!(exec("app", "cat f; echo x > /pod/l").await, "kept\n");
        assert_eq!(exec("debug", "echo $D$IP; cat /srv/app/f").await, "1\n");
        let clock: Clock = Arc::new(|| Timestamp::UNIX_EPOCH);
        let missing = world(pod, "db", &memory, &node, &store, None, clock).await;
        assert!(matches!(missing, Err(ContainerError::NotFound(name)) if name == "db"));
    }

    #[tokio::test]
    async fn a_running_container_outlives_the_objects_that_it_names_but_not_that_they_cannot_be_read()
     {
        use super::super::objects::ApiObjects;
        use super::super::routes::testing::answering;

        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "shop", "uid": "u1"},
            "spec": {
                "volumes": [{"name": "v", "secret": {"secretName": "no"}}],
                "containers": [{
                    "name": "app",
                    "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "k"}}}],
                    "envFrom": [{"secretRef": {"name": "no"}}],
                    "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                }],
            },
        }))
        .unwrap();
        let pod = Arc::new(pod);
        let (store, node) = (ScratchStore::default(), NodeFacts::default());
        let clock: Clock = Arc::new(|| Timestamp::UNIX_EPOCH);
        let memory = Memory::default();
        let seen = world(
            Arc::clone(&pod),
            "app",
            &memory,
            &node,
            &store,
            None,
            Arc::clone(&clock),
        );
        let seen = seen.await.unwrap();
        assert!(seen.environment.iter().all(|(name, _)| name != "X"));
        let files = seen.files.within(&TreePath::from("/v")).count();
        assert_eq!(files, 1, "the directory that the volume is");

        let refusal =
            json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden"});
        let objects = ApiObjects(answering(move || (403, refusal.clone())));
        let refused = world(pod, "app", &objects, &node, &store, None, clock).await;
        assert!(matches!(
            refused,
            Err(ContainerError::Environment(EnvironmentError::Unreadable(_)))
        ));
    }
}
