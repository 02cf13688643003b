//! Steps of gradient descent, whole fits of trees, and loading. Threads follow RAYON_NUM_THREADS.

mod support;

use std::hint::black_box;
use std::io::{BufWriter, Write as _};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};

use support::{BOOSTING, FOREST, STEPS, Work, epoch, is_trial};

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

/// From a CSV file to rows that can be trained on; the file has BENCH_CSV_MB megabytes (1,024; 1 where benches are only
/// tried out).
fn prepare(criterion: &mut Criterion) {
    let trial = is_trial();
    let megabytes = match std::env::var("BENCH_CSV_MB") {
        Ok(text) => text.parse().unwrap(),
        Err(_) if trial => 1,
        Err(_) => 1024,
    };
    let folder = tempfile::tempdir().unwrap();
    let bytes = write_csv(&folder.path().join("rows.csv"), megabytes << 20);
    let work = Work { id: "csv", model: "logistic_regression", set: &[], shape: None };
    let mut group = criterion.benchmark_group("prepare");
    group.sample_size(10).throughput(Throughput::Bytes(bytes));
    group.bench_function(work.id, |bencher| {
        bencher.iter(|| black_box(work.prepare("rows.csv", folder.path().to_str().unwrap())));
    });
    group.finish();
}

/// A table of 28 features and a target of two classes; its length in bytes.
fn write_csv(path: &std::path::Path, bytes: u64) -> u64 {
    let mut file = BufWriter::new(std::fs::File::create(path).unwrap());
    let names: Vec<String> = (0..28).map(|feature| format!("f{feature},")).collect();
    writeln!(file, "{}target", names.concat()).unwrap();
    let (mut written, mut number) = (0, 1_u32);
    while written < bytes {
        let mut line = String::new();
        for _ in 0..28 {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            line += &format!("{:.6},", f64::from(number) / f64::from(u32::MAX) - 0.5);
        }
        writeln!(file, "{line}{}", number >> 31).unwrap();
        written += line.len() as u64 + 2;
    }
    file.into_inner().unwrap().metadata().unwrap().len()
}

criterion_group!(benches, train_step, boosting, forest, prepare);
criterion_main!(benches);
