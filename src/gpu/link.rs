//! The thread that owns one loaded NVML library.
//!
//! It answers one request after the other and ends when nobody can ask any more. When it was given up because a call
//! did not come back, it leaks the library: to unload it under another call would crash, and its destructor panics where
//! nvmlShutdown is missing.

use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::driver::{Driver, Failure, Sample};
use super::events::{Listener, Xid};
use super::{PcieThroughput, failure};

/// What a link tells its keeper.
#[derive(Debug)]
pub(super) enum Told {
    /// The answer to a request.
    Sample(Sample),
    /// The library cannot be used any more; the thread has ended.
    Failed(Failure),
    /// Something happened to a GPU.
    Xid(Xid),
    /// The library is closed, as it was asked to be; the thread has ended.
    Closed,
}

/// How to load the library.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub(super) library: Option<PathBuf>,
    pub(super) pcie: PcieThroughput,
}

/// A thread with its library.
pub(super) struct Link {
    /// None once it is to close.
    ask: Option<Sender<()>>,
    given_up: Arc<AtomicBool>,
}

impl Link {
    /// Starts the thread, which first opens the library. `stuck` counts threads that were given up and have not come
    /// back.
    pub(super) fn start(
        way: &Way,
        stuck: &Arc<AtomicUsize>,
        tell: impl Fn(Told) + Send + Clone + 'static,
    ) -> std::io::Result<Self> {
        let (ask, asked) = channel();
        let given_up = Arc::new(AtomicBool::new(false));
        let (way, stuck, flag) = (way.clone(), Arc::clone(stuck), Arc::clone(&given_up));
        thread::Builder::new().name("nvml".to_owned()).spawn(move || {
            work(&way, &asked, &tell, &flag);
            if flag.load(Ordering::Acquire) {
                stuck.fetch_sub(1, Ordering::AcqRel);
            }
        })?;
        Ok(Self { ask: Some(ask), given_up })
    }

    /// Asks for a sample.
    pub(super) fn ask(&self) {
        // A thread that has ended has told why.
        let _ = self.ask.as_ref().map(|ask| ask.send(()));
    }

    /// Asks it to close the library.
    pub(super) fn close(&mut self) {
        self.ask = None;
    }

    /// Gives up on a thread that is stuck in the library.
    pub(super) fn give_up(self, stuck: &AtomicUsize) {
        stuck.fetch_add(1, Ordering::AcqRel);
        self.given_up.store(true, Ordering::Release);
    }
}

fn work(
    way: &Way,
    asked: &Receiver<()>,
    tell: &(impl Fn(Told) + Send + Clone + 'static),
    given_up: &AtomicBool,
) {
    let mut driver = match Driver::open(way.library.as_deref(), way.pcie) {
        Ok(driver) => ManuallyDrop::new(driver),
        Err(error) => return tell(Told::Failed(Failure::new(failure::opening(&error), &error))),
    };
    let events = tell.clone();
    let mut listener: Option<Listener> = None;
    let mut listened_to = 0;
    while asked.recv().is_ok() {
        match driver.sample() {
            Ok(sample) => {
                // Events are listened for once the GPUs are known to whom they are told. One that comes or is back was not
                // among those that were listened to.
                let answering = sample.devices.len();
                let more = answering > listened_to;
                listened_to = answering;
                tell(Told::Sample(sample));
                if more && !given_up.load(Ordering::Acquire) && listener.take().is_none_or(Listener::end) {
                    let events = events.clone();
                    let tell = move |xid| events(Told::Xid(xid));
                    listener = Some(Listener::start(Arc::clone(&driver.nvml), tell));
                }
            }
            Err(failure) => {
                close(driver, listener, given_up);
                return tell(Told::Failed(failure));
            }
        }
    }
    close(driver, listener, given_up);
    tell(Told::Closed);
}

/// Unloads the library where that is safe, and else leaks it.
fn close(driver: ManuallyDrop<Driver>, listener: Option<Listener>, given_up: &AtomicBool) {
    let ended = listener.is_none_or(Listener::end);
    let has_end = driver.nvml.lib().nvmlShutdown.is_ok();
    if ended && has_end && !given_up.load(Ordering::Acquire) {
        drop(ManuallyDrop::into_inner(driver));
    }
}
