//! Early stopping: the best model so far, and how long no better one has come.

use serde::{Deserialize, Serialize};

use crate::domain::{Hyperparameters, Metrics, Stopping as Asked};

/// When training ends early.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limit {
    /// Turns without a better model after which it does.
    patience: u32,
    /// By how much a better one has to be better.
    min_delta: f64,
    /// What a turn is: an epoch or a round.
    turn: &'static str,
}

/// What is said where early stopping was asked for and nothing tells which model is better.
pub(super) const BLIND: &str = "early_stopping has no effect while no row is held out (validation_split=0)";

impl Limit {
    /// What was asked for, with a patience of `usual` turns where none was given; `None` for no early stopping.
    pub(super) fn of(hyperparameters: &Hyperparameters, usual: u32, turn: &'static str) -> Option<Self> {
        let Hyperparameters { stopping, patience, min_delta, .. } = *hyperparameters;
        (stopping == Asked::Early).then(|| Self { patience: patience.unwrap_or(usual), min_delta, turn })
    }
}

/// The best model so far, judged at the end of each turn by the loss on all held-out rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Best<M> {
    /// What is kept of it.
    pub(super) model: M,
    /// When and how good.
    pub(super) mark: Mark,
}

/// When the best model was seen, and how good it was. Bits, so that files give back what they were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Epoch or round at whose end it was seen.
    pub(super) turn: u32,
    /// Bits of its validation loss.
    validation_loss: u64,
    /// Bits of loss and accuracy on what it was trained on last.
    train: [u64; 2],
}

impl Mark {
    pub(super) fn new(turn: u32, validation_loss: f64, train: Metrics) -> Self {
        Self {
            turn,
            validation_loss: validation_loss.to_bits(),
            train: [train.loss.to_bits(), train.accuracy.to_bits()],
        }
    }

    pub(super) fn validation_loss(&self) -> f64 {
        f64::from_bits(self.validation_loss)
    }

    pub(super) fn train(&self) -> Metrics {
        let [loss, accuracy] = self.train.map(f64::from_bits);
        Metrics { loss, accuracy }
    }
}

/// What the turns so far say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Stopping<M> {
    /// The best model, once a turn has ended.
    pub(super) best: Option<Best<M>>,
    /// Turns that ended since without a better one.
    pub(super) waited: u32,
    /// Whether training is over.
    pub(super) stopped: bool,
}

impl<M> Default for Stopping<M> {
    fn default() -> Self {
        Self { best: None, waited: 0, stopped: false }
    }
}

impl<M> Stopping<M> {
    /// Takes note of the end of a turn; `model` is asked for what is kept of it where it is the best.
    pub(super) fn see(&mut self, mark: Mark, limit: &Limit, model: impl FnOnce() -> M) {
        let better = |best: &Best<M>| mark.validation_loss() < best.mark.validation_loss() - limit.min_delta;
        if self.best.as_ref().is_none_or(better) {
            self.best = Some(Best { model: model(), mark });
            self.waited = 0;
        } else {
            self.waited += 1;
            self.stopped = self.waited >= limit.patience;
        }
    }

    /// The best model, where training is over or would be now, and a better one than the last.
    pub(super) fn return_to(&self, is_last: bool) -> Option<&Best<M>> {
        self.best.as_ref().filter(|_| self.waited > 0 && (self.stopped || is_last))
    }

    /// What to say of the best model once it is the model.
    pub(super) fn note(&self, limit: &Limit) -> Option<String> {
        let mark = self.best.as_ref()?.mark;
        let Limit { turn, .. } = limit;
        let (at, loss) = (mark.turn, mark.validation_loss());
        let is = format!("the model is that of the end of {turn} {at} (validation loss {loss:.6})");
        Some(if self.stopped {
            format!("training stopped early: {} {turn}s without a better validation loss; {is}", self.waited)
        } else {
            format!("early_stopping: {is}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAIN: Metrics = Metrics { loss: 1.0, accuracy: 0.5 };

    fn limit(patience: u32, min_delta: f64) -> Limit {
        let h = Hyperparameters {
            stopping: Asked::Early,
            patience: Some(patience),
            min_delta,
            ..Hyperparameters::default()
        };
        Limit::of(&h, 5, "epoch").unwrap()
    }

    #[test]
    fn patience_counts_from_the_best_epoch_on() {
        let mut stopping = Stopping::default();
        let limit = limit(3, 0.0);
        for (epoch, loss) in [1.0, 0.5, 0.6, 0.5, 0.4, 0.4, 0.9].into_iter().enumerate() {
            assert!(!stopping.stopped);
            stopping.see(Mark::new(epoch as u32, loss, TRAIN), &limit, || vec![epoch as f32]);
        }
        assert_eq!((stopping.waited, stopping.return_to(false)), (2, None));
        assert_eq!(stopping.return_to(true).unwrap().model, [4.0]);
        assert!(stopping.note(&limit).unwrap().starts_with("early_stopping: the model is that of the end"));
        stopping.see(Mark::new(7, 0.41, TRAIN), &limit, || vec![7.0]);
        assert!(stopping.stopped);
        assert_eq!(stopping.return_to(false).unwrap().model, [4.0]);
        let note = stopping.note(&limit).unwrap();
        assert!(note.contains("end of epoch 4 (validation loss 0.400000)"), "{note}");
    }

    #[test]
    fn a_little_better_is_no_improvement_where_more_is_asked_for() {
        let mut stopping = Stopping::default();
        for (epoch, loss) in [1.0, 0.95, 0.91].into_iter().enumerate() {
            stopping.see(Mark::new(epoch as u32, loss, TRAIN), &limit(2, 0.1), || epoch);
        }
        assert!(stopping.stopped);
        assert_eq!(stopping.best.unwrap().model, 0);
    }

    #[test]
    fn early_stopping_has_to_be_asked_for() {
        assert_eq!(Limit::of(&Hyperparameters::default(), 5, "epoch"), None);
    }
}
