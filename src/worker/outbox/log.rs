//! The segments of the outbox in order, and which outcomes in them still wait.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::segment::{self, Durability, Entry};

/// Size from which on a new segment is begun.
const SEGMENT_BYTES: u64 = 8 << 20;

/// An outcome that is not acknowledged: its sequence number and its bytes.
pub(super) type Waiting = (u64, Vec<u8>);

/// One file.
#[derive(Debug)]
struct Segment {
    path: PathBuf,
    waiting: u64,
}

/// All segments, the last of which is written.
#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    segments: VecDeque<Segment>,
    /// Number of the first of `segments`.
    first_number: u64,
    file: File,
    end: u64,
    /// Segment number of each waiting outcome.
    index: BTreeMap<u64, u64>,
    next_sequence: u64,
    buffer: Vec<u8>,
    /// Sequence numbers in `buffer` that still have to be synced.
    buffered: Vec<u64>,
}

impl Log {
    /// Reads what is there, sets damaged files aside and begins a new segment.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, Vec<Waiting>)> {
        fs::create_dir_all(folder)?;
        let mut waiting: BTreeMap<u64, (u64, Vec<u8>)> = BTreeMap::new();
        let mut kept: BTreeMap<u64, Segment> = BTreeMap::new();
        let mut next_sequence = 1;
        for (number, path) in numbered_files(folder)? {
            let contents = segment::read(&path)?;
            let torn = contents.file_bytes - contents.whole_bytes;
            if torn > 0 {
                set_aside(&path, &contents, torn)?;
            }
            for entry in contents.entries {
                match entry {
                    Entry::Outcome { sequence, payload } => {
                        next_sequence = next_sequence.max(sequence + 1);
                        waiting.insert(sequence, (number, payload));
                    }
                    Entry::Acknowledged { sequence } => {
                        next_sequence = next_sequence.max(sequence + 1);
                        waiting.remove(&sequence);
                    }
                }
            }
            kept.insert(number, Segment { path, waiting: 0 });
        }
        for (number, _) in waiting.values() {
            if let Some(segment) = kept.get_mut(number) {
                segment.waiting += 1;
            }
        }
        let number = kept.keys().last().map_or(1, |last| last + 1);
        let first_number = kept.keys().next().copied().unwrap_or(number);
        // Numbers without a file stand for files that were deleted by hand: they hold nothing.
        let mut segments: VecDeque<Segment> = (first_number..number)
            .map(|n| kept.remove(&n).unwrap_or_else(|| Segment { path: file_path(folder, n), waiting: 0 }))
            .collect();
        let (segment, file) = create(folder, number)?;
        segments.push_back(segment);
        let index = waiting.iter().map(|(sequence, (number, _))| (*sequence, *number)).collect();
        let mut log = Self {
            folder: folder.to_owned(),
            segments,
            first_number,
            file,
            end: 0,
            index,
            next_sequence,
            buffer: Vec::new(),
            buffered: Vec::new(),
        };
        log.delete_done();
        Ok((log, waiting.into_iter().map(|(sequence, (_, payload))| (sequence, payload)).collect()))
    }

    /// Outcomes that are not acknowledged.
    pub(super) fn pending(&self) -> u64 {
        self.index.len() as u64
    }

    /// Takes an outcome for the next [`Log::flush`] and numbers it.
    pub(super) fn push(&mut self, payload: Vec<u8>) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        segment::encode(&Entry::Outcome { sequence, payload }, &mut self.buffer);
        self.buffered.push(sequence);
        sequence
    }

    /// Takes an acknowledgement for the next [`Log::flush`].
    pub(super) fn acknowledge(&mut self, sequence: u64) {
        if let Some(number) = self.index.remove(&sequence) {
            segment::encode(&Entry::Acknowledged { sequence }, &mut self.buffer);
            if let Some(segment) = self.segment_mut(number) {
                segment.waiting = segment.waiting.saturating_sub(1);
            }
        }
    }

    /// Writes what was taken; outcomes are synced to disk.
    ///
    /// # Errors
    /// Of the file system. Nothing that was taken is lost; the next flush tries again.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.end >= SEGMENT_BYTES {
            let (segment, file) = create(&self.folder, self.current_number() + 1)?;
            self.segments.push_back(segment);
            self.file = file;
            self.end = 0;
        }
        let durability = if self.buffered.is_empty() { Durability::Written } else { Durability::Synced };
        segment::append(&mut self.file, self.end, &self.buffer, durability)?;
        self.end += self.buffer.len() as u64;
        self.buffer.clear();
        let number = self.current_number();
        let synced = std::mem::take(&mut self.buffered);
        if let Some(segment) = self.segments.back_mut() {
            segment.waiting += synced.len() as u64;
        }
        self.index.extend(synced.into_iter().map(|sequence| (sequence, number)));
        self.delete_done();
        Ok(())
    }

    fn current_number(&self) -> u64 {
        self.first_number + self.segments.len() as u64 - 1
    }

    fn segment_mut(&mut self, number: u64) -> Option<&mut Segment> {
        let position = usize::try_from(number.checked_sub(self.first_number)?).ok()?;
        self.segments.get_mut(position)
    }

    /// Deletes segments without a waiting outcome from the front only: acknowledgements stand in later files, and
    /// must outlive what they acknowledge.
    fn delete_done(&mut self) {
        while self.segments.len() > 1 && self.segments.front().is_some_and(|segment| segment.waiting == 0) {
            if let Some(done) = self.segments.pop_front() {
                self.first_number += 1;
                match fs::remove_file(&done.path) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => {
                        tracing::warn!(path = %done.path.display(), %error, "cannot delete a done outbox segment")
                    }
                }
            }
        }
    }
}

fn file_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:012}.log"))
}

fn create(folder: &Path, number: u64) -> io::Result<(Segment, File)> {
    let path = file_path(folder, number);
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
        let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let (Some(number), Some("log")) = (stem, path.extension().and_then(|extension| extension.to_str()))
        {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files)
}

/// Keeps a copy of a file whose tail cannot be read, for a person to look at, and cuts the tail off.
fn set_aside(path: &Path, contents: &segment::Contents, torn_bytes: u64) -> io::Result<()> {
    let copy = path.with_extension("damaged");
    fs::copy(path, &copy)?;
    OpenOptions::new().write(true).open(path)?.set_len(contents.whole_bytes)?;
    tracing::warn!(
        path = %path.display(),
        copy = %copy.display(),
        torn_bytes,
        outcomes = contents.entries.len(),
        "an outbox segment ends in what cannot be read; its tail is cut"
    );
    Ok(())
}
