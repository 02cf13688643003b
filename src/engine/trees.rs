//! Tree models: gradient boosting as XGBoost does it, random forests and decision trees.
//!
//! ```text
//! rows --store--> bins (once a session) --boosting, forest--> trees of a round --> scores of both parts
//!                                             ^                                       |
//!                                             +--------- derivatives (kernels) <------+
//! ```
//!
//! Boosting sums up and looks for splits on a GPU where its session has one (accelerator), and grows the same trees there.
//!
//! A task is `rounds_per_task` rounds, or `trees_per_task` trees; n_estimators caps what a job has of them.
//!
//! Invariants: sums that decide on a split are integers and each use of chance has a stream of (seed, round, output),
//! so that the same seed and slices give the same bits on any number of threads; scores are what the trees add up to
//! in their order, so that they follow from the trees alone.
//!
//! Early stopping is judged after each round of boosting by all held-out rows; the model is cut back to its best round.
//!
//! Deliberately absent: categorical splits (categories are one feature each), growth by leaf.

mod accelerator;
mod boosting;
mod ensemble;
mod forest;
mod growth;
mod histograms;
mod joint;
mod numbers;
mod output;
mod parse;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod xgboost;

use std::sync::Arc;
use std::time::Instant;

use self::boosting::Boosting;
use self::ensemble::{Ensemble, add_round};
use self::forest::{Forest, Kind};
use self::joint::Grown;
use self::output::Output;
use self::parse::Shape;
use self::xgboost::Units;
use super::minibatches::{self, Sums, permutation};
use super::seeds::Purpose;
use super::stopping::{self, Limit, Mark as Seen, Stopping};
use super::trainer::{Blueprint, Course, Slice, Trained, Trainer, Verdict};
use super::{Control, Step};
use crate::data::{Dataset, Targets};
use crate::domain::{BATCHES_PER_TASK, Metrics, Progress, TASKS_PER_EPOCH, TaskError};
use rayon::prelude::*;

/// Most training rows whose fit a forest is told by; boosting needs the scores of all of them anyway.
const WATCHED_ROWS: usize = 8192;

/// Held-out rows that are evaluated together.
const EVALUATION_ROWS: usize = 65_536;

/// Rounds without a better validation loss after which boosting ends early, where none are given.
const PATIENCE: u32 = 10;

/// How trees are grown.
enum Grower {
    Boosting(Boosting),
    Forest(Forest),
}

impl Grower {
    fn is_accelerated(&self) -> bool {
        matches!(self, Self::Boosting(boosting) if boosting.is_accelerated())
    }
}

/// Training rows whose scores are kept.
enum Watched {
    All,
    /// Some, with features and targets of their own.
    Some {
        features: Vec<f32>,
        targets: Targets,
    },
}

/// What [`Trainer::roll_back`] returns to.
struct Mark {
    ensemble: Ensemble,
    train: Vec<Vec<f32>>,
    validation: Vec<Vec<f32>>,
    stopping: Stopping<()>,
}

/// A tree model in training.
pub(crate) struct TreeModel {
    data: Arc<Dataset>,
    output: Output,
    grower: Grower,
    ensemble: Ensemble,
    watched: Watched,
    /// Scores of the watched training rows, a vector an output.
    train: Vec<Vec<f32>>,
    /// Scores of the held-out rows, a vector an output.
    validation: Vec<Vec<f32>>,
    /// What the watched rows cost.
    sums: Sums,
    marked: Option<Mark>,
    rounds_per_task: u32,
    most_rounds: Option<u32>,
    /// When boosting ends early; `None` for never.
    limit: Option<Limit>,
    /// Its best model is the first rounds of this one.
    stopping: Stopping<()>,
    course: Option<Course>,
    notes: Vec<String>,
}

impl TreeModel {
    /// Gradient boosting, without a tree yet.
    ///
    /// # Errors
    /// Hyperparameters that do not fit the target or each other.
    pub(crate) fn boosting(blueprint: &Blueprint<'_>) -> Result<Self, TaskError> {
        let grower = Boosting::new(blueprint)?;
        let ensemble = grower.begin();
        let trees = &blueprint.hyperparameters.trees;
        let rounds = (trees.rounds_per_task, trees.n_estimators);
        let mut model = Self::new(blueprint, Grower::Boosting(grower), ensemble, rounds);
        model.limit = Limit::of(blueprint.hyperparameters, PATIENCE, "round");
        if model.limit.is_some() && model.data.validation.is_empty() {
            model.limit = None;
            model.notes.push(stopping::BLIND.to_owned());
        }
        Ok(model)
    }

    /// A random forest, without a tree yet.
    ///
    /// # Errors
    /// Hyperparameters that do not fit the target.
    pub(crate) fn forest(blueprint: &Blueprint<'_>) -> Result<Self, TaskError> {
        let trees = &blueprint.hyperparameters.trees;
        Self::averaged(blueprint, Kind::Forest, (trees.trees_per_task, trees.n_estimators))
    }

    /// A decision tree, not grown yet. The first task grows it.
    ///
    /// # Errors
    /// Hyperparameters that do not fit the target.
    pub(crate) fn decision_tree(blueprint: &Blueprint<'_>) -> Result<Self, TaskError> {
        Self::averaged(blueprint, Kind::Single, (1, Some(1)))
    }

    fn averaged(
        blueprint: &Blueprint<'_>,
        kind: Kind,
        rounds: (u32, Option<u32>),
    ) -> Result<Self, TaskError> {
        let grower = Forest::new(blueprint, kind)?;
        let ensemble = grower.begin();
        Ok(Self::new(blueprint, Grower::Forest(grower), ensemble, rounds))
    }

    fn new(
        blueprint: &Blueprint<'_>,
        grower: Grower,
        ensemble: Ensemble,
        (rounds_per_task, most_rounds): (u32, Option<u32>),
    ) -> Self {
        let data = Arc::clone(blueprint.data);
        let (output, watched) = match &grower {
            Grower::Boosting(_) => (Output::boosted(&data.target), Watched::All),
            Grower::Forest(_) => (Output::averaged(&data.target), watch(&data, blueprint.seed)),
        };
        let mut model = Self {
            data,
            output,
            grower,
            ensemble: ensemble.clone(),
            watched,
            train: Vec::new(),
            validation: Vec::new(),
            sums: Sums::default(),
            marked: None,
            rounds_per_task,
            most_rounds,
            limit: None,
            stopping: Stopping::default(),
            course: None,
            notes: Vec::new(),
        };
        model.take(ensemble);
        model
    }

    /// Becomes `ensemble`.
    fn take(&mut self, ensemble: Ensemble) {
        let width = self.data.width();
        self.train = ensemble.scores(self.watched_part().0, width);
        self.validation = ensemble.scores(&self.data.validation.features, width);
        self.ensemble = ensemble;
        self.look();
    }

    fn watched_part(&self) -> (&[f32], &Targets) {
        match &self.watched {
            Watched::All => (&self.data.train.features, &self.data.train.targets),
            Watched::Some { features, targets } => (features, targets),
        }
    }

    /// Judges the scores as they are.
    fn look(&mut self) {
        let rounds = self.ensemble.rounds();
        self.sums = match &mut self.grower {
            Grower::Boosting(boosting) => boosting.look(&self.train),
            Grower::Forest(_) => {
                let (_, targets) = self.watched_part();
                self.output.sums_of_all(&self.train, rounds, targets)
            }
        };
    }

    /// Grows `rounds` rounds at most; fewer where they are grown one by one.
    fn grow(&mut self, rounds: u32, control: &Control) -> Result<Vec<Grown>, TaskError> {
        let first = self.ensemble.rounds();
        let is_accelerated = self.grower.is_accelerated();
        match &mut self.grower {
            Grower::Boosting(boosting) => {
                let mut round = || boosting.round(first, &mut self.train, control);
                // On a thread of the pool: each of its parts would else be handed over to one, and waited for. A GPU
                // hears one thread alone.
                let trees = if is_accelerated { round() } else { rayon::scope(|_| round()) }?;
                Ok(vec![Grown { trees, joint: None }])
            }
            Grower::Forest(forest) => {
                let at_once = rounds.min(rayon::current_num_threads() as u32);
                (first..first + at_once).into_par_iter().map(|tree| forest.tree(tree, control)).collect()
            }
        }
    }

    /// Takes the trees of a round over into model and scores.
    fn add(&mut self, Grown { trees, joint }: Grown) {
        let width = self.data.width();
        let held_out = &self.data.validation.features;
        match joint {
            Some(joint) => {
                let watched = match &self.watched {
                    Watched::All => &self.data.train.features,
                    Watched::Some { features, .. } => features,
                };
                joint.add(watched, width, &mut self.train);
                joint.add(held_out, width, &mut self.validation);
            }
            // Boosting has added them to the training rows already: it knows which leaf each came to.
            None => add_round(&trees, held_out, width, &mut self.validation),
        }
        self.ensemble.trees.extend(trees.into_iter().map(Arc::new));
        self.look();
    }

    /// Takes note of what the last round did to the held-out rows.
    fn judge(&mut self) {
        let Some(limit) = &self.limit else { return };
        let rounds = self.ensemble.rounds();
        let target = &self.data.target;
        let sums = self.output.sums_of_all(&self.validation, rounds, &self.data.validation.targets);
        let seen = Seen::new(rounds, sums.metrics(target).loss, self.sums.metrics(target));
        self.stopping.see(seen, limit, || ());
    }

    /// Cuts the model back to its best round where training is over.
    fn return_to_best(&mut self, is_last: bool) -> Verdict {
        let best = self.stopping.return_to(is_last).map(|best| best.mark.turn);
        let Some(rounds) = best.filter(|rounds| *rounds < self.ensemble.rounds()) else {
            return Verdict::Unchanged;
        };
        let mut ensemble = self.ensemble.clone();
        ensemble.trees.truncate(rounds as usize * ensemble.bases.len());
        self.take(ensemble);
        self.notes.extend(self.limit.as_ref().and_then(|limit| self.stopping.note(limit)));
        Verdict::Replaced
    }

    /// Rounds that `slice` stands for, within what the job may have.
    fn rounds_of(&self, slice: &Slice) -> u32 {
        let batches = slice.batches.end.saturating_sub(slice.batches.start);
        let wanted = batches.div_ceil(BATCHES_PER_TASK).saturating_mul(self.rounds_per_task);
        let left = self.most_rounds.map(|most| most.saturating_sub(self.ensemble.rounds()));
        wanted.min(left.unwrap_or(u32::MAX))
    }
}

impl Trainer for TreeModel {
    fn mark(&mut self) {
        let mark = self.marked.get_or_insert_with(|| Mark {
            ensemble: self.ensemble.clone(),
            train: Vec::new(),
            validation: Vec::new(),
            stopping: Stopping::default(),
        });
        // Trees are shared; scores go into the room of the last mark.
        mark.ensemble.clone_from(&self.ensemble);
        mark.train.clone_from(&self.train);
        mark.validation.clone_from(&self.validation);
        mark.stopping.clone_from(&self.stopping);
    }

    fn roll_back(&mut self) {
        if let Some(mark) = &self.marked {
            self.ensemble.clone_from(&mark.ensemble);
            self.train.clone_from(&mark.train);
            self.validation.clone_from(&mark.validation);
            self.stopping.clone_from(&mark.stopping);
            self.notes.clear();
            if let Grower::Boosting(boosting) = &mut self.grower {
                boosting.forget();
            }
            self.look();
        }
    }

    fn batches_per_epoch(&self) -> u32 {
        TASKS_PER_EPOCH * BATCHES_PER_TASK
    }

    fn follow(&mut self, course: Course) {
        self.course = Some(course);
    }

    fn train(&mut self, slice: &Slice, control: &Control) -> Result<Trained, TaskError> {
        if self.stopping.stopped {
            self.notes.extend(self.limit.as_ref().and_then(|limit| self.stopping.note(limit)));
            return Ok(Trained { metrics: self.sums.metrics(&self.data.target), samples: 0, steps: 0 });
        }
        let rounds = self.rounds_of(slice);
        let rows = self.data.train.len() as u64;
        let began = Instant::now();
        let mut steps = 0;
        while steps < rounds && !self.stopping.stopped {
            control.check()?;
            let step_began = Instant::now();
            let grown = self.grow(rounds - steps, control)?;
            let duration = step_began.elapsed() / grown.len().max(1) as u32;
            for round in grown {
                self.add(round);
                steps += 1;
                let Metrics { loss, accuracy } = self.sums.metrics(&self.data.target);
                if !loss.is_finite() {
                    let what = format!("loss is {}", minibatches::no_number(loss));
                    let place = format!("round {} (epoch {})", self.ensemble.rounds(), slice.epoch);
                    return Err(minibatches::diverged(&what, &place, &self.remedy()));
                }
                let seconds = began.elapsed().as_secs_f64();
                let samples = u64::from(steps) * rows;
                let progress = Progress {
                    step: steps.into(),
                    total_steps: rounds.into(),
                    loss,
                    accuracy,
                    samples_per_second: if seconds > 0.0 { samples as f64 / seconds } else { 0.0 },
                    simulated: false,
                };
                control.stepped(progress, Step { duration, samples: rows });
                self.judge();
            }
        }
        self.return_to_best(false);
        let metrics = self.sums.metrics(&self.data.target);
        Ok(Trained { metrics, samples: u64::from(steps) * rows, steps: steps.into() })
    }

    fn epoch_ended(&mut self, epoch: u32, _validation: Option<Metrics>) -> Verdict {
        self.return_to_best(self.course.is_some_and(|course| course.is_last(epoch)))
    }

    fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    fn evaluate(&self, rows: &[u32], control: &Control) -> Result<Metrics, TaskError> {
        let mut total = Sums::default();
        let trees = self.ensemble.rounds();
        for rows in rows.chunks(EVALUATION_ROWS) {
            control.check()?;
            total.add(self.output.sums(&self.validation, trees, &self.data.validation.targets, rows));
        }
        Ok(total.metrics(&self.data.target))
    }

    fn predict(&self) -> Vec<f32> {
        self.output.predictions(&self.validation, self.ensemble.rounds())
    }

    fn weights(&self) -> Result<Vec<u8>, TaskError> {
        xgboost::write(&self.ensemble, self.output, &self.data)
    }

    fn load_weights(&mut self, weights: &[u8]) -> Result<(), TaskError> {
        let units = Units::of(&self.data.target);
        let shape = Shape { width: self.data.width(), output: self.output, units };
        let ensemble = parse::read(weights, &shape)?;
        // Whatever a task brings: a job that was stopped has its model.
        if !self.stopping.stopped {
            // What has as many rounds goes on from the same first ones.
            if self.stopping.best.as_ref().is_some_and(|best| best.mark.turn > ensemble.rounds()) {
                self.stopping = Stopping::default();
            }
            self.take(ensemble);
        }
        Ok(())
    }

    fn state(&self) -> Result<Vec<u8>, TaskError> {
        state::write(&self.ensemble, &self.stopping)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TaskError> {
        let (ensemble, stopping) = state::read(state, self.output.count(), self.data.width())?;
        self.take(ensemble);
        self.stopping = stopping;
        Ok(())
    }

    fn remedy(&self) -> String {
        match &self.grower {
            Grower::Boosting(boosting) => minibatches::remedy(boosting.learning_rate()),
            Grower::Forest(_) => "look for extreme values in the target".to_owned(),
        }
    }

    fn memory_bytes(&self) -> u64 {
        let scores =
            self.train.iter().chain(&self.validation).map(|scores| 4 * scores.len() as u64).sum::<u64>();
        let grower = match &self.grower {
            Grower::Boosting(boosting) => boosting.memory_bytes(),
            Grower::Forest(forest) => forest.memory_bytes(),
        };
        let watched = match &self.watched {
            Watched::All => 0,
            Watched::Some { features, .. } => 4 * features.len() as u64,
        };
        // Scores are kept twice, once to roll back to.
        2 * scores + grower + watched + self.ensemble.memory_bytes()
    }
}

/// The training rows that a forest is judged by.
fn watch(data: &Dataset, seed: u64) -> Watched {
    if data.train.len() <= WATCHED_ROWS {
        return Watched::All;
    }
    let mut rows = permutation(seed, Purpose::Trees, u32::MAX, data.train.len());
    rows.truncate(WATCHED_ROWS);
    let width = data.width();
    let features = rows
        .iter()
        .flat_map(|row| data.train.features.get(*row as usize * width..(*row as usize + 1) * width))
        .flatten()
        .copied()
        .collect();
    let targets = match &data.train.targets {
        Targets::Classes(ids) => Targets::Classes(pick(ids, &rows)),
        Targets::Values(values) => Targets::Values(pick(values, &rows)),
    };
    Watched::Some { features, targets }
}

fn pick<T: Copy>(values: &[T], rows: &[u32]) -> Vec<T> {
    rows.iter().filter_map(|row| values.get(*row as usize).copied()).collect()
}
