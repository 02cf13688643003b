//! What the sums over trees mean, and how good they are.

use rayon::prelude::*;
use tensorfleet_kernels::{self as numbers, trees as kernels};

use super::ensemble::BLOCK_ROWS;
use crate::data::{TargetKind, Targets};
use crate::engine::minibatches::Sums;

/// What a model's outputs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// One: the log odds of class 1.
    LogOdds,
    /// One a class: logits.
    Logits {
        /// Number of classes.
        classes: usize,
    },
    /// One: the standardised value.
    Value,
    /// One a class, or that of class 1 where there are two: sums over trees of their share of rows.
    Shares {
        /// Number of classes.
        classes: usize,
    },
    /// One: the sum over trees of their standardised value.
    MeanValue,
}

impl Output {
    /// Of boosting.
    pub(super) fn boosted(target: &TargetKind) -> Self {
        match target {
            TargetKind::Classes { labels } if labels.len() == 2 => Self::LogOdds,
            TargetKind::Classes { labels } => Self::Logits { classes: labels.len() },
            TargetKind::Value { .. } => Self::Value,
        }
    }

    /// Of a forest.
    pub(super) fn averaged(target: &TargetKind) -> Self {
        match target {
            TargetKind::Classes { labels } => Self::Shares { classes: labels.len() },
            TargetKind::Value { .. } => Self::MeanValue,
        }
    }

    /// How many there are.
    pub(super) fn count(self) -> usize {
        match self {
            Self::LogOdds | Self::Value | Self::MeanValue => 1,
            Self::Logits { classes } => classes,
            Self::Shares { classes } => {
                if classes == 2 {
                    1
                } else {
                    classes
                }
            }
        }
    }

    /// Sums over the rows at `rows` of what `scores`, a vector an output, of a model of `trees` trees cost.
    pub(super) fn sums(self, scores: &[Vec<f32>], trees: u32, targets: &Targets, rows: &[u32]) -> Sums {
        let picked: Vec<Vec<f32>> = scores
            .iter()
            .map(|scores| {
                let mut picked = Vec::new();
                kernels::pick(scores, rows, &mut picked);
                picked
            })
            .collect();
        let slices: Vec<&[f32]> = picked.iter().map(Vec::as_slice).collect();
        match targets {
            Targets::Classes(ids) => {
                let mut targets = Vec::new();
                kernels::pick(ids, rows, &mut targets);
                self.of_classes(&slices, trees, &targets)
            }
            Targets::Values(values) => {
                let mut targets = Vec::new();
                kernels::pick(values, rows, &mut targets);
                self.of_values(&slices, trees, &targets)
            }
        }
    }

    /// As [`Self::sums`], over all rows, on all threads; the same bits whatever their number.
    pub(super) fn sums_of_all(self, scores: &[Vec<f32>], trees: u32, targets: &Targets) -> Sums {
        let rows = targets.len();
        let starts: Vec<usize> = (0..rows).step_by(BLOCK_ROWS).collect();
        let blocks: Vec<Sums> = starts
            .into_par_iter()
            .map(|start| {
                let range = start..(start + BLOCK_ROWS).min(rows);
                let slices: Vec<&[f32]> = scores.iter().filter_map(|s| s.get(range.clone())).collect();
                match targets {
                    Targets::Classes(ids) => {
                        self.of_classes(&slices, trees, ids.get(range).unwrap_or_default())
                    }
                    Targets::Values(all) => {
                        self.of_values(&slices, trees, all.get(range).unwrap_or_default())
                    }
                }
            })
            .collect();
        let mut total = Sums::default();
        for sums in blocks {
            total.add(sums);
        }
        total
    }

    fn of_classes(self, scores: &[&[f32]], trees: u32, targets: &[u32]) -> Sums {
        let sums = match (self, scores) {
            (Self::LogOdds, [scores]) => kernels::logistic_loss(scores, targets),
            (Self::Logits { .. }, scores) => {
                kernels::softmax_loss(scores, targets, &mut vec![0.0; targets.len()])
            }
            (Self::Shares { classes }, scores) => {
                let shares = shares(scores, trees, classes, targets.len());
                kernels::share_loss(&shares, classes, targets)
            }
            _ => numbers::ClassificationSums { loss: f64::NAN, correct: 0 },
        };
        Sums { loss: sums.loss, quality: sums.correct as f64, rows: targets.len() as u64 }
    }

    fn of_values(self, scores: &[&[f32]], trees: u32, targets: &[f32]) -> Sums {
        let values = scores.first().map(|scores| self.values(scores, trees)).unwrap_or_default();
        let loss =
            if values.len() == targets.len() { numbers::squared_error(&values, targets) } else { f64::NAN };
        Sums { loss, quality: loss, rows: targets.len() as u64 }
    }

    /// What the model says of each row: probabilities of shape [rows, classes], or standardised values.
    pub(super) fn predictions(self, scores: &[Vec<f32>], trees: u32) -> Vec<f32> {
        let slices: Vec<&[f32]> = scores.iter().map(Vec::as_slice).collect();
        let rows = slices.first().map_or(0, |scores| scores.len());
        match (self, slices.as_slice()) {
            (Self::Value | Self::MeanValue, [scores]) => self.values(scores, trees),
            (Self::LogOdds, [scores]) => {
                let share = |score: &f32| 1.0 / (1.0 + (-score).exp());
                scores.iter().map(share).flat_map(|share| [1.0 - share, share]).collect()
            }
            (Self::Shares { classes }, scores) => shares(scores, trees, classes, rows),
            (_, scores) => {
                let mut logits = vec![0.0; rows * scores.len()];
                kernels::shares_of(scores, 1.0, &mut logits);
                numbers::softmax(&mut logits, scores.len().max(1));
                logits
            }
        }
    }

    fn values(self, scores: &[f32], trees: u32) -> Vec<f32> {
        let count = if self == Self::MeanValue { trees.max(1) as f32 } else { 1.0 };
        scores.iter().map(|score| score / count).collect()
    }
}

/// Probabilities of shape [rows, classes]; equal ones where there is no tree yet.
fn shares(scores: &[&[f32]], trees: u32, classes: usize, rows: usize) -> Vec<f32> {
    if trees == 0 {
        return vec![1.0 / classes.max(1) as f32; rows * classes];
    }
    let mut shares = vec![0.0; rows * classes];
    kernels::shares_of(scores, trees as f32, &mut shares);
    shares
}
