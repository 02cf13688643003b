//! The way back through a convolution: one image, from the gradient by what came out to those by what went in.

use pulp::{Simd, WithSimd};

use super::{CLOSED, Filters, SIDE, Stage, WIDEST};
use crate::simd::add_multiple;

/// Taps of a filter that are so few that it is not worth while to look at each winner by itself.
const FEW_TAPS: usize = 27;

/// One image on its way back.
pub(super) struct Back<'a> {
    pub(super) stage: Stage,
    pub(super) filters: &'a Filters,
    pub(super) padded: &'a [f32],
    pub(super) winners: &'a [u8],
    pub(super) by_pooled: &'a [f32],
    /// Added to: gradients by weights, shape `[filters, 3, 3, channels]`, then by biases.
    pub(super) sums: &'a mut [f32],
    /// Added to, or empty.
    pub(super) by_padded: &'a mut [f32],
}

impl WithSimd for Back<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.by_padded.is_empty() && self.stage.taps() <= FEW_TAPS {
            self.all_places(simd);
        } else if self.stage.channels.is_multiple_of(S::F32_LANES) {
            self.winners_in_vectors(simd);
        } else {
            self.winners_alone(simd);
        }
    }
}

impl Back<'_> {
    /// Calls `each` with filter, place in the padded image and slope of every winner, filter by filter.
    #[inline(always)]
    fn winners(&self, mut each: impl FnMut(usize, usize, f32)) {
        let Self { stage, winners, by_pooled, .. } = self;
        for filter in 0..stage.filters {
            let mut at = filter;
            for row in 0..stage.height / 2 {
                let mut corner = 2 * row * stage.stride();
                for _ in 0..stage.width / 2 {
                    let winner = winners[at];
                    if winner < CLOSED {
                        let (down, right) = (usize::from(winner / 2), usize::from(winner % 2));
                        each(filter, corner + down * stage.stride() + right * stage.channels, by_pooled[at]);
                    }
                    at += stage.filters;
                    corner += 2 * stage.channels;
                }
            }
        }
    }

    /// Winner by winner.
    #[inline(always)]
    fn winners_alone<S: Simd>(mut self, simd: S) {
        let Stage { channels, filters, .. } = self.stage;
        let (taps, stride, run) = (self.stage.taps(), self.stage.stride(), SIDE * channels);
        let (by_rows, by_bias) = std::mem::take(&mut self.sums).split_at_mut(filters * taps);
        let by_padded = std::mem::take(&mut self.by_padded);
        self.winners(|filter, place, slope| {
            by_bias[filter] += slope;
            let own = filter * taps..(filter + 1) * taps;
            for (tap, sums) in by_rows[own.clone()].chunks_exact_mut(run).enumerate() {
                add_multiple(simd, slope, &self.padded[place + tap * stride..][..run], sums);
            }
            if !by_padded.is_empty() {
                for (tap, weights) in self.filters.rows[own].chunks_exact(run).enumerate() {
                    add_multiple(simd, slope, weights, &mut by_padded[place + tap * stride..][..run]);
                }
            }
        });
    }

    /// The same where the channels are whole vectors, hence all places multiples of one.
    #[inline(always)]
    fn winners_in_vectors<S: Simd>(mut self, simd: S) {
        let Stage { channels, filters, .. } = self.stage;
        let lanes = S::F32_LANES;
        let (taps, stride, run) =
            (self.stage.taps() / lanes, self.stage.stride() / lanes, SIDE * channels / lanes);
        let (by_rows, by_bias) = std::mem::take(&mut self.sums).split_at_mut(filters * self.stage.taps());
        let by_rows = S::as_mut_simd_f32s(by_rows).0;
        let by_padded = S::as_mut_simd_f32s(std::mem::take(&mut self.by_padded)).0;
        let (padded, rows) = (S::as_simd_f32s(self.padded).0, S::as_simd_f32s(&self.filters.rows).0);
        self.winners(|filter, place, slope| {
            by_bias[filter] += slope;
            let (mut place, slopes) = (place / lanes, simd.splat_f32s(slope));
            let own = filter * taps..(filter + 1) * taps;
            let (sums, weights) = (&mut by_rows[own.clone()], &rows[own]);
            let mut first = 0;
            for _ in 0..SIDE {
                let (sums, values) = (&mut sums[first..first + run], &padded[place..place + run]);
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = simd.mul_add_e_f32s(slopes, *value, *sum);
                }
                if !by_padded.is_empty() {
                    let (sums, weights) = (&mut by_padded[place..place + run], &weights[first..first + run]);
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = simd.mul_add_e_f32s(slopes, *weight, *sum);
                    }
                }
                first += run;
                place += stride;
            }
        });
    }

    /// Vectors of filters, with all four places of a window, whose slopes are 0 where they did not win: filters of few
    /// taps are too short to go one by one.
    #[inline(always)]
    fn all_places<S: Simd>(self, simd: S) {
        let Self { stage, padded, winners, by_pooled, sums, .. } = self;
        let (taps, stride, channels, lanes) = (stage.taps(), stage.stride(), stage.channels, S::F32_LANES);
        let mut offsets = [0; FEW_TAPS];
        for (tap, offset) in offsets.iter_mut().enumerate().take(taps) {
            *offset = tap / (SIDE * channels) * stride + tap % (SIDE * channels);
        }
        let last = stride + channels;
        let places = [0, channels, stride, last];
        let zero = simd.splat_f32s(0.0);
        let (by_rows, by_bias) = sums.split_at_mut(stage.filters * taps);
        for (first, by_bias) in (0..stage.filters).step_by(lanes).zip(by_bias.chunks_mut(lanes)) {
            let width = by_bias.len();
            let mut own = [zero; FEW_TAPS];
            let mut total = zero;
            let windows = winners.chunks_exact(stage.filters).zip(by_pooled.chunks_exact(stage.filters));
            let mut window = 0;
            #[allow(clippy::explicit_counter_loop, reason = "the call of enumerate is not inlined here")]
            for (winners, slopes) in windows {
                let pixels = &padded[stage.corner(window)..];
                window += 1;
                let mut wide = [u32::from(CLOSED); WIDEST];
                for (wide, winner) in wide.iter_mut().zip(&winners[first..first + width]) {
                    *wide = u32::from(*winner);
                }
                let winners = simd.partial_load_u32s(&wide[..lanes]);
                let slopes = simd.partial_load_f32s(&slopes[first..first + width]);
                // No closures here: what they call does not get the wide instructions.
                let mut shares = [zero; 4];
                let mut place = simd.splat_u32s(0);
                for share in &mut shares {
                    *share = simd.select_f32s(simd.equal_u32s(winners, place), slopes, zero);
                    total = simd.add_f32s(total, *share);
                    place = simd.add_u32s(place, simd.splat_u32s(1));
                }
                for (sum, offset) in own[..taps].iter_mut().zip(&offsets) {
                    let pixels = &pixels[*offset..][..=last];
                    for (share, place) in shares.iter().zip(&places) {
                        *sum = simd.mul_add_e_f32s(*share, simd.splat_f32s(pixels[*place]), *sum);
                    }
                }
            }
            let mut narrow = [0.0; WIDEST];
            simd.partial_store_f32s(&mut narrow[..lanes], total);
            for (sum, value) in by_bias.iter_mut().zip(narrow) {
                *sum += value;
            }
            for (tap, own) in own[..taps].iter().enumerate() {
                simd.partial_store_f32s(&mut narrow[..lanes], *own);
                let sums = by_rows[first * taps + tap..].iter_mut().step_by(taps);
                for (sum, value) in sums.zip(&narrow[..width]) {
                    *sum += value;
                }
            }
        }
    }
}
