//! One thread that wakes every simulated task in its time.
//!
//! A task is in the map until it ends, and whoever takes it out ends it: the thread when its time is over, or
//! `Control::stop` before. The heap may still name tasks that are gone; those entries are skipped. A task or a listener
//! that panics ends that task alone.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::domain::{ErrorCode, TaskError, TaskResult};
use crate::engine::{Control, Done, Finished, panic_message};

/// What a task wants next.
pub(super) enum Event {
    /// To be called again so long after its start.
    At(Duration),
    /// To end.
    End(TaskResult),
}

/// Called with 0 at the start, then with 1, 2, ... each time it asked for.
type Next = Box<dyn FnMut(&Control, u32) -> Event + Send>;

struct Waiting {
    started: Instant,
    calls: u32,
    next: Next,
    control: Arc<Control>,
    done: Done,
    notes: Vec<String>,
}

impl Waiting {
    fn end(self, ending: Result<TaskResult, TaskError>) {
        let Self { done, notes, .. } = self;
        // A listener that panics must not take the tasks that wait with it.
        if catch_unwind(AssertUnwindSafe(|| done.finish(Finished { ending, notes }))).is_err() {
            tracing::error!("the listener of a simulated task's end panicked");
        }
    }
}

#[derive(Default)]
struct State {
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    waiting: HashMap<u64, Waiting>,
    last_number: u64,
    thread: Option<JoinHandle<()>>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread and the tasks that wait; the thread starts with the first task.
pub(super) struct Timer(Arc<Shared>);

impl Timer {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// Begins a wait that `next` paces and that ends early when `control` is stopped.
    pub(super) fn start(
        &self,
        control: Arc<Control>,
        done: Done,
        notes: Vec<String>,
        mut next: impl FnMut(&Control, u32) -> Event + Send + 'static,
    ) {
        let started = Instant::now();
        let first = match next(&control, 0) {
            Event::At(after) => started + after,
            Event::End(result) => return done.finish(Finished { ending: Ok(result), notes }),
        };
        let asked = Arc::downgrade(&control);
        let task = Arc::clone(&control);
        let waiting = Waiting { started, calls: 0, next: Box::new(next), control, done, notes };
        let number = match self.insert(first, waiting) {
            Ok(number) => number,
            Err((error, waiting)) => return waiting.end(Err(error)),
        };
        // Weak, because the control lives in the waiting task: a strong one would keep both for ever.
        let shared = Arc::downgrade(&self.0);
        task.on_stop(move || {
            let (Some(shared), Some(control)) = (shared.upgrade(), asked.upgrade()) else { return };
            let gone = shared.lock().waiting.remove(&number);
            if let (Some(waiting), Err(reason)) = (gone, control.check()) {
                waiting.end(Err(reason));
            }
        });
    }

    // The task comes back with the error, since it must be ended outside of the lock.
    #[allow(clippy::result_large_err)]
    fn insert(&self, at: Instant, waiting: Waiting) -> Result<u64, (TaskError, Waiting)> {
        let mut state = self.0.lock();
        if state.thread.is_none() {
            let shared = Arc::clone(&self.0);
            match thread::Builder::new().name("analytic-timer".to_owned()).spawn(move || run(&shared)) {
                Ok(thread) => state.thread = Some(thread),
                Err(error) => {
                    let message = format!("the thread of simulated waits could not start: {error}");
                    return Err((TaskError::new(ErrorCode::Unavailable, message), waiting));
                }
            }
        }
        state.last_number += 1;
        let number = state.last_number;
        let earliest = state.due.peek().is_none_or(|Reverse((due, _))| at < *due);
        state.due.push(Reverse((at, number)));
        state.waiting.insert(number, waiting);
        drop(state);
        if earliest {
            self.0.changed.notify_one();
        }
        Ok(number)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        let left: Vec<Waiting> = state.waiting.drain().map(|(_, waiting)| waiting).collect();
        let thread = state.thread.take();
        drop(state);
        self.0.changed.notify_one();
        for waiting in left {
            waiting.end(Err(closed()));
        }
        // The engine may be dropped by the end of one of its own tasks.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared) {
    let mut state = shared.lock();
    while !state.closed {
        let Some(&Reverse((at, number))) = state.due.peek() else {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let now = Instant::now();
        if at > now {
            let waited = shared.changed.wait_timeout(state, at - now).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            continue;
        }
        state.due.pop();
        // Taken out while its observer is told, so that nobody is called under the lock.
        let Some(mut waiting) = state.waiting.remove(&number) else { continue };
        drop(state);
        waiting.calls += 1;
        let next = catch_unwind(AssertUnwindSafe(|| (waiting.next)(&waiting.control, waiting.calls)));
        match next {
            Err(panic) => {
                let message = format!("the simulation panicked: {}", panic_message(&*panic));
                waiting.end(Err(TaskError::new(ErrorCode::Panic, message)));
            }
            Ok(Event::At(after)) => {
                let refused = resume(shared, number, waiting, after);
                if let Some((waiting, reason)) = refused {
                    waiting.end(Err(reason));
                }
            }
            Ok(Event::End(result)) => waiting.end(Ok(result)),
        }
        state = shared.lock();
    }
}

/// Puts a task back, or returns it with the reason when it was stopped in the meantime: whoever stopped it found
/// nothing to take out. Looked at under the lock, so that one of the two always sees it.
fn resume(shared: &Shared, number: u64, waiting: Waiting, after: Duration) -> Option<(Waiting, TaskError)> {
    let mut state = shared.lock();
    if let Err(reason) = waiting.control.check() {
        return Some((waiting, reason));
    }
    if state.closed {
        return Some((waiting, closed()));
    }
    state.due.push(Reverse((waiting.started + after, number)));
    state.waiting.insert(number, waiting);
    None
}

fn closed() -> TaskError {
    TaskError::new(ErrorCode::Interrupted, "the engine was closed")
}
