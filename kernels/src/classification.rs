//! Softmax and its cross-entropy.

use crate::simd::widened;
use crate::transcendental::exp;

/// Logits of a row that are looked at together.
const LANES: usize = 16;

/// Rows that are looked at together.
const ROWS: usize = 64;

/// Sums over rows; divide by their number for means.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ClassificationSums {
    /// Sum of the cross-entropy, in nats.
    pub loss: f64,
    /// Rows whose greatest logit is that of the target; the first of equal ones counts.
    pub correct: u64,
}

/// Cross-entropy of softmax(`logits`) against `targets`, summed over rows.
///
/// `logits` has shape `[rows, classes]`, `targets` shape `[rows]` with ids below `classes`. Stable for any finite
/// logits: log(sum(exp(x))) is taken relative to the row's maximum.
///
/// # Panics
/// When the shapes do not fit or a target is not below `classes`.
pub fn softmax_cross_entropy(logits: &[f32], classes: usize, targets: &[u32]) -> ClassificationSums {
    check(logits, classes, targets.len());
    let (mut sums, mut logarithms) = (ClassificationSums::default(), Logarithms::new());
    widened(|| {
        for (row, &target) in logits.chunks_exact(classes).zip(targets) {
            let (max, argmax) = greatest(row);
            let mut sum = 0.0;
            for logits in row.chunks(LANES) {
                let mut shares = [0.0; LANES];
                for (share, &logit) in shares.iter_mut().zip(logits) {
                    *share = exp(logit - max);
                }
                sum += shares.iter().take(logits.len()).map(|share| f64::from(*share)).sum::<f64>();
            }
            logarithms.add(sum, 1.0, &mut sums.loss);
            sums.loss -= f64::from(row[target as usize] - max);
            sums.correct += u64::from(argmax == target as usize);
        }
    });
    sums.loss += logarithms.rest();
    sums
}

/// As [`softmax_cross_entropy`], and writes the gradient of the *mean* loss by the logits into `gradient`, shape
/// [rows, `classes`]: (softmax(logits) - onehot(target)) / rows.
///
/// # Panics
/// When the shapes do not fit or a target is not below `classes`.
pub fn softmax_cross_entropy_gradient(
    logits: &[f32],
    classes: usize,
    targets: &[u32],
    gradient: &mut [f32],
) -> ClassificationSums {
    gradient_with(logits, classes, targets, |_| 1.0, gradient)
}

/// As [`softmax_cross_entropy_gradient`], where a row counts `weights[target]` times in loss and gradient; `weights`
/// has shape `[classes]`. Both are still divided by the number of rows, not by the sum of the weights.
///
/// # Panics
/// When the shapes do not fit or a target is not below the number of classes.
pub fn weighted_softmax_cross_entropy_gradient(
    logits: &[f32],
    targets: &[u32],
    weights: &[f32],
    gradient: &mut [f32],
) -> ClassificationSums {
    gradient_with(logits, weights.len(), targets, |target| weights[target], gradient)
}

fn gradient_with(
    logits: &[f32],
    classes: usize,
    targets: &[u32],
    weight: impl Fn(usize) -> f32,
    gradient: &mut [f32],
) -> ClassificationSums {
    check(logits, classes, targets.len());
    assert_eq!(gradient.len(), logits.len(), "gradient must have the shape of logits");
    let even = 1.0 / targets.len() as f32;
    let (mut sums, mut logarithms) = (ClassificationSums::default(), Logarithms::new());
    // How far each row's target is below the greatest logit.
    let mut behind = [0.0; ROWS];
    let blocks =
        logits.chunks(ROWS * classes).zip(gradient.chunks_mut(ROWS * classes)).zip(targets.chunks(ROWS));
    for ((logits, gradient), targets) in blocks {
        let rows = logits.chunks_exact(classes).zip(gradient.chunks_exact_mut(classes)).zip(targets);
        for (((row, shares), &target), behind) in rows.zip(&mut behind) {
            let (max, argmax) = greatest(row);
            for (share, &logit) in shares.iter_mut().zip(row) {
                *share = logit - max;
            }
            *behind = shares[target as usize];
            sums.correct += u64::from(argmax == target as usize);
        }
        exponentials(gradient);
        for ((slopes, &target), behind) in gradient.chunks_exact_mut(classes).zip(targets).zip(&behind) {
            let sum: f64 = slopes.iter().map(|share| f64::from(*share)).sum();
            let weight = weight(target as usize);
            let share = even * weight;
            let scale = share * (1.0 / sum) as f32;
            for slope in slopes.iter_mut() {
                *slope *= scale;
            }
            slopes[target as usize] -= share;
            logarithms.add(sum, weight, &mut sums.loss);
            sums.loss -= f64::from(weight) * f64::from(*behind);
        }
    }
    sums.loss += logarithms.rest();
    sums
}

/// Logarithms that are added up: one of a product takes as long as one of a factor.
struct Logarithms {
    product: f64,
}

impl Logarithms {
    /// A product that leaves room for another factor: sums of exponentials are 1 to the number of classes, below 2^32.
    const MOST: f64 = 1e290;

    fn new() -> Self {
        Self { product: 1.0 }
    }

    /// `weight` times the logarithm of `value`, to `sum` at once or later.
    #[inline(always)]
    fn add(&mut self, value: f64, weight: f32, sum: &mut f64) {
        if weight != 1.0 {
            *sum += f64::from(weight) * value.ln();
            return;
        }
        self.product *= value;
        // Not a number goes on to the rest.
        if self.product > Self::MOST {
            *sum += self.product.ln();
            self.product = 1.0;
        }
    }

    /// What is still to be added.
    fn rest(self) -> f64 {
        self.product.ln()
    }
}

/// Turns `values`, shape `[rows, classes]`, from logits into probabilities in place; each row adds up to 1.
///
/// # Panics
/// When `values` is not a whole number of rows.
pub fn softmax(values: &mut [f32], classes: usize) {
    assert!(classes > 0 && values.len().is_multiple_of(classes), "values must be rows of {classes} classes");
    for row in values.chunks_exact_mut(classes) {
        let (max, _) = greatest(row);
        row.iter_mut().for_each(|value| *value -= max);
    }
    exponentials(values);
    for row in values.chunks_exact_mut(classes) {
        let sum: f64 = row.iter().map(|value| f64::from(*value)).sum();
        let scale = (1.0 / sum) as f32;
        row.iter_mut().for_each(|value| *value *= scale);
    }
}

fn check(logits: &[f32], classes: usize, rows: usize) {
    assert!(classes > 0, "there must be a class");
    assert_eq!(logits.len(), rows * classes, "logits must have shape [{rows}, {classes}]");
}

/// e to the power of each, in place.
fn exponentials(values: &mut [f32]) {
    widened(|| values.iter_mut().for_each(|value| *value = exp(*value)));
}

/// The greatest value and its first index.
#[inline(always)]
fn greatest(row: &[f32]) -> (f32, usize) {
    let mut best = (row[0], 0);
    for (index, &value) in row.iter().enumerate().skip(1) {
        if value > best.0 {
            best = (value, index);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::tests::Noise;

    fn reference(logits: &[f32], classes: usize, targets: &[u32]) -> (f64, u64, Vec<f64>) {
        let (mut loss, mut correct, mut gradient) = (0.0, 0, Vec::new());
        for (row, &target) in logits.chunks(classes).zip(targets) {
            let row: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|v| (v - max).exp()).sum();
            loss += sum.ln() + max - row[target as usize];
            correct += u64::from(row.iter().position(|&v| v == max) == Some(target as usize));
            for (class, v) in row.iter().enumerate() {
                let hot = f64::from(u8::from(class == target as usize));
                gradient.push(((v - max).exp() / sum - hot) / targets.len() as f64);
            }
        }
        (loss, correct, gradient)
    }

    #[test]
    fn loss_hits_and_gradient_agree_with_the_naive_ones() {
        let mut noise = Noise(1);
        for case in 0..300 {
            let (rows, classes) = (1 + noise.below(40), 1 + noise.below(20));
            let scale = [0.1, 3.0, 80.0][case % 3];
            let logits: Vec<f32> = (0..rows * classes).map(|_| (noise.unit() - 0.5) * scale).collect();
            let targets: Vec<u32> = (0..rows).map(|_| noise.below(classes) as u32).collect();
            let (loss, correct, slopes) = reference(&logits, classes, &targets);
            let sums = softmax_cross_entropy(&logits, classes, &targets);
            assert!((sums.loss - loss).abs() <= 1e-5 * (1.0 + loss.abs()), "{} {loss}", sums.loss);
            assert_eq!(sums.correct, correct);
            let mut gradient = vec![0.0; logits.len()];
            assert_eq!(softmax_cross_entropy_gradient(&logits, classes, &targets, &mut gradient), sums);
            for (got, want) in gradient.iter().zip(&slopes) {
                assert!((f64::from(*got) - want).abs() <= 1e-6, "{got} {want}");
            }
        }
    }

    #[test]
    fn a_weight_counts_a_row_so_many_times() {
        let (logits, weights) = ([0.5, -1.0, 2.0, 0.1, 0.2, 0.3], [2.0, 1.0, 3.0]);
        let mut gradient = [0.0; 6];
        let sums = weighted_softmax_cross_entropy_gradient(&logits, &[0, 2], &weights, &mut gradient);
        let (repeated, targets) = ([&logits[..3], &logits[..3]].concat(), [0, 0]);
        let mut twice = [0.0; 6];
        let first = softmax_cross_entropy_gradient(&repeated, 3, &targets, &mut twice);
        let third = softmax_cross_entropy(&logits[3..], 3, &[2]);
        assert!((sums.loss - (first.loss + 3.0 * third.loss)).abs() < 1e-6);
        // Two rows of the mean over two are one row that counts twice, of the mean over two.
        for (got, want) in gradient[..3].iter().zip(&twice) {
            assert!((got - 2.0 * want).abs() < 1e-6, "{got} {want}");
        }
        assert_eq!(sums.correct, 1);
    }

    #[test]
    fn probabilities_add_up_to_one_and_keep_their_order() {
        let mut noise = Noise(2);
        for _ in 0..100 {
            let classes = 1 + noise.below(12);
            let logits: Vec<f32> = (0..classes * 5).map(|_| noise.unit() * 40.0).collect();
            let mut values = logits.clone();
            softmax(&mut values, classes);
            for (row, before) in values.chunks(classes).zip(logits.chunks(classes)) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                assert_eq!(greatest(row).1, greatest(before).1);
            }
        }
    }

    #[test]
    fn enormous_logits_are_no_overflow_and_nan_is_seen() {
        let sums = softmax_cross_entropy(&[1e30, -1e30, 0.0, 3e38, 3e38, -3e38], 3, &[0, 1]);
        assert!(sums.loss.is_finite());
        assert!((sums.loss - 2.0_f64.ln()).abs() < 1e-6);
        assert!(softmax_cross_entropy(&[f32::NAN, 0.0], 2, &[1]).loss.is_nan());
        assert!(!softmax_cross_entropy(&[f32::INFINITY, 0.0], 2, &[1]).loss.is_finite());
    }

    #[test]
    #[should_panic(expected = "shape")]
    fn a_wrong_shape_is_a_defect() {
        softmax_cross_entropy(&[0.0; 5], 2, &[0, 1]);
    }
}
