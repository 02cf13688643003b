//! Sessions that were lost with what they had learned, so that a job that comes back is told.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::Key;
use crate::domain::JobId;

/// Most sessions that are remembered; the oldest are forgotten first.
const REMEMBERED: usize = 1024;

/// Why a session is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its trainer panicked, so that nobody knows in which state it is.
    Panic,
    /// Its GPU was lost.
    Device,
    /// It was idle and others needed the room, or it was idle for long.
    Evicted,
}

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Lost(Mutex<VecDeque<(Key, Loss)>>);

impl Lost {
    /// Remembers that the session of `key` is gone.
    pub(super) fn remember(&self, key: &Key, loss: Loss) {
        self.with(|lost| {
            lost.retain(|(other, _)| other != key);
            if lost.len() == REMEMBERED {
                lost.pop_front();
            }
            lost.push_back((key.clone(), loss));
        });
    }

    /// Why the session of `key` is gone, if it was there once; it is not remembered any longer.
    pub(super) fn take(&self, key: &Key) -> Option<Loss> {
        self.with(|lost| {
            let place = lost.iter().position(|(other, _)| other == key)?;
            lost.remove(place).map(|(_, loss)| loss)
        })
    }

    /// Forgets the sessions of a job that has ended.
    pub(super) fn forget(&self, job: &JobId) {
        self.with(|lost| lost.retain(|(key, _)| key.job != *job));
    }

    fn with<T>(&self, work: impl FnOnce(&mut VecDeque<(Key, Loss)>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Loss {
    /// What the sender of the next task is told; `from` says where the session starts now.
    pub(super) fn note(self, from: &str) -> String {
        let why = match self {
            Self::Panic => "was lost to a panic of its trainer",
            Self::Device => "was lost with its GPU",
            Self::Evicted => "had to leave this worker while it was idle",
        };
        format!("the session {why} and has started again from {from}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Backend, Hyperparameters};

    fn key(job: usize) -> Key {
        Key {
            job: JobId::parse(&format!("job-{job}")).unwrap(),
            model: "mlp",
            dataset_path: "builtin:iris".to_owned(),
            backend: Backend::Cpu,
            hyperparameters: Hyperparameters::default(),
        }
    }

    #[test]
    fn what_was_lost_is_told_once_and_only_so_much_is_remembered() {
        let lost = Lost::default();
        for job in 0..=REMEMBERED {
            lost.remember(&key(job), Loss::Evicted);
        }
        lost.remember(&key(2), Loss::Panic);
        lost.forget(&JobId::parse("job-3").unwrap());
        let told = [0, 1, 1, 2, 3].map(|job| lost.take(&key(job)));
        assert_eq!(told, [None, Some(Loss::Evicted), None, Some(Loss::Panic), None]);
        assert_eq!(lost.0.lock().unwrap().len(), REMEMBERED - 3);
    }
}
