//! Early stopping: the best model of the epochs so far, and how long no better one has come.

use serde::{Deserialize, Serialize};

use crate::domain::Metrics;

/// The best model so far, judged at the end of each epoch by the loss on all held-out rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Best {
    /// Its parameters.
    pub(super) parameters: Vec<f32>,
    /// When and how good.
    pub(super) mark: Mark,
}

/// When the best model was seen, and how good it was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Epoch at whose end it was seen.
    pub(super) epoch: u32,
    /// Bits of its validation loss.
    validation_loss: u64,
    /// Bits of loss and accuracy on the last slice of that epoch.
    train: [u64; 2],
}

impl Mark {
    pub(super) fn new(epoch: u32, validation_loss: f64, train: Metrics) -> Self {
        Self {
            epoch,
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

/// What the epochs so far say.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Stopping {
    /// The best model, once an epoch has ended.
    pub(super) best: Option<Best>,
    /// Epochs that ended since without a better one.
    pub(super) waited: u32,
    /// Whether training is over.
    pub(super) stopped: bool,
}

impl Stopping {
    /// Takes note of the end of an epoch; `parameters` is asked for those of the model where it is the best.
    pub(super) fn see(&mut self, mark: Mark, patience: u32, parameters: impl FnOnce() -> Vec<f32>) {
        let loss = mark.validation_loss();
        if self.best.as_ref().is_none_or(|best| loss < best.mark.validation_loss()) {
            self.best = Some(Best { parameters: parameters(), mark });
            self.waited = 0;
        } else {
            self.waited += 1;
            self.stopped = self.waited >= patience;
        }
    }

    /// What to say once training is over.
    pub(super) fn note(&self) -> Option<String> {
        let best = self.best.as_ref().filter(|_| self.stopped)?;
        Some(format!(
            "training stopped early: {} epochs without a better validation loss; the model is that of the end of \
             epoch {} (validation loss {:.6})",
            self.waited,
            best.mark.epoch,
            best.mark.validation_loss()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_from_the_best_epoch_on() {
        let mut stopping = Stopping::default();
        let train = Metrics { loss: 1.0, accuracy: 0.5 };
        for (epoch, loss) in [1.0, 0.5, 0.6, 0.5, 0.4, 0.4, 0.9].into_iter().enumerate() {
            assert!(!stopping.stopped);
            stopping.see(Mark::new(epoch as u32, loss, train), 3, || vec![epoch as f32]);
        }
        assert_eq!((stopping.waited, stopping.note()), (2, None));
        stopping.see(Mark::new(7, 0.41, train), 3, || vec![7.0]);
        assert!(stopping.stopped);
        assert_eq!(stopping.best.as_ref().unwrap().parameters, [4.0]);
        assert!(stopping.note().unwrap().contains("end of epoch 4 (validation loss 0.400000)"));
    }
}
