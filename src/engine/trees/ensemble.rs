//! Finished trees, and what they say together.
//!
//! Every tree has one output: a model of several classes has as many trees a round as it has outputs, in turn.

use std::sync::{Arc, OnceLock};

use rayon::prelude::*;
use tensorfleet_kernels::trees::{self as kernels, Side, TreeNode};

use crate::domain::{ErrorCode, TaskError};

/// Rows that go through the trees together.
pub(super) const BLOCK_ROWS: usize = 4096;

/// A finished tree.
#[derive(Debug)]
pub(super) struct Tree {
    /// The root first, children after their parents.
    pub(super) nodes: Vec<TreeNode>,
    /// What the split of each node gained; 0 for leaves.
    pub(super) gains: Vec<f32>,
    /// Sum of second derivatives, or number of rows, of each node.
    pub(super) covers: Vec<f32>,
    /// Its part of the model file, once it was asked for.
    pub(super) written: OnceLock<Vec<u8>>,
}

impl Tree {
    /// Puts a tree together.
    ///
    /// # Errors
    /// A leaf value is no number.
    pub(super) fn new(nodes: Vec<TreeNode>, gains: Vec<f32>, covers: Vec<f32>) -> Result<Self, TaskError> {
        match nodes.iter().find(|node| !node.value.is_finite()) {
            Some(node) => Err(TaskError::new(ErrorCode::Diverged, format!("a leaf value is {}", node.value))),
            None => Ok(Self { nodes, gains, covers, written: OnceLock::new() }),
        }
    }

    /// Memory that it takes, in bytes, its text included.
    fn memory_bytes(&self) -> u64 {
        // A node takes 32 bytes and about 90 of text.
        self.nodes.len() as u64 * 122
    }
}

/// A leaf.
pub(super) fn leaf(value: f32) -> TreeNode {
    TreeNode { feature: 0, threshold: 0.0, default: Side::Right, left: 0, right: 0, value }
}

/// All trees of a model.
#[derive(Debug, Clone)]
pub(super) struct Ensemble {
    /// What each output is before the first tree.
    pub(super) bases: Vec<f32>,
    /// By round, then by output.
    pub(super) trees: Vec<Arc<Tree>>,
}

impl Ensemble {
    /// Rounds so far.
    pub(super) fn rounds(&self) -> u32 {
        (self.trees.len() / self.bases.len().max(1)) as u32
    }

    /// The sum of base and trees for each row of `features`, shape [rows, `width`]: one vector an output. The same
    /// bits as adding tree after tree.
    pub(super) fn scores(&self, features: &[f32], width: usize) -> Vec<Vec<f32>> {
        let rows = features.len() / width.max(1);
        let outputs = self.bases.len();
        let score = |(output, base): (usize, &f32)| {
            let mut scores = vec![*base; rows];
            scores.par_chunks_mut(BLOCK_ROWS).zip(features.par_chunks(BLOCK_ROWS * width)).for_each(
                |(scores, features)| {
                    for tree in self.trees.iter().skip(output).step_by(outputs) {
                        kernels::add_tree(&tree.nodes, features, width, scores);
                    }
                },
            );
            scores
        };
        self.bases.iter().enumerate().map(score).collect()
    }

    /// Memory that it takes, in bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.trees.iter().map(|tree| tree.memory_bytes()).sum()
    }
}

/// Adds what a round's `trees` say of each row of `features` to its scores.
pub(super) fn add_round(trees: &[Tree], features: &[f32], width: usize, scores: &mut [Vec<f32>]) {
    for (tree, scores) in trees.iter().zip(scores) {
        scores
            .par_chunks_mut(BLOCK_ROWS)
            .zip(features.par_chunks(BLOCK_ROWS * width))
            .for_each(|(scores, features)| kernels::add_tree(&tree.nodes, features, width, scores));
    }
}
