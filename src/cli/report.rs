//! What a training yields, as people and programs get to see it.

use serde::{Serialize, Serializer};

use crate::domain::TaskResult;

/// One epoch of a training. Losses are means per sample; accuracies are ratios in [0, 1], for regression the
/// root mean squared error in units of the target.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: u32,
    /// On the training rows.
    #[serde(serialize_with = "finite")]
    pub loss: f64,
    /// On the training rows.
    #[serde(serialize_with = "finite")]
    pub accuracy: f64,
    /// On the rows held out, where there are any.
    pub validation_loss: Option<f64>,
    /// On the rows held out, where there are any.
    pub validation_accuracy: Option<f64>,
}

/// JSON has no NaN.
fn finite<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if number.is_finite() { serializer.serialize_f64(*number) } else { serializer.serialize_none() }
}

impl Epoch {
    /// What `result` says about its epoch.
    pub fn from_result(epoch: u32, result: &TaskResult) -> Self {
        Self {
            epoch,
            loss: result.train.loss,
            accuracy: result.train.accuracy,
            validation_loss: result.validation.map(|metrics| metrics.loss),
            validation_accuracy: result.validation.map(|metrics| metrics.accuracy),
        }
    }
}

/// Quality at the end of a training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Final {
    /// On the training rows.
    pub loss: f64,
    /// On the training rows.
    pub accuracy: f64,
    /// On the rows held out, where there are any.
    pub validation_loss: Option<f64>,
    /// On the rows held out, where there are any.
    pub validation_accuracy: Option<f64>,
}

impl From<&Epoch> for Final {
    fn from(epoch: &Epoch) -> Self {
        let Epoch { epoch: _, loss, accuracy, validation_loss, validation_accuracy } = *epoch;
        Self { loss, accuracy, validation_loss, validation_accuracy }
    }
}

/// The object of metrics.json.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metrics {
    /// What was trained.
    pub model_type: String,
    /// On what.
    pub dataset: String,
    /// What produced the figures: cpu, wgpu or analytic.
    pub backend: String,
    /// True when the figures come from an analytic curve and nothing was trained.
    pub simulated: bool,
    /// Rows trained on; None when the data was not looked at.
    pub rows_train: Option<u64>,
    /// Rows held out; None when the data was not looked at.
    pub rows_validation: Option<u64>,
    /// Each epoch.
    pub epochs: Vec<Epoch>,
    /// After the last epoch.
    #[serde(rename = "final")]
    pub last: Option<Final>,
    /// Wall time of the training, without reading the data.
    pub seconds: f64,
    /// Training samples a second of that time.
    pub samples_per_second: f64,
    /// The seed of split, initial weights and order.
    pub seed: u64,
    /// The worker's version.
    pub version: &'static str,
}
