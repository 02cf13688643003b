//! Data: from a dataset_path to numbers that train.
//!
//! ```text
//! dataset_path --source--> bytes --decode--> Table --prepare--> Dataset (encoded, imputed, split, scaled)
//! ```

use std::path::PathBuf;

/// Where data may come from, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Local data sets must resolve inside of this folder.
    pub root: PathBuf,
}
