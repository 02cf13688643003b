//! Which path shows what.

use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;

use super::Shared;
use super::problem::Problem;
use super::profile;
use super::views::{Readiness, Status, Tasks};
use crate::domain::{Health, WorkerStatus};
use crate::telemetry;

/// The page at `/`.
const PAGE: &str = include_str!("index.html");

/// All routes.
pub(super) fn router(shared: Shared) -> Router {
    Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/api/v1/status", get(status))
        .route("/api/v1/tasks", get(tasks))
        .route("/debug/pprof", get(|| async { profile::INDEX }))
        .route("/debug/pprof/", get(|| async { profile::INDEX }))
        .route("/debug/pprof/profile", get(profile::profile))
        .fallback(|uri: Uri| async move { Problem::not_found(uri.path()) })
        .method_not_allowed_fallback(
            |method: Method| async move { Problem::method_not_allowed(method.as_str()) },
        )
        .with_state(shared)
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
struct Alive {
    status: &'static str,
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
    Json(Status::new(&status, shared.health(&status)))
}

async fn tasks(State(shared): State<Shared>) -> Json<Tasks> {
    Json(Tasks::from(&shared.sources.handle.status()))
}
