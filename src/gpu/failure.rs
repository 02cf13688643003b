//! What an error of NVML means: for one reading, for one GPU, or for the driver as a whole.

use nvml_wrapper::error::NvmlError;

use super::NvmlState;

/// GPU_NOT_FOUND of newer drivers, which nvml-wrapper does not name.
const GPU_NOT_FOUND: u32 = 28;

/// Whom an error concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The GPU does not have this, or not now: the reading is absent and nothing is wrong.
    Unsupported,
    /// The reading failed.
    Reading,
    /// The GPU is gone.
    Gpu,
    /// The driver is gone; NVML has to be opened anew.
    Driver(NvmlState),
}

/// Whom `error` concerns.
pub(super) fn scope(error: &NvmlError) -> Scope {
    match error {
        NvmlError::NotSupported
        | NvmlError::NotFound
        | NvmlError::NoData
        | NvmlError::FailedToLoadSymbol(_)
        | NvmlError::FunctionNotFound
        | NvmlError::VgpuEccNotSupported => Scope::Unsupported,
        NvmlError::GpuLost | NvmlError::ResetRequired | NvmlError::UnexpectedVariant(GPU_NOT_FOUND) => {
            Scope::Gpu
        }
        NvmlError::Uninitialized | NvmlError::DriverNotLoaded => Scope::Driver(NvmlState::DriverGone),
        NvmlError::LibRmVersionMismatch => Scope::Driver(NvmlState::VersionMismatch),
        _ => Scope::Reading,
    }
}

/// The state of NVML after it could not be opened.
pub(super) fn opening(error: &NvmlError) -> NvmlState {
    match (error, scope(error)) {
        (NvmlError::LibloadingError(_), _) => NvmlState::Absent,
        (_, Scope::Driver(state)) => state,
        _ => NvmlState::Failed,
    }
}

/// Name of the error in snake case, as in metric labels.
pub(super) fn kind(error: &NvmlError) -> &'static str {
    match error {
        NvmlError::Uninitialized => "uninitialized",
        NvmlError::InvalidArg => "invalid_argument",
        NvmlError::NotSupported => "not_supported",
        NvmlError::NoPermission => "no_permission",
        NvmlError::NotFound => "not_found",
        NvmlError::InsufficientSize(_) => "insufficient_size",
        NvmlError::InsufficientPower => "insufficient_power",
        NvmlError::DriverNotLoaded => "driver_not_loaded",
        NvmlError::Timeout => "timeout",
        NvmlError::IrqIssue => "irq_issue",
        NvmlError::LibraryNotFound | NvmlError::LibloadingError(_) => "library_not_found",
        NvmlError::FunctionNotFound | NvmlError::FailedToLoadSymbol(_) => "function_not_found",
        NvmlError::CorruptedInfoROM => "corrupted_inforom",
        NvmlError::GpuLost | NvmlError::UnexpectedVariant(GPU_NOT_FOUND) => "gpu_lost",
        NvmlError::ResetRequired => "reset_required",
        NvmlError::OperatingSystem => "operating_system",
        NvmlError::LibRmVersionMismatch => "version_mismatch",
        NvmlError::InUse => "in_use",
        NvmlError::InsufficientMemory => "insufficient_memory",
        NvmlError::NoData => "no_data",
        _ => "unknown",
    }
}

/// What an operator should do about `state`; empty where there is nothing to do.
pub fn remedy(state: NvmlState) -> Option<&'static str> {
    match state {
        NvmlState::Absent | NvmlState::Starting | NvmlState::Running => None,
        NvmlState::Stalled => Some(
            "NVML does not answer: the driver hangs, look for Xid errors and \"NVRM\" in the kernel's log; readings come \
             back when it answers, else the machine has to be restarted",
        ),
        NvmlState::DriverGone => Some(
            "the NVIDIA driver is not loaded: `modprobe nvidia`, or restart the driver container of this node",
        ),
        NvmlState::VersionMismatch => Some(
            "the NVIDIA library and the kernel module are of different versions, as after an update: restart the machine, \
             or unload and load the kernel module",
        ),
        NvmlState::Failed => Some("NVML fails, see the log; `nvidia-smi` on this machine says more"),
    }
}
