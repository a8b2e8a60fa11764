use holdfast_provider::engine::Network;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::world::{Next, World};
use super::{Acs, Fast, job, ordinary};
use crate::pod::view::Phase;

#[test]
fn spec_delete_sequence_keeps_ip_to_the_end() {
    let mut world = World::running(Acs, ordinary);
    world.delete(30);
    assert_eq!(world.kubectl(), "1/1 Terminating 192.168.1.8");
    world.detaches = false;
    world.run(2);
    assert_eq!(
        world.kubectl(),
        "1/1 Terminating 192.168.1.8",
        "while the ENI is being detached"
    );
    world.network = Network::Detached;
    world.run(1);
    assert_eq!(
        world.story,
        [
            "1.0s stop network",
            "2.0s write: 0/1 Completed 192.168.1.8",
            "2.0s delete object"
        ]
    );
    assert!(world.pod.is_none());
}

#[test]
fn second_shorter_deletion_wins() {
    let mut world = World::running(Acs, ordinary);
    world.lifecycle.stop = SignedDuration::from_secs(20);
    world.delete(30);
    world.run(3);
    world.delete(5);
    world.run(30);
    assert_eq!(
        world.story,
        [
            // 5 s after the first deletion, cut to whole seconds by the API.
            "4.6s stop network",
            "4.6s write: 0/1 Error 192.168.1.8",
            "4.6s delete object"
        ]
    );
}

#[test]
fn a_second_deletion_after_the_containers_ended_kills_nothing() {
    let mut world = World::running(Acs, ordinary);
    world.lifecycle.stop = SignedDuration::from_secs(5);
    world.detaches = false;
    world.delete(30);
    world.run(8);
    world.delete(1);
    world.network = Network::Detached;
    world.run(1);
    assert_eq!(world.story[1], "8.0s write: 0/1 Completed 192.168.1.8");
}

#[test]
fn the_deletion_time_is_read_once() {
    let mut world = World::running(Acs, job);
    world.run(1);
    world.delete(30);
    let deleted_at = world.record.deletion().unwrap().deleted_at;
    // The API showed 10:00:41: 30 s more than the cut time of the deletion.
    assert_eq!(deleted_at, "2026-11-24T10:00:12Z".parse().unwrap());
    world.run(40);
    world.delete(0);
    assert_eq!(world.record.deletion().unwrap().deleted_at, deleted_at);
    assert!(world.record.deletion().unwrap().final_at.is_some());
}

#[test]
fn an_object_whose_final_deletion_broke_off_is_deleted_once_more() {
    let mut world = World::running(Fast, ordinary);
    world.edit(|pod| {
        pod["metadata"]["deletionTimestamp"] = pod["metadata"]["creationTimestamp"].clone();
        pod["metadata"]["deletionGracePeriodSeconds"] = 0.into();
    });
    world.run(5);
    assert_eq!(world.story, ["0.0s stop network", "1.0s delete object"]);
    assert!(world.pod.is_none());
}

#[test]
fn a_container_that_does_not_stop_in_time_is_killed() {
    let mut world = World::running(Acs, ordinary);
    world.lifecycle.stop = SignedDuration::from_secs(60);
    world.detaches = false;
    world.delete(30);
    world.run(40);
    world.network = Network::Detached;
    world.act();
    let status = &world.pod()["status"];
    let ended = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&ended["exitCode"], &ended["reason"]),
        (&json!(137), &json!("Error"))
    );
    assert_eq!(ended["finishedAt"], "2026-11-24T10:00:40Z");
    assert_eq!(status["phase"], "Failed");
    assert_eq!(world.condition("Ready").unwrap()["reason"], "PodFailed");
}

#[test]
fn a_pod_deleted_while_nobody_watched_stopped_in_time() {
    let mut world = World::running(Acs, ordinary);
    world.delete(30);
    world.now += SignedDuration::from_hours(1);
    world.restart();
    world.run(0);
    assert_eq!(
        world.story,
        [
            "3600.0s stop network",
            "3600.0s write: 0/1 Completed 192.168.1.8",
            "3600.0s delete object"
        ]
    );
}

#[test]
fn completed_pod_shows_when_and_how_it_ended() {
    let mut world = World::running(Acs, ordinary);
    world.delete(30);
    world.run(1);
    assert_eq!(
        world.patch["status"]["podIP"],
        Value::Null,
        "the address stays as it is"
    );
    assert_eq!(world.patch["status"]["observedGeneration"], 2);
    let ended = &world.patch["status"]["containerStatuses"][0]["state"]["terminated"];
    let id = &world.patch["status"]["containerStatuses"][0]["containerID"];
    assert_eq!(
        *ended,
        json!({
            "exitCode": 0, "reason": "Completed", "containerID": id,
            "startedAt": "2026-11-24T10:00:04Z", "finishedAt": "2026-11-24T10:00:11Z",
        })
    );
    let conditions = world.patch["status"]["conditions"].as_array().unwrap();
    let told: Vec<_> = conditions
        .iter()
        .map(|one| ["type", "status", "reason"].map(|field| one[field].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ["PodReadyToStartContainers", "False", ""],
            ["SandboxReady", "False", ""],
            ["Initialized", "True", "PodCompleted"],
            ["ContainersReady", "False", "PodCompleted"],
            ["Ready", "False", "PodCompleted"],
        ]
    );
}

#[test]
fn job_pod_deleted_halfway_is_failed() {
    for profile in [Acs, Fast] {
        let mut world = World::running(profile, job);
        world.delete(30);
        world.run(5);
        let at = if profile == Acs { "1.0s" } else { "0.0s" };
        let expected = [
            "stop network",
            "write: 0/1 Error 192.168.1.8",
            "delete object",
        ];
        assert_eq!(world.story, expected.map(|what| format!("{at} {what}")));
        let status = &world.pod()["status"];
        assert_eq!(status["phase"], "Failed");
        assert_eq!(
            status["containerStatuses"][0]["state"]["terminated"]["exitCode"],
            143
        );

        // The finalizer keeps the object; asking again would not help.
        world.run(100);
        assert_eq!(world.story.len(), 3);
        world.remove_finalizers();
        assert!(world.pod.is_none());
    }
}

#[test]
fn evicted_pod_gives_up_its_network_and_is_left_alone() {
    let mut world = World::running(Acs, ordinary);
    world.edit(|pod| {
        pod["status"]["phase"] = "Failed".into();
        pod["status"]["reason"] = "Evicted".into();
    });
    world.detaches = false;
    world.run(5);
    assert_eq!(world.story, ["0.0s end network"]);
    world.network = Network::Detached;
    world.run(5);
    assert_eq!(world.act(), Next::Idle);
    assert_eq!(world.pod()["status"]["podIP"], "192.168.1.8");
    world.delete(30);
    world.run(1);
    assert_eq!(world.story[1..], ["10.0s delete object"]);
}

#[test]
fn an_ended_pod_that_is_deleted_waits_for_its_network_first() {
    let mut world = World::running(Acs, ordinary);
    world.edit(|pod| pod["status"]["phase"] = "Failed".into());
    world.delete(30);
    world.run(0);
    assert_eq!(world.story, ["0.0s stop network", "0.0s delete object"]);
}

/// A status write that was under way for long may reach the API server after the pod's end.
#[test]
fn an_end_is_for_good_even_if_a_late_write_puts_the_phase_back() {
    for end in ["Failed", "Succeeded"] {
        let mut world = World::running(Acs, ordinary);
        let before = world.pod()["status"].clone();
        world.edit(|pod| pod["status"]["phase"] = end.into());
        world.run(1);
        world.edit(|pod| pod["status"] = before);
        world.run(1);
        assert_eq!(world.pod()["status"]["phase"], end);
        world.edit(|pod| pod["status"]["phase"] = "Pending".into());
        world.restart();
        world.run(1);
        let known_no_longer = "Failed";
        assert_eq!(world.pod()["status"]["phase"], known_no_longer);
    }
}

#[test]
fn deleted_while_creating_goes_without_an_end() {
    for (profile, before) in [(Acs, 3), (Acs, 1), (Fast, -1)] {
        let mut world = World::new(profile);
        if before >= 0 {
            world.attach("192.168.1.8");
            world.run(before);
        }
        world.delete(30);
        world.story.clear();
        world.run(0);
        let expected = ["stop network", "delete object"];
        assert_eq!(
            world.story,
            expected.map(|what| format!("{}.0s {what}", before.max(0)))
        );
    }
}

#[test]
fn job_pod_deleted_before_it_started_is_failed() {
    let mut world = World::with(Fast, job);
    world.delete(30);
    world.run(0);
    assert_eq!(
        world.story,
        [
            "0.0s stop network",
            "0.0s write: 0/1 ContainerStatusUnknown <none>",
            "0.0s delete object"
        ]
    );
    let status = &world.pod()["status"]["containerStatuses"][0];
    assert_eq!(status["state"]["terminated"]["exitCode"], 137);
    assert_eq!(status["containerID"], Value::Null);
    assert_eq!(world.record.phase(), Phase::Failed);
}
