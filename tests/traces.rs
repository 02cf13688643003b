//! Traces of a real worker: what a collector receives by OTLP, and what the orchestrator and the log see of it.

#[path = "../src/guard/testing.rs"]
#[allow(unreachable_pub, dead_code, reason = "shared with the library's own tests")]
mod certificates;
mod support;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use certificates::{Authority, replace};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Attribute;
use opentelemetry_proto::tonic::trace::v1::Span;
use rustix::process::Signal;
use support::*;
use tensorfleet_worker::dev::Contract;
use tensorfleet_worker::wire::worker_pb;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, ServerTlsConfig};
use tonic::{Request, Response, Status};

const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

/// Keeps what it receives.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start(&self) -> String {
        format!("http://{}", self.serve(tonic::transport::Server::builder()).await)
    }

    async fn serve(&self, mut server: tonic::transport::Server) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(self.clone());
        let served = server.add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        spawn(served);
        address
    }

    fn spans(&self) -> Vec<Span> {
        let received = self.0.lock().unwrap();
        let resources = received.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }
}

fn text(span: &Span, name: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Attribute::StringValue(text)) => text.clone(),
        Some(Attribute::IntValue(number)) => number.to_string(),
        other => panic!("{name}: {other:?} in {span:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_traced_from_claim_to_report() {
    let collector = Collector::default();
    let endpoint = collector.start().await;
    let orchestrator = orchestrator(Contract::Extended).await;
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("ANALYTIC_EPOCH_DELAY", "0")];
    let mut worker = WorkerProcess::start(orchestrator.local_addr(), &settings);
    let job = submit(orchestrator.local_addr(), simulated_job(1)).await;
    wait_for_end(orchestrator.board(), &job).await;
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code(), Some(0));
    let spans = collector.spans();
    let tasks: Vec<_> = spans.iter().filter(|span| span.name == "task").collect();
    assert_eq!(tasks.len(), 10, "{spans:#?}");
    for task in tasks {
        assert_eq!(text(task, "job_id"), job.as_str());
        assert_eq!(text(task, "attempt"), "1");
        assert_eq!(text(task, "status"), "completed");
        let task_id = text(task, "task_id");
        let mut parts: Vec<_> = spans.iter().filter(|span| span.parent_span_id == task.span_id).collect();
        parts.sort_by_key(|span| span.start_time_unix_nano);
        let names: Vec<_> = parts.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["claim", "train", "report"], "{task_id}");
        for part in parts {
            assert_eq!(part.trace_id, task.trace_id);
            assert!(part.start_time_unix_nano >= task.start_time_unix_nano);
            assert!(part.end_time_unix_nano <= task.end_time_unix_nano);
        }
        let train = spans.iter().find(|span| span.name == "train" && span.parent_span_id == task.span_id);
        let within: Vec<_> =
            spans.iter().filter(|span| span.parent_span_id == train.unwrap().span_id).collect();
        assert!(matches!(within[..], [span] if span.name == "run"), "{within:#?}");
        let completed = worker
            .log()
            .into_iter()
            .find(|line| line["message"] == "task completed" && line["task_id"] == task_id.as_str());
        let completed = completed.unwrap_or_else(|| panic!("{task_id} is not in the log"));
        assert_eq!(completed["trace_id"], hex(&task.trace_id).as_str());
        assert_eq!((&completed["job_id"], &completed["attempt"]), (&job.as_str().into(), &1.into()));
    }
    let received = collector.0.lock().unwrap();
    let resource = received[0].resource_spans[0].resource.as_ref().unwrap();
    assert!(resource.attributes.iter().any(|attribute| attribute.key == "service.instance.id"));
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_asked_for_belongs_to_the_callers_trace() {
    let collector = Collector::default();
    let endpoint = collector.start().await;
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("ANALYTIC_EPOCH_DELAY", "0")];
    let mut worker = WorkerProcess::start(NOBODY, &settings);
    let mut request = Request::new(worker_pb::TaskRequest {
        task_id: "t1".into(),
        job_id: "j1".into(),
        model_type: "test".into(),
        hyperparameters: [("backend".to_owned(), "analytic".to_owned())].into(),
        batch_end: 10,
        ..Default::default()
    });
    request.metadata_mut().insert("traceparent", PARENT.parse().unwrap());
    let answer = worker.client().await.execute_task(request).await.unwrap();
    assert!(answer.get_ref().success, "{answer:?}");
    let back = answer.metadata().get("traceparent").unwrap().to_str().unwrap().to_owned();
    assert!(back.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && back != PARENT, "{back}");
    // Not reported, since nobody is there to report to; a worker that ends sends what it has.
    worker.signal(Signal::TERM);
    worker.wait();
    let spans = collector.spans();
    let train = spans.iter().find(|span| span.name == "train").unwrap_or_else(|| panic!("{spans:#?}"));
    assert_eq!(hex(&train.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_refused_leaves_the_trace_of_the_held_one_alone() {
    let collector = Collector::default();
    let endpoint = collector.start().await;
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("ANALYTIC_EPOCH_DELAY", "10m")];
    let mut worker = WorkerProcess::start(NOBODY, &settings);
    let request = |epoch| worker_pb::TaskRequest {
        task_id: "t1".into(),
        job_id: "j1".into(),
        model_type: "test".into(),
        hyperparameters: [("backend".to_owned(), "analytic".to_owned())].into(),
        epoch,
        batch_end: 10,
        ..Default::default()
    };
    let mut client = worker.client().await;
    let held = spawn({
        let (mut client, request) = (client.clone(), request(0));
        async move { client.execute_task(request).await }
    });
    let watched = watch(&mut client, "t1").await;
    let refused = client.execute_task(request(1)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::AlreadyExists);
    client.cancel_task(worker_pb::CancelTaskRequest { task_id: "t1".into() }).await.unwrap();
    assert!(!held.await.unwrap().unwrap().into_inner().success);
    drop(watched);
    let cancelled = worker.wait_for_log("task cancelled");
    worker.signal(Signal::TERM);
    worker.wait();
    let spans = collector.spans();
    let tasks: Vec<_> = spans.iter().filter(|span| span.name == "task").collect();
    let [task] = tasks[..] else { panic!("{spans:#?}") };
    assert_eq!(text(task, "status"), "cancelled");
    assert_eq!(cancelled["trace_id"], hex(&task.trace_id).as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_orchestrators_context_comes_in_and_goes_back_with_the_report() {
    let collector = Collector::default();
    let endpoint = collector.start().await;
    let orchestrator = Arc::new(fickle::Fickle::tracing(PARENT));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let service = {
        let seen = Arc::clone(&seen);
        InterceptedService::new(
            tensorfleet_worker::wire::pb::orchestrator_service_server::OrchestratorServiceServer::from_arc(
                orchestrator,
            ),
            move |request: Request<()>| {
                if let Some(header) = request.metadata().get("traceparent") {
                    seen.lock().unwrap().push(header.to_str().unwrap().to_owned());
                }
                Ok(request)
            },
        )
    };
    spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener)),
    );
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("ANALYTIC_EPOCH_DELAY", "0")];
    let mut worker = WorkerProcess::start(address, &settings);
    eventually("the report carries the context", || !seen.lock().unwrap().is_empty());
    worker.signal(Signal::TERM);
    worker.wait();
    let header = seen.lock().unwrap()[0].clone();
    assert!(header.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{header}");
    let spans = collector.spans();
    let task = spans.iter().find(|span| span.name == "report").unwrap_or_else(|| panic!("{spans:#?}"));
    assert_eq!(hex(&task.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    let log = worker.log();
    assert!(
        log.iter()
            .any(|line| line["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736" && line["task_id"] == "t"),
        "{log:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_context_goes_into_runners_and_comes_back_with_what_they_log() {
    let collector = Collector::default();
    let endpoint = collector.start().await;
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("TASK_ISOLATION", "process"),
        ("TRAINING_BACKEND", "cpu"),
        ("LOG_LEVEL", "debug"),
    ];
    let mut worker = WorkerProcess::start(NOBODY, &settings);
    let mut request = Request::new(worker_pb::TaskRequest {
        task_id: "t1".into(),
        job_id: "j1".into(),
        model_type: "neural_network".into(),
        dataset_path: "builtin:iris".into(),
        batch_end: 10,
        ..Default::default()
    });
    request.metadata_mut().insert("traceparent", PARENT.parse().unwrap());
    let answer = worker.client().await.execute_task(request).await.unwrap();
    assert!(answer.get_ref().success, "{answer:?}");
    worker.signal(Signal::TERM);
    worker.wait();
    let log = worker.log();
    let of_runner = log.iter().find(|line| line["runner"].is_u64() && line["task_id"] == "t1");
    let line = of_runner.unwrap_or_else(|| panic!("the runner says nothing of its task: {log:#?}"));
    assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736", "{line}");
    // Only the runner knows the attempt of what it logs.
    assert_eq!((&line["job_id"], line["attempt"].is_u64()), (&"j1".into(), true), "{line}");
}

fn simulated_task() -> worker_pb::TaskRequest {
    worker_pb::TaskRequest {
        task_id: "t1".into(),
        job_id: "j1".into(),
        model_type: "test".into(),
        hyperparameters: [("backend".to_owned(), "analytic".to_owned())].into(),
        batch_end: 10,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_reached_over_tls() {
    let authority = Authority::new();
    let issued = authority.issue("collector");
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    replace(&ca, &authority.pem);
    let collector = Collector::default();
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(&issued.certificate, &issued.key));
    let address = collector.serve(tonic::transport::Server::builder().tls_config(tls).unwrap()).await;
    let endpoint = format!("https://localhost:{}", address.port());
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.to_str().unwrap()),
        ("ANALYTIC_EPOCH_DELAY", "0"),
    ];
    let mut worker = WorkerProcess::start(NOBODY, &settings);
    assert!(worker.client().await.execute_task(simulated_task()).await.unwrap().into_inner().success);
    worker.signal(Signal::TERM);
    worker.wait();
    assert!(collector.spans().iter().any(|span| span.name == "task"), "{:#?}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_that_cannot_be_sent_are_told_of_while_the_worker_runs() {
    // Nobody takes what this port is sent, as where no collector runs.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("http://{port}");
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("ANALYTIC_EPOCH_DELAY", "0")];
    let worker = WorkerProcess::start(NOBODY, &settings);
    assert!(worker.client().await.execute_task(simulated_task()).await.unwrap().into_inner().success);
    // The outcome waits for an orchestrator, so that the task goes on; its parts are sent.
    let line = worker.wait_for_log("traces cannot be sent");
    assert!(line["message"].as_str().unwrap().contains("4317, not 4318"), "{line}");
    assert_eq!(line["level"], "WARN", "{line}");
}

/// What `doctor` finds of the collector at `endpoint`: level, message and repair of each check.
fn doctor(endpoint: &str, more: &[(&str, &str)]) -> (Option<i32>, Vec<[String; 4]>) {
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("TRAINING_BACKEND", "analytic")];
    let own = [("WORKER_PORT", "0"), ("METRICS_PORT", "0"), ("ORCHESTRATOR_ADDRESS", "127.0.0.1:1")];
    let output = command(&[&settings[..], &own, more].concat()).args(["doctor", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap().iter();
    let words = findings.map(|finding| {
        ["check", "level", "message", "repair"]
            .map(|name| finding[name].as_str().unwrap_or_default().to_owned())
    });
    let of_traces =
        words.filter(|[check, _, message, _]| check.starts_with("traces") || message.contains("OTEL"));
    (output.status.code(), of_traces.collect())
}

/// Checks and levels.
fn levels(findings: &[[String; 4]]) -> Vec<(&str, &str)> {
    findings.iter().map(|[check, level, ..]| (check.as_str(), level.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_sends_the_collector_no_trace_and_says_what_it_makes_of_that() {
    let well = [("traces.dns", "ok"), ("traces.tcp", "ok"), ("traces.grpc", "ok")];
    let collector = Collector::default();
    let (_, findings) = doctor(&collector.start().await, &[]);
    assert_eq!(levels(&findings), well, "{findings:?}");
    assert_eq!(collector.0.lock().unwrap().len(), 1, "it was asked");
    assert!(collector.spans().is_empty());

    let authority = Authority::new();
    let issued = authority.issue("collector");
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    replace(&ca, &authority.pem);
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(&issued.certificate, &issued.key));
    let port = collector.serve(tonic::transport::Server::builder().tls_config(tls).unwrap()).await.port();
    let trusts = [("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.to_str().unwrap())];
    let (_, findings) = doctor(&format!("https://localhost:{port}"), &trusts);
    assert_eq!(levels(&findings), well, "{findings:?}");
    replace(&ca, &Authority::new().pem);
    let (_, findings) = doctor(&format!("https://localhost:{port}"), &trusts);
    assert_eq!(levels(&findings).last(), Some(&("traces.grpc", "warning")), "{findings:?}");
    assert!(findings[2][2].contains("certificate"), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tells_apart_collectors_that_do_not_take_traces() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, findings) = doctor(&format!("http://{gone}"), &[]);
    assert_eq!(levels(&findings), [("traces.dns", "ok"), ("traces.tcp", "warning")], "{findings:?}");
    assert!(findings[1][2].contains(&gone.to_string()) && findings[1][3].contains("start the collector"));
    // The orchestrator is away as well, which is an error; traces alone never are.
    assert_eq!(code, Some(3));

    let (_, findings) = doctor("http://no-such-name.invalid:4317", &[]);
    assert_eq!(levels(&findings), [("traces.dns", "warning")], "{findings:?}");

    // One that lets nobody in.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let refuses =
        |_: Request<()>| -> Result<Request<()>, Status> { Err(Status::unauthenticated("who are you?")) };
    let service = InterceptedService::new(TraceServiceServer::new(Collector::default()), refuses);
    spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener)),
    );
    let (_, findings) = doctor(&format!("http://{address}"), &[]);
    assert_eq!(levels(&findings)[1..], [("traces.tcp", "ok"), ("traces.grpc", "warning")], "{findings:?}");
    assert!(findings[2][2].contains("Unauthenticated"), "{findings:?}");

    // One that speaks HTTP/1.1, as where traces are taken in another form: here the worker's own page.
    let worker = WorkerProcess::start(NOBODY, &[("TRAINING_BACKEND", "analytic")]);
    let (_, findings) = doctor(&format!("http://{}", worker.http), &[]);
    assert_eq!(levels(&findings)[1..], [("traces.tcp", "ok"), ("traces.grpc", "warning")], "{findings:?}");
    assert!(findings[2][3].contains("OTEL_EXPORTER_OTLP_ENDPOINT") && findings[2][3].contains("4317"));

    for wrong in ["collector", "ftp://collector:4317", "http://collector:high"] {
        let (code, findings) = doctor(wrong, &[]);
        assert_eq!(code, Some(2), "{findings:?}");
        let [[check, level, message, _]] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!((check.as_str(), level.as_str()), ("configuration", "error"));
        for part in ["OTEL_EXPORTER_OTLP_ENDPOINT", wrong, "http://host:port"] {
            assert!(message.contains(part), "{part} is missing in {message}");
        }
    }
}
