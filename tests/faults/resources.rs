//! The machine has no room left: on disk, or for another file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use tensorfleet_worker::dev::{Contract, DevConfig, DevOrchestrator};
use tensorfleet_worker::wire::worker_pb::TaskRequest;

use crate::hangs::assert_degraded;
use crate::support::*;

/// A file system of 1 MiB; gone when dropped.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    fn mount(folder: &Path) -> Self {
        let run = |program: &str, arguments: &[&str]| {
            let path = folder.to_str().unwrap();
            Command::new(program).args(arguments).arg(path).status().is_ok_and(|status| status.success())
        };
        let mounted = run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            || run("sudo", &["-n", "mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs"]);
        assert!(mounted, "this test mounts a tmpfs, for which it needs root or sudo");
        Self { path: folder.to_owned() }
    }

    /// Takes all room there is.
    fn fill(&self) -> PathBuf {
        let ballast = self.path.join("ballast");
        let mut file = std::fs::File::create(&ballast).unwrap();
        let piece = vec![1; 4096];
        while std::io::Write::write_all(&mut file, &piece).is_ok() {}
        while std::io::Write::write_all(&mut file, &[1]).is_ok() {}
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        for program in [&["umount", "-l"][..], &["sudo", "-n", "umount", "-l"][..]] {
            let done = Command::new(program[0]).args(&program[1..]).arg(&self.path).status();
            if done.is_ok_and(|status| status.success()) {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts a tmpfs, which not every machine allows: scripts/test asks for it where this one does"]
async fn a_full_disk_stops_the_polls_and_loses_nothing() {
    for contract in BOTH {
        let orchestrator = orchestrator(contract).await;
        let (address, board) = (orchestrator.local_addr(), orchestrator.board());
        let state = Arc::new(tempfile::tempdir().unwrap());
        let disk = SmallDisk::mount(state.path());
        let settings = [("MAX_CONCURRENT_TASKS", "2"), ("ANALYTIC_EPOCH_DELAY", "1s")];
        let mut worker = WorkerProcess::start_in(Arc::clone(&state), address, &settings);
        let job = submit(address, simulated_job(1)).await;
        wait_for_hand_out(board).await;
        let ballast = disk.fill();
        worker.wait_for_log("outcomes wait in memory");
        eventually("it says so", || worker.get_json("/health")["status"] == "DEGRADED");
        assert_eq!(worker.get("/readyz").0, 503);
        let reason = worker.get_json("/health")["reasons"].to_string();
        assert!(reason.contains("STATE_DIR/outbox"), "{reason}");
        let completed = board.read(|board| board.job(&job)).unwrap().completed;
        assert_eq!(completed, 0, "what is not on disk is not reported");
        let refused = worker.client().await.execute_task(asked_directly()).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
        assert!(refused.message().contains("STATE_DIR/outbox"), "{refused}");
        std::fs::remove_file(ballast).unwrap();
        wait_for_end(board, &job).await;
        eventually("all is well again", || worker.get("/readyz").0 == 200);
        worker.settle();
        assert_each_once(board, &job, 10);
        assert_eq!(board.read(|board| board.job(&job)).unwrap().reports, 10);
    }
}

pub(crate) fn asked_directly() -> TaskRequest {
    let job = simulated_job(1);
    TaskRequest {
        task_id: "another".into(),
        job_id: "job".into(),
        model_type: job.model_type,
        dataset_path: job.dataset_path,
        hyperparameters: job.hyperparameters,
        batch_end: 100,
        ..TaskRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts a tmpfs, which not every machine allows: scripts/test asks for it where this one does"]
async fn a_worker_that_ends_on_a_full_disk_leaves_its_tasks_to_the_next_one() {
    let orchestrator = orchestrator(Contract::Base).await;
    let (address, board) = (orchestrator.local_addr(), orchestrator.board());
    let state = Arc::new(tempfile::tempdir().unwrap());
    let disk = SmallDisk::mount(state.path());
    let settings = [("MAX_CONCURRENT_TASKS", "1"), ("ANALYTIC_EPOCH_DELAY", "1s"), ("DRAIN_TIMEOUT", "1s")];
    let mut worker = WorkerProcess::start_in(Arc::clone(&state), address, &settings);
    let job = submit(address, simulated_job(1)).await;
    wait_for_hand_out(board).await;
    let held = state.path().join("held/tasks.log");
    eventually("it is in the list of held tasks", || held.metadata().is_ok_and(|file| file.len() > 0));
    let ballast = disk.fill();
    worker.wait_for_log("outcomes wait in memory");
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code(), Some(0));
    assert_eq!(board.read(|board| board.job(&job)).unwrap().completed, 0);
    std::fs::remove_file(ballast).unwrap();
    let _heir = WorkerProcess::start_in(Arc::clone(&state), address, &settings);
    wait_for_end(board, &job).await;
    assert_each_once(board, &job, 10);
}

/// A disk of 16 MiB whose writes can be made to hang; gone when dropped.
struct FreezingDisk {
    path: PathBuf,
}

/// While it lives every write hangs in the kernel, and no signal ends that.
struct Frozen<'a>(&'a FreezingDisk);

/// Runs a program on `paths`.
fn run(program: &str, arguments: &[&str], paths: &[&Path]) -> bool {
    Command::new(program).args(arguments).args(paths).status().is_ok_and(|status| status.success())
}

impl FreezingDisk {
    fn mount(folder: &Path, image: &Path) -> Self {
        std::fs::File::create(image).unwrap().set_len(16 << 20).unwrap();
        assert!(run("mkfs.ext4", &["-q", "-F"], &[image]), "mkfs.ext4 is missing: package e2fsprogs");
        let mounted = run("mount", &["-o", "loop"], &[image, folder]);
        assert!(mounted, "this test mounts a disk, for which it needs root and loop devices");
        Self { path: folder.to_owned() }
    }

    fn freeze(&self) -> Frozen<'_> {
        assert!(run("fsfreeze", &["--freeze"], &[&self.path]), "fsfreeze fails");
        Frozen(self)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        run("fsfreeze", &["--unfreeze"], &[&self.0.path]);
    }
}

impl Drop for FreezingDisk {
    fn drop(&mut self) {
        run("umount", &["-l"], &[&self.path]);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts a disk and freezes it, which not every machine allows: scripts/test asks for it where this one does"]
async fn a_disk_that_freezes_under_outbox_list_and_checkpoints_loses_nothing() {
    for contract in BOTH {
        let orchestrator = orchestrator(contract).await;
        let (address, board) = (orchestrator.local_addr(), orchestrator.board());
        let (state, image) = (Arc::new(tempfile::tempdir().unwrap()), tempfile::tempdir().unwrap());
        let disk = FreezingDisk::mount(state.path(), &image.path().join("disk"));
        let mut worker =
            WorkerProcess::start_in(Arc::clone(&state), address, &[("MAX_CONCURRENT_TASKS", "2")]);
        let jobs = [submit(address, real_job(10)).await, submit(address, real_job(10)).await];
        let some = board.wait_for(|board| board.progress_of(&jobs[0]).ok().filter(|job| job.completed >= 3));
        tokio::time::timeout(PATIENCE, some).await.expect("the disk is well at first");
        let frozen = disk.freeze();
        assert_degraded(&worker, "STATE_DIR/").await;
        drop(frozen);
        for job in &jobs {
            wait_for_end(board, job).await;
        }
        eventually("all is well again", || worker.get("/readyz").0 == 200);
        worker.settle();
        for job in &jobs {
            assert_each_once(board, job, 100);
        }
    }
}

fn set_files(worker: &WorkerProcess, most: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(worker.child.id()).unwrap()).unwrap();
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: most, maximum: Some(4096) }).unwrap();
}

#[test]
fn a_worker_without_a_free_file_descriptor_comes_back_when_there_is_one() {
    at_once(BOTH.map(|contract| async move {
        let first = orchestrator(contract).await;
        let (address, board) = (first.local_addr(), first.board().clone());
        let mut worker = WorkerProcess::start(address, &[("MAX_CONCURRENT_TASKS", "2")]);
        let job = submit(address, real_job(10)).await;
        let some = board.wait_for(|board| board.progress_of(&job).ok().filter(|job| job.completed >= 10));
        tokio::time::timeout(PATIENCE, some).await.unwrap();
        // None for another connection, checkpoint or segment; all that are open stay so.
        set_files(&worker, Some(3));
        first.shutdown().await;
        worker.wait_for_log("the link to the orchestrator is lost");
        let config = DevConfig { listen: address, ..config(contract) };
        let second = DevOrchestrator::resume(config, &board).await.unwrap();
        worker.wait_for_log("cannot register with the orchestrator");
        set_files(&worker, Some(1024));
        worker.wait_for_log("connected to the orchestrator");
        wait_for_end(&board, &job).await;
        assert_eq!(worker.get("/livez").0, 200);
        worker.settle();
        assert_each_once(&board, &job, 100);
        second.shutdown().await;
    }));
}
