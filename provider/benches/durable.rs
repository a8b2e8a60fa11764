//! Durable allocations per second through the writer's thread, and how long each caller waits.
//!
//! Prints a table; criterion has no place for the latency of one call among many that share a
//! COMMIT. Every caller asks for its next address when it has its last: a closed loop.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use holdfast_provider::ledger::{Done, Job, Work, Writer};
use tempfile::TempDir;

mod support;

use support::{facts, ledger, now};

fn main() {
    // Cargo passes --bench; `cargo test --benches` does not, and then only shows that it runs.
    let whole = std::env::args().any(|arg| arg == "--bench");
    println!(
        "{:>8} {:>12} {:>10} {:>10} {:>10}",
        "callers", "allocated/s", "p50", "p99", "max"
    );
    for callers in [1, 16, 64, 256] {
        let count = if whole { 20_000 } else { 256 };
        measure(callers, if callers == 1 { count / 10 } else { count });
    }
}

fn measure(callers: usize, count: usize) {
    // Where the target directory is, which is on a disk; /tmp may be memory.
    let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let (results, done) = channel();
    let ledger = ledger(&dir.path().join("holdfast.db"));
    let writer = Writer::start(ledger, now, move |result| {
        results.send(result).expect("somebody listens");
    })
    .expect("a thread");
    let mut asked = vec![Instant::now(); count];
    let mut next = 0;
    let mut ask = |asked: &mut Vec<Instant>| {
        if next < count {
            asked[next] = Instant::now();
            let number = u64::try_from(next).expect("a small number");
            let refused = writer.submit(Work::Job(number, Job::Acquire(facts(next))));
            assert!(
                refused.expect("it runs").is_none(),
                "the queue is large enough"
            );
            next += 1;
        }
    };
    let began = Instant::now();
    for _ in 0..callers {
        ask(&mut asked);
    }
    let mut waits: Vec<Duration> = Vec::with_capacity(count);
    while waits.len() < count {
        if let Done::Job(number, result) = done.recv().expect("it runs") {
            let outcome = result.expect("there are addresses");
            assert_eq!(outcome.pods.len(), 1);
            waits.push(asked[usize::try_from(number).expect("a small number")].elapsed());
            ask(&mut asked);
        }
    }
    let took = began.elapsed();
    waits.sort_unstable();
    let at = |percent: usize| waits[(count - 1) * percent / 100];
    println!(
        "{callers:>8} {:>12.0} {:>10.2?} {:>10.2?} {:>10.2?}",
        f64::from(u32::try_from(count).expect("a small number")) / took.as_secs_f64(),
        at(50),
        at(99),
        at(100)
    );
    writer.stop();
}
