//! Training in processes of its own: what crashes takes one task along, and nothing else.
//!
//! ```text
//! submit --analytic?--> curves, here
//!    |
//!    +--train--> mailbox --> supervisor (one thread, owns everything) ==pipes==> runner of job A  (CPU)
//!                              ^                                      ==pipes==> runner of job B  (CPU)
//!                              |                                      ==pipes==> runner of all jobs on the GPU
//!              started, steps, end, exit, clock
//! ```
//!
//! A runner is this program again (`tensorfleet-worker runner`) around a [`TrainingEngine`](super::TrainingEngine). On
//! the CPU each job has one of its own, which keeps its session warm; on a GPU, where a context is dear, all its jobs
//! share one and take turns. A runner works on one task at a time, so that its end costs one task. The others that wait for it
//! go on in the next one, from the checkpoint.
//!
//! Invariants: every try ends once; what does not stop within a grace after it was told to is killed with all that it
//! started; a runner does not outlive the worker (its input ends, and the kernel kills it); one that fails three times
//! in a row before it is ready stops admission until one succeeds.
//!
//! Deliberately absent: restarts of a task. That is the worker's to decide, from the error's code.

mod cause;
mod child;
mod confinement;
mod desk;
mod frames;
mod logs;
mod messages;
mod pool;
mod process;
mod supervisor;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use child::{Runner, RunnerError};
pub use confinement::{Confinement, Tried};

use self::desk::Desk;
use self::messages::Setup;
use self::pool::{Lane, Patience, Pool};
use self::process::Program;
use self::supervisor::{Command, Mailbox, Supervisor};
use super::analytic::Analytic;
use super::cards::{Cards, GpuWatch};
use super::checkpoints::Store;
use super::placement::Placer;
use super::search::Search;
use super::sessions::Submission;
use super::{
    Config, Control, Done, Engine, EngineCapabilities, EngineError, ModelRegistry, RunnerConfig,
    SessionLimits, Watcher,
};
use crate::domain::{Backend, JobId, PciAddress, TaskSpec};

/// The GPU that a task was given.
#[derive(Debug, Clone)]
pub(super) struct GpuRef {
    /// Its number among the adapters of this machine.
    position: usize,
    /// Where it is, by which its runner finds it.
    address: Option<PciAddress>,
    /// Its UUID, where it is watched.
    uuid: Option<String>,
}

/// How long the end of the engine waits for its runners: those that are idle have two seconds to leave, all others are
/// killed.
const CLOSING_PATIENCE: Duration = Duration::from_millis(2_500);

/// What others may look at.
#[derive(Debug, Default)]
pub(super) struct Seen {
    warm: Vec<JobId>,
    confinement: Option<Confinement>,
    /// Why runners do not start.
    trouble: Option<String>,
    ended: bool,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// Trains in child processes, and simulates what this machine cannot train.
pub struct ProcessEngine {
    placer: Placer,
    cards: Arc<Cards>,
    analytic: Analytic,
    mailbox: Mailbox,
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    store: Option<Arc<Store>>,
    supervisor: Option<JoinHandle<()>>,
}

impl ProcessEngine {
    /// Looks for devices in a process of its own, when somebody has to know them, and starts one runner
    /// where tasks are trained by default.
    ///
    /// # Errors
    /// The machine lacks what `config` demands, or the system gives no thread.
    pub fn start(
        config: Config,
        limits: SessionLimits,
        runners: RunnerConfig,
        gpus: Option<Arc<dyn GpuWatch>>,
    ) -> Result<Self, EngineError> {
        let program = Program::runner(&runners);
        let search = Search::apart(&config, runners.program.clone());
        let cards = Arc::new(Cards::new(search.clone(), gpus));
        let placer = Placer::new(&config, search)?;
        Self::with_program((config, limits, runners), (placer, cards), (program, Patience::default()))
    }

    /// The same engine, which trains `models` instead of those of this crate alone; its runners have to know them, too.
    /// Call it before the first task.
    pub fn with_models(mut self, models: ModelRegistry) -> Self {
        self.placer.know(models);
        self
    }

    /// PCI addresses of the adapters that were found; None while they are still looked for, or nobody had to look.
    pub fn adapters(&self) -> Option<Vec<PciAddress>> {
        let devices = self.placer.search().so_far()?;
        Some(devices.gpus().filter_map(|adapter| adapter.address).collect())
    }

    /// Looks what has become of the GPUs since the last call; whoever watches them calls it after each look of its own.
    /// Returns at once.
    pub fn look_after_gpus(&self) {
        self.desk.look_after_gpus(Instant::now());
    }

    fn with_program(
        (config, limits, runners): (Config, SessionLimits, RunnerConfig),
        (placer, cards): (Placer, Arc<Cards>),
        (program, patience): (Program, Patience),
    ) -> Result<Self, EngineError> {
        if let Some(warning) = placer.warning() {
            tracing::warn!("{warning}");
        }
        let setup = |backend, memory_limit_bytes| Setup {
            backend,
            gpu: None,
            allow_software_adapter: config.allow_software_adapter,
            data: config.data.clone(),
            state_dir: config.state_dir.clone(),
            models_to: config.models_to.clone(),
            idle_sessions: limits.idle,
            session_memory_bytes: limits.memory_bytes,
            // The supervisor lets idle ones go, process and all.
            idle_time: limits.idle_time.saturating_mul(2),
            memory_limit_bytes,
            log: runners.log.clone(),
        };
        let setups =
            [setup(Backend::Cpu, runners.cpu_memory_limit), setup(Backend::Wgpu, runners.gpu_memory_limit)];
        let shared = Arc::<Shared>::default();
        let mut pool = Pool::new(program, setups, limits, patience);
        let store = Store::of(&config);
        pool.keep_in(store.clone());
        if let Some(devices) = placer.search().so_far() {
            let adapters = devices.gpus().enumerate();
            pool.know_gpus(adapters.filter_map(|(position, adapter)| Some((position, adapter.address?))));
        }
        if let Some(lane) = Lane::of(placer.capabilities().default_backend) {
            pool.keep_one(lane);
        }
        let started = Supervisor::start(pool, Arc::clone(&shared));
        let (mailbox, supervisor) = started.map_err(|error: io::Error| EngineError::System {
            doing: "watch over runner processes",
            error: error.to_string(),
        })?;
        Ok(Self {
            placer,
            cards: Arc::clone(&cards),
            analytic: Analytic::new(config.analytic_profile, config.analytic_delay),
            desk: Arc::new(Desk::new(cards, mailbox.clone(), Arc::clone(&shared))),
            mailbox,
            shared,
            store,
            supervisor: Some(supervisor),
        })
    }

    /// Waits for the first runner and returns what it gave up; the reason where none is ready within `patience`.
    ///
    /// # Errors
    /// Why there is none.
    pub fn self_test(&self, patience: Duration) -> Result<Confinement, String> {
        self.mailbox.send(Command::KeepOne(Lane::Cpu));
        let deadline = Instant::now() + patience;
        let mut seen = self.shared.lock();
        loop {
            if let Some(confinement) = &seen.confinement {
                return Ok(confinement.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || seen.ended || seen.trouble.is_some() {
                return Err(seen.trouble.clone().unwrap_or_else(|| "no runner became ready".to_owned()));
            }
            let waited = self.shared.changed.wait_timeout(seen, left);
            seen = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Engine for ProcessEngine {
    fn capabilities(&self) -> EngineCapabilities {
        self.placer.capabilities()
    }

    fn default_backend(&self) -> Backend {
        self.placer.default_backend()
    }

    fn submit(&self, task: Arc<TaskSpec>, control: Arc<Control>, done: Done) {
        let submission = Submission { task, control, done };
        self.placer.submit(submission, &self.analytic, |plan, submission| self.desk.submit(plan, submission));
    }

    fn warm_jobs(&self) -> Vec<JobId> {
        self.shared.lock().warm.clone()
    }

    fn kept_jobs(&self) -> Vec<JobId> {
        let on_disk = self.store.as_ref().map(|store| store.jobs()).unwrap_or_default();
        on_disk.into_iter().chain(self.warm_jobs()).collect()
    }

    fn forget(&self, job: &JobId) {
        self.desk.forget(job);
        self.mailbox.send(Command::Forget(job.clone()));
    }

    fn device_trouble(&self) -> Option<String> {
        self.placer.trouble(&self.cards)
    }

    fn watch(&self, watcher: Box<dyn Watcher>) {
        self.mailbox.send(Command::Watch(watcher));
    }
}

impl Drop for ProcessEngine {
    /// Waiting tasks end as interrupted, running ones too, and no runner is left but one that nothing can end.
    fn drop(&mut self) {
        self.desk.close();
        self.mailbox.send(Command::Close);
        let is_open = |seen: &mut Seen| !seen.ended;
        let closed = self.shared.changed.wait_timeout_while(self.shared.lock(), CLOSING_PATIENCE, is_open);
        drop(closed.unwrap_or_else(PoisonError::into_inner));
        let Some(supervisor) = self.supervisor.take() else { return };
        let ended = !is_open(&mut self.shared.lock()) || supervisor.is_finished();
        if !ended {
            // In the hands of a driver that hangs, say; the kernel ends it when it can.
            tracing::error!("a runner does not end, though it was killed; it is left behind");
        } else if supervisor.join().is_err() {
            tracing::error!("the supervisor of the runners panicked");
        }
    }
}

impl std::fmt::Debug for ProcessEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessEngine").field("placer", &self.placer).finish_non_exhaustive()
    }
}
