//! The disk of a simulation, which may be full, or hang.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::writer::RETRY_INTERVAL;

/// What the processes of one worker share.
#[derive(Debug, Default)]
pub(super) struct SimulatedDisk {
    full: AtomicBool,
    hangs: watch::Sender<bool>,
    /// Orders for the list of held tasks that it refused since the list was last written.
    unlisted: AtomicU32,
    /// Acknowledgements that it refused since the outbox was last written.
    unnoted: AtomicU32,
}

impl SimulatedDisk {
    /// A disk with room.
    pub(super) fn roomy() -> Arc<Self> {
        Arc::default()
    }

    /// From now on there is no room, or there is.
    pub(super) fn fill(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// From now on no write comes back, or those that hang do.
    pub(super) fn hang(&self, hangs: bool) {
        self.hangs.send_replace(hangs);
    }

    /// Whether a write comes back.
    pub(super) fn answers(&self) -> bool {
        !*self.hangs.borrow()
    }

    /// Waits until it does.
    pub(super) async fn answer(&self) {
        // The sender is in our hands.
        let _ = self.hangs.subscribe().wait_for(|hangs| !hangs).await;
    }

    /// Calls `write` as a thread would: after `wait` and once the disk answers, and so on until it is done.
    pub(super) fn retry(
        self: &Arc<Self>,
        mut wait: Duration,
        mut write: impl FnMut() -> bool + Send + 'static,
    ) {
        let disk = Arc::clone(self);
        TaskTracker::new().spawn(async move {
            loop {
                tokio::time::sleep(wait).await;
                disk.answer().await;
                if write() {
                    return;
                }
                wait = RETRY_INTERVAL;
            }
        });
    }

    /// Comes before each write.
    ///
    /// # Errors
    /// It is full.
    pub(super) fn write(&self) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// So many orders for the list of held tasks were refused, or the whole list was written.
    pub(super) fn listed(&self, refused: Option<u32>) {
        match refused {
            Some(orders) => drop(self.unlisted.fetch_add(orders, Ordering::Relaxed)),
            None => self.unlisted.store(0, Ordering::Relaxed),
        }
    }

    /// An acknowledgement was refused, or the whole outbox was written.
    pub(super) fn noted(&self, refused: Option<u32>) {
        match refused {
            Some(acknowledgements) => drop(self.unnoted.fetch_add(acknowledgements, Ordering::Relaxed)),
            None => self.unnoted.store(0, Ordering::Relaxed),
        }
    }

    /// What the outbox on disk does not know to be acknowledged.
    pub(super) fn unnoted(&self) -> u32 {
        self.unnoted.load(Ordering::Relaxed)
    }

    /// What the list on disk does not know.
    pub(super) fn unlisted(&self) -> u32 {
        self.unlisted.load(Ordering::Relaxed)
    }
}
