//! From hyperparameters to how a model is trained: defaults that depend on the model are settled here alone.

use super::architecture::{Architecture, Image, Start};
use super::loss::{Criterion, Family};
use super::network::Rule;
use super::schedule::{Beginning, Course};
use crate::data::Dataset;
use crate::domain::{Hyperparameters, Schedule, Stopping, TaskError};

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
    /// Step size at first.
    pub(super) learning_rate: f64,
    /// How it changes.
    pub(super) course: Course,
    /// Share of the hidden units that a step leaves out.
    pub(super) dropout: f64,
    /// Epochs without a better validation loss after which training ends; `None` for never.
    pub(super) patience: Option<u32>,
}

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
            rule: model.rule(hyperparameters, data),
            learning_rate: hyperparameters.learning_rate.unwrap_or(model.learning_rate()),
            course: model.course(hyperparameters),
            dropout: if model.is_linear() { 0.0 } else { hyperparameters.dropout },
            patience: (hyperparameters.stopping == Stopping::Early).then_some(hyperparameters.patience),
        })
    }
}

impl Model {
    fn is_linear(self) -> bool {
        matches!(self, Self::LogisticRegression | Self::Svm)
    }

    /// Step size where none is given. Linear models take far larger ones: there is one minimum, and the rate goes down.
    fn learning_rate(self) -> f64 {
        match self {
            Self::NeuralNetwork | Self::Cnn => 0.001,
            Self::LogisticRegression | Self::Svm => 0.1,
        }
    }

    fn course(self, hyperparameters: &Hyperparameters) -> Course {
        let given = hyperparameters.given.contains("lr_schedule");
        match hyperparameters.schedule {
            Schedule::Constant if self.is_linear() && !given => {
                let chosen = hyperparameters.learning_rate.is_some();
                Course::Settling(if chosen { Beginning::Given } else { Beginning::BySteps })
            }
            Schedule::Constant => Course::Constant,
            Schedule::Cosine => Course::Cosine,
            Schedule::Step => {
                Course::Steps { epochs: hyperparameters.lr_step_size, factor: hyperparameters.lr_gamma }
            }
        }
    }

    /// The optimizer. Linear models are penalised as scikit-learn's: the mean loss plus |w|^2 / (2 C rows), for the
    /// margins with the intercept among w; unless weight_decay was given, which then stands for 1 / (C rows).
    fn rule(self, hyperparameters: &Hyperparameters, data: &Dataset) -> Rule {
        let decay = if self.is_linear() && !hyperparameters.given.contains("weight_decay") {
            // For two classes scikit-learn has one vector w of the log-odds. Softmax has w / 2 and -w / 2, whose
            // squares add up to half of that of w.
            let halves = self == Self::LogisticRegression && data.classes() == Some(2);
            let vectors = if halves { 2.0 } else { 1.0 };
            vectors / (hyperparameters.inverse_penalty * data.train.len().max(1) as f64)
        } else {
            hyperparameters.weight_decay
        } as f32;
        Rule {
            optimizer: hyperparameters.optimizer,
            momentum: hyperparameters.momentum as f32,
            weight_decay: decay,
            bias_decay: if self == Self::LogisticRegression { 0.0 } else { decay },
        }
    }
}
