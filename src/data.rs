//! Data: from a dataset_path to numbers that train.
//!
//! ```text
//! dataset_path --source--> bytes ----decode----> Table --prepare--> Dataset
//!              builtin:NAME       CSV, gzip, zstd      target, split, then fitted on the training part only:
//!              DATA_ROOT/...                           impute, encode, scale ([`Preprocessor`])
//!              synthetic:... ------------------->
//!              http(s)://, s3:// (through a cache on disk)
//! ```
//!
//! Invariants:
//! - Nothing outside of [`Config::root`] is read, whatever the path says and wherever links lead.
//! - Every limit of [`Config`] is checked before memory is taken for what exceeds it.
//! - The same bytes and options give the same [`Dataset`], bit for bit, on any number of threads.
//! - All figures of a [`Dataset`] are finite, but for missing ones in raw form, which are NaN; and no held-out row has
//!   touched a figure that was fitted.
//! - `check` is called at least every 65,536 cells read, so a cancelled task stops while it loads.
//!
//! Deliberately absent: minibatches and shuffling (the trainer's). A scheme is one arm of `source`, a format one
//! function of `decode`.

mod cells;
mod content;
mod dataset;
mod decode;
mod encode;
mod error;
mod file;
mod prepare;
mod preprocess;
pub mod remote;
mod source;
mod split;
mod synthetic;
mod table;
mod target;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::domain::{Problem, TaskError, masked_path};

pub use dataset::{Dataset, Part, TargetKind, Targets};
pub use error::{DataError, Malformed, RemoteProblem};
pub use preprocess::{Encoding, FeatureColumn, Preprocessor};
pub use remote::Remote;
pub use source::{Builtin, Source};
pub use synthetic::Recipe;
pub use table::Table;

/// Where data may come from, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Local data sets must resolve inside of this folder.
    pub root: PathBuf,
    /// Largest file, in bytes as it lies on disk.
    pub max_bytes: u64,
    /// Most that a compressed file may hold, in bytes.
    pub max_unpacked_bytes: u64,
    /// Most rows, header not counted.
    pub max_rows: u32,
    /// Most columns, target included.
    pub max_columns: usize,
    /// Most cells (rows times columns), in the file and once more after encoding.
    pub max_cells: u64,
    /// Most memory for the columns as they were read and the features made of them, in bytes.
    pub max_memory_bytes: u64,
    /// Which data of other machines may be fetched.
    pub remote: Remote,
    /// Where it is kept.
    pub cache: remote::Cache,
}

impl Config {
    /// Data under `root`, at most 4 GiB (16 GiB once it is decompressed), 20 million rows, 10,000 columns and 500 million cells of it, in at most
    /// 4 GiB of memory, and none of other machines.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            max_bytes: 4 << 30,
            max_unpacked_bytes: 16 << 30,
            max_rows: 20_000_000,
            max_columns: 10_000,
            max_cells: 500_000_000,
            max_memory_bytes: 4 << 30,
            remote: Remote::default(),
            cache: remote::Cache::new("state/cache/data"),
        }
    }

    /// As [`Self::new`], but with half of `memory_bytes`, the memory of the machine; 0 where that is not known.
    pub fn for_machine(root: impl Into<PathBuf>, memory_bytes: u64) -> Self {
        let config = Self::new(root);
        match memory_bytes {
            0 => config,
            _ => Self { max_memory_bytes: memory_bytes / 2, ..config },
        }
    }
}

/// What a task wants of its data set.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadOptions {
    /// Name of the target column; the last one where absent.
    pub target: Option<String>,
    /// What the target is.
    pub problem: Problem,
    /// Share of the rows to hold out, in [0, 0.9]; 0 holds none out.
    pub validation_split: f64,
    /// Decides which rows are held out.
    pub seed: u64,
    /// The form of the features.
    pub features: FeatureForm,
}

/// In which form features are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FeatureForm {
    /// Numbers are standardised, missing ones take the median: for models that add features up.
    #[default]
    Standardised,
    /// Numbers as the file has them, missing ones NaN: for models that compare each feature with thresholds.
    Raw,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            target: None,
            problem: Problem::Auto,
            validation_split: 0.2,
            seed: 0,
            features: FeatureForm::default(),
        }
    }
}

/// Asked now and then whether to go on; an error ends the work with it.
pub type Check<'a> = &'a dyn Fn() -> Result<(), TaskError>;

/// Finds, reads and prepares the data set at `path`, a dataset_path as a task gives it.
///
/// # Errors
/// [`DataError`] says what is wrong with the path, the file or the target; [`DataError::Stopped`] carries the
/// reason of `check`.
pub fn load(
    path: &str,
    options: &LoadOptions,
    config: &Config,
    check: Check<'_>,
) -> Result<Dataset, DataError> {
    check()?;
    let table = Source::parse(path, config)?.read(options.target.as_deref(), config, check)?;
    prepare::prepare(&masked_path(path), table, options, &prepare::Limits { config, check })
}
