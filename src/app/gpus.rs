//! What the engine asks of the GPUs, answered from the snapshot that everyone reads, and what it is told of them.

use std::sync::{Arc, Weak};

use tokio::sync::watch;

use crate::domain::PciAddress;
use crate::engine::{GpuCondition, GpuState, GpuWatch, ProcessEngine};
use crate::gpu::{GpuDevice, GpuHealth, GpuProbe, GpuSnapshot, NvmlState, Owner, SampledGpus};

/// The GPUs that NVML knows.
pub(super) struct Watched(pub(super) SampledGpus);

impl GpuWatch for Watched {
    fn gpus(&self) -> Option<Vec<GpuState>> {
        let snapshot = self.0.snapshot();
        if matches!(snapshot.nvml, NvmlState::Absent | NvmlState::Starting) && snapshot.devices.is_empty() {
            return None;
        }
        // Vulkan knows nothing of slices, and the whole of a partitioned GPU is not to be had.
        let whole = snapshot.devices.iter().filter(|device| !device.info.mig && !device.partitioned);
        Some(whole.filter_map(state).collect())
    }

    fn forbids(&self, address: Option<PciAddress>) -> bool {
        self.0.snapshot().hidden.forbids(address)
    }
}

/// Tells `engine` of each new snapshot, until there are no more of them or the engine is gone.
pub(super) async fn follow(mut snapshots: watch::Receiver<Arc<GpuSnapshot>>, engine: Weak<ProcessEngine>) {
    while snapshots.changed().await.is_ok() {
        let Some(engine) = engine.upgrade() else { return };
        engine.look_after_gpus();
    }
}

fn state(device: &GpuDevice) -> Option<GpuState> {
    let used = device.readings.memory_used_bytes.unwrap_or_default();
    let processes = device.readings.processes.iter().flatten();
    // What cannot be told apart counts as others': too little is given away then, never too much.
    let ours = processes.filter(|process| process.owner == Owner::Ours);
    let ours: u64 = ours.filter_map(|process| process.memory_bytes).sum();
    Some(GpuState {
        uuid: device.info.uuid.clone(),
        address: device.info.pci_bus_id.parse().ok()?,
        condition: match device.health {
            GpuHealth::Healthy => GpuCondition::Healthy,
            GpuHealth::Unknown => GpuCondition::Silent,
            GpuHealth::Lost => GpuCondition::Lost,
        },
        memory_bytes: device.info.memory_bytes,
        others_bytes: used.saturating_sub(ours),
    })
}
