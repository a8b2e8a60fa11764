//! Crossing node types, zones and vSwitches.

use super::*;

fn ecs(name: &'static str) -> Wish {
    Wish {
        node_type: NodeType::Ecs,
        ..fixed(name)
    }
}

#[test]
fn acs_to_ecs_and_back_is_a_new_address_each_time() {
    let mut world = World::new();
    let first = world.create(&fixed("web-0"));
    let on_acs = world.address(&first);
    world.delete(&first);
    let second = world.create(&ecs("web-0"));
    let on_ecs = world.address(&second);
    assert_ne!(on_ecs, on_acs);
    assert!(world.claims().is_empty(), "ECS nodes hold no claims");
    let note = world.notices_of(&second, Reason::FixedIPNotRetained)[0].to_owned();
    for word in ["ACS virtual node node-acs-b", "ECS node node-ecs-b"] {
        assert!(note.contains(word), "{note}");
    }
    world.delete(&second);
    let third = world.create(&fixed("web-0"));
    assert_ne!(world.address(&third), on_ecs);
    assert_eq!(
        world.notices_of(&third, Reason::FixedIPNotRetained).len(),
        1
    );
    assert_eq!(world.claims().len(), 1);
}

#[test]
fn seen_on_a_real_ecs_node_forfeits_the_claim_once_the_old_pod_let_go() {
    let mut world = World::with(settings("192.168.1.0/24", slow_cloud()));
    let first = world.create(&fixed("web-0"));
    world.pass(SECOND * 2);
    world.tell(Event::Deleted(first.clone(), world.now));
    world.vanish(&first);
    let facts = world.facts(&ecs("web-0"));
    world.tell(Event::OnForeignEcs(facts.clone()));
    assert_eq!(world.claims().len(), 1, "the old ENI is not detached yet");
    world.pass(SECOND * 3);
    assert!(world.claims().is_empty());
    assert_eq!(world.count("vsw-b", "free"), 252);
    assert_eq!(
        world
            .notices_of(&facts.uid, Reason::FixedIPNotRetained)
            .len(),
        1
    );
}

#[test]
fn a_pod_that_is_proved_gone_before_it_could_forfeit_forfeits_nothing() {
    let mut world = World::with(settings("192.168.1.0/24", slow_cloud()));
    let first = world.create(&fixed("web-0"));
    world.pass(SECOND * 2);
    world.vanish(&first);
    let facts = world.facts(&ecs("web-0"));
    world.tell(Event::OnForeignEcs(facts));
    world.create(&ordinary("web-0"));
    world.pass(SECOND * 3);
    assert_eq!(world.claims().len(), 1);
}

#[test]
fn an_ordinary_pod_on_ecs_forfeits_nothing() {
    let mut world = World::new();
    let first = world.create(&fixed("web-0"));
    let had = world.address(&first);
    world.delete(&first);
    let other = world.create(&Wish {
        hours: None,
        ..ecs("web-0")
    });
    world.delete(&other);
    let back = world.create(&fixed("web-0"));
    assert_eq!(world.address(&back), had);
}

#[test]
fn zone_or_vswitch_mismatch_gets_a_new_address_and_closes_the_old_claim() {
    for wish in [
        Wish {
            zone: "c",
            ..fixed("web-0")
        },
        Wish {
            zone: "c",
            vswitches: vec!["vsw-c"],
            ..fixed("web-0")
        },
    ] {
        let mut world = World::new();
        let first = world.create(&fixed("web-0"));
        world.delete(&first);
        let second = world.create(&wish);
        assert_eq!(world.assigned(&second).vswitch.as_str(), "vsw-c");
        let note = world.notices_of(&second, Reason::FixedIPNotReused)[0].to_owned();
        assert!(
            note.contains("in zone b") && note.contains("in zone c"),
            "{note}"
        );
        assert_eq!(world.claims().len(), 1, "one open claim per key");
        assert_eq!(world.count("vsw-b", "free"), 252);
    }
}

#[test]
fn vswitch_ids_outside_the_zone_leave_the_pod_pending() {
    let mut world = World::new();
    let pod = world.create(&Wish {
        vswitches: vec!["vsw-c"],
        ..fixed("web-0")
    });
    let note = world.is_waiting(&pod, Reason::NoAllowedVSwitch);
    assert!(note.contains("vsw-c is in c"), "{note}");
}
