//! The engine: places each task, then hands it to a session or to the analytic curves.

use std::sync::Arc;

use super::analytic::Analytic;
use super::cards::{Cards, GpuWatch};
use super::checkpoints::Store;
use super::placement::Placer;
use super::search::Search;
use super::sessions::{Loss, SessionLimits, Sessions, Submission};
use super::{Config, Control, Done, Engine, EngineCapabilities, EngineError, ModelRegistry, priority};
use crate::domain::{Backend, JobId, PciAddress, TaskSpec};

/// Trains on the devices of this machine, and simulates what they cannot train.
pub struct TrainingEngine {
    placer: Placer,
    analytic: Analytic,
    sessions: Sessions,
    cards: Arc<Cards>,
}

impl TrainingEngine {
    /// Looks for devices where `config` may use a GPU, which takes up to 20 seconds where a graphics driver hangs, and
    /// warns once where nothing will be trained.
    ///
    /// # Errors
    /// The machine lacks what `config` demands.
    pub fn new(config: Config) -> Result<Self, EngineError> {
        Self::with_limits(config, SessionLimits::default())
    }

    /// The same engine, which trains `models` instead of those of this crate alone. Call it before the first task.
    pub fn with_models(self, models: ModelRegistry) -> Self {
        Self { placer: self.placer.with_models(models), ..self }
    }

    /// As [`Self::new`], with limits of its own for idle sessions.
    ///
    /// # Errors
    /// The machine lacks what `config` demands.
    pub fn with_limits(config: Config, limits: SessionLimits) -> Result<Self, EngineError> {
        Self::with_gpus(config, limits, None)
    }

    /// As [`Self::with_limits`], on GPUs that `watch` knows: each session gets one with room for it, and none that is
    /// not healthy.
    ///
    /// # Errors
    /// The machine lacks what `config` demands.
    pub fn with_gpus(
        config: Config,
        limits: SessionLimits,
        watch: Option<Arc<dyn GpuWatch>>,
    ) -> Result<Self, EngineError> {
        let search = Search::new(&config);
        let engine = Self::watched(config, search, limits, watch)?;
        if let Some(warning) = engine.placer.warning() {
            tracing::warn!("{warning}");
        }
        Ok(engine)
    }

    /// PCI addresses of the adapters that were found; None while they are still looked for, or nobody had to look.
    pub fn adapters(&self) -> Option<Vec<PciAddress>> {
        let devices = self.placer.search().so_far()?;
        Some(devices.gpus().filter_map(|adapter| adapter.address).collect())
    }

    /// What `job` had in another process is gone.
    #[cfg(target_os = "linux")]
    pub(super) fn lost(&self, job: &JobId, loss: Loss) {
        self.sessions.lost(job, loss);
    }

    /// Ends all sessions and waits until they have put on disk what they had to.
    #[cfg(target_os = "linux")]
    pub(super) fn close(&self) {
        self.sessions.close();
    }

    #[cfg(test)]
    pub(super) fn on(config: Config, search: Search, limits: SessionLimits) -> Result<Self, EngineError> {
        Self::watched(config, search, limits, None)
    }

    fn watched(
        config: Config,
        search: Search,
        limits: SessionLimits,
        watch: Option<Arc<dyn GpuWatch>>,
    ) -> Result<Self, EngineError> {
        let cards = Arc::new(Cards::new(search.clone(), watch));
        let placer = Placer::new(&config, search)?;
        priority::lower_shared_pool();
        let store = Store::of(&config);
        Ok(Self {
            placer,
            analytic: Analytic::new(config.analytic_profile, config.analytic_delay),
            sessions: Sessions::new(limits, config.data, store, Arc::clone(&cards)),
            cards,
        })
    }
}

impl Engine for TrainingEngine {
    fn capabilities(&self) -> EngineCapabilities {
        self.placer.capabilities()
    }

    fn default_backend(&self) -> Backend {
        self.placer.default_backend()
    }

    fn submit(&self, task: Arc<TaskSpec>, control: Arc<Control>, done: Done) {
        let submission = Submission { task, control, done };
        self.placer
            .submit(submission, &self.analytic, |plan, submission| self.sessions.submit(plan, submission));
    }

    fn warm_jobs(&self) -> Vec<JobId> {
        self.sessions.warm_jobs()
    }

    fn kept_jobs(&self) -> Vec<JobId> {
        self.sessions.kept_jobs()
    }

    fn forget(&self, job: &JobId) {
        self.sessions.forget(job);
    }

    fn device_trouble(&self) -> Option<String> {
        self.placer.trouble(&self.cards)
    }
}

impl std::fmt::Debug for TrainingEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrainingEngine").field("placer", &self.placer).finish_non_exhaustive()
    }
}
