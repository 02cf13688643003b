//! What training gets: two parts of finished numbers, and what they mean.

use sha2::{Digest as _, Sha256};

use super::Preprocessor;

/// A data set that is ready to train on.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The dataset_path it came from.
    pub path: String,
    /// Name of each feature, in the order of [`Part::features`]: the column's, or `COLUMN=VALUE` of a one-hot one.
    pub feature_names: Vec<String>,
    /// Name of the target column.
    pub target_name: String,
    /// What the target is.
    pub target: TargetKind,
    /// The rows to train on; never empty.
    pub train: Part,
    /// The rows held out; empty where validation_split is 0.
    pub validation: Part,
    /// For regression the target of each held-out row as the file has it; empty for classes.
    pub held_out_numbers: Vec<f64>,
    /// How features were made of columns; applies to new rows too.
    pub preprocessor: Preprocessor,
    /// What its owner should know: rows that were dropped, columns that were left out.
    pub notes: Vec<String>,
}

/// What the target is.
#[derive(Debug, Clone, PartialEq)]
pub enum TargetKind {
    /// Classes; the id of a class is its place in `labels`.
    Classes {
        /// At least two, sorted: by number where all are numbers, else by text.
        labels: Vec<String>,
    },
    /// A number, standardised: a value `v` of [`Targets::Values`] stands for `v * std + mean`.
    Value {
        /// Mean over the training part.
        mean: f64,
        /// Standard deviation over the training part, above 0.
        std: f64,
    },
}

/// Some rows of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Index in the file of each row, ascending, from 0, header not counted.
    pub rows: Vec<u32>,
    /// Row-major, `rows.len()` times the number of features; all finite, but for missing numbers in raw form, which are NaN.
    pub features: Vec<f32>,
    /// One a row.
    pub targets: Targets,
}

/// Targets of some rows, in their order.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Class ids, each below the number of labels.
    Classes(Vec<u32>),
    /// Standardised values.
    Values(Vec<f32>),
}

impl Targets {
    /// None of this kind.
    pub fn none(&self) -> Self {
        match self {
            Self::Classes(_) => Self::Classes(Vec::new()),
            Self::Values(_) => Self::Values(Vec::new()),
        }
    }

    /// Makes these those of `rows` of `all`, which are of the same kind; the room is used again.
    pub fn replace(&mut self, all: &Self, rows: &[u32]) {
        fn pick<T: Copy>(own: &mut Vec<T>, all: &[T], rows: &[u32]) {
            own.clear();
            own.extend(rows.iter().filter_map(|row| all.get(*row as usize).copied()));
        }
        match (self, all) {
            (Self::Classes(own), Self::Classes(all)) => pick(own, all, rows),
            (Self::Values(own), Self::Values(all)) => pick(own, all, rows),
            (own, all) => {
                *own = all.none();
                own.replace(all, rows);
            }
        }
    }
}

impl Dataset {
    /// Number of features of a row, at least one.
    pub fn width(&self) -> usize {
        self.feature_names.len()
    }

    /// Number of classes; `None` for regression.
    pub fn classes(&self) -> Option<usize> {
        match &self.target {
            TargetKind::Classes { labels } => Some(labels.len()),
            TargetKind::Value { .. } => None,
        }
    }

    /// A digest of all that training sees of it.
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(format!("{:?} {:?} {}\n", self.feature_names, self.target, self.target_name));
        for part in [&self.train, &self.validation] {
            digest_of(&mut digest, &part.rows, |row| row.to_le_bytes());
            digest_of(&mut digest, &part.features, |value| value.to_le_bytes());
            match &part.targets {
                Targets::Classes(ids) => digest_of(&mut digest, ids, |id| id.to_le_bytes()),
                Targets::Values(values) => digest_of(&mut digest, values, |value| value.to_le_bytes()),
            }
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Memory that its figures take, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let parts = [&self.train, &self.validation];
        let figures = parts.iter().map(|part| part.rows.len() + part.features.len() + part.targets.len());
        4 * figures.sum::<usize>() + 8 * self.held_out_numbers.len()
    }
}

/// Adds `values` and how many they are to `digest`, some at a time.
fn digest_of<T: Copy>(digest: &mut Sha256, values: &[T], bytes: impl Fn(T) -> [u8; 4]) {
    digest.update((values.len() as u64).to_le_bytes());
    for some in values.chunks(4096) {
        digest.update(some.iter().copied().flat_map(&bytes).collect::<Vec<u8>>());
    }
}

impl Part {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Targets {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Classes(ids) => ids.len(),
            Self::Values(values) => values.len(),
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Collects notes; many of one kind become one line, so that a wide table cannot flood a report.
#[derive(Debug, Default)]
pub(super) struct Notes {
    groups: Vec<(&'static str, Vec<String>)>,
}

/// Most items of one kind that a note lists.
const LISTED: usize = 5;

impl Notes {
    /// Adds `item` under `heading`.
    pub(super) fn add(&mut self, heading: &'static str, item: String) {
        match self.groups.iter_mut().find(|(known, _)| *known == heading) {
            Some((_, items)) => items.push(item),
            None => self.groups.push((heading, vec![item])),
        }
    }

    /// One line a heading.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        self.groups.iter().map(|(heading, items)| {
            let listed = items.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
            match items.len().checked_sub(LISTED) {
                None | Some(0) => format!("{heading}: {listed}"),
                Some(more) => format!("{heading}: {listed} and {more} more"),
            }
        })
    }
}
