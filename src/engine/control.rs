//! The line between a running task and the worker: stop one way, progress the other.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::domain::{Backend, Progress, TaskError, TaskIdentity};

/// What one step of training took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Wall time of the step.
    pub duration: Duration,
    /// Rows that went through the model in it.
    pub samples: u64,
}

/// Hears from a running task, on the thread that trains: implementations return at once.
pub trait Observer: Send + Sync + 'static {
    /// The engine began to work on the task; its time-out counts from here.
    fn started(&self, backend: Backend);

    /// The task is about to start on the GPU of this UUID; told before [`Observer::started`].
    fn on_gpu(&self, _uuid: &str) {}

    /// One step was made.
    fn stepped(&self, progress: &Progress, step: Step);
}

type Wake = Box<dyn FnOnce() + Send>;

/// Shared by a task's trainer and the worker.
pub struct Control {
    stop: OnceLock<TaskError>,
    wakes: Mutex<Vec<Wake>>,
    progress: Mutex<Progress>,
    observer: Box<dyn Observer>,
    traceparent: Option<String>,
}

impl Control {
    /// A control that tells `observer`.
    pub fn new(observer: impl Observer) -> Self {
        Self {
            stop: OnceLock::new(),
            wakes: Mutex::default(),
            progress: Mutex::default(),
            observer: Box::new(observer),
            traceparent: None,
        }
    }

    /// The same, for a task that belongs to a trace: `traceparent` as W3C Trace Context writes it.
    #[must_use]
    pub fn in_trace(self, traceparent: Option<String>) -> Self {
        Self { traceparent, ..self }
    }

    /// The trace that the task belongs to.
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    /// What is logged inside of it names the task and its trace, whatever the level.
    pub fn span(&self, task: &TaskIdentity) -> tracing::Span {
        let trace_id = self.traceparent().and_then(|parent| parent.split('-').nth(1));
        let TaskIdentity { task_id, job_id, attempt } = task;
        tracing::error_span!("task", %task_id, %job_id, attempt, trace_id)
    }

    /// Asks the task to stop; it ends with `reason`. The first reason counts.
    pub fn stop(&self, reason: TaskError) {
        if self.stop.set(reason).is_ok() {
            let wakes = std::mem::take(&mut *self.wakes.lock().unwrap_or_else(PoisonError::into_inner));
            for wake in wakes {
                wake();
            }
        }
    }

    /// Looked at by every batch.
    ///
    /// # Errors
    /// The reason, once the task was asked to stop.
    pub fn check(&self) -> Result<(), TaskError> {
        self.stop.get().map_or(Ok(()), |reason| Err(reason.clone()))
    }

    /// Calls `wake` when the task is asked to stop, at once if it already was: for whoever waits.
    pub fn on_stop(&self, wake: impl FnOnce() + Send + 'static) {
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stop.get().is_none() {
            wakes.push(Box::new(wake));
        } else {
            drop(wakes);
            wake();
        }
    }

    /// The task is about to start on the GPU of this UUID.
    pub fn on_gpu(&self, uuid: &str) {
        self.observer.on_gpu(uuid);
    }

    /// The engine begins to work on the task.
    pub fn started(&self, backend: Backend) {
        // Marked from the beginning, not from the first step on.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).simulated = backend.is_simulated();
        self.observer.started(backend);
    }

    /// One step was made.
    pub fn stepped(&self, progress: Progress, step: Step) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
        self.observer.stepped(&progress, step);
    }

    /// The latest progress.
    pub fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("stop", &self.stop.get()).field("progress", &self.progress()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::domain::ErrorCode;

    struct Deaf;

    impl Observer for Deaf {
        fn started(&self, _: Backend) {}
        fn stepped(&self, _: &Progress, _: Step) {}
    }

    #[test]
    fn what_is_simulated_is_marked_before_its_first_step() {
        for (backend, simulated) in [(Backend::Analytic, true), (Backend::Cpu, false)] {
            let control = Control::new(Deaf);
            control.started(backend);
            assert_eq!(control.progress(), Progress { simulated, ..Progress::default() });
        }
    }

    #[test]
    fn the_first_reason_to_stop_counts_and_wakes_once() {
        let control = Control::new(Deaf);
        let woken = Arc::new(AtomicU32::new(0));
        let count = |woken: &Arc<AtomicU32>| {
            let woken = Arc::clone(woken);
            move || {
                woken.fetch_add(1, Ordering::Relaxed);
            }
        };
        control.on_stop(count(&woken));
        assert!(control.check().is_ok());
        control.stop(TaskError::new(ErrorCode::TimedOut, "late"));
        control.stop(TaskError::new(ErrorCode::Cancelled, "unwanted"));
        assert_eq!(control.check().unwrap_err().code, ErrorCode::TimedOut);
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        control.on_stop(count(&woken));
        assert_eq!(woken.load(Ordering::Relaxed), 2);
    }
}
