//! Keeps the snapshot: asks a [`Link`] once a second, and never waits longer for it than a deadline.
//!
//! ```text
//!              ask, 1/s            call
//! keeper ---------------> link -----------> NVML       no answer in time: stalled, readings withdrawn, link given up
//!    ^  <-- Told ---------'                            an answer that NVML is unusable: link ended
//!    |                                                 both: a new link after 1, 2, 4 ... 60 s
//!    +-- Nudge, Stop: from anybody                     a GPU lost: a new link after such waits, in case it is back,
//!                                                      once the old one is closed
//! ```
//!
//! Invariants: the keeper calls nothing of NVML; whatever readings a snapshot has are from a sample that came in time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::driver::Sample;
use super::failure;
use super::inventory::Inventory;
use super::link::{Link, Told, Way};
use super::meter::{Meters, TaskMeter};
use super::metrics::Metrics;
use super::snapshot::{GpuSnapshot, NvmlState};
use super::{AdapterSource, Config, GpuProbe};
use crate::domain::HiddenGpus;

/// Time between two samples.
const INTERVAL: Duration = Duration::from_secs(1);

/// Shortest time between two samples, however many are asked for.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(20);

/// How long a sample may take. One of eight GPUs takes about 0.1 s, or 0.4 s with PCIe throughput.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long opening the library and the first sample may take: without persistence mode the driver wakes each GPU.
const OPENING_DEADLINE: Duration = Duration::from_secs(30);

/// Shortest and longest wait before the library is opened anew.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Threads that are stuck in the driver at once; there is no use in losing more to it.
const MOST_STUCK: usize = 4;

/// What the keeper hears.
pub(super) enum Message {
    /// From the link of that generation.
    Told(u64, Told),
    /// Somebody wants a sample soon.
    Nudge,
    /// The sampler is dropped.
    Stop,
}

/// The sampling threads; they end with this value, but for those that are stuck in the driver.
pub struct GpuSampler {
    probe: SampledGpus,
    thread: Option<JoinHandle<()>>,
}

/// How long a program that starts waits for the first sample: a driver that hangs must not keep it.
pub const FIRST_SAMPLE_PATIENCE: Duration = Duration::from_secs(3);

/// One look at the GPUs, which takes [`FIRST_SAMPLE_PATIENCE`] at most: what is not known by then stays unknown.
///
/// # Errors
/// As [`GpuSampler::start`].
pub async fn look(config: Config) -> Result<Arc<GpuSnapshot>, super::Error> {
    let sampler = GpuSampler::start(config)?;
    let sampled = sampler.probe();
    sampled.first(FIRST_SAMPLE_PATIENCE).await;
    Ok(sampled.snapshot())
}

/// Reads what a [`GpuSampler`] knows; clones share it.
#[derive(Clone)]
pub struct SampledGpus {
    snapshot: watch::Receiver<Arc<GpuSnapshot>>,
    keeper: Sender<Message>,
    meters: Arc<Mutex<Meters>>,
    adapters: Arc<Mutex<Option<AdapterSource>>>,
    metrics: Metrics,
}

impl GpuSampler {
    /// Starts to look. Returns at once.
    ///
    /// # Errors
    /// No thread can be started, or a defect in a metric.
    pub fn start(config: Config) -> Result<Self, super::Error> {
        let (keeper, inbox) = channel();
        let blind = config.visible.hides(NvmlState::Starting);
        let hidden = if blind { HiddenGpus::Unknown } else { HiddenGpus::default() };
        let starting = GpuSnapshot { nvml: NvmlState::Starting, hidden, ..GpuSnapshot::default() };
        let (publish, snapshot) = watch::channel(Arc::new(starting));
        let probe = SampledGpus {
            snapshot,
            keeper,
            meters: Arc::default(),
            adapters: Arc::default(),
            metrics: Metrics::new()?,
        };
        let mut keeper = Keeper {
            way: Way { library: config.library.clone(), pcie: config.pcie },
            inventory: Inventory::new(config.visible.clone(), config.purpose),
            probe: probe.clone(),
            publish,
            state: NvmlState::Starting,
            link: None,
            generation: 0,
            stuck: Arc::default(),
            wait: WAITS.0,
            told: None,
            ran: false,
        };
        let thread =
            thread::Builder::new().name("gpu-sampler".to_owned()).spawn(move || keeper.run(&inbox))?;
        Ok(Self { probe, thread: Some(thread) })
    }

    /// What reads the samples.
    pub fn probe(&self) -> SampledGpus {
        self.probe.clone()
    }
}

impl Drop for GpuSampler {
    fn drop(&mut self) {
        let _ = self.probe.keeper.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            // A keeper that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

impl GpuProbe for SampledGpus {
    fn snapshot(&self) -> Arc<GpuSnapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    fn watch(&self) -> watch::Receiver<Arc<GpuSnapshot>> {
        self.snapshot.clone()
    }

    fn meter(&self, uuid: &str) -> Option<TaskMeter> {
        Some(TaskMeter::begin(self.clone(), uuid))
    }
}

impl SampledGpus {
    /// Waits until the first sample is there or it is clear that there will be none soon, for `patience` at most.
    pub async fn first(&self, patience: Duration) {
        let mut snapshot = self.snapshot.clone();
        let known = snapshot.wait_for(|snapshot| snapshot.nvml != NvmlState::Starting);
        // Whether or not it came: the snapshot says.
        let _ = tokio::time::timeout(patience, known).await;
    }

    /// Says from where the PCI addresses of wgpu's adapters are to be had; asked at each sample.
    pub fn match_adapters(&self, source: AdapterSource) {
        *self.adapters.lock().unwrap_or_else(PoisonError::into_inner) = Some(source);
        self.nudge();
    }

    /// Asks for a sample soon; does not wait for it.
    pub(super) fn nudge(&self) {
        // The keeper ends with the sampler.
        let _ = self.keeper.send(Message::Nudge);
    }

    pub(super) fn meters(&self) -> std::sync::MutexGuard<'_, Meters> {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Metrics of GPUs.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

struct Keeper {
    way: Way,
    inventory: Inventory,
    probe: SampledGpus,
    publish: watch::Sender<Arc<GpuSnapshot>>,
    state: NvmlState,
    link: Option<Link>,
    generation: u64,
    stuck: Arc<AtomicUsize>,
    /// Before the next new link.
    wait: Duration,
    /// The state that was logged last.
    told: Option<NvmlState>,
    /// Whether NVML has ever answered.
    ran: bool,
}

/// Why a wait ended.
enum Ended {
    Sampled(Sample),
    Unusable,
    Closed,
    TimedOut,
    Nudged,
    Stopped,
}

/// Why a link is no longer asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parting {
    /// It cannot be used.
    Trouble,
    /// A new one may see more.
    Outdated,
    /// The sampler ends.
    Stopped,
}

impl Keeper {
    fn run(&mut self, inbox: &Receiver<Message>) {
        loop {
            if self.stuck.load(Ordering::Acquire) < MOST_STUCK {
                self.open();
            }
            let parting = self.sample_until_parting(inbox);
            let link = self.link.take();
            let ended = match parting {
                Parting::Stopped => true,
                Parting::Outdated => self.wait_until_closed(link, inbox),
                Parting::Trouble => self.state == NvmlState::Absent || self.wait_before_opening(inbox),
            };
            if ended {
                return;
            }
        }
    }

    fn open(&mut self) {
        self.generation += 1;
        let (keeper, generation) = (self.probe.keeper.clone(), self.generation);
        let tell = move |told| {
            // The keeper ends with the sampler.
            let _ = keeper.send(Message::Told(generation, told));
        };
        match Link::start(&self.way, &self.stuck, tell) {
            Ok(link) => self.link = Some(link),
            Err(error) => tracing::warn!(%error, "no thread could be started for NVML"),
        }
    }

    fn sample_until_parting(&mut self, inbox: &Receiver<Message>) -> Parting {
        let opened = Instant::now();
        let mut opening = true;
        loop {
            let Some(link) = &self.link else { return Parting::Trouble };
            let asked = Instant::now();
            link.ask();
            let mut nudged = false;
            let sample = loop {
                // Readings are withdrawn in time whatever the link is at.
                let until =
                    if opening && self.state != NvmlState::Running { OPENING_DEADLINE } else { DEADLINE };
                match self.wait(inbox, asked + until) {
                    Ended::Sampled(sample) => break sample,
                    Ended::Nudged => nudged = true,
                    Ended::Unusable | Ended::Closed => return Parting::Trouble,
                    Ended::TimedOut if opening && self.state == NvmlState::Running => self.stalled(),
                    Ended::TimedOut => {
                        if let Some(link) = self.link.take() {
                            link.give_up(&self.stuck);
                        }
                        self.stalled();
                        return Parting::Trouble;
                    }
                    Ended::Stopped => return Parting::Stopped,
                }
            };
            opening = false;
            self.publish(sample);
            if !self.inventory.has_lost() {
                self.wait = WAITS.0;
            } else if opened.elapsed() > self.wait {
                // The library has to look at the bus anew before it can see a GPU that came back.
                self.wait = (self.wait * 2).min(WAITS.1);
                return Parting::Outdated;
            }
            let mut next = asked + if nudged { SHORTEST_INTERVAL } else { INTERVAL };
            loop {
                match self.wait(inbox, next) {
                    Ended::TimedOut => break,
                    Ended::Nudged => next = next.min(Instant::now().max(asked + SHORTEST_INTERVAL)),
                    Ended::Sampled(_) => {}
                    Ended::Unusable | Ended::Closed => return Parting::Trouble,
                    Ended::Stopped => return Parting::Stopped,
                }
            }
        }
    }

    fn stalled(&mut self) {
        self.probe.metrics.error("stalled");
        self.withdraw(NvmlState::Stalled);
    }

    /// Waits before the next try; true when the sampler is to end.
    fn wait_before_opening(&mut self, inbox: &Receiver<Message>) -> bool {
        let until = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(WAITS.1);
        loop {
            match self.wait(inbox, until) {
                Ended::TimedOut => return false,
                Ended::Stopped => return true,
                Ended::Sampled(_) | Ended::Unusable | Ended::Closed | Ended::Nudged => {}
            }
        }
    }

    /// Waits until `link` has closed the library: NVML looks at the bus anew only when nobody has it open. True when the
    /// sampler is to end.
    fn wait_until_closed(&mut self, link: Option<Link>, inbox: &Receiver<Message>) -> bool {
        let Some(mut link) = link else { return false };
        link.close();
        let until = Instant::now() + DEADLINE;
        loop {
            match self.wait(inbox, until) {
                Ended::Closed | Ended::Unusable => return false,
                Ended::TimedOut => {
                    link.give_up(&self.stuck);
                    return false;
                }
                Ended::Stopped => return true,
                Ended::Sampled(_) | Ended::Nudged => {}
            }
        }
    }

    /// Handles messages until one ends the wait, or `until`.
    fn wait(&mut self, inbox: &Receiver<Message>, until: Instant) -> Ended {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match inbox.recv_timeout(left) {
                Err(RecvTimeoutError::Timeout) => return Ended::TimedOut,
                Err(RecvTimeoutError::Disconnected) | Ok(Message::Stop) => return Ended::Stopped,
                Ok(Message::Nudge) => return Ended::Nudged,
                // Xid errors count whoever heard of them; each is told once.
                Ok(Message::Told(_, Told::Xid(xid))) => {
                    tracing::warn!(gpu = xid.uuid, xid = xid.number, "the driver reports an Xid error");
                    self.inventory.xid(&xid);
                    self.show();
                }
                // Late news of a link that was given up.
                Ok(Message::Told(generation, _)) if generation != self.generation => {}
                Ok(Message::Told(_, Told::Sample(sample))) => return Ended::Sampled(sample),
                Ok(Message::Told(_, Told::Closed)) => return Ended::Closed,
                Ok(Message::Told(_, Told::Failed(failed))) => {
                    tracing::debug!(said = failed.said, "NVML cannot be used");
                    self.probe.metrics.error(failed.kind);
                    // A library that was named and is not there is a mistake; without one there is just no GPU, unless there
                    // was one: an update of the driver takes it away for a while.
                    let state = match (&self.way.library, failed.state) {
                        (None, NvmlState::Absent) if self.ran => NvmlState::DriverGone,
                        (Some(path), NvmlState::Absent) => {
                            tracing::warn!(
                                said = failed.said,
                                "NVML_LIBRARY: \"{}\" cannot be loaded; allowed: the path of an NVML library",
                                path.display()
                            );
                            NvmlState::Failed
                        }
                        (_, state) => state,
                    };
                    self.withdraw(state);
                    return Ended::Unusable;
                }
            }
        }
    }

    fn publish(&mut self, sample: Sample) {
        for kind in &sample.errors {
            self.probe.metrics.error(kind);
        }
        self.probe.metrics.sampled(sample.took);
        self.probe.meters().sampled(&sample);
        for change in self.inventory.update(sample) {
            change.log();
        }
        (self.state, self.ran) = (NvmlState::Running, true);
        self.show();
    }

    /// Nothing is known of any GPU now.
    fn withdraw(&mut self, state: NvmlState) {
        self.state = state;
        self.inventory.withdraw();
        self.probe.meters().withdrawn();
        self.show();
    }

    fn show(&mut self) {
        let adapters = {
            let source = self.probe.adapters.lock().unwrap_or_else(PoisonError::into_inner);
            source.as_ref().and_then(|source| source())
        };
        let mut warnings: Vec<String> = failure::remedy(self.state).map(str::to_owned).into_iter().collect();
        let devices = self.inventory.devices(adapters.as_deref());
        warnings.extend(self.inventory.warnings(&devices, self.state));
        for warning in self.inventory.news(&warnings) {
            tracing::warn!("{warning}");
        }
        if self.told != Some(self.state) {
            self.told = Some(self.state);
            let state = self.state.name();
            match self.state {
                NvmlState::Absent => {
                    tracing::info!("no NVML library: no NVIDIA GPU is watched on this machine")
                }
                NvmlState::Running => {
                    let gpus = devices.iter().filter(|device| device.is_usable()).count();
                    let driver_version = devices.first().map(|device| device.info.driver_version.as_str());
                    tracing::info!(gpus, driver_version, "GPUs are watched");
                }
                _ => tracing::warn!(state, "no readings of GPUs"),
            }
        }
        let hidden = self.inventory.hidden(self.state);
        let snapshot = GpuSnapshot { hidden, ..GpuSnapshot::new(self.state, devices, warnings) };
        self.publish.send_replace(Arc::new(snapshot));
    }
}
