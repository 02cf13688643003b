//! TLS of both directions, whose files are read again when they change.
//!
//! A whole new configuration is made of changed files and used from the next connection on: certificate, key and
//! authorities change together, sessions of the old ones cannot be resumed, and connections that stand are left alone.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::watched::Watched;
use super::{SecretFile, ServerFiles};
use crate::domain::InvalidField;

/// What is spoken inside, as it is negotiated in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Application {
    /// gRPC.
    Http2,
    /// The pages.
    Http1,
}

impl Application {
    fn protocol(self) -> Vec<u8> {
        match self {
            Self::Http2 => b"h2".to_vec(),
            Self::Http1 => b"http/1.1".to_vec(),
        }
    }
}

/// What a server does with client certificates where it has authorities for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates {
    /// No connection without one.
    Demanded,
    /// Looked at where there is one; it has to be a good one then.
    Offered,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// TLS of a server.
#[derive(Debug, Clone)]
pub struct ServerTls(Arc<Watched<ServerConfig>>);

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// The variable whose file cannot be used, and why.
    pub fn open(
        files: &ServerFiles,
        application: Application,
        clients: ClientCertificates,
    ) -> Result<Self, InvalidField> {
        let certificate = SecretFile::new("TLS_CERT", &files.certificate);
        let key = SecretFile::new("TLS_KEY", &files.key);
        let authorities =
            files.client_authorities.as_ref().map(|path| SecretFile::new("TLS_CLIENT_CA", path));
        let watched: Vec<_> = [Some(certificate.clone()), Some(key.clone()), authorities.clone()]
            .into_iter()
            .flatten()
            .collect();
        let read = move || {
            let builder = ServerConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(|error| certificate.invalid(error.to_string()))?;
            let builder = match &authorities {
                None => builder.with_no_client_auth(),
                Some(file) => {
                    let roots = Arc::new(roots(file)?);
                    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                    let verifier = match clients {
                        ClientCertificates::Demanded => verifier,
                        ClientCertificates::Offered => verifier.allow_unauthenticated(),
                    };
                    let verifier = verifier.build().map_err(|error| no_authorities(file, &error))?;
                    builder.with_client_cert_verifier(verifier)
                }
            };
            let mut config = builder
                .with_single_cert(chain(&certificate)?, private_key(&key)?)
                .map_err(|error| key.invalid(format!("the key of the certificate in TLS_CERT ({error})")))?;
            config.alpn_protocols = vec![application.protocol()];
            Ok(config)
        };
        Ok(Self(Arc::new(Watched::open(&watched, read)?)))
    }

    /// For the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.current())
    }
}

/// Files of a client's TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// Authorities to trust; None = those of this machine.
    pub authorities: Option<SecretFile>,
    /// The chain to show, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// TLS of a client.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<Watched<ClientConfig>>,
    server: ServerName<'static>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Why a client has no TLS.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    /// A file.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// The machine trusts nobody.
    #[error("this machine has no certificate authorities: {0}")]
    NoAuthorities(String),
}

impl ClientTls {
    /// Reads the files. `server` is the name that has to be in the other side's certificate.
    ///
    /// # Errors
    /// The variable whose file cannot be used, or a machine without authorities where none are named.
    pub fn open(files: &ClientFiles, server: ServerName<'static>) -> Result<Self, ClientTlsError> {
        let authorities = files.authorities.clone();
        let identity = files.identity.as_ref().map(|(chain, key)| {
            (SecretFile::new("ORCHESTRATOR_TLS_CERT", chain), SecretFile::new("ORCHESTRATOR_TLS_KEY", key))
        });
        // Once: what the machine trusts does not change in a worker's life.
        let native = match authorities {
            None => Some(native_roots()?),
            Some(_) => None,
        };
        let mut watched: Vec<_> = authorities.iter().cloned().collect();
        watched.extend(identity.iter().flat_map(|(chain, key)| [chain.clone(), key.clone()]));
        let read = move || {
            let roots = match (&authorities, &native) {
                (Some(file), _) => roots(file)?,
                (None, Some(native)) => native.clone(),
                (None, None) => RootCertStore::empty(),
            };
            client_config(roots, authorities.as_ref(), identity.as_ref())
        };
        Ok(Self { config: Arc::new(Watched::open(&watched, read)?), server })
    }

    /// For the next connection.
    pub fn connector(&self) -> (TlsConnector, ServerName<'static>) {
        (TlsConnector::from(self.config.current()), self.server.clone())
    }
}

fn client_config(
    roots: RootCertStore,
    authorities: Option<&SecretFile>,
    identity: Option<&(SecretFile, SecretFile)>,
) -> Result<ClientConfig, InvalidField> {
    let machine = SecretFile::new("ORCHESTRATOR_TLS_CA", "".as_ref());
    let authorities = authorities.unwrap_or(&machine);
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| no_authorities(authorities, &error))?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| authorities.invalid(error.to_string()))?
        .with_webpki_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            builder.with_client_auth_cert(chain(certificate)?, private_key(key)?).map_err(|error| {
                key.invalid(format!("the key of the certificate in ORCHESTRATOR_TLS_CERT ({error})"))
            })?
        }
    };
    config.alpn_protocols = vec![Application::Http2.protocol()];
    Ok(config)
}

fn native_roots() -> Result<RootCertStore, ClientTlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        let why = if why.is_empty() { "none were found".to_owned() } else { why.join("; ") };
        return Err(ClientTlsError::NoAuthorities(why));
    }
    Ok(roots)
}

fn no_authorities(file: &SecretFile, why: &dyn fmt::Display) -> InvalidField {
    file.invalid(format!("a PEM file with certificates ({why})"))
}

fn roots(file: &SecretFile) -> Result<RootCertStore, InvalidField> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(file)? {
        roots.add(certificate).map_err(|error| no_authorities(file, &error))?;
    }
    Ok(roots)
}

fn chain(file: &SecretFile) -> Result<Vec<CertificateDer<'static>>, InvalidField> {
    let pem = file.read()?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(no_authorities(file, &"there is none in it")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(no_authorities(file, &error)),
    }
}

fn private_key(file: &SecretFile) -> Result<PrivateKeyDer<'static>, InvalidField> {
    // The error of the parser may repeat a line of the file.
    PrivateKeyDer::from_pem_slice(&file.read()?)
        .map_err(|_| file.invalid("a PEM file with an unencrypted private key"))
}
