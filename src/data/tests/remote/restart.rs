//! The cache and processes that end: by a kill in the middle of a download, or after one.

use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use super::*;

/// Tells the child where the server is, and its folder.
const CHILD: &str = "DATA_OF_ANOTHER_PROCESS";

/// More than some pieces of a download.
fn large() -> String {
    format!("x,y\n{}", "1,a\n2,b\n".repeat(300_000))
}

fn worker_in(folder: &Path, port: u16) -> Config {
    let mut config = Config::new(folder);
    config.cache = Cache { folder: folder.join("cache"), max_bytes: 1 << 30 };
    config.remote.allowed_hosts = vec![AllowedHost::parse(&format!("127.0.0.1:{port}")).unwrap()];
    config.remote.local_addresses = LocalAddresses::Allowed;
    config
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join("cache")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_kill_leaves_no_half_file_and_a_download_serves_the_next_process() {
    if let Ok(told) = std::env::var(CHILD) {
        let (port, folder) = told.split_once(' ').unwrap();
        let url = format!("http://127.0.0.1:{port}/large.csv");
        let config = worker_in(Path::new(folder), port.parse().unwrap());
        assert_eq!(load(&url, &all(), &config, &|| Ok(())).unwrap().train.len(), 600_000);
        return;
    }
    let half = Arc::new(AtomicBool::new(true));
    let (asked, hears) = channel();
    let asked = Mutex::new(asked);
    let server = Server::start({
        let half = Arc::clone(&half);
        move |request| {
            asked.lock().unwrap().send(()).unwrap();
            let whole = Answer::ok("ETag: \"v1\"\r\n", large());
            match request.headers.get("if-none-match") {
                Some(_) => Answer::new("304 Not Modified", "", b""),
                None if half.load(Ordering::SeqCst) => {
                    let most = whole.wire.len() * 4 / 5;
                    Answer::raw(&whole.wire[..most], Then::Wait(Duration::from_secs(120)))
                }
                None => whole,
            }
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let another = || {
        let this =
            "data::tests::remote::restart::a_kill_leaves_no_half_file_and_a_download_serves_the_next_process";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", this]).stdout(Stdio::piped()).stderr(Stdio::null());
        command.env(CHILD, format!("{} {}", server.port, folder.path().display()));
        command
    };
    let patience = Duration::from_secs(100);
    let mut killed = another().spawn().unwrap();
    hears.recv_timeout(patience).unwrap();
    let started = Instant::now();
    let some_is_there = || {
        let new = names(folder.path()).into_iter().find(|name| name.ends_with(".new"));
        new.is_some_and(|name| {
            fs::metadata(folder.path().join("cache").join(name)).is_ok_and(|file| file.len() > 0)
        })
    };
    while !some_is_there() {
        assert!(started.elapsed() < patience, "nothing is written");
        thread::yield_now();
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let left = names(folder.path());
    assert!(left.iter().all(|name| name.ends_with(".new") || name.ends_with(".lock")), "{left:?}");

    half.store(false, Ordering::SeqCst);
    for _ in 0..2 {
        let output = another().output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let asked: Vec<_> =
        server.requests().iter().map(|request| request.headers.get("if-none-match").cloned()).collect();
    assert_eq!(asked, [None, None, Some("\"v1\"".to_owned())]);
    let kept = names(folder.path());
    let content = kept.iter().find(|name| name.contains('-')).unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("cache").join(content)).unwrap(), large());
    assert!(kept.iter().all(|name| !name.ends_with(".new")), "{kept:?}");
}
