//! Who is let in, and how the worker shows itself to the orchestrator: certificates and tokens.

use std::path::PathBuf;
use std::str::FromStr;

use super::build::Reader;
use super::parse;
use crate::domain::{InvalidField, ParseChoiceError};
use crate::guard::{Demand, SecretFile, ServerFiles};
use crate::{guard, orchestrator};

/// METRICS_TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HttpTls {
    Auto,
    On,
    Off,
}

impl FromStr for HttpTls {
    type Err = ParseChoiceError;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        match raw {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(ParseChoiceError("auto, on or off")),
        }
    }
}

/// Two files of which each needs the other; None where neither is named, or one is missing (which is then noted).
fn pair(reader: &mut Reader<'_>, certificate: &str, key: &str) -> Option<(PathBuf, PathBuf)> {
    match (reader.read(certificate, parse::path), reader.read(key, parse::path)) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (Some(_), None) => {
            reader.conflict(certificate, &format!("unset without {key}"));
            None
        }
        (None, Some(_)) => {
            reader.conflict(key, &format!("unset without {certificate}"));
            None
        }
        (None, None) => None,
    }
}

/// The file that `variable` names.
pub(super) fn file(reader: &mut Reader<'_>, variable: &'static str) -> Option<SecretFile> {
    Some(SecretFile::new(variable, &reader.read(variable, parse::path)?))
}

/// The worker's own servers.
pub(super) fn guard(reader: &mut Reader<'_>) -> Option<guard::Config> {
    let identity = pair(reader, "TLS_CERT", "TLS_KEY");
    let client_authorities = reader.read("TLS_CLIENT_CA", parse::path);
    if client_authorities.is_some() && identity.is_none() {
        reader.conflict("TLS_CLIENT_CA", "unset without TLS_CERT and TLS_KEY");
    }
    let tls = identity.map(|(certificate, key)| ServerFiles { certificate, key, client_authorities });
    let token_file = reader.read("AUTH_TOKEN_FILE", parse::path);
    let http_tls = match (reader.choice::<HttpTls>("METRICS_TLS")?, &tls) {
        (HttpTls::On, None) => {
            reader.conflict("METRICS_TLS", "auto or off without TLS_CERT and TLS_KEY");
            Demand::Open
        }
        (HttpTls::On | HttpTls::Auto, Some(_)) => Demand::Private,
        (HttpTls::Off, _) | (HttpTls::Auto, None) => Demand::Open,
    };
    let metrics = match reader.read("METRICS_AUTH", parse::boolean)? {
        true => Demand::Private,
        false => Demand::Open,
    };
    let config = guard::Config { tls, http_tls, token_file, metrics };
    if metrics == Demand::Private && !config.asks_for_credentials() {
        reader.conflict("METRICS_AUTH", "false without AUTH_TOKEN_FILE or TLS_CLIENT_CA");
    }
    for InvalidField { field, allowed, .. } in config.check_files() {
        reader.conflict(&field, &allowed);
    }
    Some(config)
}

/// The client of the orchestrator.
pub(super) fn orchestrator(
    reader: &mut Reader<'_>,
    warnings: &mut Vec<String>,
) -> Option<orchestrator::Config> {
    let address = reader.read("ORCHESTRATOR_ADDRESS", |raw| orchestrator::Config::parse(raw).ok());
    let ca_file = file(reader, "ORCHESTRATOR_TLS_CA");
    let identity = pair(reader, "ORCHESTRATOR_TLS_CERT", "ORCHESTRATOR_TLS_KEY");
    let server_name = reader.read("ORCHESTRATOR_TLS_SERVER_NAME", |raw| Some(raw.trim().to_owned()));
    let token_file = file(reader, "ORCHESTRATOR_TOKEN_FILE").or_else(|| file(reader, "AUTH_TOKEN_FILE"));
    let mut config = orchestrator::Config { ca_file, identity, server_name, token_file, ..address? };
    if !config.is_encrypted() {
        // Said here; the other files are looked at all the same.
        let named = [
            ("ORCHESTRATOR_TLS_CA", config.ca_file.is_some()),
            ("ORCHESTRATOR_TLS_CERT", config.identity.is_some()),
            ("ORCHESTRATOR_TLS_SERVER_NAME", config.server_name.is_some()),
        ];
        for (variable, _) in named.into_iter().filter(|(_, set)| *set) {
            reader.conflict(variable, "unset, since ORCHESTRATOR_ADDRESS is not https://");
        }
        (config.ca_file, config.identity, config.server_name) = (None, None, None);
        if config.token_file.is_some() && !config.is_on_this_machine() {
            warnings.push(
                "the token goes to the orchestrator in plain text; https:// in ORCHESTRATOR_ADDRESS would hide it"
                    .to_owned(),
            );
        }
    }
    for InvalidField { field, allowed, .. } in config.check_files() {
        reader.conflict(&field, &allowed);
    }
    Some(config)
}
