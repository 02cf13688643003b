//! Whether there is a GPU, and whether it can be trained on: driver, NVML, Vulkan adapter, what the container may.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::{Finding, devices, vulkan};
use crate::config::{Config, Environment};
use crate::domain::{GpuInfo, HiddenGpus};
use crate::gpu::{self, FIRST_SAMPLE_PATIENCE, GpuHealth, GpuSnapshot, NvmlState};

/// What a container needs of the driver.
pub(super) const CAPABILITIES: &str = "NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics";

/// From the kernel's driver up to the adapter.
pub(super) async fn examine(config: &Config, environment: &Environment) -> Vec<Finding> {
    let mut findings = Vec::new();
    let driver = fs::read_to_string("/proc/driver/nvidia/version").ok();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let in_container = Path::new("/.dockerenv").exists()
        || Path::new("/run/.containerenv").exists()
        || is_container(environment, &mounts);
    let seen = gpu::look(config.gpu.clone()).await;
    match &driver {
        Some(version) => {
            let line = version.lines().next().unwrap_or_default();
            findings.push(Finding::ok("gpu.driver", line.to_owned()));
            findings.extend(capabilities(environment, in_container));
            findings.push(vulkan::examine(environment));
        }
        None => findings.push(Finding::ok("gpu.driver", "no NVIDIA driver is loaded on this machine")),
    }
    let snapshot = match seen {
        Ok(snapshot) => snapshot,
        Err(error) => {
            findings.push(Finding::error("gpu.nvml", error.to_string(), "allow the worker more threads"));
            Arc::default()
        }
    };
    findings.extend(nvml(&snapshot, driver.is_some()));
    findings.extend(devices::examine(config, &snapshot, driver.is_some()).await);
    findings
}

/// What NVML itself answers.
fn nvml(snapshot: &GpuSnapshot, has_driver: bool) -> Vec<Finding> {
    let check = "gpu.nvml";
    let mut findings: Vec<_> = match snapshot.nvml {
        NvmlState::Absent if !has_driver => Vec::new(),
        NvmlState::Absent => vec![Finding::warning(
            check,
            "the driver is loaded, and its library libnvidia-ml.so.1 is not found: GPUs cannot be watched",
            format!(
                "in a container: {CAPABILITIES}; else install the driver's libraries, or set NVML_LIBRARY"
            ),
        )],
        NvmlState::Running => vec![Finding::ok(check, gpus(snapshot))],
        NvmlState::Starting => vec![Finding::error(
            check,
            format!("NVML gives no answer within {} s", FIRST_SAMPLE_PATIENCE.as_secs()),
            "look for Xid errors and NVRM in the kernel's log; else restart the machine",
        )],
        state @ (NvmlState::Stalled
        | NvmlState::DriverGone
        | NvmlState::VersionMismatch
        | NvmlState::Failed) => {
            let message = format!("NVML is {}, and GPUs cannot be watched", state.name());
            vec![Finding::error(check, message, gpu::remedy(state).unwrap_or_default())]
        }
    };
    let lost = snapshot.devices.iter().filter(|device| device.health == GpuHealth::Lost);
    findings.extend(lost.map(|device| {
        let GpuInfo { index, uuid, .. } = &device.info;
        Finding::error(
            "gpu.health",
            format!("GPU {index} ({uuid}) is lost"),
            format!("nvidia-smi -r -i {index}"),
        )
    }));
    findings
}

/// The GPUs in one line.
fn gpus(snapshot: &GpuSnapshot) -> String {
    let healthy: Vec<_> = snapshot.gpus.iter().map(|gpu| format!("{} ({})", gpu.index, gpu.name)).collect();
    let mut line = match healthy.as_slice() {
        [] => "NVML answers, and there is no GPU for this worker".to_owned(),
        gpus => format!("NVML answers: {} healthy: {}", gpus.len(), gpus.join(", ")),
    };
    if let HiddenGpus::At(hidden) = &snapshot.hidden
        && !hidden.is_empty()
    {
        let count = hidden.len();
        line.push_str(&format!("; {count} hidden by NVIDIA_VISIBLE_DEVICES or CUDA_VISIBLE_DEVICES"));
    }
    line
}

fn capabilities(environment: &Environment, in_container: bool) -> Option<Finding> {
    if !in_container {
        return None;
    }
    let given = environment.get("NVIDIA_DRIVER_CAPABILITIES").map(String::as_str).unwrap_or_default();
    let has = |name: &str| given == "all" || given.split(',').any(|one| one.trim() == name);
    let missing: Vec<_> = ["compute", "utility", "graphics"].into_iter().filter(|name| !has(name)).collect();
    Some(if missing.is_empty() {
        Finding::ok("gpu.capabilities", format!("NVIDIA_DRIVER_CAPABILITIES={given}"))
    } else {
        let message = format!("NVIDIA_DRIVER_CAPABILITIES={given} lacks {}", missing.join(", "));
        Finding::warning("gpu.capabilities", message, format!("run the container with {CAPABILITIES}"))
    })
}

/// Whether this is a container that leaves no file of its own, as containerd's under Kubernetes: its root lies on layers.
fn is_container(environment: &Environment, mounts: &str) -> bool {
    let is_layered = |line: &str| {
        let (place, kind) = line.split_once(" - ").unwrap_or_default();
        let kind = kind.split(' ').next().unwrap_or_default();
        place.split(' ').nth(4) == Some("/") && (kind == "overlay" || kind == "fuse.fuse-overlayfs")
    };
    environment.contains_key("KUBERNETES_SERVICE_HOST") || mounts.lines().any(is_layered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_known_by_kubernetes_or_by_a_root_of_layers() {
        let nothing = Environment::new();
        let machine = "28 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n\
                       99 28 0:44 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw,lowerdir=/a\n";
        let container = "1450 1393 0:312 / / rw,relatime master:502 - overlay overlay rw,lowerdir=/a\n";
        assert!(!is_container(&nothing, machine) && is_container(&nothing, container));
        let kubernetes = [("KUBERNETES_SERVICE_HOST".to_owned(), "10.0.0.1".to_owned())].into();
        assert!(is_container(&kubernetes, machine));
        assert!(capabilities(&nothing, true).unwrap().message.contains("lacks compute, utility, graphics"));
    }
}
