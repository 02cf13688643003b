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
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if let (Some(simd), true) = (pulp::x86::V3::try_new(), columns > 0) {
        for (lines, row) in values.chunks_exact(SQUARE * columns).zip((0..).step_by(SQUARE)) {
            let lines = std::array::from_fn(|line| &lines[line * columns..(line + 1) * columns]);
            simd.vectorize(IntoColumns { simd, lines, out: &mut out[row..], apart: rows });
        }
        done = rows / SQUARE * SQUARE;
    }
    for row in done..rows {
        for column in 0..columns {
            out[column * rows + row] = values[row * columns + column];
        }
    }
}

/// Lines of the same length become the first columns of `out`, whose own lines begin `apart` values after each other.
#[cfg(target_arch = "x86_64")]
pub(crate) struct IntoColumns<'a> {
    pub(crate) simd: pulp::x86::V3,
    pub(crate) lines: [&'a [f32]; SQUARE],
    pub(crate) out: &'a mut [f32],
    pub(crate) apart: usize,
}

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for IntoColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, lines, out, apart } = self;
        let mut squares = lines.map(|line| line.as_chunks::<SQUARE>().0.iter());
        let length = lines[0].len();
        let mut out = out.chunks_mut(apart);
        for _ in 0..length / SQUARE {
            let mut square = [[0.0; SQUARE]; SQUARE];
            for (values, line) in square.iter_mut().zip(&mut squares) {
                if let Some(line) = line.next() {
                    *values = *line;
                }
            }
            for (values, out) in turned(simd, square).iter().zip(&mut out) {
                out[..SQUARE].copy_from_slice(values);
            }
        }
        for (at, out) in (length - length % SQUARE..length).zip(out) {
            for (value, line) in out.iter_mut().zip(lines) {
                *value = line[at];
            }
        }
    }
}

/// Rows and columns exchanged: pairs, then fours, then halves.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn turned(simd: pulp::x86::V3, square: [[f32; SQUARE]; SQUARE]) -> [[f32; SQUARE]; SQUARE] {
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
