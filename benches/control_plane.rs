//! From claim to report: a worker, a process as in use, and a development orchestrator here, over real sockets. What the
//! worker's CPU took a task, and how soon tasks started, is printed beside the times.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustix::process::{Pid, Signal, kill_process};
use tensorfleet_worker::dev::{DevConfig, DevOrchestrator, JobRequest, JobStatus};
use tensorfleet_worker::domain::{JobId, ModelType};
use tensorfleet_worker::wire::worker_pb;
use tensorfleet_worker::wire::worker_pb::worker_service_client::WorkerServiceClient;
use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tonic::transport::Channel;

/// The longest that claim to start shall take, in 99 of 100 cases; a bound of the histogram.
const START_GOAL: &str = "0.002";

/// A worker that simulates without delay, and its orchestrator.
struct Fleet {
    runtime: Runtime,
    orchestrator: DevOrchestrator,
    worker: Child,
    grpc: SocketAddr,
    http: SocketAddr,
    _state: tempfile::TempDir,
    jobs: u32,
    tasks: u64,
}

impl Fleet {
    fn start(slots: u32) -> Self {
        Self::start_in(slots, &std::env::temp_dir())
    }

    /// Starts one whose state is in a folder below `parent`.
    fn start_in(slots: u32, parent: &Path) -> Self {
        // One thread, as the orchestrator has when it runs alone.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let state = tempfile::tempdir_in(parent).unwrap();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = DevConfig { listen, ..DevConfig::default() };
        let orchestrator = runtime.block_on(DevOrchestrator::start(config)).unwrap();
        let mut worker = Command::new(env!("CARGO_BIN_EXE_tensorfleet-worker"))
            .env_clear()
            .env("ORCHESTRATOR_ADDRESS", orchestrator.local_addr().to_string())
            .env("WORKER_PORT", "0")
            .env("METRICS_PORT", "0")
            .env("MAX_CONCURRENT_TASKS", slots.to_string())
            .env("TRAINING_BACKEND", "analytic")
            .env("ANALYTIC_EPOCH_DELAY", "0")
            .env("STATE_DIR", state.path())
            .env("LOG_FORMAT", "json")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(worker.stderr.take().unwrap());
        let [grpc, http] = addresses(&mut log);
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { runtime, orchestrator, worker, grpc, http, _state: state, jobs: 0, tasks: 0 }
    }

    /// Runs `tasks` tasks; how long that took.
    fn run(&mut self, tasks: u64) -> Duration {
        self.jobs += 1;
        let job_id = JobId::parse(&format!("bench-{}", self.jobs)).unwrap();
        // A job has ten tasks an epoch; what it took is shared out over them.
        let epochs = u32::try_from(tasks.div_ceil(10)).unwrap();
        let request = JobRequest {
            job_id: job_id.clone(),
            model: ModelType::parse("neural_network").unwrap(),
            dataset_path: "none".to_owned(),
            hyperparameters: BTreeMap::new(),
            epochs,
        };
        let board = self.orchestrator.board().clone();
        let started = Instant::now();
        board.update(|board| board.create_job(request)).unwrap();
        // On the orchestrator's thread, which is woken by each change anyway.
        let ended = async move {
            board
                .wait_for(|board| {
                    // Looked at after each change: not with all its epochs.
                    board.progress_of(&job_id).ok().filter(|job| job.status == JobStatus::Completed).map(drop)
                })
                .await;
        };
        let ended = TaskTracker::new().spawn_on(ended, self.runtime.handle());
        self.runtime.block_on(ended).unwrap();
        self.tasks += u64::from(epochs) * 10;
        started.elapsed().mul_f64(tasks as f64 / (f64::from(epochs) * 10.0))
    }

    /// Says what a task took of the worker's CPU, and how soon tasks started.
    fn say_costs(&self, id: &str) {
        let metrics = get(self.http, "/metrics");
        let figure = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name}")).parse::<f64>().unwrap()
        };
        // What its start took is a part of it, and small beside many tasks.
        let micros = figure("process_cpu_seconds_total") * 1e6 / self.tasks as f64;
        let soon = figure(&format!("worker_task_queue_seconds_bucket{{le=\"{START_GOAL}\"}}"))
            / figure("worker_task_queue_seconds_count");
        println!(
            "{id}: {micros:.1} us of the worker's CPU a task; {:.3} % of {} tasks started within {START_GOAL} s",
            soon * 100.0,
            self.tasks
        );
    }

    fn stop(mut self) {
        let pid = Pid::from_raw(i32::try_from(self.worker.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let status = self.worker.wait().unwrap();
        assert!(status.success(), "the worker ended with {status}");
        self.runtime.block_on(self.orchestrator.shutdown());
    }
}

/// Where the worker listens, as its log says.
fn addresses(log: &mut impl std::io::BufRead) -> [SocketAddr; 2] {
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        if line["message"] == "listening" {
            return ["grpc", "http"].map(|server| {
                let address: SocketAddr = line[server].as_str().unwrap().parse().unwrap();
                SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()))
            });
        }
    }
    panic!("the worker ended before it listened")
}

/// GET over a connection of its own; what was answered.
fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// Tasks one after the other from a full queue with 64 slots: what a task costs beside its training. With the outbox on
/// the disk of temporary files, and in memory, where the machine has such a folder.
fn dispatch(criterion: &mut Criterion) {
    let (disk, memory) = (std::env::temp_dir(), Path::new("/dev/shm"));
    for (id, parent) in [("analytic", disk.as_path()), ("analytic_in_memory", memory)] {
        if !parent.is_dir() {
            println!("dispatch/{id}: no folder {}", parent.display());
            continue;
        }
        let mut fleet = Fleet::start_in(64, parent);
        let mut group = criterion.benchmark_group("dispatch");
        group.throughput(Throughput::Elements(1));
        group.bench_function(id, |bencher| bencher.iter_custom(|tasks| fleet.run(tasks)));
        group.finish();
        fleet.say_costs(&format!("dispatch/{id}"));
        fleet.stop();
    }
}

/// The same with few slots.
fn concurrent_tasks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("concurrent_tasks");
    group.throughput(Throughput::Elements(1));
    for slots in [1, 2, 4, 8] {
        let mut fleet = Fleet::start(slots);
        group.bench_function(slots.to_string(), |bencher| bencher.iter_custom(|tasks| fleet.run(tasks)));
        fleet.stop();
    }
    group.finish();
}

/// Executes a task. A worker lets a peer in a thousand times a second: waiting for that is not measured.
async fn execute(
    client: &mut WorkerServiceClient<Channel>,
    request: worker_pb::TaskRequest,
) -> (worker_pb::TaskResponse, Duration) {
    loop {
        let began = Instant::now();
        match client.execute_task(request.clone()).await {
            Err(status) if status.code() == Code::ResourceExhausted => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            answer => return (answer.unwrap().into_inner(), began.elapsed()),
        }
    }
}

/// One task by ExecuteTask, from the call to the answer.
fn task_execution(criterion: &mut Criterion) {
    let fleet = Fleet::start(1);
    let mut group = criterion.benchmark_group("task_execution");
    let address = format!("http://{}", fleet.grpc);
    let mut client = fleet.runtime.block_on(WorkerServiceClient::connect(address)).unwrap();
    let mut number = 0;
    for (id, backend) in [("analytic", "analytic"), ("neural_network_digits", "cpu")] {
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|calls| {
                let mut taken = Duration::ZERO;
                for _ in 0..calls {
                    let request = worker_pb::TaskRequest {
                        task_id: format!("{id}-{number}"),
                        job_id: format!("bench-{id}"),
                        model_type: "neural_network".to_owned(),
                        dataset_path: "builtin:digits".to_owned(),
                        hyperparameters: [("backend".to_owned(), backend.to_owned())].into(),
                        epoch: number / 10,
                        batch_start: number % 10 * 100,
                        batch_end: number % 10 * 100 + 100,
                    };
                    number += 1;
                    let (answer, took) = fleet.runtime.block_on(execute(&mut client, request));
                    assert!(answer.success, "{}", answer.message);
                    taken += took;
                }
                taken
            });
        });
    }
    group.finish();
    fleet.stop();
}

/// /metrics of a fresh worker, and of one after 100,000 tasks (1,000 where benches are only tried out).
fn scrape(criterion: &mut Criterion) {
    let trial = support::is_trial();
    let mut fleet = Fleet::start(64);
    let mut group = criterion.benchmark_group("scrape");
    for finished in [0, 100_000] {
        let tasks = if trial { finished / 100 } else { finished };
        if tasks > 0 {
            fleet.run(tasks);
        }
        group.bench_function(finished.to_string(), |bencher| {
            bencher.iter(|| {
                let answer = get(fleet.http, "/metrics");
                // Whatever has been done, a scrape stays small.
                assert!(answer.len() <= 300_000, "{} bytes", answer.len());
                answer.len()
            });
        });
    }
    group.finish();
    fleet.stop();
}

criterion_group!(benches, dispatch, concurrent_tasks, task_execution, scrape);
criterion_main!(benches);
