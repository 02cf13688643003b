//! What the driver asks the orchestrator beside the link's calls: for tasks, whether a job is still wanted, and to
//! take a task back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Driver;
use crate::domain::{JobId, TaskIdentity};
use crate::orchestrator::{Backoff, ClaimRequest, JobState, Orchestrator, OrchestratorError};
use crate::worker::observer::Notice;
use crate::worker::state::{Event, Key, Polled, Taken};

/// An empty poll that lasted for less was not held until there is a task.
const QUICK: Duration = Duration::from_millis(100);

/// Keeps an orchestrator, or a proxy, that answers every poll at once from being asked without pause. Polls that last as
/// they should are followed by the next at once.
#[derive(Debug, Clone, Default)]
pub(super) struct Pace {
    /// Quick empty answers in a row.
    quick: Arc<AtomicU32>,
}

impl Pace {
    /// How long to wait after a poll that `took` so long and brought `tasks` tasks.
    fn wait_after(&self, took: Duration, tasks: usize) -> Duration {
        if tasks > 0 || took >= QUICK {
            self.quick.store(0, Ordering::Relaxed);
            return Duration::ZERO;
        }
        let before = self.quick.fetch_add(1, Ordering::Relaxed);
        Backoff::empty_poll(before.saturating_add(1)).next_wait()
    }
}

impl<O: Orchestrator> Driver<O> {
    pub(super) fn poll(&self, generation: u64, slots_available: u32, places: u32) {
        let request = ClaimRequest {
            worker_id: self.parts.about.worker_id.clone(),
            slots_available,
            max_tasks: places,
            backends: self
                .parts
                .engine
                .capabilities()
                .backends
                .iter()
                .map(|backend| backend.name())
                .collect(),
            warm_jobs: self.parts.engine.warm_jobs(),
            gpu_memory_available_bytes: self.parts.gpus.snapshot().memory_available_bytes(),
        };
        let (notices, link) = (self.outlets.notices.clone(), self.parts.link.clone());
        let orchestrator = Arc::clone(&self.parts.orchestrator);
        let (asked, pace) = (self.parts.clock.now(), self.pace.clone());
        self.parts.tracker.spawn(async move {
            let began = Instant::now();
            let mut answered = None;
            let polled = match orchestrator.claim(&request).await {
                Ok(claimed) => {
                    link.contact();
                    answered = Some(claimed.answered);
                    let wait = pace.wait_after(began.elapsed(), claimed.tasks.len());
                    if !wait.is_zero() {
                        tokio::time::sleep(wait).await;
                    }
                    if claimed.tasks.is_empty() { Polled::Empty } else { Polled::Tasks(claimed.tasks) }
                }
                Err(error) => {
                    tracing::warn!(%error, "a poll for tasks failed");
                    let lost =
                        matches!(error, OrchestratorError::Unreachable(_) | OrchestratorError::Refused(_));
                    link.heard(error, generation);
                    if lost {
                        Polled::Failed
                    } else {
                        // The link is fine, so the next poll would come back at once.
                        tokio::time::sleep(Backoff::busy().next_wait()).await;
                        Polled::Empty
                    }
                }
            };
            let ended = Event::PollEnded { generation, asked, places, polled };
            let _ = notices.send(Notice::Polled { ended, answered });
        });
    }

    pub(super) fn check_job(&self, job: JobId) {
        let (events, orchestrator) = (self.outlets.events.clone(), Arc::clone(&self.parts.orchestrator));
        self.parts.tracker.spawn(async move {
            // Without an answer the task runs: it is in hand, and would be lost otherwise.
            let state = orchestrator.job_state(&job).await.ok();
            if let Some(total_epochs) = state.and_then(JobState::total_epochs) {
                let _ = events.send(Event::JobMeasured { job: job.clone(), total_epochs });
            }
            let wanted = state.is_none_or(|state| state.wanted);
            let _ = events.send(Event::JobChecked { job, wanted });
        });
    }

    pub(super) fn release(&self, key: Key, identity: TaskIdentity, reason: String) {
        let (events, orchestrator) = (self.outlets.events.clone(), Arc::clone(&self.parts.orchestrator));
        let span = self.parts.traces.span(&identity);
        self.parts.tracker.spawn(async move {
            let answer = orchestrator.release(&identity, &reason).await;
            let taken = span.in_scope(|| match answer {
                Ok(true) => {
                    tracing::info!(reason, "gave the task back");
                    Taken::Yes
                }
                Ok(false) => Taken::No,
                Err(error) => {
                    tracing::warn!(%error, "could not give the task back; reporting its end instead");
                    Taken::No
                }
            });
            let _ = events.send(Event::Released { key, taken });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_polls_that_come_back_at_once_are_followed_by_a_wait() {
        let pace = Pace::default();
        assert_eq!(pace.wait_after(QUICK, 0), Duration::ZERO);
        assert_eq!(pace.wait_after(Duration::ZERO, 1), Duration::ZERO);
        let waits: Vec<_> = (0..100).map(|_| pace.wait_after(Duration::ZERO, 0)).collect();
        assert!(waits[0] < Duration::from_millis(10), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait < Duration::from_millis(250)), "{waits:?}");
        assert!(waits.iter().sum::<Duration>() > Duration::from_secs(5), "{waits:?}");
        pace.wait_after(Duration::from_secs(5), 0);
        assert!(pace.wait_after(Duration::ZERO, 0) < Duration::from_millis(10));
    }
}
