//! Takes outcomes from the outbox to the orchestrator, and says when they may go.
//!
//! An outcome is sent again until the orchestrator has answered for it: a job that never ends is worse than a task
//! counted twice (base contract), and the extended contract counts it once by (task_id, attempt). What it will never take
//! is set aside in a file; nothing is deleted that was not acknowledged.
//!
//! That an outcome was acknowledged is noted once its task is off the list of held tasks: a process that is killed in between
//! reports it again, and does not run it again.
//!
//! An outcome whose lease has ended since is not reported before the orchestrator was asked whether the attempt is still
//! ours: one that was given to another worker is let go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clock::{Clock, Moment};
use super::held;
use super::link::{LinkNow, LinkView};
use super::outbox::Outbox;
use crate::domain::{Progress, TaskIdentity, TaskOutcome, TaskPhase, TaskView};
use crate::failpoint;
use crate::orchestrator::{Backoff, Mode, Orchestrator, OrchestratorError};
use crate::telemetry::traces::Traces;

/// Reports that are under way at once.
const REPORTS_AT_ONCE: usize = 64;

/// For how long an orchestrator that is there may answer that it cannot take a report before that is set aside.
const PATIENCE: Duration = Duration::from_hours(24);

/// Reports outcomes.
pub(super) struct Reporter<O> {
    pub(super) orchestrator: Arc<O>,
    pub(super) link: LinkView,
    pub(super) outbox: Arc<Outbox>,
    pub(super) let_go: held::Progress,
    pub(super) unreported: Unreported,
    pub(super) clock: Clock,
    pub(super) traces: Traces,
}

/// An outcome on disk, to be reported.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) sequence: u64,
    pub(super) outcome: Arc<TaskOutcome>,
    /// Until when nobody else can have been given the task; None = it cannot be given away.
    pub(super) ours_until: Option<Moment>,
    /// The burst for the list of held tasks with which its task was let go.
    pub(super) let_go: u64,
}

/// Attempts whose outcomes are on their way; told at registration, so that nobody else is given their tasks.
#[derive(Debug, Clone, Default)]
pub(super) struct Unreported(Arc<Mutex<BTreeMap<u64, TaskIdentity>>>);

impl Unreported {
    pub(super) fn add(&self, report: &Report) {
        self.lock().insert(report.sequence, report.outcome.identity.clone());
    }

    fn remove(&self, sequence: u64) {
        self.lock().remove(&sequence);
    }

    pub(super) fn attempts(&self) -> Vec<TaskIdentity> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, TaskIdentity>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O: Orchestrator> Reporter<O> {
    /// Reports what comes in until `ended`. What is not acknowledged by then stays on disk.
    pub(super) async fn run(self, mut inbox: mpsc::UnboundedReceiver<Report>, ended: CancellationToken) {
        let places = Semaphore::new(REPORTS_AT_ONCE);
        let mut reports = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = ended.cancelled() => return,
                Some(()) = reports.next(), if !reports.is_empty() => {}
                Some(report) = inbox.recv() => reports.push(self.deliver(report, &places)),
            }
        }
    }

    /// Sends one outcome until it is acknowledged or refused for good, or the link ends.
    async fn deliver(&self, report: Report, places: &Semaphore) {
        let sequence = report.sequence;
        self.deliver_one(report, places).await;
        self.unreported.remove(sequence);
    }

    async fn deliver_one(&self, report: Report, places: &Semaphore) {
        let Report { sequence, outcome, ours_until, let_go } = report;
        let mut link = self.link.clone();
        let mut backoff = Backoff::reconnect();
        let mut unwilling_since = None;
        while let Some(now) = link.up().await {
            // Held for the call alone, so that one that has to wait does not keep others from being sent.
            let Ok(place) = places.acquire().await else { return };
            let answer = match self.standing(&outcome, ours_until, now).await {
                Ok(Standing::Ours) => self.orchestrator.report(&outcome).await,
                Ok(Standing::GivenAway) => {
                    let span = self.traces.span(&outcome.identity);
                    span.in_scope(|| {
                        tracing::warn!("the attempt was given away; its outcome is not reported")
                    });
                    Ok(())
                }
                Err(error) => Err(error),
            };
            drop(place);
            let Err(error) = answer else {
                link.contact();
                failpoint::pass("report-acknowledged");
                self.let_go.reached(let_go).await;
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
            let span = self.traces.span(&outcome.identity);
            if for_good {
                span.in_scope(|| tracing::error!(%error, "the orchestrator does not take an outcome"));
                self.outbox.set_aside(sequence, outcome);
                return;
            }
            span.in_scope(|| tracing::debug!(%error, "a report failed; trying again"));
            // A credential that is refused for one report says nothing of the link of all others.
            if matches!(error, OrchestratorError::Unreachable(_)) {
                link.heard(error, now.generation);
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    /// Whether the attempt is still ours: by our own clock, or once that says no more, by a question.
    async fn standing(
        &self,
        outcome: &TaskOutcome,
        ours_until: Option<Moment>,
        link: LinkNow,
    ) -> Result<Standing, OrchestratorError> {
        let extended = link.registered.is_some_and(|registered| registered.mode == Mode::Extended);
        if !extended || ours_until.is_none_or(|until| self.clock.now() < until) {
            return Ok(Standing::Ours);
        }
        let view = TaskView {
            identity: outcome.identity.clone(),
            model: outcome.model.clone(),
            epoch: outcome.epoch,
            phase: TaskPhase::Reporting,
            progress: Progress::default(),
            claimed_at: SystemTime::now(),
            retries: 0,
            lease: None,
        };
        match self.orchestrator.report_progress(&view).await {
            Ok(true) => Ok(Standing::GivenAway),
            // One that does not know the task says so to the report itself, too.
            Ok(false) | Err(OrchestratorError::Rejected(_)) => Ok(Standing::Ours),
            Err(error) => Err(error),
        }
    }
}

/// Whose an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Ours,
    GivenAway,
}
