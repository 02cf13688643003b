//! The outbox of a simulation: written on the thread of the caller, in virtual time, to a disk that may be full or hang.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::{Left, Order, Outbox, Writer};
use crate::worker::disk::SimulatedDisk;
use crate::worker::writer::RETRY_INTERVAL;

pub(super) type Shared = Arc<Mutex<Writer>>;

impl Outbox {
    /// As [`Self::open`]; writes on the thread of the caller.
    pub(in crate::worker) fn open_here(
        folder: &Path,
        disk: &Arc<SimulatedDisk>,
    ) -> io::Result<(Self, Vec<Left>)> {
        let (mut writer, _, left) = Self::read(folder)?;
        writer.log.on(disk);
        disk.noted(None);
        let (voice, visits) = (writer.voice.clone(), Arc::clone(&writer.visits));
        let here = Some(Arc::new(Mutex::new(writer)));
        Ok((Self { orders: None, voice, visits, writer: None, here }, left))
    }
}

/// Writes at once, and where the disk hangs or refuses, when and as often as the thread would.
pub(super) fn carry_out(shared: &Shared, order: Order) {
    let mut writer = shared.lock().unwrap();
    let (disk, again) = (Arc::clone(writer.log.disk()), Arc::downgrade(shared));
    let acknowledgements = u32::from(matches!(order, Order::Acknowledge { .. }));
    let waits = writer.visits.under_way().is_some();
    if waits || !disk.answers() {
        // The thread does not come back to its inbox.
        disk.noted(Some(acknowledgements));
        writer.visits.begin();
        writer.backlog.push_back(order);
        if !waits {
            disk.retry(Duration::ZERO, move || write_again(&again));
        }
        return;
    }
    if writer.voice.state.borrow().disk.is_some() {
        disk.noted(Some(acknowledgements));
        return writer.put_off(order);
    }
    writer.take(order);
    if writer.write().is_err() {
        disk.noted(Some(acknowledgements));
        disk.retry(RETRY_INTERVAL, move || write_again(&again));
    }
}

/// Whether all is written, or nobody is left to write it.
fn write_again(shared: &Weak<Mutex<Writer>>) -> bool {
    // The process may have ended meanwhile.
    let Some(shared) = shared.upgrade() else { return true };
    let mut writer = shared.lock().unwrap();
    writer.take_backlog();
    let written = writer.write().is_ok();
    if written {
        writer.log.disk().noted(None);
    }
    written
}
