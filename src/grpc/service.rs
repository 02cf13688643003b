//! WorkerService: each method is one question to the worker.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::Stream;
use futures_util::stream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::{Sources, access, answers};
use crate::domain::{Health, Strictness, TaskId, WorkerId};
use crate::guard::Gate;
use crate::telemetry::traces::{Arrival, Begun, TRACEPARENT};
use crate::wire::worker_pb::worker_service_server::WorkerService;
use crate::wire::{self, pb, task_from_request, worker_pb};
use crate::worker::TaskWatch;

/// Answers the calls.
pub(super) struct Service {
    pub(super) sources: Sources,
    pub(super) strictness: Strictness,
    pub(super) gate: Arc<Gate>,
    pub(super) background: TaskTracker,
    pub(super) shutdown: CancellationToken,
}

type ProgressStream = Pin<Box<dyn Stream<Item = Result<pb::TaskProgress, Status>> + Send>>;

#[tonic::async_trait]
impl WorkerService for Service {
    async fn execute_task(
        &self,
        request: Request<worker_pb::TaskRequest>,
    ) -> Result<Response<worker_pb::TaskResponse>, Status> {
        access::pace(&self.gate, &request)?;
        let parent = request.metadata().get(TRACEPARENT).and_then(|value| value.to_str().ok());
        let (parent, since) = (parent.map(str::to_owned), SystemTime::now());
        let task = task_from_request(request.into_inner(), self.strictness)
            .map_err(|rejected| answers::invalid(&rejected.error))?;
        let (traces, identity) = (self.sources.traces.clone(), task.identity.clone());
        let begun = traces.begin(&task, Arrival { since, parent: parent.as_deref() });
        let context = traces.traceparent(&identity);
        // On a task of its own: a caller that goes away drops this call, and must not drop the training with it.
        let handle = self.sources.handle.clone();
        let execution = self.background.spawn(async move {
            let answer = handle.execute(task).await;
            if begun == Begun::Now {
                let (status, error) = answers::how_it_ended(&answer);
                traces.close(&identity, status, error);
            }
            answer
        });
        let outcome = execution
            .await
            .map_err(|error| Status::internal(format!("the wait for the task ended early: {error}")))?
            .map_err(answers::not_taken)?;
        let mut response = Response::new(answers::task_response(&outcome));
        wire::refer_to_model(&outcome, response.metadata_mut());
        if let Some(header) = context.and_then(|context| context.parse().ok()) {
            response.metadata_mut().insert(TRACEPARENT, header);
        }
        Ok(response)
    }

    async fn get_worker_status(
        &self,
        request: Request<worker_pb::WorkerStatusRequest>,
    ) -> Result<Response<worker_pb::WorkerStatusResponse>, Status> {
        let asked = request.into_inner().worker_id;
        let answer =
            answers::worker_status(&asked, &self.sources.handle.status(), &self.sources.host.usage())?;
        Ok(Response::new(answer))
    }

    async fn cancel_task(
        &self,
        request: Request<worker_pb::CancelTaskRequest>,
    ) -> Result<Response<worker_pb::CancelTaskResponse>, Status> {
        access::pace(&self.gate, &request)?;
        let task = task_id(&request.into_inner().task_id)?;
        let answer = self.sources.handle.cancel(&task).await;
        Ok(Response::new(answers::cancelled(&task, answer)))
    }

    async fn get_status(
        &self,
        _: Request<worker_pb::GetStatusRequest>,
    ) -> Result<Response<worker_pb::GetStatusResponse>, Status> {
        let gpus = self.sources.gpu.snapshot();
        let status = self.sources.handle.status();
        let health = Health::new(&status, &self.sources.host.usage(), gpus.gpus.len());
        Ok(Response::new(answers::full_status(health.and_reasons(&gpus.warnings), &status)))
    }

    type WatchTaskStream = ProgressStream;

    async fn watch_task(
        &self,
        request: Request<worker_pb::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        let task = task_id(&request.into_inner().task_id)?;
        let watch = self.sources.handle.watch(&task).await;
        let watch = watch.ok_or_else(|| Status::not_found(answers::not_held(&task)))?;
        let worker_id = self.sources.handle.status().worker_id;
        Ok(Response::new(follow(watch, worker_id, self.shutdown.clone())))
    }

    async fn drain(
        &self,
        request: Request<worker_pb::DrainRequest>,
    ) -> Result<Response<worker_pb::DrainResponse>, Status> {
        let seconds = request.into_inner().deadline_seconds;
        let deadline = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        tracing::info!(deadline_seconds = seconds, "asked by gRPC to drain");
        self.sources.handle.drain(deadline);
        Ok(Response::new(worker_pb::DrainResponse {}))
    }
}

fn task_id(raw: &str) -> Result<TaskId, Status> {
    TaskId::parse(raw).map_err(|error| answers::invalid(&error))
}

/// The progress of a task until its end, or until `shutdown`, which is told as an error, since the task goes on.
fn follow(watch: TaskWatch, worker_id: WorkerId, shutdown: CancellationToken) -> ProgressStream {
    let next = move |watch: Option<TaskWatch>| {
        let (shutdown, worker_id) = (shutdown.clone(), worker_id.clone());
        async move {
            let mut watch = watch?;
            match shutdown.run_until_cancelled(watch.next()).await {
                Some(view) => view.map(|view| (Ok(crate::wire::progress(&view, &worker_id)), Some(watch))),
                None => Some((Err(Status::unavailable("the worker shuts down")), None)),
            }
        }
    };
    Box::pin(stream::unfold(Some(watch), next))
}
