//! What the live page may change, for those who know the token: cancel a task, drain the worker.
//!
//! Without a configured token nobody may: the port is open to whoever reaches it.

use std::fmt;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::Shared;
use super::problem::Problem;
use crate::domain::TaskId;
use crate::worker::CancelAnswer;

/// Who may change the worker by HTTP.
#[derive(Clone, Default)]
pub enum Control {
    /// Nobody.
    #[default]
    Nobody,
    /// Whoever sends the token.
    Token(TokenDigest),
}

/// What is kept of a token, so that it can be told from others and not be read.
#[derive(Clone)]
pub struct TokenDigest([u8; 32]);

impl Control {
    /// For those who send `Authorization: Bearer TOKEN`.
    pub fn of_token(token: &str) -> Self {
        Self::Token(TokenDigest(Sha256::digest(token).into()))
    }

    /// Whether there is a token that lets in.
    pub(super) fn is_possible(&self) -> bool {
        matches!(self, Self::Token(_))
    }

    /// Checks the head of a request.
    fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Self::Token(TokenDigest(expected)) = self else { return Err(Problem::forbidden(CLOSED)) };
        let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = sent.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        // Digests are compared, so that the time it takes says nothing of the token.
        let digest: [u8; 32] = Sha256::digest(token).into();
        if digest == *expected { Ok(()) } else { Err(Problem::unauthorized(UNKNOWN)) }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_possible() { "Token" } else { "Nobody" })
    }
}

const CLOSED: &str = "this worker takes no orders by HTTP, since it has no token to know you by; set AUTH_TOKEN_FILE, or use gRPC";

const UNKNOWN: &str = "authorization: allowed: Bearer and the token of the worker's AUTH_TOKEN_FILE";

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
    let (done, message) = match shared.sources.handle.cancel(&task).await {
        CancelAnswer::Stopping => (true, format!("task {task} stops at its next batch")),
        CancelAnswer::AlreadyEnded => (false, format!("task {task} had ended before")),
        CancelAnswer::NotFound => return Err(Problem::no_such_task(&task)),
    };
    tracing::info!(task_id = task.as_str(), done, "asked by HTTP to cancel a task");
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
