//! Whether the orchestrator can be reached, step by step: name, port, call, contract.

use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tonic::{Code, Request};

use super::Finding;
use crate::cli::remote::innermost;
use crate::orchestrator::{Config, Credential};
use crate::wire::pb;
use crate::wire::pb::orchestrator_service_client::OrchestratorServiceClient;

const PATIENCE: Duration = Duration::from_secs(5);

/// Who asks: no worker has this name, so that an orchestrator that knows its workers answers "register first".
const NOBODY: &str = "tensorfleet-worker-doctor";

const ADDRESS: &str = "set ORCHESTRATOR_ADDRESS to where it listens";

/// Each step after the one it needs.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let authority = config.endpoint.split_once("://").map_or(config.endpoint.as_str(), |(_, rest)| rest);
    let found = match timeout(PATIENCE, lookup_host(authority)).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        Ok(Err(error)) => {
            let message = format!("{authority} has no address: {error}");
            return vec![Finding::error(
                "orchestrator.dns",
                message,
                format!("{ADDRESS}; `getent hosts NAME` asks the same"),
            )];
        }
        Err(_) => {
            return vec![Finding::error(
                "orchestrator.dns",
                format!("{authority}: no answer within 5 s"),
                ADDRESS,
            )];
        }
    };
    let Some(first) = found.first() else {
        return vec![Finding::error("orchestrator.dns", format!("{authority} has no address"), ADDRESS)];
    };
    let mut findings = vec![Finding::ok("orchestrator.dns", format!("{authority} is {first}"))];
    // As the client does, try each address.
    let mut refused = None;
    for address in &found {
        match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {
                refused = None;
                break;
            }
            Ok(Err(error)) => refused = Some(error.to_string()),
            Err(_) => refused = Some("no answer within 5 s".to_owned()),
        }
    }
    if let Some(reason) = refused {
        let repair =
            format!("start the orchestrator, or {ADDRESS}; for a try: tensorfleet-worker orchestrator");
        findings.push(Finding::error(
            "orchestrator.tcp",
            format!("{authority} cannot be connected to: {reason}"),
            repair,
        ));
        return findings;
    }
    findings.push(Finding::ok("orchestrator.tcp", format!("{authority} takes connections")));
    findings.push(call(config).await);
    findings
}

/// One heartbeat of a worker that does not exist: an orchestrator with extensions answers it, one without does not know
/// the call.
async fn call(config: &Config) -> Finding {
    let check = "orchestrator.grpc";
    let https = config.endpoint.starts_with("https://");
    let (channel, token) = match (config.channel(), config.token()) {
        (Ok(channel), Ok(token)) => (channel, token),
        (Err(error), _) | (_, Err(error)) => {
            return Finding::error(check, error.to_string(), "correct the file that is named")
                .of_configuration();
        }
    };
    let mut request = Request::new(pb::HeartbeatRequest {
        worker_id: NOBODY.to_owned(),
        ..pb::HeartbeatRequest::default()
    });
    request.set_timeout(PATIENCE);
    if let Some(header) = token.as_ref().and_then(Credential::header) {
        request.metadata_mut().insert("authorization", header);
    }
    let answer = timeout(PATIENCE * 2, OrchestratorServiceClient::new(channel).heartbeat(request)).await;
    let tls = if https { ", over TLS" } else { "" };
    match answer {
        Ok(Ok(_)) => {
            Finding::ok(check, format!("it speaks the extended contract (leases, heartbeats, progress){tls}"))
        }
        Ok(Err(status)) if status.code() == Code::Unimplemented => {
            Finding::ok(check, format!("it speaks TensorFleet's base contract{tls}"))
        }
        Ok(Err(status)) if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) => {
            Finding::error(
                check,
                format!("it does not let this worker in: {}", status.message()),
                "set AUTH_TOKEN_FILE to a file with the token that it knows",
            )
        }
        Ok(Err(status)) if status.code() == Code::Unavailable || status.code() == Code::Unknown => {
            let repair = if https {
                "set ORCHESTRATOR_TLS_CA to the authority of its certificate, or http:// where it has none"
            } else {
                "where it speaks TLS, write https:// in ORCHESTRATOR_ADDRESS; else look whether that is its gRPC port"
            };
            Finding::error(
                check,
                format!("it takes connections and no calls: {}", innermost(&status)),
                repair,
            )
        }
        // Whatever else it says, it is there and says it.
        Ok(Err(status)) => Finding::ok(check, format!("it answers ({:?}){tls}", status.code())),
        Err(_) => Finding::error(
            check,
            "it takes connections and does not answer",
            "look at the orchestrator's own log",
        ),
    }
}
