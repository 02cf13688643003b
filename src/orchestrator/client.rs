//! The gRPC client.

/// Where the orchestrator is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `http://host:port` or `https://host:port`, checked.
    pub endpoint: String,
}

/// An address that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// The client.
#[derive(Debug)]
pub struct Client;
