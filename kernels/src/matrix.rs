//! Products of matrices: a safe front of the crate gemm.

use gemm::Parallelism;

/// Multiplications from which on a product is shared by threads; a smaller one takes less than 0.1 ms on one, and
/// waiting for others costs as much.
const SHARED_FROM: usize = 4 << 20;

/// A matrix in a slice.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
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
        Self { values, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The same values with rows and columns exchanged; nothing is copied.
    pub fn transposed(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// What becomes of the values that are already where a product goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// They are replaced.
    Replace,
    /// The product is added to them.
    Add,
}

/// Writes `left` times `right` to `out`, row-major, shape `[left.rows, right.columns]`.
///
/// Large products are shared by the threads of the current rayon pool: each element is computed by one thread, its
/// terms in an order that does not depend on their number.
///
/// # Panics
/// When the shapes do not fit.
pub fn multiply(left: Matrix<'_>, right: Matrix<'_>, existing: Existing, out: &mut [f32]) {
    assert_eq!(left.columns, right.rows, "the columns of left must be the rows of right");
    let (rows, columns, depth) = (left.rows, right.columns, left.columns);
    assert_eq!(Some(out.len()), rows.checked_mul(columns), "out must have shape [{rows}, {columns}]");
    if rows == 0 || columns == 0 {
        return;
    }
    if depth == 0 {
        if existing == Existing::Replace {
            out.fill(0.0);
        }
        return;
    }
    let size = rows.saturating_mul(columns).saturating_mul(depth);
    let threads = if size >= SHARED_FROM { Parallelism::Rayon(0) } else { Parallelism::None };
    let stride = |stride: usize| isize::try_from(stride).unwrap_or(isize::MAX);
    #[allow(unsafe_code, reason = "gemm takes pointers")]
    // SAFETY: `Matrix::new` and the assertions above hold every index below within its slice: the greatest one of a
    // matrix is (rows - 1) * row_stride + (columns - 1) * column_stride = rows * columns - 1. `out` is borrowed
    // mutably, so that it overlaps neither of the others.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            out.as_mut_ptr(),
            1,
            stride(columns),
            existing == Existing::Add,
            left.values.as_ptr(),
            stride(left.column_stride),
            stride(left.row_stride),
            right.values.as_ptr(),
            stride(right.column_stride),
            stride(right.row_stride),
            1.0,
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::tests::Noise;

    fn reference(left: Matrix<'_>, right: Matrix<'_>) -> Vec<f64> {
        let at =
            |m: Matrix<'_>, r: usize, c: usize| f64::from(m.values[r * m.row_stride + c * m.column_stride]);
        let element = |r, c| (0..left.columns).map(|k| at(left, r, k) * at(right, k, c)).sum();
        (0..left.rows).flat_map(|r| (0..right.columns).map(move |c| element(r, c))).collect()
    }

    #[test]
    fn products_agree_with_the_naive_ones_whichever_side_is_transposed() {
        let mut noise = Noise(7);
        for case in 0..200 {
            let (m, n, k) = (1 + noise.below(40), 1 + noise.below(40), noise.below(60));
            let mut draw = |count: usize| (0..count).map(|_| noise.unit() - 0.5).collect::<Vec<_>>();
            let (a, b, before) = (draw(m * k), draw(k * n), draw(m * n));
            let left = if case % 2 == 0 { Matrix::new(&a, m, k) } else { Matrix::new(&a, k, m).transposed() };
            let right =
                if case % 3 == 0 { Matrix::new(&b, k, n) } else { Matrix::new(&b, n, k).transposed() };
            let want = reference(left, right);
            for existing in [Existing::Replace, Existing::Add] {
                let mut out = before.clone();
                multiply(left, right, existing, &mut out);
                for ((got, want), before) in out.iter().zip(&want).zip(&before) {
                    let want = want + if existing == Existing::Add { f64::from(*before) } else { 0.0 };
                    assert!((f64::from(*got) - want).abs() < 1e-5, "{got} {want}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "shape")]
    fn a_wrong_shape_is_a_defect() {
        let values = [0.0; 6];
        multiply(Matrix::new(&values, 2, 3), Matrix::new(&values, 3, 2), Existing::Replace, &mut [0.0; 3]);
    }
}
