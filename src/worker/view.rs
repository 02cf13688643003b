//! The state as others see it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::watch;

use super::grace::Grace;
use super::handle::{Published, Pulse};
use super::state::{Admission, Key, Record, Stage, State};
use crate::domain::{
    Backend, LinkState, Progress, TaskOutcome, TaskPhase, TaskView, WorkerId, WorkerPhase, WorkerStatus,
};
use crate::engine::Control;

/// What the driver keeps beside a record, since the state machine has no clock and no channels.
pub(super) struct Seen {
    pub(super) claimed: SystemTime,
    /// When the answer came that brought it.
    pub(super) since: tokio::time::Instant,
    pub(super) progress: Arc<watch::Sender<Progress>>,
    pub(super) control: Option<Arc<Control>>,
    /// Where it is among the tasks that are held on disk.
    pub(super) kept: Option<Kept>,
}

/// One attempt of a task on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) number: u64,
    pub(super) attempt: u32,
}

impl Seen {
    /// For a record that appeared now, of a task that came at `since`.
    pub(super) fn at(since: tokio::time::Instant) -> Self {
        Self {
            claimed: SystemTime::now(),
            since,
            progress: Arc::new(watch::Sender::default()),
            control: None,
            kept: None,
        }
    }
}

/// What is known about a worker when it starts.
pub(super) struct About {
    pub(super) worker_id: WorkerId,
    /// The backend of a task without a wish of its own, until the engine tells of another.
    pub(super) backend: Backend,
    pub(super) started_at: Instant,
}

/// Where the driver shows the state.
pub(super) struct Outwards {
    pub(super) publish: watch::Sender<Published>,
    pub(super) pulse: watch::Sender<Pulse>,
}

impl Outwards {
    /// Shows what a task without a wish of its own gets from now on.
    pub(super) fn gives(&self, backend: Backend) {
        self.publish.send_modify(|published| published.status.backend = backend);
    }

    /// Shows the state as it is now, and how long the end may take, once there is one.
    pub(super) fn show(&self, state: &State, seen: &BTreeMap<Key, Seen>, grace: Option<Grace>) {
        self.publish.send_modify(|published| update(published, state, seen));
        let now = pulse(state, grace);
        self.pulse.send_if_modified(|told| told.quickens(now));
    }
}

/// One record.
pub(super) fn task(record: &Record, seen: &Seen) -> TaskView {
    let phase = match record.stage {
        Stage::Resuming | Stage::Checking | Stage::Ready | Stage::Backoff(_) => TaskPhase::Waiting,
        Stage::Running(_) if record.stopping => TaskPhase::Stopping,
        Stage::Running(_) => TaskPhase::Running,
        Stage::Persisting(_) | Stage::Releasing(_) => TaskPhase::Reporting,
    };
    TaskView {
        identity: record.identity(),
        model: record.task.model.clone(),
        epoch: record.task.epoch,
        phase,
        // Read from the task itself when somebody looks.
        progress: Progress::default(),
        claimed_at: seen.claimed,
        retries: record.retries,
        lease: record.task.lease,
    }
}

/// The worker when nothing has happened yet.
pub(super) fn first(about: &About, state: &State) -> Published {
    let status = WorkerStatus {
        worker_id: about.worker_id.clone(),
        phase: WorkerPhase::Idle,
        reasons: Vec::new(),
        started_at: about.started_at,
        slots_total: state.slots(),
        slots_busy: 0,
        slots_polling: 0,
        tasks: Vec::new(),
        recent: Vec::new(),
        completed_tasks: 0,
        failed_tasks: 0,
        link: LinkState::Connecting,
        registered: false,
        last_heartbeat: None,
        backend: about.backend,
        outbox_pending: 0,
        state_dir_writable: true,
    };
    Published { status, controls: Vec::new() }
}

/// Brings `published` up to date, in its place: this is done after every burst of events. What the link and the outbox
/// know is filled in when somebody reads.
fn update(published: &mut Published, state: &State, seen: &BTreeMap<Key, Seen>) {
    let Published { status, controls } = published;
    status.reasons.clear();
    status.reasons.extend(state.troubles().cloned());
    status.phase = if state.admission != Admission::Open {
        WorkerPhase::Draining
    } else if !status.reasons.is_empty() {
        WorkerPhase::Degraded
    } else if state.records.is_empty() {
        WorkerPhase::Idle
    } else {
        WorkerPhase::Busy
    };
    status.slots_busy = u32::try_from(state.records.len()).unwrap_or(u32::MAX);
    status.slots_polling = state.polled_places;
    status.completed_tasks = state.completed;
    status.failed_tasks = state.failed;
    status.tasks.clear();
    controls.clear();
    for (key, record) in &state.records {
        if let Some(seen) = seen.get(key) {
            status.tasks.push(task(record, seen));
            controls.push(seen.control.clone());
        }
    }
    add_ended(&mut status.recent, state);
}

/// Adds what has ended since, and forgets what the state machine has forgotten.
fn add_ended(shown: &mut Vec<Arc<TaskOutcome>>, state: &State) {
    let last = shown.last();
    let is_new = |outcome: &&Arc<TaskOutcome>| last.is_none_or(|last| !Arc::ptr_eq(last, outcome));
    let new = state.recent().rev().take_while(is_new).count();
    let kept = state.recent().len();
    shown.extend(state.recent().skip(kept.saturating_sub(new)).cloned());
    let gone = shown.len().saturating_sub(kept);
    drop(shown.drain(..gone));
}

/// What the leases that are held, and the end, mean for the heartbeat.
fn pulse(state: &State, grace: Option<Grace>) -> Pulse {
    let leases = || state.records.values().filter_map(|record| record.lease);
    Pulse {
        renewal_due: leases().map(|lease| lease.renewal_due()).min(),
        shortest_lease: leases().map(|lease| lease.length()).min(),
        draining: state.admission != Admission::Open,
        grace,
    }
}
