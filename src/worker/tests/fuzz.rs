//! Lists of held tasks that no worker wrote: with checksums that do not fit, and with ones that do.

use std::fs;

use bytes::Bytes;
use prost::Message as _;

use crate::domain::{JobId, TaskId};
use crate::fuzz;
use crate::wire::pb;
use crate::worker::disk::SimulatedDisk;
use crate::worker::held::Held;
use crate::worker::outbox::segment::{self, Entry};

/// Length and checksum in front of a record.
const HEAD: usize = 8;

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

fn written() -> Vec<Vec<u8>> {
    let held = |sequence, task| Entry::Outcome { sequence, payload: received(task, 1).to_vec() };
    let mut lists = vec![Vec::new(), Vec::new()];
    for entry in [held(1, "a"), held(2, "b"), Entry::Acknowledged { sequence: 1 }, held(3, "a")] {
        segment::encode(&entry, &mut lists[0]);
    }
    segment::encode(&held(1, "c"), &mut lists[1]);
    lists
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

#[test]
fn fuzz_lists_of_held_tasks() {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let file = folder.path().join("tasks.log");
    let mut number = 0_u64;
    fuzz::run_part("a list of held tasks", &written(), 5, |bytes| {
        number += 1;
        let mut bytes = bytes.to_vec();
        if number.is_multiple_of(2) {
            seal(&mut bytes);
        }
        fs::write(&file, &bytes).unwrap();
        let (mut held, left) = Held::open_here(folder.path(), &SimulatedDisk::roomy()).unwrap();
        for task in &left {
            let identity = &task.identity;
            assert_eq!(TaskId::parse(identity.task_id.as_str()).as_ref(), Ok(&identity.task_id));
            assert_eq!(JobId::parse(identity.job_id.as_str()).as_ref(), Ok(&identity.job_id));
        }
        held.keep(received("one-more", 7));
        drop(held);
        let (_, left) = Held::open_here(folder.path(), &SimulatedDisk::roomy()).unwrap();
        let kept = left.iter().any(|task| task.identity.task_id.as_str() == "one-more");
        assert!(kept, "what is written after damage is there at the next start");
    });
}
