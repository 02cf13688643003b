//! Products that pass over the zeros of their left side, which a ReLU leaves half of and more.
//!
//! ```text
//! left  --a bit for each term that is not 0--> 64 terms of a row are a word
//! right --64 terms of 128 columns, or more of fewer--> panel (first-level cache)
//! row by row: its sums stay in registers, for each bit of its words a line of the panel is added --finish--> out
//! ```
//!
//! The order of additions is that of products which take all terms, and so are the bits. A line is loaded for each addition
//! of a vector, where those products have it in a register: at half of the terms it is two thirds of the time.

mod bits;

use std::cell::Cell;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::tile::{self, Left, Out, Place};
use super::{Finish, Matrix, Order, in_parts, pack, pieces_of};
use crate::simd::{dispatch_widest, lanes};
use crate::transposition::transpose;

/// As many terms as a word has bits.
const DEPTH: usize = 64;

/// Columns of a panel are a multiple of this.
const UNIT: usize = 16;

/// Rows whose sums are kept while terms go on: they fit a second-level cache.
const ROWS: usize = 512;

/// Lines, and values of each, that are looked at to guess how many zeros there are.
const SAMPLE: usize = 16;

/// Fewest rows, units of columns and terms for which it pays to find the zeros.
const LEAST: [usize; 3] = [SAMPLE, 2, SAMPLE];

/// Most units of a panel of [`DEPTH`] terms: it fits a first-level cache, and a row's sums the registers.
#[inline(always)]
const fn widest(lanes: usize) -> usize {
    if lanes == UNIT { 8 } else { 6 }
}

/// The terms of the left side that are not 0.
#[derive(Debug, Default)]
struct Kept {
    /// A bit for each: a word a row for the first stretch of terms, then for the next one.
    words: Vec<u64>,
    /// The left side row by row, where it lies otherwise.
    turned: Vec<f32>,
}

thread_local! {
    /// Room of the last product.
    static KEPT: Cell<Kept> = Cell::default();
}

/// Writes the product to `out` where passing over zeros pays, and says whether it did. Shapes must fit.
pub(super) fn multiply(left: Matrix<'_>, right: Matrix<'_>, finish: Finish<'_>, out: &Out<'_>) -> bool {
    let (rows, terms, units) = (left.rows, left.columns, right.columns.div_ceil(UNIT));
    let large = [rows, units, terms].iter().zip(LEAST).all(|(have, least)| *have >= least);
    if !large || lanes() < 8 || (left.picked.is_some() && left.order == Order::Columns) {
        return false;
    }
    let panels = units.div_ceil(widest(UNIT));
    // Each term that stays costs a factor, and vectors that come from the cache and not from registers; finding them costs
    // a tenth.
    let pays = |kept: usize, all: usize| kept * (units + panels) * 10 <= all * units * 8;
    let mut kept = KEPT.take();
    let done = pays(sampled(left), SAMPLE * SAMPLE) && {
        let count = kept.gather(left);
        pays(count, rows * terms) && {
            let left = match left.order {
                Order::Rows => left,
                Order::Columns => Matrix::new(&kept.turned, rows, terms),
            };
            in_parts(count * right.columns, right.columns, UNIT, |columns, room| {
                dispatch_widest(Piece { words: &kept.words, left, right, columns, finish, out, room });
            });
            true
        }
    };
    KEPT.set(kept);
    done
}

/// How many of [`SAMPLE`] times [`SAMPLE`] values are not 0: some of each of some lines, each time further right.
fn sampled(left: Matrix<'_>) -> usize {
    let (lines, length) = match left.order {
        Order::Rows => (left.rows, left.columns),
        Order::Columns => (left.columns, left.rows),
    };
    let values = |number: usize| {
        let first = number * (length - SAMPLE) / SAMPLE;
        &left.line(number * lines / SAMPLE)[first..first + SAMPLE]
    };
    (0..SAMPLE).flat_map(values).filter(|value| **value != 0.0).count()
}

impl Kept {
    /// Finds them, and says how many they are.
    fn gather(&mut self, left: Matrix<'_>) -> usize {
        let (rows, terms) = (left.rows, left.columns);
        if left.order == Order::Columns {
            self.turned.resize(rows * terms, 0.0);
            transpose(left.values, terms, rows, &mut self.turned);
        }
        let values = match left.order {
            Order::Rows => left,
            Order::Columns => Matrix::new(&self.turned, rows, terms),
        };
        bits::gather(values, &mut self.words)
    }
}

/// Some terms, of one piece.
struct Stretch {
    terms: Range<usize>,
    /// Number of its first word.
    word: usize,
    /// Whether it is the first one of its piece, and the last one.
    begins: bool,
    ends: bool,
}

/// All terms, up to `at_once` words of them together.
fn stretches(terms: usize, at_once: usize) -> impl Iterator<Item = Stretch> {
    let (pieces, depth) = pieces_of(terms);
    let words = depth.div_ceil(DEPTH);
    (0..pieces).flat_map(move |piece| {
        let (first, end) = (piece * depth, ((piece + 1) * depth).min(terms));
        (first..end).step_by(DEPTH * at_once).map(move |start| {
            let terms = start..(start + DEPTH * at_once).min(end);
            let word = piece * words + (start - first) / DEPTH;
            Stretch { begins: start == first, ends: terms.end == end, terms, word }
        })
    })
}

/// Some columns of a product.
struct Piece<'a> {
    words: &'a [u64],
    left: Matrix<'a>,
    right: Matrix<'a>,
    columns: Range<usize>,
    finish: Finish<'a>,
    out: &'a Out<'a>,
    room: &'a mut Vec<f32>,
}

impl WithSimd for Piece<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { words, left, right, columns, finish, out, room } = self;
        let most = widest(S::F32_LANES);
        let size = (DEPTH + left.rows.min(ROWS)) * most * UNIT;
        if room.len() < size + UNIT {
            room.resize(size + UNIT, 0.0);
        }
        // A vector that lies in two lines of the cache takes twice as long to load.
        let begin = room.as_ptr().align_offset(UNIT * size_of::<f32>()).min(UNIT);
        let (panel, sums) = room[begin..begin + size].split_at_mut(DEPTH * most * UNIT);
        let all = columns.len().div_ceil(UNIT);
        let (_, depth) = pieces_of(left.columns);
        let panels = all.div_ceil(most).max(1);
        let mut column = columns.start;
        for number in 0..panels {
            // As alike in width as can be.
            let units = all / panels + usize::from(number < all % panels);
            let (width, wide) = ((units * UNIT).min(columns.end - column), units * UNIT);
            let at_once = (most / units).max(1);
            let firsts = (0..left.rows).step_by(ROWS);
            for (row, stretch) in
                firsts.flat_map(|row| stretches(left.columns, at_once).map(move |it| (row, it)))
            {
                let terms = stretch.terms.clone();
                let panel = &mut panel[..terms.len() * wide];
                pack::panel(right, terms.clone(), (column, width), wide, panel);
                let finish = if terms.end == left.columns { finish } else { Finish::Plain };
                let place = Place { row, column, width, begins: terms.end <= depth, finish };
                let words = &words[stretch.word * left.rows..];
                let some = Terms { words, left: Left::new(left, &terms), stretch };
                macro_rules! down {
                    ($vectors:literal, $($units:literal)*) => {
                        match units {
                            $($units => down::<S, { $vectors * $units }>(simd, panel, some, sums, place, out),)*
                            _ => {}
                        }
                    };
                }
                // A constant, so that what no CPU of this kind has is not compiled.
                if const { S::F32_LANES == UNIT } {
                    down!(1, 1 2 3 4 5 6 7 8);
                } else {
                    down!(2, 1 2 3 4 5 6);
                }
            }
            column += width;
        }
    }
}

/// Some terms of all rows.
struct Terms<'a> {
    words: &'a [u64],
    left: Left<'a>,
    stretch: Stretch,
}

/// Up to [`ROWS`] rows from that of `place` on. `before` has their sums of those stretches of a piece that went before. How
/// rows end is decided once for all.
#[inline(always)]
fn down<S: Simd, const VECTORS: usize>(
    simd: S,
    panel: &[f32],
    some: Terms<'_>,
    before: &mut [f32],
    place: Place<'_>,
    out: &Out<'_>,
) {
    let wide = VECTORS * S::F32_LANES;
    let rows = place.row..some.left.height().min(place.row + ROWS);
    let before = before[..rows.len() * wide].chunks_exact_mut(wide);
    macro_rules! each {
        ($put:expr) => {
            for (row, before) in rows.zip(before) {
                let before = S::as_mut_simd_f32s(before).0;
                let sums = of_row::<S, VECTORS>(simd, panel, &some, before, row);
                if some.stretch.ends {
                    $put(simd, [sums], Place { row, ..place }, out);
                } else {
                    before.copy_from_slice(&sums);
                }
            }
        };
    }
    tile::ended!(place, each, S, 1, VECTORS, Plain => PLAIN, Bias => BIAS, BiasRelu => BIAS_RELU, Gate => GATE);
}

/// The sums of a row, those of `before` among them unless its stretch begins a piece.
#[inline(always)]
fn of_row<S: Simd, const VECTORS: usize>(
    simd: S,
    panel: &[f32],
    some: &Terms<'_>,
    before: &[S::f32s],
    row: usize,
) -> [S::f32s; VECTORS] {
    let Terms { words, left, stretch: Stretch { terms, begins, .. } } = some;
    let (rows, wide) = (left.height(), VECTORS * S::F32_LANES);
    assert!(panel.len() == terms.len() * wide);
    let [factors] = left.rows::<1>(row);
    let mut sums = [simd.splat_f32s(0.0); VECTORS];
    if !begins {
        sums.copy_from_slice(before);
    }
    for first in (0..terms.len()).step_by(DEPTH) {
        let count = (terms.len() - first).min(DEPTH);
        let mut rest = words[first / DEPTH * rows + row] & (u64::MAX >> (DEPTH - count));
        let (factors, lines) = (factors.wrapping_add(first), panel[first * wide..].as_ptr());
        while rest != 0 {
            let term = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            #[allow(unsafe_code, reason = "two comparisons for few additions")]
            // SAFETY: a bit below `count`, and `left` has as many terms from `first` on.
            let factor = splat(simd, unsafe { *factors.add(term) });
            let line = lines.wrapping_add(term * wide);
            for (sum, vector) in sums.iter_mut().zip(tile::vectors_at::<S, VECTORS>(line)) {
                *sum = simd.mul_add_e_f32s(factor, vector, *sum);
            }
        }
    }
    sums
}

/// `value` in all lanes.
#[inline(always)]
fn splat<S: Simd>(simd: S, value: f32) -> S::f32s {
    #[cfg(target_arch = "x86_64")]
    if const { S::F32_LANES == UNIT } {
        // A CPU that loads one vector of 512 bits at a time loses half of one to a value that is spread as it is loaded, and
        // nothing to an integer.
        let mut bits = value.to_bits();
        #[allow(unsafe_code, reason = "the compiler must not see that it is a load again")]
        // SAFETY: there is no instruction.
        unsafe {
            std::arch::asm!("/* {0:e} */", inout(reg) bits, options(pure, nomem, nostack, preserves_flags));
        }
        return pulp::cast::<S::u32s, S::f32s>(simd.splat_u32s(bits));
    }
    simd.splat_f32s(value)
}
