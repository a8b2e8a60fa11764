//! What is told of one pod does not cost more when many others stand.
//!
//! Each step's shortest time of many counts, which other work on the machine cannot lengthen, and
//! the bound has room for caches and logarithms: with a pass over all pods the factor is in the
//! hundreds.

use std::time::{Duration, Instant};

use holdfast_provider::id::PodKey;

use super::api_server::fixed;
use super::world::World;
use crate::pod::agent::{Input, Refused};
use crate::pod::testing::view;

const FEW: usize = 64;
const MANY: usize = 20_000;
const FACTOR_MAX: u32 = 20;
const TIMES: usize = 100;

/// An agent that knows so many pods, `web-0` and so on.
fn world(pods: usize) -> World {
    let mut world = World::fast();
    let mut pod = fixed("web");
    pod["metadata"]["creationTimestamp"] = "2027-01-15T08:00:00Z".into();
    let pod = view(&pod);
    for index in 0..pods {
        let mut pod = pod.clone();
        pod.metadata.name = Some(format!("web-{index}"));
        pod.metadata.uid = Some(format!("uid-{index}"));
        // What it wants done is left undone, and it stands.
        drop(world.agent.handle(world.now, Input::Seen(Box::new(pod))));
    }
    world
}

#[track_caller]
fn costs_the_same(prepare: impl Fn(&mut World), step: impl Fn(&mut World, usize)) {
    let shortest = |pods| {
        let mut world = world(pods);
        prepare(&mut world);
        let time = |round| {
            let began = Instant::now();
            step(&mut world, round);
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
fn an_answered_look_costs_the_same_however_many_pods_stand() {
    costs_the_same(
        |_| {},
        |world, round| {
            let key = PodKey::new("default", &format!("gone-{round}"));
            drop(world.agent.handle(world.now, Input::Looked(key, Ok(None))));
        },
    );
}

#[test]
fn a_look_without_an_answer_costs_the_same_however_many_are_looked_for() {
    let list_nothing = |world: &mut World| {
        for input in [Input::ListBegan, Input::ListDone] {
            drop(world.agent.handle(world.now, input));
        }
    };
    costs_the_same(list_nothing, |world, round| {
        // Of a name that none of them has: a pass over them would end early at one that has it.
        let key = PodKey::new("default", &format!("gone-{round}"));
        let refused = Input::Looked(key, Err(Refused::Later));
        let asks_again = world.agent.handle(world.now, refused);
        assert!(asks_again.is_empty(), "{asks_again:?}");
    });
}
