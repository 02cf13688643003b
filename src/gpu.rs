//! GPUs, as the rest of the worker sees them: a snapshot, never a call into a driver.
//!
//! ```text
//! NVML <--1/s, one thread-- sampler --watch--> GpuSnapshot --> /metrics, /health, registration, heartbeats, placement
//!                              ^
//!          Xid events, adapters of wgpu
//! ```
//!
//! Everyone reads [`GpuProbe::snapshot`], which returns at once; whoever samples a driver does so on a thread of
//! its own. A reading that is stale or not supported is absent.

mod driver;
mod events;
mod failure;
mod inventory;
mod link;
mod meter;
mod metrics;
mod processes;
mod raw;
mod sampler;
mod snapshot;
mod visible;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::domain::PciAddress;

pub use failure::remedy;
pub use meter::{Attribution, GpuShare, TaskMeter};
pub use metrics::Metrics;
pub use sampler::{FIRST_SAMPLE_PATIENCE, GpuSampler, SampledGpus, look};
pub use snapshot::{
    ComputeMode, GpuDevice, GpuHealth, GpuProcess, GpuReadings, GpuSnapshot, NvmlState, Owner, ThrottleReason,
};

pub use visible::Visible;

/// What the operator decides about GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// NVML_LIBRARY; None = libnvidia-ml.so.1, where the dynamic linker finds it.
    pub library: Option<PathBuf>,
    /// Which of the GPUs are ours.
    pub visible: Visible,
    /// GPU_PCIE_THROUGHPUT.
    pub pcie: PcieThroughput,
    /// Whether tasks are meant to be trained on them.
    pub purpose: Purpose,
}

/// What GPUs are there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    /// Tasks train on them: one without an adapter is something to mend.
    Training,
    /// They are only watched, since the configuration trains elsewhere.
    #[default]
    Watching,
}

/// Whether PCIe throughput is measured, which takes 40 ms a GPU at each sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PcieThroughput {
    /// It is.
    Measured,
    /// It is not.
    #[default]
    Skipped,
}

/// Tells the PCI addresses of the adapters that wgpu sees, once these are known.
pub type AdapterSource = Box<dyn Fn() -> Option<Vec<PciAddress>> + Send>;

/// Why GPUs cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No thread could be started.
    #[error("cannot start the thread that watches GPUs: {0}")]
    Thread(#[from] std::io::Error),
    /// A metric could not be made.
    #[error("metrics of GPUs: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Knows the GPUs of this machine.
pub trait GpuProbe: Send + Sync + 'static {
    /// The latest snapshot. Never waits.
    fn snapshot(&self) -> Arc<GpuSnapshot>;

    /// Hears of each new snapshot, which comes once a second; ends where there will be none.
    fn watch(&self) -> watch::Receiver<Arc<GpuSnapshot>>;

    /// Opens the account of a task that begins now on the GPU called `uuid`; None where nobody measures.
    fn meter(&self, _uuid: &str) -> Option<TaskMeter> {
        None
    }
}

/// A machine on which no GPU is looked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoGpus;

impl GpuProbe for NoGpus {
    fn snapshot(&self) -> Arc<GpuSnapshot> {
        Arc::default()
    }

    fn watch(&self) -> watch::Receiver<Arc<GpuSnapshot>> {
        watch::channel(Arc::default()).1
    }
}
