//! Which GPU the runner of a job is on.
//!
//! ```text
//! task for a GPU --> has its job one? --no--> reserve (a GPU with room, or wait) --> lane of that GPU --> pool
//!                                    --yes, and it is not lost-------------------------^
//! ```
//!
//! Each GPU has a runner of its own, so that the loss of one costs the tasks on it alone, and all work at once. A job
//! keeps its GPU and its reservation for as long as its session is warm there. What has not ended a while after its GPU was
//! lost is ended.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::pool::Lane;
use super::supervisor::{Command, Mailbox, Try};
use super::{GpuRef, Shared};
use crate::domain::{ErrorCode, JobId};
use crate::engine::cards::{Cards, NotPlaced, Reservation};
use crate::engine::session::SessionPlan;
use crate::engine::sessions::Submission;
use crate::engine::waiting::{self, Places, Unplaced, Waiting};
use crate::engine::{Done, Finished};

/// How long a job without a task keeps its GPU before anybody looks whether its session is still there.
const GRACE: Duration = Duration::from_secs(5);

/// How long a task has to end by itself after its GPU was lost.
const LAST_WORDS: Duration = Duration::from_secs(5);

struct Assigned {
    gpu: GpuRef,
    reservation: Reservation,
    /// Tasks that are on their way or running.
    tasks: usize,
    used: Instant,
}

/// Gives tasks to the supervisor, those for a GPU with the one that they get.
pub(super) struct Desk {
    cards: Arc<Cards>,
    mailbox: Mailbox,
    shared: Arc<Shared>,
    numbers: AtomicU64,
    jobs: Mutex<HashMap<JobId, Assigned>>,
    waiting: Mutex<Waiting>,
    /// GPUs that are lost: since when, None once their runners were ended.
    lost: Mutex<HashMap<usize, Option<Instant>>>,
}

impl Desk {
    pub(super) fn new(cards: Arc<Cards>, mailbox: Mailbox, shared: Arc<Shared>) -> Self {
        Self {
            cards,
            mailbox,
            shared,
            numbers: AtomicU64::new(0),
            jobs: Mutex::default(),
            waiting: Mutex::default(),
            lost: Mutex::default(),
        }
    }

    /// Takes a task for whatever device `plan` says.
    pub(super) fn submit(self: &Arc<Self>, plan: SessionPlan, submission: Submission) {
        let Some(lane) = Lane::of(plan.device.backend).filter(|_| !self.cards.are_needed_by(&plan.device))
        else {
            let known = self.jobs().contains_key(&submission.task.identity.job_id);
            if !known && waiting::anyone_waits(&**self) {
                // Those that wait for longer get the next room.
                return waiting::wait(self, plan, submission);
            }
            if let Err(unplaced) = self.try_submit(plan, submission) {
                let (plan, submission) = *unplaced;
                waiting::wait(self, plan, submission);
            }
            return;
        };
        self.send(lane, None, submission);
    }

    fn send(&self, lane: Lane, gpu: Option<GpuRef>, submission: Submission) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let Submission { task, control, done } = submission;
        let asked = Arc::clone(&control);
        self.mailbox.send(Command::Submit(Try { number, lane, gpu, task, control, done }));
        let mailbox = self.mailbox.clone();
        asked.on_stop(move || mailbox.send(Command::Stop(number)));
    }

    /// A job has ended.
    pub(super) fn forget(&self, job: &JobId) {
        self.jobs().remove(job);
    }

    /// Looks what has become of the GPUs: ends what hangs on those that are lost, and looks for those that came.
    pub(super) fn look_after_gpus(&self, now: Instant) {
        let gone = self.cards.lost();
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.retain(|position, _| gone.contains(position));
        for position in gone {
            let since = lost.entry(position).or_insert(Some(now));
            if since.is_some_and(|since| now.saturating_duration_since(since) >= LAST_WORDS) {
                *since = None;
                self.mailbox.send(Command::Lost(Lane::Gpu(position)));
            }
        }
        drop(lost);
        self.cards.look_again();
    }

    /// Nobody waits any more.
    pub(super) fn close(&self) {
        waiting::dismiss(self);
    }

    /// A task of `job` has ended.
    fn ended(&self, job: &JobId, finished: &Finished) {
        let mut jobs = self.jobs();
        let Some(assigned) = jobs.get_mut(job) else { return };
        assigned.tasks = assigned.tasks.saturating_sub(1);
        assigned.used = Instant::now();
        if finished.ending.as_ref().is_err_and(|error| error.code == ErrorCode::DeviceLost) {
            assigned.reservation.suspect();
            jobs.remove(job);
        }
    }

    /// Takes GPUs from jobs whose session is there no more.
    fn sweep(&self, jobs: &mut HashMap<JobId, Assigned>) {
        let warm = &self.shared.lock().warm;
        jobs.retain(|job, assigned| {
            assigned.tasks > 0 || assigned.used.elapsed() < GRACE || warm.contains(job)
        });
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, Assigned>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places for Desk {
    fn waiting(&self) -> &Mutex<Waiting> {
        &self.waiting
    }

    fn try_submit(self: &Arc<Self>, plan: SessionPlan, submission: Submission) -> Result<(), Unplaced> {
        let job = submission.task.identity.job_id.clone();
        let mut jobs = self.jobs();
        self.sweep(&mut jobs);
        if jobs.get(&job).is_some_and(|assigned| assigned.reservation.is_lost()) {
            jobs.remove(&job);
        }
        if !jobs.contains_key(&job) {
            let (device, reservation) = match self.cards.reserve(&plan) {
                Ok(reserved) => reserved,
                Err(NotPlaced::Wait) => return Err(Box::new((plan, submission))),
                Err(NotPlaced::Never(error)) => {
                    drop(jobs);
                    submission.done.finish(Finished { ending: Err(error), notes: Vec::new() });
                    return Ok(());
                }
            };
            let gpu =
                GpuRef { position: reservation.position(), address: reservation.address(), uuid: device.gpu };
            jobs.insert(job.clone(), Assigned { gpu, reservation, tasks: 0, used: Instant::now() });
        }
        let Some(assigned) = jobs.get_mut(&job) else { return Err(Box::new((plan, submission))) };
        assigned.tasks += 1;
        assigned.used = Instant::now();
        let gpu = assigned.gpu.clone();
        drop(jobs);
        let Submission { task, control, done } = submission;
        let desk = Arc::downgrade(self);
        let done = Done::new(move |finished| {
            if let Some(desk) = desk.upgrade() {
                desk.ended(&job, &finished);
            }
            done.finish(finished);
        });
        self.send(Lane::Gpu(gpu.position), Some(gpu), Submission { task, control, done });
        Ok(())
    }

    fn make_room(&self) {
        // Its sessions go on from their checkpoints, here or elsewhere.
        let mut jobs = self.jobs();
        let used: Vec<usize> = jobs.values().map(|assigned| assigned.gpu.position).collect();
        // A runner whose jobs have all ended still has what they had.
        let left = (0..self.cards.count()).filter(|position| !used.contains(position));
        for position in left {
            self.mailbox.send(Command::Vacate(Lane::Gpu(position)));
        }
        let busy: Vec<usize> = jobs
            .values()
            .filter(|assigned| assigned.tasks > 0)
            .map(|assigned| assigned.gpu.position)
            .collect();
        let idle = jobs.values().filter(|assigned| !busy.contains(&assigned.gpu.position));
        let oldest = idle.min_by_key(|assigned| assigned.used).map(|assigned| assigned.gpu.position);
        if let Some(position) = oldest {
            self.mailbox.send(Command::Vacate(Lane::Gpu(position)));
            jobs.retain(|_, assigned| assigned.gpu.position != position);
        }
    }
}
