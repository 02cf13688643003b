//! Builds everything, then starts everything. The only room that knows all others.
//!
//! ```text
//! Config --build--> state folder, engine, client, listeners --run--> worker + gRPC server + HTTP server
//!                                                                       |
//! Shutdown: drain --> worker drained, outbox flushed --> servers close --+
//! ```
//!
//! Whatever can fail for a reason that the operator has to mend (a port that is taken, a folder that cannot be written,
//! an address that cannot be one) fails in [`App::build`], before anything runs.

mod collector;
mod gpus;
mod program;
mod start;

pub(crate) use collector::exporter as trace_exporter;
pub use program::Program;

use std::net::SocketAddr;
use std::sync::Arc;

use prometheus::Registry;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::domain::{DevicePolicy, InvalidField};
use crate::engine::{
    Engine, EngineError, Isolation, ModelRegistry, ProcessEngine, SessionLimits, TrainingEngine,
};
use crate::gpu::{self, GpuProbe, GpuSampler};
use crate::orchestrator::{self, Client, OrchestratorError};
use crate::telemetry::host::{self, HostSampler};
use crate::telemetry::traces::Traces;
use crate::worker::{self, Collaborators, Grace, StateFolder, Worker, WorkerError, WorkerHandle};
use crate::{grpc, guard, http, telemetry};
use start::{Start, Step};

/// Why the worker cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The state folder, or a defect in a metric.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The device that was asked for is not there.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A step of the start ended without an answer.
    #[error("the start failed: {0}")]
    Start(tokio::task::JoinError),
    /// The orchestrator cannot be reached with this configuration, now or later.
    #[error(transparent)]
    OrchestratorConfig(#[from] orchestrator::ConfigError),
    /// The orchestrator does not accept this worker.
    #[error("{0}; trying again is of no use")]
    Orchestrator(#[from] OrchestratorError),
    /// A certificate, a key or a token cannot be used.
    #[error(transparent)]
    Guard(InvalidField),
    /// A metric could not be made.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Traces cannot be sent.
    #[error(transparent)]
    Traces(#[from] collector::Error),
    /// The HTTP server.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The gRPC server.
    #[error(transparent)]
    Grpc(#[from] grpc::Error),
    /// A server panicked.
    #[error("a server of the worker failed: {0}")]
    Server(tokio::task::JoinError),
    /// GPUs cannot be watched.
    #[error(transparent)]
    Gpu(#[from] gpu::Error),
    /// The machine tells nothing of itself.
    #[error(transparent)]
    Host(#[from] host::Error),
}

impl AppError {
    /// The exit code for it: 2 for bad configuration, 3 where the environment lacks something, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::OrchestratorConfig(_) | Self::Guard(_) | Self::Traces(_) => 2,
            Self::Http(http::Error::Bind { .. }) | Self::Grpc(grpc::Error::Bind { .. }) => 3,
            Self::Worker(WorkerError::StateDir { .. } | WorkerError::StateDirInUse { .. }) => 3,
            Self::Engine(_) | Self::Host(_) | Self::Start(_) => 3,
            Self::Worker(_)
            | Self::Orchestrator(_)
            | Self::Metrics(_)
            | Self::Http(_)
            | Self::Gpu(_)
            | Self::Grpc(_)
            | Self::Server(_) => 1,
        }
    }
}

/// The two wishes that the worker should end. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    cancel: CancellationToken,
}

impl Shutdown {
    /// Nothing was wished yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Take no more tasks, finish those that run, end.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Stop the tasks that run at their next batch, and end.
    pub fn cancel(&self) {
        self.drain.cancel();
        self.cancel.cancel();
    }
}

/// The worker, built and bound.
pub struct App {
    worker: Worker<Client>,
    grpc: grpc::Server,
    grpc_addr: SocketAddr,
    http: http::Server,
    http_addr: SocketAddr,
    registry: Registry,
    traces: Traces,
    _host: HostSampler,
    _gpus: GpuSampler,
}

impl App {
    /// Builds it for any program; tasks train in its threads. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`AppError`] with what the operator has to mend.
    pub async fn build(config: Config) -> Result<Self, AppError> {
        let program = Program::without_children(ModelRegistry::default());
        Self::build_with(config, program, Traces::default()).await
    }

    /// As [`Self::build`], for a `program` that may be its own runner, with `traces` that others may look at.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub async fn build_with(mut config: Config, program: Program, traces: Traces) -> Result<Self, AppError> {
        let guard_metrics = guard::Metrics::new()?;
        let mut start = Start::new();
        let (guard, of_guard) = (config.guard.clone(), guard_metrics.clone());
        let guards = start
            .wait_for("the files of AUTH_TOKEN_FILE, TLS_CERT, TLS_KEY and TLS_CLIENT_CA", move |_| {
                guard.open(&of_guard)
            })
            .await?
            .map_err(AppError::Guard)?;
        let grpc_config = grpc::Config { listen: config.grpc_listen, strictness: config.strictness };
        let grpc_listener = grpc_config.bind()?;
        let http_listener = http::Config { listen: config.http_listen }.bind()?;
        warn_of_strangers(&config);
        start.answer_at(&http_listener, &guards);
        let state = config.worker.clone();
        let folder = start
            .wait_for("STATE_DIR", move |step| StateFolder::open(&state, |what| step.is(what)))
            .await??;
        let registry = telemetry::registry()?;
        guard_metrics.register(&registry)?;
        let host = HostSampler::start()?;
        host.probe().register(&registry)?;
        let sampler = GpuSampler::start(config.gpu)?;
        let sampled = sampler.probe();
        let watched = Arc::new(gpus::Watched(sampled.clone()));
        sampled.register(&registry)?;
        // GPUs that answer later are told of then.
        sampled.first(gpu::FIRST_SAMPLE_PATIENCE).await;
        let gpus: Arc<dyn GpuProbe> = Arc::new(sampled.clone());
        // While it is not known which these are, no task is placed on any; none is lost for good by that.
        config.engine.hidden_gpus = sampled.snapshot().hidden.known();
        let looks_for_adapters = config.engine.device_policy != DevicePolicy::Cpu;
        let sessions = SessionLimits::for_machine(host::machine().memory_bytes);
        let isolation = program.isolation(config.isolation);
        let models = program.models;
        let to_follow = sampled.clone();
        let runtime = Handle::current();
        let engine = move |_: &Step| -> Result<(Arc<dyn Engine>, gpu::AdapterSource), EngineError> {
            Ok(match isolation {
                Isolation::Thread => {
                    let engine = TrainingEngine::with_gpus(config.engine, sessions, Some(watched))?;
                    let engine = Arc::new(engine.with_models(models));
                    let adapters = Arc::clone(&engine);
                    (engine, Box::new(move || adapters.adapters()))
                }
                Isolation::Process(runners) => {
                    let engine = ProcessEngine::start(config.engine, sessions, runners, Some(watched))?;
                    let engine = Arc::new(engine.with_models(models));
                    let adapters = Arc::clone(&engine);
                    runtime.spawn(gpus::follow(to_follow.watch(), Arc::downgrade(&engine)));
                    (engine, Box::new(move || adapters.adapters()))
                }
            })
        };
        // Looking for devices can take seconds where a driver hangs.
        let (engine, adapters) = start.wait_for("an answer of the graphics drivers", engine).await??;
        if looks_for_adapters {
            sampled.match_adapters(adapters);
        }
        let client_metrics = orchestrator::Metrics::new();
        client_metrics.register(&registry)?;
        let worker_id = folder.worker_id().clone();
        let orchestrator = config.orchestrator.endpoint.clone();
        let control = if config.guard.token_file.is_some() {
            http::Control::Token
        } else if config.guard.knows_pages_by_certificate() {
            http::Control::Certificate
        } else {
            http::Control::Nobody
        };
        if let Some(exporter) = trace_exporter(&config.traces)? {
            traces.start(exporter, &worker_id);
        }
        let client = Client::new(config.orchestrator, worker_id, config.strictness, client_metrics)?
            .traced(traces.clone());
        let metrics = worker::Metrics::new()?;
        metrics.register(&registry)?;
        let grpc_addr = grpc_listener.local_addr().map_err(grpc::Error::Listener)?;
        let with = Collaborators {
            orchestrator: Arc::new(client),
            engine,
            gpus: Arc::clone(&gpus),
            host: host.probe(),
            address: advertised(grpc_addr),
            metrics,
            traces: traces.clone(),
        };
        let worker = Worker::new(config.worker, folder, with);
        let grpc_sources = grpc::Sources {
            handle: worker.handle(),
            host: host.probe(),
            gpu: Arc::clone(&gpus),
            traces: traces.clone(),
        };
        let http_sources = http::Sources {
            handle: worker.handle(),
            host: host.probe(),
            gpu: gpus,
            registry: registry.clone(),
            orchestrator,
            control,
        };
        let http = http::Server::new(http_listener, http_sources)?.behind(guards.http, guards.metrics);
        Ok(Self {
            grpc: grpc::Server::new(grpc_listener, grpc_sources, config.strictness).behind(guards.grpc),
            grpc_addr,
            http_addr: http.local_addr()?,
            http,
            worker,
            registry,
            traces,
            _host: host,
            _gpus: sampler,
        })
    }

    /// Where the gRPC server listens.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// Where the HTTP server listens.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// What /metrics shows. A program that holds a worker may register metrics of its own.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The worker.
    pub fn worker(&self) -> WorkerHandle {
        self.worker.handle()
    }

    /// Runs until drained.
    ///
    /// # Errors
    /// [`AppError::Orchestrator`] when the orchestrator does not accept this worker; a server that failed.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), AppError> {
        let servers_end = CancellationToken::new();
        let tracker = TaskTracker::new();
        let mut servers = JoinSet::new();
        let (grpc, http) = (self.grpc.serve(servers_end.clone()), self.http.serve(servers_end.clone()));
        servers.spawn(async move { grpc.await.map_err(AppError::from) });
        servers.spawn(async move { http.await.map_err(AppError::from) });
        let handle = self.worker.handle();
        tracker.spawn(pass_on(shutdown, handle.clone(), servers_end.clone()));
        let worker = self.worker.run();
        tokio::pin!(worker);
        let (served, outcome) = tokio::select! {
            outcome = &mut worker => (None, outcome),
            served = servers.join_next() => {
                // Nobody can ask or scrape this worker any more, so it does not go on as if all were well.
                tracing::error!("a server of the worker ended early; draining");
                handle.drain(None);
                (served, worker.await)
            }
        };
        servers_end.cancel();
        tracker.close();
        tracker.wait().await;
        let mut served: Vec<_> = served.into_iter().collect();
        // Waits for the collector, a few seconds at most.
        let traces = tokio::task::spawn_blocking(move || self.traces.shutdown());
        let closed = async {
            while let Some(result) = servers.join_next().await {
                served.push(result);
            }
            let _ = traces.await;
        };
        let closed_by = handle.grace().map(Grace::closed_by);
        tokio::select! {
            biased;
            () = closed => {}
            () = at(closed_by) => {
                tracing::warn!("the last calls and traces took too long; the worker ends without them");
            }
        }
        outcome?;
        for result in served {
            result.map_err(AppError::Server)??;
        }
        Ok(())
    }
}

/// Passes the wishes to end on to the worker.
async fn pass_on(shutdown: Shutdown, worker: WorkerHandle, ended: CancellationToken) {
    let wishes = async {
        shutdown.drain.cancelled().await;
        worker.drain(None);
        shutdown.cancel.cancelled().await;
        worker.abort("the worker was stopped before the task ended");
    };
    tokio::select! {
        () = wishes => {}
        () = ended.cancelled() => {}
    }
}

/// Waits until `when`; for ever where there is no such time.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Says once what a stranger on the network could do.
fn warn_of_strangers(config: &Config) {
    let open_to_others = !(config.grpc_listen.ip().is_loopback() && config.http_listen.ip().is_loopback());
    if !open_to_others {
        return;
    }
    if !config.guard.asks_for_credentials() {
        tracing::warn!(
            address = %config.grpc_listen.ip(),
            "whoever reaches WORKER_PORT can start and cancel tasks; AUTH_TOKEN_FILE or TLS_CLIENT_CA asks them who \
             they are, LISTEN_ADDRESS=127.0.0.1 keeps others out"
        );
    } else if config.guard.sends_tokens_in_plain_text() {
        tracing::warn!(
            "callers send their token to this worker in plain text; TLS_CERT and TLS_KEY would hide it"
        );
    }
}

/// How others reach the gRPC server: by the name of this machine where it listens on all addresses.
fn advertised(listen: SocketAddr) -> String {
    match sysinfo::System::host_name() {
        Ok(name) if listen.ip().is_unspecified() => format!("{name}:{}", listen.port()),
        _ => listen.to_string(),
    }
}
