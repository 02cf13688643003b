//! The way of tasks through a worker at its shortest: an orchestrator that follows a script, and an engine that ends each
//! task at once. scripts/count-instructions counts it, so that nothing else is in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::domain::{
    Backend, HostUsage, JobId, Progress, Strictness, TaskIdentity, TaskOutcome, TaskResult, TaskSpec,
    TaskView, WorkerId,
};
use crate::engine::{Control, Done, Engine, EngineCapabilities, Finished, Step};
use crate::gpu::NoGpus;
use crate::orchestrator::{
    ClaimRequest, Claimed, Heartbeat, HeartbeatAnswer, JobState, Mode, Orchestrator, OrchestratorError,
    Registered, Registration,
};
use crate::telemetry::host::HostProbe;
use crate::telemetry::traces::Traces;
use crate::wire::{self, pb};
use crate::worker::clock::Clock;
use crate::worker::clock::standstill::VirtualClock;
use crate::worker::disk::SimulatedDisk;
use crate::worker::{Collaborators, Config, Metrics, StateFolder, Worker, WorkerHandle};

/// Tasks of a usual run.
const TASKS: u32 = 300;

/// Hands out a number of tasks as fast as they are asked for.
struct Scripted {
    left: Mutex<u32>,
    /// How long an answer is on its way from where it arrives to the worker.
    decoding: Duration,
    reports: watch::Sender<BTreeMap<String, u32>>,
}

impl Scripted {
    fn new(tasks: u32, decoding: Duration) -> Arc<Self> {
        Arc::new(Self { left: Mutex::new(tasks), decoding, reports: watch::Sender::default() })
    }

    fn take(&self, most: u32) -> std::ops::Range<u32> {
        let mut left = self.left.lock().unwrap();
        let taken = most.min(*left);
        *left -= taken;
        *left..*left + taken
    }
}

#[async_trait]
impl Orchestrator for Scripted {
    async fn register(&self, _: &Registration) -> Result<Registered, OrchestratorError> {
        let lease = Some(Duration::from_secs(30));
        Ok(Registered { mode: Mode::Extended, heartbeat_interval: None, lease })
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, OrchestratorError> {
        let numbers = self.take(request.max_tasks);
        if numbers.is_empty() {
            std::future::pending::<()>().await;
        }
        let answered = Instant::now();
        if !self.decoding.is_zero() {
            tokio::time::sleep(self.decoding).await;
        }
        let task = |number| pb::AssignTaskResponse {
            task_id: format!("job-task-{number}"),
            job_id: "job".to_owned(),
            model_type: "neural_network".to_owned(),
            dataset_path: "none".to_owned(),
            batch_end: 100,
            attempt: 1,
            lease_seconds: 30,
            ..Default::default()
        };
        let tasks =
            numbers.map(|number| wire::task_from_assignment(task(number), Strictness::Warn)).collect();
        Ok(Claimed { tasks, answered })
    }

    async fn heartbeat(&self, _: &Heartbeat) -> Result<HeartbeatAnswer, OrchestratorError> {
        Ok(HeartbeatAnswer::default())
    }

    async fn report_progress(&self, _: &TaskView) -> Result<bool, OrchestratorError> {
        Ok(false)
    }

    async fn report(&self, outcome: &TaskOutcome) -> Result<(), OrchestratorError> {
        let task = outcome.identity.task_id.to_string();
        self.reports.send_modify(|reports| *reports.entry(task).or_default() += 1);
        Ok(())
    }

    async fn release(&self, _: &TaskIdentity, _: &str) -> Result<bool, OrchestratorError> {
        Ok(true)
    }

    async fn job_state(&self, _: &JobId) -> Result<JobState, OrchestratorError> {
        Ok(JobState { known: true, wanted: true, ended: false, total_tasks: 0 })
    }
}

/// Ends each task with one step, in the call that submits it.
struct AtOnce;

impl Engine for AtOnce {
    fn capabilities(&self) -> EngineCapabilities {
        EngineCapabilities {
            model_types: Vec::new(),
            backends: vec![Backend::Analytic],
            default_backend: Backend::Analytic,
            device: "none".into(),
        }
    }

    fn submit(&self, _: Arc<TaskSpec>, control: Arc<Control>, done: Done) {
        control.started(Backend::Analytic);
        control.stepped(Progress::default(), Step { duration: Duration::from_millis(1), samples: 1 });
        let figures = crate::domain::Metrics { loss: 0.5, accuracy: 0.5 };
        let result = TaskResult {
            train: figures,
            validation: None,
            samples: 1,
            steps: 1,
            backend: Backend::Analytic,
            device: "none".into(),
            weights: bytes::Bytes::new(),
            reference: None,
        };
        done.finish(Finished { ending: Ok(result), notes: Vec::new() });
    }

    fn warm_jobs(&self) -> Vec<JobId> {
        Vec::new()
    }

    fn forget(&self, _: &JobId) {}
}

/// Lets a worker with 64 slots do the tasks of `orchestrator` and looks at it then.
async fn dispatched(orchestrator: Arc<Scripted>, tasks: u32, look: impl FnOnce(&WorkerHandle, &Metrics)) {
    let shm = Path::new("/dev/shm");
    let folder = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    let worker_id = WorkerId::parse("w").unwrap();
    let config = Config {
        worker_id: Some(worker_id.clone()),
        state_dir: folder.path().to_owned(),
        slots: 64,
        heartbeat_interval: Duration::from_secs(30),
        task_timeout: Duration::from_secs(300),
        max_task_retries: 2,
        drain_timeout: Duration::from_secs(30),
    };
    let metrics = Metrics::new().unwrap();
    let with = Collaborators {
        orchestrator: Arc::clone(&orchestrator),
        engine: Arc::new(AtOnce),
        gpus: Arc::new(NoGpus),
        host: HostProbe::fixed(HostUsage::default()),
        address: String::new(),
        metrics: metrics.clone(),
        traces: Traces::default(),
    };
    let state = StateFolder::open_here(&config, worker_id, &SimulatedDisk::roomy()).unwrap();
    let worker = Worker::with_clock(config, state, with, Clock::Virtual(VirtualClock::since(Instant::now())));
    let handle = worker.handle();
    let running = TaskTracker::new().spawn(worker.run());
    let mut reports = orchestrator.reports.subscribe();
    let all = |reports: &BTreeMap<String, u32>| reports.values().sum::<u32>() >= tasks;
    reports.wait_for(all).await.unwrap();
    // What waits in a poll for ever stays behind with the orchestrator.
    handle.drain(None);
    while handle.status().outbox_pending > 0 || handle.status().slots_busy > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    look(&handle, &metrics);
    running.abort();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

#[test]
fn each_of_many_tasks_is_dispatched_and_reported_once() {
    let tasks = super::number("DISPATCH_TASKS").map_or(TASKS, |tasks| tasks as u32);
    let orchestrator = Scripted::new(tasks, Duration::ZERO);
    runtime().block_on(dispatched(Arc::clone(&orchestrator), tasks, |handle, _| {
        let status = handle.status();
        assert_eq!((status.completed_tasks, status.failed_tasks), (u64::from(tasks), 0));
        assert_eq!((status.tasks.len(), status.recent.len()), (0, 50.min(tasks as usize)));
        let mut recent: Vec<_> =
            status.recent.iter().map(|ended| ended.identity.task_id.to_string()).collect();
        recent.sort();
        recent.dedup();
        assert_eq!(recent.len(), status.recent.len(), "each is shown once");
    }));
    let reports = orchestrator.reports.borrow();
    assert_eq!((reports.len() as u32, reports.values().sum::<u32>()), (tasks, tasks));
}

#[test]
fn the_wait_for_the_start_counts_from_the_answer_of_the_poll() {
    let late = Duration::from_secs(2);
    runtime().block_on(dispatched(Scripted::new(10, late), 10, |_, metrics| {
        let registry = prometheus::Registry::new();
        metrics.register(&registry).unwrap();
        let text = String::from_utf8(crate::telemetry::render(&registry).unwrap()).unwrap();
        let figure = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().parse().unwrap()
        };
        assert_eq!(figure("worker_task_queue_seconds_count"), 10.0);
        assert!(figure("worker_task_queue_seconds_sum") >= 10.0 * late.as_secs_f64(), "{text}");
    }));
}
