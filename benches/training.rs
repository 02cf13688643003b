//! Steps of gradient descent, and whole fits of trees. Threads follow RAYON_NUM_THREADS.

mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};

use support::{BOOSTING, FOREST, STEPS, Work, epoch};

/// The time of one step, within an epoch: batches are gathered, judged and told of as in a task.
fn train_step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("train_step");
    group.throughput(Throughput::Elements(1));
    for work in STEPS {
        let prepared = work.prepare(&work.dataset(), ".");
        let mut training = prepared.model();
        let steps = training.batches_per_epoch();
        let mut number = 0;
        group.bench_function(work.id, |bencher| {
            bencher.iter_custom(|iterations| {
                // An epoch is the least that can be asked for; what it took is shared out over its steps.
                let epochs = iterations.div_ceil(u64::from(steps));
                let started = Instant::now();
                for _ in 0..epochs {
                    black_box(epoch(&mut training, number));
                    number += 1;
                }
                let nanoseconds = started.elapsed().as_nanos() * u128::from(iterations)
                    / u128::from(epochs * u64::from(steps));
                Duration::from_nanos(nanoseconds as u64)
            });
        });
    }
    group.finish();
}

/// Whole fits, cutting into bins included, from rows that are loaded.
fn fits(group: &mut BenchmarkGroup<'_, WallTime>, works: &[Work]) {
    group.sample_size(10);
    for work in works {
        let prepared = work.prepare(&work.dataset(), ".");
        group.bench_function(work.id, |bencher| {
            bencher.iter(|| black_box(epoch(&mut prepared.model(), 0)));
        });
    }
}

fn boosting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("boosting");
    fits(&mut group, BOOSTING);
    group.finish();
}

fn forest(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("forest");
    fits(&mut group, FOREST);
    group.finish();
}

criterion_group!(benches, train_step, boosting, forest);
criterion_main!(benches);
