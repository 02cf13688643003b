//! Sessions that were lost with what they had learned, so that a job that comes back is told.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::Key;
use crate::domain::JobId;

/// Most sessions that are remembered; the oldest are forgotten first.
const REMEMBERED: usize = 1024;

/// Why a session is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Loss {
    /// Its trainer panicked, so that nobody knows in which state it is.
    Panic,
    /// Its GPU was lost.
    Device,
    /// The process that it was in crashed.
    Crash,
    /// It was idle and others needed the room, or it was idle for long.
    Evicted,
}

impl Loss {
    /// Its number between worker and runner; 0 is none.
    pub(in crate::engine) fn number(self) -> u32 {
        match self {
            Self::Evicted => 1,
            Self::Crash => 2,
            Self::Panic => 3,
            Self::Device => 4,
        }
    }

    /// The loss of that number.
    pub(in crate::engine) fn from_number(number: u32) -> Option<Self> {
        [Self::Evicted, Self::Crash, Self::Panic, Self::Device]
            .into_iter()
            .find(|loss| loss.number() == number)
    }
}

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Lost {
    sessions: Mutex<VecDeque<(Key, Loss)>>,
    /// Jobs whose sessions were in another process: which ones, nobody knows here.
    jobs: Mutex<VecDeque<(JobId, Loss)>>,
}

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

    /// Remembers that what `job` had in another process is gone.
    pub(super) fn remember_job(&self, job: &JobId, loss: Loss) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|(other, _)| other != job);
        if jobs.len() == REMEMBERED {
            jobs.pop_front();
        }
        jobs.push_back((job.clone(), loss));
    }

    /// Why the session of `key` is gone, if it was there once; it is not remembered any longer.
    pub(super) fn take(&self, key: &Key) -> Option<Loss> {
        let of_session = self.with(|lost| {
            let place = lost.iter().position(|(other, _)| other == key)?;
            lost.remove(place).map(|(_, loss)| loss)
        });
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let place = jobs.iter().position(|(job, _)| *job == key.job);
        let of_job = place.and_then(|place| jobs.remove(place)).map(|(_, loss)| loss);
        of_session.or(of_job)
    }

    /// Forgets the sessions of a job that has ended.
    pub(super) fn forget(&self, job: &JobId) {
        self.with(|lost| lost.retain(|(key, _)| key.job != *job));
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).retain(|(other, _)| other != job);
    }

    fn with<T>(&self, work: impl FnOnce(&mut VecDeque<(Key, Loss)>) -> T) -> T {
        work(&mut self.sessions.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Loss {
    /// What the sender of the next task is told; `from` says where the session starts now.
    pub(super) fn note(self, from: &str) -> String {
        let why = match self {
            Self::Panic => "was lost to a panic of its trainer",
            Self::Device => "was lost with its GPU",
            Self::Crash => "was lost with the process that it was in",
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
        assert_eq!(lost.sessions.lock().unwrap().len(), REMEMBERED - 3);
    }
}
