//! Whether the collector of traces takes what the worker sends, where there is one: name, port, a call without traces.

use opentelemetry_sdk::trace::SpanExporter as _;

use super::orchestrator::Server;
use super::{Finding, Level};
use crate::app;
use crate::telemetry::traces::Config;

/// Each step after the one it needs. Nothing of it is an error: a worker does its work without traces.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let Some(endpoint) = &config.endpoint else { return Vec::new() };
    let server = Server {
        dns: "traces.dns",
        tcp: "traces.tcp",
        endpoint,
        address: ADDRESS,
        start: "start the collector",
    };
    let mut findings = match server.reach().await {
        Ok(mut findings) => {
            findings.push(call(config, endpoint).await);
            findings
        }
        Err(findings) => findings,
    };
    for finding in findings.iter_mut().filter(|finding| finding.level == Level::Error) {
        finding.level = Level::Warning;
    }
    findings
}

const ADDRESS: &str = "set OTEL_EXPORTER_OTLP_ENDPOINT to where it takes OTLP over gRPC";

/// Sends no trace at all, the way in which the worker sends them.
async fn call(config: &Config, endpoint: &str) -> Finding {
    let check = "traces.grpc";
    let exporter = match app::trace_exporter(config) {
        Ok(Some(exporter)) => exporter,
        Ok(None) => return Finding::ok(check, "no traces are sent"),
        Err(error) => {
            return Finding::warning(check, error.to_string(), "correct the file that is named")
                .of_configuration();
        }
    };
    match exporter.export(Vec::new()).await {
        Ok(()) => Finding::ok(check, format!("{endpoint} takes OTLP over gRPC")),
        Err(error) => {
            let port = match endpoint.ends_with(":4318") {
                true => ": 4318 is the usual port of OTLP over HTTP, that over gRPC is 4317",
                false => ", usually port 4317",
            };
            let message = format!("{endpoint} takes connections and no traces: {error}");
            Finding::warning(check, message, format!("{ADDRESS}{port}"))
        }
    }
}
