//! Rows and columns exchanged, in squares that fit registers.

/// Side of a square.
#[cfg(target_arch = "x86_64")]
pub(crate) const SQUARE: usize = 8;

/// Writes `values`, shape `[rows, columns]`, to `out` with rows and columns exchanged: an image of `[channels, pixels]`
/// becomes one of `[pixels, channels]`.
///
/// # Panics
/// When the shapes do not fit.
pub fn transpose(values: &[f32], rows: usize, columns: usize, out: &mut [f32]) {
    assert_eq!(values.len(), rows * columns, "values must have shape [{rows}, {columns}]");
    assert_eq!(out.len(), values.len(), "out must have as many values");
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        let (whole, across) = (rows / SQUARE * SQUARE, columns / SQUARE * SQUARE);
        simd.vectorize(Squares { simd, values, columns, out, rows });
        one_by_one(values, columns, out, rows, (0..whole, across..columns));
        one_by_one(values, columns, out, rows, (whole..rows, 0..columns));
        return;
    }
    one_by_one(values, columns, out, rows, (0..rows, 0..columns));
}

/// The values of some rows and columns.
fn one_by_one(
    values: &[f32],
    columns: usize,
    out: &mut [f32],
    rows: usize,
    (some_rows, some_columns): (std::ops::Range<usize>, std::ops::Range<usize>),
) {
    for row in some_rows {
        for column in some_columns.clone() {
            out[column * rows + row] = values[row * columns + column];
        }
    }
}

/// All whole squares.
#[cfg(target_arch = "x86_64")]
struct Squares<'a> {
    simd: pulp::x86::V3,
    values: &'a [f32],
    columns: usize,
    out: &'a mut [f32],
    rows: usize,
}

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for Squares<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, values, columns, out, rows } = self;
        for row in (0..rows / SQUARE * SQUARE).step_by(SQUARE) {
            for column in (0..columns / SQUARE * SQUARE).step_by(SQUARE) {
                let mut square = [[0.0; SQUARE]; SQUARE];
                for (number, line) in square.iter_mut().enumerate() {
                    line.copy_from_slice(&values[(row + number) * columns + column..][..SQUARE]);
                }
                for (number, line) in turned(simd, square).iter().enumerate() {
                    out[(column + number) * rows + row..][..SQUARE].copy_from_slice(line);
                }
            }
        }
    }
}

/// Rows and columns exchanged: pairs, then fours, then halves.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn turned(simd: pulp::x86::V3, square: [[f32; SQUARE]; SQUARE]) -> [[f32; SQUARE]; SQUARE] {
    let avx = simd.avx;
    let [a, b, c, d, e, f, g, h] = square.map(pulp::cast);
    let low = |a, b| avx._mm256_unpacklo_ps(a, b);
    let high = |a, b| avx._mm256_unpackhi_ps(a, b);
    let (ab, cd, ef, gh) =
        ([low(a, b), high(a, b)], [low(c, d), high(c, d)], [low(e, f), high(e, f)], [low(g, h), high(g, h)]);
    let fours = |[low, high]: [_; 2], [next_low, next_high]: [_; 2]| {
        [
            avx._mm256_shuffle_ps::<0x44>(low, next_low),
            avx._mm256_shuffle_ps::<0xee>(low, next_low),
            avx._mm256_shuffle_ps::<0x44>(high, next_high),
            avx._mm256_shuffle_ps::<0xee>(high, next_high),
        ]
    };
    let ([a, b, c, d], [e, f, g, h]) = (fours(ab, cd), fours(ef, gh));
    let lower = |a, b| avx._mm256_permute2f128_ps::<0x20>(a, b);
    let upper = |a, b| avx._mm256_permute2f128_ps::<0x31>(a, b);
    [lower(a, e), lower(b, f), lower(c, g), lower(d, h), upper(a, e), upper(b, f), upper(c, g), upper(d, h)]
        .map(pulp::cast)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_gets_to_its_place() {
        for (rows, columns) in
            [(0, 3), (3, 0), (1, 1), (1, 9), (8, 8), (49, 32), (32, 49), (17, 23), (7, 100)]
        {
            let values: Vec<f32> = (0..rows * columns).map(|number| number as f32).collect();
            let mut out = vec![-1.0; values.len()];
            transpose(&values, rows, columns, &mut out);
            for (at, value) in out.iter().enumerate() {
                let (row, column) = (at % rows, at / rows);
                assert_eq!(*value, values[row * columns + column], "{rows} x {columns} at {at}");
            }
        }
    }
}
