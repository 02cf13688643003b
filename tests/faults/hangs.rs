//! What neither answers nor fails: a reader of the log that does not read, and a disk that hangs.

use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tensorfleet_worker::dev::Contract;

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
