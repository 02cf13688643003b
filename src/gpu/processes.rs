//! The processes on a GPU, and which of them are ours.
//!
//! NVIDIA lists those that compute (CUDA) and those with a graphics context (Vulkan, so ours) apart; one that has both is in
//! both lists.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nvml_wrapper::Device;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;

use super::driver::Errors;
use super::snapshot::{GpuProcess, Owner};

/// The kernel's number of the first process id namespace, in which everybody sees the ids that a driver tells.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// All processes of `device`; None where it lists neither kind.
pub(super) fn of(device: &Device<'_>, errors: &mut Errors) -> Result<Option<Vec<GpuProcess>>, NvmlError> {
    let compute = errors.reading(device.running_compute_processes())?;
    let graphics = errors.reading(device.running_graphics_processes())?;
    if compute.is_none() && graphics.is_none() {
        return Ok(None);
    }
    Ok(Some(merge(compute.into_iter().chain(graphics).flatten())))
}

/// One entry for each process.
fn merge(listed: impl Iterator<Item = ProcessInfo>) -> Vec<GpuProcess> {
    let mut memory = BTreeMap::<u32, Option<u64>>::new();
    for process in listed {
        let bytes = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        };
        let known = memory.entry(process.pid).or_default();
        // Each list tells all that the process uses.
        *known = (*known).max(bytes);
    }
    let process = |(pid, memory_bytes)| GpuProcess { pid, memory_bytes, owner: owner(pid) };
    memory.into_iter().map(process).collect()
}

/// Whose it is. In a container the driver tells process ids of the host, so that nobody can know.
fn owner(pid: u32) -> Owner {
    let own = std::process::id();
    let is_child = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        parent.is_some_and(|parent| parent.trim() == own.to_string())
    };
    if pid == own || is_child() {
        Owner::Ours
    } else if fs::read_link("/proc/self/ns/pid").is_ok_and(|is| is == Path::new(FIRST_NAMESPACE)) {
        Owner::Others
    } else {
        Owner::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_in_both_lists_is_one() {
        let listed = |pid, memory| ProcessInfo {
            pid,
            used_gpu_memory: memory,
            gpu_instance_id: None,
            compute_instance_id: None,
        };
        let (used, unknown) = (UsedGpuMemory::Used(7), UsedGpuMemory::Unavailable);
        let own = std::process::id();
        let all = [listed(own, unknown.clone()), listed(own, used.clone()), listed(own, used)];
        let expected = [GpuProcess { pid: own, memory_bytes: Some(7), owner: Owner::Ours }];
        assert_eq!(merge(all.into_iter()), expected);
        assert_ne!(merge([listed(0, unknown)].into_iter())[0].owner, Owner::Ours);
    }
}
