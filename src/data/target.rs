//! The target column: which rows have one, and whether it is a class or a number.
//!
//! What `task=auto` does:
//!
//! | the column holds | it is |
//! |-|-|
//! | words, `true`/`false` | classes |
//! | two different whole numbers (0/1, 1/2, -1/1) | classes |
//! | 3 to 20 different whole numbers, at least 5 rows for each on average | classes |
//! | other numbers | a number: regression |
//!
//! Classes are collected over all rows, held-out ones too, since an id must exist for every row; nothing else is.

use std::collections::HashSet;

use super::cells::Cells;
use super::dataset::TargetKind;
use super::error::{DataError, shown};
use super::table::{Column, MISSING, Values};
use crate::domain::{InvalidField, Problem};

/// Most classes of a classifier.
pub(super) const MAX_CLASSES: usize = 1000;

/// Most different whole numbers that are taken as classes unasked.
const AUTO_CLASSES: usize = 20;

/// Rows there must be for each of them, on average, where there are more than two.
const AUTO_ROWS_PER_CLASS: usize = 5;

/// The rows that have a target, and their targets.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Labelled {
    /// Indices of rows, ascending.
    pub(super) rows: Vec<u32>,
    /// One each.
    pub(super) raw: Raw,
}

/// Targets before anything is fitted.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Raw {
    /// Class ids.
    Classes { labels: Vec<String>, ids: Vec<u32> },
    /// Numbers as they are.
    Numbers(Vec<f64>),
}

/// Where the target column is.
///
/// # Errors
/// No column is called `name`; the error lists those there are.
pub(super) fn find(columns: &[Column], name: Option<&str>) -> Result<usize, DataError> {
    let Some(name) = name else { return Ok(columns.len().saturating_sub(1)) };
    columns.iter().position(|column| column.name == name).ok_or_else(|| {
        const LISTED: usize = 40;
        let names = columns.iter().take(LISTED).map(|column| shown(&column.name)).collect::<Vec<_>>();
        let more = match columns.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let allowed = format!("a column of the data set ({}{more})", names.join(", "));
        DataError::Invalid(InvalidField::new("hyperparameters.target", name, allowed))
    })
}

/// Reads the target column.
///
/// # Errors
/// It has no value, one value, too many classes, or words where numbers are asked for.
pub(super) fn read(column: &Column, table_rows: u32, problem: Problem) -> Result<Labelled, DataError> {
    let labelled = match &column.values {
        Values::Empty => return Err(DataError::NoTarget { column: column.name.clone() }),
        Values::Words(_) | Values::TooManyWords if problem == Problem::Regression => {
            let (line, word) =
                column.first_word.clone().map(|word| (word.line, word.text)).unwrap_or_default();
            return Err(DataError::TargetNotNumeric { column: column.name.clone(), line, word });
        }
        Values::TooManyWords => return Err(too_many(column)),
        Values::Words(words) => classes_of_words(column, &words.codes, &words.words)?,
        Values::Single(_) | Values::Double(_) => {
            let rows: Vec<u32> = (0..table_rows).filter(|row| !column.values.number(*row).is_nan()).collect();
            let numbers: Vec<f64> = rows.iter().map(|row| column.values.number(*row)).collect();
            let distinct = distinct(&numbers);
            let classes = match problem {
                Problem::Classification => true,
                Problem::Regression => false,
                Problem::Auto => distinct.as_deref().is_some_and(|values| are_classes(values, numbers.len())),
            };
            if classes {
                classes_of_numbers(column, rows, &numbers, distinct.ok_or_else(|| too_many(column))?)
            } else {
                Labelled { rows, raw: Raw::Numbers(numbers) }
            }
        }
    };
    let single = match &labelled.raw {
        Raw::Classes { labels, .. } if labels.len() < 2 => labels.first().cloned(),
        Raw::Numbers(numbers) => match numbers.split_first() {
            Some((first, others)) if others.iter().all(|other| other == first) => {
                Some(column.values.written(*first))
            }
            _ => None,
        },
        Raw::Classes { .. } => None,
    };
    match single {
        Some(value) => Err(DataError::OneValue { column: column.name.clone(), value }),
        None => Ok(labelled),
    }
}

/// The different values, ascending; `None` where there are more than [`MAX_CLASSES`].
fn distinct(numbers: &[f64]) -> Option<Vec<f64>> {
    let mut seen = HashSet::new();
    for number in numbers {
        seen.insert(number.to_bits());
        if seen.len() > MAX_CLASSES {
            return None;
        }
    }
    let mut values: Vec<f64> = seen.into_iter().map(f64::from_bits).collect();
    values.sort_by(f64::total_cmp);
    Some(values)
}

fn are_classes(distinct: &[f64], rows: usize) -> bool {
    distinct.iter().all(|value| value.fract() == 0.0)
        && (distinct.len() <= 2
            || (distinct.len() <= AUTO_CLASSES && rows >= AUTO_ROWS_PER_CLASS * distinct.len()))
}

fn classes_of_numbers(column: &Column, rows: Vec<u32>, numbers: &[f64], distinct: Vec<f64>) -> Labelled {
    let id = |number: &f64| distinct.partition_point(|value| value < number) as u32;
    let ids = numbers.iter().map(id).collect();
    let labels = distinct.iter().map(|value| column.values.written(*value)).collect();
    Labelled { rows, raw: Raw::Classes { labels, ids } }
}

fn classes_of_words(
    column: &Column,
    codes: &Cells<u32>,
    words: &[std::sync::Arc<str>],
) -> Result<Labelled, DataError> {
    if words.len() > MAX_CLASSES {
        return Err(too_many(column));
    }
    let mut order: Vec<usize> = (0..words.len()).collect();
    order.sort_by_key(|code| words.get(*code));
    let mut id_of_code = vec![0_u32; words.len()];
    for (id, code) in order.iter().enumerate() {
        if let Some(slot) = id_of_code.get_mut(*code) {
            *slot = id as u32;
        }
    }
    let (rows, ids) = codes
        .iter()
        .enumerate()
        .filter(|(_, code)| *code != MISSING)
        .filter_map(|(row, code)| Some((row as u32, *id_of_code.get(code as usize)?)))
        .unzip();
    let labels = order.iter().filter_map(|code| words.get(*code)).map(|word| word.to_string()).collect();
    Ok(Labelled { rows, raw: Raw::Classes { labels, ids } })
}

fn too_many(column: &Column) -> DataError {
    DataError::TooManyClasses { column: column.name.clone(), limit: MAX_CLASSES }
}

impl Raw {
    /// What the target is, its scale taken from the targets at the positions `train`.
    pub(super) fn kind(&self, train: &[u32]) -> TargetKind {
        match self {
            Self::Classes { labels, .. } => TargetKind::Classes { labels: labels.clone() },
            Self::Numbers(numbers) => {
                let chosen = || train.iter().filter_map(|at| numbers.get(*at as usize).copied());
                let scale = super::preprocess::Scale::of(chosen);
                // A training part without spread still has a unit: that of the target itself.
                let std = if scale.std == 0.0 { 1.0 } else { scale.std };
                TargetKind::Value { mean: scale.mean, std }
            }
        }
    }
}
