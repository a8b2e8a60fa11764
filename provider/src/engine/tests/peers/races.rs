//! The old pod and the new one of the same name.

use super::*;
use crate::ledger::Job;

/// Spiderpool #3751, #3817 (PR #3778): after a fast scale-down and up the clean-up of the old pod
/// used a record that was the new pod's by then.
#[test]
fn news_of_the_old_pod_frees_nothing_of_the_new_one_whenever_they_come() {
    for steps in 0..16 {
        let mut world = World::with(settings("192.168.1.0/29", slow_cloud()));
        let old = world.create(&fixed("web-0"));
        world.pass(SECOND * 2);
        let had = world.address(&old);
        vanish_after_its_end(&mut world, &old);
        let new = world.facts(&fixed("web-0"));
        world.appear(&new);
        let effects = hold_back(&mut world, Event::Bound(new.clone()));
        world.pending.extend(effects);
        for _ in 0..steps {
            step(&mut world);
        }
        for event in late_news(&old, world.now) {
            world.tell(event);
        }
        world.pass(SECOND * 5);
        assert_kept(&world, &new.uid, had);
        assert_eq!(world.count("vsw-b", "in_use"), 1, "after {steps} steps");
    }
}

/// Spiderpool #2526 (PR #2539): the clean-up freed an address between the look-up of the pod that
/// came back and its binding, which did not look again.
#[test]
fn an_address_given_away_since_the_pod_asked_is_not_bound_to_it() {
    for in_time in [true, false] {
        let mut world = World::with(settings("192.168.1.0/29", Config::default()));
        let old = world.create(&for_an_hour("web-0"));
        let had = world.address(&old);
        for name in ["a", "b", "c"] {
            world.create(&ordinary(name));
        }
        let waits = world.create(&ordinary("d"));
        world.delete(&old);
        world.tell(Event::Clock { may_expire: false });
        world.pass(if in_time { SECOND * 10 } else { HOUR });
        let back = world.facts(&fixed("web-0"));
        world.appear(&back);
        let asked = hold_back(&mut world, Event::Bound(back.clone()));
        world.pass(HOUR);
        world.tell(Event::Clock { may_expire: true });
        world.pass(SECOND * 2);
        let_go(&mut world, asked);
        if in_time {
            assert_kept(&world, &back.uid, had);
            world.is_waiting(&waits, Reason::IPPoolExhausted);
        } else {
            assert_eq!(world.address(&waits), had);
            world.is_waiting(&back.uid, Reason::IPPoolExhausted);
        }
        assert_eq!(world.count("vsw-b", "in_use"), 4);
    }
}

/// Spiderpool #2442: a scan during a StatefulSet's restart compared UIDs of a kept address.
#[test]
fn a_scan_at_any_moment_of_a_restart_loses_no_kept_address() {
    for steps in 0..24 {
        let mut world = World::with(settings("192.168.1.0/24", slow_cloud()));
        let old = world.create(&fixed("web-0"));
        world.pass(SECOND * 2);
        let had = world.address(&old);
        let before: BTreeSet<PodUid> = [old.clone()].into();
        world.begin_deletion(&old);
        let mut new = None;
        for at in 0..24 {
            match at {
                4 => {
                    let stopped = hold_back(&mut world, Event::Stopped(old.clone()));
                    world.pending.extend(stopped);
                }
                12 => {
                    world.vanish_unseen(&old);
                    let gone = hold_back(&mut world, Event::Gone(old.clone()));
                    world.pending.extend(gone);
                }
                14 => {
                    let facts = world.facts(&fixed("web-0"));
                    world.appear(&facts);
                    new = Some(facts.uid.clone());
                    let bound = hold_back(&mut world, Event::Bound(facts));
                    world.pending.extend(bound);
                }
                _ => step(&mut world),
            }
            if at == steps {
                world.tell(Event::Listed(BTreeSet::new()));
                world.tell(Event::Listed(before.clone()));
                world.tell(Event::Tick);
            }
        }
        world.pass(SECOND * 5);
        assert_kept(&world, &new.unwrap(), had);
    }
}

/// Spiderpool #1187: create, delete and create of one name in quick succession recycled an
/// address that was in use.
#[test]
fn a_hundred_recreations_within_moments_keep_the_one_address() {
    for cloud in [Config::default(), slow_cloud()] {
        let mut world = World::with(settings("192.168.1.0/24", cloud));
        let mut pod = world.create(&fixed("web-0"));
        world.pass(SECOND * 2);
        let had = world.assigned(&pod);
        for n in 0..100 {
            world.begin_deletion(&pod);
            world.vanish(&pod);
            world.pass(SignedDuration::from_millis(n % 51));
            pod = world.create(&fixed("web-0"));
            world.pass(SignedDuration::from_millis(n * 7 % 51));
        }
        world.pass(SECOND * 10);
        assert_kept(&world, &pod, had.address);
        assert_eq!(world.assigned(&pod).eni, had.eni);
        assert_eq!(world.count("vsw-b", "free"), 251);
    }
}

/// whereabouts #176 (PR #467), PR #624: a late deletion was matched by the pod's name alone.
#[test]
fn a_deletion_that_comes_late_twice_or_never_is_the_old_pods() {
    for wish in [fixed("web-0"), ordinary("web-0")] {
        for times in 0..3 {
            let mut world = World::new();
            let old = world.create(&wish);
            vanish_after_its_end(&mut world, &old);
            let new = world.create(&wish);
            let has = world.assigned(&new);
            for _ in 0..times {
                for event in late_news(&old, world.now) {
                    world.tell(event);
                }
            }
            world.pass(SECOND * 60);
            assert_eq!(world.assigned(&new), has);
            let held = world.ledger.addresses(true).unwrap();
            let of_new = held.iter().filter(|row| row.uid.as_ref() == Some(&new));
            assert_eq!(of_new.count(), 1);
            assert_eq!(world.count("vsw-b", "in_use"), 1, "told {times} times");
        }
    }
}

/// whereabouts #291 (PR #383, #446, #556): to be asked again after a missed deletion gave a pod a
/// second address.
#[test]
fn a_pod_that_asks_again_gets_the_same_answer_also_after_a_restart() {
    for wish in [fixed("web-0"), ordinary("web-0")] {
        let mut world = World::with(settings("192.168.1.0/24", slow_cloud()));
        let missed = world.create(&wish);
        world.pass(SECOND * 2);
        world.vanish_unseen(&missed);
        let facts = world.facts(&wish);
        world.appear(&facts);
        let asked: Vec<Effect> = (0..100)
            .flat_map(|_| hold_back(&mut world, Event::Bound(facts.clone())))
            .collect();
        let_go(&mut world, asked);
        world.pass(SECOND * 5);
        let has = world.assigned(&facts.uid);
        world.restart();
        let again = Job::Acquire(facts.clone());
        let results = world.ledger.commit(world.now, &[again.clone(), again]);
        for outcome in results.unwrap().results {
            let pods = outcome.unwrap().pods;
            assert_eq!(pods[0].network, Network::Attached(has.clone()));
        }
        world.pass(SECOND * 5);
        assert_eq!(world.assigned(&facts.uid), has);
        assert_eq!(world.count("vsw-b", "in_use"), 1);
    }
}

/// galaxy PR #109: the resync read the UID first and took the lock after, and unassigned what was
/// the new pod's by then.
#[test]
fn a_release_decided_before_the_new_pod_was_bound_takes_nothing_from_it() {
    let mut world = World::new();
    let old = world.create(&fixed("web-0"));
    let had = world.address(&old);
    vanish_after_its_end(&mut world, &old);
    let release = hold_back(&mut world, Event::Gone(old.clone()));
    assert!(!release.is_empty());
    let new = world.create(&fixed("web-0"));
    assert_eq!(world.address(&new), had);
    let_go(&mut world, release);
    world.pass(SECOND * 5);
    assert_kept(&world, &new, had);
}

/// cilium #21482 and #13412 (PR #17939): an address was released while it was being allocated.
#[test]
fn a_release_and_an_allocation_that_meet_leave_one_holder() {
    for release_first in [true, false] {
        let mut world = World::with(pool_of_one(Config::default()));
        let leaves = world.create(&ordinary("a"));
        vanish_after_its_end(&mut world, &leaves);
        let comes = world.facts(&ordinary("b"));
        world.appear(&comes);
        let mut both = [
            hold_back(&mut world, Event::Gone(leaves.clone())),
            hold_back(&mut world, Event::Bound(comes.clone())),
        ];
        if !release_first {
            both.reverse();
        }
        let_go(&mut world, both.concat());
        world.pass(SECOND * 2);
        assert_eq!(world.address(&comes.uid), Ipv4Addr::new(192, 168, 1, 1));
        assert_eq!(world.count("vsw-b", "in_use"), 1);
    }
}

/// kea GL#4547, GL#944, GL#1196, Trac #5247, #5252; spiderpool #3771 (PR #3926): a second release
/// made the counts drift.
#[test]
fn counts_always_add_up_however_often_a_release_is_told() {
    let mut world = World::with(settings("192.168.1.0/29", slow_cloud()));
    let mut pods = Vec::new();
    for wish in [fixed("web-0"), ordinary("a"), fixed("web-1"), ordinary("b")] {
        pods.push(world.create(&wish));
        world.pass(SECOND * 2);
        assert_adds_up(&world, 4);
    }
    for pod in &pods {
        vanish_after_its_end(&mut world, pod);
        for _ in 0..3 {
            for event in late_news(pod, world.now) {
                world.tell(event);
                assert_adds_up(&world, 4);
            }
            world.pass(SECOND);
            assert_adds_up(&world, 4);
        }
    }
    world.pass(SECOND * 5);
    let counts = ["free", "retained"].map(|state| world.count("vsw-b", state));
    assert_eq!(counts, [2, 2]);
    for name in ["c", "d", "e"] {
        world.create(&ordinary(name));
    }
    let told = world.notices.last().unwrap().note.clone();
    assert!(
        told.contains("4 usable = 2 in use + 2 retained + 0 detaching"),
        "{told}"
    );
}

/// kubernetes/kubernetes #59848: a list that a server answers from its past shows a pod that
/// was replaced long ago. Two pods may share a second, and then only their revisions tell them apart.
#[test]
fn a_late_view_of_an_older_pod_of_the_same_second_takes_nothing_from_the_newer_one() {
    for told_before in [true, false] {
        let mut world = World::with(settings("192.168.1.0/29", slow_cloud()));
        let old = world.facts(&fixed("web-0"));
        let new = world.facts(&fixed("web-0"));
        assert_eq!(old.created.at, new.created.at);
        if told_before {
            world.tell(Event::Bound(old.clone()));
        }
        world.appear(&new);
        world.tell(Event::Bound(new.clone()));
        world.pass(SECOND * 5);
        let had = world.address(&new.uid);
        world.restart();
        world.tell(Event::Bound(old.clone()));
        world.pass(SECOND * 5);
        assert_kept(&world, &new.uid, had);
        world.tell(Event::Gone(old.uid.clone()));
        world.pass(SECOND * 5);
        assert_kept(&world, &new.uid, had);
        assert_eq!(world.count("vsw-b", "in_use"), 1);
    }
}
