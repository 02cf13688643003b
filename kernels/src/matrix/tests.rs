//! Products against the naive ones, finished in each way, whatever the order of either side and the number of threads.

use super::*;
use crate::parameters::tests::Noise;

fn at(matrix: Matrix<'_>, row: usize, column: usize) -> f64 {
    f64::from(match matrix.order {
        Order::Rows => matrix.line(row)[column],
        Order::Columns => matrix.line(column)[row],
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
    // Lines in another order, and some of them twice.
    let mut pick = |count: usize| (0..count).map(|_| noise.below(count) as u32).collect::<Vec<_>>();
    let [lefts, lefts_turned, rights, rights_turned] = [rows, terms, terms, columns].map(&mut pick);
    let left = [
        Matrix::new(&a, rows, terms),
        Matrix::new(&a, terms, rows).transposed(),
        Matrix::picked(&a, terms, &lefts),
        Matrix::picked(&a, rows, &lefts_turned).transposed(),
    ];
    let right = [
        Matrix::new(&b, terms, columns),
        Matrix::ordered(&b, [terms, columns], Order::Columns),
        Matrix::picked(&b, columns, &rights),
        Matrix::picked(&b, terms, &rights_turned).transposed(),
    ];
    let finishes = [
        Finish::Plain,
        Finish::Bias(&bias),
        Finish::BiasRelu(&bias),
        Finish::Gate(Gate { output: &gate, scale: 1.25 }),
    ];
    let mut out = vec![9.0; rows * columns];
    for (left, right) in left.iter().flat_map(|left| right.map(|right| (*left, right))) {
        // No rows of nothing are none.
        if left.shape() != [rows, terms] || right.shape() != [terms, columns] {
            assert!(rows * terms * columns == 0);
            continue;
        }
        for finish in finishes {
            multiply(left, right, finish, &mut out);
            for (got, want) in out.iter().zip(reference(left, right, finish)) {
                let shape = [rows, columns, terms];
                assert!((f64::from(*got) - want).abs() < 1e-4, "{got} {want} {shape:?} {left:?} {right:?}");
            }
        }
    }
}

#[test]
fn products_agree_with_the_naive_ones_however_both_sides_lie() {
    let mut noise = Noise(7);
    for _ in 0..100 {
        let shape = (noise.below(40), noise.below(70), noise.below(60));
        check(shape, &mut noise);
    }
    // Whole tiles alone, and more terms than are added up at once.
    check((48, 64, 32), &mut noise);
    // So many rows that panels are copied with vectors of any width.
    check((400, 33, 9), &mut noise);
    check((7, 37, 2 * DEPTH + 5), &mut noise);
}

#[test]
fn vectors_of_any_width_with_fused_additions_give_the_same_bits() {
    let mut noise = Noise(9);
    let (rows, columns, terms) = (61, 75, DEPTH + 30);
    let mut draw = |count: usize| (0..count).map(|_| noise.unit() - 0.5).collect::<Vec<_>>();
    let (a, b, bias) = (draw(rows * terms), draw(columns * terms), draw(columns));
    for (left, right) in [
        (Matrix::new(&a, rows, terms), Matrix::new(&b, terms, columns)),
        (Matrix::new(&a, terms, rows).transposed(), Matrix::new(&b, columns, terms).transposed()),
    ] {
        let product = |widest: bool| {
            let mut values = vec![0.0; rows * columns];
            let out = Out::new(&mut values, columns);
            let (finish, columns) = (Finish::BiasRelu(&bias), 0..columns);
            let piece = Piece { left, right, finish, columns, out: &out, room: &mut Vec::new() };
            if widest {
                dispatch_widest(piece)
            } else {
                crate::simd::dispatch(piece)
            }
            values
        };
        let widest = product(true);
        assert!(widest.iter().any(|value| *value > 0.0));
        if lanes() >= 8 {
            assert!(product(false) == widest);
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let mut noise = Noise(8);
    // Nine parts at most of the last one, which seven threads cannot share evenly.
    for (share, columns) in [(1.0, 277), (0.3, 277), (0.3, 144)] {
        let (rows, terms) = (131, 2 * DEPTH + 11);
        let mut draw = |count: usize, share: f32| -> Vec<f32> {
            let mut value = || if noise.unit() < share { noise.unit() - 0.5 } else { 0.0 };
            (0..count).map(|_| value()).collect()
        };
        let (a, b) = (draw(rows * terms, share), draw(columns * terms, 1.0));
        assert!((rows * columns * terms) as f32 * share >= SHARED_FROM as f32);
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

#[test]
fn products_that_pass_over_zeros_are_the_others_to_the_last_bit() {
    let mut noise = Noise(10);
    let shapes = [
        (16, 128, 16),
        (17, 133, 160),
        (33, 300, 2 * DEPTH + 70),
        (256, 784, 128),
        (50, 33, 64),
        (40, 20, 61),
        (700, 128, 130),
    ];
    for (rows, columns, terms) in shapes {
        let mut draw = |count: usize, share: f32| -> Vec<f32> {
            let mut value = || if noise.unit() < share { noise.unit() - 0.5 } else { 0.0 };
            (0..count).map(|_| value()).collect()
        };
        let (mut a, b) = (draw(rows * terms, 0.3), draw(terms * columns, 1.0));
        // A row of nothing, and one without a zero.
        a[..terms].fill(0.0);
        a[terms..2 * terms].fill(0.5);
        let (bias, gate) = (draw(columns, 1.0), draw(rows * columns, 0.5));
        let backwards: Vec<u32> = (0..rows as u32).rev().collect();
        let lefts = [
            Matrix::new(&a, rows, terms),
            Matrix::new(&a, terms, rows).transposed(),
            Matrix::picked(&a, terms, &backwards),
        ];
        let others: Vec<u32> = (0..terms as u32).rev().collect();
        let rights = [
            Matrix::new(&b, terms, columns),
            Matrix::new(&b, columns, terms).transposed(),
            Matrix::picked(&b, columns, &others),
        ];
        let gate = Gate { output: &gate, scale: 1.5 };
        let finishes = [Finish::Plain, Finish::Bias(&bias), Finish::BiasRelu(&bias), Finish::Gate(gate)];
        for ((left, right), finish) in
            lefts.iter().flat_map(|left| rights.map(|right| (*left, right))).zip(finishes.iter().cycle())
        {
            let mut want = vec![9.0; rows * columns];
            let (all, out) = (0..columns, Out::new(&mut want, columns));
            let finish = *finish;
            dispatch_widest(Piece { left, right, finish, columns: all, out: &out, room: &mut Vec::new() });
            let mut got = vec![9.0; rows * columns];
            let passes = skipping::multiply(left, right, finish, &Out::new(&mut got, columns));
            assert_eq!(passes, lanes() >= 8, "{left:?}");
            assert!(!passes || got == want, "{rows} {columns} {terms} {finish:?} {:?}", left.order());
        }
    }
}

#[test]
fn only_products_with_many_zeros_on_the_left_pass_over_them() {
    let (dense, sparse) = ([1.0; 64 * 64], [0.0; 64 * 64]);
    let mut out = [7.0; 64 * 64];
    let mut passes = |left: &[f32], rows: usize, columns: usize| {
        let (left, right) = (Matrix::new(left, rows, 64), Matrix::new(&dense[..64 * columns], 64, columns));
        skipping::multiply(left, right, Finish::Plain, &Out::new(&mut out[..rows * columns], columns))
    };
    assert!(!passes(&dense, 64, 64));
    assert_eq!(passes(&sparse, 64, 64), lanes() >= 8);
    // Too few rows, or columns.
    assert!(!passes(&sparse[..8 * 64], 8, 64) && !passes(&sparse, 64, 16));
    // Zeros in a strip alone.
    let mut late = sparse;
    for row in late.chunks_exact_mut(64) {
        row[50..].fill(1.0);
        row[..40].fill(1.0);
    }
    assert!(!passes(&late, 64, 64));
    assert!(out.iter().all(|value| *value == 0.0) == (lanes() >= 8));
}
