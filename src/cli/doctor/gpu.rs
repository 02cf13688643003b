//! Whether there is a GPU, and whether it can be trained on: driver, NVML, Vulkan adapter, what the container may.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::Finding;
use crate::config::{Config, Environment};
use crate::domain::{Backend, BackendChoice, DevicePolicy, GpuInfo};
use crate::engine::{self, Engine as _, TrainingEngine};
use crate::gpu::{self, FIRST_SAMPLE_PATIENCE, GpuHealth, GpuSnapshot, NvmlState};

/// Where the Vulkan loader looks for drivers.
const ICD_FOLDERS: &[&str] = &["/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d"];

const CAPABILITIES: &str = "NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics";

/// From the kernel's driver up to the adapter.
pub(super) async fn examine(config: &Config, environment: &Environment) -> Vec<Finding> {
    let mut findings = Vec::new();
    let driver = fs::read_to_string("/proc/driver/nvidia/version").ok();
    let in_container = Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists();
    let seen = gpu::look(config.gpu.clone()).await;
    match &driver {
        Some(version) => {
            let line = version.lines().next().unwrap_or_default();
            findings.push(Finding::ok("gpu.driver", line.to_owned()));
            findings.extend(capabilities(environment, in_container));
            findings.push(icd(environment));
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
    findings.push(adapter(config, &snapshot, driver.is_some()).await);
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
    if !snapshot.hidden.is_empty() {
        let count = snapshot.hidden.len();
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

fn icd(environment: &Environment) -> Finding {
    let named = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].iter().find_map(|name| environment.get(*name));
    let is_there = |folder: &&str| {
        fs::read_dir(folder).is_ok_and(|mut files| {
            files.any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().contains("nvidia")))
        })
    };
    if let Some(named) = named {
        Finding::ok("gpu.vulkan_driver", format!("Vulkan drivers are those of {named}"))
    } else if let Some(folder) = ICD_FOLDERS.iter().find(|folder| is_there(folder)) {
        Finding::ok("gpu.vulkan_driver", format!("{folder} names NVIDIA's Vulkan driver"))
    } else {
        let message = "no file names NVIDIA's Vulkan driver (nvidia_icd.json), so that wgpu finds no GPU";
        Finding::warning(
            "gpu.vulkan_driver",
            message,
            format!("in a container: {CAPABILITIES}; else install the driver's Vulkan part"),
        )
    }
}

/// Looks for devices as the worker will.
async fn adapter(config: &Config, snapshot: &GpuSnapshot, has_driver: bool) -> Finding {
    let check = "gpu.adapter";
    let hidden_gpus = snapshot.hidden.clone();
    let mut engine_config = engine::Config { state_dir: None, hidden_gpus, ..config.engine.clone() };
    let needs_no_gpu = matches!(config.engine.backend, BackendChoice::Only(Backend::Cpu | Backend::Analytic));
    if needs_no_gpu && config.engine.device_policy == DevicePolicy::Prefer {
        // Nobody waits for that search, and a driver that is being loaded when the program ends may crash it.
        engine_config.device_policy = DevicePolicy::Cpu;
    }
    let searched = tokio::task::spawn_blocking(move || TrainingEngine::new(engine_config)).await;
    let has_gpu = has_driver || !snapshot.gpus.is_empty();
    let may_use = config.engine.device_policy != DevicePolicy::Cpu;
    match searched {
        Err(error) => Finding::error(
            check,
            format!("the search for devices ended early: {error}"),
            "see the driver's log (dmesg)",
        ),
        Ok(Err(error)) => {
            Finding::error(check, error.to_string(), "DEVICE_POLICY=prefer starts without a GPU")
        }
        Ok(Ok(engine)) => {
            let found = engine.capabilities();
            let device = format!("trains by default on {} ({})", found.default_backend.name(), found.device);
            if found.default_backend == Backend::Analytic && config.engine.backend == BackendChoice::Auto {
                let message = format!("{device}: no GPU was found, and results will be simulated");
                Finding::warning(check, message, "TRAINING_BACKEND=cpu trains for real on the CPU")
            } else if has_gpu && may_use && !needs_no_gpu && !found.backends.contains(&Backend::Wgpu) {
                let message = format!("{device}: there is an NVIDIA driver, and no Vulkan adapter");
                Finding::warning(check, message, format!("{CAPABILITIES} and the driver's Vulkan part"))
            } else {
                Finding::ok(check, device)
            }
        }
    }
}
