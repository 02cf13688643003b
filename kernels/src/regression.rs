//! Errors of predicted numbers.

/// Sum of (prediction - target)^2 over rows; both have shape `[rows]`, in the unit of the target.
///
/// # Panics
/// When the shapes differ.
pub fn squared_error(predictions: &[f32], targets: &[f32]) -> f64 {
    differences(predictions, targets).map(|difference| difference * difference).sum()
}

/// As [`squared_error`], and writes the gradient of the *mean* squared error by the predictions, shape `[rows]`:
/// 2 (prediction - target) / rows.
///
/// # Panics
/// When the shapes differ.
pub fn squared_error_gradient(predictions: &[f32], targets: &[f32], gradient: &mut [f32]) -> f64 {
    assert_eq!(gradient.len(), predictions.len(), "gradient must have the shape of predictions");
    let scale = 2.0 / targets.len() as f64;
    let mut sum = 0.0;
    for (slope, difference) in gradient.iter_mut().zip(differences(predictions, targets)) {
        *slope = (difference * scale) as f32;
        sum += difference * difference;
    }
    sum
}

/// Sum of |prediction - target| over rows; both have shape `[rows]`, in the unit of the target.
///
/// # Panics
/// When the shapes differ.
pub fn absolute_error(predictions: &[f32], targets: &[f32]) -> f64 {
    differences(predictions, targets).map(f64::abs).sum()
}

/// As [`absolute_error`], and writes the gradient of the *mean* absolute error by the predictions, shape `[rows]`:
/// sign(prediction - target) / rows, and 0 where they are equal.
///
/// # Panics
/// When the shapes differ.
pub fn absolute_error_gradient(predictions: &[f32], targets: &[f32], gradient: &mut [f32]) -> f64 {
    assert_eq!(gradient.len(), predictions.len(), "gradient must have the shape of predictions");
    let share = 1.0 / targets.len() as f32;
    let mut sum = 0.0;
    for (slope, difference) in gradient.iter_mut().zip(differences(predictions, targets)) {
        *slope = if difference > 0.0 {
            share
        } else if difference < 0.0 {
            -share
        } else {
            // Zero, or NaN, which the loss shows.
            0.0
        };
        sum += difference.abs();
    }
    sum
}

fn differences(predictions: &[f32], targets: &[f32]) -> impl Iterator<Item = f64> {
    assert_eq!(predictions.len(), targets.len(), "predictions and targets must have the same shape");
    predictions.iter().zip(targets).map(|(prediction, target)| f64::from(*prediction) - f64::from(*target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::tests::Noise;

    #[test]
    fn sums_and_gradients_agree_with_finite_differences() {
        let mut noise = Noise(3);
        for _ in 0..200 {
            let rows = 1 + noise.below(30);
            let predictions: Vec<f32> = (0..rows).map(|_| noise.unit() * 4.0 - 2.0).collect();
            let targets: Vec<f32> = (0..rows).map(|_| noise.unit() * 4.0 - 2.0).collect();
            let mut gradient = vec![0.0; rows];
            let sum = squared_error_gradient(&predictions, &targets, &mut gradient);
            assert_eq!(sum, squared_error(&predictions, &targets));
            let at = noise.below(rows);
            let difference = f64::from(predictions[at]) - f64::from(targets[at]);
            assert!((f64::from(gradient[at]) - 2.0 * difference / rows as f64).abs() < 1e-6);
            let sum = absolute_error_gradient(&predictions, &targets, &mut gradient);
            assert_eq!(sum, absolute_error(&predictions, &targets));
            assert!((f64::from(gradient[at]) - difference.signum() / rows as f64).abs() < 1e-6);
        }
    }

    #[test]
    fn by_hand() {
        assert_eq!(squared_error(&[1.0, 2.0], &[3.0, 2.5]), 4.25);
        assert_eq!(absolute_error(&[1.0, 2.0], &[3.0, 2.5]), 2.5);
        let mut gradient = [9.0; 2];
        absolute_error_gradient(&[1.0, 2.0], &[1.0, 1.0], &mut gradient);
        assert_eq!(gradient, [0.0, 0.5]);
        assert!(squared_error(&[f32::NAN], &[0.0]).is_nan());
    }
}
