//! Frames written and read, without a session around them.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

mod support;

use holdfast_spdy::Encoder;
use support::{data, decode, decoder, encode, opening};

fn headers(c: &mut Criterion) {
    let frame = opening();
    c.bench_function("spdy/encode the opening of a stream", |b| {
        b.iter_batched(
            Encoder::default,
            |mut encoder| encode(&mut encoder, black_box(&frame)),
            BatchSize::SmallInput,
        );
    });
    let bytes = encode(&mut Encoder::default(), &frame);
    c.bench_function("spdy/decode the opening of a stream", |b| {
        b.iter_batched(
            decoder,
            |mut decoder| decode(&mut decoder, black_box(&bytes)),
            BatchSize::SmallInput,
        );
    });
}

fn bytes(c: &mut Criterion) {
    let mut group = c.benchmark_group("spdy/data");
    let frame = data();
    let bytes = encode(&mut Encoder::default(), &frame);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    let mut encoder = Encoder::default();
    group.bench_function("encode", |b| {
        b.iter(|| encode(&mut encoder, black_box(&frame)));
    });
    let mut decoder = decoder();
    group.bench_function("decode", |b| {
        b.iter(|| decode(&mut decoder, black_box(&bytes)));
    });
    group.finish();
}

criterion_group!(benches, headers, bytes);
criterion_main!(benches);
