//! Segments of bytes that no outbox wrote: with checksums that do not fit, and with ones that do.

use std::fs;

use super::super::{log::Log, segment};
use super::*;
use crate::fuzz;

/// Length and checksum in front of a record.
const HEAD: usize = 8;

fn written() -> Vec<Vec<u8>> {
    let mut whole = Vec::new();
    let outcome = wire::encode_outcome(&outcome("a-task"));
    for entry in [
        segment::Entry::Outcome { sequence: 1, payload: outcome[..200].to_vec() },
        segment::Entry::Acknowledged { sequence: 1 },
        segment::Entry::Outcome { sequence: 2, payload: wire::encode_outcome(&super::outcome("other")) },
    ] {
        segment::encode(&entry, &mut whole);
    }
    let mut one = Vec::new();
    segment::encode(&segment::Entry::Outcome { sequence: 3, payload: outcome }, &mut one);
    vec![whole, one]
}

/// Makes lengths and checksums of all records fit, so that what is inside of them is looked at.
fn seal(bytes: &mut [u8]) {
    let mut rest = bytes;
    while rest.len() > HEAD {
        let length = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
        let length = length.clamp(1, rest.len() - HEAD);
        let checksum = crc32fast::hash(&rest[HEAD..HEAD + length]);
        rest[..4].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        rest[4..HEAD].copy_from_slice(&checksum.to_le_bytes());
        rest = &mut rest[HEAD + length..];
    }
}

/// A folder in memory where there is one.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

#[test]
fn fuzz_outbox_segments() {
    let folder = folder();
    let path = folder.path().join("segment");
    let mut number = 0_u64;
    fuzz::run("an outbox segment", &written(), |bytes| {
        number += 1;
        let mut bytes = bytes.to_vec();
        if number.is_multiple_of(2) {
            seal(&mut bytes);
        }
        fs::write(&path, &bytes).unwrap();
        let contents = segment::read(&path).unwrap();
        assert!(contents.whole_bytes <= contents.file_bytes && contents.file_bytes == bytes.len() as u64);
        for entry in contents.entries {
            if let segment::Entry::Outcome { payload, .. } = entry {
                let _ = wire::decode_outcome(&payload);
            }
        }
    });
}

#[test]
fn fuzz_whole_outboxes() {
    fuzz::run_part("an outbox", &written(), 20, |bytes| {
        let folder = folder();
        let outbox = folder.path().join("outbox");
        fs::create_dir(&outbox).unwrap();
        let mut sealed = bytes.to_vec();
        seal(&mut sealed);
        fs::write(outbox.join("000000000001.log"), bytes).unwrap();
        fs::write(outbox.join("000000000002.log"), &sealed).unwrap();
        let (mut log, _) = Log::open(&outbox).unwrap();
        let sequence = log.push(b"one more".to_vec());
        log.flush().unwrap();
        drop(log);
        let (mut log, left) = Log::open(&outbox).unwrap();
        let kept = left.iter().any(|(number, payload)| *number == sequence && payload == b"one more");
        assert!(kept, "what is written after damage is there at the next start");
        for (sequence, _) in left {
            log.acknowledge(sequence);
        }
        log.flush().unwrap();
        assert_eq!(log.pending(), 0);
    });
}
