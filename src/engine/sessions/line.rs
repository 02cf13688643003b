//! One session's queue and the thread that works it off.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::fault::{self, Fault};
use super::lost::{Loss, Lost};
use super::{Key, Submission};
use crate::data;
use crate::domain::{BATCHES_PER_TASK, Backend, ErrorCode, TASKS_PER_EPOCH, TaskError, TaskResult, TaskSpec};
use crate::engine::cards::Reservation;
use crate::engine::checkpoints::{Checkpoint, Completed, Kept, REMEMBERED_TASKS, Store};
use crate::engine::session::{Session, SessionPlan, Validation};
use crate::engine::trainer::{Course, Slice};
use crate::engine::{Finished, panic_message, priority};
use crate::failpoint;

/// Largest model that travels with a result, in bytes: gRPC peers refuse messages of more than 4 MiB by default, and
/// a result that is refused is lost as a whole.
const MAX_SENT_WEIGHTS_BYTES: usize = 3 << 20;

/// What is said of a session that goes on.
const RESUMED: &str = "the session goes on from its checkpoint";

struct State {
    waiting: VecDeque<(u64, Submission)>,
    last_number: u64,
    running: bool,
    closed: bool,
    /// Whether its job has ended.
    ended: bool,
    used: Instant,
}

/// A session's queue.
pub(super) struct Line {
    pub(super) key: Key,
    plan: SessionPlan,
    reservation: Option<Reservation>,
    state: Mutex<State>,
    changed: Condvar,
    /// 0 while nothing is loaded.
    memory_bytes: AtomicU64,
}

/// What the thread of a line needs of its table.
pub(super) struct Surroundings {
    /// Where data comes from.
    pub(super) data: data::Config,
    /// Sessions that are gone.
    pub(super) lost: Arc<Lost>,
    /// Where checkpoints and models are kept.
    pub(super) store: Option<Arc<Store>>,
    /// How long the line may have nothing to do.
    pub(super) idle_time: Duration,
    /// Called after each task, and when the line has had nothing to do for so long.
    pub(super) idle: Box<dyn Fn() + Send>,
}

/// What the thread of a line owns.
#[derive(Default)]
struct Work {
    session: Option<Session>,
    /// Digest of its data set, where checkpoints are kept.
    data: String,
    /// Whether a checkpoint of it was saved.
    saved: bool,
    /// Said with the next result.
    news: Vec<String>,
    history: History,
}

/// The last tasks that are in a session.
#[derive(Default)]
struct History {
    /// Oldest first.
    completed: Vec<Completed>,
    /// How many of them an earlier process or session trained: nobody may have heard of those yet.
    from_checkpoint: usize,
}

impl History {
    /// Adds a task, in the place of the oldest where there are many.
    fn remember(&mut self, completed: Completed) {
        if self.completed.len() == REMEMBERED_TASKS {
            self.completed.remove(0);
            self.from_checkpoint = self.from_checkpoint.saturating_sub(1);
        }
        self.completed.push(completed);
    }

    /// `task`, if it was trained before the session was loaded.
    fn find(&self, task: &TaskSpec) -> Option<&Completed> {
        self.completed.iter().take(self.from_checkpoint).find(|completed| completed.is(task))
    }
}

impl Line {
    pub(super) fn new(key: Key, plan: SessionPlan, reservation: Option<Reservation>) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            last_number: 0,
            running: false,
            closed: false,
            ended: false,
            used: Instant::now(),
        };
        Self {
            key,
            plan,
            reservation,
            state: Mutex::new(state),
            changed: Condvar::new(),
            memory_bytes: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues `submission` and returns its number.
    pub(super) fn push(&self, submission: Submission) -> u64 {
        let mut state = self.lock();
        state.last_number += 1;
        let number = state.last_number;
        state.waiting.push_back((number, submission));
        drop(state);
        self.changed.notify_one();
        number
    }

    /// Takes a task out that still waits.
    pub(super) fn take_out(&self, number: u64) -> Option<Submission> {
        let mut state = self.lock();
        let place = state.waiting.iter().position(|(waiting, _)| *waiting == number)?;
        state.waiting.remove(place).map(|(_, submission)| submission)
    }

    /// Takes all tasks out that still wait.
    pub(super) fn take_all(&self) -> Vec<Submission> {
        self.lock().waiting.drain(..).map(|(_, submission)| submission).collect()
    }

    /// Lets the thread leave once the queue is empty.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// As [`Self::close`], since its job has ended.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.close();
    }

    /// When it was used last, if it has nothing to do.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        (!state.running && state.waiting.is_empty()).then_some(state.used)
    }

    /// Memory of its session in bytes, estimated; 0 while nothing is loaded.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Ordering::Relaxed)
    }

    /// Whether its device can go on; only a GPU that is lost cannot.
    pub(super) fn is_usable(&self) -> bool {
        self.reservation.as_ref().is_none_or(|reservation| !reservation.is_lost())
    }

    /// Whether it has video memory reserved.
    pub(super) fn has_reservation(&self) -> bool {
        self.reservation.is_some()
    }

    /// Whether its session is loaded.
    pub(super) fn is_warm(&self) -> bool {
        self.memory_bytes() > 0
    }

    /// The thread: works until the line is closed and empty.
    pub(super) fn run(&self, around: &Surroundings) {
        priority::lower_this_thread();
        let mut work = Work::default();
        while let Some(submission) = self.next(around) {
            let finished = self.work_on(&submission, &mut work, around);
            let memory = work.session.as_ref().map_or(0, |session| session.memory_bytes().max(1));
            self.memory_bytes.store(memory, Ordering::Relaxed);
            let mut state = self.lock();
            state.running = false;
            state.used = Instant::now();
            drop(state);
            (around.idle)();
            let done = submission.done;
            // A listener that panics must not take the tasks that wait with it.
            if catch_unwind(AssertUnwindSafe(|| done.finish(finished))).is_err() {
                tracing::error!(job_id = %self.key.job, "the listener of a task's end panicked");
            }
        }
        let ended = self.lock().ended;
        let Some(store) = around.store.as_ref().filter(|_| ended) else { return };
        let names = self.key.session_names();
        match (&work.session, store.last_saved(&self.key.job, &names)) {
            (None, _) => store.settle(&self.key.job),
            (Some(session), last) if last.map_or(!work.saved, |last| *last == self.key.session_name()) => {
                self.keep_last(session, store);
                store.forget(&self.key.job);
            }
            // The job went on elsewhere, and so has its model.
            (Some(_), _) => {}
        }
    }

    /// Keeps the model of a job that has ended.
    fn keep_last(&self, session: &Session, store: &Store) {
        let model = session.trainer().weights().map_err(|error| error.to_string());
        // Nobody waits for this; what is slow is given up by itself.
        match model.and_then(|model| self.keep(store, &Bytes::from(model), &|| Ok(()))) {
            Ok(place) => tracing::info!(job_id = %self.key.job, "the job has ended, {place}"),
            Err(error) => tracing::warn!(job_id = %self.key.job, "its model is not kept: {error}"),
        }
    }

    fn next(&self, around: &Surroundings) -> Option<Submission> {
        let mut state = self.lock();
        loop {
            if let Some((_, submission)) = state.waiting.pop_front() {
                state.running = true;
                return Some(submission);
            }
            if state.closed {
                return None;
            }
            // A little at least, should the table see no reason to close it.
            let left = around.idle_time.saturating_sub(state.used.elapsed()).max(Duration::from_millis(1));
            let (waited, time) =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
            state = waited;
            if time.timed_out() && !state.closed {
                // The lock of the table comes before that of a line.
                drop(state);
                (around.idle)();
                state = self.lock();
            }
        }
    }

    fn work_on(&self, submission: &Submission, work: &mut Work, around: &Surroundings) -> Finished {
        let control = &submission.control;
        if let Err(reason) = control.check() {
            return Finished { ending: Err(reason), notes: Vec::new() };
        }
        if !self.is_usable() {
            // Nobody has begun, so that the task may be tried again on another GPU.
            return Finished {
                ending: Err(self.device_lost("it was lost before the task began")),
                notes: Vec::new(),
            };
        }
        let _logged = control.span(&submission.task.identity).entered();
        let ending = catch_unwind(AssertUnwindSafe(|| {
            if let Some(gpu) = &self.plan.device.gpu {
                control.on_gpu(gpu);
            }
            control.started(self.key.backend);
            self.train(submission, work, around)
        }));
        let ending = ending.unwrap_or_else(|panic| {
            *work = Work::default();
            let said = panic_message(&*panic);
            let fault = self.device_fault(said);
            let lost = fault == Some(Fault::Lost);
            around.lost.remember(&self.key, if lost { Loss::Device } else { Loss::Panic });
            Err(match fault {
                Some(Fault::Lost) => self.device_lost(&fault::in_one_line(said)),
                Some(Fault::NoMemory) => self.no_memory(&fault::in_one_line(said)),
                None => TaskError::new(ErrorCode::Panic, format!("the trainer panicked: {said}")),
            })
        });
        match ending {
            Ok(mut result) => {
                let mut notes = std::mem::take(&mut work.news);
                let size = result.weights.len();
                if size > MAX_SENT_WEIGHTS_BYTES {
                    let kept = around
                        .store
                        .as_ref()
                        .map(|store| self.keep(store, &result.weights, &|| control.check()));
                    let place = match kept {
                        Some(Ok(kept)) => {
                            let said = format!("; {kept}");
                            result.reference = Some(kept.reference);
                            said
                        }
                        Some(Err(error)) => format!(" and could not be kept: {error}"),
                        None => String::new(),
                    };
                    result.weights = Bytes::new();
                    notes.push(format!(
                        "the model, {size} bytes, is too large to be sent with the result{place}"
                    ));
                }
                Finished { ending: Ok(result), notes }
            }
            Err(error) => Finished { ending: Err(error), notes: Vec::new() },
        }
    }

    /// What a panic that `said` this tells of the GPU; None where it came of something else.
    fn device_fault(&self, said: &str) -> Option<Fault> {
        if self.key.backend != Backend::Wgpu {
            return None;
        }
        let fault = Fault::of(said).or_else(|| (!self.is_usable()).then_some(Fault::Lost))?;
        if let Some(reservation) = &self.reservation {
            if fault == Fault::Lost {
                reservation.suspect();
            }
            if fault == Fault::Lost || fault::is_for_good(said) {
                reservation.give_up();
            }
        }
        Some(fault)
    }

    /// The GPU as messages call it.
    fn gpu(&self) -> String {
        let device = &self.plan.device;
        let uuid = device.gpu.as_deref().map(|uuid| format!(" ({uuid})")).unwrap_or_default();
        format!("the GPU {}{uuid}", device.name)
    }

    fn device_lost(&self, what: &str) -> TaskError {
        TaskError::new(ErrorCode::DeviceLost, format!("{} was lost: {what}", self.gpu()))
    }

    fn no_memory(&self, what: &str) -> TaskError {
        let remedy =
            format!("{} would need less, hyperparameter backend=cpu none of it", self.plan.entry.lighter());
        TaskError::new(
            ErrorCode::OutOfMemory,
            format!("{} has no memory left for the task: {what}; {remedy}", self.gpu()),
        )
    }

    fn train(
        &self,
        submission: &Submission,
        work: &mut Work,
        around: &Surroundings,
    ) -> Result<TaskResult, TaskError> {
        let Submission { task, control, .. } = submission;
        let Work { session, data, saved: was_saved, news, history } = work;
        let moved = around.store.as_ref().is_some_and(|store| self.has_moved(store));
        let session = match session {
            Some(session) if !moved => session,
            // What it has learned elsewhere, it knows from there.
            Some(session) => {
                match self.resume(session, around, data) {
                    Ok(Some(completed)) => {
                        *history = History { from_checkpoint: completed.len(), completed };
                        news.push(RESUMED.to_owned());
                    }
                    Ok(None) => {}
                    Err(why) => news.push(format!("the session goes on from where it was: {why}")),
                }
                session
            }
            empty => {
                let mut opened = Session::open(&self.plan, &around.data, &|| control.check())?;
                if around.store.is_some() {
                    *data = opened.data().digest();
                }
                match self.resume(&mut opened, around, data) {
                    Ok(Some(completed)) => {
                        around.lost.take(&self.key);
                        *history = History { from_checkpoint: completed.len(), completed };
                        tracing::info!(job_id = %self.key.job, model = self.key.model, "{RESUMED}");
                        news.push(RESUMED.to_owned());
                    }
                    Ok(None) => news.extend(self.again(task, &around.lost)),
                    Err(why) => {
                        around.lost.take(&self.key);
                        news.push(format!(
                            "the session begins anew, since its checkpoint is of no use: {why}"
                        ));
                    }
                }
                news.extend(opened.notes().iter().cloned());
                tracing::debug!(
                    job_id = %self.key.job,
                    model = self.key.model,
                    rows = opened.data().train.rows.len(),
                    device = %self.plan.device.name,
                    "a session is loaded"
                );
                empty.insert(opened)
            }
        };
        if let Some(done) = history.find(task) {
            news.push("its training was completed before, as the checkpoint says".to_owned());
            return session.repeat(done);
        }
        failpoint::panic("trainer-panics", "it was told to");
        failpoint::panic("gpu-lost", "Parent device is lost");
        let slice = Slice { epoch: task.epoch, batches: task.batches.clone() };
        let validation = if task.ends_epoch() { Validation::Full } else { Validation::Sample };
        session.follow(Course {
            // A job may be given a max_iter that says nothing of the epochs it gets.
            total_epochs: task.total_epochs.or(task.hyperparameters.total_epochs),
            batches_per_epoch: TASKS_PER_EPOCH * BATCHES_PER_TASK,
        });
        let result = session.run_from(&task.initial_weights, &slice, validation, control)?;
        news.extend(session.take_notes());
        if let Some(store) = around.store.as_ref().filter(|_| task.hyperparameters.checkpoints.wanted()) {
            history.remember(Completed::new(task, &result));
            let state = session.state().map_err(|error| error.to_string());
            let kept = state.and_then(|state| {
                let fits = result.weights.len() <= MAX_SENT_WEIGHTS_BYTES;
                let checkpoint = Checkpoint {
                    data: data.clone(),
                    completed: history.completed.clone(),
                    model_name: self.plan.entry.weights_file_name.to_owned(),
                    model: if fits { result.weights.clone() } else { Bytes::new() },
                    state,
                };
                let session = self.key.session_name();
                store.save(&self.key.job, &session, &checkpoint).map_err(|error| error.to_string())
            });
            *was_saved |= kept.is_ok();
            // The result is as good without.
            if let Err(error) = kept {
                tracing::warn!(job_id = %self.key.job, "no checkpoint after this task: {error}");
            }
        }
        Ok(result)
    }

    /// Has `session`, whose rows have the digest `data`, go on from the newest checkpoint; the tasks in it, None where there is
    /// none.
    fn resume(
        &self,
        session: &mut Session,
        around: &Surroundings,
        data: &str,
    ) -> Result<Option<Vec<Completed>>, String> {
        let Some(store) = &around.store else { return Ok(None) };
        store.newest(&self.key.job, &self.key.session_names(), |checkpoint| {
            if checkpoint.data != data {
                return Err("the data set is another one by now".to_owned());
            }
            session.restore(&checkpoint.state).map_err(|error| error.to_string())
        })
    }

    /// Whether the last task of the job was trained on another backend.
    fn has_moved(&self, store: &Store) -> bool {
        let names = self.key.session_names();
        store.last_saved(&self.key.job, &names).is_some_and(|last| *last != self.key.session_name())
    }

    /// Puts the model where it can be fetched, and says where that is.
    fn keep(&self, store: &Store, model: &Bytes, check: data::Check<'_>) -> Result<Kept, String> {
        store.keep_model(&self.key.job, self.plan.entry.weights_file_name, model, check)
    }

    /// What to say of a session that is loaded once more.
    fn again(&self, task: &TaskSpec, lost: &Lost) -> Option<String> {
        let loss = lost.take(&self.key)?;
        let given = !task.initial_weights.is_empty();
        let note = loss.note(if given { "the model_weights of the task" } else { "its first weights" });
        tracing::warn!(job_id = %self.key.job, model = self.key.model, "{note}");
        Some(note)
    }
}
