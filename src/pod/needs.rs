//! ConfigMaps and Secrets without which containers cannot start.
//!
//! Owns which ones a pod names, and what is said when one or a key of it is missing: in the words
//! of the kubelet (kubernetes/kubernetes, pkg/kubelet/kubelet_pods.go and pkg/volume), and in the
//! reasons of virtual-kubelet (internal/podutils/env.go) beside it. Values are never looked at, and
//! nothing is asked for here; the agent does.

use std::collections::BTreeSet;
use std::fmt;

use super::core::Topic;
use super::view::{Container, KeyRef, ObjectFiles, Spec};

/// The controller manager keeps it in every namespace and every service account's token comes
/// with it, so asking for it would cost each pod a request that tells nothing.
const EVERYWHERE: &str = "kube-root-ca.crt";

/// The two kinds of objects that pods are configured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Read by everybody.
    ConfigMap,
    /// Of which no value is ever read here.
    Secret,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        })
    }
}

/// One object of the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Box<str>,
}

/// The keys that an object has.
pub type Keys = BTreeSet<Box<str>>;

/// What came of looking for an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It has these keys.
    Keys(Keys),
    /// It is not there.
    Nothing,
    /// Whether it is there is not known, for this reason.
    Refused(Box<str>),
}

/// What a pod lacks of an object.
#[derive(Clone, Copy)]
enum Lack<'a> {
    Object,
    Key(&'a str),
    Answer(&'a str),
}

/// All that a pod names.
#[derive(Debug)]
pub struct Needs(Box<[Need]>);

#[derive(Debug)]
struct Need {
    object: Object,
    key: Option<Box<str>>,
    optional: bool,
    by: By,
}

#[derive(Debug)]
enum By {
    /// The volume of this name: no container starts without it.
    Volume(Box<str>),
    /// A variable of the container of this name.
    Env(Box<str>),
}

/// Whether what a pod names is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Supply {
    /// All that it cannot do without.
    #[default]
    Complete,
    /// Nobody has looked yet.
    Unknown,
    /// Something is missing.
    Missing(Box<Missing>),
}

/// What is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Why volumes cannot be mounted.
    pub volumes: Vec<String>,
    /// Containers that cannot be started, with the reason.
    pub env: Vec<(Box<str>, String)>,
}

impl Supply {
    /// Whether the volumes are known to be there.
    pub(super) fn has_volumes(&self) -> bool {
        match self {
            Self::Complete => true,
            Self::Unknown => false,
            Self::Missing(missing) => missing.volumes.is_empty(),
        }
    }

    /// Why a container cannot be started.
    pub(super) fn missing_for(&self, container: &str) -> Option<&str> {
        let Self::Missing(missing) = self else {
            return None;
        };
        let found = missing.env.iter().find(|(name, _)| **name == *container);
        found.map(|(_, why)| why.as_str())
    }
}

impl Needs {
    /// What the pod names; `None` when that is nothing.
    pub(super) fn of(spec: &Spec) -> Option<Self> {
        let mut all = Vec::new();
        for volume in &spec.volumes {
            let projected = volume.projected.iter().flat_map(|one| &one.sources);
            let secrets = projected.clone().filter_map(|one| one.secret.as_ref());
            let maps = projected.filter_map(|one| one.config_map.as_ref());
            for files in maps.chain(&volume.config_map) {
                mounted(&mut all, Kind::ConfigMap, files, &volume.name);
            }
            for files in secrets.chain(&volume.secret) {
                mounted(&mut all, Kind::Secret, files, &volume.name);
            }
        }
        let containers = spec.init_containers.iter().chain(&spec.containers);
        for container in containers {
            variables(&mut all, container);
        }
        all.retain(|need| &*need.object.name != EVERYWHERE && !need.object.name.is_empty());
        (!all.is_empty()).then(|| Self(all.into()))
    }

    /// The objects, some of them perhaps more than once.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.0.iter().map(|need| &need.object)
    }

    /// What is missing, with the events that say so. `found` tells what came of looking for an object.
    pub(super) fn weigh<'k>(
        &self,
        namespace: &str,
        found: impl Fn(&Object) -> &'k Found,
    ) -> (Supply, Vec<(Topic, String)>) {
        let (mut missing, mut said) = (Missing::default(), Vec::new());
        for need in &self.0 {
            if let Some(lack) = need.lack(found(&need.object)) {
                need.tell(namespace, lack, &mut missing, &mut said);
            }
        }
        let supply = if missing == Missing::default() {
            Supply::Complete
        } else {
            Supply::Missing(Box::new(missing))
        };
        (supply, said)
    }
}

impl Need {
    fn lack<'a>(&'a self, found: &'a Found) -> Option<Lack<'a>> {
        match found {
            Found::Keys(keys) => {
                let key = self.key.as_deref().filter(|key| !keys.contains(*key));
                key.map(Lack::Key)
            }
            Found::Nothing => Some(Lack::Object),
            Found::Refused(why) => Some(Lack::Answer(why)),
        }
    }

    fn tell(
        &self,
        namespace: &str,
        lack: Lack<'_>,
        missing: &mut Missing,
        said: &mut Vec<(Topic, String)>,
    ) {
        let Object { kind, name } = &self.object;
        let why = match (lack, &self.by, kind) {
            (Lack::Object, ..) => format!("{kind} {name:?} not found"),
            (Lack::Answer(why), ..) => format!("cannot read {kind} {name:?}: {why}"),
            (Lack::Key(key), By::Volume(_), Kind::ConfigMap) => {
                format!("configmap references non-existent config key: {key}")
            }
            (Lack::Key(key), By::Volume(_), Kind::Secret) => {
                format!("references non-existent secret key: {key}")
            }
            (Lack::Key(key), By::Env(_), Kind::ConfigMap) => {
                format!("couldn't find key {key} in ConfigMap {namespace}/{name}")
            }
            (Lack::Key(key), By::Env(_), Kind::Secret) => {
                format!("couldn't find key {key} in Secret {namespace}/{name}")
            }
        };
        // What may be missing must not be unknown.
        let is_spared = self.optional && !matches!(lack, Lack::Answer(_));
        match &self.by {
            By::Volume(_) if is_spared => {}
            By::Volume(volume) => {
                let note = format!("MountVolume.SetUp failed for volume {volume:?} : {why}");
                missing.volumes.push(note.clone());
                said.push((Topic::warning("FailedMount"), note));
            }
            By::Env(container) => {
                let topic = Topic::warning(self.reason(lack));
                said.push((topic, why.clone()));
                let known = missing.env.iter().any(|(name, _)| name == container);
                if !is_spared && !known {
                    said.push((Topic::warning("Failed"), format!("Error: {why}")));
                    missing.env.push((container.clone(), why));
                }
            }
        }
    }

    /// Of virtual-kubelet, for a variable.
    fn reason(&self, lack: Lack<'_>) -> &'static str {
        match (self.optional, self.object.kind, lack) {
            (true, Kind::ConfigMap, Lack::Object) => "OptionalConfigMapNotFound",
            (true, Kind::ConfigMap, Lack::Key(_)) => "OptionalConfigMapKeyNotFound",
            (true, Kind::ConfigMap, Lack::Answer(_)) => "FailedToReadOptionalConfigMap",
            (true, Kind::Secret, Lack::Object) => "OptionalSecretNotFound",
            (true, Kind::Secret, Lack::Key(_)) => "OptionalSecretKeyNotFound",
            (true, Kind::Secret, Lack::Answer(_)) => "FailedToReadOptionalSecret",
            (false, Kind::ConfigMap, Lack::Object) => "MandatoryConfigMapNotFound",
            (false, Kind::ConfigMap, Lack::Key(_)) => "MandatoryConfigMapKeyNotFound",
            (false, Kind::ConfigMap, Lack::Answer(_)) => "FailedToReadMandatoryConfigMap",
            (false, Kind::Secret, Lack::Object) => "MandatorySecretNotFound",
            (false, Kind::Secret, Lack::Key(_)) => "MandatorySecretKeyNotFound",
            (false, Kind::Secret, Lack::Answer(_)) => "FailedToReadMandatorySecret",
        }
    }
}

fn mounted(all: &mut Vec<Need>, kind: Kind, files: &ObjectFiles, volume: &str) {
    let name = if files.secret_name.is_empty() {
        &files.name
    } else {
        &files.secret_name
    };
    let need = |key: Option<&str>| Need {
        object: Object {
            kind,
            name: name.as_str().into(),
        },
        key: key.map(Into::into),
        optional: files.optional.unwrap_or(false),
        by: By::Volume(volume.into()),
    };
    all.push(need(None));
    let keys = files.items.iter().filter_map(|item| item.key.as_deref());
    all.extend(keys.map(|key| need(Some(key))));
}

fn variables(all: &mut Vec<Need>, container: &Container) {
    let mut need = |kind, from: &Option<KeyRef>| {
        if let Some(from) = from {
            all.push(Need {
                object: Object {
                    kind,
                    name: from.name.as_str().into(),
                },
                key: from.key.as_deref().map(Into::into),
                optional: from.optional.unwrap_or(false),
                by: By::Env(container.name.as_str().into()),
            });
        }
    };
    for from in &container.env_from {
        need(Kind::ConfigMap, &from.config_map_ref);
        need(Kind::Secret, &from.secret_ref);
    }
    for from in container
        .env
        .iter()
        .filter_map(|one| one.value_from.as_ref())
    {
        need(Kind::ConfigMap, &from.config_map_key_ref);
        need(Kind::Secret, &from.secret_key_ref);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn needs(spec: serde_json::Value) -> Option<Needs> {
        Needs::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn a_pod_that_only_has_its_token_needs_nothing() {
        let none = needs(json!({
            "containers": [{"name": "c", "env": [
                {"name": "A", "value": "a"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            ]}],
            "volumes": [
                {"name": "data", "emptyDir": {}},
                {"name": "kube-api-access-x", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token"}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                ]}},
            ],
        }));
        assert!(none.is_none(), "{none:?}");
    }

    #[test]
    fn what_is_missing_is_told_in_the_words_of_the_kubelet() {
        let needs = needs(json!({
            "containers": [
                {"name": "a", "envFrom": [{"configMapRef": {"name": "cm"}}, {"secretRef": {"name": "no", "optional": true}}]},
                {"name": "b", "env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
            ],
            "volumes": [
                {"name": "v", "secret": {"secretName": "s", "items": [{"key": "k2", "path": "p"}]}},
                {"name": "w", "configMap": {"name": "gone", "optional": true}},
            ],
        }))
        .unwrap();
        let keys = Found::Keys(Keys::from(["other".into()]));
        let found = |object: &Object| match &*object.name {
            "s" => &keys,
            _ => &Found::Nothing,
        };
        let (supply, said) = needs.weigh("shop", found);
        let said: Vec<_> = said
            .iter()
            .map(|(topic, note)| (topic.reason, &**note))
            .collect();
        assert_eq!(
            said,
            [
                (
                    "FailedMount",
                    "MountVolume.SetUp failed for volume \"v\" : references non-existent secret key: k2"
                ),
                ("MandatoryConfigMapNotFound", "configmap \"cm\" not found"),
                ("Failed", "Error: configmap \"cm\" not found"),
                ("OptionalSecretNotFound", "secret \"no\" not found"),
                (
                    "MandatorySecretKeyNotFound",
                    "couldn't find key k in Secret shop/s"
                ),
                ("Failed", "Error: couldn't find key k in Secret shop/s"),
            ]
        );
        assert!(!supply.has_volumes());
        assert_eq!(supply.missing_for("a"), Some("configmap \"cm\" not found"));
        assert_eq!(supply.missing_for("c"), None);

        let all = Found::Keys(Keys::from(["k".into(), "k2".into()]));
        assert_eq!(needs.weigh("shop", |_| &all), (Supply::Complete, vec![]));
    }

    #[test]
    fn what_cannot_be_read_holds_a_pod_up_even_where_it_may_be_missing() {
        let needs = needs(json!({
            "containers": [{"name": "a", "envFrom": [{"secretRef": {"name": "s", "optional": true}}]}],
            "volumes": [{"name": "w", "configMap": {"name": "cm", "optional": true}}],
        }))
        .unwrap();
        let refused = Found::Refused("secrets is forbidden".into());
        let found = |object: &Object| match object.kind {
            Kind::Secret => &refused,
            Kind::ConfigMap => &Found::Nothing,
        };
        let (supply, said) = needs.weigh("shop", found);
        let said = said.iter().map(|(topic, note)| (topic.reason, &**note));
        assert_eq!(
            said.collect::<Vec<_>>(),
            [
                (
                    "FailedToReadOptionalSecret",
                    "cannot read secret \"s\": secrets is forbidden"
                ),
                (
                    "Failed",
                    "Error: cannot read secret \"s\": secrets is forbidden"
                ),
            ]
        );
        assert!(supply.has_volumes());
        assert_eq!(
            supply.missing_for("a"),
            Some("cannot read secret \"s\": secrets is forbidden")
        );
        let (supply, said) = needs.weigh("shop", |_| &refused);
        assert!(!supply.has_volumes());
        assert_eq!(
            said[0].1,
            "MountVolume.SetUp failed for volume \"w\" : cannot read configmap \"cm\": secrets is forbidden"
        );
    }
}
