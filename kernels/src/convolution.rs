//! Convolution, 2x2 max pooling and ReLU in one pass, and the way back through them.
//!
//! ```text
//! images [n, height, width, channels] --3x3, padding 1--> filters --best of 2x2--> max(x, 0) --> pooled, winners
//! by_pooled --to the winners alone--> by_weight, by_bias, by_images
//! ```
//!
//! The output of the convolution itself is never stored: four neighbours are computed in registers, and the best of
//! each filter leaves with its place. On the way back only that place has a gradient, so three quarters of the
//! products of a convolution's gradient, and those of filters that ReLU closed, are not made at all.
//!
//! Channels come last inside; weights are PyTorch's, `[filters, channels, 3, 3]`. Height and width may be odd: the
//! last row or column is in no pooling window then, as in PyTorch.
//!
//! Images are shared by the threads of the current rayon pool in groups of a fixed size, whose sums are added up in
//! order, so that the same bits come for any number of threads.

mod backward;

use std::cell::RefCell;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::matrix::{Matrix, Order};
use crate::simd::{dispatch, lanes};
use crate::transposition::transpose;
use backward::Back;

/// Side of a filter.
const SIDE: usize = 3;

/// Values of a filter for each channel.
const AREA: usize = SIDE * SIDE;

/// Most values in a vector of any CPU.
const WIDEST: usize = 16;

/// Images that one thread takes at a time.
const GROUP: usize = 4;

/// The winner of a window that ReLU closed.
const CLOSED: u8 = 4;

/// Sizes of a convolution with pooling behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// Channels of the images.
    pub channels: usize,
    /// Their rows.
    pub height: usize,
    /// Their columns.
    pub width: usize,
    /// Channels of what comes out.
    pub filters: usize,
}

impl Stage {
    /// Values of an image.
    pub fn input_len(self) -> usize {
        self.channels * self.height * self.width
    }

    /// Pixels of what comes out for an image: rows times columns.
    pub fn pooled_pixels(self) -> usize {
        (self.height / 2) * (self.width / 2)
    }

    /// Values that come out for an image.
    pub fn output_len(self) -> usize {
        self.filters * self.pooled_pixels()
    }

    /// How many images those are.
    fn count(self, images: Matrix<'_>) -> usize {
        let [count, values] = images.shape();
        assert!(images.order() == Order::Rows && values == self.input_len(), "images must fit {self:?}");
        count
    }

    /// Values of a filter.
    fn taps(self) -> usize {
        AREA * self.channels
    }

    /// Values between a pixel of a padded image and the one below it.
    fn stride(self) -> usize {
        (self.width + 2) * self.channels
    }

    fn padded_len(self) -> usize {
        (self.height + 2) * self.stride()
    }

    /// Where the upper left tap of the filter is in a padded image, for the first pixel of pooling window `window`.
    #[inline(always)]
    fn corner(self, window: usize) -> usize {
        let across = self.width / 2;
        2 * (window / across) * self.stride() + 2 * (window % across) * self.channels
    }
}

/// Weights in the orders in which they are used.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    /// Shape `[filters, 3, 3, channels]`.
    rows: Vec<f32>,
    /// Shape `[blocks, 3 * 3 * channels, 2 * lanes]`; zeros where there are no more filters.
    blocks: Vec<f32>,
    /// Shape `[filters]`, and zeros up to a whole block.
    bias: Vec<f32>,
}

impl Filters {
    /// Takes over `weight`, shape `[filters, channels, 3, 3]`, and `bias`, shape `[filters]`.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn set(&mut self, stage: Stage, weight: &[f32], bias: &[f32]) {
        let taps = stage.taps();
        assert_eq!(weight.len(), stage.filters * taps, "weight must have the shape of {stage:?}");
        assert_eq!(bias.len(), stage.filters, "there must be a bias for each filter");
        let block = 2 * lanes();
        let blocks = stage.filters.div_ceil(block);
        self.rows.resize(weight.len(), 0.0);
        self.blocks.clear();
        self.blocks.resize(blocks * taps * block, 0.0);
        self.bias.clear();
        self.bias.extend_from_slice(bias);
        self.bias.resize(blocks * block, 0.0);
        for (filter, (from, to)) in
            weight.chunks_exact(taps).zip(self.rows.chunks_exact_mut(taps)).enumerate()
        {
            transpose(from, stage.channels, AREA, to);
            let own = &mut self.blocks[(filter / block) * taps * block + filter % block..];
            for (value, own) in to.iter().zip(own.iter_mut().step_by(block)) {
                *own = *value;
            }
        }
    }
}

/// What the way back needs of the way forth.
#[derive(Debug, Clone, Copy)]
pub struct Passed<'a> {
    /// A row is an image, shape `[height, width, channels]`.
    pub images: Matrix<'a>,
    /// As [`convolve`] wrote them.
    pub winners: &'a [u8],
}

/// Where gradients go.
#[derive(Debug)]
pub struct Slopes<'a> {
    /// Shape `[filters, channels, 3, 3]`; replaced.
    pub by_weight: &'a mut [f32],
    /// Shape `[filters]`; replaced.
    pub by_bias: &'a mut [f32],
    /// Shape of the images; replaced. `None` where nobody asks.
    pub by_images: Option<&'a mut [f32]>,
}

thread_local! {
    /// A padded image, and the gradient by it.
    static PADDED: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Writes max(pooling(convolution(`images`)), 0), each row an image of shape `[height, width, channels]`, to `pooled`, shape `[images, height / 2, width / 2, filters]`, and
/// which pixel of each window won to `winners`, same shape. Where a value is NaN, NaN wins.
///
/// # Panics
/// When the shapes do not fit.
pub fn convolve(stage: Stage, filters: &Filters, images: Matrix<'_>, pooled: &mut [f32], winners: &mut [u8]) {
    let count = stage.count(images);
    assert_eq!(pooled.len(), count * stage.output_len(), "pooled must have the shape of {stage:?}");
    assert_eq!(winners.len(), pooled.len(), "winners must have the shape of pooled");
    assert_eq!(filters.rows.len(), stage.filters * stage.taps(), "filters must be those of {stage:?}");
    let groups = pooled
        .par_chunks_mut(GROUP * stage.output_len())
        .zip(winners.par_chunks_mut(GROUP * stage.output_len()))
        .enumerate();
    groups.for_each(|(group, (pooled, winners))| {
        PADDED.with_borrow_mut(|[padded, _]| {
            padded.clear();
            padded.resize(stage.padded_len(), 0.0);
            let outputs =
                pooled.chunks_exact_mut(stage.output_len()).zip(winners.chunks_exact_mut(stage.output_len()));
            for (number, (pooled, winners)) in outputs.enumerate() {
                pad(stage, images.line(group * GROUP + number), padded);
                dispatch(Forth { stage, filters, padded, pooled, winners });
            }
        });
    });
}

/// Writes the gradients of a loss from that by what [`convolve`] wrote, `by_pooled`. `sums` is room that is reused.
///
/// # Panics
/// When the shapes do not fit.
pub fn convolve_backward(
    stage: Stage,
    filters: &Filters,
    (passed, by_pooled): (Passed<'_>, &[f32]),
    (slopes, sums): (Slopes<'_>, &mut Vec<f32>),
) {
    let Passed { images, winners } = passed;
    let count = stage.count(images);
    let size = stage.filters * (stage.taps() + 1);
    assert_eq!(winners.len(), count * stage.output_len(), "winners must have the shape of {stage:?}");
    assert_eq!(by_pooled.len(), winners.len(), "by_pooled must have the shape of winners");
    assert_eq!(slopes.by_weight.len() + slopes.by_bias.len(), size, "gradients must fit {stage:?}");
    let mut nothing = [];
    let (by_images, each) = match slopes.by_images {
        Some(by_images) => {
            assert_eq!(by_images.len(), count * stage.input_len(), "by_images must have the shape of images");
            (by_images, stage.input_len())
        }
        None => (&mut nothing[..], 0),
    };
    sums.clear();
    sums.resize(size * count.div_ceil(GROUP), 0.0);
    let work = |group: usize, sums: &mut [f32], by_images: &mut [f32]| {
        PADDED.with_borrow_mut(|[padded, by_padded]| {
            padded.clear();
            padded.resize(stage.padded_len(), 0.0);
            let first = group * GROUP;
            for number in 0..GROUP.min(count - first) {
                let output = (first + number) * stage.output_len()..(first + number + 1) * stage.output_len();
                pad(stage, images.line(first + number), padded);
                by_padded.clear();
                if each > 0 {
                    by_padded.resize(stage.padded_len(), 0.0);
                }
                dispatch(Back {
                    stage,
                    filters,
                    padded,
                    winners: &winners[output.clone()],
                    by_pooled: &by_pooled[output],
                    sums,
                    by_padded,
                });
                if each > 0 {
                    crop(stage, by_padded, &mut by_images[number * each..(number + 1) * each]);
                }
            }
        });
    };
    let groups = sums.par_chunks_mut(size).enumerate();
    if each == 0 {
        groups.for_each(|(group, sums)| work(group, sums, &mut []));
    } else {
        groups
            .zip(by_images.par_chunks_mut(GROUP * each))
            .for_each(|((group, sums), by_images)| work(group, sums, by_images));
    }
    let first = size.min(sums.len());
    let (total, rest) = sums.split_at_mut(first);
    for part in rest.chunks_exact(size) {
        for (sum, value) in total.iter_mut().zip(part) {
            *sum += value;
        }
    }
    if total.is_empty() {
        slopes.by_weight.fill(0.0);
        slopes.by_bias.fill(0.0);
        return;
    }
    let (rows, bias) = total.split_at(stage.filters * stage.taps());
    slopes.by_bias.copy_from_slice(bias);
    for (from, to) in rows.chunks_exact(stage.taps()).zip(slopes.by_weight.chunks_exact_mut(stage.taps())) {
        transpose(from, AREA, stage.channels, to);
    }
}

/// Puts `image` inside the frame of zeros of `padded`.
fn pad(stage: Stage, image: &[f32], padded: &mut [f32]) {
    let row = stage.width * stage.channels;
    let inside = padded[stage.stride()..].chunks_exact_mut(stage.stride());
    for (from, to) in image.chunks_exact(row).zip(inside) {
        to[stage.channels..stage.channels + row].copy_from_slice(from);
    }
}

/// Takes what is inside the frame.
fn crop(stage: Stage, padded: &[f32], image: &mut [f32]) {
    let row = stage.width * stage.channels;
    let inside = padded[stage.stride()..].chunks_exact(stage.stride());
    for (to, from) in image.chunks_exact_mut(row).zip(inside) {
        to.copy_from_slice(&from[stage.channels..stage.channels + row]);
    }
}

/// One image on its way forth.
struct Forth<'a> {
    stage: Stage,
    filters: &'a Filters,
    padded: &'a [f32],
    pooled: &'a mut [f32],
    winners: &'a mut [u8],
}

impl WithSimd for Forth<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { stage, filters, padded, pooled, winners } = self;
        let weights = S::as_simd_f32s(&filters.blocks).0.as_chunks::<2>().0;
        let biases = S::as_simd_f32s(&filters.bias).0.as_chunks::<2>().0;
        let (block, channels, stride, run) =
            (2 * S::F32_LANES, stage.channels, stage.stride(), SIDE * stage.channels);
        let outputs = pooled.chunks_exact_mut(stage.filters).zip(winners.chunks_exact_mut(stage.filters));
        for (window, (pooled, winners)) in outputs.enumerate() {
            let corner = stage.corner(window);
            let outputs = pooled.chunks_mut(block).zip(winners.chunks_mut(block));
            for ((weights, bias), (pooled, winners)) in
                weights.chunks_exact(stage.taps()).zip(biases).zip(outputs)
            {
                // One accumulator for each pixel of the window: upper left, upper right, lower left, lower right.
                let mut sums = [*bias; 4];
                for (tap, weights) in weights.chunks_exact(run).enumerate() {
                    let upper = &padded[corner + tap * stride..][..run + channels];
                    let lower = &padded[corner + (tap + 1) * stride..][..run + channels];
                    let left = upper[..run].iter().zip(&lower[..run]);
                    let right = upper[channels..].iter().zip(&lower[channels..]);
                    for (((upper_left, lower_left), (upper_right, lower_right)), weights) in
                        left.zip(right).zip(weights)
                    {
                        let values = [*upper_left, *upper_right, *lower_left, *lower_right];
                        for (sums, value) in sums.iter_mut().zip(values) {
                            let value = simd.splat_f32s(value);
                            sums[0] = simd.mul_add_e_f32s(value, weights[0], sums[0]);
                            sums[1] = simd.mul_add_e_f32s(value, weights[1], sums[1]);
                        }
                    }
                }
                let halves = pooled.chunks_mut(S::F32_LANES).zip(winners.chunks_mut(S::F32_LANES));
                let [[a, e], [b, f], [c, g], [d, h]] = sums;
                for (sums, (pooled, winners)) in [[a, b, c, d], [e, f, g, h]].into_iter().zip(halves) {
                    let (best, places) = best_of(simd, sums);
                    simd.partial_store_f32s(pooled, best);
                    let mut wide = [0_u32; WIDEST];
                    simd.partial_store_u32s(&mut wide[..S::F32_LANES], places);
                    for (winner, place) in winners.iter_mut().zip(wide) {
                        *winner = place as u8;
                    }
                }
            }
        }
    }
}

/// The greatest of four, 0 where that is less, and which one it was. NaN is the greatest.
#[inline(always)]
fn best_of<S: Simd>(simd: S, [first, others @ ..]: [S::f32s; 4]) -> (S::f32s, S::u32s) {
    let (mut best, mut places) = (first, simd.splat_u32s(0));
    for (value, place) in others.into_iter().zip(1..) {
        let place = simd.splat_u32s(place);
        // NaN is not equal to itself, and no value is at most NaN.
        let number = simd.equal_f32s(best, best);
        let stays = simd.less_than_or_equal_f32s(value, best);
        places = simd.select_u32s(stays, places, simd.select_u32s(number, place, places));
        best = simd.select_f32s(stays, best, simd.select_f32s(number, value, best));
    }
    let zero = simd.splat_f32s(0.0);
    let open = simd.greater_than_f32s(best, zero);
    // Not a maximum, which would hide NaN.
    let rectified = simd.select_f32s(simd.less_than_f32s(best, zero), zero, best);
    (rectified, simd.select_u32s(open, places, simd.splat_u32s(u32::from(CLOSED))))
}

#[cfg(test)]
mod tests;
