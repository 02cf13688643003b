//! The room as its users see it: files in a folder, [`load`], figures.

mod features;
mod files;
mod fuzz;
mod mutations;
mod packed;
#[cfg(feature = "parquet")]
mod parquet_files;
mod paths;
#[cfg(feature = "remote")]
mod remote;
mod synthetic;
mod targets;

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::domain::ErrorCode;

/// A DATA_ROOT of its own.
struct Root(TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(name: &str, content: impl AsRef<[u8]>) -> Self {
        let root = Self::new();
        root.write(name, content);
        root
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn config(&self) -> Config {
        Config::new(self.path())
    }

    fn load(&self, path: &str, options: &LoadOptions) -> Result<Dataset, DataError> {
        load(path, options, &self.config(), &|| Ok(()))
    }
}

/// Nothing held out.
fn all() -> LoadOptions {
    LoadOptions { validation_split: 0.0, ..LoadOptions::default() }
}

fn load_csv(content: &str, options: &LoadOptions) -> Result<Dataset, DataError> {
    Root::with("t.csv", content).load("t.csv", options)
}

/// The error of loading `content`, checked for its code and for the words that must be in it.
fn refused(content: impl AsRef<[u8]>, options: &LoadOptions, code: ErrorCode, words: &[&str]) {
    let error = Root::with("t.csv", content).load("t.csv", options).unwrap_err();
    expect(error, code, words);
}

fn expect(error: DataError, code: ErrorCode, words: &[&str]) {
    let error = TaskError::from(error);
    assert_eq!(error.code, code, "{error}");
    for word in words {
        assert!(error.message.contains(word), "{word:?} is not in {:?}", error.message);
    }
}

/// Feature number `feature` of each row of `part`.
fn feature(dataset: &Dataset, part: &Part, feature: usize) -> Vec<f32> {
    part.features.chunks(dataset.width()).map(|row| row[feature]).collect()
}

fn class_ids(part: &Part) -> &[u32] {
    match &part.targets {
        Targets::Classes(ids) => ids,
        Targets::Values(_) => panic!("values where classes were expected"),
    }
}

fn labels(dataset: &Dataset) -> &[String] {
    match &dataset.target {
        TargetKind::Classes { labels } => labels,
        TargetKind::Value { .. } => panic!("a number where classes were expected"),
    }
}
