//! A backup takes the place of the ledger: it is older than what the pods show.

use tempfile::TempDir;

use super::*;

/// A ledger file as it was at some time.
struct Backup(TempDir);

impl Backup {
    fn of(world: &World) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("holdfast.db");
        world.ledger.copy_to(&path).unwrap();
        Self(dir)
    }

    /// A process starts on the backup, and every pod shows what it had before.
    fn restore(&self, world: &mut World) {
        for pod in world.api.values_mut() {
            if let Some(Network::Attached(has)) = world.engine.network(&pod.facts.uid) {
                pod.facts.published = Some(Published {
                    address: has.address,
                    eni: Some(has.eni.clone()),
                });
            }
        }
        let settings = world.ledger.settings().clone();
        let path = self.0.path().join("holdfast.db");
        world.ledger = Ledger::open(&path, settings, world.now).unwrap();
        world.restart();
    }
}

#[test]
fn a_pod_that_waited_when_the_backup_was_made_keeps_the_address_that_it_shows() {
    for wish in [fixed, ordinary] {
        let mut world = World::with(settings("192.168.1.0/29", Config::default()));
        for name in ["a", "b", "c", "d"] {
            world.create(&ordinary(name));
        }
        let first = world.create(&ordinary("first"));
        let pod = world.create(&wish("web-0"));
        world.is_waiting(&pod, Reason::IPPoolExhausted);
        let backup = Backup::of(&world);

        let larger = settings("192.168.1.0/28", Config::default());
        world.ledger.reconfigure(larger, world.now).unwrap();
        world.tell(Event::LedgerChanged);
        let had = world.assigned(&pod);
        world.delete(&first);
        let new = world.facts(&ordinary("new"));
        world.appear(&new);

        backup.restore(&mut world);
        assert_eq!(world.refusals, Vec::<String>::new());
        assert_eq!(
            (world.address(&pod), world.assigned(&pod).eni),
            (had.address, had.eni)
        );
        assert_ne!(world.address(&new.uid), had.address);
        world.delete(&pod);
        let kept = usize::from(wish("web-0").hours.is_some());
        assert_eq!(world.count("vsw-b", "retained"), kept);
    }
}

#[test]
fn a_pod_that_waited_for_the_old_one_of_its_name_when_the_backup_was_made_has_its_address_again() {
    let mut world = World::with(settings("192.168.1.0/24", slow_cloud()));
    let old = world.create(&fixed("web-0"));
    world.pass(SECOND * 2);
    let had = world.assigned(&old);
    world.begin_deletion(&old);
    world.vanish(&old);
    let pod = world.create(&fixed("web-0"));
    let backup = Backup::of(&world);
    world.pass(SECOND * 5);
    assert_eq!(world.address(&pod), had.address);

    backup.restore(&mut world);
    world.pass(SECOND * 5);
    assert_eq!(world.refusals, Vec::<String>::new());
    assert_eq!(
        (world.address(&pod), world.assigned(&pod).eni),
        (had.address, had.eni)
    );
    assert_eq!(world.claims()[0].holder.as_ref(), Some(&pod));
}

#[test]
fn pods_that_have_swapped_their_fixed_addresses_since_the_backup_keep_what_they_show() {
    let cases =
        [Config::default(), slow_cloud()].map(|cloud| [(cloud.clone(), true), (cloud, false)]);
    for (cloud, run_in_backup) in cases.into_iter().flatten() {
        let mut settings = settings("192.168.1.0/29", cloud);
        settings.vswitches[0].exclude = vec![([192, 168, 1, 3].into(), [192, 168, 1, 4].into())];
        let mut world = World::with(settings);
        let short = |name| Wish {
            hours: Some(1),
            ..fixed(name)
        };
        let old = ["web-0", "web-1"].map(|name| world.create(&short(name)));
        world.pass(SECOND * 5);
        let had = old.each_ref().map(|pod| world.address(pod));
        let mut backup = Backup::of(&world);
        for pod in &old {
            world.delete(pod);
        }
        world.pass(SECOND * 5);
        if !run_in_backup {
            backup = Backup::of(&world);
        }
        world.pass(HOUR * 2);
        let new = ["web-1", "web-0"].map(|name| world.create(&short(name)));
        world.pass(SECOND * 5);
        assert_eq!(new.each_ref().map(|pod| world.address(pod)), had);

        backup.restore(&mut world);
        world.pass(SECOND * 20);
        assert_eq!(world.refusals, Vec::<String>::new());
        assert_eq!(new.each_ref().map(|pod| world.address(pod)), had);
    }
}

/// A pool of one, whose address the backup has as that of a pod that has gone since. Another pod has
/// it now, and the backup is restored.
fn restored_to(cloud: Config, restore: impl FnOnce(&mut World, &Backup)) -> (World, PodUid) {
    let detached = cloud.detach * 2 + SECOND * 5;
    let mut settings = settings("192.168.1.0/29", cloud);
    settings.vswitches[0].exclude = vec![([192, 168, 1, 2].into(), [192, 168, 1, 4].into())];
    let mut world = World::with(settings);
    let old = world.create(&ordinary("old"));
    world.pass(SECOND * 5);
    let backup = Backup::of(&world);
    world.delete(&old);
    world.pass(detached);
    let pod = world.create(&ordinary("web-0"));
    world.pass(SECOND * 5);
    assert_eq!(world.address(&pod).to_string(), "192.168.1.1");
    restore(&mut world, &backup);
    (world, pod)
}

#[test]
fn a_pod_that_shows_the_address_of_one_that_has_gone_since_the_backup_keeps_it() {
    for cloud in [Config::default(), slow_cloud()] {
        let restore = |world: &mut World, backup: &Backup| backup.restore(world);
        let (mut world, pod) = restored_to(cloud, restore);
        world.pass(SECOND * 10);
        assert_eq!(world.refusals, Vec::<String>::new());
        assert_eq!(world.address(&pod).to_string(), "192.168.1.1");
        let new = world.create(&ordinary("new"));
        world.is_waiting(&new, Reason::IPPoolExhausted);
    }
}

#[test]
fn a_pod_that_shows_an_address_excluded_since_the_backup_keeps_it_until_it_lets_go() {
    for cloud in [Config::default(), slow_cloud()] {
        let restore = |world: &mut World, backup: &Backup| {
            let mut excluding = world.ledger.settings().clone();
            excluding.vswitches[0].exclude[0].0 = [192, 168, 1, 1].into();
            world.ledger.reconfigure(excluding, world.now).unwrap();
            backup.restore(world);
        };
        let (mut world, pod) = restored_to(cloud, restore);
        world.pass(SECOND * 10);
        assert_eq!(world.refusals, Vec::<String>::new());
        assert_eq!(world.address(&pod).to_string(), "192.168.1.1");
        world.delete(&pod);
        world.pass(SECOND * 5);
        assert_eq!(world.count("vsw-b", "excluded"), 4);
    }
}

#[test]
fn a_start_that_waits_for_an_address_asks_for_it_ever_more_seldom() {
    let cloud = Config {
        detach: SECOND * 90,
        ..Config::default()
    };
    let restore = |world: &mut World, backup: &Backup| backup.restore(world);
    let (mut world, pod) = restored_to(cloud, restore);
    let before = world.commits;
    world.pass(SECOND * 180);
    assert_eq!(world.address(&pod).to_string(), "192.168.1.1");
    let commits = world.commits - before;
    assert!(commits < 40, "{commits}");
}

#[test]
fn nobody_is_served_before_it_is_known_whose_addresses_running_pods_show() {
    let restore = |world: &mut World, backup: &Backup| {
        world.api_is_away = true;
        backup.restore(world);
    };
    let (mut world, pod) = restored_to(Config::default(), restore);
    let new = world.create(&Wish {
        zone: "c",
        ..ordinary("new")
    });
    world.pass(SECOND * 60);
    assert_eq!(world.refusals, Vec::<String>::new());
    assert_eq!(world.network(&new), Network::Pending);
    world.api_is_away = false;
    world.pass(SECOND * 5);
    assert_eq!(world.address(&pod).to_string(), "192.168.1.1");
    world.address(&new);
}

#[test]
fn a_pod_that_shows_the_address_of_one_that_runs_refuses_the_start_once_both_are_known() {
    let restore = |world: &mut World, backup: &Backup| {
        let mut old = world.facts(&ordinary("old"));
        old.uid = "uid-1".into();
        world.appear(&old);
        backup.restore(world);
    };
    let (world, _) = restored_to(Config::default(), restore);
    assert_eq!(world.refusals.len(), 1, "{:?}", world.refusals);
}
