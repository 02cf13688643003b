//! `health`: asks a worker over HTTP whether it is well, for container engines and scripts without curl.

use std::fmt::Display;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{Exit, Failure, ui};
use crate::config::{Config, Environment, Layers};
use crate::guard;

/// How long a worker may take to answer; one that takes longer is not well.
const PATIENCE: Duration = Duration::from_secs(4);

/// How much of an answer is shown, in bytes.
const SHOWN: usize = 4096;

/// Arguments of `health`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to ask: /livez (the process works), /readyz (it takes tasks) or /health of a worker
    /// [default: /livez of the worker with the same environment: LISTEN_ADDRESS, METRICS_PORT, TLS_CERT, METRICS_TLS].
    /// Over https:// any certificate will do, since nothing secret is asked or told
    #[arg(long, value_name = "URL", value_parser = url)]
    pub url: Option<Uri>,
}

/// For clap: an address that can be asked.
fn url(raw: &str) -> Result<Uri, String> {
    let fits = |url: &Uri| {
        matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some_and(|host| !host.is_empty())
    };
    let allowed = || "allowed: http://host:port/path or https://host:port/path".to_owned();
    raw.parse().ok().filter(fits).ok_or_else(allowed)
}

/// Asks, and prints the answer.
///
/// # Errors
/// METRICS_PORT is wrong. A worker that does not answer, or not with success, is [`Exit::Failed`]: container engines
/// know 0 and 1 only.
pub async fn execute(args: Args, environment: &Environment) -> Result<Exit, Failure> {
    let url = match args.url {
        Some(url) => url,
        None => own_worker(environment)?,
    };
    let answer = tokio::time::timeout(PATIENCE, ask(&url)).await;
    match answer.unwrap_or_else(|_| Err(format!("no answer in {PATIENCE:?}"))) {
        Ok((status, body)) if status.is_success() => {
            ui::say(body.trim_end())?;
            Ok(Exit::Done)
        }
        Ok((status, body)) => {
            ui::tell(&format!("{url} answers {status}: {}", body.trim_end()));
            Ok(Exit::Failed)
        }
        Err(reason) => {
            ui::tell(&format!("{url}: {reason}"));
            Ok(Exit::Failed)
        }
    }
}

/// Whether `name` is set to something.
fn set<'a>(environment: &'a Environment, name: &str) -> Option<&'a str> {
    environment.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
}

/// The worker that runs here with the same environment. What concerns others is not looked at, and no file is read: what
/// is wrong with those, the worker itself says.
fn own_worker(environment: &Environment) -> Result<Uri, Failure> {
    let tls = set(environment, "TLS_CERT").is_some()
        && set(environment, "METRICS_TLS").is_none_or(|tls| !tls.eq_ignore_ascii_case("off"));
    let mut environment = environment.clone();
    environment.retain(|name, _| matches!(name.as_str(), "METRICS_PORT" | "LISTEN_ADDRESS"));
    let config = Config::resolve(&Layers { environment, ..Layers::default() })?.config;
    let mut address = config.http_listen;
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let scheme = if tls { "https" } else { "http" };
    let parts = Uri::builder().scheme(scheme).authority(address.to_string()).path_and_query("/livez").build();
    // Digits and constants make a valid address.
    Ok(parts.unwrap_or_default())
}

/// Status and body of a GET.
async fn ask(url: &Uri) -> Result<(StatusCode, String), String> {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_tls = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let stream =
        TcpStream::connect((host, port)).await.map_err(|error| format!("cannot connect: {error}"))?;
    if !is_tls {
        return ask_over(stream, url).await;
    }
    let failed = |error: &dyn Display| format!("no TLS: {error}");
    let server = ServerName::try_from(host.to_owned()).map_err(|error| failed(&error))?;
    let connector = guard::connector_to_anyone().map_err(|error| failed(&error))?;
    let stream = connector.connect(server, stream).await.map_err(|error| failed(&error))?;
    ask_over(stream, url).await
}

/// The same, over a connection that stands.
async fn ask_over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    url: &Uri,
) -> Result<(StatusCode, String), String> {
    let failed = |error: hyper::Error| format!("no HTTP answer: {error}");
    let (mut sender, connection) =
        http1::handshake::<_, String>(TokioIo::new(stream)).await.map_err(failed)?;
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::CONNECTION, "close")
        .body(String::new())
        .map_err(|error| error.to_string())?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(failed)?;
        Ok((answer.status(), text(answer.into_body()).await))
    };
    // How the connection ends matters to nobody once the answer is there.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

/// The beginning of a body; a body that breaks off is shown as far as it came.
async fn text(mut body: Incoming) -> String {
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if bytes.len() >= SHOWN {
            bytes.truncate(SHOWN);
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_can_be_asked_are_taken() {
        for good in ["http://127.0.0.1:2112/livez", "https://worker/readyz", "http://[::1]:2112/health"] {
            assert_eq!(url(good).unwrap().to_string(), good);
        }
        for bad in ["worker:2112", "/livez", "", "ftp://worker/"] {
            assert!(url(bad).unwrap_err().starts_with("allowed: http://"), "{bad}");
        }
    }

    #[test]
    fn without_an_address_the_worker_of_this_environment_is_asked() {
        let environment = Environment::from([
            ("METRICS_PORT".to_owned(), "9100".to_owned()),
            ("WORKER_PORT".to_owned(), "nonsense that concerns others".to_owned()),
        ]);
        assert_eq!(own_worker(&environment).unwrap(), "http://127.0.0.1:9100/livez");
        assert_eq!(own_worker(&Environment::default()).unwrap(), "http://127.0.0.1:2112/livez");
        let own = |settings: &[(&str, &str)]| {
            let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            own_worker(&settings.collect()).unwrap().to_string()
        };
        assert_eq!(own(&[("LISTEN_ADDRESS", "10.0.0.7")]), "http://10.0.0.7:2112/livez");
        assert_eq!(own(&[("LISTEN_ADDRESS", "::")]), "http://[::1]:2112/livez");
        let encrypted = [("TLS_CERT", "/not/here"), ("TLS_KEY", "/nor/here"), ("METRICS_TLS", "auto")];
        assert_eq!(own(&encrypted), "https://127.0.0.1:2112/livez");
        assert_eq!(own(&[("TLS_CERT", "/not/here"), ("METRICS_TLS", "off")]), "http://127.0.0.1:2112/livez");
        let wrong = Environment::from([("METRICS_PORT".to_owned(), "99999".to_owned())]);
        assert_eq!(own_worker(&wrong).unwrap_err().exit_code(), 2);
    }
}
