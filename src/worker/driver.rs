//! Owns the state: takes events one by one, applies the rules, and carries out what they ask for.
//!
//! ```text
//! link, polls, engine threads, handles, timers --events--> driver --effects--> orchestrator, engine, outbox
//!                                                            |
//!                                                            +--publishes--> status (http, grpc, heartbeats)
//! ```

mod asking;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

use super::clock::Clock;
use super::ending::log_end;
use super::handle::{CancelAnswer, ExecuteError, Request, TaskWatch};
use super::held::Held;
use super::link::LinkView;
use super::metrics::Metrics;
use super::observer::{Account, MeasuredRun, Notice, RunObserver};
use super::outbox::Outbox;
use super::reporter::{Report, Unreported};
use super::state::{Admission, Effect, Event, Key, RunId, State, Taken, Waiter, ask, transition};
use super::view::{self, About, Outwards, Seen};
use crate::domain::{Progress, TaskOutcome, TaskSpec};
use crate::engine::{Control, Done, Engine};
use crate::gpu::GpuProbe;
use crate::orchestrator::{Backoff, Orchestrator};
use crate::telemetry::traces::{Stage, Traces};

/// How long the end of a drain waits for tasks that were told to stop and polls that are still out.
const STOP_GRACE: Duration = Duration::from_secs(10);

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
    executing: BTreeMap<Waiter, oneshot::Sender<Result<Arc<TaskOutcome>, ExecuteError>>>,
    cancelling: BTreeMap<Waiter, oneshot::Sender<CancelAnswer>>,
    next_waiter: u64,
    /// When running tasks are told to stop.
    drain_deadline: Option<Instant>,
    /// When those that did not are left behind.
    stop_deadline: Option<Instant>,
    /// What others are told once the status is published, so that whoever hears it and then asks hears the same.
    tidings: Vec<Tiding>,
    /// What keeps outcomes from the disk.
    storage_trouble: watch::Receiver<Option<String>>,
    outwards: Outwards,
    /// When the answer came that is being applied.
    answered: Option<Instant>,
    drained: bool,
}

impl<O: Orchestrator> Driver<O> {
    pub(super) fn new(parts: Parts<O>, outlets: Outlets, state: State, outwards: Outwards) -> Self {
        let mut driver = Self {
            storage_trouble: parts.outbox.trouble(),
            parts,
            outlets,
            state,
            runs: BTreeMap::new(),
            seen: BTreeMap::new(),
            executing: BTreeMap::new(),
            cancelling: BTreeMap::new(),
            next_waiter: 0,
            drain_deadline: None,
            stop_deadline: None,
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
        self.publish();
        while !self.drained {
            let next_timeout = self.next_timeout();
            let (drain_deadline, stop_deadline) = (self.drain_deadline, self.stop_deadline);
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
                Ok(()) = self.storage_trouble.changed() => self.storage_changed(&mut effects),
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
        self.stop_deadline.get_or_insert_with(|| Instant::now() + STOP_GRACE);
        self.apply(Event::Abort { reason }, effects);
    }

    fn storage_changed(&mut self, effects: &mut Vec<Effect>) {
        let writable = self.storage_trouble.borrow_and_update().is_none();
        self.apply(Event::Storage { writable }, effects);
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
                let found =
                    self.state.records.iter().find(|(_, record)| record.task.identity.task_id == task);
                let watched = found.and_then(|(key, record)| {
                    let seen = self.seen.get(key)?;
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

    fn notice(&mut self, notice: Notice, effects: &mut Vec<Effect>) {
        match notice {
            Notice::Polled { ended, answered } => {
                self.answered = answered;
                self.apply(ended, effects);
                self.answered = None;
            }
            Notice::Started { run, at } => {
                if let Some(run) = self.runs.get_mut(&run) {
                    run.started = Some(at);
                    self.parts.traces.run(&run.task.identity);
                    self.parts.metrics.queued(at.saturating_duration_since(run.waits_since));
                }
            }
            Notice::Engine { trouble } => {
                match &trouble {
                    Some(trouble) => tracing::error!("no task is taken: {trouble}"),
                    None if self.state.engine_trouble.is_some() => tracing::info!("tasks are taken again"),
                    None => {}
                }
                self.apply(Event::Engine { trouble }, effects);
            }
            Notice::Stored { key, report } => {
                self.parts.unreported.add(&report);
                self.tidings.push(Tiding::Report(report));
                self.apply(Event::Persisted { key }, effects);
            }
            Notice::Finished { run, finished } => {
                let ended = self.runs.remove(&run);
                let started = ended.as_ref().and_then(|run| run.started);
                let duration = started.map(|started| started.elapsed()).unwrap_or_default();
                match ended.and_then(|run| Some((run.account.close()?, run.task))) {
                    None => {
                        let ended = Event::Finished { run, finished, duration, energy_joules: None };
                        self.apply(ended, effects);
                    }
                    Some((meter, task)) => {
                        let ended = Box::new(MeasuredRun { run, task, finished, duration });
                        let notices = self.outlets.notices.clone();
                        self.parts.tracker.spawn(async move {
                            let share = meter.end().await;
                            let _ = notices.send(Notice::Measured { ended, share });
                        });
                    }
                }
            }
            Notice::Measured { ended, share } => {
                let MeasuredRun { run, task, mut finished, duration } = *ended;
                self.parts.metrics.took(&task, &share);
                finished.notes.extend(share.note(duration));
                let energy_joules = share.energy_joules;
                self.apply(Event::Finished { run, finished, duration, energy_joules }, effects);
            }
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
            Effect::Retry { run, retries } => {
                let wait = Backoff::task_retry(retries).next_wait();
                tracing::warn!(
                    retries,
                    wait_seconds = wait.as_secs_f32(),
                    "a task failed in passing; trying it again"
                );
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
                        let report = Report { sequence, outcome, ours_until: lease };
                        // The driver is gone only when the whole worker is.
                        let _ = notices.send(Notice::Stored { key, report });
                    }
                };
                self.parts.outbox.append(outcome, Box::new(stored));
            }
            Effect::Release { key, identity, reason } => {
                let (events, orchestrator) =
                    (self.outlets.events.clone(), Arc::clone(&self.parts.orchestrator));
                self.parts.tracker.spawn(async move {
                    let task_id = identity.task_id.as_str();
                    let taken = match orchestrator.release(&identity, reason).await {
                        Ok(true) => {
                            tracing::info!(task_id, reason, "gave the task back");
                            Taken::Yes
                        }
                        Ok(false) => Taken::No,
                        Err(error) => {
                            tracing::warn!(task_id, %error, "could not give the task back; reporting its end instead");
                            Taken::No
                        }
                    };
                    let _ = events.send(Event::Released { key, taken });
                });
            }
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
                log_end(&outcome);
            }
            Effect::Lost { outcome } => {
                let task_id = outcome.identity.task_id.as_str();
                tracing::error!(
                    task_id,
                    status = outcome.status().name(),
                    "an outcome is lost: the disk does not take it"
                );
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
            let (task_id, notes) = (task.identity.task_id.as_str(), task.notes.join("; "));
            tracing::warn!(task_id, notes, "a task asks for what is not understood");
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
            if record.polled && seen.kept.is_none() && !record.task.received.is_empty() {
                seen.kept = Some(self.parts.held.keep(record.task.received.clone()));
            }
        }
        self.seen.retain(|key, seen| {
            let held = records.contains_key(key);
            if let Some(number) = seen.kept.filter(|_| !held) {
                self.parts.held.let_go(number);
            }
            held
        });
        self.parts.held.write();
        self.outwards.show(&self.state, &self.seen, self.storage_trouble.borrow().as_deref());
        for tiding in self.tidings.drain(..) {
            // Whoever asked may have gone away, and the reporter ends with the worker.
            match tiding {
                Tiding::Outcome(reply, answer) => drop(reply.send(answer)),
                Tiding::Cancel(reply, answer) => drop(reply.send(answer)),
                Tiding::Report(report) => drop(self.parts.reports.send(report)),
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
