//! One boosted tree: grown node by node, the smaller child first, so that few histograms are held at once.
//!
//! ```text
//! node with histogram --best split--> rows parted (stable) --> histogram of the smaller child
//!                                                          --> that of the larger one by subtraction
//! ```

use std::ops::Range;

use tensorfleet_kernels::trees::{self as kernels, Penalties, Quantum, Routing, Split, TreeNode};

use super::ensemble::{Tree, leaf};
use super::store::Store;
use crate::domain::TaskError;
use crate::engine::Control;

/// When a node is split.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rules {
    /// Deepest level of a leaf.
    pub(super) max_depth: u32,
    /// Least gain of a split.
    pub(super) gamma: f64,
    /// What leaves cost.
    pub(super) penalties: Penalties,
    /// Factor of leaf values.
    pub(super) learning_rate: f64,
}

/// Room for one tree, used again and again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// [g, h] of each of all rows.
    pub(super) derivatives: Vec<[f32; 2]>,
    /// The same as packed integers.
    pub(super) packed: Vec<i64>,
    /// Rows that the tree is grown on, afterwards by leaf.
    pub(super) rows: Vec<u32>,
    /// The others.
    pub(super) left_out: Vec<u32>,
    spare_rows: Vec<u32>,
    histograms: Vec<Vec<i64>>,
}

/// A tree, and which part of [`Scratch::rows`] came to which leaf.
#[derive(Debug)]
pub(super) struct Grown {
    /// The tree.
    pub(super) tree: Tree,
    /// Leaves and their rows.
    pub(super) leaves: Vec<(usize, Range<usize>)>,
}

/// Grows trees on the rows of a store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Growth<'a> {
    /// The rows.
    pub(super) store: &'a Store,
    /// Features that may be split by, numbers of [`Store::features`].
    pub(super) features: &'a [usize],
    /// When to split.
    pub(super) rules: &'a Rules,
    /// What the packed integers stand for.
    pub(super) quantum: &'a Quantum,
    /// Whether to go on.
    pub(super) control: &'a Control,
}

/// A node whose split is still to be looked for.
struct Open {
    node: usize,
    rows: Range<usize>,
    depth: u32,
    /// Packed sum of its rows.
    total: i64,
    histogram: Option<Vec<i64>>,
}

/// A tree in the making.
#[derive(Default)]
struct Made {
    nodes: Vec<TreeNode>,
    gains: Vec<f32>,
    covers: Vec<f32>,
}

impl Made {
    fn push(&mut self, cover: f64) -> usize {
        self.nodes.push(leaf(0.0));
        self.gains.push(0.0);
        self.covers.push(cover as f32);
        self.nodes.len() - 1
    }
}

impl Growth<'_> {
    /// Grows a tree on `scratch.rows`; derivatives are there already.
    ///
    /// # Errors
    /// The reason to stop; a leaf value that is no number.
    pub(super) fn grow(&self, scratch: &mut Scratch) -> Result<Grown, TaskError> {
        let mut made = Made::default();
        let mut leaves = Vec::new();
        scratch.spare_rows.resize(scratch.rows.len(), 0);
        let all = 0..scratch.rows.len();
        let total = kernels::total(&scratch.packed, &scratch.rows);
        let mut root =
            Open { node: made.push(self.hessian(total)), rows: all, depth: 0, total, histogram: None };
        if self.may_split(&root) {
            root.histogram = Some(self.build(&root.rows, scratch)?);
        }
        let mut open = vec![root];
        while let Some(node) = open.pop() {
            self.control.check()?;
            let Some(histogram) = node.histogram.as_deref() else {
                leaves.push((node.node, node.rows));
                continue;
            };
            match self.best(histogram, node.total) {
                None => {
                    scratch.histograms.extend(node.histogram);
                    leaves.push((node.node, node.rows));
                }
                Some((index, split)) => {
                    let [larger, smaller] = self.split(node, (index, &split), &mut made, scratch)?;
                    open.extend([larger, smaller]);
                }
            }
        }
        // What decided on splits was rounded; what a leaf says is exact.
        for (node, rows) in &leaves {
            let rows = scratch.rows.get(rows.clone()).unwrap_or_default();
            let [gradient, hessian] = kernels::sum_of_rows(&scratch.derivatives, rows);
            if let Some(node) = made.nodes.get_mut(*node) {
                node.value = self.value(gradient, hessian);
            }
        }
        let Made { nodes, gains, covers } = made;
        Ok(Grown { tree: Tree::new(nodes, gains, covers)?, leaves })
    }

    /// Parts the rows of `node`. The larger child comes first.
    fn split(
        &self,
        node: Open,
        (index, split): (usize, &Split),
        made: &mut Made,
        scratch: &mut Scratch,
    ) -> Result<[Open; 2], TaskError> {
        let features = self.store.features();
        let missing = features.get(index).and_then(super::store::Binned::missing_bin);
        let routing = Routing::new(split.bin, missing, split.default);
        let rows = scratch.rows.get_mut(node.rows.clone()).unwrap_or_default();
        let middle = node.rows.start + self.store.partition(index, rows, &mut scratch.spare_rows, &routing);
        let right = node.total.wrapping_sub(split.left);
        let depth = node.depth + 1;
        let child = |made: &mut Made, rows: Range<usize>, total: i64| Open {
            node: made.push(self.hessian(total)),
            rows,
            depth,
            total,
            histogram: None,
        };
        let left = child(made, node.rows.start..middle, split.left);
        let right = child(made, middle..node.rows.end, right);
        if let (Some(inner), Some(binned)) = (made.nodes.get_mut(node.node), features.get(index)) {
            let (gradient, hessian) = kernels::sum_of(node.total);
            *inner = TreeNode {
                feature: binned.feature,
                threshold: binned.cuts.between(split.bin, split.next),
                default: split.default,
                left: left.node as u32,
                right: right.node as u32,
                value: self
                    .value(gradient as f64 * self.quantum.gradient, hessian as f64 * self.quantum.hessian),
            };
        }
        if let Some(gain) = made.gains.get_mut(node.node) {
            *gain = split.gain as f32;
        }
        let (mut larger, mut smaller) =
            if left.rows.len() > right.rows.len() { (left, right) } else { (right, left) };
        let wants = [self.may_split(&larger), self.may_split(&smaller)];
        let Some(mut parent) = node.histogram else { return Ok([larger, smaller]) };
        if wants == [false, false] {
            scratch.histograms.push(parent);
            return Ok([larger, smaller]);
        }
        let own = self.build(&smaller.rows, scratch)?;
        if wants[0] {
            kernels::subtract(&mut parent, &own);
            larger.histogram = Some(parent);
        } else {
            scratch.histograms.push(parent);
        }
        if wants[1] {
            smaller.histogram = Some(own);
        } else {
            scratch.histograms.push(own);
        }
        Ok([larger, smaller])
    }

    fn build(&self, rows: &Range<usize>, scratch: &mut Scratch) -> Result<Vec<i64>, TaskError> {
        let length = self.store.histogram_len();
        let mut histogram = match scratch.histograms.pop() {
            Some(mut used) => {
                kernels::clear(&mut used);
                used
            }
            None => vec![0; length],
        };
        let rows = scratch.rows.get(rows.clone()).unwrap_or_default();
        self.store.histogram(rows, &scratch.packed, &mut histogram, self.control)?;
        Ok(histogram)
    }

    /// The feature, as a number of the store, and the split of most gain.
    fn best(&self, histogram: &[i64], total: i64) -> Option<(usize, Split)> {
        let mut best: Option<(usize, Split)> = None;
        for &index in self.features {
            let Some(binned) = self.store.features().get(index) else { continue };
            let least = best.as_ref().map_or(self.rules.gamma, |(_, split)| split.gain);
            let sums = self.store.sums(histogram, index);
            let bins = binned.cuts.value_bins();
            let found = kernels::best_split(sums, bins, total, self.quantum, &self.rules.penalties, least);
            if let Some(split) = found {
                best = Some((index, split));
            }
        }
        best
    }

    fn may_split(&self, node: &Open) -> bool {
        node.depth < self.rules.max_depth
            && node.rows.len() > 1
            && self.hessian(node.total) >= 2.0 * self.rules.penalties.least_hessian
    }

    fn hessian(&self, total: i64) -> f64 {
        kernels::sum_of(total).1 as f64 * self.quantum.hessian
    }

    fn value(&self, gradient: f64, hessian: f64) -> f32 {
        (self.rules.penalties.leaf_value(gradient, hessian) * self.rules.learning_rate) as f32
    }
}
