//! How the learning rate changes in the course of a job.

use std::f64::consts::PI;

/// A rule for the step size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Course {
    /// The same throughout.
    Constant,
    /// Half a cosine from the learning rate to 0 over the epochs of the job (Loshchilov and Hutter, 2017); the same
    /// throughout while those are not known.
    Cosine,
    /// Times `factor` after every `epochs` epochs.
    Steps {
        /// Epochs between two changes, at least 1.
        epochs: u32,
        /// What the rate is multiplied by.
        factor: f64,
    },
    /// As `Cosine`; while the epochs of the job are not known, the inverse square root of the steps (Robbins and
    /// Monro, 1951): what is convex settles then whenever it is stopped.
    Settling,
}

/// Steps after which a settling rate has gone down to 1 / sqrt(2) of what it was.
const SETTLING_STEPS: f64 = 20.0;

/// Where in a job a step is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    /// Epoch, with its fraction.
    pub(super) epochs: f64,
    /// Epochs of the whole job, where they are known.
    pub(super) total_epochs: Option<u32>,
    /// Steps before this one.
    pub(super) steps: u64,
}

impl Course {
    /// What the learning rate is multiplied by at `place`.
    pub(super) fn factor(self, place: Place) -> f64 {
        let cosine = |total: u32| 0.5 * (1.0 + (PI * (place.epochs / f64::from(total)).min(1.0)).cos());
        match (self, place.total_epochs) {
            (Self::Constant, _) | (Self::Cosine, None) => 1.0,
            (Self::Cosine | Self::Settling, Some(total)) => cosine(total),
            (Self::Settling, None) => 1.0 / (1.0 + place.steps as f64 / SETTLING_STEPS).sqrt(),
            (Self::Steps { epochs, factor }, _) => {
                factor.powf((place.epochs / f64::from(epochs.max(1))).floor())
            }
        }
    }

    /// What has to be said where the epochs of the job are not known.
    pub(super) fn lacks_total(self) -> Option<&'static str> {
        (self == Self::Cosine).then_some(
            "lr_schedule=cosine needs to know how many epochs the job has, which the orchestrator did not tell: the \
             learning rate stays as it is; hyperparameter total_epochs tells it too",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_their_curves() {
        let at = |epochs, total_epochs, steps| Place { epochs, total_epochs, steps };
        let near = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got} {want}");
        near(Course::Constant.factor(at(7.0, Some(10), 5)), 1.0);
        near(Course::Cosine.factor(at(0.0, Some(10), 0)), 1.0);
        near(Course::Cosine.factor(at(5.0, Some(10), 0)), 0.5);
        near(Course::Cosine.factor(at(2.5, Some(10), 0)), 0.5 + 0.5 * 0.5_f64.sqrt());
        near(Course::Cosine.factor(at(12.0, Some(10), 0)), 0.0);
        near(Course::Cosine.factor(at(5.0, None, 0)), 1.0);
        let steps = Course::Steps { epochs: 2, factor: 0.1 };
        for (epochs, want) in [(0.0, 1.0), (1.9, 1.0), (2.0, 0.1), (4.5, 0.01)] {
            near(steps.factor(at(epochs, None, 0)), want);
        }
        near(Course::Settling.factor(at(5.0, Some(10), 60)), 0.5);
        near(Course::Settling.factor(at(5.0, None, 60)), 0.5);
        assert!(Course::Cosine.lacks_total().is_some() && Course::Settling.lacks_total().is_none());
    }
}
