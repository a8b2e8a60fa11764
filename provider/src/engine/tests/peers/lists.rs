//! What a list, a status or a process that has just started does not know.

use super::*;

/// kube-ovn PR #1038, #4304: a controller that was down between deletion and recreation knew only
/// live pods when it came back.
#[test]
fn a_start_that_sees_no_pod_still_knows_what_is_kept() {
    let mut world = World::with(settings("192.168.1.0/29", Config::default()));
    let old = world.create(&fixed("web-0"));
    let had = world.address(&old);
    world.vanish_unseen(&old);
    world.restart();
    for name in ["a", "b", "c"] {
        let other = world.create(&ordinary(name));
        assert_ne!(world.address(&other), had);
    }
    let last = world.create(&ordinary("d"));
    world.is_waiting(&last, Reason::IPPoolExhausted);
    let back = world.create(&fixed("web-0"));
    assert_kept(&world, &back, had);
}

/// kube-ovn #1809 (PR #1812): a record with an empty type was passed over at start, and its
/// address given out again.
#[test]
fn a_row_of_no_known_kind_cannot_be_written_and_is_never_passed_over() {
    let breaks = [
        "UPDATE pod SET node_type = ''",
        "UPDATE eni SET state = ''",
        "UPDATE eni SET target = ''",
        "INSERT INTO address SELECT vswitch, addr + 9, '', 0, NULL, NULL, NULL, 1, since_ms, why \
         FROM address LIMIT 1",
    ];
    for sql in breaks {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holdfast.db");
        let settings = settings("192.168.1.0/29", Config::default());
        let now = World::begin();
        let mut world = World::on(Ledger::open(&path, settings.clone(), now).unwrap());
        world.create(&fixed("web-0"));
        world.ledger = Ledger::in_memory(settings.clone(), now).unwrap();

        let conn = rusqlite::Connection::open(&path).unwrap();
        let refused = conn.execute(sql, []).unwrap_err().to_string();
        assert!(refused.contains("CHECK constraint failed"), "{refused}");
        conn.pragma_update(None, "ignore_check_constraints", true)
            .unwrap();
        assert_eq!(conn.execute(sql, []).unwrap(), 1, "{sql}");
        drop(conn);
        let Err(error) = Ledger::open(&path, settings, now) else {
            panic!("opened after: {sql}");
        };
        assert!(
            matches!(error, crate::ledger::Error::Damaged { .. }),
            "{error}"
        );
    }
}

/// kube-ovn PR #5122: what the first of two passes had marked was deleted by the second, though
/// the pod was back by then.
#[test]
fn a_pod_that_returns_between_two_passes_of_the_clean_up_keeps_its_address() {
    let mut world = World::new();
    world.now += SECOND * 7 / 10;
    let old = world.create(&for_an_hour("web-0"));
    let had = world.address(&old);
    vanish_after_its_end(&mut world, &old);
    world.tell(Event::Gone(old.clone()));
    world.now = world.claims()[0].expires_at.unwrap();
    let asked = run_until_asked(&mut world);
    // Its time of creation is whole seconds, so it comes in time.
    let back = world.create(&fixed("web-0"));
    world.tell(Event::Looked(asked, None));
    world.pass(SECOND * 5);
    assert_kept(&world, &back, had);

    // Likewise a pod that a list did not show.
    world.tell(Event::Listed(BTreeSet::new()));
    vanish_after_its_end(&mut world, &back);
    let key = PodKey::new("default", "web-0");
    let missed = hold_back(&mut world, Event::Looked(key, None));
    let third = world.create(&fixed("web-0"));
    let_go(&mut world, missed);
    world.pass(SECOND * 5);
    assert_kept(&world, &third, had);
}

/// kube-ovn PR #4238: a StatefulSet made anew under the same name inherited records that belonged
/// to the old one, or was blocked by them. Here the key is the name, and they are its.
#[test]
fn a_stateful_set_made_anew_under_its_name_gets_its_addresses() {
    let mut world = World::new();
    let names = ["web-0", "web-1", "web-2"];
    let old = names.map(|name| world.create(&fixed(name)));
    let had = old.clone().map(|pod| world.address(&pod));
    for pod in &old {
        world.delete(pod);
    }
    world.pass(HOUR * 40);
    world.create(&ordinary("between"));
    for (name, had) in names.into_iter().zip(had).rev() {
        let pod = world.create(&fixed(name));
        assert_eq!(world.address(&pod), had, "{name}");
    }
}

/// whereabouts #207 (PR #208): pods were listed before reservations, so a fresh reservation had
/// no pod.
#[test]
fn a_list_older_than_an_allocation_does_not_free_it() {
    for wish in [fixed("web-0"), ordinary("web-0")] {
        let mut world = World::with(settings("192.168.1.0/24", slow_cloud()));
        let older: BTreeSet<PodUid> = [world.create(&ordinary("a"))].into();
        let facts = world.facts(&wish);
        world.appear(&facts);
        let bound = hold_back(&mut world, Event::Bound(facts.clone()));
        world.pending.extend(bound);
        step(&mut world);
        world.tell(Event::Listed(older));
        world.pass(SECOND * 60);
        world.address(&facts.uid);
        assert_eq!(world.count("vsw-b", "in_use"), 2);
    }
}

/// whereabouts #162, #182 (PR #166, #375): pods that were Pending, with no address in their status
/// yet, were reclaimed, or passed over for ever.
#[test]
fn a_pod_that_is_pending_for_an_hour_keeps_its_address_and_gives_it_back() {
    let cloud = Config {
        attach: HOUR,
        ..Config::default()
    };
    for is_deleted in [false, true] {
        let mut world = World::with(settings("192.168.1.0/24", cloud.clone()));
        let pod = world.create(&ordinary("job"));
        for _ in 0..5 {
            world.pass(HOUR / 6);
            world.list();
            world.tell(Event::Listed(BTreeSet::new()));
            assert_eq!(world.network(&pod), Network::Pending);
            assert_eq!(world.count("vsw-b", "in_use"), 1);
        }
        if is_deleted {
            world.begin_deletion(&pod);
            world.vanish(&pod);
            world.pass(HOUR);
            assert_eq!(world.count("vsw-b", "free"), 252);
        } else {
            world.pass(HOUR);
            world.address(&pod);
        }
    }
}

/// AWS VPC CNI #3019 (PR #3033): stale metadata was compared by length, and addresses in use were
/// released.
#[test]
fn a_list_of_the_right_length_but_of_other_pods_frees_nothing() {
    for api_is_away in [false, true] {
        let mut world = World::new();
        let pods = [fixed("web-0"), ordinary("a")].map(|wish| world.create(&wish));
        let had = pods.clone().map(|pod| world.assigned(&pod));
        world.api_is_away = api_is_away;
        for stale in [&["uid-8", "uid-9"][..], &["uid-1"], &[]] {
            let seen = stale.iter().map(|uid| (*uid).into()).collect();
            world.tell(Event::Listed(seen));
            world.pass(SECOND * 60);
            assert_eq!(pods.clone().map(|pod| world.assigned(&pod)), had);
        }
        assert_eq!(world.count("vsw-b", "in_use"), 2);
    }
}

/// calico #5044 (kube-controllers PR #901): one half of a pod's addresses was missing from its
/// status, and both were freed.
#[test]
fn what_a_status_does_not_show_is_not_free() {
    let mut world = World::new();
    let pod = world.create(&fixed("web-0"));
    let had = world.assigned(&pod);
    let half = Published {
        address: had.address,
        eni: None,
    };
    for published in [Some(half), None] {
        for api_pod in world.api.values_mut() {
            api_pod.facts.published = published.clone();
        }
        world.restart();
        world.pass(SECOND * 60);
        assert_eq!(world.assigned(&pod), had);
        assert_eq!(world.ledger.number("SELECT count(*) FROM eni"), 1);
    }
    world.delete(&pod);
    assert_eq!(world.count("vsw-b", "retained"), 1);
}

/// cilium #13412 (PR #17939), #21482: a restarted operator gave out addresses before it had
/// restored those in use.
#[test]
fn nothing_is_given_out_before_everything_in_use_is_known_again() {
    let mut world = World::with(settings("192.168.1.0/29", Config::default()));
    let mut running = world.facts(&fixed("web-0"));
    running.published = Some(Published {
        address: [192, 168, 1, 1].into(),
        eni: None,
    });
    let new = world.facts(&ordinary("new"));
    let mut fresh = World::starting(
        Ledger::in_memory(world.ledger.settings().clone(), world.now).unwrap(),
        world.now,
    );
    for facts in [&new, &running] {
        fresh.appear(facts);
        fresh.tell(Event::Bound(facts.clone()));
        assert_eq!(fresh.network(&new.uid), Network::Pending);
    }
    fresh.pass(SECOND * 10);
    assert_eq!(fresh.count("vsw-b", "free"), 4, "nothing before the list");
    fresh.list();
    assert_eq!(fresh.address(&running.uid), Ipv4Addr::new(192, 168, 1, 1));
    assert_ne!(fresh.address(&new.uid), fresh.address(&running.uid));
}
