//! How much the rows of each class count in training: one rule for all models.

use crate::data::{Dataset, TargetKind, Targets};
use crate::domain::{ClassWeight, Hyperparameters, InvalidField, TaskError};

/// Weights of the classes of `data`, above 0; `None` where all rows count alike. Balanced classes count as in
/// scikit-learn: rows / (classes * rows of the class), over the training part.
///
/// # Errors
/// Weights for a target that is a number, or for a class that it does not have.
pub(super) fn of(hyperparameters: &Hyperparameters, data: &Dataset) -> Result<Option<Vec<f64>>, TaskError> {
    let refuse = |value: &str, allowed: String| {
        TaskError::from(InvalidField::new("hyperparameters.class_weight", value, allowed))
    };
    let (labels, ids) = match (&data.target, &data.train.targets, &hyperparameters.class_weight) {
        (_, _, ClassWeight::None) => return Ok(None),
        (TargetKind::Classes { labels }, Targets::Classes(ids), _) => (labels, ids),
        (_, _, given) => {
            let value = if *given == ClassWeight::Balanced { "balanced" } else { "weights of classes" };
            let allowed =
                "none, because the target is a number (hyperparameter task=classification makes it classes)";
            return Err(refuse(value, allowed.to_owned()));
        }
    };
    let mut weights = vec![1.0; labels.len()];
    match &hyperparameters.class_weight {
        ClassWeight::None => {}
        ClassWeight::Balanced => {
            let mut counts = vec![0_u64; labels.len()];
            for id in ids {
                if let Some(count) = counts.get_mut(*id as usize) {
                    *count += 1;
                }
            }
            for (weight, count) in weights.iter_mut().zip(counts) {
                // A class without a training row has none to weigh.
                *weight = ids.len() as f64 / (labels.len() as f64 * count.max(1) as f64);
            }
        }
        ClassWeight::ByClass(given) => {
            for (class, given) in given {
                let place = labels.iter().position(|label| label == class);
                let Some(weight) = place.and_then(|place| weights.get_mut(place)) else {
                    let known = labels.iter().take(20).cloned().collect::<Vec<_>>().join(", ");
                    return Err(refuse(
                        class,
                        format!("weights of the classes that the target has ({known})"),
                    ));
                };
                *weight = *given;
            }
        }
    }
    Ok(weights.iter().any(|weight| *weight != 1.0).then_some(weights))
}
