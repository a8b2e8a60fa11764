//! What the past answers.

use super::operator::Desk;
use super::*;
use crate::ledger::history::{Answer, ClaimStep, Span, Unknown, Who};

fn who(desk: &Desk, address: Ipv4Addr, at: Timestamp) -> Who {
    desk.reader().who(address, at, desk.world.now).unwrap()
}

/// The pod that had the address, by name and UID.
#[track_caller]
fn had(desk: &Desk, address: Ipv4Addr, at: Timestamp) -> (String, PodUid) {
    let who = who(desk, address, at);
    let span = who.span.clone().filter(|_| who.answer == Answer::Pod);
    let span = span.unwrap_or_else(|| panic!("{who:?}"));
    (span.pod.unwrap().to_string(), span.uid.unwrap())
}

fn states(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|span| span.state.as_str()).collect()
}

#[test]
fn who_tells_each_pod_of_an_address_at_its_time() {
    for wish in [fixed("web-0"), ordinary("web-0")] {
        let mut desk = Desk::new(slow_cloud());
        let mut times = Vec::new();
        for _ in 0..2 {
            let pod = desk.world.create(&wish);
            desk.world.pass(SECOND * 2);
            let address = desk.world.address(&pod);
            times.push((desk.world.now, address, pod.clone()));
            desk.world.pass(HOUR);
            desk.world.delete(&pod);
            desk.world.pass(HOUR);
        }
        for (at, address, pod) in times {
            let want = ("default/web-0".to_owned(), pod);
            assert_eq!(had(&desk, address, at), want);
        }
    }
}

#[test]
fn a_span_ends_where_the_next_begins() {
    let mut desk = Desk::new(Config::default());
    let pod = desk.world.create(&fixed("web-0"));
    let address = desk.world.address(&pod);
    desk.world.pass(HOUR);
    desk.world.begin_deletion(&pod);
    desk.world.tell(Event::Stopped(pod.clone()));
    desk.world.vanish(&pod);
    let end = desk.world.now;
    let before = end - SignedDuration::from_millis(1);
    assert_eq!(had(&desk, address, before).1, pod);
    let after = who(&desk, address, end);
    assert_eq!(after.answer, Answer::Nobody);
    let span = after.span.unwrap();
    assert_eq!(span.state, "retained");
    assert_eq!(
        span.pod.unwrap().to_string(),
        "default/web-0",
        "kept for it"
    );
}

#[test]
fn who_says_unknown_and_not_nobody_outside_the_kept_history() {
    let mut desk = Desk::new(Config::default());
    let pod = desk.world.create(&ordinary("job"));
    let address = desk.world.address(&pod);
    let begin = World::begin();
    desk.world.pass(HOUR);
    let unknown = |desk: &Desk, address, at| {
        let who = who(desk, address, at);
        assert_eq!((who.answer, &who.span), (Answer::Unknown, &None));
        who.unknown.unwrap()
    };
    let before = begin - SignedDuration::from_millis(1);
    assert_eq!(
        unknown(&desk, address, before),
        Unknown::BeforeHistory(begin)
    );
    let elsewhere = "10.9.9.9".parse().unwrap();
    assert_eq!(
        unknown(&desk, elsewhere, desk.world.now),
        Unknown::NotInPool
    );
    let now = desk.world.now;
    assert_eq!(unknown(&desk, address, now + SECOND), Unknown::Future(now));
    let free = "192.168.1.200".parse().unwrap();
    assert_eq!(who(&desk, free, now).answer, Answer::Nobody);
}

#[test]
fn an_address_that_joined_the_pool_later_is_unknown_before() {
    let mut desk = Desk::with("192.168.1.0/28", Config::default());
    let begin = desk.world.now;
    desk.world.pass(HOUR);
    let wider = settings("192.168.1.0/24", Config::default());
    desk.world
        .ledger
        .reconfigure(wider, desk.world.now)
        .unwrap();
    let address = "192.168.1.99".parse().unwrap();
    let before = who(&desk, address, begin);
    assert_eq!(before.unknown, Some(Unknown::NotInPool));
    assert_eq!(who(&desk, address, desk.world.now).answer, Answer::Nobody);
}

#[test]
fn pruned_times_are_unknown_and_pods_that_are_kept_keep_their_names() {
    let mut desk = Desk::new(Config::default());
    let begin = desk.world.now;
    let long = desk.world.create(&ordinary("long"));
    let short = desk.world.create(&ordinary("short"));
    let addresses = (desk.world.address(&long), desk.world.address(&short));
    desk.world.delete(&short);
    desk.world.pass(HOUR * 24 * 31);
    for address in [addresses.0, addresses.1] {
        let answer = who(&desk, address, begin);
        assert!(
            matches!(answer.unknown, Some(Unknown::BeforeHistory(_))),
            "{answer:?}"
        );
    }
    let now = desk.world.now;
    assert_eq!(had(&desk, addresses.0, now).0, "default/long");
    assert_eq!(who(&desk, addresses.1, now).answer, Answer::Nobody);
}

#[test]
fn a_pass_over_the_history_forgets_all_that_is_old_and_nothing_else() {
    let mut desk = Desk::new(Config::default());
    let long = desk.world.create(&fixed("long"));
    let old = Wish {
        hours: Some(1),
        ..fixed("old")
    };
    for _ in 0..500 {
        let pod = desk.world.create(&old);
        desk.world.delete(&pod);
        desk.world.pass(HOUR * 2);
    }
    let begin = desk.world.now;
    for name in ["new-0", "new-1", "new-2"] {
        let pod = desk.world.create(&fixed(name));
        desk.world.delete(&pod);
    }
    desk.world.pass(HOUR * 24 * 30 - SECOND * 60);
    for (table, kept) in [
        ("claim", 4),
        ("pod_log", 4),
        ("eni_end", 3),
        ("placement", 4),
        ("address_span WHERE state = 'in_use'", 4),
    ] {
        let sql = format!("SELECT count(*) FROM {table}");
        assert_eq!(desk.world.ledger.number(&sql), kept, "{table}");
    }
    let orphans = "SELECT count(*) FROM claim_event WHERE claim NOT IN (SELECT id FROM claim)";
    assert_eq!(desk.world.ledger.number(orphans), 0);
    assert_eq!(desk.world.ledger.check().unwrap(), []);
    let address = desk.world.address(&long);
    assert_eq!(
        had(&desk, address, begin),
        ("default/long".to_owned(), long)
    );
}

#[test]
fn nothing_is_forgotten_while_the_clock_cannot_be_relied_on() {
    let mut desk = Desk::new(Config::default());
    let begin = desk.world.now;
    let pod = desk.world.create(&ordinary("job"));
    let address = desk.world.address(&pod);
    desk.world.tell(Event::Clock { may_expire: false });
    desk.world.pass(HOUR * 24 * 365);
    assert_eq!(had(&desk, address, begin).1, pod);
    desk.world.tell(Event::Clock { may_expire: true });
    desk.world.pass(SECOND * 60);
    let before = who(&desk, address, begin).unknown;
    assert!(
        matches!(before, Some(Unknown::BeforeHistory(_))),
        "{before:?}"
    );
}

#[test]
fn ledger_time_that_is_far_ahead_of_the_clock_forgets_nothing() {
    let mut desk = Desk::new(Config::default());
    let begin = desk.world.now;
    let pod = desk.world.create(&ordinary("job"));
    let address = desk.world.address(&pod);
    let ahead = begin + HOUR * 24 * 60;
    desk.world.ledger.commit(ahead, &[]).unwrap();
    desk.world.pass(SECOND * 120);
    assert_eq!(had(&desk, address, begin).1, pod);
}

#[test]
fn the_kept_history_begins_where_pruning_has_cut_it() {
    let mut desk = Desk::new(Config::default());
    let pod = desk.world.create(&ordinary("job"));
    let address = desk.world.address(&pod);
    desk.world.delete(&pod);
    desk.world.pass(HOUR * 24 * 31);
    let history = desk.reader().history_of_address(address).unwrap();
    let from = history.complete_from;
    assert!(from > World::begin(), "it was cut");
    let before = who(&desk, address, from - SignedDuration::from_millis(1));
    assert_eq!(before.unknown, Some(Unknown::BeforeHistory(from)));
    assert_eq!(before.answer, Answer::Unknown);
    assert_eq!(who(&desk, address, from).answer, Answer::Nobody);
}

#[test]
fn the_history_of_a_key_tells_its_claims_and_what_their_addresses_did() {
    use ClaimStep::{Closed, Deleted, Opened, Retained, Reused};

    let mut desk = Desk::new(Config::default());
    let first = desk.world.create(&fixed("web-0"));
    let address = desk.world.address(&first);
    desk.world.pass(HOUR);
    desk.world.delete(&first);
    desk.world.pass(HOUR);
    let second = desk.world.create(&fixed("web-0"));
    desk.world.pass(HOUR);
    desk.world.delete(&second);
    desk.world.pass(HOUR);
    desk.release("web-0", false).unwrap();
    let third = desk.world.create(&ordinary("web-0"));
    desk.world.create(&fixed("other"));

    let key = PodKey::new("default", "web-0");
    let history = desk.reader().history_of_key(&key).unwrap();
    let [claim] = &history.claims[..] else {
        panic!("{history:?}")
    };
    assert_eq!(claim.address, address);
    assert_eq!(claim.closed_why.as_deref(), Some("released by an operator"));
    assert_eq!(claim.reason.as_deref(), Some("moved away"));
    let steps: Vec<_> = claim.events.iter().map(|event| event.step).collect();
    assert_eq!(
        steps,
        [Opened, Deleted, Retained, Reused, Deleted, Retained, Closed]
    );
    let holders: Vec<_> = claim
        .events
        .iter()
        .map(|event| event.holder.clone())
        .collect();
    assert_eq!(holders[0], Some(first));
    assert_eq!(holders[3], Some(second));
    assert_eq!(claim.events[4].expires_at.unwrap(), {
        claim.events[4].deleted_at.unwrap() + HOUR * 48
    });
    let want = [
        "in_use",
        "retained",
        "in_use",
        "retained",
        "detaching",
        "in_use",
    ];
    assert_eq!(states(&history.spans), want);
    let last = history.spans.last().unwrap();
    assert_eq!((last.uid.as_ref(), last.to), (Some(&third), None));
}

#[test]
fn the_history_of_an_address_has_no_gaps_and_no_overlaps() {
    let mut desk = Desk::new(slow_cloud());
    let pod = desk.world.create(&fixed("web-0"));
    desk.world.pass(SECOND * 2);
    let address = desk.world.address(&pod);
    desk.world.delete(&pod);
    desk.world.pass(HOUR * 50);
    let history = desk.reader().history_of_address(address).unwrap();
    let want = ["free", "in_use", "retained", "detaching", "free"];
    assert_eq!(states(&history.spans), want);
    for pair in history.spans.windows(2) {
        assert_eq!(pair[0].to, Some(pair[1].from));
    }
    assert_eq!(history.spans[0].from, history.complete_from);
    assert_eq!(history.spans.last().unwrap().to, None);
    assert_eq!(history.claims.len(), 1);
    let eni = &history.spans[1].eni;
    assert!(eni.is_some());
    assert_eq!(*eni, history.spans[3].eni, "the deleted ENI is named still");
}

#[test]
fn the_history_of_a_pod_tells_when_its_address_was_free_and_why() {
    let told = |cloud: Config, wish: &Wish| {
        let mut desk = Desk::new(cloud);
        let pod = desk.world.create(wish);
        desk.world.pass(SECOND * 2);
        desk.world.delete(&pod);
        desk.world.pass(HOUR * 50);
        // Of no interest to the first.
        desk.world.create(&ordinary("other"));
        let history = desk
            .reader()
            .history_of_key(&PodKey::new("default", "web-0"))
            .unwrap();
        let spans = history.spans.into_iter();
        let told: Vec<_> = spans.map(|span| (span.state, span.why)).collect();
        told
    };
    let check = |cloud: Config, wish: &Wish, want: &[(&str, &str)]| {
        let told = told(cloud, wish);
        let told: Vec<_> = told.iter().map(|(state, why)| (&**state, &**why)).collect();
        assert_eq!(told, want);
    };
    let begun = ("in_use", "allocated");
    let kept = ("retained", "pod is gone");
    check(
        Config::default(),
        &ordinary("web-0"),
        &[begun, ("free", "pod is gone")],
    );
    check(
        slow_cloud(),
        &ordinary("web-0"),
        &[begun, ("detaching", "pod is gone")],
    );
    check(
        Config::default(),
        &fixed("web-0"),
        &[begun, kept, ("free", "expired")],
    );
    check(
        slow_cloud(),
        &fixed("web-0"),
        &[begun, kept, ("detaching", "expired")],
    );
}
