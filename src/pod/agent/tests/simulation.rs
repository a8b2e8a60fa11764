//! The whole of holdfast in one thread, while everything goes wrong that can, by a seed.
//!
//! `HOLDFAST_SEEDS` says how many seeds are tried and `HOLDFAST_SEED` which is the first: a run of
//! one seed is the same to the letter each time, and when only one is tried and fails, all that was
//! told and done is printed.

use std::collections::BTreeMap;
use std::env;
use std::num::NonZeroU32;

use fastrand::Rng;
use holdfast_provider::cloud::sim::{self, Action as Call, Fault, Transition};

use super::api_server::{Trouble, Verb};
use super::play::{NAMES, Play, Step};
use super::world::slow_cloud;
use super::*;

/// How many seeds a plain `cargo test` tries.
const SEEDS: u64 = 300;
/// Seeds beyond those that found something once.
const KEPT: [u64; 7] = [991, 1076, 1107, 2133, 5285, 6419, 15895];
const STEPS: usize = 120;

/// What has to go wrong at least once in that many seeds.
const KINDS: [&str; 25] = [
    "API server: Code(404)",
    "API server: Code(409)",
    "API server: Code(422)",
    "API server: Code(429)",
    "API server: Code(500)",
    "API server: NoAnswer",
    "API server: Unheard",
    "Attach hangs",
    "Attach slow",
    "Delete hangs",
    "Delete slow",
    "Detach hangs",
    "Detach slow",
    "InternalError",
    "InvalidVSwitchId.IpNotEnough",
    "MaxEniCountExceeded",
    "RequestTimeout",
    "Throttling.User",
    "called twice",
    "change told twice",
    "changes never told",
    "changes told late",
    "list of the past",
    "restart",
    "status for an old version",
];

fn cloud(rng: &mut Rng) -> sim::Config {
    let calls = [
        Call::Create,
        Call::Attach,
        Call::Detach,
        Call::Delete,
        Call::Describe,
    ];
    let transitions = [Transition::Attach, Transition::Detach, Transition::Delete];
    let mut config = match rng.u8(0..4) {
        0 => sim::Config::default(),
        _ => slow_cloud(),
    };
    for _ in 0..rng.usize(0..4) {
        let every = NonZeroU32::new(rng.u32(1..5)).unwrap();
        let action = calls[rng.usize(0..calls.len())];
        let transition = transitions[rng.usize(0..transitions.len())];
        config.faults.push(match rng.u8(0..7) {
            0 => Fault::Fail {
                action,
                every,
                code: "InternalError".into(),
            },
            1 => Fault::LostAnswer { action, every },
            2 => Fault::Throttle {
                calls_per_s: rng.u32(0..4),
            },
            3 => Fault::Slow {
                action: transition,
                latency: SECOND * rng.i32(2..30),
            },
            4 => Fault::Stuck { action: transition },
            5 => Fault::OutOfAddresses {
                vswitch: "vsw-b".into(),
            },
            _ => {
                config.enis_max = rng.u32(1..4);
                continue;
            }
        });
    }
    config
}

fn pod(rng: &mut Rng) -> Step {
    let nodes = [
        "acs-b", "acs-b", "acs-b", "acs-b", "acs-c", "ecs-b", "real-ecs", "other-vk",
    ];
    Step::Create {
        name: rng.usize(0..NAMES.len()),
        fixed: rng.u8(0..10) < 7,
        node: (rng.u8(0..10) > 0).then(|| nodes[rng.usize(0..nodes.len())]),
        of_job: rng.u8(0..10) == 0,
        gpu: rng.u8(0..12) == 0,
    }
}

fn trouble(rng: &mut Rng) -> Step {
    let verbs = [
        Verb::Status,
        Verb::Status,
        Verb::Delete,
        Verb::Get,
        Verb::GetNode,
        Verb::Tolerate,
    ];
    let troubles = [
        Trouble::NoAnswer,
        Trouble::Unheard,
        Trouble::Code(404),
        Trouble::Code(409),
        Trouble::Code(422),
        Trouble::Code(429),
        Trouble::Code(500),
    ];
    let trouble = troubles[rng.usize(0..troubles.len())];
    Step::Trouble(verbs[rng.usize(0..verbs.len())], trouble)
}

fn step(rng: &mut Rng) -> Step {
    let name = rng.usize(0..NAMES.len());
    let queues = [
        Queue::Done,
        Queue::Answers,
        Queue::Watch,
        Queue::Work,
        Queue::Requests,
    ];
    match rng.u8(0..100) {
        0..14 => pod(rng),
        14..24 => Step::Delete(name, [0, 1, 30][rng.usize(0..3)]),
        24..26 => Step::Fail(name),
        26..28 => Step::NotReady(name),
        28..30 => Step::Finalize(name),
        30..32 => Step::Bind(name, ["acs-b", "acs-c", "ecs-b"][rng.usize(0..3)]),
        32..62 => Step::Advance(queues[rng.usize(0..queues.len())], rng.usize(1..6)),
        62..70 => Step::Settle,
        70..72 => Step::Twice,
        72..74 => Step::List(if rng.bool() { 0 } else { rng.u8(0..16) }),
        74..76 => Step::Stale(rng.usize(0..10)),
        76..79 => Step::Hear(rng.u8(0..3) > 0),
        79..81 => Step::Restart,
        81..86 => trouble(rng),
        86..88 => Step::Away(rng.u8(0..3) == 0),
        88..90 => Step::Latency(if rng.bool() { 0 } else { rng.i64(1..8000) }),
        90..92 => Step::Cloud(cloud(rng)),
        92..93 => Step::CallTwice(rng.bool()),
        _ => Step::Pass([300, 3000, 30_000][rng.usize(0..3)] * rng.i64(1..11) / 10),
    }
}

/// Tells which seed it was.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("seed {seed}: HOLDFAST_SEED={seed} HOLDFAST_SEEDS=1 runs it again");
        }
    }
}

fn live(seed: u64, traced: bool) -> Play {
    let _named = Named(seed);
    let mut rng = Rng::with_seed(seed);
    let base = if rng.bool() {
        Wish::acs()
    } else {
        Wish::fast()
    };
    let mut play = Play::new(&Wish {
        cloud: cloud(&mut rng),
        ..base
    });
    play.world.trace = traced.then(Vec::new);
    for _ in 0..STEPS {
        let step = step(&mut rng);
        if let Some(trace) = &mut play.world.trace {
            trace.push(format!("{step:?}"));
        }
        play.happen(step);
        play.check();
    }
    play.heal();
    play.check_end();
    play.end();
    play
}

fn number(name: &str, otherwise: u64) -> u64 {
    let text = env::var(name).ok();
    text.map_or(otherwise, |text| text.parse().expect("a whole number"))
}

#[test]
fn whatever_goes_wrong_everything_drains_and_nothing_is_lost_doubled_or_leaked() {
    let first = number("HOLDFAST_SEED", 0);
    let seeds = number("HOLDFAST_SEEDS", SEEDS);
    let mut befell: BTreeMap<String, u64> = BTreeMap::new();
    for seed in first..first + seeds {
        let world = live(seed, seeds == 1).world;
        for (what, times) in &world.befell {
            *befell.entry(what.clone()).or_default() += times;
        }
        for (trouble, times) in &world.api.befell {
            let what = format!("API server: {trouble:?}");
            *befell.entry(what).or_default() += times;
        }
    }
    println!("{seeds} seeds from {first} on; what went wrong, and how often: {befell:#?}");
    if seeds >= SEEDS {
        for kind in KINDS {
            assert!(befell.contains_key(kind), "{kind} never went wrong");
        }
    }
}

#[test]
fn what_went_wrong_once_does_not_again() {
    for seed in KEPT {
        live(seed, false);
    }
}

#[test]
fn one_seed_is_the_same_run_to_the_letter() {
    for seed in 0..8 {
        let [one, two] = [(); 2].map(|()| live(seed, true).world.trace.take().unwrap());
        let differs = one.iter().zip(&two).position(|(one, two)| one != two);
        if let Some(at) = differs {
            panic!("seed {seed}, line {at}: {:?} and {:?}", one[at], two[at]);
        }
        assert_eq!(one.len(), two.len());
    }
}
