//! A thread that writes to STATE_DIR, and its end: that is waited for, but not for ever, since a disk may hang.
//!
//! ```text
//! thread: Visits::begin --write, sync--> Visits::end --says how it went
//!              |
//! Lookout: the same visit under way for ten seconds --says that the disk does not answer
//! ```

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// How long the end of the process waits for what is still to be written. What is not by then is as if the process had
/// been killed.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 120 } else { 1 });

/// Between two tries to write to a disk that refused.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Between two looks at whether a thread is still at the disk.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Looks in a row that find the same visit under way, after which the disk is said to hang. They are counted, and no time is
/// measured: a process that stood still meanwhile has had no look.
const PATIENT_LOOKS: u32 = 10;

/// Visits of one thread to the disk. Odd while one is under way.
#[derive(Debug, Default)]
pub(super) struct Visits(AtomicU64);

impl Visits {
    /// The thread turns to the disk, or is still there. It alone calls this.
    pub(super) fn begin(&self) {
        let number = self.0.load(Ordering::Relaxed);
        self.0.store(number | 1, Ordering::Release);
    }

    /// The disk has answered. The thread alone calls this, before it says what the answer was.
    pub(super) fn end(&self) {
        let number = self.0.load(Ordering::Relaxed);
        self.0.store(number.wrapping_add(number & 1), Ordering::Release);
    }

    /// The one that is under way.
    pub(super) fn under_way(&self) -> Option<Visit<'_>> {
        let number = self.0.load(Ordering::Acquire);
        (number & 1 == 1).then_some(Visit { visits: self, number })
    }
}

/// A visit that was under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visit<'a> {
    visits: &'a Visits,
    number: u64,
}

impl Visit<'_> {
    /// Whether it still is. Asked under the lock of what is said, so that the thread has the last word.
    pub(super) fn goes_on(&self) -> bool {
        self.visits.0.load(Ordering::Acquire) == self.number
    }
}

/// Passes on what is wrong, if the visit still goes on.
type Say = Box<dyn Fn(Visit<'_>, &str) + Send>;

/// Looks from outside at a thread that may hang.
pub(super) struct Lookout {
    what: &'static str,
    visits: Arc<Visits>,
    say: Say,
    /// Number of the visit that was under way, and at how many looks.
    seen: Option<(u64, u32)>,
}

impl Lookout {
    /// For the thread of `visits`, which writes `what`: `say` passes on what is wrong if the visit still goes on.
    pub(super) fn new(
        what: &'static str,
        visits: Arc<Visits>,
        say: impl Fn(Visit<'_>, &str) + Send + 'static,
    ) -> Self {
        Self { what, visits, say: Box::new(say), seen: None }
    }

    fn look(&mut self) {
        let Self { what, visits, .. } = self;
        let (now, before) = (visits.under_way(), self.seen.take());
        let same = before.filter(|(number, _)| now.is_some_and(|visit| visit.number == *number));
        if same.is_none() && before.is_some_and(|(_, looks)| looks >= PATIENT_LOOKS) {
            tracing::info!("{what} answers again");
        }
        let Some(visit) = now else { return };
        let looks = same.map_or(0, |(_, looks)| looks).saturating_add(1);
        self.seen = Some((visit.number, looks));
        if looks == PATIENT_LOOKS {
            let seconds = (LOOK_INTERVAL * PATIENT_LOOKS).as_secs();
            let trouble = format!("{what} does not answer: the disk has been at one write for {seconds} s");
            tracing::error!("no new task is taken: {trouble}");
            (self.say)(visit, &trouble);
        }
    }
}

/// All of them look each second, for ever.
pub(super) async fn watch(mut lookouts: [Lookout; 2]) {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        lookouts.iter_mut().for_each(Lookout::look);
    }
}

/// The thread.
pub(super) struct WriterThread {
    name: &'static str,
    /// Closed when it has ended, however it did.
    ended: Mutex<mpsc::Receiver<Infallible>>,
}

impl WriterThread {
    /// Starts `run` as the thread `name`. It has to end by itself once nobody can give it orders any more.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(name: &'static str, run: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (ends, ended) = mpsc::channel();
        let run = move || {
            let _ends = ends;
            run();
        };
        std::thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Self { name, ended: Mutex::new(ended) })
    }

    /// Waits for its end; one whose disk does not answer is left behind.
    pub(super) fn end(self) {
        self.end_within(PATIENCE);
    }

    fn end_within(self, patience: Duration) -> bool {
        let ended = self.ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        let ended = ended.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected);
        if !ended {
            tracing::error!(
                thread = self.name,
                "the disk of STATE_DIR does not answer; the worker ends without what still has to be written"
            );
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visit_that_does_not_end_is_told_once_and_the_thread_has_the_last_word() {
        let visits = Arc::<Visits>::default();
        let (tell, told) = mpsc::channel();
        let mut lookout = Lookout::new("STATE_DIR/it", Arc::clone(&visits), move |visit, trouble| {
            tell.send((visit.goes_on(), trouble.to_owned())).unwrap();
        });
        for _ in 0..PATIENT_LOOKS {
            // One after the other is a busy disk and not one that hangs.
            visits.begin();
            lookout.look();
            visits.end();
        }
        visits.begin();
        for _ in 0..PATIENT_LOOKS - 1 {
            visits.begin();
            lookout.look();
        }
        assert!(told.try_recv().is_err());
        for _ in 0..PATIENT_LOOKS {
            lookout.look();
        }
        let (goes_on, trouble) = told.try_recv().unwrap();
        assert!(goes_on && trouble.contains("STATE_DIR/it does not answer"), "{trouble}");
        assert!(told.try_recv().is_err(), "it is told once");
        let visit = visits.under_way().unwrap();
        visits.end();
        assert!(!visit.goes_on() && visits.under_way().is_none());
        visits.begin();
        assert!(!visit.goes_on(), "another visit is another one");
    }

    #[test]
    fn the_end_of_a_thread_is_waited_for_unless_it_hangs() {
        let (orders, inbox) = mpsc::channel::<()>();
        let hangs = WriterThread::start("hangs", move || assert!(inbox.recv().is_err())).unwrap();
        assert!(!hangs.end_within(Duration::from_millis(10)));
        drop(orders);
        let ends = WriterThread::start("ends", || {}).unwrap();
        assert!(ends.end_within(Duration::from_secs(120)));
        // So is one that does not come to its end in order.
        let panics = WriterThread::start("panics", || panic!("as it is meant to")).unwrap();
        assert!(panics.end_within(Duration::from_secs(120)));
    }
}
