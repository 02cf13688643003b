//! One boosted tree: grown node by node, the smaller child first, so that few histograms are held at once.
//!
//! ```text
//! node with histogram --best split--> rows parted (stable) --> histogram of the smaller child
//!                                                          --> that of the larger one by subtraction
//! ```
//!
//! Both children of a node with many rows are grown side by side. Sums of integers do not depend on who adds, and nodes
//! are numbered as if one thread had grown them all, so that a tree is the same whatever the threads, and wherever its
//! histograms are ([`Histograms`]).

use std::ops::Range;

use rayon::prelude::*;
use tensorfleet_kernels::trees::{self as kernels, Penalties, Quantum, Routing, Split, TreeNode};

use super::ensemble::{BLOCK_ROWS, Tree, leaf};
use super::histograms::{Histograms, Pools};
use super::store::Store;
use crate::domain::TaskError;
use crate::engine::Control;

/// Rows of a node whose children are worth a thread each.
const ROWS_IN_PARALLEL: usize = 2048;

/// Deepest node whose children are grown side by side: each level takes some of the stack.
const DEEPEST_IN_PARALLEL: u32 = 24;

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
    /// Room for histograms.
    pub(super) pools: Pools,
    /// As much room as for rows.
    pub(super) spare_rows: Vec<u32>,
}

/// Derivatives of all rows, and the same as packed integers.
pub(super) type Derived<'a> = (&'a [[f32; 2]], &'a [i64]);

/// Rows that a tree is grown on, and room for as many.
pub(super) type Parted<'a> = (&'a mut [u32], &'a mut Vec<u32>);

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
struct Open<S> {
    node: usize,
    rows: Range<usize>,
    depth: u32,
    /// Packed sum of its rows.
    total: i64,
    histogram: Option<S>,
}

/// Rows of a part of the tree, and as much room.
struct Part<'a> {
    rows: &'a mut [u32],
    spare: &'a mut [u32],
    /// Place of the first of them among the rows of the tree.
    start: usize,
}

impl<'a> Part<'a> {
    fn split_at(self, middle: usize) -> [Part<'a>; 2] {
        let (rows, right_rows) = self.rows.split_at_mut(middle);
        let (spare, right_spare) = self.spare.split_at_mut(middle);
        let right = Part { rows: right_rows, spare: right_spare, start: self.start + middle };
        [Part { rows, spare, start: self.start }, right]
    }
}

/// A part of a tree in the making. Its first node is the root of the part.
#[derive(Default)]
struct Made {
    nodes: Vec<TreeNode>,
    gains: Vec<f32>,
    covers: Vec<f32>,
    leaves: Vec<(usize, Range<usize>)>,
}

impl Made {
    fn push(&mut self, cover: f64) -> usize {
        self.nodes.push(leaf(0.0));
        self.gains.push(0.0);
        self.covers.push(cover as f32);
        self.nodes.len() - 1
    }

    /// Makes node `place`, a leaf so far, the root of `part`; its other nodes come after all nodes.
    fn graft(&mut self, place: usize, part: Self) {
        let after = self.nodes.len();
        let number = |node: usize| if node == 0 { place } else { after + node - 1 };
        let renumbered = part.nodes.into_iter().map(|mut node| {
            if !node.is_leaf() {
                (node.left, node.right) =
                    (number(node.left as usize) as u32, number(node.right as usize) as u32);
            }
            node
        });
        put(&mut self.nodes, place, renumbered);
        put(&mut self.gains, place, part.gains);
        put(&mut self.covers, place, part.covers);
        self.leaves.extend(part.leaves.into_iter().map(|(node, rows)| (number(node), rows)));
    }
}

/// Puts the first of `items` at `place`, the others at the end.
fn put<T>(all: &mut Vec<T>, place: usize, items: impl IntoIterator<Item = T>) {
    let mut items = items.into_iter();
    if let (Some(root), Some(first)) = (all.get_mut(place), items.next()) {
        *root = first;
    }
    all.extend(items);
}

impl Growth<'_> {
    /// Grows a tree on `rows`, which come to lie leaf by leaf; `spare` is room for as many. `packed` are the derivatives
    /// of all rows that `histograms` sums up.
    ///
    /// # Errors
    /// The reason to stop; a leaf value that is no number.
    pub(super) fn grow<H: Histograms>(
        self,
        histograms: &H,
        (derivatives, packed): Derived<'_>,
        (rows, spare): Parted<'_>,
    ) -> Result<Grown, TaskError> {
        spare.resize(rows.len(), 0);
        let site = Site { growth: self, derivatives, histograms };
        let sums = rows.par_chunks(BLOCK_ROWS).map(|rows| kernels::total(packed, rows));
        let total = sums.reduce(|| 0, i64::wrapping_add);
        let mut root = Open { node: 0, rows: 0..rows.len(), depth: 0, total, histogram: None };
        if self.may_split(&root) {
            root.histogram = Some(histograms.build(rows)?);
        }
        let part = Part { rows, spare, start: 0 };
        let Made { nodes, gains, covers, leaves } = site.subtree(root, part)?;
        Ok(Grown { tree: Tree::new(nodes, gains, covers)?, leaves })
    }

    /// The feature, as a number of the store, and the split of most gain among `candidates`, features and their sums in
    /// ascending order.
    pub(super) fn best<'s>(
        &self,
        candidates: impl Iterator<Item = (usize, &'s [i64])>,
        total: i64,
    ) -> Option<(usize, Split)> {
        let mut best: Option<(usize, Split)> = None;
        for (index, sums) in candidates {
            let Some(binned) = self.store.features().get(index) else { continue };
            let least = best.as_ref().map_or(self.rules.gamma, |(_, split)| split.gain);
            let bins = binned.cuts.value_bins();
            let found = kernels::best_split(sums, bins, total, self.quantum, &self.rules.penalties, least);
            if let Some(split) = found {
                best = Some((index, split));
            }
        }
        best
    }

    fn may_split<S>(&self, node: &Open<S>) -> bool {
        node.depth < self.rules.max_depth
            && node.rows.len() > 1
            && !self.features.is_empty()
            && self.hessian(node.total) >= 2.0 * self.rules.penalties.least_hessian
    }

    fn hessian(&self, total: i64) -> f64 {
        kernels::sum_of(total).1 as f64 * self.quantum.hessian
    }

    fn value(&self, gradient: f64, hessian: f64) -> f32 {
        (self.rules.penalties.leaf_value(gradient, hessian) * self.rules.learning_rate) as f32
    }
}

/// Where a tree grows, shared by all threads that grow it.
struct Site<'a, H> {
    growth: Growth<'a>,
    derivatives: &'a [[f32; 2]],
    histograms: &'a H,
}

impl<H: Histograms> Site<'_, H> {
    /// The part of the tree below `root`, whose rows are all of `part`.
    fn subtree(&self, root: Open<H::Sums>, part: Part<'_>) -> Result<Made, TaskError> {
        let mut made = Made::default();
        let root = Open { node: made.push(self.growth.hessian(root.total)), ..root };
        let alone = !H::SIDE_BY_SIDE || part.rows.len() < ROWS_IN_PARALLEL;
        if alone || root.depth > DEEPEST_IN_PARALLEL {
            self.one_by_one(root, part, &mut made)?;
            return Ok(made);
        }
        let mut part = part;
        let Some([left, right]) = self.split(root, &mut part, &mut made)? else { return Ok(made) };
        let (left_node, right_node) = (left.node, right.node);
        let left_is_larger = left.rows.len() > right.rows.len();
        let [left_part, right_part] = part.split_at(left.rows.len());
        let from_zero = |open: Open<H::Sums>| Open { rows: 0..open.rows.len(), ..open };
        let (left, right) = rayon::join(
            || self.subtree(from_zero(left), left_part),
            || self.subtree(from_zero(right), right_part),
        );
        let (left, right) = ((left_node, left?), (right_node, right?));
        let in_order = if left_is_larger { [right, left] } else { [left, right] };
        for (node, part) in in_order {
            made.graft(node, part);
        }
        Ok(made)
    }

    /// As [`Self::subtree`], without other threads and however deep it gets.
    fn one_by_one(&self, root: Open<H::Sums>, mut part: Part<'_>, made: &mut Made) -> Result<(), TaskError> {
        let mut open = vec![root];
        while let Some(node) = open.pop() {
            let Some([left, right]) = self.split(node, &mut part, made)? else { continue };
            // The smaller one is the next.
            open.extend(if left.rows.len() > right.rows.len() { [left, right] } else { [right, left] });
        }
        Ok(())
    }

    /// Parts the rows of `node`; None makes it a leaf.
    fn split(
        &self,
        node: Open<H::Sums>,
        part: &mut Part<'_>,
        made: &mut Made,
    ) -> Result<Option<[Open<H::Sums>; 2]>, TaskError> {
        let Growth { store, quantum, control, .. } = self.growth;
        control.check()?;
        let best = node.histogram.as_ref().and_then(|sums| self.histograms.best(sums, node.total));
        let Some((index, split)) = best else {
            self.finish(node, part, made);
            return Ok(None);
        };
        let features = store.features();
        let missing = features.get(index).and_then(super::store::Binned::missing_bin);
        let routing = Routing::new(split.bin, missing, split.default);
        let rows = part.rows.get_mut(node.rows.clone()).unwrap_or_default();
        let middle = node.rows.start + store.partition(index, rows, part.spare, &routing);
        let depth = node.depth + 1;
        let child = |made: &mut Made, rows: Range<usize>, total: i64| Open {
            node: made.push(self.growth.hessian(total)),
            rows,
            depth,
            total,
            histogram: None,
        };
        let left = child(made, node.rows.start..middle, split.left);
        let right = child(made, middle..node.rows.end, node.total.wrapping_sub(split.left));
        if let (Some(inner), Some(binned)) = (made.nodes.get_mut(node.node), features.get(index)) {
            let (gradient, hessian) = kernels::sum_of(node.total);
            *inner = TreeNode {
                feature: binned.feature,
                threshold: binned.cuts.between(split.bin, split.next),
                default: split.default,
                left: left.node as u32,
                right: right.node as u32,
                value: self
                    .growth
                    .value(gradient as f64 * quantum.gradient, hessian as f64 * quantum.hessian),
            };
        }
        if let Some(gain) = made.gains.get_mut(node.node) {
            *gain = split.gain as f32;
        }
        let mut children = [left, right];
        self.look_at(&mut children, node.histogram, part)?;
        Ok(Some(children))
    }

    /// Makes the histograms of those of `children` that may be split, out of their parent's.
    fn look_at(
        &self,
        children: &mut [Open<H::Sums>; 2],
        parent: Option<H::Sums>,
        part: &Part<'_>,
    ) -> Result<(), TaskError> {
        let [left, right] = children;
        let (larger, smaller) =
            if left.rows.len() > right.rows.len() { (left, right) } else { (right, left) };
        let wants = [self.growth.may_split(larger), self.growth.may_split(smaller)];
        let Some(parent) = parent else { return Ok(()) };
        if wants == [false, false] {
            self.histograms.give_back(parent);
            return Ok(());
        }
        let own = self.histograms.build(part.rows.get(smaller.rows.clone()).unwrap_or_default())?;
        if wants[0] {
            larger.histogram = Some(self.histograms.rest(parent, &own));
        } else {
            self.histograms.give_back(parent);
        }
        if wants[1] {
            smaller.histogram = Some(own);
        } else {
            self.histograms.give_back(own);
        }
        Ok(())
    }

    /// Makes `node` a leaf. What decided on splits was rounded; what a leaf says is exact.
    fn finish(&self, node: Open<H::Sums>, part: &Part<'_>, made: &mut Made) {
        if let Some(histogram) = node.histogram {
            self.histograms.give_back(histogram);
        }
        let rows = part.rows.get(node.rows.clone()).unwrap_or_default();
        let [gradient, hessian] = kernels::sum_of_rows(self.derivatives, rows);
        if let Some(leaf) = made.nodes.get_mut(node.node) {
            leaf.value = self.growth.value(gradient, hessian);
        }
        made.leaves.push((node.node, part.start + node.rows.start..part.start + node.rows.end));
    }
}

#[cfg(test)]
mod tests {
    use super::super::histograms::OnHost;
    use super::super::store::Layout;
    use super::*;
    use crate::engine::tests::quiet;

    #[test]
    fn side_by_side_grows_the_tree_that_one_by_one_grows() {
        let (rows, width) = (20_000_u32, 5);
        let number = |at: usize| ((at * 7919 + at / 13) % 1009) as f32;
        let features: Vec<f32> = (0..rows as usize * width).map(number).collect();
        let store = Store::new(&features, width, kernels::MAX_BINS, Layout::ColumnsAndGroups);
        let gradient = |row: usize| (features[row * width] - 500.0) as i64 + (row * row % 997) as i64;
        let packed: Vec<i64> = (0..rows as usize).map(|row| (gradient(row) << 32) + 3).collect();
        let derivatives: Vec<[f32; 2]> = (0..rows as usize).map(|row| [gradient(row) as f32, 3.0]).collect();
        let penalties = Penalties { l2: 1.0, l1: 0.0, least_hessian: 1.0 };
        // Without a limit of depth.
        let rules = Rules { max_depth: u32::MAX, gamma: 0.0, penalties, learning_rate: 0.3 };
        let growth = Growth {
            store: &store,
            features: &[0, 2, 3, 4],
            rules: &rules,
            quantum: &Quantum { gradient: 1.0, hessian: 1.0 },
            control: &quiet(),
        };
        let pools = Pools::default();
        let histograms = OnHost { growth, packed: &packed, pools: &pools };
        let (mut parted, mut spare) = ((0..rows).collect::<Vec<u32>>(), Vec::new());
        let of = (derivatives.as_slice(), packed.as_slice());
        let grown = growth.grow(&histograms, of, (&mut parted, &mut spare)).unwrap();

        let mut rows: Vec<u32> = (0..rows).collect();
        let site = Site { growth, derivatives: &derivatives, histograms: &histograms };
        let histogram = Some(histograms.build(&rows).unwrap());
        let total = kernels::total(&packed, &rows);
        let mut made = Made::default();
        let root = Open { node: 0, rows: 0..rows.len(), depth: 0, total, histogram };
        made.push(growth.hessian(total));
        site.one_by_one(root, Part { rows: &mut rows, spare: &mut spare, start: 0 }, &mut made).unwrap();

        assert!(made.nodes.len() > 500, "{} nodes", made.nodes.len());
        assert_eq!(grown.tree.nodes, made.nodes);
        assert_eq!((grown.tree.gains, grown.tree.covers), (made.gains, made.covers));
        assert_eq!((grown.leaves, &parted), (made.leaves, &rows));
    }
}
