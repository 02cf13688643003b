//! predictions.csv: what the model says of the rows held out.

use std::io;

use crate::cli::Failure;
use crate::engine::Predictions;

/// A line a held-out row: its index in the data set, target, prediction, and the probability of each class.
///
/// # Errors
/// None in a correct build: the text goes to memory.
pub(super) fn csv(predictions: &Predictions) -> Result<Vec<u8>, Failure> {
    write(predictions)
        .map_err(|error| Failure::System { doing: "write predictions.csv", source: io::Error::other(error) })
}

fn write(predictions: &Predictions) -> Result<Vec<u8>, csv::Error> {
    let Predictions { rows, targets, predictions, probabilities, labels } = predictions;
    let mut csv = csv::Writer::from_writer(Vec::new());
    let columns = labels.iter().map(|label| format!("probability_{label}"));
    csv.write_record(["row", "target", "prediction"].map(str::to_owned).into_iter().chain(columns))?;
    // Empty for regression.
    let mut probabilities = probabilities.iter();
    for ((row, target), prediction) in rows.iter().zip(targets).zip(predictions) {
        let scores = probabilities.next().into_iter().flatten().map(f32::to_string);
        csv.write_record([row.to_string(), target.clone(), prediction.clone()].into_iter().chain(scores))?;
    }
    csv.into_inner().map_err(|error| io::Error::other(error.to_string()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_its_target_its_prediction_and_its_probabilities() {
        let predictions = Predictions {
            rows: vec![4, 17],
            targets: vec!["red, dark".into(), "blue".into()],
            predictions: vec!["red, dark".into(), "red, dark".into()],
            probabilities: vec![vec![0.25, 0.75], vec![0.5, 0.5]],
            labels: vec!["blue".into(), "red, dark".into()],
        };
        let text = String::from_utf8(csv(&predictions).unwrap()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "row,target,prediction,probability_blue,\"probability_red, dark\"",
                "4,\"red, dark\",\"red, dark\",0.25,0.75",
                "17,blue,\"red, dark\",0.5,0.5",
            ]
        );
    }

    #[test]
    fn numbers_have_no_probabilities() {
        let predictions = Predictions {
            rows: vec![0],
            targets: vec!["1.5".into()],
            predictions: vec!["1.25".into()],
            probabilities: vec![],
            labels: vec![],
        };
        assert_eq!(csv(&predictions).unwrap(), b"row,target,prediction\n0,1.5,1.25\n");
    }
}
