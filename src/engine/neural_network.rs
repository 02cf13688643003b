//! Models that are trained by minibatches: multilayer perceptron, convolutional network, linear models.
//!
//! ```text
//! hyperparameters --recipe--> architecture, criterion (loss), rule (optimizer), course (learning rate)
//!                                  |
//!                    +-------------+--------------+
//!              Fused: on the CPU           Tensors: burn, on GPUs
//!                    +-------------+--------------+
//!                                  |
//!                           GradientTrainer: minibatches, evaluation, early stopping, files
//! ```
//!
//! Loss, accuracy and the gradient by the outputs come of one pass over the outputs. The loss is on the host once a
//! step, to notice divergence: a step whose loss is no number changes nothing.
//!
//! Invariants: all that is random comes from streams of the job's seed (first weights one, dropout one for each epoch
//! and minibatch), nothing from burn's global generator; parameters have the layout of PyTorch throughout; the same
//! slices give the same bits on the CPU, whatever the number of threads.
//!
//! Deliberately absent: batch normalisation, and other architectures than these two.

mod architecture;
mod convolutions;
mod descent;
mod fused;
mod judging;
mod loss;
mod network;
mod recipe;
mod schedule;
mod state;
mod tensors;
#[cfg(test)]
mod tests;
mod trainer;
mod weights;

use self::recipe::Model;
use super::trainer::{Blueprint, Trainer};
use crate::domain::TaskError;

use self::trainer::GradientTrainer;

fn build(model: Model, blueprint: &Blueprint<'_>) -> Result<Box<dyn Trainer>, TaskError> {
    Ok(Box::new(GradientTrainer::build(model, blueprint)?))
}

/// Dense layers with ReLU between them.
///
/// # Errors
/// Hyperparameters that do not fit the data set.
pub(crate) fn multilayer_perceptron(blueprint: &Blueprint<'_>) -> Result<Box<dyn Trainer>, TaskError> {
    build(Model::NeuralNetwork, blueprint)
}

/// Two convolutions with pooling, then two dense layers. Rows are images.
///
/// # Errors
/// As [`multilayer_perceptron`]; rows that are no image.
pub(crate) fn convolutional(blueprint: &Blueprint<'_>) -> Result<Box<dyn Trainer>, TaskError> {
    build(Model::Cnn, blueprint)
}

/// Softmax regression with an L2 penalty; linear regression (ridge) where the target is a number.
///
/// # Errors
/// As [`multilayer_perceptron`].
pub(crate) fn logistic_regression(blueprint: &Blueprint<'_>) -> Result<Box<dyn Trainer>, TaskError> {
    build(Model::LogisticRegression, blueprint)
}

/// Linear support vector machine: squared hinge of each class against the rest; the epsilon-insensitive error where
/// the target is a number. Its probabilities are the softmax of the margins.
///
/// # Errors
/// As [`multilayer_perceptron`].
pub(crate) fn support_vector_machine(blueprint: &Blueprint<'_>) -> Result<Box<dyn Trainer>, TaskError> {
    build(Model::Svm, blueprint)
}
