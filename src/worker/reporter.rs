//! Takes outcomes from the outbox to the orchestrator, and says when they may go.
//!
//! An outcome is sent again until the orchestrator has answered for it: a job that never ends is worse than a task
//! counted twice (base contract), and the extended contract counts it once by (task_id, attempt). What it will never take
//! is set aside in a file; nothing is deleted that was not acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::link::LinkView;
use super::outbox::{Left, Outbox};
use crate::domain::TaskOutcome;
use crate::orchestrator::{Backoff, Orchestrator, OrchestratorError};

/// Reports that are under way at once.
const REPORTS_AT_ONCE: usize = 64;

/// For how long an orchestrator that is there may answer that it cannot take a report before that is set aside.
const PATIENCE: Duration = Duration::from_hours(24);

/// Reports outcomes.
pub(super) struct Reporter<O> {
    pub(super) orchestrator: Arc<O>,
    pub(super) link: LinkView,
    pub(super) outbox: Arc<Outbox>,
}

impl<O: Orchestrator> Reporter<O> {
    /// Reports what comes in until `ended`. What is not acknowledged by then stays on disk.
    pub(super) async fn run(self, mut inbox: mpsc::UnboundedReceiver<Left>, ended: CancellationToken) {
        let places = Semaphore::new(REPORTS_AT_ONCE);
        let mut reports = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = ended.cancelled() => return,
                Some(()) = reports.next(), if !reports.is_empty() => {}
                Some((sequence, outcome)) = inbox.recv() => reports.push(self.deliver(sequence, outcome, &places)),
            }
        }
    }

    /// Sends one outcome until it is acknowledged or refused for good, or the link ends.
    async fn deliver(&self, sequence: u64, outcome: Arc<TaskOutcome>, places: &Semaphore) {
        let mut link = self.link.clone();
        let mut backoff = Backoff::reconnect();
        let mut unwilling_since = None;
        while let Some(now) = link.up().await {
            // Held for the call alone, so that one that has to wait does not keep others from being sent.
            let Ok(place) = places.acquire().await else { return };
            let answer = self.orchestrator.report(&outcome).await;
            drop(place);
            let Err(error) = answer else {
                link.contact();
                self.outbox.acknowledge(sequence);
                return;
            };
            let for_good = match &error {
                OrchestratorError::Rejected(_) => true,
                OrchestratorError::Unreachable(_) => {
                    unwilling_since = None;
                    false
                }
                OrchestratorError::Busy(_) | OrchestratorError::Refused(_) => {
                    unwilling_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE
                }
            };
            let task_id = outcome.identity.task_id.as_str();
            if for_good {
                tracing::error!(task_id, %error, "the orchestrator does not take an outcome");
                self.outbox.set_aside(sequence, outcome);
                return;
            }
            tracing::debug!(task_id, %error, "a report failed; trying again");
            // A credential that is refused for one report says nothing of the link of all others.
            if matches!(error, OrchestratorError::Unreachable(_)) {
                link.heard(error, now.generation);
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }
}
