//! Which backend a task gets: a pure decision from configuration, devices and the task's wish.
//!
//! ```text
//! hyperparameter backend, where it names one, else TRAINING_BACKEND
//!   auto      GPU where there is one (never under DEVICE_POLICY=cpu), else the analytic curves
//!   cpu       the CPU            wgpu      the adapter, or a refusal        analytic   the curves
//! a model_type that trains on the CPU alone, or on a GPU where one of the two names wgpu:
//!   auto      the CPU where networks get a GPU
//! cpu or wgpu, but no trainer for the model_type:
//!   UNSUPPORTED_MODELS=simulate  the curves, with a note      reject  a refusal
//! ```
//!
//! Devices are waited for where the configuration needs a GPU or would take one; else they are looked for beside the
//! work, and a task that asks for a GPU before they are known is told so.

pub(crate) mod cards;
mod submit;

use super::cards::Cards;
use std::sync::Arc;

use super::device::{ComputeDevice, Devices};
use super::registry::ModelRegistry;
use super::search::Search;
use super::trainer::{ModelEntry, TrainsOn};
use super::{Config, EngineCapabilities, EngineError, OpenError, UnsupportedModels, analytic};
use crate::domain::{Backend, BackendChoice, DevicePolicy, ErrorCode, InvalidField, TaskError, TaskSpec};

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
    search: Search,
    models: ModelRegistry,
}

impl Placer {
    /// Checks that the devices can do what `config` asks for; waits for them where that depends on them.
    ///
    /// # Errors
    /// DEVICE_POLICY=require without a GPU; TRAINING_BACKEND=wgpu without an adapter or against the policy.
    pub(crate) fn new(config: &Config, search: Search) -> Result<Self, EngineError> {
        let wgpu = config.backend == BackendChoice::Only(Backend::Wgpu);
        if wgpu && config.device_policy == DevicePolicy::Cpu {
            return Err(EngineError::GpuForbidden);
        }
        required(config.device_policy, &search)?;
        match config.backend {
            BackendChoice::Only(Backend::Wgpu) => drop(adapter_for("TRAINING_BACKEND", &search)?),
            BackendChoice::Auto => drop(search.wait()),
            BackendChoice::Only(Backend::Cpu | Backend::Analytic) => {}
        }
        Ok(Self {
            backend: config.backend,
            policy: config.device_policy,
            unsupported: config.unsupported_models,
            search,
            models: ModelRegistry::default(),
        })
    }

    /// The same, for other models.
    pub(crate) fn with_models(self, models: ModelRegistry) -> Self {
        Self { models, ..self }
    }

    /// Takes other models from now on.
    #[cfg(target_os = "linux")]
    pub(crate) fn know(&mut self, models: ModelRegistry) {
        self.models = models;
    }

    /// Where `task` goes.
    ///
    /// # Errors
    /// `InvalidArgument` for a backend that is not there and for a model that cannot be trained; `Unavailable` for a
    /// GPU while GPUs are still looked for.
    pub(crate) fn place(&self, task: &TaskSpec) -> Result<Placement, TaskError> {
        let backend = match task.hyperparameters.backend {
            Some(BackendChoice::Only(backend)) => backend,
            // The worker's own choice, so that "auto" never trains less than saying nothing.
            Some(BackendChoice::Auto) | None => self.resolve(self.backend),
        };
        let entry = self.models.of(&task.model);
        let trains_on = entry.map_or(TrainsOn::EveryDevice, |entry| entry.trains_on);
        let wgpu = BackendChoice::Only(Backend::Wgpu);
        let wished = task.hyperparameters.backend == Some(wgpu);
        let device = match backend {
            Backend::Analytic => return Ok(Placement::Analytic(None)),
            Backend::Wgpu if trains_on == TrainsOn::Cpu => {
                if wished {
                    return Err(cpu_model("auto, cpu or analytic").into());
                }
                self.search.cpu().clone()
            }
            Backend::Wgpu if trains_on == TrainsOn::GpuWhenNamed && !wished && self.backend != wgpu => {
                self.search.cpu().clone()
            }
            Backend::Cpu => self.search.cpu().clone(),
            Backend::Wgpu => self.adapter().ok_or_else(|| self.no_adapter())?,
        };
        if let Some(entry) = entry {
            return Ok(Placement::Train(entry, device));
        }
        let list = self.models.list();
        if self.unsupported == UnsupportedModels::Reject {
            let allowed = format!("{list}; hyperparameter backend=analytic simulates any other");
            return Err(InvalidField::new("model_type", task.model.as_str(), allowed).into());
        }
        let model = &task.model;
        Ok(Placement::Analytic(Some(format!(
            "model_type {model} cannot be trained yet, so its figures are simulated (trained for real: {list})"
        ))))
    }

    /// All that is known of devices.
    pub(crate) fn search(&self) -> &Search {
        &self.search
    }

    /// What a task without a wish of its own would get, as far as it is known by now.
    pub(crate) fn default_backend(&self) -> Backend {
        self.resolve(self.backend)
    }

    /// What can be done here, as far as it is known by now.
    pub(crate) fn capabilities(&self) -> EngineCapabilities {
        let wgpu = self.adapter().map(|_| Backend::Wgpu);
        let default_backend = self.default_backend();
        let device = match default_backend {
            Backend::Cpu => self.search.cpu().name.clone(),
            Backend::Wgpu => self.adapter().map_or(self.search.cpu().name.clone(), |adapter| adapter.name),
            Backend::Analytic => analytic::DEVICE.to_owned(),
        };
        EngineCapabilities {
            model_types: self.models.names(),
            backends: [Backend::Cpu].into_iter().chain(wgpu).chain([Backend::Analytic]).collect(),
            default_backend,
            device,
        }
    }

    /// Why tasks without a wish of their own would wait: they go to `cards`, and not one of those can be used.
    pub(crate) fn trouble(&self, cards: &Cards) -> Option<String> {
        if self.default_backend() == Backend::Wgpu { cards.trouble() } else { None }
    }

    /// What an operator who left the backend to us should know: that nothing is trained.
    pub(crate) fn warning(&self) -> Option<String> {
        if self.backend != BackendChoice::Auto || self.default_backend() != Backend::Analytic {
            return None;
        }
        let found = match self.policy {
            DevicePolicy::Cpu => "DEVICE_POLICY=cpu forbids GPUs".to_owned(),
            DevicePolicy::Prefer | DevicePolicy::Require => self.search.wait().found.clone(),
        };
        Some({
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
    fn gpu(&self) -> Option<ComputeDevice> {
        self.devices()?.gpu().cloned()
    }

    /// The adapter, software included, where the policy allows one.
    fn adapter(&self) -> Option<ComputeDevice> {
        self.devices()?.adapter().cloned()
    }

    fn devices(&self) -> Option<Arc<Devices>> {
        self.search.now().filter(|_| self.policy != DevicePolicy::Cpu)
    }

    fn no_adapter(&self) -> TaskError {
        let reason = match (self.policy, self.search.now()) {
            (DevicePolicy::Cpu, _) => "this worker runs under DEVICE_POLICY=cpu".to_owned(),
            (_, Some(devices)) => format!("GPUs of this worker: {}", devices.found),
            (_, None) => {
                let message =
                    format!("{BACKEND}: \"wgpu\" is not known yet, since GPUs are still looked for");
                return TaskError::new(ErrorCode::Unavailable, message);
            }
        };
        let allowed = format!("auto, cpu or analytic ({reason})");
        InvalidField::new(BACKEND, "wgpu", allowed).into()
    }
}

/// The field by which a task asks for a backend.
const BACKEND: &str = "hyperparameters.backend";

/// The device of a training that is wanted for real, without a worker around it; waits for GPUs only where one would
/// be taken.
///
/// # Errors
/// [`OpenError::Environment`] where a GPU is a must and is not there; `InvalidArgument` for a backend that is forbidden
/// or does not train.
pub(crate) fn place_local(
    config: &Config,
    wish: Option<BackendChoice>,
    trains_on: TrainsOn,
    search: &Search,
) -> Result<ComputeDevice, OpenError> {
    let invalid = |value, allowed: &str| TaskError::from(InvalidField::new(BACKEND, value, allowed));
    let wish = wish.unwrap_or(config.backend);
    let forbidden = config.device_policy == DevicePolicy::Cpu;
    if wish == BackendChoice::Only(Backend::Analytic) {
        return Err(invalid("analytic", "auto, cpu or wgpu, which train for real").into());
    }
    required(config.device_policy, search)?;
    match wish {
        BackendChoice::Only(Backend::Wgpu) if trains_on == TrainsOn::Cpu => {
            Err(TaskError::from(cpu_model("auto or cpu")).into())
        }
        BackendChoice::Auto if trains_on != TrainsOn::EveryDevice => Ok(search.cpu().clone()),
        BackendChoice::Only(Backend::Wgpu) if forbidden => {
            Err(invalid("wgpu", "auto or cpu (DEVICE_POLICY=cpu forbids GPUs)").into())
        }
        BackendChoice::Only(Backend::Wgpu) => Ok(adapter_for(BACKEND, search)?),
        BackendChoice::Auto if !forbidden => Ok(search.wait().gpu().unwrap_or(search.cpu()).clone()),
        BackendChoice::Auto | BackendChoice::Only(_) => Ok(search.cpu().clone()),
    }
}

/// A wish for a GPU that a model cannot use; `others` are what it can.
fn cpu_model(others: &str) -> InvalidField {
    InvalidField::new(BACKEND, "wgpu", format!("{others}: this model_type is trained on the CPU"))
}

/// Checks that there is a GPU where `policy` says that there must be.
fn required(policy: DevicePolicy, search: &Search) -> Result<(), EngineError> {
    match policy {
        DevicePolicy::Require if search.wait().gpu().is_none() => {
            Err(EngineError::GpuRequired { found: search.wait().found.clone() })
        }
        _ => Ok(()),
    }
}

/// The adapter that `field` asks for.
fn adapter_for(field: &'static str, search: &Search) -> Result<ComputeDevice, EngineError> {
    let devices = search.wait();
    devices.adapter().cloned().ok_or_else(|| EngineError::NoAdapter { field, found: devices.found.clone() })
}

#[cfg(test)]
mod tests {
    use super::super::device::{Adapter, Handle};
    use super::super::search::tests::hung;
    use super::super::tests::{config, task};
    use super::*;

    fn machine(kind: Option<Handle>) -> Devices {
        let adapter = |handle| {
            let device =
                ComputeDevice { backend: Backend::Wgpu, name: "card".to_owned(), ..ComputeDevice::cpu() };
            Adapter { device, handle, address: None }
        };
        Devices {
            adapters: kind.map(adapter).into_iter().collect(),
            found: "no adapter was found".to_owned(),
        }
    }

    fn placer(backend: BackendChoice, policy: DevicePolicy, kind: Option<Handle>) -> Placer {
        let config = Config { backend, device_policy: policy, ..config() };
        Placer::new(&config, Search::known(machine(kind))).unwrap()
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
        use Handle::Software;
        const HARDWARE: Handle = Handle::Discrete(0);
        use DevicePolicy::{Cpu, Prefer, Require};
        for (policy, kind, expected) in [
            (Prefer, Some(HARDWARE), Backend::Wgpu),
            (Require, Some(HARDWARE), Backend::Wgpu),
            (Prefer, Some(Software), Backend::Analytic),
            (Prefer, None, Backend::Analytic),
            (Cpu, Some(HARDWARE), Backend::Analytic),
        ] {
            let placer = placer(BackendChoice::Auto, policy, kind);
            assert_eq!(backend_of(&placer, "mlp", None).unwrap(), expected, "{policy} {kind:?}");
            assert_eq!(placer.capabilities().default_backend, expected);
            let warned = placer.warning().is_some_and(|text| text.contains("TRAINING_BACKEND=cpu"));
            assert_eq!(warned, expected == Backend::Analytic);
        }
    }

    #[test]
    fn what_has_no_form_for_gpus_goes_to_the_cpu_and_says_so() {
        let only = |backend| Some(BackendChoice::Only(backend));
        let gpu = placer(BackendChoice::Auto, DevicePolicy::Require, Some(Handle::Discrete(0)));
        for model in ["random_forest", "decision_tree"] {
            assert_eq!(backend_of(&gpu, model, None).unwrap(), Backend::Cpu, "{model}");
            let error = backend_of(&gpu, model, only(Backend::Wgpu)).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(error.message.contains("auto, cpu or analytic"), "{error:?}");
        }
        let search = Search::known(machine(Some(Handle::Discrete(0))));
        let auto = Config { backend: BackendChoice::Auto, ..config() };
        assert_eq!(place_local(&auto, None, TrainsOn::Cpu, &search).unwrap().backend, Backend::Cpu);
        assert!(place_local(&auto, only(Backend::Wgpu), TrainsOn::Cpu, &search).is_err());
    }

    #[test]
    fn boosting_goes_to_a_gpu_where_wgpu_is_named_and_else_to_the_cpu() {
        let only = |backend| Some(BackendChoice::Only(backend));
        let hardware = || Some(Handle::Discrete(0));
        let auto = placer(BackendChoice::Auto, DevicePolicy::Prefer, hardware());
        let named = placer(BackendChoice::Only(Backend::Wgpu), DevicePolicy::Prefer, hardware());
        let cpu = placer(BackendChoice::Only(Backend::Cpu), DevicePolicy::Prefer, hardware());
        for (placer, wish, expected) in [
            (&auto, None, Backend::Cpu),
            (&auto, Some(BackendChoice::Auto), Backend::Cpu),
            (&auto, only(Backend::Wgpu), Backend::Wgpu),
            (&named, None, Backend::Wgpu),
            (&named, Some(BackendChoice::Auto), Backend::Wgpu),
            (&named, only(Backend::Cpu), Backend::Cpu),
            (&cpu, None, Backend::Cpu),
            (&cpu, only(Backend::Wgpu), Backend::Wgpu),
        ] {
            assert_eq!(
                backend_of(placer, "xgboost", wish).unwrap(),
                expected,
                "{:?} {wish:?}",
                placer.backend
            );
        }
        let bare = placer(BackendChoice::Auto, DevicePolicy::Prefer, None);
        let error = backend_of(&bare, "xgboost", only(Backend::Wgpu)).unwrap_err();
        assert!(error.message.contains("no adapter was found"), "{error}");
        let search = Search::known(machine(hardware()));
        let local = |backend, wish| {
            let config = Config { backend, ..config() };
            place_local(&config, wish, TrainsOn::GpuWhenNamed, &search).unwrap().backend
        };
        assert_eq!(local(BackendChoice::Auto, None), Backend::Cpu);
        assert_eq!(local(BackendChoice::Auto, only(Backend::Wgpu)), Backend::Wgpu);
        assert_eq!(local(BackendChoice::Only(Backend::Wgpu), None), Backend::Wgpu);
    }

    #[test]
    fn a_task_may_wish_for_what_is_there() {
        let only = |backend| Some(BackendChoice::Only(backend));
        let with_software = placer(BackendChoice::Auto, DevicePolicy::Prefer, Some(Handle::Software));
        assert_eq!(backend_of(&with_software, "mlp", only(Backend::Wgpu)).unwrap(), Backend::Wgpu);
        let bare = placer(BackendChoice::Auto, DevicePolicy::Prefer, None);
        assert_eq!(backend_of(&bare, "mlp", only(Backend::Cpu)).unwrap(), Backend::Cpu);
        let forbidden = placer(BackendChoice::Auto, DevicePolicy::Cpu, Some(Handle::Discrete(0)));
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
        let machines = [
            (cpu, DevicePolicy::Prefer, None),
            (BackendChoice::Auto, DevicePolicy::Require, Some(Handle::Discrete(0))),
        ];
        for (backend, policy, kind) in machines {
            let mut placer = placer(backend, policy, kind);
            placer.unsupported = UnsupportedModels::Simulate;
            let placement = placer.place(&task("job", "gpt2", 0, 0..1)).unwrap();
            assert!(matches!(placement, Placement::Analytic(Some(note)) if note.contains("gpt2")));
            placer.unsupported = UnsupportedModels::Reject;
            let error = placer.place(&task("job", "gpt2", 0, 0..1)).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(error.message.starts_with("model_type: \"gpt2\""), "{error}");
            assert!(error.message.contains("neural_network (mlp, dnn)"), "{error}");
        }
    }

    #[test]
    fn auto_of_a_task_is_the_choice_of_the_worker() {
        for (backend, expected) in [(Backend::Cpu, Backend::Cpu), (Backend::Analytic, Backend::Analytic)] {
            for kind in [None, Some(Handle::Discrete(0))] {
                let placer = placer(BackendChoice::Only(backend), DevicePolicy::Prefer, kind);
                assert_eq!(backend_of(&placer, "mlp", Some(BackendChoice::Auto)).unwrap(), expected);
            }
        }
        let auto = placer(BackendChoice::Auto, DevicePolicy::Prefer, Some(Handle::Discrete(0)));
        assert_eq!(backend_of(&auto, "mlp", Some(BackendChoice::Auto)).unwrap(), Backend::Wgpu);
        // What cannot be trained is refused as it would be without the word.
        let mut rejecting = placer(BackendChoice::Only(Backend::Cpu), DevicePolicy::Prefer, None);
        rejecting.unsupported = UnsupportedModels::Reject;
        assert!(backend_of(&rejecting, "gpt2", Some(BackendChoice::Auto)).is_err());
    }

    #[test]
    fn whoever_wants_no_gpu_never_waits_for_one() {
        let only = |backend| Some(BackendChoice::Only(backend));
        for backend in [Backend::Cpu, Backend::Analytic] {
            let config = Config { backend: BackendChoice::Only(backend), ..config() };
            let (search, _hold) = hung();
            let placer = Placer::new(&config, search).unwrap();
            assert_eq!(placer.capabilities().backends, [Backend::Cpu, Backend::Analytic]);
            assert_eq!(backend_of(&placer, "mlp", None).unwrap(), backend);
            let error = backend_of(&placer, "mlp", only(Backend::Wgpu)).unwrap_err();
            assert_eq!(error.code, ErrorCode::Unavailable);
            assert!(error.message.starts_with("hyperparameters.backend: \"wgpu\""), "{error}");
        }
        let auto = Config { backend: BackendChoice::Auto, ..config() };
        let (search, _hold) = hung();
        assert_eq!(
            place_local(&auto, only(Backend::Cpu), TrainsOn::EveryDevice, &search).unwrap().backend,
            Backend::Cpu
        );
        let forbidden = Config { device_policy: DevicePolicy::Cpu, ..auto };
        assert_eq!(
            place_local(&forbidden, None, TrainsOn::EveryDevice, &search).unwrap().backend,
            Backend::Cpu
        );
    }

    #[test]
    fn a_local_training_tells_a_wrong_wish_from_a_machine_that_lacks_something() {
        let wgpu = Some(BackendChoice::Only(Backend::Wgpu));
        let analytic = Some(BackendChoice::Only(Backend::Analytic));
        for (policy, wish, kind, lacks, said) in [
            (DevicePolicy::Prefer, wgpu, None, true, "hyperparameters.backend=cpu"),
            (DevicePolicy::Require, None, Some(Handle::Software), true, "DEVICE_POLICY=prefer"),
            (DevicePolicy::Cpu, wgpu, None, false, "DEVICE_POLICY=cpu"),
            (DevicePolicy::Prefer, analytic, None, false, "auto, cpu or wgpu"),
        ] {
            let config = Config { backend: BackendChoice::Auto, device_policy: policy, ..config() };
            let error =
                place_local(&config, wish, TrainsOn::EveryDevice, &Search::known(machine(kind))).unwrap_err();
            assert_eq!(matches!(error, OpenError::Environment(_)), lacks, "{error}");
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(TaskError::from(error).code, ErrorCode::InvalidArgument);
        }
        let gpu = Search::known(machine(Some(Handle::Discrete(0))));
        let config = Config { backend: BackendChoice::Auto, ..config() };
        assert_eq!(place_local(&config, None, TrainsOn::EveryDevice, &gpu).unwrap().backend, Backend::Wgpu);
    }

    #[test]
    fn a_gpu_that_is_a_must_and_not_there_is_no_start() {
        let wgpu = BackendChoice::Only(Backend::Wgpu);
        let software = Some(Handle::Software);
        for (backend, policy, kind, remedy) in [
            (BackendChoice::Auto, DevicePolicy::Require, None, "DEVICE_POLICY=prefer"),
            (wgpu, DevicePolicy::Require, software, "DEVICE_POLICY=prefer"),
            (wgpu, DevicePolicy::Prefer, None, "TRAINING_BACKEND=cpu"),
            (wgpu, DevicePolicy::Cpu, None, "DEVICE_POLICY=prefer"),
        ] {
            let config = Config { backend, device_policy: policy, ..config() };
            let error = Placer::new(&config, Search::known(machine(kind))).unwrap_err();
            assert!(error.to_string().contains(remedy), "{error}");
        }
    }
}
