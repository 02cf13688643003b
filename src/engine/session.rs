//! A job's data, model and optimizer, and how a slice changes them.
//!
//! ```text
//! run(slice): mark --> model_weights, where given --> train --> evaluate held-out rows --> weights --> result
//!                        |                              |          |                         |
//!                        +-- refused, stop, time-out, divergence: roll back to the mark -----+
//! ```
//!
//! Invariant: a slice counts as a whole or not at all. After an error the session is as it was before the slice, so
//! that a retry gives what an undisturbed run would have given.

use std::sync::Arc;

use bytes::Bytes;

use super::Control;
use super::checkpoints::Completed;
use super::device::ComputeDevice;
use super::minibatches::{diverged, no_number, permutation};
use super::seeds::Purpose;
use super::trainer::{Blueprint, Course, ModelEntry, Slice, Trainer, Verdict};
use crate::data::{self, Dataset};
use crate::domain::{ErrorCode, Hyperparameters, Metrics, TaskError, TaskResult};

/// Held-out rows that may be evaluated for each trained one in the middle of an epoch. A forward pass costs about a
/// third of a training step, so that 0.6 rows a sample are a fifth of the task.
const VALIDATION_ROWS_PER_SAMPLE: f64 = 0.6;

/// What a session is made of.
#[derive(Debug, Clone)]
pub(crate) struct SessionPlan {
    /// What is trained.
    pub(crate) entry: &'static ModelEntry,
    /// On which rows, a dataset_path as a task gives it.
    pub(crate) dataset_path: String,
    /// How.
    pub(crate) hyperparameters: Hyperparameters,
    /// The job's seed.
    pub(crate) seed: u64,
    /// Where.
    pub(crate) device: ComputeDevice,
}

/// Which held-out rows are evaluated after a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validation {
    /// As many as cost a fifth of the slice; always the same ones.
    Sample,
    /// All.
    Full,
}

/// A job's training under way.
pub(crate) struct Session {
    data: Arc<Dataset>,
    trainer: Box<dyn Trainer>,
    device: ComputeDevice,
    notes: Vec<String>,
    /// Positions of the held-out rows, in the order in which they are sampled.
    held_out: Vec<u32>,
}

impl Session {
    /// Loads the data and builds the model.
    ///
    /// # Errors
    /// What `check` says; what is wrong with data set or hyperparameters.
    pub(crate) fn open(
        plan: &SessionPlan,
        data: &data::Config,
        check: &dyn Fn() -> Result<(), TaskError>,
    ) -> Result<Self, TaskError> {
        let SessionPlan { entry, dataset_path, hyperparameters, seed, .. } = plan;
        let options = entry.load_options(hyperparameters, *seed);
        let data = data::load(dataset_path, &options, data, check).map_err(TaskError::from)?;
        Self::on(plan, Arc::new(data))
    }

    /// Builds the model on rows that were loaded already.
    ///
    /// # Errors
    /// What is wrong with the hyperparameters.
    pub(crate) fn on(plan: &SessionPlan, data: Arc<Dataset>) -> Result<Self, TaskError> {
        let SessionPlan { entry, hyperparameters, seed, device, .. } = plan;
        let blueprint = Blueprint { data: &data, hyperparameters, device, seed: *seed };
        let trainer = (entry.build)(&blueprint)?;
        let held_out = permutation(*seed, Purpose::Validation, 0, data.validation.rows.len());
        let notes = data.notes.iter().cloned().chain(entry.unheard(hyperparameters)).collect();
        Ok(Self { data, trainer, device: device.clone(), notes, held_out })
    }

    /// Trains `slice` from where the last one ended, and evaluates.
    ///
    /// # Errors
    /// The reason to stop, or `Diverged`; the session is then as it was before.
    pub(crate) fn run(
        &mut self,
        slice: &Slice,
        validation: Validation,
        control: &Control,
    ) -> Result<TaskResult, TaskError> {
        self.run_from(&[], slice, validation, control)
    }

    /// As [`Self::run`], but from `weights` where they are not empty.
    ///
    /// # Errors
    /// As [`Self::run`]; `InvalidArgument` for weights that are not those of this model.
    pub(crate) fn run_from(
        &mut self,
        weights: &[u8],
        slice: &Slice,
        validation: Validation,
        control: &Control,
    ) -> Result<TaskResult, TaskError> {
        self.trainer.mark();
        let loaded = if weights.is_empty() { Ok(()) } else { self.trainer.load_weights(weights) };
        let result = loaded.and_then(|()| self.advance(slice, validation, control));
        if result.is_err() {
            self.trainer.roll_back();
        }
        result
    }

    fn advance(
        &mut self,
        slice: &Slice,
        validation: Validation,
        control: &Control,
    ) -> Result<TaskResult, TaskError> {
        let trained = self.trainer.train(slice, control)?;
        let rows = match validation {
            // What trained nothing more is judged as a whole: there is no training whose cost would matter.
            _ if trained.steps == 0 => self.held_out.len(),
            Validation::Full => self.held_out.len(),
            Validation::Sample => (trained.samples as f64 * VALIDATION_ROWS_PER_SAMPLE).ceil() as usize,
        };
        let mut metrics = self.evaluate(rows, control)?;
        let place = format!("step {} (epoch {}, after the last minibatch)", trained.steps, slice.epoch);
        if let Some(metrics) = metrics.filter(|metrics| !metrics.loss.is_finite()) {
            let what = format!("validation loss is {}", no_number(metrics.loss));
            return Err(diverged(&what, &place, &self.trainer.remedy()));
        }
        if validation == Validation::Full
            && self.trainer.epoch_ended(slice.epoch, metrics) == Verdict::Replaced
        {
            metrics = self.evaluate(rows, control)?;
        }
        // A loss is that before its own step: what the last one did shows here alone where no row is held out.
        let weights = self.trainer.weights().map_err(|error| match error.code {
            ErrorCode::Diverged => diverged(&error.message, &place, &self.trainer.remedy()),
            _ => error,
        })?;
        Ok(TaskResult {
            train: trained.metrics,
            validation: metrics,
            samples: trained.samples,
            steps: trained.steps,
            backend: self.device.backend,
            device: self.device.name.clone(),
            weights: Bytes::from(weights),
            reference: None,
        })
    }

    fn evaluate(&self, rows: usize, control: &Control) -> Result<Option<Metrics>, TaskError> {
        match self.held_out.get(..rows.min(self.held_out.len())) {
            None | Some([]) => Ok(None),
            Some(rows) => self.trainer.evaluate(rows, control).map(Some),
        }
    }

    /// Tells where the slices that follow stand in their job.
    pub(crate) fn follow(&mut self, course: Course) {
        self.trainer.follow(course);
    }

    /// What the owner of the job should know of the slices since the last call.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        self.trainer.take_notes()
    }

    /// The prepared rows.
    pub(crate) fn data(&self) -> &Dataset {
        &self.data
    }

    /// The state of the model, for [`Session::restore`].
    ///
    /// # Errors
    /// Defects of ours alone.
    pub(crate) fn state(&self) -> Result<Vec<u8>, TaskError> {
        self.trainer.state()
    }

    /// Goes on from where the session was that gave `state`.
    ///
    /// # Errors
    /// `state` is of another session; nothing has changed then.
    pub(crate) fn restore(&mut self, state: &[u8]) -> Result<(), TaskError> {
        self.trainer.restore(state)
    }

    /// The result of a task that yielded `completed` before: the model as it is now.
    ///
    /// # Errors
    /// As of the model's own.
    pub(crate) fn repeat(&self, completed: &Completed) -> Result<TaskResult, TaskError> {
        Ok(completed.result(TaskResult {
            train: Metrics { loss: 0.0, accuracy: 0.0 },
            validation: None,
            samples: 0,
            steps: 0,
            backend: self.device.backend,
            device: self.device.name.clone(),
            weights: Bytes::from(self.trainer.weights()?),
            reference: None,
        }))
    }

    /// What its owner should know of data set and hyperparameters.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The model.
    pub(crate) fn trainer(&self) -> &dyn Trainer {
        &*self.trainer
    }

    /// Memory it holds, in bytes, roughly.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.data.memory_bytes() as u64 + self.trainer.memory_bytes()
    }
}
