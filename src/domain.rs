//! The nouns of the product: plain, checked data without I/O.
//!
//! Everything that enters the worker (gRPC, flags, files) is turned into these types once, at the edge;
//! past it no room checks ids, ranges or names again. This room imports no other.
//!
//! ```text
//! raw strings --parse--> ids, ModelType, Hyperparameters --> TaskSpec --engine--> TaskOutcome
//!                 |                                              |
//!                 +-- InvalidField (field, value, allowed)       +-- Progress, while it runs
//! ```
//!
//! Deliberately absent: anything generated from protobuf (see [`crate::wire`]) and anything that waits.

mod backend;
mod health;
mod hidden;
mod hyperparameters;
mod ids;
mod invalid;
mod masked;
mod outcome;
mod pci;
mod progress;
mod status;
mod task;

pub use backend::{Backend, BackendChoice, DevicePolicy, ParseChoiceError};
pub use health::{Health, rfc3339, unready_reasons};
pub use hidden::HiddenGpus;
pub use hyperparameters::{
    BoostingObjective, Bootstrap, Checkpoints, ClassWeight, Hyperparameters, KnownHyperparameter, Loss,
    MaxFeatures, Optimizer, Penalty, Problem, Schedule, SplitCriterion, Stopping, Strictness,
    TreeHyperparameters,
};
pub use ids::{JobId, ModelType, TaskId, WorkerId};
pub use invalid::InvalidField;
pub(crate) use invalid::printable;
pub use masked::masked_path;
pub use outcome::{ErrorCode, Metrics, ModelReference, TaskError, TaskOutcome, TaskResult, TaskStatus};
pub use pci::{ParsePciAddressError, PciAddress};
pub use progress::Progress;
pub use status::{
    Capabilities, GpuInfo, GpuUsage, HostUsage, LinkState, TaskPhase, TaskView, WorkerPhase, WorkerStatus,
};
pub use task::{BATCHES_PER_TASK, TASKS_PER_EPOCH, TaskIdentity, TaskSpec};
