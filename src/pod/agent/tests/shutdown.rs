//! A node that shuts down gracefully: what becomes of addresses.

use super::api_server::{fixed, on, ordinary};
use super::world::{SECOND, World};
use crate::pod::agent::Input;

/// The node of [`fixed`] and others shuts down, or is up again.
fn shut_down(world: &mut World, begins: bool) {
    world.feed(Input::ShutDown("acs-b".into(), begins));
    world.pass(SECOND * 10);
}

#[test]
fn a_shut_down_node_frees_ordinary_addresses_and_holds_fixed_ones_for_their_pods() {
    let mut world = World::acs();
    world.create(on("acs-b", fixed("web-0")));
    world.create(on("acs-b", ordinary("plain")));
    world.pass(SECOND * 10);
    let had = world.ip("web-0");

    shut_down(&mut world, true);
    for pod in ["web-0", "plain"] {
        assert_eq!(
            world.api.pod(pod).unwrap()["status"]["reason"],
            "Terminated"
        );
    }
    assert_eq!((world.count("in_use"), world.count("retained")), (1, 0));

    // What its StatefulSet does.
    world.delete("web-0");
    world.pass(SECOND * 10);
    assert!(world.is_gone("web-0"));
    assert_eq!((world.count("in_use"), world.count("retained")), (0, 1));
    world.create(on("acs-b", fixed("web-0")));
    world.pass(SECOND * 10);
    let refused = world.api.pod("web-0").unwrap();
    assert_eq!(refused["status"]["reason"], "NodeShutdown");
    assert_eq!(refused["status"]["podIP"], serde_json::Value::Null);
    assert_eq!((world.count("in_use"), world.count("retained")), (0, 1));

    world.delete("web-0");
    world.pass(SECOND * 10);
    shut_down(&mut world, false);
    world.create(on("acs-b", fixed("web-0")));
    world.pass(SECOND * 10);
    assert_eq!(world.shown("web-0"), format!("1/1 Running {had}"));
}

#[test]
fn another_node_does_not_notice() {
    let mut world = World::acs();
    world.create(on("acs-b", ordinary("plain")));
    world.pass(SECOND * 10);
    world.feed(Input::ShutDown("acs-c".into(), true));
    world.pass(SECOND * 60);
    assert!(world.shown("plain").starts_with("1/1 Running"));
}
