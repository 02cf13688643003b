//! The board as `orchestrator.OrchestratorService`.
//!
//! ```text
//! request --checked ids--> Board (one short lock) --> reply
//! AssignTask: claim, else wait for work, the end of the poll, or shutdown, and claim again
//! ```
//!
//! Both contracts are served by the same code: the board knows which one it keeps, and with the base contract the
//! extension calls answer UNIMPLEMENTED and the extension fields stay empty.

use std::time::{Duration, Instant, SystemTime};

use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::board::Board;
use super::job::{Figures, JobRequest};
use super::shared::BoardHandle;
use super::terms::{Assignment, BoardError, Contract, Failure, Report, WorkerActivity};
use crate::domain::{ErrorCode, InvalidField, JobId, Metrics, TaskId, WorkerId, WorkerPhase};
use crate::wire::pb::{self, orchestrator_service_server::OrchestratorService};
use crate::wire::{NO_TASKS_AVAILABLE, saturated};

/// Tasks that one worker is given at once: others wait, too.
const MOST_AT_ONCE: u32 = 256;

#[derive(Debug)]
pub(super) struct Service {
    pub(super) board: BoardHandle,
    pub(super) long_poll: Duration,
    pub(super) heartbeat_interval: Duration,
    pub(super) stop: CancellationToken,
}

type Reply<T> = Result<Response<T>, Status>;

impl Service {
    fn update<R>(&self, change: impl FnOnce(&mut Board, Instant) -> R) -> R {
        self.board.update(|board| change(board, tokio::time::Instant::now().into_std()))
    }

    fn contract(&self) -> Contract {
        self.board.read(Board::contract)
    }

    fn extended(&self) -> Result<(), Status> {
        match self.contract() {
            Contract::Extended => Ok(()),
            Contract::Base => Err(Status::unimplemented("not part of the base contract")),
        }
    }

    /// Waits for a task as long as a poll lasts, and takes those that are there with it, `most` in all; none when it stayed
    /// empty.
    async fn next_tasks(
        &self,
        worker: &WorkerId,
        warm: &[JobId],
        most: u32,
    ) -> Result<Vec<Assignment>, Status> {
        let end = tokio::time::Instant::now() + self.long_poll;
        loop {
            // Enabled before the look, so that work that comes between the look and the wait is not missed.
            let mut work = std::pin::pin!(self.board.work());
            work.as_mut().enable();
            if self.stop.is_cancelled() {
                return Err(Status::unavailable("shutting down"));
            }
            let claim = |board: &mut Board, now| {
                std::iter::from_fn(|| board.claim(worker, warm, now)).take(most as usize).collect::<Vec<_>>()
            };
            let tasks = self.update(claim);
            if !tasks.is_empty() {
                return Ok(tasks);
            }
            tokio::select! {
                biased;
                () = work => {}
                () = self.stop.cancelled() => {}
                () = sleep_until(end) => return Ok(Vec::new()),
            }
        }
    }

    fn assignment(&self, task: Assignment) -> pb::AssignTaskResponse {
        let mut reply = pb::AssignTaskResponse {
            task_id: task.task_id.to_string(),
            job_id: task.job_id.to_string(),
            model_type: task.model.to_string(),
            dataset_path: task.dataset_path,
            hyperparameters: task.hyperparameters,
            epoch: saturated(task.epoch.into()),
            batch_start: saturated(task.batches.start.into()),
            batch_end: saturated(task.batches.end.into()),
            ..pb::AssignTaskResponse::default()
        };
        if let Some(lease) = self.board.read(Board::lease) {
            reply.attempt = task.attempt;
            reply.lease_seconds = seconds_up(lease);
            reply.total_epochs = saturated(task.total_epochs.into());
        }
        reply
    }
}

#[async_trait::async_trait]
impl OrchestratorService for Service {
    async fn create_training_job(
        &self,
        request: Request<pb::TrainingJobRequest>,
    ) -> Reply<pb::TrainingJobResponse> {
        let request = JobRequest::from_wire(request.into_inner()).map_err(invalid)?;
        let job_id = request.job_id.to_string();
        let num_tasks = self.update(|board, _| board.create_job(request)).map_err(unknown)?;
        Ok(Response::new(pb::TrainingJobResponse {
            job_id,
            status: "PENDING".to_owned(),
            num_tasks: saturated(num_tasks.into()),
            message: format!("{num_tasks} tasks wait for workers"),
        }))
    }

    async fn get_job_status(
        &self,
        request: Request<pb::GetJobStatusRequest>,
    ) -> Reply<pb::GetJobStatusResponse> {
        let job_id = JobId::parse(&request.into_inner().job_id).map_err(invalid)?;
        let job = self.board.read(|board| board.progress_of(&job_id)).map_err(unknown)?;
        let current = job.current.unwrap_or(Metrics { loss: 0.0, accuracy: 0.0 });
        // More can be counted than there are with the base contract.
        let percent = u64::from(job.completed) * 100 / u64::from(job.total).max(1);
        Ok(Response::new(pb::GetJobStatusResponse {
            job_id: job_id.to_string(),
            status: job.status.name().to_owned(),
            progress: saturated(percent.min(100)),
            completed_tasks: saturated(job.completed.into()),
            total_tasks: saturated(job.total.into()),
            current_loss: current.loss,
            current_accuracy: current.accuracy,
            message: job.message,
        }))
    }

    async fn assign_task(&self, request: Request<pb::AssignTaskRequest>) -> Reply<pb::AssignTaskResponse> {
        let request = request.into_inner();
        let worker = WorkerId::parse(&request.worker_id).map_err(invalid)?;
        let warm: Vec<_> = request.job_ids_cached.iter().filter_map(|id| JobId::parse(id).ok()).collect();
        let most =
            if self.contract() == Contract::Base { 1 } else { request.max_tasks.clamp(1, MOST_AT_ONCE) };
        let tasks = self.next_tasks(&worker, &warm, most).await?;
        let mut answers = tasks.into_iter().map(|task| self.assignment(task));
        let Some(first) = answers.next() else { return Err(Status::unknown(NO_TASKS_AVAILABLE)) };
        Ok(Response::new(pb::AssignTaskResponse { more: answers.collect(), ..first }))
    }

    async fn report_task_completion(
        &self,
        request: Request<pb::TaskCompletionRequest>,
    ) -> Reply<pb::TaskCompletionResponse> {
        let report = report(request.into_inner()).map_err(invalid)?;
        let receipt = self.update(|board, now| board.complete(&report, now)).map_err(unknown)?;
        let message = receipt.message().to_owned();
        Ok(Response::new(pb::TaskCompletionResponse { acknowledged: true, message }))
    }

    async fn update_job_metrics(
        &self,
        request: Request<pb::JobMetricsRequest>,
    ) -> Reply<pb::JobMetricsResponse> {
        let message = request.into_inner();
        let job = JobId::parse(&message.job_id).map_err(invalid)?;
        let metrics = Metrics { loss: message.loss, accuracy: message.accuracy };
        let success = self.update(|board, _| board.note_metrics(&job, metrics));
        Ok(Response::new(pb::JobMetricsResponse { success }))
    }

    async fn cancel_job(&self, request: Request<pb::CancelJobRequest>) -> Reply<pb::CancelJobResponse> {
        let job = JobId::parse(&request.into_inner().job_id).map_err(invalid)?;
        let previous = self.update(|board, _| board.cancel_job(&job)).map_err(unknown)?;
        let success = !previous.is_final();
        let message = if success { "cancelled" } else { "the job had ended before" };
        Ok(Response::new(pb::CancelJobResponse {
            success,
            message: message.to_owned(),
            previous_status: previous.name().to_owned(),
        }))
    }

    async fn get_worker_activity(
        &self,
        _: Request<pb::WorkerActivityRequest>,
    ) -> Reply<pb::WorkerActivityResponse> {
        let workers: Vec<_> = self.board.read(Board::worker_activity).into_iter().map(worker_info).collect();
        let total_workers = saturated(workers.len() as u64);
        Ok(Response::new(pb::WorkerActivityResponse { workers, total_workers }))
    }

    async fn register_worker(
        &self,
        request: Request<pb::RegisterWorkerRequest>,
    ) -> Reply<pb::RegisterWorkerResponse> {
        self.extended()?;
        let message = request.into_inner();
        let worker = WorkerId::parse(&message.worker_id).map_err(invalid)?;
        let held = held(message.resume.iter().map(|task| (task.task_id.as_str(), task.attempt)))?;
        self.update(|board, now| board.register(&worker, &held, now));
        Ok(Response::new(pb::RegisterWorkerResponse {
            accepted: true,
            message: "welcome".to_owned(),
            // Below a second the wire cannot say; 0 leaves it to the worker.
            heartbeat_interval_seconds: u32::try_from(self.heartbeat_interval.as_secs()).unwrap_or(u32::MAX),
            lease_seconds: self.board.read(Board::lease).map_or(0, seconds_up),
        }))
    }

    async fn heartbeat(&self, request: Request<pb::HeartbeatRequest>) -> Reply<pb::HeartbeatResponse> {
        self.extended()?;
        let message = request.into_inner();
        let worker = WorkerId::parse(&message.worker_id).map_err(invalid)?;
        let held = held(message.tasks.iter().map(|task| (task.task_id.as_str(), task.attempt)))?;
        let phase = [WorkerPhase::Idle, WorkerPhase::Busy, WorkerPhase::Draining, WorkerPhase::Degraded]
            .into_iter()
            .find(|phase| phase.name() == message.status);
        let reply = self.update(|board, now| board.heartbeat(&worker, phase, &held, now));
        let names = |ids: Vec<TaskId>| ids.iter().map(TaskId::to_string).collect();
        Ok(Response::new(pb::HeartbeatResponse {
            cancel_task_ids: names(reply.cancel),
            drain: reply.drain,
            reregister: reply.reregister,
            leases_renewed: names(reply.renewed),
        }))
    }

    async fn report_progress(&self, request: Request<pb::TaskProgress>) -> Reply<pb::ReportProgressResponse> {
        self.extended()?;
        let message = request.into_inner();
        let worker = WorkerId::parse(&message.worker_id).map_err(invalid)?;
        let job = JobId::parse(&message.job_id).map_err(invalid)?;
        let task = TaskId::parse(&message.task_id).map_err(invalid)?;
        let metrics = Metrics { loss: message.loss, accuracy: message.accuracy };
        let cancel = self.update(|board, now| {
            // Before its first step a task has no figures, only zeros.
            if message.step > 0 {
                board.note_metrics(&job, metrics);
            }
            board.progress(&worker, &(task, message.attempt), now)
        });
        Ok(Response::new(pb::ReportProgressResponse { cancel }))
    }

    async fn release_task(&self, request: Request<pb::ReleaseTaskRequest>) -> Reply<pb::ReleaseTaskResponse> {
        self.extended()?;
        let message = request.into_inner();
        let worker = WorkerId::parse(&message.worker_id).map_err(invalid)?;
        let task = TaskId::parse(&message.task_id).map_err(invalid)?;
        self.update(|board, now| board.release(&worker, &(task, message.attempt), now)).map_err(unknown)?;
        Ok(Response::new(pb::ReleaseTaskResponse {}))
    }
}

fn report(message: pb::TaskCompletionRequest) -> Result<Report, InvalidField> {
    let validation = message.validation_loss.zip(message.validation_accuracy);
    let ending = if message.success {
        Ok(Figures {
            train: Metrics { loss: message.loss, accuracy: message.accuracy },
            validation: validation.map(|(loss, accuracy)| Metrics { loss, accuracy }),
        })
    } else {
        Err(Failure { code: ErrorCode::from_name(&message.error_code), message: message.error_message })
    };
    Ok(Report {
        task_id: TaskId::parse(&message.task_id)?,
        worker: WorkerId::parse(&message.worker_id)?,
        attempt: message.attempt,
        ending,
    })
}

fn held<'a>(tasks: impl Iterator<Item = (&'a str, u32)>) -> Result<Vec<(TaskId, u32)>, Status> {
    tasks.map(|(id, attempt)| Ok((TaskId::parse(id).map_err(invalid)?, attempt))).collect()
}

fn worker_info(worker: WorkerActivity) -> pb::WorkerInfo {
    let seen = SystemTime::now().checked_sub(worker.seen.elapsed());
    let since_epoch = seen.and_then(|seen| seen.duration_since(SystemTime::UNIX_EPOCH).ok());
    let (task, job) = worker.current.unzip();
    pb::WorkerInfo {
        worker_id: worker.worker_id.to_string(),
        status: worker.phase.name().to_owned(),
        current_task_id: task.map(|id| id.to_string()).unwrap_or_default(),
        current_job_id: job.map(|id| id.to_string()).unwrap_or_default(),
        tasks_completed: saturated(worker.completed.into()),
        last_activity_time: since_epoch
            .and_then(|time| i64::try_from(time.as_secs()).ok())
            .unwrap_or_default(),
    }
}

/// Whole seconds, at least 1, since 0 would mean that there is no lease.
fn seconds_up(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis().div_ceil(1000).max(1)).unwrap_or(u32::MAX)
}

fn invalid(error: InvalidField) -> Status {
    Status::invalid_argument(error.to_string())
}

fn unknown(error: BoardError) -> Status {
    match error {
        BoardError::UnknownTask(_) | BoardError::UnknownJob(_) => Status::not_found(error.to_string()),
        BoardError::JobExists(_) => Status::already_exists(error.to_string()),
    }
}
