//! Who may call what: health is open, all else asks for credentials where the worker has any to ask for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::Connected;
use tonic::{Request, Status};
use tower_http::timeout::TimeoutBody;

use crate::guard::{Door, Gate, Guest, Peer, Refusal};

/// Between two parts of a request. A body that does not go on is given up.
const BODY_PATIENCE: Duration = Duration::from_secs(20);

/// Connections that are greeted and not yet taken.
const WAITING_GUESTS: usize = 16;

impl Connected for Guest {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer()
    }
}

/// Connections that have shaken hands, each of which does so beside the others.
pub(super) fn incoming(
    door: Door,
    tracker: TaskTracker,
    shutdown: CancellationToken,
) -> impl Stream<Item = io::Result<Guest>> {
    let (greeted, guests) = mpsc::channel(WAITING_GUESTS);
    let greetings = tracker.clone();
    tracker.spawn(async move {
        while let Some(arrival) = shutdown.run_until_cancelled(door.next()).await {
            let (greeted, shutdown) = (greeted.clone(), shutdown.clone());
            greetings.spawn(async move {
                if let Some(Some(guest)) = shutdown.run_until_cancelled(arrival.greet()).await {
                    // When nobody takes it the server has ended.
                    let _ = greeted.send(Ok(guest)).await;
                }
            });
        }
    });
    ReceiverStream::new(guests)
}

/// A request whose body has to go on.
pub(super) fn impatient(body: Body) -> Body {
    Body::new(TimeoutBody::new(BODY_PATIENCE, body))
}

/// `service` for those only whom `gate` lets in.
pub(super) fn private<S>(
    service: S,
    gate: &Arc<Gate>,
) -> InterceptedService<S, impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone + use<S>> {
    let gate = Arc::clone(gate);
    InterceptedService::new(service, move |request: Request<()>| {
        let authorization = request.metadata().get("authorization").map(|value| value.as_bytes());
        gate.admit(request.extensions().get::<Peer>(), authorization).map_err(refused)?;
        Ok(request)
    })
}

/// Counts a call that makes work.
pub(super) fn pace<T>(gate: &Gate, request: &Request<T>) -> Result<(), Status> {
    gate.pace(request.extensions().get::<Peer>()).map_err(refused)
}

fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Certificate | Refusal::Token => Status::unauthenticated(refusal.to_string()),
        Refusal::TooOften { .. } => Status::resource_exhausted(refusal.to_string()),
    }
}
