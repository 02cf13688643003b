//! What the live page may change, for those whose credentials the server asks for: cancel a task, drain the worker.
//!
//! Where it asks for none nobody may: the port is open to whoever reaches it.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use super::Shared;
use super::problem::Problem;
use crate::domain::TaskId;
use crate::worker::CancelAnswer;

/// Who may change the worker by HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Control {
    /// Nobody.
    #[default]
    Nobody,
    /// Whoever is let in to private routes, see `access`: their credentials have been checked before.
    Admitted,
}

impl Control {
    fn check(self) -> Result<(), Problem> {
        if self == Self::Admitted { Ok(()) } else { Err(Problem::forbidden(CLOSED)) }
    }
}

const CLOSED: &str = "this worker takes no orders by HTTP, since it has no token to know you by; set AUTH_TOKEN_FILE, or use gRPC";

/// What became of a request.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    done: bool,
    message: String,
}

/// `POST /api/v1/tasks/{task_id}/cancel`.
pub(super) async fn cancel(
    State(shared): State<Shared>,
    Path(task_id): Path<String>,
) -> Result<Json<Answer>, Problem> {
    shared.sources.control.check()?;
    let task = TaskId::parse(&task_id)?;
    let held = shared.sources.handle.status().tasks.into_iter().map(|view| view.identity);
    let held = held.filter(|identity| identity.task_id == task).max();
    let (job_id, attempt) = held.map(|identity| (identity.job_id.to_string(), identity.attempt)).unzip();
    let (done, message) = match shared.sources.handle.cancel(&task).await {
        CancelAnswer::Stopping => (true, format!("task {task} stops at its next batch")),
        CancelAnswer::AlreadyEnded => (false, format!("task {task} had ended before")),
        CancelAnswer::NotFound => return Err(Problem::no_such_task(&task)),
    };
    tracing::info!(task_id = task.as_str(), job_id, attempt, done, "asked by HTTP to cancel a task");
    Ok(Json(Answer { done, message }))
}

/// `POST /api/v1/drain`.
pub(super) async fn drain(State(shared): State<Shared>) -> Result<Json<Answer>, Problem> {
    shared.sources.control.check()?;
    tracing::info!("asked by HTTP to drain");
    shared.sources.handle.drain(None);
    let message = "the worker takes no more tasks and ends when those it has are done".to_owned();
    Ok(Json(Answer { done: true, message }))
}
