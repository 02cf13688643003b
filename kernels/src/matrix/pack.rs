//! Copies parts of matrices in the order in which a tile reads them.

use std::ops::Range;

use super::{Matrix, Order};
use crate::transposition::into_columns;

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
            let column = |number: usize| &matrix.line(first + number)[terms.clone()];
            into_columns(width, column, panel, wide);
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
