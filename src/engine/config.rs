//! What the operator decides about training.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::data;
use crate::data::remote::ObjectFolder;
use crate::domain::{BackendChoice, DevicePolicy, HiddenGpus, ParseChoiceError, PciAddress};

/// Configuration of the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// TRAINING_BACKEND.
    pub backend: BackendChoice,
    /// DEVICE_POLICY.
    pub device_policy: DevicePolicy,
    /// ANALYTIC_PROFILE.
    pub analytic_profile: AnalyticProfile,
    /// ANALYTIC_EPOCH_DELAY: the simulated time of a task is uniform in this range.
    pub analytic_delay: RangeInclusive<Duration>,
    /// UNSUPPORTED_MODELS.
    pub unsupported_models: UnsupportedModels,
    /// The one GPU that may be used; None = all.
    pub gpu: Option<PciAddress>,
    /// GPUs that may not be used.
    pub hidden_gpus: HiddenGpus,
    /// ALLOW_SOFTWARE_ADAPTER.
    pub allow_software_adapter: bool,
    /// STATE_DIR: where checkpoints and models are kept; nothing is kept where it is absent.
    pub state_dir: Option<PathBuf>,
    /// CHECKPOINT_URI: where models are put that a result cannot carry; under STATE_DIR alone where it is absent.
    pub models_to: Option<ObjectFolder>,
    /// Where the data comes from.
    pub data: data::Config,
}

/// TASK_ISOLATION: where tasks are trained. Analytic ones stay in the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Isolation {
    /// In threads of the worker itself.
    Thread,
    /// In processes of their own.
    Process(RunnerConfig),
}

/// How runner processes are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerConfig {
    /// TASK_MEMORY_LIMIT of a runner that trains on the CPU, in bytes.
    pub cpu_memory_limit: Option<u64>,
    /// TASK_MEMORY_LIMIT of one that trains on a GPU, in bytes.
    pub gpu_memory_limit: Option<u64>,
    /// Filter of their logs, as LOG_LEVEL.
    pub log: String,
    /// What is started as a runner: this program.
    pub program: PathBuf,
    /// Variables of the environment that runners do not inherit: what they need of secrets is in their set-up.
    pub withheld: Vec<&'static str>,
}

impl RunnerConfig {
    /// The program that runs now, even when its file was replaced since.
    pub const THIS_PROGRAM: &str = "/proc/self/exe";

    /// Whether a runner is the program that runs now.
    pub fn is_this_program(&self) -> bool {
        self.program == Path::new(Self::THIS_PROGRAM)
    }
}

impl Default for RunnerConfig {
    /// This program, without limits.
    fn default() -> Self {
        Self {
            cpu_memory_limit: None,
            gpu_memory_limit: None,
            log: "info".to_owned(),
            program: PathBuf::from(Self::THIS_PROGRAM),
            withheld: Vec::new(),
        }
    }
}

/// Which set of analytic curves is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AnalyticProfile {
    /// The curves of TensorFleet's ML engine.
    #[default]
    Engine,
    /// The curves of its first Go worker.
    Basic,
}

impl FromStr for AnalyticProfile {
    type Err = ParseChoiceError;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        match raw {
            "engine" => Ok(Self::Engine),
            "basic" => Ok(Self::Basic),
            _ => Err(ParseChoiceError("engine or basic")),
        }
    }
}

impl fmt::Display for AnalyticProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Engine => "engine",
            Self::Basic => "basic",
        })
    }
}

/// What happens to a task whose model cannot be trained for real.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsupportedModels {
    /// It gets the analytic curves, marked as simulated.
    Simulate,
    /// It fails with INVALID_ARGUMENT.
    Reject,
}

impl FromStr for UnsupportedModels {
    type Err = ParseChoiceError;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        match raw {
            "simulate" => Ok(Self::Simulate),
            "reject" => Ok(Self::Reject),
            _ => Err(ParseChoiceError("simulate or reject")),
        }
    }
}

impl fmt::Display for UnsupportedModels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Simulate => "simulate",
            Self::Reject => "reject",
        })
    }
}
