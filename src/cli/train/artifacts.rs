//! The files that `train --out DIR` leaves: each is whole or not there.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::cli::Failure;

/// A folder that files go into.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// The folder at `path`, made where it is missing.
    ///
    /// # Errors
    /// It cannot be made, or is none.
    pub(super) fn open(path: PathBuf) -> Result<Self, Failure> {
        match fs::create_dir_all(&path) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(Failure::Write { path, source }),
        }
    }

    /// Puts `content` there as `name`, in place of an older one. Nobody ever sees a part of it.
    ///
    /// # Errors
    /// It cannot be written; an older file is then as it was.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<(), Failure> {
        let path = self.0.join(name);
        let temporary = self.0.join(format!(".{name}.{}", Uuid::new_v4()));
        let written = write_through(&temporary, content).and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|source| {
            // What stays behind has a name of its own and harms nobody; the first error counts.
            let _ = fs::remove_file(&temporary);
            Failure::Write { path, source }
        })
    }
}

fn write_through(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create_new(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let folder = Folder::open(path.clone()).unwrap();
        folder.write("metrics.json", b"old").unwrap();
        folder.write("metrics.json", b"new").unwrap();
        assert_eq!(fs::read(path.join("metrics.json")).unwrap(), b"new");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Folder::open(file.join("below")).unwrap_err();
        assert!(error.to_string().contains("file/below"), "{error}");
        assert_eq!(error.exit_code(), 3);
    }
}
