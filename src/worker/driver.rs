//! Owns the state: takes events one by one, applies the rules, and carries out what they ask for.
//!
//! ```text
//! link, polls, engine threads, handles, timers --events--> driver --effects--> orchestrator, engine, outbox
//!                                                            |
//!                                                            +--publishes--> status (http, grpc, heartbeats)
//! ```

mod asking;
mod noticing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

use super::clock::Clock;
use super::ending::log_end;
use super::grace::Grace;
use super::handle::{CancelAnswer, ExecuteError, Request, TaskWatch};
use super::held::Held;
use super::link::LinkView;
use super::metrics::Metrics;
use super::observer::{Account, Notice, RunObserver};
use super::outbox::Outbox;
use super::reporter::{Report, Unreported};
use super::state::{Admission, Effect, Event, Key, RunId, State, Waiter, ask, transition};
use super::view::{self, About, Kept, Outwards, Seen};
use crate::domain::{Progress, TaskOutcome, TaskSpec};
use crate::engine::{Control, Done, Engine};
use crate::gpu::GpuProbe;
use crate::orchestrator::{Backoff, Orchestrator};
use crate::telemetry::traces::{Stage, Traces};
use asking::Pace;

/// Longest time between two looks at the leases: the timers of the runtime stand still while the machine is suspended,
/// and leases do not.
const LEASE_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Events that are applied before the status is published once.
const EVENTS_PER_PUBLISH: usize = 64;

/// What the driver works with.
pub(super) struct Parts<O> {
    pub(super) about: About,
    pub(super) orchestrator: Arc<O>,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) gpus: Arc<dyn GpuProbe>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) held: Held,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    pub(super) unreported: Unreported,
    pub(super) clock: Clock,
    pub(super) link: LinkView,
    pub(super) metrics: Metrics,
    pub(super) traces: Traces,
    pub(super) tracker: TaskTracker,
    pub(super) task_timeout: Duration,
    pub(super) drain_timeout: Duration,
}

/// Ends of the channels that lead to the driver.
pub(super) struct Inboxes {
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    pub(super) requests: mpsc::UnboundedReceiver<Request>,
    pub(super) notices: mpsc::UnboundedReceiver<Notice>,
}

/// Ways to the driver that it hands to what it starts.
#[derive(Clone)]
pub(super) struct Outlets {
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) notices: mpsc::UnboundedSender<Notice>,
}

/// Something to tell somebody.
enum Tiding {
    Outcome(oneshot::Sender<Result<Arc<TaskOutcome>, ExecuteError>>, Result<Arc<TaskOutcome>, ExecuteError>),
    Cancel(oneshot::Sender<CancelAnswer>, CancelAnswer),
    Report(Report),
}

/// A try in the engine.
struct Run {
    control: Arc<Control>,
    task: Arc<TaskSpec>,
    account: Account,
    waits_since: Instant,
    started: Option<Instant>,
    limit: Duration,
    timed_out: bool,
}

/// The driver.
pub(super) struct Driver<O> {
    parts: Parts<O>,
    outlets: Outlets,
    state: State,
    runs: BTreeMap<RunId, Run>,
    seen: BTreeMap<Key, Seen>,
    pace: Pace,
    executing: BTreeMap<Waiter, oneshot::Sender<Result<Arc<TaskOutcome>, ExecuteError>>>,
    cancelling: BTreeMap<Waiter, oneshot::Sender<CancelAnswer>>,
    next_waiter: u64,
    /// When running tasks are told to stop.
    drain_deadline: Option<Instant>,
    /// When those that did not are left behind.
    stop_deadline: Option<Instant>,
    /// How long the end may take, since they were told.
    grace: Option<Grace>,
    /// What others are told once the status is published, so that whoever hears it and then asks hears the same.
    tidings: Vec<Tiding>,
    /// What keeps outcomes from the disk.
    storage_trouble: watch::Receiver<Option<String>>,
    /// What keeps tasks from the list of held ones.
    held_list_trouble: watch::Receiver<Option<String>>,
    outwards: Outwards,
    /// When the answer came that is being applied.
    answered: Option<Instant>,
    drained: bool,
}

impl<O: Orchestrator> Driver<O> {
    pub(super) fn new(parts: Parts<O>, outlets: Outlets, state: State, outwards: Outwards) -> Self {
        let mut driver = Self {
            storage_trouble: parts.outbox.trouble(),
            held_list_trouble: parts.held.trouble(),
            parts,
            outlets,
            state,
            runs: BTreeMap::new(),
            seen: BTreeMap::new(),
            pace: Pace::default(),
            executing: BTreeMap::new(),
            cancelling: BTreeMap::new(),
            next_waiter: 0,
            drain_deadline: None,
            stop_deadline: None,
            grace: None,
            tidings: Vec::new(),
            outwards,
            answered: None,
            drained: false,
        };
        driver.publish();
        driver
    }

    /// Runs until drained.
    pub(super) async fn run(mut self, mut inboxes: Inboxes) {
        let mut effects = Vec::new();
        self.storage_changed(&mut effects);
        self.held_list_changed(&mut effects);
        self.publish();
        while !self.drained {
            let next_timeout = self.next_timeout();
            let (drain_deadline, stop_deadline) = (self.drain_deadline, self.stop_deadline);
            let leave_deadline = self.grace.map(Grace::given_back_by);
            let lease_look = self.next_lease_look();
            // Clocks first: they are ready only when due, and no flood of requests may hold them up.
            tokio::select! {
                biased;
                () = at(lease_look) => self.apply(Event::Tick, &mut effects),
                () = at(next_timeout) => self.time_out(&mut effects),
                () = at(drain_deadline) => self.abort("the worker was stopped before the task ended", &mut effects),
                () = at(stop_deadline) => {
                    tracing::error!("some tasks did not stop in time; the worker ends without them");
                    self.stop_deadline = None;
                    self.apply(Event::Abandon, &mut effects);
                }
                () = at(leave_deadline) => self.leave(),
                Ok(()) = self.storage_trouble.changed() => self.storage_changed(&mut effects),
                Ok(()) = self.held_list_trouble.changed() => self.held_list_changed(&mut effects),
                Some(request) = inboxes.requests.recv() => self.request(request, &mut effects),
                Some(notice) = inboxes.notices.recv() => self.notice(notice, &mut effects),
                Some(event) = inboxes.events.recv() => self.apply(event, &mut effects),
            }
            self.drain_inboxes(&mut inboxes, &mut effects);
            self.ask(&mut effects);
            self.publish();
        }
    }

    /// Applies what came in meanwhile, so that a burst is published once.
    fn drain_inboxes(&mut self, inboxes: &mut Inboxes, effects: &mut Vec<Effect>) {
        for _ in 0..EVENTS_PER_PUBLISH {
            if let Ok(notice) = inboxes.notices.try_recv() {
                self.notice(notice, effects);
            } else if let Ok(event) = inboxes.events.try_recv() {
                self.apply(event, effects);
            } else {
                return;
            }
        }
    }

    fn apply(&mut self, event: Event, effects: &mut Vec<Effect>) {
        transition(&mut self.state, self.parts.clock.now(), event, effects);
        self.carry_out_all(effects);
    }

    fn ask(&mut self, effects: &mut Vec<Effect>) {
        ask(&mut self.state, effects);
        self.carry_out_all(effects);
    }

    fn carry_out_all(&mut self, effects: &mut Vec<Effect>) {
        for effect in effects.drain(..) {
            self.carry_out(effect);
        }
    }

    fn abort(&mut self, reason: &'static str, effects: &mut Vec<Effect>) {
        self.drain_deadline = None;
        let grace = *self.grace.get_or_insert_with(|| Grace::from(Instant::now()));
        self.stop_deadline.get_or_insert(grace.stopped_by());
        self.apply(Event::Abort { reason }, effects);
    }

    /// Ends with what is still in hand: it stays in the list of held tasks, for the next process.
    fn leave(&mut self) {
        let tasks = self.state.records.len();
        tracing::error!(
            tasks,
            "some tasks were neither given back nor stored in time; the worker ends with them"
        );
        self.drained = true;
    }

    fn storage_changed(&mut self, effects: &mut Vec<Effect>) {
        let trouble = self.storage_trouble.borrow_and_update().clone();
        self.apply(Event::Storage { trouble }, effects);
    }

    fn held_list_changed(&mut self, effects: &mut Vec<Effect>) {
        let trouble = self.held_list_trouble.borrow_and_update().clone();
        self.apply(Event::HeldList { trouble }, effects);
    }

    fn request(&mut self, request: Request, effects: &mut Vec<Effect>) {
        self.next_waiter += 1;
        let waiter = Waiter(self.next_waiter);
        match request {
            Request::Execute { task, reply } => {
                self.executing.insert(waiter, reply);
                self.apply(Event::Execute { task, waiter }, effects);
            }
            Request::Cancel { task, reply } => {
                self.cancelling.insert(waiter, reply);
                let (reason, waiter) = ("cancelled by CancelTask", Some(waiter));
                self.apply(Event::Cancel { task, up_to: None, reason, waiter }, effects);
            }
            Request::Unwanted { task } => {
                let (up_to, reason) = (Some(task.attempt), "cancelled by the orchestrator");
                self.apply(Event::Cancel { task: task.task_id, up_to, reason, waiter: None }, effects);
            }
            Request::Watch { task, reply } => {
                let watched = self.state.find(&task).and_then(|key| {
                    let (record, seen) = (self.state.records.get(&key)?, self.seen.get(&key)?);
                    let progress = seen.progress.subscribe();
                    Some(TaskWatch { view: view::task(record, seen), progress, begun: false })
                });
                // Whoever asked may have gone away.
                let _ = reply.send(watched);
            }
            Request::Drain { deadline } if self.state.admission <= Admission::Draining => {
                let deadline = Instant::now() + deadline.unwrap_or(self.parts.drain_timeout);
                self.drain_deadline =
                    Some(self.drain_deadline.map_or(deadline, |earlier| earlier.min(deadline)));
                if self.state.admission == Admission::Draining {
                    return;
                }
                self.apply(Event::Drain, effects);
                // Whoever reads the log may ask at once, and shall hear the same.
                self.publish();
                tracing::info!("draining: no new task is taken");
            }
            Request::Drain { .. } => {}
            Request::Abort { reason } => self.abort(reason, effects),
        }
    }

    fn next_lease_look(&self) -> Option<Instant> {
        let left = self.state.next_look()?.since(self.parts.clock.now());
        Some(Instant::now() + left.min(LEASE_LOOK_INTERVAL))
    }

    fn next_timeout(&self) -> Option<Instant> {
        let open = self.runs.values().filter(|run| !run.timed_out);
        open.filter_map(|run| Some(run.started? + run.limit)).min()
    }

    fn time_out(&mut self, effects: &mut Vec<Effect>) {
        let now = Instant::now();
        let mut late = Vec::new();
        for (id, run) in &mut self.runs {
            if !run.timed_out && run.started.is_some_and(|started| started + run.limit <= now) {
                run.timed_out = true;
                late.push((*id, run.limit));
            }
        }
        for (run, limit) in late {
            self.apply(Event::TimedOut { run, limit }, effects);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Poll { generation, slots_available, places } => {
                self.poll(generation, slots_available, places);
            }
            Effect::CheckJob { job } => self.check_job(job),
            Effect::Submit { key, run, task } => self.submit(key, run, task),
            Effect::Stop { run, reason } => {
                if let Some(run) = self.runs.get(&run) {
                    run.control.stop(reason);
                }
            }
            Effect::Retry { run, retries, identity, reason } => {
                let wait = Backoff::task_retry(retries).next_wait();
                let (wait_seconds, code, reason) = (wait.as_secs_f32(), reason.code.name(), reason.message);
                self.parts.traces.span(&identity).in_scope(|| {
                    tracing::warn!(
                        retries,
                        wait_seconds,
                        code,
                        reason,
                        "a task failed in passing; trying it again"
                    );
                });
                let events = self.outlets.events.clone();
                self.parts.tracker.spawn(async move {
                    tokio::time::sleep(wait).await;
                    let _ = events.send(Event::RetryDue { run });
                });
            }
            Effect::Persist { key, outcome, lease } => {
                let error = outcome.ending.as_ref().err().map(|error| error.message.clone());
                self.parts.traces.leave(&outcome.identity, error);
                let notices = self.outlets.notices.clone();
                let stored = {
                    let outcome = Arc::clone(&outcome);
                    move |sequence| {
                        // Its task is let go with the next status that is published.
                        let report = Report { sequence, outcome, ours_until: lease, let_go: 0 };
                        // The driver is gone only when the whole worker is.
                        let _ = notices.send(Notice::Stored { key, report });
                    }
                };
                self.parts.outbox.append(outcome, Box::new(stored));
            }
            Effect::Release { key, identity, reason } => self.release(key, identity, reason),
            Effect::Answer { waiter, answer } => {
                let reply = self.executing.remove(&waiter);
                self.tidings.extend(reply.map(|reply| Tiding::Outcome(reply, answer)));
            }
            Effect::AnswerCancel { waiter, answer } => {
                let reply = self.cancelling.remove(&waiter);
                self.tidings.extend(reply.map(|reply| Tiding::Cancel(reply, answer)));
            }
            Effect::Ended { outcome } => {
                self.parts.metrics.ended(&outcome);
                self.parts.traces.span(&outcome.identity).in_scope(|| log_end(&outcome));
            }
            Effect::Lost { key, outcome } => {
                // Forgotten without being let go: the next process runs it again.
                self.seen.remove(&key);
                let status = outcome.status().name();
                self.parts.traces.span(&outcome.identity).in_scope(|| {
                    tracing::error!(status, "an outcome is lost: the disk does not take it");
                });
            }
            Effect::Drained => self.drained = true,
        }
    }

    fn submit(&mut self, key: Key, run: RunId, task: Arc<TaskSpec>) {
        self.parts.traces.enter(&task.identity, Stage::Train);
        let now = Instant::now();
        let seen = self.seen.entry(key).or_insert_with(|| Seen::at(self.answered.unwrap_or(now)));
        // A try anew waits from now on.
        let waits_since = if seen.control.is_none() { seen.since } else { now };
        if seen.control.is_none() && !task.notes.is_empty() {
            let notes = task.notes.join("; ");
            let span = self.parts.traces.span(&task.identity);
            span.in_scope(|| tracing::warn!(notes, "a task asks for what is not understood"));
        }
        seen.progress.send_replace(Progress::default());
        let notices = self.outlets.notices.clone();
        let progress = Arc::clone(&seen.progress);
        let account = Account::new(&self.parts.gpus);
        let metrics = self.parts.metrics.of_run(&task);
        let observer = RunObserver::new(run, account.clone(), notices.clone(), progress, metrics);
        let traceparent = self.parts.traces.traceparent(&task.identity);
        let control = Arc::new(Control::new(observer).in_trace(traceparent));
        seen.control = Some(Arc::clone(&control));
        let limit = task.timeout.unwrap_or(self.parts.task_timeout);
        let (held, control_of_run) = (Arc::clone(&task), Arc::clone(&control));
        self.runs.insert(
            run,
            Run {
                control: control_of_run,
                task: held,
                account,
                waits_since,
                started: None,
                limit,
                timed_out: false,
            },
        );
        let done = Done::new(move |finished| {
            let _ = notices.send(Notice::Finished { run, finished });
        });
        self.parts.engine.submit(task, control, done);
    }

    fn publish(&mut self) {
        let records = &self.state.records;
        for (key, record) in records {
            let seen = self.seen.entry(*key).or_insert_with(|| Seen::at(Instant::now()));
            let attempt = record.task.identity.attempt;
            let is_kept = seen.kept.is_some_and(|kept| kept.attempt == attempt);
            if record.polled && !is_kept && !record.task.received.is_empty() {
                // The new one first: a process that ends in between holds both, and goes on with the later.
                let number = self.parts.held.keep(record.task.received.clone());
                if let Some(earlier) = seen.kept.replace(Kept { number, attempt }) {
                    self.parts.held.let_go(earlier.number);
                }
            }
        }
        self.seen.retain(|key, seen| {
            let held = records.contains_key(key);
            if let Some(kept) = seen.kept.filter(|_| !held) {
                self.parts.held.let_go(kept.number);
            }
            held
        });
        self.parts.held.write();
        let grace = self.grace.or(self.drain_deadline.map(Grace::from));
        self.outwards.show(&self.state, &self.seen, grace);
        for tiding in self.tidings.drain(..) {
            // Whoever asked may have gone away, and the reporter ends with the worker.
            match tiding {
                Tiding::Outcome(reply, answer) => drop(reply.send(answer)),
                Tiding::Cancel(reply, answer) => drop(reply.send(answer)),
                Tiding::Report(report) => {
                    let report = Report { let_go: self.parts.held.handed_over(), ..report };
                    drop(self.parts.reports.send(report));
                }
            }
        }
    }
}

/// Waits until `when`; for ever where there is no such time.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}
