//! How columns become features, fitted on the training rows once; [`super::encode`] applies it to any rows.
//!
//! | column | becomes |
//! |-|-|
//! | numbers | one feature: missing ones the median, then standardised; a constant column is all 0 |
//! | numbers in raw form | one feature, as it is; missing ones NaN |
//! | words, up to 64 different in the training part | one feature a value (`COLUMN=VALUE`, sorted), 1 or 0; missing is a value of its own where it occurs; unknown is all 0 |
//! | more words | one feature: the share of training rows with that word, standardised; unknown and missing 0 before that |
//! | a word of its own in more than 9 of 10 training rows (an id) | left out, with a note |
//! | row numbers in a column without a name (a written index) | left out, with a note: rows are often in order |
//! | one word only, no value at all, more than 100,000 words | left out, with a note |
//!
//! Medians, means, deviations and shares are in f64; medians of an even count are the mean of the middle two;
//! deviations are those of the population (divided by n).

use std::collections::BTreeMap;

use super::dataset::Notes;
use super::error::{DataError, shown};
use super::table::{Column, MISSING, Table, Values, Words};
use super::{Check, FeatureForm, table};

/// Most different words that become a feature each.
pub(super) const MAX_ONE_HOT: usize = 64;

/// Training rows from which on a column of nothing but different words counts as ids.
const ID_ROWS: usize = 20;

/// How each column becomes features.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessor {
    /// In the order of the features.
    pub columns: Vec<FeatureColumn>,
}

/// How one column becomes features.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureColumn {
    /// Name of the column.
    pub name: String,
    /// The way.
    pub encoding: Encoding,
}

/// The way from a cell to features.
#[derive(Debug, Clone, PartialEq)]
pub enum Encoding {
    /// One feature, `(x - mean) / std`.
    Number {
        /// Stands in for missing numbers.
        median: f64,
        /// Mean of the training rows, after the median stood in.
        mean: f64,
        /// Standard deviation of the same; 0 where they are all one value, which then becomes 0.
        std: f64,
    },
    /// One feature, the number itself; NaN where it is missing.
    Plain,
    /// One feature a word.
    OneHot {
        /// The words, sorted.
        words: Vec<String>,
        /// Whether the last feature says that the cell is missing.
        missing: bool,
    },
    /// One feature, `(share - mean) / std`.
    Frequency {
        /// Share of training rows with each word, in (0, 1].
        shares: BTreeMap<String, f64>,
        /// Mean of the training rows' shares.
        mean: f64,
        /// Standard deviation of the same; 0 where they are all one value, which then becomes 0.
        std: f64,
    },
}

/// Mean and population standard deviation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    pub(super) mean: f64,
    /// 0 for a constant, exactly.
    pub(super) std: f64,
}

impl Scale {
    /// Of the values that `values` yields each time it is called; of none, 0.
    pub(super) fn of<I: Iterator<Item = f64>>(values: impl Fn() -> I) -> Self {
        let (mut count, mut low, mut high) = (0_u64, f64::INFINITY, f64::NEG_INFINITY);
        for value in values() {
            count += 1;
            low = low.min(value);
            high = high.max(value);
        }
        if count == 0 || low == high {
            return Self { mean: if count == 0 { 0.0 } else { low }, std: 0.0 };
        }
        // In units of the largest magnitude neither sum nor square can overflow.
        let unit = low.abs().max(high.abs());
        let mean = values().map(|value| value / unit).sum::<f64>() / count as f64;
        let variance = values().map(|value| (value / unit - mean).powi(2)).sum::<f64>() / count as f64;
        Self { mean: mean * unit, std: variance.sqrt() * unit }
    }

    /// `value` in deviations from the mean, always finite.
    pub(super) fn apply(self, value: f64) -> f32 {
        if self.std == 0.0 {
            return 0.0;
        }
        let scaled = (value - self.mean) / self.std;
        scaled.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
    }
}

impl Encoding {
    /// Number of features.
    pub fn width(&self) -> usize {
        match self {
            Self::Number { .. } | Self::Plain | Self::Frequency { .. } => 1,
            Self::OneHot { words, missing } => words.len() + usize::from(*missing),
        }
    }
}

impl Preprocessor {
    /// Number of features of a row.
    pub fn width(&self) -> usize {
        self.columns.iter().map(|column| column.encoding.width()).sum()
    }

    /// Name of each feature.
    pub fn feature_names(&self) -> Vec<String> {
        let mut names = Vec::with_capacity(self.width());
        for FeatureColumn { name, encoding } in &self.columns {
            match encoding {
                Encoding::Number { .. } | Encoding::Plain | Encoding::Frequency { .. } => {
                    names.push(name.clone())
                }
                Encoding::OneHot { words, missing } => {
                    names.extend(words.iter().map(|word| format!("{name}={word}")));
                    names.extend(missing.then(|| format!("{name}=(missing)")));
                }
            }
        }
        names
    }

    /// Fits all columns of `table` but number `target` on `rows`, for features in `form`.
    ///
    /// # Errors
    /// `check` says to stop.
    pub(super) fn fit(
        table: &Table,
        target: usize,
        rows: &[u32],
        form: FeatureForm,
        check: Check<'_>,
    ) -> Result<(Self, Notes), DataError> {
        let (mut columns, mut notes) = (Vec::new(), Notes::default());
        for (index, column) in table.columns.iter().enumerate() {
            if index == target {
                continue;
            }
            check()?;
            let fitted = if is_row_numbers(column, index, table.rows) {
                Err(ROW_NUMBERS)
            } else {
                fit_column(column, rows, form)
            };
            match fitted {
                Ok(encoding) => columns.push(FeatureColumn { name: column.name.clone(), encoding }),
                Err(why) => notes.add(why, shown(&column.name)),
            }
        }
        Ok((Self { columns }, notes))
    }
}

const EMPTY: &str = "columns left out, without a value in the training rows";
const CONSTANT: &str = "columns left out, with one word in all training rows";
const IDS: &str = "columns left out, with a different word in nearly every row, as ids have";
const TOO_MANY: &str = "columns left out, with more than 100000 different words";

const ROW_NUMBERS: &str = "columns left out, without a name and with the numbers of the rows";

/// Whether column number `index` had no name and counts the rows.
fn is_row_numbers(column: &Column, index: usize, rows: u32) -> bool {
    let first = column.values.number(0);
    column.name == table::unnamed(index)
        && (0..rows).all(|row| column.values.number(row) == first + f64::from(row))
}

/// The encoding of `column`, or why it has none.
fn fit_column(column: &Column, rows: &[u32], form: FeatureForm) -> Result<Encoding, &'static str> {
    let encoding = match &column.values {
        Values::Empty => Err(EMPTY),
        Values::TooManyWords => Err(TOO_MANY),
        Values::Words(words) => fit_words(words, rows),
        Values::Single(_) | Values::Double(_) => fit_numbers(&column.values, rows),
    }?;
    Ok(match (form, encoding) {
        (FeatureForm::Raw, Encoding::Number { .. }) => Encoding::Plain,
        // Shares compare as they are.
        (FeatureForm::Raw, Encoding::Frequency { shares, .. }) => {
            Encoding::Frequency { shares, mean: 0.0, std: 1.0 }
        }
        (_, encoding) => encoding,
    })
}

fn fit_numbers(values: &Values, rows: &[u32]) -> Result<Encoding, &'static str> {
    let present = rows.iter().map(|row| values.number(*row)).filter(|value| !value.is_nan()).collect();
    let median = median(present).ok_or(EMPTY)?;
    let Scale { mean, std } = Scale::of(|| rows.iter().map(|row| or(values.number(*row), median)));
    Ok(Encoding::Number { median, mean, std })
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    let even = values.len().is_multiple_of(2);
    let (below, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *upper;
    let lower = if even { below.iter().copied().max_by(f64::total_cmp).unwrap_or(upper) } else { upper };
    Some(lower / 2.0 + upper / 2.0)
}

pub(super) fn or(value: f64, otherwise: f64) -> f64 {
    if value.is_nan() { otherwise } else { value }
}

fn fit_words(words: &Words, rows: &[u32]) -> Result<Encoding, &'static str> {
    let mut counts = vec![0_u32; words.words.len()];
    let mut present = 0_usize;
    for row in rows {
        let code = words.codes.get(*row as usize).unwrap_or(MISSING);
        if let Some(count) = counts.get_mut(code as usize) {
            *count += 1;
            present += 1;
        }
    }
    let seen = || words.words.iter().zip(&counts).filter(|(_, count)| **count > 0);
    let (distinct, missing) = (seen().count(), present < rows.len());
    match distinct {
        0 => Err(EMPTY),
        1 if !missing => Err(CONSTANT),
        // By ten, to stay with whole numbers: more than nine of ten have a word of their own.
        _ if present > ID_ROWS && distinct * 10 > present * 9 => Err(IDS),
        _ if distinct <= MAX_ONE_HOT => {
            let mut words: Vec<String> = seen().map(|(word, _)| word.to_string()).collect();
            words.sort_unstable();
            Ok(Encoding::OneHot { words, missing })
        }
        _ => {
            let share = |count: u32| f64::from(count) / rows.len() as f64;
            let shares_by_code: Vec<f64> = counts.iter().map(|count| share(*count)).collect();
            let of_row = |row: &u32| {
                let code = words.codes.get(*row as usize).unwrap_or(MISSING);
                shares_by_code.get(code as usize).copied().unwrap_or(0.0)
            };
            let Scale { mean, std } = Scale::of(|| rows.iter().map(of_row));
            let shares = seen().map(|(word, count)| (word.to_string(), share(*count))).collect();
            Ok(Encoding::Frequency { shares, mean, std })
        }
    }
}
