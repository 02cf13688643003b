//! Tiles of a product: a few rows by two vectors of columns, whose sums stay in registers.

use std::marker::PhantomData;

use pulp::Simd;

use super::{Finish, Gate, Matrix, Order};

/// Most values in a vector of any CPU.
const WIDEST: usize = 16;

/// Rows of a tile at most: two sums a row, two vectors of the panel and a factor fill sixteen registers.
const HEIGHT: usize = 6;

/// Heights of the tiles of so many rows, as alike as can be: a low one keeps the arithmetic waiting for its sums.
#[inline(always)]
pub(super) fn heights(rows: usize) -> impl Iterator<Item = usize> {
    let tiles = rows.div_ceil(HEIGHT);
    (0..tiles).map(move |tile| rows / tiles + usize::from(tile < rows % tiles))
}

/// Some terms of the left side.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) matrix: Matrix<'a>,
    /// Number of the first term.
    pub(super) first: usize,
    /// How many.
    pub(super) depth: usize,
    /// They, copied tile after tile, where the columns of the matrix lie side by side.
    pub(super) copy: &'a [f32],
}

/// Where a tile goes, and how.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) row: usize,
    pub(super) column: usize,
    /// Columns that there are.
    pub(super) width: usize,
    /// Whether these are the first terms; else they are added to what is there.
    pub(super) begins: bool,
    pub(super) finish: Finish<'a>,
}

/// The product, whose columns may be written by several threads.
pub(super) struct Out<'a> {
    values: *mut f32,
    len: usize,
    columns: usize,
    borrowed: PhantomData<&'a mut [f32]>,
}

#[allow(unsafe_code, reason = "threads write different columns of the same rows")]
// SAFETY: the pointer is that of a mutable slice, which stays borrowed; who writes through it is said at `Out::line`.
unsafe impl Sync for Out<'_> {}

impl<'a> Out<'a> {
    pub(super) fn new(values: &'a mut [f32], columns: usize) -> Self {
        Self { values: values.as_mut_ptr(), len: values.len(), columns, borrowed: PhantomData }
    }

    /// `count` values from `at` on.
    ///
    /// # Safety
    /// No other thread touches them meanwhile, and the caller has no other slice of them.
    #[allow(unsafe_code, clippy::mut_from_ref, reason = "threads write different columns of the same rows")]
    #[inline(always)]
    unsafe fn line(&self, at: usize, count: usize) -> &mut [f32] {
        assert!(at + count <= self.len);
        // SAFETY: within the slice that `new` took, as asserted; nobody else looks, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.values.add(at), count) }
    }
}

/// All rows of `left` times `panel`, shape `[terms, 2 vectors]`.
#[inline(always)]
pub(super) fn down<S: Simd>(simd: S, left: Left<'_>, panel: &[f32], mut place: Place<'_>, out: &Out<'_>) {
    macro_rules! by_height {
        ($height:expr, $copy:expr, $($heights:literal)*) => {
            match $height {
                $($heights => {
                    let sums = match left.matrix.order {
                        Order::Rows => of_rows::<S, $heights>(simd, left, place.row, panel),
                        Order::Columns => of_copy::<S, $heights>(simd, $copy, panel),
                    };
                    write(simd, sums, place, out);
                })*
                _ => {}
            }
        };
    }
    let mut rest = left.copy;
    for height in heights(left.matrix.rows) {
        let copied = if left.matrix.order == Order::Columns { height * left.depth } else { 0 };
        let (own, others) = rest.split_at(copied);
        by_height!(height, own, 1 2 3 4 5 6);
        rest = others;
        place.row += height;
    }
}

#[inline(always)]
fn of_rows<S: Simd, const ROWS: usize>(
    simd: S,
    left: Left<'_>,
    row: usize,
    panel: &[f32],
) -> [[S::f32s; 2]; ROWS] {
    let (line, start) = (left.matrix.line(), row * left.matrix.line() + left.first);
    let values = &left.matrix.values[start..start + (ROWS - 1) * line + left.depth];
    let vectors = S::as_simd_f32s(panel).0.as_chunks::<2>().0;
    let mut sums = [[simd.splat_f32s(0.0); 2]; ROWS];
    for (term, [one, other]) in vectors[..left.depth].iter().enumerate() {
        for (number, sums) in sums.iter_mut().enumerate() {
            #[allow(unsafe_code, reason = "six comparisons for twelve products cost a tenth")]
            // SAFETY: `number` is below ROWS and `term` below `left.depth`: the sum is below the length of `values`.
            let factor = simd.splat_f32s(unsafe { *values.get_unchecked(number * line + term) });
            sums[0] = simd.mul_add_e_f32s(factor, *one, sums[0]);
            sums[1] = simd.mul_add_e_f32s(factor, *other, sums[1]);
        }
    }
    sums
}

#[inline(always)]
fn of_copy<S: Simd, const ROWS: usize>(simd: S, copy: &[f32], panel: &[f32]) -> [[S::f32s; 2]; ROWS] {
    let vectors = S::as_simd_f32s(panel).0.as_chunks::<2>().0;
    let mut sums = [[simd.splat_f32s(0.0); 2]; ROWS];
    for ([one, other], factors) in vectors.iter().zip(copy.as_chunks::<ROWS>().0) {
        for (sums, factor) in sums.iter_mut().zip(factors) {
            let factor = simd.splat_f32s(*factor);
            sums[0] = simd.mul_add_e_f32s(factor, *one, sums[0]);
            sums[1] = simd.mul_add_e_f32s(factor, *other, sums[1]);
        }
    }
    sums
}

#[inline(always)]
fn write<S: Simd, const ROWS: usize>(simd: S, sums: [[S::f32s; 2]; ROWS], place: Place<'_>, out: &Out<'_>) {
    if place.width < 2 * S::F32_LANES {
        write_edge(simd, sums, place, out);
    } else {
        write_whole(simd, sums, place, out);
    }
}

#[inline(always)]
fn write_whole<S: Simd, const ROWS: usize>(
    simd: S,
    sums: [[S::f32s; 2]; ROWS],
    place: Place<'_>,
    out: &Out<'_>,
) {
    // Decided once a tile: it is written in the time of some dozens of terms.
    match place.finish {
        Finish::Plain => put::<S, ROWS, PLAIN>(simd, sums, place, out),
        Finish::Bias(_) => put::<S, ROWS, BIAS>(simd, sums, place, out),
        Finish::BiasRelu(_) => put::<S, ROWS, BIAS_RELU>(simd, sums, place, out),
        Finish::Gate(_) => put::<S, ROWS, GATE>(simd, sums, place, out),
    }
}

const PLAIN: u8 = 0;
const BIAS: u8 = 1;
const BIAS_RELU: u8 = 2;
const GATE: u8 = 3;

/// Finishes a whole tile as `HOW` says, which is that of `place.finish`, and puts it in its place. No closures here: what
/// they call does not get the wide instructions.
#[inline(always)]
fn put<S: Simd, const ROWS: usize, const HOW: u8>(
    simd: S,
    sums: [[S::f32s; 2]; ROWS],
    place: Place<'_>,
    out: &Out<'_>,
) {
    let (lanes, zero) = (S::F32_LANES, simd.splat_f32s(0.0));
    let (bias, gate, scale) = match place.finish {
        Finish::Plain => (&[][..], &[][..], 1.0),
        Finish::Bias(bias) | Finish::BiasRelu(bias) => (bias, &[][..], 1.0),
        Finish::Gate(Gate { output, scale }) => (&[][..], output, scale),
    };
    let scale = simd.splat_f32s(scale);
    let bias = match HOW {
        BIAS | BIAS_RELU => {
            let values = S::as_simd_f32s(&bias[place.column..place.column + 2 * lanes]).0;
            [values[0], values[1]]
        }
        _ => [zero; 2],
    };
    let first = place.row * out.columns + place.column;
    assert!(first + (ROWS - 1) * out.columns + 2 * lanes <= out.len);
    for (row, sums) in sums.into_iter().enumerate() {
        for (half, sum) in sums.into_iter().enumerate() {
            let at = first + row * out.columns + half * lanes;
            #[allow(unsafe_code, reason = "threads write different columns of the same rows")]
            // SAFETY: within the slice that `Out::new` took, as asserted above; a vector is `lanes` numbers of any bits.
            let vector = unsafe { out.values.add(at) }.cast::<S::f32s>();
            let mut value = sum;
            if !place.begins {
                #[allow(unsafe_code, reason = "as above")]
                // SAFETY: as above; one thread has the columns of this tile.
                let before = unsafe { vector.read_unaligned() };
                value = simd.add_f32s(value, before);
            }
            value = match HOW {
                BIAS => simd.add_f32s(value, bias[half]),
                BIAS_RELU => {
                    let value = simd.add_f32s(value, bias[half]);
                    // Not a maximum, which would turn NaN into 0 and hide that a network diverges.
                    simd.select_f32s(simd.less_than_f32s(value, zero), zero, value)
                }
                GATE => {
                    let output = S::as_simd_f32s(&gate[at..at + lanes]).0[0];
                    let open = simd.greater_than_f32s(output, zero);
                    simd.select_f32s(open, simd.mul_f32s(value, scale), zero)
                }
                _ => value,
            };
            #[allow(unsafe_code, reason = "as above")]
            // SAFETY: as above.
            unsafe {
                vector.write_unaligned(value);
            }
        }
    }
}

/// The same where there are less columns than two vectors have: on a whole tile beside, with zeros where there are none.
#[inline(always)]
fn write_edge<S: Simd, const ROWS: usize>(
    simd: S,
    sums: [[S::f32s; 2]; ROWS],
    place: Place<'_>,
    out: &Out<'_>,
) {
    let (wide, width) = (2 * S::F32_LANES, place.width);
    let [mut tile, mut numbers] = [[0.0; HEIGHT * 2 * WIDEST]; 2];
    let lines = |row: usize| (row * wide..row * wide + width, (place.row + row) * out.columns + place.column);
    for row in 0..ROWS {
        let (own, at) = lines(row);
        if !place.begins {
            #[allow(unsafe_code, reason = "threads write different columns of the same rows")]
            // SAFETY: one thread has the columns of this panel, and the line goes at once.
            tile[own.clone()].copy_from_slice(unsafe { out.line(at, width) });
        }
        if let Finish::Gate(Gate { output, .. }) = place.finish {
            numbers[own].copy_from_slice(&output[at..at + width]);
        }
    }
    let finish = match place.finish {
        Finish::Plain => Finish::Plain,
        Finish::Bias(bias) | Finish::BiasRelu(bias) => {
            numbers[..width].copy_from_slice(&bias[place.column..place.column + width]);
            let bias = &numbers[..wide];
            if matches!(place.finish, Finish::Bias(_)) { Finish::Bias(bias) } else { Finish::BiasRelu(bias) }
        }
        Finish::Gate(Gate { scale, .. }) => Finish::Gate(Gate { output: &numbers, scale }),
    };
    let whole = Place { row: 0, column: 0, width: wide, begins: place.begins, finish };
    write_whole(simd, sums, whole, &Out::new(&mut tile, wide));
    for row in 0..ROWS {
        let (own, at) = lines(row);
        #[allow(unsafe_code, reason = "threads write different columns of the same rows")]
        // SAFETY: one thread has the columns of this panel, and the line goes at once.
        unsafe { out.line(at, width) }.copy_from_slice(&tile[own]);
    }
}
