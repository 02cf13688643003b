//! What the live page is fed with: a history that a beat keeps, and one stream of changes for all who look.
//!
//! ```text
//! WorkerStatus, HostUsage, GPUs --beat--> History --frame (encoded once)--> watch channel --> each client
//!                                            +------whole state-------------------------------> new or late client
//! ```
//!
//! Invariants: the worker never waits for a client, and a client that is slow misses frames and is then given the whole
//! state anew; a frame is encoded once, however many look; all memory is bounded.

mod curve;
mod history;
mod views;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::Sources;
use crate::domain::WorkerStatus;
use history::History;
pub(super) use views::{Job, RunningTask};
use views::{Update, Whole};

/// Time between two frames while somebody looks.
const BEAT: Duration = Duration::from_millis(500);

/// Time between two glances while nobody does.
const QUIET_BEAT: Duration = Duration::from_secs(1);

/// The changes of one beat, ready to be sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Frame {
    tick: u64,
    bytes: Bytes,
}

/// History and stream.
pub(super) struct Live {
    sources: Sources,
    history: Mutex<History>,
    frames: watch::Sender<Frame>,
}

/// One who looks.
pub(super) struct Viewer {
    frames: watch::Receiver<Frame>,
    /// The tick up to which it knows all; None = it knows nothing.
    knows: Option<u64>,
}

impl Live {
    pub(super) fn new(sources: Sources) -> Self {
        let live = Self { sources, history: Mutex::default(), frames: watch::Sender::new(Frame::default()) };
        live.beat();
        live
    }

    /// Keeps the history until `shutdown`.
    pub(super) async fn run(&self, shutdown: CancellationToken) {
        loop {
            let pause = if self.frames.receiver_count() > 0 { BEAT } else { QUIET_BEAT };
            if shutdown.run_until_cancelled(time::sleep(pause)).await.is_none() {
                return;
            }
            self.beat();
        }
    }

    /// Somebody who begins to look.
    pub(super) fn viewer(&self) -> Viewer {
        Viewer { frames: self.frames.subscribe(), knows: None }
    }

    /// What `viewer` has to hear next: the whole state first, then each change. None when there will be none.
    pub(super) async fn next(&self, viewer: &mut Viewer) -> Option<Bytes> {
        loop {
            let Some(knows) = viewer.knows else {
                viewer.frames.borrow_and_update();
                let (tick, bytes) = self.whole();
                viewer.knows = Some(tick);
                return Some(bytes);
            };
            viewer.frames.changed().await.ok()?;
            let frame = viewer.frames.borrow_and_update().clone();
            if frame.tick == knows + 1 {
                viewer.knows = Some(frame.tick);
                return Some(frame.bytes);
            } else if frame.tick > knows {
                viewer.knows = None;
            }
        }
    }

    /// The tasks of `status` with what the history knows of them.
    pub(super) fn tasks(&self, status: &WorkerStatus) -> Vec<RunningTask> {
        let history = self.history();
        status.tasks.iter().map(|task| RunningTask::whole(task, &history)).collect()
    }

    /// The jobs that were seen of late.
    pub(super) fn jobs(&self) -> Vec<Job> {
        let history = self.history();
        history.jobs().into_iter().map(|(id, job)| Job::whole(id, job)).collect()
    }

    fn beat(&self) {
        let status = self.sources.handle.status();
        let (host, gpus) = (self.sources.host.usage(), self.sources.gpu.snapshot());
        let mut history = self.history();
        let ended = history.advance(now_ms(), &status, host, &gpus);
        let tick = history.tick();
        let bytes = if self.frames.receiver_count() > 0 {
            let summary = self.sources.summary(&status);
            encode("update", &Update::new(&history, summary, &status, (&ended, &gpus)))
        } else {
            Bytes::new()
        };
        // Under the lock, so that whoever reads the whole state misses no frame and gets none twice.
        self.frames.send_replace(Frame { tick, bytes });
    }

    fn whole(&self) -> (u64, Bytes) {
        let status = self.sources.handle.status();
        let gpus = self.sources.gpu.snapshot();
        let history = self.history();
        let summary = self.sources.summary(&status);
        let whole = Whole::new(&history, summary, &status, &gpus);
        (history.tick(), encode("state", &whole))
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// One server-sent event.
fn encode(event: &str, data: &impl Serialize) -> Bytes {
    let mut text = format!("event: {event}\ndata: ").into_bytes();
    if let Err(error) = serde_json::to_writer(&mut text, data) {
        // Plain data into memory; were it to happen, the event is left out and the next whole state mends it.
        tracing::error!(%error, "an event of the live page cannot be written");
        return Bytes::new();
    }
    text.extend_from_slice(b"\n\n");
    text.into()
}
