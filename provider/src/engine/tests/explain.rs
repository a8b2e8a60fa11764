//! What is explained is what happens: each script asks first and looks then.

use super::operator::Desk;
use super::*;
use crate::ledger::explain::{Answer, Explanation, Kind, Place, Subject};

/// What the ledger says of a pod that does not exist yet.
fn ask(desk: &mut Desk, wish: &Wish, foreign: bool) -> Explanation {
    let facts = desk.world.facts(wish);
    let subject = Subject {
        uid: None,
        key: facts.key,
        created_at: Some(facts.created.at),
        opt_in: facts.opt_in,
    };
    let place = Place {
        node: facts.node,
        foreign,
    };
    let cluster = desk.world.ledger.settings().cluster.clone();
    desk.reader()
        .explain(&cluster, &subject, &[place], desk.world.now)
        .unwrap()
}

/// Asks, makes the pod, and compares what it got and what it was told.
#[track_caller]
fn foretold(desk: &mut Desk, wish: &Wish) -> Answer {
    let answer = ask(desk, wish, false).outlooks.remove(0).answer;
    let told = desk.world.notices.len();
    let writes = desk.world.ledger.writes();
    assert_eq!(
        ask(desk, wish, false).outlooks.remove(0).answer,
        answer,
        "asking changes nothing"
    );
    assert_eq!(desk.world.ledger.writes(), writes);
    let pod = desk.world.create(wish);
    if desk.world.network(&pod) == Network::Pending {
        // The cloud takes its time.
        desk.world.pass(SECOND * 2);
    }
    match desk.world.network(&pod) {
        Network::Attached(assignment) => {
            assert_eq!(answer.address, Some(assignment.address));
            assert_eq!(answer.vswitch, Some(assignment.vswitch));
            let back = (answer.verdict == Kind::Keep).then_some(assignment.eni);
            assert_eq!(answer.eni, back);
            let claimed = desk
                .world
                .claims()
                .iter()
                .any(|claim| claim.holder.as_ref() == Some(&pod));
            assert_eq!(claimed, answer.verdict != Kind::Ordinary);
        }
        Network::Waiting { reason, note } => {
            assert_eq!(answer.verdict, Kind::Wait);
            assert_eq!(answer.reason, Some(reason.as_str()));
            assert_eq!(answer.note, Some(note));
            return answer;
        }
        other => panic!("{other:?}"),
    }
    let notices: Vec<_> = desk.world.notices[told..]
        .iter()
        .map(|notice| notice.reason.as_str())
        .collect();
    assert_eq!(notices, answer.reason.into_iter().collect::<Vec<_>>());
    if answer.verdict != Kind::Keep {
        let note = desk.world.notices[told..].first().map(|n| n.note.clone());
        assert_eq!(answer.note, note);
    }
    answer
}

/// A world in which web-0 was on ACS zone b, and is gone.
fn retained() -> Desk {
    let mut desk = Desk::new(Config::default());
    let pod = desk.world.create(&fixed("web-0"));
    desk.world.delete(&pod);
    desk
}

fn on_ecs(name: &'static str) -> Wish {
    Wish {
        node_type: NodeType::Ecs,
        ..fixed(name)
    }
}

#[test]
fn a_first_pod_gets_the_address_that_was_explained() {
    let mut desk = Desk::new(Config::default());
    assert_eq!(foretold(&mut desk, &fixed("web-0")).verdict, Kind::New);
    assert_eq!(
        foretold(&mut desk, &ordinary("job")).verdict,
        Kind::Ordinary
    );
    assert_eq!(
        foretold(&mut desk, &on_ecs("web-1")).verdict,
        Kind::Ordinary
    );
}

#[test]
fn a_retained_address_is_explained_and_given_back() {
    assert_eq!(
        foretold(&mut retained(), &fixed("web-0")).verdict,
        Kind::Keep
    );
}

#[test]
fn what_is_lost_is_explained_in_the_words_of_the_event() {
    let zone_c = Wish {
        zone: "c",
        ..fixed("web-0")
    };
    for (wish, kind, reason, closes) in [
        (
            zone_c,
            Kind::New,
            "FixedIPNotReused",
            Some("moved to another zone or vSwitch"),
        ),
        (
            on_ecs("web-0"),
            Kind::Ordinary,
            "FixedIPNotRetained",
            Some("crossed node types"),
        ),
        (ordinary("web-0"), Kind::Ordinary, "FixedIPNotReused", None),
    ] {
        let answer = foretold(&mut retained(), &wish);
        assert_eq!(
            (answer.verdict, answer.reason, answer.closes),
            (kind, Some(reason), closes)
        );
    }
}

#[test]
fn a_claim_that_has_run_out_is_explained_as_such() {
    let mut desk = Desk::new(Config::default());
    let pod = desk.world.create(&fixed("web-0"));
    desk.world.delete(&pod);
    // A second late, and nobody has ended it yet.
    desk.world.now += HOUR * 48 - SECOND;
    let answer = foretold(&mut desk, &fixed("web-0"));
    assert_eq!(
        (answer.verdict, answer.closes),
        (Kind::New, Some("expired"))
    );
}

#[test]
fn a_pod_without_an_address_waits_as_explained() {
    let mut desk = Desk::with("192.168.1.0/29", Config::default());
    for name in ["job-0", "job-1", "job-2", "job-3"] {
        desk.world.create(&ordinary(name));
    }
    let answer = foretold(&mut desk, &ordinary("job-4"));
    assert_eq!(answer.reason, Some("IPPoolExhausted"));
    let elsewhere = Wish {
        vswitches: vec!["vsw-c"],
        ..fixed("web-0")
    };
    let answer = foretold(&mut desk, &elsewhere);
    assert_eq!(answer.reason, Some("NoAllowedVSwitch"));
}

#[test]
fn while_the_old_pod_holds_its_address_the_wait_and_what_comes_then_are_explained() {
    let mut desk = Desk::new(slow_cloud());
    let pod = desk.world.create(&fixed("web-0"));
    desk.world.pass(SECOND * 2);
    let address = desk.world.address(&pod);
    let explanation = ask(&mut desk, &fixed("web-0"), false);
    assert_eq!(explanation.claim.unwrap().holder, Some(pod.clone()));
    let outlook = &explanation.outlooks[0];
    assert_eq!(
        (outlook.answer.verdict, outlook.answer.reason),
        (Kind::Wait, Some("FixedIPWaiting"))
    );
    let next = outlook.next.clone().unwrap();
    assert_eq!((next.verdict, next.address), (Kind::Keep, Some(address)));

    // Only the row of its release is missing: no wait.
    desk.world.begin_deletion(&pod);
    desk.world.tell(Event::Stopped(pod.clone()));
    desk.world.pass(SECOND * 2);
    desk.world.vanish_unseen(&pod);
    assert_eq!(foretold(&mut desk, &fixed("web-0")).verdict, Kind::Keep);
}

#[test]
fn on_a_node_of_others_a_claim_is_explained_as_forfeited_and_nothing_is_given() {
    let explanation = ask(&mut retained(), &on_ecs("web-0"), true);
    let answer = &explanation.outlooks[0].answer;
    assert_eq!((answer.verdict, answer.address), (Kind::Elsewhere, None));
    assert_eq!(answer.closes, Some("crossed node types"));
    assert_eq!(answer.reason, Some("FixedIPNotRetained"));
}

#[test]
fn a_pod_that_is_there_is_explained_by_its_rows() {
    let mut desk = Desk::new(Config::default());
    let wish = Wish {
        vswitches: vec!["vsw-b"],
        hours: Some(7),
        ..fixed("web-0")
    };
    let pod = desk.world.create(&wish);
    let cluster = desk.world.ledger.settings().cluster.clone();
    let key = PodKey::new("default", "web-0");
    let kinds = |desk: &Desk| {
        let reader = desk.reader();
        let accepted = reader.accepted(&cluster, &key).unwrap().unwrap();
        assert_eq!(accepted.subject.uid, Some(pod.clone()));
        assert_eq!(accepted.subject.opt_in.fixed_ip, FixedIp::On { hours: 7 });
        let explanation = reader
            .explain(
                &cluster,
                &accepted.subject,
                &[accepted.place],
                desk.world.now,
            )
            .unwrap();
        let outlook = &explanation.outlooks[0];
        let next = outlook.next.as_ref().map(|next| next.verdict);
        (outlook.answer.verdict, outlook.answer.address, next)
    };
    let address = desk.world.address(&pod);
    let keeps = Some(Kind::Keep);
    assert_eq!(kinds(&desk), (Kind::Has, Some(address), keeps));
    desk.world.begin_deletion(&pod);
    assert_eq!(kinds(&desk), (Kind::Leaving, Some(address), keeps));
    let other = "other".into();
    assert!(desk.reader().accepted(&other, &key).unwrap().is_none());
    assert_eq!(desk.reader().clusters().unwrap().len(), 1);
}

#[test]
fn the_allowed_vswitches_come_first_with_their_counts() {
    let mut desk = Desk::new(Config::default());
    desk.world.create(&ordinary("job"));
    let zone_c = Wish {
        zone: "c",
        ..fixed("web-0")
    };
    let outlook = ask(&mut desk, &zone_c, false).outlooks.remove(0);
    let facts: Vec<_> = outlook
        .vswitches
        .iter()
        .map(|fact| (fact.id.as_str(), fact.allowed, fact.counts.free))
        .collect();
    assert_eq!(facts, [("vsw-c", true, 252), ("vsw-b", false, 251)]);
}

#[test]
fn a_class_without_fixed_addresses_is_explained_as_refused() {
    let desk = Desk::new(Config::default());
    let subject = Subject {
        uid: None,
        key: PodKey::new("default", "web-0"),
        created_at: None,
        opt_in: OptIn {
            fixed_ip: FixedIp::Unsupported {
                class: "gpu".to_owned(),
            },
            vswitches: Vec::new(),
            security_groups: Vec::new(),
        },
    };
    let place = Place {
        node: Node {
            name: "node".into(),
            zone: "b".into(),
            node_type: NodeType::Acs,
        },
        foreign: false,
    };
    let cluster = desk.world.ledger.settings().cluster.clone();
    let explanation = desk
        .reader()
        .explain(&cluster, &subject, &[place], desk.world.now)
        .unwrap();
    let answer = &explanation.outlooks[0].answer;
    assert_eq!(
        (answer.verdict, answer.address, answer.reason),
        (Kind::Refused, None, Some("FixedIPUnsupported"))
    );
}
