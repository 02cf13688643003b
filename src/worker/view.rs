//! The state as others see it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::watch;

use super::handle::Published;
use super::outbox::OutboxState;
use super::state::{Admission, Key, Record, Stage, State};
use crate::domain::{Backend, LinkState, Progress, TaskPhase, TaskView, WorkerId, WorkerPhase, WorkerStatus};
use crate::engine::Control;

/// What the driver keeps beside a record, since the state machine has no clock and no channels.
pub(super) struct Seen {
    pub(super) claimed: SystemTime,
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
    /// For a record that appeared now.
    pub(super) fn now() -> Self {
        Self {
            claimed: SystemTime::now(),
            progress: Arc::new(watch::Sender::default()),
            control: None,
            kept: None,
        }
    }
}

/// What never changes about a worker.
pub(super) struct About {
    pub(super) worker_id: WorkerId,
    /// The backend of a task without a wish of its own.
    pub(super) backend: Backend,
    pub(super) started_at: Instant,
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

/// Everything. What the link knows is filled in when somebody reads.
pub(super) fn publish(
    about: &About,
    state: &State,
    seen: &BTreeMap<Key, Seen>,
    outbox: &OutboxState,
) -> Published {
    let tracked = || state.records.iter().filter_map(|(key, record)| Some((record, seen.get(key)?)));
    let reasons: Vec<String> = state.troubles().cloned().collect();
    let phase = if state.admission != Admission::Open {
        WorkerPhase::Draining
    } else if !reasons.is_empty() {
        WorkerPhase::Degraded
    } else if state.records.is_empty() {
        WorkerPhase::Idle
    } else {
        WorkerPhase::Busy
    };
    let status = WorkerStatus {
        worker_id: about.worker_id.clone(),
        phase,
        reasons,
        started_at: about.started_at,
        slots_total: state.slots(),
        slots_busy: u32::try_from(state.records.len()).unwrap_or(u32::MAX),
        slots_polling: state.polled_places,
        tasks: tracked().map(|(record, seen)| task(record, seen)).collect(),
        recent: state.recent().cloned().collect(),
        completed_tasks: state.completed,
        failed_tasks: state.failed,
        link: LinkState::Connecting,
        registered: false,
        last_heartbeat: None,
        backend: about.backend,
        outbox_pending: outbox.pending,
    };
    let running = tracked()
        .filter_map(|(record, seen)| Some((record.identity(), Arc::clone(seen.control.as_ref()?))))
        .collect();
    let renewal_due = state.records.values().filter_map(|record| Some(record.lease?.renewal_due())).min();
    let shortest_lease = state.records.values().filter_map(|record| Some(record.lease?.length())).min();
    Published { status, running, renewal_due, shortest_lease, grace: None }
}
