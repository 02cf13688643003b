//! Keeps grpc.health.v1 in step with the worker.
//!
//! SERVING means that ExecuteTask may be tried: not while draining or degraded. Whether the orchestrator is reachable
//! does not matter here, since calls of this server do not go through it; /readyz says that.

use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::domain::WorkerPhase;
use crate::wire::worker_pb::worker_service_server::SERVICE_NAME;
use crate::worker::WorkerHandle;

/// Names under which the health is asked for: the whole server, and its service.
const NAMES: [&str; 2] = ["", SERVICE_NAME];

/// What a worker in `phase` reports.
const fn serving(phase: WorkerPhase) -> ServingStatus {
    match phase {
        WorkerPhase::Idle | WorkerPhase::Busy => ServingStatus::Serving,
        WorkerPhase::Draining | WorkerPhase::Degraded => ServingStatus::NotServing,
    }
}

/// Reports the worker as it is now; before anybody can ask, so that no name is unknown at first.
pub(super) async fn report(handle: &WorkerHandle, reporter: &HealthReporter) {
    set_all(reporter, serving(handle.phase())).await;
}

async fn set_all(reporter: &HealthReporter, status: ServingStatus) {
    for name in NAMES {
        reporter.set_service_status(name, status).await;
    }
}

/// Reports every change of the worker until `shutdown`; then takes the names away, which ends the streams of those
/// who watch them.
pub(super) async fn follow(
    mut handle: WorkerHandle,
    mut reporter: HealthReporter,
    shutdown: CancellationToken,
) {
    loop {
        match shutdown.run_until_cancelled(handle.changed()).await {
            Some(true) => report(&handle, &reporter).await,
            Some(false) => {
                // The worker has ended: nobody will take a task any more.
                set_all(&reporter, ServingStatus::NotServing).await;
                shutdown.cancelled().await;
                break;
            }
            None => break,
        }
    }
    for name in NAMES {
        reporter.clear_service_status(name).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_worker_that_takes_tasks_serves() {
        assert_eq!(serving(WorkerPhase::Idle), ServingStatus::Serving);
        assert_eq!(serving(WorkerPhase::Busy), ServingStatus::Serving);
        assert_eq!(serving(WorkerPhase::Draining), ServingStatus::NotServing);
        assert_eq!(serving(WorkerPhase::Degraded), ServingStatus::NotServing);
    }
}
