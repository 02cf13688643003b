//! What is minimised: chosen by the hyperparameters, else by model and target; computed by the kernels.

use tensorfleet_kernels as kernels;

use crate::data::{Dataset, TargetKind, Targets};
use crate::domain::{Hyperparameters, InvalidField, Loss, TaskError};
use crate::engine::class_weights;
use crate::engine::minibatches::Sums;

/// Half width of the tube around numbers in which a support vector machine sees no error, in deviations of the target;
/// that of scikit-learn's SVR.
const EPSILON: f32 = 0.1;

/// What a model is fitted by where no loss is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// Cross-entropy and squared error.
    Likelihood,
    /// Squared hinge and epsilon-insensitive error.
    Margins,
}

/// What is minimised, and how wide the network's output is for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Objective {
    /// Softmax cross-entropy; one output a class.
    CrossEntropy,
    /// Squared hinge of each class against the rest; one output a class.
    SquaredHinge,
    /// Mean squared error of the standardised target; one output.
    Squared,
    /// Mean absolute error of the standardised target; one output.
    Absolute,
    /// Mean absolute error beyond [`EPSILON`]; one output.
    EpsilonInsensitive,
}

/// An objective, and how much the rows of each class count.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Criterion {
    objective: Objective,
    /// Of each class, in training; empty for numbers.
    weights: Vec<f32>,
    counting: Counting,
}

/// How rows count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counting {
    /// Alike.
    Alike,
    /// By the weights of their classes.
    ByClass,
}

impl Objective {
    /// What `loss` means for a target of this kind.
    ///
    /// # Errors
    /// A loss of classes for a number, and the other way round.
    fn choose(family: Family, loss: Option<Loss>, target: &TargetKind) -> Result<Self, TaskError> {
        match (target, loss, family) {
            (TargetKind::Classes { .. }, None, Family::Margins) => Ok(Self::SquaredHinge),
            (TargetKind::Value { .. }, None, Family::Margins) => Ok(Self::EpsilonInsensitive),
            (TargetKind::Classes { .. }, None | Some(Loss::CrossEntropy), Family::Likelihood) => {
                Ok(Self::CrossEntropy)
            }
            (TargetKind::Value { .. }, None | Some(Loss::MeanSquaredError), _) => Ok(Self::Squared),
            (TargetKind::Value { .. }, Some(Loss::MeanAbsoluteError), _) => Ok(Self::Absolute),
            (TargetKind::Classes { .. }, Some(Loss::CrossEntropy), Family::Margins) => Err(misfit(
                Loss::CrossEntropy,
                "no loss_function for the classes of this model, which minimises the squared hinge \
                 (model_type=logistic_regression minimises the cross-entropy)",
            )),
            (TargetKind::Classes { .. }, Some(loss), _) => Err(misfit(
                loss,
                "categorical_crossentropy, sparse_categorical_crossentropy or binary_crossentropy, because the \
                 target is classes (hyperparameter task=regression makes a numeric one a number)",
            )),
            (TargetKind::Value { .. }, Some(loss), _) => Err(misfit(
                loss,
                "mean_squared_error or mean_absolute_error, because the target is a number (hyperparameter \
                 task=classification makes it classes)",
            )),
        }
    }
}

impl Criterion {
    /// What `hyperparameters` mean for the target of `data`.
    ///
    /// # Errors
    /// A loss or weights of classes that do not fit the target.
    pub(super) fn choose(
        family: Family,
        hyperparameters: &Hyperparameters,
        data: &Dataset,
    ) -> Result<Self, TaskError> {
        let objective = Objective::choose(family, hyperparameters.loss, &data.target)?;
        Ok(match class_weights::of(hyperparameters, data)? {
            Some(weights) => {
                let weights = weights.into_iter().map(|weight| weight as f32).collect();
                Self { objective, weights, counting: Counting::ByClass }
            }
            None => {
                let weights = vec![1.0; data.classes().unwrap_or(0)];
                Self { objective, weights, counting: Counting::Alike }
            }
        })
    }

    /// The name of a loss that is neither cross-entropy nor squared error.
    pub(super) fn own_name(&self) -> Option<&'static str> {
        match self.objective {
            Objective::CrossEntropy | Objective::Squared => None,
            Objective::SquaredHinge => Some("squared hinge"),
            Objective::Absolute => Some("mean absolute error"),
            Objective::EpsilonInsensitive => Some("epsilon-insensitive error"),
        }
    }

    /// Width of the network's output.
    pub(super) fn outputs(&self) -> usize {
        match self.objective {
            Objective::CrossEntropy | Objective::SquaredHinge => self.weights.len(),
            Objective::Squared | Objective::Absolute | Objective::EpsilonInsensitive => 1,
        }
    }

    /// Sums for `outputs`, shape `[rows, width]`, of rows with these `targets`, all of which count alike.
    pub(super) fn sums(&self, outputs: &[f32], targets: &Targets) -> Sums {
        let alike = Self { weights: vec![1.0; self.weights.len()], counting: Counting::Alike, ..*self };
        match (self.objective, targets) {
            (Objective::CrossEntropy, Targets::Classes(ids))
                if outputs.len() == ids.len() * self.outputs() =>
            {
                let sums = kernels::softmax_cross_entropy(outputs, self.outputs(), ids);
                Sums { loss: sums.loss, quality: sums.correct as f64, rows: ids.len() as u64 }
            }
            _ => alike.gradient(outputs, targets, &mut vec![0.0; outputs.len()]),
        }
    }

    /// Class of each row, and how much each class counts, where this is the cross-entropy.
    #[cfg_attr(not(feature = "wgpu"), allow(dead_code, reason = "asked for by GPUs alone"))]
    pub(super) fn cross_entropy<'a>(&'a self, targets: &'a Targets) -> Option<(&'a [u32], &'a [f32])> {
        match (self.objective, targets) {
            (Objective::CrossEntropy, Targets::Classes(ids)) => Some((ids, &self.weights)),
            _ => None,
        }
    }

    /// Sums for `outputs`, shape `[rows, width]`, of rows with these `targets`; writes the gradient of the mean loss by
    /// the outputs into `gradient`, which has their shape. Classes count by their weights.
    pub(super) fn gradient(&self, outputs: &[f32], targets: &Targets, gradient: &mut [f32]) -> Sums {
        let width = self.outputs();
        let count = match targets {
            Targets::Classes(ids) => ids.len(),
            Targets::Values(values) => values.len(),
        };
        // Rows whose outputs are not there, because a device failed, show as divergence.
        let lost = Sums { loss: f64::NAN, quality: f64::NAN, rows: count as u64 };
        if outputs.len() != count * width {
            return lost;
        }
        match (self.objective, targets) {
            (Objective::CrossEntropy | Objective::SquaredHinge, Targets::Classes(ids)) => {
                let sums = match (self.objective, self.counting) {
                    (Objective::SquaredHinge, _) => {
                        kernels::squared_hinge_gradient(outputs, ids, &self.weights, gradient)
                    }
                    (_, Counting::Alike) => {
                        kernels::softmax_cross_entropy_gradient(outputs, width, ids, gradient)
                    }
                    (_, Counting::ByClass) => {
                        let weights = &self.weights;
                        kernels::weighted_softmax_cross_entropy_gradient(outputs, ids, weights, gradient)
                    }
                };
                Sums { loss: sums.loss, quality: sums.correct as f64, rows: count as u64 }
            }
            (objective, Targets::Values(values)) => {
                let loss = match objective {
                    Objective::Absolute => kernels::absolute_error_gradient(outputs, values, gradient),
                    Objective::EpsilonInsensitive => {
                        kernels::epsilon_insensitive_gradient(outputs, values, EPSILON, gradient)
                    }
                    _ => kernels::squared_error_gradient(outputs, values, gradient),
                };
                Sums { loss, quality: kernels::squared_error(outputs, values), rows: count as u64 }
            }
            _ => lost,
        }
    }
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
        let (likelihood, margins) = (Family::Likelihood, Family::Margins);
        for (family, loss, target, want) in [
            (likelihood, None, &classes, Objective::CrossEntropy),
            (margins, None, &classes, Objective::SquaredHinge),
            (likelihood, None, &value, Objective::Squared),
            (margins, None, &value, Objective::EpsilonInsensitive),
            (margins, Some(Loss::MeanSquaredError), &value, Objective::Squared),
            (likelihood, Some(Loss::MeanAbsoluteError), &value, Objective::Absolute),
        ] {
            assert_eq!(Objective::choose(family, loss, target), Ok(want));
        }
        for (family, loss, target) in [
            (likelihood, Loss::CrossEntropy, &value),
            (likelihood, Loss::MeanSquaredError, &classes),
            (margins, Loss::CrossEntropy, &classes),
        ] {
            let error = Objective::choose(family, Some(loss), target).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(error.message.contains("loss_function"), "{error}");
        }
    }
}
