//! Why an engine or a local training cannot start.

use crate::domain::{ErrorCode, TaskError};

/// The machine or the configuration does not allow what was asked for. Each message ends with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// DEVICE_POLICY=require on a machine without a hardware GPU.
    #[error(
        "DEVICE_POLICY: \"require\" needs a hardware GPU, but {found}; install the GPU's Vulkan driver (see \
         `vulkaninfo --summary`), or set DEVICE_POLICY=prefer"
    )]
    GpuRequired {
        /// What was found instead.
        found: String,
    },
    /// The backend wgpu on a machine without an adapter that may be used.
    #[error(
        "{field}: \"wgpu\" needs a GPU, but {found}; install the GPU's Vulkan driver, or set {field}=cpu, which trains \
         for real on the CPU"
    )]
    NoAdapter {
        /// What asks for it.
        field: &'static str,
        /// What was found instead.
        found: String,
    },
    /// TRAINING_BACKEND=wgpu together with DEVICE_POLICY=cpu.
    #[error(
        "TRAINING_BACKEND: \"wgpu\" contradicts DEVICE_POLICY=cpu, which never uses a GPU; set \
         TRAINING_BACKEND=cpu or DEVICE_POLICY=prefer"
    )]
    GpuForbidden,
    /// The system does not give what every engine needs.
    #[error("cannot {doing}: {error}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        error: String,
    },
}

/// Why a local training cannot begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// This machine lacks what was asked for.
    #[error(transparent)]
    Environment(#[from] EngineError),
    /// Model, data set or hyperparameters are wrong, or it was stopped.
    #[error(transparent)]
    Task(#[from] TaskError),
}

impl From<OpenError> for TaskError {
    /// To whoever sent a task, a machine that lacks what it asks for is a wrong request.
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Environment(error) => Self::new(ErrorCode::InvalidArgument, error.to_string()),
            OpenError::Task(error) => error,
        }
    }
}
