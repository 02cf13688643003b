//! Where data comes from: a dataset_path to a table.
//!
//! ```text
//! dataset_path --parse--> Source::Builtin ---------------\
//!                     \-> Source::File (under DATA_ROOT) --> Content --decode--> Table
//!                     \-> Source::Synthetic ------------------------------------/
//! ```

use std::path::{Path, PathBuf};

use super::content::{Content, Opened};
use super::decode::decode;
use super::error::DataError;
use super::synthetic::{self, Recipe};
use super::table::Table;
use super::{Check, Config, file};
use crate::domain::{InvalidField, masked_path};

/// A data set that is compiled into the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Builtin {
    /// Its name after `builtin:`.
    pub name: &'static str,
    bytes: &'static [u8],
}

macro_rules! builtin {
    ($name:literal) => {
        Builtin {
            name: $name,
            bytes: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/data/", $name, ".csv")),
        }
    };
}

impl Builtin {
    /// All of them; data/README.md gives their sources.
    pub const ALL: [Self; 4] =
        [builtin!("digits"), builtin!("iris"), builtin!("wine"), builtin!("breast_cancer")];

    /// The CSV itself.
    pub const fn bytes(self) -> &'static [u8] {
        self.bytes
    }
}

/// Where a data set comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Compiled in.
    Builtin(Builtin),
    /// A file under DATA_ROOT.
    File {
        /// The dataset_path as it was given.
        path: String,
        /// Relative to DATA_ROOT; its `..` never climb above it.
        relative: PathBuf,
    },
    /// Made up.
    Synthetic(Recipe),
}

impl Source {
    /// Reads `dataset_path`. Nothing is touched on disk.
    ///
    /// # Errors
    /// An unknown scheme or built-in set, bad parameters, an empty path, a way out of `config.root`.
    pub fn parse(path: &str, config: &Config) -> Result<Self, DataError> {
        let invalid = || DataError::Invalid(InvalidField::new("dataset_path", masked_path(path), allowed()));
        if path.trim().is_empty() || path.contains('\0') {
            return Err(invalid());
        }
        match scheme(path) {
            Some(("builtin", name)) => {
                Builtin::ALL.into_iter().find(|set| set.name == name).map(Self::Builtin).ok_or_else(invalid)
            }
            Some(("synthetic", recipe)) => Ok(Self::Synthetic(Recipe::parse(recipe, path, config)?)),
            Some(_) => Err(invalid()),
            None => {
                let relative = file::beneath(Path::new(path), &config.root)
                    .ok_or_else(|| DataError::OutsideRoot { path: path.to_owned() })?;
                Ok(Self::File { path: path.to_owned(), relative })
            }
        }
    }

    /// Reads or makes all of it. `target` is the name of the target column; the last one where absent.
    ///
    /// # Errors
    /// There is no such data, it cannot be read, it is not what is read here, a limit of `config` is passed, or
    /// `check` says to stop.
    pub(super) fn read(
        self,
        target: Option<&str>,
        config: &Config,
        check: Check<'_>,
    ) -> Result<Table, DataError> {
        let opened = match self {
            Self::Synthetic(recipe) => return recipe.table(config, check),
            Self::Builtin(set) => {
                Opened { path: format!("builtin:{}", set.name), content: Content::from(set.bytes) }
            }
            Self::File { path, relative } => {
                let file = file::open(&path, &relative, &config.root)?;
                Opened { path, content: Content::File(file) }
            }
        };
        decode(&opened, target, config, check)
    }
}

/// What a dataset_path may be.
fn allowed() -> String {
    let names = Builtin::ALL.map(|set| set.name).join(", ");
    format!("builtin:NAME ({names}), the path of a CSV file under DATA_ROOT, {}", synthetic::usage())
}

/// `http` and the rest of `http://…`; `None` for a path, whose first `/` comes before any `:`.
fn scheme(path: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = path.split_once(':')?;
    (!scheme.contains('/')).then_some((scheme, rest))
}
