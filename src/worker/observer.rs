//! Hears from the threads that train and write, and passes it on without waiting.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::metrics::{Metrics, RunMetrics};
use super::reporter::Report;
use super::state::{Event, Key, RunId};
use crate::domain::{Backend, Progress, TaskSpec};
use crate::engine::{Engine, ExitCause, Finished, Observer, Step, Watcher};
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
    /// What a task without a wish of its own gets from now on.
    Backend(Backend),
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

/// What keeps the engine from its work: its own troubles and those of its GPUs, told as one. And what it works with.
#[derive(Debug, Clone)]
pub(super) struct Troubles {
    known: Arc<Mutex<[Option<String>; 2]>>,
    backend: Arc<Mutex<Backend>>,
    notices: mpsc::UnboundedSender<Notice>,
}

impl Troubles {
    /// Nothing is wrong yet with an engine that gives tasks `backend`.
    pub(super) fn new(notices: mpsc::UnboundedSender<Notice>, backend: Backend) -> Self {
        Self { known: Arc::default(), backend: Arc::new(Mutex::new(backend)), notices }
    }

    fn of_engine(&self, trouble: Option<String>) {
        self.change(|[engine, _]| *engine = trouble);
    }

    /// Looks at the GPUs of `engine` now.
    pub(super) fn look_at_devices(&self, engine: &dyn Engine) {
        let trouble = engine.device_trouble();
        self.change(|[_, devices]| *devices = trouble);
        let now = engine.default_backend();
        let mut known = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != now {
            *known = now;
            // The driver is gone only when the whole worker is.
            let _ = self.notices.send(Notice::Backend(now));
        }
    }

    /// Looks at them with each new snapshot of `gpus`, until there are no more.
    pub(super) async fn follow_devices(self, engine: Arc<dyn Engine>, gpus: Arc<dyn GpuProbe>) {
        let mut snapshots = gpus.watch();
        while snapshots.changed().await.is_ok() {
            self.look_at_devices(&*engine);
        }
    }

    fn change(&self, change: impl FnOnce(&mut [Option<String>; 2])) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.clone();
        change(&mut known);
        if *known != before {
            let all: Vec<&str> = known.iter().flatten().map(String::as_str).collect();
            let trouble = (!all.is_empty()).then(|| all.join("; "));
            // Under the lock, so that the last one told is the last one known. The driver is gone only when the whole
            // worker is.
            let _ = self.notices.send(Notice::Engine { trouble });
        }
    }
}

/// The [`Watcher`] of the engine.
pub(super) struct EngineWatcher {
    pub(super) troubles: Troubles,
    pub(super) metrics: Metrics,
}

impl Watcher for EngineWatcher {
    fn trouble(&self, trouble: Option<String>) {
        self.troubles.of_engine(trouble);
    }

    fn runner_exited(&self, cause: ExitCause) {
        self.metrics.runner_exited(cause);
    }

    fn runners(&self, count: usize) {
        self.metrics.runners(count);
    }
}
