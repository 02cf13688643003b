//! Every route over a real socket, in front of a worker that stands still.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use flate2::read::GzDecoder;
use pprof::protos::Message as _;
use serde_json::Value;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time;
use tokio_util::task::TaskTracker;

use super::*;
use crate::domain::{
    Backend, ErrorCode, HostUsage, JobId, LinkState, Metrics, ModelType, Progress, TaskError, TaskId,
    TaskIdentity, TaskOutcome, TaskPhase, TaskResult, TaskView, WorkerId, WorkerPhase, WorkerStatus,
};
use crate::gpu::NoGpus;
use crate::telemetry;
use crate::worker::FixedWorker;

fn identity(task: &str) -> TaskIdentity {
    TaskIdentity { task_id: TaskId::parse(task).unwrap(), job_id: JobId::parse("j1").unwrap(), attempt: 2 }
}

fn outcome(task: &str, ending: Result<TaskResult, TaskError>) -> Arc<TaskOutcome> {
    Arc::new(TaskOutcome {
        identity: identity(task),
        model: ModelType::parse("cnn").unwrap(),
        epoch: 1,
        ending,
        notes: vec!["noted".into()],
        duration: Duration::from_millis(1500),
        energy_joules: None,
    })
}

pub(super) fn status() -> WorkerStatus {
    let result = TaskResult {
        train: Metrics { loss: 0.5, accuracy: f64::NAN },
        validation: None,
        samples: 100,
        steps: 10,
        backend: Backend::Analytic,
        device: "curve".into(),
        weights: Bytes::from_static(b"never shown"),
        reference: None,
    };
    WorkerStatus {
        worker_id: WorkerId::parse("w-1").unwrap(),
        phase: WorkerPhase::Busy,
        reasons: Vec::new(),
        started_at: Instant::now(),
        slots_total: 3,
        slots_busy: 1,
        slots_polling: 1,
        tasks: vec![TaskView {
            identity: identity("held"),
            model: ModelType::parse("neural_network").unwrap(),
            epoch: 4,
            phase: TaskPhase::Running,
            progress: Progress { step: 7, total_steps: 100, loss: 0.25, ..Progress::default() },
            claimed_at: SystemTime::UNIX_EPOCH,
            retries: 1,
            lease: None,
        }],
        recent: vec![
            outcome("ended", Ok(result)),
            outcome("broken", Err(TaskError::new(ErrorCode::Diverged, "NaN at step 3"))),
        ],
        completed_tasks: 1,
        failed_tasks: 1,
        link: LinkState::Connected,
        registered: true,
        last_heartbeat: Some(SystemTime::UNIX_EPOCH),
        backend: Backend::Analytic,
        outbox_pending: 2,
        state_dir_writable: true,
    }
}

mod live;

fn sources(handle: WorkerHandle, host: HostProbe, registry: Registry) -> Sources {
    let orchestrator = "http://orchestrator:50051".to_owned();
    Sources { handle, host, gpu: Arc::new(NoGpus), registry, orchestrator, control: Control::Nobody }
}

struct Running {
    worker: FixedWorker,
    shutdown: CancellationToken,
    server: JoinHandle<Result<(), Error>>,
    address: SocketAddr,
}

fn start_with(patience: Patience) -> Running {
    start_as(patience, Guard::none(), Control::Nobody)
}

fn start_as(patience: Patience, guard: Guard, control: Control) -> Running {
    let (worker, handle) = WorkerHandle::fixed(status());
    let host = HostProbe::fixed(HostUsage { cpu_percent: 12.5, memory_bytes: 4096, memory_percent: 50.0 });
    let registry = telemetry::registry().unwrap();
    host.register(&registry).unwrap();
    let sources = Sources { control, ..sources(handle, host, registry) };
    let config = Config { listen: (Ipv4Addr::LOCALHOST, 0).into() };
    let server = Server::new(config.bind().unwrap(), sources).unwrap().behind(guard, Demand::Open);
    let server = Server { patience, ..server };
    let address = server.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server = TaskTracker::new().spawn(server.serve(shutdown.clone()));
    Running { worker, shutdown, server, address }
}

fn start() -> Running {
    start_with(Patience::default())
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        assert!(self.head.contains("content-type: application/json"), "{}", self.head);
        serde_json::from_slice(&self.body).unwrap()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Running {
    /// Sends one request of HTTP/1.0, so that the answer ends with the connection.
    async fn send(&self, line: &str, headers: &str) -> Answer {
        let request = format!("{line} HTTP/1.0\r\n{headers}\r\n");
        let address = self.address;
        let answer = spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            answer
        });
        let answer = answer.await.unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_lowercase(), body: answer[end + 4..].to_vec() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), "").await
    }
}

#[tokio::test]
async fn health_is_json_whatever_the_state() {
    let running = start();
    let answer = running.get("/health").await;
    assert_eq!(answer.status, 200);
    let health = answer.json();
    assert_eq!((&health["worker_id"], &health["status"]), (&"w-1".into(), &"BUSY".into()));
    assert_eq!((&health["active_tasks"], &health["memory_usage"]), (&1.into(), &4096.into()));
    assert_eq!(health["last_heartbeat"], "1970-01-01T00:00:00.000Z");
    assert_eq!(health["orchestrator_connection"], "connected");

    let degraded =
        WorkerStatus { phase: WorkerPhase::Degraded, reasons: vec!["disk full".into()], ..status() };
    running.worker.say(degraded);
    let answer = running.get("/health").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["reasons"], serde_json::json!(["disk full"]));
}

#[tokio::test]
async fn readiness_follows_the_worker_and_liveness_does_not() {
    let running = start();
    let answer = running.get("/readyz").await;
    assert_eq!((answer.status, answer.json()), (200, serde_json::json!({"ready": true, "reasons": []})));

    let lost = WorkerStatus { registered: false, link: LinkState::Disconnected, ..status() };
    running.worker.say(lost);
    let answer = running.get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(answer.json()["reasons"][0].as_str().unwrap().contains("disconnected"));
    let answer = running.get("/livez").await;
    assert_eq!((answer.status, answer.json()), (200, serde_json::json!({"status": "ok"})));
}

#[tokio::test]
async fn metrics_mirror_the_status_and_are_compressed_when_asked_for() {
    let running = start();
    let plain = running.get("/metrics").await;
    assert_eq!(plain.status, 200);
    assert!(plain.head.contains("content-type: text/plain; version=0.0.4"), "{}", plain.head);
    assert!(!plain.head.contains("content-encoding"));
    for line in [
        "worker_slots{state=\"busy\"} 1",
        "worker_slots{state=\"polling\"} 1",
        "worker_slots{state=\"idle\"} 1",
        "worker_concurrent_tasks 1",
        "worker_orchestrator_up 1",
        "worker_outbox_pending 2",
        "worker_gpus 0",
        "worker_cpu_usage_percent 12.5",
        "worker_memory_usage_bytes 4096",
    ] {
        assert!(plain.text().lines().any(|written| written == line), "{line}\n{}", plain.text());
    }
    assert!(plain.text().contains("worker_build_info{"));

    let packed = running.send("GET /metrics", "Accept-Encoding: gzip\r\n").await;
    assert!(packed.head.contains("content-encoding: gzip"), "{}", packed.head);
    let mut text = String::new();
    GzDecoder::new(&packed.body[..]).read_to_string(&mut text).unwrap();
    assert!(text.contains("worker_orchestrator_up 1"));

    running.worker.say(WorkerStatus { link: LinkState::Connecting, ..status() });
    assert!(running.get("/metrics").await.text().contains("worker_orchestrator_up 0"));
}

#[tokio::test]
async fn the_api_shows_slots_tasks_and_outcomes() {
    let running = start();
    let shown = running.get("/api/v1/status").await.json();
    assert_eq!(shown["slots"], serde_json::json!({"total": 3, "busy": 1, "polling": 1}));
    assert_eq!((&shown["worker_id"], &shown["simulated"]), (&"w-1".into(), &true.into()));
    assert_eq!(shown["tasks"][0]["step"], 7);

    let shown = running.get("/api/v1/tasks").await.json();
    let held = &shown["tasks"][0];
    assert_eq!((&held["task_id"], &held["job_id"]), (&"held".into(), &"j1".into()));
    assert_eq!(
        (&held["phase"], &held["attempt"], &held["retries"]),
        (&"running".into(), &2.into(), &1.into())
    );
    assert_eq!((&held["loss"], &held["claimed_at"]), (&0.25.into(), &"1970-01-01T00:00:00.000Z".into()));
    let ended = &shown["recent"][0];
    assert_eq!((&ended["status"], &ended["simulated"]), (&"completed".into(), &true.into()));
    assert_eq!((&ended["loss"], &ended["accuracy"]), (&0.5.into(), &Value::Null));
    assert_eq!((&ended["error_code"], &ended["duration_seconds"]), (&Value::Null, &1.5.into()));
    let broken = &shown["recent"][1];
    assert_eq!((&broken["status"], &broken["error_code"]), (&"failed".into(), &"DIVERGED".into()));
    assert_eq!((&broken["message"], &broken["loss"]), (&"NaN at step 3; noted".into(), &Value::Null));
}

#[tokio::test]
async fn what_is_not_there_is_a_json_error() {
    let running = start();
    let answer = running.get("/nothing").await;
    assert_eq!(answer.status, 404);
    let error = &answer.json()["error"];
    assert_eq!((&error["code"], &error["value"]), (&"not_found".into(), &"/nothing".into()));

    let answer = running.send("POST /health", "Content-Length: 0\r\n").await;
    assert_eq!(answer.status, 405);
    let error = &answer.json()["error"];
    assert_eq!((&error["code"], &error["value"]), (&"method_not_allowed".into(), &"POST".into()));
    assert!(error["allowed"].as_str().unwrap().contains("GET"));
}

#[tokio::test]
async fn the_pages_lead_on() {
    let running = start();
    let page = running.get("/").await;
    assert!(page.head.contains("text/html"));
    for path in
        ["/health", "/metrics", "/api/v1/status", "/api/v1/tasks", "/debug/pprof/", "/readyz", "/livez"]
    {
        assert!(page.text().contains(&format!("href=\"{path}\"")), "{path}");
        assert_eq!(running.get(path).await.status, 200, "{path}");
    }
    assert!(running.get("/debug/pprof/").await.text().contains("go tool pprof"));
}

/// Burns CPU until it is dropped.
struct Burner {
    stop: Arc<AtomicBool>,
}

impl Burner {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let burn = move || {
            let mut sum = 0_u64;
            while !seen.load(Ordering::Relaxed) {
                sum = std::hint::black_box(sum.wrapping_mul(3).wrapping_add(1));
            }
        };
        std::thread::Builder::new().name("burner".into()).spawn(burn).unwrap();
        Self { stop }
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

// The profiler belongs to the process, so one test alone uses it.
#[tokio::test]
async fn the_cpu_profile_is_readable_and_one_at_a_time() {
    let running = start();
    let answer = running.get("/debug/pprof/profile?seconds=soon").await;
    assert_eq!(answer.status, 400);
    let error = &answer.json()["error"];
    assert_eq!((&error["field"], &error["value"]), (&"seconds".into(), &"soon".into()));
    assert!(error["allowed"].as_str().unwrap().contains("300"));

    let _burner = Burner::start();
    let path = "/debug/pprof/profile?seconds=2&frequency=200";
    let (one, other) = tokio::join!(running.get(path), running.get(path));
    let (profile, refused) = if one.status == 200 { (one, other) } else { (other, one) };
    assert_eq!((profile.status, refused.status), (200, 409));
    assert_eq!(refused.json()["error"]["code"], "conflict");
    let profile = pprof::protos::Profile::decode(&profile.body[..]).unwrap();
    assert!(!profile.sample.is_empty());
    assert!(profile.sample.iter().all(|sample| sample.value.len() == profile.sample_type.len()));
    assert!(profile.duration_nanos >= 2_000_000_000);
    let named = |wanted: fn(&str) -> bool| profile.string_table.iter().any(|name| wanted(name));
    assert!(named(|name| name == "burner"), "the burning thread was not seen");
    assert!(!named(|name| name.starts_with("backtrace::")), "the sampler sees itself");

    let packed = running.send("GET /debug/pprof/profile?seconds=1", "Accept-Encoding: gzip\r\n").await;
    assert_eq!((packed.status, &packed.body[..2]), (200, &[0x1f, 0x8b][..]));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let running = start_with(Patience { head: Duration::from_millis(100), ..Patience::default() });
    for begun in ["", "GET /health HTTP/1.1\r\nHost: a"] {
        let address = running.address;
        let silent = spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream.write_all(begun.as_bytes()).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).map(|_| answer)
        });
        silent.await.unwrap().expect("the connection was kept");
    }
}

#[tokio::test]
async fn silent_clients_wait_their_turn_and_others_are_served() {
    let patience = Patience { head: Duration::from_millis(100), connections: 1, ..Patience::default() };
    let running = start_with(patience);
    let _silent = TcpStream::connect(running.address).unwrap();
    assert_eq!(running.get("/livez").await.status, 200);
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let running = start();
    let address = running.address;
    let idle = spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        stream
    });
    let _idle = idle.await.unwrap();
    running.shutdown.cancel();
    let ended = time::timeout(Patience::default().grace / 2, running.server).await;
    ended.expect("an idle connection kept the server").unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_port_and_a_second_server_of_a_registry_are_refused() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let config = Config { listen: taken.local_addr().unwrap() };
    let error = config.bind().unwrap_err().to_string();
    assert!(error.contains("METRICS_PORT") && error.contains("allowed"), "{error}");

    let (_worker, handle) = WorkerHandle::fixed(status());
    let registry = Registry::new();
    let sources = sources(handle, HostProbe::default(), registry);
    let free = Config { listen: (Ipv4Addr::LOCALHOST, 0).into() };
    Server::new(free.bind().unwrap(), sources.clone()).unwrap();
    assert!(matches!(Server::new(free.bind().unwrap(), sources), Err(Error::Metrics(_))));
}
