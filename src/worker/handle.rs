//! What other rooms may ask of the running worker.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::{TaskId, TaskOutcome, TaskSpec, TaskView, WorkerStatus};

/// Why a task that came by ExecuteTask was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// All slots hold a task.
    #[error("all {slots} slots are busy; allowed at once: MAX_CONCURRENT_TASKS={slots}")]
    Busy {
        /// How many slots there are.
        slots: u32,
    },
    /// The worker takes no more tasks.
    #[error("the worker is draining and takes no more tasks")]
    Draining,
}

/// What became of a request to cancel a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelAnswer {
    /// It stops at its next batch.
    Stopping,
    /// It had ended before.
    AlreadyEnded,
    /// The worker does not hold it.
    NotFound,
}

/// Asks the running worker; cheap to clone.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    status: watch::Receiver<Arc<WorkerStatus>>,
}

impl WorkerHandle {
    /// The worker now, with the latest progress of its tasks. Never waits.
    pub fn status(&self) -> WorkerStatus {
        WorkerStatus::clone(&self.status.borrow())
    }

    /// Waits for the next change of state (not of progress). False when the worker has ended.
    pub async fn changed(&mut self) -> bool {
        self.status.changed().await.is_ok()
    }

    /// Runs `task` and waits for its end. A task that is held already is joined, not run again.
    ///
    /// # Errors
    /// [`ExecuteError`] when it was not taken.
    pub async fn execute(&self, task: Box<TaskSpec>) -> Result<Arc<TaskOutcome>, ExecuteError> {
        drop(task);
        std::future::pending().await
    }

    /// Stops a task.
    pub async fn cancel(&self, task: &TaskId) -> CancelAnswer {
        let _ = task;
        std::future::pending().await
    }

    /// Follows a held task; None when the worker does not hold it.
    pub async fn watch(&self, task: &TaskId) -> Option<TaskWatch> {
        let _ = task;
        std::future::pending().await
    }

    /// A handle of a worker that does nothing but say what is put into the sender; for tests of those who read it.
    #[cfg(test)]
    pub(crate) fn fixed(status: WorkerStatus) -> (watch::Sender<Arc<WorkerStatus>>, Self) {
        let (sender, status) = watch::channel(Arc::new(status));
        (sender, Self { status })
    }

    /// Begins to drain; None = with the configured deadline.
    pub fn drain(&self, deadline: Option<Duration>) {
        let _ = deadline;
    }
}

/// The progress of one task, as it moves.
#[derive(Debug)]
pub struct TaskWatch {}

impl TaskWatch {
    /// The next change, the present state first; None after the task's end.
    pub async fn next(&mut self) -> Option<TaskView> {
        std::future::pending().await
    }
}
