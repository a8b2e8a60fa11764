//! What one pod costs does not depend on how many others stand, wait or leave.
//!
//! The engine alone, told what a ledger would tell. Each step's shortest time of many counts, which
//! other work on the machine cannot lengthen, and the bound has room for caches and logarithms: with
//! a pass over all pods the factor is in the hundreds.

use std::time::{Duration, Instant};

use super::*;
use crate::ledger::fault_tests::facts;
use crate::ledger::{Blocked, ClaimRef, Due, Loaded, LoadedPod, Outcome, PodState};

const FEW: usize = 64;
const MANY: usize = 20_000;
const FACTOR_MAX: u32 = 20;
const TIMES: usize = 100;

struct Scale {
    engine: Engine,
    next: u64,
}

impl Scale {
    /// Serves; so many pods wait for an address of vsw-b, and so many have an address and leave.
    fn new(pods: usize) -> Self {
        let leaving = (0..pods).map(|index| LoadedPod {
            state: PodState {
                uid: format!("leaving-{index}").into(),
                network: Network::Detached,
                blocked: None,
            },
            key: PodKey::new("default", &format!("leaving-{index}")),
            fixed: true,
            deleted: true,
            stopped: false,
            ended: false,
            gone: false,
        });
        let loaded = Loaded {
            pods: leaving.collect(),
            ..Loaded::default()
        };
        let seen = loaded.pods.iter().map(|pod| pod.state.uid.clone());
        let seen: BTreeSet<PodUid> = seen.collect();
        let mut scale = Self {
            engine: Engine::new(Config::default(), loaded, World::begin()),
            next: 0,
        };
        scale.tell(Event::Listed(seen));
        assert!(scale.engine.is_serving());
        for _ in 0..pods {
            scale.wait("vsw-b");
        }
        scale
    }

    fn tell(&mut self, event: Event) -> Vec<Effect> {
        self.engine.handle(World::begin(), event)
    }

    fn facts(&mut self) -> PodFacts {
        self.next += 1;
        let facts = facts(self.next);
        PodFacts {
            created: Creation {
                revision: self.next,
                ..facts.created
            },
            ..facts
        }
    }

    /// A pod comes and there is no address for it.
    fn wait(&mut self, vswitch: &str) -> (PodUid, PodKey) {
        let facts = self.facts();
        let (uid, key) = (facts.uid.clone(), facts.key.clone());
        let effects = self.tell(Event::Bound(facts));
        let state = PodState {
            uid: uid.clone(),
            network: Network::Waiting {
                reason: Reason::IPPoolExhausted,
                note: "none is free".to_owned(),
            },
            blocked: Some(Blocked::Pool {
                vswitches: vec![vswitch.into()],
                counts: Vec::new(),
            }),
        };
        self.commit(
            &effects,
            Outcome {
                pods: vec![state],
                ..Outcome::default()
            },
        );
        (uid, key)
    }

    /// The job among these effects had this outcome.
    fn commit(&mut self, effects: &[Effect], outcome: Outcome) -> Vec<Effect> {
        let number = effects.iter().find_map(|effect| match effect {
            Effect::Commit(number, _) => Some(*number),
            _ => None,
        });
        self.tell(Event::Committed(number.expect("a job"), Ok(outcome)))
    }
}

#[track_caller]
fn costs_the_same(mut step: impl FnMut(&mut Scale)) {
    let mut shortest = |pods| {
        let mut scale = Scale::new(pods);
        let time = |_| {
            let began = Instant::now();
            step(&mut scale);
            began.elapsed()
        };
        let times: Option<Duration> = (0..TIMES).map(time).min();
        times.expect("it was done")
    };
    let (few, many) = (shortest(FEW), shortest(MANY));
    assert!(
        many <= few * FACTOR_MAX,
        "{few:?} beside {FEW} pods, {many:?} beside {MANY}"
    );
}

#[test]
fn a_pod_that_comes_and_waits_costs_the_same_however_many_wait() {
    costs_the_same(|scale| {
        let (uid, _) = scale.wait("vsw-b");
        scale.tell(Event::Gone(uid));
    });
}

#[test]
fn a_release_costs_the_same_however_many_wait_for_something_else() {
    costs_the_same(|scale| {
        let (uid, key) = scale.wait("vsw-c");
        let facts = scale.facts();
        let effects = scale.tell(Event::Bound(facts));
        let released = Outcome {
            freed: vec!["vsw-c".into()],
            released: vec![key],
            ..Outcome::default()
        };
        let woken = scale.commit(&effects, released);
        let asks_again = |effect: &Effect| matches!(effect, Effect::Commit(..));
        assert!(woken.iter().any(asks_again), "{woken:?}");
        scale.tell(Event::Gone(uid));
    });
}

#[test]
fn an_ending_retention_costs_the_same_however_many_leave() {
    costs_the_same(|scale| {
        let facts = scale.facts();
        let key = facts.key.clone();
        let effects = scale.tell(Event::Bound(facts));
        let due = Due {
            claim: ClaimRef(1),
            key: PodKey::new("default", &format!("ended-{}", key.name)),
            expires_at: World::begin(),
        };
        let key = due.key.clone();
        let looks = scale.commit(
            &effects,
            Outcome {
                due: vec![due],
                ..Outcome::default()
            },
        );
        assert!(looks.iter().any(|effect| matches!(effect, Effect::Look(_))));
        let ends = scale.tell(Event::Looked(key, None));
        assert!(
            ends.iter()
                .any(|effect| matches!(effect, Effect::Commit(..)))
        );
    });
}

#[test]
fn a_look_at_one_pod_asks_for_no_other() {
    let mut scale = Scale::new(FEW);
    let due = |index| Due {
        claim: ClaimRef(index),
        key: PodKey::new("default", &format!("leaving-{index}")),
        expires_at: World::begin(),
    };
    let facts = scale.facts();
    let effects = scale.tell(Event::Bound(facts));
    let outcome = Outcome {
        due: (0..3).map(due).collect(),
        ..Outcome::default()
    };
    scale.commit(&effects, outcome);
    for index in 0..3 {
        // Its pod leaves, which a look that was asked for before proves nothing of.
        let asked = scale.tell(Event::Looked(due(index).key, None));
        let looks: Vec<&PodKey> = asked
            .iter()
            .filter_map(|effect| match effect {
                Effect::Look(key) => Some(key),
                _ => None,
            })
            .collect();
        assert_eq!(looks, [&due(index).key]);
    }
}
