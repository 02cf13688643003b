//! The rules: what each event does to the state.

use std::sync::Arc;
use std::time::Duration;

use super::ending::{Ended, answers, count, end, failed, give_back, lease_lost, rejected_task, remember};
use super::{
    Admission, Effect, Event, Key, Lease, MOST_PLACES, MOST_POLLS, Polled, Record, RunId, Stage, State,
    Taken, Waiter,
};
use crate::domain::{ErrorCode, TaskError, TaskId, TaskOutcome, TaskSpec};
use crate::orchestrator::Mode;
use crate::wire::ClaimedTask;
use crate::worker::clock::Moment;
use crate::worker::handle::{CancelAnswer, ExecuteError};

/// Applies `event`, which happened `now`; what has to be done is added to `effects`.
pub(in crate::worker) fn transition(state: &mut State, now: Moment, event: Event, effects: &mut Vec<Effect>) {
    state.now = state.now.max(now);
    match event {
        Event::LinkUp { generation, mode } => link_up(state, generation, mode, effects),
        Event::LinkDown { generation } => lose_link(state, generation),
        Event::Resumed { tasks } => {
            for task in tasks {
                let (_, record) = hold(state, Arc::new(task), Stage::Resuming);
                record.polled = true;
            }
        }
        Event::Renewed { tasks, asked } => {
            for record in state.records.values_mut() {
                let name = &record.task.identity.task_id;
                let renewed = tasks.iter().any(|(task, attempt)| task == name && *attempt == record.attempt);
                if let Some(lease) = record.lease.as_mut().filter(|_| renewed) {
                    lease.renew(asked);
                }
            }
        }
        Event::Tick => {}
        Event::PollEnded { generation, asked, places, polled } => {
            state.polls = state.polls.saturating_sub(1);
            state.polled_places = state.polled_places.saturating_sub(places);
            match polled {
                Polled::Tasks(tasks) => {
                    for task in tasks {
                        arrive(state, task, (generation, asked), effects);
                    }
                }
                Polled::Empty => {}
                Polled::Failed => lose_link(state, generation),
            }
        }
        Event::Execute { task, waiter } => arrive_by_execute(state, task, waiter, effects),
        Event::JobMeasured { job, total_epochs } => {
            let records = state.records.values_mut();
            for record in records.filter(|record| record.task.identity.job_id == job) {
                // What came with the task counts more.
                Arc::make_mut(&mut record.task).total_epochs.get_or_insert(total_epochs);
            }
        }
        Event::JobChecked { job, wanted } => {
            let of_job =
                |record: &Record| record.stage == Stage::Checking && record.task.identity.job_id == job;
            for key in keys(state, of_job) {
                if wanted {
                    set_stage(state, key, Stage::Ready);
                } else {
                    let error =
                        TaskError::new(ErrorCode::Cancelled, "the job was cancelled before the task started");
                    end(state, key, Ended::unstarted(error), effects);
                }
            }
        }
        Event::Finished { run, finished, duration, energy_joules } => {
            finish(state, run, Ended { finished, duration, energy_joules }, effects);
        }
        Event::TimedOut { run, limit } => {
            if let Some(key) = state.find_run(&Stage::Running(run)) {
                let reason = format!("the task ran longer than its time-out of {} s", limit.as_secs_f64());
                stop(state, key, TaskError::new(ErrorCode::TimedOut, reason), effects);
            }
        }
        Event::RetryDue { run } => {
            if let Some(key) = state.find_run(&Stage::Backoff(run)) {
                set_stage(state, key, Stage::Ready);
            }
        }
        Event::Cancel { task, up_to, reason, waiter } => {
            let answer = cancel(state, &task, up_to, reason, effects);
            effects.extend(waiter.map(|waiter| Effect::AnswerCancel { waiter, answer }));
        }
        Event::CancelJob { job, reason } => {
            for key in keys(state, |record| record.task.identity.job_id == job) {
                forget_renewal(state, key);
                stop(state, key, TaskError::new(ErrorCode::Cancelled, reason), effects);
            }
        }
        Event::Persisted { key } => {
            let ended = state.records.remove(&key);
            if let Some(Record { task, waiters, stage: Stage::Persisting(outcome), .. }) = ended {
                effects.extend(answers(waiters, &outcome));
                remember(state, task, outcome);
            }
        }
        Event::Released { key, taken: Taken::Yes } => {
            state.records.remove(&key);
        }
        Event::Released { key, taken: Taken::No } => {
            // What the orchestrator does not take back it has to hear of, or it waits for ever.
            if let Some(Record { stage: Stage::Releasing(reason), .. }) = state.records.get(&key) {
                let reason = reason.clone();
                end(state, key, Ended::unstarted(reason), effects);
            }
        }
        Event::Storage { trouble } => state.storage_trouble = trouble,
        Event::HeldList { trouble } => state.held_list_trouble = trouble,
        Event::Engine { trouble } => state.engine_trouble = trouble,
        Event::Drain => state.admission = state.admission.max(Admission::Draining),
        Event::Abort { reason } => {
            state.admission = state.admission.max(Admission::Stopping);
            state.interruption = reason;
            for key in keys(state, |_| true) {
                let why = interrupted(state);
                stop(state, key, why, effects);
            }
        }
        Event::Abandon => {
            state.admission = Admission::Abandoned;
            for key in keys(state, |record| matches!(record.stage, Stage::Running(_))) {
                let why = interrupted(state);
                give_back(state, key, (why, Duration::ZERO), effects);
            }
        }
    }
    settle(state, effects);
}

/// Asks for tasks for the slots that are free. Apart from [`transition`], so that what happens at once asks once.
pub(in crate::worker) fn ask(state: &mut State, effects: &mut Vec<Effect>) {
    let able = state.admission == Admission::Open && state.troubles().next().is_none();
    let Some((generation, mode)) = state.link.filter(|_| able) else { return };
    // The base contract knows one task a poll.
    let most = if mode == Mode::Base { 1 } else { MOST_PLACES };
    let mut free = state.free_slots();
    while free > 0 && state.polls < MOST_POLLS {
        let places = free.min(most);
        state.polls += 1;
        state.polled_places += places;
        effects.push(Effect::Poll { generation, slots_available: free, places });
        free -= places;
    }
}

/// Starts what can start: tasks that are ready; and notices the end of a drain.
fn settle(state: &mut State, effects: &mut Vec<Effect>) {
    give_up_lost(state, effects);
    let running = state.records.values().filter(|record| matches!(record.stage, Stage::Running(_))).count();
    let places = (state.limits.slots as usize).saturating_sub(running);
    let now = state.now;
    let ready = |record: &Record| record.stage == Stage::Ready && record.holds(now);
    for key in keys(state, ready).into_iter().take(places) {
        let run = RunId(state.fresh_id());
        if let Some(record) = state.records.get_mut(&key) {
            record.stage = Stage::Running(run);
            effects.push(Effect::Submit { key, run, task: Arc::clone(&record.task) });
        }
    }
    if state.admission != Admission::Open {
        if state.admission == Admission::Abandoned && state.storage_trouble.is_some() {
            for key in keys(state, |record| matches!(record.stage, Stage::Persisting(_))) {
                let ended = state.records.remove(&key);
                if let Some(Record { waiters, stage: Stage::Persisting(outcome), .. }) = ended {
                    effects.extend(answers(waiters, &outcome));
                    effects.push(Effect::Lost { key, outcome });
                }
            }
        }
        let polls_back = state.polls == 0 || state.admission == Admission::Abandoned;
        if polls_back && state.records.is_empty() && !state.drained {
            state.drained = true;
            effects.push(Effect::Drained);
        }
    }
}

/// Stops what may be another worker's by now.
fn give_up_lost(state: &mut State, effects: &mut Vec<Effect>) {
    let now = state.now;
    for key in keys(state, |record| record.is_lost(now) && !record.stopping) {
        stop(state, key, lease_lost(), effects);
    }
}

/// The orchestrator accepted this worker. What an earlier process held goes on: at once where nobody else can have it,
/// else when the lease is renewed.
fn link_up(state: &mut State, generation: u64, mode: Mode, effects: &mut Vec<Effect>) {
    state.link = Some((generation, mode));
    if mode == Mode::Base {
        // It gives nothing away that it has handed out.
        for record in state.records.values_mut() {
            record.lease = None;
        }
    }
    for key in keys(state, |record| record.stage == Stage::Resuming) {
        let lease = lease_of(state, key, Moment::LONG_AGO);
        if let Some(record) = state.records.get_mut(&key) {
            record.lease = lease;
        }
        begin(state, key, effects);
    }
}

/// The lease of the task of a record, if the orchestrator gives any.
fn lease_of(state: &State, key: Key, asked: Moment) -> Option<Lease> {
    let length = state.records.get(&key)?.task.lease.filter(|_| !state.speaks_base())?;
    Some(Lease::new(length, asked, state.now))
}

fn lose_link(state: &mut State, generation: u64) {
    if state.link.is_some_and(|(current, _)| current == generation) {
        state.link = None;
    }
}

/// What a poll under `generation` of the link, at `asked`, brought.
fn arrive(
    state: &mut State,
    claimed: ClaimedTask,
    (generation, asked): (u64, Moment),
    effects: &mut Vec<Effect>,
) {
    match claimed {
        Ok(task) => {
            // A registration since then did not name it: the orchestrator may have given it away.
            let renamed = state.link.is_none_or(|(current, _)| current != generation);
            arrive_by_poll(state, task, if renamed { Moment::LONG_AGO } else { asked }, effects);
        }
        Err(rejected) => {
            let outcome = TaskOutcome {
                identity: rejected.identity,
                model: rejected.model,
                epoch: rejected.epoch,
                ending: Err(rejected.error.into()),
                notes: Vec::new(),
                duration: Duration::ZERO,
                energy_joules: None,
            };
            hold_outcome(state, rejected_task(&outcome), outcome, None, effects);
        }
    }
}

fn arrive_by_poll(state: &mut State, task: Box<TaskSpec>, asked: Moment, effects: &mut Vec<Effect>) {
    let attempt = task.identity.attempt;
    let now = state.now;
    let lease = task.lease.filter(|_| !state.speaks_base()).map(|length| Lease::new(length, asked, now));
    let joined = |record: &Record| !record.stage.is_over() && record.task.is_same_work(&task);
    let found = state.records.iter_mut().find(|(_, record)| joined(record));
    if let Some((key, record)) = found.map(|(key, record)| (*key, record)) {
        record.unwanted &= attempt <= record.attempt;
        record.renewed |= record.stopping && attempt > record.attempt;
        record.polled = true;
        if attempt < record.attempt {
            return;
        }
        // With what only a poll tells, and as it is read again after a restart.
        (record.task, record.lease, record.attempt) = (Arc::from(task), lease, attempt);
        // Handed out to us: there is nothing more to wait for.
        if record.stage == Stage::Resuming {
            begin(state, key, effects);
        }
        return;
    }
    if let Some(known) = known_outcome(state, &task) {
        let outcome = TaskOutcome { identity: task.identity.clone(), ..TaskOutcome::clone(&known) };
        hold_outcome(state, Arc::from(task), outcome, lease, effects);
        return;
    }
    let (key, record) = hold(state, Arc::from(task), Stage::Ready);
    record.polled = true;
    record.lease = lease;
    begin(state, key, effects);
}

fn arrive_by_execute(state: &mut State, task: Box<TaskSpec>, waiter: Waiter, effects: &mut Vec<Effect>) {
    let refuse = |error| Effect::Answer { waiter, answer: Err(error) };
    if let Some(record) = state.find(&task.identity.task_id).and_then(|key| state.records.get_mut(&key)) {
        match &record.stage {
            Stage::Releasing(_) => effects.push(refuse(ExecuteError::Draining)),
            _ if !record.task.is_same_work(&task) => effects.push(refuse(ExecuteError::Conflict)),
            _ => record.waiters.push(waiter),
        }
        return;
    }
    if let Some(outcome) = known_outcome(state, &task) {
        effects.push(Effect::Answer { waiter, answer: Ok(outcome) });
    } else if state.admission != Admission::Open {
        effects.push(refuse(ExecuteError::Draining));
    } else if let Some(trouble) = state.troubles().next() {
        effects.push(refuse(ExecuteError::Degraded { trouble: trouble.clone() }));
    } else if state.records.len() >= state.limits.slots as usize {
        effects.push(refuse(ExecuteError::Busy { slots: state.limits.slots }));
    } else {
        let (key, record) = hold(state, Arc::from(task), Stage::Ready);
        record.waiters.push(waiter);
        begin(state, key, effects);
    }
}

/// The outcome of the same work, when it completed a short while ago.
fn known_outcome(state: &State, task: &TaskSpec) -> Option<Arc<TaskOutcome>> {
    let persisting = state.records.values().filter_map(|record| match &record.stage {
        Stage::Persisting(outcome) => Some((&record.task, outcome)),
        _ => None,
    });
    let recent = state.recent.iter().rev().map(|(task, outcome)| (task, outcome));
    let unclaimed = state.unclaimed.iter().rev().map(|(task, outcome)| (task, outcome));
    persisting
        .chain(recent)
        .chain(unclaimed)
        .find(|(done, outcome)| done.is_same_work(task) && outcome.ending.is_ok())
        .map(|(_, outcome)| Arc::clone(outcome))
}

/// A new record with a slot of its own.
fn hold(state: &mut State, task: Arc<TaskSpec>, stage: Stage) -> (Key, &mut Record) {
    let key = Key(state.fresh_id());
    let attempt = task.identity.attempt;
    let record = Record {
        task,
        attempt,
        stage,
        retries: 0,
        stopping: false,
        renewed: false,
        unwanted: false,
        polled: false,
        waiters: Vec::new(),
        lease: None,
    };
    (key, state.records.entry(key).insert_entry(record).into_mut())
}

/// A record for an outcome that is known before anything ran.
fn hold_outcome(
    state: &mut State,
    task: Arc<TaskSpec>,
    outcome: TaskOutcome,
    lease: Option<Lease>,
    effects: &mut Vec<Effect>,
) {
    let outcome = Arc::new(outcome);
    let (key, record) = hold(state, task, Stage::Persisting(Arc::clone(&outcome)));
    record.polled = true;
    record.lease = lease;
    count(state, &outcome, effects);
    effects.push(Effect::Persist { key, outcome, lease: lease.map(|lease| lease.ends()) });
}

/// First step of a record, or of a new attempt of it: ask for its job where only the base contract can tell.
fn begin(state: &mut State, key: Key, effects: &mut Vec<Effect>) {
    set_stage(state, key, Stage::Ready);
    if state.admission >= Admission::Stopping {
        let why = interrupted(state);
        stop(state, key, why, effects);
    } else if state.speaks_base() {
        let Some(job) = state.records.get(&key).map(|record| record.task.identity.job_id.clone()) else {
            return;
        };
        let asked =
            keys(state, |record| record.stage == Stage::Checking && record.task.identity.job_id == job);
        set_stage(state, key, Stage::Checking);
        if asked.is_empty() {
            effects.push(Effect::CheckJob { job });
        }
    }
}

fn finish(state: &mut State, run: RunId, ended: Ended, effects: &mut Vec<Effect>) {
    let now = state.now;
    let Some(key) = state.find_run(&Stage::Running(run)) else { return };
    let Some(record) = state.records.get_mut(&key) else { return };
    let code = ended.finished.ending.as_ref().err().map(|error| error.code);
    let passing = ended.finished.ending.as_ref().err().filter(|error| error.code.is_retryable());
    let may_retry = record.retries < state.limits.max_task_retries
        && !record.stopping
        && state.admission < Admission::Stopping;
    let ended_by_worker = matches!(code, Some(ErrorCode::Cancelled | ErrorCode::TimedOut));
    // Stopped for a lease that is ours again: by a late answer, or since the task was handed out anew.
    let regained = code == Some(ErrorCode::LeaseLost) && !record.is_lost(now) && !record.unwanted;
    let starts_anew = (ended_by_worker && record.renewed) || regained;
    if let Some(reason) = passing.filter(|_| may_retry) {
        record.retries += 1;
        record.stage = Stage::Backoff(run);
        let (retries, identity, reason) = (record.retries, record.identity(), reason.clone());
        effects.push(Effect::Retry { run, retries, identity, reason });
    } else if starts_anew {
        (record.renewed, record.stopping) = (false, false);
        begin(state, key, effects);
    } else if code == Some(ErrorCode::LeaseLost) && record.unwanted {
        let error =
            TaskError::new(ErrorCode::Cancelled, "the task was cancelled while its lease was in doubt");
        end(state, key, Ended { finished: failed(error), ..ended }, effects);
    } else {
        match ended.finished.ending {
            Err(error) if error.code == ErrorCode::Interrupted => {
                give_back(state, key, (error, ended.duration), effects);
            }
            _ => end(state, key, ended, effects),
        }
    }
}

/// Why everything is stopped.
fn interrupted(state: &State) -> TaskError {
    TaskError::new(ErrorCode::Interrupted, state.interruption)
}

/// Stops a record wherever it is; one whose outcome is known goes on to report it.
fn stop(state: &mut State, key: Key, reason: TaskError, effects: &mut Vec<Effect>) {
    let Some(record) = state.records.get_mut(&key) else { return };
    match record.stage {
        Stage::Resuming | Stage::Checking | Stage::Ready | Stage::Backoff(_) => {
            if reason.code == ErrorCode::Interrupted {
                give_back(state, key, (reason, Duration::ZERO), effects);
            } else {
                end(state, key, Ended::unstarted(reason), effects);
            }
        }
        Stage::Running(run) => {
            record.stopping = true;
            effects.push(Effect::Stop { run, reason });
        }
        Stage::Persisting(_) | Stage::Releasing(_) => {}
    }
}

fn cancel(
    state: &mut State,
    task: &TaskId,
    up_to: Option<u32>,
    reason: &'static str,
    effects: &mut Vec<Effect>,
) -> CancelAnswer {
    // One attempt may still be on its way to the disk while the next one runs. One that came after the attempt that was
    // meant is wanted: that one was given away since.
    let meant = |record: &Record| {
        record.task.identity.task_id == *task && up_to.is_none_or(|attempt| record.attempt <= attempt)
    };
    let has_ended = |record: &Record| matches!(record.stage, Stage::Persisting(_));
    let stopping = keys(state, |record| meant(record) && !has_ended(record));
    for key in &stopping {
        forget_renewal(state, *key);
        stop(state, *key, TaskError::new(ErrorCode::Cancelled, reason), effects);
    }
    let ended = || state.records.values().any(|record| meant(record) && has_ended(record));
    let is_known = || state.recent().any(|outcome| outcome.identity.task_id == *task);
    if !stopping.is_empty() {
        CancelAnswer::Stopping
    } else if ended() || is_known() {
        CancelAnswer::AlreadyEnded
    } else {
        CancelAnswer::NotFound
    }
}

/// Whoever cancels means the attempt that waits for its turn, too.
fn forget_renewal(state: &mut State, key: Key) {
    if let Some(record) = state.records.get_mut(&key) {
        record.renewed = false;
        record.unwanted = true;
    }
}

fn set_stage(state: &mut State, key: Key, stage: Stage) {
    if let Some(record) = state.records.get_mut(&key) {
        record.stage = stage;
    }
}

/// Keys of the records that fit, oldest first.
fn keys(state: &State, fits: impl Fn(&Record) -> bool) -> Vec<Key> {
    state.records.iter().filter(|(_, record)| fits(record)).map(|(key, _)| *key).collect()
}
