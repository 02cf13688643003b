//! The two beats of a running worker: the heartbeat, and a glance at every held task.
//!
//! The heartbeat tells that the worker lives. The glance, twice a second, tells how far tasks are and learns
//! which are no longer wanted: a task of a cancelled job stops within a second. With the base contract it asks once
//! a job, with the extended one once a task.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use super::handle::WorkerHandle;
use super::link::LinkNow;
use super::metrics::Metrics;
use super::state::Event;
use crate::domain::{JobId, TaskPhase, TaskView, WorkerPhase, WorkerStatus};
use crate::engine::Engine;
use crate::gpu::GpuProbe;
use crate::orchestrator::{Heartbeat, Mode, Orchestrator};
use crate::telemetry::host::HostProbe;

/// Between two glances.
const GLANCE_INTERVAL: Duration = Duration::from_millis(500);

/// Glances between two reports of a job's metrics over the base contract, which has no other sign of progress.
const GLANCES_PER_JOB_REPORT: u32 = 4;

/// Calls of one glance that are under way at once.
const CALLS_AT_ONCE: usize = 16;

/// Heartbeats in one lease: two may be lost before it ends.
const HEARTBEATS_PER_LEASE: u32 = 3;

/// What both beats need.
pub(super) struct Follower<O> {
    pub(super) orchestrator: Arc<O>,
    pub(super) worker: WorkerHandle,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) gpus: Arc<dyn GpuProbe>,
    pub(super) host: HostProbe,
    pub(super) heartbeat_interval: Duration,
    pub(super) metrics: Metrics,
}

impl<O: Orchestrator> Follower<O> {
    /// Sends heartbeats until `ended`.
    pub(super) async fn beat(&self, ended: CancellationToken) {
        let mut link = self.worker.link.clone();
        let mut worker = self.worker.clone();
        loop {
            let up = tokio::select! {
                up = link.up() => up,
                () = ended.cancelled() => return,
            };
            let Some(now) = up else { return };
            let began = Instant::now();
            let draining = self.worker.status().phase == WorkerPhase::Draining;
            self.heartbeat(now).await;
            // The orchestrator learns of a drain at once, not a whole interval later.
            let drain_began = async {
                while worker.changed().await {
                    if !draining && worker.published.borrow().status.phase == WorkerPhase::Draining {
                        return;
                    }
                }
                std::future::pending().await
            };
            tokio::select! {
                () = sleep_until(began + self.interval(now)) => {}
                () = drain_began => {}
                _ = link.changed() => {}
                () = ended.cancelled() => return,
            }
        }
    }

    fn interval(&self, now: LinkNow) -> Duration {
        let wishes = now.registered.map(|registered| (registered.heartbeat_interval, registered.lease));
        let (wished, lease) = wishes.unwrap_or_default();
        let lease_bound = lease.map(|lease| lease / HEARTBEATS_PER_LEASE);
        [wished, lease_bound].into_iter().flatten().fold(self.heartbeat_interval, Duration::min)
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
            gpus: self.gpus.snapshot().usage,
        };
        let answer = self.orchestrator.heartbeat(&heartbeat).await;
        self.metrics.heartbeat(answer.as_ref().map(drop).map_err(drop));
        match answer {
            Ok(answer) => {
                self.worker.link.contact();
                for task in answer.cancel {
                    self.worker.cancel_unasked(task, "cancelled by the orchestrator");
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
                self.worker.link.heard(&error, now.generation);
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
                _ = ticks.tick() => {}
                () = ended.cancelled() => return,
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
                    let jobs: BTreeMap<JobId, TaskView> =
                        held.map(|task| (task.identity.job_id.clone(), task)).collect();
                    let reports = glances.is_multiple_of(GLANCES_PER_JOB_REPORT);
                    let calls = stream::iter(jobs).map(|(job, task)| async move {
                        self.ask_for_job(job, now.generation).await;
                        if reports && task.progress.step > 0 {
                            self.tell_progress(task, now.generation).await;
                        }
                    });
                    calls.buffer_unordered(CALLS_AT_ONCE).collect::<()>().await;
                }
            }
        }
    }

    async fn tell_progress(&self, task: TaskView, generation: u64) {
        match self.orchestrator.report_progress(&task).await {
            Ok(cancel) => {
                self.worker.link.contact();
                if cancel {
                    self.worker.cancel_unasked(task.identity.task_id, "cancelled by the orchestrator");
                }
            }
            Err(error) => self.worker.link.heard(&error, generation),
        }
    }

    async fn ask_for_job(&self, job: JobId, generation: u64) {
        match self.orchestrator.job_state(&job).await {
            Ok(state) => {
                self.worker.link.contact();
                if state.ended {
                    self.engine.forget(&job);
                }
                if !state.wanted {
                    let reason = "the job was cancelled";
                    // The driver ends with the worker, and so does this loop.
                    let _ = self.events.send(Event::CancelJob { job, reason });
                }
            }
            Err(error) => self.worker.link.heard(&error, generation),
        }
    }
}

/// Slots that hold no task.
fn free_slots(status: &WorkerStatus) -> u32 {
    status.slots_total.saturating_sub(status.slots_busy)
}
