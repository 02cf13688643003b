//! Training: a job's session on a device, and the analytic curves where nothing can be trained.
//!
//! ```text
//! submit(task, control, done) --> choose backend --> session of the job (one thread, tasks in order of arrival)
//!                                        |                 data once, model, optimizer, generator
//!                                        +---------> analytic curves (one timer for all)
//! ```
//!
//! Invariants: `submit` returns at once; `done` is called exactly once, whatever happens; every batch looks at
//! [`Control`]. Training runs on threads of lower priority than the rest of the process.
//!
//! Deliberately absent: async code, the network protocol and metrics registries. The worker hears of progress
//! through [`Observer`].

mod analytic;
mod cards;
mod checkpoints;
mod class_weights;
mod config;
mod control;
mod device;
mod error;
mod exit;
mod local;
mod minibatches;
mod neural_network;
#[cfg(target_os = "linux")]
mod parent;
mod placement;
mod priority;
#[cfg(target_os = "linux")]
mod probe;
mod registry;
#[cfg(target_os = "linux")]
mod runner;
mod search;
mod seeds;
mod session;
mod sessions;
mod stopping;
mod trainer;
mod training;
mod trees;
mod waiting;

#[cfg(test)]
mod tests;

pub use cards::{GpuCondition, GpuState, GpuWatch};
pub use config::{AnalyticProfile, Config, Isolation, RunnerConfig, UnsupportedModels};
pub use control::{Control, Observer, Step};
pub use device::ComputeDevice;
pub use error::{EngineError, OpenError};
pub use exit::ExitCause;
pub use local::{LocalTraining, Predictions};
#[cfg(target_os = "linux")]
pub use probe::tell_adapters;
pub use registry::ModelRegistry;
#[cfg(target_os = "linux")]
pub use runner::{Confinement, ProcessEngine, Runner, RunnerError, Tried};
pub use sessions::SessionLimits;
pub use trainer::{
    Blueprint, Build, Course, MODELS, ModelEntry, Slice, Trained, Trainer, TrainsOn, Verdict, hears,
    listeners,
};
pub use training::TrainingEngine;

use std::any::Any;
use std::sync::Arc;

use crate::domain::{Backend, ErrorCode, JobId, TaskError, TaskResult, TaskSpec};

/// What an engine can do on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineCapabilities {
    /// Model types that are trained for real, without aliases.
    pub model_types: Vec<String>,
    /// Backends that a task may ask for.
    pub backends: Vec<Backend>,
    /// The backend of a task without a wish of its own.
    pub default_backend: Backend,
    /// Name of the device behind it.
    pub device: String,
}

/// Something that runs tasks.
pub trait Engine: Send + Sync + 'static {
    /// What it can do.
    fn capabilities(&self) -> EngineCapabilities;

    /// The backend that a task without a wish of its own would get now: it changes where a GPU comes late. Answers at once.
    fn default_backend(&self) -> Backend {
        self.capabilities().default_backend
    }

    /// Runs `task` and calls `done` when it ended. Returns at once.
    fn submit(&self, task: Arc<TaskSpec>, control: Arc<Control>, done: Done);

    /// Jobs whose session is warm.
    fn warm_jobs(&self) -> Vec<JobId>;

    /// Jobs of which it keeps something: a session, or checkpoints. What is too old goes on this occasion. Looks at the
    /// disk, so that it may take a while.
    fn kept_jobs(&self) -> Vec<JobId> {
        self.warm_jobs()
    }

    /// Lets all go that is kept of a job that has ended; a session that is warm leaves its model on disk. Tasks of it
    /// that still run are not affected.
    fn forget(&self, job: &JobId);

    /// Why tasks that name no backend wait now: not one of the GPUs can be used that they would get. Answers at once.
    fn device_trouble(&self) -> Option<String> {
        None
    }

    /// Tells `watcher` from now on how the engine itself fares, if there is anything to tell.
    fn watch(&self, _watcher: Box<dyn Watcher>) {}
}

/// Hears how an engine fares, on a thread of the engine: implementations return at once.
pub trait Watcher: Send + 'static {
    /// What keeps it from its work, None when that is over.
    fn trouble(&self, trouble: Option<String>);

    /// A process of it has ended.
    fn runner_exited(&self, cause: ExitCause);

    /// So many processes of it there are now.
    fn runners(&self, count: usize);
}

/// How a task ended in the engine.
#[derive(Debug)]
pub struct Finished {
    /// Result or reason.
    pub ending: Result<TaskResult, TaskError>,
    /// What the sender should know beside it.
    pub notes: Vec<String>,
}

/// Called once with the end of a task. Dropped uncalled (a trainer that panicked), it reports that itself, so
/// that no task is ever left without an end.
pub struct Done(Option<Box<dyn FnOnce(Finished) + Send>>);

impl Done {
    /// Wraps `call`.
    pub fn new(call: impl FnOnce(Finished) + Send + 'static) -> Self {
        Self(Some(Box::new(call)))
    }

    /// Reports the end.
    pub fn finish(mut self, finished: Finished) {
        if let Some(call) = self.0.take() {
            call(finished);
        }
    }
}

/// What a panic said.
fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            let error = TaskError::new(ErrorCode::Panic, "the trainer ended without a result");
            call(Finished { ending: Err(error), notes: Vec::new() });
        }
    }
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Done")
    }
}
