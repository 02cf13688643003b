//! From claim to report: a worker and a development orchestrator in this process, over real sockets.

mod support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tensorfleet_worker::app::{App, Shutdown};
use tensorfleet_worker::config::{Config, FlagValues, Layers};
use tensorfleet_worker::dev::{DevConfig, DevOrchestrator, JobRequest, JobStatus};
use tensorfleet_worker::domain::{JobId, ModelType};
use tensorfleet_worker::engine::Isolation;
use tensorfleet_worker::wire::worker_pb;
use tensorfleet_worker::wire::worker_pb::worker_service_client::WorkerServiceClient;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::Channel;

/// A worker that simulates without delay, and its orchestrator.
struct Fleet {
    runtime: Runtime,
    orchestrator: DevOrchestrator,
    shutdown: Shutdown,
    worker: JoinHandle<()>,
    grpc: SocketAddr,
    http: SocketAddr,
    _state: tempfile::TempDir,
    jobs: u32,
}

impl Fleet {
    fn start(slots: u32) -> Self {
        // Threads as the worker has them when it runs alone.
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let state = tempfile::tempdir().unwrap();
        let (orchestrator, app) = runtime.block_on(async {
            let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let orchestrator =
                DevOrchestrator::start(DevConfig { listen, ..DevConfig::default() }).await.unwrap();
            let flags: FlagValues = [
                ("ORCHESTRATOR_ADDRESS", orchestrator.local_addr().to_string()),
                ("WORKER_PORT", "0".to_owned()),
                ("METRICS_PORT", "0".to_owned()),
                ("MAX_CONCURRENT_TASKS", slots.to_string()),
                ("TRAINING_BACKEND", "analytic".to_owned()),
                ("ANALYTIC_EPOCH_DELAY", "0".to_owned()),
                ("STATE_DIR", state.path().display().to_string()),
            ]
            .into();
            let mut config = Config::resolve(&Layers { flags, ..Layers::default() }).unwrap().config;
            // Runners are processes of the worker's program, which a bench is not.
            if let Isolation::Process(runners) = &mut config.isolation {
                runners.program = env!("CARGO_BIN_EXE_tensorfleet-worker").into();
            }
            (orchestrator, App::build(config).await.unwrap())
        });
        let local = |address: SocketAddr| SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
        let (grpc, http) = (local(app.grpc_addr()), local(app.http_addr()));
        let shutdown = Shutdown::new();
        #[allow(clippy::disallowed_methods, reason = "stop waits for this one task itself")]
        let worker = runtime.spawn({
            let shutdown = shutdown.clone();
            async move { app.run(shutdown).await.unwrap() }
        });
        Self { runtime, orchestrator, shutdown, worker, grpc, http, _state: state, jobs: 0 }
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
        let board = self.orchestrator.board();
        let started = Instant::now();
        board.update(|board| board.create_job(request)).unwrap();
        self.runtime.block_on(board.wait_for(|board| {
            // Looked at after each change: not with all its epochs.
            board.progress_of(&job_id).ok().filter(|job| job.status == JobStatus::Completed).map(drop)
        }));
        started.elapsed().mul_f64(tasks as f64 / (f64::from(epochs) * 10.0))
    }

    fn stop(self) {
        self.shutdown.drain();
        self.runtime.block_on(async {
            self.worker.await.unwrap();
            self.orchestrator.shutdown().await;
        });
    }
}

/// Tasks one after the other from a full queue with 64 slots: what a task costs beside its training.
fn dispatch(criterion: &mut Criterion) {
    let mut fleet = Fleet::start(64);
    let mut group = criterion.benchmark_group("dispatch");
    group.throughput(Throughput::Elements(1));
    group.bench_function("analytic", |bencher| bencher.iter_custom(|tasks| fleet.run(tasks)));
    group.finish();
    fleet.stop();
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
                let mut stream = TcpStream::connect(fleet.http).unwrap();
                stream
                    .write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
                    .unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
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
