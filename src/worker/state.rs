//! The life of tasks as a pure state machine: events and their time in, effects out; no clock, no lock, no I/O.
//!
//! ```text
//! poll or ExecuteTask
//!    |           job not wanted                             retryable failure
//!    v          +---------------+                          +-----------------+
//! Checking --> Ready --> Running --> Persisting --> gone   |  Running --> Backoff --> Ready
//!    (base        ^  place free   outcome on disk: slot free
//!   contract)     |
//!                 +-- drain deadline: Releasing (extended) or a failure that may be retried (base)
//! ```
//!
//! Invariants, checked by the property tests:
//! - every record holds exactly one slot; free slots are what is left, never counted apart;
//! - at most `slots` tasks run; a task that a poll brought beyond that waits, since it cannot be given back;
//! - a polled task is persisted once, released once, or given up once under a lost lease; every waiter is answered once, of a
//!   polled task when its outcome is on disk;
//! - no task runs, and no outcome is persisted, under a lease that has ended: what runs is told to stop;
//! - after a drain the machine comes to rest, with no record and no poll left.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::clock::Moment;
use super::handle::{CancelAnswer, ExecuteError};
use crate::domain::{JobId, TaskError, TaskId, TaskIdentity, TaskOutcome, TaskSpec};
use crate::engine::Finished;
use crate::orchestrator::Mode;
use crate::wire::ClaimedTask;

mod ending;
mod lease;
mod transition;

#[cfg(test)]
mod end_tests;
#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub(super) use lease::{Lease, RENEWALS_PER_LEASE};
pub(super) use transition::{ask, transition};

/// Outcomes that are kept to answer a task that arrives again, and to be shown.
const RECENT: usize = 50;

/// Identifies a record for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(u64);

/// Identifies one try of a task in the engine, so that a late event of an earlier one is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RunId(u64);

/// Identifies somebody who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Waiter(pub(super) u64);

/// What a poll brought.
#[derive(Debug)]
pub(super) enum Polled {
    /// Tasks, each perhaps one that cannot run.
    Tasks(Vec<ClaimedTask>),
    /// Nothing, for now.
    Empty,
    /// No answer.
    Failed,
}

/// Something that happened.
#[derive(Debug)]
pub(super) enum Event {
    /// The orchestrator accepted this worker.
    LinkUp { generation: u64, mode: Mode },
    /// The link of that generation is lost.
    LinkDown { generation: u64 },
    /// A poll for `places` tasks that was started under that generation of the link, at `asked`, came back.
    PollEnded { generation: u64, asked: Moment, places: u32, polled: Polled },
    /// Tasks that an earlier process held when it ended; they go on when the link is up.
    Resumed { tasks: Vec<TaskSpec> },
    /// The orchestrator renewed the leases of these attempts, which it was asked for at `asked`.
    Renewed { tasks: Vec<(TaskId, u32)>, asked: Moment },
    /// Time has passed.
    Tick,
    /// A task came by ExecuteTask.
    Execute { task: Box<TaskSpec>, waiter: Waiter },
    /// The orchestrator said how many epochs a job has.
    JobMeasured { job: JobId, total_epochs: u32 },
    /// The orchestrator said whether the tasks of a job are wanted.
    JobChecked { job: JobId, wanted: bool },
    /// The engine ended a try.
    Finished { run: RunId, finished: Finished, duration: Duration, energy_joules: Option<f64> },
    /// A try has run for too long.
    TimedOut { run: RunId, limit: Duration },
    /// The wait before the next try is over.
    RetryDue { run: RunId },
    /// Somebody wants a task to stop: `up_to` that attempt, where it is known which was meant.
    Cancel { task: TaskId, up_to: Option<u32>, reason: &'static str, waiter: Option<Waiter> },
    /// Somebody wants all tasks of a job to stop.
    CancelJob { job: JobId, reason: &'static str },
    /// The outcome of a record is on disk.
    Persisted { key: Key },
    /// A task was given back, or the orchestrator did not take it.
    Released { key: Key, taken: Taken },
    /// What keeps outcomes from the disk, None when that is over.
    Storage { trouble: Option<String> },
    /// What keeps tasks from the list of held ones, None when that is over.
    HeldList { trouble: Option<String> },
    /// What keeps the engine from its work, None when that is over.
    Engine { trouble: Option<String> },
    /// Take no more tasks.
    Drain,
    /// Do not wait for running tasks any longer: stop them.
    Abort { reason: &'static str },
    /// Do not wait for what was told to stop any longer, nor for polls.
    Abandon,
}

/// Whether the orchestrator took a task back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    No,
}

/// Something to be done.
#[derive(Debug)]
pub(super) enum Effect {
    /// Ask the orchestrator for `places` tasks at most; answered by [`Event::PollEnded`].
    Poll { generation: u64, slots_available: u32, places: u32 },
    /// Ask the orchestrator whether a job is wanted; answered by [`Event::JobChecked`].
    CheckJob { job: JobId },
    /// Hand a task to the engine.
    Submit { key: Key, run: RunId, task: Arc<TaskSpec> },
    /// Ask the engine to stop a try.
    Stop { run: RunId, reason: TaskError },
    /// Send [`Event::RetryDue`] after a wait that grows with `retries`; `reason` is what went wrong with the task.
    Retry { run: RunId, retries: u32, identity: TaskIdentity, reason: TaskError },
    /// Put an outcome on disk and report it, without asking first until `lease`; answered by [`Event::Persisted`].
    Persist { key: Key, outcome: Arc<TaskOutcome>, lease: Option<Moment> },
    /// Give a task back; answered by [`Event::Released`].
    Release { key: Key, identity: TaskIdentity, reason: String },
    /// Tell those who wait how a task ended.
    Answer { waiter: Waiter, answer: Result<Arc<TaskOutcome>, ExecuteError> },
    /// Tell somebody what became of a cancellation.
    AnswerCancel { waiter: Waiter, answer: CancelAnswer },
    /// A task ended: to be logged and counted.
    Ended { outcome: Arc<TaskOutcome> },
    /// The outcome of a record cannot be put on disk, and nobody waits for that any longer. The task itself stays in the
    /// list of held tasks: the next process runs it again.
    Lost { key: Key, outcome: Arc<TaskOutcome> },
    /// Draining is over.
    Drained,
}

/// Whether tasks are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Admission {
    /// Yes.
    Open,
    /// No; those that are held go on.
    Draining,
    /// No, and those that are held stop.
    Stopping,
    /// No, and what did not stop is left behind.
    Abandoned,
}

/// Where a record is on its way.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stage {
    /// Of an earlier process; waits for the link.
    Resuming,
    Checking,
    Ready,
    Running(RunId),
    Backoff(RunId),
    Persisting(Arc<TaskOutcome>),
    /// For this reason; it is reported where the orchestrator does not take the task back.
    Releasing(TaskError),
}

impl Stage {
    /// Whether the task has ended and only others have to hear of it.
    fn is_over(&self) -> bool {
        matches!(self, Self::Persisting(_) | Self::Releasing(_))
    }
}

/// A held task.
#[derive(Debug)]
pub(super) struct Record {
    /// As it was handed out last; a try that runs goes on as it began.
    pub(super) task: Arc<TaskSpec>,
    /// The newest hand-out of it; the outcome is reported under this one.
    pub(super) attempt: u32,
    pub(super) stage: Stage,
    pub(super) retries: u32,
    pub(super) stopping: bool,
    /// It was handed out anew while it was being stopped: the new attempt runs after the old one has stopped.
    renewed: bool,
    /// Somebody cancelled it while it was being stopped for its lease.
    unwanted: bool,
    pub(super) polled: bool,
    waiters: Vec<Waiter>,
    /// For how long it is ours; None = for ever (base contract, ExecuteTask).
    pub(super) lease: Option<Lease>,
}

impl Record {
    /// The task under the attempt that counts.
    pub(super) fn identity(&self) -> TaskIdentity {
        TaskIdentity { attempt: self.attempt, ..self.task.identity.clone() }
    }

    /// Whether it may run, as far as its lease goes.
    fn holds(&self, now: Moment) -> bool {
        self.lease.is_none_or(|lease| lease.holds(now))
    }

    /// Whether it may be another worker's by now.
    fn is_lost(&self, now: Moment) -> bool {
        self.stage != Stage::Resuming && self.lease.is_some_and(|lease| lease.is_over(now))
    }

    /// Until when nobody else can have been given it, for whoever reports how it ended; None = it is not given away. What an
    /// earlier process held and nobody renewed since may be another worker's already.
    fn ours_until(&self) -> Option<Moment> {
        let never_renewed = self.task.lease.filter(|_| self.attempt > 0).map(|_| Moment::LONG_AGO);
        self.lease.map(|lease| lease.ends()).or(never_renewed)
    }
}

/// What never changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) slots: u32,
    pub(super) max_task_retries: u32,
}

/// Polls that are out at once: each holds a stream of one connection, which proxies limit.
const MOST_POLLS: u32 = 64;

/// Tasks that one poll asks for at most: more would make its answer large, and others wait.
const MOST_PLACES: u32 = 32;

/// Everything the worker knows about its tasks.
#[derive(Debug)]
pub(super) struct State {
    limits: Limits,
    pub(super) admission: Admission,
    pub(super) link: Option<(u64, Mode)>,
    /// Polls that are out.
    pub(super) polls: u32,
    /// Slots that they are out for.
    pub(super) polled_places: u32,
    pub(super) records: BTreeMap<Key, Record>,
    /// Ended tasks with the work they did, newest last.
    recent: VecDeque<(Arc<TaskSpec>, Arc<TaskOutcome>)>,
    /// Results of tasks whose lease was lost: not reported, and good for the same task if it comes again.
    unclaimed: VecDeque<(Arc<TaskSpec>, Arc<TaskOutcome>)>,
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    interruption: &'static str,
    /// What keeps outcomes from the disk.
    pub(super) storage_trouble: Option<String>,
    /// What keeps tasks from the list of held ones.
    pub(super) held_list_trouble: Option<String>,
    /// What keeps the engine from its work.
    pub(super) engine_trouble: Option<String>,
    next_id: u64,
    drained: bool,
    now: Moment,
}

impl State {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            admission: Admission::Open,
            link: None,
            polls: 0,
            polled_places: 0,
            records: BTreeMap::new(),
            recent: VecDeque::new(),
            unclaimed: VecDeque::new(),
            now: Moment::LONG_AGO,
            completed: 0,
            failed: 0,
            cancelled: 0,
            interruption: "",
            storage_trouble: None,
            held_list_trouble: None,
            engine_trouble: None,
            next_id: 0,
            drained: false,
        }
    }

    /// Ended tasks, newest last.
    pub(super) fn recent(&self) -> impl ExactSizeIterator<Item = &Arc<TaskOutcome>> + DoubleEndedIterator {
        self.recent.iter().map(|(_, outcome)| outcome)
    }

    /// Slots there are.
    pub(super) fn slots(&self) -> u32 {
        self.limits.slots
    }

    /// Slots without a task and without a poll.
    pub(super) fn free_slots(&self) -> u32 {
        let held = u32::try_from(self.records.len()).unwrap_or(u32::MAX);
        self.limits.slots.saturating_sub(held.saturating_add(self.polled_places))
    }

    /// When a lease has to be looked at: of a task that would then have to be stopped.
    pub(super) fn next_look(&self) -> Option<Moment> {
        let open = self.records.values().filter(|record| !record.stopping && !record.stage.is_over());
        open.filter_map(|record| record.lease?.next_look(self.now)).min()
    }

    /// What keeps the worker from its work.
    pub(super) fn troubles(&self) -> impl Iterator<Item = &String> {
        self.storage_trouble.iter().chain(&self.held_list_trouble).chain(&self.engine_trouble)
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The newest record of a task: an earlier one may still be on its way to the disk.
    pub(super) fn find(&self, task: &TaskId) -> Option<Key> {
        let mut newest_first = self.records.iter().rev();
        newest_first.find(|(_, record)| record.task.identity.task_id == *task).map(|(key, _)| *key)
    }

    fn find_run(&self, stage: &Stage) -> Option<Key> {
        self.records.iter().find(|(_, record)| record.stage == *stage).map(|(key, _)| *key)
    }

    fn speaks_base(&self) -> bool {
        matches!(self.link, Some((_, Mode::Base)))
    }
}
