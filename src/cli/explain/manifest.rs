//! A pod out of a manifest, before any cluster has it.
//!
//! Takes what `kubectl apply` would, as far as it names one pod: a Pod, or an object with
//! `spec.template` whose pod is named beside it. Fills in no defaults but the namespace.

use std::path::Path;

use anyhow::Context as _;
use holdfast_provider::id::PodKey;
use serde_json::Value;

use super::Error;
use crate::pod::view::PodView;

/// Namespace of a manifest that names none, as for `kubectl`.
const DEFAULT_NAMESPACE: &str = "default";

/// What is accepted, for every refusal.
const ACCEPTED: &str = "give one object in YAML or JSON, a Pod or a workload with spec.template \
     (StatefulSet, Deployment, DaemonSet, ReplicaSet, Job)";

/// Reads the pod of the manifest in `file`; `key` names it, or must be its name.
pub(super) fn read(file: &Path, key: Option<&PodKey>) -> anyhow::Result<(PodView, PodKey)> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the manifest {}", file.display()))?;
    let refused = |why: String| Error::Arguments(format!("{}: {why}", file.display()));
    Ok(parse(&text, key).map_err(refused)?)
}

fn parse(text: &str, key: Option<&PodKey>) -> Result<(PodView, PodKey), String> {
    let object: Value =
        serde_saphyr::from_str(text).map_err(|error| format!("{ACCEPTED}: {error}"))?;
    let kind = object["kind"].as_str().unwrap_or_default();
    let name = object["metadata"]["name"].as_str();
    let namespace = object["metadata"]["namespace"].as_str();
    if kind == "Pod" {
        let own = name.map(|name| PodKey::new(namespace.unwrap_or(DEFAULT_NAMESPACE), name));
        let key = match (own, key) {
            (Some(own), Some(key)) if namespace.is_some() && own != *key => {
                return Err(format!("it is the manifest of {own} and not of {key}"));
            }
            (Some(own), Some(key)) if own.name != key.name => {
                return Err(format!(
                    "it is the manifest of {} and not of {}",
                    own.name, key.name
                ));
            }
            (_, Some(key)) => key.clone(),
            (Some(own), None) => own,
            (None, None) => {
                return Err("it has no metadata.name: say NAMESPACE/POD too".to_owned());
            }
        };
        return Ok((view(object)?, key));
    }
    let template = &object["spec"]["template"];
    if !template.is_object() {
        let what = if kind.is_empty() { "no kind" } else { kind };
        return Err(format!("it has {what} and no spec.template: {ACCEPTED}"));
    }
    let Some(key) = key else {
        let namespace = namespace.unwrap_or(DEFAULT_NAMESPACE);
        let example = name.unwrap_or("web");
        return Err(format!(
            "it is a {kind} with any number of pods: say which one too, such as {namespace}/{example}-0"
        ));
    };
    if namespace.is_some_and(|namespace| *namespace != *key.namespace) {
        return Err(format!(
            "it is of namespace {}, and {key} is not",
            namespace.unwrap_or_default()
        ));
    }
    Ok((view(template.clone())?, key.clone()))
}

fn view(mut object: Value) -> Result<PodView, String> {
    if object["metadata"].is_null() {
        object["metadata"] = Value::Object(serde_json::Map::new());
    }
    serde_json::from_value(object).map_err(|error| format!("it is no valid pod: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "kind: Pod\nmetadata:\n  name: web-0\n  annotations: {a: b}\nspec: {nodeName: node-1, containers: []}\n";
    const SET: &str = "kind: StatefulSet\nmetadata: {name: web, namespace: shop}\n\
         spec: {replicas: 3, template: {metadata: {annotations: {a: b}}, spec: {hostNetwork: true}}}\n";

    #[track_caller]
    fn check_refused(text: &str, key: Option<&str>, want: &str) {
        let key = key.map(|key| PodKey::new("shop", key));
        let error = parse(text, key.as_ref()).unwrap_err();
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn a_pod_is_read_with_its_own_name_or_the_one_beside_it() {
        let (view, key) = parse(POD, None).unwrap();
        assert_eq!(key.to_string(), "default/web-0");
        assert_eq!(view.spec.node_name.as_deref(), Some("node-1"));
        assert_eq!(view.metadata.annotations.unwrap()["a"], "b");
        let named = PodKey::new("shop", "web-0");
        assert_eq!(parse(POD, Some(&named)).unwrap().1, named);
        check_refused(POD, Some("web-1"), "of web-0 and not of web-1");
    }

    #[test]
    fn a_pod_of_a_workload_has_to_be_named() {
        let key = PodKey::new("shop", "web-2");
        let (view, found) = parse(SET, Some(&key)).unwrap();
        assert_eq!(found, key);
        assert!(view.spec.host_network);
        check_refused(SET, None, "say which one too, such as shop/web-0");
        let other = PodKey::new("other", "web-2");
        assert!(
            parse(SET, Some(&other))
                .unwrap_err()
                .contains("namespace shop")
        );
    }

    #[test]
    fn anything_else_is_refused_with_what_is_accepted() {
        for text in ["kind: Service\nspec: {}\n", "just text", "", "a: [", "[]"] {
            check_refused(
                text,
                None,
                "give one object in YAML or JSON, a Pod or a workload",
            );
        }
        let two = format!("{POD}---\n{POD}");
        check_refused(&two, None, "give one object");
        check_refused("kind: Pod\nspec: {}\n", None, "no metadata.name");
        check_refused(
            "kind: Pod\nmetadata: {name: a}\nspec: {containers: 3}\n",
            None,
            "no valid pod",
        );
    }
}
