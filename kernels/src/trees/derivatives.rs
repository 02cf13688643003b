//! First and second derivatives of the loss by a score, and their packed integers.
//!
//! Scores are kept by class, one slice each. Derivatives are those of XGBoost: for softmax the second one is doubled
//! (a bound of the true one that ignores the other classes), and none is below [`LEAST_HESSIAN`].

use crate::ClassificationSums;
use crate::simd::widened;
use crate::transcendental::{exp, ln, ln_1p};

/// Rows that are looked at together: enough for vectors, few enough for a first-level cache.
const BLOCK: usize = 256;

/// Sums that are added up side by side.
const LANES: usize = 8;

/// Least second derivative.
const LEAST_HESSIAN: f32 = 1e-16;

/// Least probability that a loss takes a logarithm of: the distance from 1 to the next `f32`.
const LEAST_SHARE: f32 = f32::EPSILON;

/// How large derivatives are; combine blocks of rows in their order.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Magnitudes {
    /// Sum of |g|.
    pub gradients: f64,
    /// Sum of h.
    pub hessians: f64,
    /// Greatest |g|.
    pub greatest_gradient: f32,
    /// Greatest h.
    pub greatest_hessian: f32,
    /// Rows.
    pub rows: u64,
}

impl Magnitudes {
    /// Those of the rows of both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            gradients: self.gradients + other.gradients,
            hessians: self.hessians + other.hessians,
            greatest_gradient: self.greatest_gradient.max(other.greatest_gradient),
            greatest_hessian: self.greatest_hessian.max(other.greatest_hessian),
            rows: self.rows + other.rows,
        }
    }

    /// Those of rows with these derivatives; every [`LANES`]th row is added to the same sum, and these in their order.
    fn of(derivatives: &[[f32; 2]]) -> Self {
        let mut lanes = [Self::default(); LANES];
        let (blocks, rest) = derivatives.as_chunks::<LANES>();
        widened(|| {
            let (mut sums, mut most) = ([[0.0; LANES]; 2], [[0.0; LANES]; 2]);
            for block in blocks {
                for (lane, [gradient, hessian]) in block.iter().enumerate() {
                    let gradient = gradient.abs();
                    sums[0][lane] += f64::from(gradient);
                    sums[1][lane] += f64::from(*hessian);
                    most[0][lane] = if gradient > most[0][lane] { gradient } else { most[0][lane] };
                    most[1][lane] = if *hessian > most[1][lane] { *hessian } else { most[1][lane] };
                }
            }
            for (lane, magnitudes) in lanes.iter_mut().enumerate() {
                magnitudes.gradients = sums[0][lane];
                magnitudes.hessians = sums[1][lane];
                magnitudes.greatest_gradient = most[0][lane];
                magnitudes.greatest_hessian = most[1][lane];
                magnitudes.rows = blocks.len() as u64;
            }
        });
        let mut all = lanes.into_iter().fold(Self::default(), Self::with);
        rest.iter().for_each(|derivative| all.add(*derivative));
        all
    }

    fn add(&mut self, [gradient, hessian]: [f32; 2]) {
        self.gradients += f64::from(gradient.abs());
        self.hessians += f64::from(hessian);
        self.greatest_gradient = self.greatest_gradient.max(gradient.abs());
        self.greatest_hessian = self.greatest_hessian.max(hessian);
        self.rows += 1;
    }
}

/// What one unit of the packed integers stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantum {
    /// A gradient of 1 unit.
    pub gradient: f64,
    /// A second derivative of 1 unit.
    pub hessian: f64,
}

impl Quantum {
    /// The finest unit with which no sum over all rows leaves its 32 bits. Equal second derivatives are 1 unit each,
    /// so that their sums are exact counts.
    pub fn of(magnitudes: &Magnitudes) -> Self {
        let rows = magnitudes.rows as f64;
        // Rounding adds up to two units a row.
        let finest = |greatest: f32, sum: f64, room: f64| {
            let by_sum = sum / (room - 2.0 * rows).max(1.0);
            by_sum.max(f64::from(greatest) / f64::from(1 << 24)).max(f64::MIN_POSITIVE)
        };
        let constant = magnitudes.hessians == f64::from(magnitudes.greatest_hessian) * rows;
        let hessian = if constant {
            f64::from(magnitudes.greatest_hessian).max(f64::MIN_POSITIVE)
        } else {
            finest(magnitudes.greatest_hessian, magnitudes.hessians, 4_294_967_295.0)
        };
        Self {
            gradient: finest(magnitudes.greatest_gradient, magnitudes.gradients, 2_147_483_647.0),
            hessian,
        }
    }
}

/// Logistic loss of `scores` (log odds of class 1) against `targets` (0 or 1), summed.
pub fn logistic_loss(scores: &[f32], targets: &[u32]) -> ClassificationSums {
    let mut sums = ClassificationSums::default();
    let mut losses = [0.0; BLOCK];
    for (scores, targets) in scores.chunks(BLOCK).zip(targets.chunks(BLOCK)) {
        widened(|| {
            for ((loss, &score), &target) in losses.iter_mut().zip(scores).zip(targets) {
                // ln(1 + exp(-|s|)) + max(-s, 0), with s turned so that the target is 1.
                let towards = if target == 1 { score } else { -score };
                *loss = ln_1p(exp(-towards.abs())) + if towards < 0.0 { -towards } else { 0.0 };
            }
        });
        for ((loss, score), target) in losses.iter().zip(scores).zip(targets) {
            sums.loss += f64::from(*loss);
            sums.correct += u64::from((*score > 0.0) == (*target == 1));
        }
    }
    sums
}

/// [g, h] of each row's logistic loss by its score.
pub fn logistic_derivatives(scores: &[f32], targets: &[u32], derivatives: &mut [[f32; 2]]) -> Magnitudes {
    widened(|| {
        for ((&score, &target), derivative) in scores.iter().zip(targets).zip(derivatives.iter_mut()) {
            let share = 1.0 / (1.0 + exp(-score));
            *derivative = [share - target as f32, at_least(share * (1.0 - share))];
        }
    });
    Magnitudes::of(derivatives.get(..scores.len()).unwrap_or(derivatives))
}

/// Cross-entropy of the softmax of `scores` (a slice a class) against `targets`, summed; writes the logarithm of
/// each row's sum of exponentials into `normalisers`.
pub fn softmax_loss(scores: &[&[f32]], targets: &[u32], normalisers: &mut [f32]) -> ClassificationSums {
    let mut sums = ClassificationSums::default();
    let (mut greatest, mut best, mut total) = ([0.0_f32; BLOCK], [0_u32; BLOCK], [0.0_f32; BLOCK]);
    for (block, normalisers) in normalisers.chunks_mut(BLOCK).enumerate() {
        let rows = block * BLOCK..block * BLOCK + normalisers.len();
        greatest.fill(f32::NEG_INFINITY);
        total.fill(0.0);
        for (class, scores) in scores.iter().enumerate() {
            for ((greatest, best), &score) in greatest.iter_mut().zip(&mut best).zip(&scores[rows.clone()]) {
                if score > *greatest {
                    (*greatest, *best) = (score, class as u32);
                }
            }
        }
        widened(|| {
            for scores in scores {
                for ((total, greatest), &score) in total.iter_mut().zip(&greatest).zip(&scores[rows.clone()])
                {
                    *total += exp(score - greatest);
                }
            }
            for ((normaliser, greatest), total) in normalisers.iter_mut().zip(&greatest).zip(&total) {
                *normaliser = greatest + ln(*total);
            }
        });
        for (lane, (row, normaliser)) in rows.zip(normalisers).enumerate() {
            let target = targets[row];
            sums.loss += f64::from(*normaliser - scores[target as usize][row]);
            sums.correct += u64::from(best[lane] == target);
        }
    }
    sums
}

/// [g, h] of each row's cross-entropy by its score of one class; `targets` are those of the rows, and that class.
pub fn softmax_derivatives(
    scores: &[f32],
    normalisers: &[f32],
    targets: (&[u32], u32),
    derivatives: &mut [[f32; 2]],
) -> Magnitudes {
    widened(|| {
        let rows = scores.iter().zip(normalisers).zip(targets.0).zip(derivatives.iter_mut());
        for (((&score, &normaliser), target), derivative) in rows {
            let share = exp(score - normaliser);
            let share = if share > 1.0 { 1.0 } else { share };
            *derivative =
                [share - f32::from(u8::from(*target == targets.1)), at_least(2.0 * share * (1.0 - share))];
        }
    });
    Magnitudes::of(derivatives.get(..scores.len()).unwrap_or(derivatives))
}

/// `hessian`, or the least one where it is less. NaN stays.
#[inline(always)]
fn at_least(hessian: f32) -> f32 {
    if hessian < LEAST_HESSIAN { LEAST_HESSIAN } else { hessian }
}

/// [g, h] of half of each row's squared error by its score.
pub fn squared_derivatives(scores: &[f32], targets: &[f32], derivatives: &mut [[f32; 2]]) -> Magnitudes {
    for ((&score, &target), derivative) in scores.iter().zip(targets).zip(derivatives.iter_mut()) {
        *derivative = [score - target, 1.0];
    }
    Magnitudes::of(derivatives.get(..scores.len()).unwrap_or(derivatives))
}

/// Multiplies the derivatives of each row by the weight of its class.
pub fn weigh_derivatives(targets: &[u32], weights: &[f32], derivatives: &mut [[f32; 2]]) -> Magnitudes {
    let mut magnitudes = Magnitudes::default();
    for (target, derivative) in targets.iter().zip(derivatives) {
        let weight = weights[*target as usize];
        *derivative = [derivative[0] * weight, at_least(derivative[1] * weight)];
        magnitudes.add(*derivative);
    }
    magnitudes
}

/// Means over `trees` trees of the sums in `scores`, a slice an output, as probabilities of shape [rows, classes]: as
/// many classes as outputs, or two where the one output is that of class 1.
pub fn shares_of(scores: &[&[f32]], trees: f32, shares: &mut [f32]) {
    if let [scores] = scores {
        for (share, score) in shares.as_chunks_mut::<2>().0.iter_mut().zip(*scores) {
            let one = score / trees;
            *share = [1.0 - one, one];
        }
        return;
    }
    let outputs = scores.len().max(1);
    for (class, scores) in scores.iter().enumerate() {
        let places = shares.iter_mut().skip(class).step_by(outputs);
        for (share, score) in places.zip(*scores) {
            *share = score / trees;
        }
    }
}

/// Cross-entropy of `shares`, shape [rows, classes], against `targets`, summed; shares below 2^-23 count as that.
pub fn share_loss(shares: &[f32], classes: usize, targets: &[u32]) -> ClassificationSums {
    let mut sums = ClassificationSums::default();
    for (row, &target) in shares.chunks_exact(classes.max(1)).zip(targets) {
        let mut best = 0;
        for (class, share) in row.iter().enumerate() {
            if *share > row[best] {
                best = class;
            }
        }
        sums.loss -= f64::from(row[target as usize].max(LEAST_SHARE)).ln();
        sums.correct += u64::from(best == target as usize);
    }
    sums
}

/// Each row's derivatives as one number: g in units of `quantum` in the upper 32 bits, h in the lower ones, both
/// rounded up or down at random so that means stay (stochastic rounding). What is drawn follows from `seed` and the
/// number of the row alone; the first one here has number `first`.
pub fn quantise(derivatives: &[[f32; 2]], quantum: &Quantum, seed: u64, first: u64, packed: &mut [i64]) {
    /// 1.5 * 2^52: what is added to it is rounded to the nearest integer, which stands in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let (per_gradient, per_hessian) = (1.0 / quantum.gradient, 1.0 / quantum.hessian);
    let seeds = (seed as u32, (seed >> 32) as u32);
    widened(|| {
        for (number, ([gradient, hessian], packed)) in (first as u32..).zip(derivatives.iter().zip(packed)) {
            let number = number.wrapping_mul(GOLDEN_32);
            let gradient = f64::from(*gradient) * per_gradient + centred(mix_32(number ^ seeds.0)) + ROUND;
            let hessian = f64::from(*hessian) * per_hessian + centred(mix_32(number ^ seeds.1)) + ROUND;
            // At least one unit, so that a sum of 0 means that there is no row.
            let hessian = if hessian < ROUND + 1.0 { ROUND + 1.0 } else { hessian };
            let integer = |lifted: f64| lifted.to_bits().wrapping_sub(ROUND.to_bits()) as i64;
            *packed = (integer(gradient) << 32).wrapping_add(integer(hessian));
        }
    });
}

/// A number of [-1/2, 1/2) out of 32 random bits.
#[inline(always)]
fn centred(random: u32) -> f64 {
    const ONE: u64 = 0x3ff0_0000_0000_0000;
    f64::from_bits(ONE | u64::from(random) << 20) - 1.5
}

/// A finaliser of 32 bits with little bias (Wellons, 2018), which vectors can do.
#[inline(always)]
fn mix_32(mut state: u32) -> u32 {
    state = (state ^ (state >> 16)).wrapping_mul(0x7feb_352d);
    state = (state ^ (state >> 15)).wrapping_mul(0x846c_a68b);
    state ^ (state >> 16)
}

/// Adds `value` to the scores of `rows`; `scores` begins with that of row `first`.
pub fn add_to_rows(scores: &mut [f32], first: u32, rows: &[u32], value: f32) {
    for row in rows {
        scores[(*row - first) as usize] += value;
    }
}

/// Those of `rows`, which ascend, that lie in `range`.
pub fn rows_within(rows: &[u32], range: std::ops::Range<u32>) -> &[u32] {
    let from = rows.partition_point(|row| *row < range.start);
    let to = rows.partition_point(|row| *row < range.end);
    &rows[from..to]
}

/// The values at `rows`.
pub fn pick<T: Copy>(values: &[T], rows: &[u32], picked: &mut Vec<T>) {
    picked.clear();
    picked.extend(rows.iter().map(|row| values[*row as usize]));
}

/// Sums of [g, h] over `rows`, in their order.
pub fn sum_of_rows(derivatives: &[[f32; 2]], rows: &[u32]) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for row in rows {
        let [gradient, hessian] = derivatives[*row as usize];
        sums[0] += f64::from(gradient);
        sums[1] += f64::from(hessian);
    }
    sums
}

/// 2^32 divided by the golden ratio.
const GOLDEN_32: u32 = 0x9e37_79b1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trees::sum_of;

    #[test]
    fn parts_of_the_rows_are_added_to_parts_of_the_scores() {
        let rows = [1, 4, 5, 9];
        let mut scores = [0.0; 10];
        for first in [0, 5] {
            let part = &mut scores[first as usize..first as usize + 5];
            add_to_rows(part, first, rows_within(&rows, first..first + 5), 2.0);
        }
        assert_eq!(scores, [0.0, 2.0, 0.0, 0.0, 2.0, 2.0, 0.0, 0.0, 0.0, 2.0]);
        assert!(rows_within(&rows, 6..9).is_empty() && rows_within(&[], 0..9).is_empty());
    }

    #[test]
    fn derivatives_are_those_of_the_loss() {
        let scores = [-3.0_f32, -0.2, 0.0, 0.7, 4.0];
        let targets = [0, 1, 1, 0, 1];
        let mut derivatives = [[0.0; 2]; 5];
        let magnitudes = logistic_derivatives(&scores, &targets, &mut derivatives);
        let step = 1e-2;
        for (row, [gradient, hessian]) in derivatives.into_iter().enumerate() {
            let loss = |score: f32| logistic_loss(&[score], &targets[row..=row]).loss;
            let (up, down) = (loss(scores[row] + step), loss(scores[row] - step));
            let slope = (up - down) / f64::from(2.0 * step);
            let bend = (up + down - 2.0 * loss(scores[row])) / f64::from(step * step);
            assert!((slope - f64::from(gradient)).abs() < 1e-4, "{slope} {gradient}");
            assert!((bend - f64::from(hessian)).abs() < 1e-2, "{bend} {hessian}");
        }
        assert_eq!(magnitudes.rows, 5);
        assert!(
            (magnitudes.hessians - derivatives.iter().map(|d| f64::from(d[1])).sum::<f64>()).abs() < 1e-12
        );
        assert_eq!(logistic_loss(&scores, &targets).correct, 2);
    }

    #[test]
    fn softmax_agrees_with_the_row_major_kernel_and_two_classes_with_logistic() {
        let rows = 600;
        let value = |row: usize, class: usize| ((row * 7 + class * 13) % 23) as f32 / 5.0 - 2.0;
        let by_class: Vec<Vec<f32>> = (0..3).map(|k| (0..rows).map(|row| value(row, k)).collect()).collect();
        let slices: Vec<&[f32]> = by_class.iter().map(Vec::as_slice).collect();
        let logits: Vec<f32> = (0..rows).flat_map(|row| (0..3).map(move |k| value(row, k))).collect();
        let targets: Vec<u32> = (0..rows).map(|row| (row % 3) as u32).collect();
        let mut normalisers = vec![0.0; rows];
        let sums = softmax_loss(&slices, &targets, &mut normalisers);
        let mut gradient = vec![0.0; logits.len()];
        let expected = crate::softmax_cross_entropy_gradient(&logits, 3, &targets, &mut gradient);
        assert_eq!(sums.correct, expected.correct);
        assert!((sums.loss / expected.loss - 1.0).abs() < 1e-6);
        let mut derivatives = vec![[0.0; 2]; rows];
        softmax_derivatives(slices[1], &normalisers, (&targets, 1), &mut derivatives);
        for (row, [g, h]) in derivatives.into_iter().enumerate() {
            let expected = gradient[row * 3 + 1] * rows as f32;
            assert!((g - expected).abs() < 1e-5);
            let share = g + f32::from(u8::from(targets[row] == 1));
            assert!((h - 2.0 * share * (1.0 - share)).abs() < 1e-5);
        }
    }

    #[test]
    fn packed_sums_are_the_sums_within_a_rounding_each_and_keep_the_mean() {
        let derivatives: Vec<[f32; 2]> = (0..50_000)
            .map(|i| [((i * 37) % 101) as f32 / 50.0 - 1.0, ((i * 11) % 97) as f32 / 400.0])
            .collect();
        let mut magnitudes = Magnitudes::default();
        derivatives.iter().for_each(|d| magnitudes.add(*d));
        let quantum = Quantum::of(&magnitudes);
        let mut packed = vec![0; derivatives.len()];
        quantise(&derivatives, &quantum, 3, 0, &mut packed);
        let mut second = vec![0; 100];
        quantise(&derivatives[1000..1100], &quantum, 3, 1000, &mut second);
        assert_eq!(second, packed[1000..1100], "what is drawn follows from the number of the row");
        let (gradient, hessian) = sum_of(packed.iter().sum());
        let exact: [f64; 2] =
            derivatives.iter().fold([0.0; 2], |s, d| [s[0] + f64::from(d[0]), s[1] + f64::from(d[1])]);
        let tolerance = |unit: f64| unit * 4.0 * (derivatives.len() as f64).sqrt();
        assert!((gradient as f64 * quantum.gradient - exact[0]).abs() < tolerance(quantum.gradient));
        assert!((hessian as f64 * quantum.hessian - exact[1]).abs() < tolerance(quantum.hessian));
        assert!(quantum.gradient < 1e-4 && quantum.hessian < 1e-5, "{quantum:?}");
    }

    #[test]
    fn equal_hessians_are_counted_exactly_and_extremes_do_not_overflow() {
        let derivatives = vec![[-1.0, 1.0]; 100_000];
        let mut magnitudes = Magnitudes::default();
        derivatives.iter().for_each(|d| magnitudes.add(*d));
        let quantum = Quantum::of(&magnitudes);
        let mut packed = vec![0; derivatives.len()];
        quantise(&derivatives, &quantum, 9, 0, &mut packed);
        let (gradient, hessian) = sum_of(packed.iter().sum());
        assert_eq!(hessian, 100_000);
        assert!((gradient as f64 * quantum.gradient / -100_000.0 - 1.0).abs() < 1e-4);
        let nothing = Quantum::of(&Magnitudes { rows: 3, ..Magnitudes::default() });
        quantise(&[[0.0, 0.0]; 3], &nothing, 1, 0, &mut packed[..3]);
        assert_eq!(packed[..3], [1; 3], "a row always shows");
    }

    #[test]
    fn shares_of_nothing_cost_much_but_not_everything() {
        let sums = share_loss(&[1.0, 0.0, 0.5, 0.5], 2, &[1, 0]);
        assert_eq!(sums.correct, 1);
        let mut shares = [0.0; 4];
        shares_of(&[&[1.0, 4.0]], 4.0, &mut shares);
        assert_eq!(shares, [0.75, 0.25, 0.0, 1.0]);
        let mut shares = [0.0; 6];
        shares_of(&[&[1.0, 0.0], &[1.0, 2.0], &[0.0, 0.0]], 2.0, &mut shares);
        assert_eq!(shares, [0.5, 0.5, 0.0, 0.0, 1.0, 0.0]);
        assert!((sums.loss - (23.0 * 2.0_f64.ln() + 2.0_f64.ln())).abs() < 1e-9);
    }
}
