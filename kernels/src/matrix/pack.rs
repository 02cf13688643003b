//! Copies parts of matrices in the order in which a tile reads them.

use std::ops::Range;

use super::{Matrix, Order};
#[cfg(target_arch = "x86_64")]
use crate::transposition::{IntoColumns, SQUARE, WIDE};

/// Terms `terms` of the columns [first, first + width) of `matrix`, into `panel`, shape `[terms, wide]`, with zeros where
/// there are no more columns.
#[inline(always)]
pub(super) fn panel(
    matrix: Matrix<'_>,
    terms: Range<usize>,
    (first, width): (usize, usize),
    wide: usize,
    panel: &mut [f32],
) {
    if terms.is_empty() {
        return;
    }
    if width < wide {
        panel.fill(0.0);
    }
    match matrix.order {
        Order::Rows => {
            let columns = matrix.columns.max(1);
            if let Some(picked) = matrix.picked {
                let rows = picked[terms].iter().map(|row| &matrix.values[*row as usize * columns..]);
                lines(rows, (first, width), wide, panel);
            } else {
                let rows = matrix.values[terms.start * columns..].chunks_exact(columns);
                lines(rows, (first, width), wide, panel);
            }
        }
        Order::Columns => {
            let done = squares(matrix, (first, width), terms.clone(), wide, panel);
            for number in done..width {
                let column = &matrix.line(first + number)[terms.clone()];
                for (line, value) in panel.chunks_exact_mut(wide).zip(column) {
                    line[number] = *value;
                }
            }
        }
    }
}

/// Copies `width` columns of each row.
#[inline(always)]
fn lines<'a>(
    rows: impl Iterator<Item = &'a [f32]>,
    (first, width): (usize, usize),
    wide: usize,
    panel: &mut [f32],
) {
    for (row, line) in rows.zip(panel.chunks_exact_mut(wide)) {
        // A whole line has a length that the compiler knows.
        if width == wide {
            line.copy_from_slice(&row[first..first + wide]);
        } else {
            line[..width].copy_from_slice(&row[first..first + width]);
        }
    }
}

/// Turns as many of the columns [first, first + width) around as make whole squares, each in vectors, and says how many.
/// Shape of `panel` is `[terms, wide]`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn squares(
    matrix: Matrix<'_>,
    (first, width): (usize, usize),
    terms: Range<usize>,
    wide: usize,
    panel: &mut [f32],
) -> usize {
    let Some(simd) = pulp::x86::V3::try_new() else { return 0 };
    let line = |number: usize| &matrix.line(first + number)[terms.clone()];
    let mut done = 0;
    while done + WIDE <= width {
        let lines: [_; WIDE] = std::array::from_fn(|number| line(done + number));
        simd.vectorize(IntoColumns { simd, lines, out: &mut panel[done..], apart: wide });
        done += WIDE;
    }
    while done + SQUARE <= width {
        let lines: [_; SQUARE] = std::array::from_fn(|number| line(done + number));
        simd.vectorize(IntoColumns { simd, lines, out: &mut panel[done..], apart: wide });
        done += SQUARE;
    }
    done
}

#[cfg(not(target_arch = "x86_64"))]
fn squares(_: Matrix<'_>, _: (usize, usize), _: Range<usize>, _: usize, _: &mut [f32]) -> usize {
    0
}
