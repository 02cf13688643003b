//! Why a process of the engine has ended.

use std::fmt;

use crate::domain::ErrorCode;

/// Why a runner is there no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitCause {
    /// It was not needed any longer.
    Retired,
    /// It panicked. One that caught the panic is replaced all the same.
    Panic,
    /// It gave itself up in code that does not panic.
    Abort,
    /// A signal ended it.
    Signal,
    /// No memory was left for it.
    Oom,
    /// Its task ran too long and did not stop when it was told to.
    TimeOut,
    /// Its task was cancelled and did not stop.
    Cancelled,
    /// Its GPU was lost.
    GpuLost,
    /// It ended by itself, with an exit code.
    Exit,
    /// It said what nobody understands, or nothing for too long at its start, and was ended.
    Protocol,
}

impl ExitCause {
    /// All of them, for metrics and docs.
    pub const ALL: [Self; 10] = [
        Self::Retired,
        Self::Panic,
        Self::Abort,
        Self::Signal,
        Self::Oom,
        Self::TimeOut,
        Self::Cancelled,
        Self::GpuLost,
        Self::Exit,
        Self::Protocol,
    ];

    /// The name in labels and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retired => "retired",
            Self::Panic => "panic",
            Self::Abort => "abort",
            Self::Signal => "signal",
            Self::Oom => "oom",
            Self::TimeOut => "timeout",
            Self::Cancelled => "cancelled",
            Self::GpuLost => "gpu_lost",
            Self::Exit => "exit",
            Self::Protocol => "protocol",
        }
    }

    /// The code of the task that ran.
    pub(crate) fn code(self) -> ErrorCode {
        match self {
            Self::Panic => ErrorCode::Panic,
            Self::Abort => ErrorCode::Abort,
            Self::Signal => ErrorCode::Signal,
            Self::Oom => ErrorCode::OutOfMemory,
            Self::TimeOut => ErrorCode::TimedOut,
            Self::Cancelled => ErrorCode::Cancelled,
            Self::GpuLost => ErrorCode::DeviceLost,
            Self::Retired | Self::Exit | Self::Protocol => ErrorCode::Internal,
        }
    }
}

impl fmt::Display for ExitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
