//! Writes checkpoints on threads of their own, so that a disk that hangs keeps no training from going on.
//!
//! ```text
//! session --bytes--> thread: number, write, rename, remove the oldest --> saved, or why not
//!    |                  |
//!    +--waits for 10 s--+--not back by then: without this one, and without another before it is back
//! ```

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use super::{Checkpoint, KEPT, Store, write_whole};
use crate::domain::JobId;
use crate::failpoint;

/// How long a session waits for its checkpoint: as long as the worker waits before it says that the disk hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sessions of which a checkpoint is being written, and jobs that are being settled.
#[derive(Debug, Clone, Default)]
pub(super) struct UnderWay(Arc<Mutex<BTreeSet<(JobId, String)>>>);

/// One of them; no longer when dropped.
pub(super) struct Saving {
    all: UnderWay,
    session: (JobId, String),
}

impl UnderWay {
    /// None while the one before is not done.
    pub(super) fn begin(&self, job: &JobId, session: &str) -> Option<Saving> {
        let session = (job.clone(), session.to_owned());
        let new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(session.clone());
        new.then(|| Saving { all: self.clone(), session })
    }

    /// Whether what is on disk of it may still change.
    pub(super) fn has(&self, job: &JobId, session: &str) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().any(|(of, name)| of == job && name == session)
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.session);
    }
}

/// What is said of a disk that does not answer.
pub(super) fn hangs() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the disk of STATE_DIR/checkpoints does not answer")
}

impl Store {
    /// Saves `checkpoint` as the newest one of `session`.
    ///
    /// # Errors
    /// The disk's; it does not answer.
    pub(in crate::engine) fn save(
        &self,
        job: &JobId,
        session: &str,
        checkpoint: &Checkpoint,
    ) -> io::Result<()> {
        self.save_within(PATIENCE, job, session, checkpoint)
    }

    fn save_within(
        &self,
        patience: Duration,
        job: &JobId,
        session: &str,
        checkpoint: &Checkpoint,
    ) -> io::Result<()> {
        let bytes = checkpoint.encode()?;
        let saving = self.under_way.begin(job, session).ok_or_else(hangs)?;
        let store = Self::at(&self.state_dir);
        let (tell, told) = mpsc::channel();
        thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
            let saved = store.write(&saving.session.0, &saving.session.1, &bytes);
            // Before anybody hears of it, who may save the next one at once.
            drop(saving);
            // Whoever waited may have given it up.
            let _ = tell.send(saved);
        })?;
        told.recv_timeout(patience).unwrap_or_else(|_| Err(hangs()))
    }

    fn write(&self, job: &JobId, session: &str, bytes: &[u8]) -> io::Result<()> {
        failpoint::hang("checkpoint-hangs");
        let before = self.of_session(job, session);
        let number = before.first().map_or(0, |(number, _)| number + 1);
        write_whole(&self.folder(job), &format!("{session}.{number}"), bytes)?;
        for (_, path) in before.iter().skip(KEPT - 1) {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_disk_that_hangs_costs_checkpoints_until_it_answers() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path());
        let (job, other) = (JobId::parse("j").unwrap(), JobId::parse("other").unwrap());
        let checkpoint = Checkpoint {
            data: String::new(),
            completed: Vec::new(),
            model_name: "model.json".to_owned(),
            model: bytes::Bytes::new(),
            state: vec![7],
        };
        let newest = |job| store.newest::<String>(job, &["s".to_owned()], |_| Ok(()));
        store.save(&job, "s", &checkpoint).unwrap();
        assert!(newest(&job).unwrap().is_some());
        // Whoever opens it for writing waits until somebody reads.
        let pipe = store.folder(&job).join("s.1.part");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let hung = store.save_within(Duration::from_millis(10), &job, "s", &checkpoint).unwrap_err();
        assert_eq!(hung.kind(), io::ErrorKind::TimedOut);
        let still = store.save(&job, "s", &checkpoint).unwrap_err();
        assert_eq!(still.kind(), io::ErrorKind::TimedOut, "no second thread waits for the same disk");
        assert!(
            newest(&job).unwrap_err().contains("does not answer"),
            "what is there may change at any time"
        );
        store.save(&other, "s", &checkpoint).unwrap();
        let reader = File::open(&pipe).unwrap();
        while store.under_way.has(&job, "s") {
            thread::yield_now();
        }
        drop(reader);
        std::fs::remove_file(&pipe).unwrap();
        store.save(&job, "s", &checkpoint).unwrap();
        assert!(newest(&job).unwrap().is_some());
    }
}
