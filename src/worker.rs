//! The life of a task: claimed, checked, run, reported.
//!
//! ```text
//!            link (registers, reconnects)        follow (heartbeat, glance at tasks), jobs (whose end has come)
//!                 |                                   |
//! poll, ExecuteTask --> driver --state::transition--> effects --> engine
//!                        |  ^                            |
//!                        v  |                            v
//!                     status (handle)                  outbox --> reporter --> orchestrator
//! ```
//!
//! [`Worker::new`] builds, [`Worker::run`] starts and returns when the worker is drained. The only owner of the state is
//! the driver; everyone else holds a [`WorkerHandle`].

mod clock;
#[cfg(test)]
mod disk;
mod driver;
mod ending;
mod follow;
mod grace;
mod handle;
mod held;
mod identity;
mod jobs;
mod latest;
mod link;
mod metrics;
mod observer;
mod outbox;
mod reporter;
mod state;
mod view;
mod writer;

#[cfg(test)]
mod tests;

pub use grace::Grace;
use handle::Pulse;
pub use handle::{CancelAnswer, ExecuteError, TaskWatch, WorkerHandle};
pub use metrics::Metrics;

#[cfg(test)]
pub(crate) use handle::fixed::FixedWorker;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::{TaskIdentity, TaskSpec, WorkerId};
use crate::engine::Engine;
use crate::gpu::GpuProbe;
use crate::orchestrator::{Orchestrator, OrchestratorError};
use crate::telemetry::host::HostProbe;
use crate::telemetry::traces::Traces;
use clock::{Clock, Moment};
use driver::{Driver, Inboxes, Outlets, Parts};
use follow::Follower;
use held::Held;
use jobs::Jobs;
use link::{Identity, Link};
use observer::{EngineWatcher, Troubles};
use outbox::{Left, Outbox};
use reporter::{Report, Reporter, Unreported};
use state::{Limits, State};
use view::{About, Outwards};
use writer::Lookout;

/// How long the end of a drain waits at most for the orchestrator to take the last outcomes; what it does not take stays
/// on disk for the next start.
const FLUSH_GRACE: Duration = Duration::from_secs(5);

/// Configuration of the worker itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// WORKER_ID; None = the one kept in the state folder.
    pub worker_id: Option<WorkerId>,
    /// STATE_DIR.
    pub state_dir: PathBuf,
    /// MAX_CONCURRENT_TASKS.
    pub slots: u32,
    /// HEARTBEAT_INTERVAL.
    pub heartbeat_interval: Duration,
    /// TASK_TIMEOUT.
    pub task_timeout: Duration,
    /// MAX_TASK_RETRIES.
    pub max_task_retries: u32,
    /// DRAIN_TIMEOUT.
    pub drain_timeout: Duration,
}

/// Why a worker could not be built.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The state folder.
    #[error("STATE_DIR: \"{path}\" cannot be used: {source}; allowed: a folder this user may read and write")]
    StateDir {
        /// What was tried.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process uses the state folder.
    #[error(
        "STATE_DIR: \"{path}\" is in use by another worker; allowed: a folder of its own for each worker"
    )]
    StateDirInUse {
        /// The folder.
        path: PathBuf,
    },
    /// A metric could not be made.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The rooms that a worker works with.
pub struct Collaborators<O> {
    /// Where tasks come from.
    pub orchestrator: Arc<O>,
    /// What runs them.
    pub engine: Arc<dyn Engine>,
    /// The GPUs.
    pub gpus: Arc<dyn GpuProbe>,
    /// The machine.
    pub host: HostProbe,
    /// host:port of this worker's gRPC server, told at registration.
    pub address: String,
    /// The worker's metrics.
    pub metrics: Metrics,
    /// What each task goes through.
    pub traces: Traces,
}

/// A worker that is built and not started.
pub struct Worker<O> {
    config: Config,
    with: Collaborators<O>,
    driver: Driver<O>,
    inboxes: Inboxes,
    events: mpsc::UnboundedSender<state::Event>,
    link: Link<O>,
    troubles: Troubles,
    outbox: Arc<Outbox>,
    let_go: held::Progress,
    lookouts: [Lookout; 2],
    reports: mpsc::UnboundedReceiver<Report>,
    unreported: Unreported,
    clock: Clock,
    handle: WorkerHandle,
    tracker: TaskTracker,
    _lock: identity::StateLock,
}

/// The folder that survives restarts, opened and locked: who the worker is, and what it still has to report.
pub struct StateFolder {
    worker_id: WorkerId,
    lock: identity::StateLock,
    outbox: Outbox,
    left: Vec<Left>,
    held: Held,
    resumed: Vec<TaskSpec>,
}

impl StateFolder {
    /// Opens the folder of `config`; `at` hears what it turns to, so that a disk that hangs can be told of.
    ///
    /// # Errors
    /// When the folder cannot be used, or another worker uses it.
    pub fn open(config: &Config, at: impl Fn(&'static str)) -> Result<Self, WorkerError> {
        let in_folder = |source| WorkerError::StateDir { path: config.state_dir.clone(), source };
        at("STATE_DIR/lock");
        let lock = identity::lock(&config.state_dir)?;
        at("STATE_DIR/worker-id");
        let worker_id = match &config.worker_id {
            Some(id) => id.clone(),
            None => identity::kept(&config.state_dir).map_err(in_folder)?,
        };
        at("STATE_DIR/outbox");
        let (outbox, left) = Outbox::open(&config.state_dir.join("outbox")).map_err(in_folder)?;
        at("STATE_DIR/held");
        let (held, resumed) = Held::open(&config.state_dir.join("held")).map_err(in_folder)?;
        Ok(Self { worker_id, lock, outbox, left, held, resumed })
    }

    /// As [`Self::open`]; whatever is written is written on the thread of the caller.
    #[cfg(test)]
    fn open_here(
        config: &Config,
        worker_id: WorkerId,
        disk: &Arc<disk::SimulatedDisk>,
    ) -> Result<Self, WorkerError> {
        let in_folder = |source| WorkerError::StateDir { path: config.state_dir.clone(), source };
        let lock = identity::lock(&config.state_dir)?;
        let (outbox, left) = Outbox::open_here(&config.state_dir.join("outbox"), disk).map_err(in_folder)?;
        let (held, resumed) = Held::open_here(&config.state_dir.join("held"), disk).map_err(in_folder)?;
        Ok(Self { worker_id, lock, outbox, left, held, resumed })
    }

    /// The id of the worker.
    pub fn worker_id(&self) -> &WorkerId {
        &self.worker_id
    }
}

impl<O: Orchestrator> Worker<O> {
    /// Builds a worker on its state folder.
    pub fn new(config: Config, folder: StateFolder, with: Collaborators<O>) -> Self {
        Self::with_clock(config, folder, with, Clock::Boot)
    }

    fn with_clock(config: Config, folder: StateFolder, with: Collaborators<O>, clock: Clock) -> Self {
        let StateFolder { worker_id, lock, outbox, left, mut held, mut resumed } = folder;
        let (events, events_inbox) = mpsc::unbounded_channel();
        let (requests, requests_inbox) = mpsc::unbounded_channel();
        let (notices, notices_inbox) = mpsc::unbounded_channel();
        let (reports, reports_inbox) = mpsc::unbounded_channel();
        if !left.is_empty() {
            tracing::info!(outcomes = left.len(), "reporting outcomes that were left by the last run");
        }
        // What has ended is not run again, whichever attempt of it was kept.
        resumed.retain(|task| left.iter().all(|(_, outcome)| !ends(&outcome.identity, &task.identity)));
        held.keep_only(&resumed);
        let let_go = held.progress();
        let (held_list_trouble, lookouts) = (held.trouble(), [outbox.lookout(), held.lookout()]);
        let unreported = Unreported::default();
        for (sequence, outcome) in left {
            // How long its lease lasted died with the process that had it.
            let ours_until = (outcome.identity.attempt > 0).then_some(Moment::LONG_AGO);
            let report = Report { sequence, outcome, ours_until, let_go: held.handed_over() };
            unreported.add(&report);
            // The receiver is in our hands.
            let _ = reports.send(report);
        }
        let outbox = Arc::new(outbox);
        let tracker = TaskTracker::new();
        let identity = Identity {
            worker_id: worker_id.clone(),
            address: with.address.clone(),
            slots: config.slots,
            engine: Arc::clone(&with.engine),
            gpus: Arc::clone(&with.gpus),
            unreported: unreported.clone(),
        };
        let (link, link_view) = Link::new(Arc::clone(&with.orchestrator), identity);
        let backend = with.engine.default_backend();
        let about = About { worker_id, backend, started_at: Instant::now() };
        let parts = Parts {
            about,
            orchestrator: Arc::clone(&with.orchestrator),
            engine: Arc::clone(&with.engine),
            gpus: Arc::clone(&with.gpus),
            outbox: Arc::clone(&outbox),
            held,
            reports,
            unreported: unreported.clone(),
            clock: clock.clone(),
            link: link_view.clone(),
            metrics: with.metrics.clone(),
            traces: with.traces.clone(),
            tracker: tracker.clone(),
            task_timeout: config.task_timeout,
            drain_timeout: config.drain_timeout,
        };
        let mut state = State::new(Limits { slots: config.slots, max_task_retries: config.max_task_retries });
        if !resumed.is_empty() {
            tracing::info!(tasks = resumed.len(), "going on with tasks that the last run held");
            // Before the first registration, which names them. Nothing is to be done before that.
            state::transition(
                &mut state,
                clock.now(),
                state::Event::Resumed { tasks: resumed },
                &mut Vec::new(),
            );
        }
        let (publish, published) = watch::channel(view::first(&parts.about, &state));
        let (pulse, pulse_view) = watch::channel(Pulse::default());
        let troubles = Troubles::new(notices.clone(), backend);
        let watcher = EngineWatcher { troubles: troubles.clone(), metrics: with.metrics.clone() };
        with.engine.watch(Box::new(watcher));
        troubles.look_at_devices(&*with.engine);
        let outlets = Outlets { events: events.clone(), notices };
        Self {
            driver: Driver::new(parts, outlets, state, Outwards { publish, pulse }),
            inboxes: Inboxes { events: events_inbox, requests: requests_inbox, notices: notices_inbox },
            events,
            link,
            troubles,
            handle: WorkerHandle {
                published,
                pulse: pulse_view,
                outbox: outbox.state(),
                held_list_trouble,
                link: link_view,
                requests,
            },
            outbox,
            let_go,
            lookouts,
            reports: reports_inbox,
            unreported,
            clock,
            tracker,
            config,
            with,
            _lock: lock,
        }
    }

    /// Asks the worker, before and while it runs.
    pub fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// Runs until drained.
    ///
    /// # Errors
    /// [`OrchestratorError::Refused`] when the orchestrator does not accept this worker.
    pub async fn run(self) -> Result<(), OrchestratorError> {
        let ended = CancellationToken::new();
        // Whoever drops this future ends all of it.
        let _ended_too = ended.clone().drop_guard();
        let follower = Arc::new(Follower {
            orchestrator: Arc::clone(&self.with.orchestrator),
            worker: self.handle.clone(),
            events: self.events.clone(),
            gpus: Arc::clone(&self.with.gpus),
            host: self.with.host.clone(),
            heartbeat_interval: self.config.heartbeat_interval,
            metrics: self.with.metrics.clone(),
            clock: self.clock.clone(),
        });
        let reporter = Reporter {
            orchestrator: Arc::clone(&self.with.orchestrator),
            link: self.handle.link.clone(),
            outbox: Arc::clone(&self.outbox),
            let_go: self.let_go,
            unreported: self.unreported.clone(),
            clock: self.clock,
            traces: self.with.traces.clone(),
        };
        let tracker = self.tracker.clone();
        tracker.spawn(ended.clone().run_until_cancelled_owned(writer::watch(self.lookouts)));
        tracker.spawn(reporter.run(self.reports, ended.clone()));
        tracker.spawn({
            let (follower, ended) = (Arc::clone(&follower), ended.clone());
            async move { follower.beat(ended).await }
        });
        tracker.spawn({
            let ended = ended.clone();
            async move { follower.glance(ended).await }
        });
        let jobs = Jobs {
            orchestrator: Arc::clone(&self.with.orchestrator),
            worker: self.handle.clone(),
            engine: Arc::clone(&self.with.engine),
        };
        tracker.spawn(jobs.watch(ended.clone()));
        let devices =
            self.troubles.follow_devices(Arc::clone(&self.with.engine), Arc::clone(&self.with.gpus));
        tracker.spawn(ended.clone().run_until_cancelled_owned(devices));
        let link_ended = ended.clone();
        let link = self.link.run(self.handle.clone(), self.events, link_ended);
        let driver = self.driver.run(self.inboxes);
        tokio::pin!(link, driver);
        let refused = tokio::select! {
            biased;
            () = &mut driver => None,
            answer = &mut link => answer.err(),
        };
        let outcome = match refused {
            None => {
                // The link goes on meanwhile: an orchestrator that comes back in time still gets the last outcomes.
                tokio::select! {
                    biased;
                    () = flush(&self.outbox, self.handle.grace()) => Ok(()),
                    answer = &mut link => answer,
                }
            }
            Some(error) => {
                // What runs is stopped in order, and what has ended stays on disk for a start that is accepted.
                self.handle.abort("the orchestrator refused this worker");
                driver.await;
                Err(error)
            }
        };
        ended.cancel();
        tracker.close();
        // Polls and releases that are out have deadlines of their own; nothing is gained by waiting for them.
        let _ = tokio::time::timeout(Duration::from_secs(1), tracker.wait()).await;
        outcome
    }
}

/// Whether the outcome of `done` is one of `held`, or of a later attempt of it.
fn ends(done: &TaskIdentity, held: &TaskIdentity) -> bool {
    done.task_id == held.task_id && done.job_id == held.job_id && done.attempt >= held.attempt
}

/// Waits until the orchestrator has taken all outcomes, or the grace for that has passed.
async fn flush(outbox: &Outbox, grace: Option<Grace>) {
    let mut state = outbox.state();
    let empty = state.wait_for(|state| state.pending == 0);
    let patience = tokio::time::Instant::now() + FLUSH_GRACE;
    let until = grace.map_or(patience, |grace| patience.min(grace.flushed_by()));
    let flushed = tokio::time::timeout_at(until, empty).await.is_ok();
    if !flushed {
        let pending = outbox.state().borrow().pending;
        tracing::warn!(pending, "outcomes were not acknowledged; they are reported at the next start");
    }
}
