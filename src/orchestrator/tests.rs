//! The client against real sockets: the development orchestrator in both modes, and servers that misbehave.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::http::{HeaderMap, StatusCode};
use axum::response::Response as HttpResponse;
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::transport::{Identity, ServerTlsConfig};
use tonic::{Request, Response, Status};

use super::*;
use crate::dev::{Contract, DevConfig, DevOrchestrator, JobRequest};
use crate::domain::{
    Backend, ErrorCode, HostUsage, Metrics as Figures, ModelType, Progress, Strictness, TaskError, TaskPhase,
    TaskResult, TaskSpec,
};
use crate::guard::SecretFile;
use crate::wire::pb;
use crate::wire::pb::orchestrator_service_server::{OrchestratorService, OrchestratorServiceServer};

fn worker() -> WorkerId {
    WorkerId::parse("w").unwrap()
}

fn job() -> JobId {
    JobId::parse("j").unwrap()
}

fn client_with(config: Config) -> Client {
    Client::new(config, worker(), Strictness::Warn, Metrics::new()).unwrap()
}

fn config(address: SocketAddr) -> Config {
    Config::parse(&address.to_string()).unwrap()
}

fn registration() -> Registration {
    let capabilities = Capabilities {
        cpu_cores: 2,
        memory_bytes: 1 << 30,
        max_tasks: 3,
        gpus: Vec::new(),
        model_types: vec!["neural_network".into()],
        backends: vec![Backend::Cpu],
    };
    Registration { worker_id: worker(), capabilities, address: "localhost:50052".into(), held: Vec::new() }
}

fn claim() -> ClaimRequest {
    ClaimRequest {
        worker_id: worker(),
        slots_available: 1,
        max_tasks: 1,
        backends: vec!["cpu"],
        warm_jobs: vec![job()],
        gpu_memory_available_bytes: 0,
    }
}

fn outcome(identity: &TaskIdentity, ending: Result<(), ErrorCode>) -> TaskOutcome {
    let result = TaskResult {
        train: Figures { loss: 0.5, accuracy: 0.75 },
        validation: Some(Figures { loss: 0.25, accuracy: 0.5 }),
        samples: 3200,
        steps: 100,
        backend: Backend::Cpu,
        device: "cpu".into(),
        weights: bytes::Bytes::from(vec![7; 5 << 20]),
        reference: None,
    };
    TaskOutcome {
        identity: identity.clone(),
        model: ModelType::parse("neural_network").unwrap(),
        epoch: 0,
        ending: ending.map(|()| result).map_err(|code| TaskError::new(code, "because")),
        notes: Vec::new(),
        duration: Duration::from_secs(1),
        energy_joules: None,
    }
}

fn view(task: &TaskSpec) -> TaskView {
    TaskView {
        identity: task.identity.clone(),
        model: task.model.clone(),
        epoch: task.epoch,
        phase: TaskPhase::Running,
        progress: Progress { step: 1, total_steps: 100, loss: 2.0, accuracy: 0.125, ..Progress::default() },
        claimed_at: SystemTime::now(),
        retries: 0,
        lease: None,
    }
}

fn heartbeat(tasks: Vec<TaskView>) -> Heartbeat {
    Heartbeat {
        worker_id: worker(),
        phase: WorkerPhase::Busy,
        tasks,
        host: HostUsage::default(),
        gpus: Vec::new(),
        slots_available: 1,
    }
}

async fn start(contract: Contract) -> DevOrchestrator {
    restart(contract, (Ipv4Addr::LOCALHOST, 0).into()).await
}

async fn restart(contract: Contract, listen: SocketAddr) -> DevOrchestrator {
    let long_poll = Duration::from_millis(50);
    DevOrchestrator::start(DevConfig { listen, contract, long_poll, ..DevConfig::default() }).await.unwrap()
}

fn create_job(orchestrator: &DevOrchestrator) {
    let request = JobRequest {
        job_id: job(),
        model: ModelType::parse("neural_network").unwrap(),
        dataset_path: "builtin:digits".into(),
        hyperparameters: BTreeMap::new(),
        epochs: 1,
    };
    orchestrator.board().update(|board| board.create_job(request)).unwrap();
}

async fn claimed(client: &Client) -> Box<TaskSpec> {
    client.claim(&claim()).await.unwrap().tasks.pop().expect("a task waits").expect("it is a good one")
}

#[tokio::test]
async fn an_extended_orchestrator_is_used_in_full() {
    let orchestrator = start(Contract::Extended).await;
    let client = client_with(config(orchestrator.local_addr()));
    let registered = client.register(&registration()).await.unwrap();
    let expected = Registered {
        mode: Mode::Extended,
        heartbeat_interval: Some(Duration::from_secs(5)),
        lease: Some(Duration::from_secs(30)),
    };
    assert_eq!(registered, expected);
    assert!(client.claim(&claim()).await.unwrap().tasks.is_empty(), "an empty poll is no error");

    create_job(&orchestrator);
    let task = claimed(&client).await;
    assert_eq!((task.identity.attempt, task.total_epochs), (1, Some(1)));
    let answer = client.heartbeat(&heartbeat(vec![view(&task)])).await.unwrap();
    assert_eq!(
        answer,
        HeartbeatAnswer { renewed: vec![task.identity.task_id.clone()], ..HeartbeatAnswer::default() }
    );
    assert!(!client.report_progress(&view(&task)).await.unwrap());
    client.report(&outcome(&task.identity, Ok(()))).await.unwrap();
    client.report(&outcome(&task.identity, Ok(()))).await.unwrap();
    let summary = orchestrator.board().read(|board| board.job(&job()).unwrap());
    assert_eq!((summary.completed, summary.reports), (1, 2));
    assert_eq!(summary.epochs[0].validation_loss, Some(0.25));

    let given_back = claimed(&client).await;
    assert!(client.release(&given_back.identity, "drain").await.unwrap());
    let again = claimed(&client).await;
    assert_eq!((&again.identity.task_id, again.identity.attempt), (&given_back.identity.task_id, 2));

    assert_eq!(
        client.job_state(&job()).await.unwrap(),
        JobState { wanted: true, ended: false, known: true, total_tasks: 10 }
    );
    orchestrator.board().update(|board| board.cancel_job(&job())).unwrap();
    assert!(client.report_progress(&view(&again)).await.unwrap());
    let answer = client.heartbeat(&heartbeat(vec![view(&again)])).await.unwrap();
    assert_eq!(answer.cancel, std::slice::from_ref(&again.identity.task_id));
    assert_eq!(
        client.job_state(&job()).await.unwrap(),
        JobState { wanted: false, ended: true, known: true, total_tasks: 10 }
    );
    orchestrator.shutdown().await;
}

#[tokio::test]
async fn a_base_orchestrator_is_served_by_the_same_client() {
    let orchestrator = start(Contract::Base).await;
    let client = client_with(config(orchestrator.local_addr()));
    let registered = client.register(&registration()).await.unwrap();
    assert_eq!(registered, Registered { mode: Mode::Base, heartbeat_interval: None, lease: None });
    assert!(client.claim(&claim()).await.unwrap().tasks.is_empty());

    create_job(&orchestrator);
    let task = claimed(&client).await;
    assert_eq!((task.identity.attempt, task.lease, task.total_epochs), (0, None, None));
    assert_eq!(client.heartbeat(&heartbeat(vec![view(&task)])).await.unwrap(), HeartbeatAnswer::default());
    assert!(!client.report_progress(&view(&task)).await.unwrap());
    let summary = orchestrator.board().read(|board| board.job(&job()).unwrap());
    assert_eq!(summary.current, Some(Figures { loss: 2.0, accuracy: 0.125 }));
    assert!(!client.release(&task.identity, "drain").await.unwrap());
    client.report(&outcome(&task.identity, Ok(()))).await.unwrap();
    for _ in 1..10 {
        let task = claimed(&client).await;
        client.report(&outcome(&task.identity, Ok(()))).await.unwrap();
    }
    assert_eq!(
        client.job_state(&job()).await.unwrap(),
        JobState { wanted: true, ended: true, known: true, total_tasks: 10 }
    );
    let unknown = JobId::parse("forgotten").unwrap();
    assert_eq!(
        client.job_state(&unknown).await.unwrap(),
        JobState { wanted: true, ended: false, known: false, total_tasks: 0 }
    );
    orchestrator.shutdown().await;
}

#[tokio::test]
async fn a_call_about_an_unknown_task_is_rejected() {
    let orchestrator = start(Contract::Extended).await;
    let client = client_with(config(orchestrator.local_addr()));
    let identity = TaskIdentity { task_id: TaskId::parse("t").unwrap(), job_id: job(), attempt: 1 };
    let error = client.report(&outcome(&identity, Err(ErrorCode::Panic))).await.unwrap_err();
    assert!(
        matches!(&error, OrchestratorError::Rejected(text) if text.contains("task_id: \"t\"")),
        "{error}"
    );
    orchestrator.shutdown().await;
}

#[tokio::test]
async fn the_same_client_finds_a_restarted_orchestrator_and_its_new_mode() {
    let orchestrator = start(Contract::Base).await;
    let address = orchestrator.local_addr();
    let client = client_with(config(address));
    client.register(&registration()).await.unwrap();
    orchestrator.shutdown().await;

    for call in [
        client.claim(&claim()).await.map(drop),
        client.job_state(&job()).await.map(drop),
        client.register(&registration()).await.map(drop),
    ] {
        assert!(matches!(call, Err(OrchestratorError::Unreachable(_))), "{call:?}");
    }
    assert_eq!(client.mode(), Mode::Base, "an orchestrator that is away tells nothing of its contract");

    let orchestrator = restart(Contract::Extended, address).await;
    create_job(&orchestrator);
    assert_eq!(client.register(&registration()).await.unwrap().mode, Mode::Extended);
    assert_eq!(claimed(&client).await.identity.attempt, 1);
    orchestrator.shutdown().await;

    let orchestrator = restart(Contract::Base, address).await;
    assert!(client.heartbeat(&heartbeat(Vec::new())).await.unwrap().reregister);
    assert_eq!(client.register(&registration()).await.unwrap().mode, Mode::Base);
    orchestrator.shutdown().await;
}

#[tokio::test]
async fn where_nothing_listens_nothing_is_reached() {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let client = client_with(config(address));
    let error = client.register(&registration()).await.unwrap_err();
    assert!(matches!(&error, OrchestratorError::Unreachable(text) if text.contains("refused")), "{error}");
    let error = client.claim(&claim()).await.unwrap_err();
    assert!(matches!(error, OrchestratorError::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_at_the_deadline() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let short = Duration::from_millis(100);
    let deadlines = Deadlines { claim: short, report: short, other: short };
    let client = client_with(Config { deadlines, ..config(listener.local_addr().unwrap()) });
    let calls = async {
        let started = Instant::now();
        let error = client.register(&registration()).await.unwrap_err();
        assert!(matches!(error, OrchestratorError::Unreachable(_)), "{error}");
        let error = client.claim(&claim()).await.unwrap_err();
        assert!(
            matches!(&error, OrchestratorError::Unreachable(text) if text.contains("within 100ms")),
            "{error}"
        );
        assert!(started.elapsed() >= 2 * short);
    };
    let hold = async {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
        }
    };
    tokio::select! {
        () = calls => {}
        () = hold => {}
    }
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_middle_is_no_answer() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let client = client_with(config(listener.local_addr().unwrap()));
    let break_off = async {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket.read(&mut [0; 64]).await;
        }
    };
    let registration = registration();
    tokio::select! {
        error = client.register(&registration) => {
            assert!(matches!(&error, Err(OrchestratorError::Unreachable(_))), "{error:?}");
        }
        () = break_off => {}
    }
}

/// A server that a test gives up with its last line.
struct Fake {
    address: SocketAddr,
    _stop: DropGuard,
}

async fn serve(mut server: Server, routes: impl Into<Routes>) -> Fake {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let router = server.add_routes(routes.into());
    let ended = stop.clone().cancelled_owned();
    TaskTracker::new().spawn(router.serve_with_incoming_shutdown(TcpIncoming::from(listener), ended));
    Fake { address, _stop: stop.drop_guard() }
}

/// Lets only callers with `Bearer s3cret` come as far as being told that there is no such method.
async fn doorkeeper(headers: HeaderMap) -> HttpResponse {
    let status = match headers.get("authorization").map(|value| value.as_bytes()) {
        Some(b"Bearer s3cret") => Status::unimplemented("no such method"),
        _ => Status::unauthenticated("who are you?"),
    };
    status.into_http()
}

#[tokio::test]
async fn a_refused_credential_is_for_good_and_a_good_one_goes_with_every_call() {
    let fake = serve(Server::builder(), axum::Router::new().fallback(doorkeeper)).await;
    let error = client_with(config(fake.address)).register(&registration()).await.unwrap_err();
    assert!(matches!(&error, OrchestratorError::Refused(text) if text.contains("who are you?")), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "s3cret\n").unwrap();
    let client =
        client_with(Config { token_file: Some(SecretFile::token(&token_file)), ..config(fake.address) });
    assert_eq!(client.register(&registration()).await.unwrap().mode, Mode::Base);
    assert!(!format!("{client:?}").contains("s3cret"));
}

#[tokio::test]
async fn a_web_server_is_not_taken_for_a_base_orchestrator() {
    let routes = axum::Router::new().fallback(|| async { StatusCode::NOT_FOUND });
    let fake = serve(Server::builder(), routes).await;
    let error = client_with(config(fake.address)).register(&registration()).await.unwrap_err();
    assert!(matches!(&error, OrchestratorError::Unreachable(text) if text.contains("404")), "{error}");
}

#[tokio::test]
async fn https_trusts_the_given_authority_and_no_other() {
    let identity = Identity::from_pem(include_str!("tests/server.pem"), include_str!("tests/server-key.pem"));
    let server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
    let fake = serve(server, Routes::new(OrchestratorServiceServer::new(Grudging))).await;
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("authority.pem");
    let endpoint = format!("https://localhost:{}", fake.address.port());

    std::fs::write(&ca_file, include_str!("tests/authority.pem")).unwrap();
    let config = Config {
        ca_file: Some(SecretFile::new("ORCHESTRATOR_TLS_CA", &ca_file)),
        ..Config::parse(&endpoint).unwrap()
    };
    let error = client_with(config.clone()).register(&registration()).await.unwrap_err();
    assert!(matches!(&error, OrchestratorError::Refused(text) if text == "the fleet is full"), "{error}");

    std::fs::write(&ca_file, include_str!("tests/other-authority.pem")).unwrap();
    let error = client_with(config).register(&registration()).await.unwrap_err();
    assert!(
        matches!(&error, OrchestratorError::Unreachable(text) if text.contains("certificate")),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_answered_but_not_granted_is_an_error() {
    let fake = serve(Server::builder(), Routes::new(OrchestratorServiceServer::new(Grudging))).await;
    let client = client_with(config(fake.address));
    let error = client.register(&registration()).await.unwrap_err();
    assert!(matches!(&error, OrchestratorError::Refused(text) if text == "the fleet is full"), "{error}");
    assert!(client.claim(&claim()).await.unwrap().tasks.is_empty(), "a task without an id is none");
    let identity = TaskIdentity { task_id: TaskId::parse("t").unwrap(), job_id: job(), attempt: 1 };
    let error = client.report(&outcome(&identity, Ok(()))).await.unwrap_err();
    assert!(matches!(&error, OrchestratorError::Busy(text) if text.contains("disk full")), "{error}");
    assert!(
        client.job_state(&job()).await.unwrap().wanted,
        "a base orchestrator says in words that it forgot"
    );
}

#[tokio::test]
async fn calls_are_measured_by_method_and_code() {
    let orchestrator = start(Contract::Base).await;
    let metrics = Metrics::new();
    let registry = Registry::new();
    metrics.register(&registry).unwrap();
    let config = config(orchestrator.local_addr());
    let client = Client::new(config, worker(), Strictness::Warn, metrics).unwrap();
    client.register(&registration()).await.unwrap();
    client.claim(&claim()).await.unwrap();
    create_job(&orchestrator);
    client.claim(&claim()).await.unwrap();
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    for (code, method) in
        [("UNIMPLEMENTED", "RegisterWorker"), ("NO_TASK", "AssignTask"), ("OK", "AssignTask")]
    {
        let series =
            format!("worker_orchestrator_rpc_seconds_count{{code=\"{code}\",method=\"{method}\"}} 1");
        assert!(text.contains(&series), "{series}\n{text}");
    }
    orchestrator.shutdown().await;
}

#[tokio::test]
async fn the_trait_can_be_used_as_an_object() {
    let orchestrator = start(Contract::Extended).await;
    let object: Arc<dyn Orchestrator> = Arc::new(client_with(config(orchestrator.local_addr())));
    assert_eq!(object.register(&registration()).await.unwrap().mode, Mode::Extended);
    orchestrator.shutdown().await;
}

/// Answers every call of the worker, and grants none.
struct Grudging;

type Answer<T> = Result<Response<T>, Status>;

fn never<T>() -> Answer<T> {
    Err(Status::internal("not called in these tests"))
}

#[async_trait]
impl OrchestratorService for Grudging {
    async fn register_worker(
        &self,
        _: Request<pb::RegisterWorkerRequest>,
    ) -> Answer<pb::RegisterWorkerResponse> {
        let message = "the fleet is full".to_owned();
        Ok(Response::new(pb::RegisterWorkerResponse { message, ..Default::default() }))
    }
    async fn assign_task(&self, _: Request<pb::AssignTaskRequest>) -> Answer<pb::AssignTaskResponse> {
        Ok(Response::new(pb::AssignTaskResponse::default()))
    }
    async fn report_task_completion(
        &self,
        request: Request<pb::TaskCompletionRequest>,
    ) -> Answer<pb::TaskCompletionResponse> {
        let message = format!("disk full; you said: {}", request.into_inner().error_message);
        Ok(Response::new(pb::TaskCompletionResponse { acknowledged: false, message }))
    }
    async fn get_job_status(&self, _: Request<pb::GetJobStatusRequest>) -> Answer<pb::GetJobStatusResponse> {
        Err(Status::unknown("job not found: j"))
    }
    async fn create_training_job(
        &self,
        _: Request<pb::TrainingJobRequest>,
    ) -> Answer<pb::TrainingJobResponse> {
        never()
    }
    async fn update_job_metrics(&self, _: Request<pb::JobMetricsRequest>) -> Answer<pb::JobMetricsResponse> {
        never()
    }
    async fn cancel_job(&self, _: Request<pb::CancelJobRequest>) -> Answer<pb::CancelJobResponse> {
        never()
    }
    async fn get_worker_activity(
        &self,
        _: Request<pb::WorkerActivityRequest>,
    ) -> Answer<pb::WorkerActivityResponse> {
        never()
    }
    async fn heartbeat(&self, _: Request<pb::HeartbeatRequest>) -> Answer<pb::HeartbeatResponse> {
        never()
    }
    async fn report_progress(&self, _: Request<pb::TaskProgress>) -> Answer<pb::ReportProgressResponse> {
        never()
    }
    async fn release_task(&self, _: Request<pb::ReleaseTaskRequest>) -> Answer<pb::ReleaseTaskResponse> {
        never()
    }
}
