//! The segments of the outbox in order, and which outcomes in them still wait.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::segment::{self, Durability, Entry};
use crate::failpoint;

/// Size from which on a new segment is begun.
const SEGMENT_BYTES: u64 = 8 << 20;

/// Digits of a file's number.
const NUMBER_DIGITS: usize = 12;

/// Capacity that the buffer keeps between two writes.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// An outcome that is not acknowledged: its sequence number and its bytes.
pub(super) type Waiting = (u64, Vec<u8>);

/// One file.
#[derive(Debug)]
struct Segment {
    path: PathBuf,
    waiting: u64,
}

/// Where a waiting outcome is.
#[derive(Debug, Clone, Copy)]
struct Place {
    segment: u64,
    bytes: u64,
}

/// All segments, the last of which is written.
#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    /// By number; never empty.
    segments: BTreeMap<u64, Segment>,
    file: File,
    /// Number of the segment that is written.
    current: u64,
    end: u64,
    waiting: BTreeMap<u64, Place>,
    /// Bytes of what waits.
    waiting_bytes: u64,
    next_sequence: u64,
    buffer: Vec<u8>,
    /// Sequence numbers and sizes in `buffer` that still have to be synced.
    buffered: Vec<(u64, u64)>,
    #[cfg(test)]
    disk: std::sync::Arc<crate::worker::disk::SimulatedDisk>,
}

/// Greatest number of the first record that is left. Numbers count up by one: a greater one is damage, whatever its
/// checksum says, and what follows it would have no number left.
const FIRST_AT_MOST: u64 = u64::MAX >> 1;

/// Farthest that a record is above those before it.
const WIDEST_GAP: u64 = 1 << 32;

impl Log {
    /// Reads what is there, cuts damaged tails and begins a new segment.
    ///
    /// # Errors
    /// When the folder cannot be read or written. A file of it that cannot is left out, and kept for a person to look at.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, Vec<Waiting>)> {
        fs::create_dir_all(folder)?;
        if let Some(parent) = folder.parent() {
            // The folder itself has to survive a power cut, too.
            File::open(parent)?.sync_all()?;
        }
        let mut left: BTreeMap<u64, (u64, Vec<u8>)> = BTreeMap::new();
        let mut segments: BTreeMap<u64, Segment> = BTreeMap::new();
        let mut highest = None;
        let files = numbered_files(folder)?;
        // Beyond what cannot be read, too, or that would be written over.
        let current = files.last().map_or(1, |(last, _)| last.saturating_add(1));
        for (number, path) in files {
            let contents = match segment::read(&path) {
                Ok(contents) => contents,
                Err(error) if is_want(&error) => return Err(error),
                Err(error) => {
                    leave_out(&path, &error);
                    continue;
                }
            };
            cut_torn(&path, &contents);
            for entry in contents.entries {
                let (Entry::Outcome { sequence, .. } | Entry::Acknowledged { sequence }) = entry;
                if sequence > highest.map_or(FIRST_AT_MOST, |highest: u64| highest.saturating_add(WIDEST_GAP))
                {
                    tracing::warn!(path = %path.display(), sequence, "an outbox record has a number that nobody counts to; it is left out");
                    continue;
                }
                highest = highest.max(Some(sequence));
                match entry {
                    Entry::Outcome { payload, .. } => drop(left.insert(sequence, (number, payload))),
                    Entry::Acknowledged { .. } => drop(left.remove(&sequence)),
                }
            }
            segments.insert(number, Segment { path, waiting: 0 });
        }
        let mut waiting = BTreeMap::new();
        for (sequence, (number, payload)) in &left {
            waiting.insert(*sequence, Place { segment: *number, bytes: payload.len() as u64 });
            if let Some(segment) = segments.get_mut(number) {
                segment.waiting += 1;
            }
        }
        let (segment, file) = create(folder, current)?;
        segments.insert(current, segment);
        let mut log = Self {
            waiting_bytes: waiting.values().map(|place: &Place| place.bytes).sum(),
            folder: folder.to_owned(),
            segments,
            file,
            current,
            end: 0,
            waiting,
            next_sequence: highest.map_or(1, |highest| highest.saturating_add(1)),
            buffer: Vec::new(),
            buffered: Vec::new(),
            #[cfg(test)]
            disk: std::sync::Arc::default(),
        };
        log.delete_done();
        Ok((log, left.into_iter().map(|(sequence, (_, payload))| (sequence, payload)).collect()))
    }

    /// Is written to `disk` from now on.
    #[cfg(test)]
    pub(super) fn on(&mut self, disk: &std::sync::Arc<crate::worker::disk::SimulatedDisk>) {
        self.disk = std::sync::Arc::clone(disk);
    }

    /// What it is written to.
    #[cfg(test)]
    pub(super) fn disk(&self) -> &std::sync::Arc<crate::worker::disk::SimulatedDisk> {
        &self.disk
    }

    /// Outcomes that are not acknowledged.
    pub(super) fn pending(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// Bytes of them.
    pub(super) fn pending_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// Takes an outcome for the next [`Log::flush`] and numbers it.
    pub(super) fn push(&mut self, payload: Vec<u8>) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.buffered.push((sequence, payload.len() as u64));
        segment::encode(&Entry::Outcome { sequence, payload }, &mut self.buffer);
        sequence
    }

    /// Takes an acknowledgement for the next [`Log::flush`].
    pub(super) fn acknowledge(&mut self, sequence: u64) {
        if let Some(place) = self.waiting.remove(&sequence) {
            self.waiting_bytes = self.waiting_bytes.saturating_sub(place.bytes);
            segment::encode(&Entry::Acknowledged { sequence }, &mut self.buffer);
            if let Some(segment) = self.segments.get_mut(&place.segment) {
                segment.waiting = segment.waiting.saturating_sub(1);
            }
        }
    }

    /// Writes an outcome that nobody will take into a file of its own, and lets it go here.
    ///
    /// # Errors
    /// Of the file system; the outcome then stays.
    pub(super) fn set_aside(&mut self, sequence: u64, payload: &[u8]) -> io::Result<()> {
        let path = self.folder.join(format!("{}-{sequence}.refused", self.current));
        fs::write(&path, payload)?;
        File::open(&path)?.sync_all()?;
        tracing::error!(path = %path.display(), "an outcome is set aside");
        self.acknowledge(sequence);
        Ok(())
    }

    /// Writes what was taken; outcomes are synced to disk.
    ///
    /// # Errors
    /// Of the file system. Nothing that was taken is lost; the next flush tries again.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        #[cfg(test)]
        self.disk.write()?;
        if self.end >= SEGMENT_BYTES {
            let (segment, file) = create(&self.folder, self.current + 1)?;
            self.current += 1;
            self.segments.insert(self.current, segment);
            self.file = file;
            self.end = 0;
        }
        let durability = if self.buffered.is_empty() { Durability::Written } else { Durability::Synced };
        failpoint::pass("outbox-before-write");
        if durability == Durability::Synced {
            failpoint::hang("outbox-hangs");
        }
        failpoint::tear("outbox-torn", &self.buffer, |half| {
            let _ = segment::append(&self.file, self.end, half, Durability::Synced);
        });
        segment::append(&self.file, self.end, &self.buffer, durability)?;
        failpoint::pass(match durability {
            Durability::Synced => "outbox-written",
            Durability::Written => "outbox-acknowledged",
        });
        self.end += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BUFFER_BYTES);
        if let Some(segment) = self.segments.get_mut(&self.current) {
            segment.waiting += self.buffered.len() as u64;
        }
        let segment = self.current;
        self.waiting_bytes += self.buffered.iter().map(|(_, bytes)| bytes).sum::<u64>();
        self.waiting
            .extend(self.buffered.drain(..).map(|(sequence, bytes)| (sequence, Place { segment, bytes })));
        self.delete_done();
        Ok(())
    }

    /// Deletes segments without a waiting outcome from the front only: acknowledgements stand in later files, and
    /// must outlive what they acknowledge.
    pub(super) fn delete_done(&mut self) {
        while let Some(first) = self.segments.first_entry() {
            if *first.key() == self.current || first.get().waiting > 0 {
                return;
            }
            let done = first.remove();
            if let Err(error) = fs::remove_file(&done.path) {
                tracing::warn!(path = %done.path.display(), %error, "cannot delete a done outbox segment");
            }
        }
    }
}

fn create(folder: &Path, number: u64) -> io::Result<(Segment, File)> {
    let path = folder.join(format!("{number:0NUMBER_DIGITS$}.log"));
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
    // The name of a new file is durable only when its folder is synced.
    File::open(folder)?.sync_all()?;
    Ok((Segment { path, waiting: 0 }, file))
}

/// Segment files by number.
fn numbered_files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let number = stem.filter(|stem| stem.len() == NUMBER_DIGITS).and_then(|stem| stem.parse().ok());
        if let (Some(number), Some("log")) =
            (number, path.extension().and_then(|extension| extension.to_str()))
        {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files)
}

/// Whether it is this process that has too little, and not the file that is bad.
fn is_want(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let wants = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| wants.iter().any(|want| want.raw_os_error() == code))
}

/// Goes on without a file that cannot be read.
fn leave_out(path: &Path, error: &io::Error) {
    let kept = path.with_extension("damaged");
    let renamed = fs::rename(path, &kept);
    let kept = if renamed.is_ok() { &kept } else { path };
    tracing::error!(
        path = %path.display(),
        kept = %kept.display(),
        %error,
        "an outbox segment cannot be read; the outcomes in it are not reported"
    );
}

/// Keeps a copy of a file whose tail cannot be read, for a person to look at, and cuts the tail off. Without the copy
/// it stays as it is: nothing is written behind the tail.
fn cut_torn(path: &Path, contents: &segment::Contents) {
    let torn_bytes = contents.file_bytes - contents.whole_bytes;
    if torn_bytes == 0 {
        return;
    }
    let copy = path.with_extension("damaged");
    let cut = fs::copy(path, &copy).and_then(|_| {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(contents.whole_bytes)
    });
    let outcomes = contents.entries.len();
    match cut {
        Ok(()) => tracing::warn!(
            path = %path.display(),
            copy = %copy.display(),
            torn_bytes,
            outcomes,
            "an outbox segment ends in what cannot be read; its tail is cut"
        ),
        Err(error) => tracing::warn!(
            path = %path.display(),
            copy = %copy.display(),
            torn_bytes,
            outcomes,
            %error,
            "an outbox segment ends in what cannot be read; it is left as it is, since no copy can be kept"
        ),
    }
}
