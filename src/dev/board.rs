//! The decisions of the development orchestrator: which task goes to whom, and what is counted.
//!
//! ```text
//! create_job --> waiting jobs --claim--> held, leased --complete--> counted once
//!                     ^                      |
//!                     +--- expire, release --+--- retryable failure, up to 3 tries
//! ```
//!
//! Invariants: a task is held by at most one worker, and then by its present attempt; with the extended contract
//! it is counted at most once; a job with tasks to hand out waits for at most [`PATIENCE`] hand-outs of other jobs
//! and one round of those that wait.
//!
//! Deliberately absent: clocks (each call is told what time it is), locks, waiting, and an end to memory: jobs stay
//! until the process ends.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::job::{Job, JobRequest, JobStatus, JobSummary, TaskState};
use super::terms::{
    Assignment, BoardError, Contract, Failure, HeartbeatReply, Receipt, Report, WorkerActivity,
};
use crate::domain::{ErrorCode, JobId, Metrics, TaskId, WorkerId, WorkerPhase};

/// Tries that a task has when it fails in a way that may pass.
const MAX_TRIES: u32 = 3;

/// Hand-outs of warmer jobs that the job whose turn it is lets pass.
const PATIENCE: u32 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    job: usize,
    task: usize,
}

#[derive(Debug)]
struct Worker {
    registered: bool,
    drain: bool,
    phase: Option<WorkerPhase>,
    completed: u32,
    held: BTreeSet<At>,
    seen: Instant,
}

/// What a worker's word of a task amounts to.
enum Standing {
    Renewed,
    Unwanted,
    Unchanged,
}

/// Jobs, tasks and workers.
#[derive(Debug)]
pub struct Board {
    contract: Contract,
    lease: Duration,
    jobs: Vec<Job>,
    by_id: HashMap<JobId, usize>,
    /// Jobs that have tasks to hand out, the one whose turn it is first.
    waiting: VecDeque<usize>,
    workers: BTreeMap<WorkerId, Worker>,
    offered: u64,
}

impl Board {
    /// An empty board. `lease` is for how long a task stays with a worker that is silent (extended contract).
    pub fn new(contract: Contract, lease: Duration) -> Self {
        Self {
            contract,
            lease,
            jobs: Vec::new(),
            by_id: HashMap::new(),
            waiting: VecDeque::new(),
            workers: BTreeMap::new(),
            offered: 0,
        }
    }

    /// The contract it keeps.
    pub fn contract(&self) -> Contract {
        self.contract
    }

    /// For how long a task stays with a silent worker; None = for ever.
    pub fn lease(&self) -> Option<Duration> {
        match self.contract {
            Contract::Base => None,
            Contract::Extended => Some(self.lease),
        }
    }

    /// Adds a job and returns how many tasks it has.
    ///
    /// # Errors
    /// [`BoardError::JobExists`].
    pub fn create_job(&mut self, request: JobRequest) -> Result<u32, BoardError> {
        if self.by_id.contains_key(&request.job_id) {
            return Err(BoardError::JobExists(request.job_id));
        }
        let index = self.jobs.len();
        self.by_id.insert(request.job_id.clone(), index);
        let job = Job::new(request);
        let tasks = job.total();
        self.offered += u64::from(tasks);
        self.jobs.push(job);
        self.waiting.push_back(index);
        Ok(tasks)
    }

    /// Hands out a task, one of a `warm` job if no other has waited too long.
    pub fn claim(&mut self, worker: &WorkerId, warm: &[JobId], now: Instant) -> Option<Assignment> {
        if self.heard(worker, now).drain {
            return None;
        }
        let turn = self.next_turn(warm)?;
        let index = self.waiting.remove(turn)?;
        for other in &self.waiting {
            self.jobs[*other].passed_over += 1;
        }
        let job = &mut self.jobs[index];
        job.passed_over = 0;
        let task = job.pending.pop_first()?;
        if !job.pending.is_empty() {
            match self.contract {
                Contract::Base => self.waiting.push_front(index),
                Contract::Extended => self.waiting.push_back(index),
            }
        }
        let assignment = Assignment {
            task_id: job.task_id(task),
            job_id: job.request.job_id.clone(),
            model: job.request.model.clone(),
            dataset_path: job.request.dataset_path.clone(),
            hyperparameters: job.request.hyperparameters.clone(),
            epoch: Job::epoch_of(task),
            batches: Job::batches_of(task),
            attempt: job.tasks[task].attempt,
            total_epochs: job.request.epochs,
        };
        self.hold(At { job: index, task }, worker, now);
        Some(assignment)
    }

    /// Takes the report of a task's end.
    ///
    /// # Errors
    /// [`BoardError::UnknownTask`].
    pub fn complete(&mut self, report: &Report, now: Instant) -> Result<Receipt, BoardError> {
        self.heard(&report.worker, now);
        let at = self.find(&report.task_id)?;
        let job = &mut self.jobs[at.job];
        job.reports += u32::from(report.ending.is_ok());
        let task = &mut job.tasks[at.task];
        if self.contract == Contract::Extended {
            if report.attempt != 0 && report.attempt < task.attempt {
                return Ok(Receipt::Stale);
            }
            if !matches!(task.state, TaskState::Pending | TaskState::Held { .. }) {
                return Ok(Receipt::Repeated);
            }
            // A higher one was handed out by a board that has been forgotten since; its work is as good.
            task.attempt = task.attempt.max(report.attempt);
        }
        self.withdraw(at);
        Ok(match &report.ending {
            Ok(figures) => {
                self.jobs[at.job].count(at.task, &report.worker, *figures);
                self.heard(&report.worker, now).completed += 1;
                Receipt::Counted
            }
            Err(failure) => self.failed(at, failure),
        })
    }

    /// A worker says hello; tasks that it still holds, and that nobody else does, stay with it. Those that it was given
    /// and knows nothing of any more go to whoever asks first, without waiting for the end of their leases.
    pub fn register(&mut self, worker: &WorkerId, held: &[(TaskId, u32)], now: Instant) {
        let known = self.heard(worker, now);
        known.registered = true;
        known.drain = false;
        for (task, attempt) in held {
            self.renew(worker, task, *attempt, now);
        }
        let given = self.workers.get(worker).map(|known| known.held.clone()).unwrap_or_default();
        for at in given {
            let job = &self.jobs[at.job];
            let (task, attempt) = (job.task_id(at.task), job.tasks[at.task].attempt);
            if !held.contains(&(task, attempt)) {
                self.withdraw(at);
                self.requeue(at);
            }
        }
    }

    /// A worker says that it lives and what it holds, which prolongs the leases.
    pub fn heartbeat(
        &mut self,
        worker: &WorkerId,
        phase: Option<WorkerPhase>,
        held: &[(TaskId, u32)],
        now: Instant,
    ) -> HeartbeatReply {
        let known = self.heard(worker, now);
        known.phase = phase;
        let mut reply =
            HeartbeatReply { drain: known.drain, reregister: !known.registered, ..HeartbeatReply::default() };
        for (task, attempt) in held {
            match self.renew(worker, task, *attempt, now) {
                Standing::Renewed => reply.renewed.push(task.clone()),
                Standing::Unwanted => reply.cancel.push(task.clone()),
                Standing::Unchanged => {}
            }
        }
        reply
    }

    /// Progress of one held task, which prolongs its lease; true when the task is not wanted.
    pub fn progress(&mut self, worker: &WorkerId, held: &(TaskId, u32), now: Instant) -> bool {
        self.heard(worker, now);
        matches!(self.renew(worker, &held.0, held.1, now), Standing::Unwanted)
    }

    /// The latest figures of a job, shown until its first task has completed. False for an unknown job.
    pub fn note_metrics(&mut self, job: &JobId, metrics: Metrics) -> bool {
        let known = self.by_id.get(job).copied();
        if let Some(index) = known {
            self.jobs[index].live = Some(metrics);
        }
        known.is_some()
    }

    /// A worker gives an unfinished task back; one that it does not hold (any more) is left alone.
    ///
    /// # Errors
    /// [`BoardError::UnknownTask`].
    pub fn release(
        &mut self,
        worker: &WorkerId,
        held: &(TaskId, u32),
        now: Instant,
    ) -> Result<(), BoardError> {
        self.heard(worker, now);
        let at = self.find(&held.0)?;
        let task = &self.jobs[at.job].tasks[at.task];
        let holds = matches!(&task.state, TaskState::Held { worker: holder, .. } if holder == worker);
        if holds && task.attempt == held.1 {
            self.withdraw(at);
            self.requeue(at);
        }
        Ok(())
    }

    /// Takes tasks back whose lease has ended, and returns how many.
    pub fn expire(&mut self, now: Instant) -> usize {
        let lost: Vec<At> = self.expired(now).collect();
        for at in &lost {
            self.withdraw(*at);
            self.requeue(*at);
        }
        lost.len()
    }

    /// Whether [`Board::expire`] would take something back.
    pub fn has_expired(&self, now: Instant) -> bool {
        self.expired(now).next().is_some()
    }

    /// Cancels a job and returns the status that it had; one that has ended stays as it is.
    ///
    /// # Errors
    /// [`BoardError::UnknownJob`].
    pub fn cancel_job(&mut self, job: &JobId) -> Result<JobStatus, BoardError> {
        let index = self.index_of(job)?;
        let previous = self.jobs[index].status;
        if !previous.is_final() {
            match self.contract {
                Contract::Base => self.jobs[index].status = JobStatus::Cancelled,
                Contract::Extended => self.end_job(index, JobStatus::Cancelled),
            }
        }
        Ok(previous)
    }

    /// Asks a worker to take no more tasks and to end; it hears so with its next heartbeat.
    pub fn drain_worker(&mut self, worker: &WorkerId, now: Instant) {
        self.heard(worker, now).drain = true;
    }

    /// A job at this moment.
    ///
    /// # Errors
    /// [`BoardError::UnknownJob`].
    pub fn job(&self, job: &JobId) -> Result<JobSummary, BoardError> {
        self.index_of(job).map(|index| self.jobs[index].summary())
    }

    /// A job at this moment without its epochs: cheap, whatever its size.
    ///
    /// # Errors
    /// [`BoardError::UnknownJob`].
    pub fn progress_of(&self, job: &JobId) -> Result<JobSummary, BoardError> {
        self.index_of(job).map(|index| self.jobs[index].progress())
    }

    /// All jobs, oldest first.
    pub fn jobs(&self) -> Vec<JobSummary> {
        self.jobs.iter().map(Job::summary).collect()
    }

    /// Tasks of a job that were counted, and how often: 1 each with the extended contract.
    ///
    /// # Errors
    /// [`BoardError::UnknownJob`].
    pub fn completions(&self, job: &JobId) -> Result<BTreeMap<TaskId, u32>, BoardError> {
        self.index_of(job).map(|index| self.jobs[index].completions())
    }

    /// All workers that were ever heard.
    pub fn worker_activity(&self) -> Vec<WorkerActivity> {
        let activity = |(id, worker): (&WorkerId, &Worker)| {
            let current = worker.held.first().map(|at| {
                let job = &self.jobs[at.job];
                (job.task_id(at.task), job.request.job_id.clone())
            });
            let busy = if current.is_some() { WorkerPhase::Busy } else { WorkerPhase::Idle };
            WorkerActivity {
                worker_id: id.clone(),
                phase: worker.phase.unwrap_or(busy),
                current,
                completed: worker.completed,
                seen: worker.seen,
            }
        };
        self.workers.iter().map(activity).collect()
    }

    /// Counts how often a task became ready to be handed out; grows whenever a poll may be worth another look.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Tasks that are held under a lease: which attempt, and until when.
    #[cfg(test)]
    pub(crate) fn leases(&self) -> Vec<(TaskId, u32, Instant)> {
        let held = self.workers.values().flat_map(|worker| worker.held.iter());
        let lease = |at: &At| {
            let (job, task) = (&self.jobs[at.job], &self.jobs[at.job].tasks[at.task]);
            match task.state {
                TaskState::Held { expires: Some(expires), .. } => {
                    Some((job.task_id(at.task), task.attempt, expires))
                }
                _ => None,
            }
        };
        held.filter_map(lease).collect()
    }

    fn expired(&self, now: Instant) -> impl Iterator<Item = At> {
        let held = self.workers.values().flat_map(|worker| worker.held.iter().copied());
        held.filter(move |at| {
            let state = &self.jobs[at.job].tasks[at.task].state;
            matches!(state, TaskState::Held { expires: Some(expires), .. } if *expires <= now)
        })
    }

    fn heard(&mut self, worker: &WorkerId, now: Instant) -> &mut Worker {
        let known = self.workers.entry(worker.clone()).or_insert_with(|| Worker {
            registered: false,
            drain: false,
            phase: None,
            completed: 0,
            held: BTreeSet::new(),
            seen: now,
        });
        known.seen = now;
        known
    }

    fn index_of(&self, job: &JobId) -> Result<usize, BoardError> {
        self.by_id.get(job).copied().ok_or_else(|| BoardError::UnknownJob(job.clone()))
    }

    fn find(&self, task: &TaskId) -> Result<At, BoardError> {
        let parsed = Job::parse_task_id(task).and_then(|(job, index)| {
            let at = At { job: *self.by_id.get(&job)?, task: index };
            let job = &self.jobs[at.job];
            (index < job.tasks.len() && job.task_id(index) == *task).then_some(at)
        });
        parsed.ok_or_else(|| BoardError::UnknownTask(task.clone()))
    }

    /// Position in `waiting` of the job to serve.
    fn next_turn(&self, warm: &[JobId]) -> Option<usize> {
        let first = self.waiting.front()?;
        if self.contract == Contract::Base || self.jobs[*first].passed_over >= PATIENCE {
            return Some(0);
        }
        let is_warm = |index: &usize| warm.contains(&self.jobs[*index].request.job_id);
        Some(self.waiting.iter().position(is_warm).unwrap_or(0))
    }

    fn hold(&mut self, at: At, worker: &WorkerId, now: Instant) {
        let expires = self.lease().and_then(|lease| now.checked_add(lease));
        let job = &mut self.jobs[at.job];
        job.tasks[at.task].state = TaskState::Held { worker: worker.clone(), expires };
        if job.status == JobStatus::Pending {
            job.status = JobStatus::Running;
        }
        self.heard(worker, now).held.insert(at);
    }

    /// Takes a task from its holder or from the queue; the caller gives it its next state.
    fn withdraw(&mut self, at: At) {
        let job = &mut self.jobs[at.job];
        if let TaskState::Held { worker, .. } = &job.tasks[at.task].state
            && let Some(worker) = self.workers.get_mut(worker)
        {
            worker.held.remove(&at);
        }
        if job.pending.remove(&at.task) && job.pending.is_empty() {
            self.waiting.retain(|index| *index != at.job);
        }
    }

    fn requeue(&mut self, at: At) {
        let job = &mut self.jobs[at.job];
        if job.status.is_final() {
            job.tasks[at.task].state = TaskState::Dropped;
            return;
        }
        if job.pending.is_empty() {
            self.waiting.push_back(at.job);
        }
        job.requeue(at.task);
        self.offered += 1;
    }

    fn failed(&mut self, at: At, failure: &Failure) -> Receipt {
        let job = &mut self.jobs[at.job];
        let task = &mut job.tasks[at.task];
        if self.contract == Contract::Extended {
            if job.status.is_final() {
                task.state = TaskState::Dropped;
                return Receipt::Failed;
            }
            task.failures += 1;
            if failure.may_pass() && task.failures < MAX_TRIES {
                self.requeue(at);
                return Receipt::Requeued;
            }
        }
        task.state = TaskState::Failed;
        job.failed += 1;
        if self.contract == Contract::Extended {
            let code = failure.code.map_or("unknown", ErrorCode::name);
            job.message = format!("task {}: {code}: {}", job.task_id(at.task), failure.message);
            self.end_job(at.job, JobStatus::Failed);
        }
        Receipt::Failed
    }

    fn end_job(&mut self, index: usize, status: JobStatus) {
        self.jobs[index].end(status);
        self.waiting.retain(|waiting| *waiting != index);
    }

    fn renew(&mut self, worker: &WorkerId, task: &TaskId, attempt: u32, now: Instant) -> Standing {
        let Ok(at) = self.find(task) else {
            // Forgotten with a former board, perhaps: to train once too often is better than to lose work.
            return Standing::Unchanged;
        };
        let job = &mut self.jobs[at.job];
        let ended = job.status.is_final();
        let known = &mut job.tasks[at.task];
        match &known.state {
            TaskState::Completed | TaskState::Failed if attempt == known.attempt => Standing::Unchanged,
            TaskState::Held { worker: holder, .. }
                if holder == worker && attempt == known.attempt && !ended =>
            {
                self.hold(at, worker, now);
                Standing::Renewed
            }
            // Handed out by a board that has been forgotten since.
            TaskState::Pending if attempt >= known.attempt => {
                known.attempt = attempt;
                self.withdraw(at);
                self.hold(at, worker, now);
                Standing::Renewed
            }
            _ => Standing::Unwanted,
        }
    }
}
