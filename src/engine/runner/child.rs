//! The runner itself: a process that trains what it is told, and nothing else.
//!
//! ```text
//! standard input --> Setup: confine, then build the engine --> Ready
//!                --> Submit, Stop, Forget --> engine (threads) --> Started, Stepped, Ended --> standard output
//!                --> end of input: leave
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::confinement::confine;
use super::frames::{Frames, encode};
use super::messages::{Ended, FromRunner, News, Order, Setup, Started, Stepped, Submit, ToRunner, unpack};
use crate::domain::{Backend, BackendChoice, DevicePolicy, HiddenGpus, JobId, Progress, TaskError};
use crate::engine::parent;
use crate::engine::sessions::Loss;
use crate::engine::{
    AnalyticProfile, Config, Control, Done, Engine as _, EngineError, Finished, ModelRegistry, Observer,
    Step, TrainingEngine, UnsupportedModels,
};

/// Least time between two messages about the steps of a task.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// Memory without which no task can be trained, in bytes.
const START_BYTES: usize = 16 << 20;

/// Bytes that are read at once.
const READ_BYTES: usize = 64 << 10;

/// Why a runner could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// It was not started by a worker.
    #[error("runner is started by the worker itself; its standard input has to be a pipe from there")]
    NoWorker,
    /// A pipe failed.
    #[error("the pipe to the worker: {0}")]
    Pipe(#[from] io::Error),
    /// What came was no message, or not the expected one.
    #[error("a message from the worker cannot be read: {0}")]
    Message(String),
    /// There is not even memory to begin with.
    #[error("out of memory at its start: {0}")]
    Memory(String),
    /// The device is not there.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A runner that has heard how it is meant to train.
pub struct Runner {
    input: Input,
    output: Arc<Output>,
    setup: Setup,
    parent: Pid,
}

impl Runner {
    /// Takes standard input and output over and waits for the worker's first message. `parent` is the id of that
    /// worker: the runner ends when it does.
    ///
    /// # Errors
    /// When nobody is there who speaks as a worker.
    pub fn accept(parent: u32) -> Result<Self, RunnerError> {
        let parent = parent::end_with(parent)?.ok_or(RunnerError::NoWorker)?;
        let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).map_err(io::Error::from)?;
        let output = parent::take_output()?;
        // Nothing reads the worker's messages but us.
        rustix::stdio::dup2_stdin(OwnedFd::from(File::open("/dev/null")?)).map_err(io::Error::from)?;
        let mut input =
            Input { pipe: File::from(input), frames: Frames::default(), scratch: vec![0; READ_BYTES] };
        match input.next()? {
            Some(Order::Setup(setup)) => {
                let setup = unpack(&setup).map_err(|error| RunnerError::Message(error.to_string()))?;
                Ok(Self { input, output: Arc::new(Output(Mutex::new(output))), setup, parent })
            }
            _ => Err(RunnerError::NoWorker),
        }
    }

    /// The filter of its log.
    pub fn log_filter(&self) -> &str {
        &self.setup.log
    }

    /// Gives up what it does not need, then trains `models` until the worker lets it go. Must be called while the
    /// process has one thread.
    ///
    /// # Errors
    /// When the device is not there, or the worker is.
    pub fn serve(mut self, models: ModelRegistry) -> Result<(), RunnerError> {
        let confinement = confine(&self.setup);
        let engine = TrainingEngine::with_limits(engine_config(&self.setup), self.setup.limits())?;
        let engine = engine.with_models(models);
        try_memory()?;
        self.output.say(News::ready(&confinement).map_err(|error| RunnerError::Message(error.to_string()))?);
        let work = Arc::new(Work { engine, running: Mutex::default() });
        while let Some(order) = self.input.next()? {
            match order {
                Order::Setup(_) => return Err(RunnerError::Message("a second set-up".to_owned())),
                Order::Submit(submit) => work.submit(submit, &self.output),
                Order::Stop(stop) => {
                    // Taken out of the lock: what it wakes may end the task at once.
                    let control = work.running().get(&stop.number).cloned();
                    if let Some(control) = control {
                        control.stop(stop.reason.into());
                    }
                }
                Order::Forget(job) => {
                    if let Ok(job) = JobId::parse(&job) {
                        work.engine.forget(&job);
                    }
                }
            }
        }
        if rustix::process::getppid() != Some(self.parent) {
            // The worker is gone: so is everything that was started for it.
            let _ = rustix::process::kill_current_process_group(Signal::KILL);
        }
        work.engine.close();
        Ok(())
    }
}

/// Tries what every task needs: some memory, and a thread.
fn try_memory() -> Result<(), RunnerError> {
    let mut memory = Vec::<u8>::new();
    memory.try_reserve_exact(START_BYTES).map_err(|error| RunnerError::Memory(error.to_string()))?;
    let thread =
        thread::Builder::new().spawn(|| ()).map_err(|error| RunnerError::Memory(error.to_string()))?;
    thread.join().map_err(|_| RunnerError::Memory("a thread did not come back".to_owned()))
}

fn engine_config(setup: &Setup) -> Config {
    let device_policy = if setup.backend == Backend::Cpu { DevicePolicy::Cpu } else { DevicePolicy::Prefer };
    Config {
        backend: BackendChoice::Only(setup.backend),
        device_policy,
        // What is not trained does not come here.
        analytic_profile: AnalyticProfile::default(),
        analytic_delay: Duration::ZERO..=Duration::ZERO,
        unsupported_models: UnsupportedModels::Reject,
        allow_software_adapter: setup.allow_software_adapter,
        gpu: setup.gpu.as_deref().and_then(|address| address.parse().ok()),
        hidden_gpus: HiddenGpus::default(),
        state_dir: setup.state_dir.clone(),
        models_to: setup.models_to.clone(),
        data: setup.data.clone(),
    }
}

struct Input {
    pipe: File,
    frames: Frames,
    scratch: Vec<u8>,
}

impl Input {
    /// The next order; None when the worker has let go.
    fn next(&mut self) -> Result<Option<Order>, RunnerError> {
        loop {
            let message = self.frames.next::<ToRunner>();
            if let Some(message) = message.map_err(|error| RunnerError::Message(error.to_string()))? {
                return match message.order {
                    Some(order) => Ok(Some(order)),
                    None => Err(RunnerError::Message("an order of an unknown kind".to_owned())),
                };
            }
            match self.pipe.read(&mut self.scratch) {
                Ok(0) => return Ok(None),
                Ok(read) => self.frames.push(self.scratch.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

struct Output(Mutex<File>);

impl Output {
    fn say(&self, news: News) {
        let bytes = encode(&FromRunner { news: Some(news) });
        let mut pipe = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pipe.write_all(&bytes).is_err() {
            // Nobody hears what is trained here any more.
            let _ = rustix::process::kill_current_process_group(Signal::KILL);
        }
    }
}

struct Work {
    engine: TrainingEngine,
    running: Mutex<HashMap<u64, Arc<Control>>>,
}

impl Work {
    fn running(&self) -> MutexGuard<'_, HashMap<u64, Arc<Control>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(self: &Arc<Self>, mut submit: Submit, output: &Arc<Output>) {
        let number = submit.number;
        let loss = Loss::from_number(submit.loss);
        let steps = Arc::new(Steps { number, output: Arc::clone(output), state: Mutex::default() });
        let control = Arc::new(Control::new(Arc::clone(&steps)).in_trace(submit.traceparent.take()));
        self.running().insert(number, Arc::clone(&control));
        let (work, output) = (Arc::clone(self), Arc::clone(output));
        let done = Done::new(move |finished: Finished| {
            work.running().remove(&number);
            steps.flush();
            output.say(News::Ended(Box::new(Ended::new(number, finished, &work.engine.warm_jobs()))));
        });
        match submit.task() {
            Ok(task) => {
                if let Some(loss) = loss {
                    self.engine.lost(&task.identity.job_id, loss);
                }
                self.engine.submit(task, control, done);
            }
            Err(error) => done.finish(failed(error)),
        }
    }
}

fn failed(error: TaskError) -> Finished {
    Finished { ending: Err(error), notes: Vec::new() }
}

/// Gathers the steps of a try, so that fast ones do not cost a message each.
struct Steps {
    number: u64,
    output: Arc<Output>,
    state: Mutex<Gathered>,
}

#[derive(Default)]
struct Gathered {
    progress: Progress,
    steps: Vec<Step>,
    said: Option<Instant>,
}

impl Steps {
    fn flush(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.say(&mut state);
    }

    fn say(&self, state: &mut Gathered) {
        if !state.steps.is_empty() {
            self.output.say(News::Stepped(Stepped::new(self.number, &state.progress, &state.steps)));
            state.steps.clear();
            state.said = Some(Instant::now());
        }
    }
}

impl Observer for Arc<Steps> {
    fn started(&self, backend: Backend) {
        self.output.say(News::Started(Started::new(self.number, backend)));
    }

    fn stepped(&self, progress: &Progress, step: Step) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.progress = *progress;
        state.steps.push(step);
        if state.said.is_none_or(|said| said.elapsed() >= PROGRESS_INTERVAL) {
            self.say(&mut state);
        }
    }
}
