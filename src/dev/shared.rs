//! The board behind a lock, with the two things that one can wait for: work, and any change at all.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, futures::Notified, watch};

use super::board::Board;

/// The board of a running orchestrator, to look at and to wait on; cheap to clone.
#[derive(Debug, Clone)]
pub struct BoardHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    board: Mutex<Board>,
    changes: watch::Sender<u64>,
    work: Notify,
}

impl BoardHandle {
    pub(super) fn new(board: Board) -> Self {
        let shared = Shared { board: Mutex::new(board), changes: watch::Sender::new(0), work: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Looks at the board. `look` holds its lock: it must not wait.
    pub fn read<R>(&self, look: impl FnOnce(&Board) -> R) -> R {
        look(&self.shared.board.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the board and wakes who waits for that. `change` holds its lock: it must not wait.
    pub fn update<R>(&self, change: impl FnOnce(&mut Board) -> R) -> R {
        let mut board = self.shared.board.lock().unwrap_or_else(PoisonError::into_inner);
        let offered = board.offered();
        let result = change(&mut board);
        // Only new work wakes polls: if an empty poll could wake another one, two would wake each other for ever.
        let more_work = board.offered() != offered;
        drop(board);
        self.shared.changes.send_modify(|version| *version += 1);
        if more_work {
            self.shared.work.notify_waiters();
        }
        result
    }

    /// Waits until `look` finds what it wants. It is called now and after every change.
    pub async fn wait_for<R>(&self, mut look: impl FnMut(&Board) -> Option<R>) -> R {
        let mut changes = self.shared.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(found) = self.read(&mut look) {
                return found;
            }
            if changes.changed().await.is_err() {
                // Not reached: the sender lives as long as this handle.
                std::future::pending::<()>().await;
            }
        }
    }

    /// A future that ends when work is offered after the moment it was enabled.
    pub(super) fn work(&self) -> Notified<'_> {
        self.shared.work.notified()
    }
}
