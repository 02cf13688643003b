//! The outbox of a simulation: written on the thread of the caller, in virtual time, to a disk that may be full.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio_util::task::TaskTracker;

use super::{Left, Order, Outbox, RETRY_INTERVAL, Writer};
use crate::worker::disk::SimulatedDisk;

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

/// Writes at once, and where the disk refuses, as often as the thread would.
pub(super) fn carry_out(shared: &Shared, order: Order) {
    let mut writer = shared.lock().unwrap();
    let acknowledgements = u32::from(matches!(order, Order::Acknowledge { .. }));
    if writer.voice.state.borrow().disk.is_some() {
        writer.log.disk().noted(Some(acknowledgements));
        return writer.put_off(order);
    }
    writer.take(order);
    if writer.write().is_ok() {
        return;
    }
    writer.log.disk().noted(Some(acknowledgements));
    let weak = Arc::downgrade(shared);
    TaskTracker::new().spawn(async move {
        loop {
            tokio::time::sleep(RETRY_INTERVAL).await;
            // The process may have ended meanwhile.
            let Some(shared) = weak.upgrade() else { return };
            let mut writer = shared.lock().unwrap();
            while writer.write().is_ok() {
                if writer.backlog.is_empty() {
                    return writer.log.disk().noted(None);
                }
                writer.take_backlog();
            }
        }
    });
}
