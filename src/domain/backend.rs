//! Where a task runs, and what the operator allows.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What produced a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Backend {
    /// Real training on the CPU.
    Cpu,
    /// Real training on a GPU through wgpu.
    Wgpu,
    /// No training: a convergence curve. Its results are always marked as simulated.
    Analytic,
}

impl Backend {
    /// The name that appears on the wire, in labels and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::Analytic => "analytic",
        }
    }

    /// Whether its figures come from a curve instead of from training.
    pub const fn is_simulated(self) -> bool {
        matches!(self, Self::Analytic)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that is none of the allowed ones; [`fmt::Display`] lists those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseChoiceError(pub &'static str);

/// Which backend a worker or a task asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BackendChoice {
    /// The GPU where there is one, else the analytic curves; of a task: what the worker chose.
    #[default]
    Auto,
    /// This one and no other.
    Only(Backend),
}

impl FromStr for BackendChoice {
    type Err = ParseChoiceError;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        Ok(match raw {
            "auto" => Self::Auto,
            "cpu" => Self::Only(Backend::Cpu),
            "wgpu" => Self::Only(Backend::Wgpu),
            "analytic" => Self::Only(Backend::Analytic),
            _ => return Err(ParseChoiceError("auto, wgpu, cpu or analytic")),
        })
    }
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Only(backend) => backend.fmt(f),
        }
    }
}

/// Whether a GPU is a must.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DevicePolicy {
    /// No GPU, no start, and no task ever falls back to another device.
    Require,
    /// The GPU where there is one.
    #[default]
    Prefer,
    /// Never a GPU.
    Cpu,
}

impl FromStr for DevicePolicy {
    type Err = ParseChoiceError;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        Ok(match raw {
            "require" => Self::Require,
            "prefer" => Self::Prefer,
            "cpu" => Self::Cpu,
            _ => return Err(ParseChoiceError("require, prefer or cpu")),
        })
    }
}

impl fmt::Display for DevicePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Require => "require",
            Self::Prefer => "prefer",
            Self::Cpu => "cpu",
        })
    }
}
