//! `GET /api/v1/events`: the live page's stream of server-sent events.
//!
//! `event: state` has everything and comes first, and again after a client was too slow; `event: update` has what changed
//! since the event before, twice a second.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::Shared;
use super::accept::Closing;
use super::problem::Problem;

/// Clients that look at the same time.
pub(super) const MOST_VIEWERS: usize = 64;

const FULL: &str =
    "as many clients follow the events as may at once (64); close one, or read /api/v1/status instead";

/// Follows the worker until the client goes away, the worker ends, or the connection has lasted as long as one may: a
/// client that hears the end of the answer asks again.
pub(super) async fn events(
    State(shared): State<Shared>,
    Extension(Closing(closing)): Extension<Closing>,
) -> Result<Response, Problem> {
    let place = Arc::clone(&shared.viewers).try_acquire_owned().map_err(|_| Problem::unavailable(FULL))?;
    let viewer = shared.live.viewer();
    let next = move |(shared, mut viewer, place): (Shared, _, _)| {
        let closing = closing.clone();
        async move {
            let event = closing.run_until_cancelled(shared.live.next(&mut viewer)).await??;
            Some((Ok::<_, Infallible>(event), (shared, viewer, place)))
        }
    };
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let body = Body::from_stream(stream::unfold((shared, viewer, place), next));
    Ok((headers, body).into_response())
}
