//! A thread that writes to STATE_DIR, and its end: that is waited for, but not for ever, since a disk may hang.

use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long the end of the process waits for what is still to be written. What is not by then is as if the process had
/// been killed.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 120 } else { 1 });

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
