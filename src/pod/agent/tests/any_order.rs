//! Whatever happens in whatever order: addresses are unique, kept while they are promised, and
//! given back in the end. Failing orders are shrunk.

use std::num::NonZeroU32;

use holdfast_provider::cloud::sim::{self, Action as Call, Fault};
use proptest::prelude::*;

use super::api_server::{Trouble, Verb};
use super::play::{NAMES, Play, Step};
use super::world::slow_cloud;
use super::*;

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    let node = || {
        prop_oneof![
            6 => Just("acs-b"),
            1 => Just("acs-c"),
            1 => Just("ecs-b"),
            1 => Just("real-ecs"),
            1 => Just("other-vk"),
        ]
    };
    let queue = prop_oneof![
        Just(Queue::Done),
        Just(Queue::Answers),
        Just(Queue::Watch),
        Just(Queue::Work),
        Just(Queue::Requests),
    ];
    let verb = prop_oneof![
        Just(Verb::Status),
        Just(Verb::Delete),
        Just(Verb::Get),
        Just(Verb::Tolerate)
    ];
    let trouble = prop_oneof![
        Just(Trouble::NoAnswer),
        Just(Trouble::Code(404)),
        Just(Trouble::Code(429)),
        Just(Trouble::Code(500)),
    ];
    prop_oneof![
        5 => (name(), prop::bool::weighted(0.7), prop::option::weighted(0.9, node()), prop::bool::weighted(0.1))
            .prop_map(|(name, fixed, node, of_job)| Step::Create { name, fixed, node, of_job, gpu: false }),
        1 => (name(), node()).prop_map(|(name, node)| Step::Bind(name, node)),
        4 => (name(), prop_oneof![Just(0), Just(1), Just(30)]).prop_map(|(name, grace)| Step::Delete(name, grace)),
        1 => name().prop_map(Step::Fail),
        1 => name().prop_map(Step::NotReady),
        1 => name().prop_map(Step::Finalize),
        16 => (queue, 1..6_usize).prop_map(|(queue, times)| Step::Advance(queue, times)),
        4 => Just(Step::Settle),
        1 => Just(Step::Twice),
        1 => (0..16_u8).prop_map(Step::List),
        1 => Just(Step::Restart),
        1 => (verb, trouble).prop_map(|(verb, trouble)| Step::Trouble(verb, trouble)),
        4 => prop_oneof![0..300_i64, 300..3000_i64, 3000..30_000_i64].prop_map(Step::Pass),
    ]
}

fn cloud() -> impl Strategy<Value = sim::Config> {
    let with = |faults: Vec<Fault>| sim::Config {
        faults,
        ..slow_cloud()
    };
    let all = [
        Call::Create,
        Call::Attach,
        Call::Detach,
        Call::Delete,
        Call::Describe,
    ];
    let every = NonZeroU32::new(3).unwrap();
    let fail = all.map(|action| Fault::Fail {
        action,
        every,
        code: "InternalError".into(),
    });
    let lose = all.map(|action| Fault::LostAnswer { action, every });
    prop_oneof![
        2 => Just(sim::Config::default()),
        2 => Just(slow_cloud()),
        1 => Just(with(fail.to_vec())),
        1 => Just(with(lose.to_vec())),
    ]
}

proptest! {
    #[test]
    fn addresses_are_unique_kept_and_given_back(
        acs in any::<bool>(),
        cloud in cloud(),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let base = if acs { Wish::acs() } else { Wish::fast() };
        let mut play = Play::new(&Wish { cloud, ..base });
        for step in steps {
            play.happen(step);
            play.check();
        }
        play.heal();
        play.check_end();
        play.end();
    }
}
