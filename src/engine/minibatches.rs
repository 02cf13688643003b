//! Training by minibatches: which rows a minibatch has, and the loop that all such models share.
//!
//! An epoch is a permutation of the training rows seeded by (job, epoch). Minibatch i is rows
//! [i b, (i + 1) b) of it, i modulo the number of minibatches; the last one of an epoch may be shorter.

use std::time::Instant;

use rand::seq::SliceRandom;

use super::seeds::{self, Purpose};
use super::trainer::{Slice, Trained};
use super::{Control, Step};
use crate::data::TargetKind;
use crate::domain::{ErrorCode, Metrics, Progress, TaskError};

/// Sums over rows that went through a model.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Sums {
    /// Sum of the losses.
    pub(super) loss: f64,
    /// Correct rows, or for regression the sum of squared errors of the standardised target.
    pub(super) quality: f64,
    /// Rows.
    pub(super) rows: u64,
}

impl Sums {
    /// Adds `other`.
    pub(super) fn add(&mut self, other: Self) {
        self.loss += other.loss;
        self.quality += other.quality;
        self.rows += other.rows;
    }

    /// Means. Accuracy is the share of correct rows; for regression the root mean squared error in units of the
    /// target, while the loss stays that of the standardised target.
    pub(super) fn metrics(&self, target: &TargetKind) -> Metrics {
        let rows = self.rows.max(1) as f64;
        let accuracy = match target {
            TargetKind::Classes { .. } => self.quality / rows,
            TargetKind::Value { std, .. } => (self.quality / rows).sqrt() * std,
        };
        Metrics { loss: self.loss / rows, accuracy }
    }
}

/// Where minibatches come from.
#[derive(Debug)]
pub(super) struct Minibatches {
    seed: u64,
    rows: usize,
    size: usize,
    order: Vec<u32>,
    epoch: Option<u32>,
}

impl Minibatches {
    /// Minibatches of `size` of `rows` training rows, both at least 1.
    pub(super) fn new(seed: u64, rows: usize, size: usize) -> Self {
        Self { seed, rows, size, order: Vec::new(), epoch: None }
    }

    /// Minibatches in an epoch, at least 1.
    pub(super) fn per_epoch(&self) -> u32 {
        u32::try_from(self.rows.div_ceil(self.size).max(1)).unwrap_or(u32::MAX)
    }

    /// Positions of the training rows of one minibatch.
    pub(super) fn rows_of(&mut self, epoch: u32, index: u32) -> &[u32] {
        if self.epoch != Some(epoch) {
            self.order = permutation(self.seed, Purpose::Order, epoch, self.rows);
            self.epoch = Some(epoch);
        }
        let start = (index % self.per_epoch()) as usize * self.size;
        let end = (start + self.size).min(self.order.len());
        self.order.get(start..end).unwrap_or_default()
    }
}

/// The numbers 0 to `rows` - 1 in an order that follows from the rest.
pub(super) fn permutation(seed: u64, purpose: Purpose, index: u32, rows: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..u32::try_from(rows).unwrap_or(u32::MAX)).collect();
    order.shuffle(&mut seeds::stream(seed, purpose, index, 0));
    order
}

/// One minibatch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Minibatch<'a> {
    /// Its number in the epoch, as the slice has it.
    pub(super) index: u32,
    /// Positions of its training rows.
    pub(super) rows: &'a [u32],
}

/// How a run of minibatches is told of and judged.
pub(super) struct Report<'a> {
    /// Hears of every step and may ask to stop.
    pub(super) control: &'a Control,
    /// Turns sums into metrics.
    pub(super) target: &'a TargetKind,
    /// For the message when the loss is no number.
    pub(super) learning_rate: f64,
}

/// Makes a step for each minibatch of `slice`: `step` trains on the one it gets.
///
/// # Errors
/// The reason to stop; `Diverged` when a loss is NaN or infinite.
pub(super) fn run(
    slice: &Slice,
    minibatches: &mut Minibatches,
    report: &Report<'_>,
    mut step: impl FnMut(Minibatch<'_>) -> Sums,
) -> Result<Trained, TaskError> {
    let began = Instant::now();
    let mut total = Sums::default();
    let mut steps = 0;
    for index in slice.batches.clone() {
        report.control.check()?;
        let step_began = Instant::now();
        let sums = step(Minibatch { index, rows: minibatches.rows_of(slice.epoch, index) });
        steps += 1;
        if !sums.loss.is_finite() {
            let place = format!("step {steps} (epoch {}, minibatch {index})", slice.epoch);
            let what = format!("loss is {}", no_number(sums.loss));
            return Err(diverged(&what, &place, &remedy(report.learning_rate)));
        }
        total.add(sums);
        let metrics = total.metrics(report.target);
        let seconds = began.elapsed().as_secs_f64();
        let progress = Progress {
            step: steps,
            total_steps: u64::from(slice.batches.end - slice.batches.start),
            loss: metrics.loss,
            accuracy: metrics.accuracy,
            samples_per_second: if seconds > 0.0 { total.rows as f64 / seconds } else { 0.0 },
            simulated: false,
        };
        report.control.stepped(progress, Step { duration: step_began.elapsed(), samples: sums.rows });
    }
    Ok(Trained { metrics: total.metrics(report.target), samples: total.rows, steps })
}

/// The error for figures that are no numbers any more; `what` says which, `place` where, `remedy` what may help.
pub(super) fn diverged(what: &str, place: &str, remedy: &str) -> TaskError {
    TaskError::new(ErrorCode::Diverged, format!("{what} at {place}; {remedy}"))
}

/// What helps where steps were too large.
pub(super) fn remedy(learning_rate: f64) -> String {
    format!("learning_rate was {learning_rate}; try a smaller one")
}

/// What a value is that is not finite.
pub(super) fn no_number(value: f64) -> &'static str {
    if value.is_nan() { "NaN" } else { "infinite" }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Recorder;
    use super::*;

    #[test]
    fn an_epoch_has_every_row_once_in_an_order_of_its_own() {
        let mut minibatches = Minibatches::new(1, 100, 32);
        assert_eq!(minibatches.per_epoch(), 4);
        let epoch = |minibatches: &mut Minibatches, epoch| -> Vec<u32> {
            (0..4).flat_map(|index| minibatches.rows_of(epoch, index).to_vec()).collect()
        };
        let (first, second) = (epoch(&mut minibatches, 0), epoch(&mut minibatches, 1));
        assert_ne!(first, second);
        for mut order in [first.clone(), second] {
            order.sort_unstable();
            assert_eq!(order, (0..100).collect::<Vec<_>>());
        }
        assert_eq!(epoch(&mut minibatches, 0), first);
        assert_eq!(minibatches.rows_of(0, 3).len(), 4);
        assert_ne!(epoch(&mut Minibatches::new(2, 100, 32), 0), first);
    }

    #[test]
    fn a_range_beyond_the_data_wraps_within_the_same_permutation() {
        let mut minibatches = Minibatches::new(1, 100, 32);
        let first = minibatches.rows_of(7, 1).to_vec();
        assert_eq!(minibatches.rows_of(7, 1 + 4 * 250), first);
        assert_eq!(Minibatches::new(1, 3, 65_536).rows_of(0, 999).len(), 3);
    }

    #[test]
    fn a_loss_that_is_no_number_names_step_epoch_minibatch_and_rate() {
        let control = Control::new(Recorder::default());
        let target = TargetKind::Classes { labels: vec!["a".to_owned()] };
        let report = Report { control: &control, target: &target, learning_rate: 5.0 };
        let slice = Slice { epoch: 4, batches: 100..200 };
        let mut left = 3;
        let error = run(&slice, &mut Minibatches::new(1, 10, 2), &report, |_| {
            left -= 1;
            Sums { loss: if left == 0 { f64::NAN } else { 1.0 }, quality: 1.0, rows: 2 }
        })
        .unwrap_err();
        assert_eq!(error.code, ErrorCode::Diverged);
        assert_eq!(
            error.message,
            "loss is NaN at step 3 (epoch 4, minibatch 102); learning_rate was 5; try a smaller one"
        );
        assert_eq!(control.progress().step, 2);
    }
}
