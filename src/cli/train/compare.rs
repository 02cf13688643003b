//! `train --compare`: the figures of several model types on the same rows, side by side.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::training::Trained;
use crate::cli::{Failure, Metrics, ui};
use crate::domain::{InvalidField, ModelType};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Comparison<'a> {
    models: Vec<&'a Metrics>,
    /// Of models whose losses cannot be compared with the others'.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    own_losses: BTreeMap<&'a str, &'static str>,
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
        let own_losses =
            trained.iter().filter_map(|one| Some((one.metrics.model_type.as_str(), one.own_loss?))).collect();
        let models = trained.iter().map(|one| &one.metrics).collect();
        return ui::say_json(&Comparison { models, own_losses });
    }
    let quality = trained.first().map_or("accuracy", |one| one.quality.name());
    let header =
        ["model_type", "loss", quality, "validation loss", &format!("validation {quality}"), "seconds"];
    ui::say(&ui::pairs(header, trained.iter().map(row)))?;
    let own: BTreeSet<_> = trained.iter().filter_map(|one| one.own_loss).collect();
    if own.is_empty() {
        return Ok(());
    }
    let own = own.into_iter().collect::<Vec<_>>().join(", ");
    ui::say(&format!("* another loss than the others' ({own}): compare {quality} instead"))
}

/// The row of one model type; what is absent is a dash.
fn row(trained: &Trained) -> [String; 6] {
    let metrics = &trained.metrics;
    let last = metrics.last.as_ref();
    let simulated = if metrics.simulated { " (SIMULATED)" } else { "" };
    let mark = if trained.own_loss.is_some() { "*" } else { "" };
    let loss = |loss: Option<f64>| format!("{}{mark}", ui::number(loss));
    [
        format!("{}{simulated}", metrics.model_type),
        loss(last.map(|last| last.loss)),
        ui::number(last.map(|last| last.accuracy)),
        loss(last.and_then(|last| last.validation_loss)),
        ui::number(last.and_then(|last| last.validation_accuracy)),
        format!("{:.2}", metrics.seconds),
    ]
}
