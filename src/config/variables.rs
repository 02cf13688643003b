//! The table of all configuration variables.

use crate::data::remote::{AllowedHost, ObjectFolder, S3};

/// One configuration variable: an environment variable, a flag of `run` and a key of the file.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Name in the environment, such as `WORKER_PORT`.
    pub name: &'static str,
    /// Other names of it in the environment and in the file.
    pub aliases: &'static [&'static str],
    /// What holds when it is not set, as it would be written; None = nothing.
    pub default: Option<&'static str>,
    /// What may be written.
    pub takes: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// Whether its value must not be shown.
    pub secret: bool,
}

impl Variable {
    /// The variable called `name`, which may be an alias.
    pub fn find(name: &str) -> Option<&'static Self> {
        VARIABLES.iter().find(|variable| variable.names().any(|known| known == name))
    }

    /// Its name and then its aliases.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// The flag's name without the dashes, such as `worker-port`.
    pub fn flag(&self) -> String {
        Self::flag_of(self.name)
    }

    /// A name of the environment as a flag's, without the dashes.
    pub fn flag_of(name: &str) -> String {
        name.to_ascii_lowercase().replace('_', "-")
    }

    /// Whether the bare flag stands for `true`.
    pub fn is_switch(&self) -> bool {
        self.takes == SWITCH
    }
}

/// The known name nearest to `name`, where one is near enough to be meant.
pub fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_uppercase();
    VARIABLES
        .iter()
        .flat_map(Variable::names)
        .map(|known| (strsim::jaro_winkler(&name, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(score, _)| *score > 0.8)
        .map(|(_, known)| known)
}

const SWITCH: &str = "true or false";
const PORT: &str = "a port from 0 to 65535 (0 = any free one)";
const KEY: &str = "text without spaces";

const fn variable(
    name: &'static str,
    default: Option<&'static str>,
    takes: &'static str,
    help: &'static str,
) -> Variable {
    Variable { name, aliases: &[], default, takes, help, secret: false }
}

impl Variable {
    const fn or(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }
}

/// Every variable there is, in the order in which it is shown.
pub const VARIABLES: &[Variable] = &[
    variable(
        "WORKER_ID",
        None,
        "1 to 256 printable ASCII characters without spaces",
        "Unique name of this worker; without one, an id is generated and kept in STATE_DIR",
    ),
    variable(
        "ORCHESTRATOR_ADDRESS",
        Some("localhost:50051"),
        "host:port, http://host:port or https://host:port, port 1 to 65535, IPv6 in brackets",
        "Where the orchestrator listens, as host:port or https://host:port",
    )
    .or(&["ORCHESTRATOR_ADDR"]),
    variable(
        "ORCHESTRATOR_TLS_CA",
        None,
        "the path of a PEM file, only with https:// in ORCHESTRATOR_ADDRESS",
        "PEM file with the certificate authorities to trust for an https:// orchestrator; by default those of this \
         machine. Read again when it changes",
    )
    .or(&["TLS_CA"]),
    variable(
        "AUTH_TOKEN_FILE",
        None,
        "the path of a readable file with one token, or one a line",
        "File with the bearer token that the worker asks of its callers and sends to the orchestrator. Of several \
         lines all are taken and the first is sent. Read again when it changes",
    )
    .secret(),
    variable("WORKER_PORT", Some("50052"), PORT, "Port of the worker's gRPC server; 0 = any free one").or(&["PORT"]),
    variable("METRICS_PORT", Some("2112"), PORT, "Port of the worker's HTTP server (metrics, health, status, profile); 0 = any free one"),
    variable(
        "HEARTBEAT_INTERVAL",
        Some("30s"),
        "a duration from 100ms to 1h, such as 30s",
        "Longest time between two signs of life to the orchestrator",
    ),
    variable(
        "TASK_TIMEOUT",
        Some("300s"),
        "a duration from 1s to 7d, such as 5m or 1h30m",
        "How long a task may train, unless the orchestrator sets another limit",
    ),
    variable(
        "MAX_CONCURRENT_TASKS",
        Some("3"),
        "a whole number from 1 to 1024",
        "How many tasks run at the same time",
    ),
    variable(
        "LOG_LEVEL",
        Some("info"),
        "off, error, warn, info, debug, trace, or a filter such as info,tensorfleet_worker::engine=debug",
        "What is logged: off, error, warn, info, debug, trace, or a filter with targets",
    ),
    variable(
        "LOG_FORMAT",
        Some("auto"),
        "auto, pretty or json",
        "How it is logged: pretty, json, or auto, which is pretty on a terminal and json elsewhere",
    ),
    variable(
        "TRAINING_BACKEND",
        Some("auto"),
        "auto, wgpu, cpu or analytic",
        "What trains: wgpu (the GPU), cpu, analytic (simulated curves, nothing is trained), or auto: wgpu where there \
         is a GPU, else analytic",
    ),
    variable(
        "DEVICE_POLICY",
        Some("prefer"),
        "require, prefer or cpu",
        "require: do not start without a GPU; prefer: a GPU where there is one; cpu: never a GPU",
    ),
    variable(
        "ANALYTIC_PROFILE",
        Some("engine"),
        "engine or basic",
        "Which of TensorFleet's two sets of curves the analytic backend draws: engine or basic",
    ),
    variable(
        "ANALYTIC_EPOCH_DELAY",
        Some("200ms..500ms"),
        "a range such as 200ms..500ms, one duration, or 0 for none; at most 1h",
        "How long an analytic task pretends to take: a range, one duration, or 0",
    ),
    variable(
        "UNSUPPORTED_MODELS",
        Some("auto"),
        "auto, simulate or reject",
        "What happens to a model type that cannot be trained for real: simulate, reject, or auto, which simulates \
         under TRAINING_BACKEND auto or analytic and else rejects",
    ),
    variable(
        "STRICT_HYPERPARAMETERS",
        Some("false"),
        SWITCH,
        "Fail a task that has an unknown hyperparameter, instead of adding a note to its result",
    ),
    variable(
        "DATA_ROOT",
        Some("./data"),
        "the path of a folder",
        "Folder with the local data sets; nothing outside of it is read",
    ),
    variable(
        "DATA_ALLOWED_HOSTS",
        None,
        AllowedHost::ALLOWED,
        "Hosts that http:// and https:// data sets may be fetched from, separated by commas: host, host:port, \
         *.suffix; none by default",
    ),
    variable(
        "DATA_ALLOW_LOCAL_ADDRESSES",
        Some("false"),
        SWITCH,
        "Let these hosts be at addresses of this machine and of private networks",
    ),
    variable(
        "DATA_CACHE_SIZE",
        Some("10GiB"),
        "a number of bytes, such as 10GiB or 500MB",
        "Most that is kept in STATE_DIR/cache/data of what was fetched; what was used least recently goes first",
    ),
    variable("S3_ENDPOINT", None, S3::ENDPOINT, "Where s3:// data sets are, if not at AWS"),
    variable(
        "AWS_REGION",
        None,
        "the name of a region, such as eu-central-1",
        "Region of s3:// data sets; needed for AWS, us-east-1 by default elsewhere",
    ),
    variable("AWS_ACCESS_KEY_ID", None, KEY, "Who asks for s3:// data sets; nobody in particular by default").secret(),
    variable("AWS_SECRET_ACCESS_KEY", None, KEY, "The key of AWS_ACCESS_KEY_ID").secret(),
    variable("AWS_SESSION_TOKEN", None, KEY, "What makes a key of limited time valid").secret(),
    variable(
        "CHECKPOINT_URI",
        None,
        ObjectFolder::ALLOWED,
        "Where in S3 models are put that are too large for a result (3 MiB); needs S3_ENDPOINT or AWS_REGION, and \
         the newest of each job stays in STATE_DIR too",
    ),
    variable(
        "STATE_DIR",
        Some("./state"),
        "the path of a folder",
        "Folder for the worker's id and for results that are not acknowledged yet; one for each worker",
    ),
    variable(
        "MAX_TASK_RETRIES",
        Some("2"),
        "a whole number from 0 to 100",
        "How often the worker repeats a task by itself after a failure that may pass",
    ),
    variable(
        "DRAIN_TIMEOUT",
        Some("30s"),
        "a duration from 0 to 1d, such as 30s",
        "After SIGTERM or Ctrl-C, how long running tasks may go on before they are given back",
    ),
    variable(
        "TASK_ISOLATION",
        Some("process"),
        "process or thread",
        "Where a task is trained: process, in a child process that may do little and whose crash costs that task alone, \
         or thread, in the worker itself",
    ),
    variable(
        "TASK_MEMORY_LIMIT",
        Some("auto"),
        "auto, none, or a size from 1MiB, such as 512MiB or 2GiB",
        "Most memory that a child process may take: a size, none, or auto, which is three quarters of the machine's \
         memory and nothing with a GPU",
    ),
    variable(
        "ALLOW_SOFTWARE_ADAPTER",
        Some("false"),
        SWITCH,
        "Let wgpu use a software driver, for tests; it never counts as a GPU",
    ),
    variable(
        "NVML_LIBRARY",
        None,
        "the path of an NVML library",
        "Another library than libnvidia-ml.so.1 to watch GPUs with",
    ),
    variable(
        "NVIDIA_VISIBLE_DEVICES",
        None,
        "all, none, or indices and UUIDs of GPUs, separated by commas",
        "GPUs that the worker may use, by index or UUID, where the container runtime has not chosen them already",
    ),
    variable(
        "CUDA_VISIBLE_DEVICES",
        None,
        "indices and UUIDs of GPUs, separated by commas; -1 for none",
        "GPUs that the worker may use, by index (in the order of PCI addresses) or UUID",
    ),
    variable(
        "GPU_PCIE_THROUGHPUT",
        Some("false"),
        SWITCH,
        "Measure the traffic of GPUs over PCIe, which takes 40 ms a GPU and second",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        None,
        "http://host:port or https://host:port of a collector that takes OTLP over gRPC, such as http://localhost:4317",
        "Where traces of tasks go, by OTLP over gRPC; none by default",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        None,
        "the path of a PEM file with certificates, where OTEL_EXPORTER_OTLP_ENDPOINT is https://",
        "Whom to trust for OTEL_EXPORTER_OTLP_ENDPOINT, instead of the machine's authorities",
    ),
    variable(
        "TLS_CERT",
        None,
        "the path of a PEM file with a certificate chain, together with TLS_KEY",
        "Certificate of the worker's servers, leaf first; with it they speak TLS. Read again when it changes",
    ),
    variable("TLS_KEY", None, "the path of a PEM file with the key of TLS_CERT", "Private key of TLS_CERT")
        .secret(),
    variable(
        "TLS_CLIENT_CA",
        None,
        "the path of a PEM file with certificates, only with TLS_CERT",
        "Authorities whose clients may call the worker: the gRPC port then takes no connection without such a \
         certificate, and the HTTP port shows without one only what is open",
    ),
    variable(
        "METRICS_TLS",
        Some("auto"),
        "auto, on or off; on only with TLS_CERT",
        "Whether the HTTP port speaks TLS: auto (where TLS_CERT is set), on or off",
    ),
    variable(
        "METRICS_AUTH",
        Some("false"),
        "true or false; true only with AUTH_TOKEN_FILE or TLS_CLIENT_CA",
        "Ask for credentials on /metrics and /health too; /livez and /readyz stay open",
    ),
    variable(
        "LISTEN_ADDRESS",
        Some("0.0.0.0"),
        "an IP address of this machine, such as 127.0.0.1, 0.0.0.0 or ::",
        "Address on which both servers listen; 0.0.0.0 = all of IPv4, :: = all",
    ),
    variable(
        "ORCHESTRATOR_TLS_CERT",
        None,
        "the path of a PEM file, together with ORCHESTRATOR_TLS_KEY and with https:// in ORCHESTRATOR_ADDRESS",
        "Certificate that is shown to the orchestrator, leaf first. Read again when it changes",
    ),
    variable(
        "ORCHESTRATOR_TLS_KEY",
        None,
        "the path of a PEM file with the key of ORCHESTRATOR_TLS_CERT",
        "Private key of ORCHESTRATOR_TLS_CERT",
    )
    .secret(),
    variable(
        "ORCHESTRATOR_TLS_SERVER_NAME",
        None,
        "a host name or an IP address, with https:// in ORCHESTRATOR_ADDRESS",
        "Name that the orchestrator's certificate has to have; by default the host of ORCHESTRATOR_ADDRESS",
    ),
    variable(
        "ORCHESTRATOR_TOKEN_FILE",
        None,
        "the path of a readable file with one token",
        "File with the bearer token for the orchestrator, where that is another one than AUTH_TOKEN_FILE",
    )
    .secret(),
];
