//! A cloud that is slow, refuses, or does not answer.

use std::num::NonZeroU32;

use super::*;
use crate::cloud::Response;
use crate::cloud::sim::{Action, Fault, Transition};
use crate::id::ClientToken;
use crate::ledger::{EniRow, Job};
use crate::policy::eni::Step;

fn with(fault: Fault) -> World {
    let cloud = Config {
        faults: vec![fault],
        ..slow_cloud()
    };
    World::with(settings("192.168.1.0/24", cloud))
}

fn heal(world: &mut World) {
    world
        .ledger
        .reconfigure(settings("192.168.1.0/24", slow_cloud()), world.now)
        .unwrap();
}

#[test]
fn a_refused_call_is_retried_without_end_and_the_pod_shows_why() {
    let fault = Fault::Fail {
        action: Action::Attach,
        every: NonZeroU32::MIN,
        code: "InternalError".into(),
    };
    let mut world = with(fault);
    let pod = world.create(&fixed("web-0"));
    world.pass(HOUR);
    let note = world.is_waiting(&pod, Reason::CloudCallFailed);
    assert!(
        note.starts_with("AttachNetworkInterface failed") && note.contains("InternalError"),
        "{note}"
    );
    heal(&mut world);
    world.pass(SECOND * 70);
    world.address(&pod);
}

#[test]
fn a_lost_answer_makes_no_second_eni() {
    for action in [
        Action::Create,
        Action::Attach,
        Action::Detach,
        Action::Delete,
    ] {
        let mut world = with(Fault::LostAnswer {
            action,
            every: NonZeroU32::MIN,
        });
        let pod = world.create(&ordinary("job"));
        world.pass(SECOND * 60);
        world.address(&pod);
        world.delete(&pod);
        world.pass(SECOND * 60);
        assert_eq!(world.count("vsw-b", "free"), 252, "{action:?}");
    }
}

#[test]
fn deleting_the_pod_ends_create_and_attach_retries() {
    for action in [Action::Create, Action::Attach] {
        let fault = Fault::Fail {
            action,
            every: NonZeroU32::MIN,
            code: "InternalError".into(),
        };
        let mut world = with(fault);
        let pod = world.create(&fixed("web-0"));
        world.pass(SECOND * 10);
        world.begin_deletion(&pod);
        world.tell(Event::Stopped(pod.clone()));
        world.pass(SECOND * 40);
        assert_eq!(world.network(&pod), Network::Detached, "{action:?}");
        world.vanish(&pod);
        assert_eq!(world.count("vsw-b", "retained"), 1);
        world.notices.clear();
        world.pass(HOUR);
        assert!(world.notices.is_empty(), "{:?}", world.notices);
        heal(&mut world);
        let back = world.create(&fixed("web-0"));
        world.pass(SECOND * 5);
        world.address(&back);
    }
}

#[test]
fn an_attach_under_way_when_the_pod_stops_is_not_forgotten() {
    let mut world = World::with(settings("192.168.1.0/24", slow_cloud()));
    let pod = world.create(&fixed("web-0"));
    world.pass(SignedDuration::from_millis(500));
    world.begin_deletion(&pod);
    world.tell(Event::Stopped(pod.clone()));
    assert_ne!(
        world.network(&pod),
        Network::Detached,
        "the ENI is still attaching"
    );
    world.pass(SECOND * 5);
    assert_eq!(world.network(&pod), Network::Detached);
    world.vanish(&pod);
    assert_eq!(world.count("vsw-b", "retained"), 1);
}

#[test]
fn a_detach_that_hangs_holds_the_address_and_the_clock() {
    let mut world = with(Fault::Stuck {
        action: Transition::Detach,
    });
    let pod = world.create(&Wish {
        hours: Some(1),
        ..fixed("web-0")
    });
    world.pass(SECOND * 2);
    world.begin_deletion(&pod);
    world.tell(Event::Stopped(pod.clone()));
    world.vanish(&pod);
    world.pass(HOUR * 3);
    assert_eq!(
        world.claims().len(),
        1,
        "it cannot run out while the ENI is attached"
    );
    heal(&mut world);
    world.pass(SECOND * 70);
    assert_eq!(world.count("vsw-b", "free"), 252);
}

#[test]
fn an_address_is_not_free_before_its_eni_is_deleted() {
    let fault = Fault::Slow {
        action: Transition::Delete,
        latency: SECOND * 10,
    };
    let mut world = with(fault);
    let pod = world.create(&ordinary("job"));
    world.pass(SECOND * 2);
    world.delete(&pod);
    world.pass(SECOND * 5);
    assert_eq!(world.count("vsw-b", "detaching"), 1);
    world.pass(SECOND * 15);
    assert_eq!(world.count("vsw-b", "free"), 252);
}

#[test]
fn a_call_that_fails_does_not_hurry_the_retries_of_others() {
    let fault = Fault::Fail {
        action: Action::Detach,
        every: NonZeroU32::MIN,
        code: "InternalError".into(),
    };
    let mut world = with(fault);
    let pods = ["a", "b"].map(|name| world.create(&ordinary(name)));
    world.pass(SECOND * 2);
    let eni = world.assigned(&pods[0]).eni;
    world.begin_deletion(&pods[0]);
    world.tell(Event::Stopped(pods[0].clone()));
    world.pass(SECOND * 600);
    world.calls.clear();
    while world.calls.is_empty() {
        world.pass(SECOND);
    }
    world.calls.clear();
    world.begin_deletion(&pods[1]);
    world.tell(Event::Stopped(pods[1].clone()));
    world.pass(SECOND * 2);
    let of_the_first = Request::Detach { eni };
    assert!(world.calls.len() > 2, "{:?}", world.calls);
    assert!(!world.calls.contains(&of_the_first), "{:?}", world.calls);
}

#[test]
fn a_late_answer_about_an_eni_that_was_deleted_by_somebody_else_touches_no_newer_one() {
    let mut world = World::with(settings("192.168.1.0/24", slow_cloud()));
    let pod = world.create(&fixed("web-0"));
    world.pass(SECOND * 2);
    let had = world.assigned(&pod);
    world.delete(&pod);
    world.pass(SECOND * 2);
    let delete = Request::Delete { eni: had.eni };
    world.ledger.call(world.now, &[delete]).unwrap();
    world.calls.clear();
    let back = world.create(&fixed("web-0"));
    world.pass(SECOND * 5);
    let has = world.assigned(&back);
    assert_eq!(has.address, had.address);

    let token = |request: &Request| match request {
        Request::Create { token, .. } | Request::Describe { token } => Some(token.clone()),
        _ => None,
    };
    let old = world.calls.iter().find_map(token).unwrap();
    let late = Job::Record {
        eni: EniRow(1),
        token: old,
        step: Step::Describe,
        response: Response::Eni(None),
    };
    let batch = world.ledger.commit(world.now, &[late]).unwrap();
    assert_eq!(batch.results[0].as_ref().unwrap().tasks, []);
    world.restart();
    assert_eq!(world.assigned(&back), has);
}

#[test]
fn a_wait_is_told_once_and_not_at_every_retry() {
    let fault = Fault::Fail {
        action: Action::Attach,
        every: NonZeroU32::MIN,
        code: "InternalError".into(),
    };
    let mut world = with(fault);
    let pod = world.create(&fixed("web-0"));
    world.pass(SECOND * 10);
    let note = world.is_waiting(&pod, Reason::CloudCallFailed);
    world.pass(HOUR);
    assert_eq!(world.is_waiting(&pod, Reason::CloudCallFailed), note);
    assert_eq!(world.notices_of(&pod, Reason::CloudCallFailed).len(), 1);
}

#[test]
fn an_eni_that_cannot_be_deleted_does_not_keep_its_ended_pod() {
    let fault = Fault::Fail {
        action: Action::Delete,
        every: NonZeroU32::MIN,
        code: "InternalError".into(),
    };
    let mut world = with(fault);
    let pod = world.create(&ordinary("job"));
    world.pass(SECOND * 2);
    world.tell(Event::Ended(pod.clone()));
    world.pass(SECOND * 60);
    assert_eq!(world.network(&pod), Network::Detached);
    assert_eq!(world.count("vsw-b", "detaching"), 1);
}

#[test]
fn a_call_that_began_in_a_slow_cloud_ends_in_its_own_time_when_the_cloud_is_made_instant() {
    for begun in ["attach", "detach"] {
        let mut world = World::with(settings("192.168.1.0/24", slow_cloud()));
        let pod = world.create(&fixed("web-0"));
        if begun == "detach" {
            world.pass(SECOND * 2);
            world.begin_deletion(&pod);
            world.tell(Event::Stopped(pod.clone()));
        }
        let instant = settings("192.168.1.0/24", Config::default());
        world.engine.set_cloud(instant.cloud.clone());
        world.ledger.reconfigure(instant, world.now).unwrap();
        world.tell(Event::LedgerChanged);
        world.vanish(&pod);
        assert_eq!(world.count("vsw-b", "retained"), 0, "{begun}");
        world.pass(SECOND * 3);
        assert_eq!(world.count("vsw-b", "retained"), 1, "{begun}");
    }
}

/// Somebody has deleted it, and only the cloud can say that it did not come back.
#[test]
fn an_eni_that_was_not_there_has_not_ended_before_the_cloud_was_asked_again() {
    let mut world = World::with(settings("192.168.1.0/24", slow_cloud()));
    let pod = world.create(&fixed("web-0"));
    world.pass(SECOND * 2);
    let eni = world.assigned(&pod).eni;
    world.delete(&pod);
    world.pass(SECOND * 30);
    assert_eq!(world.count("vsw-b", "retained"), 1);
    let delete = Request::Delete { eni };
    let answers = world.ledger.call(world.now, &[delete]).unwrap();
    assert!(answers[0].is_ok());
    let missing = Job::Record {
        eni: EniRow(1),
        token: token(&world),
        step: Step::Describe,
        response: Response::Eni(None),
    };
    let end = world.claims()[0].expires_at.unwrap();
    let batch = world.ledger.commit(end, &[missing, Job::Due(end, 1)]);
    let due = batch.unwrap().results.pop().unwrap().unwrap().due;
    let expire = Job::Expire(due[0].claim, end);
    let batch = world.ledger.commit(end, &[expire]).unwrap();
    assert!(batch.results[0].is_ok(), "{batch:?}");
    assert_eq!(world.count("vsw-b", "detaching"), 1);
    let ended = "SELECT count(*) FROM eni_end";
    assert_eq!(world.ledger.number(ended), 0);
    world.now = end;
    world.restart();
    world.pass(SECOND);
    assert_eq!(world.count("vsw-b", "free"), 252);
    assert_eq!(world.ledger.number(ended), 1);
}

/// Of the ENI that was made first.
fn token(world: &World) -> ClientToken {
    let created = world.calls.iter().find_map(|call| match call {
        Request::Create { token, .. } => Some(token.clone()),
        _ => None,
    });
    created.expect("one was made")
}

#[test]
fn an_answer_from_before_the_cloud_was_made_instant_takes_no_eni_for_deleted() {
    let mut world = World::with(settings("192.168.1.0/24", slow_cloud()));
    let pod = world.create(&fixed("web-0"));
    world.pass(SECOND * 2);
    let had = world.assigned(&pod);
    let token = token(&world);
    let instant = settings("192.168.1.0/24", Config::default());
    world.ledger.reconfigure(instant, world.now).unwrap();
    let late = Job::Record {
        eni: EniRow(1),
        token,
        step: Step::Describe,
        response: Response::Eni(None),
    };
    let batch = world.ledger.commit(world.now, &[late]).unwrap();
    assert!(batch.results.iter().all(Result::is_ok));
    world.restart();
    world.pass(SECOND);
    assert_eq!(world.assigned(&pod), had);
}
