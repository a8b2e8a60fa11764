//! A cloud that lets only so many calls through in a second, and hundreds of pods that want more.

use std::num::NonZeroU32;

use super::*;
use crate::cloud::sim::{Action, Fault};

/// Create, attach, and one look when that is through.
const CALLS_TO_RUN: usize = 3;
/// Detach, look, delete, look.
const CALLS_TO_GO: usize = 4;

fn limited(calls_per_s: u32) -> Config {
    Config {
        calls_per_s,
        ..slow_cloud()
    }
}

/// A world with room for thousands of pods.
fn large(cloud: Config) -> World {
    World::with(settings("10.0.0.0/16", cloud))
}

/// Ordinary pods, which let go of everything when they are deleted.
fn burst(world: &mut World, pods: usize) -> Vec<PodUid> {
    let first = world.next_uid;
    let facts: Vec<PodFacts> = (first..)
        .take(pods)
        .map(|number| {
            let mut facts = world.facts(&ordinary("pod"));
            facts.key = PodKey::new("default", &format!("pod-{number}"));
            facts
        })
        .collect();
    let uids = facts.iter().map(|facts| facts.uid.clone()).collect();
    for facts in facts {
        world.appear(&facts);
        world
            .pending
            .extend(world.engine.handle(world.now, Event::Bound(facts)));
    }
    world.settle();
    uids
}

impl World {
    /// Calls that have passed the limit, and that have not, since this was last asked.
    fn passed_and_refused(&mut self) -> (usize, usize) {
        let (mut passed, mut refused) = (0, 0);
        for (called, count) in self.ledger.take_calls() {
            let count = usize::try_from(count).unwrap();
            if called.code.starts_with("Throttling") {
                refused += count;
            } else {
                passed += count;
            }
        }
        (passed, refused)
    }

    fn attached(&self, pods: &[PodUid]) -> usize {
        let attached = pods
            .iter()
            .filter(|pod| matches!(self.network(pod), Network::Attached(_)));
        attached.count()
    }

    /// Changes the cloud, with or without a word to the engine.
    fn reconfigure(&mut self, cloud: Config, is_told: bool) {
        let now = self.now;
        let changed = settings("10.0.0.0/16", cloud.clone());
        self.ledger.reconfigure(changed, now).unwrap();
        if is_told {
            self.engine.set_cloud(cloud);
            self.tell(Event::LedgerChanged);
        }
    }
}

#[test]
fn a_limit_is_used_up_and_hardly_exceeded_while_hundreds_of_pods_wait() {
    for (calls_per_s, seconds) in [(1, 120), (4, 60), (10, 60), (20, 60), (50, 20), (200, 10)] {
        let mut world = large(limited(calls_per_s));
        let budget = usize::try_from(calls_per_s).unwrap() * seconds;
        let pods = burst(&mut world, 200.max(budget / CALLS_TO_RUN + 50)).len();
        world.pass(SECOND * i32::try_from(seconds).unwrap());
        let (passed, refused) = world.passed_and_refused();
        let case = format!("{calls_per_s}/s: {passed} of {budget} passed, {refused} refused");
        assert!(passed * 100 >= budget * 95, "{case}");
        assert!(
            passed <= budget + usize::try_from(calls_per_s).unwrap(),
            "{case}"
        );
        // Each pod called once before anybody could know.
        assert!(refused <= pods + passed / 8 + 10, "{case}");
    }
}

#[test]
fn pods_run_and_go_as_fast_as_the_limit_lets_them() {
    let mut world = large(limited(10));
    let pods = burst(&mut world, 200);
    // Those that came first do not wait for the first call of the last.
    world.pass(SECOND * 20);
    assert!(world.attached(&pods) >= 50, "{}", world.attached(&pods));
    world.pass(SECOND * 42);
    assert_eq!(world.attached(&pods), 200);
    assert_eq!(world.passed_and_refused().0, 200 * CALLS_TO_RUN);

    world.pass(SECOND * 120);
    for pod in &pods {
        world.begin_deletion(pod);
        world.tell(Event::Stopped(pod.clone()));
    }
    for pod in &pods {
        world.vanish(pod);
    }
    let all = world.count("vsw-b", "free") + 200;
    world.pass(SECOND * 84);
    assert_eq!(world.count("vsw-b", "free"), all);
    let (passed, refused) = world.passed_and_refused();
    assert_eq!(passed, 200 * CALLS_TO_GO);
    assert!(refused <= 200 + passed / 8, "{refused}");
}

#[test]
fn a_throttled_call_had_no_effect_and_needs_no_look_but_a_lost_answer_does() {
    let told = |code: &str, action| Config {
        faults: vec![Fault::Fail {
            action,
            every: NonZeroU32::new(2).unwrap(),
            code: code.into(),
        }],
        ..slow_cloud()
    };
    for code in ["Throttling", "Throttling.User", "Throttling.Api"] {
        let mut world = large(told(code, Action::Create));
        let pods = burst(&mut world, 2);
        world.pass(SECOND * 10);
        assert_eq!(world.attached(&pods), 2);
        let names: Vec<_> = world.calls.iter().map(Request::action).collect();
        let creates = names.iter().filter(|name| name.starts_with("Create"));
        assert_eq!(creates.count(), 3, "{code}: {names:?}");
        assert_eq!(names.len(), 2 * CALLS_TO_RUN + 1, "{code}: {names:?}");
    }
    for (fault, looks) in [
        (told("InternalError", Action::Create), 1),
        (
            Config {
                faults: vec![Fault::LostAnswer {
                    action: Action::Create,
                    every: NonZeroU32::new(2).unwrap(),
                }],
                ..slow_cloud()
            },
            1,
        ),
    ] {
        let mut world = large(fault);
        let pods = burst(&mut world, 2);
        world.pass(SECOND * 10);
        assert_eq!(world.attached(&pods), 2);
        let described = |call: &&Request| matches!(call, Request::Describe { .. });
        assert_eq!(world.calls.iter().filter(described).count(), 2 + looks);
    }
}

#[test]
fn a_limit_that_changes_is_followed_whether_told_or_not() {
    for is_told in [true, false] {
        let mut world = large(limited(10));
        burst(&mut world, 3000);
        world.pass(SECOND * 30);
        for (calls_per_s, settling_s) in [(50, 40), (2, 5), (20, 60)] {
            world.reconfigure(limited(calls_per_s), is_told);
            world.pass(SECOND * if is_told { 2 } else { settling_s });
            world.passed_and_refused();
            world.pass(SECOND * 30);
            let (passed, refused) = world.passed_and_refused();
            let case = format!("{calls_per_s}/s, {is_told}: {passed} passed, {refused} refused");
            let budget = usize::try_from(calls_per_s).unwrap() * 30;
            assert!(passed * 100 >= budget * 95, "{case}");
            assert!(refused <= passed / 8 + 10, "{case}");
        }
    }
}

#[test]
fn a_limit_that_is_gone_holds_up_nobody() {
    let mut world = large(limited(1));
    let pods = burst(&mut world, 500);
    world.pass(SECOND * 60);
    world.reconfigure(slow_cloud(), true);
    world.pass(SECOND * 2);
    assert_eq!(world.attached(&pods), 500);
}

#[test]
fn a_pod_that_waits_for_calls_says_so_once_whether_it_was_refused_or_not() {
    let mut world = large(limited(10));
    let mut pods = burst(&mut world, 100);
    world.pass(SECOND * 5);
    let late = world.create(&ordinary("late"));
    world.pass(SECOND);
    let note = world.is_waiting(&late, Reason::CloudCallThrottled);
    assert!(note.contains("Throttling.User"), "{note}");
    pods.push(late);
    world.pass(SECOND * 60);
    assert_eq!(world.attached(&pods), pods.len());
    for pod in &pods {
        let told = world.notices_of(pod, Reason::CloudCallThrottled);
        assert!(told.len() <= 1, "{told:#?}");
    }
    // A pod that comes when the cloud takes every call has nothing to say.
    let last = world.create(&ordinary("last"));
    world.pass(SECOND * 2);
    world.address(&last);
    assert!(
        world
            .notices_of(&last, Reason::CloudCallThrottled)
            .is_empty()
    );
}

#[test]
fn a_kind_of_call_that_is_always_throttled_does_not_hold_up_the_others() {
    let mut world = large(slow_cloud());
    let running = burst(&mut world, 50);
    world.pass(SECOND * 5);
    let fault = Fault::Fail {
        action: Action::Attach,
        every: NonZeroU32::MIN,
        code: "Throttling.User".into(),
    };
    let cloud = Config {
        faults: vec![fault],
        ..slow_cloud()
    };
    world.reconfigure(cloud, true);
    let stuck = burst(&mut world, 100);
    world.pass(SECOND * 120);
    assert_eq!(world.attached(&stuck), 0);
    for pod in &running {
        world.begin_deletion(pod);
        world.tell(Event::Stopped(pod.clone()));
        world.vanish(pod);
    }
    let held = stuck.len();
    let free = world.count("vsw-b", "free");
    world.pass(SECOND * 30);
    assert_eq!(world.count("vsw-b", "free"), free + running.len());
    world.reconfigure(slow_cloud(), true);
    world.pass(SECOND * 5);
    assert_eq!(world.attached(&stuck), held);
}

#[test]
fn a_pod_that_is_deleted_in_the_line_gets_no_eni() {
    let mut world = large(limited(0));
    world.reconfigure(
        Config {
            faults: vec![Fault::Throttle { calls_per_s: 0 }],
            ..slow_cloud()
        },
        true,
    );
    let pods = burst(&mut world, 20);
    world.pass(SECOND * 5);
    for pod in &pods {
        world.begin_deletion(pod);
        world.tell(Event::Stopped(pod.clone()));
        world.vanish(pod);
    }
    world.calls.clear();
    let free = world.count("vsw-b", "free");
    world.reconfigure(limited(10), true);
    world.pass(SECOND * 5);
    assert_eq!(world.count("vsw-b", "free"), free + pods.len());
    let all_look = world
        .calls
        .iter()
        .all(|call| matches!(call, Request::Describe { .. }));
    assert!(all_look, "{:?}", world.calls);
}
