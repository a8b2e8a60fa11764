//! What others ask of the agent.

use std::num::NonZeroU32;

use holdfast_provider::cloud::sim::{self, Action, Fault};

use super::*;

#[test]
fn figures_and_running_pods_are_those_of_the_api_without_a_request() {
    let mut world = World::new(&Wish {
        cidr: "192.168.1.0/29",
        ..Wish::fast()
    });
    for name in ["a", "b", "c", "d", "e"] {
        world.create(on("acs-b", ordinary(name)));
    }
    world.create(on("acs-c", ordinary("other")));
    world.pass(SECOND * 10);
    world.api.requests.clear();
    let node = "acs-b".into();
    let figures = world.agent.figures(&node, world.now);
    assert_eq!(
        (figures.phases["Running"], figures.phases["Pending"]),
        (5, 1)
    );
    assert_eq!(figures.waiting[Reason::IPPoolExhausted.as_str()], 1);
    assert_eq!(figures.waiting[Reason::FixedIPWaiting.as_str()], 0);
    let waits = world.now.duration_since(figures.waiting_since.unwrap());
    assert_eq!(waits, SECOND * 10);
    assert_eq!((figures.running_pods, figures.running_containers), (4, 4));
    let running = world.agent.running(&node, world.now);
    let names: Vec<_> = running.iter().map(|pod| &*pod.key.name).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert!(world.api.requests.is_empty(), "{:?}", world.api.requests);

    world.delete("a");
    world.pass(SECOND * 10);
    let figures = world.agent.figures(&node, world.now);
    assert_eq!(
        (figures.phases["Running"], figures.waiting_since),
        (5, None)
    );
    let running = world.agent.running(&node, world.now);
    assert!(
        running.iter().all(|pod| &*pod.key.name != "a"),
        "{running:?}"
    );
}

#[test]
fn a_pod_whose_eni_cannot_be_detached_does_not_wait_for_an_address() {
    let mut world = World::new(&Wish {
        cloud: sim::Config {
            faults: vec![Fault::Fail {
                action: Action::Detach,
                every: NonZeroU32::MIN,
                code: "InternalError".into(),
            }],
            ..sim::Config::default()
        },
        ..Wish::acs()
    });
    world.create(fixed("web-0"));
    world.pass(SECOND * 10);
    world.delete("web-0");
    world.pass(SECOND * 10);
    assert!(!world.is_gone("web-0"));
    assert_eq!(world.said(Reason::CloudCallFailed).len(), 1);
    let figures = world.agent.figures(&"acs-b".into(), world.now);
    assert_eq!(figures.waiting.values().sum::<u64>(), 0, "{figures:?}");
}

#[test]
fn the_start_of_a_pod_is_told_once_with_how_long_it_took() {
    let mut world = World::acs();
    world.create(fixed("web-0"));
    world.pass(SECOND * 60);
    world.restart();
    world.pass(SECOND * 60);
    assert_eq!(world.starts, [SECOND * 4]);
}

#[test]
fn a_status_that_was_sent_is_unseen_until_the_watch_brings_it() {
    let mut world = World::fast();
    let node = "acs-b".into();
    world.create(on("acs-b", ordinary("a")));
    assert!(!world.agent.has_unseen(&node));
    world.api.edit("a", |pod| {
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    });
    world.advance(Queue::Watch);
    assert!(world.agent.has_unseen(&node), "its repair is under way");
    world.advance(Queue::Requests);
    world.advance(Queue::Answers);
    assert!(world.agent.has_unseen(&node), "it is written");
    assert!(!world.agent.has_unseen(&"acs-c".into()));
    world.advance(Queue::Watch);
    assert!(!world.agent.has_unseen(&node));
}
