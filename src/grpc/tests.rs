//! The server over a real socket, in front of a worker that stands still.

use std::net::Ipv4Addr;
use std::time::Instant;

use futures_util::StreamExt as _;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};
use worker_pb::worker_service_client::WorkerServiceClient;

use super::*;
use crate::domain::{Backend, HostUsage, LinkState, WorkerId, WorkerPhase, WorkerStatus};
use crate::gpu::NoGpus;
use crate::worker::FixedWorker;

/// A worker that is well and idle.
pub(super) fn status() -> WorkerStatus {
    WorkerStatus {
        worker_id: WorkerId::parse("w-1").unwrap(),
        phase: WorkerPhase::Idle,
        reasons: Vec::new(),
        started_at: Instant::now(),
        slots_total: 3,
        slots_busy: 0,
        slots_polling: 3,
        tasks: Vec::new(),
        recent: Vec::new(),
        completed_tasks: 41,
        failed_tasks: 1,
        link: LinkState::Connected,
        registered: true,
        last_heartbeat: Some(std::time::UNIX_EPOCH),
        backend: Backend::Cpu,
        outbox_pending: 0,
        state_dir_writable: true,
    }
}

struct Running {
    worker: FixedWorker,
    shutdown: CancellationToken,
    server: JoinHandle<Result<(), Error>>,
    channel: Channel,
}

async fn start() -> Running {
    let (worker, handle) = WorkerHandle::fixed(status());
    let host = HostProbe::fixed(HostUsage { cpu_percent: 12.5, memory_bytes: 4096, memory_percent: 50.0 });
    let sources = Sources { handle, host, gpu: Arc::new(NoGpus), traces: Traces::default() };
    let config = Config { listen: (Ipv4Addr::LOCALHOST, 0).into(), strictness: Strictness::Warn };
    let server = Server::new(config.bind().unwrap(), sources, config.strictness);
    let address = server.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server = TaskTracker::new().spawn(server.serve(shutdown.clone()));
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    Running { worker, shutdown, server, channel: endpoint.connect().await.unwrap() }
}

fn task() -> worker_pb::TaskRequest {
    worker_pb::TaskRequest {
        task_id: "t1".into(),
        job_id: "j1".into(),
        model_type: "neural_network".into(),
        dataset_path: "builtin:digits".into(),
        epoch: 0,
        batch_start: 0,
        batch_end: 100,
        ..Default::default()
    }
}

#[tokio::test]
async fn the_status_is_told_in_both_forms() {
    let running = start().await;
    let mut client = WorkerServiceClient::new(running.channel.clone());

    let brief = worker_pb::WorkerStatusRequest { worker_id: String::new() };
    let brief = client.get_worker_status(brief).await.unwrap().into_inner();
    assert_eq!((brief.worker_id.as_str(), brief.status.as_str()), ("w-1", "IDLE"));
    assert_eq!((brief.completed_tasks, brief.cpu_usage, brief.memory_usage), (41, 12.5, 50.0));

    let other = worker_pb::WorkerStatusRequest { worker_id: "w-2".into() };
    assert_eq!(client.get_worker_status(other).await.unwrap_err().code(), Code::NotFound);

    let full = client.get_status(worker_pb::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((full.completed_tasks, full.failed_tasks, full.memory_usage), (41, 1, 4096));
    assert_eq!(full.last_heartbeat, "1970-01-01T00:00:00.000Z");
    assert_eq!(full.orchestrator_connection, "connected");
    assert_eq!(full.version, env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn bad_input_is_refused_with_field_value_and_what_is_allowed() {
    let running = start().await;
    let mut client = WorkerServiceClient::new(running.channel.clone());
    let cases = [
        (worker_pb::TaskRequest { batch_end: 0, ..task() }, ["batch_end", "\"0\"", "more than batch_start"]),
        (worker_pb::TaskRequest { epoch: -1, ..task() }, ["epoch", "\"-1\"", "0 to"]),
        (worker_pb::TaskRequest { model_type: "a b".into(), ..task() }, ["model_type", "a b", "A-Z"]),
        (worker_pb::TaskRequest { task_id: String::new(), ..task() }, ["task_id", "\"\"", "1 to 256"]),
    ];
    for (request, said) in cases {
        let refused = client.execute_task(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(said.iter().all(|part| refused.message().contains(part)), "{refused}");
    }
    let cancel = worker_pb::CancelTaskRequest { task_id: "a b".into() };
    assert_eq!(client.cancel_task(cancel).await.unwrap_err().code(), Code::InvalidArgument);
    let watch = worker_pb::WatchTaskRequest { task_id: String::new() };
    assert_eq!(client.watch_task(watch).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn health_follows_the_worker_and_its_watchers_do_not_hold_up_the_end() {
    let running = start().await;
    let mut client = HealthClient::new(running.channel.clone());
    let mut streams = Vec::new();
    for service in ["", "worker.WorkerService"] {
        let request = HealthCheckRequest { service: service.into() };
        let mut stream = client.watch(request).await.unwrap().into_inner();
        // The first word may be from before the worker was looked at.
        while stream.next().await.unwrap().unwrap().status() != ServingStatus::Serving {}
        streams.push(stream);
    }
    running.worker.say(WorkerStatus { phase: WorkerPhase::Draining, ..status() });
    for stream in &mut streams {
        while stream.next().await.unwrap().unwrap().status() != ServingStatus::NotServing {}
    }
    running.worker.say(status());
    for stream in &mut streams {
        while stream.next().await.unwrap().unwrap().status() != ServingStatus::Serving {}
    }
    let unknown = HealthCheckRequest { service: "other".into() };
    assert_eq!(client.check(unknown).await.unwrap_err().code(), Code::NotFound);

    running.shutdown.cancel();
    let ended = time::timeout(GRACE / 2, running.server).await;
    ended.expect("an open stream kept the server").unwrap().unwrap();
    for stream in &mut streams {
        assert!(stream.next().await.is_none());
    }
}

#[tokio::test]
async fn a_worker_that_ended_is_not_serving() {
    let running = start().await;
    drop(running.worker);
    let mut client = HealthClient::new(running.channel.clone());
    let mut stream = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    while stream.next().await.unwrap().unwrap().status() != ServingStatus::NotServing {}
}

#[tokio::test]
async fn reflection_lists_what_is_served_and_describes_it() {
    use v1::server_reflection_request::MessageRequest;
    use v1::server_reflection_response::MessageResponse;

    let running = start().await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(running.channel.clone());
    let ask = |message| v1::ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let questions = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("worker.WorkerService".into()),
        MessageRequest::FileByFilename("orchestrator.proto".into()),
        MessageRequest::FileContainingSymbol("grpc.health.v1.Health".into()),
    ];
    let questions = stream_of(questions.map(ask));
    let mut answers = client.server_reflection_info(questions).await.unwrap().into_inner();

    let Some(MessageResponse::ListServicesResponse(list)) = next(&mut answers).await.message_response else {
        panic!("no list of services")
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "worker.WorkerService",
        ]
    );
    for _ in 0..3 {
        let Some(MessageResponse::FileDescriptorResponse(file)) = next(&mut answers).await.message_response
        else {
            panic!("no descriptor")
        };
        assert!(!file.file_descriptor_proto.is_empty());
    }
}

#[tokio::test]
async fn reflection_speaks_the_older_version_too() {
    use v1alpha::server_reflection_request::MessageRequest;
    use v1alpha::server_reflection_response::MessageResponse;

    let running = start().await;
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(running.channel.clone());
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = client.server_reflection_info(stream_of([request])).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("no list of services")
    };
    assert_eq!(list.service.len(), 4);
}

fn stream_of<T: Send + 'static, const N: usize>(
    items: [T; N],
) -> impl futures_util::Stream<Item = T> + Send + 'static {
    futures_util::stream::iter(items)
}

async fn next(answers: &mut tonic::Streaming<v1::ServerReflectionResponse>) -> v1::ServerReflectionResponse {
    answers.next().await.unwrap().unwrap()
}

#[tokio::test]
async fn a_taken_port_is_told_by_the_name_of_its_variable() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let config = Config { listen: taken.local_addr().unwrap(), strictness: Strictness::Warn };
    let error = config.bind().unwrap_err().to_string();
    let port = config.listen.port().to_string();
    assert!(error.contains("WORKER_PORT") && error.contains(&port) && error.contains("allowed"), "{error}");
}

#[tokio::test]
async fn a_call_that_never_ends_does_not_keep_the_server() {
    let running = start().await;
    let mut client = WorkerServiceClient::new(running.channel.clone());
    // The worker of these tests never answers.
    let (called, call) = tokio::sync::oneshot::channel();
    let tracker = TaskTracker::new();
    tracker.spawn(async move {
        let mut pending = std::pin::pin!(client.execute_task(task()));
        assert!(futures_util::poll!(pending.as_mut()).is_pending());
        called.send(()).unwrap();
        pending.await
    });
    call.await.unwrap();
    running.shutdown.cancel();
    time::timeout(GRACE * 4, running.server).await.expect("the call kept the server").unwrap().unwrap();
}
