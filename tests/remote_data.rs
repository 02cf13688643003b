//! Data of other machines in the real program: a cache that outlives a killed process, and secrets that stay secret.
#![cfg(feature = "remote")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use support::*;
use tensorfleet_worker::dev::{Contract, JobStatus};

/// More than one piece of a download.
fn csv() -> String {
    let rows = (0..40_000).map(|row| format!("{},{},{}\n", row % 7, row * row % 101, row % 2));
    format!("x,z,y\n{}", rows.collect::<String>())
}

/// How the server answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Half of the body, and silence.
    Half,
    /// All of it, or that nothing has changed.
    Whole,
}

/// A server of one file, which tells of each request: its head, once the answer is sent.
struct Server {
    address: SocketAddr,
    mode: Arc<Mutex<Mode>>,
    requests: Receiver<String>,
}

impl Server {
    fn start(mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, mode) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(mode)));
        let (sender, requests) = channel();
        std::thread::spawn({
            let mode = Arc::clone(&mode);
            move || {
                let mut open = Vec::new();
                for stream in listener.incoming().map_while(Result::ok) {
                    let mode = *mode.lock().unwrap();
                    let head = answer(&stream, mode);
                    if mode == Mode::Half {
                        open.push(stream);
                    }
                    if sender.send(head).is_err() {
                        return;
                    }
                }
            }
        });
        Self { address, mode, requests }
    }

    fn url(&self) -> String {
        format!("http://{}/set.csv?X-Amz-Signature=s3cret", self.address)
    }

    fn next_request(&self) -> String {
        self.requests.recv_timeout(PATIENCE).expect("nobody asked")
    }
}

fn answer(mut stream: &TcpStream, mode: Mode) -> String {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let head: String =
        lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase() + "\n").collect();
    let body = csv();
    let known = "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n".to_owned();
    let length = body.len();
    let fresh =
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nETag: \"v1\"\r\nContent-Length: {length}\r\n\r\n");
    let wire = match mode {
        Mode::Whole if head.contains("if-none-match: \"v1\"") => known,
        Mode::Whole => fresh + &body,
        Mode::Half => fresh + body.get(..length * 4 / 5).unwrap(),
    };
    stream.write_all(wire.as_bytes()).unwrap();
    head
}

fn train(server: &Server, state: &Path) -> Command {
    let host = server.address.to_string();
    let mut command = command(&[("DATA_ALLOWED_HOSTS", &host), ("DATA_ALLOW_LOCAL_ADDRESSES", "true")]);
    command.env("STATE_DIR", state).args(["train", "--model-type", "logistic_regression", "--json"]);
    command.args(["--epochs", "1", "--backend", "cpu", "--seed", "1", "--set", "batch_size=1000"]);
    command.args(["--dataset", &server.url()]);
    command
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

#[test]
fn a_killed_download_leaves_no_half_file_and_a_finished_one_serves_the_next_process() {
    let state = tempfile::tempdir().unwrap();
    let cache = state.path().join("cache/data");
    let server = Server::start(Mode::Half);
    let mut killed =
        train(&server, state.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(!server.next_request().contains("if-none-match"));
    eventually("it is on its way", || names(&cache).iter().any(|name| name.ends_with(".new")));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let left = names(&cache);
    assert!(left.iter().all(|name| name.ends_with(".new") || name.ends_with(".lock")), "{left:?}");

    *server.mode.lock().unwrap() = Mode::Whole;
    let first = train(&server, state.path()).output().unwrap();
    assert_eq!(first.status.code(), Some(0), "{}", text(&first));
    assert!(!server.next_request().contains("if-none-match"), "half a file is no file");
    let kept = names(&cache);
    assert!(kept.iter().all(|name| !name.ends_with(".new")), "{kept:?}");
    let content = kept.iter().find(|name| name.contains('-')).unwrap();
    assert_eq!(std::fs::read_to_string(cache.join(content)).unwrap(), csv());

    let second = train(&server, state.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(0), "{}", text(&second));
    assert!(server.next_request().contains("if-none-match: \"v1\""), "the cache outlived the process");
    let end = |output: &Output| {
        let metrics: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (metrics["final"].clone(), metrics["rows_train"].clone())
    };
    assert_eq!(end(&first), end(&second));
    assert_eq!(end(&first).1, 32_000);
}

/// Everything in the files of `folder`, which has no folders.
fn contents(folder: &Path) -> String {
    let read =
        |name: &String| String::from_utf8_lossy(&std::fs::read(folder.join(name)).unwrap()).into_owned();
    names(folder).iter().map(read).collect()
}

#[test]
fn a_signature_in_a_url_is_in_no_output_of_train() {
    let (state, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(Mode::Whole);
    let output =
        train(&server, state.path()).env("LOG_LEVEL", "trace").arg("--out").arg(out.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(server.next_request().contains("s3cret"), "it is used");
    let shown = text(&output) + &contents(out.path()) + &contents(&state.path().join("cache/data"));
    assert!(shown.contains("/set.csv?…"), "{shown}");
    assert!(!shown.contains("s3cret"));
    // A host that is not allowed is an error with the same care.
    let refused = train(&server, state.path()).env("DATA_ALLOWED_HOSTS", "example.org").output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("DATA_ALLOWED_HOSTS") && !text(&refused).contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_nothing_that_a_worker_shows() {
    let server = Server::start(Mode::Whole);
    let host = server.address.to_string();
    let orchestrator = orchestrator(Contract::Extended).await;
    let worker = WorkerProcess::start(
        orchestrator.local_addr(),
        &[
            ("LOG_LEVEL", "trace"),
            ("TRAINING_BACKEND", "cpu"),
            ("DATA_ALLOWED_HOSTS", &host),
            ("DATA_ALLOW_LOCAL_ADDRESSES", "true"),
            ("S3_ENDPOINT", &format!("http://{host}")),
            ("AWS_ACCESS_KEY_ID", "s3cretid"),
            ("AWS_SECRET_ACCESS_KEY", "s3cretkey"),
        ],
    );
    let mut good = real_job(1);
    good.dataset_path = server.url();
    let mut bad = real_job(1);
    bad.dataset_path = "http://example.org/a?sig=s3cret".into();
    let mut object = real_job(1);
    object.dataset_path = "s3://bucket/set.csv".into();
    let mut ends = Vec::new();
    for (job, end) in [(good, JobStatus::Completed), (object, JobStatus::Completed), (bad, JobStatus::Failed)]
    {
        let id = submit(orchestrator.local_addr(), job).await;
        let summary = wait_for_end(orchestrator.board(), &id).await;
        assert_eq!(summary.status, end, "{summary:?}");
        ends.push(format!("{summary:?}"));
    }
    let pages =
        ["/health", "/metrics", "/api/v1/status", "/api/v1/tasks", "/readyz"].map(|path| worker.get(path).1);
    let shown = format!("{:?}{}{}", worker.log(), pages.concat(), ends.concat());
    assert!(shown.contains("example.org"), "the refusal is told: {shown}");
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[test]
fn credentials_are_masked_in_the_configuration() {
    for json in [&[][..], &["--json"]] {
        let output = command(&[("AWS_ACCESS_KEY_ID", "s3cretid"), ("AWS_SECRET_ACCESS_KEY", "s3cretkey")])
            .args(["config", "show"])
            .args(json)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let shown = text(&output);
        assert!(shown.contains("AWS_SECRET_ACCESS_KEY") && !shown.contains("s3cret"), "{shown}");
        // Alone it is a mistake, which is told without the value.
        let output =
            command(&[("AWS_SECRET_ACCESS_KEY", "s3cret key")]).args(["config", "check"]).args(json).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains("AWS_SECRET_ACCESS_KEY") && !text(&output).contains("s3cret"));
    }
}
