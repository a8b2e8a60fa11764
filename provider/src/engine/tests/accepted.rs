//! What is expected of whoever keeps addresses, as far as no other script tells it.

use super::operator::Desk;
use super::*;
use crate::ledger::Job;
use crate::ledger::history::Answer;

#[test]
fn retained_is_not_stolen_from_a_pool_of_one() {
    let mut settings = settings("192.168.1.0/29", Config::default());
    settings.vswitches[0].exclude = vec![([192, 168, 1, 2].into(), [192, 168, 1, 4].into())];
    let mut world = World::with(settings);
    let old = world.create(&fixed("web-0"));
    let had = world.address(&old);
    world.delete(&old);
    for wish in [ordinary("a"), fixed("b")] {
        let other = world.create(&wish);
        let note = world.is_waiting(&other, Reason::IPPoolExhausted);
        assert!(
            note.contains("1 usable = 0 in use + 1 retained + 0 detaching"),
            "{note}"
        );
    }
    world.pass(HOUR * 47);
    let back = world.create(&fixed("web-0"));
    assert_eq!(world.address(&back), had);
}

#[test]
fn an_object_deleted_by_force_and_made_anew_gets_its_address_once_the_eni_let_go() {
    for deletion_is_seen in [true, false] {
        let mut world = World::with(settings("192.168.1.0/24", slow_cloud()));
        let old = world.create(&fixed("web-0"));
        world.pass(SECOND * 2);
        let had = world.assigned(&old);
        if deletion_is_seen {
            world.begin_deletion(&old);
        }
        world.vanish(&old);
        let new = world.create(&fixed("web-0"));
        assert_eq!(world.network(&new), Network::Pending, "its ENI is attached");
        world.pass(SECOND * 5);
        let has = world.assigned(&new);
        assert_eq!((has.address, has.eni), (had.address, had.eni));
    }
}

#[test]
fn same_name_in_another_cluster_is_another_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("holdfast.db");
    let ours = settings("192.168.1.0/24", Config::default());
    let mut world = World::on(Ledger::open(&path, ours.clone(), World::begin()).unwrap());
    let pod = world.create(&fixed("web-0"));
    let had = world.address(&pod);
    world.delete(&pod);
    let now = world.now;
    world.ledger = Ledger::in_memory(ours.clone(), now).unwrap();

    let theirs = Settings {
        cluster: "theirs".into(),
        ..ours.clone()
    };
    let mut other = World::on(Ledger::open(&path, theirs.clone(), now).unwrap());
    other.now = now;
    let stranger = other.facts(&fixed("web-0"));
    let stranger = PodFacts {
        uid: "uid-theirs".into(),
        ..stranger
    };
    other.appear(&stranger);
    other.tell(Event::Bound(stranger.clone()));
    assert_ne!(other.address(&stranger.uid), had);
    other.ledger = Ledger::in_memory(theirs, now).unwrap();

    world.ledger = Ledger::open(&path, ours, now).unwrap();
    world.restart();
    let back = world.create(&fixed("web-0"));
    assert_eq!(world.address(&back), had);
}

#[test]
fn two_stateful_sets_that_compete_keep_theirs_through_5_3_0_5() {
    let sets = [
        ["web-0", "web-1", "web-2", "web-3", "web-4"],
        ["db-0", "db-1", "db-2", "db-3", "db-4"],
    ];
    let mut world = World::with(settings("192.168.1.0/28", slow_cloud()));
    let mut had = BTreeMap::new();
    let mut running: BTreeMap<&str, PodUid> = BTreeMap::new();
    for replicas in [5, 3, 0, 5, 3, 0, 5] {
        for (at, set) in sets.iter().enumerate() {
            // One goes up while the other goes down.
            let replicas = if at == 0 { replicas } else { 5 - replicas };
            for (ordinal, name) in set.iter().enumerate() {
                if ordinal >= replicas
                    && let Some(pod) = running.remove(name)
                {
                    world.delete(&pod);
                } else if ordinal < replicas && !running.contains_key(name) {
                    running.insert(name, world.create(&fixed(name)));
                    world.pass(SECOND / 3);
                }
            }
        }
        world.pass(SECOND * 10);
        for (name, pod) in &running {
            let has = world.assigned(pod);
            let has = (has.address, has.eni, has.mac);
            assert_eq!(had.entry(*name).or_insert_with(|| has.clone()), &has);
        }
        // No longer than 40 hours for whoever is away for two rounds.
        world.pass(HOUR * 20 - SECOND * 60);
    }
    let addresses: BTreeSet<Ipv4Addr> = had.values().map(|(address, ..)| *address).collect();
    assert_eq!(addresses.len(), 10);
}

#[test]
fn ordinals_may_start_anywhere_and_leave_gaps() {
    let mut world = World::new();
    let names = ["web-5", "web-7", "web-100"];
    let old = names.map(|name| world.create(&fixed(name)));
    let had = old.clone().map(|pod| world.address(&pod));
    for pod in &old {
        world.delete(pod);
    }
    let between = world.create(&fixed("web-6"));
    assert!(!had.contains(&world.address(&between)));
    let new = names.map(|name| world.create(&fixed(name)));
    assert_eq!(new.map(|pod| world.address(&pod)), had);
}

#[test]
fn an_error_of_the_expiry_rearms_its_timer() {
    for failing in ["Due", "Expire"] {
        let mut world = World::new();
        let hour = Wish {
            hours: Some(1),
            ..fixed("web-0")
        };
        let pod = world.create(&hour);
        world.delete(&pod);
        world.now = world.claims()[0].expires_at.unwrap();
        let mut effects: VecDeque<Effect> = world.engine.handle(world.now, Event::Tick).into();
        let mut failed = 0;
        while let Some(effect) = effects.pop_front() {
            let event = match effect {
                Effect::Commit(number, job) if format!("{job:?}").starts_with(failing) => {
                    failed += 1;
                    let busy = crate::ledger::Error::Sql {
                        operation: "run a job",
                        remedy: None,
                        source: "database is locked".into(),
                    };
                    Some(Event::Committed(number, Err(busy)))
                }
                effect => world.run(effect),
            };
            if let Some(event) = event {
                effects.extend(world.engine.handle(world.now, event));
            }
        }
        assert_eq!(failed, 1, "{failing}");
        assert_eq!(world.claims().len(), 1);
        world.pass(SECOND * 2);
        assert!(world.claims().is_empty(), "after an error of {failing}");
    }
}

#[test]
fn vswitches_that_a_waiting_pod_names_after_it_was_accepted_change_nothing_after_a_restart_either()
{
    let mut settings = settings("192.168.1.0/24", slow_cloud());
    settings.vswitches.push(VSwitch {
        id: "vsw-b2".into(),
        zone: "b".into(),
        cidr: "192.168.3.0/24".parse().unwrap(),
        exclude: Vec::new(),
    });
    let mut world = World::with(settings);
    let wish = Wish {
        vswitches: vec!["vsw-b"],
        ..fixed("web-0")
    };
    let old = world.create(&wish);
    world.pass(SECOND * 2);
    let had = world.address(&old);
    world.begin_deletion(&old);
    world.vanish(&old);
    let new = world.create(&wish);
    world.pass(SECOND / 2);
    assert_eq!(world.network(&new), Network::Pending, "the old one has it");
    let edited = world.api.get_mut(&PodKey::new("default", "web-0"));
    edited.unwrap().facts.opt_in.vswitches = vec!["vsw-b2".into()];
    world.restart();
    world.pass(SECOND * 5);
    assert_eq!(world.address(&new), had);
}

#[test]
fn a_hundred_identical_creations_make_one_row() {
    for wish in [fixed("web-0"), ordinary("web-0")] {
        let mut world = World::with(settings("192.168.1.0/24", slow_cloud()));
        let facts = world.facts(&wish);
        let jobs = vec![Job::Acquire(facts.clone()); 100];
        let batch = world.ledger.commit(world.now, &jobs).unwrap();
        assert!(batch.results.iter().all(Result::is_ok));
        for table in ["pod", "eni"] {
            let rows = world
                .ledger
                .number(&format!("SELECT count(*) FROM {table}"));
            assert_eq!(rows, 1, "{table}");
        }
        assert_eq!(world.count("vsw-b", "in_use"), 1);
        assert_eq!(world.claims().len(), usize::from(wish.hours.is_some()));
    }
}

/// Who had which address when, as the pods themselves saw it.
#[test]
fn who_at_a_time_is_who_had_it_then() {
    let mut desk = Desk::with("192.168.1.0/29", slow_cloud());
    let mut seen: Vec<(Timestamp, BTreeMap<Ipv4Addr, PodUid>)> = Vec::new();
    let mut running: VecDeque<PodUid> = VecDeque::new();
    for n in 0..12 {
        let world = &mut desk.world;
        if running.len() == 3 {
            let pod = running.pop_front().unwrap();
            world.delete(&pod);
        }
        let wish = [fixed, ordinary][n % 2](["web-0", "a", "web-1", "b"][n % 4]);
        running.push_back(world.create(&wish));
        world.pass(SECOND * 5);
        let holders = running.iter().map(|pod| (world.address(pod), pod.clone()));
        seen.push((world.now, holders.collect()));
        world.pass(HOUR);
    }
    let reader = desk.reader();
    for (at, holders) in &seen {
        for last in 1..=4 {
            let address = Ipv4Addr::new(192, 168, 1, last);
            let who = reader.who(address, *at, desk.world.now).unwrap();
            let pod = who.span.filter(|_| who.answer == Answer::Pod);
            let pod = pod.and_then(|span| span.uid);
            assert_eq!(pod.as_ref(), holders.get(&address), "{address} at {at}");
        }
    }
}
