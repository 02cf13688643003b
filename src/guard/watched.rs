//! A value that is read from files, and again when they change.
//!
//! Looked at when the value is asked for, at most once a second: no thread, and whatever mechanism replaces the files
//! (a rename, a write in place, the switched link of a mounted Kubernetes secret) is noticed alike. What cannot be
//! used, such as a certificate whose key has not been replaced yet, is tried again at the next look.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::SecretFile;
use crate::domain::InvalidField;

/// Between two looks at the files.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What changes when a file does: device, inode, length, and times of change in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(u64, u64, u64, i64, i64, i64, i64);

fn stamp(path: &PathBuf) -> Option<Stamp> {
    let about = fs::metadata(path).ok()?;
    Some(Stamp(
        about.dev(),
        about.ino(),
        about.len(),
        about.mtime(),
        about.mtime_nsec(),
        about.ctime(),
        about.ctime_nsec(),
    ))
}

type Read<T> = Box<dyn Fn() -> Result<T, InvalidField> + Send + Sync>;

/// The value.
pub(super) struct Watched<T> {
    variable: &'static str,
    paths: Vec<PathBuf>,
    read: Read<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    stamps: Vec<Option<Stamp>>,
    looked: Instant,
    /// What was wrong at the last look, so that it is said once.
    complaint: Option<String>,
}

impl<T> Watched<T> {
    /// Reads the value for the first time. Messages name the variable of the first file.
    ///
    /// # Errors
    /// What `read` says.
    pub(super) fn open(
        files: &[SecretFile],
        read: impl Fn() -> Result<T, InvalidField> + Send + Sync + 'static,
    ) -> Result<Self, InvalidField> {
        let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
        // Before reading, so that a change in between is seen at the next look.
        let stamps = paths.iter().map(stamp).collect();
        let value = Arc::new(read()?);
        let state = State { value, stamps, looked: Instant::now(), complaint: None };
        let variable = files.first().map_or("", |file| file.variable);
        Ok(Self { variable, paths, read: Box::new(read), state: Mutex::new(state) })
    }

    /// The value as the files have it, or as they last had it when they cannot be used now.
    pub(super) fn current(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK_INTERVAL {
            state.looked = Instant::now();
            self.look(&mut state);
        }
        Arc::clone(&state.value)
    }

    fn look(&self, state: &mut State<T>) {
        let stamps: Vec<_> = self.paths.iter().map(stamp).collect();
        if stamps == state.stamps {
            return;
        }
        match (self.read)() {
            Ok(value) => {
                tracing::info!(variable = self.variable, "read anew, since its file changed");
                state.value = Arc::new(value);
                state.stamps = stamps;
                state.complaint = None;
            }
            Err(error) => {
                let complaint = error.to_string();
                if state.complaint.as_ref() != Some(&complaint) {
                    tracing::warn!(
                        variable = self.variable,
                        %error,
                        "changed, but cannot be used; what was read before stays in force"
                    );
                    state.complaint = Some(complaint);
                }
            }
        }
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("paths", &self.paths).finish_non_exhaustive()
    }
}
