//! `health`: asks a worker over HTTP whether it is well, for container engines and scripts without curl.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Exit, Failure, ui};
use crate::config::{Config, Environment, Layers};

/// How long a worker may take to answer; one that takes longer is not well.
const PATIENCE: Duration = Duration::from_secs(4);

/// How much of an answer is shown, in bytes.
const SHOWN: usize = 4096;

/// Arguments of `health`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to ask: /livez (the process works), /readyz (it takes tasks) or /health of a worker
    /// [default: http://127.0.0.1:METRICS_PORT/livez]
    #[arg(long, value_name = "URL", value_parser = url)]
    pub url: Option<Uri>,
}

/// For clap: an address that can be asked.
fn url(raw: &str) -> Result<Uri, String> {
    let fits =
        |url: &Uri| url.scheme_str() == Some("http") && url.host().is_some_and(|host| !host.is_empty());
    raw.parse().ok().filter(fits).ok_or_else(|| "allowed: http://host:port/path".to_owned())
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

/// The worker that runs here with the same environment.
fn own_worker(environment: &Environment) -> Result<Uri, Failure> {
    let mut environment = environment.clone();
    environment.retain(|name, _| name == "METRICS_PORT");
    let config = Config::resolve(&Layers { environment, ..Layers::default() })?.config;
    let address = format!("127.0.0.1:{}", config.http_listen.port());
    let parts = Uri::builder().scheme("http").authority(address).path_and_query("/livez").build();
    // Digits and constants make a valid address.
    Ok(parts.unwrap_or_default())
}

/// Status and body of a GET.
async fn ask(url: &Uri) -> Result<(StatusCode, String), String> {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, url.port_u16().unwrap_or(80)))
        .await
        .map_err(|error| format!("cannot connect: {error}"))?;
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
        for good in ["http://127.0.0.1:2112/livez", "http://worker/readyz", "http://[::1]:2112/health"] {
            assert_eq!(url(good).unwrap().to_string(), good);
        }
        for bad in ["https://worker/livez", "worker:2112", "/livez", "", "ftp://worker/"] {
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
        let wrong = Environment::from([("METRICS_PORT".to_owned(), "99999".to_owned())]);
        assert_eq!(own_worker(&wrong).unwrap_err().exit_code(), 2);
    }
}
