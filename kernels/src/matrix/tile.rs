//! Tiles of a product: some rows by one or two vectors of columns, whose sums stay in registers.

use std::marker::PhantomData;
use std::ops::Range;

use pulp::Simd;

use super::{Finish, Gate, Matrix, Order};

/// Most values in a vector of any CPU.
const WIDEST: usize = 16;

/// Most rows of a tile on any CPU.
const HIGHEST: usize = 16;

/// Vectors side by side in a tile. One of 512 bits: beneath each other there are enough of them to keep the arithmetic
/// busy, and fewer columns are left over at the edge.
#[inline(always)]
const fn vectors(lanes: usize) -> usize {
    if lanes == WIDEST { 1 } else { 2 }
}

/// Columns of a tile.
#[inline(always)]
pub(super) const fn width(lanes: usize) -> usize {
    vectors(lanes) * lanes
}

/// Most rows of a tile. With vectors of up to 256 bits, two sums a row, two vectors of the panel and a factor fill sixteen
/// registers. With 512 bits there are 32, and the registers for the addresses of rows come to their end first.
#[inline(always)]
pub(super) const fn height(lanes: usize, order: Order) -> usize {
    match (lanes, order) {
        (WIDEST, Order::Rows) => 12,
        (WIDEST, Order::Columns) => HIGHEST,
        _ => 6,
    }
}

/// How often a panel may be looked at where it is, if its lines lie side by side. One vector of a panel is followed by a
/// dozen additions or more with 512 bits, which is long enough for the next one to come from the second-level cache.
#[inline(always)]
pub(super) const fn looks(lanes: usize) -> usize {
    if lanes == WIDEST { 24 } else { 1 }
}

/// Some terms of the left side.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    matrix: Matrix<'a>,
    first: usize,
    depth: usize,
}

impl<'a> Left<'a> {
    /// The terms `terms` of `matrix`.
    pub(super) fn new(matrix: Matrix<'a>, terms: &Range<usize>) -> Self {
        assert!(terms.start <= terms.end && terms.end <= matrix.columns);
        Self { matrix, first: terms.start, depth: terms.len() }
    }

    /// How many rows it has.
    #[inline(always)]
    pub(super) fn height(&self) -> usize {
        self.matrix.rows
    }

    /// Where the terms of the rows from `row` on begin; their order must be that of rows.
    #[inline(always)]
    pub(super) fn rows<const ROWS: usize>(&self, row: usize) -> [*const f32; ROWS] {
        let Matrix { values, columns, .. } = self.matrix;
        let begin = values.as_ptr().wrapping_add(self.first);
        let mut starts = [begin; ROWS];
        if let Some(picked) = self.matrix.picked {
            // They were compared with the number of rows when the matrix was made.
            for (start, place) in starts.iter_mut().zip(&picked[row..row + ROWS]) {
                *start = begin.wrapping_add(*place as usize * columns);
            }
        } else {
            assert!((row + ROWS) * columns <= values.len());
            for (number, start) in starts.iter_mut().enumerate() {
                *start = begin.wrapping_add((row + number) * columns);
            }
        }
        starts
    }
}

/// Some terms of as many columns of the right side as a tile has.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    values: &'a [f32],
    /// From one term to the next.
    line: usize,
    terms: usize,
    width: usize,
}

impl<'a> Panel<'a> {
    /// `terms` lines of `width` columns, `line` values apart.
    pub(super) fn new(values: &'a [f32], line: usize, terms: usize, width: usize) -> Self {
        assert!(terms == 0 || (terms - 1) * line + width <= values.len());
        Self { values, line, terms, width }
    }
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

/// All rows of `left` times `panel`. The tiles are as alike in height as can be: a low one keeps the arithmetic waiting
/// for its sums.
#[inline(always)]
pub(super) fn down<S: Simd>(simd: S, left: Left<'_>, panel: Panel<'_>, mut place: Place<'_>, out: &Out<'_>) {
    assert!(panel.terms == left.depth && panel.width == width(S::F32_LANES));
    let rows = left.matrix.rows;
    let count = rows.div_ceil(height(S::F32_LANES, left.matrix.order)).max(1);
    let runs = [(rows / count + 1, rows % count), (rows / count, count - rows % count)];
    macro_rules! down {
        ($work:ident, $vectors:literal, $($heights:literal)*) => {
            for (height, count) in runs {
                match height {
                    $($heights => $work::<S, $heights, $vectors>(simd, left, panel, place, count, out),)*
                    _ => {}
                }
                place.row += height * count;
            }
        };
    }
    // A constant, so that what no CPU of this kind has is not compiled.
    if const { vectors(S::F32_LANES) == 1 } {
        match left.matrix.order {
            Order::Rows => down!(rows_down, 1, 1 2 3 4 5 6 7 8 9 10 11 12),
            Order::Columns => down!(columns_down, 1, 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16),
        }
    } else {
        match left.matrix.order {
            Order::Rows => down!(rows_down, 2, 1 2 3 4 5 6),
            Order::Columns => down!(columns_down, 2, 1 2 3 4 5 6),
        }
    }
}

/// Runs `$each!` with what finishes a tile as `$place` says and puts it in its place. So it is decided once for all tiles
/// that end alike, whose sums stay in registers.
macro_rules! ended {
    ($place:ident, $each:ident, $simd:ty, $rows:expr, $vectors:expr, $($finish:ident => $how:ident),*) => {
        match $place.finish {
            $($crate::matrix::Finish::$finish { .. } if $place.width == $vectors * <$simd>::F32_LANES => {
                $each!($crate::matrix::tile::put::<$simd, $rows, $vectors, { $crate::matrix::tile::$how }>)
            })*
            _ => $each!($crate::matrix::tile::put_edge),
        }
    };
}
pub(super) use ended;

/// `count` tiles, one beneath the other.
macro_rules! tiles_down {
    ($name:ident, $of:ident, $($finish:ident => $how:ident),*) => {
        #[inline(always)]
        fn $name<S: Simd, const ROWS: usize, const VECTORS: usize>(
            simd: S,
            left: Left<'_>,
            panel: Panel<'_>,
            place: Place<'_>,
            count: usize,
            out: &Out<'_>,
        ) {
            macro_rules! each {
                ($put:expr) => {
                    for tile in 0..count {
                        let place = Place { row: place.row + tile * ROWS, ..place };
                        let sums = $of::<S, ROWS, VECTORS>(simd, left, place.row, panel);
                        $put(simd, sums, place, out);
                    }
                };
            }
            ended!(place, each, S, ROWS, VECTORS, $($finish => $how),*);
        }
    };
}

tiles_down!(rows_down, of_rows, Plain => PLAIN, Bias => BIAS, BiasRelu => BIAS_RELU, Gate => GATE);
// Those of the gradient by weights, which nothing is done with.
tiles_down!(columns_down, of_columns, Plain => PLAIN);

#[inline(always)]
fn of_rows<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    left: Left<'_>,
    row: usize,
    panel: Panel<'_>,
) -> [[S::f32s; VECTORS]; ROWS] {
    let rows = left.rows::<ROWS>(row);
    let mut line = panel.values.as_ptr();
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    for term in 0..left.depth {
        let vectors = vectors_at::<S, VECTORS>(line);
        line = line.wrapping_add(panel.line);
        for (row, sums) in rows.iter().zip(&mut sums) {
            #[allow(unsafe_code, reason = "six comparisons for twelve products cost a tenth")]
            // SAFETY: each row has `left.depth` terms from there on, as asserted when `left` and `rows` were made.
            let factor = simd.splat_f32s(unsafe { *row.add(term) });
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                *sum = simd.mul_add_e_f32s(factor, vector, *sum);
            }
        }
    }
    sums
}

#[inline(always)]
fn of_columns<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    left: Left<'_>,
    row: usize,
    panel: Panel<'_>,
) -> [[S::f32s; VECTORS]; ROWS] {
    let Matrix { values, rows, picked, .. } = left.matrix;
    let terms = left.first..left.first + left.depth;
    assert!(row + ROWS <= rows && (picked.is_some() || terms.end * rows <= values.len()));
    let begin = values.as_ptr().wrapping_add(row);
    let mut line = panel.values.as_ptr();
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    macro_rules! add {
        ($places:expr) => {
            for place in $places {
                let vectors = vectors_at::<S, VECTORS>(line);
                line = line.wrapping_add(panel.line);
                let column = begin.wrapping_add(place * rows);
                for (row, sums) in sums.iter_mut().enumerate() {
                    #[allow(unsafe_code, reason = "as above")]
                    // SAFETY: within the columns that there are: as asserted above, or when they were picked.
                    let factor = simd.splat_f32s(unsafe { *column.add(row) });
                    for (sum, vector) in sums.iter_mut().zip(vectors) {
                        *sum = simd.mul_add_e_f32s(factor, vector, *sum);
                    }
                }
            }
        };
    }
    match picked {
        None => add!(terms),
        Some(picked) => add!(picked[terms].iter().map(|place| *place as usize)),
    }
    sums
}

/// A term of a panel.
#[inline(always)]
pub(super) fn vectors_at<S: Simd, const VECTORS: usize>(line: *const f32) -> [S::f32s; VECTORS] {
    #[allow(unsafe_code, reason = "a comparison a term costs a twentieth")]
    // SAFETY: a line of a panel, whose size `Panel::new` and `down` asserted, or as many numbers of a slice that was
    // compared with the place; a vector is numbers of any bits.
    unsafe {
        line.cast::<[S::f32s; VECTORS]>().read_unaligned()
    }
}

pub(super) const PLAIN: u8 = 0;
pub(super) const BIAS: u8 = 1;
pub(super) const BIAS_RELU: u8 = 2;
pub(super) const GATE: u8 = 3;

/// Finishes a whole tile as `HOW` says, which is that of `place.finish`, and puts it in its place. No closures here: what
/// they call does not get the wide instructions.
#[inline(always)]
pub(super) fn put<S: Simd, const ROWS: usize, const VECTORS: usize, const HOW: u8>(
    simd: S,
    sums: [[S::f32s; VECTORS]; ROWS],
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
    let mut biases = [zero; VECTORS];
    if HOW == BIAS || HOW == BIAS_RELU {
        biases = vectors_at::<S, VECTORS>(bias[place.column..place.column + VECTORS * lanes].as_ptr());
    }
    let first = place.row * out.columns + place.column;
    assert!(first + (ROWS - 1) * out.columns + VECTORS * lanes <= out.len);
    assert!(HOW != GATE || gate.len() >= out.len);
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
                BIAS => simd.add_f32s(value, biases[half]),
                BIAS_RELU => {
                    let value = simd.add_f32s(value, biases[half]);
                    // Not a maximum, which would turn NaN into 0 and hide that a network diverges.
                    simd.select_f32s(simd.less_than_f32s(value, zero), zero, value)
                }
                GATE => {
                    let [output] = vectors_at::<S, 1>(gate.as_ptr().wrapping_add(at));
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

/// The same where there are fewer columns than a tile has, or the way in which it ends is rare.
#[inline(always)]
pub(super) fn put_edge<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    sums: [[S::f32s; VECTORS]; ROWS],
    place: Place<'_>,
    out: &Out<'_>,
) {
    let (lanes, zero) = (S::F32_LANES, simd.splat_f32s(0.0));
    let widths: [usize; VECTORS] =
        std::array::from_fn(|vector| lanes.min(place.width.saturating_sub(vector * lanes)));
    let mut biases = [zero; VECTORS];
    if let Finish::Bias(bias) | Finish::BiasRelu(bias) = place.finish {
        for (vector, (own, width)) in biases.iter_mut().zip(widths).enumerate() {
            *own = simd.partial_load_f32s(&bias[place.column + (vector * lanes).min(place.width)..][..width]);
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (vector, (sum, width)) in sums.iter().zip(widths).enumerate() {
            if width == 0 {
                break;
            }
            let at = (place.row + row) * out.columns + place.column + vector * lanes;
            #[allow(unsafe_code, reason = "threads write different columns of the same rows")]
            // SAFETY: one thread has the columns of this panel, and the line goes before the next one comes.
            let line = unsafe { out.line(at, width) };
            let mut value = *sum;
            if !place.begins {
                value = simd.add_f32s(value, simd.partial_load_f32s(line));
            }
            match place.finish {
                Finish::Plain => {}
                Finish::Bias(_) => value = simd.add_f32s(value, biases[vector]),
                Finish::BiasRelu(_) => {
                    value = simd.add_f32s(value, biases[vector]);
                    value = simd.select_f32s(simd.less_than_f32s(value, zero), zero, value);
                }
                Finish::Gate(Gate { output, scale }) => {
                    let output = simd.partial_load_f32s(&output[at..at + width]);
                    value = simd.mul_f32s(value, simd.splat_f32s(scale));
                    value = simd.select_f32s(simd.greater_than_f32s(output, zero), value, zero);
                }
            }
            simd.partial_store_f32s(line, value);
        }
    }
}
