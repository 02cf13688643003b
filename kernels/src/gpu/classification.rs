//! Softmax cross-entropy with its gradient on a GPU.

use cubecl::prelude::*;

use super::{Values, spread};

/// What each row contributes, in the device's memory.
#[derive(Debug)]
pub struct RowFigures {
    /// Gradient of the mean loss by the logits, shape `[rows, classes]`.
    pub gradient: Values,
    /// Weighted cross-entropy of each row, and then 1 or 0 for each: whether its greatest logit is that of the target.
    /// Shape `[2, rows]`.
    pub figures: Values,
}

/// As [`crate::weighted_softmax_cross_entropy_gradient`], with the sums over rows left to the caller.
///
/// `logits` has shape `[rows, classes]`, `targets` (`u32`, below the number of classes) shape `[rows]`, `weights`
/// shape `[classes]`. A unit computes a row.
///
/// # Panics
/// When the shapes do not fit.
pub fn softmax_cross_entropy_gradient(
    client: &Client,
    logits: &Values,
    targets: &Values,
    weights: &Values,
) -> RowFigures {
    let (rows, classes) = (targets.len(), weights.len());
    assert_eq!(logits.len(), rows * classes, "logits must have shape [{rows}, {classes}]");
    let found = RowFigures {
        gradient: Values::empty(client, logits.len()),
        figures: Values::empty(client, 2 * rows),
    };
    let (cubes, units) = spread(client, rows);
    cross_entropy_kernel::launch(
        client,
        cubes,
        units,
        logits.argument(),
        targets.argument(),
        weights.argument(),
        found.gradient.argument(),
        found.figures.argument(),
        1.0 / rows as f32,
    );
    found
}

#[cube(launch)]
fn cross_entropy_kernel(
    logits: &[f32],
    targets: &[u32],
    weights: &[f32],
    gradient: &mut [f32],
    figures: &mut [f32],
    even: f32,
) {
    let row = ABSOLUTE_POS;
    let rows = targets.len();
    if row < rows {
        let classes = weights.len();
        let start = row * classes;
        let target = targets[row] as usize;
        let mut greatest = logits[start];
        let mut guess = 0usize;
        for class in 1..classes {
            let logit = logits[start + class];
            if logit > greatest {
                greatest = logit;
                guess = class;
            }
        }
        let mut sum = 0.0f32;
        for class in 0..classes {
            let share = (logits[start + class] - greatest).exp();
            gradient[start + class] = share;
            sum += share;
        }
        let weight = weights[target];
        let scale = even * weight / sum;
        for class in 0..classes {
            gradient[start + class] *= scale;
        }
        gradient[start + target] -= even * weight;
        figures[row] = weight * (sum.ln() - (logits[start + target] - greatest));
        figures[rows + row] = select(guess == target, 1.0f32, 0.0f32);
    }
}
