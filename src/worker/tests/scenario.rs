//! One history: a job, some workers, half a minute of trouble, and then time to recover.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::engine::Waiting;
use super::network::{Caller, Network, Tally};
use crate::dev::{BoardHandle, Contract, DevConfig, JobRequest, JobStatus, JobSummary, without_socket};
use crate::domain::{HostUsage, JobId, ModelType, TaskId, WorkerId};
use crate::gpu::{GpuProbe, NoGpus};
use crate::orchestrator::{Client, OrchestratorError, Transport, seed_waits};
use crate::telemetry::host::HostProbe;
use crate::worker::clock::Clock;
use crate::worker::clock::standstill::VirtualClock;
use crate::worker::disk::SimulatedDisk;
use crate::worker::{Collaborators, Config, Metrics, StateFolder, Worker, WorkerHandle};

const LEASE: Duration = Duration::from_secs(6);

/// How long everything goes wrong.
const TROUBLE: Duration = Duration::from_secs(30);

/// By when the next report has to come.
const RECOVERY: Duration = Duration::from_secs(900);

/// A poll is given up after 30 s, a link is tried again after as much, and the longest task takes 12 s.
const QUIET: Duration = Duration::from_secs(90);

/// What a seed led to.
pub(super) struct History {
    contract: Contract,
    job: JobSummary,
    pub(super) counts: BTreeMap<TaskId, u32>,
    pub(super) trace: Vec<String>,
    pub(super) faults: u64,
    /// Hand-outs that were lost with an answer.
    lost_hand_outs: u32,
    /// Reports that were counted, and whose answers were lost, or could not be noted.
    ambiguous: u32,
    /// What the lists of held tasks did not know of when their processes ended.
    unlisted: u32,
    /// Reports of attempts whose lease had gone.
    late_reports: Vec<String>,
}

impl History {
    /// The guarantees.
    pub(super) fn check(&self) {
        let tasks = self.counts.len() as u32;
        let counts: u32 = self.counts.values().sum();
        assert!(self.late_reports.is_empty(), "reported after the lease had gone: {:#?}", self.late_reports);
        match self.contract {
            Contract::Extended => {
                assert_eq!(self.job.status, JobStatus::Completed, "{:?}", self.job);
                assert_eq!((tasks, counts), (self.job.total, self.job.total), "each task is counted once");
            }
            Contract::Base => {
                let missing = self.job.total - tasks;
                // The job has ended when so many reports came, whatever they were of.
                let repeated = counts - tasks;
                let Self { lost_hand_outs, ambiguous, unlisted, .. } = self;
                assert!(
                    missing <= self.job.failed + lost_hand_outs + repeated + unlisted,
                    "{missing} are missing, {lost_hand_outs} lost, {repeated} repeated, {unlisted} unlisted: {:?}",
                    self.job
                );
                assert!(
                    counts <= tasks + ambiguous + unlisted,
                    "{counts} counts of {tasks}, {ambiguous} ambiguous, {unlisted} unlisted"
                );
            }
        }
    }
}

struct Process {
    running: JoinHandle<Result<(), OrchestratorError>>,
    handle: WorkerHandle,
    clock: Arc<VirtualClock>,
}

struct World {
    network: Arc<Network>,
    orchestrator: Transport,
    engine: Waiting,
    folder: PathBuf,
    slots: u32,
    began: Instant,
    processes: BTreeMap<usize, Process>,
    disks: Vec<Arc<SimulatedDisk>>,
    unlisted: u32,
    unnoted: u32,
}

impl World {
    async fn start(&mut self, number: usize) {
        self.disks[number].answer().await;
        self.network.note(&format!("w{number} starts"));
        let worker_id = WorkerId::parse(&format!("w{number}")).unwrap();
        let config = Config {
            worker_id: Some(worker_id.clone()),
            state_dir: self.folder.join(worker_id.as_str()),
            slots: self.slots,
            heartbeat_interval: Duration::from_secs(5),
            task_timeout: Duration::from_secs(300),
            max_task_retries: 2,
            drain_timeout: Duration::from_secs(5),
        };
        let state = StateFolder::open_here(&config, worker_id.clone(), &self.disks[number]).unwrap();
        let clock = VirtualClock::since(self.began);
        let process = self.network.born(number);
        let caller = Caller { worker: number, process, clock: Arc::clone(&clock) };
        let client = Client::over(self.network.way(caller, &self.orchestrator), worker_id);
        let with = Collaborators {
            orchestrator: Arc::new(client),
            engine: Arc::new(self.engine.within(&clock)),
            gpus: Arc::new(NoGpus) as Arc<dyn GpuProbe>,
            host: HostProbe::fixed(HostUsage::default()),
            address: String::new(),
            metrics: Metrics::new().unwrap(),
            traces: crate::telemetry::traces::Traces::default(),
        };
        let worker = Worker::with_clock(config, state, with, Clock::Virtual(Arc::clone(&clock)));
        let handle = worker.handle();
        let running = TaskTracker::new().spawn(worker.run());
        self.processes.insert(number, Process { running, handle, clock });
    }

    /// Ends a process at whatever it is waiting for.
    async fn kill(&mut self, number: usize) {
        self.network.killed(number);
        if let Some(process) = self.processes.remove(&number) {
            process.running.abort();
            // It was aborted, or had ended.
            let _ = process.running.await;
        }
        self.lose_what_the_disk_refused(number);
    }

    /// With a process ends what it had only in memory.
    fn lose_what_the_disk_refused(&mut self, number: usize) {
        let disk = &self.disks[number];
        self.unlisted += disk.unlisted();
        self.unnoted += disk.unnoted();
    }

    /// A process gets no time, as by SIGSTOP or a suspend.
    fn suspend(&self, number: usize, time: Duration) {
        self.network.fault(&format!("w{number} stands still for {time:?}"));
        if let Some(process) = self.processes.get(&number) {
            process.clock.stand_still(time);
        }
    }

    /// The disk of a worker is full for a while, whatever becomes of its processes.
    fn fill(&self, number: usize, time: Duration) {
        self.network.fault(&format!("the disk of w{number} is full for {time:?}"));
        let disk = Arc::clone(&self.disks[number]);
        disk.fill(true);
        TaskTracker::new().spawn(async move {
            tokio::time::sleep(time).await;
            disk.fill(false);
        });
    }

    /// The disk of a worker hangs for a while; a process that starts waits for it.
    fn hang(&self, number: usize, time: Duration) {
        self.network.fault(&format!("the disk of w{number} hangs for {time:?}"));
        let disk = Arc::clone(&self.disks[number]);
        disk.hang(true);
        TaskTracker::new().spawn(async move {
            tokio::time::sleep(time).await;
            disk.hang(false);
        });
    }

    /// Everything works from now on.
    fn heal(&self) {
        self.network.heal();
        self.processes.values().for_each(|process| process.clock.go_on());
        for disk in &self.disks {
            disk.fill(false);
            disk.hang(false);
        }
    }

    async fn drain(&mut self, number: usize) {
        self.network.note(&format!("w{number} drains"));
        if let Some(process) = self.processes.remove(&number) {
            process.clock.go_on();
            process.handle.drain(None);
            process.running.await.unwrap().unwrap();
        }
        self.lose_what_the_disk_refused(number);
        self.network.born(number);
    }
}

/// Plays `seed`.
pub(super) fn play(seed: u64) -> History {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let shm = Path::new("/dev/shm");
    let folder = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    seed_waits(seed);
    runtime.block_on(history(seed, folder.path()))
}

async fn history(seed: u64, folder: &Path) -> History {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let contract = if chance.random_bool(0.25) { Contract::Base } else { Contract::Extended };
    let config = DevConfig {
        contract,
        lease: LEASE,
        heartbeat_interval: Duration::from_secs(chance.random_range(1..4)),
        ..DevConfig::default()
    };
    let (board, orchestrator) = without_socket(&config);
    let job = JobId::parse("job").unwrap();
    let request = JobRequest {
        job_id: job.clone(),
        model: ModelType::parse("test").unwrap(),
        dataset_path: String::new(),
        hyperparameters: BTreeMap::new(),
        epochs: chance.random_range(1..4),
    };
    board.update(|board| board.create_job(request)).unwrap();
    let workers = chance.random_range(1..4);
    let mut world = World {
        network: Network::new(chance.random(), chance.random_range(0.0..0.15), board.clone()),
        orchestrator,
        engine: Waiting::new(chance.random()),
        folder: folder.to_owned(),
        slots: chance.random_range(1..4),
        began: Instant::now(),
        processes: BTreeMap::new(),
        disks: (0..workers).map(|_| SimulatedDisk::roomy()).collect(),
        unlisted: 0,
        unnoted: 0,
    };
    for number in 0..workers {
        world.start(number).await;
    }
    let trouble_ends = Instant::now() + TROUBLE;
    while Instant::now() < trouble_ends {
        tokio::time::sleep(Duration::from_secs_f64(chance.random_range(0.1..6.0))).await;
        let number = chance.random_range(0..workers);
        let (fault, time) =
            (chance.random_range(0..18), Duration::from_secs_f64(chance.random_range(0.1..20.0)));
        match fault {
            0..4 => world.network.cut_off(number, time),
            4..8 => {
                world.kill(number).await;
                tokio::time::sleep(Duration::from_secs_f64(chance.random_range(0.0..10.0))).await;
                world.start(number).await;
            }
            8 => {
                world.drain(number).await;
                world.start(number).await;
            }
            9 => world.network.restart(time),
            10 => (0..workers).for_each(|number| world.network.cut_off(number, time)),
            11..14 => world.suspend(number, time),
            14..16 => world.fill(number, time),
            _ => world.hang(number, time),
        }
    }
    world.heal();
    recover(&board, &job, contract).await;
    let Tally { trace, faults, lost_polls, ambiguous_reports, late_reports } = world.network.tally();
    let (summary, counts) = board.read(|board| (board.job(&job).unwrap(), board.completions(&job).unwrap()));
    History {
        contract,
        job: summary,
        counts,
        trace,
        faults,
        lost_hand_outs: lost_polls,
        ambiguous: ambiguous_reports + world.unnoted,
        unlisted: world.unlisted,
        late_reports,
    }
}

/// Waits for the end of the job; with the base contract, whose orchestrator waits for ever for what was lost with an answer,
/// until nothing has come for a while.
async fn recover(board: &BoardHandle, job: &JobId, contract: Contract) {
    let patience = if contract == Contract::Base { QUIET } else { RECOVERY };
    let reports = || board.read(|board| board.progress_of(job).map_or(0, |job| job.reports));
    loop {
        let before = reports();
        let moved = board.wait_for(|board| {
            board.progress_of(job).ok().filter(|job| job.status.is_final() || job.reports != before)
        });
        match tokio::time::timeout(patience, moved).await {
            Ok(job) if job.status.is_final() => return,
            Ok(_) => {}
            Err(_) => {
                let summary = board.read(|board| board.job(job));
                assert_eq!(contract, Contract::Base, "the job does not end: {summary:?}");
                return;
            }
        }
    }
}
