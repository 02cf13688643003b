//! Which backend a task gets: a pure decision from configuration, devices and the task's wish.
//!
//! ```text
//! hyperparameter backend, else TRAINING_BACKEND
//!   auto      GPU where there is one (never under DEVICE_POLICY=cpu), else the analytic curves
//!   cpu       the CPU            wgpu      the adapter, or a refusal        analytic   the curves
//! cpu or wgpu, but no trainer for the model_type:
//!   UNSUPPORTED_MODELS=simulate  the curves, with a note      reject, or DEVICE_POLICY=require: a refusal
//! ```

use super::device::{ComputeDevice, Devices};
use super::trainer::{MODELS, ModelEntry};
use super::{Config, EngineCapabilities, EngineError, UnsupportedModels, analytic};
use crate::domain::{Backend, BackendChoice, DevicePolicy, InvalidField, TaskError, TaskSpec};

/// Where a task goes.
#[derive(Debug)]
pub(crate) enum Placement {
    /// To the analytic curves; the note says why when that was not asked for.
    Analytic(Option<String>),
    /// To a session on this device.
    Train(&'static ModelEntry, ComputeDevice),
}

/// Decides.
#[derive(Debug)]
pub(crate) struct Placer {
    backend: BackendChoice,
    policy: DevicePolicy,
    unsupported: UnsupportedModels,
    devices: Devices,
}

impl Placer {
    /// Checks that `devices` can do what `config` asks for.
    ///
    /// # Errors
    /// DEVICE_POLICY=require without a GPU; TRAINING_BACKEND=wgpu without an adapter or against the policy.
    pub(crate) fn new(config: &Config, devices: Devices) -> Result<Self, EngineError> {
        let wgpu = config.backend == BackendChoice::Only(Backend::Wgpu);
        match config.device_policy {
            DevicePolicy::Require if devices.gpu().is_none() => {
                return Err(EngineError::GpuRequired { found: devices.found });
            }
            DevicePolicy::Cpu if wgpu => return Err(EngineError::GpuForbidden),
            _ if wgpu && devices.adapter.is_none() => {
                return Err(EngineError::NoAdapter { found: devices.found });
            }
            _ => {}
        }
        Ok(Self {
            backend: config.backend,
            policy: config.device_policy,
            unsupported: config.unsupported_models,
            devices,
        })
    }

    /// Whether adapters have to be looked for under `config`.
    pub(crate) fn wants_probe(config: &Config) -> bool {
        config.device_policy != DevicePolicy::Cpu
    }

    /// Where `task` goes.
    ///
    /// # Errors
    /// `InvalidArgument` for a backend that is not there and for a model that cannot be trained.
    pub(crate) fn place(&self, task: &TaskSpec) -> Result<Placement, TaskError> {
        let backend = self.resolve(task.hyperparameters.backend.unwrap_or(self.backend));
        let device = match backend {
            Backend::Analytic => return Ok(Placement::Analytic(None)),
            Backend::Cpu => self.devices.cpu.clone(),
            Backend::Wgpu => self.adapter().cloned().ok_or_else(|| self.no_adapter())?,
        };
        if let Some(entry) = ModelEntry::of(&task.model) {
            return Ok(Placement::Train(entry, device));
        }
        let list = ModelEntry::list();
        if self.unsupported == UnsupportedModels::Reject || self.policy == DevicePolicy::Require {
            let allowed = format!("{list}; hyperparameter backend=analytic simulates any other");
            return Err(InvalidField::new("model_type", task.model.as_str(), allowed).into());
        }
        let model = &task.model;
        Ok(Placement::Analytic(Some(format!(
            "model_type {model} cannot be trained yet, so its figures are simulated (trained for real: {list})"
        ))))
    }

    /// The device of a training that is wanted for real, without a worker around it.
    ///
    /// # Errors
    /// `InvalidArgument` for a backend that is not there or does not train.
    pub(crate) fn place_local(&self, wish: Option<BackendChoice>) -> Result<ComputeDevice, TaskError> {
        match wish.unwrap_or(self.backend) {
            BackendChoice::Auto => Ok(self.gpu().unwrap_or(&self.devices.cpu).clone()),
            BackendChoice::Only(Backend::Cpu) => Ok(self.devices.cpu.clone()),
            BackendChoice::Only(Backend::Wgpu) => self.adapter().cloned().ok_or_else(|| self.no_adapter()),
            BackendChoice::Only(Backend::Analytic) => {
                Err(InvalidField::new("backend", "analytic", "auto, cpu or wgpu, which train for real")
                    .into())
            }
        }
    }

    /// What can be done here.
    pub(crate) fn capabilities(&self) -> EngineCapabilities {
        let wgpu = self.adapter().map(|_| Backend::Wgpu);
        let default_backend = self.resolve(self.backend);
        let device = match default_backend {
            Backend::Cpu => &self.devices.cpu.name,
            Backend::Wgpu => self.adapter().map_or(&self.devices.cpu.name, |adapter| &adapter.name),
            Backend::Analytic => analytic::DEVICE,
        };
        EngineCapabilities {
            model_types: MODELS.iter().map(|entry| entry.name.to_owned()).collect(),
            backends: [Backend::Cpu].into_iter().chain(wgpu).chain([Backend::Analytic]).collect(),
            default_backend,
            device: device.to_owned(),
        }
    }

    /// What an operator who left the backend to us should know: that nothing is trained.
    pub(crate) fn warning(&self) -> Option<String> {
        let simulates =
            self.backend == BackendChoice::Auto && self.resolve(self.backend) == Backend::Analytic;
        let found = match self.policy {
            DevicePolicy::Cpu => "DEVICE_POLICY=cpu forbids GPUs",
            DevicePolicy::Prefer | DevicePolicy::Require => &self.devices.found,
        };
        simulates.then(|| {
            format!(
                "no GPU to train on ({found}): tasks get analytic curves and their results are simulated; set \
                 TRAINING_BACKEND=cpu to train for real on the CPU"
            )
        })
    }

    fn resolve(&self, choice: BackendChoice) -> Backend {
        match choice {
            BackendChoice::Only(backend) => backend,
            BackendChoice::Auto if self.gpu().is_some() => Backend::Wgpu,
            BackendChoice::Auto => Backend::Analytic,
        }
    }

    /// The real GPU, where the policy allows one.
    fn gpu(&self) -> Option<&ComputeDevice> {
        self.devices.gpu().filter(|_| self.policy != DevicePolicy::Cpu)
    }

    /// The adapter, software included, where the policy allows one.
    fn adapter(&self) -> Option<&ComputeDevice> {
        let adapter = self.devices.adapter.as_ref().filter(|_| self.policy != DevicePolicy::Cpu);
        adapter.map(|(device, _)| device)
    }

    fn no_adapter(&self) -> TaskError {
        let reason = match self.policy {
            DevicePolicy::Cpu => "this worker runs under DEVICE_POLICY=cpu".to_owned(),
            DevicePolicy::Prefer | DevicePolicy::Require => {
                format!("GPUs of this worker: {}", self.devices.found)
            }
        };
        let allowed = format!("auto, cpu or analytic ({reason})");
        InvalidField::new("hyperparameters.backend", "wgpu", allowed).into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::AdapterKind;
    use super::super::tests::{config, task};
    use super::*;
    use crate::domain::ErrorCode;

    fn machine(kind: Option<AdapterKind>) -> Devices {
        let adapter = |kind| {
            let device =
                ComputeDevice { backend: Backend::Wgpu, name: "card".to_owned(), ..ComputeDevice::cpu() };
            (device, kind)
        };
        Devices {
            adapter: kind.map(adapter),
            found: "no adapter was found".to_owned(),
            ..Devices::cpu_only()
        }
    }

    fn placer(backend: BackendChoice, policy: DevicePolicy, kind: Option<AdapterKind>) -> Placer {
        let config = Config { backend, device_policy: policy, ..config() };
        Placer::new(&config, machine(kind)).unwrap()
    }

    fn backend_of(placer: &Placer, model: &str, wish: Option<BackendChoice>) -> Result<Backend, TaskError> {
        let mut task = task("job", model, 0, 0..1);
        task.hyperparameters.backend = wish;
        placer.place(&task).map(|placement| match placement {
            Placement::Analytic(_) => Backend::Analytic,
            Placement::Train(_, device) => device.backend,
        })
    }

    #[test]
    fn auto_takes_a_real_gpu_and_else_the_curves() {
        use AdapterKind::{Hardware, Software};
        use DevicePolicy::{Cpu, Prefer, Require};
        for (policy, kind, expected) in [
            (Prefer, Some(Hardware), Backend::Wgpu),
            (Require, Some(Hardware), Backend::Wgpu),
            (Prefer, Some(Software), Backend::Analytic),
            (Prefer, None, Backend::Analytic),
            (Cpu, Some(Hardware), Backend::Analytic),
        ] {
            let placer = placer(BackendChoice::Auto, policy, kind);
            assert_eq!(backend_of(&placer, "mlp", None).unwrap(), expected, "{policy} {kind:?}");
            assert_eq!(placer.capabilities().default_backend, expected);
            let warned = placer.warning().is_some_and(|text| text.contains("TRAINING_BACKEND=cpu"));
            assert_eq!(warned, expected == Backend::Analytic);
        }
    }

    #[test]
    fn a_task_may_wish_for_what_is_there() {
        let only = |backend| Some(BackendChoice::Only(backend));
        let with_software = placer(BackendChoice::Auto, DevicePolicy::Prefer, Some(AdapterKind::Software));
        assert_eq!(backend_of(&with_software, "mlp", only(Backend::Wgpu)).unwrap(), Backend::Wgpu);
        let bare = placer(BackendChoice::Auto, DevicePolicy::Prefer, None);
        assert_eq!(backend_of(&bare, "mlp", only(Backend::Cpu)).unwrap(), Backend::Cpu);
        let forbidden = placer(BackendChoice::Auto, DevicePolicy::Cpu, Some(AdapterKind::Hardware));
        for (placer, said) in [(bare, "no adapter was found"), (forbidden, "DEVICE_POLICY=cpu")] {
            let error = backend_of(&placer, "mlp", only(Backend::Wgpu)).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(error.message.contains("hyperparameters.backend: \"wgpu\""), "{error}");
            assert!(error.message.contains(said), "{error}");
            assert!(!placer.capabilities().backends.contains(&Backend::Wgpu));
        }
    }

    #[test]
    fn what_cannot_be_trained_is_simulated_with_a_note_or_refused_with_a_list() {
        let cpu = BackendChoice::Only(Backend::Cpu);
        let mut simulating = placer(cpu, DevicePolicy::Prefer, None);
        simulating.unsupported = UnsupportedModels::Simulate;
        let placement = simulating.place(&task("job", "gpt2", 0, 0..1)).unwrap();
        assert!(matches!(placement, Placement::Analytic(Some(note)) if note.contains("gpt2")));
        let mut rejecting = placer(cpu, DevicePolicy::Prefer, None);
        rejecting.unsupported = UnsupportedModels::Reject;
        let mut requiring = placer(BackendChoice::Auto, DevicePolicy::Require, Some(AdapterKind::Hardware));
        requiring.unsupported = UnsupportedModels::Simulate;
        for placer in [rejecting, requiring] {
            let error = placer.place(&task("job", "gpt2", 0, 0..1)).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(error.message.starts_with("model_type: \"gpt2\""), "{error}");
            assert!(error.message.contains("neural_network (mlp, dnn)"), "{error}");
        }
    }

    #[test]
    fn a_gpu_that_is_a_must_and_not_there_is_no_start() {
        let wgpu = BackendChoice::Only(Backend::Wgpu);
        let software = Some(AdapterKind::Software);
        for (backend, policy, kind, remedy) in [
            (BackendChoice::Auto, DevicePolicy::Require, None, "DEVICE_POLICY=prefer"),
            (wgpu, DevicePolicy::Require, software, "DEVICE_POLICY=prefer"),
            (wgpu, DevicePolicy::Prefer, None, "TRAINING_BACKEND=cpu"),
            (wgpu, DevicePolicy::Cpu, None, "DEVICE_POLICY=prefer"),
        ] {
            let config = Config { backend, device_policy: policy, ..config() };
            let error = Placer::new(&config, machine(kind)).unwrap_err();
            assert!(error.to_string().contains(remedy), "{error}");
        }
    }
}
