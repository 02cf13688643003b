//! The way to the collector of traces.

use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithTonicConfig as _};

use crate::guard::SecretFile;
use crate::orchestrator;
use crate::telemetry::traces::{Config, EXPORT_TIMEOUT};

/// Traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint or the file with its authorities.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT: {0}")]
    Endpoint(orchestrator::ConfigError),
    /// The machine has no authorities that could be used.
    #[error(
        "OTEL_EXPORTER_OTLP_ENDPOINT: https:// finds no authorities to trust ({0}); set OTEL_EXPORTER_OTLP_CERTIFICATE"
    )]
    NoAuthorities(String),
    /// The library's.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT: {0}")]
    Build(#[from] ExporterBuildError),
}

impl From<orchestrator::ConfigError> for Error {
    fn from(error: orchestrator::ConfigError) -> Self {
        match error {
            orchestrator::ConfigError::NoAuthorities(why) => Self::NoAuthorities(why),
            error => Self::Endpoint(error),
        }
    }
}

/// What sends to the collector of `config` by OTLP over gRPC; None where it names none. The connection is made with the
/// first traces, as it is to the orchestrator.
///
/// Must be called inside a tokio runtime.
pub(crate) fn exporter(config: &Config) -> Result<Option<SpanExporter>, Error> {
    let Some(endpoint) = &config.endpoint else { return Ok(None) };
    let ca_file = config.ca_file.as_ref().map(|path| SecretFile::new("OTEL_EXPORTER_OTLP_CERTIFICATE", path));
    let way = orchestrator::Config { ca_file, ..orchestrator::Config::parse(endpoint)? };
    let exporter = SpanExporter::builder().with_tonic().with_channel(way.channel()?);
    Ok(Some(exporter.with_timeout(EXPORT_TIMEOUT).build()?))
}
