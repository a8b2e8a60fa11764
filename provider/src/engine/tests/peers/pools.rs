//! Pools that are tight, change their size, or were there before the process.

use super::*;

/// Spiderpool #2517 (PR #2518): an agent that was killed between two writes took its pod's own
/// address for one that is used up.
#[test]
fn a_death_halfway_blocks_no_pod_in_a_pool_of_one() {
    for recreate in [false, true] {
        let mut deaths = 0;
        loop {
            let mut world = World::with(pool_of_one(slow_cloud()));
            let mut pod = world.create(&fixed("web-0"));
            if recreate {
                world.pass(SECOND * 3);
                vanish_after_its_end(&mut world, &pod);
                world.fuse = Some(deaths);
                world.tell(Event::Gone(pod.clone()));
                pod = world.create(&fixed("web-0"));
            } else {
                world.delete(&pod);
                world.fuse = Some(deaths);
                pod = world.create(&fixed("web-0"));
            }
            world.pass(SECOND * 3);
            let survived = world.fuse != Some(0);
            world.fuse = None;
            world.restart();
            world.pass(SECOND * 10);
            assert_kept(&world, &pod, Ipv4Addr::new(192, 168, 1, 1));
            if survived {
                break;
            }
            deaths += 1;
        }
        assert!(deaths > 3, "{deaths}");
    }
}

/// AWS VPC CNI #59 (PR #62), #1127: a freed address went to the next pod at once, and what kept it
/// back was forgotten at a restart. Here an address is not free before its ENI is deleted, and the
/// one that was freed last is given out last.
#[test]
fn a_freed_address_is_the_last_to_be_given_out_also_after_a_restart() {
    let mut world = World::with(settings("192.168.1.0/29", slow_cloud()));
    let pod = world.create(&ordinary("a"));
    world.pass(SECOND * 2);
    let freed = world.address(&pod);
    // Deleted by force, so the ENI is still being detached.
    world.begin_deletion(&pod);
    world.vanish(&pod);
    world.restart();
    assert_eq!(world.count("vsw-b", "free"), 3, "not yet");
    world.pass(SECOND * 5);
    world.restart();
    for name in ["b", "c", "d", "e"] {
        let other = world.create(&ordinary(name));
        world.pass(SECOND * 2);
        let is_last = name == "e";
        assert_eq!(world.address(&other) == freed, is_last, "{name}");
    }
}

/// cilium #41986 (PR #42126); kube-ovn PR #3455, #7275, #7107: a pool that was resized, or whose
/// exclusions changed, was built anew without what was in use.
#[test]
fn resizing_and_excluding_under_load_hands_out_nothing_that_is_held() {
    let size = |cidr: &str, exclude: &[Ipv4Addr]| {
        let mut settings = settings(cidr, Config::default());
        settings.vswitches[0].exclude = exclude.iter().map(|at| (*at, *at)).collect();
        settings
    };
    let mut world = World::with(size("192.168.1.0/29", &[]));
    let bound = world.create(&ordinary("bound"));
    let kept = world.create(&fixed("kept"));
    let held = [&bound, &kept].map(|pod| world.address(pod));
    world.delete(&kept);
    let mut names = ["a", "b", "c", "d", "e", "f"].into_iter();
    let changes = [
        size("192.168.1.0/29", &held),
        size("192.168.1.0/28", &held),
        size("192.168.1.0/28", &[]),
        size("192.168.1.0/28", &held[..1]),
        size("192.168.0.0/22", &[]),
    ];
    for change in changes {
        world.ledger.reconfigure(change, world.now).unwrap();
        world.tell(Event::LedgerChanged);
        let name = names.next().unwrap();
        let other = world.create(&ordinary(name));
        assert!(!held.contains(&world.address(&other)), "{name}");
        let passing = world.create(&ordinary("passing"));
        assert!(!held.contains(&world.address(&passing)));
        world.delete(&passing);
    }
    assert_eq!(world.address(&bound), held[0]);
    let shrunk = world
        .ledger
        .reconfigure(size("192.168.1.0/30", &[]), world.now);
    assert!(shrunk.is_err(), "held addresses are left out");
    let back = world.create(&fixed("kept"));
    assert_eq!(world.address(&back), held[1]);
}
