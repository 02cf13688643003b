//! Rows and columns exchanged, in squares that fit registers.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m128, __m256};

/// Side of a square.
#[cfg(target_arch = "x86_64")]
const SQUARE: usize = 8;

/// Squares side by side that make whole lines of a cache, which are then written at once.
#[cfg(target_arch = "x86_64")]
const WIDE: usize = 2 * SQUARE;

/// Writes `values`, shape `[rows, columns]`, to `out` with rows and columns exchanged: an image of `[channels, pixels]`
/// becomes one of `[pixels, channels]`.
///
/// # Panics
/// When the shapes do not fit.
pub fn transpose(values: &[f32], rows: usize, columns: usize, out: &mut [f32]) {
    assert_eq!(values.len(), rows * columns, "values must have shape [{rows}, {columns}]");
    assert_eq!(out.len(), values.len(), "out must have as many values");
    if columns > 0 {
        into_columns(rows, |row| &values[row * columns..(row + 1) * columns], out, rows);
    }
}

/// `count` lines of the same length become the first columns of `out`, whose own lines begin `apart` values after each
/// other.
#[inline(always)]
pub(crate) fn into_columns<'a>(
    count: usize,
    line: impl Fn(usize) -> &'a [f32],
    out: &mut [f32],
    apart: usize,
) {
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        while done + WIDE <= count {
            let lines: [_; WIDE] = std::array::from_fn(|number| line(done + number));
            simd.vectorize(IntoColumns { simd, lines, out: &mut out[done..], apart });
            done += WIDE;
        }
        while done + SQUARE <= count {
            let lines: [_; SQUARE] = std::array::from_fn(|number| line(done + number));
            simd.vectorize(IntoColumns { simd, lines, out: &mut out[done..], apart });
            done += SQUARE;
        }
    }
    for number in done..count {
        for (values, value) in out.chunks_mut(apart).zip(line(number)) {
            values[number] = *value;
        }
    }
}

/// [`SQUARE`] or [`WIDE`] lines of the same length become the first columns of `out`, whose own lines begin `apart` values
/// after each other.
#[cfg(target_arch = "x86_64")]
struct IntoColumns<'a, const LINES: usize> {
    simd: pulp::x86::V3,
    lines: [&'a [f32]; LINES],
    out: &'a mut [f32],
    apart: usize,
}

#[cfg(target_arch = "x86_64")]
impl<const LINES: usize> pulp::NullaryFnOnce for IntoColumns<'_, LINES> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, lines, out, apart } = self;
        let length = lines[0].len();
        let whole = length - length % SQUARE;
        assert!(lines.iter().all(|line| line.len() == length));
        assert!(whole == 0 || (whole - 1) * apart + LINES <= out.len());
        for first in (0..whole).step_by(SQUARE) {
            for (place, lines) in lines.as_chunks::<SQUARE>().0.iter().enumerate() {
                #[allow(unsafe_code, reason = "comparisons took twice as long as all the rest")]
                // SAFETY: each line has SQUARE values from `first` on, as asserted; a vector is numbers of any bits.
                let square = lines
                    .map(|line| unsafe { line.as_ptr().add(first).cast::<[__m128; 2]>().read_unaligned() });
                for (number, values) in turned(simd, square).into_iter().enumerate() {
                    let at = (first + number) * apart + place * SQUARE;
                    #[allow(unsafe_code, reason = "as above")]
                    // SAFETY: within `out`, as asserted.
                    unsafe {
                        out.as_mut_ptr().add(at).cast::<__m256>().write_unaligned(values);
                    }
                }
            }
        }
        for (at, out) in (whole..length).zip(out.chunks_mut(apart).skip(whole)) {
            for (value, line) in out.iter_mut().zip(lines) {
                *value = line[at];
            }
        }
    }
}

/// Rows and columns exchanged: halves as they are loaded, which is no work for the unit that moves values, then pairs, then
/// fours.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn turned(simd: pulp::x86::V3, square: [[__m128; 2]; SQUARE]) -> [__m256; SQUARE] {
    let [a, b, c, d, e, f, g, h] = square;
    let first = [[a[0], e[0]], [b[0], f[0]], [c[0], g[0]], [d[0], h[0]]];
    let last = [[a[1], e[1]], [b[1], f[1]], [c[1], g[1]], [d[1], h[1]]];
    pulp::cast([fours(simd, first), fours(simd, last)])
}

/// Four columns of four rows in the lower halves, and of the next four in the upper ones.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn fours(simd: pulp::x86::V3, rows: [[__m128; 2]; 4]) -> [__m256; 4] {
    let avx = simd.avx;
    let [a, b, c, d] =
        rows.map(|[lower, upper]| avx._mm256_insertf128_ps::<1>(avx._mm256_castps128_ps256(lower), upper));
    let (ab, cd) = (avx._mm256_unpacklo_ps(a, b), avx._mm256_unpacklo_ps(c, d));
    let (ab_high, cd_high) = (avx._mm256_unpackhi_ps(a, b), avx._mm256_unpackhi_ps(c, d));
    [
        avx._mm256_shuffle_ps::<0x44>(ab, cd),
        avx._mm256_shuffle_ps::<0xee>(ab, cd),
        avx._mm256_shuffle_ps::<0x44>(ab_high, cd_high),
        avx._mm256_shuffle_ps::<0xee>(ab_high, cd_high),
    ]
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
