//! An image that is changed while its container runs, waits or has ended.

use serde_json::json;

use super::life::{asked, container, policy};
use super::world::{Next, World};
use super::{Acs, Fast};

fn change_image(world: &mut World, image: &str) {
    world.edit(|pod| {
        let generation = pod["metadata"]["generation"].as_i64().unwrap();
        pod["metadata"]["generation"] = (generation + 1).into();
        pod["spec"]["containers"][0]["image"] = image.into();
    });
}

#[test]
fn a_container_whose_image_was_changed_is_stopped_and_started_with_the_new_one() {
    let mut world = World::running(Acs, policy("Never"));
    let before = container(&world).clone();
    world.said.clear();
    world.run(5);
    change_image(&mut world, "nginx:2");
    // It takes a second to stop; a restart of holdfast meanwhile only makes that longer.
    assert!(
        matches!(world.act(), Next::Again),
        "the new generation is told"
    );
    assert_eq!(container(&world)["image"], before["image"], "it still runs");
    assert_eq!(container(&world)["imageID"], before["imageID"]);
    world.run(5);
    let after = container(&world);
    assert_eq!(
        world.said,
        [
            "Killing Container nginx definition changed, will be restarted",
            "Pulling pulling image \"nginx:2\"",
            "Pulled Successfully pulled image \"nginx:2\"",
            "Created Created container",
            "Started Started container",
        ]
    );
    assert_eq!(
        (&after["image"], &after["imageID"]),
        (&json!("nginx:2"), &json!("nginx:2"))
    );
    assert_eq!(
        (&after["restartCount"], &after["ready"]),
        (&json!(1), &json!(true))
    );
    assert_ne!(after["containerID"], before["containerID"]);
    let last = &after["lastState"]["terminated"];
    assert_eq!(last["containerID"], before["containerID"]);
    assert_eq!(
        (&last["exitCode"], &last["reason"]),
        (&json!(143), &json!("Error"))
    );
    assert_eq!(last["startedAt"], before["state"]["running"]["startedAt"]);
    assert_eq!(last["finishedAt"], "2026-11-24T10:00:16Z");
    assert_eq!(
        after["state"]["running"]["startedAt"],
        "2026-11-24T10:00:16Z"
    );
    assert_eq!(world.pod()["status"]["phase"], "Running");
    world.restart();
    assert_eq!(world.act(), Next::Idle);
    assert_eq!(world.said.len(), 5, "{:?}", world.said);
}

#[test]
fn an_image_that_was_changed_while_nobody_watched_is_noticed() {
    let mut world = World::running(Fast, |_| ());
    let pod = world.pod.as_mut().unwrap();
    pod["metadata"]["generation"] = 2.into();
    pod["spec"]["containers"][0]["image"] = "nginx:2".into();
    world.restart();
    world.run(1);
    assert_eq!(container(&world)["image"], "nginx:2");
    assert_eq!(container(&world)["restartCount"], 1);
    assert_eq!(container(&world)["lastState"]["terminated"]["exitCode"], 0);
}

#[test]
fn a_container_that_has_ended_for_good_keeps_showing_the_image_that_it_had() {
    let mut world = asked(&[("main.holdfast.dev/run-for", "5s")], |pod| {
        pod["spec"]["restartPolicy"] = "Never".into();
        pod["spec"]["containers"] = json!([
            {"name": "main", "image": "a"}, {"name": "beside", "image": "b"},
        ]);
    });
    world.run(10);
    change_image(&mut world, "c");
    world.run(10);
    assert_eq!(container(&world)["image"], "a");
    assert_eq!(container(&world)["imageID"], "a");
    assert_eq!(container(&world)["restartCount"], 0);
    assert!(world.said.is_empty(), "{:?}", world.said);
}

#[test]
fn another_image_ends_a_back_off_and_begins_without_failures() {
    let mut world = asked(&[("crash-after", "1s")], |_| ());
    world.run(30);
    let reason = &container(&world)["state"]["waiting"]["reason"];
    assert_eq!(*reason, "CrashLoopBackOff");
    let restarts = container(&world)["restartCount"].as_i64().unwrap();
    change_image(&mut world, "nginx:2");
    assert!(matches!(world.act(), Next::Again));
    assert_eq!(container(&world)["restartCount"], restarts + 1);
    assert_eq!(container(&world)["image"], "nginx:2");
    assert!(container(&world)["state"]["running"].is_object());
    // Its first failure is followed by a restart at once.
    world.run(1);
    assert_eq!(container(&world)["restartCount"], restarts + 2);
    assert!(world.said.iter().all(|said| !said.starts_with("Killing")));
}

#[test]
fn a_sidecar_whose_image_was_changed_is_started_anew_and_the_others_stay() {
    let mut world = World::running(Fast, |pod| {
        pod["spec"]["initContainers"] =
            json!([{"name": "proxy", "image": "p:1", "restartPolicy": "Always"}]);
    });
    world.edit(|pod| {
        pod["metadata"]["generation"] = 2.into();
        pod["spec"]["initContainers"][0]["image"] = "p:2".into();
    });
    world.run(1);
    let proxy = &world.pod()["status"]["initContainerStatuses"][0];
    assert_eq!(
        (&proxy["image"], &proxy["restartCount"]),
        (&json!("p:2"), &json!(1))
    );
    assert_eq!(container(&world)["restartCount"], 0);
    assert_eq!(
        world.said,
        ["Killing Init container proxy definition changed"]
    );
}
