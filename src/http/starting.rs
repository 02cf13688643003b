//! What the port answers while the start of the worker has to wait: that the process lives, that it is not ready, and
//! what it waits for.

use std::net::TcpListener;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::accept::{self, Patience};
use super::access::{self, Access};
use super::problem::Problem;
use super::routes::Alive;
use super::views::Readiness;
use super::{Config, Error};
use crate::guard::{Demand, Door, Guard};

/// Answers until it is dropped; whoever then serves on the same socket takes the connections that follow.
#[derive(Debug)]
pub struct Starting {
    _ended: DropGuard,
}

impl Config {
    /// Answers on the socket of `listener` that the start waits for what `step` says. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Listener`] when the socket cannot be used.
    pub fn answer_meanwhile(
        listener: &TcpListener,
        guard: &Guard,
        measurements: Demand,
        step: watch::Receiver<String>,
    ) -> Result<Starting, Error> {
        let patience = Patience::default();
        let listener = listener.try_clone().map_err(Error::Listener)?;
        let door = Door::open(listener, guard, patience.limits()).map_err(Error::Listener)?;
        let access = Access { gate: guard.gate.clone(), measurements };
        let ended = CancellationToken::new();
        TaskTracker::new().spawn(accept::serve(door, router(step, access), patience, ended.clone()));
        Ok(Starting { _ended: ended.drop_guard() })
    }
}

fn router(step: watch::Receiver<String>, access: Access) -> Router {
    Router::new()
        // A restart would wait for the same.
        .route("/livez", get(|| async { Json(Alive { status: "starting" }) }))
        .route("/readyz", get(readyz))
        .fallback(
            |State(step): State<watch::Receiver<String>>| async move { Problem::unavailable(reason(&step)) },
        )
        .with_state(step)
        .layer(axum::middleware::from_fn_with_state(access, access::check))
}

async fn readyz(State(step): State<watch::Receiver<String>>) -> (StatusCode, Json<Readiness>) {
    (StatusCode::SERVICE_UNAVAILABLE, Json(Readiness::not_yet(reason(&step))))
}

fn reason(step: &watch::Receiver<String>) -> String {
    format!("the worker starts, and waits for {}", *step.borrow())
}
