//! Takes connections and gives each to the router, with limits in time and number.
//!
//! Written out instead of taken from axum, whose loop knows no time-outs: one client that opens connections and sends
//! nothing would keep them for ever.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::guard::{Door, Guest, Limits};

/// Most headers of a request.
const MOST_HEADERS: usize = 64;

/// Longest head of a request in bytes, and most that is buffered for a connection.
const MAX_HEAD_BYTES: usize = 32 << 10;

/// Ends when the connection of a request is to end: what goes on for ever ends then, in order.
#[derive(Debug, Clone)]
pub(super) struct Closing(pub(super) CancellationToken);

/// What a client may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For the head of a request; also for an idle connection.
    pub(super) head: Duration,
    /// For a whole connection; longer than the longest profile, so that only clients that do not read are cut.
    pub(super) connection: Duration,
    /// For requests under way when the server or the connection is to end.
    pub(super) grace: Duration,
    /// Connections at once; others wait in the system's queue.
    pub(super) connections: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            connection: Duration::from_secs(900),
            grace: Duration::from_secs(5),
            connections: 256,
        }
    }
}

impl Patience {
    /// What the door asks of connections.
    pub(super) fn limits(&self) -> Limits {
        // Bytes after the handshake are watched by the reader of heads.
        Limits { connections: self.connections, greeting: self.head, first_bytes: 0 }
    }
}

/// Serves until `shutdown`, then waits for the connections there are, at most the grace.
pub(super) async fn serve(door: Door, router: Router, patience: Patience, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    while let Some(arrival) = shutdown.run_until_cancelled(door.next()).await {
        let (router, shutdown) = (router.clone(), shutdown.clone());
        connections.spawn(async move {
            if let Some(Some(guest)) = shutdown.run_until_cancelled(arrival.greet()).await {
                converse(guest, router, patience, shutdown).await;
            }
        });
    }
    drop(door);
    connections.close();
    connections.wait().await;
}

/// One connection, from its first request to its end.
async fn converse(guest: Guest, router: Router, patience: Patience, shutdown: CancellationToken) {
    let peer = guest.peer();
    let closing = Closing(shutdown.child_token());
    let told = closing.clone();
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(told.clone());
        let router = router.clone();
        async move { router.oneshot(request).await.map(|response: Response| response) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_headers(MOST_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    let service = TowerToHyperService::new(service);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(guest), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = shutdown.cancelled() => None,
        () = time::sleep(patience.connection) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            closing.0.cancel();
            connection.as_mut().graceful_shutdown();
            time::timeout(patience.grace, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection broke");
    }
}
