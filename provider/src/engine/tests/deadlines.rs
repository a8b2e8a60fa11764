//! Who holds off the end of a retention, and what the journal says of ends that wait.

use super::*;

/// Annotations that are added later count for nothing, also not for an address that the pod did not take.
#[test]
fn a_pod_that_did_not_come_for_the_address_holds_no_deadline_off() {
    let wish = fixed("web-0");
    for is_changed_before in [true, false] {
        let mut world = World::new();
        let old = world.create(&wish);
        world.delete(&old);
        world.pass(HOUR);
        let wanted = world.facts(&wish).opt_in;
        let plain = world.facts(&ordinary("web-0"));
        let (key, uid) = (plain.key.clone(), plain.uid.clone());
        world.api.insert(key.clone(), ApiPod::new(plain.clone()));
        if is_changed_before {
            // Held off while it is unbound and says so, and accepted when it does not.
            world.api.get_mut(&key).unwrap().facts.opt_in = wanted.clone();
            world.pass(HOUR * 48);
            assert_eq!(world.count("vsw-b", "retained"), 1);
        }
        world.tell(Event::Bound(plain));
        world.address(&uid);
        world.api.get_mut(&key).unwrap().facts.opt_in = wanted;
        world.pass(HOUR * 48);
        assert_eq!(world.count("vsw-b", "retained"), 0, "{is_changed_before}");
    }
}

/// It waits for the very address whose end it would hold off.
#[test]
fn an_ordinary_pod_that_waits_for_an_address_holds_no_deadline_off() {
    let mut world = World::with(settings("192.168.1.0/29", Config::default()));
    let wish = fixed("web-0");
    let old = world.create(&wish);
    world.delete(&old);
    for name in ["a", "b", "c"] {
        world.create(&ordinary(name));
    }
    let new = world.create(&ordinary("web-0"));
    world.is_waiting(&new, Reason::IPPoolExhausted);
    let wanted = world.facts(&wish).opt_in;
    let key = PodKey::new("default", "web-0");
    world.api.get_mut(&key).unwrap().facts.opt_in = wanted;
    world.pass(HOUR * 49);
    world.address(&new);
}

/// Each look is short, and there are many of them: the journal says that endings waited for the API.
#[test]
fn more_endings_at_once_than_the_api_answers_in_time_are_not_called_late() {
    let mut world = World::with(settings("10.0.0.0/21", Config::default()));
    let names: Vec<&'static str> = (0..1000)
        .map(|index| &*format!("web-{index}").leak())
        .collect();
    let pods: Vec<PodUid> = names
        .iter()
        .map(|name| world.create(&fixed(name)))
        .collect();
    for pod in &pods {
        world.begin_deletion(pod);
        world.tell(Event::Stopped(pod.clone()));
        world.vanish(pod);
    }
    world.pass(HOUR * 47);
    // A process begins when all of them are over.
    world.now += HOUR * 2;
    world.look_takes = SignedDuration::from_millis(3);
    world.restart();
    world.pass(SECOND * 10);
    assert_eq!(world.count("vsw-b", "retained"), 0);
    let held = "SELECT count(*) FROM journal WHERE what = 'held' AND detail = 'answers of the API are awaited'";
    let let_go = "SELECT count(*) FROM journal WHERE what = 'let go' AND detail = 'answers of the API are awaited'";
    assert_eq!(
        (world.ledger.number(held), world.ledger.number(let_go)),
        (1, 1)
    );
}

#[test]
fn an_ending_whose_look_is_not_answered_is_not_called_late_meanwhile() {
    let mut world = World::new();
    let pod = world.create(&fixed("web-0"));
    world.delete(&pod);
    world.api_hangs = true;
    world.pass(HOUR * 48 + SECOND * 20);
    assert_eq!(world.count("vsw-b", "retained"), 1);
    let found = world.ledger.check().unwrap();
    assert!(found.is_empty(), "{found:#?}");
    world.api_hangs = false;
    world.tell(Event::Looked(PodKey::new("default", "web-0"), None));
    world.pass(SECOND);
    assert_eq!(world.count("vsw-b", "retained"), 0);
}
