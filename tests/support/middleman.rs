//! An orchestrator between worker and orchestrator that loses, repeats, refuses or keeps what passes.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tensorfleet_worker::wire::pb;
use tensorfleet_worker::wire::pb::orchestrator_service_client::OrchestratorServiceClient;
use tensorfleet_worker::wire::pb::orchestrator_service_server::{
    OrchestratorService, OrchestratorServiceServer,
};
use tokio::sync::Notify;
use tonic::transport::Channel;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Request, Response, Status};

use super::spawn;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Deed {
    /// It is carried, and its answer, too.
    Carry,
    /// It is carried, and its answer is lost.
    LoseAnswer,
    /// It is carried twice; the second answer comes back.
    Repeat,
    /// It is not carried: the last answer to a call of its kind comes once more.
    AnswerAgain,
    /// It is not carried: RESOURCE_EXHAUSTED.
    Refuse,
    /// It is not carried, and never answered.
    Keep,
}

/// Decides by method and by how often that was called, from 0.
type Decide = Box<dyn Fn(&str, u64) -> Deed + Send + Sync>;

#[derive(Default)]
struct Seen {
    calls: BTreeMap<&'static str, Vec<Instant>>,
    resumed: Vec<(String, u32)>,
    reports: Vec<pb::TaskCompletionRequest>,
    deeds: u64,
    /// The last answer to each method.
    answers: BTreeMap<&'static str, Box<dyn Any + Send>>,
}

/// What passed.
#[derive(Clone)]
pub struct Middleman {
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Middleman {
    /// Listens, and carries to `target` as `decide` says.
    pub async fn start(
        target: SocketAddr,
        decide: impl Fn(&str, u64) -> Deed + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        // Several, since one connection carries 200 calls at once, and a fleet has more polls.
        let connection = || Channel::from_shared(format!("http://{target}")).unwrap().connect_lazy();
        let far = (0..CONNECTIONS).map(|_| OrchestratorServiceClient::new(connection())).collect();
        let passing = Passing {
            far,
            next: AtomicUsize::new(0),
            decide: Box::new(decide),
            seen: Arc::clone(&seen),
            answered: Notify::new(),
        };
        let served = Server::builder()
            .add_service(OrchestratorServiceServer::new(passing))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        spawn(served);
        Self { address, seen }
    }

    /// When `method` was called.
    pub fn calls(&self, method: &str) -> Vec<Instant> {
        self.seen.lock().unwrap().calls.get(method).cloned().unwrap_or_default()
    }

    /// How many calls were not simply carried.
    pub fn deeds(&self) -> u64 {
        self.seen.lock().unwrap().deeds
    }

    /// What registrations said of attempts that can be resumed.
    pub fn resumed(&self) -> Vec<(String, u32)> {
        self.seen.lock().unwrap().resumed.clone()
    }

    /// Codes and messages of the failures that were reported.
    pub fn failures(&self) -> Vec<(String, String)> {
        let seen = self.seen.lock().unwrap();
        let failed = seen.reports.iter().filter(|report| !report.success);
        failed.map(|report| (report.error_code.clone(), report.error_message.clone())).collect()
    }
}

/// Connections to the orchestrator.
const CONNECTIONS: usize = 8;

struct Passing {
    far: Vec<OrchestratorServiceClient<Channel>>,
    next: AtomicUsize,
    decide: Decide,
    seen: Arc<Mutex<Seen>>,
    answered: Notify,
}

impl Passing {
    fn decide(&self, method: &'static str) -> Deed {
        let mut seen = self.seen.lock().unwrap();
        let calls = seen.calls.entry(method).or_default();
        let number = calls.len() as u64;
        calls.push(Instant::now());
        let deed = (self.decide)(method, number);
        seen.deeds += u64::from(deed != Deed::Carry);
        deed
    }

    fn keep<A: Clone + Send + 'static>(&self, method: &'static str, answer: &Response<A>) {
        self.seen.lock().unwrap().answers.insert(method, Box::new(answer.get_ref().clone()));
        self.answered.notify_waiters();
    }

    /// The last answer to `method`; waits for the first.
    async fn last<A: Clone + Send + 'static>(&self, method: &'static str) -> A {
        loop {
            let answered = self.answered.notified();
            let seen = self.seen.lock().unwrap().answers.get(method).map(|kept| kept.downcast_ref().cloned());
            match seen {
                Some(answer) => return answer.unwrap(),
                None => answered.await,
            }
        }
    }

    async fn pass<Q: Clone, A: Clone + Send + 'static, F>(
        &self,
        method: &'static str,
        request: Request<Q>,
        call: impl Fn(OrchestratorServiceClient<Channel>, Request<Q>) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let message = request.into_inner();
        let far = &self.far[self.next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS];
        let once = || call(far.clone(), Request::new(message.clone()));
        match self.decide(method) {
            Deed::Carry => {
                let answer = once().await?;
                self.keep(method, &answer);
                Ok(answer)
            }
            Deed::LoseAnswer => {
                let _ = once().await;
                Err(Status::unavailable("the answer was lost"))
            }
            Deed::Repeat => {
                let _ = once().await;
                once().await
            }
            Deed::AnswerAgain => Ok(Response::new(self.last(method).await)),
            Deed::Refuse => Err(Status::resource_exhausted("too many requests")),
            Deed::Keep => std::future::pending().await,
        }
    }
}

macro_rules! pass {
    ($($method:ident: $request:ident => $answer:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl OrchestratorService for Passing {
            $(async fn $method(
                &self,
                request: Request<pb::$request>,
            ) -> Result<Response<pb::$answer>, Status> {
                self.note(&request);
                self.pass(stringify!($method), request, |mut far, request| async move {
                    far.$method(request).await
                })
                .await
            })*
        }
    };
}

impl Passing {
    fn note<Q: Any>(&self, request: &Request<Q>) {
        let message = request.get_ref() as &dyn Any;
        if let Some(registration) = message.downcast_ref::<pb::RegisterWorkerRequest>() {
            let resumed = registration.resume.iter().map(|task| (task.task_id.clone(), task.attempt));
            self.seen.lock().unwrap().resumed.extend(resumed);
        }
        if let Some(report) = message.downcast_ref::<pb::TaskCompletionRequest>() {
            let report = pb::TaskCompletionRequest { model_weights: Default::default(), ..report.clone() };
            self.seen.lock().unwrap().reports.push(report);
        }
    }
}

pass! {
    create_training_job: TrainingJobRequest => TrainingJobResponse,
    get_job_status: GetJobStatusRequest => GetJobStatusResponse,
    assign_task: AssignTaskRequest => AssignTaskResponse,
    report_task_completion: TaskCompletionRequest => TaskCompletionResponse,
    update_job_metrics: JobMetricsRequest => JobMetricsResponse,
    cancel_job: CancelJobRequest => CancelJobResponse,
    get_worker_activity: WorkerActivityRequest => WorkerActivityResponse,
    register_worker: RegisterWorkerRequest => RegisterWorkerResponse,
    heartbeat: HeartbeatRequest => HeartbeatResponse,
    report_progress: TaskProgress => ReportProgressResponse,
    release_task: ReleaseTaskRequest => ReleaseTaskResponse,
}
