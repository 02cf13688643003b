//! Files with credentials: read whole, bounded, and wiped from memory afterwards.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::domain::InvalidField;

/// Longest such file; a chain of certificates or a bundle of all public authorities stays far below.
const MAX_BYTES: u64 = 4 << 20;

/// A file, and the variable that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    pub(super) variable: &'static str,
    pub(super) path: PathBuf,
}

impl SecretFile {
    /// The file at `path` that `variable` names.
    pub fn new(variable: &'static str, path: &Path) -> Self {
        Self { variable, path: path.to_owned() }
    }

    /// The file that AUTH_TOKEN_FILE names.
    pub fn token(path: &Path) -> Self {
        Self::new("AUTH_TOKEN_FILE", path)
    }

    /// The error that says what would be right.
    pub(crate) fn invalid(&self, allowed: impl Into<String>) -> InvalidField {
        InvalidField::new(self.variable, self.path.to_string_lossy(), allowed)
    }

    /// All of it.
    ///
    /// # Errors
    /// It cannot be read, or is larger than any such file.
    pub(super) fn read(&self) -> Result<Zeroizing<Vec<u8>>, InvalidField> {
        let unreadable = |error: std::io::Error| self.invalid(format!("a readable text file ({error})"));
        let file = File::open(&self.path).map_err(unreadable)?;
        let about = file.metadata().map_err(unreadable)?;
        if !about.is_file() {
            return Err(self.invalid("a readable text file (this is none)"));
        }
        // Room for all of it at once: a buffer that grows leaves copies behind.
        let expected = usize::try_from(about.len().min(MAX_BYTES)).unwrap_or_default();
        let mut bytes = Zeroizing::new(Vec::with_capacity(expected + 1));
        let length = file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if length as u64 > MAX_BYTES {
            return Err(self.invalid(format!("a file of at most {MAX_BYTES} bytes")));
        }
        Ok(bytes)
    }
}
