//! Trees of a forest (Breiman, 2001): each on a bootstrap sample, each node choosing from some features, grown until
//! leaves are pure. A single tree on all rows and features is a decision tree (CART).

use std::ops::Range;

use rand::Rng;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use tensorfleet_kernels::trees::{
    self as kernels, ClassSample, Purity, PuritySplit, Routing, Spread, ValueSample,
};

use super::ensemble::{Ensemble, leaf};
use super::joint::{Grown, Joint};
use super::output::Output;
use super::store::{Layout, Store};
use crate::data::Targets;
use crate::domain::{Bootstrap, InvalidField, MaxFeatures, SplitCriterion, TaskError};
use crate::engine::seeds::{self, Purpose};
use crate::engine::trainer::Blueprint;
use crate::engine::{Control, class_weights};

/// Rows times features of a node that are worth a second thread.
const CELLS_IN_PARALLEL: usize = 1 << 17;

/// What sets a forest and a single tree apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Many trees.
    Forest,
    /// One.
    Single,
}

/// Grows the trees of a forest.
#[derive(Debug)]
pub(super) struct Forest {
    store: Store,
    output: Output,
    samples: Samples,
    max_depth: u32,
    features_per_node: usize,
    least_leaf: u32,
    least_split: u32,
    draw: Draw,
    seed: u64,
}

/// The rows of a tree.
#[derive(Debug)]
enum Draw {
    /// All.
    Whole,
    /// With replacement.
    Sampled,
    /// With replacement, those of some classes more often.
    Weighed(kernels::Urn),
}

/// Each row's target, and how often it was drawn.
#[derive(Debug, Clone)]
enum Samples {
    Classes {
        rows: Vec<ClassSample>,
        classes: usize,
        /// How much a draw of each class counts; empty where all count alike.
        weights: Vec<f64>,
    },
    /// One unit of a value stands for `unit`.
    Values { rows: Vec<ValueSample>, unit: f64 },
}

/// What the rows of a node have.
#[derive(Debug, Clone)]
enum Total {
    Classes(Vec<u32>),
    Values { sum: (i64, u64), constant: bool },
}

/// Room for the search of splits.
struct Search {
    by: By,
    /// Of the rows of a node, by the feature that is tried.
    bins: Vec<u8>,
}

enum By {
    Classes(Purity),
    Values(Box<Spread>),
}

/// A node that is looked at for a split.
struct Node<'a> {
    rows: &'a [u32],
    /// Those of `rows`, in their order: so that each feature that is tried reads them one after the other.
    samples: &'a Samples,
    total: &'a Total,
}

struct Open {
    node: usize,
    rows: Range<usize>,
    depth: u32,
    total: Total,
}

impl Forest {
    /// Bins the training rows.
    ///
    /// # Errors
    /// Hyperparameters that do not fit the target.
    pub(super) fn new(blueprint: &Blueprint<'_>, kind: Kind) -> Result<Self, TaskError> {
        let Blueprint { data, hyperparameters, seed, .. } = *blueprint;
        let trees = &hyperparameters.trees;
        let fits = match &data.train.targets {
            Targets::Classes(_) => (SplitCriterion::Gini, "gini, because the target is classes"),
            Targets::Values(_) => {
                (SplitCriterion::SquaredError, "squared_error, because the target is a number")
            }
        };
        if let Some(criterion) = trees.criterion.filter(|criterion| *criterion != fits.0) {
            let name = if criterion == SplitCriterion::Gini { "gini" } else { "squared_error" };
            return Err(InvalidField::new("hyperparameters.criterion", name, fits.1).into());
        }
        let mut weights = class_weights::of(hyperparameters, data)?.unwrap_or_default();
        let store =
            Store::new(&data.train.features, data.width(), trees.max_bins.into(), Layout::ColumnsAndLines);
        let default = match (kind, &data.train.targets) {
            (Kind::Forest, Targets::Classes(_)) => MaxFeatures::Sqrt,
            // As scikit-learn has it.
            _ => MaxFeatures::All,
        };
        let width = data.width() as f64;
        let features = match trees.max_features.unwrap_or(default) {
            MaxFeatures::Sqrt => width.sqrt() as usize,
            MaxFeatures::Log2 => width.log2() as usize,
            MaxFeatures::All => data.width(),
            MaxFeatures::Share(share) => (width * share) as usize,
            MaxFeatures::Count(count) => count as usize,
        };
        let default = if kind == Kind::Forest { Bootstrap::Sampled } else { Bootstrap::Whole };
        let draw = match (trees.bootstrap.unwrap_or(default), &data.train.targets) {
            (Bootstrap::Whole, _) => Draw::Whole,
            // As scikit-learn from 1.9 on: what is drawn more often counts for no more than once a draw.
            (Bootstrap::Sampled, Targets::Classes(ids))
                if weights.iter().any(|weight| *weight != weights[0]) =>
            {
                let ids: Vec<u16> = ids.iter().map(|id| *id as u16).collect();
                Draw::Weighed(kernels::Urn::new(&ids, &std::mem::take(&mut weights)))
            }
            (Bootstrap::Sampled, _) => Draw::Sampled,
        };
        let samples = match &data.train.targets {
            Targets::Classes(ids) => Samples::Classes {
                rows: ids.iter().map(|id| ClassSample { class: *id as u16, weight: 1 }).collect(),
                classes: data.classes().unwrap_or(2),
                weights,
            },
            Targets::Values(values) => {
                let greatest = values.iter().fold(0.0_f64, |most, value| most.max(f64::from(value.abs())));
                // A row is drawn 65,535 times at most, all of them together as often as there are rows.
                let unit = (greatest * values.len() as f64 / (1_u64 << 52) as f64).max(f64::MIN_POSITIVE);
                let fixed =
                    |value: &f32| ValueSample { value: (f64::from(*value) / unit).round() as i64, weight: 1 };
                Samples::Values { rows: values.iter().map(fixed).collect(), unit }
            }
        };
        Ok(Self {
            store,
            output: Output::averaged(&data.target),
            samples,
            max_depth: trees.max_depth.filter(|depth| *depth > 0).unwrap_or(u32::MAX),
            features_per_node: features.clamp(1, data.width().max(1)),
            least_leaf: trees.min_samples_leaf,
            least_split: trees.min_samples_split,
            draw,
            seed,
        })
    }

    /// A model without trees.
    pub(super) fn begin(&self) -> Ensemble {
        Ensemble { bases: vec![0.0; self.output.count()], trees: Vec::new() }
    }

    /// Tree number `index`.
    ///
    /// # Errors
    /// The reason to stop.
    pub(super) fn tree(&self, index: u32, control: &Control) -> Result<Grown, TaskError> {
        let mut random = seeds::stream(self.seed, Purpose::Trees, index, 0);
        let mut samples = self.samples.clone();
        let mut rows: Vec<u32> = Vec::new();
        let mut take = |bootstrap: &dyn Fn(u64, &mut [u16])| {
            let mut counts = vec![0; self.store.rows()];
            bootstrap(random.next_u64(), &mut counts);
            samples.draw(&counts);
            kernels::drawn(&counts, &mut rows);
        };
        match &self.draw {
            Draw::Whole => kernels::draw_rows(self.store.rows() as u32, 1.0, 0, &mut rows, &mut Vec::new()),
            Draw::Sampled => take(&kernels::bootstrap),
            Draw::Weighed(urn) => take(&|seed, counts| urn.bootstrap(seed, counts)),
        }
        let growing = Growing { forest: self, samples: &samples, control };
        let joint = growing.grow(&mut rows, &mut random)?;
        Ok(Grown { trees: joint.by_output(self.output.count())?, joint: Some(joint) })
    }

    /// Memory that it takes, in bytes, roughly.
    pub(super) fn memory_bytes(&self) -> u64 {
        let urn = if matches!(self.draw, Draw::Weighed(_)) { 4 * self.store.rows() as u64 } else { 0 };
        urn + self.store.memory_bytes() + 16 * (self.store.rows() * rayon::current_num_threads()) as u64
    }
}

impl Samples {
    /// Each row counts as often as `counts` says.
    fn draw(&mut self, counts: &[u16]) {
        match self {
            Self::Classes { rows, .. } => kernels::weigh_classes(rows, counts),
            Self::Values { rows, .. } => kernels::weigh_values(rows, counts),
        }
    }

    /// Makes `picked`, which came from `self`, those of `rows`.
    fn pick(&self, rows: &[u32], picked: &mut Self) {
        match (self, picked) {
            (Self::Classes { rows: all, .. }, Self::Classes { rows: picked, .. }) => {
                kernels::pick(all, rows, picked);
            }
            (Self::Values { rows: all, .. }, Self::Values { rows: picked, .. }) => {
                kernels::pick(all, rows, picked);
            }
            _ => {}
        }
    }

    fn total(&self, rows: &[u32]) -> Total {
        match self {
            Self::Classes { rows: samples, classes, .. } => {
                let mut totals = vec![0; *classes];
                Purity::count(rows, samples, &mut totals);
                Total::Classes(totals)
            }
            Self::Values { rows: samples, .. } => Total::Values {
                sum: Spread::sum(rows, samples),
                constant: Spread::is_constant(rows, samples),
            },
        }
    }

    fn search(&self) -> Search {
        let by = match self {
            Self::Classes { classes, weights, .. } => By::Classes(match weights.as_slice() {
                [] => Purity::new(*classes),
                weights => Purity::weighed(weights),
            }),
            Self::Values { .. } => By::Values(Box::default()),
        };
        Search { by, bins: Vec::new() }
    }
}

impl Total {
    fn rows(&self) -> u64 {
        match self {
            Self::Classes(counts) => counts.iter().map(|count| u64::from(*count)).sum(),
            Self::Values { sum: (_, count), .. } => *count,
        }
    }

    fn is_pure(&self) -> bool {
        match self {
            Self::Classes(counts) => counts.iter().filter(|count| **count > 0).count() < 2,
            Self::Values { constant, .. } => *constant,
        }
    }

    /// What a split has to exceed to be purer than the node itself.
    fn score(&self, samples: &Samples) -> f64 {
        match self {
            Self::Classes(counts) => {
                let masses = || samples.masses(counts);
                masses().map(|mass| mass.powi(2)).sum::<f64>() / masses().sum::<f64>()
            }
            Self::Values { sum: (sum, _), .. } => *sum as f64 * *sum as f64 / self.rows().max(1) as f64,
        }
    }

    /// What a leaf says, a value an output.
    fn values(&self, output: Output, samples: &Samples, values: &mut Vec<f32>) {
        let rows = self.rows().max(1) as f64;
        match (self, samples) {
            (Self::Classes(counts), _) => {
                let skipped = counts.len() - output.count();
                let all: f64 = samples.masses(counts).sum();
                values.extend(samples.masses(counts).skip(skipped).map(|mass| (mass / all) as f32));
            }
            (Self::Values { sum: (sum, _), .. }, Samples::Values { unit, .. }) => {
                values.push((*sum as f64 * unit / rows) as f32);
            }
            (Self::Values { .. }, Samples::Classes { .. }) => values.push(f32::NAN),
        }
    }
}

/// One tree under way.
struct Growing<'a> {
    forest: &'a Forest,
    samples: &'a Samples,
    control: &'a Control,
}

impl Growing<'_> {
    fn grow(&self, rows: &mut [u32], random: &mut impl Rng) -> Result<Joint, TaskError> {
        let Self { forest, samples, .. } = self;
        let mut made = Joint::default();
        let mut spare = vec![0; rows.len()];
        let (mut search, mut picked) = (samples.search(), (*samples).clone());
        let mut features: Vec<usize> = (0..forest.store.features().len()).collect();
        let total = samples.total(rows);
        self.push(&mut made, &total);
        let mut open = vec![Open { node: 0, rows: 0..rows.len(), depth: 0, total }];
        while let Some(node) = open.pop() {
            self.control.check()?;
            let part = rows.get_mut(node.rows.clone()).unwrap_or_default();
            let total = &node.total;
            if node.depth >= forest.max_depth
                || total.rows() < u64::from(forest.least_split)
                || total.rows() < 2 * u64::from(forest.least_leaf)
                || total.is_pure()
            {
                continue;
            }
            samples.pick(part, &mut picked);
            let looked_at = Node { rows: part, samples: &picked, total };
            let Some((index, split)) = self.best(&looked_at, &mut features, (&mut search, random))? else {
                continue;
            };
            let Some(binned) = forest.store.features().get(index) else { continue };
            let routing = Routing::new(split.bin, binned.missing_bin(), split.default);
            let middle = forest.store.partition(index, part, &mut spare, &routing);
            let (left, right) = part.split_at(middle);
            let totals = [left, right].map(|rows| samples.total(rows));
            let children = totals.each_ref().map(|total| self.push(&mut made, total));
            if let (Some(inner), Some(gain)) = (made.nodes.get_mut(node.node), made.gains.get_mut(node.node))
            {
                inner.feature = binned.feature;
                inner.threshold = binned.cuts.between(split.bin, split.next);
                inner.default = split.default;
                [inner.left, inner.right] = children.map(|child| child as u32);
                *gain = samples.real(split.score - total.score(samples));
            }
            let (start, depth) = (node.rows.start, node.depth + 1);
            let [left, right] = totals;
            open.push(Open { node: children[1], rows: start + middle..node.rows.end, depth, total: right });
            open.push(Open { node: children[0], rows: start..start + middle, depth, total: left });
        }
        Ok(made)
    }

    /// Adds a node without children, and returns its number.
    fn push(&self, made: &mut Joint, total: &Total) -> usize {
        made.nodes.push(leaf(0.0));
        made.gains.push(0.0);
        made.covers.push(total.rows() as f32);
        total.values(self.forest.output, self.samples, &mut made.values);
        made.nodes.len() - 1
    }

    /// The split with the purest children among features drawn for this node. Features without any split do not end
    /// the drawing.
    fn best(
        &self,
        node: &Node<'_>,
        features: &mut [usize],
        (search, random): (&mut Search, &mut impl Rng),
    ) -> Result<Option<(usize, PuritySplit)>, TaskError> {
        let Forest { features_per_node, store, .. } = self.forest;
        let wanted = (*features_per_node).min(features.len());
        let mut drawn = wanted;
        let chosen =
            if wanted == features.len() { &*features } else { &*features.partial_shuffle(random, wanted).0 };
        let mut best: Option<(usize, PuritySplit)> = None;
        let better = |best: &mut Option<(usize, PuritySplit)>, index: usize, split: Option<PuritySplit>| {
            let Some(split) = split else { return };
            let is_better = best.as_ref().is_none_or(|(_, best)| split.is_better(best));
            if is_better {
                *best = Some((index, split));
            }
        };
        if node.rows.len() * wanted >= CELLS_IN_PARALLEL && wanted > 1 {
            let found: Vec<Option<PuritySplit>> = chosen
                .par_iter()
                .map_init(|| self.samples.search(), |search, index| self.split_by(*index, node, search))
                .collect::<Result<_, _>>()?;
            for (index, split) in chosen.iter().zip(found) {
                better(&mut best, *index, split);
            }
        } else {
            for index in chosen {
                better(&mut best, *index, self.split_by(*index, node, search)?);
            }
        }
        let tried: Vec<usize> = if best.is_none() { chosen.to_vec() } else { Vec::new() };
        while best.is_none() && drawn < store.features().len() {
            // The rest, one by one, in an order of their own.
            let mut rest: Vec<usize> =
                features.iter().copied().filter(|index| !tried.contains(index)).collect();
            rest.sort_unstable();
            rest.shuffle(random);
            for index in rest {
                drawn += 1;
                better(&mut best, index, self.split_by(index, node, search)?);
                if best.is_some() {
                    break;
                }
            }
        }
        Ok(best)
    }

    fn split_by(
        &self,
        index: usize,
        node: &Node<'_>,
        search: &mut Search,
    ) -> Result<Option<PuritySplit>, TaskError> {
        self.control.check()?;
        let store = &self.forest.store;
        let least = self.forest.least_leaf;
        let Some(cuts) = store.features().get(index).map(|binned| &binned.cuts) else {
            return Ok(None);
        };
        let Search { by, bins } = search;
        store.bins_of(index, node.rows, bins);
        Ok(match (by, node.samples, node.total) {
            (By::Classes(purity), Samples::Classes { rows: samples, .. }, Total::Classes(total)) => {
                purity.best_split(bins, cuts, samples, total, least)
            }
            (By::Values(spread), Samples::Values { rows: samples, .. }, Total::Values { sum, .. }) => {
                spread.best_split(bins, cuts, samples, *sum, least)
            }
            _ => None,
        })
    }
}

impl Samples {
    /// What draws of each class weigh together.
    fn masses(&self, counts: &[u32]) -> impl Iterator<Item = f64> {
        let weights = if let Self::Classes { weights, .. } = self { weights.as_slice() } else { &[] };
        let weight = |class| weights.get(class).copied().unwrap_or(1.0);
        counts.iter().enumerate().map(move |(class, count)| f64::from(*count) * weight(class))
    }

    /// A difference of scores in units of the target.
    fn real(&self, score: f64) -> f32 {
        match self {
            Self::Classes { .. } => score as f32,
            Self::Values { unit, .. } => (score * unit * unit) as f32,
        }
    }
}
