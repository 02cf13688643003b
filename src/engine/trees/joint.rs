//! A forest's tree as it was grown, with a value an output in each leaf: rows go through it once for all outputs. The
//! model keeps one tree an output instead, as its file does.

use rayon::prelude::*;
use tensorfleet_kernels::trees::{self as kernels, TreeNode};

use super::ensemble::{BLOCK_ROWS, Tree, leaf};
use crate::domain::TaskError;

/// The trees of a round, one an output.
#[derive(Debug)]
pub(super) struct Grown {
    pub(super) trees: Vec<Tree>,
    /// What they were grown as, where that was one tree for all outputs.
    pub(super) joint: Option<Joint>,
}

/// A tree whose nodes have a value an output.
#[derive(Debug, Default)]
pub(super) struct Joint {
    /// The root first, children after their parents.
    pub(super) nodes: Vec<TreeNode>,
    /// What the split of each node gained; 0 for leaves.
    pub(super) gains: Vec<f32>,
    /// Number of rows of each node.
    pub(super) covers: Vec<f32>,
    /// What each node says, shape [nodes, outputs].
    pub(super) values: Vec<f32>,
}

impl Joint {
    /// Adds what the tree says of each row of `features`, shape [rows, `width`], to its scores, a vector an output: the
    /// same bits as the trees of [`Self::by_output`], added each to its own.
    pub(super) fn add(&self, features: &[f32], width: usize, scores: &mut [Vec<f32>]) {
        let outputs = scores.len();
        let mut leaves = vec![0; features.len() / width.max(1)];
        leaves
            .par_chunks_mut(BLOCK_ROWS)
            .zip(features.par_chunks(BLOCK_ROWS * width.max(1)))
            .for_each(|(leaves, features)| kernels::find_leaves(&self.nodes, features, width, leaves));
        for (output, scores) in scores.iter_mut().enumerate() {
            for (score, leaf) in scores.iter_mut().zip(&leaves) {
                *score += self.values.get(*leaf as usize * outputs + output).copied().unwrap_or(f32::NAN);
            }
        }
    }

    /// One tree an output. Where all leaves below a node say the same of an output, its tree ends there.
    pub(super) fn by_output(&self, outputs: usize) -> Result<Vec<Tree>, TaskError> {
        (0..outputs).map(|output| self.tree(output, outputs)).collect()
    }

    fn tree(&self, output: usize, outputs: usize) -> Result<Tree, TaskError> {
        let value = |node: usize| self.values.get(node * outputs + output).copied().unwrap_or(f32::NAN);
        // Children come after their parents, so that going backwards each is settled before it is looked at.
        let mut constant = vec![false; self.nodes.len()];
        let mut said: Vec<f32> = (0..self.nodes.len()).map(value).collect();
        for (at, node) in self.nodes.iter().enumerate().rev() {
            let (left, right) = (node.left as usize, node.right as usize);
            let alike = node.is_leaf()
                || (constant.get(left) == Some(&true)
                    && constant.get(right) == Some(&true)
                    && said.get(left).map(|value| value.to_bits())
                        == said.get(right).map(|value| value.to_bits()));
            if alike {
                let below =
                    if node.is_leaf() { value(at) } else { said.get(left).copied().unwrap_or(f32::NAN) };
                if let (Some(constant), Some(said)) = (constant.get_mut(at), said.get_mut(at)) {
                    *constant = true;
                    *said = below;
                }
            }
        }
        let mut tree = Joint::default();
        let place = |tree: &mut Joint, from: usize| {
            let constant = constant.get(from) == Some(&true);
            let (node, gain, cover) = (self.nodes.get(from), self.gains.get(from), self.covers.get(from));
            let said = said.get(from).copied().unwrap_or(f32::NAN);
            tree.nodes.push(match node {
                Some(node) if !constant => TreeNode { value: said, ..*node },
                _ => leaf(said),
            });
            tree.gains.push(gain.copied().filter(|_| !constant).unwrap_or(0.0));
            tree.covers.push(cover.copied().unwrap_or(0.0));
            tree.nodes.len() - 1
        };
        let mut open = vec![place(&mut tree, 0)];
        while let Some(at) = open.pop() {
            let Some(TreeNode { left, right, .. }) =
                tree.nodes.get(at).copied().filter(|node| !node.is_leaf())
            else {
                continue;
            };
            // Side by side, as XGBoost expects them.
            let children = [left, right].map(|from| place(&mut tree, from as usize));
            if let Some(node) = tree.nodes.get_mut(at) {
                [node.left, node.right] = children.map(|child| child as u32);
            }
            open.extend([children[1], children[0]]);
        }
        let Self { nodes, gains, covers, .. } = tree;
        Tree::new(nodes, gains, covers)
    }
}
