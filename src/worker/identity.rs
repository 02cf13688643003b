//! Who the worker is, across restarts: an id in the state folder, and a lock on it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::WorkerError;
use crate::domain::WorkerId;

/// Held for as long as the worker lives; the system lets it go when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct StateLock {
    _file: File,
}

/// Makes the folder and locks it, so that two workers never share an outbox.
pub(super) fn lock(folder: &Path) -> Result<StateLock, WorkerError> {
    let in_folder = |source| WorkerError::StateDir { path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(in_folder)?;
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(folder.join("lock"))
        .map_err(in_folder)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(StateLock { _file: file }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(WorkerError::StateDirInUse { path: folder.to_owned() }),
        Err(error) => Err(in_folder(error.into())),
    }
}

/// The id kept in the folder; a new one is made and kept where there is none that can be read.
pub(super) fn kept(folder: &Path) -> io::Result<WorkerId> {
    let path = folder.join("worker-id");
    match fs::read_to_string(&path) {
        Ok(text) => match WorkerId::parse(text.trim()) {
            Ok(id) => return Ok(id),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the kept worker id cannot be read; making a new one")
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let id = uuid::Uuid::new_v4().to_string();
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, &path)?;
    File::open(folder)?.sync_all()?;
    WorkerId::parse(&id).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_survives_and_a_broken_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let first = kept(folder.path()).unwrap();
        assert_eq!(kept(folder.path()).unwrap(), first);
        fs::write(folder.path().join("worker-id"), "a b").unwrap();
        assert_ne!(kept(folder.path()).unwrap(), first);
    }

    #[test]
    fn a_folder_has_one_worker() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        assert!(matches!(lock(folder.path()), Err(WorkerError::StateDirInUse { .. })));
        drop(held);
        lock(folder.path()).unwrap();
    }
}
