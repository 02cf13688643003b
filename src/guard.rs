//! Who is let in, by which credentials, and what a stranger may cost.
//!
//! ```text
//! TcpListener --Door--> place free? peer has not too many? --TLS in time?--> Guest (a stream with its Peer)
//!                                                                             |
//!              grpc, http: every private call --Gate--> client certificate? token? not too often?
//!
//! Watched: what is read from files (token, certificates, keys, authorities), and again when they change
//! ```
//!
//! Invariants: whatever is demanded and cannot be checked is refused; a token is compared in a time that does not
//! depend on where it differs; a file that became unusable leaves what was read before in force, and that is said; no
//! connection ends because a file changed; no secret is in a Debug output or an error.
//!
//! Deliberately absent: which routes are private, which is for `http` and `grpc` to say, and permissions: whoever is
//! let in may do everything.

mod anyone;
mod door;
mod files;
mod gate;
mod metrics;
mod process;
mod tls;
mod token;
mod watched;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use anyone::connector_to_anyone;
pub use door::{Arrival, Door, Guest, Limits, Peer};
pub use files::SecretFile;
pub use gate::{Gate, Rate, Refusal};
pub use metrics::Metrics;
pub use process::no_core_dumps;
pub use tls::{Application, ClientCertificates, ClientFiles, ClientTls, ClientTlsError, ServerTls};
pub use token::{Token, TokenFile};

use std::path::PathBuf;
use std::sync::Arc;

use crate::domain::InvalidField;
use metrics::Refusals;

/// Whether something is asked of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Demand {
    /// It is not.
    #[default]
    Open,
    /// It is.
    Private,
}

/// Certificate and key of a server, and who its clients have to be certified by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// TLS_CERT: the chain, leaf first.
    pub certificate: PathBuf,
    /// TLS_KEY.
    pub key: PathBuf,
    /// TLS_CLIENT_CA; None = clients need no certificate.
    pub client_authorities: Option<PathBuf>,
}

/// How callers are let in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// TLS of the servers; None = plain text.
    pub tls: Option<ServerFiles>,
    /// METRICS_TLS: whether the HTTP port speaks TLS too.
    pub http_tls: Demand,
    /// AUTH_TOKEN_FILE.
    pub token_file: Option<PathBuf>,
    /// METRICS_AUTH: whether /metrics and /health ask for credentials as the rest does.
    pub metrics: Demand,
}

impl Config {
    /// Whether somebody who can reach a port has to show anything before the worker obeys.
    pub fn asks_for_credentials(&self) -> bool {
        self.token_file.is_some() || self.tls.as_ref().is_some_and(|tls| tls.client_authorities.is_some())
    }

    /// Whether the HTTP port can see client certificates, and asks for them.
    pub fn knows_pages_by_certificate(&self) -> bool {
        self.http_tls == Demand::Private
            && self.tls.as_ref().is_some_and(|tls| tls.client_authorities.is_some())
    }

    /// Whether a caller's token crosses the network readable, to one of the ports at least.
    pub fn sends_tokens_in_plain_text(&self) -> bool {
        self.token_file.is_some() && (self.tls.is_none() || self.http_tls == Demand::Open)
    }

    /// What is wrong with the files that are named here.
    pub fn check_files(&self) -> Vec<InvalidField> {
        let tls = self
            .tls
            .as_ref()
            .and_then(|files| ServerTls::open(files, Application::Http2, ClientCertificates::Demanded).err());
        tls.into_iter().chain(self.token().err()).collect()
    }

    /// Reads the files, and builds what the two servers ask.
    ///
    /// # Errors
    /// The variable whose file cannot be used.
    pub fn open(&self, metrics: &Metrics) -> Result<Guards, InvalidField> {
        let token = self.token()?.map(Arc::new);
        let certificates = match &self.tls {
            Some(ServerFiles { client_authorities: Some(_), .. }) => Demand::Private,
            _ => Demand::Open,
        };
        let tls = |application, clients| {
            let files = self.tls.as_ref();
            files.map(|files| ServerTls::open(files, application, clients)).transpose()
        };
        let grpc_tls = tls(Application::Http2, ClientCertificates::Demanded)?;
        let http_tls = match self.http_tls {
            Demand::Private => tls(Application::Http1, ClientCertificates::Offered)?,
            Demand::Open => None,
        };
        Ok(Guards {
            grpc: Guard::new(grpc_tls, metrics.of("grpc"), |refused| {
                Gate::new(token.clone(), certificates, Rate::CALLS, Some(refused))
            }),
            http: Guard::new(http_tls, metrics.of("http"), |refused| {
                Gate::new(token, certificates, Rate::PROFILES, Some(refused))
            }),
            metrics: self.metrics,
        })
    }

    fn token(&self) -> Result<Option<TokenFile>, InvalidField> {
        self.token_file.as_ref().map(|path| TokenFile::open(SecretFile::token(path))).transpose()
    }
}

/// What guards one server.
#[derive(Debug, Clone)]
pub struct Guard {
    /// TLS; None = plain text.
    pub tls: Option<ServerTls>,
    /// Credentials and rates.
    pub gate: Arc<Gate>,
    refused: Option<Refusals>,
}

impl Guard {
    fn new(tls: Option<ServerTls>, refused: Refusals, gate: impl FnOnce(Refusals) -> Gate) -> Self {
        Self { tls, gate: Arc::new(gate(refused.clone())), refused: Some(refused) }
    }

    /// Lets everybody in, in plain text: for tests and the demonstration.
    pub fn none() -> Self {
        Self { tls: None, gate: Arc::new(Gate::none()), refused: None }
    }
}

/// What guards the worker's servers.
#[derive(Debug, Clone)]
pub struct Guards {
    /// The gRPC port.
    pub grpc: Guard,
    /// The HTTP port.
    pub http: Guard,
    /// Whether /metrics and /health ask for credentials.
    pub metrics: Demand,
}
