//! What was fetched, on disk: shared by jobs and processes, checked with its host before each use, evicted by size.
//!
//! ```text
//! KEY.lock     held by whoever fetches or evicts KEY (the digest of the URL)
//! KEY.json     validators, size and digest of the content
//! KEY-DIGEST   the content; a shared lock is held by whoever reads it
//! KEY.new      a download on its way, locked by whoever writes it
//! ```
//!
//! Invariants: a file under its final name is whole (written beside it, synced, renamed; the entry after the content);
//! nothing with a lock on it is removed. All locks are advisory ones of the open files (flock), so those of a process
//! that died are gone with it.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::error::{DataError, RemoteProblem};
use super::super::{Check, Config};
use super::Cache;
use super::http::{Answer, Download, Validators, failed};
use super::location::Location;

/// Time between two tries to get a lock that another one holds.
const LOCK_EVERY: Duration = Duration::from_millis(50);

/// Hexadecimal digits of a digest in a name.
const NAME_DIGITS: usize = 32;

/// What is known of a content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    etag: Option<String>,
    last_modified: Option<String>,
    bytes: u64,
    sha256: String,
}

/// The file with what is at `location` now; it stays readable however long it is open.
///
/// # Errors
/// It cannot be fetched, it is larger than `config.max_bytes`, the folder cannot be used, or `check` says to stop.
pub(super) fn fetch(location: &Location, config: &Config, check: Check<'_>) -> Result<File, DataError> {
    let cache = &config.cache;
    let unusable = |error: io::Error| failed(location, RemoteProblem::Cache(error));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&cache.folder).map_err(unusable)?;
    let slot = Slot { folder: &cache.folder, key: digits(&Sha256::digest(location.identity())) };
    let lock = slot.lock(check, location)?;
    let known = slot.entry().filter(|entry| slot.open(entry).is_ok());
    let validators = known.as_ref().map(Entry::validators).unwrap_or_default();
    let mut download = Download::begin(location, validators, &config.remote, check)?;
    let file = match (download.answer()?, known) {
        (Answer::NotModified, Some(entry)) => slot.open(&entry).map_err(unusable)?,
        (Answer::NotModified, None) => {
            let what = "the host says that nothing has changed, and nothing was there before";
            return Err(failed(location, RemoteProblem::Failed(what.to_owned())));
        }
        (Answer::Content { validators, length }, known) => {
            let too_large =
                || DataError::TooLarge { path: location.to_string(), limit: config.max_bytes, unit: "bytes" };
            if length.is_some_and(|length| length > config.max_bytes) {
                return Err(too_large());
            }
            evict(cache, length.unwrap_or(0));
            let mut new = slot.begin().map_err(unusable)?;
            while let Some(piece) = download.piece()? {
                if new.bytes + piece.len() as u64 > config.max_bytes {
                    return Err(too_large());
                }
                new.write(&piece).map_err(unusable)?;
            }
            if length.is_some_and(|length| length != new.bytes) {
                return Err(failed(location, RemoteProblem::Failed("it ended early".to_owned())));
            }
            let entry = new.finish(validators).map_err(unusable)?;
            if let Some(old) = known.filter(|old| old.sha256 != entry.sha256) {
                // Who reads it still has it open; if it cannot be removed now, eviction will.
                drop(fs::remove_file(slot.content(&old)));
            }
            slot.open(&entry).map_err(unusable)?
        }
    };
    // When it was used last. Without the right to say so it is just evicted earlier.
    drop(file.set_modified(SystemTime::now()));
    drop(lock);
    evict(cache, 0);
    Ok(file)
}

impl Entry {
    fn validators(&self) -> Validators {
        Validators { etag: self.etag.clone(), last_modified: self.last_modified.clone() }
    }
}

/// The place of one URL.
struct Slot<'a> {
    folder: &'a Path,
    key: String,
}

impl Slot<'_> {
    fn path(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", self.key))
    }

    fn content(&self, entry: &Entry) -> PathBuf {
        let digest = entry.sha256.get(..NAME_DIGITS).unwrap_or(&entry.sha256);
        self.folder.join(format!("{}-{digest}", self.key))
    }

    /// Waits until nobody else fetches it.
    fn lock(&self, check: Check<'_>, location: &Location) -> Result<File, DataError> {
        loop {
            check()?;
            match self.try_lock() {
                Ok(Some(lock)) => return Ok(lock),
                Ok(None) => thread::sleep(LOCK_EVERY),
                Err(error) => return Err(failed(location, RemoteProblem::Cache(error))),
            }
        }
    }

    fn try_lock(&self) -> io::Result<Option<File>> {
        let path = self.path("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        if !try_flock(&file, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(None);
        }
        // Eviction may have removed it between the opening and the locking.
        let same = fs::metadata(&path).is_ok_and(|named| {
            file.metadata().is_ok_and(|opened| (opened.dev(), opened.ino()) == (named.dev(), named.ino()))
        });
        Ok(same.then_some(file))
    }

    fn entry(&self) -> Option<Entry> {
        let entry: Entry = serde_json::from_slice(&fs::read(self.path("json")).ok()?).ok()?;
        // It becomes part of a name.
        let hexadecimal =
            entry.sha256.len() == 64 && entry.sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        hexadecimal.then_some(entry)
    }

    /// Opens a content for reading, if it is as large as it was.
    fn open(&self, entry: &Entry) -> io::Result<File> {
        let file = File::open(self.content(entry))?;
        if file.metadata()?.len() != entry.bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not as large as it was"));
        }
        flock(&file, FlockOperation::NonBlockingLockShared)?;
        Ok(file)
    }

    fn begin(&self) -> io::Result<New<'_>> {
        let path = self.path("new");
        // One that was left behind by a process that died: the lock of the slot is ours.
        drop(fs::remove_file(&path));
        let file = OpenOptions::new().create_new(true).write(true).open(&path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(New { slot: self, file, digest: Sha256::new(), bytes: 0, path: Some(path) })
    }
}

/// A download on its way; removed unless it is finished.
struct New<'a> {
    slot: &'a Slot<'a>,
    file: File,
    digest: Sha256,
    bytes: u64,
    path: Option<PathBuf>,
}

impl New<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_all(piece)?;
        self.digest.update(piece);
        self.bytes += piece.len() as u64;
        Ok(())
    }

    fn finish(mut self, validators: Validators) -> io::Result<Entry> {
        let Validators { etag, last_modified } = validators;
        let digest = std::mem::take(&mut self.digest).finalize();
        let entry = Entry { etag, last_modified, bytes: self.bytes, sha256: all_digits(&digest) };
        self.file.sync_all()?;
        if let Some(path) = &self.path {
            fs::rename(path, self.slot.content(&entry))?;
        }
        let path = self.slot.path("new");
        self.path = Some(path.clone());
        let mut file = File::create(&path)?;
        file.write_all(&serde_json::to_vec(&entry)?)?;
        file.sync_all()?;
        fs::rename(&path, self.slot.path("json"))?;
        self.path = None;
        File::open(self.slot.folder)?.sync_all()?;
        Ok(entry)
    }
}

impl Drop for New<'_> {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            drop(fs::remove_file(path));
        }
    }
}

/// Whether a lock could be had at once.
fn try_flock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn digits(digest: &[u8]) -> String {
    let mut digits = all_digits(digest);
    digits.truncate(NAME_DIGITS);
    digits
}

fn all_digits(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut digits, byte| {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// A content in the folder.
struct Kept {
    path: PathBuf,
    key: String,
    bytes: u64,
    used: SystemTime,
}

/// Removes what was used least recently, and what nobody knows, until `more` bytes have room. What cannot be looked at
/// or removed stays: a cache that is too large harms less than a job that fails.
fn evict(cache: &Cache, more: u64) {
    let Ok(entries) = fs::read_dir(&cache.folder) else { return };
    let mut kept = Vec::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let Some(name) = path.file_name().and_then(OsStr::to_str) else { continue };
        if let Some(key) = name.strip_suffix(".new") {
            let left_behind = File::open(&path).is_ok_and(|file| {
                try_flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap_or(false)
            });
            // Between its creation and its lock it belongs to whoever has the slot.
            let slot = Slot { folder: &cache.folder, key: key.to_owned() };
            if left_behind && slot.try_lock().is_ok_and(|lock| lock.is_some()) {
                drop(fs::remove_file(&path));
            }
        } else if let Some((key, _)) = name.split_once('-')
            && let Ok(metadata) = fs::metadata(&path)
        {
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            kept.push(Kept { key: key.to_owned(), bytes: metadata.len(), used, path });
        }
    }
    kept.sort_by_key(|content| content.used);
    let mut total: u64 = kept.iter().map(|content| content.bytes).sum();
    for content in kept {
        let slot = Slot { folder: &cache.folder, key: content.key };
        let current = slot.entry().is_some_and(|entry| slot.content(&entry) == content.path);
        if current && total.saturating_add(more) <= cache.max_bytes {
            continue;
        }
        if let Ok(Some(_lock)) = slot.try_lock()
            && let Ok(file) = File::open(&content.path)
            && try_flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap_or(false)
            && fs::remove_file(&content.path).is_ok()
        {
            total = total.saturating_sub(content.bytes);
            if current {
                drop(fs::remove_file(slot.path("json")));
                drop(fs::remove_file(slot.path("lock")));
            }
        }
    }
}
