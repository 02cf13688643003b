//! One request, and the body of its answer in pieces.
//!
//! The request runs in a thread of its own, so that whoever waits for it can stop at any time, also while a host is
//! looked up or silent. The thread touches nothing but the connection, and ends by itself: by its time-outs, or with the
//! first piece that nobody takes.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use ureq::config::Config as HttpConfig;
use ureq::http::{Response, Uri, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body};

use super::super::Check;
use super::super::error::{DataError, RemoteProblem};
use super::address::{Named, refused};
use super::location::Location;
use super::{LocalAddresses, Remote};

/// Size of a piece, and how many may wait.
const PIECE_BYTES: usize = 256 * 1024;
const WAITING_PIECES: usize = 4;

/// Time between two looks at whether to go on.
pub(super) const CHECK_EVERY: Duration = Duration::from_millis(100);

/// Most bytes of an answer's headers.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// What is known of data that was fetched before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Validators {
    /// The ETag, as it came.
    pub(super) etag: Option<String>,
    /// When it was changed last, as it came.
    pub(super) last_modified: Option<String>,
}

/// The beginning of an answer.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is what it was before.
    NotModified,
    /// It follows.
    Content {
        /// What to ask with next time.
        validators: Validators,
        /// Bytes to come, where the host says.
        length: Option<u64>,
    },
}

enum Event {
    Answer(Answer),
    Piece(Vec<u8>),
    End,
    Failed(RemoteProblem),
}

/// A request on its way.
pub(super) struct Download<'a> {
    events: Receiver<Event>,
    location: &'a Location,
    check: Check<'a>,
}

impl<'a> Download<'a> {
    /// Asks for what is at `location`, if it is not what `known` tells.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn begin(
        location: &'a Location,
        known: Validators,
        remote: &Remote,
        check: Check<'a>,
    ) -> Result<Self, DataError> {
        let (sender, events) = sync_channel(WAITING_PIECES);
        let request = Request::new(location, known, remote);
        thread::Builder::new()
            .name("data-download".to_owned())
            .spawn(move || request.run(&sender))
            .map_err(|error| failed(location, RemoteProblem::Failed(error.to_string())))?;
        Ok(Self { events, location, check })
    }

    /// The beginning of the answer.
    ///
    /// # Errors
    /// There is none, it is a refusal, or it is time to stop.
    pub(super) fn answer(&mut self) -> Result<Answer, DataError> {
        match self.next()? {
            Event::Answer(answer) => Ok(answer),
            Event::Failed(problem) => Err(failed(self.location, problem)),
            Event::Piece(_) | Event::End => Err(self.lost()),
        }
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// The rest does not come, or it is time to stop.
    pub(super) fn piece(&mut self) -> Result<Option<Vec<u8>>, DataError> {
        match self.next()? {
            Event::Piece(piece) => Ok(Some(piece)),
            Event::End => Ok(None),
            Event::Failed(problem) => Err(failed(self.location, problem)),
            Event::Answer(_) => Err(self.lost()),
        }
    }

    fn next(&mut self) -> Result<Event, DataError> {
        loop {
            (self.check)()?;
            match self.events.recv_timeout(CHECK_EVERY) {
                Ok(event) => return Ok(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.lost()),
            }
        }
    }

    fn lost(&self) -> DataError {
        failed(self.location, RemoteProblem::Failed("the download ended in an odd way".to_owned()))
    }
}

/// As [`DataError::Remote`].
pub(super) fn failed(location: &Location, problem: RemoteProblem) -> DataError {
    DataError::Remote { path: location.to_string(), problem }
}

struct Request {
    url: String,
    known: Validators,
    resolver: Guarded,
    connect_timeout: Duration,
    read_timeout: Duration,
}

impl Request {
    fn new(location: &Location, known: Validators, remote: &Remote) -> Self {
        let policy = match (location.is_configured(), location.is_address()) {
            (true, _) => None,
            (false, true) => Some((Named::ByAddress, remote.local_addresses)),
            (false, false) => Some((Named::ByName, remote.local_addresses)),
        };
        Self {
            url: location.request_url(&remote.s3).into(),
            known,
            resolver: Guarded { policy, inner: DefaultResolver::default() },
            connect_timeout: remote.connect_timeout,
            read_timeout: remote.read_timeout,
        }
    }

    /// Sends events until the end; that nobody takes them any more is an end as well.
    fn run(self, events: &SyncSender<Event>) {
        let last = match self.call() {
            Ok(response) => match answer(&response) {
                Ok(Answer::NotModified) => Event::Answer(Answer::NotModified),
                Ok(answer) => {
                    if events.send(Event::Answer(answer)).is_err() {
                        return;
                    }
                    match body(response, events) {
                        Ok(Some(())) => Event::End,
                        Ok(None) => return,
                        Err(problem) => Event::Failed(problem),
                    }
                }
                Err(problem) => Event::Failed(problem),
            },
            Err(problem) => Event::Failed(problem),
        };
        // Who asked may be gone; then nobody is left to tell.
        drop(events.send(last));
    }

    fn call(self) -> Result<Response<Body>, RemoteProblem> {
        let agent = agent((self.connect_timeout, self.read_timeout), self.resolver);
        let mut request = agent.get(&self.url);
        // With both the host would have to look at the first alone (RFC 9110, 13.2.2).
        if let Some(etag) = &self.known.etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        } else if let Some(last_modified) = &self.known.last_modified {
            request = request.header(header::IF_MODIFIED_SINCE, last_modified);
        }
        request.call().map_err(problem)
    }
}

/// Puts `body` to `url`, which names a host of the configuration; returns the status of the answer.
///
/// # Errors
/// There is no answer.
pub(super) fn send(url: &str, body: &[u8], timeouts: (Duration, Duration)) -> Result<u16, RemoteProblem> {
    let resolver = Guarded { policy: None, inner: DefaultResolver::default() };
    let request = agent(timeouts, resolver).put(url).content_type("application/octet-stream");
    Ok(request.send(body).map_err(problem)?.status().as_u16())
}

/// Makes one request, without redirects, with the longest times until a connection and without a byte.
fn agent((connect_timeout, read_timeout): (Duration, Duration), resolver: Guarded) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        // A proxy would connect where this program does not see it.
        .proxy(None)
        .user_agent(concat!("tensorfleet-worker/", env!("CARGO_PKG_VERSION")))
        .accept("*/*")
        .accept_encoding("identity")
        .max_response_header_size(MAX_HEADER_BYTES)
        .max_idle_connections(0)
        .timeout_resolve(Some(connect_timeout))
        .timeout_connect(Some(connect_timeout))
        .timeout_per_read(Some(read_timeout))
        .timeout_per_write(Some(read_timeout))
        .timeout_recv_response(Some(read_timeout))
        .tls_config(TlsConfig::builder().root_certs(roots()).build())
        .build();
    Agent::with_parts(config, DefaultConnector::new(), resolver)
}

/// The certificates that this machine trusts; where it has none, those that browsers trust.
fn roots() -> RootCerts {
    let found = rustls_native_certs::load_native_certs().certs;
    if found.is_empty() {
        return RootCerts::WebPki;
    }
    RootCerts::from(found.iter().map(|certificate| Certificate::from_der(certificate.as_ref()).to_owned()))
}

/// What the head of an answer says.
fn answer(response: &Response<Body>) -> Result<Answer, RemoteProblem> {
    let text = |name: header::HeaderName| {
        response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    match response.status().as_u16() {
        200 => Ok(Answer::Content {
            validators: Validators { etag: text(header::ETAG), last_modified: text(header::LAST_MODIFIED) },
            length: response.body().content_length(),
        }),
        304 => Ok(Answer::NotModified),
        status @ 300..=399 => Err(RemoteProblem::Redirect { status }),
        status => Err(RemoteProblem::Status { status }),
    }
}

/// Sends the body in pieces; `None` where nobody takes them any more.
fn body(response: Response<Body>, events: &SyncSender<Event>) -> Result<Option<()>, RemoteProblem> {
    let mut reader = response.into_body().into_with_config().limit(u64::MAX).reader();
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let read = (&mut reader).take(PIECE_BYTES as u64).read_to_end(&mut piece);
        read.map_err(|error| problem(ureq::Error::from(error)))?;
        if piece.is_empty() {
            return Ok(Some(()));
        }
        if events.send(Event::Piece(piece)).is_err() {
            return Ok(None);
        }
    }
}

/// What went wrong, without the URL: its query may hold a signature.
fn problem(error: ureq::Error) -> RemoteProblem {
    match error {
        ureq::Error::Other(inner) => match inner.downcast::<RemoteProblem>() {
            Ok(problem) => *problem,
            Err(other) => RemoteProblem::Failed(other.to_string()),
        },
        ureq::Error::BadUri(_) => RemoteProblem::Failed("the URL cannot be asked for".to_owned()),
        ureq::Error::HostNotFound => RemoteProblem::HostNotFound,
        ureq::Error::Timeout(_) => RemoteProblem::TimedOut,
        other => RemoteProblem::Failed(other.to_string()),
    }
}

/// Resolves names, and refuses addresses: what it gives is what is connected to.
#[derive(Debug)]
struct Guarded {
    /// `None` for hosts of the configuration.
    policy: Option<(Named, LocalAddresses)>,
    inner: DefaultResolver,
}

impl Resolver for Guarded {
    fn resolve(
        &self,
        uri: &Uri,
        config: &HttpConfig,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        let Some((named, local)) = self.policy else { return Ok(found) };
        let bad = |address: &SocketAddr| Some((address.ip(), refused(address.ip(), named, local)?));
        match found.iter().find_map(bad) {
            None => Ok(found),
            Some((address, kind)) => {
                Err(ureq::Error::Other(Box::new(RemoteProblem::Address { address, kind })))
            }
        }
    }
}
