//! A real Prometheus in a process of its own, and its promtool.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{PATIENCE, eventually, get};

/// The name under which the tests scrape workers.
pub const JOB: &str = "tensorfleet-worker";

/// The program `name` of Debian's package prometheus.
pub fn program(name: &str) -> Command {
    let found = Command::new("sh").args(["-c", &format!("command -v {name}")]).output().unwrap();
    assert!(found.status.success(), "{name} is missing: scripts/test installs the package prometheus");
    Command::new(name)
}

/// Runs promtool; what it finds fails the test.
pub fn promtool(arguments: &[&str], input: &str) {
    let mut child = program("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let checked = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && checked.stderr.is_empty(), "promtool {arguments:?}: {said}");
}

/// Killed when dropped.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Scrapes `targets` as the job [`JOB`] and evaluates `rules`, both each second.
    pub fn start(targets: &[SocketAddr], rules: &[PathBuf]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let targets: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
        let rules: Vec<String> = rules.iter().map(|path| format!("'{}'", path.display())).collect();
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\n\
             scrape_configs: [{{job_name: {JOB}, static_configs: [{{targets: [{}]}}]}}]\n",
            rules.join(", "),
            targets.join(", "),
        );
        std::fs::write(&config, text).unwrap();
        // Between our look for a free port and its use somebody else may take it: then Prometheus ends.
        let limit = Instant::now() + PATIENCE;
        loop {
            let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut child = program("prometheus")
                .arg(format!("--config.file={}", config.display()))
                .arg(format!("--storage.tsdb.path={}", folder.path().join("tsdb").display()))
                .arg(format!("--web.listen-address={address}"))
                .arg("--log.level=info")
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            match wait_until_ready(&mut child, limit.saturating_duration_since(Instant::now())) {
                Ok(()) => return Self { child, address, _folder: folder },
                Err(said) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    assert!(said.contains("address already in use"), "Prometheus did not start: {said}");
                }
            }
        }
    }

    /// Whatever the API answers under `path`.
    pub fn api(&self, path: &str) -> Value {
        let (status, body) = get(self.address, &format!("/api/v1/{path}"));
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str::<Value>(&body).unwrap()["data"].take()
    }

    /// Asks until `query` has a result with at least one number, and returns it.
    pub fn query(&self, query: &str) -> Vec<Value> {
        let path = format!("query?query={}", encoded(query));
        let mut result = Vec::new();
        eventually(&format!("{query} has a result"), || {
            result = self.api(&path)["result"].as_array().unwrap().clone();
            result.iter().any(|series| series["value"][1] != "NaN")
        });
        result
    }

    /// Asks until `label` has values in the series that `selector` chooses, and returns them.
    pub fn label_values(&self, selector: &str, label: &str) -> Vec<String> {
        let path = format!("label/{label}/values?match[]={}", encoded(selector));
        let mut values = Vec::new();
        eventually(&format!("{selector} has values of {label}"), || {
            let found = self.api(&path);
            values = found.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect();
            !values.is_empty()
        });
        values
    }
}

/// Waits until Prometheus takes requests; else what it said.
fn wait_until_ready(child: &mut Child, patience: Duration) -> Result<(), String> {
    let (tell, lines) = std::sync::mpsc::channel();
    let log = BufReader::new(child.stderr.take().unwrap());
    // Read to the end: a program whose standard error is closed dies of the next line it logs.
    std::thread::spawn(move || {
        for line in log.lines().map_while(Result::ok) {
            let _ = tell.send(line);
        }
    });
    let limit = Instant::now() + patience;
    let mut said = String::new();
    while let Ok(line) = lines.recv_timeout(limit.saturating_duration_since(Instant::now())) {
        if line.contains("Server is ready to receive web requests") {
            return Ok(());
        }
        said += &line;
        said.push('\n');
    }
    Err(said)
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `text` for a query string.
fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Files in `folder` whose name ends in `ending`, in order.
pub fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no *{ending}", folder.display());
    files
}
