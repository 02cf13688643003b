//! Takes connections and gives each to the router, with limits in time and number.
//!
//! Written out instead of taken from axum, whose loop knows no time-outs: one client that opens connections and sends
//! nothing would keep them for ever.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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

/// Serves until `shutdown`, then waits for the connections there are, at most the grace.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    patience: Patience,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(patience.connections));
    while let Some(Ok(place)) = shutdown.run_until_cancelled(Arc::clone(&places).acquire_owned()).await {
        let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await else { break };
        match accepted {
            Ok((stream, _)) => {
                let service = TowerToHyperService::new(router.clone());
                let connection = converse(stream, service, patience, shutdown.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, say: trying again at once would burn a core.
                tracing::warn!(%error, "cannot accept an HTTP connection");
                time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// One connection, from its first request to its end.
async fn converse(
    stream: TcpStream,
    service: TowerToHyperService<Router>,
    patience: Patience,
    shutdown: CancellationToken,
) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(patience.head);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = shutdown.cancelled() => None,
        () = time::sleep(patience.connection) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            time::timeout(patience.grace, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection broke");
    }
}
