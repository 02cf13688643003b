//! Products of matrices, with what comes right after a product done while it is still in registers.
//!
//! ```text
//! right --a panel of 2 vectors of columns, some hundred rows deep--> copied side by side (first-level cache)
//! left  --6 rows at a time, from where they are or copied--> tile [6, 2 vectors] in registers --finish--> out
//! ```
//!
//! Invariants: each element is added up in the order of its terms, by one thread, in pieces whose length depends on the
//! shapes alone, so that the same bits come from any number of threads and any width of vectors with fused additions.

mod pack;
mod tile;

use std::cell::RefCell;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::simd::{dispatch, lanes};
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
}

/// What lies side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
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
        assert_eq!(
            Some(values.len()),
            rows.checked_mul(columns),
            "values must have shape [{rows}, {columns}]"
        );
        Self { values, rows, columns, order: Order::Rows }
    }

    /// The same values with rows and columns exchanged; nothing is copied.
    pub fn transposed(self) -> Self {
        let order = match self.order {
            Order::Rows => Order::Columns,
            Order::Columns => Order::Rows,
        };
        Self { values: self.values, rows: self.columns, columns: self.rows, order }
    }

    /// Values between the beginnings of two lines, which are rows or columns.
    fn line(&self) -> usize {
        match self.order {
            Order::Rows => self.columns,
            Order::Columns => self.rows,
        }
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
/// Large products are shared by the threads of the current rayon pool.
///
/// # Panics
/// When the shapes do not fit.
pub fn multiply(left: Matrix<'_>, right: Matrix<'_>, finish: Finish<'_>, out: &mut [f32]) {
    assert_eq!(left.columns, right.rows, "the columns of left must be the rows of right");
    let (rows, columns) = (left.rows, right.columns);
    assert_eq!(Some(out.len()), rows.checked_mul(columns), "out must have shape [{rows}, {columns}]");
    assert!(finish.fits(rows, columns), "{finish:?} must fit shape [{rows}, {columns}]");
    let out = Out::new(out, columns);
    let panel = 2 * lanes();
    let parts = parts_of(rows.saturating_mul(columns).saturating_mul(left.columns), columns.div_ceil(panel));
    let at_once = columns.div_ceil(panel).div_ceil(parts.max(1)) * panel;
    let work = |part: usize| {
        let columns = part * at_once..((part + 1) * at_once).min(columns);
        let product = Product { left, right, finish, columns, out: &out };
        ROOM.with_borrow_mut(|room| dispatch(Piece { product, room }));
    };
    if parts < 2 { (0..parts).for_each(work) } else { (0..parts).into_par_iter().for_each(work) }
}

/// Whether a product with so many multiplications is worth several threads.
pub fn is_shared(multiplications: usize) -> bool {
    multiplications >= SHARED_FROM && rayon::current_num_threads() > 1
}

fn parts_of(multiplications: usize, panels: usize) -> usize {
    if is_shared(multiplications) { panels.min(rayon::current_num_threads()) } else { panels.min(1) }
}

thread_local! {
    /// Room for the copies of parts of both sides.
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Some columns of a product.
struct Product<'a> {
    left: Matrix<'a>,
    right: Matrix<'a>,
    finish: Finish<'a>,
    columns: std::ops::Range<usize>,
    out: &'a Out<'a>,
}

struct Piece<'a> {
    product: Product<'a>,
    room: &'a mut Vec<f32>,
}

impl WithSimd for Piece<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { product: Product { left, right, finish, columns, out }, room } = self;
        let wide = 2 * S::F32_LANES;
        let terms = left.columns;
        let pieces = terms.div_ceil(DEPTH).max(1);
        let depth = terms.div_ceil(pieces);
        let copied = if left.order == Order::Columns { left.rows * depth } else { 0 };
        if room.len() < depth * wide + copied {
            room.resize(depth * wide + copied, 0.0);
        }
        let (panel, copy) = room.split_at_mut(depth * wide);
        for piece in 0..pieces {
            let terms = piece * depth..((piece + 1) * depth).min(terms);
            let panel = &mut panel[..terms.len() * wide];
            if left.order == Order::Columns {
                pack::left(left, terms.clone(), copy);
            }
            let end = piece + 1 == pieces;
            let finish = if end { finish } else { Finish::Plain };
            for column in columns.clone().step_by(wide) {
                let width = wide.min(columns.end - column);
                pack::panel(right, terms.clone(), (column, width), wide, panel);
                let place = Place { row: 0, column, width, begins: piece == 0, finish };
                let left = tile::Left { matrix: left, first: terms.start, depth: terms.len(), copy };
                tile::down(simd, left, panel, place, out);
            }
        }
    }
}

#[cfg(test)]
mod tests;
