//! An orchestrator that hands out what a test gives it and keeps what workers say of themselves.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tensorfleet_worker::wire::pb;
use tensorfleet_worker::wire::pb::orchestrator_service_server::{
    OrchestratorService, OrchestratorServiceServer,
};
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

/// What was heard.
#[derive(Default)]
pub struct Heard {
    pub registrations: Mutex<Vec<pb::WorkerCapabilities>>,
    pub heartbeats: Mutex<Vec<pb::HeartbeatRequest>>,
    pub tasks: Mutex<VecDeque<pb::AssignTaskResponse>>,
    pub completions: Mutex<Vec<pb::TaskCompletionRequest>>,
}

impl Heard {
    /// The capabilities of the latest registration.
    pub fn capabilities(&self) -> Option<pb::WorkerCapabilities> {
        self.registrations.lock().unwrap().last().cloned()
    }

    /// The latest heartbeat.
    pub fn heartbeat(&self) -> Option<pb::HeartbeatRequest> {
        self.heartbeats.lock().unwrap().last().cloned()
    }
}

struct Listener(Arc<Heard>);

/// Serves one on a free port until the handle is aborted.
pub async fn listen() -> (SocketAddr, Arc<Heard>, JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::<Heard>::default();
    let service = OrchestratorServiceServer::new(Listener(Arc::clone(&heard)));
    let served = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener));
    (address, heard, super::spawn(async move { served.await.unwrap() }))
}

fn done<T: Default>() -> Result<Response<T>, Status> {
    Ok(Response::new(T::default()))
}

#[tonic::async_trait]
impl OrchestratorService for Listener {
    async fn register_worker(
        &self,
        request: Request<pb::RegisterWorkerRequest>,
    ) -> Result<Response<pb::RegisterWorkerResponse>, Status> {
        let capabilities = request.into_inner().capabilities.unwrap_or_default();
        self.0.registrations.lock().unwrap().push(capabilities);
        let heartbeat_interval_seconds = 1;
        Ok(Response::new(pb::RegisterWorkerResponse {
            accepted: true,
            heartbeat_interval_seconds,
            ..Default::default()
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        self.0.heartbeats.lock().unwrap().push(request.into_inner());
        done()
    }

    async fn assign_task(
        &self,
        _: Request<pb::AssignTaskRequest>,
    ) -> Result<Response<pb::AssignTaskResponse>, Status> {
        for _ in 0..100 {
            if let Some(task) = self.0.tasks.lock().unwrap().pop_front() {
                return Ok(Response::new(task));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(Status::unknown("no tasks available"))
    }

    async fn create_training_job(
        &self,
        _: Request<pb::TrainingJobRequest>,
    ) -> Result<Response<pb::TrainingJobResponse>, Status> {
        done()
    }

    async fn get_job_status(
        &self,
        _: Request<pb::GetJobStatusRequest>,
    ) -> Result<Response<pb::GetJobStatusResponse>, Status> {
        done()
    }

    async fn report_task_completion(
        &self,
        request: Request<pb::TaskCompletionRequest>,
    ) -> Result<Response<pb::TaskCompletionResponse>, Status> {
        self.0.completions.lock().unwrap().push(request.into_inner());
        Ok(Response::new(pb::TaskCompletionResponse { acknowledged: true, ..Default::default() }))
    }

    async fn update_job_metrics(
        &self,
        _: Request<pb::JobMetricsRequest>,
    ) -> Result<Response<pb::JobMetricsResponse>, Status> {
        done()
    }

    async fn cancel_job(
        &self,
        _: Request<pb::CancelJobRequest>,
    ) -> Result<Response<pb::CancelJobResponse>, Status> {
        done()
    }

    async fn get_worker_activity(
        &self,
        _: Request<pb::WorkerActivityRequest>,
    ) -> Result<Response<pb::WorkerActivityResponse>, Status> {
        done()
    }

    async fn report_progress(
        &self,
        _: Request<pb::TaskProgress>,
    ) -> Result<Response<pb::ReportProgressResponse>, Status> {
        done()
    }

    async fn release_task(
        &self,
        _: Request<pb::ReleaseTaskRequest>,
    ) -> Result<Response<pb::ReleaseTaskResponse>, Status> {
        done()
    }
}
