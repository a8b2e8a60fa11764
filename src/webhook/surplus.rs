//! What the webhook adds to the requests and limits of a pod, as ACS does (ACS, "ACS pod overview"):
//! a CPU pod runs on an instance of a supported size, and what that has beyond the pod's own sums goes
//! to its first container.
//!
//! Owns the steps of the patch; sizes are reckoned in the provider's policy. Pods that ask for simulated
//! ECS nodes run on no instance, and those that request resources as a whole are left alone: ACS does
//! not say what becomes of them.

use std::collections::BTreeMap;

use holdfast_provider::policy::opt_in::{COMPUTE_CLASS, is_cpu_class};
use holdfast_provider::policy::use_spec::{self, POD_USE_SPEC};
use json_patch::PatchOperation;
use serde_json::json;

use super::mutate::{PodForAdmission, add};
use crate::node::NODE_TYPE_LABEL;
use crate::pod::agent::instance_size;
use crate::pod::quantity;
use crate::pod::view::Resources;

/// The steps that give the first container the surplus. The size is noted in the annotation that tells
/// it, and a pod that has it noted has been given the surplus: by an earlier call, or because its manifest
/// is that of a pod that ran.
pub(super) fn steps(pod: &PodForAdmission) -> Vec<PatchOperation> {
    let (labels, annotations) = (&pod.metadata.labels, &pod.metadata.annotations);
    let class = labels.as_ref().and_then(|all| all.get(COMPUTE_CLASS));
    let selector = pod.spec.node_selector.as_ref();
    let is_ecs = selector.is_some_and(|all| all.get(NODE_TYPE_LABEL).is_some_and(|it| it == "ecs"));
    let all = pod.spec.containers.as_deref().unwrap_or_default();
    let (Some(first), false) = (all.first(), is_ecs || pod.spec.resources.is_some()) else {
        return Vec::new();
    };
    // For the API server to refuse, which it could not if the surplus were written over it.
    if all
        .iter()
        .filter_map(|one| one.resources.as_ref())
        .any(is_unreadable)
    {
        return Vec::new();
    }
    let containers = pod.spec.asks();
    // One that does not fit is refused before.
    let Ok(size) = instance_size(labels.as_ref(), annotations.as_ref(), &containers) else {
        return Vec::new();
    };
    let noted = annotations.as_ref().and_then(|all| all.get(POD_USE_SPEC));
    if !is_cpu_class(class.map(String::as_str)) || noted == Some(&size) {
        return Vec::new();
    }
    let surplus = use_spec::surplus(&size, &containers);
    let of = containers[0];
    let mut given = Given {
        resources: first.resources.clone().unwrap_or_default(),
        changed: false,
    };
    given.add(
        "cpu",
        (of.cpu_request_milli, of.cpu_limit_milli),
        surplus.cpu_milli,
        quantity::of_milli,
    );
    given.add(
        "memory",
        (of.memory_request_bytes, of.memory_limit_bytes),
        surplus.memory_bytes,
        quantity::of_bytes,
    );
    let mut steps = given.steps(first.resources.as_ref());
    steps.push(match annotations {
        Some(_) => add(["metadata", "annotations", POD_USE_SPEC], json!(size)),
        None => add(["metadata", "annotations"], json!({ POD_USE_SPEC: size })),
    });
    steps
}

/// Whether it asks for something that is no quantity, or none that can be asked for.
fn is_unreadable(resources: &Resources) -> bool {
    let Resources { requests, limits } = resources;
    let numbers = resources.numbers();
    [
        (requests, "cpu", numbers.cpu_request_milli),
        (limits, "cpu", numbers.cpu_limit_milli),
        (requests, "memory", numbers.memory_request_bytes),
        (limits, "memory", numbers.memory_limit_bytes),
    ]
    .into_iter()
    .any(|(list, name, number)| number.is_none() && list.contains_key(name))
}

/// The resources of the first container, in the making.
struct Given {
    resources: Resources,
    changed: bool,
}

impl Given {
    /// Adds `surplus` to what it requests and to what limits it, as far as it has them; one that has
    /// neither gets both.
    fn add(
        &mut self,
        name: &str,
        (request, limit): (Option<u64>, Option<u64>),
        surplus: u64,
        write: fn(u64) -> String,
    ) {
        if surplus == 0 {
            return;
        }
        self.changed = true;
        let neither = request.is_none() && limit.is_none();
        let Resources { requests, limits } = &mut self.resources;
        for (list, had) in [(requests, request), (limits, limit)] {
            if had.is_some() || neither {
                let more = had.unwrap_or(0).saturating_add(surplus);
                list.insert(name.to_owned(), write(more));
            }
        }
    }

    /// The steps from `before`. Each list is written as a whole, and nothing else of the resources is.
    fn steps(&self, before: Option<&Resources>) -> Vec<PatchOperation> {
        if !self.changed {
            return Vec::new();
        }
        let path = |name: &'static str| ["spec", "containers", "0", "resources", name];
        let Some(before) = before else {
            return vec![add(
                ["spec", "containers", "0", "resources"],
                json!(self.resources),
            )];
        };
        let list = |name, now: &BTreeMap<String, String>, old: &BTreeMap<String, String>| {
            (now != old).then(|| add(path(name), json!(now)))
        };
        let Resources { requests, limits } = &self.resources;
        let requests = list("requests", requests, &before.requests);
        let limits = list("limits", limits, &before.limits);
        requests.into_iter().chain(limits).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The resources of the containers after admission, and the size.
    #[track_caller]
    fn admitted(metadata: &Value, spec: &Value) -> (Vec<Value>, Value) {
        let mut pod = json!({ "metadata": metadata, "spec": spec });
        for call in 0..2 {
            let decoded: PodForAdmission = serde_json::from_value(pod.clone()).unwrap();
            let steps = steps(&decoded);
            assert!(call == 0 || steps.is_empty(), "a second call changes {pod}");
            json_patch::patch(&mut pod, &json_patch::Patch(steps)).unwrap();
        }
        let containers = pod["spec"]["containers"].as_array().unwrap();
        let resources = containers.iter().map(|one| one["resources"].clone());
        (
            resources.collect(),
            pod["metadata"]["annotations"][POD_USE_SPEC].clone(),
        )
    }

    fn containers(resources: &[Value]) -> Value {
        let of = |one: &Value| json!({ "name": "c", "resources": one });
        json!({ "containers": resources.iter().map(of).collect::<Vec<_>>() })
    }

    #[test]
    fn a_pod_that_asks_for_nothing_gets_two_vcpu_and_four_gib() {
        let given = json!({ "cpu": "2", "memory": "4Gi" });
        let (all, size) = admitted(&json!({}), &containers(&[json!({}), json!({})]));
        assert_eq!(
            all,
            [json!({ "requests": given, "limits": given }), json!({})]
        );
        assert_eq!(size, "2-4Gi");
        // Some clients leave the field out.
        let (all, _) = admitted(&json!({}), &json!({ "containers": [{ "name": "c" }] }));
        assert_eq!(all, [json!({ "requests": given, "limits": given })]);
    }

    #[test]
    fn the_first_container_gets_what_the_size_has_beyond_the_sums() {
        let first =
            json!({ "requests": { "cpu": "1500m", "memory": "3Gi", "example.com/x": "1" } });
        let second = json!({ "requests": { "cpu": "500m", "memory": "512Mi" } });
        let (all, size) = admitted(
            &json!({ "annotations": {} }),
            &containers(&[first, second.clone()]),
        );
        let more = json!({ "cpu": "1500m", "memory": "3584Mi", "example.com/x": "1" });
        assert_eq!(all, [json!({ "requests": more }), second]);
        assert_eq!(size, "2-4Gi");
    }

    #[test]
    fn limits_grow_with_requests_and_are_not_passed_by_them() {
        let first =
            json!({ "requests": { "cpu": "200m" }, "limits": { "cpu": "300m", "memory": "1Gi" } });
        let (all, size) = admitted(&json!({}), &containers(&[first]));
        let more =
            json!({ "requests": { "cpu": "400m" }, "limits": { "cpu": "500m", "memory": "1Gi" } });
        assert_eq!((all, size), (vec![more], json!("0.5-1Gi")));
    }

    #[test]
    fn a_required_size_is_filled_up_to() {
        let required = json!({ "annotations": { use_spec::POD_REQUIRED_SPEC: "4-8Gi" } });
        let asks = json!({ "requests": { "cpu": "1", "memory": "1Gi" } });
        let (all, size) = admitted(&required, &containers(&[asks]));
        let more = json!({ "requests": { "cpu": "4", "memory": "8Gi" } });
        assert_eq!((all, size), (vec![more], json!("4-8Gi")));
    }

    #[test]
    fn pods_that_run_on_no_cpu_instance_are_left_alone() {
        let gpu = json!({ "labels": { COMPUTE_CLASS: "gpu" } });
        let (all, size) = admitted(&gpu, &containers(&[json!({})]));
        assert_eq!((all, size), (vec![json!({})], Value::Null));
        let mut ecs = containers(&[json!({})]);
        ecs["nodeSelector"] = json!({ NODE_TYPE_LABEL: "ecs" });
        assert_eq!(admitted(&json!({}), &ecs).0, [json!({})]);
        let mut whole = containers(&[json!({})]);
        whole["resources"] = json!({ "requests": { "cpu": "1" } });
        assert_eq!(admitted(&json!({}), &whole).0, [json!({})]);
    }

    #[test]
    fn a_manifest_of_a_pod_that_ran_is_not_given_it_twice() {
        let noted = json!({ "annotations": { POD_USE_SPEC: "2-4Gi" } });
        let asks = json!({ "requests": { "cpu": "2", "memory": "3584Mi" } });
        assert_eq!(
            admitted(&noted, &containers(std::slice::from_ref(&asks))).0,
            [asks]
        );
    }
}
