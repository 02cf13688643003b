//! Xid events: errors that the driver tells of by itself, waited for on a thread of their own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{EventSet, Nvml};

use super::raw;

/// How long one wait lasts; the thread ends no later after it is told to.
const WAIT: Duration = Duration::from_millis(250);

/// An Xid error of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Xid {
    pub(super) uuid: String,
    pub(super) number: u64,
}

/// The thread; it ends with this value, or when the driver goes away.
pub(super) struct Listener {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens for events of the GPUs that `nvml` lists now.
    pub(super) fn start(nvml: Arc<Nvml>, tell: impl Fn(Xid) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || {
            if let Err(error) = listen(&nvml, &stopped, &tell) {
                tracing::debug!(%error, "no Xid events are heard");
            }
        };
        let thread = thread::Builder::new().name("nvml-events".to_owned()).spawn(run);
        if let Err(error) = &thread {
            tracing::warn!(%error, "no thread could be started to listen for Xid errors");
        }
        Self { stop, thread: thread.ok() }
    }

    /// Ends the thread; true when it has ended, so that nothing of it uses the library any more.
    pub(super) fn end(mut self) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().is_none_or(|thread| thread.join().is_ok())
    }
}

fn listen(nvml: &Nvml, stop: &AtomicBool, tell: &dyn Fn(Xid)) -> Result<(), NvmlError> {
    let Some((set, names)) = register(nvml)? else { return Ok(()) };
    while !stop.load(Ordering::Relaxed) {
        let milliseconds = u32::try_from(WAIT.as_millis()).unwrap_or(u32::MAX);
        match set.wait(milliseconds) {
            Ok(event) => {
                let number = match event.event_data {
                    Some(XidError::Value(number)) => number,
                    Some(XidError::Unknown) => 0,
                    None => continue,
                };
                // A GPU that fell off the bus does not tell its name any more.
                if let Some(uuid) = names.get(&raw::handle(&event.device)) {
                    tell(Xid { uuid: uuid.clone(), number });
                }
            }
            Err(NvmlError::Timeout) => {}
            Err(error @ (NvmlError::Uninitialized | NvmlError::DriverNotLoaded)) => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "waiting for Xid errors failed");
                thread::sleep(WAIT);
            }
        }
    }
    Ok(())
}

/// UUID of each handle.
type Names = HashMap<usize, String>;

/// A set with the Xid events of all GPUs that have such events; None where none has.
fn register(nvml: &Nvml) -> Result<Option<(EventSet<'_>, Names)>, NvmlError> {
    let mut with: Vec<u32> = (0..nvml.device_count()?).collect();
    // A set is given up when a GPU does not want into it, so that it is made anew without that one.
    while !with.is_empty() {
        match together(nvml, &with)? {
            Ok(set) => return Ok(Some(set)),
            Err(unable) => with.retain(|index| *index != unable),
        }
    }
    Ok(None)
}

/// A set with the GPUs at `indices`, or the index that cannot be in one.
fn together<'a>(nvml: &'a Nvml, indices: &[u32]) -> Result<Result<(EventSet<'a>, Names), u32>, NvmlError> {
    let mut set = nvml.create_event_set()?;
    let mut names = Names::new();
    for index in indices {
        let Ok(device) = nvml.device_by_index(*index) else { return Ok(Err(*index)) };
        let Ok(uuid) = device.uuid() else { return Ok(Err(*index)) };
        names.insert(raw::handle(&device), uuid);
        set = match device.register_events(EventTypes::CRITICAL_XID_ERROR, set) {
            Ok(set) => set,
            Err(_) => return Ok(Err(*index)),
        };
    }
    Ok(Ok((set, names)))
}
