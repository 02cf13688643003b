//! Which path shows what.

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;

use super::access::{self, Access};
use super::problem::Problem;
use super::views::{Readiness, Status, Summary, Tasks};
use super::{Shared, control, events, page, profile};
use crate::domain::{Health, WorkerStatus};
use crate::telemetry;

/// Longest body of a request: none of ours says much.
const MAX_BODY_BYTES: usize = 64 << 10;

/// All routes.
pub(super) fn router(shared: Shared, access: Access) -> Router {
    Router::new()
        .route("/", get(|| async { page::file("") }))
        .route("/page/{name}", get(|Path(name): Path<String>| async move { page::file(&name) }))
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/api/v1/status", get(status))
        .route("/api/v1/tasks", get(tasks))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/tasks/{task_id}/cancel", post(control::cancel))
        .route("/api/v1/drain", post(control::drain))
        .route("/debug/pprof", get(|| async { profile::INDEX }))
        .route("/debug/pprof/", get(|| async { profile::INDEX }))
        .route("/debug/pprof/profile", get(profile::profile))
        .fallback(|uri: Uri| async move { Problem::not_found(uri.path()) })
        .method_not_allowed_fallback(
            |method: Method| async move { Problem::method_not_allowed(method.as_str()) },
        )
        .with_state(shared)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(axum::middleware::from_fn_with_state(access, access::check))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
}

impl Shared {
    fn health(&self, status: &WorkerStatus) -> Health {
        let gpus = self.sources.gpu.snapshot();
        Health::new(status, &self.sources.host.usage(), gpus.gpus.len()).and_reasons(&gpus.warnings)
    }
}

async fn metrics(State(shared): State<Shared>) -> Result<impl IntoResponse, Problem> {
    let text = telemetry::render(&shared.sources.registry)
        .map_err(|error| Problem::internal(format!("the metrics cannot be written: {error}")))?;
    Ok(([(header::CONTENT_TYPE, telemetry::CONTENT_TYPE)], text))
}

async fn health(State(shared): State<Shared>) -> Json<Health> {
    Json(shared.health(&shared.sources.handle.status()))
}

#[derive(Serialize)]
pub(super) struct Alive {
    pub(super) status: &'static str,
}

async fn livez() -> Json<Alive> {
    Json(Alive { status: "ok" })
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, Json<Readiness>) {
    let readiness = Readiness::from(&shared.sources.handle.status());
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(readiness))
}

async fn status(State(shared): State<Shared>) -> Json<Status> {
    let status = shared.sources.handle.status();
    let tasks = shared.live.tasks(&status);
    Json(Status { summary: Summary::new(&shared.sources, &status), tasks })
}

async fn tasks(State(shared): State<Shared>) -> Json<Tasks> {
    Json(Tasks::new(&shared.sources.handle.status(), &shared.live))
}
