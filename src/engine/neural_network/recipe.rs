//! From hyperparameters to how a model is trained: defaults that depend on the model are settled here alone.

use super::architecture::{Architecture, Image, Start};
use super::loss::{Criterion, Family};
use super::network::Rule;
use super::schedule::{Beginning, Course};
use crate::data::Dataset;
use crate::domain::{Hyperparameters, InvalidField, Optimizer, Penalty, Schedule, TaskError};
use crate::engine::stopping::Limit;

/// A model that is trained by minibatches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Model {
    /// Dense layers.
    NeuralNetwork,
    /// Convolutions.
    Cnn,
    /// Softmax regression; for numbers, linear regression.
    LogisticRegression,
    /// Linear support vector machine.
    Svm,
}

/// How a model is trained.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Recipe {
    /// Its layers.
    pub(super) architecture: Architecture,
    /// Where its values start.
    pub(super) start: Start,
    /// What is minimised.
    pub(super) criterion: Criterion,
    /// How parameters follow gradients.
    pub(super) rule: Rule,
    /// Rows of a minibatch.
    pub(super) batch_size: usize,
    /// Step size at first.
    pub(super) learning_rate: f64,
    /// How it changes.
    pub(super) course: Course,
    /// Share of the hidden units that a step leaves out.
    pub(super) dropout: f64,
    /// When training ends early; `None` for never.
    pub(super) limit: Option<Limit>,
}

/// How far a step of a linear model moves an output, about, where its step size is not given. Between 0.2 and 0.4 ten
/// epochs come nearest to the minimum, on made-up data sets and on other parts of the built-in ones than tests hold out.
const LINEAR_STEP: f64 = 0.3;

/// Momentum of the RMSprop of linear models, that of Adam.
const MOMENTUM: f64 = 0.9;

/// Steps that an epoch of a linear model has, where its data set and [`LEAST_BATCH`] let it.
const LINEAR_STEPS: usize = 250;

/// Least rows of a minibatch of a linear model where none are given.
const LEAST_BATCH: usize = 4;

/// Epochs without a better validation loss after which training ends early, where none are given.
const PATIENCE: u32 = 5;

impl Recipe {
    /// What `hyperparameters` mean for `model` and `data`.
    ///
    /// # Errors
    /// A loss that does not fit the target; rows that are no image; too many parameters.
    pub(super) fn new(
        model: Model,
        data: &Dataset,
        hyperparameters: &Hyperparameters,
    ) -> Result<Self, TaskError> {
        let family = if model == Model::Svm { Family::Margins } else { Family::Likelihood };
        let criterion = Criterion::choose(family, hyperparameters, data)?;
        let (inputs, outputs) = (data.width(), criterion.outputs());
        let architecture = match model {
            Model::NeuralNetwork => Architecture::Dense {
                widths: std::iter::once(inputs)
                    .chain(hyperparameters.hidden_layers.iter().copied())
                    .chain([outputs])
                    .collect(),
            },
            Model::Cnn => Architecture::Convolutional { image: Image::of(data, hyperparameters)?, outputs },
            Model::LogisticRegression | Model::Svm => Architecture::Dense { widths: vec![inputs, outputs] },
        };
        architecture.checked_size(hyperparameters)?;
        Ok(Self {
            architecture,
            start: if model.is_linear() { Start::Zero } else { Start::Drawn },
            criterion,
            rule: model.rule(hyperparameters, data)?,
            batch_size: model.batch_size(hyperparameters, data),
            learning_rate: match hyperparameters.learning_rate {
                Some(given) => given,
                // Momentum adds up that many steps.
                None if model.measures(hyperparameters) => model.learning_rate(data) * (1.0 - MOMENTUM),
                None => model.learning_rate(data),
            },
            course: model.course(hyperparameters),
            dropout: if model.is_linear() { 0.0 } else { hyperparameters.dropout },
            limit: Limit::of(hyperparameters, PATIENCE, "epoch"),
        })
    }
}

impl Model {
    fn is_linear(self) -> bool {
        matches!(self, Self::LogisticRegression | Self::Svm)
    }

    /// Step size where none is given. Linear models take far larger ones: there is one minimum, and the rate goes down.
    /// The more features a row has, the farther a step of all their weights moves its output: by their square root.
    fn learning_rate(self, data: &Dataset) -> f64 {
        match self {
            Self::NeuralNetwork | Self::Cnn => 0.001,
            Self::LogisticRegression | Self::Svm => LINEAR_STEP / (data.width().max(1) as f64).sqrt(),
        }
    }

    /// Whether all of optimizer, momentum and step size are left to the model, and it is one that has its own way: linear
    /// models start at 0, where gradients are large. RMSprop has forgotten those soon, Adam would make small steps for
    /// the rest of a short job.
    fn measures(self, hyperparameters: &Hyperparameters) -> bool {
        let given = |name| hyperparameters.given.contains(name);
        self.is_linear()
            && hyperparameters.learning_rate.is_none()
            && hyperparameters.optimizer == Optimizer::Adam
            && !given("optimizer")
            && !given("momentum")
    }

    /// Rows of a minibatch. Linear models take fewer of a small data set where nothing else is said: a few passes are
    /// then enough steps to come to the minimum.
    fn batch_size(self, hyperparameters: &Hyperparameters, data: &Dataset) -> usize {
        if self.is_linear() && !hyperparameters.given.contains("batch_size") {
            return (data.train.len() / LINEAR_STEPS).max(LEAST_BATCH).min(hyperparameters.batch_size);
        }
        hyperparameters.batch_size
    }

    fn course(self, hyperparameters: &Hyperparameters) -> Course {
        let given = hyperparameters.given.contains("lr_schedule");
        match hyperparameters.schedule {
            Schedule::Constant if self.is_linear() && !given => {
                Course::Settling(match hyperparameters.learning_rate {
                    Some(_) => Beginning::Given,
                    None if self.measures(hyperparameters) => Beginning::Warming,
                    None => Beginning::BySteps,
                })
            }
            Schedule::Constant => Course::Constant,
            Schedule::Cosine => Course::Cosine,
            Schedule::Step => {
                Course::Steps { epochs: hyperparameters.lr_step_size, factor: hyperparameters.lr_gamma }
            }
        }
    }

    /// The optimizer.
    ///
    /// # Errors
    /// Two penalties where there can be one.
    fn rule(self, hyperparameters: &Hyperparameters, data: &Dataset) -> Result<Rule, TaskError> {
        let (weights, biases) = if self.is_linear() {
            self.penalty(hyperparameters, data)?
        } else {
            decay(hyperparameters, data)?
        };
        let (optimizer, momentum) = if self.measures(hyperparameters) {
            (Optimizer::RmsProp, MOMENTUM)
        } else {
            (hyperparameters.optimizer, hyperparameters.momentum)
        };
        Ok(Rule {
            optimizer,
            momentum: momentum as f32,
            weight_decay: weights as f32,
            bias_decay: biases as f32,
        })
    }

    /// L2 penalties of a linear model's weights and biases, those of scikit-learn: the mean loss plus |w|^2 / (2 C rows),
    /// for the margins with the intercept among w; unless weight_decay was given, which then stands for 1 / (C rows).
    fn penalty(self, hyperparameters: &Hyperparameters, data: &Dataset) -> Result<(f64, f64), TaskError> {
        let given = hyperparameters.given.contains("weight_decay");
        let penalty = match (hyperparameters.penalty, given) {
            (Penalty::None, true) => {
                let allowed = "l2, because weight_decay is its strength; or no weight_decay";
                return Err(InvalidField::new("hyperparameters.penalty", "none", allowed).into());
            }
            (Penalty::None, false) => 0.0,
            (Penalty::Squares, true) => hyperparameters.weight_decay,
            (Penalty::Squares, false) => {
                // For two classes scikit-learn has one vector w of the log-odds. Softmax has w / 2 and -w / 2, whose
                // squares add up to half of that of w.
                let halves = self == Self::LogisticRegression && data.classes() == Some(2);
                let vectors = if halves { 2.0 } else { 1.0 };
                vectors / (hyperparameters.inverse_penalty * data.train.len().max(1) as f64)
            }
        };
        Ok((penalty, if self == Self::LogisticRegression { 0.0 } else { penalty }))
    }
}

/// L2 penalties of a network's weights and biases: weight_decay of both, as in PyTorch; or alpha as in scikit-learn,
/// which divides it by the rows of a minibatch and leaves biases alone.
fn decay(hyperparameters: &Hyperparameters, data: &Dataset) -> Result<(f64, f64), TaskError> {
    let decay = hyperparameters.weight_decay;
    match hyperparameters.alpha {
        Some(alpha) if hyperparameters.given.contains("weight_decay") => {
            let allowed =
                "only one of alpha and weight_decay, which both penalise the squares of weights here";
            Err(InvalidField::new("hyperparameters.alpha", alpha.to_string(), allowed).into())
        }
        Some(alpha) => {
            let rows = hyperparameters.batch_size.min(data.train.len()).max(1);
            Ok((alpha / rows as f64, 0.0))
        }
        None => Ok((decay, decay)),
    }
}
