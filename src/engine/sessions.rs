//! The sessions of all jobs: one thread each, tasks in order of arrival, the least used ones leave.
//!
//! ```text
//! submit --> table (key -> line) --> line: queue ==> thread "train-JOB": Session { data, model, optimizer }
//!                |                     ^ Control::stop takes a waiting task out and ends it at once
//!                +-- the line is closed: forget(job), nothing loaded, idle for 15 minutes, more than 16 idle,
//!                    more memory than allowed
//! ```
//!
//! A session is found by (job, model, data set, backend, hyperparameters). Tasks of one job that differ in one of
//! these get sessions of their own, so that nothing is ever mixed up; hyperparameter `backend` counts only by what
//! it was resolved to.
//!
//! Invariants: a closed line is not in the table and ends what it has before its thread leaves; only idle lines are
//! evicted, and never the one used last for want of room; no task is ended while a lock is held. The lock of the table
//! comes before that of a line.
//!
//! After each task a session leaves a checkpoint on disk, and one that comes back, after an eviction or in another
//! process, goes on from the newest. Where there is none it starts again from its first weights, and says so.

mod fault;
mod line;
mod lost;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use self::line::{Line, Surroundings};
pub(super) use self::lost::Loss;
use self::lost::Lost;
use super::cards::{Cards, NotPlaced, Reservation};
use super::checkpoints::{Store, session_name};
use super::session::SessionPlan;
use super::waiting::{self, Places, Unplaced, Waiting};
use super::{Control, Done, Finished};
use crate::data;
use crate::domain::{Backend, ErrorCode, Hyperparameters, JobId, TaskError, TaskSpec};

/// What idle sessions may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    /// Sessions that wait for their next task.
    pub idle: usize,
    /// Memory of all sessions, in bytes, estimated; idle ones leave when it is passed.
    pub memory_bytes: u64,
    /// How long a session may wait for its next task.
    pub idle_time: Duration,
}

impl Default for SessionLimits {
    /// 16 idle sessions, 2 GiB, 15 minutes.
    fn default() -> Self {
        Self { idle: 16, memory_bytes: 2 << 30, idle_time: Duration::from_secs(15 * 60) }
    }
}

impl SessionLimits {
    /// A quarter of `memory_bytes`, the physical memory of the machine.
    pub fn for_machine(memory_bytes: u64) -> Self {
        Self { memory_bytes: memory_bytes / 4, ..Self::default() }
    }
}

/// What tells sessions apart.
#[derive(Debug, Clone, PartialEq)]
struct Key {
    job: JobId,
    model: &'static str,
    dataset_path: String,
    backend: Backend,
    hyperparameters: Hyperparameters,
}

impl Key {
    fn new(job: &JobId, plan: &SessionPlan) -> Self {
        Self {
            job: job.clone(),
            model: plan.entry.name,
            dataset_path: plan.dataset_path.clone(),
            backend: plan.device.backend,
            hyperparameters: Hyperparameters { backend: None, ..plan.hyperparameters.clone() },
        }
    }
}

impl Key {
    /// The name of its checkpoints.
    fn session_name(&self) -> String {
        session_name(&self.description())
    }

    /// All of it, in words that do not change when a field comes to it.
    fn description(&self) -> String {
        let Self { job, model, dataset_path, backend, hyperparameters } = self;
        let (backend, settings) = (backend.name(), hyperparameters.identity());
        // The path is quoted, so that none looks like the line after it.
        format!("job={job}\nmodel={model}\ndataset={dataset_path:?}\nbackend={backend}\n{settings}")
    }
}

/// One task on its way to a session.
pub(crate) struct Submission {
    /// The task.
    pub(crate) task: Arc<TaskSpec>,
    /// Its control.
    pub(crate) control: Arc<Control>,
    /// Its end.
    pub(crate) done: Done,
}

struct Shared {
    lines: Mutex<Vec<Arc<Line>>>,
    lost: Arc<Lost>,
    limits: SessionLimits,
    data: data::Config,
    store: Option<Arc<Store>>,
    cards: Arc<Cards>,
    waiting: Mutex<Waiting>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Why there is no line.
enum Unopened {
    Wait(Box<SessionPlan>),
    Refused(TaskError),
}

/// All sessions.
pub(crate) struct Sessions(Arc<Shared>);

impl Sessions {
    /// No session yet.
    pub(crate) fn new(
        limits: SessionLimits,
        data: data::Config,
        store: Option<Arc<Store>>,
        cards: Arc<Cards>,
    ) -> Self {
        Self(Arc::new(Shared {
            lines: Mutex::default(),
            lost: Arc::default(),
            limits,
            data,
            store,
            cards,
            waiting: Mutex::default(),
            threads: Mutex::default(),
        }))
    }

    /// Queues a task at the session that `plan` describes; opens one where there is none, as soon as a GPU has room
    /// for it where it needs one.
    pub(crate) fn submit(&self, plan: SessionPlan, submission: Submission) {
        let behind = !self.0.has_line(&Key::new(&submission.task.identity.job_id, &plan))
            && waiting::anyone_waits(&*self.0);
        if behind && self.0.cards.are_needed_by(&plan.device) {
            // Those that wait for longer get the next room.
            return waiting::wait(&self.0, plan, submission);
        }
        if let Err(unplaced) = self.0.try_submit(plan, submission) {
            let (plan, submission) = *unplaced;
            waiting::wait(&self.0, plan, submission);
        }
    }

    /// What `job` had in another process is gone.
    pub(crate) fn lost(&self, job: &JobId, loss: Loss) {
        self.0.lost.remember_job(job, loss);
    }

    /// Ends all sessions and waits until they have put on disk what they had to.
    pub(crate) fn close(&self) {
        self.end();
        let threads = std::mem::take(&mut *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }

    /// Waiting tasks end as interrupted; running ones go on to their end.
    fn end(&self) {
        waiting::dismiss(&*self.0);
        let lines = std::mem::take(&mut *self.0.lock());
        for line in lines {
            line.close();
            for submission in line.take_all() {
                let reason = TaskError::new(ErrorCode::Interrupted, "the engine was closed");
                submission.done.finish(Finished { ending: Err(reason), notes: Vec::new() });
            }
        }
    }

    /// Jobs whose session is loaded.
    pub(crate) fn warm_jobs(&self) -> Vec<JobId> {
        let lines = self.0.lock();
        let mut jobs: Vec<JobId> =
            lines.iter().filter(|line| line.is_warm()).map(|line| line.key.job.clone()).collect();
        jobs.sort_unstable();
        jobs.dedup();
        jobs
    }

    /// Jobs whose session is loaded, or of which there are checkpoints.
    pub(crate) fn kept_jobs(&self) -> Vec<JobId> {
        let on_disk = self.0.store.as_ref().map(|store| store.jobs()).unwrap_or_default();
        on_disk.into_iter().chain(self.warm_jobs()).collect()
    }

    /// Closes the sessions of `job`; what they have queued still runs. One that leaves keeps its model before it removes the
    /// checkpoints.
    pub(crate) fn forget(&self, job: &JobId) {
        let mut none = true;
        self.0.lock().retain(|line| {
            let other = line.key.job != *job;
            if !other {
                none = false;
                line.end();
            }
            other
        });
        self.0.lost.forget(job);
        if let (true, Some(store)) = (none, &self.0.store) {
            store.forget_aside(job);
        }
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn has_line(&self, key: &Key) -> bool {
        self.lock().iter().any(|line| line.key == *key && line.is_usable())
    }

    /// A line on a device with room for it.
    fn place(self: &Arc<Self>, key: Key, plan: SessionPlan) -> Result<Arc<Line>, Unopened> {
        if !self.cards.are_needed_by(&plan.device) {
            return self.open(key, plan, None).map_err(Unopened::Refused);
        }
        match self.cards.reserve(&plan) {
            Ok((device, reservation)) => {
                let plan = SessionPlan { device, ..plan };
                self.open(key, plan, Some(reservation)).map_err(Unopened::Refused)
            }
            Err(NotPlaced::Wait) => Err(Unopened::Wait(Box::new(plan))),
            Err(NotPlaced::Never(error)) => Err(Unopened::Refused(error)),
        }
    }

    fn open(
        self: &Arc<Self>,
        key: Key,
        plan: SessionPlan,
        reservation: Option<Reservation>,
    ) -> Result<Arc<Line>, TaskError> {
        let name = format!("train-{}", key.job);
        let line = Arc::new(Line::new(key, plan, reservation));
        let (shared, work) = (Arc::downgrade(self), Arc::clone(&line));
        let around = Surroundings {
            data: self.data.clone(),
            lost: Arc::clone(&self.lost),
            store: self.store.clone(),
            idle_time: self.limits.idle_time,
            idle: Box::new(move || {
                if let Some(shared) = shared.upgrade() {
                    shared.evict();
                }
            }),
        };
        let thread = thread::Builder::new().name(name).spawn(move || work.run(&around));
        let thread = thread.map(|thread| {
            let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
            threads.retain(|thread| !thread.is_finished());
            threads.push(thread);
        });
        thread.map(|()| line).map_err(|error| {
            TaskError::new(
                ErrorCode::Unavailable,
                format!("a thread for the session could not start: {error}"),
            )
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes idle lines: those without a session, those that were idle for long, and then the least recently used
    /// until the limits are kept.
    fn evict(&self) {
        let mut lines = self.lock();
        lines.retain(|line| {
            let Some(since) = line.idle_since() else { return true };
            let long = since.elapsed() >= self.limits.idle_time;
            if line.is_warm() && !long {
                return true;
            }
            self.close(line);
            false
        });
        let mut idle: Vec<_> =
            lines.iter().filter_map(|line| Some((line.idle_since()?, Arc::clone(line)))).collect();
        idle.sort_by_key(|(since, _)| *since);
        let mut count = idle.len();
        let mut memory: u64 = lines.iter().map(|line| line.memory_bytes()).sum();
        for (_, line) in &idle {
            let fits = count <= self.limits.idle && memory <= self.limits.memory_bytes;
            if fits || count == 1 {
                break;
            }
            count -= 1;
            memory -= line.memory_bytes();
            self.close(line);
            lines.retain(|other| !Arc::ptr_eq(other, line));
        }
    }

    /// Closes an idle line, under the lock of the table.
    fn close(&self, line: &Line) {
        if line.is_warm() {
            tracing::info!(job_id = %line.key.job, model = line.key.model, "an idle session leaves");
            self.lost.remember(&line.key, Loss::Evicted);
        }
        line.close();
    }
}

impl Places for Shared {
    fn waiting(&self) -> &Mutex<Waiting> {
        &self.waiting
    }

    fn try_submit(self: &Arc<Self>, plan: SessionPlan, submission: Submission) -> Result<(), Unplaced> {
        let key = Key::new(&submission.task.identity.job_id, &plan);
        let control = Arc::clone(&submission.control);
        let mut lines = self.lock();
        lines.retain(|line| {
            let gone = line.key == key && !line.is_usable();
            if gone {
                self.lost.remember(&line.key, Loss::Device);
                line.close();
            }
            !gone
        });
        let line = match lines.iter().find(|line| line.key == key) {
            Some(line) => Arc::clone(line),
            None => match self.place(key, plan) {
                Ok(line) => {
                    lines.push(Arc::clone(&line));
                    line
                }
                Err(Unopened::Wait(plan)) => return Err(Box::new((*plan, submission))),
                Err(Unopened::Refused(error)) => {
                    drop(lines);
                    submission.done.finish(Finished { ending: Err(error), notes: Vec::new() });
                    return Ok(());
                }
            },
        };
        // Under the lock of the table, so that the line cannot be closed in between.
        let number = line.push(submission);
        drop(lines);
        let line = Arc::downgrade(&line);
        let asked = Arc::downgrade(&control);
        control.on_stop(move || {
            let (Some(line), Some(control)) = (line.upgrade(), asked.upgrade()) else { return };
            if let (Some(submission), Err(reason)) = (line.take_out(number), control.check()) {
                submission.done.finish(Finished { ending: Err(reason), notes: Vec::new() });
            }
        });
        Ok(())
    }

    fn make_room(&self) {
        let mut lines = self.lock();
        let on_gpu = lines.iter().filter(|line| line.has_reservation());
        let oldest = on_gpu
            .filter_map(|line| Some((line.idle_since()?, Arc::clone(line))))
            .min_by_key(|(since, _)| *since);
        if let Some((_, line)) = oldest {
            self.close(&line);
            lines.retain(|other| !Arc::ptr_eq(other, &line));
        }
    }
}

#[cfg(test)]
mod tests;
