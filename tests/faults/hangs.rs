//! What neither answers nor fails: a reader of the log that does not read, and a disk that hangs.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use tensorfleet_worker::dev::Contract;
use tensorfleet_worker::domain::JobId;

use crate::resources::asked_directly;
use crate::support::middleman::{Deed, Middleman};
use crate::support::*;

/// Says a lot of each call.
const LOUD: &str = "info,tensorfleet_worker=trace,h2=trace,hyper=trace,tonic=trace";

/// The figure of the metric.
fn dropped(worker: &WorkerProcess) -> u64 {
    let (_, metrics) = worker.get("/metrics");
    let figure = metrics.lines().find_map(|line| line.strip_prefix("worker_log_lines_dropped_total "));
    figure.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

/// A worker that nobody listens to, until it is told to end or somebody does again.
async fn talk_to_nobody(listened_to_again: bool) {
    let orchestrator = orchestrator(Contract::Extended).await;
    let (address, board) = (orchestrator.local_addr(), orchestrator.board());
    let middleman = Middleman::start(address, |_, _| Deed::Carry).await;
    let settings = [("LOG_LEVEL", LOUD), ("ANALYTIC_EPOCH_DELAY", "0"), ("DRAIN_TIMEOUT", "5s")];
    let mut worker = WorkerProcess::start(middleman.address, &settings);
    assert_eq!(dropped(&worker), 0);
    let muted = worker.mute().await;
    let limit = Instant::now() + PATIENCE;
    while dropped(&worker) == 0 {
        assert!(Instant::now() < limit, "there is still room for more lines");
        let job = submit(address, simulated_job(20)).await;
        wait_for_end(board, &job).await;
    }
    let heartbeats = || middleman.calls("heartbeat").len();
    let before = heartbeats();
    eventually("heartbeats go on", || heartbeats() >= before + 3);
    let job = submit(address, simulated_job(2)).await;
    wait_for_end(board, &job).await;
    assert_each_once(board, &job, 20);
    let began = Instant::now();
    if listened_to_again {
        drop(muted);
        let said = worker.wait_for_log("log lines were dropped");
        assert!(said["lines"].as_u64().unwrap() > 0, "{said}");
        worker.signal(Signal::TERM);
        worker.wait_for_log("ended");
    } else {
        worker.signal(Signal::TERM);
    }
    assert_eq!(worker.wait().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(25), "it took {:?}", began.elapsed());
}

#[test]
fn a_worker_whose_log_nobody_reads_goes_on_and_counts_what_it_drops() {
    at_once([true, false].map(talk_to_nobody));
}

#[test]
fn an_error_that_nobody_reads_does_not_keep_the_program_from_its_end() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(b".").is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let state = tempfile::NamedTempFile::new().unwrap();
    let settings =
        [("STATE_DIR", state.path().to_str().unwrap()), ("WORKER_PORT", "0"), ("METRICS_PORT", "0")];
    let mut child = command(&settings).arg("run").stderr(Stdio::from(writer)).spawn().unwrap();
    assert_eq!(wait(&mut child).code(), Some(3));
    drop(reader);
}

/// A worker whose disk hangs at `place` is told to end, and another process goes on with its folder.
async fn end_on_a_disk_that_hangs(place: &str, contract: Contract) {
    let orchestrator = orchestrator(contract).await;
    let (address, board) = (orchestrator.local_addr(), orchestrator.board());
    let settings = [("MAX_CONCURRENT_TASKS", "1"), ("ANALYTIC_EPOCH_DELAY", "50ms"), ("DRAIN_TIMEOUT", "1s")];
    let hanging = [settings[0], settings[1], settings[2], ("FAILPOINT", place)];
    let mut worker = WorkerProcess::start(address, &hanging);
    let job = submit(address, simulated_job(1)).await;
    let some = board.wait_for(|board| board.progress_of(&job).ok().filter(|job| job.completed >= 1));
    tokio::time::timeout(PATIENCE, some).await.expect("the disk is well at first");
    let began = Instant::now();
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code(), Some(0), "{place}");
    // The grace that docs/guarantees.md asks for: DRAIN_TIMEOUT and 20 s.
    assert!(began.elapsed() < Duration::from_secs(21), "{place}: it took {:?}", began.elapsed());
    worker.wait_for_log("the disk of STATE_DIR does not answer");
    let _heir = WorkerProcess::start_in(Arc::clone(&worker.state), address, &settings);
    wait_for_end(board, &job).await;
    assert_each_once(board, &job, 10);
}

#[test]
fn a_disk_that_hangs_does_not_keep_the_worker_from_its_end() {
    let cases = [
        ("outbox-hangs:2", Contract::Base),
        ("outbox-hangs:2", Contract::Extended),
        // What a base orchestrator has handed out is lost when it cannot be put on the list.
        ("held-let-go-hangs", Contract::Extended),
    ];
    at_once(cases.map(|(place, contract)| end_on_a_disk_that_hangs(place, contract)));
}

/// A file that answers nobody before somebody opens its other end: the calls of whoever turns to it hang.
struct HangingFile(PathBuf);

impl HangingFile {
    fn make(path: PathBuf) -> Self {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// Lets the one who reads go on. The other end is open for as long as what is returned lives.
    fn answer_reader(&self) -> File {
        File::options().write(true).open(&self.0).unwrap()
    }
}

/// What a worker says and does while the disk of `part` hangs.
pub(crate) async fn assert_degraded(worker: &WorkerProcess, part: &str) {
    worker.wait_for_log("does not answer: the disk has been at one write");
    eventually("it says so", || worker.get_json("/health")["status"] == "DEGRADED");
    let reason = worker.get_json("/health")["reasons"].to_string();
    assert!(reason.contains(part), "{reason}");
    let (code, body) = worker.get("/readyz");
    assert!(code == 503 && body.contains(part), "{body}");
    assert_eq!(worker.get("/livez").0, 200, "a restart would not mend it");
    assert!(worker.shows("worker_state_dir_writable 0"));
    let refused = worker.client().await.execute_task(asked_directly()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert!(refused.message().contains(part), "{refused}");
}

/// A worker whose disk hangs at `place`, under `part`, and answers again.
async fn go_on_after_a_disk_that_hung(place: &str, part: &str, contract: Contract) {
    let orchestrator = orchestrator(contract).await;
    let (address, board) = (orchestrator.local_addr(), orchestrator.board());
    let middleman = Middleman::start(address, |_, _| Deed::Carry).await;
    let folder = tempfile::tempdir().unwrap();
    let disk = HangingFile::make(folder.path().join("disk"));
    let settings = [
        ("MAX_CONCURRENT_TASKS", "2"),
        ("ANALYTIC_EPOCH_DELAY", "300ms"),
        ("HEARTBEAT_INTERVAL", "1s"),
        ("FAILPOINT", place),
        ("FAILPOINT_PIPE", disk.path()),
    ];
    let mut worker = WorkerProcess::start(middleman.address, &settings);
    assert!(worker.shows("worker_state_dir_writable 1"));
    let job = submit(address, simulated_job(20)).await;
    assert_degraded(&worker, part).await;
    eventually("the last poll comes back", || worker.get_json("/api/v1/status")["slots"]["polling"] == 0);
    let calls = |method: &str| middleman.calls(method).len();
    let polls = calls("assign_task");
    if contract == Contract::Extended {
        let before = calls("heartbeat");
        eventually("heartbeats go on", || calls("heartbeat") >= before + 3);
    }
    assert_eq!(calls("assign_task"), polls, "nothing is asked for");
    let other_end = disk.answer_reader();
    worker.wait_for_log(&format!("{part} answers again"));
    drop(other_end);
    wait_for_end(board, &job).await;
    eventually("all is well again", || worker.get("/readyz").0 == 200);
    assert!(worker.shows("worker_state_dir_writable 1"));
    worker.settle();
    assert_each_once(board, &job, 200);
    assert_eq!(board.read(|board| board.job(&job)).unwrap().reports, 200);
}

#[test]
fn a_disk_that_hangs_stops_the_polls_and_loses_nothing() {
    let cases = [
        ("outbox-hangs:2", "STATE_DIR/outbox", Contract::Base),
        ("outbox-hangs:2", "STATE_DIR/outbox", Contract::Extended),
        ("held-let-go-hangs", "STATE_DIR/held", Contract::Base),
        ("held-let-go-hangs", "STATE_DIR/held", Contract::Extended),
    ];
    at_once(cases.map(|(place, part, contract)| go_on_after_a_disk_that_hung(place, part, contract)));
}

/// A worker whose third checkpoint hangs, and then is written after all.
async fn go_on_after_a_checkpoint_that_hung(contract: Contract) {
    let orchestrator = orchestrator(contract).await;
    let (address, board) = (orchestrator.local_addr(), orchestrator.board());
    let state = Arc::new(tempfile::tempdir().unwrap());
    // Inside, since a runner may open nothing else. No job is called so.
    let disk = HangingFile::make(state.path().join("checkpoints/.disk"));
    let settings =
        [("MAX_CONCURRENT_TASKS", "1"), ("FAILPOINT", "checkpoint-hangs:3"), ("FAILPOINT_PIPE", disk.path())];
    let mut worker = WorkerProcess::start_in(Arc::clone(&state), address, &settings);
    let job = submit(address, real_job(1)).await;
    let said = worker.wait_for_log("no checkpoint after this task");
    assert!(said["message"].as_str().unwrap().contains("does not answer"), "{said}");
    wait_for_end(board, &job).await;
    let numbers = |job: &JobId| {
        let files = fs::read_dir(state.path().join("checkpoints").join(job.as_str())).into_iter().flatten();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut numbers: Vec<u32> =
            names.filter_map(|name| name.rsplit('.').next().unwrap().parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(numbers(&job), [0, 1], "those of before stay");
    drop(disk.answer_reader());
    let other = submit(address, real_job(1)).await;
    wait_for_end(board, &other).await;
    worker.settle();
    for job in [&job, &other] {
        assert_each_once(board, job, 10);
    }
}

#[test]
fn a_checkpoint_that_hangs_costs_no_result() {
    at_once(BOTH.map(go_on_after_a_checkpoint_that_hung));
}

/// A worker that cannot start, since a file of its STATE_DIR does not answer.
async fn wait_at_the_start(file: &str, part: &str, signal: Option<Signal>) {
    let orchestrator = orchestrator(Contract::Extended).await;
    let (address, board) = (orchestrator.local_addr(), orchestrator.board());
    let state = Arc::new(tempfile::tempdir().unwrap());
    let disk = HangingFile::make(state.path().join(file));
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "0123456789abcdef0123456789abcdef").unwrap();
    let settings = [("ANALYTIC_EPOCH_DELAY", "0"), ("AUTH_TOKEN_FILE", token.to_str().unwrap())];
    let mut worker = WorkerProcess::start_unready(Arc::clone(&state), address, &settings);
    let said = worker.wait_for_log("the start waits for");
    assert!(said["message"].as_str().unwrap().contains(part), "{said}");
    let http = address_in(&said, "http");
    assert_eq!(get(http, "/livez").0, 200, "a restart would not mend it");
    for path in ["/readyz", "/health", "/metrics"] {
        let (code, body) = get(http, path);
        assert!(code == 503 && body.contains(part), "{path}: {code} {body}");
    }
    assert_eq!(get(http, "/api/v1/status").0, 401, "what is private stays so");
    if let Some(signal) = signal {
        let began = Instant::now();
        worker.signal(signal);
        assert_eq!(worker.wait().code(), Some(130), "{file}");
        assert!(began.elapsed() < Duration::from_secs(10), "{file}: it took {:?}", began.elapsed());
        worker.wait_for_log("ends before it has started");
        return;
    }
    // Nothing is in it.
    drop(disk.answer_reader());
    worker.wait_until_it_listens();
    let job = submit(address, simulated_job(1)).await;
    wait_for_end(board, &job).await;
    assert_eq!(worker.get("/health").0, 200);
    worker.settle();
    assert_each_once(board, &job, 10);
}

#[test]
fn a_disk_that_hangs_at_the_start_is_told_of_and_keeps_no_signal_unheard() {
    let cases = [
        ("lock", "STATE_DIR/lock", Some(Signal::TERM)),
        ("worker-id", "STATE_DIR/worker-id", Some(Signal::INT)),
        ("worker-id", "STATE_DIR/worker-id", None),
        ("outbox/000000000001.log", "STATE_DIR/outbox", Some(Signal::TERM)),
        ("outbox/000000000001.log", "STATE_DIR/outbox", None),
        ("held/tasks.log", "STATE_DIR/held", Some(Signal::TERM)),
    ];
    at_once(cases.map(|(file, part, signal)| wait_at_the_start(file, part, signal)));
}
