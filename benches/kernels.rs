//! The kernels alone, with the numbers of multiplications and updates that tell how far they are from the machine's peak.

#[path = "support/kernels.rs"]
mod work;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tensorfleet_kernels::{Finish, Matrix, multiply};
use work::{DenseStep, Descending, Histogram};

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kernels/multiply");
    for (rows, columns, depth) in [(128, 128, 64), (128, 256, 784), (256, 784, 128)] {
        let (left, right) = (vec![0.5; rows * depth], vec![0.25; depth * columns]);
        let mut out = vec![0.0; rows * columns];
        // Elements are multiplications with their additions.
        group.throughput(Throughput::Elements((rows * columns * depth) as u64));
        group.bench_function(format!("{rows}x{columns}x{depth}"), |bencher| {
            bencher.iter(|| {
                let (left, right) = (Matrix::new(&left, rows, depth), Matrix::new(&right, depth, columns));
                multiply(left, right, Finish::Plain, black_box(&mut out));
            });
        });
    }
    group.finish();
}

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kernels/dense_step");
    for (id, widths) in [("64_128_64_10", &[64, 128, 64, 10]), ("784_256_128_10", &[784, 256, 128, 10])] {
        let mut step = DenseStep::new(widths, 128);
        group.bench_function(id, |bencher| bencher.iter(|| black_box(step.step())));
    }
    group.finish();
}

fn optimizers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kernels/adam");
    let mut descending = Descending::new(235_146);
    group.throughput(Throughput::Elements(descending.count() as u64));
    group.bench_function("235146", |bencher| bencher.iter(|| black_box(descending.steps(1))));
    group.finish();
}

fn histograms(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kernels/histogram");
    let mut histogram = Histogram::new(100_000);
    group.throughput(Throughput::Elements(histogram.updates() as u64));
    group.bench_function("100000x7", |bencher| bencher.iter(|| black_box(histogram.pass())));
    group.finish();
}

criterion_group!(benches, products, steps, optimizers, histograms);
criterion_main!(benches);
