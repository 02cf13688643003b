//! Data sets that are made up on the spot: `synthetic:classification?rows=1000&classes=3`, always the same for a seed.
//!
//! ```text
//! text --parse--> Recipe (checked) --table--> Table, row by row into columns of known size
//! ```
//!
//! Classification follows the idea of Guyon, "Design of experiments for the NIPS 2003 variable selection benchmark"
//! (which scikit-learn's make_classification follows too): each class has clusters, each at a vertex of its own of a
//! hypercube with sides of 2 x `separation` in the space of the informative features, normally distributed and
//! sheared by a random matrix of its own; redundant features are random combinations of the informative ones; the
//! others are noise; a share of the labels is drawn anew. Regression: a random linear combination of the informative
//! features with coefficients in [0, 100), and normal noise. The columns stand in random order.

mod classification;
mod random;
mod regression;

use super::error::DataError;
use super::table::{Column, Table, Values};
use super::{Check, Config};
use crate::domain::InvalidField;

use random::Random;

/// A data set that is made up, as a dataset_path asks for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    path: String,
    rows: u32,
    features: usize,
    informative: usize,
    seed: u64,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Classification(classification::Shape),
    Regression {
        /// Standard deviation of what is added to the target.
        noise: f64,
    },
}

const CLASSIFICATION: &str = "classification";
const REGRESSION: &str = "regression";

/// Most informative features: the matrices of the clusters grow with its square.
const MAX_INFORMATIVE: usize = 64;

/// Name of the target column.
const TARGET: &str = "target";

impl Recipe {
    /// Reads what follows `synthetic:` in `path`.
    ///
    /// # Errors
    /// The field, its value, and what is allowed: unknown kinds and parameters, values outside of their range or of
    /// the limits of `config`.
    pub fn parse(recipe: &str, path: &str, config: &Config) -> Result<Self, InvalidField> {
        let (kind, query) = recipe.split_once('?').unwrap_or((recipe, ""));
        let known: &'static [&'static str] = match kind {
            CLASSIFICATION => classification::PARAMETERS,
            REGRESSION => regression::PARAMETERS,
            _ => return Err(InvalidField::new("dataset_path", path, usage())),
        };
        let parameters = Parameters::parse(kind, query, known)?;
        let rows = parameters.whole("rows", 1000, 2, u64::from(config.max_rows))? as u32;
        let most = (config.max_columns.saturating_sub(1)).max(1) as u64;
        let features = parameters.whole("features", 20, 1, most)? as usize;
        let seed = parameters.whole("seed", 0, 0, u64::MAX)?;
        let shape = match kind {
            CLASSIFICATION => Some(classification::Shape::parse(&parameters)?),
            _ => None,
        };
        let least = shape.as_ref().map_or(1, classification::Shape::least_informative);
        let most = features.min(MAX_INFORMATIVE);
        if least > most {
            let needed =
                format!("at least {least}, since that many make a vertex for each cluster of a class");
            return Err(parameters.wrong("features", features.to_string(), needed));
        }
        let default = features.div_ceil(2).clamp(least, most);
        let informative =
            parameters.whole("informative", default as u64, least as u64, most as u64)? as usize;
        let kind = match shape {
            Some(shape) => Kind::Classification(shape.with_redundant(&parameters, features - informative)?),
            None => Kind::Regression { noise: parameters.number("noise", 1.0, 0.0, 1e6)? },
        };
        Ok(Self { path: path.to_owned(), rows, features, informative, seed, kind })
    }

    /// Makes it.
    ///
    /// # Errors
    /// A limit of `config` is passed (nothing has been made then), or `check` says to stop.
    pub(super) fn table(&self, config: &Config, check: Check<'_>) -> Result<Table, DataError> {
        let path = || self.path.clone();
        let (rows, columns) = (u64::from(self.rows), self.features as u64 + 1);
        if rows.saturating_mul(columns) > config.max_cells {
            let unit = "cells (rows times columns)";
            return Err(DataError::TooLarge { path: path(), limit: config.max_cells, unit });
        }
        if rows.saturating_mul(4 * columns + 4) > config.max_memory_bytes {
            return Err(DataError::TooMuchMemory { path: path(), limit_bytes: config.max_memory_bytes });
        }
        let mut random = Random::new(self.seed);
        let (features, target) = match &self.kind {
            Kind::Classification(shape) => classification::make(self, shape, &mut random, check)?,
            Kind::Regression { noise } => regression::make(self, *noise, &mut random, check)?,
        };
        let mut columns: Vec<Column> = features
            .into_iter()
            .enumerate()
            .map(|(index, values)| {
                column(format!("feature_{index}"), Values::Single(values.into_iter().collect()))
            })
            .collect();
        columns.push(column(TARGET.to_owned(), target));
        Ok(Table { columns, rows: self.rows, notes: Vec::new() })
    }

    /// One empty column a feature, with room for all rows.
    fn empty_features(&self) -> Vec<Vec<f32>> {
        (0..self.features).map(|_| Vec::with_capacity(self.rows as usize)).collect()
    }
}

/// What may follow `synthetic:`.
pub(super) fn usage() -> String {
    format!(
        "synthetic:{CLASSIFICATION}?NAME=VALUE&... with {}, or synthetic:{REGRESSION}?NAME=VALUE&... with {}",
        classification::PARAMETERS.join(", "),
        regression::PARAMETERS.join(", "),
    )
}

fn column(name: String, values: Values) -> Column {
    Column { name, values, first_word: None }
}

/// `NAME=VALUE&NAME=VALUE`, each name known and given once.
struct Parameters<'a> {
    kind: &'a str,
    pairs: Vec<(&'static str, &'a str)>,
}

impl<'a> Parameters<'a> {
    fn parse(kind: &'a str, query: &'a str, known: &'static [&'static str]) -> Result<Self, InvalidField> {
        let mut pairs: Vec<(&'static str, &'a str)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(name) = known.iter().find(|other| **other == name) else {
                let allowed = format!("for synthetic:{kind} the parameters {}", known.join(", "));
                return Err(InvalidField::new("dataset_path", pair, allowed));
            };
            if pairs.iter().any(|(other, _)| other == name) {
                return Err(InvalidField::new("dataset_path", pair, format!("{name} once")));
            }
            pairs.push((name, value));
        }
        Ok(Self { kind, pairs })
    }

    /// The whole number called `name`, `default` where it is not given, within `low` and `high`.
    fn whole(&self, name: &'static str, default: u64, low: u64, high: u64) -> Result<u64, InvalidField> {
        let Some(text) = self.text(name) else { return Ok(default.min(high)) };
        let number = text.parse::<u64>().ok().filter(|number| (low..=high).contains(number));
        number.ok_or_else(|| self.wrong(name, text, format!("a whole number from {low} to {high}")))
    }

    /// The number called `name`, as [`Self::whole`].
    fn number(&self, name: &'static str, default: f64, low: f64, high: f64) -> Result<f64, InvalidField> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let number = text.parse::<f64>().ok().filter(|number| (low..=high).contains(number));
        number.ok_or_else(|| self.wrong(name, text, format!("a number from {low} to {high}")))
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    fn wrong(&self, name: &str, value: impl AsRef<str>, allowed: String) -> InvalidField {
        InvalidField::new(format!("dataset_path (synthetic:{}, {name})", self.kind), value, allowed)
    }
}
