//! A table to a [`Dataset`]: target, split, fit on the training part, encode both.

use super::dataset::{Dataset, Part, TargetKind, Targets};
use super::error::DataError;
use super::preprocess::{Preprocessor, Scale};
use super::split::{Split, split};
use super::table::Table;
use super::target::{self, Labelled, Raw};
use super::{Check, Config, LoadOptions};
use crate::domain::InvalidField;

/// What preparing must keep to.
pub(super) struct Limits<'a> {
    /// How much there may be.
    pub(super) config: &'a Config,
    /// Whether to go on.
    pub(super) check: Check<'a>,
}

/// Prepares `table`, which was read from `path`.
///
/// # Errors
/// The target does not fit, there is nothing to learn from, or a limit is passed.
pub(super) fn prepare(
    path: &str,
    table: Table,
    options: &LoadOptions,
    limits: &Limits<'_>,
) -> Result<Dataset, DataError> {
    if !(0.0..=0.9).contains(&options.validation_split) {
        let given = options.validation_split.to_string();
        let field = "hyperparameters.validation_split";
        return Err(InvalidField::new(field, given, "a number from 0 to 0.9").into());
    }
    let check = limits.check;
    let target_at = target::find(&table.columns, options.target.as_deref())?;
    let Some(target_column) = table.columns.get(target_at) else {
        return Err(DataError::Empty { path: path.to_owned() });
    };
    let target_name = target_column.name.clone();
    let Labelled { rows, raw } = target::read(target_column, table.rows, options.problem)?;
    check()?;

    let mut notes = table.notes.clone();
    let dropped = table.rows as usize - rows.len();
    if dropped > 0 {
        notes.push(format!("{dropped} of {} rows dropped, without a target", table.rows));
    }

    let Split { train, validation } = match &raw {
        Raw::Classes { labels, ids } => split(ids, labels.len(), options.validation_split, options.seed),
        Raw::Numbers(numbers) => split(&vec![0; numbers.len()], 1, options.validation_split, options.seed),
    };
    check()?;

    let pick = |positions: &[u32]| -> Vec<u32> {
        positions.iter().filter_map(|at| rows.get(*at as usize).copied()).collect()
    };
    let (train_rows, validation_rows) = (pick(&train), pick(&validation));
    let (preprocessor, left_out) =
        Preprocessor::fit(&table, target_at, &train_rows, options.features, check)?;
    let width = preprocessor.width();
    if width == 0 {
        let why = left_out.lines().map(|line| format!("; {line}")).collect();
        return Err(DataError::NoFeatures { path: path.to_owned(), target: target_name, why });
    }
    notes.extend(left_out.lines());
    let Config { max_cells, max_memory_bytes, .. } = *limits.config;
    let cells = (rows.len() as u64).saturating_mul(width as u64);
    if cells > max_cells {
        let unit = "cells (rows times features, after encoding)";
        return Err(DataError::TooLarge { path: path.to_owned(), limit: max_cells, unit });
    }
    // The columns go while the features are made, but an allocator may keep what it is given back.
    if cells.saturating_mul(4).saturating_add(table.memory_bytes()) > max_memory_bytes {
        return Err(DataError::TooMuchMemory { path: path.to_owned(), limit_bytes: max_memory_bytes });
    }

    let kind = raw.kind(&train);
    let held_out_numbers = match &raw {
        Raw::Numbers(numbers) => {
            validation.iter().filter_map(|at| numbers.get(*at as usize).copied()).collect()
        }
        Raw::Classes { .. } => Vec::new(),
    };
    let [train_features, validation_features] =
        preprocessor.transform(table, [&train_rows, &validation_rows], check)?;
    let part =
        |rows, features, positions: &[u32]| Part { rows, features, targets: targets(&raw, &kind, positions) };
    let train = part(train_rows, train_features, &train);
    let validation = part(validation_rows, validation_features, &validation);
    Ok(Dataset {
        path: path.to_owned(),
        feature_names: preprocessor.feature_names(),
        target_name,
        target: kind,
        train,
        validation,
        held_out_numbers,
        preprocessor,
        notes,
    })
}

/// The finished targets at `positions`.
fn targets(raw: &Raw, kind: &TargetKind, positions: &[u32]) -> Targets {
    let positions = positions.iter().map(|at| *at as usize);
    match (raw, kind) {
        (Raw::Numbers(numbers), TargetKind::Value { mean, std }) => {
            let scale = Scale { mean: *mean, std: *std };
            Targets::Values(positions.filter_map(|at| numbers.get(at)).map(|y| scale.apply(*y)).collect())
        }
        (Raw::Classes { ids, .. }, _) => {
            Targets::Classes(positions.filter_map(|at| ids.get(at).copied()).collect())
        }
        (Raw::Numbers(numbers), TargetKind::Classes { .. }) => {
            Targets::Values(positions.filter_map(|at| numbers.get(at)).map(|y| *y as f32).collect())
        }
    }
}
