//! Where the orchestrator is, how long it may take, and the connection to it.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::domain::InvalidField;

const ADDRESS: &str = "ORCHESTRATOR_ADDRESS";
const CA_FILE: &str = "ORCHESTRATOR_TLS_CA";
const TOKEN_FILE: &str = "AUTH_TOKEN_FILE";

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
    pub ca_file: Option<PathBuf>,
    /// File with the bearer token that goes with every call.
    pub token_file: Option<PathBuf>,
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
    #[error("{ADDRESS}: https:// finds no authorities to trust on this machine ({0}); set {CA_FILE}")]
    NoAuthorities(#[source] tonic::transport::Error),
}

impl Config {
    /// Checks an address: `host:port`, `http://host:port` or `https://host:port`, IPv6 in brackets.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for ORCHESTRATOR_ADDRESS.
    pub fn parse(raw: &str) -> Result<Self, ConfigError> {
        let allowed = "host:port, http://host:port or https://host:port, port 1 to 65535, IPv6 in brackets";
        let endpoint = parse_endpoint(raw.trim()).ok_or_else(|| InvalidField::new(ADDRESS, raw, allowed))?;
        Ok(Self { endpoint, ca_file: None, token_file: None, deadlines: Deadlines::default() })
    }

    /// The channel, not connected yet: it connects when it is first used, and anew whenever it broke.
    ///
    /// Must be called inside a tokio runtime.
    pub(crate) fn channel(&self) -> Result<Channel, ConfigError> {
        Ok(self.endpoint()?.connect_lazy())
    }

    /// What is wrong with the files that are named here; nothing where all can be used as they are now.
    pub(crate) fn check_files(&self) -> Vec<InvalidField> {
        let trust = self.ca_file.as_ref().and_then(|_| self.endpoint().err());
        let errors = trust.into_iter().chain(self.token().err());
        let invalid = |error| match error {
            ConfigError::Invalid(invalid) => Some(invalid),
            ConfigError::NoAuthorities(_) => None,
        };
        errors.filter_map(invalid).collect()
    }

    fn endpoint(&self) -> Result<Endpoint, ConfigError> {
        let invalid = |error: tonic::transport::Error| {
            InvalidField::new(ADDRESS, &self.endpoint, format!("an address that can be called ({error})"))
        };
        let endpoint = Endpoint::from_shared(self.endpoint.clone())
            .map_err(invalid)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        Ok(match (self.endpoint.starts_with("https://"), &self.ca_file) {
            (false, None) => endpoint,
            (false, Some(path)) => {
                let value = path.to_string_lossy();
                return Err(InvalidField::new(
                    CA_FILE,
                    value,
                    format!("unset without https:// in {ADDRESS}"),
                )
                .into());
            }
            (true, None) => endpoint
                .tls_config(ClientTlsConfig::new().with_native_roots())
                .map_err(ConfigError::NoAuthorities)?,
            (true, Some(path)) => {
                let pem = read(CA_FILE, path)?;
                let allowed = |why: &dyn std::fmt::Display| {
                    InvalidField::new(
                        CA_FILE,
                        path.to_string_lossy(),
                        format!("a PEM file with certificates ({why})"),
                    )
                };
                if !pem.contains("BEGIN CERTIFICATE") {
                    return Err(allowed(&"there is none in it").into());
                }
                let trust = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
                endpoint.tls_config(trust).map_err(|error| allowed(&error))?
            }
        })
    }

    /// The value of the `authorization` header, marked as sensitive so that no Debug shows it.
    pub(crate) fn token(&self) -> Result<Option<MetadataValue<Ascii>>, ConfigError> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let token = read(TOKEN_FILE, path)?;
        let token = token.trim();
        let fits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        let value = fits.then(|| format!("Bearer {token}").parse::<MetadataValue<Ascii>>().ok()).flatten();
        let mut value = value.ok_or_else(|| {
            let allowed = "a file with one token of printable ASCII characters without spaces";
            InvalidField::new(TOKEN_FILE, path.to_string_lossy(), allowed)
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn read(variable: &str, path: &Path) -> Result<String, InvalidField> {
    std::fs::read_to_string(path).map_err(|error| {
        InvalidField::new(variable, path.to_string_lossy(), format!("a readable text file ({error})"))
    })
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
        let token = Config { token_file: Some(path), ..config }.token().unwrap().unwrap();
        assert_eq!(token.as_bytes(), b"Bearer s3cret");
        assert!(!format!("{token:?}").contains("s3cret"));
    }

    #[test]
    fn a_bad_token_file_is_named_and_its_text_is_not() {
        for text in ["", "  \n", "s3cret one\ns3cret two"] {
            let (_folder, path, config) = with_file(text, "host:1");
            let error = Config { token_file: Some(path), ..config }.token().unwrap_err().to_string();
            assert!(error.starts_with("AUTH_TOKEN_FILE: "), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let missing = Config { token_file: Some("/no/such/file".into()), ..Config::parse("host:1").unwrap() };
        assert!(missing.token().unwrap_err().to_string().contains("/no/such/file"));
    }

    #[tokio::test]
    async fn authorities_are_read_for_https_only() {
        let refusal = |text, address| {
            let (_folder, path, config) = with_file(text, address);
            Config { ca_file: Some(path), ..config }.channel().unwrap_err().to_string()
        };
        assert!(refusal("", "https://host:1").contains("a PEM file with certificates"));
        assert!(refusal("", "http://host:1").contains("unset without https://"));
        let missing =
            Config { ca_file: Some("/no/such/ca".into()), ..Config::parse("https://host:1").unwrap() };
        assert!(
            missing.channel().unwrap_err().to_string().starts_with("ORCHESTRATOR_TLS_CA: \"/no/such/ca\"")
        );
    }
}
