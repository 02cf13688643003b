//! Hears from the threads that train and write, and passes it on without waiting.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::metrics::{Metrics, RunMetrics};
use super::reporter::Report;
use super::state::{Event, Key, RunId};
use crate::domain::{Backend, Progress, TaskSpec};
use crate::engine::{ExitCause, Finished, Observer, Step, Watcher};
use crate::gpu::{GpuProbe, GpuShare, TaskMeter};

/// What other threads tell the driver.
#[derive(Debug)]
pub(super) enum Notice {
    /// A poll came back; `answered` when the answer arrived, if any did.
    Polled { ended: Event, answered: Option<Instant> },
    /// The engine began to work on a try.
    Started { run: RunId, at: Instant },
    /// What keeps the engine from its work, None when that is over.
    Engine { trouble: Option<String> },
    /// A try ended.
    Finished { run: RunId, finished: Finished },
    /// What a try that ended took of its GPU.
    Measured { ended: Box<MeasuredRun>, share: GpuShare },
    /// The outcome of a record is on disk.
    Stored { key: Key, report: Report },
}

/// A try that ended on a GPU.
#[derive(Debug)]
pub(super) struct MeasuredRun {
    pub(super) run: RunId,
    pub(super) task: Arc<TaskSpec>,
    pub(super) finished: Finished,
    pub(super) duration: Duration,
}

/// The account of a try that runs on a GPU: opened on the thread that trains, closed by the driver.
#[derive(Clone)]
pub(super) struct Account {
    gpus: Arc<dyn GpuProbe>,
    meter: Arc<Mutex<Option<TaskMeter>>>,
}

impl Account {
    pub(super) fn new(gpus: &Arc<dyn GpuProbe>) -> Self {
        Self { gpus: Arc::clone(gpus), meter: Arc::default() }
    }

    fn open(&self, uuid: &str) {
        let meter = self.gpus.meter(uuid);
        *self.meter.lock().unwrap_or_else(PoisonError::into_inner) = meter;
    }

    /// The meter, where one was opened.
    pub(super) fn close(&self) -> Option<TaskMeter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The [`Observer`] of one try.
pub(super) struct RunObserver {
    run: RunId,
    notices: mpsc::UnboundedSender<Notice>,
    progress: Arc<watch::Sender<Progress>>,
    metrics: RunMetrics,
    account: Account,
}

impl RunObserver {
    pub(super) fn new(
        run: RunId,
        account: Account,
        notices: mpsc::UnboundedSender<Notice>,
        progress: Arc<watch::Sender<Progress>>,
        metrics: RunMetrics,
    ) -> Self {
        Self { run, notices, progress, metrics, account }
    }
}

impl Observer for RunObserver {
    fn on_gpu(&self, uuid: &str) {
        self.account.open(uuid);
    }

    fn started(&self, backend: Backend) {
        self.metrics.started(backend);
        // The driver is gone only when the whole worker is.
        let _ = self.notices.send(Notice::Started { run: self.run, at: Instant::now() });
    }

    fn stepped(&self, progress: &Progress, step: Step) {
        self.metrics.stepped(progress, step);
        self.progress.send_replace(*progress);
    }
}

/// The [`Watcher`] of the engine.
pub(super) struct EngineWatcher {
    pub(super) notices: mpsc::UnboundedSender<Notice>,
    pub(super) metrics: Metrics,
}

impl Watcher for EngineWatcher {
    fn trouble(&self, trouble: Option<String>) {
        // The driver is gone only when the whole worker is.
        let _ = self.notices.send(Notice::Engine { trouble });
    }

    fn runner_exited(&self, cause: ExitCause) {
        self.metrics.runner_exited(cause);
    }

    fn runners(&self, count: usize) {
        self.metrics.runners(count);
    }
}
