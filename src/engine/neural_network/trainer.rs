//! Training by gradients: minibatches through a network, evaluation, early stopping, and the model as a file.

use std::sync::Arc;

use tensorfleet_kernels as kernels;

use super::architecture::Parameter;
use super::fused::Fused;
use super::network::{Dropout, Judge, Memory, Network, Rows, Step};
use super::recipe::{Model, Recipe};
use super::schedule::Place;
use super::state;
use super::tensors::Tensors;
use super::weights::{self, Metadata};
use crate::data::{Dataset, Part};
use crate::domain::{Backend, ErrorCode, Metrics, TaskError};
use crate::engine::Control;
use crate::engine::minibatches::{self, Minibatches, Report, Sums};
use crate::engine::seeds::{self, Purpose};
use crate::engine::stopping::{self, Mark, Stopping};
use crate::engine::trainer::{Blueprint, Course, Slice, Trained, Trainer, Verdict};

/// Rows that go through a network at once when it is evaluated.
const EVALUATION_ROWS: usize = 1024;

/// A model in training by minibatches.
pub(crate) struct GradientTrainer {
    data: Arc<Dataset>,
    recipe: Recipe,
    seed: u64,
    parameters: Vec<(String, Vec<usize>)>,
    size: usize,
    metadata: Metadata,
    network: Box<dyn Network>,
    minibatches: Minibatches,
    course: Course,
    stopping: Stopping<Vec<f32>>,
    /// Of the last slice that trained.
    last: Metrics,
    /// Step size at the beginning of the last slice.
    rate: f64,
    notes: Vec<String>,
    said: Said,
    marked: Option<Marked>,
}

/// What there is to roll back to.
struct Marked {
    network: Box<dyn Network>,
    stopping: Stopping<Vec<f32>>,
    last: Metrics,
    said: Said,
}

/// What was said already and is not said again.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    no_total: bool,
    no_validation: bool,
}

impl GradientTrainer {
    /// A model with fresh weights.
    ///
    /// # Errors
    /// Hyperparameters that do not fit the data set.
    pub(super) fn build(model: Model, blueprint: &Blueprint<'_>) -> Result<Self, TaskError> {
        let Blueprint { data, hyperparameters, device, seed } = *blueprint;
        let recipe = Recipe::new(model, data, hyperparameters)?;
        let Recipe { architecture, rule, start, .. } = &recipe;
        let memory = Memory::fresh(architecture.first_values(*start, seed));
        let parameters = architecture.parameters();
        let network: Box<dyn Network> = match device.backend {
            Backend::Cpu => Box::new(Fused::new(architecture, *rule, memory)),
            Backend::Wgpu | Backend::Analytic => {
                Box::new(Tensors::new(architecture.clone(), *rule, device.device.clone(), &memory))
            }
        };
        let minibatches = Minibatches::new(seed, data.train.len(), recipe.batch_size);
        Ok(Self {
            data: Arc::clone(data),
            seed,
            size: parameters.iter().map(Parameter::len).sum(),
            parameters: weights::named(&parameters),
            metadata: weights::metadata(architecture.pytorch(), data),
            network,
            course: Course { total_epochs: None, batches_per_epoch: minibatches.per_epoch() },
            minibatches,
            stopping: Stopping::default(),
            last: Metrics { loss: 0.0, accuracy: 0.0 },
            rate: recipe.learning_rate,
            notes: Vec::new(),
            said: Said::default(),
            marked: None,
            recipe,
        })
    }

    #[cfg(test)]
    pub(super) fn architecture(&self) -> &super::architecture::Architecture {
        &self.recipe.architecture
    }

    /// Goes on with burn, whatever the device is.
    #[cfg(test)]
    pub(super) fn use_burn(&mut self, device: &crate::engine::device::ComputeDevice) {
        let Recipe { architecture, rule, .. } = &self.recipe;
        let memory = self.network.memory();
        self.network = Box::new(Tensors::new(architecture.clone(), *rule, device.device.clone(), &memory));
    }

    /// Says once what does not work as it was asked for.
    fn warn(&mut self) {
        let lacks_total = self.recipe.course.lacks_total().filter(|_| self.course.total_epochs.is_none());
        if let Some(note) = lacks_total.filter(|_| !self.said.no_total) {
            self.said.no_total = true;
            self.notes.push(note.to_owned());
        }
        let blind = self.recipe.limit.is_some() && self.data.validation.is_empty();
        if blind && !self.said.no_validation {
            self.said.no_validation = true;
            self.notes.push(stopping::BLIND.to_owned());
        }
    }
}

impl Trainer for GradientTrainer {
    fn mark(&mut self) {
        self.marked = Some(Marked {
            network: self.network.duplicate(),
            stopping: self.stopping.clone(),
            last: self.last,
            said: self.said,
        });
    }

    fn roll_back(&mut self) {
        if let Some(Marked { network, stopping, last, said }) = self.marked.take() {
            self.network = network;
            self.stopping = stopping;
            self.last = last;
            self.said = said;
        }
        self.notes.clear();
    }

    fn batches_per_epoch(&self) -> u32 {
        self.minibatches.per_epoch()
    }

    fn follow(&mut self, course: Course) {
        self.course = course;
    }

    fn train(&mut self, slice: &Slice, control: &Control) -> Result<Trained, TaskError> {
        self.warn();
        if let Some(best) = self.stopping.best.as_ref().filter(|_| self.stopping.stopped) {
            // The task may have brought other weights.
            let mut memory = self.network.memory();
            memory.parameters.clone_from(&best.model);
            self.network.remember(memory);
            self.notes.extend(self.recipe.limit.as_ref().and_then(|limit| self.stopping.note(limit)));
            return Ok(Trained { metrics: best.mark.train(), samples: 0, steps: 0 });
        }
        let Self { data, recipe, network, minibatches, course, seed, .. } = self;
        let Recipe { criterion, learning_rate, course: schedule, dropout, .. } = recipe;
        let steps_per_epoch = course.batches_per_epoch;
        let rate = |index: u32, steps: u64| {
            let fraction = f64::from(index) / f64::from(steps_per_epoch.max(1));
            let epochs = f64::from(slice.epoch) + fraction;
            let place = Place { epochs, total_epochs: course.total_epochs, steps_per_epoch, steps };
            *learning_rate * schedule.factor(place)
        };
        let mut targets = data.train.targets.none();
        let mut steps = network.steps();
        self.rate = rate(slice.batches.start, steps);
        let report = Report { control, target: &data.target, learning_rate: self.rate };
        let trained = minibatches::run(slice, minibatches, &report, |minibatch| {
            let how = Step {
                learning_rate: rate(minibatch.index, steps),
                dropout: Dropout::new(*dropout, || {
                    seeds::stream(*seed, Purpose::Dropout, slice.epoch, minibatch.index)
                }),
            };
            steps += 1;
            targets.replace(&data.train.targets, minibatch.rows);
            let rows = rows_of(data, &data.train, minibatch.rows);
            network.step(rows, how, Judge { criterion, targets: &targets })
        })?;
        self.last = trained.metrics;
        Ok(trained)
    }

    fn epoch_ended(&mut self, epoch: u32, validation: Option<Metrics>) -> Verdict {
        let (Some(limit), Some(validation)) = (&self.recipe.limit, validation) else {
            return Verdict::Unchanged;
        };
        if self.stopping.stopped {
            return Verdict::Unchanged;
        }
        let mark = Mark::new(epoch, validation.loss, self.last);
        self.stopping.see(mark, limit, || self.network.parameters());
        let is_last = self.course.is_last(epoch);
        let Some(best) = self.stopping.return_to(is_last) else { return Verdict::Unchanged };
        let mut memory = self.network.memory();
        memory.parameters.clone_from(&best.model);
        self.network.remember(memory);
        self.notes.extend(self.stopping.note(limit));
        Verdict::Replaced
    }

    fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    fn evaluate(&self, rows: &[u32], control: &Control) -> Result<Metrics, TaskError> {
        let part = &self.data.validation;
        let mut total = Sums::default();
        let mut targets = part.targets.none();
        for rows in rows.chunks(EVALUATION_ROWS) {
            control.check()?;
            let outputs = self.network.outputs(rows_of(&self.data, part, rows));
            targets.replace(&part.targets, rows);
            total.add(self.recipe.criterion.sums(&outputs, &targets));
        }
        Ok(total.metrics(&self.data.target))
    }

    fn predict(&self) -> Vec<f32> {
        let part = &self.data.validation;
        let rows: Vec<u32> = (0..u32::try_from(part.len()).unwrap_or(u32::MAX)).collect();
        let mut outputs = Vec::new();
        for rows in rows.chunks(EVALUATION_ROWS) {
            outputs.extend(self.network.outputs(rows_of(&self.data, part, rows)));
        }
        if let Some(classes) = self.data.classes() {
            kernels::softmax(&mut outputs, classes);
        }
        outputs
    }

    fn weights(&self) -> Result<Vec<u8>, TaskError> {
        let values = self.network.parameters();
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            let what = format!("a weight is {}", minibatches::no_number(f64::from(*value)));
            return Err(TaskError::new(ErrorCode::Diverged, what));
        }
        weights::write(&self.parameters, &values, &self.metadata)
    }

    fn load_weights(&mut self, bytes: &[u8]) -> Result<(), TaskError> {
        // Moments belong to the parameters that are gone: they would pile up with every task that brings weights.
        self.network.remember(Memory::fresh(weights::read(bytes, &self.parameters)?));
        Ok(())
    }

    fn state(&self) -> Result<Vec<u8>, TaskError> {
        state::write(&self.network.memory(), &self.stopping)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TaskError> {
        let (memory, stopping) = state::read(state, self.size)?;
        self.network.remember(memory);
        self.stopping = stopping;
        Ok(())
    }

    fn own_loss(&self) -> Option<&'static str> {
        self.recipe.criterion.own_name()
    }

    fn remedy(&self) -> String {
        minibatches::remedy(self.rate)
    }

    fn memory_bytes(&self) -> u64 {
        // Weights, two moments, gradients, and weights and moments to roll back to.
        let copies = 7 + u64::from(self.recipe.limit.is_some());
        self.size as u64 * 4 * copies
    }
}

/// The rows `picked` of `part`.
fn rows_of<'a>(data: &Dataset, part: &'a Part, picked: &'a [u32]) -> Rows<'a> {
    Rows { table: &part.features, width: data.width(), picked }
}
