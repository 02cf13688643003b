//! What tasks will be trained on, and what keeps them to it: both tried as the worker will, in processes of their own.

use std::sync::Arc;
use std::time::Duration;

use super::Finding;
use super::gpu::CAPABILITIES;
use crate::config::Config;
use crate::domain::{Backend, BackendChoice, DevicePolicy, HiddenGpus};
use crate::engine::{
    self, Confinement, Engine as _, EngineCapabilities, EngineError, Isolation, ProcessEngine, RunnerConfig,
    SessionLimits, Tried,
};
use crate::gpu::GpuSnapshot;

/// How long the first runner may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a search for devices came to.
struct Searched<'a> {
    config: &'a engine::Config,
    /// Whether this machine has an NVIDIA GPU that may be used, as its driver or NVML tells.
    has_gpu: bool,
    found: Result<EngineCapabilities, EngineError>,
}

/// Looks for devices, then tries what a runner may do.
pub(super) async fn examine(config: &Config, snapshot: &GpuSnapshot, has_driver: bool) -> Vec<Finding> {
    let runners = match &config.isolation {
        Isolation::Process(runners) => runners.clone(),
        Isolation::Thread => RunnerConfig::default(),
    };
    let mut engine_config = engine::Config {
        // Nothing is written here.
        state_dir: None,
        hidden_gpus: snapshot.hidden.known(),
        ..config.engine.clone()
    };
    if !needs_gpu(&config.engine) {
        // Nobody waits for that search.
        engine_config.device_policy = DevicePolicy::Cpu;
    }
    let is_apart = matches!(config.isolation, Isolation::Process(_));
    let searched = tokio::task::spawn_blocking(move || {
        let engine = match ProcessEngine::start(engine_config, SessionLimits::default(), runners, None) {
            Ok(engine) => Arc::new(engine),
            Err(error) => return (Err(error), None),
        };
        (Ok(engine.capabilities()), is_apart.then(|| engine.self_test(PATIENCE)))
    });
    match searched.await {
        Err(error) => vec![Finding::error(
            "gpu.adapter",
            format!("the search for devices ended early: {error}"),
            "see the driver's log (dmesg)",
        )],
        Ok((found, tested)) => {
            let has_gpu = has_driver || !snapshot.gpus.is_empty();
            let blind = hidden(&config.engine, &snapshot.hidden, &found);
            let mut findings = vec![adapter(&Searched { config: &config.engine, has_gpu, found })];
            findings.extend(blind);
            findings.push(match tested {
                Some(tested) => confinement(tested),
                None if is_apart => return findings,
                None => Finding::ok(
                    "isolation",
                    "TASK_ISOLATION=thread: tasks train in the worker's process, and nothing keeps them to their files",
                ),
            });
            findings
        }
    }
}

/// Whether a GPU would be used where there is one.
fn needs_gpu(config: &engine::Config) -> bool {
    let elsewhere = matches!(config.backend, BackendChoice::Only(Backend::Cpu | Backend::Analytic));
    config.device_policy == DevicePolicy::Require
        || (config.device_policy == DevicePolicy::Prefer && !elsewhere)
}

/// GPUs of which nobody knows whether they may be used: a worker that would train on them takes no tasks.
fn hidden(
    config: &engine::Config,
    hidden: &HiddenGpus,
    found: &Result<EngineCapabilities, EngineError>,
) -> Option<Finding> {
    if *hidden != HiddenGpus::Unknown || !needs_gpu(config) {
        return None;
    }
    let has_adapter = found.as_ref().is_ok_and(|found| found.backends.contains(&Backend::Wgpu));
    let finding = if has_adapter { Finding::error } else { Finding::warning };
    Some(finding("gpu.visible", HiddenGpus::UNKNOWN.to_owned(), HiddenGpus::REPAIR))
}

fn adapter(searched: &Searched<'_>) -> Finding {
    let check = "gpu.adapter";
    // A GPU that Vulkan does not show is the same defect, whatever the configuration makes of it.
    let hidden = searched.has_gpu && needs_gpu(searched.config);
    let driver = || {
        format!(
            "in a container: {CAPABILITIES} and a file that names the driver (nvidia_icd.json in /etc/vulkan/icd.d); \
             else install the driver's Vulkan part, see `vulkaninfo --summary`"
        )
    };
    let (found, device) = match &searched.found {
        Err(error @ (EngineError::GpuRequired { .. } | EngineError::NoAdapter { .. })) if hidden => {
            let message = format!("there is an NVIDIA GPU, and no Vulkan adapter: {error}");
            return Finding::error(check, message, driver());
        }
        Err(error) => {
            let repair = match error {
                EngineError::System { .. } => "allow the worker more threads and processes",
                EngineError::GpuForbidden => "TRAINING_BACKEND=cpu, or DEVICE_POLICY=prefer",
                EngineError::NoAdapter { .. } => "TRAINING_BACKEND=cpu trains for real on the CPU",
                EngineError::GpuRequired { .. } => "DEVICE_POLICY=prefer starts without a GPU",
            };
            return Finding::error(check, error.to_string(), repair);
        }
        Ok(found) => {
            (found, format!("trains by default on {} ({})", found.default_backend.name(), found.device))
        }
    };
    if hidden && !found.backends.contains(&Backend::Wgpu) {
        let message = format!("{device}: there is an NVIDIA GPU, and no Vulkan adapter");
        Finding::warning(check, message, driver())
    } else if found.default_backend == Backend::Analytic && searched.config.backend == BackendChoice::Auto {
        let message = format!("{device}: no GPU was found, and results will be simulated");
        Finding::warning(check, message, "TRAINING_BACKEND=cpu trains for real on the CPU")
    } else {
        Finding::ok(check, device)
    }
}

/// What a runner gave up, as it found by trying.
fn confinement(tested: Result<Confinement, String>) -> Finding {
    let check = "isolation";
    match tested {
        Err(reason) => Finding::error(
            check,
            format!("no runner is ready to train: {reason}"),
            "TASK_MEMORY_LIMIT=none lifts a runner's limit, and TASK_ISOLATION=thread trains without runners",
        ),
        Ok(confinement) => {
            let message = format!("a runner was tried: {confinement}");
            let open = [confinement.read_outside, confinement.write_to_data].contains(&Tried::Allowed);
            if confinement.landlock_abi == 0 || open {
                let repair = "a kernel from 5.13 on with landlock in lsm= of its command line, and a seccomp profile \
                              that lets the calls landlock_* through";
                Finding::warning(check, message, repair)
            } else if !confinement.missing.is_empty() {
                Finding::warning(check, message, "a newer kernel, or the right that is named")
            } else {
                Finding::ok(check, message)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::config::{Environment, Layers};

    fn config(backend: &str, policy: &str) -> engine::Config {
        let environment = [("TRAINING_BACKEND", backend), ("DEVICE_POLICY", policy)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let environment = Environment::from(environment);
        Config::resolve(&Layers { environment, ..Layers::default() }).unwrap().config.engine
    }

    fn on(default_backend: Backend) -> Result<EngineCapabilities, EngineError> {
        Ok(EngineCapabilities {
            model_types: Vec::new(),
            backends: vec![default_backend],
            default_backend,
            device: "a device".to_owned(),
        })
    }

    /// Level and repair of what was found.
    fn said(
        config: &engine::Config,
        has_gpu: bool,
        found: Result<EngineCapabilities, EngineError>,
    ) -> (Level, String) {
        let finding = adapter(&Searched { config, has_gpu, found });
        (finding.level, finding.repair.unwrap_or_default())
    }

    #[test]
    fn a_gpu_that_vulkan_does_not_show_leads_to_the_drivers_vulkan_part() {
        let no_adapter = || EngineError::NoAdapter { field: "TRAINING_BACKEND", found: "none".to_owned() };
        let required = || EngineError::GpuRequired { found: "none".to_owned() };
        let hidden: [(&str, &str, Result<EngineCapabilities, EngineError>); 4] = [
            ("auto", "prefer", on(Backend::Analytic)),
            ("wgpu", "prefer", Err(no_adapter())),
            ("wgpu", "require", Err(required())),
            ("auto", "require", Err(required())),
        ];
        for (backend, policy, found) in hidden {
            let config = config(backend, policy);
            let (level, repair) = said(&config, true, found.clone());
            assert_ne!(level, Level::Ok, "{backend} {policy}");
            assert!(
                repair.contains(CAPABILITIES) && repair.contains("nvidia_icd.json"),
                "{backend}: {repair}"
            );
            // Without a GPU that is no advice.
            let (level, repair) = said(&config, false, found);
            assert_ne!(level, Level::Ok, "{backend} {policy}");
            assert!(!repair.contains(CAPABILITIES), "{backend}: {repair}");
        }
        // Whoever does not want the GPU hears nothing of it.
        for backend in ["cpu", "analytic"] {
            assert_eq!(said(&config(backend, "prefer"), true, on(Backend::Cpu)).0, Level::Ok);
        }
        assert_eq!(said(&config("auto", "prefer"), true, on(Backend::Wgpu)).0, Level::Ok);
    }

    #[test]
    fn what_a_runner_may_still_do_is_told() {
        let good = Confinement {
            landlock_abi: 6,
            no_new_privs: true,
            undumpable: true,
            memory_limit_bytes: None,
            read_outside: Tried::Denied,
            write_to_data: Tried::Denied,
            connect: Tried::Denied,
            missing: Vec::new(),
        };
        assert_eq!(confinement(Ok(good.clone())).level, Level::Ok);
        let open = Confinement { landlock_abi: 0, read_outside: Tried::Allowed, ..good.clone() };
        let finding = confinement(Ok(open));
        assert!(finding.level == Level::Warning && finding.repair.unwrap().contains("lsm="));
        let old = Confinement { missing: vec!["the network is open".to_owned()], ..good };
        let finding = confinement(Ok(old));
        assert!(finding.level == Level::Warning && finding.message.contains("the network is open"));
        assert_eq!(confinement(Err("it crashed".to_owned())).level, Level::Error);
    }
}
