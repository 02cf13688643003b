//! Lines on their way to standard error: whoever logs leaves them here at once, and one thread writes them.
//!
//! ```text
//! any thread --line--> waiting lines --all of them--> writer thread --> standard error
//!                 |         (at most 4 MiB)
//!                 +--no room--> dropped, counted, and said once there is room
//! ```
//!
//! Invariant: nobody waits for the reader of standard error but the thread that writes, and the end of the process, for
//! a moment. A pipe that nobody reads costs lines, never a heartbeat.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{IntCounter, Registry};

/// Bytes of lines that wait at most.
const MOST_WAITING_BYTES: usize = 4 << 20;

/// Capacity that an empty queue keeps.
const KEPT_BYTES: usize = 64 << 10;

/// How long the end of the process waits for the last lines to be written.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// Where lines are left to be written.
pub(super) struct Queue {
    lines: Mutex<Lines>,
    filled: Condvar,
    emptied: Condvar,
    dropped: IntCounter,
    most_bytes: usize,
}

#[derive(Default)]
struct Lines {
    waiting: Vec<u8>,
    count: u64,
    /// Whether the writer has lines in hand.
    writing: bool,
    /// Lines that were dropped since that was last said.
    untold: u64,
}

impl Queue {
    /// A queue whose lines a thread of its own writes to `out`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn to(out: impl Write + Send + 'static) -> io::Result<Arc<Self>> {
        Self::bounded(out, MOST_WAITING_BYTES)
    }

    fn bounded(out: impl Write + Send + 'static, most_bytes: usize) -> io::Result<Arc<Self>> {
        let dropped = IntCounter::new(
            "worker_log_lines_dropped_total",
            "Log lines that were dropped because standard error was not read.",
        )
        .map_err(io::Error::other)?;
        let (lines, filled, emptied) = Default::default();
        let queue = Arc::new(Self { lines, filled, emptied, dropped, most_bytes });
        let writer = Arc::clone(&queue);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_all_to(out))?;
        Ok(queue)
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut lines = self.lock();
        if lines.waiting.len() + line.len() > self.most_bytes {
            lines.untold += 1;
            drop(lines);
            return self.dropped.inc();
        }
        lines.waiting.extend_from_slice(line);
        lines.count += 1;
        drop(lines);
        self.filled.notify_one();
    }

    fn write_all_to(&self, mut out: impl Write) {
        let mut batch = Vec::new();
        loop {
            let (count, untold) = self.take(&mut batch);
            if untold > 0 {
                // There is room now, right behind the last line that still had some.
                tracing::warn!(lines = untold, "log lines were dropped: standard error was not read in time");
            }
            if out.write_all(&batch).and_then(|()| out.flush()).is_err() {
                // Closed, most likely, and there is no other place to say so.
                self.dropped.inc_by(count);
            }
            batch.clear();
            batch.shrink_to(KEPT_BYTES);
        }
    }

    /// Waits for lines and moves all of them into the empty `batch`; returns how many they are, and how many were dropped
    /// meanwhile.
    fn take(&self, batch: &mut Vec<u8>) -> (u64, u64) {
        let mut lines = self.lock();
        lines.writing = false;
        if lines.waiting.is_empty() {
            self.emptied.notify_all();
        }
        let mut lines = self
            .filled
            .wait_while(lines, |lines| lines.waiting.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        lines.writing = true;
        std::mem::swap(&mut lines.waiting, batch);
        (std::mem::take(&mut lines.count), std::mem::take(&mut lines.untold))
    }

    /// Waits until all lines are written, but no longer than `patience`.
    fn flush(&self, patience: Duration) {
        let is_busy = |lines: &mut Lines| lines.writing || !lines.waiting.is_empty();
        let flushed = self.emptied.wait_timeout_while(self.lock(), patience, is_busy);
        drop(flushed.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Write for &Queue {
    /// Takes a whole line, or drops it as a whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The last lines: when this is dropped, what was logged is written, unless nobody reads it within a second.
#[must_use = "lines that still wait at the end of the process are lost without it"]
pub struct LogGuard(Arc<Queue>);

impl LogGuard {
    pub(super) fn of(queue: Arc<Queue>) -> Self {
        Self(queue)
    }

    /// Registers `worker_log_lines_dropped_total`.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.0.dropped.clone()))
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.0.flush(FLUSH_PATIENCE);
    }
}

impl std::fmt::Debug for LogGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogGuard").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::time::Instant;

    use super::*;

    /// A reader that reads when it is asked to.
    struct Pipe(SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue(most_bytes: usize) -> (Arc<Queue>, Receiver<Vec<u8>>) {
        let (pipe, reader) = sync_channel(0);
        (Queue::bounded(Pipe(pipe), most_bytes).unwrap(), reader)
    }

    #[test]
    fn what_finds_no_room_is_dropped_as_a_whole_and_counted_and_nobody_waits() {
        let (queue, reader) = queue(10);
        queue.push(b"first\n");
        // In the hands of the writer, which nobody reads.
        while !queue.lock().writing {
            std::thread::yield_now();
        }
        for line in [&b"second\n"[..], b"third\n", b"4\n", b"5\n"] {
            queue.push(line);
        }
        assert_eq!((queue.dropped.get(), queue.lock().untold), (2, 2));
        let began = Instant::now();
        queue.flush(Duration::from_millis(10));
        assert!(began.elapsed() >= Duration::from_millis(10), "nothing was written yet");
        let read = [reader.recv().unwrap(), reader.recv().unwrap()].concat();
        assert_eq!(String::from_utf8(read).unwrap(), "first\nsecond\n4\n");
        queue.flush(Duration::from_secs(120));
        assert_eq!(queue.lock().untold, 0, "it was said");
        queue.push(b"later\n");
        assert_eq!(reader.recv().unwrap(), b"later\n");
    }

    #[test]
    fn the_end_waits_for_the_last_lines_and_a_closed_pipe_costs_only_them() {
        let (queue, reader) = queue(1 << 10);
        let guard = LogGuard::of(Arc::clone(&queue));
        let registry = Registry::new();
        guard.register(&registry).unwrap();
        queue.push(b"the end\n");
        let read = std::thread::spawn(move || reader.recv().unwrap());
        drop(guard);
        assert_eq!(read.join().unwrap(), b"the end\n");
        queue.push(b"nobody\n");
        queue.flush(Duration::from_secs(120));
        let text = String::from_utf8(crate::telemetry::render(&registry).unwrap()).unwrap();
        assert!(text.contains("\nworker_log_lines_dropped_total 1\n"), "{text}");
    }
}
