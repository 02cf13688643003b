//! The orchestrator and the workers of the demonstration.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::app::{App, AppError, Shutdown};
use crate::cli::signals::Signals;
use crate::cli::{Failure, ui};
use crate::config::{Config, FlagValues, Layers};
use crate::data;
use crate::dev::{BoardHandle, DevConfig, DevOrchestrator};
use crate::orchestrator;
use crate::worker::WorkerHandle;

/// What may differ between demonstrations.
#[derive(Debug)]
pub(super) struct Wishes {
    pub(super) workers: u32,
    pub(super) data: data::Config,
}

/// A worker of the demonstration.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) handle: WorkerHandle,
    grpc: SocketAddr,
    http: SocketAddr,
}

/// All of it, running.
#[derive(Debug)]
pub(super) struct Cluster {
    orchestrator: DevOrchestrator,
    pub(super) members: Vec<Member>,
    running: FuturesUnordered<JoinHandle<Result<(), AppError>>>,
    shutdown: Shutdown,
    // Last, so that the workers are gone before their folders are.
    _scratch: Scratch,
}

impl Cluster {
    /// Starts everything on free ports of the loopback interface.
    ///
    /// # Errors
    /// Something cannot be started; what was started before ends.
    pub(super) async fn start(wishes: &Wishes) -> Result<Self, Failure> {
        let scratch = Scratch::new()?;
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = DevConfig { listen, long_poll: Duration::from_secs(1), ..DevConfig::default() };
        let orchestrator = DevOrchestrator::start(config)
            .await
            .map_err(|source| Failure::Listen { address: listen, source })?;
        // Built before any is run: when one cannot be, nothing has to be stopped.
        let mut built = Vec::new();
        for number in 1..=wishes.workers {
            let name = format!("demo-worker-{number}");
            let config = member_config(&name, &orchestrator, &scratch, wishes)?;
            built.push((name, App::build(config).await?));
        }
        let shutdown = Shutdown::new();
        let tracker = TaskTracker::new();
        let mut members = Vec::new();
        let running = FuturesUnordered::new();
        for (name, app) in built {
            members.push(Member { name, handle: app.worker(), grpc: app.grpc_addr(), http: app.http_addr() });
            running.push(tracker.spawn(app.run(shutdown.clone())));
        }
        Ok(Self { orchestrator, members, running, shutdown, _scratch: scratch })
    }

    /// What the orchestrator knows.
    pub(super) fn board(&self) -> &BoardHandle {
        self.orchestrator.board()
    }

    /// How clients reach the orchestrator.
    ///
    /// # Errors
    /// None: it listens on an address that is one.
    pub(super) fn orchestrator_config(&self) -> Result<orchestrator::Config, orchestrator::ConfigError> {
        orchestrator::Config::parse(&self.orchestrator.local_addr().to_string())
    }

    /// Where to look.
    pub(super) fn addresses(&self) -> String {
        let orchestrator =
            ["orchestrator".to_owned(), self.orchestrator.local_addr().to_string(), "-".to_owned()];
        let rows = self
            .members
            .iter()
            .map(|member| [member.name.clone(), member.grpc.to_string(), format!("http://{}", member.http)]);
        ui::pairs(["who", "gRPC", "HTTP: /health, /metrics"], std::iter::once(orchestrator).chain(rows))
    }

    /// Waits until a worker ends, which none should.
    pub(super) async fn worker_ended(&mut self) -> Failure {
        match self.running.next().await {
            Some(Ok(Err(error))) => error.into(),
            _ => Failure::EndedEarly("a worker"),
        }
    }

    /// Stays until the next signal.
    ///
    /// # Errors
    /// A worker ended on its own.
    pub(super) async fn keep(&mut self, signals: &mut Signals) -> Result<(), Failure> {
        tokio::select! {
            _ = signals.next() => Ok(()),
            failure = self.worker_ended() => Err(failure),
        }
    }

    /// Drains the workers, at once after a signal, and ends the orchestrator.
    pub(super) async fn stop(mut self, signals: &mut Signals) {
        self.shutdown.drain();
        loop {
            tokio::select! {
                ended = self.running.next() => match ended {
                    Some(Ok(Err(error))) => ui::tell(&format!("worker: {error}")),
                    Some(_) => {}
                    None => break,
                },
                _ = signals.next() => self.shutdown.cancel(),
            }
        }
        self.orchestrator.shutdown().await;
    }
}

/// The configuration of one worker: nothing of the environment, since a demonstration is the same everywhere.
fn member_config(
    name: &str,
    orchestrator: &DevOrchestrator,
    scratch: &Scratch,
    wishes: &Wishes,
) -> Result<Config, Failure> {
    let flags: FlagValues = [
        ("WORKER_ID", name.to_owned()),
        ("ORCHESTRATOR_ADDRESS", format!("http://{}", orchestrator.local_addr())),
        ("WORKER_PORT", "0".to_owned()),
        ("METRICS_PORT", "0".to_owned()),
        ("HEARTBEAT_INTERVAL", "1s".to_owned()),
        ("DRAIN_TIMEOUT", "5s".to_owned()),
        // Each worker trains one task at a time, so that each has one bar and all have their share.
        ("MAX_CONCURRENT_TASKS", "1".to_owned()),
        ("TRAINING_BACKEND", "cpu".to_owned()),
        ("DEVICE_POLICY", "cpu".to_owned()),
        // All of it in this process, so that it ends with it however it ends.
        ("TASK_ISOLATION", "thread".to_owned()),
    ]
    .into();
    let mut config = Config::resolve(&Layers { flags, ..Layers::default() })?.config;
    config.worker.state_dir = scratch.path().join(name);
    config.engine.state_dir = Some(config.worker.state_dir.clone());
    config.engine.data.clone_from(&wishes.data);
    config.grpc_listen.set_ip(Ipv4Addr::LOCALHOST.into());
    config.http_listen.set_ip(Ipv4Addr::LOCALHOST.into());
    Ok(config)
}

/// A folder that lives as long as the demonstration.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let path = env::temp_dir().join(format!("tensorfleet-demo-{}", Uuid::new_v4()));
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(Failure::Write { path, source }),
        }
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a temporary folder stays behind");
        }
    }
}
