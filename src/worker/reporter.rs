//! Takes outcomes from the outbox to the orchestrator, and says when they may go.
//!
//! An outcome is sent again until the orchestrator has answered for it: a job that never ends is worse than a task
//! counted twice (base contract), and the extended contract counts it once by (task_id, attempt).

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::link::LinkView;
use super::outbox::{Left, Outbox};
use crate::domain::TaskOutcome;
use crate::orchestrator::{Backoff, Orchestrator, OrchestratorError};

/// Reports that are under way at once.
const REPORTS_AT_ONCE: usize = 64;

/// Answers of "cannot now" to one report before it is given up: with the waits between them about five minutes.
const MOST_REFUSALS: u32 = 20;

/// Reports outcomes.
pub(super) struct Reporter<O> {
    pub(super) orchestrator: Arc<O>,
    pub(super) link: LinkView,
    pub(super) outbox: Arc<Outbox>,
}

impl<O: Orchestrator> Reporter<O> {
    /// Reports what comes in until `ended`. What is not acknowledged by then stays on disk.
    pub(super) async fn run(self, mut inbox: mpsc::UnboundedReceiver<Left>, ended: CancellationToken) {
        let mut reports = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = ended.cancelled() => return,
                Some(()) = reports.next(), if !reports.is_empty() => {}
                Some((sequence, outcome)) = inbox.recv(), if reports.len() < REPORTS_AT_ONCE => {
                    reports.push(self.deliver(sequence, outcome));
                }
            }
        }
    }

    /// Sends one outcome until it is acknowledged or refused for good.
    async fn deliver(&self, sequence: u64, outcome: Arc<TaskOutcome>) {
        let mut link = self.link.clone();
        let mut backoff = Backoff::reconnect();
        let mut refusals = 0;
        while let Some(now) = link.up().await {
            let Err(error) = self.orchestrator.report(&outcome).await else {
                link.contact();
                break;
            };
            link.heard(&error, now.generation);
            refusals += u32::from(matches!(error, OrchestratorError::Busy(_)));
            let for_good = matches!(error, OrchestratorError::Rejected(_));
            if for_good || refusals > MOST_REFUSALS {
                let identity = &outcome.identity;
                tracing::error!(task_id = %identity.task_id, job_id = %identity.job_id, %error,
                    "the orchestrator does not take this outcome; it is given up");
                break;
            }
            tracing::debug!(task_id = %outcome.identity.task_id, %error, "report failed; trying again");
            tokio::time::sleep(backoff.next_wait()).await;
        }
        self.outbox.acknowledge(sequence);
    }
}
