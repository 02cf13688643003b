//! The list of held tasks of a simulation: written on the thread of the caller, in virtual time, to a disk that may be full or hang.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::{Held, Order, Progress, Writer};
use crate::domain::TaskSpec;
use crate::worker::disk::SimulatedDisk;
use crate::worker::writer::RETRY_INTERVAL;

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

/// Writes at once, and where the disk hangs or refuses, when and as often as the thread would.
pub(super) fn work_off(shared: &Shared, burst: Vec<Order>) {
    let orders = u32::try_from(burst.len()).unwrap();
    let mut writer = shared.lock().unwrap();
    let (disk, again) = (Arc::clone(&writer.disk), Arc::downgrade(shared));
    let waits = writer.visits.under_way().is_some();
    if waits || !disk.answers() {
        // The thread does not come back to its inbox.
        disk.listed(Some(orders));
        writer.visits.begin();
        writer.hung.push(burst);
        if !waits {
            disk.retry(Duration::ZERO, move || write_again(&again));
        }
        return;
    }
    let refused_before = disk.unlisted() > 0;
    if writer.work_off(1, burst).is_ok() {
        return disk.listed(None);
    }
    disk.listed(Some(orders));
    if !refused_before {
        disk.retry(RETRY_INTERVAL, move || write_again(&again));
    }
}

/// Whether nothing is left to write, or nobody to write it.
fn write_again(shared: &Weak<Mutex<Writer>>) -> bool {
    // The process may have ended meanwhile.
    let Some(shared) = shared.upgrade() else { return true };
    let mut writer = shared.lock().unwrap();
    let disk = Arc::clone(&writer.disk);
    if disk.unlisted() == 0 {
        return true;
    }
    let hung = std::mem::take(&mut writer.hung);
    let written = writer.work_off(hung.len() as u64, hung.into_iter().flatten().collect()).is_ok();
    if written {
        disk.listed(None);
    }
    written
}
