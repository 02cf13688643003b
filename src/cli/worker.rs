//! A worker as its clients see it: asked over gRPC how it is.

use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;

use tonic::Request;
use tonic::transport::Channel;

use super::Failure;
use super::remote::{innermost, may_pass};
use crate::config::Environment;
use crate::domain::InvalidField;
use crate::guard::SecretFile;
use crate::orchestrator::{Config, ConfigError, Credential};
use crate::wire::worker_pb::worker_service_client::WorkerServiceClient;
use crate::wire::worker_pb::{GetStatusRequest, GetStatusResponse};

const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Which worker is asked, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// The worker's gRPC address: host:port, http://host:port or https://host:port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50052")]
    pub worker: String,
    /// File with the bearer token that the worker asks for [env: AUTH_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// PEM file with the authorities to trust for an https:// worker; by default those of this machine
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// PEM file with the certificate to show to a worker that asks for one
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the private key of that certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// The worker at an address.
#[derive(Debug)]
pub(super) struct RemoteWorker {
    address: String,
    client: WorkerServiceClient<Channel>,
    token: Option<Credential>,
}

impl RemoteWorker {
    /// The worker that `target` names; connects with the first call.
    ///
    /// # Errors
    /// The address is none, or a file cannot be used.
    pub(super) fn new(target: &Target, environment: &Environment) -> Result<Self, Failure> {
        let config = Config::parse(&target.worker).map_err(|error| named(error, &target.worker))?;
        let from_environment = || environment.get("AUTH_TOKEN_FILE").filter(|path| !path.trim().is_empty());
        let token_file = target.token_file.clone().or_else(|| from_environment().map(PathBuf::from));
        let config = Config {
            token_file: token_file.as_deref().map(SecretFile::token),
            ca_file: target.tls_ca.as_deref().map(|path| SecretFile::new("--tls-ca", path)),
            identity: target.tls_cert.clone().zip(target.tls_key.clone()),
            ..config
        };
        Ok(Self {
            client: WorkerServiceClient::new(config.channel()?),
            token: config.token()?,
            address: config.endpoint,
        })
    }

    /// Where it is.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// How it is.
    ///
    /// # Errors
    /// It does not answer, or not to us.
    pub(super) async fn status(&mut self) -> Result<GetStatusResponse, Failure> {
        let mut request = Request::new(GetStatusRequest {});
        request.set_timeout(CALL_TIMEOUT);
        if let Some(header) = self.token.as_ref().and_then(Credential::header) {
            request.metadata_mut().insert("authorization", header);
        }
        match self.client.get_status(request).await {
            Ok(status) => Ok(status.into_inner()),
            // A status with a source was made here, of a connection that broke.
            Err(status) if may_pass(&status) || status.source().is_some() => {
                Err(Failure::WorkerAway { address: self.address.clone(), reason: innermost(&status) })
            }
            Err(status) => {
                let reason = format!("{:?}: {}", status.code(), status.message());
                Err(Failure::WorkerRefused { address: self.address.clone(), reason })
            }
        }
    }
}

/// The same error, under the flag's name.
fn named(error: ConfigError, value: &str) -> Failure {
    match error {
        ConfigError::Invalid(invalid) => InvalidField::new("--worker", value, invalid.allowed).into(),
        other => other.into(),
    }
}
