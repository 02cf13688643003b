//! The orchestrator over real sockets, spoken to by the generated client.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use tokio::time::timeout;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::*;
use crate::domain::JobId;
use crate::wire::NO_TASKS_AVAILABLE;
use crate::wire::pb::{self, orchestrator_service_client::OrchestratorServiceClient};

type Client = OrchestratorServiceClient<Channel>;

const PATIENCE: Duration = Duration::from_secs(60);

fn config(contract: Contract) -> DevConfig {
    DevConfig { listen: (Ipv4Addr::LOCALHOST, 0).into(), contract, ..DevConfig::default() }
}

async fn start(config: DevConfig) -> (DevOrchestrator, Client) {
    let orchestrator = DevOrchestrator::start(config).await.unwrap();
    let client = Client::new(channel(orchestrator.local_addr()));
    (orchestrator, client)
}

fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

fn job(epochs: i32) -> pb::TrainingJobRequest {
    pb::TrainingJobRequest {
        job_id: "j".into(),
        model_type: "cnn".into(),
        dataset_path: "builtin:digits".into(),
        hyperparameters: BTreeMap::from([("lr".into(), "0.1".into())]),
        epochs,
        ..Default::default()
    }
}

fn ask(worker: &str) -> pb::AssignTaskRequest {
    pb::AssignTaskRequest { worker_id: worker.into(), ..Default::default() }
}

fn report(task: &pb::AssignTaskResponse, worker: &str) -> pb::TaskCompletionRequest {
    pb::TaskCompletionRequest {
        task_id: task.task_id.clone(),
        job_id: task.job_id.clone(),
        worker_id: worker.into(),
        success: true,
        loss: 0.5,
        accuracy: 0.75,
        attempt: task.attempt,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_base_orchestrator_speaks_the_base_contract_only() {
    let long_poll = Duration::from_millis(50);
    let (orchestrator, mut client) = start(DevConfig { long_poll, ..config(Contract::Base) }).await;
    let empty = client.assign_task(ask("w")).await.unwrap_err();
    assert_eq!((empty.code(), empty.message()), (Code::Unknown, NO_TASKS_AVAILABLE));
    let code = |answer: Result<(), tonic::Status>| answer.unwrap_err().code();
    let answers = [
        code(client.register_worker(pb::RegisterWorkerRequest::default()).await.map(drop)),
        code(client.heartbeat(pb::HeartbeatRequest::default()).await.map(drop)),
        code(client.report_progress(pb::TaskProgress::default()).await.map(drop)),
        code(client.release_task(pb::ReleaseTaskRequest::default()).await.map(drop)),
    ];
    assert_eq!(answers, [Code::Unimplemented; 4]);

    let created = client.create_training_job(job(1)).await.unwrap().into_inner();
    assert_eq!((created.job_id.as_str(), created.status.as_str(), created.num_tasks), ("j", "PENDING", 10));
    let task = client.assign_task(ask("w")).await.unwrap().into_inner();
    assert_eq!((task.batch_start, task.batch_end, task.epoch), (0, 100, 0));
    assert_eq!((task.attempt, task.lease_seconds, task.total_epochs), (0, 0, 0));
    assert_eq!(task.hyperparameters["lr"], "0.1");
    let activity = client.get_worker_activity(pb::WorkerActivityRequest {}).await.unwrap().into_inner();
    assert_eq!((activity.total_workers, activity.workers[0].current_task_id.as_str()), (1, "j-e0-b0"));
    assert!(activity.workers[0].last_activity_time > 1_600_000_000);

    assert!(client.report_task_completion(report(&task, "w")).await.unwrap().into_inner().acknowledged);
    let status =
        client.get_job_status(pb::GetJobStatusRequest { job_id: "j".into() }).await.unwrap().into_inner();
    assert_eq!((status.status.as_str(), status.progress, status.total_tasks), ("RUNNING", 10, 10));
    assert_eq!((status.current_loss, status.current_accuracy), (0.5, 0.75));
    orchestrator.shutdown().await;
}

#[tokio::test]
async fn a_poll_ends_as_soon_as_work_arrives() {
    let long_poll = Duration::from_secs(3600);
    let (orchestrator, client) = start(DevConfig { long_poll, ..config(Contract::Extended) }).await;
    let polls = (0..20).map(|index| {
        let mut client = client.clone();
        async move { client.assign_task(ask(&format!("w{index}"))).await.unwrap().into_inner().task_id }
    });
    let create = async {
        // All of them have asked, and none got anything.
        orchestrator.board().wait_for(|board| (board.worker_activity().len() == 20).then_some(())).await;
        client.clone().create_training_job(job(2)).await.unwrap();
    };
    let (tasks, ()) =
        timeout(PATIENCE, async { tokio::join!(futures_util::future::join_all(polls), create) })
            .await
            .unwrap();
    let different: std::collections::BTreeSet<_> = tasks.into_iter().collect();
    assert_eq!(different.len(), 20);
    orchestrator.shutdown().await;
}

#[tokio::test]
async fn a_shutdown_ends_polls_at_once_and_loses_no_task() {
    let long_poll = Duration::from_secs(3600);
    let (orchestrator, mut client) = start(DevConfig { long_poll, ..config(Contract::Extended) }).await;
    let board = orchestrator.board().clone();
    let poll = client.assign_task(ask("w"));
    let stop = async {
        board.wait_for(|board| (!board.worker_activity().is_empty()).then_some(())).await;
        orchestrator.shutdown().await;
    };
    let (answer, ()) = timeout(PATIENCE, async { tokio::join!(poll, stop) }).await.unwrap();
    assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_silent_worker_loses_its_task_to_the_next() {
    let lease = Duration::from_millis(50);
    let (orchestrator, mut client) = start(DevConfig { lease, ..config(Contract::Extended) }).await;
    client.create_training_job(job(1)).await.unwrap();
    let first = client.assign_task(ask("silent")).await.unwrap().into_inner();
    assert_eq!((first.attempt, first.lease_seconds, first.total_epochs), (1, 1, 1));
    let again = timeout(PATIENCE, async {
        loop {
            let task = client.assign_task(ask("other")).await.unwrap().into_inner();
            if task.task_id == first.task_id {
                break task;
            }
            client.report_task_completion(report(&task, "other")).await.unwrap();
        }
    })
    .await
    .unwrap();
    assert!(again.attempt >= 2);
    client.report_task_completion(report(&first, "silent")).await.unwrap();
    let late = orchestrator.board().read(|board| board.completions(&JobId::parse("j").unwrap()).unwrap());
    assert!(!late.contains_key(&crate::domain::TaskId::parse(&first.task_id).unwrap()));
    orchestrator.shutdown().await;
}

#[tokio::test]
async fn a_task_that_waits_for_its_first_step_has_no_figures() {
    let (orchestrator, mut client) = start(config(Contract::Extended)).await;
    client.create_training_job(job(1)).await.unwrap();
    let task = client.assign_task(ask("w")).await.unwrap().into_inner();
    let current =
        || orchestrator.board().read(|board| board.job(&JobId::parse("j").unwrap()).unwrap().current);
    let mut progress = pb::TaskProgress {
        worker_id: "w".into(),
        job_id: task.job_id,
        task_id: task.task_id,
        attempt: task.attempt,
        ..Default::default()
    };
    client.report_progress(progress.clone()).await.unwrap();
    assert_eq!(current(), None);
    (progress.step, progress.loss, progress.accuracy) = (1, 0.5, 0.25);
    client.report_progress(progress.clone()).await.unwrap();
    assert_eq!(current().map(|metrics| (metrics.loss, metrics.accuracy)), Some((0.5, 0.25)));
    (progress.step, progress.loss, progress.accuracy) = (0, 0.0, 0.0);
    client.report_progress(progress).await.unwrap();
    assert_eq!(current().map(|metrics| metrics.loss), Some(0.5), "another task's start changes nothing");
    orchestrator.shutdown().await;
}

#[tokio::test]
async fn a_restart_may_take_the_board_over() {
    let (orchestrator, mut client) = start(config(Contract::Extended)).await;
    client.create_training_job(job(1)).await.unwrap();
    let task = client.assign_task(ask("w")).await.unwrap().into_inner();
    let (board, listen) = (orchestrator.board().clone(), orchestrator.local_addr());
    orchestrator.shutdown().await;
    let config = DevConfig { listen, ..config(Contract::Extended) };
    let orchestrator = DevOrchestrator::resume(config, &board).await.unwrap();
    assert_eq!(orchestrator.local_addr(), listen);
    let mut client = Client::new(channel(listen));
    client.report_task_completion(report(&task, "w")).await.unwrap();
    let summary = orchestrator.board().read(|board| board.job(&JobId::parse("j").unwrap()).unwrap());
    assert_eq!(summary.completed, 1);
    orchestrator.shutdown().await;
}

#[tokio::test]
async fn bad_calls_are_refused_by_name() {
    let (orchestrator, mut client) = start(config(Contract::Extended)).await;
    client.create_training_job(job(1)).await.unwrap();
    let again = client.create_training_job(job(1)).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    let epochs = client.create_training_job(job(0)).await.unwrap_err();
    assert_eq!(epochs.code(), Code::InvalidArgument);
    assert_eq!(epochs.message(), "epochs: \"0\" is not allowed; allowed: 1 to 100000");
    let nameless = client.assign_task(ask("")).await.unwrap_err();
    assert!(nameless.message().starts_with("worker_id: "));
    let unknown = client.cancel_job(pb::CancelJobRequest { job_id: "k".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let cancelled =
        client.cancel_job(pb::CancelJobRequest { job_id: "j".into() }).await.unwrap().into_inner();
    assert_eq!((cancelled.success, cancelled.previous_status.as_str()), (true, "PENDING"));
    orchestrator.shutdown().await;
}

#[tokio::test]
async fn health_is_served_and_a_watcher_does_not_hold_the_shutdown_up() {
    let (orchestrator, _client) = start(config(Contract::Extended)).await;
    let mut health = HealthClient::new(channel(orchestrator.local_addr()));
    let service = "orchestrator.OrchestratorService".to_owned();
    let request = HealthCheckRequest { service };
    let answer = health.check(request.clone()).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    let mut watch = health.watch(request).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    timeout(PATIENCE, orchestrator.shutdown()).await.unwrap();
}

/// The orchestrator without a socket, for simulations: calls go to it as to any service.
pub(crate) fn without_socket(config: &DevConfig) -> (BoardHandle, crate::orchestrator::Transport) {
    let board = BoardHandle::new(Board::new(config.contract, config.lease));
    let stop = CancellationToken::new();
    let service = Service {
        board: board.clone(),
        long_poll: config.long_poll,
        heartbeat_interval: config.heartbeat_interval,
        stop: stop.clone(),
    };
    TaskTracker::new().spawn(take_lost_tasks_back(board.clone(), stop));
    let service = OrchestratorServiceServer::new(service);
    let answer = move |request| tower::ServiceExt::oneshot(service.clone(), request);
    let service =
        tower::ServiceExt::map_err(
            tower::service_fn(answer),
            |never: std::convert::Infallible| match never {},
        );
    (board, crate::orchestrator::Transport::new(service))
}
