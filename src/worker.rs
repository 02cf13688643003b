//! The life of a task: claimed, checked, run, reported.

mod handle;

pub use handle::{CancelAnswer, ExecuteError, TaskWatch, WorkerHandle};

use std::path::PathBuf;
use std::time::Duration;

use crate::domain::WorkerId;

/// Configuration of the worker itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// WORKER_ID; None = the one kept in the state folder.
    pub worker_id: Option<WorkerId>,
    /// STATE_DIR.
    pub state_dir: PathBuf,
    /// MAX_CONCURRENT_TASKS.
    pub slots: u32,
    /// HEARTBEAT_INTERVAL.
    pub heartbeat_interval: Duration,
    /// TASK_TIMEOUT.
    pub task_timeout: Duration,
    /// MAX_TASK_RETRIES.
    pub max_task_retries: u32,
    /// DRAIN_TIMEOUT.
    pub drain_timeout: Duration,
}
