//! The link to the orchestrator: registers, notices a loss, registers again, for ever.
//!
//! ```text
//! connecting --registered--> connected (generation n) --a call got no answer--> disconnected --> connecting
//! ```
//!
//! Every use of the link carries the generation it began under, so that ten calls that fail in one outage are one
//! loss, and a late failure of the last outage does not break the link of today.

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handle::WorkerHandle;
use super::latest;
use super::reporter::Unreported;
use super::state::Event;
use crate::domain::{Capabilities, LinkState, WorkerId, WorkerStatus};
use crate::engine::Engine;
use crate::gpu::{GpuProbe, GpuSnapshot};
use crate::orchestrator::{Backoff, Mode, Orchestrator, OrchestratorError, Registered, Registration};
use crate::telemetry::host;

/// A link that lived this long was a good one: the next loss is a new outage, and waits begin anew.
const STEADY: Duration = Duration::from_secs(30);

/// Without the orchestrator for this long a worker is not ready: its restart is no reason to take workers out of
/// service, and an outage is.
const OUTAGE: Duration = Duration::from_secs(60);

/// The link now.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinkNow {
    pub(super) state: LinkState,
    pub(super) generation: u64,
    pub(super) registered: Option<Registered>,
    /// Whether it was ever accepted.
    pub(super) known: bool,
    /// Since when it has not been.
    pub(super) away_since: Option<Instant>,
}

impl LinkNow {
    const fn first() -> Self {
        let state = LinkState::Connecting;
        Self { state, generation: 0, registered: None, known: false, away_since: None }
    }

    fn connect(&mut self, registered: Registered) {
        self.generation += 1;
        self.state = LinkState::Connected;
        self.registered = Some(registered);
        self.known = true;
        self.away_since = None;
    }

    /// The orchestrator is away, `state` says what is done about it.
    fn miss(&mut self, state: LinkState) {
        self.state = state;
        self.away_since.get_or_insert_with(Instant::now);
    }

    /// Whether the orchestrator knows the worker, as far as the worker knows.
    fn is_registered(&self) -> bool {
        self.known && self.away_since.is_none_or(|since| since.elapsed() < OUTAGE)
    }
}

/// Reads the link, and tells it what calls found out.
#[derive(Debug, Clone)]
pub(super) struct LinkView {
    now: latest::Receiver<LinkNow>,
    losses: mpsc::UnboundedSender<Loss>,
    last_heartbeat: Arc<Mutex<Option<SystemTime>>>,
}

/// A call that began under `generation` showed that the link is not what it was.
#[derive(Debug)]
struct Loss {
    generation: u64,
    /// The orchestrator does not accept this worker (any more).
    refused: Option<OrchestratorError>,
}

impl LinkView {
    pub(super) fn now(&self) -> LinkNow {
        self.now.get()
    }

    /// The contract of the orchestrator, while the link is up.
    pub(super) fn mode(&self) -> Option<Mode> {
        let now = self.now();
        now.registered.filter(|_| now.state == LinkState::Connected).map(|registered| registered.mode)
    }

    /// Waits until the link is up and returns its generation; None when the link has ended.
    pub(super) async fn up(&mut self) -> Option<LinkNow> {
        self.now.wait_for(|now| now.state == LinkState::Connected).await
    }

    /// Waits for the next change.
    pub(super) async fn changed(&mut self) -> Option<()> {
        self.now.changed().await
    }

    /// The orchestrator answered a call, which stands for a heartbeat with the base contract that has none.
    pub(super) fn contact(&self) {
        if self.mode() == Some(Mode::Base) {
            self.beat();
        }
    }

    /// The orchestrator answered a heartbeat.
    pub(super) fn beat(&self) {
        *self.last_heartbeat.lock().unwrap_or_else(PoisonError::into_inner) = Some(SystemTime::now());
    }

    /// The orchestrator wants this worker to register anew.
    pub(super) fn lost(&self, generation: u64) {
        self.tell(Loss { generation, refused: None });
    }

    /// Tells the link what `error` of a call that began under `generation` says about it.
    pub(super) fn heard(&self, error: OrchestratorError, generation: u64) {
        match error {
            OrchestratorError::Unreachable(_) => self.lost(generation),
            OrchestratorError::Refused(_) => self.tell(Loss { generation, refused: Some(error) }),
            OrchestratorError::Busy(_) | OrchestratorError::Rejected(_) => self.contact(),
        }
    }

    fn tell(&self, loss: Loss) {
        // The link ends only with the worker.
        let _ = self.losses.send(loss);
    }

    /// Writes what the link knows into `status`.
    pub(super) fn fill(&self, status: &mut WorkerStatus) {
        let now = self.now();
        status.link = now.state;
        status.registered = now.is_registered();
        status.last_heartbeat = *self.last_heartbeat.lock().unwrap_or_else(PoisonError::into_inner);
    }
}

/// Registers and keeps registered.
pub(super) struct Link<O> {
    pub(super) orchestrator: Arc<O>,
    pub(super) identity: Identity,
    machine: host::Machine,
    now: latest::Sender<LinkNow>,
    losses: mpsc::UnboundedReceiver<Loss>,
    last_heartbeat: Arc<Mutex<Option<SystemTime>>>,
}

/// Who registers.
pub(super) struct Identity {
    pub(super) worker_id: WorkerId,
    pub(super) address: String,
    pub(super) slots: u32,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) gpus: Arc<dyn GpuProbe>,
    /// Attempts whose outcomes are on their way.
    pub(super) unreported: Unreported,
}

impl Identity {
    fn registration(&self, machine: host::Machine, worker: &WorkerHandle) -> Registration {
        let engine = self.engine.capabilities();
        // First, so that one whose outcome comes on disk meanwhile is in one of both.
        let held: Vec<_> = worker.status().tasks.into_iter().map(|task| task.identity).collect();
        let unreported = self.unreported.attempts();
        Registration {
            worker_id: self.worker_id.clone(),
            capabilities: Capabilities {
                cpu_cores: machine.cpu_cores,
                memory_bytes: machine.memory_bytes,
                max_tasks: self.slots,
                gpus: self.gpus.snapshot().gpus.clone(),
                model_types: engine.model_types,
                backends: engine.backends,
            },
            address: self.address.clone(),
            held: held.into_iter().chain(unreported).collect(),
        }
    }
}

impl<O: Orchestrator> Link<O> {
    pub(super) fn new(orchestrator: Arc<O>, identity: Identity) -> (Self, LinkView) {
        let (now, view) = latest::channel(LinkNow::first());
        let (tell_loss, losses) = mpsc::unbounded_channel();
        let last_heartbeat = Arc::<Mutex<Option<SystemTime>>>::default();
        let view = LinkView { now: view, losses: tell_loss, last_heartbeat: Arc::clone(&last_heartbeat) };
        let machine = host::machine();
        (Self { orchestrator, identity, machine, now, losses, last_heartbeat }, view)
    }

    /// Runs until `ended`.
    ///
    /// # Errors
    /// [`OrchestratorError::Refused`] when the orchestrator does not accept this worker: trying again is of no use.
    pub(super) async fn run(
        mut self,
        worker: WorkerHandle,
        events: mpsc::UnboundedSender<Event>,
        ended: CancellationToken,
    ) -> Result<(), OrchestratorError> {
        let mut backoff = Backoff::reconnect();
        let mut gpus = self.identity.gpus.watch();
        let engine = Arc::clone(&self.identity.engine);
        loop {
            let registration = self.identity.registration(self.machine, &worker);
            let answer = tokio::select! {
                biased;
                answer = self.orchestrator.register(&registration) => answer,
                () = ended.cancelled() => return Ok(()),
            };
            match answer {
                Ok(registered) => {
                    let began = Instant::now();
                    let generation = self.connected(registered);
                    // The driver ends with the worker, and so does this loop.
                    let _ = events.send(Event::LinkUp { generation, mode: registered.mode });
                    let mut told = registration.capabilities;
                    let refused = loop {
                        tokio::select! {
                            biased;
                            refused = self.loss(generation) => break refused,
                            () = others(&mut gpus, &*engine, &told), if registered.mode == Mode::Extended => {
                                let again = self.identity.registration(self.machine, &worker);
                                tracing::info!(gpus = again.capabilities.gpus.len(), "GPUs have changed; registering again");
                                match self.orchestrator.register(&again).await {
                                    Ok(other) if other.mode != registered.mode => {
                                        tracing::warn!(mode = other.mode.name(), "the orchestrator speaks another contract than before");
                                        break None;
                                    }
                                    Ok(_) => told = again.capabilities,
                                    Err(OrchestratorError::Busy(_) | OrchestratorError::Rejected(_)) => {
                                        tokio::time::sleep(Backoff::busy().next_wait()).await;
                                    }
                                    Err(error @ OrchestratorError::Refused(_)) => break Some(error),
                                    Err(OrchestratorError::Unreachable(_)) => break None,
                                }
                            }
                            () = ended.cancelled() => return Ok(()),
                        }
                    };
                    let _ = events.send(Event::LinkDown { generation });
                    self.set(LinkState::Disconnected);
                    if let Some(error) = refused {
                        return Err(error);
                    }
                    if began.elapsed() > STEADY {
                        backoff.reset();
                    }
                    let wait = backoff.next_wait();
                    tracing::warn!(
                        retry_in_seconds = wait.as_secs_f32(),
                        "the link to the orchestrator is lost"
                    );
                    tokio::select! {
                    biased;
                            () = tokio::time::sleep(wait) => {}
                            () = ended.cancelled() => return Ok(()),
                        }
                    self.set(LinkState::Connecting);
                }
                Err(error @ OrchestratorError::Refused(_)) => return Err(error),
                Err(error) => {
                    self.set(LinkState::Disconnected);
                    let wait = backoff.next_wait();
                    log_failure(&error, wait);
                    tokio::select! {
                    biased;
                            () = tokio::time::sleep(wait) => {}
                            () = ended.cancelled() => return Ok(()),
                        }
                }
            }
        }
    }

    fn connected(&self, registered: Registered) -> u64 {
        let mut generation = 0;
        self.now.send_modify(|now| {
            now.connect(registered);
            generation = now.generation;
        });
        if registered.mode == Mode::Base {
            *self.last_heartbeat.lock().unwrap_or_else(PoisonError::into_inner) = Some(SystemTime::now());
        }
        let mode = registered.mode.name();
        tracing::info!(mode, worker_id = %self.identity.worker_id, "connected to the orchestrator");
        generation
    }

    fn set(&self, state: LinkState) {
        self.now.send_modify(|now| now.miss(state));
    }

    /// Waits until a call of `generation` showed that the link is gone, or the worker refused.
    async fn loss(&mut self, generation: u64) -> Option<OrchestratorError> {
        while let Some(loss) = self.losses.recv().await {
            if loss.generation == generation {
                return loss.refused;
            }
        }
        std::future::pending().await
    }
}

/// Waits until the healthy GPUs, or what can be trained on, are not those that were `told`.
async fn others(gpus: &mut watch::Receiver<Arc<GpuSnapshot>>, engine: &dyn Engine, told: &Capabilities) {
    let differ =
        |now: &Arc<GpuSnapshot>| now.gpus != told.gpus || engine.capabilities().backends != told.backends;
    if gpus.wait_for(differ).await.is_err() {
        // Nobody looks for GPUs, or not any more.
        std::future::pending::<()>().await;
    }
}

fn log_failure(error: &OrchestratorError, wait: Duration) {
    let retry_in_seconds = wait.as_secs_f32();
    tracing::warn!(%error, retry_in_seconds, "cannot register with the orchestrator; trying again");
}

/// The link of a worker that does nothing but say what it is told to.
#[cfg(test)]
pub(super) struct FixedLink {
    now: latest::Sender<LinkNow>,
    last_heartbeat: Arc<Mutex<Option<SystemTime>>>,
}

#[cfg(test)]
impl FixedLink {
    pub(super) fn new(status: &WorkerStatus) -> (Self, LinkView) {
        let (now, view) = latest::channel(LinkNow::first());
        let link = Self { now, last_heartbeat: Arc::default() };
        link.say(status);
        let view = LinkView {
            now: view,
            losses: mpsc::unbounded_channel().0,
            last_heartbeat: Arc::clone(&link.last_heartbeat),
        };
        (link, view)
    }

    pub(super) fn say(&self, status: &WorkerStatus) {
        self.now.send_modify(|now| (now.state, now.known) = (status.link, status.registered));
        *self.last_heartbeat.lock().unwrap_or_else(PoisonError::into_inner) = status.last_heartbeat;
    }
}
