//! Tables: with lines on a terminal, in Markdown elsewhere.

use std::io::{self, IsTerminal as _};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::columns;
use crate::cli::Epoch;
use crate::data::Dataset;

/// What `accuracy` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Quality {
    /// A ratio in [0, 1].
    Accuracy,
    /// The root mean squared error in units of the target.
    Rmse,
}

impl Quality {
    /// What a training on `dataset` is measured by.
    pub(in crate::cli) fn of(dataset: &Dataset) -> Self {
        if dataset.classes().is_some() { Self::Accuracy } else { Self::Rmse }
    }

    /// Name in the middle of a line.
    pub(in crate::cli) const fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::Rmse => "RMSE",
        }
    }
}

fn table(header: impl IntoIterator<Item = String>) -> Table {
    let mut table = Table::new();
    table.load_style(if io::stdout().is_terminal() {
        presets::UTF8_FULL_CONDENSED
    } else {
        presets::ASCII_MARKDOWN
    });
    table.set_header(header.into_iter().collect::<Vec<_>>());
    table
}

/// Columns that the table of epochs takes with lines.
const ROOM_FOR_EPOCHS: u16 = 74;

/// A row an epoch.
pub(in crate::cli) fn epochs(epochs: &[Epoch], quality: Quality) -> String {
    let quality = quality.name();
    let mut table = table(
        ["epoch", "loss", quality, "validation loss", &format!("validation {quality}")].map(str::to_owned),
    );
    for row in epochs {
        table.add_row([
            row.epoch.to_string(),
            number(Some(row.loss)),
            number(Some(row.accuracy)),
            number(row.validation_loss),
            number(row.validation_accuracy),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    if let Some(columns) = columns(io::stdout()).filter(|columns| *columns < ROOM_FOR_EPOCHS) {
        // Without lines between them the figures stay whole and only the names above them are broken.
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
        for column in table.column_iter_mut() {
            column.set_padding((0, 1));
        }
    }
    table.to_string()
}

/// Rows of words.
pub(in crate::cli) fn pairs<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = table(header.map(str::to_owned));
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// A figure, or a dash where there is none.
pub(in crate::cli) fn number(number: Option<f64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.4}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_is_a_row_and_what_is_absent_a_dash() {
        let epoch = Epoch {
            epoch: 3,
            loss: 0.123_45,
            accuracy: 0.9,
            validation_loss: None,
            validation_accuracy: Some(0.95),
        };
        let text = epochs(&[epoch], Quality::Rmse);
        assert!(text.contains("validation RMSE"), "{text}");
        let row = text.lines().find(|line| line.contains("0.1235")).unwrap();
        for cell in ["3", "0.9000", " - ", "0.9500"] {
            assert!(row.contains(cell), "{text}");
        }
    }
}
