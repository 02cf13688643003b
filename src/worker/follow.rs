//! The two beats of a running worker: the heartbeat, and a glance at every held task.
//!
//! The heartbeat tells that the worker lives. The glance, twice a second, tells how far tasks are and learns
//! which are no longer wanted: a task of a cancelled job stops within a second. With the base contract it asks once
//! a job, with the extended one once a task.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::handle::WorkerHandle;
use super::link::LinkNow;
use super::metrics::Metrics;
use super::state::{Event, RENEWALS_PER_LEASE};
use crate::domain::{JobId, TaskIdentity, TaskPhase, TaskView, WorkerStatus};
use crate::gpu::GpuProbe;
use crate::orchestrator::{Heartbeat, HeartbeatAnswer, Mode, Orchestrator, OrchestratorError};
use crate::telemetry::host::HostProbe;

/// Between two glances.
const GLANCE_INTERVAL: Duration = Duration::from_millis(500);

/// Glances between two reports of a job's metrics over the base contract, which has no other sign of progress.
const GLANCES_PER_JOB_REPORT: u32 = 4;

/// Calls of one glance that are under way at once.
const CALLS_AT_ONCE: usize = 128;

/// Longest time that one question of a glance may take: a slow answer about one job must not keep another one's
/// cancelled task running.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest time that a heartbeat may take; a third of a shorter lease, so that a lost link is found out before that ends.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);

/// Shortest limit for a heartbeat: a slow answer is not taken for a lost link.
const SHORTEST_HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(1);

/// Heartbeats in one lease at most, where the orchestrator renews nothing.
const MOST_HEARTBEATS_PER_LEASE: u32 = 30;

/// Shortest time between two heartbeats, whatever the leases.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);

/// What both beats need.
pub(super) struct Follower<O> {
    pub(super) orchestrator: Arc<O>,
    pub(super) worker: WorkerHandle,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) gpus: Arc<dyn GpuProbe>,
    pub(super) host: HostProbe,
    pub(super) heartbeat_interval: Duration,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
}

impl<O: Orchestrator> Follower<O> {
    /// Sends heartbeats until `ended`.
    pub(super) async fn beat(&self, ended: CancellationToken) {
        let mut link = self.worker.link.clone();
        let mut pulse = self.worker.pulse.clone();
        loop {
            let up = tokio::select! {
                biased;
                () = ended.cancelled() => return,
                up = link.up() => up,
            };
            let Some(now) = up else { return };
            let began = Instant::now();
            let draining = pulse.borrow().draining;
            self.heartbeat(now).await;
            // The orchestrator learns of a drain at once, not a whole interval later.
            let drain_began = async {
                if draining || pulse.wait_for(|pulse| pulse.draining).await.is_err() {
                    std::future::pending().await
                }
            };
            tokio::select! {
                biased;
                // First, since the next one may be due at once, and for ever.
                () = ended.cancelled() => return,
                () = self.next_beat(now, began) => {}
                () = drain_began => {}
                changed = link.changed() => {
                    if changed.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// Waits until the heartbeat after the one that was sent at `began` is due: after the interval, or as soon as a third
    /// of a lease has passed. Tasks come and go meanwhile.
    async fn next_beat(&self, link: LinkNow, began: Instant) {
        let mut pulses = self.worker.pulse.clone();
        loop {
            let due = began + self.interval(link);
            let pulse = *pulses.borrow_and_update();
            let renewal = pulse.renewal_due.map(|due| Instant::now() + due.since(self.clock.now()));
            let of_lease = pulse.shortest_lease.unwrap_or_default() / MOST_HEARTBEATS_PER_LEASE;
            let shortest = of_lease.max(SHORTEST_INTERVAL);
            let due = renewal.map_or(due, |renewal| due.min(renewal.max(began + shortest)));
            if due <= Instant::now() {
                return;
            }
            tokio::select! {
                biased;
                // It is looked again then: tasks that ended meanwhile left later leases.
                () = sleep_until(due) => {}
                changed = pulses.changed() => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                }
            }
        }
    }

    fn interval(&self, link: LinkNow) -> Duration {
        let wishes = link.registered.map(|registered| (registered.heartbeat_interval, registered.lease));
        let (wished, lease) = wishes.unwrap_or_default();
        let interval = wished.unwrap_or(self.heartbeat_interval);
        lease.map_or(interval, |lease| interval.min(lease / RENEWALS_PER_LEASE))
    }

    /// How long a heartbeat may take.
    fn limit(&self) -> Duration {
        let lease = self.worker.pulse.borrow().shortest_lease;
        let third = lease.map_or(HEARTBEAT_TIMEOUT, |lease| lease / RENEWALS_PER_LEASE);
        third.clamp(SHORTEST_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT)
    }

    async fn heartbeat(&self, now: LinkNow) {
        if now.registered.is_none_or(|registered| registered.mode == Mode::Base) {
            return;
        }
        let status = self.worker.status();
        let heartbeat = Heartbeat {
            worker_id: status.worker_id.clone(),
            phase: status.phase,
            slots_available: free_slots(&status),
            tasks: status.tasks,
            host: self.host.usage(),
            gpus: self.gpus.snapshot().usage.clone(),
        };
        let limit = self.limit();
        let asked = self.clock.now();
        let sent = timeout(limit, self.orchestrator.heartbeat(&heartbeat)).await;
        let late = |_| {
            let said = format!("no answer to a heartbeat within {limit:?}");
            Err(OrchestratorError::Unreachable(said))
        };
        let answer = sent.unwrap_or_else(late);
        self.metrics.heartbeat(answer.as_ref().map(drop).map_err(drop));
        match answer {
            Ok(answer) => {
                self.worker.link.beat();
                let (wanted, unwanted) = judged(&heartbeat.tasks, &answer);
                let renewed = wanted.into_iter();
                let tasks: Vec<_> = renewed.map(|task| (task.task_id.clone(), task.attempt)).collect();
                if !tasks.is_empty() {
                    // The driver ends with the worker, and so does this loop.
                    let _ = self.events.send(Event::Renewed { tasks, asked });
                }
                for task in unwanted {
                    self.worker.unwanted(task.clone());
                }
                if answer.drain {
                    self.worker.drain(None);
                }
                if answer.reregister {
                    self.worker.link.lost(now.generation);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "heartbeat failed");
                self.worker.link.heard(error, now.generation);
            }
        }
    }

    /// Looks after the held tasks until `ended`.
    pub(super) async fn glance(&self, ended: CancellationToken) {
        let mut ticks = interval_at(Instant::now() + GLANCE_INTERVAL, GLANCE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut glances = 0_u32;
        loop {
            tokio::select! {
                biased;
                // First, since glances that take longer than their interval are always due.
                () = ended.cancelled() => return,
                _ = ticks.tick() => {}
            }
            glances = glances.wrapping_add(1);
            let now = self.worker.link.now();
            let Some(mode) = self.worker.link.mode() else { continue };
            let tasks = self.worker.status().tasks;
            let held = tasks.into_iter().filter(|task| task.phase != TaskPhase::Reporting);
            match mode {
                Mode::Extended => {
                    let calls = stream::iter(held).map(|task| self.tell_progress(task, now.generation));
                    calls.buffer_unordered(CALLS_AT_ONCE).collect::<()>().await;
                }
                Mode::Base => {
                    let jobs = furthest_of_each_job(held);
                    let questions = stream::iter(jobs.keys().cloned().collect::<Vec<_>>())
                        .map(|job| self.ask_for_job(job, now.generation));
                    questions.buffer_unordered(CALLS_AT_ONCE).collect::<()>().await;
                    if glances.is_multiple_of(GLANCES_PER_JOB_REPORT) {
                        let moving = jobs.into_values().filter(|task| task.progress.step > 0);
                        let reports =
                            stream::iter(moving).map(|task| self.tell_progress(task, now.generation));
                        reports.buffer_unordered(CALLS_AT_ONCE).collect::<()>().await;
                    }
                }
            }
        }
    }

    async fn tell_progress(&self, task: TaskView, generation: u64) {
        // Without an answer in time the next glance asks again; whether the link is gone others find out.
        let Ok(answer) = timeout(QUESTION_TIMEOUT, self.orchestrator.report_progress(&task)).await else {
            return;
        };
        match answer {
            Ok(cancel) => {
                self.worker.link.contact();
                if cancel {
                    self.worker.unwanted(task.identity);
                }
            }
            Err(error) => self.worker.link.heard(error, generation),
        }
    }

    async fn ask_for_job(&self, job: JobId, generation: u64) {
        let Ok(answer) = timeout(QUESTION_TIMEOUT, self.orchestrator.job_state(&job)).await else { return };
        match answer {
            Ok(state) => {
                self.worker.link.contact();
                if !state.wanted {
                    let reason = "the job was cancelled";
                    // The driver ends with the worker, and so does this loop.
                    let _ = self.events.send(Event::CancelJob { job, reason });
                }
            }
            Err(error) => self.worker.link.heard(error, generation),
        }
    }
}

/// Of the attempts that a heartbeat told of, those whose leases were renewed, and those that are not wanted.
///
/// An answer names tasks and no attempts. Two of one task may be told of: one that ended and is on its way to the disk, and the
/// next one. Where the answer says both of it, the next one is wanted and the other is not.
fn judged<'a>(
    told: &'a [TaskView],
    answer: &HeartbeatAnswer,
) -> (Vec<&'a TaskIdentity>, Vec<&'a TaskIdentity>) {
    let told = || told.iter().map(|task| &task.identity);
    let is_latest = |task: &TaskIdentity| {
        told().all(|other| other.task_id != task.task_id || other.attempt <= task.attempt)
    };
    let is_renewed = |task: &TaskIdentity| answer.renewed.contains(&task.task_id) && is_latest(task);
    let is_unwanted = |task: &TaskIdentity| answer.cancel.contains(&task.task_id) && !is_renewed(task);
    (told().filter(|task| is_renewed(task)).collect(), told().filter(|task| is_unwanted(task)).collect())
}

/// The task of each job that is furthest: the others of it wait for their turn.
fn furthest_of_each_job(tasks: impl Iterator<Item = TaskView>) -> BTreeMap<JobId, TaskView> {
    let mut furthest: BTreeMap<JobId, TaskView> = BTreeMap::new();
    for task in tasks {
        match furthest.entry(task.identity.job_id.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(task);
            }
            Entry::Occupied(mut entry) if task.progress.step > entry.get().progress.step => {
                entry.insert(task);
            }
            Entry::Occupied(_) => {}
        }
    }
    furthest
}

/// Slots that hold no task.
fn free_slots(status: &WorkerStatus) -> u32 {
    status.slots_total.saturating_sub(status.slots_busy)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::domain::{ModelType, Progress, TaskId};

    fn view(name: &str, attempt: u32) -> TaskView {
        let identity = TaskIdentity {
            task_id: TaskId::parse(name).unwrap(),
            job_id: JobId::parse("job").unwrap(),
            attempt,
        };
        TaskView {
            identity,
            model: ModelType::parse("test").unwrap(),
            epoch: 0,
            phase: TaskPhase::Running,
            progress: Progress::default(),
            claimed_at: SystemTime::UNIX_EPOCH,
            retries: 0,
            lease: None,
        }
    }

    #[test]
    fn of_two_attempts_of_a_task_the_answer_to_a_heartbeat_means_the_one_that_it_can_mean() {
        let told = [view("a", 1), view("a", 2), view("b", 1), view("c", 3)];
        let ids = |names: &[&str]| names.iter().map(|name| TaskId::parse(name).unwrap()).collect();
        let judge = |renewed: &[&str], cancel: &[&str]| {
            let answer =
                HeartbeatAnswer { renewed: ids(renewed), cancel: ids(cancel), ..HeartbeatAnswer::default() };
            let (wanted, unwanted) = judged(&told, &answer);
            [wanted, unwanted].map(|tasks| {
                tasks.into_iter().map(|task| format!("{}{}", task.task_id, task.attempt)).collect::<Vec<_>>()
            })
        };
        assert_eq!(judge(&["a", "b"], &["a", "c"]), [vec!["a2", "b1"], vec!["a1", "c3"]]);
        assert_eq!(judge(&["a"], &[]), [vec!["a2"], vec![]]);
        assert_eq!(judge(&[], &["a"]), [vec![], vec!["a1", "a2"]]);
    }
}
