//! Real workers as processes, asked over real sockets.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses a part of it")]

pub mod fickle;
pub mod listener;
pub mod middleman;
pub mod node;
pub mod prometheus;
pub mod witness;

use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tensorfleet_worker::dev::{BoardHandle, Contract, DevConfig, DevOrchestrator, JobStatus, JobSummary};
use tensorfleet_worker::domain::JobId;
use tensorfleet_worker::wire::pb::orchestrator_service_client::OrchestratorServiceClient;
use tensorfleet_worker::wire::worker_pb::worker_service_client::WorkerServiceClient;
use tensorfleet_worker::wire::{pb, worker_pb};
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;

/// Time limit for what has to happen; generous, since machines of a build farm are slow.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Both contracts, for what is promised with either.
pub const BOTH: [Contract; 2] = [Contract::Base, Contract::Extended];

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_tensorfleet-worker");

/// A worker in a process of its own; killed when dropped.
pub struct WorkerProcess {
    pub child: Child,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    log: Arc<Mutex<Vec<Value>>>,
    lines: Mutex<Receiver<Value>>,
    /// Held by who reads the log, line by line.
    reading: Arc<tokio::sync::Mutex<()>>,
    pub state: Arc<tempfile::TempDir>,
}

/// The command that runs a worker with `settings`, and nothing else in its environment.
pub fn command(settings: &[(&str, &str)]) -> Command {
    command_of(Path::new(PROGRAM), settings)
}

fn command_of(program: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LOG_FORMAT", "json").stdin(Stdio::null());
    command.envs(std::env::var_os("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path)));
    command.envs(settings.iter().copied());
    command
}

impl WorkerProcess {
    /// Starts a worker for `orchestrator` with a state folder of its own.
    pub fn start(orchestrator: SocketAddr, settings: &[(&str, &str)]) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), orchestrator, settings)
    }

    /// Starts a worker on a state folder that may have been used before.
    pub fn start_in(
        state: Arc<tempfile::TempDir>,
        orchestrator: SocketAddr,
        settings: &[(&str, &str)],
    ) -> Self {
        Self::launch(command(settings), state, &orchestrator.to_string())
    }

    /// Starts a worker from a copy of the program.
    pub fn start_copy(program: &Path, orchestrator: SocketAddr, settings: &[(&str, &str)]) -> Self {
        let state = Arc::new(tempfile::tempdir().unwrap());
        Self::launch(command_of(program, settings), state, &orchestrator.to_string())
    }

    /// Starts a worker for an orchestrator whose address is written as `orchestrator`.
    pub fn start_at(orchestrator: &str, settings: &[(&str, &str)]) -> Self {
        Self::launch(command(settings), Arc::new(tempfile::tempdir().unwrap()), orchestrator)
    }

    fn launch(command: Command, state: Arc<tempfile::TempDir>, orchestrator: &str) -> Self {
        let mut worker = Self::launch_unready(command, state, orchestrator);
        worker.wait_until_it_listens();
        worker
    }

    /// Starts a worker that may not come to listen; its ports are not known.
    pub fn start_unready(
        state: Arc<tempfile::TempDir>,
        orchestrator: SocketAddr,
        settings: &[(&str, &str)],
    ) -> Self {
        Self::launch_unready(command(settings), state, &orchestrator.to_string())
    }

    fn launch_unready(mut command: Command, state: Arc<tempfile::TempDir>, orchestrator: &str) -> Self {
        command
            .env("ORCHESTRATOR_ADDRESS", orchestrator)
            .env("WORKER_PORT", "0")
            .env("METRICS_PORT", "0")
            .env("STATE_DIR", state.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::<Mutex<Vec<Value>>>::default();
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let reading = Arc::<tokio::sync::Mutex<()>>::default();
        std::thread::spawn({
            let (log, reading) = (Arc::clone(&log), Arc::clone(&reading));
            move || read_log(stderr, &log, &sender, &reading)
        });
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { child, grpc: nowhere, http: nowhere, log, lines: Mutex::new(lines), reading, state }
    }

    /// Waits until it has started, and learns its ports.
    pub fn wait_until_it_listens(&mut self) {
        let listening = self.wait_for_log("listening");
        self.grpc = address_in(&listening, "grpc");
        self.http = address_in(&listening, "http");
    }

    /// Waits for the next log line whose message contains `text`.
    pub fn wait_for_log(&self, text: &str) -> Value {
        let limit = Instant::now() + PATIENCE;
        loop {
            let left = limit.saturating_duration_since(Instant::now());
            match self.lines.lock().unwrap().recv_timeout(left) {
                Ok(line) if line["message"].as_str().is_some_and(|message| message.contains(text)) => {
                    return line;
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no log line says {text:?}; the log is {:#?}", self.log())
                }
            }
        }
    }

    /// While the guard lives nobody reads the log: standard error is a pipe that fills.
    pub async fn mute(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.reading).lock_owned().await
    }

    /// Everything logged so far.
    pub fn log(&self) -> Vec<Value> {
        self.log.lock().unwrap().clone()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits until the process has ended.
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// Waits until it has said all that it has to say, and ends it: nothing is counted any more after that.
    pub fn settle(&mut self) {
        eventually("every outcome is acknowledged", || self.shows("worker_outbox_pending 0"));
        self.signal(Signal::TERM);
        assert_eq!(self.wait().code(), Some(0));
    }

    /// Whether its metrics have that line.
    pub fn shows(&self, line: &str) -> bool {
        self.get("/metrics").1.lines().any(|shown| shown == line)
    }

    /// A client of the worker's own service.
    pub async fn client(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::connect(format!("http://{}", self.grpc)).await.unwrap()
    }

    /// GET of a path: status code and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        get(self.http, path)
    }

    /// GET of a path that answers JSON.
    pub fn get_json(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            for line in self.log() {
                println!("worker: {line}");
            }
        }
    }
}

/// The address in the field `name` of a log line, from this machine.
pub fn address_in(line: &Value, name: &str) -> SocketAddr {
    let port = line[name].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn read_log(
    stderr: impl std::io::BufRead,
    log: &Mutex<Vec<Value>>,
    sender: &Sender<Value>,
    reading: &tokio::sync::Mutex<()>,
) {
    for line in stderr.lines().map_while(Result::ok) {
        drop(reading.blocking_lock());
        let parsed = serde_json::from_str(&line).unwrap_or(Value::String(line));
        log.lock().unwrap().push(parsed.clone());
        let _ = sender.send(parsed);
    }
}

/// Waits until a process has ended.
pub fn wait(child: &mut Child) -> ExitStatus {
    let limit = Instant::now() + PATIENCE;
    while Instant::now() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let _ = child.kill();
    panic!("the process did not end");
}

/// GET over a connection of its own: status code and body.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// A development orchestrator on a free port.
pub async fn orchestrator(contract: Contract) -> DevOrchestrator {
    DevOrchestrator::start(config(contract)).await.unwrap()
}

/// How the tests run it: heartbeats each second, short leases.
pub fn config(contract: Contract) -> DevConfig {
    DevConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        contract,
        lease: Duration::from_secs(6),
        heartbeat_interval: Duration::from_secs(1),
        ..DevConfig::default()
    }
}

/// A client of an orchestrator.
pub async fn client_of(orchestrator: SocketAddr) -> OrchestratorServiceClient<Channel> {
    OrchestratorServiceClient::connect(format!("http://{orchestrator}")).await.unwrap()
}

/// Sends a job and returns its id.
pub async fn submit(orchestrator: SocketAddr, job: pb::TrainingJobRequest) -> JobId {
    let answer = client_of(orchestrator).await.create_training_job(job).await.unwrap().into_inner();
    JobId::parse(&answer.job_id).unwrap()
}

/// A job of a small network on a small data set, which trains for real on the CPU.
pub fn real_job(epochs: i32) -> pb::TrainingJobRequest {
    let hyperparameters = [("backend", "cpu"), ("hidden_layers", "16"), ("learning_rate", "0.01")];
    pb::TrainingJobRequest {
        model_type: "neural_network".into(),
        dataset_path: "builtin:iris".into(),
        hyperparameters: hyperparameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        epochs,
        ..Default::default()
    }
}

/// A job whose tasks only wait, for as long as ANALYTIC_EPOCH_DELAY says.
pub fn simulated_job(epochs: i32) -> pb::TrainingJobRequest {
    pb::TrainingJobRequest {
        hyperparameters: [("backend".to_owned(), "analytic".to_owned())].into(),
        ..real_job(epochs)
    }
}

/// The runners that a worker has now.
pub fn runners_of(worker: &WorkerProcess) -> Vec<Pid> {
    let parent = format!("PPid:\t{}", worker.child.id());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let number = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // It has another child for a moment, which looks for GPUs.
    let is_runner = |id: &i32| {
        let read = |what: &str| std::fs::read_to_string(format!("/proc/{id}/{what}")).unwrap_or_default();
        read("status").lines().any(|line| line == parent)
            && read("cmdline").split('\0').nth(1) == Some("runner")
    };
    number.filter(is_runner).filter_map(Pid::from_raw).collect()
}

/// Waits until a job has ended.
pub async fn wait_for_end(board: &BoardHandle, job: &JobId) -> JobSummary {
    let ended = board.wait_for(|board| board.job(job).ok().filter(|summary| summary.status.is_final()));
    match tokio::time::timeout(PATIENCE, ended).await {
        Ok(summary) => summary,
        Err(_) => panic!("the job did not end: {:?}", board.read(|board| board.job(job))),
    }
}

/// Asserts that a job is complete and each of its tasks was counted exactly once.
pub fn assert_each_once(board: &BoardHandle, job: &JobId, tasks: usize) {
    let (summary, completions) =
        board.read(|board| (board.job(job).unwrap(), board.completions(job).unwrap()));
    assert_eq!(summary.status, JobStatus::Completed, "{summary:?}");
    assert_eq!(completions.len(), tasks);
    assert!(completions.values().all(|count| *count == 1), "{completions:?}");
}

/// Waits until a worker holds a task of the board, and returns the task's id.
pub async fn wait_for_hand_out(board: &BoardHandle) -> String {
    let held = board.wait_for(|board| board.worker_activity().into_iter().find_map(|worker| worker.current));
    tokio::time::timeout(PATIENCE, held).await.expect("no task was handed out").0.to_string()
}

/// What becomes of a task. The worker may not know it yet when this is called.
pub async fn watch(
    client: &mut WorkerServiceClient<Channel>,
    task_id: &str,
) -> tonic::Streaming<pb::TaskProgress> {
    let limit = Instant::now() + PATIENCE;
    loop {
        let request = worker_pb::WatchTaskRequest { task_id: task_id.to_owned() };
        match client.watch_task(request).await {
            Ok(stream) => return stream.into_inner(),
            Err(status) if status.code() == tonic::Code::NotFound && Instant::now() < limit => {
                tokio::task::yield_now().await;
            }
            Err(status) => panic!("{status}"),
        }
    }
}

/// Follows a task until it ends; the number of messages.
pub async fn watch_to_the_end(client: &mut WorkerServiceClient<Channel>, task_id: &str) -> u64 {
    let mut stream = watch(client, task_id).await;
    let mut seen = 0;
    while stream.message().await.unwrap().is_some() {
        seen += 1;
    }
    seen
}

/// Runs `future` beside the test.
pub fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    TaskTracker::new().spawn(future)
}

/// Carries out `cases`, which mostly wait, beside each other: each with a runtime of its own, so that what one of them blocks is
/// not what another one, or its orchestrator, needs.
pub fn at_once<F>(cases: impl IntoIterator<Item = F>)
where
    F: Future<Output = ()> + Send,
{
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
                runtime.unwrap().block_on(case);
            });
        }
    });
}

/// Looks until `holds`: for what a server shows and nobody announces.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < limit, "{what}: still not after {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
