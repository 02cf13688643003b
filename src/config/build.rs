//! Text to the checked configuration; goes on after an error, so that all of them come out together.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use super::{Config, Problem, Source, VARIABLES, Values, Variable, access, parse};
use crate::data::Remote;
use crate::data::remote::{AllowedHost, Credentials, LocalAddresses, ObjectFolder, S3, Secret};
use crate::domain::{
    Backend, BackendChoice, DevicePolicy, HiddenGpus, InvalidField, ParseChoiceError, Strictness, WorkerId,
};
use crate::engine::{Isolation, RunnerConfig, UnsupportedModels};
use crate::telemetry::{host, logs, traces};
use crate::{data, engine, gpu, orchestrator, worker};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Least TASK_MEMORY_LIMIT, in bytes.
const LEAST_MEMORY_LIMIT: u64 = 1 << 20;

/// Reads variables and gathers what is wrong with them.
pub(super) struct Reader<'a> {
    values: &'a Values,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    /// The variable called `name` as a value; None when it is not set, or wrong (which is then noted).
    pub(super) fn read<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let (variable, text, source) = self.set(name)?;
        let parsed = if text.contains('\u{fffd}') { None } else { parse(&text) };
        if parsed.is_none() {
            self.problems.push(Problem::invalid(variable, &text, &source));
        }
        parsed
    }

    pub(super) fn choice<T: FromStr<Err = ParseChoiceError>>(&mut self, name: &str) -> Option<T> {
        self.read(name, |raw| raw.trim().parse().ok())
    }

    pub(super) fn set(&self, name: &str) -> Option<(&'static Variable, String, Source)> {
        let variable = Variable::find(name)?;
        let value = self.values.of(variable);
        value.text.map(|text| (variable, text, value.source))
    }

    /// Notes that the value of `name` cannot be used, beside another one or on this machine.
    pub(super) fn conflict(&mut self, name: &str, allowed: &str) {
        if let Some((variable, text, source)) = self.set(name) {
            let problem = Problem::not_allowed(variable, &text, &source, allowed);
            // Two rooms may look at one file.
            if !self.problems.contains(&problem) {
                self.problems.push(problem);
            }
        }
    }
}

/// None, or a configuration that must not be used, when problems were found.
pub(super) fn build(
    values: &Values,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<String>,
) -> Option<Config> {
    let mut reader = Reader { values, problems };
    let worker = worker(&mut reader);
    let engine = engine(&mut reader);
    let orchestrator = access::orchestrator(&mut reader, warnings);
    let guard = access::guard(&mut reader);
    let logs = logs(&mut reader);
    let address = reader.read("LISTEN_ADDRESS", |raw| raw.trim().parse::<IpAddr>().ok());
    let mut listen = |name: &str| Some(SocketAddr::new(address?, reader.read(name, parse::port)?));
    let (grpc_listen, http_listen) = (listen("WORKER_PORT"), listen("METRICS_PORT"));
    if let (Some(grpc), Some(http)) = (grpc_listen, http_listen)
        && grpc.port() == http.port()
        && grpc.port() != 0
    {
        reader.conflict("METRICS_PORT", "another port than WORKER_PORT");
    }
    let traces = traces(&mut reader);
    let strict = reader.read("STRICT_HYPERPARAMETERS", parse::boolean);
    let isolation = isolation(&mut reader, logs.as_ref());
    let gpu = gpu(&mut reader);
    let (worker, mut engine) = (worker?, engine?);
    engine.data.cache.folder = worker.state_dir.join("cache").join("data");
    engine.state_dir = Some(worker.state_dir.clone());
    let elsewhere = matches!(engine.backend, BackendChoice::Only(Backend::Cpu | Backend::Analytic))
        || engine.device_policy == DevicePolicy::Cpu;
    let purpose = if elsewhere { gpu::Purpose::Watching } else { gpu::Purpose::Training };
    Some(Config {
        gpu: gpu::Config { purpose, ..gpu? },
        engine,
        worker,
        isolation: isolation?,
        orchestrator: orchestrator?,
        guard: guard?,
        grpc_listen: grpc_listen?,
        http_listen: http_listen?,
        logs: logs?,
        traces: traces?,
        strictness: if strict? { Strictness::Reject } else { Strictness::Warn },
    })
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
    let data = data(reader);
    let models_to = models_to(reader);
    Some(engine::Config {
        backend: backend?,
        device_policy: device_policy?,
        analytic_profile: analytic_profile?,
        analytic_delay: analytic_delay?,
        unsupported_models: unsupported_models?,
        allow_software_adapter: allow_software_adapter?,
        gpu: None,
        hidden_gpus: HiddenGpus::default(),
        // Read with the worker's.
        state_dir: None,
        models_to,
        data: data?,
    })
}

fn data(reader: &mut Reader<'_>) -> Option<data::Config> {
    let root = reader.read("DATA_ROOT", parse::path);
    let max_bytes = reader.read("DATA_CACHE_SIZE", parse::size);
    let allowed_hosts = match reader.set("DATA_ALLOWED_HOSTS") {
        None => Some(Vec::new()),
        Some(_) => reader.read("DATA_ALLOWED_HOSTS", |raw| parse::list(raw, AllowedHost::parse)),
    };
    let local = reader.read("DATA_ALLOW_LOCAL_ADDRESSES", parse::boolean);
    let s3 = s3(reader);
    let remote = Remote {
        allowed_hosts: allowed_hosts?,
        local_addresses: if local? { LocalAddresses::Allowed } else { LocalAddresses::Refused },
        s3,
        ..Remote::default()
    };
    let mut config = data::Config::for_machine(root?, host::machine().memory_bytes);
    // Its folder is read with the worker's.
    config.cache.max_bytes = max_bytes?;
    Some(data::Config { remote, ..config })
}

/// Where models are put; what is wrong with it has been noted.
fn models_to(reader: &mut Reader<'_>) -> Option<ObjectFolder> {
    let folder = reader.read("CHECKPOINT_URI", ObjectFolder::parse)?;
    if !cfg!(feature = "remote") {
        reader.conflict(
            "CHECKPOINT_URI",
            "nothing in this program, which was built without the feature remote",
        );
    } else if reader.set("S3_ENDPOINT").is_none() && reader.set("AWS_REGION").is_none() {
        reader.conflict("CHECKPOINT_URI", "s3://BUCKET/PREFIX only together with S3_ENDPOINT or AWS_REGION");
    }
    Some(folder)
}

/// Where `s3://` leads; what is wrong with it has been noted.
fn s3(reader: &mut Reader<'_>) -> S3 {
    let endpoint = reader.read("S3_ENDPOINT", |raw| {
        let raw = raw.trim();
        S3::is_endpoint(raw).then(|| raw.trim_end_matches('/').to_owned())
    });
    let region = reader.read("AWS_REGION", |raw| {
        let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        parse::word(raw).filter(|region| region.chars().all(part))
    });
    let id = reader.read("AWS_ACCESS_KEY_ID", parse::word).map(Secret::new);
    let key = reader.read("AWS_SECRET_ACCESS_KEY", parse::word).map(Secret::new);
    let session_token = reader.read("AWS_SESSION_TOKEN", parse::word).map(Secret::new);
    for (name, other, is_alone) in [
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", key.is_none()),
        ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", id.is_none()),
        ("AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", id.is_none() || key.is_none()),
    ] {
        if is_alone {
            reader.conflict(name, &format!("only together with {other}"));
        }
    }
    let credentials = id.zip(key).map(|(access_key_id, secret_access_key)| Credentials {
        access_key_id,
        secret_access_key,
        session_token,
    });
    S3 { endpoint, region, credentials }
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
        raw => parse::size(raw)
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
            withheld: VARIABLES.iter().filter(|known| known.secret).flat_map(Variable::names).collect(),
            ..RunnerConfig::default()
        }),
        false => Isolation::Thread,
    })
}

fn traces(reader: &mut Reader<'_>) -> Option<traces::Config> {
    let collector = reader.read("OTEL_EXPORTER_OTLP_ENDPOINT", |raw| {
        orchestrator::Config::parse(raw.trim().trim_end_matches('/')).ok()
    });
    let ca_file = access::file(reader, "OTEL_EXPORTER_OTLP_CERTIFICATE");
    match &collector {
        Some(collector) if collector.is_encrypted() => {
            let collector = orchestrator::Config { ca_file: ca_file.clone(), ..collector.clone() };
            for InvalidField { field, allowed, .. } in collector.check_files() {
                reader.conflict(&field, &allowed);
            }
        }
        _ if ca_file.is_some() => reader.conflict(
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            "unset, since OTEL_EXPORTER_OTLP_ENDPOINT is not https://",
        ),
        _ => {}
    }
    let ca_file = reader.read("OTEL_EXPORTER_OTLP_CERTIFICATE", parse::path);
    Some(traces::Config { endpoint: collector.map(|collector| collector.endpoint), ca_file })
}

fn logs(reader: &mut Reader<'_>) -> Option<logs::Config> {
    let filter = reader.choice("LOG_LEVEL");
    let format = reader.choice("LOG_FORMAT");
    Some(logs::Config { filter: filter?, format: format? })
}
