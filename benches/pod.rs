//! The path of a pod through this program, without I/O: a pod decoded, taken in, and the
//! status that answers it.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use holdfast::config::Profile;
use holdfast::pod::behaviour::Behaviours;
use holdfast::pod::core::{Action, Facts, Lifecycle, NodeInfo, step};
use holdfast::pod::needs::Supply;
use holdfast::pod::protobuf::schema::POD;
use holdfast::pod::protobuf::{self, Message, encode, envelope};
use holdfast::pod::record::{Names, Record, Terms};
use holdfast::pod::view::PodView;
use holdfast_provider::engine::{Assignment, Network};
use holdfast_provider::id::NodeType;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

#[path = "../src/pod/protobuf/as_sent.rs"]
#[allow(dead_code, reason = "shared with the tests of the encoding")]
mod as_sent;

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("in range")
}

/// A pod as the API server sends it: with the volume that admission adds and with managed fields.
fn pod() -> Value {
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

fn decoding(c: &mut Criterion) {
    let pod = pod();
    let raw = Bytes::from(as_sent::enveloped(&pod, POD));
    c.bench_function("pod/decode", |b| {
        b.iter(|| {
            let object = protobuf::enclosed(&raw).expect("an envelope");
            protobuf::from_slice::<PodView>(&object, POD).expect("a pod")
        });
    });
    let text = pod.to_string();
    c.bench_function("pod/decode from JSON", |b| {
        b.iter(|| serde_json::from_str::<PodView>(&text).expect("a pod"));
    });
}

fn view() -> PodView {
    serde_json::from_value(pod()).expect("a pod")
}

fn terms() -> Terms {
    Terms {
        node: "virtual-kubelet-cn-wulanchabu-b".into(),
        pod_use_spec: "1-2Gi".into(),
        behaviours: Behaviours::default(),
    }
}

fn record() -> Record {
    Record::from_view(&view(), terms(), &mut Names::default(), now()).expect("it has a UID")
}

fn taking_in(c: &mut Criterion) {
    let view = view();
    c.bench_function("record/first view", |b| {
        b.iter_batched(
            Names::default,
            |mut names| Record::from_view(&view, terms(), &mut names, now()),
            BatchSize::SmallInput,
        );
    });
}

fn deciding(c: &mut Criterion) {
    let record = record();
    let network = Network::Attached(Assignment {
        address: "192.168.1.8".parse().expect("an address"),
        eni: "eni-0jl1234567890abcdefg".into(),
        mac: "00:16:3e:12:34:56".parse().expect("a MAC"),
        vswitch: "vsw-b".into(),
        zone: "cn-wulanchabu-b".into(),
        instance: "acs-0jl1234567890abcdefg".into(),
        request_id: "6EF60BEC-0242-43AF-BB20-270359FB54A7".into(),
    });
    let node = NodeInfo {
        host_ip: "10.0.0.1".parse().expect("an address"),
        zone: "cn-wulanchabu-b".into(),
        region: "cn-wulanchabu".into(),
        vpc: "vpc-1".into(),
        node_type: NodeType::Acs,
    };
    let lifecycle = Lifecycle {
        profile: Profile::Fast,
        creating: SignedDuration::ZERO,
        running: SignedDuration::ZERO,
        stop: SignedDuration::ZERO,
    };
    let supply = Supply::default();
    let facts = Facts {
        network: &network,
        node: &node,
        lifecycle: &lifecycle,
        seen_at: now(),
        supply: &supply,
        shutdown_at: None,
    };
    c.bench_function("core/step", |b| {
        b.iter(|| {
            matches!(
                step(black_box(&record), &facts, now()).action,
                Some(Action::WriteStatus(_))
            )
        });
    });
    c.bench_function("core/step and body", |b| {
        b.iter(|| match step(black_box(&record), &facts, now()).action {
            Some(Action::WriteStatus(wanted)) => serde_json::to_vec(&wanted).expect("plain data"),
            other => unreachable!("a pod with a network runs next, not {other:?}"),
        });
    });
}

criterion_group!(benches, decoding, taking_in, deciding);
criterion_main!(benches);
