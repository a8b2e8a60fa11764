//! What is counted is what happened, and what there is.

use std::time::Duration;

use super::operator::Desk;
use super::*;
use crate::ledger::operator::{Operator, Release};
use crate::ledger::{Allocated, ClaimState, Done, Job, Turn, Work, Writer};

#[test]
fn totals_tell_every_address_claim_and_eni_once_and_states_without_any() {
    let mut desk = Desk::with("192.168.1.0/29", slow_cloud());
    let world = &mut desk.world;
    let kept = world.create(&fixed("web-0"));
    world.create(&fixed("web-1"));
    world.create(&ordinary("once"));
    world.pass(SECOND * 2);
    world.delete(&kept);
    world.pass(SECOND * 2);
    let now = desk.world.now;
    let totals = desk.reader().totals(now).unwrap();
    let [b, c] = &totals.vswitches[..] else {
        panic!("two vSwitches: {totals:?}")
    };
    let counts = b.counts;
    assert_eq!((b.id.as_str(), b.zone.as_str()), ("vsw-b", "b"));
    assert_eq!(
        (
            counts.free,
            counts.in_use,
            counts.retained,
            counts.detaching
        ),
        (1, 2, 1, 0)
    );
    assert_eq!(
        b.next_release.as_ref().unwrap().key,
        PodKey::new("default", "web-0")
    );
    assert_eq!((c.counts.free, c.next_release.is_none()), (252, true));
    let claims: Vec<_> = ClaimState::ALL.map(|state| totals.claims[&state]).into();
    assert_eq!(claims, [1, 0, 1, 0], "held, terminating, retained, over");
    assert_eq!((totals.enis["InUse"], totals.enis["Available"]), (2, 1));
    assert_eq!((totals.enis["Attaching"], totals.enis.len()), (0, 7));

    // Its time is over, and nobody has looked yet.
    let later = desk.reader().totals(now + HOUR * 49).unwrap();
    assert_eq!(later.claims[&ClaimState::Over], 1);
    assert_eq!(later.vswitches[0].next_release, None);
}

#[test]
fn an_address_that_is_held_off_is_not_the_next_to_come_free() {
    let mut desk = Desk::new(Config::default());
    let [held, later] = ["web-0", "web-1"].map(|name| desk.world.create(&fixed(name)));
    desk.world.delete(&held);
    let in_time = desk.world.facts(&fixed("web-0"));
    desk.world.appear(&in_time);
    desk.world.pass(HOUR * 49);
    let next = |desk: &Desk| {
        let listed = desk.reader().vswitches(desk.world.now).unwrap().remove(0);
        let counted = desk.reader().totals(desk.world.now).unwrap();
        assert_eq!(listed.next_release, counted.vswitches[0].next_release);
        listed.next_release.map(|next| next.key)
    };
    assert_eq!(next(&desk), None);
    desk.world.delete(&later);
    let later = PodKey::new("default", "web-1");
    assert_eq!(next(&desk).as_ref(), Some(&later));
    // Retentions end by the clock, however far ahead of it a wrong one has left ledger time.
    let ahead = desk.world.now + HOUR * 72;
    desk.world.ledger.commit(ahead, &[]).unwrap();
    desk.world.create(&ordinary("b"));
    assert_eq!(next(&desk), Some(later));
}

#[test]
fn who_waits_longest_is_known_until_nobody_waits() {
    let mut world = World::with(settings("192.168.1.0/29", Config::default()));
    assert_eq!(world.engine.waiting_since(), None);
    let holders: Vec<_> = ["a", "b", "c", "d"]
        .map(|name| world.create(&ordinary(name)))
        .into();
    let begin = world.now;
    world.create(&ordinary("e"));
    world.pass(SECOND * 5);
    world.create(&ordinary("f"));
    assert_eq!(world.engine.waiting_since(), Some(begin));
    world.delete(&holders[0]);
    assert_eq!(world.engine.waiting_since(), Some(begin + SECOND * 5));
    world.delete(&holders[1]);
    assert_eq!(world.engine.waiting_since(), None);
}

/// The turns of a writer that does these jobs, each in a turn of its own.
fn turns(cloud: Config, jobs: Vec<Job>) -> Vec<Turn> {
    let ledger = Ledger::in_memory(settings("192.168.1.0/29", cloud), World::begin()).unwrap();
    let (sender, done) = std::sync::mpsc::channel();
    let tell = move |done| sender.send(done).unwrap();
    let writer = Writer::start(ledger, World::begin, tell).unwrap();
    let mut turns = Vec::new();
    for (number, job) in (1..).zip(jobs) {
        assert!(writer.submit(Work::Job(number, job)).unwrap().is_none());
        loop {
            match done.recv_timeout(Duration::from_mins(1)).unwrap() {
                Done::Turn(turn) => break turns.push(turn),
                Done::Fatal(error) => panic!("{error}"),
                _ => {}
            }
        }
    }
    writer.stop();
    turns
}

#[test]
fn a_turn_tells_its_jobs_its_allocations_and_the_calls_within_them() {
    let mut world = World::new();
    let fixed = world.facts(&fixed("web-0"));
    let again = PodFacts {
        uid: "again".into(),
        ..fixed.clone()
    };
    let jobs = vec![
        Job::Acquire(fixed.clone()),
        Job::Acquire(fixed.clone()),
        Job::Deleted(fixed.uid.clone(), world.now),
        Job::Gone(fixed.uid.clone()),
        Job::Acquire(again),
    ];
    let turns = turns(Config::default(), jobs);
    let allocated = |how| Allocated {
        vswitch: "vsw-b".into(),
        fixed: true,
        how,
    };
    let told: Vec<_> = turns.iter().map(|turn| turn.allocated.clone()).collect();
    let want = [
        BTreeMap::from([(allocated("allocated"), 1)]),
        BTreeMap::new(),
        BTreeMap::new(),
        BTreeMap::new(),
        BTreeMap::from([(allocated("reused"), 1)]),
    ];
    assert_eq!(told, want, "asking twice allocates once");
    assert_eq!(turns[0].jobs, BTreeMap::from([(("acquire", true), 1)]));
    assert!(turns.iter().all(|turn| turn.commit.is_some()));
    let calls = |turn: &Turn| -> Vec<_> {
        let calls = turn.calls.iter();
        calls
            .map(|(called, count)| (called.action, called.code.is_empty(), *count))
            .collect()
    };
    // An instant cloud is called within the job, and needs no look at what has become of a call.
    assert_eq!(
        calls(&turns[0]),
        [
            ("AttachNetworkInterface", true, 1),
            ("CreateNetworkInterface", true, 1),
        ]
    );
    assert!(turns[1].calls.is_empty());
}

#[test]
fn a_claim_that_ends_is_told_with_its_reason() {
    let mut world = World::new();
    let first = world.facts(&fixed("web-0"));
    let elsewhere = PodFacts {
        uid: "elsewhere".into(),
        node: Node {
            zone: "c".into(),
            ..first.node.clone()
        },
        ..first.clone()
    };
    let jobs = vec![
        Job::Acquire(first.clone()),
        Job::Deleted(first.uid.clone(), world.now),
        Job::Gone(first.uid),
        Job::Acquire(elsewhere),
    ];
    let turns = turns(Config::default(), jobs);
    let closed = BTreeMap::from([("moved to another zone or vSwitch", 1)]);
    assert_eq!(turns[3].closed, closed);
    assert!(turns[..3].iter().all(|turn| turn.closed.is_empty()));
}

#[test]
fn claims_that_an_operator_ends_are_counted_once_each_while_a_process_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("holdfast.db");
    let now = World::begin();
    let open = |cluster: &str| {
        let settings = settings("192.168.1.0/24", Config::default());
        let cluster = cluster.into();
        let settings = Settings {
            cluster,
            ..settings
        };
        Ledger::open(&path, settings, now).unwrap()
    };
    let mut facts = World::new();
    let mut retain = |ledger: &mut Ledger, name| {
        let pod = facts.facts(&fixed(name));
        let gone = Job::Gone(pod.uid.clone());
        ledger.commit(now, &[Job::Acquire(pod), gone]).unwrap();
    };
    retain(&mut open("theirs"), "web-0");
    let mut ledger = open("ours");
    for name in ["web-1", "web-2", "web-3"] {
        retain(&mut ledger, name);
    }
    drop(ledger);
    let release = |name| {
        let what = Release {
            key: &PodKey::new("default", name),
            cluster: None,
            reason: None,
            force: false,
        };
        let mut operator = Operator::open(&path).unwrap();
        operator.release(now, &what).unwrap();
    };
    release("web-1");
    let (sender, done) = std::sync::mpsc::channel();
    let tell = move |done| sender.send(done).unwrap();
    let writer = Writer::start(open("ours"), move || now, tell).unwrap();
    let mut told = Vec::new();
    for name in ["web-0", "web-2", "web-3"] {
        release(name);
        writer.submit(Work::Look).unwrap();
        loop {
            told.push(done.recv_timeout(Duration::from_mins(1)).unwrap());
            if matches!(told.last(), Some(Done::Changed(_))) {
                break;
            }
        }
    }
    writer.stop();
    told.extend(done.try_iter());
    let closed = told.into_iter().filter_map(|done| match done {
        Done::Turn(turn) if !turn.closed.is_empty() => Some(turn.closed),
        _ => None,
    });
    let once = BTreeMap::from([("released by an operator", 1)]);
    assert_eq!(closed.collect::<Vec<_>>(), [once.clone(), once]);
}
