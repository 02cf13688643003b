//! Whether the orchestrator can be reached, step by step: name, port, call, contract.

use std::error::Error as _;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tonic::{Code, Request};

use super::Finding;
use crate::cli::remote::innermost;
use crate::orchestrator::{Config, Credential};
use crate::wire::pb;
use crate::wire::pb::orchestrator_service_client::OrchestratorServiceClient;

/// How long one step may take.
const PATIENCE: Duration = Duration::from_secs(5);

const ADDRESS: &str = "set ORCHESTRATOR_ADDRESS to where it listens";

/// A server that the worker calls.
pub(super) struct Server<'a> {
    pub(super) dns: &'static str,
    pub(super) tcp: &'static str,
    pub(super) endpoint: &'a str,
    /// What mends an address that is wrong.
    pub(super) address: &'static str,
    /// What mends a server that is not there.
    pub(super) start: &'static str,
}

/// Each step after the one it needs.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let server = Server {
        dns: "orchestrator.dns",
        tcp: "orchestrator.tcp",
        endpoint: &config.endpoint,
        address: ADDRESS,
        start: "start the orchestrator (for a try: tensorfleet-worker orchestrator)",
    };
    match server.reach().await {
        Ok(mut findings) => {
            findings.push(call(config).await);
            findings
        }
        Err(findings) => findings,
    }
}

impl Server<'_> {
    /// Finds its address and connects; the error has the step that failed as its last one.
    pub(super) async fn reach(&self) -> Result<Vec<Finding>, Vec<Finding>> {
        let address = self.address;
        let authority = self.endpoint.split_once("://").map_or(self.endpoint, |(_, rest)| rest);
        let found = match timeout(PATIENCE, lookup_host(authority)).await {
            Ok(Ok(found)) => found.collect::<Vec<_>>(),
            Ok(Err(error)) => {
                let message = format!("{authority} has no address: {error}");
                let repair = format!("{address}; `getent hosts NAME` asks the same");
                return Err(vec![Finding::error(self.dns, message, repair)]);
            }
            Err(_) => {
                let message = format!("{authority}: no answer within 5 s");
                return Err(vec![Finding::error(self.dns, message, address)]);
            }
        };
        let Some(first) = found.first() else {
            return Err(vec![Finding::error(self.dns, format!("{authority} has no address"), address)]);
        };
        let mut findings = vec![Finding::ok(self.dns, format!("{authority} is {first}"))];
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
            let message = format!("{authority} cannot be connected to: {reason}");
            findings.push(Finding::error(self.tcp, message, format!("{}, or {address}", self.start)));
            return Err(findings);
        }
        findings.push(Finding::ok(self.tcp, format!("{authority} takes connections")));
        Ok(findings)
    }
}

/// Gives nothing back, in the name of nobody: an orchestrator with extensions has an answer to that and remembers
/// nothing, one without does not know the call.
async fn call(config: &Config) -> Finding {
    let check = "orchestrator.grpc";
    let https = config.is_encrypted();
    let (channel, token) = match (config.channel(), config.token()) {
        (Ok(channel), Ok(token)) => (channel, token),
        (Err(error), _) | (_, Err(error)) => {
            return Finding::error(check, error.to_string(), "correct the file that is named")
                .of_configuration();
        }
    };
    let mut request = Request::new(pb::ReleaseTaskRequest::default());
    request.set_timeout(PATIENCE);
    if let Some(header) = token.as_ref().and_then(Credential::header) {
        request.metadata_mut().insert("authorization", header);
    }
    let answer = timeout(PATIENCE * 2, OrchestratorServiceClient::new(channel).release_task(request)).await;
    let tls = if https { ", over TLS" } else { "" };
    match answer {
        Ok(Ok(_)) => extended(tls),
        Ok(Err(status)) if matches!(status.code(), Code::InvalidArgument | Code::NotFound) => extended(tls),
        Ok(Err(status)) if status.code() == Code::Unimplemented => {
            Finding::ok(check, format!("it speaks TensorFleet's base contract{tls}"))
        }
        Ok(Err(status)) if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) => {
            Finding::error(
                check,
                format!("it does not let this worker in: {}", status.message()),
                "set ORCHESTRATOR_TOKEN_FILE (or AUTH_TOKEN_FILE) to a file with the token that it knows",
            )
        }
        // A cause of its own has what did not come from the other side.
        Ok(Err(status))
            if matches!(status.code(), Code::Unavailable | Code::Unknown) || status.source().is_some() =>
        {
            let repair = if https { tls_repair(&causes(&status), config) } else { PLAIN };
            let message = format!("it takes connections and no calls: {}", innermost(&status));
            Finding::error(check, message, repair)
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

fn extended(tls: &str) -> Finding {
    let message = format!("it speaks the extended contract (leases, heartbeats, progress){tls}");
    Finding::ok("orchestrator.grpc", message)
}

/// What mends a call that is not answered in plain text.
const PLAIN: &str =
    "where it speaks TLS, write https:// in ORCHESTRATOR_ADDRESS; else look whether that is its gRPC port";

/// All that went wrong on the way of a call, from the outside in.
fn causes(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        text.push_str("; ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// What mends a call that TLS does not let through, by what the library says of it.
fn tls_repair(causes: &str, config: &Config) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|word| causes.contains(word));
    if says(&["not valid for name", "NotValidForName"]) {
        "set ORCHESTRATOR_TLS_SERVER_NAME to a name in its certificate, or ORCHESTRATOR_ADDRESS to that name"
    } else if says(&["expired", "Expired", "not valid yet", "NotValidYet"]) {
        "renew the certificate of the orchestrator, and look at the clocks of both machines"
    } else if says(&["UnknownIssuer", "BadSignature", "invalid peer certificate"]) {
        "set ORCHESTRATOR_TLS_CA to the authority of its certificate"
    } else if says(&["corrupt message", "InvalidContentType"]) {
        "write http:// in ORCHESTRATOR_ADDRESS, since it has no TLS"
    } else if says(&["received fatal alert", "CertificateRequired"]) || config.identity.is_none() {
        "it misses a certificate of the worker, or refuses it: set ORCHESTRATOR_TLS_CERT and ORCHESTRATOR_TLS_KEY to files \
         that it accepts"
    } else {
        "look at the orchestrator's own log"
    }
}
