//! Tasks that wait until a GPU has room for their session, in order of arrival.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Shared, Submission};
use crate::domain::{ErrorCode, TaskError};
use crate::engine::Finished;
use crate::engine::session::SessionPlan;

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
pub(super) struct Waiting {
    queue: VecDeque<Waiter>,
    last_number: u64,
    /// Whether a thread looks after it.
    looked_after: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn anyone_waits(&self) -> bool {
        !self.queue().queue.is_empty()
    }

    /// Lets a task wait for a GPU.
    pub(super) fn wait(self: &Arc<Self>, plan: SessionPlan, submission: Submission) {
        let control = Arc::clone(&submission.control);
        tracing::info!(
            task_id = %submission.task.identity.task_id,
            job_id = %submission.task.identity.job_id,
            "the task waits for a GPU with room for it"
        );
        let mut waiting = self.queue();
        waiting.last_number += 1;
        let number = waiting.last_number;
        waiting.queue.push_back(Waiter { number, since: Instant::now(), plan, submission });
        let start = !std::mem::replace(&mut waiting.looked_after, true);
        drop(waiting);
        if start {
            let shared = Arc::downgrade(self);
            let look = move || {
                while let Some(shared) = shared.upgrade() {
                    if !shared.look() {
                        return;
                    }
                    drop(shared);
                    thread::sleep(LOOK);
                }
            };
            if let Err(error) = thread::Builder::new().name("gpu-queue".to_owned()).spawn(look) {
                tracing::error!(%error, "no thread could be started for tasks that wait for a GPU");
                self.queue().looked_after = false;
                return self.dismiss();
            }
        }
        let (shared, asked) = (Arc::downgrade(self), Arc::downgrade(&control));
        control.on_stop(move || {
            let (Some(shared), Some(control)) = (shared.upgrade(), asked.upgrade()) else { return };
            let waiter = {
                let mut waiting = shared.queue();
                let place = waiting.queue.iter().position(|waiter| waiter.number == number);
                place.and_then(|place| waiting.queue.remove(place))
            };
            if let (Some(waiter), Err(reason)) = (waiter, control.check()) {
                waiter.submission.done.finish(Finished { ending: Err(reason), notes: Vec::new() });
            }
        });
    }

    /// Places who can be placed; false when nobody waits any more.
    fn look(self: &Arc<Self>) -> bool {
        loop {
            let mut waiting = self.queue();
            let Some(waiter) = waiting.queue.pop_front() else {
                waiting.looked_after = false;
                return false;
            };
            drop(waiting);
            let Waiter { number, since, plan, submission } = waiter;
            if let Err(reason) = submission.control.check() {
                submission.done.finish(Finished { ending: Err(reason), notes: Vec::new() });
                continue;
            }
            let Err((plan, submission)) = self.try_submit(plan, submission) else { continue };
            if since.elapsed() >= PATIENCE {
                let message = format!("no GPU of this worker had room for the task within {PATIENCE:?}");
                let ending = Err(TaskError::new(ErrorCode::Interrupted, message));
                submission.done.finish(Finished { ending, notes: Vec::new() });
                continue;
            }
            self.queue().queue.push_front(Waiter { number, since, plan, submission });
            self.make_room();
            return true;
        }
    }

    /// Ends all that wait.
    pub(super) fn dismiss(&self) {
        let queue = std::mem::take(&mut self.queue().queue);
        for waiter in queue {
            let reason = TaskError::new(ErrorCode::Interrupted, "the engine was closed");
            waiter.submission.done.finish(Finished { ending: Err(reason), notes: Vec::new() });
        }
    }
}
