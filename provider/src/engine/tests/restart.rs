//! A new process on the same ledger, lists that lack pods, ledgers that lack pods.

use super::*;
use crate::ledger::Job;

#[test]
fn running_pods_are_adopted_by_uid() {
    let mut world = World::new();
    let pods = ["web-0", "web-1"].map(|name| world.create(&fixed(name)));
    let had = pods.clone().map(|pod| world.assigned(&pod));
    world.restart();
    assert_eq!(pods.map(|pod| world.assigned(&pod)), had);
    assert_eq!(world.count("vsw-b", "in_use"), 2);
}

#[test]
fn restart_while_retained_and_another_pod_asks_first() {
    let mut world = World::with(settings("192.168.1.0/29", Config::default()));
    let pod = world.create(&fixed("web-0"));
    let had = world.address(&pod);
    world.delete(&pod);
    world.restart();
    for name in ["a", "b", "c"] {
        let other = world.create(&ordinary(name));
        assert_ne!(world.address(&other), had);
    }
    let fourth = world.create(&ordinary("d"));
    world.is_waiting(&fourth, Reason::IPPoolExhausted);
    let back = world.create(&fixed("web-0"));
    assert_eq!(world.address(&back), had);
}

#[test]
fn a_deletion_that_nobody_saw_starts_the_clock_when_the_absence_is_confirmed() {
    let mut world = World::new();
    let pod = world.create(&fixed("web-0"));
    world.vanish_unseen(&pod);
    world.pass(HOUR);
    world.restart();
    assert_eq!(world.claims()[0].deleted_at, Some(world.now));
    assert_eq!(world.claims()[0].holder, None);
}

#[test]
fn a_deletion_that_nobody_saw_counts_by_the_clock_also_where_ledger_time_is_far_ahead() {
    for cloud in [Config::default(), slow_cloud()] {
        let mut world = World::with(settings("192.168.1.0/24", cloud));
        let pod = world.create(&fixed("web-0"));
        world.pass(SECOND * 5);
        world.vanish_unseen(&pod);
        let ahead = world.now + HOUR * 24 * 60;
        world.ledger.commit(ahead, &[]).unwrap();
        world.restart();
        world.pass(HOUR * 48 - SECOND);
        assert_eq!(world.count("vsw-b", "retained"), 1);
        world.pass(SECOND * 10);
        assert_eq!(world.count("vsw-b", "free"), 252);
    }
}

/// As before it is set by NTP.
#[test]
fn a_clock_that_is_behind_the_newest_pod_shortens_no_retention_of_a_deletion_that_nobody_saw() {
    let mut world = World::new();
    let pod = world.create(&fixed("web-0"));
    world.pass(HOUR);
    world.vanish_unseen(&pod);
    let now = world.now;
    world.now = now - HOUR * 24 * 365;
    world.restart();
    world.pass(SECOND * 5);
    assert_eq!(world.count("vsw-b", "retained"), 1);
    world.now = now;
    world.pass(HOUR * 46);
    assert_eq!(world.count("vsw-b", "retained"), 1);
    world.pass(HOUR * 2);
    assert_eq!(world.count("vsw-b", "retained"), 0);
}

#[test]
fn stale_pod_list_frees_nothing() {
    let mut world = World::new();
    let pod = world.create(&fixed("web-0"));
    let plain = world.create(&ordinary("job"));
    let had = (world.address(&pod), world.address(&plain));
    world.tell(Event::Listed(BTreeSet::new()));
    assert_eq!((world.address(&pod), world.address(&plain)), had);
    world.api_is_away = true;
    world.vanish_unseen(&plain);
    world.tell(Event::Listed(BTreeSet::new()));
    world.pass(SECOND * 60);
    assert_eq!(world.count("vsw-b", "in_use"), 2, "no answer is no proof");
    world.api_is_away = false;
    world.pass(SECOND * 10);
    assert_eq!(world.count("vsw-b", "in_use"), 1);
}

#[test]
fn an_open_intent_is_settled_by_a_look_at_the_cloud() {
    for crash_after in 0..4_u32 {
        let mut world = World::with(settings("192.168.1.0/24", slow_cloud()));
        let facts = world.facts(&fixed("web-0"));
        let pod = ApiPod::new(facts.clone());
        world.api.insert(facts.key.clone(), pod);
        // Runs only so many effects, then the process dies.
        let effects = world.engine.handle(world.now, Event::Bound(facts.clone()));
        let mut pending: VecDeque<Effect> = effects.into();
        for _ in 0..crash_after {
            let Some(effect) = pending.pop_front() else {
                break;
            };
            let event = match effect {
                Effect::Commit(number, job) => {
                    let mut batch = world.ledger.commit(world.now, &[job]).unwrap();
                    Event::Committed(number, batch.results.remove(0))
                }
                Effect::Call(number, request) => {
                    let mut results = world.ledger.call(world.now, &[request]).unwrap();
                    Event::Called(number, results.remove(0))
                }
                _ => continue,
            };
            pending.extend(world.engine.handle(world.now, event));
        }
        world.restart();
        world.pass(SECOND * 5);
        world.assigned(&facts.uid);
        assert_eq!(
            world.count("vsw-b", "in_use"),
            1,
            "crash after {crash_after} effects"
        );
        let enis = world.ledger.call(world.now, &[]).unwrap();
        assert!(enis.is_empty());
    }
}

#[test]
fn what_was_begun_long_before_a_start_is_seen_to_be_through_soon_after_its_end() {
    let cloud = Config {
        detach: SECOND * 600,
        ..slow_cloud()
    };
    let mut world = World::with(settings("192.168.1.0/24", cloud));
    let old = world.create(&fixed("web-0"));
    world.pass(SECOND * 5);
    let had = world.address(&old);
    world.delete(&old);
    world.pass(SECOND * 540);
    let before = world.calls.len();
    world.restart();
    let new = world.create(&fixed("web-0"));
    // A minute is left, and the last pause between two looks is 5 s.
    world.pass(SECOND * 66);
    assert_eq!(world.address(&new), had);
    let calls = world.calls.len() - before;
    assert!(calls < 25, "{calls} calls");
}

#[test]
fn a_lost_ledger_is_rebuilt_from_running_pods_before_anything_is_allocated() {
    let mut world = World::new();
    let mut running = world.facts(&fixed("web-0"));
    running.published = Some(Published {
        address: "192.168.1.1".parse().unwrap(),
        eni: Some("eni-0jl00000000000000000".into()),
    });
    let new = world.facts(&ordinary("new"));
    for facts in [&new, &running] {
        let pod = ApiPod::new(facts.clone());
        world.api.insert(facts.key.clone(), pod);
    }
    world.restart();
    let imported = world.assigned(&running.uid);
    assert_eq!(imported.address.to_string(), "192.168.1.1");
    assert_eq!(imported.eni.as_str(), "eni-0jl00000000000000000");
    assert_eq!(world.address(&new.uid).to_string(), "192.168.1.2");
    world.delete(&running.uid);
    assert_eq!(world.count("vsw-b", "retained"), 1);
}

#[test]
fn a_running_pod_whose_address_is_taken_or_unknown_refuses_the_start() {
    for (address, why) in [
        ("192.168.1.1", "192.168.1.1 is in use for default/holder"),
        ("10.9.9.9", "in no configured vSwitch"),
    ] {
        let mut world = World::new();
        world.create(&ordinary("holder"));
        let mut running = world.facts(&fixed("web-0"));
        running.published = Some(Published {
            address: address.parse().unwrap(),
            eni: None,
        });
        let pod = ApiPod::new(running.clone());
        world.api.insert(running.key.clone(), pod);
        world.restart();
        let refusal = world.refusals.first().expect("the start is refused");
        assert!(
            refusal.contains("default/web-0") && refusal.contains(why),
            "{refusal}"
        );
        let new = world.create(&ordinary("new"));
        assert_eq!(world.network(&new), Network::Pending, "nobody is served");
    }
}

#[test]
fn a_list_of_the_past_with_a_running_pod_that_has_let_go_refuses_no_start() {
    let mut world = World::with(settings("192.168.1.0/29", Config::default()));
    for other in ["a", "b", "c"] {
        world.create(&ordinary(other));
    }
    let pod = world.create(&ordinary("web-0"));
    let address = world.address(&pod);
    let mut past = world.api[&PodKey::new("default", "web-0")].facts.clone();
    past.published = Some(Published { address, eni: None });
    world.delete(&pod);
    world.pass(SECOND * 5);
    let holder = world.create(&ordinary("new"));
    assert_eq!(
        world.address(&holder),
        address,
        "it is another pod's by now"
    );
    world.appear(&past);
    world.restart();
    assert_eq!(world.refusals, Vec::<String>::new());
    assert_eq!(world.network(&pod), Network::Detached);
    assert_eq!(world.address(&holder), address);
}

#[test]
fn nothing_is_allocated_before_the_first_list_is_complete() {
    let mut world = World::new();
    let loaded = world.ledger.load(world.now).unwrap();
    world.engine = Engine::new(Config::default(), loaded, world.now);
    let pod = world.create(&fixed("web-0"));
    assert_eq!(world.network(&pod), Network::Pending);
    assert_eq!(world.count("vsw-b", "in_use"), 0);
    world.list();
    world.address(&pod);
}

/// A running pod of key `web-0` that the ledger has no row of.
fn running(world: &mut World, address: Ipv4Addr) -> PodUid {
    let mut facts = world.facts(&fixed("web-0"));
    facts.published = Some(Published { address, eni: None });
    world.appear(&facts);
    facts.uid
}

#[test]
fn a_running_pod_of_a_lost_ledger_keeps_an_address_that_is_excluded_by_now_until_it_lets_go() {
    for cloud in [Config::default(), slow_cloud()] {
        let mut settings = settings("192.168.1.0/24", cloud);
        settings.vswitches[0].exclude = vec![([192, 168, 1, 9].into(), [192, 168, 1, 9].into())];
        let mut world = World::with(settings);
        assert_eq!(world.count("vsw-b", "excluded"), 1);
        let pod = running(&mut world, [192, 168, 1, 9].into());
        world.restart();
        world.pass(SECOND * 5);
        assert_eq!(world.refusals, Vec::<String>::new());
        assert_eq!(world.address(&pod).to_string(), "192.168.1.9");
        assert_eq!(world.count("vsw-b", "excluded"), 0);
        world.delete(&pod);
        world.pass(SECOND * 5);
        assert_eq!(world.count("vsw-b", "retained"), 1);
        world.pass(HOUR * 49);
        assert_eq!(world.count("vsw-b", "excluded"), 1);
    }
}

#[test]
fn an_older_ledger_in_which_the_claim_ran_out_gives_the_running_pod_its_own_address() {
    let mut world = World::new();
    let old = world.create(&Wish {
        hours: Some(1),
        ..fixed("web-0")
    });
    let had = world.address(&old);
    world.delete(&old);
    world.tell(Event::Clock { may_expire: false });
    world.pass(HOUR * 2);
    let pod = running(&mut world, had);
    world.restart();
    assert_eq!(world.refusals, Vec::<String>::new());
    assert_eq!(world.address(&pod), had);
    assert_eq!(world.claims()[0].holder.as_ref(), Some(&pod));
}

#[test]
fn an_older_ledger_in_which_the_old_pod_holds_the_address_gives_it_to_the_running_one() {
    for cloud in [Config::default(), slow_cloud()] {
        let mut world = World::with(settings("192.168.1.0/24", cloud));
        let old = world.create(&fixed("web-0"));
        world.pass(SECOND * 2);
        let had = world.address(&old);
        world.vanish_unseen(&old);
        let pod = running(&mut world, had);
        world.restart();
        world.pass(SECOND * 5);
        assert_eq!(world.refusals, Vec::<String>::new());
        assert_eq!(world.address(&pod), had);
        assert_eq!(world.count("vsw-b", "in_use"), 1);
    }
}

#[test]
fn an_older_ledger_in_which_the_old_pod_holds_another_address_gives_that_one_back() {
    for cloud in [Config::default(), slow_cloud()] {
        let mut world = World::with(settings("192.168.1.0/24", cloud));
        let old = world.create(&fixed("web-0"));
        world.pass(SECOND * 2);
        world.vanish_unseen(&old);
        let pod = running(&mut world, [192, 168, 1, 9].into());
        world.restart();
        world.pass(SECOND * 5);
        assert_eq!(world.refusals, Vec::<String>::new());
        assert_eq!(world.address(&pod).to_string(), "192.168.1.9");
        assert_eq!(world.claims().len(), 1);
        assert_eq!(world.count("vsw-b", "free"), 251);
    }
}

#[test]
fn a_terminating_pod_of_a_lost_ledger_is_not_detached_before_it_is_imported() {
    let mut world = World::new();
    let pod = running(&mut world, [192, 168, 1, 9].into());
    let facts = world.api.values().next().unwrap().facts.clone();
    let loaded = world.ledger.load(world.now).unwrap();
    world.engine = Engine::new(Config::default(), loaded, world.now);
    world.tell(Event::Bound(facts));
    world.tell(Event::Deleted(pod.clone(), world.now));
    world.tell(Event::Stopped(pod.clone()));
    assert_eq!(world.network(&pod), Network::Pending);
    world.list();
    assert_eq!(world.network(&pod), Network::Detached);
    world.vanish(&pod);
    assert_eq!(world.count("vsw-b", "retained"), 1);
}

#[test]
fn pods_of_another_cluster_in_the_same_file_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("holdfast.db");
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let theirs = settings("192.168.1.0/24", slow_cloud());
    let mut ledger = Ledger::open(&path, theirs.clone(), now).unwrap();
    let facts = World::new().facts(&fixed("web-0"));
    let batch = ledger.commit(now, &[Job::Acquire(facts)]).unwrap();
    assert_eq!(batch.results[0].as_ref().unwrap().tasks.len(), 1);
    drop(ledger);

    let ours = Settings {
        cluster: "ours".into(),
        ..theirs
    };
    let mut ledger = Ledger::open(&path, ours, now).unwrap();
    let loaded = ledger.load(now).unwrap();
    assert!(loaded.pods.is_empty(), "{:?}", loaded.pods);
    assert!(loaded.tasks.is_empty(), "{:?}", loaded.tasks);
}

#[test]
fn a_pod_that_the_ledger_has_for_another_cluster_refuses_the_start_and_changes_no_row() {
    for shows_its_address in [true, false] {
        let mut world = World::new();
        let pod = world.create(&fixed("web-0"));
        let Assignment { address, eni, .. } = world.assigned(&pod);
        if shows_its_address {
            let eni = Some(eni);
            let shown = world.api.get_mut(&PodKey::new("default", "web-0"));
            shown.unwrap().facts.published = Some(Published { address, eni });
        }
        let renamed = Settings {
            cluster: "renamed".into(),
            ..world.ledger.settings().clone()
        };
        world.ledger.reconfigure(renamed, world.now).unwrap();
        world.restart();
        assert_eq!(
            world.refusals,
            [
                "the pod default/web-0 (uid uid-1) is in this ledger as one of cluster cluster, and this is cluster renamed: set `cluster: cluster` again, or use a ledger of its own for cluster renamed"
            ]
        );
        world.delete(&pod);
        assert_eq!(world.count("vsw-b", "in_use"), 1);
        let holder = "SELECT count(*) FROM claim WHERE holder = 'uid-1' AND deleted_ms IS NULL";
        assert_eq!(world.ledger.number(holder), 1);
    }
}

#[test]
fn lists_that_follow_each_other_do_not_multiply_the_looks() {
    let mut world = World::new();
    world.create(&fixed("web-0"));
    world.api_is_away = true;
    for _ in 0..20 {
        world.tell(Event::Listed(BTreeSet::new()));
        world.pass(SECOND / 10);
    }
    world.looks = 0;
    world.pass(SECOND * 60);
    assert!(world.looks <= 12, "{} looks in a minute", world.looks);
}
