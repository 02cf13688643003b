//! Text to the checked configuration; goes on after an error, so that all of them come out together.

use std::str::FromStr;
use std::time::Duration;

use super::{Config, Problem, Source, Support, VARIABLES, Values, Variable, parse};
use crate::domain::{
    Backend, BackendChoice, DevicePolicy, InvalidField, ParseChoiceError, Strictness, WorkerId,
};
use crate::engine::{Isolation, RunnerConfig, UnsupportedModels};
use crate::telemetry::{host, logs};
use crate::{data, engine, gpu, orchestrator, worker};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Least TASK_MEMORY_LIMIT, in bytes.
const LEAST_MEMORY_LIMIT: u64 = 1 << 20;

/// Reads variables and gathers what is wrong with them.
struct Reader<'a> {
    values: &'a Values,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    /// The variable called `name` as a value; None when it is not set, or wrong (which is then noted).
    fn read<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let (variable, text, source) = self.set(name)?;
        let parsed = if text.contains('\u{fffd}') { None } else { parse(&text) };
        if parsed.is_none() {
            self.problems.push(Problem::invalid(variable, &text, &source));
        }
        parsed
    }

    fn choice<T: FromStr<Err = ParseChoiceError>>(&mut self, name: &str) -> Option<T> {
        self.read(name, |raw| raw.trim().parse().ok())
    }

    fn set(&self, name: &str) -> Option<(&'static Variable, String, Source)> {
        let variable = Variable::find(name)?;
        let value = self.values.of(variable);
        value.text.map(|text| (variable, text, value.source))
    }

    /// Notes that the value of `name` cannot be used, beside another one or on this machine.
    fn conflict(&mut self, name: &str, allowed: &str) {
        if let Some((variable, text, source)) = self.set(name) {
            self.problems.push(Problem::not_allowed(variable, &text, &source, allowed));
        }
    }
}

/// None, or a configuration that must not be used, when problems were found.
pub(super) fn build(
    values: &Values,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<String>,
) -> Option<Config> {
    missing_features(values, problems, warnings);
    let mut reader = Reader { values, problems };
    let worker = worker(&mut reader);
    let engine = engine(&mut reader);
    let orchestrator = orchestrator(&mut reader);
    let logs = logs(&mut reader);
    let grpc_listen = reader.read("WORKER_PORT", parse::listen);
    let http_listen = reader.read("METRICS_PORT", parse::listen);
    if let (Some(grpc), Some(http)) = (grpc_listen, http_listen)
        && grpc.port() == http.port()
        && grpc.port() != 0
    {
        reader.conflict("METRICS_PORT", "another port than WORKER_PORT");
    }
    let strict = reader.read("STRICT_HYPERPARAMETERS", parse::boolean);
    let isolation = isolation(&mut reader, logs.as_ref());
    let gpu = gpu(&mut reader);
    let (worker, engine) = (worker?, engine?);
    let elsewhere = matches!(engine.backend, BackendChoice::Only(Backend::Cpu | Backend::Analytic))
        || engine.device_policy == DevicePolicy::Cpu;
    let purpose = if elsewhere { gpu::Purpose::Watching } else { gpu::Purpose::Training };
    Some(Config {
        gpu: gpu::Config { purpose, ..gpu? },
        engine: engine::Config { state_dir: Some(worker.state_dir.clone()), ..engine },
        worker,
        isolation: isolation?,
        orchestrator: orchestrator?,
        grpc_listen: grpc_listen?,
        http_listen: http_listen?,
        logs: logs?,
        strictness: if strict? { Strictness::Reject } else { Strictness::Warn },
    })
}

/// A variable without effect is never passed over in silence.
fn missing_features(values: &Values, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) {
    for variable in VARIABLES {
        let value = values.of(variable);
        if value.text.is_none() {
            continue;
        }
        match variable.support {
            Support::Full => {}
            Support::Refused => {
                problems.push(Problem::Unsupported { name: variable.name, from: value.source });
            }
            Support::Ignored => {
                warnings.push(format!("{} ({}) has no effect in this version", variable.name, value.source));
            }
        }
    }
}

fn worker(reader: &mut Reader<'_>) -> Option<worker::Config> {
    let worker_id = reader.read("WORKER_ID", |raw| WorkerId::parse(raw).ok());
    let state_dir = reader.read("STATE_DIR", parse::path);
    let slots = reader.read("MAX_CONCURRENT_TASKS", |raw| parse::whole(raw, 1..=1024));
    let heartbeat_interval =
        reader.read("HEARTBEAT_INTERVAL", |raw| parse::duration_in(raw, Duration::from_millis(100)..=HOUR));
    let task_timeout =
        reader.read("TASK_TIMEOUT", |raw| parse::duration_in(raw, Duration::from_secs(1)..=7 * DAY));
    let max_task_retries = reader.read("MAX_TASK_RETRIES", |raw| parse::whole(raw, 0..=100));
    let drain_timeout = reader.read("DRAIN_TIMEOUT", |raw| parse::duration_in(raw, Duration::ZERO..=DAY));
    Some(worker::Config {
        worker_id,
        state_dir: state_dir?,
        slots: slots?,
        heartbeat_interval: heartbeat_interval?,
        task_timeout: task_timeout?,
        max_task_retries: max_task_retries?,
        drain_timeout: drain_timeout?,
    })
}

fn engine(reader: &mut Reader<'_>) -> Option<engine::Config> {
    let backend = reader.choice::<BackendChoice>("TRAINING_BACKEND");
    let device_policy = reader.choice::<DevicePolicy>("DEVICE_POLICY");
    match (backend, device_policy) {
        (Some(BackendChoice::Only(Backend::Cpu | Backend::Analytic)), Some(DevicePolicy::Require)) => {
            reader.conflict("DEVICE_POLICY", "prefer or cpu, since TRAINING_BACKEND uses no GPU");
        }
        (Some(BackendChoice::Only(Backend::Wgpu)), Some(DevicePolicy::Cpu)) => {
            reader.conflict("DEVICE_POLICY", "require or prefer, since TRAINING_BACKEND=wgpu needs a GPU");
        }
        _ => {}
    }
    let analytic_profile = reader.choice("ANALYTIC_PROFILE");
    let analytic_delay = reader.read("ANALYTIC_EPOCH_DELAY", |raw| parse::delay(raw, HOUR));
    let unsupported_models = reader.read("UNSUPPORTED_MODELS", |raw| match (raw.trim(), backend) {
        ("auto", Some(BackendChoice::Only(Backend::Cpu | Backend::Wgpu))) => Some(UnsupportedModels::Reject),
        ("auto", _) => Some(UnsupportedModels::Simulate),
        (raw, _) => raw.parse().ok(),
    });
    let allow_software_adapter = reader.read("ALLOW_SOFTWARE_ADAPTER", parse::boolean);
    let root = reader.read("DATA_ROOT", parse::path);
    Some(engine::Config {
        backend: backend?,
        device_policy: device_policy?,
        analytic_profile: analytic_profile?,
        analytic_delay: analytic_delay?,
        unsupported_models: unsupported_models?,
        allow_software_adapter: allow_software_adapter?,
        gpu: None,
        hidden_gpus: Vec::new(),
        // Read with the worker's.
        state_dir: None,
        data: data::Config::for_machine(root?, host::machine().memory_bytes),
    })
}

fn gpu(reader: &mut Reader<'_>) -> Option<gpu::Config> {
    let library = reader.read("NVML_LIBRARY", parse::path);
    let nvidia = reader.read("NVIDIA_VISIBLE_DEVICES", |raw| Some(raw.to_owned()));
    let cuda = reader.read("CUDA_VISIBLE_DEVICES", |raw| Some(raw.to_owned()));
    let pcie = reader.read("GPU_PCIE_THROUGHPUT", parse::boolean);
    let pcie = if pcie? { gpu::PcieThroughput::Measured } else { gpu::PcieThroughput::Skipped };
    Some(gpu::Config { library, visible: gpu::Visible { nvidia, cuda }, pcie, ..gpu::Config::default() })
}

fn isolation(reader: &mut Reader<'_>, logs: Option<&logs::Config>) -> Option<Isolation> {
    let process = reader.read("TASK_ISOLATION", |raw| match raw.trim() {
        "process" => Some(true),
        "thread" => Some(false),
        _ => None,
    });
    let share = host::machine().memory_bytes / 4 * 3;
    let limits = reader.read("TASK_MEMORY_LIMIT", |raw| match raw.trim() {
        // A graphics driver reserves far more than it uses.
        "auto" => Some((Some(share).filter(|share| *share > 0), None)),
        "none" => Some((None, None)),
        raw => parse::bytes(raw)
            .filter(|bytes| *bytes >= LEAST_MEMORY_LIMIT)
            .map(|bytes| (Some(bytes), Some(bytes))),
    });
    let (cpu_memory_limit, gpu_memory_limit) = limits?;
    let log = logs?.filter.to_string();
    Some(match process? {
        true => Isolation::Process(RunnerConfig {
            cpu_memory_limit,
            gpu_memory_limit,
            log,
            ..RunnerConfig::default()
        }),
        false => Isolation::Thread,
    })
}

fn orchestrator(reader: &mut Reader<'_>) -> Option<orchestrator::Config> {
    let address = reader.read("ORCHESTRATOR_ADDRESS", |raw| orchestrator::Config::parse(raw).ok());
    let ca_file = reader.read("ORCHESTRATOR_TLS_CA", parse::path);
    let token_file = reader.read("AUTH_TOKEN_FILE", parse::path);
    let mut config = orchestrator::Config { ca_file, token_file, ..address? };
    if config.ca_file.is_some() && !config.endpoint.starts_with("https://") {
        reader.conflict("ORCHESTRATOR_TLS_CA", "unset, since ORCHESTRATOR_ADDRESS is not https://");
        // Said; the other file is looked at all the same.
        config.ca_file = None;
    }
    for InvalidField { field, allowed, .. } in config.check_files() {
        reader.conflict(&field, &allowed);
    }
    Some(config)
}

fn logs(reader: &mut Reader<'_>) -> Option<logs::Config> {
    let filter = reader.choice("LOG_LEVEL");
    let format = reader.choice("LOG_FORMAT");
    Some(logs::Config { filter: filter?, format: format? })
}
