//! Data sets of other machines: `http(s)://…` and `s3://BUCKET/KEY`, fetched into a cache on disk and read from there.
//! And the one way out: objects put into the [`ObjectFolder`] that the configuration names.
//!
//! ```text
//! URL --location: scheme, host allowed?--> Location --cache: one download at a time--> file
//!                                                      \--http: address allowed?--/
//! ```
//!
//! A job names the URL, so all of it comes from outside. Hence: a scheme is one of three; a host must be on the list of
//! this worker's configuration; the address that it resolves to, which is the one connected to, must not be one of this
//! machine, of its link or of a private network; redirects and proxies are not followed; credentials come from the
//! configuration alone. The S3 endpoint is the configuration's too, and trusted as it is.
//!
//! Everything but the configuration is behind the cargo feature `remote`.

#[cfg(feature = "remote")]
mod address;
#[cfg(feature = "remote")]
mod cache;
#[cfg(feature = "remote")]
mod http;
#[cfg(feature = "remote")]
mod location;
mod objects;
#[cfg(feature = "remote")]
mod upload;

#[cfg(feature = "remote")]
pub use location::Location;
pub use objects::ObjectFolder;
#[cfg(feature = "remote")]
pub use upload::{UploadError, put};

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[cfg(feature = "remote")]
use super::content::{Content, Opened};
#[cfg(feature = "remote")]
use super::error::DataError;
#[cfg(feature = "remote")]
use super::{Check, Config};

/// Which data of other machines may be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// Hosts that a URL may name; none by default.
    pub allowed_hosts: Vec<AllowedHost>,
    /// Whether they may be at addresses of this machine and of private networks.
    pub local_addresses: LocalAddresses,
    /// Where `s3://` leads.
    pub s3: S3,
    /// Longest time until a host is found and connected to.
    pub connect_timeout: Duration,
    /// Longest time without a byte.
    pub read_timeout: Duration,
}

impl Default for Remote {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            local_addresses: LocalAddresses::Refused,
            s3: S3::default(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
        }
    }
}

/// A host that a URL may name: `data.example.org`, `*.example.org`, `10.0.0.7`, `[fd00::7]`, each with a port behind
/// it (`:8080`) or without one, which allows that of the scheme.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowedHost {
    /// Lower case; for `*.example.org` what follows the star.
    name: String,
    any_before: bool,
    port: Option<u16>,
}

impl AllowedHost {
    /// What [`Self::parse`] takes.
    pub const ALLOWED: &'static str = "hosts separated by commas, each as host, host:port or *.suffix";

    /// Reads one host.
    pub fn parse(raw: &str) -> Option<Self> {
        let raw = raw.trim().to_ascii_lowercase();
        let (host, port) = match raw.rsplit_once(':') {
            // The colons of an IPv6 address stand in brackets.
            Some((host, port)) if !port.contains(']') => {
                (host, Some(port.parse::<u16>().ok().filter(|port| *port > 0)?))
            }
            _ => (raw.as_str(), None),
        };
        let (name, any_before) = match host.strip_prefix("*.") {
            // A star before an address, or before all names there are, is a mistake.
            Some(suffix) if suffix.parse::<std::net::Ipv4Addr>().is_ok() => return None,
            Some(suffix) => (format!(".{suffix}"), true),
            None => (host.to_owned(), false),
        };
        let bare = name.trim_start_matches('.');
        let address = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let well_formed = match address {
            Some(address) => !any_before && address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let label = |label: &str| {
                    !label.is_empty()
                        && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
                };
                bare.split('.').all(label)
            }
        };
        (well_formed && host.len() <= 253).then_some(Self { name, any_before, port })
    }

    /// Whether it allows `host` (as a URL has it: lower case, addresses in their usual form, IPv6 in brackets) at
    /// `port`, where a URL without one has `default_port`.
    pub fn allows(&self, host: &str, port: u16, default_port: u16) -> bool {
        let name = if self.any_before { host.ends_with(&self.name) } else { host == self.name };
        name && port == self.port.unwrap_or(default_port)
    }
}

/// Whether hosts may be at addresses of this machine and of private networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LocalAddresses {
    /// No.
    Refused,
    /// Yes; at addresses of a link (those of cloud metadata among them) only where the list of hosts names the address.
    Allowed,
}

/// Where `s3://` leads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct S3 {
    /// URL of a service that speaks S3; without one that of AWS for the region.
    pub endpoint: Option<String>,
    /// Region of the buckets; without one `us-east-1` at an endpoint, and no access to AWS.
    pub region: Option<String>,
    /// Who asks; without them only public objects can be had.
    pub credentials: Option<Credentials>,
}

impl S3 {
    /// What an endpoint may be.
    pub const ENDPOINT: &'static str =
        "http://host, https://host, with a port or without, and nothing behind it";

    /// Whether `raw` can be an endpoint.
    pub fn is_endpoint(raw: &str) -> bool {
        let host = raw.strip_prefix("https://").or_else(|| raw.strip_prefix("http://"));
        host.and_then(|host| AllowedHost::parse(host.trim_end_matches('/')))
            .is_some_and(|host| !host.any_before)
    }
}

/// Who asks for objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Name of the key.
    pub access_key_id: Secret,
    /// The key.
    pub secret_access_key: Secret,
    /// What makes a key of limited time valid.
    pub session_token: Option<Secret>,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// What it hides.
    #[cfg(feature = "remote")]
    fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(secret)")
    }
}

/// Where what was fetched is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// Its folder; made when something is fetched.
    pub folder: PathBuf,
    /// Most bytes in it; past it what was used least recently goes, but for what is being read.
    pub max_bytes: u64,
}

impl Cache {
    /// At most 10 GiB in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), max_bytes: 10 << 30 }
    }
}

/// Fetches what is at `location`, unless the cache has it.
///
/// # Errors
/// The host or its address is not allowed, does not answer or answers with a refusal, a limit of `config` is passed,
/// the cache cannot be used, or `check` says to stop.
#[cfg(feature = "remote")]
pub(super) fn open(location: &Location, config: &Config, check: Check<'_>) -> Result<Opened, DataError> {
    let file = cache::fetch(location, config, check)?;
    Ok(Opened { path: location.to_string(), content: std::sync::Arc::new(Content::File(file)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_hosts_are_exact_unless_they_begin_with_a_star() {
        let allows = |pattern: &str, host: &str, port| {
            AllowedHost::parse(pattern).unwrap_or_else(|| panic!("{pattern}")).allows(host, port, 443)
        };
        assert!(allows("data.example.org", "data.example.org", 443));
        assert!(allows(" Data.Example.org ", "data.example.org", 443));
        assert!(!allows("data.example.org", "data.example.org", 8443));
        assert!(!allows("example.org", "data.example.org", 443));
        assert!(!allows("example.org", "example.org.evil.net", 443));
        assert!(allows("*.example.org", "a.b.example.org", 443));
        assert!(!allows("*.example.org", "example.org", 443));
        assert!(!allows("*.example.org", "evilexample.org", 443));
        assert!(allows("minio:9000", "minio", 9000));
        assert!(!allows("minio:9000", "minio", 443));
        assert!(allows("[fd00::7]:80", "[fd00::7]", 80));
        assert!(allows("10.0.0.7", "10.0.0.7", 443));
        for bad in
            ["", "*", "*.", "*.10.0.0.7", "a b", "http://a", "a/b", "a:0", "a:b", "fd00::7", "u@a", "a..b"]
        {
            assert_eq!(AllowedHost::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn endpoints_are_nothing_but_a_host() {
        for good in ["https://s3.example.org", "http://minio:9000", "http://127.0.0.1:9000/"] {
            assert!(S3::is_endpoint(good), "{good}");
        }
        for bad in ["minio:9000", "https://", "https://me:secret@minio", "https://minio/path", "ftp://minio"]
        {
            assert!(!S3::is_endpoint(bad), "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = Secret::new("hunter2");
        let credentials = Credentials {
            access_key_id: secret.clone(),
            secret_access_key: secret.clone(),
            session_token: Some(secret),
        };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
