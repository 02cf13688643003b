//! The gRPC client.
//!
//! ```text
//! trait Orchestrator --> call: deadline, token, metrics --> one lazy channel --> orchestrator
//! ```
//!
//! Invariants: every call has a deadline that covers connecting too; a broken connection is made anew by the next
//! call; the mode is what the last registration that was answered found. Nothing is logged here: errors go to the
//! caller, who knows what they mean for its work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::config::{Config, ConfigError, Credential, Deadlines};
use super::metrics::Metrics;
use super::{
    ClaimRequest, Claimed, Heartbeat, HeartbeatAnswer, JobState, Mode, Orchestrator, OrchestratorError,
    Registered, Registration, answers, status,
};
use crate::domain::{JobId, Strictness, TaskIdentity, TaskOutcome, TaskView, WorkerId};
use crate::telemetry::traces::{Arrival, Stage, TRACEPARENT, Traces};
use crate::wire::pb::{self, orchestrator_service_client::OrchestratorServiceClient};
use crate::wire::{self, ClaimedTask, saturated};

/// Largest message in bytes: weights travel in reports and in tasks that go on from a state.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

type Grpc = OrchestratorServiceClient<Transport>;

#[cfg(not(test))]
type Transport = Channel;

/// In tests the calls can go to a service of the same process, through a network that is made of rules.
#[cfg(test)]
pub(crate) type Transport = tower::util::BoxCloneSyncService<
    tonic::codegen::http::Request<tonic::body::Body>,
    tonic::codegen::http::Response<tonic::body::Body>,
    BrokenWay,
>;

/// Why a call did not get through.
#[cfg(test)]
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BrokenWay(#[source] pub(crate) Box<dyn std::error::Error + Send + Sync>);

#[cfg(not(test))]
fn transport(channel: Channel) -> Transport {
    channel
}

#[cfg(test)]
fn transport(channel: Channel) -> Transport {
    Transport::new(tower::ServiceExt::map_err(channel, |error: tonic::transport::Error| {
        BrokenWay(error.into())
    }))
}

/// The orchestrator behind an address.
#[derive(Debug)]
pub struct Client {
    grpc: Grpc,
    /// A connection for polls alone: each holds a stream for as long as there is no task, and a proxy that limits
    /// the streams of a connection would queue heartbeats behind them.
    polls: Grpc,
    token: Option<Credential>,
    worker_id: WorkerId,
    strictness: Strictness,
    deadlines: Deadlines,
    extended: AtomicBool,
    metrics: Metrics,
    traces: Traces,
}

impl Client {
    /// A client that connects when it is first used. `strictness` is for the hyperparameters of claimed tasks.
    ///
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// A file of `config` cannot be used.
    pub fn new(
        config: Config,
        worker_id: WorkerId,
        strictness: Strictness,
        metrics: Metrics,
    ) -> Result<Self, ConfigError> {
        let connection = || -> Result<Grpc, ConfigError> {
            let grpc = Grpc::new(transport(config.channel()?));
            Ok(grpc.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES))
        };
        Ok(Self {
            grpc: connection()?,
            polls: connection()?,
            token: config.token()?,
            worker_id,
            strictness,
            deadlines: config.deadlines,
            extended: AtomicBool::new(false),
            metrics,
            traces: Traces::default(),
        })
    }

    /// The same client, which tells `traces` of claims and reports.
    pub fn traced(self, traces: Traces) -> Self {
        Self { traces, ..self }
    }

    /// A client whose calls go through `transport`.
    #[cfg(test)]
    pub(crate) fn over(transport: Transport, worker_id: WorkerId) -> Self {
        Self {
            grpc: Grpc::new(transport.clone()),
            polls: Grpc::new(transport),
            token: None,
            worker_id,
            strictness: Strictness::Warn,
            deadlines: Deadlines::default(),
            extended: AtomicBool::new(false),
            metrics: Metrics::new(),
            traces: Traces::default(),
        }
    }

    /// The contract that the last answered registration found; base before the first.
    pub fn mode(&self) -> Mode {
        if self.extended.load(Ordering::Relaxed) { Mode::Extended } else { Mode::Base }
    }

    async fn call<Q, A, F>(
        &self,
        method: &'static str,
        deadline: Duration,
        message: Q,
        rpc: impl FnOnce(Grpc, Request<Q>) -> F,
    ) -> Result<A, Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.call_with(method, deadline, Request::new(message), rpc).await
    }

    /// A request about `task`, which carries the context of its trace.
    fn about<Q>(&self, task: &TaskIdentity, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        if let Some(header) = self.traces.traceparent(task).and_then(|header| header.parse().ok()) {
            request.metadata_mut().insert(TRACEPARENT, header);
        }
        request
    }

    async fn call_with<Q, A, F>(
        &self,
        method: &'static str,
        deadline: Duration,
        mut request: Request<Q>,
        rpc: impl FnOnce(Grpc, Request<Q>) -> F,
    ) -> Result<A, Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        // Told a little later than it is kept, so that the clock below decides, which counts connecting too.
        request.set_timeout(deadline + Duration::from_secs(1));
        if let Some(header) = self.token.as_ref().and_then(Credential::header) {
            request.metadata_mut().insert("authorization", header);
        }
        let started = Instant::now();
        let answer = match tokio::time::timeout(deadline, rpc(self.grpc.clone(), request)).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(format!("no answer to {method} within {deadline:?}"))),
        };
        self.metrics.observe(method, &answer, started.elapsed());
        answer
    }

    fn report_of(
        &self,
        outcome: &TaskOutcome,
        message: pb::TaskCompletionRequest,
    ) -> Request<pb::TaskCompletionRequest> {
        let mut request = self.about(&outcome.identity, message);
        wire::refer_to_model(outcome, request.metadata_mut());
        request
    }

    async fn send_report(
        &self,
        request: Request<pb::TaskCompletionRequest>,
    ) -> Result<pb::TaskCompletionResponse, Status> {
        self.call_with(
            "ReportTaskCompletion",
            self.deadlines.report,
            request,
            |mut grpc, request| async move { grpc.report_task_completion(request).await },
        )
        .await
    }
}

#[async_trait]
impl Orchestrator for Client {
    async fn register(&self, registration: &Registration) -> Result<Registered, OrchestratorError> {
        let held = registration
            .held
            .iter()
            .map(|task| pb::TaskAttempt { task_id: task.task_id.to_string(), attempt: task.attempt });
        let message = pb::RegisterWorkerRequest {
            worker_id: registration.worker_id.to_string(),
            capabilities: Some((&registration.capabilities).into()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: registration.address.clone(),
            resume: held.collect(),
        };
        let answer = self
            .call("RegisterWorker", self.deadlines.other, message, |mut grpc, request| async move {
                grpc.register_worker(request).await
            })
            .await;
        let registered = match answer {
            Ok(answer) if answer.accepted => answers::registered(&answer),
            Ok(answer) => return Err(OrchestratorError::Refused(status::words(&answer.message))),
            Err(status) if status::is_unimplemented(&status) => {
                Registered { mode: Mode::Base, heartbeat_interval: None, lease: None }
            }
            Err(status) => return Err(status::error(&status)),
        };
        self.extended.store(registered.mode == Mode::Extended, Ordering::Relaxed);
        Ok(registered)
    }

    /// Do not drop the future before it ends: a base orchestrator takes the task from its queue before it answers,
    /// so a poll that is given up loses a task.
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, OrchestratorError> {
        let message = pb::AssignTaskRequest {
            worker_id: request.worker_id.to_string(),
            slots_available: saturated(request.slots_available.into()),
            backends: request.backends.iter().map(|backend| (*backend).to_owned()).collect(),
            gpu_memory_available_bytes: request.gpu_memory_available_bytes,
            job_ids_cached: request.warm_jobs.iter().map(JobId::to_string).collect(),
            max_tasks: request.max_tasks,
        };
        let since = SystemTime::now();
        let answer = self
            .call("AssignTask", self.deadlines.claim, message, |_, request| {
                let mut polls = self.polls.clone();
                async move {
                    let answer = polls.assign_task(request).await?;
                    let parent = answer.metadata().get(TRACEPARENT).and_then(|value| value.to_str().ok());
                    let parent = parent.map(str::to_owned);
                    Ok(answer.map(|task| (task, parent)))
                }
            })
            .await;
        let answered = tokio::time::Instant::now();
        match answer {
            Ok((mut first, parent)) => {
                let more = std::mem::take(&mut first.more);
                let tasks = std::iter::once(first).chain(more).filter(|task| !task.task_id.is_empty());
                let tasks: Vec<ClaimedTask> =
                    tasks.map(|task| wire::task_from_assignment(task, self.strictness)).collect();
                for task in tasks.iter().flatten() {
                    self.traces.begin(task, Arrival { since, parent: parent.as_deref() });
                }
                Ok(Claimed { tasks, answered })
            }
            Err(status) if status::is_empty_poll(&status) => Ok(Claimed { tasks: Vec::new(), answered }),
            Err(status) => Err(status::error(&status)),
        }
    }

    /// An orchestrator that does not have the call (any more) asks for a new registration, which finds out what it
    /// is.
    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<HeartbeatAnswer, OrchestratorError> {
        if self.mode() == Mode::Base {
            return Ok(HeartbeatAnswer::default());
        }
        let message = pb::HeartbeatRequest {
            worker_id: heartbeat.worker_id.to_string(),
            status: heartbeat.phase.name().to_owned(),
            tasks: heartbeat.tasks.iter().map(|task| wire::progress(task, &self.worker_id)).collect(),
            cpu_usage_percent: heartbeat.host.cpu_percent,
            memory_usage_bytes: heartbeat.host.memory_bytes,
            gpus: heartbeat.gpus.iter().map(Into::into).collect(),
            slots_available: saturated(heartbeat.slots_available.into()),
        };
        let answer = self
            .call("Heartbeat", self.deadlines.other, message, |mut grpc, request| async move {
                grpc.heartbeat(request).await
            })
            .await;
        match answer {
            Ok(answer) => Ok(answers::heartbeat(&answer)),
            Err(status) if status::is_unimplemented(&status) => {
                Ok(HeartbeatAnswer { reregister: true, ..HeartbeatAnswer::default() })
            }
            Err(status) => Err(status::error(&status)),
        }
    }

    /// With the base contract the job hears its figures, and the answer is always false; so it is where the orchestrator does
    /// not have the call.
    async fn report_progress(&self, task: &TaskView) -> Result<bool, OrchestratorError> {
        let answer = match self.mode() {
            Mode::Extended => {
                let request = self.about(&task.identity, wire::progress(task, &self.worker_id));
                self.call_with(
                    "ReportProgress",
                    self.deadlines.other,
                    request,
                    |mut grpc, request| async move { grpc.report_progress(request).await },
                )
                .await
                .map(|answer| answer.cancel)
            }
            Mode::Base => {
                let message = pb::JobMetricsRequest {
                    job_id: task.identity.job_id.to_string(),
                    epoch: saturated(task.epoch.into()),
                    loss: task.progress.loss,
                    accuracy: task.progress.accuracy,
                };
                self.call("UpdateJobMetrics", self.deadlines.other, message, |mut grpc, request| async move {
                    grpc.update_job_metrics(request).await
                })
                .await
                .map(|_| false)
            }
        };
        match answer {
            Err(status) if status::is_unimplemented(&status) => Ok(false),
            answer => answer.map_err(|status| status::error(&status)),
        }
    }

    /// A report that is answered but not acknowledged is [`OrchestratorError::Busy`]: it was not counted, and the
    /// caller has to come back with it as often as it is ready to.
    ///
    /// Weights that are larger than the orchestrator takes are left out, with a note in the message: a result
    /// without its weights counts, and one that never arrives does not.
    async fn report(&self, outcome: &TaskOutcome) -> Result<(), OrchestratorError> {
        let mut message = wire::completion(outcome, &self.worker_id);
        self.traces.enter(&outcome.identity, Stage::Report);
        let mut answer = self.send_report(self.report_of(outcome, message.clone())).await;
        let too_large = answer.as_ref().is_err_and(status::is_too_large);
        if too_large && !message.model_weights.is_empty() {
            let bytes = std::mem::take(&mut message.model_weights).len();
            let note = format!("weights of {bytes} bytes left out: larger than the orchestrator takes");
            if !message.error_message.is_empty() {
                message.error_message.push_str("; ");
            }
            message.error_message.push_str(&note);
            answer = self.send_report(self.report_of(outcome, message)).await;
        }
        let answer = match answer {
            Ok(answer) if answer.acknowledged => Ok(()),
            Ok(answer) => Err(OrchestratorError::Busy(format!(
                "report not acknowledged: {}",
                status::words(&answer.message)
            ))),
            Err(status) => Err(status::error(&status)),
        };
        match &answer {
            Ok(()) | Err(OrchestratorError::Rejected(_)) => self.traces.end(outcome),
            Err(error) => self.traces.leave(&outcome.identity, Some(error.to_string())),
        }
        answer
    }

    async fn release(&self, task: &TaskIdentity, reason: &str) -> Result<bool, OrchestratorError> {
        if self.mode() == Mode::Base {
            return Ok(false);
        }
        let message = pb::ReleaseTaskRequest {
            task_id: task.task_id.to_string(),
            attempt: task.attempt,
            worker_id: self.worker_id.to_string(),
            reason: reason.to_owned(),
        };
        let request = self.about(task, message);
        let answer = self
            .call_with("ReleaseTask", self.deadlines.other, request, |mut grpc, request| async move {
                grpc.release_task(request).await
            })
            .await;
        match answer {
            Ok(_) => {
                self.traces.close(task, "released", None);
                Ok(true)
            }
            Err(status) if status::is_unimplemented(&status) => Ok(false),
            Err(status) => Err(status::error(&status)),
        }
    }

    /// A job that the orchestrator does not know is still wanted: it may have forgotten the job in a restart while
    /// its task is in our hands, and a task that is trained once too often is better than a lost one.
    async fn job_state(&self, job: &JobId) -> Result<JobState, OrchestratorError> {
        let message = pb::GetJobStatusRequest { job_id: job.to_string() };
        let answer = self
            .call("GetJobStatus", self.deadlines.other, message, |mut grpc, request| async move {
                grpc.get_job_status(request).await
            })
            .await;
        match answer {
            Ok(answer) => Ok(answers::job_state(&answer)),
            Err(status) if status::is_unknown_job(&status) => {
                Ok(JobState { wanted: true, ended: false, known: false, total_tasks: 0 })
            }
            Err(status) => Err(status::error(&status)),
        }
    }
}
