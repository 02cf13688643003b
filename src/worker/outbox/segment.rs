//! One file of the outbox: records with length and checksum, written at the end, read from the start.
//!
//! ```text
//! record = length u32 | crc32 u32 of what follows | kind u8 | sequence u64 | payload        (little endian)
//! ```
//!
//! A record counts when it is whole and its checksum fits. The first that does not ends the file: what a crash left
//! half written at the tail is cut.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Length and checksum in front of a record.
const HEAD_BYTES: usize = 8;

/// Kind and sequence in front of a payload.
const PREFIX_BYTES: usize = 9;

/// Longest record; a larger length on disk is damage, not a reason to allocate.
const MAX_RECORD_BYTES: usize = 256 << 20;

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::worker) enum Entry {
    /// An outcome that waits.
    Outcome { sequence: u64, payload: Vec<u8> },
    /// The orchestrator acknowledged it.
    Acknowledged { sequence: u64 },
}

const KIND_OUTCOME: u8 = 1;
const KIND_ACKNOWLEDGED: u8 = 2;

/// Appends `entry` to `buffer`.
pub(in crate::worker) fn encode(entry: &Entry, buffer: &mut Vec<u8>) {
    let (kind, sequence, payload): (u8, u64, &[u8]) = match entry {
        Entry::Outcome { sequence, payload } => (KIND_OUTCOME, *sequence, payload),
        Entry::Acknowledged { sequence } => (KIND_ACKNOWLEDGED, *sequence, &[]),
    };
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&[kind]);
    checksum.update(&sequence.to_le_bytes());
    checksum.update(payload);
    let length = u32::try_from(PREFIX_BYTES + payload.len()).unwrap_or(u32::MAX);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&checksum.finalize().to_le_bytes());
    buffer.push(kind);
    buffer.extend_from_slice(&sequence.to_le_bytes());
    buffer.extend_from_slice(payload);
}

/// What a file says, and up to which byte it is whole.
#[derive(Debug, Default)]
pub(in crate::worker) struct Contents {
    pub(in crate::worker) entries: Vec<Entry>,
    pub(in crate::worker) whole_bytes: u64,
    pub(in crate::worker) file_bytes: u64,
}

/// Reads all whole records of the file.
///
/// # Errors
/// When the file cannot be read; damage inside of it is not an error.
pub(in crate::worker) fn read(path: &Path) -> io::Result<Contents> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let mut contents = Contents { file_bytes: bytes.len() as u64, ..Contents::default() };
    let mut rest = bytes.as_slice();
    while let Some((entry, after)) = decode(rest) {
        contents.whole_bytes += (rest.len() - after.len()) as u64;
        contents.entries.push(entry);
        rest = after;
    }
    Ok(contents)
}

/// The first record of `bytes` and what follows it; None when it is not whole.
fn decode(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let (length, checksum) = head.split_at(4);
    let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
    let checksum = u32::from_le_bytes(checksum.try_into().ok()?);
    if !(PREFIX_BYTES..=MAX_RECORD_BYTES).contains(&length) {
        return None;
    }
    let (body, after) = rest.split_at_checked(length)?;
    if crc32fast::hash(body) != checksum {
        return None;
    }
    let (prefix, payload) = body.split_at(PREFIX_BYTES);
    let (kind, sequence) = prefix.split_at(1);
    let sequence = u64::from_le_bytes(sequence.try_into().ok()?);
    let entry = match kind {
        [KIND_OUTCOME] => Entry::Outcome { sequence, payload: payload.to_vec() },
        [KIND_ACKNOWLEDGED] => Entry::Acknowledged { sequence },
        _ => return None,
    };
    Some((entry, after))
}

/// Writes `buffer` behind byte `end`; with [`Durability::Synced`] waits until it is on disk. After a failure nothing
/// behind `end` counts, and the next try writes over it.
///
/// # Errors
/// Of the file system, a full disk among them.
pub(in crate::worker) fn append(
    file: &File,
    end: u64,
    buffer: &[u8],
    durability: Durability,
) -> io::Result<()> {
    file.write_all_at(buffer, end)?;
    match durability {
        Durability::Synced => file.sync_data(),
        Durability::Written => Ok(()),
    }
}

/// How sure a write has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Durability {
    /// On disk.
    Synced,
    /// In the hands of the system.
    Written,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_at_any_byte_loses_only_the_cut_record() {
        let entries = [
            Entry::Outcome { sequence: 1, payload: b"first".to_vec() },
            Entry::Acknowledged { sequence: 1 },
            Entry::Outcome { sequence: 2, payload: vec![7; 300] },
        ];
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for entry in &entries {
            encode(entry, &mut bytes);
            ends.push(bytes.len());
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segment");
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let contents = read(&path).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut && **end > 0).count();
            assert_eq!(contents.entries, entries[..whole]);
            assert_eq!(contents.whole_bytes as usize, ends[whole]);
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let mut bytes = Vec::new();
        encode(&Entry::Outcome { sequence: 9, payload: b"payload".to_vec() }, &mut bytes);
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 0x10;
            assert!(decode(&damaged).is_none(), "byte {position}");
        }
    }
}
