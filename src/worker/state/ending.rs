//! How records end: reported, given back, or let go under a lost lease.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Effect, Key, RECENT, Stage, State, Waiter};
use crate::domain::{ErrorCode, TaskError, TaskIdentity, TaskOutcome, TaskSpec, TaskStatus};
use crate::engine::Finished;

/// An interrupted task goes back to the orchestrator, or where that cannot take it, fails as retryable. Both are told why.
pub(super) fn give_back(
    state: &mut State,
    key: Key,
    (error, duration): (TaskError, Duration),
    effects: &mut Vec<Effect>,
) {
    let now = state.now;
    let extended = !state.speaks_base();
    let Some(record) = state.records.get_mut(&key) else { return };
    if record.polled && extended && record.attempt > 0 && !record.is_lost(now) {
        let (identity, reason) = (record.identity(), error.message.clone());
        let waiters = std::mem::take(&mut record.waiters);
        record.stage = Stage::Releasing(error.clone());
        let outcome = Arc::new(outcome_of(&record.task, identity.clone(), Ended::failed(error, duration)));
        effects.extend(answers(waiters, &outcome));
        effects.push(Effect::Release { key, identity, reason });
    } else {
        end(state, key, Ended::failed(error, duration), effects);
    }
}

/// How a task ended, before it is known whom to tell.
pub(super) struct Ended {
    pub(super) finished: Finished,
    pub(super) duration: Duration,
    pub(super) energy_joules: Option<f64>,
}

impl Ended {
    pub(super) fn unstarted(error: TaskError) -> Self {
        Self::failed(error, Duration::ZERO)
    }

    pub(super) fn failed(error: TaskError, duration: Duration) -> Self {
        Self { finished: failed(error), duration, energy_joules: None }
    }
}

pub(super) fn failed(error: TaskError) -> Finished {
    Finished { ending: Err(error), notes: Vec::new() }
}

pub(super) fn outcome_of(task: &TaskSpec, identity: TaskIdentity, ended: Ended) -> TaskOutcome {
    let notes = task.notes.iter().cloned().chain(ended.finished.notes).collect();
    TaskOutcome {
        identity,
        model: task.model.clone(),
        epoch: task.epoch,
        ending: ended.finished.ending,
        notes,
        duration: ended.duration,
        energy_joules: ended.energy_joules,
    }
}

pub(super) fn answers(waiters: Vec<Waiter>, outcome: &Arc<TaskOutcome>) -> impl Iterator<Item = Effect> {
    waiters.into_iter().map(|waiter| Effect::Answer { waiter, answer: Ok(Arc::clone(outcome)) })
}

/// Ends a record: persists the outcome of a polled one that is still ours, and tells those who wait for any other. Nothing is
/// reported under a lost lease: whoever has the task now reports it.
pub(super) fn end(state: &mut State, key: Key, mut ended: Ended, effects: &mut Vec<Effect>) {
    let now = state.now;
    let Some(record) = state.records.get_mut(&key) else { return };
    let lost = record.is_lost(now);
    if lost && ended.finished.ending.is_ok() {
        let duration = ended.duration;
        let outcome = outcome_of(&record.task, record.identity(), ended);
        let task = without_weights(Arc::clone(&record.task));
        keep_newest(&mut state.unclaimed, (task, Arc::new(outcome)));
        ended = Ended::failed(lease_lost(), duration);
    }
    let Some(record) = state.records.get_mut(&key) else { return };
    let outcome = Arc::new(outcome_of(&record.task, record.identity(), ended));
    if record.polled && !lost {
        // Those who wait hear of it when it cannot be lost any more.
        record.stage = Stage::Persisting(Arc::clone(&outcome));
        let lease = record.ours_until();
        effects.push(Effect::Persist { key, outcome: Arc::clone(&outcome), lease });
    } else if let Some(record) = state.records.remove(&key) {
        effects.extend(answers(record.waiters, &outcome));
        remember(state, record.task, Arc::clone(&outcome));
    }
    count(state, &outcome, effects);
}

pub(super) fn count(state: &mut State, outcome: &Arc<TaskOutcome>, effects: &mut Vec<Effect>) {
    match outcome.status() {
        TaskStatus::Completed => state.completed += 1,
        TaskStatus::Cancelled => state.cancelled += 1,
        TaskStatus::Failed | TaskStatus::TimedOut => state.failed += 1,
    }
    effects.push(Effect::Ended { outcome: Arc::clone(outcome) });
}

pub(super) fn remember(state: &mut State, task: Arc<TaskSpec>, outcome: Arc<TaskOutcome>) {
    keep_newest(&mut state.recent, (without_weights(task), outcome));
}

/// What a task started from is large and of no more use.
fn without_weights(task: Arc<TaskSpec>) -> Arc<TaskSpec> {
    if task.initial_weights.is_empty() && task.received.is_empty() {
        return task;
    }
    Arc::new(TaskSpec { initial_weights: Bytes::new(), received: Bytes::new(), ..TaskSpec::clone(&task) })
}

fn keep_newest<T>(kept: &mut VecDeque<T>, one: T) {
    if kept.len() == RECENT {
        kept.pop_front();
    }
    kept.push_back(one);
}

/// Why a task ends whose lease has.
pub(super) fn lease_lost() -> TaskError {
    let why =
        "no renewal of the lease was acknowledged in time, so that the task may be another worker's by now";
    TaskError::new(ErrorCode::LeaseLost, why)
}

/// What stands for a task that could not be read.
pub(super) fn rejected_task(outcome: &TaskOutcome) -> Arc<TaskSpec> {
    Arc::new(TaskSpec {
        identity: outcome.identity.clone(),
        model: outcome.model.clone(),
        dataset_path: String::new(),
        hyperparameters: crate::domain::Hyperparameters::default(),
        notes: Vec::new(),
        epoch: outcome.epoch,
        batches: 0..1,
        total_epochs: None,
        timeout: None,
        lease: None,
        initial_weights: Bytes::new(),
        received: Bytes::new(),
    })
}
