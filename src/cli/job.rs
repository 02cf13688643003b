//! What describes a training on the command line, and its check before anything starts.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::domain::{Hyperparameters, InvalidField, ModelType, Strictness};

/// Most epochs that can be asked for.
pub(super) const MAX_EPOCHS: u32 = 100_000;

/// One `--set NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Name of a hyperparameter.
    pub name: String,
    /// Its value, not looked at yet.
    pub value: String,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        let (name, value) = raw.split_once('=').ok_or("the form is NAME=VALUE, as learning_rate=0.01")?;
        let name = name.trim();
        if name.is_empty() {
            return Err("the name before = is empty; the form is NAME=VALUE, as learning_rate=0.01".into());
        }
        Ok(Self { name: name.to_owned(), value: value.trim().to_owned() })
    }
}

/// Checked hyperparameters, and the strings that travel.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) raw: BTreeMap<String, String>,
    pub(super) checked: Hyperparameters,
    pub(super) notes: Vec<String>,
}

impl Settings {
    /// Checks `settings` strictly.
    ///
    /// # Errors
    /// A name that is unknown or given twice, or a value out of its range.
    pub(super) fn check(settings: Vec<Setting>) -> Result<Self, InvalidField> {
        let mut raw = BTreeMap::new();
        for Setting { name, value } in settings {
            if let Some(first) = raw.insert(name.clone(), value.clone()) {
                let allowed = format!("one value; it was set to \"{first}\" before");
                return Err(InvalidField::new(format!("hyperparameters.{name}"), value, allowed));
            }
        }
        let (checked, notes) = Hyperparameters::parse(&raw, Strictness::Reject)?;
        Ok(Self { raw, checked, notes })
    }
}

/// For clap: a model type.
pub(super) fn model_type(raw: &str) -> Result<ModelType, String> {
    ModelType::parse(raw).map_err(|error| format!("allowed: {}", error.allowed))
}

/// For clap: a number of epochs.
pub(super) fn epochs() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(MAX_EPOCHS))
}

/// For clap: where a training runs. `auto` is left out where nobody could say what it became.
pub(super) fn backend(raw: &str) -> Result<crate::domain::BackendChoice, String> {
    raw.parse().map_err(|error| format!("allowed: {error}"))
}
