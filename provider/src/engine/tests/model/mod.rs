//! The provider on a real file against a plain model, for any sequence of what can happen.
//!
//! After every step the rows must be what the model predicts and the invariants must hold; at the
//! end of each sequence the history is judged too. A failing sequence is shrunk and printed, and
//! its seed is kept in `proptest-regressions`, from where every later run begins with it.
//! `HOLDFAST_SEQUENCES` says how many sequences are tried, `HOLDFAST_SEED` which ones.

mod clock;
mod object;
mod play;
mod pool;
mod rules;
mod state;

use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, RngAlgorithm, TestError, TestRng, TestRunner};

use super::*;
use play::Play;
use state::Outcomes;

const NAMES: [&str; 5] = ["web-0", "web-1", "web-2", "web-3", "web-4"];
/// What `vswitch-ids` can name.
const WANTED: [&[&str]; 5] = [
    &[],
    &["vsw-b2"],
    &["vsw-b2", "vsw-b"],
    &["vsw-c"],
    &["vsw-x", "vsw-b"],
];
/// How long an hour of a retention lasts.
const HOUR_LASTS: SignedDuration = SignedDuration::from_mins(2);
/// How many sequences a plain `cargo test` tries.
const SEQUENCES: u32 = 1000;

/// Where a pod is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Nowhere,
    AcsB,
    AcsC,
    /// A simulated ECS node of ours.
    EcsB,
    /// An ECS node that is not ours.
    Foreign,
}

impl Place {
    fn zone(self) -> &'static str {
        if self == Self::AcsC { "c" } else { "b" }
    }

    fn is_ecs(self) -> bool {
        matches!(self, Self::EcsB | Self::Foreign)
    }
}

/// A new pod.
#[derive(Clone, Debug)]
struct Facts {
    name: usize,
    hours: Option<u32>,
    place: Place,
    vswitches: &'static [&'static str],
    created: Creation,
}

/// How the pool is configured.
#[derive(Clone, Copy, Debug)]
enum Pool {
    Plain,
    Grown,
    Excluding,
    WithoutC,
}

/// What is told of an older pod when a new one of its name is made.
#[derive(Clone, Copy, Debug)]
enum Told {
    Before,
    After,
    Never,
}

#[derive(Clone, Debug)]
enum Step {
    Create(Act),
    /// The same pod is bound once more.
    Again(usize),
    Bind(usize, Place),
    Delete(usize),
    Stop(usize),
    Fail(usize),
    /// The object of a deleted pod goes, and its DELETED event arrives.
    Gone(usize),
    /// Deleted with grace 0: the only event is DELETED.
    Force(usize),
    /// The object goes and no event ever says so.
    Vanish(usize),
    /// What was told of the last pod of a name is told again.
    Late(usize),
    List,
    /// A list that lacks every pod.
    StaleList,
    Restart,
    /// The process dies after so many of the effects of a step.
    Crash(usize, Box<Step>),
    Release(usize, bool),
    Configure(Pool),
    Pass(i64),
    /// Until so many milliseconds after the next deadline.
    ToDeadline(i64),
    /// The wall clock jumps by so many hours.
    Jump(i8),
}

#[derive(Clone, Debug)]
struct Act {
    name: usize,
    hours: Option<u32>,
    place: Place,
    wanted: usize,
    told: Told,
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        10 => Just(Place::AcsB),
        2 => Just(Place::AcsC),
        1 => Just(Place::EcsB),
        1 => Just(Place::Foreign),
        1 => Just(Place::Nowhere),
    ]
}

fn create() -> impl Strategy<Value = Step> {
    let hours = prop_oneof![1 => Just(None), 2 => Just(Some(1)), 1 => Just(Some(2))];
    let told = prop_oneof![Just(Told::Before), Just(Told::After), Just(Told::Never)];
    let wanted = prop_oneof![6 => Just(0), 4 => 1..WANTED.len()];
    (0..NAMES.len(), hours, place(), wanted, told).prop_map(|(name, hours, place, wanted, told)| {
        Step::Create(Act {
            name,
            hours,
            place,
            wanted,
            told,
        })
    })
}

/// Steps of which a crash can tear the effects.
fn act() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    prop_oneof![
        8 => create(),
        1 => name().prop_map(Step::Again),
        1 => (name(), place()).prop_map(|(name, place)| Step::Bind(name, place)),
        5 => name().prop_map(Step::Delete),
        4 => name().prop_map(Step::Stop),
        1 => name().prop_map(Step::Fail),
        5 => name().prop_map(Step::Gone),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    let pool = prop_oneof![
        Just(Pool::Plain),
        Just(Pool::Grown),
        Just(Pool::Excluding),
        Just(Pool::WithoutC)
    ];
    prop_oneof![
        24 => act(),
        3 => name().prop_map(Step::Force),
        2 => name().prop_map(Step::Vanish),
        2 => name().prop_map(Step::Late),
        1 => Just(Step::List),
        1 => Just(Step::StaleList),
        1 => Just(Step::Restart),
        2 => (0..8_usize, act()).prop_map(|(after, step)| Step::Crash(after, Box::new(step))),
        2 => (name(), any::<bool>()).prop_map(|(name, force)| Step::Release(name, force)),
        1 => pool.prop_map(Step::Configure),
        6 => prop_oneof![1..2500_i64, 2500..100_000_i64, Just(120_000_i64)].prop_map(Step::Pass),
        3 => prop_oneof![Just(-1_i64), Just(0), Just(1), Just(2000)].prop_map(Step::ToDeadline),
        1 => prop_oneof![Just(-1_i8), Just(1)].prop_map(Step::Jump),
    ]
}

fn number(name: &str, default: u32) -> u32 {
    let wanted = std::env::var(name).ok();
    wanted.map_or(default, |text| {
        let number = text.parse();
        number.unwrap_or_else(|_| panic!("{name} is not a number: {text}"))
    })
}

#[test]
fn the_ledger_does_what_the_model_says() {
    let begun_at = std::time::Instant::now();
    let sums = std::cell::Cell::new((0_u64, Outcomes::default()));
    let (sequences, seed) = (
        number("HOLDFAST_SEQUENCES", SEQUENCES),
        number("HOLDFAST_SEED", 0),
    );
    let runs = Runs {
        cases: sequences,
        source_file: Some(file!()),
        max_shrink_iters: 1000,
        ..Runs::default()
    };
    let strategy = (any::<bool>(), prop::collection::vec(step(), 1..50));
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let result = TestRunner::new_with_rng(runs, rng).run(&strategy, |(slow, steps)| {
        let mut play = Play::new(if slow {
            slow_cloud()
        } else {
            Config::default()
        });
        let count = steps.len() as u64;
        for (number, step) in steps.into_iter().enumerate() {
            let text = format!("{step:?}");
            if let Err(why) = play.happen(step) {
                play.give_up();
                return Err(TestCaseError::fail(format!("step {number} {text}: {why}")));
            }
        }
        let outcomes = play
            .end()
            .map_err(|why| TestCaseError::fail(format!("at the end: {why}")))?;
        let (steps, mut all) = sums.get();
        all += outcomes;
        sums.set((steps + count, all));
        Ok(())
    });
    let (steps, outcomes) = sums.get();
    println!(
        "seed {seed}: {sequences} sequences, {steps} steps in {:?}: {outcomes:?}",
        begun_at.elapsed()
    );
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, (slow, steps))) => {
            let steps: Vec<String> = steps.iter().map(|step| format!("\n  {step:?}")).collect();
            panic!(
                "{why}\nwith a {} cloud:{}",
                if slow { "slow" } else { "fast" },
                steps.concat()
            );
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}
