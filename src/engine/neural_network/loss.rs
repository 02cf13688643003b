//! What is minimised: chosen by the hyperparameter, else by the target; computed by the kernels.

use tensorfleet_kernels as kernels;

use crate::data::{Part, TargetKind, Targets};
use crate::domain::{InvalidField, Loss, TaskError};
use crate::engine::minibatches::Sums;

/// What is minimised, and how wide the network's output is for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Objective {
    /// Softmax cross-entropy; one output a class.
    CrossEntropy {
        /// Number of classes.
        classes: usize,
    },
    /// Mean squared error of the standardised target; one output.
    Squared,
    /// Mean absolute error of the standardised target; one output.
    Absolute,
}

impl Objective {
    /// What `loss` means for a target of this kind.
    ///
    /// # Errors
    /// A loss of classes for a number, and the other way round.
    pub(super) fn choose(loss: Option<Loss>, target: &TargetKind) -> Result<Self, TaskError> {
        match (target, loss) {
            (TargetKind::Classes { labels }, None | Some(Loss::CrossEntropy)) => {
                Ok(Self::CrossEntropy { classes: labels.len() })
            }
            (TargetKind::Value { .. }, None | Some(Loss::MeanSquaredError)) => Ok(Self::Squared),
            (TargetKind::Value { .. }, Some(Loss::MeanAbsoluteError)) => Ok(Self::Absolute),
            (TargetKind::Classes { .. }, Some(loss)) => Err(misfit(
                loss,
                "categorical_crossentropy, sparse_categorical_crossentropy or binary_crossentropy, because the \
                 target is classes (hyperparameter task=regression makes a numeric one a number)",
            )),
            (TargetKind::Value { .. }, Some(loss)) => Err(misfit(
                loss,
                "mean_squared_error or mean_absolute_error, because the target is a number (hyperparameter \
                 task=classification makes it classes)",
            )),
        }
    }

    /// Width of the network's output.
    pub(super) fn outputs(self) -> usize {
        match self {
            Self::CrossEntropy { classes } => classes,
            Self::Squared | Self::Absolute => 1,
        }
    }

    /// Sums for `outputs`, shape [rows, outputs], of the rows of `part` at `rows`.
    pub(super) fn sums(self, outputs: &[f32], part: &Part, rows: &[u32]) -> Sums {
        if outputs.len() != rows.len() * self.outputs() {
            return lost(rows);
        }
        let count = rows.len() as u64;
        match (self, &part.targets) {
            (Self::CrossEntropy { classes }, Targets::Classes(ids)) => {
                let sums = kernels::softmax_cross_entropy(outputs, classes, &gather(ids, rows));
                Sums { loss: sums.loss, quality: sums.correct as f64, rows: count }
            }
            (Self::Squared, Targets::Values(values)) => {
                let loss = kernels::squared_error(outputs, &gather(values, rows));
                Sums { loss, quality: loss, rows: count }
            }
            (Self::Absolute, Targets::Values(values)) => {
                let targets = gather(values, rows);
                let loss = kernels::absolute_error(outputs, &targets);
                Sums { loss, quality: kernels::squared_error(outputs, &targets), rows: count }
            }
            _ => lost(rows),
        }
    }

    /// As [`Self::sums`], with the gradient of the mean loss by the outputs, in their shape.
    pub(super) fn gradient(self, outputs: &[f32], part: &Part, rows: &[u32]) -> (Sums, Vec<f32>) {
        if outputs.len() != rows.len() * self.outputs() {
            return (lost(rows), Vec::new());
        }
        let mut gradient = vec![0.0; outputs.len()];
        let count = rows.len() as u64;
        let sums = match (self, &part.targets) {
            (Self::CrossEntropy { classes }, Targets::Classes(ids)) => {
                let targets = gather(ids, rows);
                let sums = kernels::softmax_cross_entropy_gradient(outputs, classes, &targets, &mut gradient);
                Sums { loss: sums.loss, quality: sums.correct as f64, rows: count }
            }
            (Self::Squared, Targets::Values(values)) => {
                let loss = kernels::squared_error_gradient(outputs, &gather(values, rows), &mut gradient);
                Sums { loss, quality: loss, rows: count }
            }
            (Self::Absolute, Targets::Values(values)) => {
                let targets = gather(values, rows);
                let loss = kernels::absolute_error_gradient(outputs, &targets, &mut gradient);
                Sums { loss, quality: kernels::squared_error(outputs, &targets), rows: count }
            }
            _ => lost(rows),
        };
        (sums, gradient)
    }
}

/// Rows whose outputs are not there, because a device failed: they show as divergence.
fn lost(rows: &[u32]) -> Sums {
    Sums { loss: f64::NAN, quality: f64::NAN, rows: rows.len() as u64 }
}

fn gather<T: Copy>(values: &[T], rows: &[u32]) -> Vec<T> {
    rows.iter().filter_map(|&row| values.get(row as usize).copied()).collect()
}

fn misfit(loss: Loss, allowed: &str) -> TaskError {
    let name = match loss {
        Loss::CrossEntropy => "categorical_crossentropy",
        Loss::MeanSquaredError => "mean_squared_error",
        Loss::MeanAbsoluteError => "mean_absolute_error",
    };
    InvalidField::new("hyperparameters.loss_function", name, allowed).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ErrorCode;

    #[test]
    fn a_loss_that_does_not_fit_the_target_is_named() {
        let classes = TargetKind::Classes { labels: vec!["a".to_owned(), "b".to_owned()] };
        let value = TargetKind::Value { mean: 0.0, std: 1.0 };
        assert_eq!(Objective::choose(None, &classes), Ok(Objective::CrossEntropy { classes: 2 }));
        assert_eq!(Objective::choose(None, &value), Ok(Objective::Squared));
        assert_eq!(Objective::choose(Some(Loss::MeanAbsoluteError), &value), Ok(Objective::Absolute));
        for (loss, target) in [(Loss::CrossEntropy, value), (Loss::MeanSquaredError, classes)] {
            let error = Objective::choose(Some(loss), &target).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(error.message.contains("loss_function"), "{error}");
        }
    }
}
