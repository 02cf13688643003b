//! All that the next slice depends on, as bytes: trees and bases, bit for bit, and early stopping as JSON. Scores follow
//! from the trees.

use std::sync::Arc;

use tensorfleet_kernels::trees::{Side, TreeNode};

use super::ensemble::{Ensemble, Tree};
use crate::domain::{ErrorCode, InvalidField, TaskError};
use crate::engine::stopping::Stopping;

/// Begins each state; the last byte is the version.
const MAGIC: &[u8; 8] = b"TFTREES\x02";

/// Bytes of a node.
const NODE_BYTES: usize = 29;

/// `ensemble` and `stopping` as bytes.
///
/// # Errors
/// Defects of ours alone.
pub(super) fn write(ensemble: &Ensemble, stopping: &Stopping<()>) -> Result<Vec<u8>, TaskError> {
    let nodes: usize = ensemble.trees.iter().map(|tree| tree.nodes.len()).sum();
    let mut out =
        Vec::with_capacity(16 + 4 * (ensemble.bases.len() + ensemble.trees.len()) + NODE_BYTES * nodes);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&(ensemble.bases.len() as u32).to_le_bytes());
    for base in &ensemble.bases {
        out.extend_from_slice(&base.to_le_bytes());
    }
    out.extend_from_slice(&(ensemble.trees.len() as u32).to_le_bytes());
    for tree in &ensemble.trees {
        out.extend_from_slice(&(tree.nodes.len() as u32).to_le_bytes());
        for ((node, gain), cover) in tree.nodes.iter().zip(&tree.gains).zip(&tree.covers) {
            out.extend_from_slice(&node.feature.to_le_bytes());
            out.extend_from_slice(&node.threshold.to_le_bytes());
            out.push(u8::from(node.default == Side::Left));
            out.extend_from_slice(&node.left.to_le_bytes());
            out.extend_from_slice(&node.right.to_le_bytes());
            for value in [node.value, *gain, *cover] {
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
    }
    serde_json::to_writer(&mut out, stopping)
        .map_err(|error| TaskError::new(ErrorCode::Internal, error.to_string()))?;
    Ok(out)
}

/// What [`write()`] wrote, for `outputs` outputs and `width` features.
///
/// # Errors
/// `InvalidArgument` where it is none, or not one of this shape.
pub(super) fn read(
    bytes: &[u8],
    outputs: usize,
    width: usize,
) -> Result<(Ensemble, Stopping<()>), TaskError> {
    let wrong = || -> TaskError {
        let allowed = format!("the state of a model of {outputs} outputs and {width} features");
        InvalidField::new("state", format!("{} bytes", bytes.len()), allowed).into()
    };
    let mut reader = Reader(bytes);
    if reader.take::<8>() != Some(*MAGIC) || reader.number() != Some(outputs as u32) {
        return Err(wrong());
    }
    let bases = (0..outputs).map(|_| reader.float()).collect::<Option<Vec<f32>>>().ok_or_else(wrong)?;
    let count = reader.number().ok_or_else(wrong)? as usize;
    if !count.is_multiple_of(outputs.max(1)) {
        return Err(wrong());
    }
    let mut trees = Vec::new();
    for _ in 0..count {
        trees.push(Arc::new(reader.tree(width).ok_or_else(wrong)?));
    }
    let ensemble = Ensemble { bases, trees };
    let stopping: Stopping<()> = serde_json::from_slice(reader.0).map_err(|_| wrong())?;
    if stopping.best.as_ref().is_some_and(|best| best.mark.turn > ensemble.rounds()) {
        return Err(wrong());
    }
    Ok((ensemble, stopping))
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn number(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn float(&mut self) -> Option<f32> {
        self.take().map(f32::from_le_bytes).filter(|value| value.is_finite())
    }

    fn tree(&mut self, width: usize) -> Option<Tree> {
        let count = self.number()? as usize;
        // Before memory is taken for them.
        if count == 0 || self.0.len() < count.checked_mul(NODE_BYTES)? {
            return None;
        }
        let (mut nodes, mut gains, mut covers) = (Vec::new(), Vec::new(), Vec::new());
        for at in 0..count {
            let feature = self.number()?;
            let threshold = self.float()?;
            let default = if self.take::<1>()? == [1] { Side::Left } else { Side::Right };
            let (left, right) = (self.number()?, self.number()?);
            let below = |child: u32| child as usize > at && (child as usize) < count;
            let is_leaf = left == 0 && right == 0;
            let splits = below(left) && below(right) && (feature as usize) < width;
            if !(is_leaf || splits) {
                return None;
            }
            nodes.push(TreeNode { feature, threshold, default, left, right, value: self.float()? });
            gains.push(self.float()?);
            covers.push(self.float()?);
        }
        Tree::new(nodes, gains, covers).ok()
    }
}
