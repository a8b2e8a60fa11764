//! Keeping an address and giving it back.

use super::*;
use crate::ledger::ClaimState;

#[test]
fn keeps_ip_eni_and_mac_across_recreate() {
    for cloud in [Config::default(), slow_cloud()] {
        let mut world = World::with(settings("192.168.1.0/24", cloud));
        let first = world.create(&fixed("web-0"));
        world.pass(SECOND * 2);
        let had = world.assigned(&first);
        world.delete(&first);
        assert_eq!(world.claims().len(), 1, "{:?}", world.claims());
        let second = world.create(&fixed("web-0"));
        world.pass(SECOND * 2);
        let has = world.assigned(&second);
        assert_eq!(
            (has.address, &has.eni, has.mac),
            (had.address, &had.eni, had.mac)
        );
        assert_ne!(has.instance, had.instance);
        assert_eq!(world.notices_of(&second, Reason::FixedIPReused).len(), 1);
    }
}

#[test]
fn an_ordinary_address_is_free_after_its_pod_is_gone() {
    let mut world = World::new();
    let pod = world.create(&ordinary("job"));
    world.begin_deletion(&pod);
    world.tell(Event::Stopped(pod.clone()));
    assert_eq!(world.network(&pod), Network::Detached);
    assert_eq!(
        world.count("vsw-b", "in_use"),
        1,
        "until the object is gone"
    );
    world.vanish(&pod);
    assert_eq!(world.count("vsw-b", "free"), 252);
}

/// One COMMIT less for each pod that goes, which is what its object waits for.
#[test]
fn a_deletion_and_an_end_that_are_known_together_are_one_job() {
    for wish in [fixed("web-0"), ordinary("job")] {
        let mut world = World::new();
        let pod = world.create(&wish);
        world.pass(SECOND);
        world.jobs.clear();
        let at = world.now;
        world.tell(Event::DeletedAndStopped(pod.clone(), at));
        assert_eq!(world.network(&pod), Network::Detached);
        assert_eq!(world.jobs, ["DeletedAndStopped".into()].into());
        let deleted_at = world.claims().first().and_then(|claim| claim.deleted_at);
        assert_eq!(deleted_at, (wish.name == "web-0").then_some(at));
    }
}

#[test]
fn released_at_the_deadline_and_not_before() {
    let mut world = World::new();
    let pod = world.create(&fixed("web-0"));
    world.begin_deletion(&pod);
    let deadline = world.now + HOUR * 48;
    world.tell(Event::Stopped(pod.clone()));
    world.pass(SECOND * 5);
    world.vanish(&pod);
    world.pass(deadline.duration_since(world.now) - SignedDuration::from_millis(1));
    assert_eq!(world.count("vsw-b", "retained"), 1);
    world.pass(SECOND * 2);
    assert_eq!(
        (
            world.count("vsw-b", "retained"),
            world.count("vsw-b", "free")
        ),
        (0, 252)
    );
}

#[test]
fn clock_restarts_at_last_deletion() {
    let mut world = World::new();
    let first = world.create(&fixed("web-0"));
    let had = world.address(&first);
    world.delete(&first);
    world.pass(HOUR * 47);
    let second = world.create(&fixed("web-0"));
    assert_eq!(world.address(&second), had);
    world.delete(&second);
    world.pass(HOUR * 47);
    assert_eq!(world.count("vsw-b", "retained"), 1);
    world.pass(HOUR * 2);
    assert_eq!(world.count("vsw-b", "retained"), 0);
}

#[test]
fn the_period_is_that_of_the_pod_whose_deletion_starts_the_clock() {
    let mut world = World::new();
    let first = world.create(&fixed("web-0"));
    world.delete(&first);
    let second = world.create(&Wish {
        hours: Some(1),
        ..fixed("web-0")
    });
    world.delete(&second);
    world.pass(HOUR - SECOND * 10);
    assert_eq!(world.count("vsw-b", "retained"), 1);
    world.pass(SECOND * 20);
    assert_eq!(world.count("vsw-b", "retained"), 0);
}

#[test]
fn deleting_a_pod_that_still_waits_starts_the_clock_anew() {
    let mut world = World::with(settings("192.168.1.0/24", slow_cloud()));
    let first = world.create(&fixed("web-0"));
    world.pass(SECOND * 2);
    world.begin_deletion(&first);
    world.vanish(&first);
    let second = world.create(&fixed("web-0"));
    world.begin_deletion(&second);
    let last_deletion = world.now;
    world.tell(Event::Stopped(second.clone()));
    world.vanish(&second);
    world.pass(SECOND * 5);
    let claims = world.claims();
    let claim = claims.first().expect("the claim is open");
    assert_eq!(claim.expires_at, Some(last_deletion + HOUR * 48));
}

#[test]
fn a_second_delete_event_moves_nothing() {
    let mut world = World::new();
    let pod = world.create(&fixed("web-0"));
    world.begin_deletion(&pod);
    let deleted_at = world.now;
    world.pass(SECOND * 20);
    world.begin_deletion(&pod);
    world.tell(Event::Stopped(pod.clone()));
    world.vanish(&pod);
    world.tell(Event::Gone(pod.clone()));
    world.tell(Event::Deleted(pod.clone(), world.now));
    assert_eq!(world.claims()[0].deleted_at, Some(deleted_at));
}

#[test]
fn new_pod_waits_for_the_old_eni_and_says_so_after_a_second() {
    let cloud = Config {
        detach: SECOND * 5,
        ..slow_cloud()
    };
    let mut world = World::with(settings("192.168.1.0/24", cloud));
    let old = world.create(&fixed("web-0"));
    world.pass(SECOND * 2);
    let had = world.assigned(&old);
    // A forced deletion: the object goes at once, the ENI does not.
    world.tell(Event::Deleted(old.clone(), world.now));
    world.vanish(&old);
    let new = world.create(&fixed("web-0"));
    assert_eq!(world.network(&new), Network::Pending);
    world.pass(SECOND * 2);
    let note = world.is_waiting(&new, Reason::FixedIPWaiting);
    assert!(
        note.contains(old.as_str()) && note.contains(had.eni.as_str()),
        "{note}"
    );
    assert_eq!(world.notices_of(&new, Reason::FixedIPWaiting).len(), 1);
    world.pass(SECOND * 10);
    assert_eq!(world.address(&new), had.address);
}

#[test]
fn the_new_pod_proves_that_the_old_one_is_gone() {
    let mut world = World::new();
    let old = world.create(&fixed("web-0"));
    let had = world.address(&old);
    world.begin_deletion(&old);
    world.tell(Event::Stopped(old.clone()));
    world.vanish_unseen(&old);
    let new = world.create(&fixed("web-0"));
    assert_eq!(
        world.address(&new),
        had,
        "no wait where only the release row was missing"
    );
    assert!(world.notices_of(&new, Reason::FixedIPWaiting).is_empty());
}

#[test]
fn late_delete_event_is_fenced() {
    let mut world = World::new();
    let old = world.create(&fixed("web-0"));
    world.begin_deletion(&old);
    world.vanish_unseen(&old);
    let new = world.create(&fixed("web-0"));
    let has = world.address(&new);
    for _ in 0..2 {
        world.tell(Event::Deleted(old.clone(), world.now));
        world.tell(Event::Stopped(old.clone()));
        world.tell(Event::Gone(old.clone()));
    }
    assert_eq!(world.address(&new), has);
    assert_eq!(world.claims()[0].holder.as_ref(), Some(&new));
    assert_eq!(world.claims()[0].deleted_at, None);
}

#[test]
fn a_pod_made_in_time_holds_the_deadline_off_bound_or_not() {
    let mut world = World::new();
    let old = world.create(&fixed("web-0"));
    let had = world.address(&old);
    world.delete(&old);
    world.pass(HOUR * 48 - SECOND * 10);
    // Unscheduled: it exists in the API, and no node has told us of it.
    let facts = world.facts(&fixed("web-0"));
    let pod = ApiPod::new(facts.clone());
    world.api.insert(facts.key.clone(), pod);
    world.pass(HOUR);
    assert_eq!(world.count("vsw-b", "retained"), 1);
    world.tell(Event::Bound(facts.clone()));
    assert_eq!(world.address(&facts.uid), had);
}

#[test]
fn an_unbound_pod_that_goes_lets_the_retention_end() {
    let mut world = World::new();
    let old = world.create(&fixed("web-0"));
    world.delete(&old);
    world.pass(HOUR * 48 - SECOND * 10);
    let facts = world.facts(&fixed("web-0"));
    let pod = ApiPod::new(facts.clone());
    world.api.insert(facts.key.clone(), pod);
    world.pass(HOUR);
    world.vanish(&facts.uid);
    world.pass(SECOND * 2);
    assert_eq!(world.count("vsw-b", "retained"), 0);
}

#[test]
fn nothing_runs_out_while_the_api_gives_no_answer_or_the_clock_jumps() {
    let mut world = World::new();
    let pod = world.create(&fixed("web-0"));
    world.delete(&pod);
    world.api_is_away = true;
    world.pass(HOUR * 49);
    assert_eq!(world.count("vsw-b", "retained"), 1);
    world.api_is_away = false;
    world.tell(Event::Clock { may_expire: false });
    world.pass(HOUR);
    assert_eq!(world.count("vsw-b", "retained"), 1);
    world.tell(Event::Clock { may_expire: true });
    world.pass(SECOND * 2);
    assert_eq!(world.count("vsw-b", "retained"), 0);
}

#[test]
fn ledger_time_never_runs_backwards() {
    let mut world = World::new();
    let pod = world.create(&fixed("web-0"));
    world.delete(&pod);
    let before = world.claims()[0].expires_at;
    world.now -= HOUR;
    let other = world.create(&ordinary("other"));
    world.delete(&other);
    assert_eq!(world.claims()[0].expires_at, before);
    world.pass(HOUR * 48 + SECOND * 30);
    assert_eq!(world.count("vsw-b", "retained"), 1, "an hour is missing");
    world.pass(HOUR + SECOND * 5);
    assert_eq!(world.count("vsw-b", "retained"), 0);
}

#[test]
fn same_name_without_fixed_ip_leaves_the_claim_to_its_clock() {
    let mut world = World::new();
    let old = world.create(&fixed("web-0"));
    let had = world.address(&old);
    world.delete(&old);
    let new = world.create(&ordinary("web-0"));
    assert_ne!(world.address(&new), had);
    assert_eq!(world.notices_of(&new, Reason::FixedIPNotReused).len(), 1);
    assert_eq!(world.count("vsw-b", "retained"), 1);
    world.delete(&new);
    let third = world.create(&fixed("web-0"));
    assert_eq!(world.address(&third), had);
}

#[test]
fn an_ended_pod_detaches_at_once_and_a_fixed_one_keeps_its_claim() {
    let mut world = World::new();
    let plain = world.create(&ordinary("job-1"));
    world.tell(Event::Ended(plain.clone()));
    assert_eq!(
        world.count("vsw-b", "free"),
        252,
        "the object stays, the address does not"
    );
    let kept = world.create(&fixed("web-0"));
    let had = world.address(&kept);
    world.tell(Event::Ended(kept.clone()));
    assert_eq!(world.network(&kept), Network::Detached);
    world.pass(HOUR * 100);
    assert_eq!(world.claims().len(), 1, "its clock starts at deletion");
    world.begin_deletion(&kept);
    world.vanish(&kept);
    let new = world.create(&fixed("web-0"));
    assert_eq!(world.address(&new), had);
}

#[test]
fn a_pod_that_stopped_before_a_restart_and_ends_after_it_gives_its_address_back() {
    let mut world = World::new();
    let plain = world.create(&ordinary("job-1"));
    world.tell(Event::Stopped(plain.clone()));
    world.restart();
    world.tell(Event::Ended(plain));
    assert_eq!(world.count("vsw-b", "free"), 252);
}

#[test]
fn duplicate_create_is_idempotent() {
    let mut world = World::new();
    let pod = world.create(&fixed("web-0"));
    let has = world.assigned(&pod);
    let facts = world.api.values().next().unwrap().facts.clone();
    for _ in 0..100 {
        world.tell(Event::Bound(facts.clone()));
    }
    assert_eq!(world.assigned(&pod), has);
    assert_eq!(world.count("vsw-b", "in_use"), 1);
}

#[test]
fn same_name_in_another_namespace_is_another_key() {
    let mut world = World::new();
    let here = world.create(&fixed("web-0"));
    let mut facts = world.facts(&fixed("web-0"));
    facts.key = PodKey::new("other", "web-0");
    world.tell(Event::Bound(facts.clone()));
    assert_ne!(world.address(&here), world.address(&facts.uid));
    assert_eq!(world.claims().len(), 2);
}

#[test]
fn deleting_a_pod_that_waits_for_the_old_eni_starts_the_clock_anew() {
    let cloud = Config {
        detach: SECOND * 10,
        ..slow_cloud()
    };
    let mut world = World::with(settings("192.168.1.0/24", cloud));
    let first = world.create(&fixed("web-0"));
    world.pass(SECOND * 2);
    world.begin_deletion(&first);
    world.vanish(&first);
    let second = world.create(&Wish {
        hours: Some(1),
        ..fixed("web-0")
    });
    world.pass(SECOND * 3);
    world.begin_deletion(&second);
    let last_deletion = world.now;
    world.tell(Event::Stopped(second.clone()));
    world.vanish(&second);
    world.pass(SECOND * 20);
    let claims = world.claims();
    assert_eq!(claims[0].expires_at, Some(last_deletion + HOUR));
    assert_eq!(claims[0].state, ClaimState::Retained);
}

#[test]
fn a_pod_that_is_being_deleted_is_given_nothing_any_more() {
    let mut world = World::with(settings("192.168.1.0/24", slow_cloud()));
    let first = world.create(&fixed("web-0"));
    world.pass(SECOND * 2);
    world.begin_deletion(&first);
    world.vanish(&first);
    let second = world.create(&fixed("web-0"));
    world.begin_deletion(&second);
    let last_deletion = world.now;
    world.pass(SECOND * 5);
    assert_eq!(world.count("vsw-b", "retained"), 1);
    world.tell(Event::Stopped(second.clone()));
    assert_eq!(world.network(&second), Network::Detached);
    world.vanish(&second);
    assert_eq!(
        world.claims()[0].expires_at,
        Some(last_deletion + HOUR * 48)
    );
}

#[test]
fn a_clock_set_forward_and_back_ends_no_retention_early() {
    let mut world = World::new();
    let [short, long] = [("web-0", 1), ("web-1", 2)].map(|(name, hours)| {
        world.create(&Wish {
            hours: Some(hours),
            ..fixed(name)
        })
    });
    world.delete(&short);
    world.delete(&long);
    // One commit by a clock that is wrong for a moment: ledger time stays there.
    world.ledger.commit(world.now + HOUR * 3, &[]).unwrap();
    world.pass(HOUR + SECOND * 2);
    let claims = world.claims();
    assert_eq!(claims.len(), 1, "{claims:?}");
    assert_eq!(&*claims[0].key.name, "web-1");
}

#[test]
fn a_clock_that_is_hours_behind_for_a_while_ends_no_retention_early() {
    let mut world = World::new();
    let kept = world.create(&Wish {
        hours: Some(12),
        ..fixed("web-0")
    });
    world.pass(HOUR * 72);
    // As some job of each hour does.
    world.ledger.commit(world.now, &[]).unwrap();
    world.vanish_unseen(&kept);
    world.now -= HOUR * 20;
    world.restart();
    world.tell(Event::Gone(kept));
    world.pass(SECOND * 2);
    assert_eq!(world.count("vsw-b", "retained"), 1);
    world.now += HOUR * 20;
    world.restart();
    world.pass(HOUR);
    assert_eq!(world.count("vsw-b", "retained"), 1);
}

#[test]
fn a_waiting_pod_that_was_replaced_takes_nothing_from_the_new_one() {
    let mut world = World::with(settings("192.168.1.0/29", Config::default()));
    let others = ["a", "b", "c", "d"].map(|name| world.create(&ordinary(name)));
    let old = world.create(&fixed("web-0"));
    world.is_waiting(&old, Reason::IPPoolExhausted);
    // A watch that was broken shows the new pod before anything tells that the old one is gone.
    world.vanish_unseen(&old);
    let new = world.create(&fixed("web-0"));
    world.is_waiting(&new, Reason::IPPoolExhausted);
    world.delete(&others[0]);
    world.delete(&others[1]);
    world.address(&new);
    assert_eq!(world.claims()[0].holder.as_ref(), Some(&new));
}

#[test]
fn a_stale_view_of_a_pod_that_is_gone_takes_nothing_and_moves_no_clock() {
    let mut world = World::new();
    let old = world.create(&fixed("web-0"));
    let stale = world.api.values().next().unwrap().facts.clone();
    world.delete(&old);
    let deleted_at = world.claims()[0].deleted_at;
    world.pass(HOUR);
    world.tell(Event::Bound(stale.clone()));
    world.tell(Event::Gone(old.clone()));
    assert_eq!(world.claims()[0].deleted_at, deleted_at);
    let new = world.create(&fixed("web-0"));
    let had = world.address(&new);
    world.tell(Event::Bound(stale));
    assert_eq!(world.address(&new), had);
    assert_eq!(world.claims()[0].holder, Some(new));
}

#[test]
fn many_claims_that_are_held_off_do_not_keep_others_from_ending() {
    let mut world = World::with(settings("192.168.0.0/20", Config::default()));
    let short = |name: String| Wish {
        name: name.leak(),
        hours: Some(1),
        ..fixed("")
    };
    for n in 0..300 {
        let wish = short(format!("held-{n}"));
        let pod = world.create(&wish);
        world.delete(&pod);
        // Made in time and never scheduled.
        let facts = world.facts(&wish);
        world.appear(&facts);
    }
    let last = world.create(&short("last".to_owned()));
    world.delete(&last);
    world.pass(HOUR + SECOND * 5);
    assert_eq!(world.count("vsw-b", "retained"), 300);
}

#[test]
fn a_waiting_pod_that_vanished_unseen_starts_the_clock_when_the_deadline_s_look_misses_it() {
    let mut world = World::new();
    let hour = Wish {
        hours: Some(1),
        ..fixed("web-0")
    };
    let old = world.create(&hour);
    let had = world.address(&old);
    world.delete(&old);
    let waits = world.create(&Wish {
        vswitches: vec!["vsw-c"],
        ..hour.clone()
    });
    world.is_waiting(&waits, Reason::NoAllowedVSwitch);
    world.vanish_unseen(&waits);
    world.pass(HOUR + SECOND);
    assert_eq!(world.claims()[0].address, had);
    world.pass(HOUR - SECOND * 4);
    assert_eq!(world.claims().len(), 1);
    world.pass(SECOND * 4);
    assert!(world.claims().is_empty());
}

#[test]
fn a_pod_that_terminates_for_longer_than_its_retention_ends_its_claim_as_it_goes() {
    let mut world = World::new();
    let hour = |name| Wish {
        hours: Some(1),
        ..fixed(name)
    };
    let pods = [hour("on-time"), hour("slow"), fixed("far")].map(|wish| world.create(&wish));
    for pod in &pods {
        world.begin_deletion(pod);
    }
    world.vanish(&pods[0]);
    world.vanish(&pods[2]);
    world.pass(HOUR * 3);
    assert_eq!(world.claims().len(), 2);
    world.vanish(&pods[1]);
    world.pass(SECOND * 2);
    let left: Vec<String> = world
        .claims()
        .iter()
        .map(|row| row.key.to_string())
        .collect();
    assert_eq!(left, ["default/far"]);
}

#[test]
fn a_deleted_pod_that_waited_and_vanished_unseen_is_known_to_be_gone_when_its_claim_ends() {
    let mut world = World::new();
    let hour = Wish {
        hours: Some(1),
        ..fixed("web-0")
    };
    let old = world.create(&hour);
    world.delete(&old);
    let waits = world.create(&Wish {
        vswitches: vec!["vsw-c"],
        ..hour
    });
    world.begin_deletion(&waits);
    world.vanish_unseen(&waits);
    world.pass(HOUR + SECOND * 2);
    assert!(world.claims().is_empty());
    assert!(world.engine.network(&waits).is_none());
}

#[test]
fn security_groups_stay_with_the_eni_and_are_those_of_its_last_pod() {
    for cloud in [Config::default(), slow_cloud()] {
        let mut world = World::with(settings("192.168.1.0/24", cloud));
        let groups = |world: &World| {
            let claims = world.claims();
            let of_claim: Vec<_> = claims[0].security_groups.clone();
            let rows = world.ledger.addresses(false).unwrap();
            let row = rows.iter().find(|row| row.state != "free").unwrap();
            assert_eq!(row.security_groups, of_claim);
            of_claim
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(",")
        };
        let with = |security_groups: &[&'static str]| Wish {
            security_groups: security_groups.to_vec(),
            ..fixed("web-0")
        };
        let pod = world.create(&with(&["sg-b2", "sg-a1"]));
        world.pass(SECOND * 2);
        let eni = world.assigned(&pod).eni;
        assert_eq!(groups(&world), "sg-b2,sg-a1");
        world.delete(&pod);
        assert_eq!(groups(&world), "sg-b2,sg-a1", "while nobody has it");

        let pod = world.create(&with(&["sg-c3"]));
        world.pass(SECOND * 2);
        assert_eq!(world.assigned(&pod).eni, eni);
        assert_eq!(groups(&world), "sg-c3");
        world.restart();
        assert_eq!(groups(&world), "sg-c3");
        world.delete(&pod);
        let pod = world.create(&with(&[]));
        world.pass(SECOND * 2);
        assert_eq!(groups(&world), "");

        world.delete(&pod);
        world.pass(HOUR * 49);
        let rows = "SELECT count(*) FROM eni_security_groups";
        assert_eq!(world.ledger.number(rows), 0);
    }
}
