//! An API server that refuses, loses answers, and tells things late or twice.

use holdfast_provider::ledger::Ledger;

use super::api_server::{Trouble, Verb};
use super::*;

#[test]
fn a_refused_status_is_written_again_with_growing_pauses_and_without_end() {
    for trouble in [
        Trouble::Code(500),
        Trouble::Code(429),
        Trouble::Code(409),
        Trouble::NoAnswer,
    ] {
        let mut world = World::fast();
        world.api.troubles.extend([(Verb::Status, trouble); 5]);
        world.create(fixed("web-0"));
        world.pass(SECOND);
        assert!(world.api.requests.len() < 4, "{:?}", world.api.requests);
        world.pass(SECOND * 60);
        assert_eq!(world.shown("web-0"), "1/1 Running 192.168.1.1");
        assert!(world.api.requests.len() <= 6);
    }
}

#[test]
fn a_status_refused_for_hours_is_written_in_the_end() {
    let mut world = World::fast();
    world
        .api
        .troubles
        .extend([(Verb::Status, Trouble::Code(500)); 200]);
    world.create(fixed("web-0"));
    world.pass(HOUR);
    assert_eq!(world.shown("web-0"), "0/1 Pending <none>");
    world.api.troubles.clear();
    world.pass(SECOND * 31);
    assert_eq!(world.shown("web-0"), "1/1 Running 192.168.1.1");
}

#[test]
fn a_running_pod_is_served_on_when_its_class_has_become_one_without_fixed_addresses() {
    for lost in [false, true] {
        let mut world = World::fast();
        world.create(fixed("web-0"));
        world.kill();
        world.api.edit("web-0", |pod| {
            pod["metadata"]["labels"] = json!({COMPUTE_CLASS: "gpu"});
        });
        if lost {
            world.ledger = Ledger::in_memory(world.ledger.settings().clone(), world.now).unwrap();
        }
        world.start();
        world.settle();
        world.edit("web-0", |pod| {
            pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
        });
        world.pass(SECOND * 10);
        assert_eq!(world.shown("web-0"), "1/1 Running 192.168.1.1");
        assert_eq!(world.count("in_use"), 1, "{lost}");
        world.delete("web-0");
        world.pass(SECOND * 10);
        assert!(world.is_gone("web-0"), "{lost}");
    }
}

#[test]
fn a_delete_that_is_refused_or_not_answered_is_sent_again() {
    for trouble in [Trouble::Code(500), Trouble::Code(429), Trouble::NoAnswer] {
        let mut world = World::fast();
        world.create(fixed("web-0"));
        world.api.troubles.extend([(Verb::Delete, trouble); 3]);
        world.delete("web-0");
        world.pass(SECOND * 10);
        assert!(world.is_gone("web-0"), "{trouble:?}");
        assert_eq!(world.count("retained"), 1);
    }
}

#[test]
fn an_exit_is_told_once_however_often_its_status_is_refused_or_not_answered() {
    for trouble in [Trouble::Code(500), Trouble::NoAnswer, Trouble::Unheard] {
        let mut world = World::fast();
        let uid = world.create(on("acs-b", ordinary("plain")));
        world.pass(SECOND * 10);
        let main = world.api.pod("plain").unwrap()["spec"]["containers"][0]["name"].clone();
        let exit = ProcessExit {
            container: main.as_str().unwrap().into(),
            restarts: 0,
            code: 3,
        };
        world.api.troubles.extend([(Verb::Status, trouble); 3]);
        world.feed(Input::Exited(uid.clone(), exit.clone()));
        world.feed(Input::Exited(uid, exit));
        world.pass(SECOND * 120);
        let status = &world.api.pod("plain").unwrap()["status"]["containerStatuses"][0];
        assert_eq!(status["restartCount"], 1, "{trouble:?}");
        assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
        assert!(
            world.shown("plain").starts_with("1/1 Running"),
            "{trouble:?}"
        );
    }
}

#[test]
fn another_uid_under_the_name_is_looked_at_and_proves_the_old_pod_gone() {
    let mut world = World::fast();
    world.create(ordinary("plain"));
    world.edit("plain", |pod| {
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    });
    // The pod is replaced, and the watch has not told when the next write goes out.
    world.watching = false;
    world.api.edit("plain", |pod| {
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    });
    let change = world.api.changes.pop_back().unwrap();
    world.api.delete("plain", 0);
    let new = world.api.create(ordinary("plain"));
    world.api.requests.clear();
    let super::api_server::Change::Changed(pod) = change else {
        panic!("an edit changes")
    };
    world.feed(super::super::Input::Seen(Box::new(
        crate::pod::testing::view(&pod),
    )));
    world.settle();
    assert_eq!(
        world.api.requests[..2],
        ["PATCH default/plain/status", "GET default/plain"]
    );
    assert_eq!(world.api.uid("plain"), new);
    assert!(world.shown("plain").starts_with("1/1 Running"));
    world.watching = true;
    world.settle();
    assert_eq!(world.count("in_use"), 1);
}

#[test]
fn an_accepted_status_is_not_written_again_while_the_watch_is_late_to_show_it() {
    let mut world = World::fast();
    world.api.create(fixed("web-0"));
    world.advance(Queue::Watch);
    world.watching = false;
    world.settle();
    assert_eq!(world.shown("web-0"), "1/1 Running 192.168.1.1");
    world.pass(SECOND * 25);
    assert_eq!(world.api.requests, ["PUT default/web-0/status"]);

    world.watching = true;
    world.settle();
    world.pass(SECOND * 60);
    assert_eq!(world.api.requests, ["PUT default/web-0/status"]);
}

#[test]
fn an_accepted_status_that_is_never_seen_is_written_again() {
    let mut world = World::fast();
    world.api.create(fixed("web-0"));
    world.advance(Queue::Watch);
    world.watching = false;
    world.settle();
    world.pass(SECOND * 40);
    // The view on which the first one was put may be old by now.
    assert_eq!(
        world.api.requests,
        ["PUT default/web-0/status", "PATCH default/web-0/status"]
    );
}

#[test]
fn a_status_for_a_version_that_is_no_more_is_put_on_the_next_one_or_patched_at_once() {
    for told in [true, false] {
        let mut world = World::fast();
        world.api.create(fixed("web-0"));
        world.advance(Queue::Watch);
        world.watching = false;
        // Somebody labels the pod before the status is there, and the watch tells of it in time or not.
        world.api.edit("web-0", |pod| {
            pod["metadata"]["labels"] = json!({"app": "web"});
        });
        if told {
            while world.api.requests.is_empty() {
                assert!(
                    [Queue::Done, Queue::Work, Queue::Requests]
                        .into_iter()
                        .any(|queue| world.advance(queue))
                );
            }
            world.watching = true;
            world.advance(Queue::Watch);
        }
        world.settle();
        assert_eq!(world.shown("web-0"), "1/1 Running 192.168.1.1", "{told}");
        let second = if told { "PUT" } else { "PATCH" };
        assert_eq!(
            world.api.requests,
            [
                "PUT default/web-0/status".to_owned(),
                format!("{second} default/web-0/status")
            ]
        );
        let pod = world.api.pod("web-0").unwrap();
        assert_eq!(pod["metadata"]["labels"]["app"], "web");
    }
}

#[test]
fn a_toleration_that_was_refused_is_added_once_the_api_server_takes_it() {
    let mut world = World::fast();
    world.api.troubles.extend([
        (Verb::Tolerate, Trouble::Code(500)),
        (Verb::Get, Trouble::Code(500)),
        (Verb::Get, Trouble::Unheard),
        (Verb::Tolerate, Trouble::NoAnswer),
    ]);
    let mut pod = unbound(fixed("web-0"));
    pod["spec"]["tolerations"] = json!([]);
    world.create(pod);
    world.pass(SECOND * 60);
    let pod = world.api.pod("web-0").unwrap();
    let tolerations = pod["spec"]["tolerations"].as_array().unwrap();
    assert_eq!(tolerations.len(), 1);
}
