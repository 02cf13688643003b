//! Tasks that wait until a GPU has room for their session, in order of arrival.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Finished;
use super::session::SessionPlan;
use super::sessions::Submission;
use crate::domain::{ErrorCode, TaskError};

/// How often it is looked whether there is room.
const LOOK: Duration = Duration::from_millis(100);

/// How long a task waits; then it is given back, so that another worker may take it.
const PATIENCE: Duration = Duration::from_secs(60);

struct Waiter {
    number: u64,
    since: Instant,
    plan: SessionPlan,
    submission: Submission,
}

/// The queue.
#[derive(Default)]
pub(crate) struct Waiting {
    queue: VecDeque<Waiter>,
    last_number: u64,
    /// Whether a thread looks after it.
    looked_after: bool,
}

/// A task that was given back.
pub(crate) type Unplaced = Box<(SessionPlan, Submission)>;

/// Whoever places tasks on GPUs.
pub(crate) trait Places: Send + Sync + Sized + 'static {
    /// Those that wait.
    fn waiting(&self) -> &Mutex<Waiting>;

    /// Places a task, or ends it; gives it back where it has to wait.
    fn try_submit(self: &Arc<Self>, plan: SessionPlan, submission: Submission) -> Result<(), Unplaced>;

    /// Lets a session leave that is idle, where there is one.
    fn make_room(&self);
}

fn queue<P: Places>(places: &P) -> MutexGuard<'_, Waiting> {
    places.waiting().lock().unwrap_or_else(PoisonError::into_inner)
}

fn end(waiter: Waiter, reason: TaskError) {
    waiter.submission.done.finish(Finished { ending: Err(reason), notes: Vec::new() });
}

/// Whether anybody waits.
pub(crate) fn anyone_waits<P: Places>(places: &P) -> bool {
    !queue(places).queue.is_empty()
}

/// Lets a task wait for a GPU.
pub(crate) fn wait<P: Places>(places: &Arc<P>, plan: SessionPlan, submission: Submission) {
    let control = Arc::clone(&submission.control);
    let span = control.span(&submission.task.identity);
    span.in_scope(|| tracing::info!("the task waits for a GPU with room for it"));
    let mut waiting = queue(&**places);
    waiting.last_number += 1;
    let number = waiting.last_number;
    waiting.queue.push_back(Waiter { number, since: Instant::now(), plan, submission });
    let start = !std::mem::replace(&mut waiting.looked_after, true);
    drop(waiting);
    if start {
        let places_again = Arc::downgrade(places);
        let look_after = move || {
            while let Some(places) = places_again.upgrade() {
                if !look(&places) {
                    return;
                }
                drop(places);
                thread::sleep(LOOK);
            }
        };
        if let Err(error) = thread::Builder::new().name("gpu-queue".to_owned()).spawn(look_after) {
            tracing::error!(%error, "no thread could be started for tasks that wait for a GPU");
            queue(&**places).looked_after = false;
            return dismiss(&**places);
        }
    }
    let (places, asked) = (Arc::downgrade(places), Arc::downgrade(&control));
    control.on_stop(move || {
        let (Some(places), Some(control)) = (places.upgrade(), asked.upgrade()) else { return };
        let waiter = {
            let mut waiting = queue(&*places);
            let place = waiting.queue.iter().position(|waiter| waiter.number == number);
            place.and_then(|place| waiting.queue.remove(place))
        };
        if let (Some(waiter), Err(reason)) = (waiter, control.check()) {
            end(waiter, reason);
        }
    });
}

/// Places who can be placed; false when nobody waits any more.
fn look<P: Places>(places: &Arc<P>) -> bool {
    loop {
        let mut waiting = queue(&**places);
        let Some(waiter) = waiting.queue.pop_front() else {
            waiting.looked_after = false;
            return false;
        };
        drop(waiting);
        if let Err(reason) = waiter.submission.control.check() {
            end(waiter, reason);
            continue;
        }
        let Waiter { number, since, plan, submission } = waiter;
        let Err(unplaced) = places.try_submit(plan, submission) else { continue };
        let (plan, submission) = *unplaced;
        let waiter = Waiter { number, since, plan, submission };
        if since.elapsed() >= PATIENCE {
            let message = format!("no GPU of this worker had room for the task within {PATIENCE:?}");
            end(waiter, TaskError::new(ErrorCode::Interrupted, message));
            continue;
        }
        queue(&**places).queue.push_front(waiter);
        places.make_room();
        return true;
    }
}

/// Ends all that wait.
pub(crate) fn dismiss<P: Places>(places: &P) {
    let waiters = std::mem::take(&mut queue(places).queue);
    for waiter in waiters {
        end(waiter, TaskError::new(ErrorCode::Interrupted, "the engine was closed"));
    }
}
