//! The list of held tasks of a simulation: written on the thread of the caller, in virtual time, to a disk that may be full.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio_util::task::TaskTracker;

use super::{Held, Order, Progress, RETRY_INTERVAL, Writer};
use crate::domain::TaskSpec;
use crate::worker::disk::SimulatedDisk;

pub(super) type Shared = Arc<Mutex<Writer>>;

impl Held {
    /// As [`Self::open`]; writes on the thread of the caller.
    pub(in crate::worker) fn open_here(
        folder: &Path,
        disk: &Arc<SimulatedDisk>,
    ) -> io::Result<(Self, Vec<TaskSpec>)> {
        let (mut writer, _, tasks) = Self::read(folder)?;
        writer.disk = Arc::clone(disk);
        let progress = Progress(writer.worked_off.subscribe());
        let (trouble, visits) = (writer.trouble.clone(), Arc::clone(&writer.visits));
        let here = Some(Arc::new(Mutex::new(writer)));
        let held = Self {
            orders: None,
            burst: Vec::new(),
            handed_over: 0,
            progress,
            trouble,
            visits,
            writer: None,
            here,
            next_number: 1,
            inherited: BTreeMap::new(),
        };
        let held = held.inheriting(&tasks);
        // What the earlier process wrote is still there, whether this one could write it anew or not.
        disk.listed(None);
        Ok((held, tasks))
    }
}

/// Writes at once, and where the disk refuses, as often as the thread would.
pub(super) fn work_off(shared: &Shared, burst: Vec<Order>) {
    let orders = u32::try_from(burst.len()).unwrap();
    let mut writer = shared.lock().unwrap();
    let refused_before = writer.disk.unlisted() > 0;
    if writer.work_off(1, burst).is_ok() {
        return writer.disk.listed(None);
    }
    writer.disk.listed(Some(orders));
    if refused_before {
        return;
    }
    let weak = Arc::downgrade(shared);
    TaskTracker::new().spawn(async move {
        loop {
            tokio::time::sleep(RETRY_INTERVAL).await;
            // The process may have ended meanwhile.
            let Some(shared) = weak.upgrade() else { return };
            let mut writer = shared.lock().unwrap();
            if writer.disk.unlisted() == 0 {
                return;
            }
            if writer.write(&[]).is_ok() {
                return writer.disk.listed(None);
            }
        }
    });
}
