mod any_order;
mod deletion;
mod exits;
mod image;
mod life;
mod shutdown;
mod world;

use holdfast_provider::engine::{Network, Reason};
use holdfast_provider::id::NodeType;
use serde_json::{Value, json};

use self::world::{Next, UID, World};
use super::Profile::{Acs, Fast};

fn ordinary(_: &mut Value) {}

fn job(pod: &mut Value) {
    pod["spec"]["restartPolicy"] = "Never".into();
    pod["metadata"]["finalizers"] = json!(["batch.kubernetes.io/job-tracking"]);
}

#[test]
fn spec_create_sequence() {
    let mut world = World::new(Acs);
    assert_eq!(world.kubectl(), "0/1 Pending <none>");
    world.run(1);
    world.attach("192.168.1.8");
    world.run(10);
    assert_eq!(
        world.story,
        [
            "0.0s write: 0/1 Pending <none>",
            "3.0s write: 0/1 ContainerCreating 192.168.1.8",
            "4.0s write: 1/1 Running 192.168.1.8"
        ]
    );
}

#[test]
fn acs_tells_that_an_instance_is_being_created_and_then_of_its_container() {
    let mut world = World::new(Acs);
    world.run(1);
    let creating = world.condition("ContainerInstanceCreated").unwrap();
    assert_eq!(
        [
            &creating["status"],
            &creating["reason"],
            &creating["message"]
        ],
        ["False", "Creating", "Creating"]
    );
    assert_eq!(world.pod()["status"]["containerStatuses"], Value::Null);
    world.restart();
    assert_eq!(world.act(), Next::Idle);
    world.attach("192.168.1.8");
    world.run(10);
    let created = world.condition("ContainerInstanceCreated").unwrap();
    assert_eq!(created["status"], "True");
    assert_eq!(
        world.said,
        [
            "Pulling pulling image \"nginx:1.14.1-8.6\"",
            "Pulled Successfully pulled image \"nginx:1.14.1-8.6\"",
            "Created Created container",
            "Started Started container",
        ]
    );
}

#[test]
fn a_failing_cloud_is_told_in_the_words_of_acs() {
    let told = |reason| {
        let mut world = World::new(Acs);
        world.network = Network::Waiting {
            reason,
            note: "AttachNetworkInterface failed".to_owned(),
        };
        world.run(1);
        let condition = world.condition("ContainerInstanceCreated").unwrap();
        (condition["reason"].clone(), condition["message"].clone())
    };
    let (reason, message) = told(Reason::CloudCallThrottled);
    assert_eq!(reason, "Throttling");
    let words =
        "The request was denied due to system flow control, please wait and try again later";
    assert_eq!(message, words);
    let (reason, message) = told(Reason::CloudCallFailed);
    assert_eq!(reason, "UnknownError");
    let words = "An unknown error occurred for AttachNetworkInterface failed";
    assert_eq!(message, words);
}

#[test]
fn the_network_may_be_later_than_the_delay() {
    let mut world = World::new(Acs);
    world.run(7);
    world.attach("192.168.1.8");
    world.run(5);
    assert_eq!(
        world.story,
        [
            "0.0s write: 0/1 Pending <none>",
            "7.0s write: 0/1 ContainerCreating 192.168.1.8",
            "8.0s write: 1/1 Running 192.168.1.8"
        ]
    );
}

#[test]
fn the_first_status_has_everything_that_tools_read() {
    let mut world = World::new(Acs);
    world.attach("192.168.1.8");
    world.run(3);
    let id = &world.pod()["metadata"]["annotations"];
    assert_eq!(
        *id,
        json!({
            "network.alibabacloud.com/enable-fixed-ip": "true",
            "network.alibabacloud.com/allocated-eni-id": "eni-1",
            "network.alibabacloud.com/vpc-id": "vpc-1",
            "network.alibabacloud.com/vswitch-id": "vsw-b",
            "topology.kubernetes.io/region": "cn-wulanchabu",
            "topology.kubernetes.io/zone": "cn-wulanchabu-b",
            "alibabacloud.com/instance-id": "acs-1",
            "alibabacloud.com/request-id": "5F2C",
            "alibabacloud.com/pod-use-spec": "0.25-0.5Gi",
        })
    );
    let unready = "containers with unready status: [nginx]";
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "observedGeneration": 1, "lastTransitionTime": "2026-11-24T10:00:03Z",
        })
    };
    assert_eq!(
        world.patch["status"],
        json!({
            "phase": "Pending", "observedGeneration": 1, "startTime": "2026-11-24T10:00:00Z",
            "hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.1"}],
            "podIP": "192.168.1.8", "podIPs": [{"ip": "192.168.1.8"}],
            "conditions": [
                condition("PodReadyToStartContainers", "True", "", ""),
                condition("ContainerInstanceCreated", "True", "", ""),
                condition("SandboxReady", "True", "", ""),
                condition("Initialized", "True", "", ""),
                condition("ContainersReady", "False", "ContainersNotReady", unready),
                condition("Ready", "False", "ContainersNotReady", unready),
            ],
            "containerStatuses": [{
                "name": "nginx", "image": "nginx:1.14.1-8.6", "imageID": "", "restartCount": 0,
                "ready": false, "started": false,
                "state": {"waiting": {"reason": "ContainerCreating"}},
            }],
        })
    );
    world.run(1);
    let status = &world.pod()["status"]["containerStatuses"][0];
    assert_eq!(
        status["state"],
        json!({"running": {"startedAt": "2026-11-24T10:00:04Z"}})
    );
    assert_eq!(
        (&status["ready"], &status["started"]),
        (&json!(true), &json!(true))
    );
    let id = status["containerID"]
        .as_str()
        .unwrap()
        .strip_prefix("holdfast://")
        .unwrap();
    assert_eq!(
        (id.len(), id.chars().all(|c| c.is_ascii_hexdigit())),
        (64, true)
    );
    let ready = world.condition("Ready").unwrap();
    assert_eq!(
        ready,
        json!({
            "type": "Ready", "status": "True", "reason": "", "message": "", "observedGeneration": 1,
        })
    );
}

#[test]
fn fast_profile_needs_two_writes() {
    let mut world = World::new(Fast);
    world.attach("192.168.1.8");
    world.run(5);
    world.delete(30);
    world.run(5);
    assert_eq!(
        world.story,
        [
            "0.0s write: 1/1 Running 192.168.1.8",
            "5.0s stop network",
            "5.0s delete object"
        ]
    );
}

#[test]
fn adopted_running_pod_is_not_rewritten() {
    for profile in [Acs, Fast] {
        let mut world = World::running(profile, ordinary);
        // Still finding out, then known.
        let network = std::mem::replace(&mut world.network, Network::Pending);
        world.restart();
        world.run(5);
        world.network = network;
        world.run(5);
        world.set_condition("example.com/foreign", "True");
        world.edit(|pod| pod["metadata"]["annotations"]["foreign"] = "value".into());
        world.run(5);
        assert_eq!(world.story, [""; 0]);
    }
}

#[test]
fn a_restart_between_two_stages_goes_on_where_it_was() {
    let mut world = World::new(Acs);
    world.attach("192.168.1.8");
    world.run(3);
    world.restart();
    world.run(3);
    assert_eq!(
        world.story,
        [
            "0.0s write: 0/1 Pending <none>",
            "3.0s write: 0/1 ContainerCreating 192.168.1.8",
            // The condition's time is cut to whole seconds.
            "3.6s write: 1/1 Running 192.168.1.8"
        ]
    );
}

#[test]
fn ready_flipped_by_node_controller_is_restored() {
    let mut world = World::running(Acs, ordinary);
    let before = world.pod()["status"].clone();
    world.set_condition("Ready", "False");
    world.restart();
    world.run(5);
    assert_eq!(world.story, ["0.0s write: 1/1 Running 192.168.1.8"]);
    assert_eq!(world.condition("Ready").unwrap()["status"], "True");
    assert_eq!(
        world.pod()["status"]["containerStatuses"],
        before["containerStatuses"]
    );
    assert_eq!(world.pod()["status"]["startTime"], before["startTime"]);
}

#[test]
fn an_overwritten_annotation_is_restored() {
    let mut world = World::running(Fast, ordinary);
    let key = "network.alibabacloud.com/allocated-eni-id";
    world.edit(|pod| pod["metadata"]["annotations"][key] = "eni-mine".into());
    let next = world.act();
    assert_eq!(
        (next, &world.pod()["metadata"]["annotations"][key]),
        (Next::Again, &json!("eni-1"))
    );
}

#[test]
fn a_generation_that_changes_is_told_and_one_that_is_not_kept_is_not() {
    let mut world = World::running(Fast, ordinary);
    world.edit(|pod| {
        pod["metadata"]["generation"] = 2.into();
        pod["spec"]["containers"][0]["image"] = "nginx:2".into();
    });
    world.run(1);
    assert_eq!(world.story, ["0.0s write: 1/1 Running 192.168.1.8"]);
    assert_eq!(world.pod()["status"]["observedGeneration"], 2);
    assert_eq!(
        world.pod()["status"]["containerStatuses"][0]["image"],
        "nginx:2"
    );

    world.edit(|pod| {
        pod["metadata"]["generation"] = 3.into();
        pod["status"]
            .as_object_mut()
            .unwrap()
            .remove("observedGeneration");
        for condition in pod["status"]["conditions"].as_array_mut().unwrap() {
            condition
                .as_object_mut()
                .unwrap()
                .remove("observedGeneration");
        }
    });
    assert_eq!(world.act(), Next::Idle);
}

#[test]
fn waiting_pod_stays_pending() {
    let mut world = World::new(Acs);
    world.wait_for("no free address");
    world.run(2);
    world.run(10);
    assert_eq!(world.story, ["0.0s write: 0/1 Pending <none>"]);
    assert_eq!(
        world.condition("ContainerInstanceCreated").unwrap(),
        json!({
            "type": "ContainerInstanceCreated", "status": "False", "observedGeneration": 1,
            "reason": "IPPoolExhausted", "message": "no free address",
        })
    );
    world.wait_for("still no free address");
    world.run(1);
    world.attach("192.168.1.8");
    world.run(2);
    assert_eq!(
        world.story[1..],
        [
            "12.0s write: 0/1 Pending <none>",
            "13.0s write: 0/1 ContainerCreating 192.168.1.8",
            "14.0s write: 1/1 Running 192.168.1.8"
        ]
    );
    let created = world.condition("ContainerInstanceCreated").unwrap();
    assert_eq!(
        [&created["status"], &created["reason"], &created["message"]],
        ["True", "", ""]
    );
}

#[test]
fn a_running_pod_keeps_its_status_while_the_provider_waits() {
    let mut world = World::running(Acs, ordinary);
    world.wait_for("the cloud does not answer");
    assert_eq!(world.act(), Next::Idle);
}

#[test]
fn hostnetwork_pod_has_the_nodes_address_and_no_eni() {
    let mut world = World::running(Acs, |pod| pod["spec"]["hostNetwork"] = true.into());
    let annotations = &world.pod()["metadata"]["annotations"];
    assert_eq!(
        annotations["network.alibabacloud.com/allocated-eni-id"],
        Value::Null
    );
    assert_eq!(
        annotations["topology.kubernetes.io/zone"],
        "cn-wulanchabu-b"
    );
    assert_eq!(world.kubectl(), "1/1 Running 10.0.0.1");
    world.network = Network::Pending;
    world.delete(30);
    world.run(5);
    assert_eq!(
        world.story,
        ["1.0s write: 0/1 Completed 10.0.0.1", "1.0s delete object"]
    );
}

#[test]
fn a_changed_address_replaces_the_old_one() {
    let mut world = World::running(Acs, ordinary);
    world.attach("192.168.1.9");
    world.run(1);
    assert_eq!(world.kubectl(), "1/1 Running 192.168.1.9");
    let list = json!([{"ip": "192.168.1.9"}, {"$patch": "replace"}]);
    assert_eq!(world.patch["status"]["podIPs"], list);
    assert_eq!(
        world.patch["status"]["hostIPs"],
        json!([{"ip": "10.0.0.1"}])
    );
}

#[test]
fn init_containers_come_first_and_sidecars_stay() {
    let mut world = World::with(Acs, |pod| {
        pod["spec"]["initContainers"] = json!([
            {"name": "migrate", "image": "m"},
            {"name": "mesh", "image": "s", "restartPolicy": "Always"},
        ]);
    });
    world.attach("192.168.1.8");
    world.run(4);
    assert_eq!(
        world.story,
        [
            "0.0s write: 0/1 Pending <none>",
            "3.0s write: 0/1 Init:0/2 192.168.1.8",
            "4.0s write: 1/1 Running 192.168.1.8"
        ]
    );
    let running: Vec<_> = world
        .record
        .running_containers()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(running, ["mesh", "nginx"]);
    let done = &world.pod()["status"]["initContainerStatuses"][0];
    assert_eq!(done["state"]["terminated"]["reason"], "Completed");
    assert_eq!(
        (&done["ready"], &done["started"]),
        (&json!(true), &json!(false))
    );
    world.restart();
    assert_eq!(world.act(), Next::Idle);
    world.delete(30);
    world.run(2);
    assert_eq!(world.story[4], "6.0s write: 0/1 Completed 192.168.1.8");
}

#[test]
fn uninitialised_pod_names_the_init_containers() {
    let mut world = World::with(Acs, |pod| {
        pod["spec"]["initContainers"] =
            json!([{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]);
    });
    world.attach("192.168.1.8");
    world.run(3);
    let initialized = world.condition("Initialized").unwrap();
    assert_eq!(initialized["reason"], "ContainersNotInitialized");
    assert_eq!(
        initialized["message"],
        "containers with incomplete status: [a b]"
    );
    let waiting = &world.pod()["status"]["containerStatuses"][0]["state"]["waiting"];
    assert_eq!(waiting["reason"], "PodInitializing");
}

#[test]
fn readiness_gates_of_others_decide_about_ready() {
    let gate = "example.com/lb";
    let mut world = World::with(Fast, |pod| {
        pod["spec"]["readinessGates"] = json!([{"conditionType": gate}]);
    });
    world.attach("192.168.1.8");
    world.run(1);
    let ready = world.condition("Ready").unwrap();
    assert_eq!(
        (&ready["status"], &ready["reason"]),
        (&json!("False"), &json!("ReadinessGatesNotReady"))
    );
    assert_eq!(
        ready["message"],
        format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.")
    );
    assert_eq!(
        world.condition("ContainersReady").unwrap()["status"],
        "True"
    );
    world.set_condition(gate, "True");
    world.run(1);
    assert_eq!(world.condition("Ready").unwrap()["status"], "True");
    world.set_condition(gate, "False");
    world.run(1);
    assert_eq!(
        world.condition("Ready").unwrap()["message"],
        format!("the status of pod readiness gate \"{gate}\" is not \"True\", but False")
    );
}

#[test]
fn pod_made_with_a_node_name_is_called_scheduled() {
    let mut world = World::with(Fast, |pod| pod["status"]["conditions"] = json!([]));
    world.attach("192.168.1.8");
    world.run(1);
    assert_eq!(world.condition("PodScheduled").unwrap()["status"], "True");
    assert_eq!(world.act(), Next::Idle);
}

#[test]
fn ecs_node_shows_no_container_instance() {
    let mut world = World::new(Acs);
    world.node.node_type = NodeType::Ecs;
    world.wait_for("no free address");
    world.act();
    assert_eq!(
        world.condition("PodReadyToStartContainers").unwrap()["reason"],
        "IPPoolExhausted"
    );
    world.attach("192.168.1.8");
    world.run(5);
    assert_eq!(world.kubectl(), "1/1 Running 192.168.1.8");
    assert_eq!(world.condition("ContainerInstanceCreated"), None);
    let annotations = &world.pod()["metadata"]["annotations"];
    assert_eq!(annotations["alibabacloud.com/instance-id"], Value::Null);
    assert_eq!(
        annotations["network.alibabacloud.com/allocated-eni-id"],
        "eni-1"
    );
    world.restart();
    assert_eq!(world.act(), Next::Idle);
}

#[test]
fn a_view_that_the_write_overtook_changes_nothing() {
    let mut world = World::new(Fast);
    let stale = world.pod().clone();
    world.attach("192.168.1.8");
    world.run(0);
    let view = serde_json::from_value(stale).unwrap();
    assert!(
        !world
            .record
            .observe(&view, &mut crate::pod::record::Names::default(), world.now)
    );
    assert_eq!(
        (world.act(), world.record.uid().as_str()),
        (Next::Idle, UID)
    );
}
