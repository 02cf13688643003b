//! What the engine asks of the GPUs, answered from the snapshot that everyone reads.

use std::fs;

use crate::engine::{GpuCondition, GpuState, GpuWatch};
use crate::gpu::{GpuDevice, GpuHealth, GpuProbe, GpuProcess, NvmlState, SampledGpus};

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
}

fn state(device: &GpuDevice) -> Option<GpuState> {
    let used = device.readings.memory_used_bytes.unwrap_or_default();
    let ours = device.readings.processes.iter().flatten().filter(|process| is_ours(process));
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

/// Whether it is this process or a child of it. In a container the driver tells process ids of the host, so that what
/// is ours counts as others': too little is given away then, never too much.
fn is_ours(process: &GpuProcess) -> bool {
    let own = std::process::id();
    if process.pid == own {
        return true;
    }
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent.is_some_and(|parent| parent.trim() == own.to_string())
}
