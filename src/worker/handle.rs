//! What other rooms may ask of the running worker.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::clock::Moment;
use super::grace::Grace;
use super::link::LinkView;
use super::outbox::OutboxState;
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
#[derive(Debug)]
pub(super) struct Published {
    pub(super) status: WorkerStatus,
    /// Of the tasks of the status, in their order; None of one that was not in the engine yet.
    pub(super) controls: Vec<Option<Arc<Control>>>,
}

/// What moves the heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pulse {
    /// When the first lease should be renewed.
    pub(super) renewal_due: Option<Moment>,
    /// The shortest lease that is held.
    pub(super) shortest_lease: Option<Duration>,
    pub(super) draining: bool,
    /// How long the end may take, once there is one.
    pub(super) grace: Option<Grace>,
}

impl Pulse {
    /// Takes over `now`; whether a heartbeat may be due earlier than it was. Tasks come and go thousands of times a second,
    /// and each with a later lease.
    pub(super) fn quickens(&mut self, now: Self) -> bool {
        let before = std::mem::replace(self, now);
        let sooner = now.renewal_due.is_some_and(|due| before.renewal_due.is_none_or(|before| due < before));
        sooner || now.shortest_lease != before.shortest_lease || now.draining != before.draining
    }
}

/// Asks the running worker; cheap to clone.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    pub(super) published: watch::Receiver<Published>,
    pub(super) pulse: watch::Receiver<Pulse>,
    pub(super) outbox: watch::Receiver<OutboxState>,
    pub(super) held_list_trouble: watch::Receiver<Option<String>>,
    pub(super) link: LinkView,
    pub(super) requests: mpsc::UnboundedSender<Request>,
}

impl WorkerHandle {
    /// The worker now, with the latest progress of its tasks. Never waits.
    pub fn status(&self) -> WorkerStatus {
        let mut status = {
            let published = self.published.borrow();
            let mut status = published.status.clone();
            for (task, control) in status.tasks.iter_mut().zip(&published.controls) {
                task.progress = control.as_ref().map(|control| control.progress()).unwrap_or_default();
            }
            status
        };
        {
            let outbox = self.outbox.borrow();
            status.outbox_pending = outbox.pending;
            status.state_dir_writable = outbox.disk.is_none() && self.held_list_trouble.borrow().is_none();
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
        self.pulse.borrow().grace
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
mod tests {
    use super::*;

    #[test]
    fn only_what_may_bring_a_heartbeat_forward_is_told() {
        let due = |seconds: u64| Some(Moment::LONG_AGO.after(Duration::from_secs(seconds)));
        let pulse = |renewal_due| Pulse {
            renewal_due,
            shortest_lease: renewal_due.map(|_| Duration::from_secs(30)),
            draining: false,
            grace: None,
        };
        let mut told = Pulse::default();
        assert!(told.quickens(pulse(due(10))), "the first lease");
        assert!(!told.quickens(pulse(due(10))));
        assert!(!told.quickens(pulse(due(20))), "a later one");
        assert!(told.quickens(pulse(due(15))), "an earlier one than that");
        assert!(told.quickens(Pulse { draining: true, ..pulse(due(15)) }));
        assert!(told.quickens(Pulse { shortest_lease: Some(Duration::from_secs(5)), ..told }));
        assert_eq!(told.shortest_lease, Some(Duration::from_secs(5)));
    }
}

#[cfg(test)]
pub(crate) mod fixed {
    //! A worker that does nothing but say what it is told to; for tests of those who read it.

    use super::*;
    use crate::worker::link::FixedLink;

    pub(crate) struct FixedWorker {
        published: watch::Sender<Published>,
        outbox: watch::Sender<OutboxState>,
        link: FixedLink,
        /// Kept and never answered, so that whoever asks waits.
        requests: mpsc::UnboundedReceiver<Request>,
    }

    impl FixedWorker {
        /// Says `status` from now on.
        pub(crate) fn say(&self, status: WorkerStatus) {
            self.link.say(&status);
            self.outbox.send_replace(outbox(&status));
            self.published.send_replace(published(status));
        }
    }

    impl FixedWorker {
        /// Whether anybody asked it for something since the last call.
        pub(crate) fn was_asked(&mut self) -> bool {
            self.requests.try_recv().is_ok()
        }
    }

    fn published(status: WorkerStatus) -> Published {
        // Progress as it was said is not read from anywhere.
        Published { status, controls: Vec::new() }
    }

    fn outbox(status: &WorkerStatus) -> OutboxState {
        let disk = (!status.state_dir_writable).then(|| "no room".to_owned());
        OutboxState { pending: status.outbox_pending, disk, ..OutboxState::default() }
    }

    impl WorkerHandle {
        /// A handle of such a worker.
        pub(crate) fn fixed(status: WorkerStatus) -> (FixedWorker, Self) {
            let (link, view) = FixedLink::new(&status);
            let (outbox, outbox_view) = watch::channel(outbox(&status));
            let (sender, receiver) = watch::channel(published(status));
            let (requests, inbox) = mpsc::unbounded_channel();
            // Its last value stays.
            let pulse = watch::channel(Pulse::default()).1;
            let held_list_trouble = watch::channel(None).1;
            (
                FixedWorker { published: sender, outbox, link, requests: inbox },
                Self {
                    published: receiver,
                    pulse,
                    outbox: outbox_view,
                    held_list_trouble,
                    link: view,
                    requests,
                },
            )
        }
    }
}
