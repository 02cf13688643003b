//! An orchestrator that changes its mind: it accepts a worker, gives it one task, and then refuses every
//! call, unless it is there for the trace of that task.

use std::sync::atomic::{AtomicU32, Ordering};

use tensorfleet_worker::wire::pb;
use tensorfleet_worker::wire::pb::orchestrator_service_server::OrchestratorService;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

#[derive(Default)]
pub struct Fickle {
    polls: AtomicU32,
    traceparent: Option<&'static str>,
}

impl Fickle {
    /// One that hands its task out as a part of a trace.
    pub fn tracing(traceparent: &'static str) -> Self {
        Self { traceparent: Some(traceparent), ..Self::default() }
    }
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
            if self.traceparent.is_none() {
                return refused();
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            return Err(Status::unknown("no tasks available"));
        }
        let mut answer = Response::new(pb::AssignTaskResponse {
            task_id: "t".into(),
            job_id: "j".into(),
            model_type: "test".into(),
            hyperparameters: [("backend".to_owned(), "analytic".to_owned())].into(),
            batch_end: 100,
            attempt: 1,
            ..Default::default()
        });
        if let Some(traceparent) = self.traceparent {
            answer.metadata_mut().insert("traceparent", MetadataValue::from_static(traceparent));
        }
        Ok(answer)
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
        if self.traceparent.is_none() {
            return refused();
        }
        Ok(Response::new(pb::TaskCompletionResponse { acknowledged: true, ..Default::default() }))
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
        if self.traceparent.is_none() {
            return refused();
        }
        Ok(Response::new(pb::HeartbeatResponse::default()))
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
