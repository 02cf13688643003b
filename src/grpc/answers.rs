//! What the worker says, as messages: pure conversions.

use std::sync::Arc;

use tonic::Status;

use crate::domain::{
    Health, HostUsage, InvalidField, TaskId, TaskOutcome, TaskView, WorkerStatus, rfc3339, unready_reasons,
};
use crate::wire::{saturated, worker_pb};
use crate::worker::{CancelAnswer, ExecuteError};

/// The status that refuses a bad field.
pub(super) fn invalid(error: &InvalidField) -> Status {
    Status::invalid_argument(error.to_string())
}

/// The status for a task that was not taken.
pub(super) fn not_taken(error: ExecuteError) -> Status {
    match error {
        ExecuteError::Busy { .. } => Status::resource_exhausted(error.to_string()),
        ExecuteError::Draining | ExecuteError::Degraded { .. } => Status::unavailable(error.to_string()),
        ExecuteError::Conflict => Status::already_exists(error.to_string()),
    }
}

/// The end of a call, as its trace tells it: a word, and the error where there is one.
pub(super) fn how_it_ended(
    answer: &Result<Arc<TaskOutcome>, ExecuteError>,
) -> (&'static str, Option<String>) {
    match answer {
        Ok(outcome) => {
            let error = outcome.ending.as_ref().err().map(|error| error.message.clone());
            (outcome.status().name(), error)
        }
        Err(refused) => ("refused", Some(refused.to_string())),
    }
}

/// The end of a task.
pub(super) fn task_response(outcome: &TaskOutcome) -> worker_pb::TaskResponse {
    let result = outcome.ending.as_ref().ok();
    let error = outcome.ending.as_ref().err();
    let validation = result.and_then(|result| result.validation);
    worker_pb::TaskResponse {
        task_id: outcome.identity.task_id.to_string(),
        success: result.is_some(),
        message: outcome.message(),
        loss: result.map_or(0.0, |result| result.train.loss),
        accuracy: result.map_or(0.0, |result| result.train.accuracy),
        model_weights: result.map(|result| result.weights.clone()).unwrap_or_default(),
        error_code: error.map(|error| error.code.name().to_owned()).unwrap_or_default(),
        backend: result.map(|result| result.backend.name().to_owned()).unwrap_or_default(),
        simulated: result.is_some_and(|result| result.backend.is_simulated()),
        validation_loss: validation.map(|metrics| metrics.loss),
        validation_accuracy: validation.map(|metrics| metrics.accuracy),
    }
}

/// The answer to GetWorkerStatus.
///
/// # Errors
/// NOT_FOUND when another worker is asked for.
pub(super) fn worker_status(
    asked: &str,
    status: &WorkerStatus,
    host: &HostUsage,
) -> Result<worker_pb::WorkerStatusResponse, Status> {
    let own = status.worker_id.as_str();
    if !asked.is_empty() && asked != own {
        let error =
            InvalidField::new("worker_id", asked, format!("\"{own}\", which is this worker, or nothing"));
        return Err(Status::not_found(error.to_string()));
    }
    Ok(worker_pb::WorkerStatusResponse {
        worker_id: own.to_owned(),
        status: status.phase.name().to_owned(),
        current_tasks: saturated(status.active_tasks() as u64),
        completed_tasks: saturated(status.completed_tasks),
        cpu_usage: host.cpu_percent,
        memory_usage: host.memory_percent,
    })
}

/// The answer to GetStatus.
pub(super) fn full_status(health: Health, status: &WorkerStatus) -> worker_pb::GetStatusResponse {
    worker_pb::GetStatusResponse {
        worker_id: health.worker_id,
        status: health.status.to_owned(),
        uptime: health.uptime,
        active_tasks: health.active_tasks,
        completed_tasks: health.completed_tasks,
        cpu_usage: health.cpu_usage,
        memory_usage: health.memory_usage,
        last_heartbeat: health.last_heartbeat.unwrap_or_default(),
        orchestrator_connection: health.orchestrator_connection.to_owned(),
        failed_tasks: health.failed_tasks,
        gpus: health.gpus,
        backend: health.backend.to_owned(),
        reasons: health.reasons,
        version: health.version.to_owned(),
        slots_total: status.slots_total,
        slots_busy: status.slots_busy,
        slots_polling: status.slots_polling,
        outbox_pending: status.outbox_pending,
        ready: status.is_ready(),
        unready_reasons: unready_reasons(status),
        tasks: status.tasks.iter().map(held).collect(),
        recent: status.recent.iter().map(|outcome| ended(outcome)).collect(),
    }
}

fn held(task: &TaskView) -> worker_pb::HeldTask {
    worker_pb::HeldTask {
        task_id: task.identity.task_id.to_string(),
        job_id: task.identity.job_id.to_string(),
        attempt: task.identity.attempt,
        model_type: task.model.to_string(),
        epoch: task.epoch,
        phase: task.phase.name().to_owned(),
        step: task.progress.step,
        total_steps: task.progress.total_steps,
        loss: task.progress.loss,
        accuracy: task.progress.accuracy,
        samples_per_second: task.progress.samples_per_second,
        simulated: task.progress.simulated,
        retries: task.retries,
        claimed_at: rfc3339(task.claimed_at),
    }
}

fn ended(outcome: &TaskOutcome) -> worker_pb::EndedTask {
    let response = task_response(outcome);
    let result = outcome.ending.as_ref().ok();
    worker_pb::EndedTask {
        task_id: response.task_id,
        job_id: outcome.identity.job_id.to_string(),
        attempt: outcome.identity.attempt,
        model_type: outcome.model.to_string(),
        epoch: outcome.epoch,
        status: outcome.status().name().to_owned(),
        error_code: response.error_code,
        message: response.message,
        loss: result.map(|result| result.train.loss),
        accuracy: result.map(|result| result.train.accuracy),
        validation_loss: response.validation_loss,
        validation_accuracy: response.validation_accuracy,
        backend: response.backend,
        simulated: response.simulated,
        duration_seconds: outcome.duration.as_secs_f64(),
    }
}

/// The answer to CancelTask.
pub(super) fn cancelled(task: &TaskId, answer: CancelAnswer) -> worker_pb::CancelTaskResponse {
    let (success, message) = match answer {
        CancelAnswer::Stopping => (true, format!("task {task} stops at its next batch")),
        CancelAnswer::AlreadyEnded => (false, format!("task {task} had ended before")),
        CancelAnswer::NotFound => (false, not_held(task)),
    };
    worker_pb::CancelTaskResponse { success, message }
}

/// What is said of a task that is not here.
pub(super) fn not_held(task: &TaskId) -> String {
    format!("task_id: \"{task}\" is not held by this worker; allowed: one of those at /api/v1/tasks")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tonic::Code;

    use super::*;
    use crate::domain::{Backend, ErrorCode, JobId, Metrics, ModelType, TaskError, TaskIdentity, TaskResult};
    use crate::grpc::tests::status;

    fn outcome(ending: Result<TaskResult, TaskError>) -> TaskOutcome {
        TaskOutcome {
            identity: TaskIdentity {
                task_id: TaskId::parse("t1").unwrap(),
                job_id: JobId::parse("j1").unwrap(),
                attempt: 1,
            },
            model: ModelType::parse("cnn").unwrap(),
            epoch: 2,
            ending,
            notes: vec!["a note".into()],
            duration: Duration::from_secs(1),
            energy_joules: None,
        }
    }

    #[test]
    fn a_result_is_told_with_where_it_comes_from() {
        let response = task_response(&outcome(Ok(TaskResult {
            train: Metrics { loss: 0.5, accuracy: 0.75 },
            validation: Some(Metrics { loss: 0.6, accuracy: 0.7 }),
            samples: 10,
            steps: 1,
            backend: Backend::Analytic,
            device: "curve".into(),
            weights: Bytes::from_static(b"w"),
            reference: None,
        })));
        assert!(response.success && response.simulated);
        assert_eq!((response.loss, response.accuracy), (0.5, 0.75));
        assert_eq!((response.validation_loss, response.validation_accuracy), (Some(0.6), Some(0.7)));
        assert_eq!((response.backend.as_str(), response.message.as_str()), ("analytic", "a note"));
        assert_eq!((response.error_code.as_str(), &response.model_weights[..]), ("", &b"w"[..]));
    }

    #[test]
    fn a_failure_is_told_with_its_code_and_message() {
        let response = task_response(&outcome(Err(TaskError::new(ErrorCode::Diverged, "NaN at step 3"))));
        assert!(!response.success && !response.simulated);
        assert_eq!(response.error_code, "DIVERGED");
        assert_eq!(response.message, "NaN at step 3; a note");
        assert_eq!(response.validation_loss, None);
    }

    #[test]
    fn refusals_have_the_code_that_says_whether_to_come_again() {
        let busy = not_taken(ExecuteError::Busy { slots: 3 });
        assert_eq!(busy.code(), Code::ResourceExhausted);
        assert!(busy.message().contains("MAX_CONCURRENT_TASKS=3"));
        assert_eq!(not_taken(ExecuteError::Draining).code(), Code::Unavailable);
    }

    #[test]
    fn another_workers_status_is_not_found() {
        let host = HostUsage { cpu_percent: 1.0, memory_bytes: 2, memory_percent: 3.0 };
        for asked in ["", "w-1"] {
            let answer = worker_status(asked, &status(), &host).unwrap();
            assert_eq!((answer.worker_id.as_str(), answer.cpu_usage, answer.memory_usage), ("w-1", 1.0, 3.0));
        }
        let refused = worker_status("w-2", &status(), &host).unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        assert!(refused.message().contains("w-2") && refused.message().contains("w-1"));
    }

    #[test]
    fn cancelling_is_a_success_only_when_something_stops() {
        let task = TaskId::parse("t1").unwrap();
        assert!(cancelled(&task, CancelAnswer::Stopping).success);
        for answer in [CancelAnswer::AlreadyEnded, CancelAnswer::NotFound] {
            let response = cancelled(&task, answer);
            assert!(!response.success && response.message.contains("t1"));
        }
    }
}
