//! Errors as JSON.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::domain::{InvalidField, TaskId};

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Problem {
    #[serde(skip)]
    status: StatusCode,
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<String>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), field: None, value: None, allowed: None }
    }

    /// There is nothing at this path.
    pub(super) fn not_found(path: &str) -> Self {
        let error = InvalidField::new("path", path, "one of those listed at /");
        Self { status: StatusCode::NOT_FOUND, code: "not_found", ..error.into() }
    }

    /// The path is right, the method is not.
    pub(super) fn method_not_allowed(method: &str) -> Self {
        let allowed = "GET, HEAD; POST only at /api/v1/drain and /api/v1/tasks/TASK/cancel";
        let error = InvalidField::new("method", method, allowed);
        Self { status: StatusCode::METHOD_NOT_ALLOWED, code: "method_not_allowed", ..error.into() }
    }

    /// It cannot be done beside what is being done.
    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// There is no such task here.
    pub(super) fn no_such_task(task: &TaskId) -> Self {
        let error = InvalidField::new("task_id", task.as_str(), "one of those at /api/v1/tasks");
        Self { status: StatusCode::NOT_FOUND, code: "not_found", ..error.into() }
    }

    /// Nobody may.
    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// Not now.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// Whoever asks is not let in.
    pub(super) fn refused(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(status, code, message)
    }

    /// Our fault.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }
}

impl From<InvalidField> for Problem {
    fn from(error: InvalidField) -> Self {
        let message = error.to_string();
        Self {
            field: Some(error.field),
            value: Some(error.value),
            allowed: Some(error.allowed),
            ..Self::new(StatusCode::BAD_REQUEST, "invalid_argument", message)
        }
    }
}

#[derive(Serialize)]
struct Body {
    error: Problem,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(Body { error: self })).into_response()
    }
}
