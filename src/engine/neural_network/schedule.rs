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
    Settling(Beginning),
}

/// Where a settling rate begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning {
    /// At the learning rate, which was given.
    Given,
    /// In inverse proportion to the square root of the number of steps there will be, where that is known: a short
    /// job has to hurry, a long one can afford to be exact.
    BySteps,
    /// As `BySteps`, lower while RMSprop's mean squares, which start at 0, are of few gradients yet: as Adam makes up
    /// for it.
    Warming,
}

/// Decay rate of RMSprop's mean squares.
const KEPT: f64 = 0.99;

/// Steps after which a settling rate has gone down to 1 / sqrt(2) of what it was.
const SETTLING_STEPS: f64 = 20.0;

/// Number of steps for which a rate that follows it begins at the learning rate.
const USUAL_STEPS: f64 = 400.0;

/// Most that such a rate begins at, in learning rates.
const MOST_AT_FIRST: f64 = 3.0;

/// Where in a job a step is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    /// Epoch, with its fraction.
    pub(super) epochs: f64,
    /// Epochs of the whole job, where they are known.
    pub(super) total_epochs: Option<u32>,
    /// Steps of an epoch.
    pub(super) steps_per_epoch: u32,
    /// Steps before this one.
    pub(super) steps: u64,
}

impl Course {
    /// What the learning rate is multiplied by at `place`.
    pub(super) fn factor(self, place: Place) -> f64 {
        let warm = match self {
            Self::Settling(Beginning::Warming) => (1.0 - KEPT.powf(place.steps as f64 + 1.0)).sqrt(),
            _ => 1.0,
        };
        warm * self.curve(place)
    }

    fn curve(self, place: Place) -> f64 {
        let cosine = |total: u32| 0.5 * (1.0 + (PI * (place.epochs / f64::from(total)).min(1.0)).cos());
        match (self, place.total_epochs) {
            (Self::Constant, _) | (Self::Cosine, None) => 1.0,
            (Self::Cosine | Self::Settling(Beginning::Given), Some(total)) => cosine(total),
            (Self::Settling(Beginning::BySteps | Beginning::Warming), Some(total)) => {
                let steps = f64::from(total) * f64::from(place.steps_per_epoch.max(1));
                (USUAL_STEPS / steps).sqrt().min(MOST_AT_FIRST) * cosine(total)
            }
            (Self::Settling(_), None) => 1.0 / (1.0 + place.steps as f64 / SETTLING_STEPS).sqrt(),
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
        let at = |epochs, total_epochs, steps| Place { epochs, total_epochs, steps_per_epoch: 10, steps };
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
        near(Course::Settling(Beginning::Given).factor(at(5.0, Some(10), 60)), 0.5);
        let settling = Course::Settling(Beginning::BySteps);
        for (total, want) in [(160, 0.5), (40, 1.0), (10, 2.0), (1, 3.0)] {
            near(settling.factor(at(0.0, Some(total), 0)), want);
            near(settling.factor(at(f64::from(total), Some(total), 0)), 0.0);
        }
        near(settling.factor(at(5.0, None, 60)), 0.5);
        let warming = Course::Settling(Beginning::Warming);
        near(warming.factor(at(0.0, Some(40), 0)), 0.1);
        near(warming.factor(at(0.0, Some(40), 100_000)), 1.0);
        assert!(Course::Cosine.lacks_total().is_some() && settling.lacks_total().is_none());
    }
}
