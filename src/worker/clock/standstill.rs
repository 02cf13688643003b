//! Virtual time, as a process sees it that may stand still for a while.
//!
//! A process that stands still sees no time pass, hears no answer and ends nothing; whoever plays its surroundings asks
//! [`VirtualClock::moving`] before they do any of that. Its timers run on with the runtime, and do nothing that anybody
//! notices.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// The time of one process.
#[derive(Debug)]
pub(in crate::worker) struct VirtualClock {
    start: Instant,
    /// From when until when it stood still last, or does.
    still: watch::Sender<Option<(Instant, Instant)>>,
}

impl VirtualClock {
    /// One that counts from `start`, as those of all processes of a history do.
    pub(in crate::worker) fn since(start: Instant) -> Arc<Self> {
        Arc::new(Self { start, still: watch::Sender::default() })
    }

    /// The process stands still from now on, for `time`.
    pub(in crate::worker) fn stand_still(&self, time: Duration) {
        let now = Instant::now();
        self.still.send_replace(Some((now, now + time)));
    }

    /// The process goes on now, if it does not yet.
    pub(in crate::worker) fn go_on(&self) {
        self.still.send_replace(None);
    }

    fn stands_until(&self) -> Option<(Instant, Instant)> {
        self.still.borrow().filter(|(_, until)| Instant::now() < *until)
    }

    /// Whether it stands still now.
    pub(in crate::worker) fn stands_still(&self) -> bool {
        self.stands_until().is_some()
    }

    /// Waits until it does not.
    pub(in crate::worker) async fn moving(&self) {
        let mut still = self.still.subscribe();
        while let Some((_, until)) = self.stands_until() {
            // Until then, or until it goes on earlier.
            let _ = timeout_at(until, still.changed()).await;
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        let now = self.stands_until().map_or_else(Instant::now, |(from, _)| from);
        now - self.start
    }
}
