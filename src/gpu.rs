//! GPUs, as the rest of the worker sees them: a snapshot, never a call into a driver.
//!
//! Everyone reads [`GpuProbe::snapshot`], which returns at once; whoever samples a driver does so on a thread of
//! its own. A reading that is stale or not supported is absent.

use crate::domain::{GpuInfo, GpuUsage};

/// All GPUs at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GpuSnapshot {
    /// Healthy GPUs.
    pub gpus: Vec<GpuInfo>,
    /// Their readings; a GPU without fresh ones has no entry.
    pub usage: Vec<GpuUsage>,
}

/// Knows the GPUs of this machine.
pub trait GpuProbe: Send + Sync + 'static {
    /// The latest snapshot.
    fn snapshot(&self) -> GpuSnapshot;
}

/// A machine on which no GPU is looked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoGpus;

impl GpuProbe for NoGpus {
    fn snapshot(&self) -> GpuSnapshot {
        GpuSnapshot::default()
    }
}
