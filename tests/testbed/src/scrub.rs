//! Empties a control plane between two tests.
//!
//! Looks at what is there and deletes it, again and again until nothing is left: controllers may make pods while their
//! owner goes, and a node may take its leases with it. A namespace counts as gone once it is empty and terminating: the
//! API server keeps it for another five seconds, and no test gets its name again.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    coordination::v1::Lease,
    core::v1::{Event, Namespace, Node, Pod, ReplicationController, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    core::PartialObjectMeta,
};
use serde_json::json;

use crate::{ControlPlane, control_plane::NAMESPACE_LABEL, eventually};

const LIMIT: Duration = Duration::from_mins(1);

/// Requests at a time: enough to hide the round trips, few enough to leave the API server to another test.
const CONCURRENT: usize = 16;

/// What marks an object of holdfast's in a cluster that is not the tests' own.
const MARK: &str = "holdfast.dev/";

/// Name of holdfast's registration of its webhook, which carries no mark. One that nobody serves refuses pods.
const REGISTRATION: &str = "holdfast";

/// In this order, so that no webhook refuses and no controller replaces what goes next.
fn kinds() -> Vec<ApiResource> {
    fn kind<K: Resource<DynamicType = ()>>() -> ApiResource {
        ApiResource::erase::<K>(&())
    }
    vec![
        kind::<MutatingWebhookConfiguration>(),
        kind::<ValidatingWebhookConfiguration>(),
        kind::<CronJob>(),
        kind::<Job>(),
        kind::<Deployment>(),
        kind::<StatefulSet>(),
        kind::<DaemonSet>(),
        kind::<ReplicationController>(),
        kind::<ReplicaSet>(),
        kind::<ControllerRevision>(),
        kind::<PodDisruptionBudget>(),
        kind::<Service>(),
        kind::<Pod>(),
        kind::<Node>(),
        kind::<Lease>(),
        kind::<Event>(),
        kind::<Namespace>(),
    ]
}

struct Found {
    kind: ApiResource,
    object: PartialObjectMeta<DynamicObject>,
}

impl Found {
    fn api(&self, client: &Client) -> Api<DynamicObject> {
        match self.object.namespace() {
            Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &self.kind),
            None => Api::all_with(client.clone(), &self.kind),
        }
    }

    fn is(&self, kind: &str) -> bool {
        self.kind.kind == kind
    }

    /// Whether it came with the control plane and stays.
    fn is_furniture(&self) -> bool {
        const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
        let (name, namespace) = (
            self.object.name_any(),
            self.object.namespace().unwrap_or_default(),
        );
        match self.kind.kind.as_str() {
            "Namespace" => NAMESPACES.contains(&name.as_str()),
            "Service" => namespace == "default" && name == "kubernetes",
            // The API server's own; holdfast's is there too.
            "Lease" => namespace == "kube-system" && !name.starts_with("holdfast"),
            _ => false,
        }
    }

    /// Whether it may go from a cluster that is not the tests' own.
    fn is_marked(&self, test_namespaces: &[String]) -> bool {
        let in_test_namespace = self
            .object
            .namespace()
            .is_some_and(|it| test_namespaces.contains(&it));
        let keys = self
            .object
            .labels()
            .keys()
            .chain(self.object.annotations().keys());
        let is_registration =
            self.is("MutatingWebhookConfiguration") && self.object.name_any() == REGISTRATION;
        in_test_namespace || is_registration || keys.into_iter().any(|key| key.starts_with(MARK))
    }
}

/// Deletes what tests have left and waits until it is gone, at most a minute.
pub(crate) async fn scrub(plane: &ControlPlane) -> Result<()> {
    let client = plane.client().await?;
    let kinds = kinds();
    let clean = eventually("nothing of the last test is left", LIMIT, async || {
        let left = find(&client, &kinds, plane.is_external())
            .await
            .map_err(|e| e.to_string())?;
        if left.is_empty() {
            return Ok(());
        }
        stream::iter(&left)
            .map(|found| remove(&client, found))
            .buffered(CONCURRENT)
            .try_collect::<Vec<()>>()
            .await
            .map_err(|e| e.to_string())?;
        Err(describe(&left))
    });
    clean.await.context("cannot clean the control plane")
}

async fn find(client: &Client, kinds: &[ApiResource], external: bool) -> kube::Result<Vec<Found>> {
    let lists: Vec<Vec<Found>> = stream::iter(kinds.to_vec())
        .map(|kind| list(client, kind))
        .buffered(CONCURRENT)
        .try_collect()
        .await?;
    let mut found: Vec<Found> = lists
        .into_iter()
        .flatten()
        .filter(|it| !it.is_furniture())
        .collect();
    if external {
        let test_namespaces: Vec<String> = found
            .iter()
            .filter(|it| it.is("Namespace") && it.object.labels().contains_key(NAMESPACE_LABEL))
            .map(|it| it.object.name_any())
            .collect();
        found.retain(|it| it.is_marked(&test_namespaces));
    }
    found.retain(|it| !(it.is("Namespace") && it.object.meta().deletion_timestamp.is_some()));
    Ok(found)
}

async fn list(client: &Client, kind: ApiResource) -> kube::Result<Vec<Found>> {
    let api = Api::<DynamicObject>::all_with(client.clone(), &kind);
    // From the watch cache: a few milliseconds old and much cheaper; the next round sees the rest.
    let list = api
        .list_metadata(&ListParams::default().match_any())
        .await?;
    Ok(list
        .items
        .into_iter()
        .map(|object| Found {
            kind: kind.clone(),
            object,
        })
        .collect())
}

/// Deletes at once: no grace, and no finalizer, since whoever would take it away may be gone.
async fn remove(client: &Client, found: &Found) -> kube::Result<()> {
    let (api, name) = (found.api(client), found.object.name_any());
    if !found.object.finalizers().is_empty() {
        let none = json!({"metadata": {"finalizers": null}});
        ignore_gone(
            api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(none))
                .await
                .map(drop),
        )?;
    }
    ignore_gone(
        api.delete(&name, &DeleteParams::background().grace_period(0))
            .await
            .map(drop),
    )
}

fn ignore_gone(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other,
    }
}

/// The first few, which say enough.
fn describe(left: &[Found]) -> String {
    let name = |it: &Found| {
        format!(
            "{} {}/{}",
            it.kind.kind,
            it.object.namespace().unwrap_or_default(),
            it.object.name_any()
        )
    };
    let names: Vec<_> = left.iter().take(5).map(name).collect();
    format!("{} objects left: {}", left.len(), names.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[track_caller]
    fn check<K: Resource<DynamicType = ()>>(metadata: &Value, want: bool) {
        let found = Found {
            kind: ApiResource::erase::<K>(&()),
            object: serde_json::from_value(json!({"metadata": metadata})).unwrap(),
        };
        let is_marked = found.is_marked(&["test-1".to_owned()]);
        assert_eq!(is_marked, want, "{}", describe(&[found]));
    }

    #[test]
    fn from_a_cluster_of_others_only_what_is_holdfasts_may_go() {
        let ours = json!({"holdfast.dev/x": "y"});
        check::<Node>(&json!({"name": "n", "labels": ours}), true);
        check::<Node>(&json!({"name": "n", "annotations": ours}), true);
        check::<Node>(&json!({"name": "holdfast"}), false);
        check::<Pod>(&json!({"name": "p", "namespace": "test-1"}), true);
        check::<Pod>(&json!({"name": "p", "namespace": "default"}), false);
    }

    #[test]
    fn the_registration_of_the_webhook_is_known_by_its_name() {
        check::<MutatingWebhookConfiguration>(&json!({"name": "holdfast"}), true);
        check::<MutatingWebhookConfiguration>(&json!({"name": "holdfast-2"}), false);
        check::<ValidatingWebhookConfiguration>(&json!({"name": "holdfast"}), false);
    }
}
