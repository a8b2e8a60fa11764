//! Ledger operations without the thread around them: alone and in groups that share a COMMIT.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use holdfast_provider::ledger::Job;
use tempfile::TempDir;

mod support;

use support::{facts, ledger, lives, now};

fn allocation(c: &mut Criterion) {
    let mut group = c.benchmark_group("ledger/allocation");
    for size in [1, 64] {
        group.throughput(Throughput::Elements(size as u64));
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |b, &size| {
            let dir = TempDir::new().expect("a directory");
            let mut ledger = ledger(&dir.path().join("holdfast.db"));
            let mut next = 0;
            b.iter_batched(
                || {
                    let jobs: Vec<Job> = (next..next + size)
                        .map(|i| Job::Acquire(facts(i)))
                        .collect();
                    next += size;
                    jobs
                },
                |jobs| ledger.commit(now(), &jobs).expect("committed"),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn whole_life(c: &mut Criterion) {
    let mut group = c.benchmark_group("ledger/life");
    for size in [1, 64] {
        group.throughput(Throughput::Elements(size as u64));
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |b, &size| {
            let dir = TempDir::new().expect("a directory");
            let mut ledger = ledger(&dir.path().join("holdfast.db"));
            let mut next = 0;
            b.iter_batched(
                || {
                    let steps = lives(next..next + size);
                    next += size;
                    steps
                },
                |steps| {
                    for jobs in &steps {
                        ledger.commit(now(), jobs).expect("committed");
                    }
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    // Few: every allocation takes an address of a pool that has 65,532.
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(3));
    targets = allocation, whole_life
}
criterion_main!(benches);
