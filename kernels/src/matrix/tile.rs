//! Tiles of a product: some rows by one or two vectors of columns, whose sums stay in registers.

use std::marker::PhantomData;
use std::ops::Range;

use pulp::Simd;

use super::descent::{self, Descent};
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

    /// Where the terms of the rows from `row` on begin; their order must be that of rows.
    #[inline(always)]
    fn rows<const ROWS: usize>(&self, row: usize) -> [*const f32; ROWS] {
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
}

impl<'a> Panel<'a> {
    /// `terms` lines of `width` columns, `line` values apart.
    pub(super) fn new(values: &'a [f32], line: usize, terms: usize, width: usize) -> Self {
        assert!(terms == 0 || (terms - 1) * line + width <= values.len());
        Self { values, line }
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
    pub(super) end: End<'a>,
}

/// What becomes of the sums of a tile.
#[derive(Clone, Copy)]
pub(super) enum End<'a> {
    /// They are finished and written.
    Write(Finish<'a>),
    /// They are the gradient by weights, which take a step along it.
    Descend(&'a Descent<'a>),
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

    /// Where a value is.
    #[inline(always)]
    pub(super) fn at(&self, row: usize, column: usize) -> usize {
        row * self.columns + column
    }

    /// `count` values from `at` on.
    ///
    /// # Safety
    /// No other thread touches them meanwhile, and the caller has no other slice of them.
    #[allow(unsafe_code, clippy::mut_from_ref, reason = "threads write different columns of the same rows")]
    #[inline(always)]
    pub(super) unsafe fn line(&self, at: usize, count: usize) -> &mut [f32] {
        assert!(at + count <= self.len);
        // SAFETY: within the slice that `new` took, as asserted; nobody else looks, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.values.add(at), count) }
    }
}

/// All rows of `left` times `panel`. The tiles are as alike in height as can be: a low one keeps the arithmetic waiting
/// for its sums.
#[inline(always)]
pub(super) fn down<S: Simd>(
    simd: S,
    left: Left<'_>,
    panel: Panel<'_>,
    mut place: Place<'_>,
    out: &Out<'_>,
) {
    macro_rules! by_height {
        ($vectors:literal, $height:expr, $tiles:expr, $($heights:literal)*) => {
            match $height {
                $($heights => tiles::<S, $heights, $vectors>(simd, left, panel, place, $tiles, out),)*
                _ => {}
            }
        };
    }
    let rows = left.matrix.rows;
    let count = rows.div_ceil(height(S::F32_LANES, left.matrix.order)).max(1);
    for (height, tiles) in [(rows / count + 1, rows % count), (rows / count, count - rows % count)] {
        if vectors(S::F32_LANES) == 1 {
            by_height!(1, height, tiles, 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
        } else {
            by_height!(2, height, tiles, 1 2 3 4 5 6);
        }
        place.row += height * tiles;
    }
}

/// `count` tiles, one beneath the other.
#[inline(always)]
fn tiles<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    left: Left<'_>,
    panel: Panel<'_>,
    place: Place<'_>,
    count: usize,
    out: &Out<'_>,
) {
    macro_rules! each {
        ($of:ident, $put:expr) => {
            for tile in 0..count {
                let place = Place { row: place.row + tile * ROWS, ..place };
                let sums = $of::<S, ROWS, VECTORS>(simd, left, place.row, panel);
                $put(simd, sums, place, out);
            }
        };
    }
    // Decided once for all tiles: their sums stay in registers until they are written.
    let whole = place.width == VECTORS * S::F32_LANES;
    match (left.matrix.order, place.end) {
        (Order::Rows, End::Write(Finish::Plain)) if whole => each!(of_rows, put::<S, ROWS, VECTORS, PLAIN>),
        (Order::Rows, End::Write(Finish::Bias(_))) if whole => each!(of_rows, put::<S, ROWS, VECTORS, BIAS>),
        (Order::Rows, End::Write(Finish::BiasRelu(_))) if whole => {
            each!(of_rows, put::<S, ROWS, VECTORS, BIAS_RELU>);
        }
        (Order::Rows, End::Write(Finish::Gate(_))) if whole => each!(of_rows, put::<S, ROWS, VECTORS, GATE>),
        (Order::Rows, _) => each!(of_rows, put_rest),
        (Order::Columns, End::Write(Finish::Plain)) if whole => {
            each!(of_columns, put::<S, ROWS, VECTORS, PLAIN>);
        }
        (Order::Columns, _) => each!(of_columns, put_rest),
    }
}

/// Puts a tile in its place that is none of the many.
#[inline(always)]
fn put_rest<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    sums: [[S::f32s; VECTORS]; ROWS],
    place: Place<'_>,
    out: &Out<'_>,
) {
    match place.end {
        End::Descend(descent) => descent::put(simd, &sums, place, out, descent),
        End::Write(finish) => write_edge(simd, sums, place, finish, out),
    }
}

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
fn vectors_at<S: Simd, const VECTORS: usize>(line: *const f32) -> [S::f32s; VECTORS] {
    #[allow(unsafe_code, reason = "a comparison a term costs a twentieth")]
    // SAFETY: `Panel::new` asserted that there are so many lines of this width; a vector is numbers of any bits.
    unsafe {
        line.cast::<[S::f32s; VECTORS]>().read_unaligned()
    }
}

#[inline(always)]
fn write_whole<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    sums: [[S::f32s; VECTORS]; ROWS],
    place: Place<'_>,
    finish: Finish<'_>,
    out: &Out<'_>,
) {
    match finish {
        Finish::Plain => put::<S, ROWS, VECTORS, PLAIN>(simd, sums, place, out),
        Finish::Bias(_) => put::<S, ROWS, VECTORS, BIAS>(simd, sums, place, out),
        Finish::BiasRelu(_) => put::<S, ROWS, VECTORS, BIAS_RELU>(simd, sums, place, out),
        Finish::Gate(_) => put::<S, ROWS, VECTORS, GATE>(simd, sums, place, out),
    }
}

const PLAIN: u8 = 0;
const BIAS: u8 = 1;
const BIAS_RELU: u8 = 2;
const GATE: u8 = 3;

/// Finishes a whole tile as `HOW` says, which is that of `place.end`, and puts it in its place. No closures here: what
/// they call does not get the wide instructions.
#[inline(always)]
fn put<S: Simd, const ROWS: usize, const VECTORS: usize, const HOW: u8>(
    simd: S,
    sums: [[S::f32s; VECTORS]; ROWS],
    place: Place<'_>,
    out: &Out<'_>,
) {
    let (lanes, zero) = (S::F32_LANES, simd.splat_f32s(0.0));
    let (bias, gate, scale) = match place.end {
        End::Write(Finish::Bias(bias) | Finish::BiasRelu(bias)) => (bias, &[][..], 1.0),
        End::Write(Finish::Gate(Gate { output, scale })) => (&[][..], output, scale),
        End::Write(Finish::Plain) | End::Descend(_) => (&[][..], &[][..], 1.0),
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

/// The same where there are fewer columns than a tile has: on a whole tile beside, with zeros where there are none.
#[inline(always)]
fn write_edge<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    sums: [[S::f32s; VECTORS]; ROWS],
    place: Place<'_>,
    finish: Finish<'_>,
    out: &Out<'_>,
) {
    let (wide, width) = (VECTORS * S::F32_LANES, place.width);
    let [mut tile, mut numbers] = [[0.0; HIGHEST * WIDEST]; 2];
    let lines = |row: usize| (row * wide..row * wide + width, (place.row + row) * out.columns + place.column);
    for row in 0..ROWS {
        let (own, at) = lines(row);
        if !place.begins {
            #[allow(unsafe_code, reason = "threads write different columns of the same rows")]
            // SAFETY: one thread has the columns of this panel, and the line goes at once.
            tile[own.clone()].copy_from_slice(unsafe { out.line(at, width) });
        }
        if let Finish::Gate(Gate { output, .. }) = finish {
            numbers[own].copy_from_slice(&output[at..at + width]);
        }
    }
    let inside = match finish {
        Finish::Plain => Finish::Plain,
        Finish::Bias(bias) | Finish::BiasRelu(bias) => {
            numbers[..width].copy_from_slice(&bias[place.column..place.column + width]);
            let bias = &numbers[..wide];
            if matches!(finish, Finish::Bias(_)) { Finish::Bias(bias) } else { Finish::BiasRelu(bias) }
        }
        Finish::Gate(Gate { scale, .. }) => Finish::Gate(Gate { output: &numbers, scale }),
    };
    let whole = Place { row: 0, column: 0, width: wide, begins: place.begins, end: End::Write(inside) };
    write_whole(simd, sums, whole, inside, &Out::new(&mut tile, wide));
    for row in 0..ROWS {
        let (own, at) = lines(row);
        #[allow(unsafe_code, reason = "threads write different columns of the same rows")]
        // SAFETY: one thread has the columns of this panel, and the line goes at once.
        unsafe { out.line(at, width) }.copy_from_slice(&tile[own]);
    }
}
