//! Rounds of gradient boosting (Friedman, 2001), second order as XGBoost has them: one tree an output.

use std::sync::{Arc, Mutex, PoisonError};

use rand::Rng;
use rayon::prelude::*;
use tensorfleet_kernels::trees::{self as kernels, Magnitudes, Penalties, Quantum};

use super::accelerator::Accelerator;
use super::ensemble::{BLOCK_ROWS, Ensemble, Tree};
use super::growth::{Grown, Growth, Rules, Scratch};
use super::histograms::OnHost;
use super::output::Output;
use super::store::{Layout, Store};
use crate::data::{Dataset, Targets};
use crate::domain::{BoostingObjective, InvalidField, TaskError};
use crate::engine::minibatches::Sums;
use crate::engine::seeds::{self, Purpose};
use crate::engine::trainer::Blueprint;
use crate::engine::{Control, class_weights};

/// Step size where none is given.
const LEARNING_RATE: f64 = 0.3;

/// Deepest level of a leaf where none is given.
const MAX_DEPTH: u32 = 6;

/// Grows the trees of a round.
#[derive(Debug)]
pub(super) struct Boosting {
    data: Arc<Dataset>,
    store: Store,
    output: Output,
    /// How much rows of each class count; `None` where all count alike.
    weights: Option<Vec<f32>>,
    rules: Rules,
    subsample: f64,
    colsample: f64,
    seed: u64,
    scratch: Mutex<Vec<Scratch>>,
    /// The GPU that sums up and looks for splits; `None` where the host does.
    accelerator: Option<Box<Accelerator>>,
    /// Of the scores as they are: logarithms of the sums of exponentials, for softmax.
    normalisers: Option<Vec<f32>>,
}

impl Boosting {
    /// Bins the training rows.
    ///
    /// # Errors
    /// Hyperparameters that do not fit the target or each other; `ResourceExhausted`: too many rows for the GPU.
    pub(super) fn new(blueprint: &Blueprint<'_>) -> Result<Self, TaskError> {
        let Blueprint { data, hyperparameters, device, seed } = *blueprint;
        let trees = &hyperparameters.trees;
        let output = Output::boosted(&data.target);
        fits(trees.objective, output)?;
        let l1 = match hyperparameters.alpha {
            Some(alpha) if hyperparameters.given.contains("reg_alpha") => {
                let allowed = "only one of alpha and reg_alpha, which mean the same here";
                return Err(InvalidField::new("hyperparameters.alpha", alpha.to_string(), allowed).into());
            }
            alpha => alpha.unwrap_or(trees.reg_alpha),
        };
        let max_depth = match trees.max_depth {
            None => MAX_DEPTH,
            Some(0) => u32::MAX,
            Some(depth) => depth,
        };
        let penalties = Penalties { l2: trees.reg_lambda, l1, least_hessian: trees.min_child_weight };
        let learning_rate = hyperparameters.learning_rate.unwrap_or(LEARNING_RATE);
        let weights = weights(blueprint, output)?;
        let (features, max_bins) = (&data.train.features, trees.max_bins.into());
        let store = Store::new(features, data.width(), max_bins, Layout::ColumnsAndGroups);
        Ok(Self {
            weights,
            accelerator: Accelerator::of(device, &store)?.map(Box::new),
            store,
            output,
            data: Arc::clone(data),
            rules: Rules { max_depth, gamma: trees.gamma, penalties, learning_rate },
            subsample: trees.subsample,
            colsample: trees.colsample_bytree,
            seed,
            scratch: Mutex::default(),
            normalisers: None,
        })
    }

    /// The step size.
    pub(super) fn learning_rate(&self) -> f64 {
        self.rules.learning_rate
    }

    /// A model without trees: it says how frequent class 1 is, that all classes are alike, or the mean.
    pub(super) fn begin(&self) -> Ensemble {
        let base = match &self.data.train.targets {
            Targets::Classes(ids) if self.output == Output::LogOdds => {
                let weight = |id: &u32| match &self.weights {
                    Some(weights) => weights.get(*id as usize).map_or(0.0, |weight| f64::from(*weight)),
                    None => 1.0,
                };
                let ones: f64 = ids.iter().filter(|id| **id == 1).map(weight).sum();
                let all: f64 = ids.iter().map(weight).sum();
                let share = (ones / all.max(f64::MIN_POSITIVE)).clamp(1e-6, 1.0 - 1e-6) as f32;
                log_odds(share)
            }
            _ => 0.0,
        };
        Ensemble { bases: vec![base; self.output.count()], trees: Vec::new() }
    }

    /// The scores are others than those of the last round.
    pub(super) fn forget(&mut self) {
        self.normalisers = None;
    }

    /// What `scores` cost, and what the next round needs to know of them.
    pub(super) fn look(&mut self, scores: &[Vec<f32>]) -> Sums {
        let (Output::Logits { .. }, Targets::Classes(targets)) = (self.output, &self.data.train.targets)
        else {
            return self.output.sums_of_all(scores, 0, &self.data.train.targets);
        };
        let mut normalisers = self.normalisers.take().unwrap_or_default();
        normalisers.resize(targets.len(), 0.0);
        let blocks: Vec<Sums> = normalisers
            .par_chunks_mut(BLOCK_ROWS)
            .zip(targets.par_chunks(BLOCK_ROWS))
            .enumerate()
            .map(|(block, (normalisers, targets))| {
                let start = block * BLOCK_ROWS;
                let slices: Vec<&[f32]> =
                    scores.iter().filter_map(|scores| scores.get(start..start + targets.len())).collect();
                let sums = kernels::softmax_loss(&slices, targets, normalisers);
                Sums { loss: sums.loss, quality: sums.correct as f64, rows: targets.len() as u64 }
            })
            .collect();
        self.normalisers = Some(normalisers);
        let mut total = Sums::default();
        for sums in blocks {
            total.add(sums);
        }
        total
    }

    /// The trees of round number `round`, which are added to `scores`, those of the training rows.
    ///
    /// # Errors
    /// The reason to stop; `Diverged`. The scores are then somewhere between.
    pub(super) fn round(
        &mut self,
        round: u32,
        scores: &mut [Vec<f32>],
        control: &Control,
    ) -> Result<Vec<Tree>, TaskError> {
        if self.normalisers.is_none() && matches!(self.output, Output::Logits { .. }) {
            self.look(scores);
        }
        let boosting = &*self;
        let grow = |(output, scores): (usize, &mut Vec<f32>)| {
            let waiting = boosting.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut scratch = waiting.unwrap_or_default();
            let tree = boosting.tree(round, (output as u32, scores), &mut scratch, control);
            boosting.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
            tree
        };
        if self.is_accelerated() {
            // One device, which is given one thing after the other, by one thread.
            return scores.iter_mut().enumerate().map(grow).collect();
        }
        scores.par_iter_mut().enumerate().map(grow).collect()
    }

    /// Whether a GPU takes part.
    pub(super) fn is_accelerated(&self) -> bool {
        self.accelerator.is_some()
    }

    fn tree(
        &self,
        round: u32,
        (output, scores): (u32, &mut Vec<f32>),
        scratch: &mut Scratch,
        control: &Control,
    ) -> Result<Tree, TaskError> {
        control.check()?;
        let mut random = seeds::stream(self.seed, Purpose::Trees, round, output);
        let (rounding, rows) = (random.next_u64(), random.next_u64());
        let features = self.draw_features(&mut random);
        let magnitudes = self.derive(output, scores, scratch);
        let quantum = Quantum::of(&magnitudes);
        scratch.packed.resize(self.store.rows(), 0);
        scratch
            .packed
            .par_chunks_mut(BLOCK_ROWS)
            .zip(scratch.derivatives.par_chunks(BLOCK_ROWS))
            .enumerate()
            .for_each(|(block, (packed, derivatives))| {
                kernels::quantise(derivatives, &quantum, rounding, (block * BLOCK_ROWS) as u64, packed);
            });
        let all = self.store.rows() as u32;
        kernels::draw_rows(all, self.subsample, rows, &mut scratch.rows, &mut scratch.left_out);
        let growth = Growth {
            store: &self.store,
            features: &features,
            rules: &self.rules,
            quantum: &quantum,
            control,
        };
        let grown = self.grow(growth, scratch)?;
        self.add(&grown, scratch, scores);
        Ok(grown.tree)
    }

    /// Grows a tree where the session trains.
    fn grow(&self, growth: Growth<'_>, scratch: &mut Scratch) -> Result<Grown, TaskError> {
        let Scratch { derivatives, packed, rows, spare_rows, pools, .. } = scratch;
        let (derived, parted) =
            ((derivatives.as_slice(), packed.as_slice()), (rows.as_mut_slice(), spare_rows));
        match &self.accelerator {
            Some(accelerator) => accelerator.grow(growth, derived, parted),
            None => growth.grow(&OnHost { growth, packed, pools }, derived, parted),
        }
    }

    /// Adds what a tree says of the training rows to `scores`.
    fn add(&self, grown: &Grown, scratch: &Scratch, scores: &mut [f32]) {
        let Scratch { rows, left_out, .. } = scratch;
        let train = (&*self.data.train.features, self.data.width());
        let at_once = scores.len().div_ceil(rayon::current_num_threads()).max(BLOCK_ROWS);
        scores.par_chunks_mut(at_once).enumerate().for_each(|(block, scores)| {
            let first = (block * at_once) as u32;
            let block = first..first + scores.len() as u32;
            for (leaf, rows_of_leaf) in &grown.leaves {
                let rows = rows.get(rows_of_leaf.clone()).unwrap_or_default();
                let value = grown.tree.nodes.get(*leaf).map_or(0.0, |leaf| leaf.value);
                kernels::add_to_rows(scores, first, kernels::rows_within(rows, block.clone()), value);
            }
            let left_out = kernels::rows_within(left_out, block);
            kernels::add_tree_at(&grown.tree.nodes, train, left_out, first, scores);
        });
    }

    /// Derivatives by the scores of `output`, into `scratch`.
    fn derive(&self, output: u32, scores: &[f32], scratch: &mut Scratch) -> Magnitudes {
        scratch.derivatives.resize(self.store.rows(), [0.0; 2]);
        let normalisers = self.normalisers.as_deref().unwrap_or_default();
        let blocks: Vec<Magnitudes> = scratch
            .derivatives
            .par_chunks_mut(BLOCK_ROWS)
            .zip(scores.par_chunks(BLOCK_ROWS))
            .enumerate()
            .map(|(block, (derivatives, scores))| {
                let rows = block * BLOCK_ROWS..block * BLOCK_ROWS + scores.len();
                match &self.data.train.targets {
                    Targets::Values(values) => {
                        let targets = values.get(rows).unwrap_or_default();
                        kernels::squared_derivatives(scores, targets, derivatives)
                    }
                    Targets::Classes(ids) => {
                        let targets = ids.get(rows.clone()).unwrap_or_default();
                        let magnitudes = match normalisers.get(rows) {
                            Some(normalisers) if self.output != Output::LogOdds => {
                                let targets = (targets, output);
                                kernels::softmax_derivatives(scores, normalisers, targets, derivatives)
                            }
                            _ => kernels::logistic_derivatives(scores, targets, derivatives),
                        };
                        match &self.weights {
                            Some(weights) => kernels::weigh_derivatives(targets, weights, derivatives),
                            None => magnitudes,
                        }
                    }
                }
            })
            .collect();
        blocks.into_iter().fold(Magnitudes::default(), Magnitudes::with)
    }

    /// Features that a tree may use, ascending.
    fn draw_features(&self, random: &mut impl Rng) -> Vec<usize> {
        let count = self.store.features().len();
        // Of all features of the data set, as XGBoost counts.
        let wanted = ((self.colsample * count as f64) as usize).clamp(1.min(count), count);
        let mut features = rand::seq::index::sample(random, count, wanted).into_vec();
        features.sort_unstable();
        features
    }

    /// Memory that it takes, in bytes, roughly.
    pub(super) fn memory_bytes(&self) -> u64 {
        let per_tree = 28 * self.store.rows() as u64;
        let trees_at_once = self.output.count().min(rayon::current_num_threads()) as u64;
        self.store.memory_bytes() + per_tree * trees_at_once
    }
}

/// Whether the objective is the one that boosting has for `output`.
fn fits(objective: Option<BoostingObjective>, output: Output) -> Result<(), TaskError> {
    let (fitting, allowed) = match output {
        Output::LogOdds => {
            (BoostingObjective::BinaryLogistic, "binary:logistic, because the target is two classes")
        }
        Output::Value | Output::MeanValue => {
            (BoostingObjective::SquaredError, "reg:squarederror, because the target is a number")
        }
        Output::Logits { .. } | Output::Shares { .. } => (
            BoostingObjective::MultiSoftmax,
            "multi:softprob or multi:softmax, because the target is more than two classes",
        ),
    };
    let name = match objective {
        Some(BoostingObjective::BinaryLogistic) => "binary:logistic",
        Some(BoostingObjective::MultiSoftmax) => "multi:softprob",
        Some(BoostingObjective::SquaredError) => "reg:squarederror",
        None => return Ok(()),
    };
    if objective == Some(fitting) {
        return Ok(());
    }
    Err(InvalidField::new("hyperparameters.objective", name, allowed).into())
}

/// How much rows of each class count: class_weight, times scale_pos_weight for the second of two.
fn weights(blueprint: &Blueprint<'_>, output: Output) -> Result<Option<Vec<f32>>, TaskError> {
    let Blueprint { data, hyperparameters, .. } = *blueprint;
    let mut weights = class_weights::of(hyperparameters, data)?;
    let factor = hyperparameters.trees.scale_pos_weight;
    if factor != 1.0 {
        if output != Output::LogOdds {
            let allowed = "1, because the target is not two classes; class_weight weighs more of them";
            let field = "hyperparameters.scale_pos_weight";
            return Err(InvalidField::new(field, factor.to_string(), allowed).into());
        }
        let weights = weights.get_or_insert_with(|| vec![1.0; 2]);
        weights.iter_mut().skip(1).for_each(|weight| *weight *= factor);
    }
    Ok(weights.map(|weights| weights.into_iter().map(|weight| weight as f32).collect()))
}

/// Log odds of a probability, as XGBoost computes them.
pub(super) fn log_odds(share: f32) -> f32 {
    -(1.0 / share - 1.0).ln()
}
