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

mod snapshot;

use std::sync::Arc;

use tokio::sync::watch;

pub use snapshot::{GpuDevice, GpuHealth, GpuProcess, GpuReadings, GpuSnapshot, NvmlState, ThrottleReason};

/// Knows the GPUs of this machine.
pub trait GpuProbe: Send + Sync + 'static {
    /// The latest snapshot. Never waits.
    fn snapshot(&self) -> Arc<GpuSnapshot>;

    /// Hears of each new snapshot, which comes once a second; ends where there will be none.
    fn watch(&self) -> watch::Receiver<Arc<GpuSnapshot>>;
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
