//! Where the orchestrator is, how long it may take, and the connection to it.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::{Service as _, ServiceExt as _};

use crate::domain::InvalidField;
use crate::guard::{ClientFiles, ClientTls, ClientTlsError, SecretFile, TokenFile};

const ADDRESS: &str = "ORCHESTRATOR_ADDRESS";
const SERVER_NAME: &str = "ORCHESTRATOR_TLS_SERVER_NAME";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that is silent this long is asked for a sign of life.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A connection that then stays silent this long is given up.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How the orchestrator is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `http://host:port` or `https://host:port`, checked.
    pub endpoint: String,
    /// PEM file with the authorities to trust for `https://`; None = those of this machine.
    pub ca_file: Option<SecretFile>,
    /// PEM files with the certificate to show over `https://`, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the orchestrator's certificate; None = the host of the endpoint.
    pub server_name: Option<String>,
    /// File with the bearer token that goes with every call.
    pub token_file: Option<SecretFile>,
    /// How long calls may take.
    pub deadlines: Deadlines,
}

/// How long a call may take, connecting included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// A poll for a task: several times the orchestrator's own long poll of 5 s, since a base orchestrator has
    /// taken the task from its queue before it answers.
    pub claim: Duration,
    /// A report, which may carry weights.
    pub report: Duration,
    /// Everything else.
    pub other: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            claim: Duration::from_secs(30),
            report: Duration::from_secs(60),
            other: Duration::from_secs(10),
        }
    }
}

/// A configuration with which no connection can be made, now or later.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable that is not right.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// The machine has no certificate authorities that could be used.
    #[error("{ADDRESS}: https:// finds no authorities to trust ({0}); set ORCHESTRATOR_TLS_CA")]
    NoAuthorities(String),
}

impl From<ClientTlsError> for ConfigError {
    fn from(error: ClientTlsError) -> Self {
        match error {
            ClientTlsError::Invalid(invalid) => Self::Invalid(invalid),
            no_authorities @ ClientTlsError::NoAuthorities(_) => {
                Self::NoAuthorities(no_authorities.to_string())
            }
        }
    }
}

/// The credential that goes with every call.
#[derive(Debug)]
pub(crate) struct Credential(TokenFile);

impl Credential {
    /// The value of the `authorization` header as the file has it now, marked as sensitive so that no Debug shows it.
    pub(crate) fn header(&self) -> Option<MetadataValue<Ascii>> {
        let mut value = self.0.token().header().parse::<MetadataValue<Ascii>>().ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl Config {
    /// Checks an address: `host:port`, `http://host:port` or `https://host:port`, IPv6 in brackets.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for ORCHESTRATOR_ADDRESS.
    pub fn parse(raw: &str) -> Result<Self, ConfigError> {
        let allowed = "host:port, http://host:port or https://host:port, port 1 to 65535, IPv6 in brackets";
        let endpoint = parse_endpoint(raw.trim()).ok_or_else(|| InvalidField::new(ADDRESS, raw, allowed))?;
        Ok(Self {
            endpoint,
            ca_file: None,
            identity: None,
            server_name: None,
            token_file: None,
            deadlines: Deadlines::default(),
        })
    }

    /// The channel, not connected yet: it connects when it is first used, and anew whenever it broke, with the
    /// certificates that the files then hold.
    ///
    /// Must be called inside a tokio runtime.
    pub(crate) fn channel(&self) -> Result<Channel, ConfigError> {
        let endpoint = self.endpoint()?;
        let Some(tls) = self.tls()? else { return Ok(endpoint.connect_lazy()) };
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        let connector = tower::service_fn(move |uri: Uri| {
            let (mut tcp, tls) = (tcp.clone(), tls.clone());
            async move {
                let stream = tcp.ready().await?.call(uri).await?;
                let (connector, server) = tls.connector();
                let stream = connector.connect(server, stream.into_inner()).await?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(TokioIo::new(stream))
            }
        });
        Ok(endpoint.connect_with_connector_lazy(connector))
    }

    /// Whether the calls are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.endpoint.starts_with("https://")
    }

    /// Whether the calls never leave this machine.
    pub fn is_on_this_machine(&self) -> bool {
        let host = self.host();
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    fn host(&self) -> &str {
        let authority = self.endpoint.split_once("://").map_or(self.endpoint.as_str(), |(_, rest)| rest);
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// What is wrong with the files that are named here; nothing where all can be used as they are now.
    pub(crate) fn check_files(&self) -> Vec<InvalidField> {
        let named = self.ca_file.is_some() || self.identity.is_some() || self.server_name.is_some();
        let trust = if named { self.tls().err() } else { None };
        let errors = trust.into_iter().chain(self.token().err());
        let invalid = |error| match error {
            ConfigError::Invalid(invalid) => Some(invalid),
            ConfigError::NoAuthorities(_) => None,
        };
        errors.filter_map(invalid).collect()
    }

    fn endpoint(&self) -> Result<Endpoint, ConfigError> {
        let invalid = |error: &dyn std::fmt::Display| {
            InvalidField::new(ADDRESS, &self.endpoint, format!("an address that can be called ({error})"))
        };
        // TLS is the connector's, which the library must not know of; the other side hears the scheme all the same.
        let plain = self.endpoint.replacen("https://", "http://", 1);
        let origin = self.endpoint.parse::<Uri>().map_err(|error| invalid(&error))?;
        let endpoint = Endpoint::from_shared(plain).map_err(|error| invalid(&error))?;
        Ok(endpoint
            .origin(origin)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true))
    }

    /// TLS as the files have it; None for `http://`.
    fn tls(&self) -> Result<Option<ClientTls>, ConfigError> {
        if !self.is_encrypted() {
            let certificate =
                self.identity.as_ref().map(|(path, _)| SecretFile::new("ORCHESTRATOR_TLS_CERT", path));
            return match self.ca_file.clone().or(certificate) {
                None => Ok(None),
                Some(file) => Err(file.invalid("unset, since the address is not https://").into()),
            };
        }
        let (variable, name) = match &self.server_name {
            Some(name) => (SERVER_NAME, name.as_str()),
            None => (ADDRESS, self.host()),
        };
        let server = ServerName::try_from(name.to_owned())
            .map_err(|_| InvalidField::new(variable, name, "a host name or an IP address"))?;
        let files = ClientFiles { authorities: self.ca_file.clone(), identity: self.identity.clone() };
        Ok(Some(ClientTls::open(&files, server)?))
    }

    /// The credential; its file is read again when it changes.
    pub(crate) fn token(&self) -> Result<Option<Credential>, ConfigError> {
        let file = self.token_file.clone().map(TokenFile::open);
        Ok(file.transpose()?.map(Credential))
    }
}

fn parse_endpoint(raw: &str) -> Option<String> {
    let (scheme, authority) = match raw.split_once("://") {
        None => ("http", raw),
        Some((scheme @ ("http" | "https"), authority)) => (scheme, authority),
        Some(_) => return None,
    };
    let (host, port) = authority.rsplit_once(':')?;
    let host_fits = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            (1..=253).contains(&host.len()) && host.bytes().all(alphabet)
        }
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|port| digits && *port > 0)?;
    host_fits.then(|| format!("{scheme}://{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses_become_endpoints() {
        for (raw, endpoint) in [
            ("localhost:50051", "http://localhost:50051"),
            (" orchestrator.fleet_1.svc:1 ", "http://orchestrator.fleet_1.svc:1"),
            ("http://10.0.0.1:65535", "http://10.0.0.1:65535"),
            ("https://host:443", "https://host:443"),
            ("[::1]:50051", "http://[::1]:50051"),
            ("https://[fe80::1]:50051", "https://[fe80::1]:50051"),
        ] {
            assert_eq!(Config::parse(raw).unwrap().endpoint, endpoint);
        }
    }

    #[test]
    fn a_bad_address_is_named_with_what_is_allowed() {
        for raw in [
            "",
            "localhost",
            "localhost:",
            ":50051",
            "host:0",
            "host:65536",
            "host:-1",
            "host:+1",
            "host:50051/",
            "http://host:50051/path",
            "http://user:secret@host:1",
            "ftp://host:1",
            "http://",
            "HTTP//host:1",
            "::1:50051",
            "[::1]",
            "[::1",
            "[host]:1",
            "ho st:1",
            "host:1?x=y",
            "host:1\nhost:2",
            "hôst:1",
        ] {
            let error = Config::parse(raw).unwrap_err().to_string();
            assert!(error.starts_with("ORCHESTRATOR_ADDRESS: \""), "{raw}: {error}");
            assert!(error.contains("allowed: host:port"), "{raw}: {error}");
        }
    }

    fn with_file(text: &str, address: &str) -> (tempfile::TempDir, PathBuf, Config) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, text).unwrap();
        (folder, path, Config::parse(address).unwrap())
    }

    #[test]
    fn a_token_is_read_without_its_line_end_and_never_shown() {
        let (_folder, path, config) = with_file("s3cret\n", "host:1");
        let token_file = Some(SecretFile::token(&path));
        let credential = Config { token_file, ..config }.token().unwrap().unwrap();
        let header = credential.header().unwrap();
        assert_eq!(header.as_bytes(), b"Bearer s3cret");
        assert!(!format!("{header:?} {credential:?}").contains("s3cret"));
    }

    #[test]
    fn a_bad_token_file_is_named_and_its_text_is_not() {
        for text in ["", "  \n", "s3cret one\ns3cret two"] {
            let (_folder, path, config) = with_file(text, "host:1");
            let token_file = Some(SecretFile::token(&path));
            let error = Config { token_file, ..config }.token().unwrap_err().to_string();
            assert!(error.starts_with("AUTH_TOKEN_FILE: "), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let token_file = Some(SecretFile::token("/no/such/file".as_ref()));
        let missing = Config { token_file, ..Config::parse("host:1").unwrap() };
        assert!(missing.token().unwrap_err().to_string().contains("/no/such/file"));
    }

    fn authorities(path: &std::path::Path) -> SecretFile {
        SecretFile::new("ORCHESTRATOR_TLS_CA", path)
    }

    #[tokio::test]
    async fn authorities_are_read_for_https_only() {
        let refusal = |text, address| {
            let (_folder, path, config) = with_file(text, address);
            Config { ca_file: Some(authorities(&path)), ..config }.channel().unwrap_err().to_string()
        };
        assert!(refusal("", "https://host:1").contains("a PEM file with certificates"));
        assert!(refusal("", "http://host:1").contains("unset, since the address is not https://"));
        let ca_file = Some(authorities("/no/such/ca".as_ref()));
        let missing = Config { ca_file, ..Config::parse("https://host:1").unwrap() };
        assert!(
            missing.channel().unwrap_err().to_string().starts_with("ORCHESTRATOR_TLS_CA: \"/no/such/ca\"")
        );
    }
}
