//! Models and hyperparameters as Markdown, for docs/models.md.

use std::fmt::Write as _;

use crate::domain::Hyperparameters;
use crate::engine::{MODELS, listeners};

/// What can be trained, and every hyperparameter with the models that listen to it.
pub(super) fn models() -> String {
    let mut text = String::from("| model_type | other names | model file |\n|-|-|-|\n");
    for model in MODELS {
        let _ =
            writeln!(text, "| `{}` | {} | `{}` |", model.name, code(model.aliases), model.weights_file_name);
    }
    text.push_str("\n| hyperparameter | other names | takes | heard by |\n|-|-|-|-|\n");
    for known in Hyperparameters::reference() {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            known.name,
            code(known.aliases),
            known.takes.replace('|', "\\|"),
            heard_by(known.name)
        );
    }
    text
}

fn code(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn heard_by(hyperparameter: &str) -> String {
    match listeners(hyperparameter) {
        None => "all".to_owned(),
        Some(models) if models.is_empty() => "none; it is understood and has no effect".to_owned(),
        Some(models) => code(&models),
    }
}
