//! The agent with everything below it, told as stories.

#![expect(
    clippy::result_large_err,
    reason = "stories hand over steps and refusals whole; they are told once"
)]

mod any_order;
mod api_server;
mod asked;
mod deletion;
mod play;
mod refusals;
mod scale;
mod shutdown;
mod simulation;
mod supply;
mod wish;
mod world;

use holdfast_provider::engine::Reason;
use holdfast_provider::id::Zone;
use holdfast_provider::policy::opt_in::COMPUTE_CLASS;
use jiff::SignedDuration;
use serde_json::{Value, json};

use api_server::{fixed, kept_for_hours, of_job, on, ordinary, unbound};
use world::{HOUR, Queue, SECOND, Wish, World};

use super::Input;
use crate::pod::record::ProcessExit;

/// A rollout restart of one pod: deleted, and made again once it is gone.
fn roll(world: &mut World, name: &str) {
    world.delete(name);
    world.pass(SECOND * 10);
    assert!(world.is_gone(name), "{}", world.shown(name));
    world.create(fixed(name));
    world.pass(SECOND * 10);
}

#[test]
fn the_spec_s_sequence_is_shown_and_the_address_comes_back() {
    let mut world = World::acs();
    world.create(fixed("web-0"));
    world.pass(SECOND * 10);
    let created = [
        "0.0s web-0 0/1 Pending <none>",
        // The condition that says so.
        "0.0s web-0 0/1 Pending <none>",
        "3.0s web-0 0/1 ContainerCreating 192.168.1.1",
        "4.0s web-0 1/1 Running 192.168.1.1",
    ];
    assert_eq!(world.story("web-0"), created);
    world.create(fixed("other"));
    world.pass(SECOND * 10);
    world.story("other");

    roll(&mut world, "web-0");
    let rolled = [
        "20.0s web-0 1/1 Terminating 192.168.1.1",
        "22.0s web-0 0/1 Completed 192.168.1.1",
        "22.0s web-0 gone",
        "30.0s web-0 0/1 Pending <none>",
        "30.0s web-0 0/1 Pending <none>",
        "33.0s web-0 0/1 ContainerCreating 192.168.1.1",
        "34.0s web-0 1/1 Running 192.168.1.1",
    ];
    assert_eq!(world.story("web-0"), rolled);
    assert_eq!(world.said(Reason::FixedIPReused).len(), 1);
}

#[test]
fn fast_is_two_writes_in_a_pods_life() {
    let mut world = World::fast();
    world.create(fixed("web-0"));
    world.pass(SECOND * 60);
    assert_eq!(world.shown("web-0"), "1/1 Running 192.168.1.1");
    world.delete("web-0");
    world.pass(SECOND * 60);
    assert!(world.is_gone("web-0"));
    assert_eq!(
        world.api.requests,
        ["PUT default/web-0/status", "DELETE default/web-0"]
    );
}

#[test]
fn a_restart_with_running_pods_writes_nothing() {
    let mut world = World::acs();
    for name in ["web-0", "web-1"] {
        world.create(fixed(name));
    }
    world.create(on("acs-b", ordinary("plain")));
    world.pass(SECOND * 10);
    world.api.requests.clear();
    world.said.clear();
    world.restart();
    world.pass(SECOND * 60);
    assert!(world.api.requests.is_empty(), "{:?}", world.api.requests);
    assert!(world.said.is_empty(), "{:?}", world.said);
}

#[test]
fn killed_at_any_instruction_of_a_rollout_nothing_is_lost_or_doubled() {
    for crash_after in 0..60 {
        let mut world = World::acs();
        for name in ["web-0", "web-1"] {
            world.create(fixed(name));
        }
        world.pass(SECOND * 10);
        let had = world.ip("web-0");

        world.api.delete("web-0", 30);
        let order = [
            Queue::Done,
            Queue::Answers,
            Queue::Watch,
            Queue::Work,
            Queue::Requests,
        ];
        for _ in 0..crash_after {
            if !order.iter().any(|queue| world.advance(*queue)) {
                // Nothing is left to do now: the next tenth of a second.
                world.now += SECOND / 10;
                world.api.now = world.now;
                world.feed(super::Input::Engine(super::Event::Tick));
            }
            if world.is_gone("web-0") {
                world.api.create(fixed("web-0"));
            }
        }
        world.kill();
        world.start();
        world.settle();
        world.pass(SECOND * 20);
        if world.is_gone("web-0") {
            world.create(fixed("web-0"));
        }
        world.pass(SECOND * 20);
        assert_eq!(world.ip("web-0"), had, "killed after {crash_after} steps");
        assert!(world.shown("web-0").starts_with("1/1 Running"));
        assert_eq!((world.count("in_use"), world.count("retained")), (2, 0));
    }
}

#[test]
fn a_pod_of_a_class_without_fixed_addresses_stays_pending_and_says_why() {
    let mut world = World::fast();
    let mut pod = fixed("web-0");
    pod["metadata"]["labels"] = json!({COMPUTE_CLASS: "gpu"});
    world.create(pod);
    world.pass(SECOND * 60);
    assert_eq!(world.shown("web-0"), "0/1 Pending <none>");
    let note = world.said(Reason::FixedIPUnsupported);
    assert!(note.len() == 1 && note[0].contains("\"gpu\""), "{note:?}");
    let conditions = world.api.pod("web-0").unwrap()["status"]["conditions"].to_string();
    assert!(conditions.contains("FixedIPUnsupported"), "{conditions}");
    assert_eq!(world.count("free"), world.addresses().len());

    world.delete("web-0");
    assert!(world.is_gone("web-0"));
}

#[test]
fn a_pod_on_the_hosts_network_has_the_nodes_address() {
    let mut world = World::fast();
    let mut pod = fixed("web-0");
    pod["spec"]["hostNetwork"] = true.into();
    world.create(pod);
    assert_eq!(world.shown("web-0"), "1/1 Running 10.0.0.1");
    assert_eq!(world.count("in_use"), 0);
    world.delete("web-0");
    assert!(world.is_gone("web-0"));
}

#[test]
fn pods_on_virtual_nodes_of_others_neither_hold_nor_forfeit() {
    let mut world = World::fast();
    world.create(fixed("web-0"));
    let had = world.ip("web-0");
    world.delete("web-0");
    for _ in 0..2 {
        world.create(on("other-vk", fixed("web-0")));
        world.pass(SECOND * 60);
        assert_eq!(world.shown("web-0"), "0/1 Pending <none>", "not ours");
        assert_eq!(world.count("retained"), 1);
        world.api.delete("web-0", 0);
        world.settle();
        world.create(fixed("web-0"));
        assert_eq!(world.ip("web-0"), had);
        world.delete("web-0");
    }
    world.create(on("other-vk", fixed("web-0")));
    world.pass(HOUR * 49);
    assert_eq!(
        world.count("retained"),
        0,
        "nor does it keep the time from running out"
    );
}

#[test]
fn a_pod_on_a_real_ecs_node_forfeits_its_address_and_comes_back_afresh() {
    let mut world = World::fast();
    world.create(fixed("web-0"));
    world.delete("web-0");
    assert_eq!(world.count("retained"), 1);
    world.create(on("real-ecs", fixed("web-0")));
    assert_eq!(world.count("retained"), 0);
    assert_eq!(world.said(Reason::FixedIPNotRetained).len(), 1);
    world.api.delete("web-0", 0);
    world.settle();
    world.create(fixed("web-0"));
    let notes = world.said(Reason::FixedIPNotRetained);
    assert!(
        notes.len() == 2 && notes[1].contains("real-ecs"),
        "{notes:?}"
    );
    // A restart tells none of it again.
    world.said.clear();
    world.restart();
    assert!(world.said.is_empty(), "{:?}", world.said);
}

#[test]
fn a_pod_that_is_not_scheduled_holds_the_deadline_off() {
    let mut world = World::fast();
    world.create(kept_for_hours("1", fixed("web-0")));
    let had = world.ip("web-0");
    world.delete("web-0");
    world.pass(HOUR - SECOND * 10);
    world.create(unbound(fixed("web-0")));
    world.pass(SECOND * 300);
    assert_eq!(world.count("retained"), 1);
    world.edit("web-0", |pod| pod["spec"]["nodeName"] = "acs-b".into());
    assert_eq!(world.ip("web-0"), had);
}

#[test]
fn a_retention_ends_at_most_two_seconds_late() {
    let mut world = World::fast();
    world.create(kept_for_hours("1", fixed("web-0")));
    world.delete("web-0");
    let deadline = world.ledger.claims(world.now).unwrap()[0]
        .expires_at
        .unwrap();
    world.pass(deadline.duration_since(world.now) - SignedDuration::from_millis(1));
    assert_eq!(world.count("retained"), 1);
    world.pass(SECOND * 2);
    assert_eq!(world.count("retained"), 0);
}

/// Forty pods, made at once where three writes may be under way, and their names.
fn burst(pod: impl Fn(&str) -> Value) -> (World, Vec<String>) {
    let mut world = World::new(&Wish {
        writes_max: 3,
        ..Wish::fast()
    });
    let names: Vec<String> = (0..40).map(|n| format!("web-{n}")).collect();
    for name in &names {
        world.api.create(pod(name));
    }
    world.settle();
    (world, names)
}

#[test]
fn writes_are_bounded_and_all_pods_are_served() {
    let (mut world, names) = burst(fixed);
    for name in &names {
        assert!(world.shown(name).starts_with("1/1 Running"), "{name}");
    }
    for name in &names {
        world.api.delete(name, 30);
    }
    world.settle();
    assert!(names.iter().all(|name| world.is_gone(name)));
    assert_eq!(world.writes_peak, 3);
    assert_eq!(world.api.requests.len(), 80);
}

#[test]
fn a_single_pod_is_not_written_after_all_of_another_namespace_s_burst() {
    let (mut world, names) = burst(ordinary);
    world.api.requests.clear();
    for name in &names {
        world.api.delete(name, 30);
    }
    let mut single = ordinary("single");
    single["metadata"]["namespace"] = "other".into();
    world.api.create(single);
    world.settle();
    assert_eq!(world.api.requests.len(), 41);
    let written = world.api.requests.iter();
    let before = written.take_while(|one| *one != "PUT other/single/status");
    // Those that were under way, and the turn of the other namespace.
    assert!(before.count() <= 2 * 3, "{:?}", world.api.requests);
}

#[test]
fn it_is_backed_up_while_pods_are_in_line_and_none_waits_for_an_address() {
    for (pods, backed_up) in [(1, false), (12, true), (13, false)] {
        // Twelve usable addresses.
        let mut world = World::new(&Wish {
            cidr: "192.168.1.0/28",
            writes_max: 1,
            ..Wish::fast()
        });
        for n in 0..pods {
            world.api.create(ordinary(&format!("web-{n}")));
        }
        let all_but_requests = [Queue::Done, Queue::Answers, Queue::Watch, Queue::Work];
        while all_but_requests.iter().any(|queue| world.advance(*queue)) {}
        assert_eq!(world.agent.is_backed_up(), backed_up, "{pods} pods");
        world.settle();
        assert!(!world.agent.is_backed_up(), "{pods} pods");
    }
}

#[test]
fn an_opted_in_pod_without_the_toleration_gets_it() {
    let mut world = World::fast();
    let mut pod = unbound(fixed("web-0"));
    pod["spec"]["tolerations"] = json!([]);
    world.create(pod);
    let tolerations =
        |world: &World| world.api.pod("web-0").unwrap()["spec"]["tolerations"].clone();
    assert_eq!(tolerations(&world).as_array().unwrap().len(), 1);
    world.edit("web-0", |pod| pod["spec"]["nodeName"] = "acs-b".into());
    assert_eq!(world.shown("web-0"), "1/1 Running 192.168.1.1");
}

#[test]
fn a_shell_that_was_left_ends_its_container_and_none_of_another_pod() {
    let mut world = World::fast();
    let mut once = on("acs-b", ordinary("once"));
    once["spec"]["restartPolicy"] = "Never".into();
    let uid = world.create(once);
    world.create(on("acs-b", ordinary("other")));
    world.pass(SECOND * 10);
    let main = world.api.pod("once").unwrap()["spec"]["containers"][0]["name"].clone();
    let exit = |code| ProcessExit {
        container: main.as_str().unwrap().into(),
        restarts: 0,
        code,
    };
    world.feed(Input::Exited("gone".into(), exit(1)));
    world.pass(SECOND * 10);
    assert!(world.shown("once").starts_with("1/1 Running"));
    world.feed(Input::Exited(uid.clone(), exit(3)));
    world.pass(SECOND * 10);
    assert!(
        world.shown("once").starts_with("0/1 Error"),
        "{}",
        world.shown("once")
    );
    let status = &world.api.pod("once").unwrap()["status"];
    assert_eq!(status["phase"], "Failed");
    let state = &status["containerStatuses"][0]["state"];
    assert_eq!(state["terminated"]["exitCode"], 3);
    assert!(world.shown("other").starts_with("1/1 Running"));
}

/// It has the node's network, whatever its annotations ask for.
#[test]
fn a_host_network_pod_of_the_name_comes_for_no_retained_address() {
    let mut world = World::fast();
    world.create(fixed("web-0"));
    world.delete("web-0");
    world.pass(SECOND * 60);
    assert_eq!(world.count("retained"), 1);
    let mut pod = fixed("web-0");
    pod["spec"]["hostNetwork"] = true.into();
    world.create(pod.clone());
    world.pass(HOUR * 47);
    world.api.delete("web-0", 0);
    world.settle();
    world.create(on("real-ecs", pod));
    assert_eq!(world.count("retained"), 1, "it takes nothing along either");
    world.pass(HOUR * 2);
    assert_eq!(world.count("retained"), 0);
}

#[test]
fn a_pod_that_must_be_where_no_node_takes_pods_is_named_again_only_after_some_minutes() {
    let mut world = World::fast();
    let term = json!({"matchExpressions": [
        {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["b"]},
    ]});
    let required = json!({"nodeSelectorTerms": [term]});
    for n in 0..3 {
        let mut pod = unbound(fixed(&format!("web-{n}")));
        pod["spec"]["affinity"] =
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
        pod["status"]["conditions"] =
            json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]);
        world.create(pod);
    }
    let mut named = |after: SignedDuration, closed: &str| {
        world.pass(after);
        let closed = [Zone::from(closed)].into();
        world.agent.stranded(world.now, &closed).len()
    };
    assert_eq!(named(SECOND, "c"), 0);
    assert_eq!(named(SECOND, "b"), 3);
    assert_eq!(named(SECOND * 5, "b"), 0);
    assert_eq!(named(SECOND * 600, "b"), 3);
}
