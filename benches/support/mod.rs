//! A pod as it comes, and all that decides what is next for it.

use bytes::Bytes;
use holdfast::config::Profile;
use holdfast::pod::base::Base;
use holdfast::pod::behaviour::Behaviours;
use holdfast::pod::core::{Action, Facts, Lifecycle, NodeInfo, step};
use holdfast::pod::needs::Supply;
use holdfast::pod::protobuf::enclosed;
use holdfast::pod::protobuf::read::{Read, message};
use holdfast::pod::record::{Names, Record, Terms};
use holdfast::pod::status::Wanted;
use holdfast::pod::view::PodView;
use holdfast_provider::engine::{Assignment, Network};
use holdfast_provider::id::NodeType;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

#[path = "../../src/pod/protobuf/tables/mod.rs"]
#[allow(dead_code, reason = "shared with the tests of the encoding")]
mod tables;

/// When all of it happens.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("in range")
}

/// A pod as the API server has it: with the volume that admission adds and with managed fields.
pub(crate) fn pod() -> Value {
    let mount = json!({
        "name": "kube-api-access-x2v5k", "readOnly": true,
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    });
    let sources = json!([
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{
            "path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
        }]}},
    ]);
    let managed = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {
        "f:containers": {"k:{\"name\":\"app\"}": {".": {}, "f:image": {}, "f:name": {}, "f:resources": {}}},
        "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:nodeName": {}, "f:tolerations": {},
    }});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-0", "namespace": "default", "uid": "0b9e3a51-6f0e-4c53-9a44-0f6f0f1c7d11",
            "resourceVersion": "123456", "generation": 1, "creationTimestamp": "2027-01-15T08:00:00Z",
            "labels": {"app": "web"},
            "annotations": {"network.alibabacloud.com/enable-fixed-ip": "true"},
            "managedFields": [{
                "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
                "time": "2027-01-15T08:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": managed,
            }],
        },
        "spec": {
            "nodeName": "virtual-kubelet-cn-wulanchabu-b", "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default", "schedulerName": "default-scheduler",
            "volumes": [{"name": "kube-api-access-x2v5k", "projected": {"sources": sources, "defaultMode": 420}}],
            "containers": [{
                "name": "app", "image": "registry.local/app:v1", "imagePullPolicy": "IfNotPresent",
                "resources": {"requests": {"cpu": "1", "memory": "2Gi"}}, "volumeMounts": [mount],
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }],
            "tolerations": [{"operator": "Exists"}],
        },
        "status": {"phase": "Pending", "qosClass": "Burstable"},
    })
}

/// The pod at its end: it ran, and its deletion is through.
#[allow(dead_code, reason = "each bench needs some of this")]
pub(crate) fn gone() -> Value {
    let answer = answer(&record(), &Scene::new().facts());
    let answer: Value = serde_json::from_slice(&answer).expect("a patch");
    let mut pod = pod();
    pod["metadata"]["annotations"] = answer["metadata"]["annotations"].clone();
    pod["metadata"]["deletionTimestamp"] = json!("2027-01-15T08:00:30Z");
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(0);
    pod["status"] = answer["status"].clone();
    pod
}

/// A pod as the API server sends it.
pub(crate) fn sent(pod: &Value) -> Bytes {
    tables::enveloped(pod, tables::POD).into()
}

/// Reads what was sent.
pub(crate) fn decode<T: Read + Default>(raw: &Bytes) -> T {
    let object = enclosed(raw).expect("an envelope");
    message(&object).expect("a pod")
}

/// The pod, decoded.
pub(crate) fn view() -> PodView {
    serde_json::from_value(pod()).expect("a pod")
}

/// What the pod gets when it is accepted.
pub(crate) fn terms() -> Terms {
    Terms {
        node: "virtual-kubelet-cn-wulanchabu-b".into(),
        pod_use_spec: "1-2Gi".into(),
        behaviours: Behaviours::default(),
    }
}

/// What is kept of the pod.
pub(crate) fn record() -> Record {
    Record::from_view(&view(), terms(), &mut Names::default(), now()).expect("it has a UID")
}

/// A node whose pods run at once, and a network for one of them.
pub(crate) struct Scene {
    network: Network,
    node: NodeInfo,
    lifecycle: Lifecycle,
    supply: Supply,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self {
            network: Network::Attached(Assignment {
                address: "192.168.1.8".parse().expect("an address"),
                eni: "eni-0jl1234567890abcdefg".into(),
                mac: "00:16:3e:12:34:56".parse().expect("a MAC"),
                vswitch: "vsw-b".into(),
                zone: "cn-wulanchabu-b".into(),
                instance: "acs-0jl1234567890abcdefg".into(),
                request_id: "6EF60BEC-0242-43AF-BB20-270359FB54A7".into(),
            }),
            node: NodeInfo {
                host_ip: "10.0.0.1".parse().expect("an address"),
                zone: "cn-wulanchabu-b".into(),
                region: "cn-wulanchabu".into(),
                vpc: "vpc-1".into(),
                node_type: NodeType::Acs,
            },
            lifecycle: Lifecycle {
                profile: Profile::Fast,
                creating: SignedDuration::ZERO,
                running: SignedDuration::ZERO,
                stop: SignedDuration::ZERO,
            },
            supply: Supply::default(),
        }
    }

    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            network: &self.network,
            node: &self.node,
            lifecycle: &self.lifecycle,
            seen_at: now(),
            supply: &self.supply,
            shutdown_at: None,
        }
    }
}

/// The pod, kept to be written back.
pub(crate) fn base() -> Base {
    let object = enclosed(&sent(&pod())).expect("an envelope");
    let view = PodView::decode(object).expect("a pod");
    Base::of(&view).expect("a pod without a status")
}

/// The status that answers the pod, as the body of a patch.
pub(crate) fn answer(record: &Record, facts: &Facts<'_>) -> Vec<u8> {
    serde_json::to_vec(&wanted(record, facts)).expect("plain data")
}

/// The same as the body of a PUT.
pub(crate) fn put(base: &Base, record: &Record, facts: &Facts<'_>) -> Vec<u8> {
    base.with(&wanted(record, facts)).expect("a pod")
}

fn wanted<'a>(record: &'a Record, facts: &Facts<'a>) -> Box<Wanted<'a>> {
    match step(record, facts, now()).action {
        Some(Action::WriteStatus(wanted)) => wanted,
        other => unreachable!("a pod with a network runs next, not {other:?}"),
    }
}
