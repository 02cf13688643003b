//! A thread that means to wake up all the time, and takes note of when the machine did not let it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Between two times that it wakes up.
const TICK: Duration = Duration::from_millis(10);

/// Lateness that every machine has.
const USUAL: Duration = Duration::from_millis(30);

/// Ends with its test.
pub struct Witness {
    /// When it woke up too late, and by how much.
    stalls: Arc<Mutex<Vec<(Instant, Duration)>>>,
    ended: Arc<AtomicBool>,
}

impl Witness {
    /// Begins to look.
    pub fn start() -> Self {
        let (stalls, ended) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        std::thread::spawn({
            let (stalls, ended) = (Arc::clone(&stalls), Arc::clone(&ended));
            move || {
                while !ended.load(Ordering::Relaxed) {
                    let due = Instant::now() + TICK;
                    std::thread::sleep(TICK);
                    let late = due.elapsed();
                    if late > USUAL {
                        stalls.lock().unwrap().push((Instant::now(), late));
                    }
                }
            }
        });
        Self { stalls, ended }
    }

    /// How much of the time between both the machine gave it none.
    pub fn stalled(&self, from: Instant, to: Instant) -> Duration {
        let stalls = self.stalls.lock().unwrap();
        let inside = stalls.iter().filter(|(woke, late)| *woke > from && *woke - *late < to);
        inside.map(|(woke, late)| (*woke).min(to) - (*woke - *late).max(from)).sum()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}
