//! Weights that take a step along their gradient while its sums are still in registers: the division and the root of an
//! optimizer are done beside the products of the next tile.

use pulp::Simd;

use super::tile::{Out, Place};
use crate::optimizers::{Pace, Parameters, Stride};

/// Weights of the shape of a product, which is their gradient.
pub(super) struct Descent<'a> {
    /// They, and what their rule remembers.
    state: [Out<'a>; 3],
    pace: Pace,
}

impl<'a> Descent<'a> {
    /// `parameters` of `columns` columns.
    pub(super) fn new(parameters: Parameters<'a>, columns: usize, pace: Pace) -> Self {
        let Parameters { values, first, second } = parameters;
        Self { state: [values, first, second].map(|values| Out::new(values, columns)), pace }
    }
}

/// Takes a step along the sums of a tile, on what is in `partial` already where they are not the first.
#[inline(always)]
pub(super) fn put<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    sums: &[[S::f32s; VECTORS]; ROWS],
    place: Place<'_>,
    partial: &Out<'_>,
    descent: &Descent<'_>,
) {
    let stride = Stride::new(simd, descent.pace);
    let lanes = S::F32_LANES;
    for (row, sums) in sums.iter().enumerate() {
        let at = partial.at(place.row + row, place.column);
        for (number, sum) in sums.iter().enumerate() {
            let (at, first) = (at + number * lanes, number * lanes);
            if first >= place.width {
                break;
            }
            let width = lanes.min(place.width - first);
            #[allow(unsafe_code, reason = "threads write different columns of the same rows")]
            // SAFETY: one thread has the columns of this panel, and the lines go at once; they are of different slices.
            let (state, partial) = unsafe {
                (descent.state.each_ref().map(|values| values.line(at, width)), partial.line(at, width))
            };
            let mut slope = *sum;
            if !place.begins {
                slope = simd.add_f32s(slope, load(simd, partial));
            }
            let [value, first, second] = state;
            // No closures here: what they call does not get the wide instructions.
            let now = [load(simd, value), load(simd, first), load(simd, second)];
            let [new_value, new_first, new_second] = stride.take(simd, now, slope);
            store(simd, value, new_value);
            store(simd, first, new_first);
            store(simd, second, new_second);
        }
    }
}

#[inline(always)]
fn load<S: Simd>(simd: S, values: &[f32]) -> S::f32s {
    match S::as_simd_f32s(values).0 {
        [whole] => *whole,
        _ => simd.partial_load_f32s(values),
    }
}

#[inline(always)]
fn store<S: Simd>(simd: S, values: &mut [f32], vector: S::f32s) {
    match S::as_mut_simd_f32s(values).0 {
        [whole] => *whole = vector,
        _ => simd.partial_store_f32s(values, vector),
    }
}
