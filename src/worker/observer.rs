//! Hears from the threads that train and write, and passes it on without waiting.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::metrics::{Metrics, RunMetrics};
use super::reporter::Report;
use super::state::{Key, RunId};
use crate::domain::{Backend, Progress, TaskSpec};
use crate::engine::{Finished, Observer, Step};

/// What other threads tell the driver.
#[derive(Debug)]
pub(super) enum Notice {
    /// The engine began to work on a try.
    Started { run: RunId, at: Instant },
    /// A try ended.
    Finished { run: RunId, finished: Finished },
    /// The outcome of a record is on disk.
    Stored { key: Key, report: Report },
}

/// The [`Observer`] of one try.
pub(super) struct RunObserver {
    run: RunId,
    notices: mpsc::UnboundedSender<Notice>,
    progress: Arc<watch::Sender<Progress>>,
    metrics: RunMetrics,
}

impl RunObserver {
    pub(super) fn new(
        run: RunId,
        task: &TaskSpec,
        notices: mpsc::UnboundedSender<Notice>,
        progress: Arc<watch::Sender<Progress>>,
        metrics: &Metrics,
    ) -> Self {
        Self { run, notices, progress, metrics: metrics.of_run(task) }
    }
}

impl Observer for RunObserver {
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
