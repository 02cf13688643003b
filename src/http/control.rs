//! What the live page may change, for those whose credentials the server asks for: cancel a task, drain the worker.
//!
//! Where it asks for none nobody may: the port is open to whoever reaches it.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue};
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
    /// Whoever shows a token; `access` has checked it before.
    Token,
    /// Whoever shows a client certificate; checked before as well.
    Certificate,
}

impl Control {
    /// The name that the page knows.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "none",
            Self::Token => "token",
            Self::Certificate => "certificate",
        }
    }

    /// Whether an order with these `headers` is obeyed.
    fn check(self, headers: &HeaderMap) -> Result<(), Problem> {
        if self == Self::Nobody {
            return Err(Problem::forbidden(CLOSED));
        }
        // A browser shows its certificate to whatever page asks for something here; it says whose page that was.
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        match site {
            None | Some(b"same-origin" | b"none") => Ok(()),
            Some(_) => Err(Problem::forbidden(ELSEWHERE)),
        }
    }
}

const CLOSED: &str = "this worker takes no orders by HTTP, since it has no token to know you by; set AUTH_TOKEN_FILE, or use gRPC";

const ELSEWHERE: &str = "this worker takes orders of its own page, not of other sites";

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
    headers: HeaderMap,
) -> Result<Json<Answer>, Problem> {
    shared.sources.control.check(&headers)?;
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
pub(super) async fn drain(State(shared): State<Shared>, headers: HeaderMap) -> Result<Json<Answer>, Problem> {
    shared.sources.control.check(&headers)?;
    tracing::info!("asked by HTTP to drain");
    shared.sources.handle.drain(None);
    let message = "the worker takes no more tasks and ends when those it has are done".to_owned();
    Ok(Json(Answer { done: true, message }))
}
