//! Outcomes on disk: each is there before it is reported, and goes when it is acknowledged.
//!
//! ```text
//! driver --append--> writer thread --one fdatasync for what waits--> 000001.log 000002.log ...
//!                        |    ^                                         (deleted from the front, when all in
//!                        v    +--acknowledge-- reporter                  a file is acknowledged)
//!                     stored --> driver (slot free) and reporter
//! ```
//!
//! Invariants: `stored` is called after the data is on disk, in the order of the appends; a torn tail or a damaged file
//! costs what is damaged and never the start; a disk that is full or hangs is waited for, and said.
//!
//! An acknowledgement is written without a sync of its own: one lost to a power cut means one more report, which
//! the orchestrator counts once (extended contract).

#[cfg(test)]
mod here;
mod log;
pub(super) mod segment;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};

use tokio::sync::watch;

use super::writer::{Lookout, RETRY_INTERVAL, Visit, Visits, WriterThread};
use crate::domain::TaskOutcome;
use crate::wire;
use log::Log;

/// Outcomes that share one sync at most.
const MOST_IN_ONE_SYNC: usize = 1024;

/// Outcomes that may wait for acknowledgement before no further task is taken.
const MOST_PENDING: u64 = 10_000;

/// Bytes that they may take; they are in memory too.
const MOST_PENDING_BYTES: u64 = 512 << 20;

/// Called with the sequence number of an outcome once it is on disk.
pub(super) type Stored = Box<dyn FnOnce(u64) + Send>;

enum Order {
    Append { outcome: Arc<TaskOutcome>, stored: Stored },
    Acknowledge { sequence: u64 },
    SetAside { sequence: u64, outcome: Arc<TaskOutcome> },
}

/// What the outbox says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OutboxState {
    /// Outcomes on disk that are not acknowledged.
    pub(super) pending: u64,
    /// Bytes of them.
    pub(super) pending_bytes: u64,
    /// What the disk said when it last refused, while it does.
    pub(super) disk: Option<String>,
}

impl OutboxState {
    /// Why no further task should be taken.
    pub(super) fn trouble(&self) -> Option<String> {
        let full = self.pending > MOST_PENDING || self.pending_bytes > MOST_PENDING_BYTES;
        let backlog = || {
            let pending = self.pending;
            format!(
                "{pending} outcomes wait for the orchestrator's acknowledgement; no task is taken until it answers"
            )
        };
        self.disk.clone().or_else(|| full.then(backlog))
    }
}

/// The outbox of one worker.
pub(super) struct Outbox {
    orders: Option<mpsc::Sender<Order>>,
    voice: Voice,
    visits: Arc<Visits>,
    writer: Option<WriterThread>,
    /// In a simulation there is no other thread, which would write when it likes.
    #[cfg(test)]
    here: Option<here::Shared>,
}

/// An outcome that an earlier process left.
pub(super) type Left = (u64, Arc<TaskOutcome>);

impl Outbox {
    /// Opens the outbox in `folder` and returns what was left there, in order.
    ///
    /// # Errors
    /// When the folder cannot be read or written. Damage inside of it is logged and set aside.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, Vec<Left>)> {
        let (writer, orders, left) = Self::read(folder)?;
        let (voice, visits) = (writer.voice.clone(), Arc::clone(&writer.visits));
        let writer = WriterThread::start("outbox", move || writer.run())?;
        let outbox = Self {
            orders: Some(orders),
            voice,
            visits,
            writer: Some(writer),
            #[cfg(test)]
            here: None,
        };
        Ok((outbox, left))
    }

    fn read(folder: &Path) -> io::Result<(Writer, mpsc::Sender<Order>, Vec<Left>)> {
        let (mut log, entries) = Log::open(folder)?;
        let mut left = Vec::with_capacity(entries.len());
        for (sequence, payload) in entries {
            match wire::decode_outcome(&payload) {
                Ok(outcome) => left.push((sequence, Arc::new(outcome))),
                Err(error) => {
                    tracing::error!(sequence, error, "an outcome cannot be read");
                    set_aside(&mut log, sequence, &payload);
                }
            }
        }
        let (orders, inbox) = mpsc::channel();
        let state = state_of(&log, None);
        let voice = Voice { trouble: watch::Sender::new(state.trouble()), state: watch::Sender::new(state) };
        let (taken, backlog) = (Vec::new(), VecDeque::new());
        Ok((Writer { log, voice, visits: Arc::default(), inbox, taken, backlog }, orders, left))
    }

    /// Puts `outcome` on disk; `stored` is called when it is there. Returns at once.
    pub(super) fn append(&self, outcome: Arc<TaskOutcome>, stored: Stored) {
        self.order(Order::Append { outcome, stored });
    }

    /// The orchestrator has it: it may go.
    pub(super) fn acknowledge(&self, sequence: u64) {
        self.order(Order::Acknowledge { sequence });
    }

    /// The orchestrator will never take it: it goes into a file of its own, for a person to look at.
    pub(super) fn set_aside(&self, sequence: u64, outcome: Arc<TaskOutcome>) {
        self.order(Order::SetAside { sequence, outcome });
    }

    /// Follows what the outbox says of itself.
    pub(super) fn state(&self) -> watch::Receiver<OutboxState> {
        self.voice.state.subscribe()
    }

    /// Follows why no further task should be taken: that changes seldom, and what waits changes with each task.
    pub(super) fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.voice.trouble.subscribe()
    }

    /// Looks whether the thread that writes hangs, and says so in its place.
    pub(super) fn lookout(&self) -> Lookout {
        let voice = self.voice.clone();
        Lookout::new("STATE_DIR/outbox", Arc::clone(&self.visits), move |visit, trouble| {
            voice.disk_hangs(visit, trouble);
        })
    }

    fn order(&self, order: Order) {
        #[cfg(test)]
        if let Some(writer) = &self.here {
            return here::carry_out(writer, order);
        }
        if let Some(orders) = &self.orders {
            // The writer ends only when this sender is dropped.
            let _ = orders.send(order);
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(writer) = self.writer.take() {
            writer.end();
        }
    }
}

/// Says how the outbox fares.
#[derive(Debug, Clone)]
struct Voice {
    state: watch::Sender<OutboxState>,
    trouble: watch::Sender<Option<String>>,
}

impl Voice {
    fn say(&self, now: OutboxState) {
        let trouble = now.trouble();
        self.state.send_if_modified(|state| replace(state, now));
        self.trouble.send_if_modified(|told| replace(told, trouble));
    }

    /// In the place of the thread, which is at the disk; when it comes back it says itself how that went.
    fn disk_hangs(&self, visit: Visit<'_>, trouble: &str) {
        let trouble = || Some(trouble.to_owned());
        self.state.send_if_modified(|state| visit.goes_on() && replace(&mut state.disk, trouble()));
        self.trouble.send_if_modified(|told| visit.goes_on() && replace(told, trouble()));
    }
}

/// Puts `now` in the place of `told`; whether that is a change.
fn replace<T: PartialEq>(told: &mut T, now: T) -> bool {
    let changed = *told != now;
    *told = now;
    changed
}

/// The thread that writes.
struct Writer {
    log: Log,
    voice: Voice,
    visits: Arc<Visits>,
    inbox: mpsc::Receiver<Order>,
    /// Outcomes that the next write puts on disk.
    taken: Vec<(u64, Stored)>,
    /// What came in while the disk could not be written.
    backlog: VecDeque<Order>,
}

impl Writer {
    fn run(mut self) {
        while let Some(first) = self.backlog.pop_front().or_else(|| self.inbox.recv().ok()) {
            self.visits.begin();
            self.take(first);
            self.take_backlog();
            for _ in 0..MOST_IN_ONE_SYNC {
                let Ok(order) = self.inbox.try_recv() else { break };
                self.take(order);
            }
            if self.write_at_last() == Flushed::GaveUp {
                let lost = self.taken.len();
                tracing::error!("the worker ends with {lost} outcomes that could not be written");
                return;
            }
        }
    }

    /// Takes `order` for the next write.
    fn take(&mut self, order: Order) {
        match order {
            Order::Append { outcome, stored } => {
                let sequence = self.log.push(wire::encode_outcome(&outcome));
                self.taken.push((sequence, stored));
            }
            Order::Acknowledge { sequence } => self.log.acknowledge(sequence),
            Order::SetAside { sequence, outcome } => {
                set_aside(&mut self.log, sequence, &wire::encode_outcome(&outcome));
            }
        }
    }

    fn take_backlog(&mut self) {
        while let Some(order) = self.backlog.pop_front() {
            self.take(order);
        }
    }

    /// Writes what was taken, and tells whom it concerns.
    fn write(&mut self) -> Result<(), Refused> {
        self.visits.begin();
        let flushed = self.log.flush();
        self.visits.end();
        if let Err(error) = flushed {
            let trouble = format!("STATE_DIR/outbox cannot be written: {error}");
            if self.voice.state.borrow().disk.as_ref() != Some(&trouble) {
                tracing::error!(trouble, "outcomes wait in memory; no new task is taken");
                self.voice.say(state_of(&self.log, Some(trouble)));
            }
            return Err(Refused);
        }
        self.voice.say(state_of(&self.log, None));
        for (sequence, stored) in self.taken.drain(..) {
            stored(sequence);
        }
        Ok(())
    }

    /// Takes `order` while the disk refuses.
    fn put_off(&mut self, order: Order) {
        match order {
            // What is acknowledged meanwhile makes room, perhaps on the very disk that has none.
            Order::Acknowledge { sequence } => {
                self.visits.begin();
                self.log.acknowledge(sequence);
                self.log.delete_done();
                self.visits.end();
            }
            order => self.backlog.push_back(order),
        }
    }

    /// Writes until it succeeds: an outcome is worth waiting for a disk that has room again.
    fn write_at_last(&mut self) -> Flushed {
        while self.write().is_err() {
            match self.inbox.recv_timeout(RETRY_INTERVAL) {
                Ok(order) => self.put_off(order),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                // Nobody waits any longer than for this.
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return if self.write().is_ok() { Flushed::Whole } else { Flushed::GaveUp };
                }
            }
        }
        Flushed::Whole
    }
}

/// Into a file of its own; where the disk does not take that, it stays for the next start.
fn set_aside(log: &mut Log, sequence: u64, payload: &[u8]) {
    if let Err(error) = log.set_aside(sequence, payload) {
        tracing::error!(sequence, %error, "an outcome cannot be set aside; it stays in the outbox");
    }
}

fn state_of(log: &Log, disk: Option<String>) -> OutboxState {
    OutboxState { pending: log.pending(), pending_bytes: log.pending_bytes(), disk }
}

/// The disk did not take it.
struct Refused;

/// Whether everything is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flushed {
    Whole,
    /// The worker ended while the disk could not be written.
    GaveUp,
}
