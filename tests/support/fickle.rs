//! An orchestrator that changes its mind: it accepts a worker, gives it one task, and then refuses every call.

use std::sync::atomic::{AtomicU32, Ordering};

use tensorfleet_worker::wire::pb;
use tensorfleet_worker::wire::pb::orchestrator_service_server::OrchestratorService;
use tonic::{Request, Response, Status};

#[derive(Default)]
pub struct Fickle {
    polls: AtomicU32,
}

fn refused<T>() -> Result<Response<T>, Status> {
    Err(Status::unauthenticated("the token has expired"))
}

#[tonic::async_trait]
impl OrchestratorService for Fickle {
    async fn register_worker(
        &self,
        _: Request<pb::RegisterWorkerRequest>,
    ) -> Result<Response<pb::RegisterWorkerResponse>, Status> {
        Ok(Response::new(pb::RegisterWorkerResponse { accepted: true, ..Default::default() }))
    }

    async fn assign_task(
        &self,
        _: Request<pb::AssignTaskRequest>,
    ) -> Result<Response<pb::AssignTaskResponse>, Status> {
        if self.polls.fetch_add(1, Ordering::Relaxed) > 0 {
            return refused();
        }
        Ok(Response::new(pb::AssignTaskResponse {
            task_id: "t".into(),
            job_id: "j".into(),
            model_type: "test".into(),
            hyperparameters: [("backend".to_owned(), "analytic".to_owned())].into(),
            batch_end: 100,
            attempt: 1,
            ..Default::default()
        }))
    }

    async fn create_training_job(
        &self,
        _: Request<pb::TrainingJobRequest>,
    ) -> Result<Response<pb::TrainingJobResponse>, Status> {
        refused()
    }

    async fn get_job_status(
        &self,
        _: Request<pb::GetJobStatusRequest>,
    ) -> Result<Response<pb::GetJobStatusResponse>, Status> {
        refused()
    }

    async fn report_task_completion(
        &self,
        _: Request<pb::TaskCompletionRequest>,
    ) -> Result<Response<pb::TaskCompletionResponse>, Status> {
        refused()
    }

    async fn update_job_metrics(
        &self,
        _: Request<pb::JobMetricsRequest>,
    ) -> Result<Response<pb::JobMetricsResponse>, Status> {
        refused()
    }

    async fn cancel_job(
        &self,
        _: Request<pb::CancelJobRequest>,
    ) -> Result<Response<pb::CancelJobResponse>, Status> {
        refused()
    }

    async fn get_worker_activity(
        &self,
        _: Request<pb::WorkerActivityRequest>,
    ) -> Result<Response<pb::WorkerActivityResponse>, Status> {
        refused()
    }

    async fn heartbeat(
        &self,
        _: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        refused()
    }

    async fn report_progress(
        &self,
        _: Request<pb::TaskProgress>,
    ) -> Result<Response<pb::ReportProgressResponse>, Status> {
        refused()
    }

    async fn release_task(
        &self,
        _: Request<pb::ReleaseTaskRequest>,
    ) -> Result<Response<pb::ReleaseTaskResponse>, Status> {
        refused()
    }
}
