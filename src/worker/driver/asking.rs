//! What the driver asks the orchestrator beside the link's calls: for tasks, and whether a job is still wanted.

use std::sync::Arc;

use super::Driver;
use crate::domain::JobId;
use crate::orchestrator::{Backoff, ClaimRequest, Orchestrator, OrchestratorError};
use crate::worker::observer::Notice;
use crate::worker::state::{Event, Polled};

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
        let asked = self.parts.clock.now();
        self.parts.tracker.spawn(async move {
            let mut answered = None;
            let polled = match orchestrator.claim(&request).await {
                Ok(claimed) => {
                    link.contact();
                    answered = Some(claimed.answered);
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
            let wanted = orchestrator.job_state(&job).await.map_or(true, |state| state.wanted);
            let _ = events.send(Event::JobChecked { job, wanted });
        });
    }
}
