//! What a node object holds, and which patch is due for what was seen.

use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::Template;
use super::plan::{Action, Seen, next_action};
use super::view::NodeView;
use super::{NodeTable, object};
use crate::config::{Config, Environment, NodeSpec};

const ACS: usize = 0;
const ECS: usize = 1;
const SHARED: usize = 2;

fn config() -> Config {
    let text = "\
region: cn-wulanchabu
vswitches:
- {id: vsw-b, zone: cn-wulanchabu-b, cidr: 192.168.1.0/24}
nodes:
- {zone: cn-wulanchabu-b}
- {name: ecs-1, zone: cn-wulanchabu-b, type: ecs}
- {name: load-%d, zone: cn-wulanchabu-b, count: 2}
";
    Config::parse(text, Path::new("holdfast.yaml"), Environment::Unused).unwrap()
}

fn template() -> Template {
    Template::new(&config(), "v1.36.3+k3s1")
}

fn spec(index: usize) -> NodeSpec {
    config().nodes[index].clone()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The object that holdfast creates.
fn created(index: usize) -> Value {
    let node = template().node(&spec(index), at("2026-11-24T10:00:00Z"));
    let mut node = serde_json::to_value(node).unwrap();
    node["metadata"]["uid"] = "uid-1".into();
    node["metadata"]["resourceVersion"] = "5".into();
    node
}

fn seen(node: Value) -> Seen {
    Seen::Present(serde_json::from_value(node).unwrap())
}

fn view(node: Value) -> NodeView {
    serde_json::from_value(node).unwrap()
}

/// What is due for a node that was seen like that, without a heartbeat.
fn due(index: usize, node: Value) -> Option<Action> {
    let now = at("2026-11-24T10:01:00Z");
    next_action(&template(), &spec(index), &seen(node), false, now)
}

#[track_caller]
fn metadata_patch(index: usize, node: Value) -> Value {
    match due(index, node) {
        Some(Action::PatchMetadata(patch)) => patch,
        other => panic!("want a patch of the metadata, got {other:?}"),
    }
}

#[track_caller]
fn status_patch(index: usize, node: Value) -> Value {
    match due(index, node) {
        Some(Action::PatchStatus(patch)) => patch,
        other => panic!("want a patch of the status, got {other:?}"),
    }
}

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = status["conditions"].as_array().unwrap();
    conditions
        .iter()
        .find(|condition| condition["type"] == kind)
}

fn set_condition(node: &mut Value, kind: &str, status: &str) {
    let conditions = node["status"]["conditions"].as_array_mut().unwrap();
    let found = conditions
        .iter_mut()
        .find(|condition| condition["type"] == kind)
        .unwrap();
    found["status"] = status.into();
}

#[test]
fn a_new_acs_node_has_what_tools_expect_of_a_virtual_node() {
    let node = created(ACS);

    assert_eq!(
        node["metadata"]["labels"],
        json!({
            "type": "virtual-kubelet",
            "holdfast.dev/node-type": "acs",
            "kubernetes.io/role": "agent",
            "kubernetes.io/hostname": "virtual-kubelet-cn-wulanchabu-b",
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": "cn-wulanchabu-b",
            "topology.kubernetes.io/region": "cn-wulanchabu",
            "node.kubernetes.io/exclude-from-external-load-balancers": "",
        })
    );
    assert_eq!(
        node["spec"],
        json!({
            "providerID":
                "holdfast://cn-wulanchabu/cn-wulanchabu-b/virtual-kubelet-cn-wulanchabu-b",
            "taints": [{
                "key": "virtual-kubelet.io/provider",
                "value": "alibabacloud",
                "effect": "NoSchedule",
            }],
        })
    );
    let status = &node["status"];
    assert_eq!(status["capacity"]["pods"], "10000");
    assert_eq!(status["allocatable"], status["capacity"]);
    assert_eq!(
        status["addresses"][0],
        json!({"type": "InternalIP", "address": "127.0.0.1"})
    );
    assert_eq!(status["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10250);
    assert_eq!(status["nodeInfo"]["kubeletVersion"], "v1.36.3-aliyun.1");
    assert_eq!(
        condition(status, "Ready").unwrap()["reason"],
        "KubeletReady"
    );
    assert_eq!(condition(status, "PIDPressure").unwrap()["status"], "False");
}

#[test]
fn a_simulated_ecs_node_does_not_pose_as_virtual() {
    let mut node = created(ECS);

    assert_eq!(node["metadata"]["labels"]["type"], Value::Null);
    assert_eq!(node["spec"]["taints"][0]["key"], "holdfast.dev/simulated");
    node["metadata"]["labels"]["type"] = "virtual-kubelet".into();
    assert_eq!(
        metadata_patch(ECS, node)["metadata"]["labels"],
        json!({"type": null})
    );
}

#[test]
fn only_nodes_that_share_a_port_name_a_metrics_path() {
    let path = "/nodes/load-0/metrics/resource";

    assert_eq!(created(ACS)["metadata"]["annotations"], Value::Null);
    assert_eq!(
        created(SHARED)["metadata"]["annotations"][object::METRICS_PATH],
        path
    );
    let mut node = created(SHARED);
    node["metadata"]["annotations"] = json!({"mine": "x"});
    assert_eq!(
        metadata_patch(SHARED, node)["metadata"]["annotations"],
        json!({(object::METRICS_PATH): path})
    );
}

#[test]
fn nothing_is_due_for_a_node_as_it_was_created() {
    for index in [ACS, ECS, SHARED] {
        assert!(due(index, created(index)).is_none());
    }
}

#[test]
fn what_others_put_on_a_node_and_taints_taken_off_are_left_alone() {
    let mut node = created(ACS);
    node["metadata"]["labels"]["team"] = "a".into();
    node["metadata"]["labels"]
        .as_object_mut()
        .unwrap()
        .remove("kubernetes.io/role");
    node["spec"]["taints"] = json!([{"key": "theirs", "effect": "NoExecute"}]);
    node["spec"]["unschedulable"] = true.into();
    node["status"]["conditions"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "KernelDeadlock", "status": "True"}));

    assert!(due(ACS, node).is_none());
}

#[test]
fn a_label_that_identifies_the_node_is_restored_alone() {
    let mut node = created(ACS);
    node["metadata"]["labels"]["topology.kubernetes.io/zone"] = "elsewhere".into();

    assert_eq!(
        metadata_patch(ACS, node),
        json!({"metadata": {
            "uid": "uid-1",
            "labels": {"topology.kubernetes.io/zone": "cn-wulanchabu-b"},
        }})
    );
}

#[test]
fn a_node_that_somebody_prepared_is_adopted() {
    let node = json!({"metadata": {"name": "ecs-1", "uid": "uid-9", "resourceVersion": "5"}});
    let patch = status_patch(ECS, node.clone());
    assert_eq!(patch["metadata"]["uid"], "uid-9");

    let mut with_status = created(ECS);
    with_status["metadata"] = node["metadata"].clone();
    with_status["spec"] = json!({});
    let patch = metadata_patch(ECS, with_status);
    assert_eq!(
        patch["spec"]["providerID"],
        "holdfast://cn-wulanchabu/cn-wulanchabu-b/ecs-1"
    );
    assert_eq!(patch["metadata"]["labels"]["holdfast.dev/node-type"], "ecs");
}

#[test]
fn a_node_of_somebody_else_is_left_alone() {
    let named = |spec: Value, status: Value| {
        json!({
            "metadata": {"name": "ecs-1", "uid": "uid-9", "resourceVersion": "5"},
            "spec": spec,
            "status": status,
        })
    };
    let kubelet = json!({"nodeInfo": {"containerRuntimeVersion": "containerd://2.1.0"}});

    assert!(due(ECS, named(json!({"providerID": "kind://a"}), json!({}))).is_none());
    assert!(due(ECS, named(json!({}), kubelet)).is_none());
}

#[test]
fn a_condition_that_the_node_controller_changed_is_restored_with_a_new_transition() {
    let mut node = created(ACS);
    set_condition(&mut node, "Ready", "Unknown");
    let patch = status_patch(ACS, node);

    let ready = condition(&patch["status"], "Ready").unwrap();
    assert_eq!(ready["status"], "True");
    assert_eq!(ready["lastTransitionTime"], "2026-11-24T10:01:00Z");
    let disk = condition(&patch["status"], "DiskPressure").unwrap();
    assert_eq!(disk["lastTransitionTime"], Value::Null);
    assert_eq!(disk["lastHeartbeatTime"], "2026-11-24T10:01:00Z");
}

#[test]
fn a_node_that_is_asked_to_shut_down_is_not_ready_until_it_is_asked_no_longer() {
    let mut node = created(ACS);
    node["metadata"]["annotations"] = json!({"holdfast.dev/shutdown": "graceful"});
    let ready = condition(&status_patch(ACS, node.clone())["status"], "Ready").cloned();
    let ready = ready.unwrap();
    assert_eq!(ready["status"], "False");
    assert_eq!(ready["reason"], "KubeletNotReady");
    assert_eq!(ready["message"], "node is shutting down");
    assert_eq!(ready["lastTransitionTime"], "2026-11-24T10:01:00Z");

    set_condition(&mut node, "Ready", "False");
    assert!(due(ACS, node.clone()).is_none(), "it is so already");
    set_condition(&mut node, "Ready", "Unknown");
    let patch = status_patch(ACS, node.clone());
    assert_eq!(
        condition(&patch["status"], "Ready").unwrap()["status"],
        "False"
    );

    set_condition(&mut node, "Ready", "False");
    node["metadata"]["annotations"] = json!({});
    let patch = status_patch(ACS, node);
    assert_eq!(
        condition(&patch["status"], "Ready").unwrap()["status"],
        "True"
    );
}

#[test]
fn a_node_is_shut_down_by_one_word_only() {
    let asked = |word: &str| {
        let mut node = created(ACS);
        node["metadata"]["annotations"] = json!({"holdfast.dev/shutdown": word});
        view(node)
    };
    assert_eq!(asked("graceful").odd_shutdown(), None);
    assert!(
        due(ACS, {
            let mut node = created(ACS);
            node["metadata"]["annotations"] = json!({"holdfast.dev/shutdown": "now"});
            node
        })
        .is_none()
    );
    assert_eq!(asked("now").odd_shutdown(), Some("now"));
}

#[test]
fn a_route_controller_keeps_its_condition() {
    let mut node = created(ACS);
    set_condition(&mut node, "NetworkUnavailable", "True");
    assert!(due(ACS, node.clone()).is_none());

    set_condition(&mut node, "Ready", "False");
    assert!(condition(&status_patch(ACS, node)["status"], "NetworkUnavailable").is_none());
}

#[test]
fn a_heartbeat_is_a_status_patch_even_when_nothing_changed() {
    let now = at("2026-11-24T10:05:00Z");
    let action = next_action(&template(), &spec(ACS), &seen(created(ACS)), true, now);

    assert!(matches!(action, Some(Action::PatchStatus(_))), "{action:?}");
}

#[test]
fn an_unknown_node_is_read_and_an_absent_one_created() {
    let next = |seen| next_action(&template(), &spec(ACS), &seen, false, Timestamp::UNIX_EPOCH);

    assert!(matches!(next(Seen::Unknown), Some(Action::Get)));
    assert!(matches!(next(Seen::Absent), Some(Action::Create(_))));
}

#[test]
fn the_provider_id_alone_proves_a_node_ours() {
    let mut unlabelled = created(ACS);
    unlabelled["metadata"]["labels"] = json!({});
    let mut prepared = created(ACS);
    prepared["spec"]["providerID"] = "".into();
    let mut other_provider = created(ACS);
    other_provider["spec"]["providerID"] = "kwok://n".into();

    assert!(view(created(ACS)).is_ours());
    assert!(view(unlabelled).is_ours());
    assert!(!view(prepared).is_ours());
    assert!(!view(other_provider).is_ours());
}

#[test]
fn an_older_reading_of_a_node_does_not_replace_a_newer_one() {
    let version = |version: &str| {
        let mut node = created(ACS);
        node["metadata"]["resourceVersion"] = version.into();
        view(node)
    };

    assert!(version("10").is_newer_than(&version("9")));
    assert!(!version("9").is_newer_than(&version("10")));
    assert!(!version("9").is_newer_than(&version("9")));
    assert!(version("opaque").is_newer_than(&version("10")));
}

#[test]
fn the_table_shows_cordon_labels_and_readiness_and_forgets_a_deleted_node() {
    let table = NodeTable::new(&config());
    let name = spec(ACS).name;
    assert!(!table.get(&name).unwrap().is_registered());

    let mut node = created(ACS);
    node["spec"]["unschedulable"] = true.into();
    node["metadata"]["labels"]["team"] = "a".into();
    table.update(&name, Some(&view(node)));
    let state = table.get(&name).unwrap();
    assert!(state.is_registered() && state.ready && state.unschedulable);
    assert_eq!(state.labels["team"], "a");
    assert_eq!(state.taints[0].key, "virtual-kubelet.io/provider");

    table.update(&name, None);
    assert!(!table.get(&name).unwrap().ready);
    assert_eq!(table.all().len(), 4);
}
