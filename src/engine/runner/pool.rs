//! All runners, what waits for them, and every decision about both.

mod member;
mod place;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::member::{Current, Phase, Runner};
use super::Shared;
use super::cause::{Evidence, Verdict, classify};
use super::confinement::Confinement;
use super::messages::{Ended, Order, Setup, Stop, Submit, ToRunner, pack, unpack};
use super::process::Program;
use super::supervisor::Try;
use crate::domain::{Backend, ErrorCode, JobId, PciAddress, TaskError};
use crate::engine::checkpoints::Store;
use crate::engine::sessions::Loss;
use crate::engine::{ExitCause, Finished, SessionLimits, Watcher};

/// Starts in a row that may fail before admission stops.
const MOST_FAILED_STARTS: u32 = 3;

/// First wait after a start that failed; it doubles up to the last.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(30);

/// Jobs that are remembered to have lost their session.
const MOST_LOST: usize = 1024;

/// What kind of runner a task needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// One for each job.
    Cpu,
    /// One for all jobs on the GPU of this number.
    Gpu(usize),
}

impl Lane {
    /// Whether both are for the CPU, or both for GPUs.
    pub(super) fn is_like(self, other: Self) -> bool {
        matches!((self, other), (Self::Cpu, Self::Cpu) | (Self::Gpu(_), Self::Gpu(_)))
    }

    /// The lane of a backend that trains.
    pub(super) fn of(backend: Backend) -> Option<Self> {
        match backend {
            Backend::Cpu => Some(Self::Cpu),
            Backend::Wgpu => Some(Self::Gpu(0)),
            Backend::Analytic => None,
        }
    }
}

/// How long a runner may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Until it is ready.
    pub(super) start: Duration,
    /// After its task was told to stop.
    pub(super) stop: Duration,
    /// After it was told to leave.
    pub(super) leave: Duration,
}

impl Default for Patience {
    /// 60 seconds, since a graphics driver may take 20 of them; 5; 10.
    fn default() -> Self {
        Self { start: Duration::from_secs(60), stop: Duration::from_secs(5), leave: Duration::from_secs(10) }
    }
}

#[derive(Debug, Default)]
struct Starts {
    /// One is wanted even when nothing waits for it.
    keep_one: bool,
    failures: u32,
    not_before: Option<Instant>,
    trouble: Option<String>,
}

pub(super) struct Pool {
    program: Program,
    setups: [Setup; 2],
    limits: SessionLimits,
    patience: Patience,
    runners: BTreeMap<u64, Runner>,
    last_id: u64,
    waiting: VecDeque<Try>,
    /// Where the GPUs are that runners were wanted for.
    gpus: BTreeMap<usize, PciAddress>,
    starts: [Starts; 2],
    lost: HashMap<JobId, Loss>,
    watcher: Option<Box<dyn Watcher>>,
    told: (Option<String>, usize),
    shared: Arc<Shared>,
    /// What runners leave on disk.
    store: Option<Store>,
    /// Something has changed that others may see, or that idle runners depend on.
    dirty: bool,
    closing: bool,
}

impl Pool {
    pub(super) fn new(
        program: Program,
        setups: [Setup; 2],
        limits: SessionLimits,
        patience: Patience,
    ) -> Self {
        let [cpu, _] = &setups;
        Self {
            store: cpu.state_dir.as_deref().map(Store::at),
            program,
            setups,
            limits,
            patience,
            runners: BTreeMap::new(),
            last_id: 0,
            waiting: VecDeque::new(),
            gpus: BTreeMap::new(),
            starts: Default::default(),
            lost: HashMap::new(),
            watcher: None,
            told: (None, 0),
            shared: Arc::default(),
            dirty: true,
            closing: false,
        }
    }

    pub(super) fn show_to(&mut self, shared: Arc<Shared>) {
        self.shared = shared;
    }

    pub(super) fn runners(&self) -> impl Iterator<Item = (u64, &Runner)> {
        self.runners.iter().map(|(id, runner)| (*id, runner))
    }

    pub(super) fn runner(&mut self, id: u64) -> Option<&mut Runner> {
        self.runners.get_mut(&id)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closing && self.runners.is_empty()
    }

    fn setup(&self, lane: Lane) -> &Setup {
        let [cpu, gpu] = &self.setups;
        match lane {
            Lane::Cpu => cpu,
            Lane::Gpu(_) => gpu,
        }
    }

    fn starts(&mut self, lane: Lane) -> &mut Starts {
        let [cpu, gpu] = &mut self.starts;
        match lane {
            Lane::Cpu => cpu,
            Lane::Gpu(_) => gpu,
        }
    }

    /// Tells where the GPUs are. A runner that is started without that would see all of them, and choose by itself.
    pub(super) fn know_gpus(&mut self, addresses: impl Iterator<Item = (usize, PciAddress)>) {
        self.gpus.extend(addresses);
    }

    /// Starts a runner as soon as there is none.
    pub(super) fn keep_one(&mut self, lane: Lane) {
        self.starts(lane).keep_one = true;
    }

    pub(super) fn watch(&mut self, watcher: Box<dyn Watcher>) {
        watcher.trouble(self.told.0.clone());
        watcher.runners(self.told.1);
        self.watcher = Some(watcher);
    }

    pub(super) fn submit(&mut self, run: Try) {
        if self.closing {
            return run.finish(closed());
        }
        if let Some(gpu) = &run.gpu
            && let Some(address) = gpu.address
        {
            self.gpus.insert(gpu.position, address);
        }
        self.waiting.push_back(run);
    }

    /// The task of try `number` was told to stop.
    pub(super) fn stop(&mut self, number: u64) {
        if let Some(place) = self.waiting.iter().position(|run| run.number == number) {
            if let Some(run) = self.waiting.remove(place) {
                let reason = run.control.check().err().unwrap_or_else(closed_reason);
                run.finish(failed(reason));
            }
            return;
        }
        let deadline = Instant::now() + self.patience.stop;
        let running = self.runners.values_mut().find_map(|runner| {
            let found = runner.current.as_ref().is_some_and(|current| current.run.number == number);
            found.then_some(runner)
        });
        let Some(runner) = running else { return };
        let Some(current) = &mut runner.current else { return };
        if let Err(reason) = current.run.control.check() {
            current.reason = Some(reason.clone());
            runner.deadline = Some(deadline);
            let stop = Stop { number, reason: reason.into() };
            runner.process.send(&ToRunner { order: Some(Order::Stop(stop)) });
        }
    }

    /// A job has ended.
    pub(super) fn forget(&mut self, job: &JobId) {
        self.lost.remove(job);
        let mut known = false;
        for runner in self.runners.values_mut().filter(|runner| runner.jobs.contains(job)) {
            known = true;
            runner.warm.retain(|other| other != job);
            runner.process.send(&ToRunner { order: Some(Order::Forget(job.to_string())) });
            runner.forgotten.push(job.clone());
            runner.drop_forgotten();
        }
        self.dirty = true;
        if let (false, Some(store)) = (known, &self.store) {
            store.forget_aside(job);
        }
    }

    /// Ends everything.
    pub(super) fn close(&mut self) {
        self.closing = true;
        for run in std::mem::take(&mut self.waiting) {
            run.finish(closed());
        }
        let deadline = Instant::now() + self.patience.leave.min(Duration::from_secs(2));
        for runner in self.runners.values_mut() {
            match &mut runner.current {
                None if runner.phase == Phase::Ready => runner.dismiss(deadline),
                None => runner.kill(Verdict::new(ExitCause::Retired, "the engine was closed")),
                Some(current) => {
                    current.reason.get_or_insert_with(closed_reason);
                    runner.kill(Verdict::new(ExitCause::Retired, "the engine was closed"));
                }
            }
        }
    }

    /// The task that runner `id` works on, if it is try `number`.
    pub(super) fn current(&self, id: u64, number: u64) -> Option<&Try> {
        let current = self.runners.get(&id)?.current.as_ref()?;
        (current.run.number == number).then_some(&current.run)
    }

    /// Runner `id` takes tasks.
    pub(super) fn ready(&mut self, id: u64, confinement: &[u8]) {
        let Ok(confinement) = unpack::<Confinement>(confinement) else {
            return self.misunderstood(id, "what it gave up cannot be read");
        };
        let Some(runner) = self.runners.get_mut(&id) else { return };
        if runner.phase != Phase::Starting {
            return;
        }
        let lane = runner.lane;
        (runner.phase, runner.deadline, runner.used) = (Phase::Ready, None, Instant::now());
        runner.began = true;
        self.dirty = true;
        let starts = self.starts(lane);
        (starts.failures, starts.not_before) = (0, None);
        if starts.trouble.take().is_some() {
            tracing::info!(?lane, "runners start again");
        }
        let mut first = false;
        self.shared.change(|seen| {
            first = seen.confinement.as_ref() != Some(&confinement);
            seen.confinement = Some(confinement.clone());
        });
        if first {
            if confinement.missing.is_empty() {
                tracing::info!(?lane, "runners are confined: {confinement}");
            } else {
                tracing::warn!(?lane, "runners are confined in part: {confinement}");
            }
        }
    }

    /// A try has ended in runner `id`.
    pub(super) fn ended(&mut self, id: u64, ended: Ended) {
        let leave = Instant::now() + self.patience.leave;
        let Some(runner) = self.runners.get_mut(&id) else { return };
        let Some(current) = runner.current.take_if(|current| current.run.number == ended.number) else {
            return;
        };
        runner.used = Instant::now();
        if runner.phase == Phase::Ready {
            runner.deadline = None;
        }
        runner.warm = ended.warm.iter().filter_map(|job| JobId::parse(job).ok()).collect();
        runner.drop_forgotten();
        self.dirty = true;
        let finished = ended.finished();
        let job = current.run.task.identity.job_id.clone();
        let fatal = finished.ending.as_ref().err().and_then(|error| match error.code {
            ErrorCode::Panic => Some((ExitCause::Panic, Loss::Panic)),
            ErrorCode::DeviceLost => Some((ExitCause::GpuLost, Loss::Device)),
            // Its next task would find the same memory in use.
            ErrorCode::OutOfMemory => Some((ExitCause::Oom, Loss::Crash)),
            _ => None,
        });
        if let Some((cause, loss)) = fatal {
            // Nobody knows in which state it is.
            runner.doom = Some(Verdict::new(cause, "it is replaced"));
            runner.dismiss(leave);
            self.remember_lost(job, loss);
        }
        current.run.finish(finished);
    }

    /// Runner `id` says what nobody understands.
    pub(super) fn misunderstood(&mut self, id: u64, what: &str) {
        if let Some(runner) = self.runners.get_mut(&id) {
            runner.kill(Verdict::new(ExitCause::Protocol, format!("it said what cannot be read: {what}")));
        }
    }

    /// The process of runner `id` is there no more.
    pub(super) fn exited(&mut self, id: u64) {
        let Some(mut runner) = self.runners.remove(&id) else { return };
        self.dirty = true;
        let memory_limit_bytes = self.setup(runner.lane).memory_limit_bytes;
        let oom_kills = runner.process.oom_kills();
        let verdict = match (runner.process.reap(), runner.doom.take()) {
            (_, Some(doom)) => doom,
            (Ok(status), None) if runner.phase == Phase::Leaving && status.success() => {
                Verdict::new(ExitCause::Retired, "it was not needed any longer")
            }
            (Ok(status), None) => {
                let last_words = runner.last_words.as_deref();
                classify(&Evidence { status, last_words, memory_limit_bytes, oom_kills })
            }
            (Err(error), None) => Verdict::new(ExitCause::Exit, error.to_string()),
        };
        self.report_exit(&runner, &verdict);
        // A lost GPU says nothing of how runners start.
        if !runner.began && !matches!(verdict.cause, ExitCause::Retired | ExitCause::GpuLost) {
            self.start_failed(runner.lane, &verdict.detail);
        }
        let loss = match verdict.cause {
            ExitCause::Retired => Loss::Evicted,
            ExitCause::GpuLost => Loss::Device,
            _ => Loss::Crash,
        };
        for job in std::mem::take(&mut runner.warm) {
            self.remember_lost(job, loss);
        }
        if let Some(Current { run, reason }) = runner.current.take() {
            self.remember_lost(run.task.identity.job_id.clone(), loss);
            let finished = match reason {
                None => failed(verdict.task_error()),
                Some(reason) if matches!(verdict.cause, ExitCause::TimeOut | ExitCause::Cancelled) => {
                    let patience = self.patience.stop.as_secs_f32();
                    let note = format!("its process did not stop within {patience} s and was killed");
                    Finished { notes: vec![note], ..failed(reason) }
                }
                Some(reason) => failed(reason),
            };
            run.finish(finished);
        }
    }

    fn report_exit(&self, runner: &Runner, verdict: &Verdict) {
        let Verdict { cause, detail } = verdict;
        let identity = runner.current.as_ref().map(|current| &current.run.task.identity);
        let job_id = identity.map(|identity| identity.job_id.as_str());
        let task_id = identity.map(|identity| identity.task_id.as_str());
        let pid = runner.process.id();
        if *cause == ExitCause::Retired {
            tracing::debug!(runner = pid, job_id, task_id, cause = cause.name(), "a runner has ended");
        } else {
            tracing::warn!(runner = pid, job_id, task_id, cause = cause.name(), detail, "a runner has ended");
        }
        if let Some(watcher) = &self.watcher {
            watcher.runner_exited(*cause);
        }
    }

    fn remember_lost(&mut self, job: JobId, loss: Loss) {
        if self.lost.len() < MOST_LOST || self.lost.contains_key(&job) {
            // What it was lost to first is told.
            self.lost.entry(job).or_insert(loss);
        }
    }

    fn start_failed(&mut self, lane: Lane, why: &str) {
        self.dirty = true;
        let starts = self.starts(lane);
        starts.failures += 1;
        starts.keep_one = true;
        let wait = FIRST_WAIT.saturating_mul(1 << (starts.failures - 1).min(16)).min(LAST_WAIT);
        starts.not_before = Some(Instant::now() + wait);
        if starts.failures < MOST_FAILED_STARTS {
            return;
        }
        let trouble = format!(
            "runner processes do not start ({} times in a row; trying again): {why}",
            starts.failures
        );
        starts.trouble = Some(trouble.clone());
        // They hold slots, and another worker may be able to.
        for run in std::mem::take(&mut self.waiting) {
            if run.lane.is_like(lane) && self.home(&run).is_none() {
                run.finish(failed(TaskError::new(ErrorCode::Unavailable, trouble.clone())));
            } else {
                self.waiting.push_back(run);
            }
        }
    }

    /// Does what can be done now: ends what is late, starts and hands over what waits.
    pub(super) fn advance(&mut self, now: Instant) {
        self.end_late(now);
        if !self.closing {
            for _ in 0..self.waiting.len() {
                if let Some(run) = self.waiting.pop_front() {
                    match self.place(&run, now) {
                        Some(id) => self.hand_over(id, run),
                        None => self.waiting.push_back(run),
                    }
                }
            }
            for lane in [Lane::Cpu, Lane::Gpu(0)] {
                let starts = self.starts(lane);
                let (keep_one, trouble) = (starts.keep_one, starts.trouble.is_some());
                let mut of_lane = self.runners.values().filter(|runner| runner.lane.is_like(lane));
                // One that has begun says nothing of those that begin now.
                let has_one = match trouble {
                    true => of_lane.any(|runner| runner.phase == Phase::Starting),
                    false => !keep_one || of_lane.next().is_some(),
                };
                if !has_one && self.start(lane, now).is_some() {
                    self.starts(lane).keep_one = false;
                }
            }
            if self.dirty || self.idle_until().is_some_and(|until| until <= now) {
                self.let_idle_go(now);
            }
        }
        if std::mem::take(&mut self.dirty) {
            self.tell();
        }
    }
}

fn failed(error: TaskError) -> Finished {
    Finished { ending: Err(error), notes: Vec::new() }
}

fn closed_reason() -> TaskError {
    TaskError::new(ErrorCode::Interrupted, "the engine was closed")
}

fn closed() -> Finished {
    failed(closed_reason())
}

/// What tells a folder from another of the same name.
fn identity_of(folder: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(folder).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
