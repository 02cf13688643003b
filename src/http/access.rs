//! Who may see which path: some are open, all others ask for credentials where the worker has any to ask for.
//!
//! What is not listed here is private, so that a new route is closed until somebody opens it.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::problem::Problem;
use crate::guard::{Demand, Gate, Peer, Refusal};

/// What is asked at this server.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub(super) gate: Arc<Gate>,
    /// Whether measurements ask for credentials too.
    pub(super) measurements: Demand,
}

/// Kinds of paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// For everybody: probes, and a page that holds nothing of the worker.
    Open,
    /// For everybody, unless configured.
    Measurement,
    /// For those who show credentials.
    Private,
    /// The same, and so often only.
    Costly,
}

fn kind(path: &str) -> Kind {
    match path {
        "/" | "/livez" | "/readyz" | "/favicon.ico" => Kind::Open,
        "/metrics" | "/health" => Kind::Measurement,
        "/debug/pprof/profile" => Kind::Costly,
        path if path.starts_with("/page/") => Kind::Open,
        _ => Kind::Private,
    }
}

impl Access {
    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let kind = kind(request.uri().path());
        if kind == Kind::Open || (kind == Kind::Measurement && self.measurements == Demand::Open) {
            return Ok(());
        }
        let peer = request.extensions().get::<Peer>();
        let authorization = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        self.gate.admit(peer, authorization)?;
        if kind == Kind::Costly { self.gate.pace(peer) } else { Ok(()) }
    }
}

/// Lets requests through to the routes, or answers why not.
pub(super) async fn check(State(access): State<Access>, request: Request, next: Next) -> Response {
    match access.check(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refused(refusal),
    }
}

fn refused(refusal: Refusal) -> Response {
    let message = refusal.to_string();
    match refusal {
        Refusal::Token => {
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"tensorfleet-worker\"")];
            (challenge, Problem::refused(StatusCode::UNAUTHORIZED, "unauthenticated", message))
                .into_response()
        }
        Refusal::Certificate => {
            Problem::refused(StatusCode::UNAUTHORIZED, "unauthenticated", message).into_response()
        }
        Refusal::TooOften { after } => {
            let seconds = after.as_secs().saturating_add(1).to_string();
            let later = [(header::RETRY_AFTER, seconds)];
            (later, Problem::refused(StatusCode::TOO_MANY_REQUESTS, "too_often", message)).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_private() {
        for open in ["/", "/livez", "/readyz", "/page/main.js"] {
            assert_eq!(kind(open), Kind::Open, "{open}");
        }
        for private in
            ["/api/v1/status", "/api", "/debug/pprof/", "/metrics/", "//", "/page", "/%6detrics", ""]
        {
            assert_eq!(kind(private), Kind::Private, "{private}");
        }
    }
}
