//! Takes connections: so many in all, so many of one peer, each with TLS done within a time.
//!
//! A connection costs a place until it ends. Those that do not come to a handshake, or to their first bytes where that
//! is asked for, lose it after a few seconds; a peer never has more than half of all places, so that nobody alone can
//! lock the others out.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::server::TlsStream;

use super::metrics::Refusals;
use super::{Guard, ServerTls};

/// Between two tries after the system refused a connection, such as for want of file descriptors.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// What connections may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; others wait in the system's queue.
    pub connections: usize,
    /// For the handshake, and again for the first bytes.
    pub greeting: Duration,
    /// Bytes that have to come within the greeting; 0 = whoever speaks the protocol watches that itself.
    pub first_bytes: usize,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    address: SocketAddr,
    certified: bool,
}

impl Peer {
    /// The address it calls from.
    pub fn ip(&self) -> IpAddr {
        self.address.ip().to_canonical()
    }

    /// Whether it showed a certificate of the authorities for clients.
    pub fn is_certified(&self) -> bool {
        self.certified
    }
}

/// Connections by peer.
#[derive(Debug)]
struct Places {
    all: Arc<Semaphore>,
    by_peer: Mutex<HashMap<IpAddr, usize>>,
    most_of_one: usize,
}

/// A place that is taken; free again when dropped.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    peer: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    fn take(self: &Arc<Self>, peer: IpAddr, permit: OwnedSemaphorePermit) -> Option<Place> {
        let mut by_peer = self.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = by_peer.entry(peer).or_insert(0);
        if *taken >= self.most_of_one {
            return None;
        }
        *taken += 1;
        drop(by_peer);
        Some(Place { places: Arc::clone(self), peer, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_peer = self.places.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = by_peer.get_mut(&self.peer) {
            *taken -= 1;
            if *taken == 0 {
                by_peer.remove(&self.peer);
            }
        }
    }
}

/// A listening socket and what is asked at it.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    tls: Option<ServerTls>,
    limits: Limits,
    places: Arc<Places>,
    refused: Option<Refusals>,
}

impl Door {
    /// Opens it. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub fn open(listener: std::net::TcpListener, guard: &Guard, limits: Limits) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let places = Places {
            all: Arc::new(Semaphore::new(limits.connections)),
            by_peer: Mutex::default(),
            most_of_one: (limits.connections / 2).max(1),
        };
        Ok(Self {
            listener: TcpListener::from_std(listener)?,
            tls: guard.tls.clone(),
            limits,
            places: Arc::new(places),
            refused: guard.refused.clone(),
        })
    }

    /// The next connection. Can be given up at any time without losing one that was taken.
    pub async fn next(&self) -> Arrival {
        loop {
            let Ok(permit) = Arc::clone(&self.places.all).acquire_owned().await else {
                // Nobody closes the semaphore.
                return std::future::pending().await;
            };
            match self.listener.accept().await {
                Ok((stream, address)) => match self.places.take(address.ip().to_canonical(), permit) {
                    Some(place) => {
                        // Without it, answers wait for the acknowledgement of what was sent before.
                        let _ = stream.set_nodelay(true);
                        return Arrival {
                            stream,
                            address,
                            place,
                            tls: self.tls.clone(),
                            limits: self.limits,
                            refused: self.refused.clone(),
                        };
                    }
                    None => {
                        self.count_refused();
                        tracing::debug!(peer = %address, "a connection more than one peer may have");
                    }
                },
                Err(error) => {
                    // Out of file descriptors, say: trying again at once would burn a core.
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    fn count_refused(&self) {
        if let Some(refused) = &self.refused {
            refused.connections.inc();
        }
    }
}

/// A connection that was taken and has not said anything yet.
#[derive(Debug)]
pub struct Arrival {
    stream: TcpStream,
    address: SocketAddr,
    place: Place,
    tls: Option<ServerTls>,
    limits: Limits,
    refused: Option<Refusals>,
}

impl Arrival {
    /// Shakes hands; None when that fails or takes too long.
    pub async fn greet(self) -> Option<Guest> {
        let Self { stream, address, place, tls, limits, refused } = self;
        let Some(tls) = tls else {
            return Some(Guest::new(
                Stream::Plain(stream),
                Peer { address, certified: false },
                place,
                limits,
            ));
        };
        let failure = match timeout(limits.greeting, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => {
                let certified = stream.get_ref().1.peer_certificates().is_some();
                let stream = Stream::Tls(Box::new(stream));
                return Some(Guest::new(stream, Peer { address, certified }, place, limits));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not done within {:?}", limits.greeting),
        };
        tracing::debug!(peer = %address, reason = failure, "a TLS handshake failed");
        if let Some(refused) = refused {
            refused.handshake.inc();
        }
        None
    }
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What has still to be said, and until when.
#[derive(Debug)]
struct Greeting {
    bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

/// A connection that may speak.
#[derive(Debug)]
pub struct Guest {
    stream: Stream,
    peer: Peer,
    greeting: Option<Greeting>,
    _place: Place,
}

impl Guest {
    fn new(stream: Stream, peer: Peer, place: Place, limits: Limits) -> Self {
        let deadline = || Box::pin(sleep(limits.greeting));
        let greeting =
            (limits.first_bytes > 0).then(|| Greeting { bytes: limits.first_bytes, deadline: deadline() });
        Self { stream, peer, greeting, _place: place }
    }

    /// Who it is.
    pub fn peer(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        let Some(greeting) = &mut self.greeting else { return read };
        if read.is_pending() {
            ready!(greeting.deadline.as_mut().poll(context));
            let kind = io::ErrorKind::TimedOut;
            return Poll::Ready(Err(io::Error::new(kind, "the connection did not begin in time")));
        }
        let came = buffer.filled().len() - before;
        greeting.bytes = greeting.bytes.saturating_sub(came);
        if greeting.bytes == 0 {
            self.greeting = None;
        }
        read
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
pub(super) fn peer_for_tests(address: SocketAddr) -> Peer {
    Peer { address, certified: false }
}
