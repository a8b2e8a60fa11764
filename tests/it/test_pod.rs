//! Pods as tests make them: a plain one, and what makes another out of it.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::support::FIXED_IP;

/// What a test's pod has that a plain one has not.
#[derive(Clone, Debug)]
pub(crate) struct TestPod {
    name: String,
    annotations: Value,
    labels: Value,
    spec: Value,
}

impl TestPod {
    /// An ordinary pod that tolerates virtual nodes and selects them.
    pub(crate) fn ordinary(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            annotations: json!({}),
            labels: json!({ "alibabacloud.com/acs": "true" }),
            spec: json!({ "containers": [{ "name": "main", "image": "nginx" }] }),
        }
    }

    pub(crate) fn fixed(name: &str) -> Self {
        Self::ordinary(name).annotated(FIXED_IP, "true")
    }

    pub(crate) fn annotated(mut self, key: &str, value: &str) -> Self {
        self.annotations[key] = json!(value);
        self
    }

    pub(crate) fn labelled(mut self, key: &str, value: &str) -> Self {
        self.labels[key] = json!(value);
        self
    }

    /// Adds to the specification.
    pub(crate) fn with(mut self, spec: &Value) -> Self {
        self.spec = merged(&self.spec, spec);
        self
    }

    pub(crate) fn in_zone(self, zone: &str) -> Self {
        let selector = json!({ "type": "virtual-kubelet", "topology.kubernetes.io/zone": zone });
        self.with(&json!({ "nodeSelector": selector }))
    }

    pub(crate) fn on_node(self, node: &str) -> Self {
        self.with(&json!({ "nodeName": node }))
    }

    pub(crate) fn on_ecs(self) -> Self {
        self.with(&json!({
            "nodeSelector": { "holdfast.dev/node-type": "ecs" },
            "tolerations": [{ "key": "holdfast.dev/simulated", "operator": "Exists" }],
        }))
    }

    pub(crate) fn object(&self) -> Pod {
        serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "annotations": self.annotations,
                "labels": self.labels,
            },
            "spec": self.spec,
        }))
        .unwrap()
    }
}

pub(crate) fn merged(base: &Value, over: &Value) -> Value {
    let mut all = base.clone();
    for (key, value) in over.as_object().unwrap() {
        all[key] = value.clone();
    }
    all
}
