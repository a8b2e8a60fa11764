//! Instructions of what is done for every pod, counted by callgrind: as many on a busy machine as on an idle one.
//!
//! Each operation has a limit, about a tenth above what it took when it was last worked on. Past it the run fails.

#![allow(missing_docs, reason = "what the macros make has none")]

use std::hint::black_box;

use bytes::Bytes;
use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use holdfast::pod::record::{Names, Record};
use holdfast::pod::view::{GoneView, PodView};
use holdfast_provider::ledger::{Batch, Job, Ledger};
use holdfast_spdy::{Decoder, Encoder, Frame};
use tempfile::TempDir;

#[path = "../provider/benches/support/mod.rs"]
mod ledger;
#[path = "../spdy/benches/support/mod.rs"]
mod spdy;
mod support;

use support::Scene;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Jobs that share a COMMIT.
const GROUP: usize = 64;

fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::default();
    callgrind.hard_limits([(EventKind::Ir, instructions)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

#[library_benchmark(config = at_most(34_000))]
#[bench::new(support::sent())]
fn decode_a_pod(raw: Bytes) -> PodView {
    support::decode(black_box(&raw))
}

#[library_benchmark(config = at_most(4_800))]
#[bench::sent(support::sent())]
fn decode_one_that_is_gone(raw: Bytes) -> GoneView {
    support::decode(black_box(&raw))
}

#[library_benchmark(config = at_most(15_500))]
#[bench::new((support::view(), Names::default()))]
fn take_in_a_pod((view, mut names): (PodView, Names)) -> Option<Record> {
    Record::from_view(
        black_box(&view),
        support::terms(),
        &mut names,
        support::now(),
    )
}

#[library_benchmark(config = at_most(78_000))]
#[bench::new((support::record(), Scene::new()))]
fn answer_a_pod((record, scene): (Record, Scene)) -> Vec<u8> {
    support::answer(black_box(&record), &scene.facts())
}

/// A ledger whose statements are prepared, and pods for it.
struct Books {
    ledger: Ledger,
    steps: [Vec<Job>; 3],
    _dir: TempDir,
}

impl Books {
    fn opened() -> Self {
        let dir = TempDir::new().expect("a directory");
        let mut ledger = ledger::ledger(&dir.path().join("holdfast.db"));
        for job in ledger::life(0) {
            ledger.commit(ledger::now(), &[job]).expect("committed");
        }
        let mut steps: [Vec<Job>; 3] = Default::default();
        for index in 1..=GROUP {
            for (step, job) in steps.iter_mut().zip(ledger::life(index)) {
                step.push(job);
            }
        }
        Self {
            ledger,
            steps,
            _dir: dir,
        }
    }

    fn allocated() -> Self {
        let mut books = Self::opened();
        books.commit(0);
        books
    }

    fn commit(&mut self, step: usize) -> Batch {
        let batch = self.ledger.commit(ledger::now(), &self.steps[step]);
        batch.expect("committed")
    }
}

#[library_benchmark(config = at_most(17_500_000))]
#[bench::together(Books::opened())]
fn allocate_64(mut books: Books) -> (Books, Batch) {
    let batch = books.commit(0);
    (books, batch)
}

#[library_benchmark(config = at_most(16_700_000))]
#[bench::together(Books::allocated())]
fn end_64(mut books: Books) -> (Books, [Batch; 2]) {
    let batches = [books.commit(1), books.commit(2)];
    (books, batches)
}

#[library_benchmark(config = at_most(10_600))]
#[bench::opening((Encoder::default(), spdy::opening()))]
fn encode_headers((mut encoder, frame): (Encoder, Frame)) -> Vec<u8> {
    spdy::encode(&mut encoder, black_box(&frame))
}

fn sent(frame: &Frame) -> (Decoder, Vec<u8>) {
    (
        spdy::decoder(),
        spdy::encode(&mut Encoder::default(), frame),
    )
}

#[library_benchmark(config = at_most(32_300))]
#[bench::opening(sent(&spdy::opening()))]
fn decode_headers((mut decoder, bytes): (Decoder, Vec<u8>)) -> usize {
    spdy::decode(&mut decoder, black_box(&bytes))
}

#[library_benchmark(config = at_most(640))]
#[bench::of_32_kib(sent(&spdy::data()))]
fn decode_data((mut decoder, bytes): (Decoder, Vec<u8>)) -> usize {
    spdy::decode(&mut decoder, black_box(&bytes))
}

library_benchmark_group!(
    name = pod,
    benchmarks = [
        decode_a_pod,
        decode_one_that_is_gone,
        take_in_a_pod,
        answer_a_pod
    ]
);
library_benchmark_group!(name = books, benchmarks = [allocate_64, end_64]);
library_benchmark_group!(
    name = frames,
    benchmarks = [encode_headers, decode_headers, decode_data]
);
main!(library_benchmark_groups = [pod, books, frames]);
