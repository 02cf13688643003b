//! Tasks in hand, on disk: what a process that was killed had, the next one goes on with.
//!
//! ```text
//! driver --what a burst kept and let go--> writer thread --one write for what waits--> STATE_DIR/held/tasks.log
//!                                                   |
//!                      larger than 4 MiB: what is still held goes into a new file, which takes its place
//! ```
//!
//! A base orchestrator never hands a task out again, so that without this a killed worker would end no job. With the
//! extended contract the task keeps its attempt, unless the orchestrator has given it away since.
//!
//! Invariants: nothing waits for it but the note that an outcome was acknowledged; a disk that refuses or hangs costs only
//! what the list is for, until it takes all of it again, and no further task is taken meanwhile. It is not synced: it
//! survives the end of the process, not of the machine.

#[cfg(test)]
mod here;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};

use bytes::Bytes;
use tokio::sync::watch;

use super::outbox::segment::{self, Durability, Entry};
use super::writer::{Lookout, RETRY_INTERVAL, Visits, WriterThread};
use crate::domain::TaskSpec;
use crate::{failpoint, wire};

/// Size from which on the file is written anew.
const MOST_BYTES: u64 = 4 << 20;

/// Bursts that share one write at most.
const MOST_BURSTS_IN_ONE_WRITE: usize = 64;

enum Order {
    Keep { number: u64, received: Bytes },
    LetGo { number: u64 },
}

/// The tasks of one worker.
pub(super) struct Held {
    orders: Option<mpsc::Sender<Vec<Order>>>,
    /// Of the burst of events that is being worked off.
    burst: Vec<Order>,
    /// Bursts that were handed to the writer.
    handed_over: u64,
    progress: Progress,
    trouble: watch::Sender<Option<String>>,
    visits: Arc<Visits>,
    writer: Option<WriterThread>,
    /// In a simulation there is no other thread, which would write when it likes.
    #[cfg(test)]
    here: Option<here::Shared>,
    next_number: u64,
    /// Tasks of an earlier process that nobody has spoken of yet.
    inherited: BTreeMap<Bytes, u64>,
}

impl Held {
    /// Opens the file in `folder` and returns the tasks that an earlier process held, oldest first.
    ///
    /// # Errors
    /// When the folder cannot be read or written. Damage is logged and costs what is damaged.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, Vec<TaskSpec>)> {
        let (writer, orders, tasks) = Self::read(folder)?;
        let progress = Progress(writer.worked_off.subscribe());
        let (trouble, visits) = (writer.trouble.clone(), Arc::clone(&writer.visits));
        let writer = WriterThread::start("held", move || writer.run())?;
        let held = Self {
            orders: Some(orders),
            burst: Vec::new(),
            handed_over: 0,
            progress,
            trouble,
            visits,
            writer: Some(writer),
            #[cfg(test)]
            here: None,
            next_number: 1,
            inherited: BTreeMap::new(),
        };
        Ok((held.inheriting(&tasks), tasks))
    }

    fn inheriting(mut self, tasks: &[TaskSpec]) -> Self {
        for task in tasks {
            let number = self.keep(task.received.clone());
            self.inherited.insert(task.received.clone(), number);
        }
        self.write();
        self
    }

    fn read(folder: &Path) -> io::Result<(Writer, mpsc::Sender<Vec<Order>>, Vec<TaskSpec>)> {
        fs::create_dir_all(folder)?;
        let path = folder.join("tasks.log");
        let mut left = BTreeMap::new();
        if path.exists() {
            let contents = segment::read(&path)?;
            if contents.whole_bytes < contents.file_bytes {
                tracing::warn!(path = %path.display(), "the end of the list of held tasks cannot be read");
            }
            for entry in contents.entries {
                match entry {
                    Entry::Outcome { sequence, payload } => drop(left.insert(sequence, payload)),
                    Entry::Acknowledged { sequence } => drop(left.remove(&sequence)),
                }
            }
        }
        let mut tasks: Vec<TaskSpec> = Vec::with_capacity(left.len());
        for payload in left.into_values() {
            match wire::task_from_received(&payload) {
                Ok(task) => {
                    // Kept anew when it came again under a later attempt.
                    tasks.retain(|known| known.identity.task_id != task.identity.task_id);
                    tasks.push(*task);
                }
                Err(error) => tracing::error!(error, "a held task cannot be read"),
            }
        }
        let (orders, inbox) = mpsc::channel();
        let worked_off = watch::Sender::new(0);
        let writer = Writer {
            path,
            file: None,
            end: 0,
            kept: BTreeMap::new(),
            inbox,
            worked_off,
            trouble: watch::Sender::new(None),
            visits: Arc::default(),
            #[cfg(test)]
            disk: Arc::default(),
            #[cfg(test)]
            hung: Vec::new(),
        };
        Ok((writer, orders, tasks))
    }

    /// A task is in hand; returns its number.
    pub(super) fn keep(&mut self, received: Bytes) -> u64 {
        if let Some(number) = self.inherited.remove(&received) {
            return number;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.burst.push(Order::Keep { number, received });
        number
    }

    /// Of what an earlier process held, only `tasks` are still in hand.
    pub(super) fn keep_only(&mut self, tasks: &[TaskSpec]) {
        let gone =
            self.inherited.extract_if(.., |received, _| tasks.iter().all(|task| task.received != *received));
        for number in gone.map(|(_, number)| number).collect::<Vec<_>>() {
            self.let_go(number);
        }
        self.write();
    }

    /// It is no longer.
    pub(super) fn let_go(&mut self, number: u64) {
        self.burst.push(Order::LetGo { number });
    }

    /// Hands what was kept and let go since the last time to the thread that writes.
    pub(super) fn write(&mut self) {
        if self.burst.is_empty() {
            return;
        }
        let burst = std::mem::take(&mut self.burst);
        self.handed_over += 1;
        #[cfg(test)]
        if let Some(writer) = &self.here {
            return here::work_off(writer, burst);
        }
        if let Some(orders) = &self.orders {
            // The writer ends only when this sender is dropped.
            let _ = orders.send(burst);
        }
    }

    /// How many bursts were handed to the thread that writes.
    pub(super) fn handed_over(&self) -> u64 {
        self.handed_over
    }

    /// Follows how many of them it has worked off.
    pub(super) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Follows why the list is not what it should be: no further task should be taken that would not be on it.
    pub(super) fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.subscribe()
    }

    /// Looks whether the thread that writes hangs, and says so in its place.
    pub(super) fn lookout(&self) -> Lookout {
        let told = self.trouble.clone();
        Lookout::new("STATE_DIR/held", Arc::clone(&self.visits), move |visit, trouble| {
            told.send_if_modified(|told| {
                let goes_on = visit.goes_on();
                if goes_on {
                    *told = Some(trouble.to_owned());
                }
                goes_on
            });
        })
    }
}

/// How far the writer is.
#[derive(Debug, Clone)]
pub(super) struct Progress(watch::Receiver<u64>);

impl Progress {
    /// Waits until that many bursts are worked off: written, or refused by the disk. A writer that has ended has done what it
    /// could.
    pub(super) async fn reached(&self, bursts: u64) {
        if *self.0.borrow() < bursts {
            let _ = self.0.clone().wait_for(|worked_off| *worked_off >= bursts).await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.write();
        self.orders = None;
        if let Some(writer) = self.writer.take() {
            writer.end();
        }
    }
}

struct Writer {
    path: PathBuf,
    file: Option<File>,
    end: u64,
    kept: BTreeMap<u64, Bytes>,
    inbox: mpsc::Receiver<Vec<Order>>,
    worked_off: watch::Sender<u64>,
    trouble: watch::Sender<Option<String>>,
    visits: Arc<Visits>,
    #[cfg(test)]
    disk: Arc<super::disk::SimulatedDisk>,
    /// What waits for a disk of a simulation that hangs.
    #[cfg(test)]
    hung: Vec<Vec<Order>>,
}

impl Writer {
    fn run(mut self) {
        let mut refused = Ok(());
        loop {
            let first = match refused {
                Ok(()) => self.inbox.recv().map_err(RecvTimeoutError::from),
                // All of it, as soon as there is room.
                Err(Refused) => self.inbox.recv_timeout(RETRY_INTERVAL),
            };
            refused = match first {
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => self.write(&[]),
                Ok(mut batch) => {
                    let mut bursts = 1;
                    for burst in self.inbox.try_iter().take(MOST_BURSTS_IN_ONE_WRITE) {
                        batch.extend(burst);
                        bursts += 1;
                    }
                    self.work_off(bursts, batch)
                }
            };
        }
    }

    /// Writes a `batch` of so many bursts.
    fn work_off(&mut self, bursts: u64, batch: Vec<Order>) -> Result<(), Refused> {
        self.visits.begin();
        let mut buffer = Vec::new();
        for order in batch {
            match order {
                Order::Keep { number, received } => {
                    segment::encode(&entry(number, &received), &mut buffer);
                    self.kept.insert(number, received);
                }
                Order::LetGo { number } => {
                    failpoint::hang("held-let-go-hangs");
                    if self.kept.remove(&number).is_some() {
                        segment::encode(&Entry::Acknowledged { sequence: number }, &mut buffer);
                    }
                }
            }
        }
        let written = self.write(&buffer);
        self.worked_off.send_modify(|worked_off| *worked_off += bursts);
        written
    }

    /// Writes `buffer`, or all anew where the last write failed, and says how that went.
    fn write(&mut self, buffer: &[u8]) -> Result<(), Refused> {
        self.visits.begin();
        let written = self.append(buffer);
        self.visits.end();
        let trouble = written.as_ref().err().map(|error| {
            // The next one writes all of it anew.
            self.file = None;
            format!("STATE_DIR/held cannot be written: {error}")
        });
        self.trouble.send_if_modified(|told| {
            let changed = *told != trouble;
            if let Some(trouble) = trouble.as_ref().filter(|_| changed) {
                tracing::error!(
                    trouble,
                    "a restart would not go on with what is in hand; no new task is taken"
                );
            }
            *told = trouble;
            changed
        });
        written.map_err(|_| Refused)
    }

    fn append(&mut self, buffer: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        self.disk.write()?;
        let file = match &self.file {
            Some(file) if self.end + (buffer.len() as u64) <= MOST_BYTES => file,
            _ => return self.write_anew(),
        };
        segment::append(file, self.end, buffer, Durability::Written)?;
        self.end += buffer.len() as u64;
        failpoint::pass("held-written");
        Ok(())
    }

    fn write_anew(&mut self) -> io::Result<()> {
        let mut buffer = Vec::new();
        for (number, received) in &self.kept {
            segment::encode(&entry(*number, received), &mut buffer);
        }
        let fresh = self.path.with_extension("new");
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&fresh)?;
        segment::append(&file, 0, &buffer, Durability::Written)?;
        fs::rename(&fresh, &self.path)?;
        self.end = buffer.len() as u64;
        self.file = Some(file);
        failpoint::pass("held-written");
        Ok(())
    }
}

/// The disk did not take it.
struct Refused;

fn entry(number: u64, received: &Bytes) -> Entry {
    Entry::Outcome { sequence: number, payload: received.to_vec() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost::Message as _;

    use super::*;
    use crate::wire::pb;

    fn received(task: &str, attempt: u32) -> Bytes {
        let message = pb::AssignTaskResponse {
            task_id: task.to_owned(),
            job_id: "j".to_owned(),
            model_type: "test".to_owned(),
            batch_end: 100,
            attempt,
            lease_seconds: 30,
            ..Default::default()
        };
        message.encode_to_vec().into()
    }

    fn names(tasks: &[TaskSpec]) -> Vec<(String, u32)> {
        tasks.iter().map(|task| (task.identity.task_id.to_string(), task.identity.attempt)).collect()
    }

    #[test]
    fn what_was_not_let_go_comes_back_under_its_last_attempt() {
        let folder = tempfile::tempdir().unwrap();
        let (mut held, left) = Held::open(folder.path()).unwrap();
        assert!(left.is_empty());
        let numbers = ["a", "b", "c"].map(|task| held.keep(received(task, 1)));
        held.let_go(numbers[1]);
        held.keep(received("a", 2));
        drop(held);
        let expected = [("c".to_owned(), 1), ("a".to_owned(), 2)];
        for _ in 0..2 {
            // And once more, since the first process may be killed, too.
            let (held, left) = Held::open(folder.path()).unwrap();
            assert_eq!(names(&left), expected);
            assert_eq!(left[0].lease.unwrap().as_secs(), 30);
            drop(held);
        }
    }

    #[test]
    fn the_file_stays_small() {
        let folder = tempfile::tempdir().unwrap();
        let (mut held, _) = Held::open(folder.path()).unwrap();
        held.keep(received("stays", 1));
        for _ in 0..60_000 {
            let number = held.keep(received("goes", 1));
            held.let_go(number);
            held.write();
        }
        drop(held);
        let bytes = fs::metadata(folder.path().join("tasks.log")).unwrap().len();
        assert!(bytes <= MOST_BYTES, "{bytes}");
        assert_eq!(names(&Held::open(folder.path()).unwrap().1), [("stays".to_owned(), 1)]);
    }

    #[tokio::test]
    async fn what_a_disk_refused_is_written_as_soon_as_it_takes_it_and_nothing_waits_for_that() {
        let folder = tempfile::tempdir().unwrap();
        let in_the_way = folder.path().join("tasks.new");
        fs::create_dir(&in_the_way).unwrap();
        let (mut held, _) = Held::open(folder.path()).unwrap();
        held.keep(received("a", 1));
        held.write();
        let reached = |held: &Held| {
            let (progress, bursts) = (held.progress(), held.handed_over());
            async move { tokio::time::timeout(Duration::from_secs(120), progress.reached(bursts)).await.unwrap() }
        };
        reached(&held).await;
        let path = folder.path().join("tasks.log");
        assert!(!path.exists());
        fs::remove_dir(&in_the_way).unwrap();
        let limit = std::time::Instant::now() + Duration::from_secs(120);
        while !path.exists() {
            assert!(std::time::Instant::now() < limit, "it is not written");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(names(&Held::open(folder.path()).unwrap().1), [("a".to_owned(), 1)]);
    }

    #[test]
    fn damage_costs_what_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let (mut held, _) = Held::open(folder.path()).unwrap();
        held.keep(received("a", 1));
        held.keep(received("b", 1));
        drop(held);
        let path = folder.path().join("tasks.log");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        assert_eq!(names(&Held::open(folder.path()).unwrap().1), [("a".to_owned(), 1)]);
    }
}
