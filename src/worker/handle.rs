//! What other rooms may ask of the running worker.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::clock::Moment;
use super::grace::Grace;
use super::link::LinkView;
use crate::domain::{
    Progress, TaskId, TaskIdentity, TaskOutcome, TaskSpec, TaskView, WorkerPhase, WorkerStatus,
};
use crate::engine::Control;

/// Shortest time between two steps of a [`TaskWatch`]: a person cannot read faster, and a task may make
/// thousands of steps a second.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Why a task that came by ExecuteTask was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// All slots hold a task.
    #[error("all slots are busy; allowed at once: MAX_CONCURRENT_TASKS={slots}")]
    Busy {
        /// How many slots there are.
        slots: u32,
    },
    /// The worker takes no more tasks.
    #[error("the worker is draining and takes no more tasks")]
    Draining,
    /// Something keeps the worker from its work.
    #[error("the worker takes no task for now: {trouble}")]
    Degraded {
        /// What that is.
        trouble: String,
    },
    /// The id belongs to a held task with other fields.
    #[error(
        "task_id: the worker holds a task of this id with other fields; allowed: the same fields, or a new id"
    )]
    Conflict,
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

/// A request to the driver.
pub(super) enum Request {
    Execute {
        task: Box<TaskSpec>,
        reply: oneshot::Sender<Result<Arc<TaskOutcome>, ExecuteError>>,
    },
    Cancel {
        task: TaskId,
        reply: oneshot::Sender<CancelAnswer>,
    },
    /// The orchestrator does not want that attempt (any more).
    Unwanted {
        task: TaskIdentity,
    },
    Watch {
        task: TaskId,
        reply: oneshot::Sender<Option<TaskWatch>>,
    },
    Drain {
        deadline: Option<Duration>,
    },
    Abort {
        reason: &'static str,
    },
}

/// The state that the driver publishes; progress is read from the running tasks when somebody looks.
#[derive(Debug, Clone)]
pub(super) struct Published {
    pub(super) status: WorkerStatus,
    pub(super) running: HashMap<TaskIdentity, Arc<Control>>,
    /// When the first lease should be renewed.
    pub(super) renewal_due: Option<Moment>,
    /// The shortest lease that is held.
    pub(super) shortest_lease: Option<Duration>,
    /// How long the end may take, once there is one.
    pub(super) grace: Option<Grace>,
}

/// Asks the running worker; cheap to clone.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    pub(super) published: watch::Receiver<Arc<Published>>,
    pub(super) link: LinkView,
    pub(super) requests: mpsc::UnboundedSender<Request>,
}

impl WorkerHandle {
    /// The worker now, with the latest progress of its tasks. Never waits.
    pub fn status(&self) -> WorkerStatus {
        let published = Arc::clone(&self.published.borrow());
        let mut status = published.status.clone();
        for task in &mut status.tasks {
            if let Some(control) = published.running.get(&task.identity) {
                task.progress = control.progress();
            }
        }
        self.link.fill(&mut status);
        status
    }

    /// Waits for the next change of state (not of progress). False when the worker has ended.
    pub async fn changed(&mut self) -> bool {
        self.published.changed().await.is_ok()
    }

    /// Runs `task` and waits for its end. A task that is held already is joined, not run again. The task goes on
    /// when the caller stops waiting.
    ///
    /// # Errors
    /// [`ExecuteError`] when it was not taken.
    pub async fn execute(&self, task: Box<TaskSpec>) -> Result<Arc<TaskOutcome>, ExecuteError> {
        self.ask(|reply| Request::Execute { task, reply }).await.unwrap_or(Err(ExecuteError::Draining))
    }

    /// Stops a task.
    pub async fn cancel(&self, task: &TaskId) -> CancelAnswer {
        self.ask(|reply| Request::Cancel { task: task.clone(), reply })
            .await
            .unwrap_or(CancelAnswer::NotFound)
    }

    /// Follows a held task; None when the worker does not hold it.
    pub async fn watch(&self, task: &TaskId) -> Option<TaskWatch> {
        self.ask(|reply| Request::Watch { task: task.clone(), reply }).await.flatten()
    }

    /// Begins to drain; None = with the configured deadline.
    pub fn drain(&self, deadline: Option<Duration>) {
        self.tell(Request::Drain { deadline });
    }

    /// Stops the running tasks at their next batch and ends; `reason` is what their outcomes say.
    pub fn abort(&self, reason: &'static str) {
        self.tell(Request::Abort { reason });
    }

    /// Stops an attempt on behalf of the orchestrator.
    pub(super) fn unwanted(&self, task: TaskIdentity) {
        self.tell(Request::Unwanted { task });
    }

    /// What the worker is doing; cheaper than the whole status.
    pub fn phase(&self) -> WorkerPhase {
        self.published.borrow().status.phase
    }

    /// How long the end may take; None while the worker neither drains nor stops.
    pub fn grace(&self) -> Option<Grace> {
        self.published.borrow().grace
    }

    fn tell(&self, request: Request) {
        // A worker that has ended has nothing left to stop.
        let _ = self.requests.send(request);
    }

    /// Sends a request and waits for its answer; None when the worker has ended.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.tell(request(reply));
        answer.await.ok()
    }
}

/// The progress of one task, as it moves.
#[derive(Debug)]
pub struct TaskWatch {
    pub(super) view: TaskView,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) begun: bool,
}

impl TaskWatch {
    /// The next change, the present state first; None after the task's end. Fast changes are merged.
    pub async fn next(&mut self) -> Option<TaskView> {
        if self.begun {
            let changed = self.progress.changed().await;
            changed.ok()?;
            // The end of the task cuts the pause short, so that its last figures are not held back.
            let ended = async { while self.progress.changed().await.is_ok() {} };
            let _ = tokio::time::timeout(WATCH_INTERVAL, ended).await;
        }
        self.begun = true;
        self.view.progress = *self.progress.borrow();
        Some(self.view.clone())
    }
}

#[cfg(test)]
pub(crate) mod fixed {
    //! A worker that does nothing but say what it is told to; for tests of those who read it.

    use super::*;
    use crate::worker::link::FixedLink;

    pub(crate) struct FixedWorker {
        published: watch::Sender<Arc<Published>>,
        link: FixedLink,
        /// Kept and never answered, so that whoever asks waits.
        requests: mpsc::UnboundedReceiver<Request>,
    }

    impl FixedWorker {
        /// Says `status` from now on.
        pub(crate) fn say(&self, status: WorkerStatus) {
            self.link.say(&status);
            self.published.send_replace(Arc::new(published(status)));
        }
    }

    impl FixedWorker {
        /// Whether anybody asked it for something since the last call.
        pub(crate) fn was_asked(&mut self) -> bool {
            self.requests.try_recv().is_ok()
        }
    }

    fn published(status: WorkerStatus) -> Published {
        Published { status, running: HashMap::new(), renewal_due: None, shortest_lease: None, grace: None }
    }

    impl WorkerHandle {
        /// A handle of such a worker.
        pub(crate) fn fixed(status: WorkerStatus) -> (FixedWorker, Self) {
            let (link, view) = FixedLink::new(&status);
            let (sender, receiver) = watch::channel(Arc::new(published(status)));
            let (requests, inbox) = mpsc::unbounded_channel();
            (
                FixedWorker { published: sender, link, requests: inbox },
                Self { published: receiver, link: view, requests },
            )
        }
    }
}
