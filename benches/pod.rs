//! The path of a pod through this program, without I/O: a pod decoded, taken in, and the
//! status that answers it.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use holdfast::pod::core::{Action, step};
use holdfast::pod::record::{Names, Record};
use holdfast::pod::view::PodView;

mod support;

use support::{Scene, answer, base, decode, now, pod, put, record, sent, terms, view};

fn decoding(c: &mut Criterion) {
    let raw = sent(&pod());
    c.bench_function("pod/decode", |b| {
        b.iter(|| decode::<PodView>(black_box(&raw)));
    });
    let text = pod().to_string();
    c.bench_function("pod/decode from JSON", |b| {
        b.iter(|| serde_json::from_str::<PodView>(&text).expect("a pod"));
    });
}

fn taking_in(c: &mut Criterion) {
    let view = view();
    c.bench_function("record/first view", |b| {
        b.iter_batched(
            Names::default,
            |mut names| Record::from_view(&view, terms(), &mut names, now()),
            BatchSize::SmallInput,
        );
    });
}

fn deciding(c: &mut Criterion) {
    let record = record();
    let scene = Scene::new();
    let facts = scene.facts();
    c.bench_function("core/step", |b| {
        b.iter(|| {
            matches!(
                step(black_box(&record), &facts, now()).action,
                Some(Action::WriteStatus(_))
            )
        });
    });
    let base = base();
    c.bench_function("core/step and the body of a PUT", |b| {
        b.iter(|| put(&base, black_box(&record), &facts));
    });
    c.bench_function("core/step and the body of a patch", |b| {
        b.iter(|| answer(black_box(&record), &facts));
    });
}

criterion_group!(benches, decoding, taking_in, deciding);
criterion_main!(benches);
