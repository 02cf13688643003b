//! Who is let in by a real worker, what strangers cost it, and that nothing it says has a secret in it.

#[path = "../src/guard/testing.rs"]
#[allow(unreachable_pub, dead_code, reason = "shared with the library's own tests")]
mod certificates;
#[path = "support/fleet.rs"]
mod fleet;
mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use certificates::{Authority, replace};
use fleet::{Fleet, terminate_tls};
use rustix::process::Signal;
use support::*;
use tensorfleet_worker::dev::Contract;
use tensorfleet_worker::wire::worker_pb;
use tensorfleet_worker::wire::worker_pb::worker_service_client::WorkerServiceClient;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

const TOKEN: &str = "marker-token-0123456789abcdef";

/// What an HTTP server answers to `head`, over a connection that is closed afterwards.
fn ask(address: SocketAddr, head: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A server that refuses early may reset what it did not read.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, answer)
}

fn get_as(address: SocketAddr, path: &str, token: &str) -> (u16, String) {
    ask(address, &format!("GET {path} HTTP/1.0\r\nHost: w\r\nAuthorization: Bearer {token}\r\n\r\n"))
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

fn token_in(folder: &Path) -> String {
    let path = folder.join("token");
    replace(&path, TOKEN);
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_closes_everything_but_health_and_changes_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = token_in(folder.path());
    let worker = WorkerProcess::start(NOBODY, &[("AUTH_TOKEN_FILE", &path)]);
    for open in ["/", "/livez", "/health", "/metrics"] {
        assert_eq!(worker.get(open).0, 200, "{open}");
    }
    assert_eq!(worker.get("/readyz").0, 503);
    for private in ["/api/v1/status", "/api/v1/tasks", "/debug/pprof/", "/debug/pprof/profile", "/nothing"] {
        let (status, answer) = get_as(worker.http, private, "wrong");
        assert_eq!(status, 401, "{private}");
        assert!(answer.to_lowercase().contains("www-authenticate: bearer"), "{answer}");
        assert!(answer.contains("unauthenticated"), "{answer}");
        assert_eq!(worker.get(private).0, 401, "{private}");
    }
    assert_eq!(get_as(worker.http, "/api/v1/status", TOKEN).0, 200);
    assert_eq!(get_as(worker.http, "/nothing", TOKEN).0, 404);

    let mut client = worker.client().await;
    for request in
        [Request::new(worker_pb::GetStatusRequest {}), with_token(worker_pb::GetStatusRequest {}, "wrong")]
    {
        assert_eq!(client.get_status(request).await.unwrap_err().code(), Code::Unauthenticated);
    }
    let drain = client.drain(worker_pb::DrainRequest { deadline_seconds: 1 }).await;
    assert_eq!(drain.unwrap_err().code(), Code::Unauthenticated);
    client.get_status(with_token(worker_pb::GetStatusRequest {}, TOKEN)).await.unwrap();
    let channel = Endpoint::from_shared(format!("http://{}", worker.grpc)).unwrap().connect().await.unwrap();
    HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
    let mut reflection = ServerReflectionClient::new(channel);
    let listed = reflection.server_reflection_info(tokio_stream::empty()).await;
    assert_eq!(listed.unwrap_err().code(), Code::Unauthenticated);

    replace(path.as_ref(), "another-token\n");
    eventually("the new token is taken", || get_as(worker.http, "/api/v1/status", "another-token").0 == 200);
    assert_eq!(get_as(worker.http, "/api/v1/status", TOKEN).0, 401);
    let metrics = worker.get("/metrics").1;
    assert!(metrics.contains("worker_refused_total{reason=\"token\",server=\"grpc\"} 4"), "{metrics}");
    assert!(!worker.log().iter().any(|line| line.to_string().contains("whoever reaches WORKER_PORT")));
}

#[test]
fn metrics_ask_for_the_token_where_that_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let path = token_in(folder.path());
    let worker = WorkerProcess::start(NOBODY, &[("AUTH_TOKEN_FILE", &path), ("METRICS_AUTH", "true")]);
    for path in ["/metrics", "/health"] {
        assert_eq!(worker.get(path).0, 401, "{path}");
        assert_eq!(get_as(worker.http, path, TOKEN).0, 200, "{path}");
    }
    assert_eq!(worker.get("/livez").0, 200);
}

#[test]
fn a_worker_that_lets_everybody_in_says_so() {
    let said = |settings: &[(&str, &str)]| {
        let worker = WorkerProcess::start(NOBODY, settings);
        worker
            .log()
            .iter()
            .any(|line| line["level"] == "WARN" && line.to_string().contains("whoever reaches WORKER_PORT"))
    };
    assert!(said(&[]));
    assert!(!said(&[("LISTEN_ADDRESS", "127.0.0.1")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ports_speak_tls_and_ask_for_certificates() {
    let fleet = Fleet::new();
    fleet.issue("worker");
    let (certificate, key, ca) = (fleet.text("worker.pem"), fleet.text("worker.key"), fleet.text("ca.pem"));
    let settings = [("TLS_CERT", certificate.as_str()), ("TLS_KEY", &key), ("TLS_CLIENT_CA", &ca)];
    let worker = WorkerProcess::start(NOBODY, &settings);
    let known = fleet.authority.issue("operator");
    let stranger = Authority::new().issue("stranger");
    let standing = fleet.channel(worker.grpc, Some(&known)).await.unwrap();
    assert!(fleet.channel(worker.grpc, None).await.is_err());
    assert!(fleet.channel(worker.grpc, Some(&stranger)).await.is_err());
    let plain = Endpoint::from_shared(format!("http://{}", worker.grpc)).unwrap().connect().await;
    if let Ok(channel) = plain {
        let answer = WorkerServiceClient::new(channel).get_status(worker_pb::GetStatusRequest {}).await;
        assert!(answer.is_err(), "plain text was answered");
    }
    // On the other port probes and scrapers need no certificate, and what is private asks for one.
    assert_eq!(fleet.get(worker.http, "/livez", None).await, 200);
    assert_eq!(fleet.get(worker.http, "/metrics", None).await, 200);
    assert_eq!(fleet.get(worker.http, "/api/v1/status", None).await, 401);
    assert_eq!(fleet.get(worker.http, "/api/v1/status", Some(&known)).await, 200);
    assert_eq!(fleet.get(worker.http, "/livez", Some(&stranger)).await, 0);
    assert_eq!(ask(worker.http, "GET /livez HTTP/1.0\r\n\r\n").0, 0, "plain text was answered");

    // A new authority and a new certificate: new connections see them, the one that stands goes on.
    let successor = Fleet::new();
    let renewed = successor.authority.issue("worker");
    replace(&fleet.path("ca.pem"), &successor.authority.pem);
    replace(&fleet.path("worker.pem"), &renewed.certificate);
    replace(&fleet.path("worker.key"), &renewed.key);
    let operator = successor.authority.issue("operator");
    let limit = Instant::now() + PATIENCE;
    while successor.channel(worker.grpc, Some(&operator)).await.is_err() {
        assert!(Instant::now() < limit, "the new certificate is not served; {:#?}", worker.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(fleet.channel(worker.grpc, Some(&known)).await.is_err());
    let mut standing = WorkerServiceClient::new(standing);
    standing.get_status(worker_pb::GetStatusRequest {}).await.expect("the connection was dropped");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_orchestrator_is_reached_by_mutual_tls_with_the_certificate_of_the_day() {
    let orchestrator = orchestrator(Contract::Extended).await;
    let fleet = Fleet::new();
    fleet.issue("worker");
    let server = fleet.authority.issue("orchestrator");
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let front = terminate_tls(&fleet, &server, orchestrator.local_addr(), anywhere).await;
    let (ca, certificate, key) = (fleet.text("ca.pem"), fleet.text("worker.pem"), fleet.text("worker.key"));
    let at = format!("https://127.0.0.1:{}", front.address.port());
    let settings = [
        ("ORCHESTRATOR_TLS_CA", ca.as_str()),
        ("ORCHESTRATOR_TLS_CERT", &certificate),
        ("ORCHESTRATOR_TLS_KEY", &key),
        ("ORCHESTRATOR_TLS_SERVER_NAME", "localhost"),
        ("ANALYTIC_EPOCH_DELAY", "0"),
    ];
    let worker = WorkerProcess::start_at(&at, &settings);
    let job = submit(orchestrator.local_addr(), simulated_job(1)).await;
    wait_for_end(orchestrator.board(), &job).await;
    assert_each_once(orchestrator.board(), &job, 10);
    assert!(front.accepted.load(std::sync::atomic::Ordering::SeqCst) > 0);

    // A whole new authority on both sides; the orchestrator restarts, the worker does not.
    let successor = Fleet::new();
    let renewed = successor.authority.issue("worker");
    replace(&fleet.path("ca.pem"), &successor.authority.pem);
    replace(&fleet.path("worker.pem"), &renewed.certificate);
    replace(&fleet.path("worker.key"), &renewed.key);
    let address = front.address;
    front.server.abort();
    let _ = front.server.await;
    let server = successor.authority.issue("orchestrator");
    let front = terminate_tls(&successor, &server, orchestrator.local_addr(), address).await;
    let job = submit(orchestrator.local_addr(), simulated_job(1)).await;
    wait_for_end(orchestrator.board(), &job).await;
    assert_each_once(orchestrator.board(), &job, 10);
    assert!(front.accepted.load(std::sync::atomic::Ordering::SeqCst) > 0);
    drop(worker);
    front.server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_say_little_or_too_much_are_let_go_and_the_others_served() {
    let worker = WorkerProcess::start(NOBODY, &[]);
    // The preface of HTTP/2 and the head of a frame that never comes.
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let grpc = [&b""[..], &PREFACE[..10], PREFACE];
    let http = [&b""[..], b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: w\r\nX-Slow: a"];
    let mut slow = Vec::new();
    for _ in 0..20 {
        for (address, words) in [(worker.grpc, grpc), (worker.http, http)] {
            for word in words {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(word).unwrap();
                slow.push(stream);
            }
        }
    }
    // While all of them wait, others are served.
    assert_eq!(worker.get("/livez").0, 200);
    worker.client().await.get_status(worker_pb::GetStatusRequest {}).await.unwrap();
    let began = Instant::now();
    for mut stream in slow {
        stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("a silent connection was kept for {:?}: {error}", began.elapsed()),
        }
    }

    let head =
        |headers: &str| format!("GET /livez HTTP/1.1\r\nHost: w\r\nConnection: close\r\n{headers}\r\n");
    assert_eq!(ask(worker.http, &head("")).0, 200);
    let many: String = (0..100).map(|number| format!("X-{number}: a\r\n")).collect();
    assert_eq!(ask(worker.http, &head(&many)).0, 431, "too many headers");
    let long = format!("X: {}\r\n", "a".repeat(100_000));
    assert!(matches!(ask(worker.http, &head(&long)).0, 431 | 0), "a header too long");
    assert!(matches!(
        ask(worker.http, &format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000))).0,
        414 | 431 | 0
    ));
    assert_eq!(ask(worker.http, "NONSENSE\r\n\r\n").0, 400);

    let mut client = worker.client().await;
    let large = worker_pb::CancelTaskRequest { task_id: "x".repeat(2 << 20) };
    let refused = client.cancel_task(large).await.unwrap_err();
    assert!(matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted), "{refused}");
    let mut loaded = Request::new(worker_pb::GetStatusRequest {});
    loaded.metadata_mut().insert("x-long", "a".repeat(100_000).parse().unwrap());
    client.get_status(loaded).await.unwrap_err();
    worker.client().await.get_status(worker_pb::GetStatusRequest {}).await.unwrap();
    assert!(worker.log().iter().all(|line| line["level"] != "ERROR"), "{:#?}", worker.log());
}

/// A machine that is gone without a word: its connection stays open and nobody answers.
#[test]
fn a_half_open_connection_is_noticed() {
    let worker = WorkerProcess::start(NOBODY, &[]);
    let mut stream = TcpStream::connect(worker.grpc).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let began = Instant::now();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(began.elapsed() < Duration::from_secs(90), "it took {:?}", began.elapsed());
}

#[test]
fn profiles_are_not_for_the_asking() {
    let worker = WorkerProcess::start(NOBODY, &[]);
    let answers: Vec<u16> = (0..30).map(|_| worker.get("/debug/pprof/profile?seconds=x").0).collect();
    assert_eq!(answers[0], 400);
    assert!(answers.contains(&429), "{answers:?}");
    assert_eq!(worker.get("/livez").0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_anything_that_the_worker_says() {
    let fleet = Fleet::new();
    let issued = fleet.issue("worker");
    let folder = tempfile::tempdir().unwrap();
    let token = token_in(folder.path());
    let (certificate, key) = (fleet.text("worker.pem"), fleet.text("worker.key"));
    let targets = "trace,h2=trace,hyper=trace,hyper_util=trace,rustls=trace,tonic=trace,tower=trace";
    let settings = [
        ("AUTH_TOKEN_FILE", token.as_str()),
        ("TLS_CERT", &certificate),
        ("TLS_KEY", &key),
        ("METRICS_TLS", "off"),
        ("TRAINING_BACKEND", "cpu"),
        ("LOG_LEVEL", targets),
    ];
    let shown = command(&settings).args(["config", "show"]).output().unwrap();
    let checked = command(&settings).args(["config", "check"]).output().unwrap();
    // It takes no task and refuses all that is asked of it, after it has heard the token.
    let orchestrator = orchestrator(Contract::Extended).await;
    let mut worker = WorkerProcess::start(orchestrator.local_addr(), &settings);
    let channel = {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&fleet.authority.pem));
        let endpoint = Endpoint::from_shared(format!("https://localhost:{}", worker.grpc.port())).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    };
    let mut client = WorkerServiceClient::new(channel);
    let mut said = Vec::new();
    let url =
        "https://me:marker-password@127.0.0.1:1/data.csv?X-Amz-Signature=marker-signature#marker-fragment";
    for (number, path) in
        [url, &url.replace("https", "s3"), &url.replace("https://", "htp:")].iter().enumerate()
    {
        let task = worker_pb::TaskRequest {
            task_id: format!("t{number}"),
            job_id: "j".into(),
            model_type: "neural_network".into(),
            dataset_path: (*path).to_owned(),
            epoch: 0,
            batch_start: 0,
            batch_end: 10,
            ..Default::default()
        };
        let answer = client.execute_task(with_token(task, TOKEN)).await;
        said.push(format!("{answer:?}"));
    }
    let too_long = worker_pb::TaskRequest {
        task_id: "t9".into(),
        job_id: "j".into(),
        model_type: "neural_network".into(),
        dataset_path: format!("{url}{}", "x".repeat(5000)),
        batch_end: 10,
        ..Default::default()
    };
    said.push(format!("{:?}", client.execute_task(with_token(too_long, TOKEN)).await));
    let wrong = client.get_status(with_token(worker_pb::GetStatusRequest {}, "marker-wrong")).await;
    said.push(format!("{wrong:?}"));
    said.push(get_as(worker.http, "/api/v1/tasks", "marker-wrong").1);
    for path in ["/health", "/metrics", "/api/v1/status", "/api/v1/tasks", "/readyz", "/debug/pprof/"] {
        let (status, answer) = get_as(worker.http, path, TOKEN);
        assert_eq!(status, 200, "{path}");
        said.push(answer);
    }
    let log = worker.log();
    assert!(log.iter().any(|line| line["level"] == "TRACE"), "nothing was traced");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", worker.child.id())).unwrap();
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(cores.split_whitespace().nth(4), Some("0"), "{cores}");
    worker.signal(Signal::TERM);
    worker.wait();
    said.extend(worker.log().iter().map(ToString::to_string));
    for output in [shown, checked] {
        assert!(output.status.success(), "{output:?}");
        said.push(String::from_utf8_lossy(&output.stdout).into_owned());
        said.push(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let secrets = ["marker", TOKEN].into_iter().chain(issued.key.lines().filter(|line| line.len() > 30));
    for secret in secrets {
        for text in &said {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tells_apart_what_tls_is_not_content_with() {
    let (fleet, strangers) = (Fleet::new(), Fleet::new());
    fleet.issue("worker");
    let orchestrator = orchestrator(Contract::Extended).await;
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let server =
        terminate_tls(&fleet, &fleet.issue("orchestrator"), orchestrator.local_addr(), anywhere).await;
    let address = format!("https://localhost:{}", server.address.port());
    let (ca, other) = (fleet.text("ca.pem"), strangers.text("ca.pem"));
    let (certificate, key) = (fleet.text("worker.pem"), fleet.text("worker.key"));
    let own = [("ORCHESTRATOR_TLS_CERT", certificate.as_str()), ("ORCHESTRATOR_TLS_KEY", &key)];
    let ask = |settings: &[(&str, &str)]| {
        let common = [("TRAINING_BACKEND", "cpu"), ("ORCHESTRATOR_ADDRESS", &address)];
        let output = command(&[&common[..], settings].concat()).args(["doctor", "--json"]).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["check"] == "orchestrator.grpc");
        finding.unwrap_or_else(|| panic!("{report}")).clone()
    };
    let cases: [(&[(&str, &str)], &str); 3] = [
        (&[("ORCHESTRATOR_TLS_CA", &other), own[0], own[1]], "set ORCHESTRATOR_TLS_CA"),
        (
            &[
                ("ORCHESTRATOR_TLS_CA", &ca),
                ("ORCHESTRATOR_TLS_SERVER_NAME", "fleet.example"),
                own[0],
                own[1],
            ],
            "set ORCHESTRATOR_TLS_SERVER_NAME",
        ),
        (&[("ORCHESTRATOR_TLS_CA", &ca)], "set ORCHESTRATOR_TLS_CERT"),
    ];
    for (settings, repair) in cases {
        let finding = ask(settings);
        assert_eq!(finding["level"], "error", "{settings:?}: {finding}");
        assert!(finding["repair"].as_str().unwrap().contains(repair), "{settings:?}: {finding}");
    }
    let finding = ask(&[("ORCHESTRATOR_TLS_CA", &ca), own[0], own[1]]);
    assert_eq!(finding["level"], "ok", "{finding}");
    assert!(finding["message"].as_str().unwrap().contains("extended contract"), "{finding}");
}

#[test]
fn the_health_check_of_an_image_follows_the_configuration() {
    let fleet = Fleet::new();
    fleet.issue("worker");
    let (certificate, key) = (fleet.text("worker.pem"), fleet.text("worker.key"));
    let cases: [&[(&str, &str)]; 3] = [
        &[("TLS_CERT", &certificate), ("TLS_KEY", &key)],
        &[("TLS_CERT", &certificate), ("TLS_KEY", &key), ("METRICS_TLS", "off")],
        &[("LISTEN_ADDRESS", "127.0.0.2")],
    ];
    for settings in cases {
        let mut worker = WorkerProcess::start(NOBODY, settings);
        let port = worker.http.port().to_string();
        let health = || {
            command(&[settings, &[("METRICS_PORT", port.as_str())]].concat()).arg("health").output().unwrap()
        };
        let answer = health();
        assert_eq!(answer.status.code(), Some(0), "{settings:?}: {answer:?}");
        worker.signal(Signal::TERM);
        worker.wait();
        assert_eq!(health().status.code(), Some(1), "{settings:?}");
    }
}
