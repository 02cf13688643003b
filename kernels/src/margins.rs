//! Losses with a margin: the squared hinge of classes, and the tube around numbers.

use crate::ClassificationSums;

/// The squared hinge of one class against the rest, summed over classes and rows, as scikit-learn's LinearSVC has it:
/// max(0, 1 - y f)^2 with y = 1 for the target's class and -1 for the others.
///
/// `margins` has shape `[rows, classes]`, `targets` shape `[rows]` with ids below `classes`, `weights` shape
/// `[classes]`: how much a row of each class counts in the loss. A row is correct when its greatest margin is that of
/// the target; the first of equal ones counts. Writes the gradient of the loss divided by `rows` into `gradient`,
/// shape `[rows, classes]`.
///
/// # Panics
/// When the shapes do not fit or a target is not below the number of classes.
pub fn squared_hinge_gradient(
    margins: &[f32],
    targets: &[u32],
    weights: &[f32],
    gradient: &mut [f32],
) -> ClassificationSums {
    let classes = weights.len();
    assert_eq!(
        margins.len(),
        targets.len() * classes,
        "margins must have shape [{}, {classes}]",
        targets.len()
    );
    assert_eq!(gradient.len(), margins.len(), "gradient must have the shape of margins");
    let share = 2.0 / targets.len() as f32;
    let mut sums = ClassificationSums::default();
    let rows = margins.chunks_exact(classes).zip(gradient.chunks_exact_mut(classes)).zip(targets);
    for ((row, slopes), &target) in rows {
        let target = target as usize;
        let weight = weights[target];
        let mut loss = 0.0;
        let mut best = 0;
        for (class, (margin, slope)) in row.iter().zip(slopes).enumerate() {
            let sign = if class == target { 1.0 } else { -1.0 };
            let distance = 1.0 - sign * margin;
            // NaN goes on, into the loss.
            let missing = if distance < 0.0 { 0.0 } else { distance };
            loss += f64::from(missing) * f64::from(missing);
            *slope = -sign * share * weight * missing;
            if *margin > row[best] {
                best = class;
            }
        }
        sums.loss += f64::from(weight) * loss;
        sums.correct += u64::from(best == target);
    }
    sums
}

/// The distance of predictions from a tube of half width `epsilon` around the targets, summed over rows:
/// max(0, |prediction - target| - epsilon) (Vapnik, 1995). Both have shape `[rows]`. Writes the gradient of the mean
/// into `gradient`, shape `[rows]`.
///
/// # Panics
/// When the shapes differ.
pub fn epsilon_insensitive_gradient(
    predictions: &[f32],
    targets: &[f32],
    epsilon: f32,
    gradient: &mut [f32],
) -> f64 {
    assert_eq!(predictions.len(), targets.len(), "predictions and targets must have the same shape");
    assert_eq!(gradient.len(), predictions.len(), "gradient must have the shape of predictions");
    let share = 1.0 / targets.len() as f32;
    let mut sum = 0.0;
    for ((slope, prediction), target) in gradient.iter_mut().zip(predictions).zip(targets) {
        let difference = prediction - target;
        let outside = difference.abs() - epsilon;
        *slope = if outside > 0.0 { share.copysign(difference) } else { 0.0 };
        sum += if outside < 0.0 { 0.0 } else { f64::from(outside) };
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::tests::Noise;

    #[test]
    fn the_hinge_and_its_gradient_agree_with_the_naive_ones() {
        let mut noise = Noise(21);
        for _ in 0..200 {
            let (rows, classes) = (1 + noise.below(20), 2 + noise.below(6));
            let margins: Vec<f32> = (0..rows * classes).map(|_| 4.0 * noise.unit() - 2.0).collect();
            let targets: Vec<u32> = (0..rows).map(|_| noise.below(classes) as u32).collect();
            let weights: Vec<f32> = (0..classes).map(|_| 0.5 + noise.unit()).collect();
            let naive = |margins: &[f32]| -> f64 {
                margins
                    .iter()
                    .enumerate()
                    .map(|(at, f)| {
                        let target = targets[at / classes] as usize;
                        let y = if at % classes == target { 1.0 } else { -1.0 };
                        f64::from(weights[target]) * (1.0 - y * f64::from(*f)).max(0.0).powi(2)
                    })
                    .sum()
            };
            let mut gradient = vec![9.0; margins.len()];
            let sums = squared_hinge_gradient(&margins, &targets, &weights, &mut gradient);
            assert!((sums.loss - naive(&margins)).abs() < 1e-4, "{} {}", sums.loss, naive(&margins));
            let at = noise.below(margins.len());
            let moved = |by: f32| {
                let mut margins = margins.clone();
                margins[at] += by;
                naive(&margins)
            };
            let want = (moved(1e-2) - moved(-1e-2)) / 2e-2 / rows as f64;
            assert!((f64::from(gradient[at]) - want).abs() < 2e-2, "{} {want}", gradient[at]);
            let hits = margins
                .chunks(classes)
                .zip(&targets)
                .filter(|(row, target)| row.iter().all(|margin| *margin <= row[**target as usize]));
            assert_eq!(sums.correct, hits.count() as u64);
        }
        let mut gradient = [0.0; 2];
        assert!(squared_hinge_gradient(&[f32::NAN, 0.0], &[0], &[1.0, 1.0], &mut gradient).loss.is_nan());
    }

    #[test]
    fn inside_of_the_tube_nothing_counts() {
        let mut gradient = [9.0; 4];
        let loss =
            epsilon_insensitive_gradient(&[1.0, 1.05, 3.0, -2.0], &[1.0, 1.0, 1.0, 1.0], 0.1, &mut gradient);
        assert!((loss - (1.9 + 2.9)).abs() < 1e-6, "{loss}");
        assert_eq!(gradient, [0.0, 0.0, 0.25, -0.25]);
        assert!(epsilon_insensitive_gradient(&[f32::NAN], &[0.0], 0.1, &mut gradient[..1]).is_nan());
    }
}
