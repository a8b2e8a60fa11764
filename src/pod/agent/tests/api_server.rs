//! An API server that keeps pods as JSON and does to them what the real one does.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use holdfast_provider::id::{PodKey, PodUid};
use jiff::{SignedDuration, Timestamp};
use kube::core::Status;
use serde_json::{Value, json};

use crate::pod::agent::{ForeignNode, ObjectKey, Refused};
use crate::pod::api::{is_gone, is_stale};
use crate::pod::needs::Found;
use crate::pod::protobuf::{self, tables};
use crate::pod::testing::{cut, kubectl, merge};
use crate::pod::view::{GoneView, PodView};

/// How far back a list can be.
const PAST: usize = 12;

/// What a request asks for, as far as troubles tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verb {
    Status,
    Delete,
    Tolerate,
    Get,
    GetNode,
    GetObject,
}

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// Refused with this code, without effect.
    Code(u16),
    /// Carried out, but the answer is lost.
    NoAnswer,
    /// Neither carried out nor answered.
    Unheard,
}

/// What the watch tells.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Changed(Value),
    Deleted(Value),
}

#[derive(Default)]
pub(super) struct ApiServer {
    pub(super) now: Timestamp,
    pub(super) pods: BTreeMap<PodKey, Value>,
    /// ConfigMaps and Secrets, such as `configmap default/web`, with their keys.
    pub(super) objects: BTreeMap<&'static str, &'static [&'static str]>,
    pub(super) nodes: BTreeMap<&'static str, ForeignNode>,
    /// For the watch, oldest first.
    pub(super) changes: VecDeque<Change>,
    /// Requests that were made by us, such as `PATCH default/web-0/status`.
    pub(super) requests: Vec<String>,
    /// What kubectl printed of each pod when it changed, with the time in seconds.
    pub(super) story: Vec<String>,
    /// Befalls the next requests of that verb, one each.
    pub(super) troubles: VecDeque<(Verb, Trouble)>,
    /// Nothing is heard or answered at all.
    pub(super) is_away: bool,
    /// What went wrong so far, and how often.
    pub(super) befell: BTreeMap<Trouble, u64>,
    /// The latest changes, oldest first, each with all pods as they were after it.
    pub(super) past: VecDeque<(Change, BTreeMap<PodKey, Value>)>,
    version: u64,
    uids: u32,
    begun_at: Option<Timestamp>,
}

type Answer = Result<Option<Value>, Refused>;

impl ApiServer {
    /// A new pod, as its maker sends it.
    pub(super) fn create(&mut self, mut pod: Value) -> PodUid {
        self.uids += 1;
        let uid = format!("uid-{}", self.uids);
        pod["metadata"]["uid"] = uid.as_str().into();
        pod["metadata"]["generation"] = 1.into();
        pod["metadata"]["creationTimestamp"] = cut(self.now);
        let key = key(&pod);
        assert!(!self.pods.contains_key(&key), "{key} exists");
        self.pods.insert(key.clone(), pod);
        self.changed(&key);
        uid.as_str().into()
    }

    /// Somebody else changes a pod.
    pub(super) fn edit(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let key = PodKey::new("default", name);
        change(self.pods.get_mut(&key).expect("the pod is there"));
        self.changed(&key);
        self.remove_if_final(&key);
    }

    pub(super) fn pod(&self, name: &str) -> Option<&Value> {
        self.pods.get(&PodKey::new("default", name))
    }

    pub(super) fn uid(&self, name: &str) -> PodUid {
        let pod = self.pod(name).expect("the pod is there");
        pod["metadata"]["uid"].as_str().unwrap().into()
    }

    /// A user's or a controller's DELETE.
    pub(super) fn delete(&mut self, name: &str, grace_s: i64) {
        let key = PodKey::new("default", name);
        if !self.pods.contains_key(&key) {
            return;
        }
        self.delete_with(&key, grace_s);
    }

    fn delete_with(&mut self, key: &PodKey, grace_s: i64) {
        let now = self.now;
        let pod = self.pods.get_mut(key).expect("the caller has seen it");
        let bound = pod["spec"]["nodeName"].is_string();
        // Nobody is there to stop what is not bound, and what has ended needs no stopping.
        let grace_s = if bound && !has_ended(pod) { grace_s } else { 0 };
        let metadata = &mut pod["metadata"];
        let before = metadata["deletionGracePeriodSeconds"].as_i64();
        if before.is_some_and(|before| grace_s >= before) {
            self.remove_if_final(key);
            return;
        }
        let second = SignedDuration::from_secs(1);
        let by = i32::try_from(grace_s - before.unwrap_or(0)).unwrap();
        let from = metadata["deletionTimestamp"]
            .as_str()
            .map_or(now, |first| first.parse().unwrap());
        metadata["deletionTimestamp"] = cut(from + second * by);
        metadata["deletionGracePeriodSeconds"] = grace_s.into();
        let generation = metadata["generation"].as_i64().unwrap();
        metadata["generation"] = (generation + 1).into();
        if grace_s > 0 || !metadata["finalizers"].is_null() {
            self.changed(key);
        }
        self.remove_if_final(key);
    }

    fn remove_if_final(&mut self, key: &PodKey) {
        let metadata = &self.pods[key]["metadata"];
        if metadata["deletionGracePeriodSeconds"] != 0 || !metadata["finalizers"].is_null() {
            return;
        }
        let mut pod = self.pods.remove(key).expect("it was just there");
        self.version += 1;
        pod["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.happened(Change::Deleted(pod));
        self.tell(&key.name, "gone");
    }

    /// PATCH of the subresource `status`.
    pub(super) fn patch_status(&mut self, key: &PodKey, body: &[u8]) -> Answer {
        self.request(Verb::Status, format!("PATCH {key}/status"), |api| {
            let patch: Value = serde_json::from_slice(body).unwrap();
            let before = api.pods.get(key).ok_or_else(|| not_found(key))?;
            if before["metadata"]["uid"] != patch["metadata"]["uid"] {
                return Err(status(
                    422,
                    "metadata.uid: Invalid value: field is immutable",
                ));
            }
            let mut after = before.clone();
            merge(&mut after, patch);
            if after["status"]["podIPs"].as_array().map_or(0, Vec::len) > 1 {
                return Err(status(422, "status.podIPs: Invalid value"));
            }
            if after != *before {
                api.pods.insert(key.clone(), after);
                api.changed(key);
            }
            Ok(api.pods.get(key).cloned())
        })
    }

    /// PUT of the subresource `status`, in protobuf: the status counts, and what people write on a pod.
    pub(super) fn put_status(&mut self, key: &PodKey, body: &Bytes) -> Answer {
        self.request(Verb::Status, format!("PUT {key}/status"), |api| {
            let raw = protobuf::enclosed(body).unwrap();
            let put: Value = tables::decode::from_slice(&raw, tables::POD).unwrap();
            let before = api.pods.get(key).ok_or_else(|| not_found(key))?;
            if before["metadata"]["uid"] != put["metadata"]["uid"] {
                return Err(status(
                    409,
                    "Precondition failed: UID in precondition: a, UID in object meta: b",
                ));
            }
            if before["metadata"]["resourceVersion"] != put["metadata"]["resourceVersion"] {
                return Err(status(409, "the object has been modified"));
            }
            let mut after = before.clone();
            after["status"] = put["status"].clone();
            for part in ["labels", "annotations", "finalizers"] {
                after["metadata"][part] = put["metadata"][part].clone();
            }
            if after != *before {
                api.pods.insert(key.clone(), after);
                api.changed(key);
            }
            Ok(api.pods.get(key).cloned())
        })
    }

    /// DELETE with grace 0 and a UID as precondition.
    pub(super) fn delete_uid(&mut self, key: &PodKey, uid: &PodUid) -> Answer {
        self.request(Verb::Delete, format!("DELETE {key}"), |api| {
            let pod = api.pods.get(key).ok_or_else(|| not_found(key))?;
            if pod["metadata"]["uid"] != uid.as_str() {
                return Err(status(
                    409,
                    "Precondition failed: UID in precondition: a, UID in object meta: b",
                ));
            }
            api.delete_with(key, 0);
            Ok(api.pods.get(key).cloned())
        })
    }

    /// A JSON patch of the tolerations.
    pub(super) fn tolerate(
        &mut self,
        key: &PodKey,
        uid: &PodUid,
        step: json_patch::PatchOperation,
    ) -> Answer {
        self.request(Verb::Tolerate, format!("PATCH {key}"), |api| {
            let pod = api.pods.get_mut(key).ok_or_else(|| not_found(key))?;
            if pod["metadata"]["uid"] != uid.as_str() {
                return Err(status(422, "testing value /metadata/uid failed"));
            }
            json_patch::patch(pod, &json_patch::Patch(vec![step])).unwrap();
            api.changed(key);
            Ok(None)
        })
    }

    pub(super) fn get(&mut self, key: &PodKey) -> Answer {
        self.request(Verb::Get, format!("GET {key}"), |api| {
            Ok(api.pods.get(key).cloned())
        })
    }

    /// A ConfigMap or Secret.
    pub(super) fn object(&mut self, key: &ObjectKey) -> Found {
        let found = self.objects.get(key.to_string().as_str());
        let found = found.map_or(Found::Nothing, |keys| {
            Found::Keys(keys.iter().map(|key| (*key).into()).collect())
        });
        match self.request(Verb::GetObject, format!("GET {key}"), |_| Ok(None)) {
            Ok(_) => found,
            Err(_) => Found::Refused("configmaps is forbidden".into()),
        }
    }

    /// Runs a request unless it is its turn to be in trouble.
    fn request(
        &mut self,
        verb: Verb,
        line: String,
        run: impl FnOnce(&mut Self) -> Result<Option<Value>, Status>,
    ) -> Answer {
        self.requests.push(line);
        let trouble = if self.is_away {
            Some(Trouble::Unheard)
        } else {
            let turn = self.troubles.iter().position(|(of, _)| *of == verb);
            let trouble = turn.and_then(|turn| self.troubles.remove(turn));
            trouble.map(|(_, trouble)| trouble)
        };
        if let Some(trouble) = trouble {
            *self.befell.entry(trouble).or_default() += 1;
        }
        match trouble {
            Some(Trouble::Code(code)) => Err(refused(&status(code, ""))),
            Some(Trouble::NoAnswer) => {
                run(self).map_or_else(|status| Err(refused(&status)), |_| Err(Refused::Later))
            }
            Some(Trouble::Unheard) => Err(Refused::Later),
            None => run(self).map_err(|status| refused(&status)),
        }
    }

    pub(super) fn node(&mut self, name: &str) -> Result<Option<ForeignNode>, Refused> {
        let found = self.nodes.get(name).cloned();
        self.request(Verb::GetNode, format!("GET node {name}"), |_| Ok(None))
            .map(|_| found)
    }

    /// For the watch, and for whoever lists the past.
    fn happened(&mut self, change: Change) {
        self.changes.push_back(change.clone());
        self.past.push_back((change, self.pods.clone()));
        if self.past.len() > PAST {
            self.past.pop_front();
        }
    }

    fn changed(&mut self, key: &PodKey) {
        self.version += 1;
        let pod = self.pods.get_mut(key).expect("it was just there");
        pod["metadata"]["resourceVersion"] = self.version.to_string().into();
        let pod = pod.clone();
        self.tell(&key.name, &kubectl(&pod));
        self.happened(Change::Changed(pod));
    }

    fn tell(&mut self, name: &str, what: &str) {
        let begun_at = *self.begun_at.get_or_insert(self.now);
        let at_ms = self.now.duration_since(begun_at).as_millis();
        self.story.push(format!(
            "{}.{}s {name} {what}",
            at_ms / 1000,
            at_ms % 1000 / 100
        ));
    }
}

pub(super) fn key(pod: &Value) -> PodKey {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap();
    PodKey::new(text("namespace"), text("name"))
}

pub(super) fn has_ended(pod: &Value) -> bool {
    ["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap())
}

/// A pod as the watch brings it.
pub(super) fn as_sent(pod: &Value) -> PodView {
    PodView::decode(tables::encode(pod, tables::POD).into()).unwrap()
}

/// What its DELETED event says of it.
pub(super) fn gone(pod: &Value) -> GoneView {
    GoneView::decode(&tables::encode(pod, tables::POD)).unwrap()
}

fn status(code: u16, message: &str) -> Status {
    Status {
        code,
        message: message.into(),
        ..Status::default()
    }
}

fn not_found(key: &PodKey) -> Status {
    Status {
        reason: "NotFound".into(),
        ..status(404, &format!("pods {key} not found"))
    }
}

fn refused(status: &Status) -> Refused {
    if is_gone(status) {
        Refused::Gone
    } else if is_stale(status) {
        Refused::Stale
    } else {
        Refused::Later
    }
}

/// A pod that wants a fixed address, on our node `acs-b`.
pub(super) fn fixed(name: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "default",
            "annotations": {"network.alibabacloud.com/enable-fixed-ip": "true"},
        },
        "spec": {
            "nodeName": "acs-b", "restartPolicy": "Always",
            "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}],
            "containers": [{"name": "nginx", "image": "nginx:1.14.1-8.6"}],
        },
        "status": {
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "True"}],
        },
    })
}

pub(super) fn ordinary(name: &str) -> Value {
    let mut pod = fixed(name);
    pod["metadata"]["annotations"] = json!({});
    pod
}

pub(super) fn on(node: &str, mut pod: Value) -> Value {
    pod["spec"]["nodeName"] = node.into();
    pod
}

/// Not scheduled yet.
pub(super) fn unbound(mut pod: Value) -> Value {
    pod["spec"].as_object_mut().unwrap().remove("nodeName");
    pod["status"]["conditions"] = json!([]);
    pod
}

/// One pod of a Job: a finalizer keeps it until the Job has counted it.
pub(super) fn of_job(mut pod: Value) -> Value {
    pod["spec"]["restartPolicy"] = "Never".into();
    pod["metadata"]["finalizers"] = json!(["batch.kubernetes.io/job-tracking"]);
    pod
}

pub(super) fn kept_for_hours(hours: &str, mut pod: Value) -> Value {
    pod["metadata"]["annotations"]["network.alibabacloud.com/fixed-ip-release-after"] =
        hours.into();
    pod
}
