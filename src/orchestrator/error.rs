//! Why a call to the orchestrator failed, and what that means for the next one.

/// A failed call.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OrchestratorError {
    /// No answer: the connection failed, broke, or the deadline passed. Whether the call was carried out is not
    /// known.
    #[error("orchestrator does not answer: {0}")]
    Unreachable(String),
    /// It answered that it cannot now. The link is fine; the same call may succeed later.
    #[error("orchestrator cannot now: {0}")]
    Busy(String),
    /// It does not accept our credentials; no later call will succeed.
    #[error("orchestrator refuses this worker: {0}")]
    Refused(String),
    /// It answered that this call is wrong; repeating it is of no use.
    #[error("orchestrator rejects the call: {0}")]
    Rejected(String),
}
