//! How long calls to the orchestrator take, and how they end.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, Registry};
use tonic::{Code, Status};

use super::status;

/// Seconds; the upper ones are those of long polls.
const BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Label of a poll that ended without a task, which is no error whatever its code.
const EMPTY: &str = "NO_TASK";

/// Metrics of the client; clones share their values.
#[derive(Debug, Clone)]
pub struct Metrics {
    rpc_seconds: HistogramVec,
}

impl Metrics {
    /// Metrics without any value.
    pub fn new() -> Self {
        let options = HistogramOpts::new(
            "worker_orchestrator_rpc_seconds",
            "Time of calls to the orchestrator by method and gRPC code (NO_TASK: a poll that ended empty).",
        )
        .buckets(BUCKETS.to_vec());
        let rpc_seconds = HistogramVec::new(options, &["method", "code"]).expect("constant names are valid");
        Self { rpc_seconds }
    }

    /// Adds them to `registry`.
    ///
    /// # Errors
    /// They are in it already.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.rpc_seconds.clone()))
    }

    pub(super) fn observe<T>(&self, method: &str, answer: &Result<T, Status>, took: Duration) {
        let code = match answer {
            Ok(_) => name(Code::Ok),
            Err(answer) if status::is_empty_poll(answer) => EMPTY,
            Err(answer) => name(answer.code()),
        };
        self.rpc_seconds.with_label_values(&[method, code]).observe(took.as_secs_f64());
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The name that the specification of gRPC gives `code`.
const fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
