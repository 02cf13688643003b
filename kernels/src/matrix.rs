//! Products of matrices, with what comes right after a product done while it is still in registers.
//!
//! ```text
//! right --a panel of 16 columns, some hundred rows deep--> copied side by side (first-level cache) where that pays
//! left  --6 rows at a time, from where they are or copied--> tile [6, 2 vectors] in registers --finish--> out
//! ```
//!
//! Invariants: each element is added up in the order of its terms, by one thread, in pieces whose length depends on the
//! shapes alone, so that the same bits come from any number of threads and any width of vectors with fused additions.

mod pack;
mod skipping;
mod tile;

use std::cell::RefCell;
use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::simd::{dispatch_widest, lanes};
use tile::{Out, Place};

/// Multiplications from which on a product is shared by threads; a smaller one takes less than 40 us on one, and
/// waiting for others costs as much.
const SHARED_FROM: usize = 2 << 20;

/// Most terms that are added up in registers at once: a panel of them fits a first-level cache.
const DEPTH: usize = 400;

/// A matrix in a slice.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    order: Order,
    /// Where its rows (or columns, where those lie side by side) are among those of `values`; None where they are all.
    picked: Option<&'a [u32]>,
}

/// What of a matrix lies side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The values of a row.
    Rows,
    /// Those of a column.
    Columns,
}

impl<'a> Matrix<'a> {
    /// `values`, row-major, of shape `[rows, columns]`.
    ///
    /// # Panics
    /// When `values` does not have that many elements.
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::ordered(values, [rows, columns], Order::Rows)
    }

    /// `values` of `shape`, rows and columns, in `order`.
    ///
    /// # Panics
    /// When `values` does not have that many elements.
    pub fn ordered(values: &'a [f32], shape: [usize; 2], order: Order) -> Self {
        let [rows, columns] = shape;
        assert_eq!(Some(values.len()), rows.checked_mul(columns), "values must have shape {shape:?}");
        Self { values, rows, columns, order, picked: None }
    }

    /// The rows of `values`, of shape `[any, columns]`, that `picked` says, in its order.
    ///
    /// # Panics
    /// When `values` is not a whole number of rows, or lacks one of them.
    pub fn picked(values: &'a [f32], columns: usize, picked: &'a [u32]) -> Self {
        let rows = values.len() / columns.max(1);
        assert_eq!(rows * columns, values.len(), "values must have shape [any, {columns}]");
        let greatest = picked.iter().max();
        let there = columns == 0 || greatest.is_none_or(|row| (*row as usize) < rows);
        assert!(there, "row {greatest:?} is picked of {rows}");
        Self { values, rows: picked.len(), columns, order: Order::Rows, picked: Some(picked) }
    }

    /// The same values with rows and columns exchanged; nothing is copied.
    pub fn transposed(self) -> Self {
        let order = match self.order {
            Order::Rows => Order::Columns,
            Order::Columns => Order::Rows,
        };
        Self { rows: self.columns, columns: self.rows, order, ..self }
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// What lies side by side.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Row `number`, or that column where columns lie side by side.
    #[inline(always)]
    pub(crate) fn line(&self, number: usize) -> &'a [f32] {
        let length = match self.order {
            Order::Rows => self.columns,
            Order::Columns => self.rows,
        };
        let place = self.picked.map_or(number, |picked| picked[number] as usize);
        &self.values[place * length..(place + 1) * length]
    }
}

/// What is done with the elements of a product before they are written.
#[derive(Debug, Clone, Copy)]
pub enum Finish<'a> {
    /// Nothing.
    Plain,
    /// The number of its column is added to each.
    Bias(&'a [f32]),
    /// The number of its column is added to each, and what is then below 0 becomes 0; NaN stays.
    BiasRelu(&'a [f32]),
    /// The way back through a ReLU, and a dropout behind it.
    Gate(Gate<'a>),
}

/// Elements are multiplied by `scale` where `output` is above 0, and become 0 elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    /// What the ReLU, or the dropout behind it, let through; of the shape of the elements.
    pub output: &'a [f32],
    /// Factor of those that stay: 1 without dropout.
    pub scale: f32,
}

impl Finish<'_> {
    fn fits(&self, rows: usize, columns: usize) -> bool {
        match self {
            Self::Plain => true,
            Self::Bias(bias) | Self::BiasRelu(bias) => bias.len() == columns,
            Self::Gate(Gate { output, .. }) => Some(output.len()) == rows.checked_mul(columns),
        }
    }
}

/// Writes `left` times `right`, finished, to `out`, row-major, shape `[left.rows, right.columns]`.
///
/// Where many values of `left` are 0, their terms are left out: what is infinite or not a number in `right` is not seen there.
///
/// Large products are shared by the threads of the current rayon pool.
///
/// # Panics
/// When the shapes do not fit.
pub fn multiply(left: Matrix<'_>, right: Matrix<'_>, finish: Finish<'_>, out: &mut [f32]) {
    let (rows, columns) = (left.rows, right.columns);
    assert_eq!(left.columns, right.rows, "the columns of left must be the rows of right");
    assert_eq!(Some(out.len()), rows.checked_mul(columns), "out must have shape [{rows}, {columns}]");
    assert!(finish.fits(rows, columns), "{finish:?} must fit shape [{rows}, {columns}]");
    let out = Out::new(out, columns);
    if skipping::multiply(left, right, finish, &out) {
        return;
    }
    let multiplications = rows.saturating_mul(columns).saturating_mul(left.columns);
    // Vectors of 256 and of 512 bits make tiles of the same width.
    in_parts(multiplications, columns, tile::width(lanes()), |columns, room| {
        dispatch_widest(Piece { left, right, finish, columns, out: &out, room });
    });
}

/// Does a product, `columns` wide, in parts that are multiples of `panel` wide, with room for copies of both sides.
fn in_parts(
    multiplications: usize,
    columns: usize,
    panel: usize,
    part: impl Fn(Range<usize>, &mut Vec<f32>) + Sync,
) {
    let panels = columns.div_ceil(panel);
    let each = panels.div_ceil(parts_of(multiplications, panels).max(1)).max(1);
    // Fewer than threads, where those before leave nothing to the last ones.
    let (parts, at_once) = (panels.div_ceil(each), each * panel);
    let work = |number: usize| {
        let columns = number * at_once..((number + 1) * at_once).min(columns);
        ROOM.with_borrow_mut(|room| part(columns, room));
    };
    if parts < 2 { (0..parts).for_each(work) } else { (0..parts).into_par_iter().for_each(work) }
}

/// Whether a product with so many multiplications is worth several threads.
pub fn is_shared(multiplications: usize) -> bool {
    multiplications >= SHARED_FROM && rayon::current_num_threads() > 1
}

/// How many pieces so many terms are added up in, and how long those are.
fn pieces_of(terms: usize) -> (usize, usize) {
    let pieces = terms.div_ceil(DEPTH).max(1);
    (pieces, terms.div_ceil(pieces))
}

fn parts_of(multiplications: usize, panels: usize) -> usize {
    if is_shared(multiplications) { panels.min(rayon::current_num_threads()) } else { panels.min(1) }
}

thread_local! {
    /// Room for the copies of parts of both sides.
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Some columns of a product.
struct Piece<'a> {
    left: Matrix<'a>,
    right: Matrix<'a>,
    finish: Finish<'a>,
    columns: Range<usize>,
    out: &'a Out<'a>,
    room: &'a mut Vec<f32>,
}

impl WithSimd for Piece<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { left, right, finish, columns, out, room } = self;
        let wide = tile::width(S::F32_LANES);
        let terms = left.columns;
        let (pieces, depth) = pieces_of(terms);
        if room.len() < depth * wide {
            room.resize(depth * wide, 0.0);
        }
        // A panel that is looked at few times need not be copied.
        let few = left.rows <= tile::height(S::F32_LANES, left.order) * tile::looks(S::F32_LANES)
            && right.order == Order::Rows
            && right.picked.is_none();
        for piece in 0..pieces {
            let terms = piece * depth..((piece + 1) * depth).min(terms);
            let count = terms.len();
            let finish = if piece + 1 == pieces { finish } else { Finish::Plain };
            let left = tile::Left::new(left, &terms);
            for column in columns.clone().step_by(wide) {
                let width = wide.min(columns.end - column);
                let panel = if few && width == wide {
                    let start = terms.start * right.columns + column;
                    let values = right.values.get(start..).unwrap_or_default();
                    tile::Panel::new(values, right.columns, count, wide)
                } else {
                    let room = &mut room[..count * wide];
                    pack::panel(right, terms.clone(), (column, width), wide, room);
                    tile::Panel::new(room, wide, count, wide)
                };
                let place = Place { row: 0, column, width, begins: piece == 0, finish };
                tile::down(simd, left, panel, place, out);
            }
        }
    }
}

#[cfg(test)]
mod tests;
