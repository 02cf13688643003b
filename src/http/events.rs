//! `GET /api/v1/events`: the live page's stream of server-sent events.
//!
//! `event: state` has everything and comes first, and again after a client was too slow; `event: update` has what changed
//! since the event before, twice a second.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::Shared;
use super::problem::Problem;

/// Clients that look at the same time.
pub(super) const MOST_VIEWERS: usize = 64;

const FULL: &str =
    "as many clients follow the events as may at once (64); close one, or read /api/v1/status instead";

/// Follows the worker until the client goes away or the worker ends.
pub(super) async fn events(State(shared): State<Shared>) -> Result<Response, Problem> {
    let place = Arc::clone(&shared.viewers).try_acquire_owned().map_err(|_| Problem::unavailable(FULL))?;
    let viewer = shared.live.viewer();
    let next = move |(shared, mut viewer, place): (Shared, _, _)| async move {
        let event = shared.shutdown.run_until_cancelled(shared.live.next(&mut viewer)).await??;
        Some((Ok::<_, Infallible>(event), (shared, viewer, place)))
    };
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let body = Body::from_stream(stream::unfold((shared, viewer, place), next));
    Ok((headers, body).into_response())
}
