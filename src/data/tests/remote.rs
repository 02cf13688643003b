//! Data of other machines, from a real server on a socket of this one.

mod restart;
mod s3;
mod server;
mod upload;

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::super::remote::{AllowedHost, Cache, LocalAddresses};
use super::*;
use server::{Answer, Server, Then};

const CSV: &str = "x,y\n1,a\n2,b\n3,a\n4,b\n";

/// A worker's data, which may be fetched from 127.0.0.1.
struct Worker {
    folder: TempDir,
    config: Config,
}

impl Worker {
    fn new(server: &Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(folder.path());
        config.cache = Cache { folder: folder.path().join("cache/data"), max_bytes: 1 << 20 };
        let host = format!("127.0.0.1:{}", server.port);
        config.remote.allowed_hosts = vec![AllowedHost::parse(&host).unwrap()];
        config.remote.local_addresses = LocalAddresses::Allowed;
        config.remote.read_timeout = Duration::from_secs(5);
        Self { folder, config }
    }

    fn load(&self, path: &str) -> Result<Dataset, DataError> {
        load(path, &all(), &self.config, &|| Ok(()))
    }

    fn refused(&self, path: &str, code: ErrorCode, words: &[&str]) {
        expect(self.load(path).unwrap_err(), code, words);
    }

    /// Sizes of the contents that are kept.
    fn kept(&self) -> Vec<u64> {
        let mut kept: Vec<u64> = self
            .names()
            .iter()
            .filter(|name| name.contains('-'))
            .map(|name| fs::metadata(self.config.cache.folder.join(name)).unwrap().len())
            .collect();
        kept.sort_unstable();
        kept
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("cache/data")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

#[test]
fn what_has_an_etag_is_fetched_once_and_asked_after() {
    let server = Server::start(|request| match request.headers.get("if-none-match") {
        Some(tag) if tag == "\"v1\"" => Answer::new("304 Not Modified", "ETag: \"v1\"\r\n", b""),
        _ => Answer::ok("ETag: \"v1\"\r\n", CSV),
    });
    let worker = Worker::new(&server);
    let first = worker.load(&server.url("/a.csv")).unwrap();
    assert_eq!(first.train.len(), 4);
    assert_eq!(first.path, server.url("/a.csv"));
    assert_eq!(worker.load(&server.url("/a.csv")).unwrap(), first);
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!((requests[0].headers.get("if-none-match"), requests[0].target.as_str()), (None, "/a.csv"));
    assert_eq!(requests[1].headers["if-none-match"], "\"v1\"");
    assert_eq!(requests[0].headers["accept-encoding"], "identity");
    assert_eq!(worker.kept(), [CSV.len() as u64]);
}

#[test]
fn a_date_serves_where_there_is_no_etag() {
    let date = "Wed, 21 Oct 2015 07:28:00 GMT";
    let server = Server::start(move |request| match request.headers.get("if-modified-since") {
        Some(since) if since == date => Answer::new("304 Not Modified", "", b""),
        _ => Answer::ok(&format!("Last-Modified: {date}\r\n"), CSV),
    });
    let worker = Worker::new(&server);
    for _ in 0..2 {
        assert_eq!(worker.load(&server.url("/a.csv")).unwrap().train.len(), 4);
    }
    assert_eq!(server.requests()[1].headers["if-modified-since"], date);
}

#[test]
fn without_either_it_is_fetched_anew_and_kept_once() {
    let calls = AtomicUsize::new(0);
    let server = Server::start(move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => Answer::ok("", CSV),
        _ => Answer::ok("", format!("{CSV}5,a\n")),
    });
    let worker = Worker::new(&server);
    let rows = || worker.load(&server.url("/a.csv")).unwrap().train.len();
    assert_eq!((rows(), rows()), (4, 4));
    assert_eq!(worker.kept(), [CSV.len() as u64]);
    assert_eq!(rows(), 5);
    assert_eq!(worker.kept(), [CSV.len() as u64 + 4]);
}

#[test]
fn torn_entries_are_fetched_again() {
    let server = Server::start(|request| match request.headers.get("if-none-match") {
        Some(_) => Answer::new("304 Not Modified", "", b""),
        None => Answer::ok("ETag: \"v1\"\r\n", CSV),
    });
    let worker = Worker::new(&server);
    let whole = worker.load(&server.url("/a.csv")).unwrap();
    let file = |ending: &str| {
        let name = worker.names().into_iter().find(|name| name.contains(ending)).unwrap();
        worker.config.cache.folder.join(name)
    };
    fs::write(file("-"), &CSV[..7]).unwrap();
    assert_eq!(worker.load(&server.url("/a.csv")).unwrap(), whole);
    fs::write(file(".json"), "{\"etag\":\"\\\"v1\\\"\",\"by").unwrap();
    assert_eq!(worker.load(&server.url("/a.csv")).unwrap(), whole);
    fs::remove_file(file("-")).unwrap();
    assert_eq!(worker.load(&server.url("/a.csv")).unwrap(), whole);
    assert!(server.requests().iter().all(|request| !request.headers.contains_key("if-none-match")));
    // What a process left behind that died in the middle of a download.
    fs::write(worker.config.cache.folder.join("0123.new"), "half").unwrap();
    worker.load(&server.url("/a.csv")).unwrap();
    assert!(worker.names().iter().all(|name| !name.ends_with(".new")), "{:?}", worker.names());
}

#[test]
fn a_download_that_ends_early_leaves_nothing_behind() {
    let server = Server::start(|_| {
        let mut answer = Answer::ok("ETag: \"v1\"\r\n", CSV);
        answer.wire.truncate(answer.wire.len() - 5);
        answer
    });
    let worker = Worker::new(&server);
    worker.refused(&server.url("/a.csv"), ErrorCode::Unavailable, &["cannot be fetched", "a.csv"]);
    assert_eq!(worker.kept(), [0_u64; 0]);
    assert!(worker.names().iter().all(|name| name.ends_with(".lock")), "{:?}", worker.names());
}

#[test]
fn jobs_at_the_same_time_share_one_download() {
    let server = Server::start(|request| match request.headers.get("if-none-match") {
        Some(_) => Answer::new("304 Not Modified", "", b""),
        None => {
            thread::sleep(Duration::from_millis(300));
            Answer::ok("ETag: \"v1\"\r\n", CSV)
        }
    });
    let worker = Worker::new(&server);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert_eq!(worker.load(&server.url("/a.csv")).unwrap().train.len(), 4));
        }
    });
    let whole =
        server.requests().iter().filter(|request| !request.headers.contains_key("if-none-match")).count();
    assert_eq!((whole, server.requests().len()), (1, 6));
}

#[test]
fn the_least_recently_used_goes_first_and_never_what_is_in_use() {
    let rows = |rows: usize| format!("x,y\n{}", "1,a\n2,b\n".repeat(rows));
    let server = Server::start(move |request| Answer::ok("", rows(request.target[1..].parse().unwrap())));
    let mut worker = Worker::new(&server);
    // Files of 804, 1604 and 2404 bytes.
    worker.config.cache.max_bytes = 4_500;
    for path in ["/100", "/200", "/300"] {
        worker.load(&server.url(path)).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(worker.kept(), [1604, 2404]);
    worker.load(&server.url("/200")).unwrap();
    thread::sleep(Duration::from_millis(20));
    worker.load(&server.url("/100")).unwrap();
    assert_eq!(worker.kept(), [804, 1604]);
    // One that is being read stays, however old.
    let location =
        super::super::remote::Location::of_url(&server.url("/200"), &worker.config.remote).unwrap();
    let opened = super::super::remote::open(&location, &worker.config, &|| Ok(())).unwrap();
    worker.config.cache.max_bytes = 100;
    worker.load(&server.url("/300")).unwrap();
    assert_eq!(worker.kept(), [1604, 2404], "one is open here, the other was while room was made");
    drop(opened);
    worker.load(&server.url("/100")).unwrap();
    assert_eq!(worker.kept(), [804], "the last one goes with the next download");
}

#[test]
fn formats_are_told_by_their_bytes_from_anywhere() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(CSV.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let server = Server::start(move |_| Answer::ok("Content-Encoding: gzip\r\n", &packed));
    assert_eq!(Worker::new(&server).load(&server.url("/a")).unwrap().train.len(), 4);
}

#[test]
fn hosts_that_are_not_on_the_list_are_refused() {
    let server = Server::start(|_| Answer::ok("", CSV));
    let mut worker = Worker::new(&server);
    let code = ErrorCode::PermissionDenied;
    for url in
        ["http://example.org/a.csv", "https://127.0.0.1/a.csv", "http://127.0.0.1/a", "http://localhost/a"]
    {
        worker.refused(url, code, &["not allowed here", "DATA_ALLOWED_HOSTS", url]);
    }
    worker.config.remote.allowed_hosts = Vec::new();
    worker.refused(&server.url("/a.csv"), code, &["DATA_ALLOWED_HOSTS", "127.0.0.1:"]);
    let code = ErrorCode::InvalidArgument;
    worker.refused("http://me:hunter2@127.0.0.1/a", code, &["without a user", "…@127.0.0.1"]);
    let error = worker.load("http://me:hunter2@127.0.0.1/a").unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
    worker.refused("http://", code, &["dataset_path"]);
    worker.refused("ftp://127.0.0.1/a", code, &["https://HOST"]);
    worker.refused("http:127.0.0.1", code, &["https://HOST"]);
    assert!(server.requests().is_empty());
}

#[test]
fn local_addresses_are_refused_whatever_they_are_called() {
    let server = Server::start(|_| Answer::ok("", CSV));
    let mut worker = Worker::new(&server);
    worker.config.remote.local_addresses = LocalAddresses::Refused;
    let port = server.port;
    let hosts = ["127.0.0.1", "localhost", "[::1]", "[::ffff:7f00:1]"];
    worker.config.remote.allowed_hosts =
        hosts.iter().map(|host| AllowedHost::parse(&format!("{host}:{port}")).unwrap()).collect();
    // In decimal, hexadecimal, octal and shortened form it is still 127.0.0.1.
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
    ] {
        let words = ["a loopback address", "DATA_ALLOW_LOCAL_ADDRESSES", "leads to"];
        worker.refused(&format!("http://{host}:{port}/a"), ErrorCode::PermissionDenied, &words);
    }
    assert!(server.requests().is_empty());
    worker.config.remote.local_addresses = LocalAddresses::Allowed;
    assert!(worker.load(&format!("http://2130706433:{port}/a")).is_ok());
}

#[test]
fn refusals_of_the_host_are_passed_on() {
    let server = Server::start(|request| match request.target.as_str() {
        "/redirect" => Answer::new("302 Found", "Location: http://127.0.0.1/secret\r\n", b""),
        "/none" => Answer::new("404 Not Found", "", b"no"),
        "/closed" => Answer::new("403 Forbidden", "", b"no"),
        "/busy" => Answer::new("503 Service Unavailable", "", b"no"),
        "/garbage" => Answer::raw(b"\x16\x03\x01 this is no HTTP\r\n\r\n", Then::Close),
        "/changed" => Answer::new("304 Not Modified", "", b""),
        other => panic!("{other}"),
    });
    let worker = Worker::new(&server);
    for (path, code, words) in [
        ("/redirect", ErrorCode::InvalidArgument, ["redirect", "302"]),
        ("/none", ErrorCode::NotFound, ["404", "/none"]),
        ("/closed", ErrorCode::PermissionDenied, ["403", "/closed"]),
        ("/busy", ErrorCode::Unavailable, ["503", "/busy"]),
        ("/garbage", ErrorCode::Unavailable, ["cannot be fetched", "/garbage"]),
        ("/changed", ErrorCode::Unavailable, ["nothing has changed", "/changed"]),
    ] {
        worker.refused(&server.url(path), code, &words);
    }
    assert_eq!(server.requests().len(), 6);
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut worker = worker;
    worker.config.remote.allowed_hosts = vec![AllowedHost::parse(&format!("127.0.0.1:{gone}")).unwrap()];
    worker.refused(&format!("http://127.0.0.1:{gone}/a"), ErrorCode::Unavailable, &["cannot be fetched"]);
}

#[test]
fn a_signature_in_a_query_is_used_and_never_shown() {
    let server = Server::start(|_| Answer::new("404 Not Found", "", b""));
    let worker = Worker::new(&server);
    let error = worker.load(&server.url("/a.csv?X-Amz-Signature=hunter2")).unwrap_err().to_string();
    assert!(error.contains("/a.csv?…") && !error.contains("hunter2"), "{error}");
    assert_eq!(server.requests()[0].target, "/a.csv?X-Amz-Signature=hunter2");
}

#[test]
fn sizes_are_limited_as_they_are_said_and_as_they_come() {
    let server = Server::start(|request| match request.target.as_str() {
        "/said" => Answer::ok("", vec![b'1'; 100_000]),
        _ => {
            // No length is said.
            let mut wire = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
            wire.extend(vec![b'1'; 4 << 20]);
            Answer::raw(&wire, Then::Close)
        }
    });
    let mut worker = Worker::new(&server);
    worker.config.max_bytes = 50_000;
    for path in ["/said", "/unsaid"] {
        worker.refused(&server.url(path), ErrorCode::ResourceExhausted, &["50000 bytes", path]);
    }
    assert_eq!(worker.kept(), [0_u64; 0]);
}

#[test]
fn a_silent_host_is_given_up_and_a_cancelled_job_does_not_wait_for_it() {
    let server = Server::start(|request| {
        let wire = match request.target.as_str() {
            "/late" => &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx,y\n1,"[..],
            _ => b"",
        };
        Answer::raw(wire, Then::Wait(Duration::from_secs(20)))
    });
    let mut worker = Worker::new(&server);
    worker.config.remote.read_timeout = Duration::from_millis(300);
    for path in ["/mute", "/late"] {
        worker.refused(&server.url(path), ErrorCode::Unavailable, &["not answered in time", path]);
    }
    worker.config.remote.read_timeout = Duration::from_secs(30);
    let started = Instant::now();
    let check = || match started.elapsed() > Duration::from_millis(300) {
        true => Err(TaskError::new(ErrorCode::Cancelled, "enough")),
        false => Ok(()),
    };
    let error = load(&server.url("/mute"), &all(), &worker.config, &check).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Cancelled);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn a_host_that_trickles_is_given_up_when_the_job_is() {
    let server = Server::start(|_| {
        Answer::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nx,y\n", Then::Trickle)
    });
    let worker = Worker::new(&server);
    let started = Instant::now();
    let check = || match started.elapsed() > Duration::from_millis(500) {
        true => Err(TaskError::new(ErrorCode::TimedOut, "enough")),
        false => Ok(()),
    };
    let error = load(&server.url("/a"), &all(), &worker.config, &check).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TimedOut);
    assert_eq!(worker.kept(), [0_u64; 0]);
    assert!(worker.names().iter().all(|name| name.ends_with(".lock")), "{:?}", worker.names());
}

#[test]
fn what_is_no_data_set_is_named() {
    let server = Server::start(|request| match request.target.as_str() {
        "/page" => Answer::ok("Content-Type: text/csv\r\n", "<!DOCTYPE html><p>Please log in</p>"),
        "/parquet" => Answer::ok("", b"PAR1\0\0cut"),
        "/empty" => Answer::ok("", ""),
        // A part that nobody asked for.
        "/part" => Answer::new("206 Partial Content", "Content-Range: bytes 0-4/22\r\n", b"x,y\n1"),
        other => panic!("{other}"),
    });
    let worker = Worker::new(&server);
    let code = ErrorCode::InvalidArgument;
    worker.refused(&server.url("/page"), code, &["an HTML page", "/page"]);
    worker.refused(&server.url("/parquet"), code, &["Parquet file that is cut short"]);
    worker.refused(&server.url("/empty"), code, &["empty"]);
    worker.refused(&server.url("/part"), code, &["HTTP status 206"]);
}
