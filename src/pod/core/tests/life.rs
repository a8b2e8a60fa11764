//! Containers that end, fail, wait and start again.

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::world::{Next, World};
use super::{Acs, Fast, job};
use crate::pod::needs::{Missing, Supply};

/// A running world whose pod has these annotations under our prefix.
pub(super) fn asked(annotations: &[(&str, &str)], edit: impl FnOnce(&mut Value)) -> World {
    let mut world = World::with(Fast, |pod| {
        for (name, value) in annotations {
            let name = if name.contains('/') {
                (*name).to_owned()
            } else {
                format!("holdfast.dev/{name}")
            };
            pod["metadata"]["annotations"][name] = (*value).into();
        }
        edit(pod);
    });
    // Whole seconds make the stories easy to read.
    world.now -= SignedDuration::from_millis(400);
    world.restart();
    world.begun_at = world.now;
    world.attach("192.168.1.8");
    world
}

pub(super) fn policy(policy: &'static str) -> impl FnOnce(&mut Value) {
    move |pod| pod["spec"]["restartPolicy"] = policy.into()
}

pub(super) fn container(world: &World) -> &Value {
    &world.pod()["status"]["containerStatuses"][0]
}

/// The writes, without the address.
pub(super) fn writes(world: &World) -> Vec<String> {
    let writes = world.story.iter().filter(|line| line.contains("write"));
    let short = |line: &String| line.replace("s write:", "").replace(" 192.168.1.8", "");
    writes.map(short).collect()
}

#[test]
fn a_job_s_pod_completes_and_gives_up_its_network() {
    let mut world = asked(&[("run-for", "5s")], job);
    world.run(60);
    assert_eq!(
        world.story,
        [
            "0.0s write: 1/1 Running 192.168.1.8",
            "5.0s write: 0/1 Completed 192.168.1.8",
            "5.0s end network"
        ]
    );
    assert_eq!(world.pod()["status"]["phase"], "Succeeded");
    let ended = &container(&world)["state"]["terminated"];
    assert_eq!(ended["startedAt"], "2026-11-24T10:00:00Z");
    assert_eq!(ended["finishedAt"], "2026-11-24T10:00:05Z");
    for (kind, status) in [("Ready", "False"), ("Initialized", "True")] {
        let condition = world.condition(kind).unwrap();
        assert_eq!(condition["status"], status);
        assert_eq!(condition["reason"], "PodCompleted");
    }
}

#[test]
fn a_pod_that_is_tried_once_fails_with_its_container() {
    let mut world = asked(&[("run-for", "5s"), ("exit-code", "3")], policy("Never"));
    world.run(60);
    assert_eq!(writes(&world), ["0.0 1/1 Running", "5.0 0/1 Error"]);
    assert_eq!(world.pod()["status"]["phase"], "Failed");
    assert_eq!(container(&world)["state"]["terminated"]["exitCode"], 3);
    assert_eq!(world.condition("Ready").unwrap()["reason"], "PodFailed");
}

#[test]
fn the_back_off_is_the_kubelet_s() {
    let mut world = asked(&[("crash-after", "1s")], policy("Always"));
    world.run(100);
    assert_eq!(
        writes(&world),
        [
            "0.0 1/1 Running",
            "1.0 0/1 Error",
            // The first restart is at once.
            "1.0 1/1 Running",
            "2.0 0/1 Error",
            "2.0 0/1 CrashLoopBackOff",
            "12.0 1/1 Running",
            "13.0 0/1 Error",
            "13.0 0/1 CrashLoopBackOff",
            "33.0 1/1 Running",
            "34.0 0/1 Error",
            "34.0 0/1 CrashLoopBackOff",
            "74.0 1/1 Running",
            "75.0 0/1 Error",
            "75.0 0/1 CrashLoopBackOff",
        ]
    );
    let status = container(&world);
    assert_eq!(status["restartCount"], 4);
    assert_eq!(world.pod()["status"]["phase"], "Running");
    let message = status["state"]["waiting"]["message"].as_str().unwrap();
    let want = "back-off 1m20s restarting failed container=nginx pod=web-0_default(";
    assert!(message.starts_with(want), "{message}");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(
        status["lastState"]["terminated"]["containerID"],
        status["containerID"]
    );
    assert!(
        world.said[0].starts_with(
            "BackOff Back-off restarting failed container nginx in pod web-0_default("
        ),
        "{:?}",
        world.said
    );
    // It is never longer than five minutes, and a restart of this program forgets nothing.
    world.run(3600);
    world.restart();
    assert_ne!(world.act(), Next::Again);
    let message = container(&world)["state"]["waiting"]["message"].to_string();
    assert!(message.contains("back-off 5m0s"), "{message}");
}

#[test]
fn a_container_that_ran_for_ten_minutes_starts_its_back_off_anew() {
    let mut world = asked(&[("crash-after", "11m")], policy("Always"));
    world.run(3 * 660 + 10);
    let expected = [
        "0.0 1/1 Running",
        "660.0 0/1 Error",
        "660.0 1/1 Running",
        "1320.0 0/1 Error",
        "1320.0 1/1 Running",
        "1980.0 0/1 Error",
        "1980.0 1/1 Running",
    ];
    assert_eq!(writes(&world), expected);
    assert_eq!(container(&world)["restartCount"], 3);
    let ids = [
        &container(&world)["containerID"],
        &container(&world)["lastState"]["terminated"]["containerID"],
    ];
    assert_ne!(ids[0], ids[1], "each run has an id of its own");
}

#[test]
fn on_failure_restarts_until_it_succeeds_and_a_success_ends_it() {
    let mut world = asked(&[("run-for", "1s")], policy("OnFailure"));
    world.run(60);
    assert_eq!(writes(&world), ["0.0 1/1 Running", "1.0 0/1 Completed"]);
    let mut world = asked(&[("crash-after", "1s")], policy("OnFailure"));
    world.run(3);
    assert_eq!(writes(&world)[4], "2.0 0/1 CrashLoopBackOff");
    assert_eq!(world.pod()["status"]["phase"], "Running");
}

#[test]
fn what_a_container_says_of_its_restarts_counts_before_what_its_pod_says() {
    let asks = [("nginx.holdfast.dev/crash-after", "1s")];
    let of_pod = |policy: &'static str, own: Value| {
        move |pod: &mut Value| {
            pod["spec"]["restartPolicy"] = policy.into();
            let container = pod["spec"]["containers"][0].as_object_mut().unwrap();
            container.extend(own.as_object().unwrap().clone());
        }
    };
    let rule = |operator: &str| {
        let codes = json!({"operator": operator, "values": [1, 42]});
        json!({"restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart", "exitCodes": codes}]})
    };
    let again = ("Running", 1);
    for (policy, own, want) in [
        ("Always", json!({}), again),
        ("Always", json!({"restartPolicy": "Never"}), ("Failed", 0)),
        ("Never", json!({"restartPolicy": "Always"}), again),
        ("Never", json!({"restartPolicy": "OnFailure"}), again),
        ("Never", rule("In"), again),
        ("Always", rule("NotIn"), ("Failed", 0)),
    ] {
        let mut world = asked(&asks, of_pod(policy, own.clone()));
        world.run(3);
        let restarts = container(&world)["restartCount"].as_u64().unwrap();
        let phase = world.pod()["status"]["phase"].as_str().unwrap();
        assert_eq!((phase, restarts), want, "{policy}, {own}");
    }
}

#[test]
fn an_init_container_that_is_tried_once_fails_a_pod_that_is_always_started_again() {
    let mut world = asked(&[("migrate.holdfast.dev/crash-after", "1s")], |pod| {
        with_inits(pod);
        pod["spec"]["initContainers"][0]["restartPolicy"] = "Never".into();
    });
    world.run(5);
    assert_eq!(writes(&world), ["0.0 0/1 Init:0/3", "1.0 0/1 Init:Error"]);
    assert_eq!(world.pod()["status"]["phase"], "Failed");
}

#[test]
fn a_container_out_of_memory_is_killed() {
    let mut world = asked(&[("oom-after", "2s")], policy("Never"));
    world.run(10);
    assert_eq!(writes(&world), ["0.0 1/1 Running", "2.0 0/1 OOMKilled"]);
    assert_eq!(container(&world)["state"]["terminated"]["exitCode"], 137);
    assert_eq!(world.said, ["OOMKilled invoked"]);
}

#[test]
fn a_crash_while_nobody_watched_is_told_with_its_own_time() {
    let mut world = asked(&[("run-for", "5s")], policy("Never"));
    world.run(1);
    world.now += SignedDuration::from_hours(1);
    world.restart();
    world.run(0);
    let ended = &container(&world)["state"]["terminated"];
    assert_eq!(ended["finishedAt"], "2026-11-24T10:00:05Z");
}

#[test]
fn a_container_is_not_ready_when_it_was_told_not_to_be() {
    let mut world = asked(
        &[("start-after", "3s"), ("not-ready", "10s-12s,20s-")],
        |_| (),
    );
    world.run(60);
    assert_eq!(
        writes(&world),
        [
            "0.0 0/1 Running",
            "3.0 1/1 Running",
            "10.0 0/1 Running",
            "12.0 1/1 Running",
            "20.0 0/1 Running"
        ]
    );
    assert_eq!(container(&world)["started"], true);
    let ready = world.condition("ContainersReady").unwrap();
    assert_eq!(ready["message"], "containers with unready status: [nginx]");
    assert_eq!(world.condition("Initialized").unwrap()["status"], "True");
}

#[test]
fn an_image_that_cannot_be_pulled_is_tried_again_and_may_recover() {
    let mut world = asked(&[("image-pull-error", "35s")], |_| ());
    world.run(60);
    assert_eq!(
        writes(&world),
        [
            "0.0 0/1 ErrImagePull",
            "2.0 0/1 ImagePullBackOff",
            "10.0 0/1 ErrImagePull",
            "12.0 0/1 ImagePullBackOff",
            "30.0 0/1 ErrImagePull",
            "32.0 0/1 ImagePullBackOff",
            "35.0 1/1 Running"
        ]
    );
    assert_eq!(
        world.said[1..4],
        [
            "Failed Error: ErrImagePull",
            "BackOff Back-off pulling image \"nginx:1.14.1-8.6\"",
            "Failed Error: ImagePullBackOff"
        ]
    );
    let mut world = asked(&[("image-pull-error", "true")], |_| ());
    world.run(24 * 3600);
    assert_eq!(world.pod()["status"]["phase"], "Pending");
    assert_eq!(container(&world)["containerID"], Value::Null);
    world.delete(30);
    world.run(1);
    assert!(world.pod.is_none());
}

fn with_inits(pod: &mut Value) {
    pod["spec"]["initContainers"] = json!([
        {"name": "migrate", "image": "m"},
        {"name": "mesh", "image": "s", "restartPolicy": "Always"},
        {"name": "warm", "image": "w"},
    ]);
}

#[test]
fn init_containers_run_one_after_the_other_and_sidecars_are_started_between_them() {
    let asks = [
        ("migrate.holdfast.dev/run-for", "5s"),
        ("mesh.holdfast.dev/start-after", "2s"),
        ("warm.holdfast.dev/run-for", "3s"),
    ];
    let mut world = asked(&asks, with_inits);
    world.run(1);
    let initialized = world.condition("Initialized").unwrap();
    assert_eq!(
        initialized["message"],
        "containers with incomplete status: [migrate mesh warm]"
    );
    world.run(60);
    assert_eq!(
        writes(&world),
        [
            "0.0 0/1 Init:0/3",
            "5.0 0/1 Init:1/3",
            "7.0 0/1 Init:2/3",
            "10.0 1/1 Running"
        ]
    );
    assert_eq!(world.condition("Initialized").unwrap()["status"], "True");
}

#[test]
fn an_init_container_that_fails_is_tried_again_or_fails_the_pod() {
    let asks = [("migrate.holdfast.dev/crash-after", "1s")];
    let mut world = asked(&asks, with_inits);
    world.run(5);
    assert_eq!(
        writes(&world),
        [
            "0.0 0/1 Init:0/3",
            "1.0 0/1 Init:Error",
            "1.0 0/1 Init:0/3",
            "2.0 0/1 Init:Error",
            "2.0 0/1 Init:CrashLoopBackOff"
        ]
    );
    assert_eq!(world.pod()["status"]["phase"], "Pending");
    world.delete(30);
    world.run(5);
    assert!(world.pod.is_none());

    let mut world = asked(&asks, |pod| {
        with_inits(pod);
        pod["spec"]["restartPolicy"] = "Never".into();
    });
    world.run(5);
    assert_eq!(writes(&world), ["0.0 0/1 Init:0/3", "1.0 0/1 Init:Error"]);
    assert_eq!(world.pod()["status"]["phase"], "Failed");
}

#[test]
fn sidecars_end_after_the_containers_of_a_job_and_do_not_keep_it() {
    let mut world = asked(&[("nginx.holdfast.dev/run-for", "5s")], |pod| {
        with_inits(pod);
        job(pod);
    });
    world.lifecycle.stop = SignedDuration::from_secs(2);
    world.run(60);
    assert_eq!(
        writes(&world),
        ["0.0 1/1 Running", "5.0 0/1 Completed", "7.0 0/1 Completed"]
    );
    let mesh = &world.pod()["status"]["initContainerStatuses"][1]["state"]["terminated"];
    assert_eq!(mesh["finishedAt"], "2026-11-24T10:00:07Z");
    assert_eq!(world.pod()["status"]["phase"], "Succeeded");
}

#[test]
fn a_sidecar_that_fails_is_started_again_and_its_pod_stays_initialized() {
    let mut world = asked(&[("mesh.holdfast.dev/crash-after", "5s")], with_inits);
    world.run(12);
    let mesh = &world.pod()["status"]["initContainerStatuses"][1];
    assert_eq!(mesh["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(mesh["restartCount"], 1);
    assert_eq!(world.pod()["status"]["phase"], "Running");
    assert_eq!(world.condition("Initialized").unwrap()["status"], "True");
    assert_eq!(
        world.condition("Ready").unwrap()["message"],
        "containers with unready status: [mesh]"
    );
}

#[test]
fn sidecars_of_a_deleted_pod_are_stopped_last_and_in_reverse() {
    let mut world = World::running(Acs, |pod| {
        pod["spec"]["initContainers"] = json!([
            {"name": "first", "image": "s", "restartPolicy": "Always"},
            {"name": "second", "image": "s", "restartPolicy": "Always"},
        ]);
    });
    world.delete(30);
    world.run(10);
    assert_eq!(
        world.story,
        [
            "3.0s stop network",
            "3.0s write: 0/1 Completed 192.168.1.8",
            "3.0s delete object"
        ]
    );
    let at = |list: &str, index: usize| {
        let status = &world.patch["status"][list][index]["state"]["terminated"];
        status["finishedAt"].as_str().unwrap().to_owned()
    };
    assert_eq!(at("containerStatuses", 0), "2026-11-24T10:00:11Z");
    assert_eq!(at("initContainerStatuses", 1), "2026-11-24T10:00:12Z");
    assert_eq!(at("initContainerStatuses", 0), "2026-11-24T10:00:13Z");
}

#[test]
fn a_pod_that_lasts_longer_than_it_may_is_ended() {
    let mut world = asked(&[], |pod| {
        job(pod);
        pod["spec"]["activeDeadlineSeconds"] = 20.into();
    });
    world.lifecycle.stop = SignedDuration::from_secs(3);
    world.run(60);
    assert_eq!(
        world.story,
        [
            "0.0s write: 1/1 Running 192.168.1.8",
            "23.0s write: 0/1 Error 192.168.1.8",
            "23.0s end network"
        ]
    );
    let status = &world.pod()["status"];
    assert_eq!(
        (&status["phase"], &status["reason"]),
        (&json!("Failed"), &json!("DeadlineExceeded"))
    );
    assert_eq!(
        status["message"],
        "Pod was active on the node longer than the specified deadline"
    );
    assert_eq!(container(&world)["state"]["terminated"]["exitCode"], 143);
}

#[test]
fn a_pod_that_never_got_an_address_is_ended_at_its_deadline_too() {
    let mut world = World::with(Acs, |pod| pod["spec"]["activeDeadlineSeconds"] = 20.into());
    world.wait_for("no free address");
    world.run(60);
    assert_eq!(world.pod()["status"]["reason"], "DeadlineExceeded");
    assert_eq!(world.story.last().unwrap(), "19.6s end network");
}

#[test]
fn an_ephemeral_container_is_shown_running_and_is_not_restarted() {
    let mut world = World::running(Acs, |_| ());
    world.edit(|pod| {
        pod["metadata"]["generation"] = 2.into();
        pod["spec"]["ephemeralContainers"] = json!([{"name": "debugger-x", "image": "busybox"}]);
    });
    world.run(5);
    assert_eq!(world.story, ["0.0s write: 1/1 Running 192.168.1.8"]);
    let status = &world.pod()["status"]["ephemeralContainerStatuses"][0];
    assert_eq!(status["name"], "debugger-x");
    assert_eq!(
        status["state"]["running"]["startedAt"],
        "2026-11-24T10:00:10Z"
    );
    assert_eq!(status["ready"], false);
    world.restart();
    assert_eq!(world.act(), Next::Idle);
    world.delete(30);
    world.run(5);
    let ended = &world.patch["status"]["ephemeralContainerStatuses"][0]["state"]["terminated"];
    assert_eq!(ended["exitCode"], 0);
}

#[test]
fn resources_changed_in_place_are_told_at_once() {
    let given = json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}});
    let mut world = World::running(Fast, |pod| {
        pod["spec"]["containers"][0]["resources"] = given.clone();
    });
    assert_eq!(container(&world)["resources"], Value::Null);
    let given = json!({"requests": {"cpu": "3"}, "limits": {"cpu": "4"}});
    world.edit(|pod| {
        pod["metadata"]["generation"] = 2.into();
        pod["spec"]["containers"][0]["resources"] = given.clone();
    });
    world.run(1);
    assert_eq!(world.story, ["0.0s write: 1/1 Running 192.168.1.8"]);
    assert_eq!(container(&world)["resources"], given);
    assert_eq!(container(&world)["allocatedResources"], given["requests"]);
    assert_eq!(container(&world)["restartCount"], 0);
    world.restart();
    assert_eq!(world.act(), Next::Idle);
}

#[test]
fn a_container_whose_variables_are_missing_waits_and_its_neighbour_runs() {
    let mut world = World::with(Fast, |pod| {
        let more = json!({"name": "app", "image": "app"});
        pod["spec"]["containers"].as_array_mut().unwrap().push(more);
    });
    world.attach("192.168.1.8");
    world.supply = Supply::Unknown;
    world.run(1);
    assert!(world.story.is_empty(), "{:?}", world.story);
    world.supply = Supply::Missing(Box::new(Missing {
        volumes: Vec::new(),
        env: vec![("app".into(), "configmap \"x\" not found".to_owned())],
    }));
    world.run(1);
    assert_eq!(
        world.story,
        ["1.0s write: 1/2 CreateContainerConfigError 192.168.1.8"]
    );
    let app = &world.pod()["status"]["containerStatuses"][1];
    assert_eq!(
        app["state"]["waiting"]["message"],
        "configmap \"x\" not found"
    );
    assert_eq!(world.pod()["status"]["phase"], "Pending");
    world.supply = Supply::Complete;
    world.run(1);
    assert_eq!(world.kubectl(), "2/2 Running 192.168.1.8");
}

#[test]
fn without_its_volumes_a_pod_stays_in_container_creating() {
    for profile in [Acs, Fast] {
        let mut world = World::with(profile, |_| ());
        world.attach("192.168.1.8");
        world.supply = Supply::Missing(Box::new(Missing {
            volumes: vec!["gone".to_owned()],
            env: Vec::new(),
        }));
        world.run(60);
        assert_eq!(world.kubectl(), "0/1 ContainerCreating 192.168.1.8");
        let shown = world.story.len();
        world.run(60);
        assert_eq!(world.story.len(), shown);
        world.supply = Supply::Complete;
        world.run(1);
        assert_eq!(world.kubectl(), "1/1 Running 192.168.1.8");
    }
}
