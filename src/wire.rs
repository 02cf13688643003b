//! The protocol: generated protobuf, and the only place where it is turned into domain types and back.
//!
//! ```text
//! proto/*.proto --build.rs--> pb, worker_pb --convert--> domain
//! ```
//!
//! Rooms beside [`crate::orchestrator`], [`crate::grpc`] and [`crate::dev`] never see a generated type.

mod convert;

#[cfg(test)]
mod tests;

pub use convert::{
    ClaimedTask, RejectedTask, completion, decode_outcome, encode_outcome, progress, refer_to_model,
    saturated, task_from_assignment, task_from_received, task_from_request,
};

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
mod generated {
    /// Package `orchestrator`.
    pub mod orchestrator {
        tonic::include_proto!("orchestrator");
    }
    /// Package `worker`.
    pub mod worker {
        tonic::include_proto!("worker");
    }
}

/// Messages, client and server of `orchestrator.OrchestratorService`.
pub use generated::orchestrator as pb;
/// Messages, client and server of `worker.WorkerService`.
pub use generated::worker as worker_pb;

/// Encoded `FileDescriptorSet` of both packages, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Message of the UNKNOWN status with which a base orchestrator ends an empty poll.
pub const NO_TASKS_AVAILABLE: &str = "no tasks available";
