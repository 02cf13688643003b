//! The orchestrator dies: a process of its own, whose memory is gone with it.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use tensorfleet_worker::dev::Contract;
use tensorfleet_worker::wire::pb;

use crate::support::*;

/// A development orchestrator in a process of its own; killed when dropped.
struct OrchestratorProcess {
    child: Child,
    address: SocketAddr,
}

impl OrchestratorProcess {
    /// Starts one at `listen`.
    fn start(listen: SocketAddr, contract: Contract) -> Self {
        let listen = listen.to_string();
        let mut command = command(&[]);
        command.args(["orchestrator", "--listen", &listen, "--lease", "6s"]);
        if contract == Contract::Base {
            command.arg("--base");
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().parse();
        Self { child, address: address.unwrap_or_else(|_| panic!("it said {line:?}")) }
    }

    /// Ends it as by `kill -9`.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its own count of a job.
    async fn job(&self, job: &str) -> pb::GetJobStatusResponse {
        let request = pb::GetJobStatusRequest { job_id: job.to_owned() };
        client_of(self.address).await.get_job_status(request).await.unwrap().into_inner()
    }

    /// Waits until it has counted `tasks` tasks of a job.
    async fn counts(&self, job: &str, tasks: i32) -> pb::GetJobStatusResponse {
        let limit = std::time::Instant::now() + PATIENCE;
        loop {
            let seen = self.job(job).await;
            if seen.completed_tasks >= tasks {
                return seen;
            }
            assert!(std::time::Instant::now() < limit, "{seen:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

impl Drop for OrchestratorProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_orchestrator_that_is_killed_and_forgets_everything_wedges_nothing() {
    at_once(BOTH.map(|contract| async move {
        let first = OrchestratorProcess::start(SocketAddr::from(([127, 0, 0, 1], 0)), contract);
        let address = first.address;
        let settings = [("MAX_CONCURRENT_TASKS", "2"), ("ANALYTIC_EPOCH_DELAY", "200ms")];
        let mut worker = WorkerProcess::start(address, &settings);
        let forgotten = submit(address, simulated_job(3)).await;
        first.counts(forgotten.as_str(), 5).await;
        eventually("tasks run", || worker.get_json("/health")["active_tasks"].as_u64() > Some(0));
        first.kill();
        worker.wait_for_log("the link to the orchestrator is lost");
        // What was in hand ends while nobody is there.
        eventually("outcomes wait on disk", || !worker.shows("worker_outbox_pending 0"));
        let second = OrchestratorProcess::start(address, contract);
        worker.wait_for_log("connected to the orchestrator");
        // It knows nothing of these tasks: they are kept for people to look at, and hold nothing up.
        worker.wait_for_log("the orchestrator does not take an outcome");
        eventually("nothing waits any more", || worker.shows("worker_outbox_pending 0"));
        let files = std::fs::read_dir(worker.state.path().join("outbox")).unwrap().flatten();
        let refused =
            files.filter(|file| file.path().extension().is_some_and(|end| end == "refused")).count();
        assert!((1..=2).contains(&refused), "{contract:?}: {refused} outcomes were set aside");
        let before = worker.get_json("/health")["completed_tasks"].as_u64().unwrap();
        let job = submit(address, simulated_job(2)).await;
        let seen = second.counts(job.as_str(), 20).await;
        assert_eq!((seen.status.as_str(), seen.completed_tasks), ("COMPLETED", 20), "{seen:?}");
        assert_eq!(worker.get("/readyz").0, 200);
        eventually("each was done once", || {
            worker.get_json("/health")["completed_tasks"].as_u64() == Some(before + 20)
        });
        worker.settle();
        // A base one counts every report: there was none too many.
        assert_eq!(second.job(job.as_str()).await.completed_tasks, 20, "{contract:?}");
    }));
}
