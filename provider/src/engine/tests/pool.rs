//! Running out of addresses.

use super::*;

const NAMES: [&str; 6] = ["web-0", "web-1", "web-2", "api-0", "api-1", "api-2"];

fn small() -> World {
    World::with(settings("192.168.1.0/29", Config::default()))
}

#[test]
fn a_slash_29_has_four_addresses_and_the_rest_wait_with_the_arithmetic() {
    let mut world = small();
    let pods = NAMES.map(|name| world.create(&fixed(name)));
    for pod in &pods[..4] {
        world.address(pod);
    }
    for pod in &pods[4..] {
        let note = world.is_waiting(pod, Reason::IPPoolExhausted);
        assert_eq!(
            note,
            "no free address in vsw-b (b, 192.168.1.0/29): 4 usable = 4 in use + 0 retained + 0 detaching"
        );
        assert_eq!(world.notices_of(pod, Reason::IPPoolExhausted).len(), 1);
    }
}

#[test]
fn retained_addresses_are_not_taken_and_the_longest_waiting_pod_is_next() {
    let mut world = small();
    let pods = NAMES.map(|name| world.create(&fixed(name)));
    world.delete(&pods[0]);
    assert_eq!(world.count("vsw-b", "retained"), 1);
    world.pass(SECOND * 31);
    let note = world.is_waiting(&pods[4], Reason::IPPoolExhausted);
    assert!(
        note.contains("3 in use + 1 retained") && note.contains("(default/web-0) in 47h59m"),
        "{note}"
    );
    world.pass(HOUR * 48);
    world.address(&pods[4]);
    world.is_waiting(&pods[5], Reason::IPPoolExhausted);
}

#[test]
fn the_next_release_is_none_that_is_held_off_and_none_of_another_cluster() {
    let mut world = small();
    let [held, later, ..] = NAMES.map(|name| world.create(&fixed(name)));
    world.delete(&held);
    let in_time = world.facts(&fixed("web-0"));
    world.appear(&in_time);
    world.pass(HOUR * 48);
    let note = |world: &mut World, name| {
        let pod = world.create(&ordinary(name));
        world.is_waiting(&pod, Reason::IPPoolExhausted)
    };
    let all_in_use = note(&mut world, "a");
    assert!(
        all_in_use.ends_with("1 retained + 0 detaching"),
        "{all_in_use}"
    );
    world.delete(&later);
    let one_ends = note(&mut world, "b");
    assert!(one_ends.contains("(default/web-1) in 47h"), "{one_ends}");
    let ahead = world.now + HOUR * 72;
    world.ledger.commit(ahead, &[]).unwrap();
    let still = note(&mut world, "y");
    assert!(still.contains("(default/web-1) in 47h"), "{still}");
    let of_later = *[1, 2, 3, 4]
        .map(|last| std::net::Ipv4Addr::new(192, 168, 1, last))
        .iter()
        .find(|address| one_ends.contains(&format!("next release {address} ")))
        .unwrap();
    let mut without = world.ledger.settings().clone();
    without.vswitches[0].exclude.push((of_later, of_later));
    let with = world.ledger.settings().clone();
    world.ledger.reconfigure(without, world.now).unwrap();
    let it_leaves = note(&mut world, "x");
    assert!(!it_leaves.contains("next release"), "{it_leaves}");
    world.ledger.reconfigure(with, world.now).unwrap();

    let renamed = Settings {
        cluster: "renamed".into(),
        ..world.ledger.settings().clone()
    };
    world.ledger.reconfigure(renamed, world.now).unwrap();
    let of_others = note(&mut world, "c");
    assert!(
        of_others.ends_with("2 retained + 0 detaching"),
        "{of_others}"
    );
}

#[test]
fn a_key_with_a_retained_address_is_not_affected_by_a_full_vswitch() {
    let mut world = small();
    let pods = NAMES.map(|name| world.create(&fixed(name)));
    let had = world.address(&pods[0]);
    world.delete(&pods[0]);
    let back = world.create(&fixed("web-0"));
    assert_eq!(world.address(&back), had);
}

#[test]
fn woken_by_a_release_and_not_by_polling() {
    let mut world = small();
    let ordinary_pods = ["a", "b", "c", "d"].map(|name| world.create(&ordinary(name)));
    let waiting = world.create(&fixed("web-0"));
    world.is_waiting(&waiting, Reason::IPPoolExhausted);
    let before = world.now;
    world.begin_deletion(&ordinary_pods[2]);
    world.tell(Event::Stopped(ordinary_pods[2].clone()));
    world.vanish(&ordinary_pods[2]);
    assert_eq!(world.now, before);
    world.address(&waiting);
}

#[test]
fn a_pod_that_comes_as_an_address_is_freed_takes_its_place_behind_those_that_wait() {
    let mut world = small();
    let pods = ["a", "b", "c", "d"].map(|name| world.create(&ordinary(name)));
    let waiting = ["e", "f"].map(|name| world.create(&ordinary(name)));
    for pod in &pods {
        world.begin_deletion(pod);
        world.tell(Event::Stopped(pod.clone()));
        world.vanish_unseen(pod);
    }
    // Both are known before either is committed.
    let facts = world.facts(&ordinary("late"));
    let late = facts.uid.clone();
    world.appear(&facts);
    for event in [Event::Gone(pods[0].clone()), Event::Bound(facts)] {
        let effects = world.engine.handle(world.now, event);
        world.pending.extend(effects);
    }
    world.settle();
    world.address(&waiting[0]);
    world.pass(SECOND);
    let note = world.is_waiting(&late, Reason::IPPoolExhausted);
    assert!(
        note.starts_with("pods that have waited longer get the free addresses of vsw-b"),
        "{note}"
    );
    assert!(
        note.ends_with("4 usable = 1 free + 3 in use + 0 retained + 0 detaching"),
        "{note}"
    );
    world.is_waiting(&waiting[1], Reason::IPPoolExhausted);
    world.tell(Event::Gone(pods[1].clone()));
    world.address(&waiting[1]);
    world.is_waiting(&late, Reason::IPPoolExhausted);
    world.tell(Event::Gone(pods[2].clone()));
    world.address(&late);
}

#[test]
fn a_newcomer_behind_others_gets_at_once_what_they_leave() {
    let mut world = small();
    let pods = ["a", "b", "c", "d"].map(|name| world.create(&ordinary(name)));
    let waiting = world.create(&ordinary("e"));
    let facts = ["f", "g"].map(|name| world.facts(&ordinary(name)));
    let late = facts.clone().map(|facts| facts.uid);
    let mut events = Vec::new();
    for pod in &pods[..3] {
        world.begin_deletion(pod);
        world.tell(Event::Stopped(pod.clone()));
        world.vanish_unseen(pod);
        events.push(Event::Gone(pod.clone()));
    }
    for facts in facts {
        world.appear(&facts);
        events.push(Event::Bound(facts));
    }
    for event in events {
        let effects = world.engine.handle(world.now, event);
        world.pending.extend(effects);
    }
    world.settle();
    for pod in [&waiting, &late[0], &late[1]] {
        world.address(pod);
    }
}

#[test]
fn who_was_made_first_is_first_in_line_after_a_restart_too() {
    let mut world = small();
    for _ in 0..4 {
        let pod = world.create(&ordinary("a"));
        world.delete(&pod);
    }
    let pods = ["a", "b", "c", "d"].map(|name| world.create(&ordinary(name)));
    let first = world.create(&ordinary("e"));
    let second = world.create(&ordinary("f"));
    assert!(second < first, "as texts");
    world.vanish_unseen(&pods[0]);
    world.restart();
    world.address(&first);
    world.is_waiting(&second, Reason::IPPoolExhausted);
}

#[test]
fn a_claim_that_is_in_its_own_pod_s_way_ends_though_others_have_waited_longer() {
    let mut world = small();
    let web = world.create(&fixed("web-0"));
    for name in ["a", "b", "c"] {
        world.create(&ordinary(name));
    }
    world.delete(&web);
    let waiting = world.create(&ordinary("d"));
    world.is_waiting(&waiting, Reason::IPPoolExhausted);
    let on_ecs = Wish {
        node_type: NodeType::Ecs,
        ..fixed("web-0")
    };
    let web = world.create(&on_ecs);
    assert!(world.claims().is_empty());
    world.address(&waiting);
    world.is_waiting(&web, Reason::IPPoolExhausted);
}

#[test]
fn an_address_that_the_first_in_line_does_not_take_is_the_next_one_s() {
    let mut settings = settings("192.168.1.0/29", Config::default());
    settings.vswitches[1].zone = "b".into();
    settings.vswitches[1].cidr = "192.168.2.0/29".parse().unwrap();
    let mut world = World::with(settings);
    let of = |vswitch, name| Wish {
        vswitches: vec![vswitch],
        ..ordinary(name)
    };
    let in_b = ["a", "b", "c", "d"].map(|name| world.create(&of("vsw-b", name)));
    let in_c = ["e", "f", "g", "h"].map(|name| world.create(&of("vsw-c", name)));
    let first = world.create(&ordinary("i"));
    let next = world.create(&of("vsw-b", "j"));
    let last = world.create(&of("vsw-c", "k"));
    for pod in [&in_b[0], &in_c[0]] {
        world.begin_deletion(pod);
        world.tell(Event::Stopped(pod.clone()));
        world.vanish_unseen(pod);
        let effects = world.engine.handle(world.now, Event::Gone(pod.clone()));
        world.pending.extend(effects);
    }
    world.settle();
    let got = [&next, &last].map(|pod| matches!(world.network(pod), Network::Attached(_)));
    let want = match world.assigned(&first).vswitch.as_str() {
        "vsw-b" => [false, true],
        _ => [true, false],
    };
    assert_eq!(got, want);
}

#[test]
fn free_addresses_are_handed_out_least_recently_used_first() {
    let mut world = small();
    let first = world.create(&ordinary("a"));
    let had = world.address(&first);
    world.pass(SECOND);
    world.delete(&first);
    let others = ["b", "c", "d"].map(|name| world.create(&ordinary(name)));
    for pod in &others {
        assert_ne!(world.address(pod), had);
    }
    let last = world.create(&ordinary("e"));
    assert_eq!(world.address(&last), had);
}

#[test]
fn most_free_vswitch_first_and_the_next_one_when_it_is_full() {
    let mut settings = settings("192.168.1.0/29", Config::default());
    settings.vswitches[1].zone = "b".into();
    let mut world = World::with(settings);
    let pod = world.create(&fixed("web-0"));
    assert_eq!(world.assigned(&pod).vswitch.as_str(), "vsw-c");
    let ordered = |name| Wish {
        vswitches: vec!["vsw-b", "vsw-c"],
        ..fixed(name)
    };
    let pods = ["a", "b", "c", "d", "e"].map(|name| world.create(&ordered(name)));
    let vswitches = pods.map(|pod| world.assigned(&pod).vswitch.to_string());
    assert_eq!(vswitches, ["vsw-b", "vsw-b", "vsw-b", "vsw-b", "vsw-c"]);
}

#[test]
fn an_excluded_address_leaves_at_its_release() {
    let mut world = small();
    let pod = world.create(&ordinary("a"));
    let address = world.address(&pod);
    let mut settings = settings("192.168.1.0/29", Config::default());
    settings.vswitches[0].exclude = vec![(address, address)];
    world.ledger.reconfigure(settings, world.now).unwrap();
    assert_eq!(world.address(&pod), address);
    world.delete(&pod);
    assert_eq!(world.count("vsw-b", "excluded"), 1);
    assert_eq!(world.count("vsw-b", "free"), 3);
}

#[test]
fn growing_is_allowed_and_leaving_out_a_held_address_is_not() {
    let mut world = small();
    let pods = ["a", "b", "c", "d", "e"].map(|name| world.create(&fixed(name)));
    world
        .ledger
        .reconfigure(settings("192.168.1.0/28", Config::default()), world.now)
        .unwrap();
    world.tell(Event::LedgerChanged);
    world.address(&pods[4]);
    let shrunk = settings("192.168.1.0/29", Config::default());
    let error = world
        .ledger
        .reconfigure(shrunk, world.now)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("default/e") && error.contains("192.168.1.5"),
        "{error}"
    );
    let mut removed = settings("192.168.1.0/28", Config::default());
    removed.vswitches.remove(0);
    let error = world
        .ledger
        .reconfigure(removed, world.now)
        .unwrap_err()
        .to_string();
    assert!(error.contains("vsw-b is no longer configured"), "{error}");
    // Also when its pods are gone: a release by hand frees nothing before the process has deleted the ENI.
    let way_out = "configure it again, and take it out once `holdfast addresses` shows all of its addresses free";
    assert!(error.ends_with(way_out), "{error}");
}

#[test]
fn the_address_of_a_claim_that_ran_out_is_there_for_its_own_pod_when_no_other_is_free() {
    let mut world = small();
    let pods = ["web-0", "a", "b", "c"].map(|name| world.create(&fixed(name)));
    world.delete(&pods[0]);
    // Nothing ends by itself now.
    world.tell(Event::Clock { may_expire: false });
    world.pass(HOUR * 49);
    let back = world.create(&fixed("web-0"));
    world.address(&back);
    assert_eq!(world.claims().len(), 4);
}

#[test]
fn exhaustion_is_told_again_only_when_the_numbers_have_changed() {
    let mut world = small();
    let pods = ["a", "b", "c", "d", "e"].map(|name| world.create(&fixed(name)));
    world.delete(&pods[0]);
    world.pass(SECOND * 31);
    let told = world.notices_of(&pods[4], Reason::IPPoolExhausted).len();
    assert_eq!(told, 2, "once for each set of numbers");
    let note = world.is_waiting(&pods[4], Reason::IPPoolExhausted);
    world.pass(HOUR);
    assert_eq!(world.is_waiting(&pods[4], Reason::IPPoolExhausted), note);
    assert_eq!(
        world.notices_of(&pods[4], Reason::IPPoolExhausted).len(),
        told
    );
}
