//! Instructions of what is done for every pod, counted by callgrind: next to as many on a busy machine as on an idle one.
//!
//! Each operation has a limit, about a tenth above what it took when it was last worked on. Past it the run fails. The
//! limits are those of an x86-64 with AVX2 and of Rust 1.95; elsewhere only the comparison with the run before counts.
//!
//! Each operation was done once before, so that the allocator has its pages, and gives back what it was given, so that
//! nothing is dropped within what is counted.

#![allow(missing_docs, reason = "what the macros make has none")]

use std::hint::black_box;

use bytes::Bytes;
use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use holdfast::pod::base::Base;
use holdfast::pod::protobuf::read::Read;
use holdfast::pod::record::{Names, Record};
use holdfast::pod::view::{GoneView, PodView};
use holdfast_provider::ledger::{Batch, Job, Ledger};
use holdfast_spdy::{Decoder, Encoder, Frame};
use serde_json::Value;
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

fn decoded_before<T: Read + Default>(pod: &Value) -> Bytes {
    let raw = support::sent(pod);
    drop(support::decode::<T>(&raw));
    raw
}

#[library_benchmark(config = at_most(18_200))]
#[bench::new(decoded_before::<PodView>(&support::pod()))]
fn decode_a_pod(raw: Bytes) -> (Bytes, PodView) {
    let view = support::decode(black_box(&raw));
    (raw, view)
}

#[library_benchmark(config = at_most(4_300))]
#[bench::gone(decoded_before::<GoneView>(&support::gone()))]
fn decode_one_that_is_gone(raw: Bytes) -> (Bytes, GoneView) {
    let view = support::decode(black_box(&raw));
    (raw, view)
}

fn taken_in_before() -> (PodView, Names) {
    drop(support::record());
    (support::view(), Names::default())
}

#[library_benchmark(config = at_most(10_500))]
#[bench::new(taken_in_before())]
fn take_in_a_pod((view, mut names): (PodView, Names)) -> (PodView, Names, Option<Record>) {
    let record = Record::from_view(
        black_box(&view),
        support::terms(),
        &mut names,
        support::now(),
    );
    (view, names, record)
}

/// What a status is made of and put on.
type Answering = (Base, Record, Scene);

fn answered_before() -> Answering {
    let (base, record, scene) = (support::base(), support::record(), Scene::new());
    drop(support::put(&base, &record, &scene.facts()));
    drop(support::answer(&record, &scene.facts()));
    (base, record, scene)
}

#[library_benchmark(config = at_most(48_000))]
#[bench::new(answered_before())]
fn answer_by_a_put((base, record, scene): Answering) -> (Answering, Vec<u8>) {
    let answer = support::put(&base, black_box(&record), &scene.facts());
    ((base, record, scene), answer)
}

#[library_benchmark(config = at_most(66_000))]
#[bench::new(answered_before())]
fn answer_by_a_patch((base, record, scene): Answering) -> (Answering, Vec<u8>) {
    let answer = support::answer(black_box(&record), &scene.facts());
    ((base, record, scene), answer)
}

/// A ledger whose statements are prepared, and pods for it.
struct Books {
    ledger: Ledger,
    steps: [Vec<Job>; 3],
    _dir: TempDir,
}

impl Books {
    /// One pod has lived before.
    fn opened() -> Self {
        let dir = TempDir::new().expect("a directory");
        let mut ledger = ledger::ledger(&dir.path().join("holdfast.db"));
        for jobs in ledger::lives(0..1) {
            ledger.commit(ledger::now(), &jobs).expect("committed");
        }
        Self {
            ledger,
            steps: ledger::lives(1..GROUP + 1),
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

#[library_benchmark(config = at_most(14_600_000))]
#[bench::together(Books::opened())]
fn allocate_64(mut books: Books) -> (Books, Batch) {
    let batch = books.commit(0);
    (books, batch)
}

#[library_benchmark(config = at_most(15_800_000))]
#[bench::together(Books::allocated())]
fn end_64(mut books: Books) -> (Books, [Batch; 2]) {
    let batches = [books.commit(1), books.commit(2)];
    (books, batches)
}

/// An encoder and a decoder in the middle of their session, and a frame that comes next, read and written.
struct Session {
    encoder: Encoder,
    decoder: Decoder,
    frame: Frame,
    bytes: Vec<u8>,
}

impl Session {
    fn before(frame: Frame) -> Self {
        let (mut encoder, mut decoder) = (Encoder::default(), spdy::decoder());
        let first = spdy::encode(&mut encoder, &frame);
        spdy::decode(&mut decoder, &first);
        let bytes = spdy::encode(&mut encoder, &frame);
        Self {
            encoder,
            decoder,
            frame,
            bytes,
        }
    }
}

#[library_benchmark(config = at_most(2_900))]
#[bench::opening(Session::before(spdy::opening()))]
fn encode_headers(mut session: Session) -> (Session, Vec<u8>) {
    let bytes = spdy::encode(&mut session.encoder, black_box(&session.frame));
    (session, bytes)
}

#[library_benchmark(config = at_most(3_100))]
#[bench::opening(Session::before(spdy::opening()))]
fn decode_headers(mut session: Session) -> (Session, usize) {
    let items = spdy::decode(&mut session.decoder, black_box(&session.bytes));
    (session, items)
}

#[library_benchmark(config = at_most(380))]
#[bench::of_32_kib(Session::before(spdy::data()))]
fn decode_data(mut session: Session) -> (Session, usize) {
    let items = spdy::decode(&mut session.decoder, black_box(&session.bytes));
    (session, items)
}

library_benchmark_group!(
    name = pod,
    benchmarks = [
        decode_a_pod,
        decode_one_that_is_gone,
        take_in_a_pod,
        answer_by_a_put,
        answer_by_a_patch
    ]
);
library_benchmark_group!(name = books, benchmarks = [allocate_64, end_64]);
library_benchmark_group!(
    name = frames,
    benchmarks = [encode_headers, decode_headers, decode_data]
);
main!(library_benchmark_groups = [pod, books, frames]);
