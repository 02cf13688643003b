//! predictions.csv: what the model says of the rows held out.

use crate::cli::Failure;
use crate::data::{Dataset, TargetKind, Targets};

/// A row a held-out row: its index in the data set, target, prediction, and the probability of each class.
/// `outputs` are the model's, row after row: a probability a class, or the standardised value.
///
/// # Errors
/// None in a correct build: the text is written to memory.
pub(super) fn csv(dataset: &Dataset, outputs: &[f32]) -> Result<Vec<u8>, Failure> {
    write(dataset, outputs)
        .map_err(|error| Failure::System { doing: "write predictions.csv", source: std::io::Error::other(error) })
}

fn write(dataset: &Dataset, outputs: &[f32]) -> Result<Vec<u8>, csv::Error> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    let rows = &dataset.validation.rows;
    match (&dataset.target, &dataset.validation.targets) {
        (TargetKind::Classes { labels }, Targets::Classes(targets)) => {
            let probabilities = labels.iter().map(|label| format!("probability_{label}"));
            csv.write_record(["row", "target", "prediction"].map(str::to_owned).into_iter().chain(probabilities))?;
            let label = |class: usize| labels.get(class).cloned().unwrap_or_default();
            let scores = outputs.chunks_exact(labels.len().max(1));
            for ((row, target), scores) in rows.iter().zip(targets).zip(scores) {
                let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
                let prediction = best.map(|(class, _)| label(class)).unwrap_or_default();
                let target = usize::try_from(*target).map(label).unwrap_or_default();
                let scores = scores.iter().map(f32::to_string);
                csv.write_record([row.to_string(), target, prediction].into_iter().chain(scores))?;
            }
        }
        (TargetKind::Value { mean, std }, Targets::Values(targets)) => {
            csv.write_record(["row", "target", "prediction"])?;
            let value = |standardised: f32| (f64::from(standardised) * std + mean).to_string();
            for ((row, target), output) in rows.iter().zip(targets).zip(outputs) {
                csv.write_record([row.to_string(), value(*target), value(*output)])?;
            }
        }
        // A data set has targets of its own kind.
        _ => {}
    }
    csv.into_inner().map_err(|error| error.into_error().into())
}
