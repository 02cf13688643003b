//! What can be wrong with a configuration.

use std::fmt;
use std::path::PathBuf;

use super::{Source, Variable, nearest};
use crate::domain::InvalidField;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A variable has a value that it does not take.
    #[error("{} ({from}): {}", invalid.field, says(invalid))]
    Invalid {
        /// Name, value (masked when secret) and what is allowed.
        invalid: InvalidField,
        /// Where the value came from.
        from: Source,
    },
    /// The file has a key that nobody knows.
    #[error("{key} (file {}): unknown{}", file.display(), hint(key))]
    UnknownKey {
        /// The key.
        key: String,
        /// The file.
        file: PathBuf,
    },
    /// The file says one thing twice.
    #[error("{key} (file {}): means the same as {other}; only one of them may be set", file.display())]
    Repeated {
        /// The key.
        key: String,
        /// The key that came before it.
        other: String,
        /// The file.
        file: PathBuf,
    },
    /// The file cannot be read.
    #[error("--config {}: {reason}; allowed: the path of a readable TOML file", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// What stands in for a secret.
pub(super) const MASK: &str = "********";

impl Problem {
    /// `variable` has a value that it does not take; allowed is what the table says.
    pub(super) fn invalid(variable: &Variable, value: &str, source: &Source) -> Self {
        Self::not_allowed(variable, value, source, variable.takes)
    }

    /// As [`Self::invalid`], with words of its own for what is allowed.
    pub(super) fn not_allowed(variable: &Variable, value: &str, source: &Source, allowed: &str) -> Self {
        let shown = super::show::shown(variable, value);
        let mut allowed = allowed.to_owned();
        if value.starts_with("tcp://") && variable.name.ends_with("_PORT") {
            allowed.push_str(
                "; the value looks like a service link of Kubernetes: set enableServiceLinks: false, or the \
                 variable itself",
            );
        }
        Self::Invalid { invalid: InvalidField::new(variable.name, shown, allowed), from: source.clone() }
    }

    /// The variable or key that is concerned.
    pub fn subject(&self) -> &str {
        match self {
            Self::Invalid { invalid, .. } => &invalid.field,
            Self::UnknownKey { key, .. } | Self::Repeated { key, .. } => key,
            Self::File { .. } => "--config",
        }
    }

    /// Where the value came from, in words.
    pub fn origin(&self) -> String {
        match self {
            Self::Invalid { from, .. } => from.to_string(),
            Self::UnknownKey { file, .. } | Self::Repeated { file, .. } | Self::File { file, .. } => {
                Source::File(file.clone()).to_string()
            }
        }
    }
}

fn says(invalid: &InvalidField) -> String {
    format!("\"{}\" is not allowed; allowed: {}", invalid.value, invalid.allowed)
}

fn hint(key: &str) -> String {
    nearest(key).map(|known| format!("; did you mean {known}?")).unwrap_or_default()
}

/// Everything that is wrong, one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Problem>);

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} {} in the configuration:", if count == 1 { "error" } else { "errors" })?;
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}
