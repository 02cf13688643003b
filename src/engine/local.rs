//! One training without an orchestrator, on the caller's thread: what the `train` command runs.
//!
//! Always trains for real: `auto` means the GPU where there is one, else the CPU.

use std::sync::Arc;

use super::device::ComputeDevice;
use super::placement::place_local;
use super::search::Search;
use super::session::{Session, SessionPlan, Validation};
use super::trainer::{Course, ModelEntry, Slice};
use super::{Config, Control, OpenError, priority};
use crate::data::{self, Dataset, TargetKind, Targets};
use crate::domain::{Backend, Hyperparameters, InvalidField, ModelType, TaskError, TaskResult};

/// A model and its data set.
pub struct LocalTraining {
    session: Session,
    entry: &'static ModelEntry,
    device: ComputeDevice,
    seed: u64,
    total_epochs: Option<u32>,
}

/// What the model says of the held-out rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    /// Index of each row in the data set, from 0.
    pub rows: Vec<u32>,
    /// What the data set says: a class label, or a number in units of the target.
    pub targets: Vec<String>,
    /// What the model says, in the same form.
    pub predictions: Vec<String>,
    /// Probability of each class of each row; empty for regression.
    pub probabilities: Vec<Vec<f32>>,
    /// Labels of the classes, in the order of the probabilities; empty for regression.
    pub labels: Vec<String>,
}

impl LocalTraining {
    /// Loads the data set and builds the model. `check` is asked now and then whether to go on.
    ///
    /// # Errors
    /// [`OpenError::Environment`] where this machine lacks the GPU that was asked for; else what is wrong with model,
    /// data set, hyperparameters or configuration, and what `check` says.
    pub fn open(
        model: &ModelType,
        dataset_path: &str,
        hyperparameters: &Hyperparameters,
        config: &Config,
        check: &dyn Fn() -> Result<(), TaskError>,
    ) -> Result<Self, OpenError> {
        let plan = plan(model, dataset_path, hyperparameters, config)?;
        let session = Session::open(&plan, &config.data, check)?;
        Ok(Self::with(session, plan))
    }

    /// The rows that [`Self::open`] would train and hold out, for [`Self::on`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn load(
        model: &ModelType,
        dataset_path: &str,
        hyperparameters: &Hyperparameters,
        config: &Config,
    ) -> Result<Arc<Dataset>, OpenError> {
        let seed = hyperparameters.seed.unwrap_or(0);
        let options = entry(model)?.load_options(hyperparameters, seed);
        let data = data::load(dataset_path, &options, &config.data, &|| Ok(())).map_err(TaskError::from)?;
        Ok(Arc::new(data))
    }

    /// Builds the model on rows that were loaded before, so that several models share them.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn on(
        model: &ModelType,
        data: Arc<Dataset>,
        hyperparameters: &Hyperparameters,
        config: &Config,
    ) -> Result<Self, OpenError> {
        let plan = plan(model, "", hyperparameters, config)?;
        let session = Session::on(&plan, data)?;
        Ok(Self::with(session, plan))
    }

    fn with(session: Session, plan: SessionPlan) -> Self {
        let SessionPlan { entry, hyperparameters, seed, device, .. } = plan;
        Self { session, entry, device, seed, total_epochs: hyperparameters.total_epochs }
    }

    /// Minibatches of one epoch, at least 1.
    pub fn batches_per_epoch(&self) -> u32 {
        self.session.trainer().batches_per_epoch()
    }

    /// One pass over all training rows, then an evaluation of all held-out rows.
    ///
    /// # Errors
    /// The reason to stop, or `Diverged`; the model is then as it was before the epoch.
    pub fn run_epoch(&mut self, epoch: u32, control: &Control) -> Result<TaskResult, TaskError> {
        control.check()?;
        control.started(self.backend());
        let batches_per_epoch = self.batches_per_epoch();
        self.session.follow(Course { total_epochs: self.total_epochs, batches_per_epoch });
        let slice = Slice { epoch, batches: 0..batches_per_epoch };
        self.session.run(&slice, Validation::Full, control)
    }

    /// What the model says of the held-out rows.
    pub fn predictions(&self) -> Predictions {
        let outputs = self.session.trainer().predict();
        let data = self.session.data();
        let part = &data.validation;
        let (targets, predictions, probabilities, labels) = match (&data.target, &part.targets) {
            (TargetKind::Classes { labels }, Targets::Classes(ids)) => {
                let text = |id: usize| labels.get(id).cloned().unwrap_or_default();
                let rows: Vec<Vec<f32>> = outputs.chunks(labels.len().max(1)).map(<[f32]>::to_vec).collect();
                (
                    ids.iter().map(|&id| text(id as usize)).collect(),
                    rows.iter().map(|row| text(greatest(row))).collect(),
                    rows,
                    labels.clone(),
                )
            }
            (TargetKind::Value { mean, std }, Targets::Values(_)) => {
                let targets = self.session.data().held_out_numbers.iter().map(f64::to_string).collect();
                let number = |output: &f32| f64::from(*output) * std + mean;
                let predictions = outputs.iter().map(|output| number(output).to_string()).collect();
                (targets, predictions, Vec::new(), Vec::new())
            }
            _ => Default::default(),
        };
        Predictions { rows: part.rows.clone(), targets, predictions, probabilities, labels }
    }

    /// What is worth knowing of the epochs since the last call.
    pub fn take_notes(&mut self) -> Vec<String> {
        self.session.take_notes()
    }

    /// What is worth knowing of data set and hyperparameters.
    pub fn notes(&self) -> &[String] {
        self.session.notes()
    }

    /// The prepared data set.
    pub fn dataset(&self) -> &Dataset {
        self.session.data()
    }

    /// The model as a file.
    ///
    /// # Errors
    /// Defects of ours alone.
    pub fn weights(&self) -> Result<Vec<u8>, TaskError> {
        self.session.trainer().weights()
    }

    /// What its loss is, where most models have another one.
    pub fn own_loss(&self) -> Option<&'static str> {
        self.session.trainer().own_loss()
    }

    /// What that file is called.
    pub fn weights_file_name(&self) -> &'static str {
        self.entry.weights_file_name
    }

    /// The model_type without aliases.
    pub fn model_type(&self) -> &'static str {
        self.entry.name
    }

    /// What trains.
    pub fn backend(&self) -> Backend {
        self.device.backend
    }

    /// The device by name.
    pub fn device(&self) -> &str {
        &self.device.name
    }

    /// The seed of split, first weights and order; 0 unless hyperparameter `seed` says otherwise.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

impl std::fmt::Debug for LocalTraining {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalTraining")
            .field("model_type", &self.entry.name)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

fn entry(model: &ModelType) -> Result<&'static ModelEntry, TaskError> {
    ModelEntry::of(model)
        .ok_or_else(|| TaskError::from(InvalidField::new("model_type", model.as_str(), ModelEntry::list())))
}

fn plan(
    model: &ModelType,
    dataset_path: &str,
    hyperparameters: &Hyperparameters,
    config: &Config,
) -> Result<SessionPlan, OpenError> {
    let entry = entry(model)?;
    let device = place_local(config, hyperparameters.backend, entry.trains_on, &Search::new(config))?;
    priority::lower_shared_pool();
    Ok(SessionPlan {
        entry,
        dataset_path: dataset_path.to_owned(),
        hyperparameters: hyperparameters.clone(),
        seed: hyperparameters.seed.unwrap_or(0),
        device,
    })
}

fn greatest(row: &[f32]) -> usize {
    row.iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (id, &p)| if p > best.1 { (id, p) } else { best })
        .0
}
