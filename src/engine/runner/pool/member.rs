//! One runner as the pool sees it.

use std::time::Instant;

use super::super::cause::Verdict;
use super::super::logs::{self, Context, Stray};
use super::super::process::Process;
use super::super::supervisor::Try;
use super::Lane;
use crate::domain::{JobId, TaskError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Starting,
    Ready,
    Leaving,
}

/// The task a runner works on.
pub(super) struct Current {
    pub(super) run: Try,
    /// Why it was told to stop.
    pub(super) reason: Option<TaskError>,
}

/// One runner.
pub(in super::super) struct Runner {
    pub(in super::super) process: Process,
    pub(super) lane: Lane,
    pub(super) phase: Phase,
    /// Jobs whose tasks come here.
    pub(super) jobs: Vec<JobId>,
    pub(super) warm: Vec<JobId>,
    pub(super) current: Option<Current>,
    /// When it is killed.
    pub(super) deadline: Option<Instant>,
    /// Whether it was ready once.
    pub(super) began: bool,
    /// Jobs that ended while it was at work.
    pub(super) forgotten: Vec<JobId>,
    /// Why it is to end, or was made to.
    pub(super) doom: Option<Verdict>,
    pub(super) last_words: Option<String>,
    /// The data folder that it may read.
    pub(super) root: Option<(u64, u64)>,
    pub(super) used: Instant,
}

impl Runner {
    /// Passes on what it logged.
    pub(in super::super) fn read_log(&mut self, scratch: &mut [u8]) {
        let identity = self.current.as_ref().map(|current| &current.run.task.identity);
        let context = Context {
            runner: self.process.id(),
            job_id: identity.map(|identity| identity.job_id.as_str()),
            task_id: identity.map(|identity| identity.task_id.as_str()),
        };
        let last_words = &mut self.last_words;
        self.process.read_errors(scratch, &mut |line| {
            if logs::pass_on(line, context) == Stray::Yes && !line.starts_with("note: ") {
                *last_words = Some(line.to_owned());
            }
        });
    }

    pub(super) fn is_idle(&self) -> bool {
        self.phase == Phase::Ready && self.current.is_none()
    }

    /// A job that has ended has it for as long as it works on it.
    pub(super) fn drop_forgotten(&mut self) {
        let current = self.current.as_ref().map(|current| &current.run.task.identity.job_id);
        let ended = |job: &JobId| self.forgotten.contains(job) && current != Some(job);
        self.jobs.retain(|job| !ended(job));
        self.forgotten.retain(|job| current == Some(job));
    }

    /// Lets it leave by itself, by `deadline`.
    pub(super) fn dismiss(&mut self, deadline: Instant) {
        self.phase = Phase::Leaving;
        self.deadline = Some(deadline);
        self.process.dismiss();
    }

    pub(super) fn kill(&mut self, verdict: Verdict) {
        self.phase = Phase::Leaving;
        self.deadline = None;
        self.doom.get_or_insert(verdict);
        self.process.kill();
    }
}
