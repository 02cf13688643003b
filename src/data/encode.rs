//! Rows of a table to features, by a fitted [`Preprocessor`]; the table goes while it is read.
//!
//! ```text
//! block of 65,536 rows --plan of each column--> lines of the first part, lines of the second part; block given back
//! ```
//!
//! So the most that is held at once is about one matrix, whatever the number of rows.

use std::collections::HashMap;
use std::ops::Range;

use super::Check;
use super::cells::BLOCK;
use super::error::DataError;
use super::preprocess::{Encoding, FeatureColumn, Preprocessor, Scale, or};
use super::table::{self, Column, MISSING, Table, Values, Words};

/// Rows that are encoded before the next look at whether to go on.
const ROWS_PER_CHECK: usize = 1024;

impl Preprocessor {
    /// The features of some rows of `table` for each of `parts`, row-major; only a missing number of a raw column is
    /// not finite. The rows of a part ascend; columns are found by name; others are ignored.
    ///
    /// # Errors
    /// A column is missing or has words where it had numbers; `check` says to stop.
    pub fn transform<const PARTS: usize>(
        &self,
        mut table: Table,
        parts: [&[u32]; PARTS],
        check: Check<'_>,
    ) -> Result<[Vec<f32>; PARTS], DataError> {
        let plans = self.plans(&mut table)?;
        let width = self.width();
        let mut features = parts.map(|rows| vec![0.0; rows.len() * width]);
        if width == 0 {
            return Ok(features);
        }
        let mut done = [0; PARTS];
        for (block, first) in (0..table.rows as usize).step_by(BLOCK).enumerate() {
            for ((rows, features), done) in parts.iter().zip(&mut features).zip(&mut done) {
                let rest = rows.get(*done..).unwrap_or_default();
                let end = *done + rest.partition_point(|row| (*row as usize) < first + BLOCK);
                encode(&plans, &table.columns, (rows, *done..end), (features, width), check)?;
                *done = end;
            }
            table.columns.iter_mut().for_each(|column| column.values.release(block));
        }
        Ok(features)
    }

    /// How each column is encoded from `table`, in the order of the features. A column of numbers that is wanted as
    /// words is made so.
    fn plans(&self, table: &mut Table) -> Result<Vec<Plan>, DataError> {
        let places: HashMap<String, usize> =
            table.columns.iter().enumerate().map(|(at, column)| (column.name.clone(), at)).collect();
        let rows = table.rows;
        let plan = |FeatureColumn { name, encoding }: &FeatureColumn| {
            let at = places.get(name).copied();
            match at.and_then(|at| Some((at, table.columns.get_mut(at)?))) {
                Some((at, column)) => Plan::new(encoding, at, column, rows),
                None => Err(DataError::MissingColumn { column: name.clone() }),
            }
        };
        self.columns.iter().map(plan).collect()
    }
}

/// Writes the features of the rows that stand at `places` of `rows` to the same places of `features`.
fn encode(
    plans: &[Plan],
    columns: &[Column],
    (rows, places): (&[u32], Range<usize>),
    (features, width): (&mut [f32], usize),
    check: Check<'_>,
) -> Result<(), DataError> {
    let features = features.get_mut(places.start * width..places.end * width).unwrap_or_default();
    let rows = rows.get(places).unwrap_or_default();
    for (rows, lines) in rows.chunks(ROWS_PER_CHECK).zip(features.chunks_mut(ROWS_PER_CHECK * width)) {
        check()?;
        let mut offset = 0;
        for plan in plans {
            if let Some(column) = columns.get(plan.column) {
                for (row, line) in rows.iter().zip(lines.chunks_exact_mut(width)) {
                    plan.write(&column.values, *row, line.get_mut(offset..).unwrap_or_default());
                }
            }
            offset += plan.width;
        }
    }
    Ok(())
}

/// An encoding bound to the column of one table, so that a cell needs no look-up by text.
struct Plan {
    /// Which column of the table.
    column: usize,
    width: usize,
    way: Way,
}

enum Way {
    Number {
        median: f64,
        scale: Scale,
    },
    Plain,
    /// `slots` holds for each code the feature that is 1.
    OneHot {
        slots: Vec<Option<usize>>,
        missing: Option<usize>,
    },
    /// `figures` holds the feature of each code.
    Frequency {
        figures: Vec<f32>,
        unknown: f32,
    },
}

impl Plan {
    fn new(encoding: &Encoding, at: usize, column: &mut Column, rows: u32) -> Result<Self, DataError> {
        let way = match encoding {
            Encoding::Number { median, mean, std } => {
                numbers(column)?;
                Way::Number { median: *median, scale: Scale { mean: *mean, std: *std } }
            }
            Encoding::Plain => {
                numbers(column)?;
                Way::Plain
            }
            Encoding::OneHot { words: fitted, missing } => {
                let slot = |word: &std::sync::Arc<str>| {
                    fitted.binary_search_by(|known| known.as_str().cmp(word.as_ref())).ok()
                };
                let slots = words(column, rows)?.words.iter().map(slot).collect();
                Way::OneHot { slots, missing: missing.then_some(fitted.len()) }
            }
            Encoding::Frequency { shares, mean, std } => {
                let scale = Scale { mean: *mean, std: *std };
                let figure = |word: &std::sync::Arc<str>| {
                    scale.apply(shares.get(word.as_ref()).copied().unwrap_or(0.0))
                };
                let figures = words(column, rows)?.words.iter().map(figure).collect();
                Way::Frequency { figures, unknown: scale.apply(0.0) }
            }
        };
        Ok(Self { column: at, width: encoding.width(), way })
    }

    /// Writes the features of `row` to the beginning of `line`, which holds zeros.
    fn write(&self, values: &Values, row: u32, line: &mut [f32]) {
        let (slot, figure) = match &self.way {
            Way::Number { median, scale } => (Some(0), scale.apply(or(values.number(row), *median))),
            // What f32 does not reach becomes its greatest number, so that missing alone is not finite.
            Way::Plain => {
                (Some(0), values.number(row).clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32)
            }
            Way::OneHot { slots, missing } => {
                let slot = match values.code(row) {
                    MISSING => *missing,
                    code => slots.get(code as usize).copied().flatten(),
                };
                (slot, 1.0)
            }
            Way::Frequency { figures, unknown } => {
                (Some(0), figures.get(values.code(row) as usize).copied().unwrap_or(*unknown))
            }
        };
        if let Some(place) = slot.and_then(|slot| line.get_mut(slot)) {
            *place = figure;
        }
    }
}

/// Refuses a column whose cells are no numbers.
fn numbers(column: &Column) -> Result<(), DataError> {
    match (&column.values, &column.first_word) {
        (Values::Words(_) | Values::TooManyWords, word) => {
            let (line, word) = word.as_ref().map(|word| (word.line, word.text.clone())).unwrap_or_default();
            Err(DataError::NotNumeric { column: column.name.clone(), line, word })
        }
        _ => Ok(()),
    }
}

/// The cells of `column` as words, which it becomes where all of them happen to be numbers.
fn words(column: &mut Column, rows: u32) -> Result<&Words, DataError> {
    if !matches!(column.values, Values::Words(_)) {
        let words = column.values.to_words(rows);
        column.values = words.map_or(Values::TooManyWords, Values::Words);
    }
    match &column.values {
        Values::Words(words) => Ok(words),
        _ => Err(DataError::TooManyWords { column: column.name.clone(), limit: table::MAX_WORDS }),
    }
}
