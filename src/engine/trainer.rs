//! What a model has to be able to do, and the table of those that can be trained for real.
//!
//! A new model is one file with a [`Trainer`] and one line in [`MODELS`]; or, outside of this crate, one file and one line
//! that hands it to a [`ModelRegistry`](super::ModelRegistry), see examples/custom_model.rs.

use std::ops::Range;
use std::sync::Arc;

use super::Control;
use super::device::ComputeDevice;
use super::neural_network;
use super::trees::TreeModel;
use crate::data::{Dataset, FeatureForm, LoadOptions};
use crate::domain::{BoostingObjective, Hyperparameters, Metrics, ModelType, Problem, Stopping, TaskError};

/// What a trainer is built from.
pub struct Blueprint<'a> {
    /// The prepared rows.
    pub data: &'a Arc<Dataset>,
    /// How they are trained.
    pub hyperparameters: &'a Hyperparameters,
    /// Where.
    pub device: &'a ComputeDevice,
    /// The job's seed.
    pub seed: u64,
}

/// A part of the training of a job: minibatches [start, end) of an epoch, or as many rounds or trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Epoch, as the orchestrator numbers it.
    pub epoch: u32,
    /// Minibatches of it, modulo the number there are.
    pub batches: Range<u32>,
}

/// Where slices stand in their job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    /// Epochs of the whole job, where they are known.
    pub total_epochs: Option<u32>,
    /// Minibatches that make an epoch, as whoever cuts the slices counts them, at least 1.
    pub batches_per_epoch: u32,
}

impl Course {
    /// Whether no epoch comes after `epoch`, as far as is known.
    pub(super) fn is_last(&self, epoch: u32) -> bool {
        self.total_epochs.is_some_and(|total| epoch.saturating_add(1) >= total)
    }
}

/// What the end of an epoch did to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Unchanged,
    /// It is another one now: the best of the epochs so far.
    Replaced,
}

/// What a slice yields.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trained {
    /// On the rows of the slice, each as it was before its own step.
    pub metrics: Metrics,
    /// Rows that went through the model.
    pub samples: u64,
    /// Steps made.
    pub steps: u64,
}

/// A model in training, its optimizer included. Lives on one thread.
///
/// What it computes follows from its blueprint and its slices alone: the same ones give the same bits on the CPU.
pub trait Trainer: Send {
    /// Remembers the state that [`Trainer::roll_back`] returns to.
    fn mark(&mut self);

    /// Returns to the state of the last [`Trainer::mark`], as if nothing had happened since.
    fn roll_back(&mut self);

    /// Minibatches of one pass over the training rows.
    fn batches_per_epoch(&self) -> u32;

    /// Tells where the slices that follow stand in their job.
    fn follow(&mut self, _course: Course) {}

    /// Trains `slice`. Looks at `control` before each step and tells it after each.
    ///
    /// # Errors
    /// The reason to stop, or `Diverged`; the state is then somewhere in the slice until it is rolled back.
    fn train(&mut self, slice: &Slice, control: &Control) -> Result<Trained, TaskError>;

    /// Hears that `epoch` has ended, with the quality on all held-out rows where there are some.
    fn epoch_ended(&mut self, _epoch: u32, _validation: Option<Metrics>) -> Verdict {
        Verdict::Unchanged
    }

    /// What the owner of the job should know since the last call.
    fn take_notes(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// Quality on the held-out rows at `rows` (positions in the validation part).
    ///
    /// # Errors
    /// The reason to stop.
    fn evaluate(&self, rows: &[u32], control: &Control) -> Result<Metrics, TaskError>;

    /// The model's output for every held-out row, in order: a probability a class, shape `[rows, classes]`, or the
    /// standardised value, shape `[rows]`.
    fn predict(&self) -> Vec<f32>;

    /// The model in the file format of its type.
    ///
    /// # Errors
    /// `Diverged` where a parameter is NaN or infinite; else defects of ours alone.
    fn weights(&self) -> Result<Vec<u8>, TaskError>;

    /// Takes over a model as [`Trainer::weights`] writes it; the optimizer begins anew, so that what follows is the
    /// same whatever was trained before.
    ///
    /// # Errors
    /// `InvalidArgument` for `model_weights` when it is not one, or not one of this shape.
    fn load_weights(&mut self, weights: &[u8]) -> Result<(), TaskError>;

    /// All that its next slice depends on, for [`Trainer::restore`].
    ///
    /// # Errors
    /// Defects of ours alone.
    fn state(&self) -> Result<Vec<u8>, TaskError>;

    /// Takes over what [`Trainer::state`] of a trainer of the same blueprint gave, so that it goes on bit for bit as
    /// that one would have.
    ///
    /// # Errors
    /// `state` is none of such a trainer; nothing has changed then.
    fn restore(&mut self, state: &[u8]) -> Result<(), TaskError>;

    /// What its loss is where that is another one than most models have, which is the cross-entropy of classes and the
    /// mean squared error of numbers: figures of different losses cannot be compared.
    fn own_loss(&self) -> Option<&'static str> {
        None
    }

    /// What may help where its figures are no numbers any more, for errors.
    fn remedy(&self) -> String;

    /// Memory that the model and its optimizer take, in bytes, roughly.
    fn memory_bytes(&self) -> u64;
}

/// Hyperparameters that mean something whatever the model is, or have a note of their own.
const EVERYWHERE: &[&str] =
    &["backend", "description", "job_name", "save_checkpoints", "seed", "target", "task", "validation_split"];

/// Hyperparameters that no model listens to and that have a note of their own where they would change something.
const NOWHERE: &[&str] = &["colsample_bylevel", "colsample_bynode", "n_jobs"];

/// Makes a trainer.
pub type Build = fn(&Blueprint<'_>) -> Result<Box<dyn Trainer>, TaskError>;

/// On what a model can be trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainsOn {
    /// The CPU, and any device of burn.
    EveryDevice,
    /// The CPU, and a GPU where the task or TRAINING_BACKEND names wgpu: never for `auto`, which takes what is faster as far
    /// as anyone has measured.
    GpuWhenNamed,
    /// The CPU alone: a job of it goes there even where others get a GPU.
    Cpu,
}

/// A model that is trained for real.
#[derive(Debug)]
pub struct ModelEntry {
    /// Its model_type.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// File name of its weights.
    pub weights_file_name: &'static str,
    /// Hyperparameters that change it, beside those that every model listens to.
    pub listens_to: &'static [&'static [&'static str]],
    /// The form in which it takes features.
    pub features: FeatureForm,
    /// Where it can be trained.
    pub trains_on: TrainsOn,
    /// Makes one, untrained.
    pub build: Build,
}

/// What all models that are trained by minibatches listen to.
const BY_MINIBATCHES: &[&str] = &[
    "batch_size",
    "class_weight",
    "early_stopping",
    "learning_rate",
    "loss_function",
    "lr_gamma",
    "lr_schedule",
    "lr_step_size",
    "min_delta",
    "momentum",
    "optimizer",
    "patience",
    "total_epochs",
    "weight_decay",
];

/// What all trees that are not boosted listen to.
const OF_WHOLE_TREES: &[&str] = &[
    "bootstrap",
    "class_weight",
    "criterion",
    "max_bins",
    "max_depth",
    "max_features",
    "min_samples_leaf",
    "min_samples_split",
];

/// Every model that is trained for real.
pub const MODELS: &[ModelEntry] = &[
    ModelEntry {
        name: "neural_network",
        aliases: &["mlp", "dnn"],
        weights_file_name: "model.safetensors",
        listens_to: &[BY_MINIBATCHES, &["activation", "alpha", "dropout", "hidden_layers"]],
        features: FeatureForm::Standardised,
        trains_on: TrainsOn::EveryDevice,
        build: neural_network::multilayer_perceptron,
    },
    ModelEntry {
        name: "cnn",
        aliases: &[],
        weights_file_name: "model.safetensors",
        listens_to: &[BY_MINIBATCHES, &["activation", "alpha", "dropout", "image_shape"]],
        features: FeatureForm::Standardised,
        trains_on: TrainsOn::EveryDevice,
        build: neural_network::convolutional,
    },
    ModelEntry {
        name: "logistic_regression",
        aliases: &[],
        weights_file_name: "model.safetensors",
        listens_to: &[BY_MINIBATCHES, &["C", "penalty"]],
        features: FeatureForm::Standardised,
        trains_on: TrainsOn::EveryDevice,
        build: neural_network::logistic_regression,
    },
    ModelEntry {
        name: "svm",
        aliases: &["linear_svm"],
        weights_file_name: "model.safetensors",
        listens_to: &[BY_MINIBATCHES, &["C", "penalty"]],
        features: FeatureForm::Standardised,
        trains_on: TrainsOn::EveryDevice,
        build: neural_network::support_vector_machine,
    },
    ModelEntry {
        name: "xgboost",
        aliases: &["gradient_boosting"],
        weights_file_name: "model.json",
        listens_to: &[&[
            "alpha",
            "class_weight",
            "colsample_bytree",
            "early_stopping",
            "gamma",
            "learning_rate",
            "max_bins",
            "max_depth",
            "min_child_weight",
            "min_delta",
            "n_estimators",
            "objective",
            "patience",
            "reg_alpha",
            "reg_lambda",
            "rounds_per_task",
            "scale_pos_weight",
            "subsample",
            "total_epochs",
            "tree_method",
        ]],
        features: FeatureForm::Raw,
        trains_on: TrainsOn::GpuWhenNamed,
        build: |blueprint| Ok(Box::new(TreeModel::boosting(blueprint)?)),
    },
    ModelEntry {
        name: "random_forest",
        aliases: &[],
        weights_file_name: "model.json",
        listens_to: &[OF_WHOLE_TREES, &["n_estimators", "trees_per_task"]],
        features: FeatureForm::Raw,
        trains_on: TrainsOn::Cpu,
        build: |blueprint| Ok(Box::new(TreeModel::forest(blueprint)?)),
    },
    ModelEntry {
        name: "decision_tree",
        aliases: &[],
        weights_file_name: "model.json",
        listens_to: &[OF_WHOLE_TREES],
        features: FeatureForm::Raw,
        trains_on: TrainsOn::Cpu,
        build: |blueprint| Ok(Box::new(TreeModel::decision_tree(blueprint)?)),
    },
];

impl ModelEntry {
    /// How its rows are loaded.
    pub(crate) fn load_options(&self, hyperparameters: &Hyperparameters, seed: u64) -> LoadOptions {
        let objective = hyperparameters.trees.objective.filter(|_| self.listens_to("objective"));
        let problem = match (hyperparameters.problem, objective) {
            (Problem::Auto, Some(BoostingObjective::SquaredError)) => Problem::Regression,
            (Problem::Auto, Some(_)) => Problem::Classification,
            (problem, _) => problem,
        };
        LoadOptions {
            target: hyperparameters.target.clone(),
            problem,
            validation_split: hyperparameters.validation_split,
            seed,
            features: self.features,
        }
    }

    /// The entry of `model` among those of this crate, by name or alias.
    pub(crate) fn of(model: &ModelType) -> Option<&'static Self> {
        MODELS.iter().find(|entry| entry.is_called(model.as_str()))
    }

    /// Whether `name` is its name or an alias.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }

    fn listens_to(&self, hyperparameter: &str) -> bool {
        self.listens_to.iter().any(|names| names.contains(&hyperparameter))
    }

    /// What needs less video memory, for messages.
    pub(crate) fn lighter(&self) -> &'static str {
        if self.listens_to("max_bins") { "fewer rows or features" } else { "a smaller batch_size or model" }
    }

    /// What of `hyperparameters` was given and changes nothing, in one line.
    pub(crate) fn unheard(&self, hyperparameters: &Hyperparameters) -> Option<String> {
        let unwanted = |name: &str| name == "early_stopping" && hyperparameters.stopping == Stopping::Never;
        let known = [&[EVERYWHERE, NOWHERE][..], self.listens_to].concat().concat();
        let idle = |name: &&&str| !known.contains(*name) && !unwanted(name);
        let names: Vec<&str> = hyperparameters.given.iter().filter(idle).copied().collect();
        (!names.is_empty())
            .then(|| format!("without effect on model_type {}: {}", self.name, names.join(", ")))
    }

    /// All that this crate can train, for messages: `neural_network (mlp, dnn)`.
    pub(crate) fn list() -> String {
        MODELS.iter().map(Self::names).collect::<Vec<_>>().join(", ")
    }

    /// Its name, and its aliases in brackets.
    pub(crate) fn names(&self) -> String {
        match self.aliases {
            [] => self.name.to_owned(),
            aliases => format!("{} ({})", self.name, aliases.join(", ")),
        }
    }
}

/// The models of this crate that `hyperparameter` changes; None where it means something whatever the model is.
pub fn listeners(hyperparameter: &str) -> Option<Vec<&'static str>> {
    if EVERYWHERE.contains(&hyperparameter) {
        return None;
    }
    Some(MODELS.iter().filter(|entry| entry.listens_to(hyperparameter)).map(|entry| entry.name).collect())
}

/// Whether `model`, by name or alias, listens to `hyperparameter`; models that are not this crate's do not.
pub fn hears(model: &ModelType, hyperparameter: &str) -> bool {
    ModelEntry::of(model)
        .is_some_and(|entry| entry.listens_to.iter().any(|names| names.contains(&hyperparameter)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Strictness;

    #[test]
    fn a_model_is_found_by_name_and_alias_and_no_name_means_two() {
        for name in ["neural_network", "mlp", "dnn"] {
            let entry = ModelEntry::of(&ModelType::parse(name).unwrap()).unwrap();
            assert_eq!(entry.name, "neural_network");
        }
        assert!(ModelEntry::of(&ModelType::parse("gpt2").unwrap()).is_none());
        let mut names: Vec<_> =
            MODELS.iter().flat_map(|e| std::iter::once(&e.name).chain(e.aliases)).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(ModelEntry::list().starts_with("neural_network (mlp, dnn)"));
    }

    #[test]
    fn what_a_model_does_not_listen_to_is_said() {
        let known: Vec<_> = Hyperparameters::names().collect();
        for name in
            MODELS.iter().flat_map(|entry| entry.listens_to.concat()).chain([EVERYWHERE, NOWHERE].concat())
        {
            assert!(known.contains(&name), "{name}");
        }
        let raw = [("max_depth", "3"), ("lr", "0.1"), ("seed", "1"), ("C", "2")];
        let raw = raw.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let (given, _) = Hyperparameters::parse(&raw, Strictness::Reject).unwrap();
        let note = MODELS[0].unheard(&given).unwrap();
        assert_eq!(note, "without effect on model_type neural_network: C, max_depth");
        assert_eq!(MODELS[0].unheard(&Hyperparameters::default()), None);
    }
}
