//! A URL to what is asked of whom, checked against the configuration.

use std::fmt;
use std::time::Duration;

use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use url::{Host, Url};

use super::super::error::{DataError, RemoteProblem};
use super::objects::is_bucket;
use super::{AllowedHost, Remote, S3};
use crate::domain::{InvalidField, masked_path};

/// Data on another machine.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    /// Without what may be secret.
    shown: String,
    url: Url,
    target: Target,
}

#[derive(Clone, PartialEq, Eq)]
enum Target {
    /// The URL itself.
    Url,
    /// An object, whose URL is signed anew for each request.
    Object { bucket: Box<Bucket>, key: String },
}

/// How long a signature holds: from the signing to the end of the request's headers.
const SIGNATURE: Duration = Duration::from_secs(600);

/// Region of services that are not AWS.
const ANY_REGION: &str = "us-east-1";

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Location({})", self.shown)
    }
}

impl Location {
    /// Reads an `http://` or `https://` URL.
    ///
    /// # Errors
    /// It is none, it has a user in it, or its host is not one of `remote.allowed_hosts`.
    pub fn of_url(path: &str, remote: &Remote) -> Result<Self, DataError> {
        let shown = masked_path(path).into_owned();
        let invalid = |allowed: &str| DataError::from(InvalidField::new("dataset_path", &shown, allowed));
        let mut url = Url::parse(path).map_err(|_| invalid("a URL such as https://host/file.csv"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("http:// or https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("a URL without a user or password before its host"));
        }
        url.set_fragment(None);
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(invalid("a URL with a host"));
        };
        let default_port = if url.scheme() == "http" { 80 } else { 443 };
        let allows = |allowed: &AllowedHost| allowed.allows(host, port, default_port);
        if !remote.allowed_hosts.iter().any(allows) {
            let host = if port == default_port { host.to_owned() } else { format!("{host}:{port}") };
            return Err(DataError::Remote { path: shown, problem: RemoteProblem::HostNotAllowed { host } });
        }
        Ok(Self { shown, url, target: Target::Url })
    }

    /// Reads what follows `s3://` in `path`.
    ///
    /// # Errors
    /// It is no bucket and key, or the configuration does not say where S3 is.
    pub fn of_object(rest: &str, path: &str, s3: &S3) -> Result<Self, DataError> {
        let shown = masked_path(path).into_owned();
        let invalid = |allowed: &str| DataError::from(InvalidField::new("dataset_path", &shown, allowed));
        let (bucket, key) = rest.split_once('/').ok_or_else(|| invalid("s3://BUCKET/KEY"))?;
        if !is_bucket(bucket) {
            return Err(invalid(
                "s3://BUCKET/KEY with a bucket of 3 to 63 of the characters a-z, 0-9, - and .",
            ));
        }
        // What a URL would take for a way to another folder, or bucket.
        let goes_up = key.split(['/', '\\']).any(|part| matches!(part, "." | ".."));
        if key.is_empty() || key.len() > 1024 || goes_up || key.chars().any(char::is_control) {
            return Err(invalid("s3://BUCKET/KEY with a key of 1 to 1024 bytes without the parts . and .."));
        }
        let not_configured =
            || DataError::Remote { path: shown.clone(), problem: RemoteProblem::S3NotConfigured };
        let (endpoint, style, region) = match (&s3.endpoint, &s3.region) {
            (Some(endpoint), region) => {
                (endpoint.clone(), UrlStyle::Path, region.clone().unwrap_or_else(|| ANY_REGION.to_owned()))
            }
            (None, Some(region)) => {
                // Names with dots do not fit the certificate for *.s3.REGION.amazonaws.com.
                let style = if bucket.contains('.') { UrlStyle::Path } else { UrlStyle::VirtualHost };
                (format!("https://s3.{region}.amazonaws.com"), style, region.clone())
            }
            (None, None) => return Err(not_configured()),
        };
        let endpoint = Url::parse(&endpoint).map_err(|_| not_configured())?;
        let bucket = Bucket::new(endpoint, style, bucket.to_owned(), region).map_err(|_| not_configured())?;
        let url = bucket.object_url(key);
        // Of two readings of a key that differ, none may be taken.
        if url.host_str() != bucket.base_url().host_str() || !url.path().starts_with(bucket.base_url().path())
        {
            return Err(invalid("s3://BUCKET/KEY with a key that a URL can hold"));
        }
        Ok(Self { shown, url, target: Target::Object { bucket: Box::new(bucket), key: key.to_owned() } })
    }

    /// What it is known by in the cache. May be secret.
    pub(super) fn identity(&self) -> &str {
        self.url.as_str()
    }

    /// Whether the configuration itself names its host.
    pub(super) fn is_configured(&self) -> bool {
        self.target != Target::Url
    }

    /// Whether its host is an address, in whatever form.
    pub(super) fn is_address(&self) -> bool {
        matches!(self.url.host(), Some(Host::Ipv4(_) | Host::Ipv6(_)))
    }

    /// The URL to ask for, signed where there are credentials.
    pub(super) fn request_url(&self, s3: &S3) -> Url {
        self.signed(s3, |bucket, credentials, key| bucket.get_object(Some(credentials), key).sign(SIGNATURE))
    }

    /// The URL to put an object to, signed where there are credentials.
    pub(super) fn upload_url(&self, s3: &S3) -> Url {
        self.signed(s3, |bucket, credentials, key| bucket.put_object(Some(credentials), key).sign(SIGNATURE))
    }

    fn signed(&self, s3: &S3, sign: impl FnOnce(&Bucket, &Credentials, &str) -> Url) -> Url {
        match (&self.target, &s3.credentials) {
            (Target::Object { bucket, key }, Some(credentials)) => {
                let (id, secret) =
                    (credentials.access_key_id.reveal(), credentials.secret_access_key.reveal());
                let credentials = match &credentials.session_token {
                    Some(token) => Credentials::new_with_token(id, secret, token.reveal()),
                    None => Credentials::new(id, secret),
                };
                sign(bucket, &credentials, key)
            }
            _ => self.url.clone(),
        }
    }
}
