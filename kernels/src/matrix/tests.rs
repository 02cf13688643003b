//! Products against the naive ones, finished in each way, whatever the order of either side and the number of threads.

use super::*;
use crate::parameters::tests::Noise;

fn at(matrix: Matrix<'_>, row: usize, column: usize) -> f64 {
    f64::from(match matrix.order {
        Order::Rows => matrix.values[row * matrix.columns + column],
        Order::Columns => matrix.values[column * matrix.rows + row],
    })
}

fn reference(left: Matrix<'_>, right: Matrix<'_>, finish: Finish<'_>) -> Vec<f64> {
    let mut all = Vec::new();
    for row in 0..left.rows {
        for column in 0..right.columns {
            let sum: f64 = (0..left.columns).map(|term| at(left, row, term) * at(right, term, column)).sum();
            all.push(match finish {
                Finish::Plain => sum,
                Finish::Bias(bias) => sum + f64::from(bias[column]),
                Finish::BiasRelu(bias) => (sum + f64::from(bias[column])).max(0.0),
                Finish::Gate(Gate { output, scale }) if output[all.len()] > 0.0 => sum * f64::from(scale),
                Finish::Gate(_) => 0.0,
            });
        }
    }
    all
}

fn check((rows, columns, terms): (usize, usize, usize), noise: &mut Noise) {
    let mut draw = |count: usize| (0..count).map(|_| noise.unit() - 0.5).collect::<Vec<_>>();
    let (a, b) = (draw(rows * terms), draw(terms * columns));
    let (bias, gate) = (draw(columns), draw(rows * columns));
    for left in [Matrix::new(&a, rows, terms), Matrix::new(&a, terms, rows).transposed()] {
        for right in [Matrix::new(&b, terms, columns), Matrix::new(&b, columns, terms).transposed()] {
            for finish in [
                Finish::Plain,
                Finish::Bias(&bias),
                Finish::BiasRelu(&bias),
                Finish::Gate(Gate { output: &gate, scale: 1.25 }),
            ] {
                let want = reference(left, right, finish);
                let mut out = draw(rows * columns);
                multiply(left, right, finish, &mut out);
                for (got, want) in out.iter().zip(&want) {
                    let shape = [rows, columns, terms];
                    assert!((f64::from(*got) - want).abs() < 1e-4, "{got} {want} {shape:?} {finish:?}");
                }
            }
        }
    }
}

#[test]
fn products_agree_with_the_naive_ones_whichever_side_is_transposed() {
    let mut noise = Noise(7);
    for _ in 0..200 {
        let shape = (noise.below(40), noise.below(70), noise.below(60));
        check(shape, &mut noise);
    }
    // More terms than are added up at once.
    check((7, 37, 2 * DEPTH + 5), &mut noise);
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let mut noise = Noise(8);
    let (rows, columns, terms) = (131, 277, DEPTH + 11);
    let mut draw = |count: usize| (0..count).map(|_| noise.unit() - 0.5).collect::<Vec<_>>();
    let (a, b) = (draw(rows * terms), draw(columns * terms));
    assert!(rows * columns * terms >= SHARED_FROM);
    let product = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut out = vec![0.0; rows * columns];
        pool.install(|| {
            assert_eq!(is_shared(rows * columns * terms), threads > 1);
            let right = Matrix::new(&b, columns, terms).transposed();
            multiply(Matrix::new(&a, rows, terms), right, Finish::Plain, &mut out);
        });
        out
    };
    let one = product(1);
    for threads in [2, 3, 7] {
        assert!(product(threads) == one, "{threads} threads");
    }
}

#[test]
fn nan_is_not_hidden_by_a_relu() {
    let (ones, bias) = ([1.0; 40], [0.0, f32::NAN, -100.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let mut out = [0.0; 40];
    let (left, right) = (Matrix::new(&ones[..16], 4, 4), Matrix::new(&ones, 4, 10));
    multiply(left, right, Finish::BiasRelu(&bias), &mut out);
    assert_eq!((out[0], out[2], out[3]), (4.0, 0.0, 5.0));
    assert!(out[1].is_nan());
}

#[test]
#[should_panic(expected = "shape")]
fn a_wrong_shape_is_a_defect() {
    let values = [0.0; 6];
    multiply(Matrix::new(&values, 2, 3), Matrix::new(&values, 3, 2), Finish::Plain, &mut [0.0; 3]);
}
