//! `train --compare`: the figures of several model types on the same rows, side by side.

use std::collections::BTreeSet;

use serde::Serialize;

use super::training::Trained;
use crate::cli::{Failure, Metrics, ui};
use crate::domain::{InvalidField, ModelType};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Comparison<'a> {
    models: Vec<&'a Metrics>,
}

/// Checks that each model type has a folder of its own: none is named twice, none leads elsewhere.
///
/// # Errors
/// Names the one that has not.
pub(super) fn differ(models: &[ModelType]) -> Result<(), Failure> {
    let mut seen = BTreeSet::from([".", ".."]);
    match models.iter().find(|model| !seen.insert(model.as_str())) {
        None => Ok(()),
        Some(model) => {
            let allowed = "each model type once, and none of . and .., which are no folders of their own";
            Err(InvalidField::new("--compare", model.as_str(), allowed).into())
        }
    }
}

/// Prints all of `trained`: a row each, or one JSON object.
///
/// # Errors
/// Standard output is closed.
pub(super) fn say(trained: &[Trained], json: bool) -> Result<(), Failure> {
    if json {
        return ui::say_json(&Comparison { models: trained.iter().map(|one| &one.metrics).collect() });
    }
    let quality = trained.first().map_or("accuracy", |one| one.quality.name());
    let header =
        ["model_type", "loss", quality, "validation loss", &format!("validation {quality}"), "seconds"];
    ui::say(&ui::pairs(header, trained.iter().map(row)))
}

/// The row of one model type; what is absent is a dash.
fn row(trained: &Trained) -> [String; 6] {
    let metrics = &trained.metrics;
    let last = metrics.last.as_ref();
    let simulated = if metrics.simulated { " (SIMULATED)" } else { "" };
    [
        format!("{}{simulated}", metrics.model_type),
        ui::number(last.map(|last| last.loss)),
        ui::number(last.map(|last| last.accuracy)),
        ui::number(last.and_then(|last| last.validation_loss)),
        ui::number(last.and_then(|last| last.validation_accuracy)),
        format!("{:.2}", metrics.seconds),
    ]
}
