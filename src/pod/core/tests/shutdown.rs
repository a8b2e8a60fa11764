//! A node that shuts down gracefully, as its pods show it.

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::world::World;
use super::{Acs, Fast, job, ordinary};

/// Reason, message and exit code of the first container.
fn end(world: &World) -> (Value, Value, Value) {
    let status = &world.pod()["status"];
    assert_eq!(status["phase"], "Failed");
    let ended = &status["containerStatuses"][0]["state"]["terminated"];
    (
        status["reason"].clone(),
        status["message"].clone(),
        ended["exitCode"].clone(),
    )
}

fn terminated(exit_code: i64) -> (Value, Value, Value) {
    let message = "Pod was terminated in response to imminent node shutdown.";
    (json!("Terminated"), json!(message), json!(exit_code))
}

fn shut_down(world: &mut World) {
    world.shutdown_at = Some(world.now);
}

#[test]
fn a_pod_stops_in_order_and_has_failed_for_no_fault_of_its_own() {
    let mut world = World::running(Acs, ordinary);
    shut_down(&mut world);
    world.run(60);
    assert_eq!(
        world.story,
        ["1.0s write: 0/1 Completed 192.168.1.8", "1.0s end network"]
    );
    assert_eq!(end(&world), terminated(0));
    let condition = world.condition("DisruptionTarget").unwrap();
    assert_eq!(condition["status"], "True");
    assert_eq!(condition["reason"], "TerminationByKubelet");
    assert_eq!(condition["message"], terminated(0).1);
    assert_eq!(world.condition("Ready").unwrap()["reason"], "PodFailed");
}

#[test]
fn a_pod_that_does_not_stop_within_its_own_grace_is_killed_then() {
    let grace = |pod: &mut Value| pod["spec"]["terminationGracePeriodSeconds"] = 5.into();
    let mut world = World::running(Acs, grace);
    world.lifecycle.stop = SignedDuration::from_secs(20);
    shut_down(&mut world);
    world.run(60);
    assert_eq!(world.story[0], "5.0s write: 0/1 Error 192.168.1.8");
    assert_eq!(end(&world), terminated(137));
}

#[test]
fn a_job_that_is_interrupted_tells_its_controller_why() {
    let mut world = World::running(Fast, job);
    shut_down(&mut world);
    world.run(1);
    assert_eq!(end(&world), terminated(143));
}

#[test]
fn a_pod_that_waits_for_an_address_is_ended_and_one_that_comes_is_rejected() {
    let mut world = World::new(Acs);
    world.wait_for("no free address");
    world.run(1);
    shut_down(&mut world);
    world.run(1);
    assert_eq!(end(&world), terminated(137));

    let mut world = World::new(Acs);
    shut_down(&mut world);
    world.run(1);
    let message = "Pod was rejected: Pod was rejected as the node is shutting down.";
    assert_eq!(end(&world).0, "NodeShutdown");
    assert_eq!(end(&world).1, message);
    assert_eq!(world.condition("DisruptionTarget"), None);
    assert_eq!(
        world.said,
        ["NodeShutdown Pod was rejected as the node is shutting down."]
    );
}

#[test]
fn a_shutdown_that_is_called_off_in_time_ends_nothing() {
    let mut world = World::running(Acs, ordinary);
    world.lifecycle.stop = SignedDuration::from_secs(20);
    shut_down(&mut world);
    world.run(10);
    world.shutdown_at = None;
    world.run(60);
    assert_eq!(world.story, [""; 0]);
}

#[test]
fn a_pod_that_is_deleted_meanwhile_takes_its_own_way() {
    let mut world = World::running(Acs, ordinary);
    shut_down(&mut world);
    world.delete(30);
    world.run(60);
    assert!(world.pod.is_none());
    assert_eq!(world.story[1], "1.0s write: 0/1 Completed 192.168.1.8");
}
