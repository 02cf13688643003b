//! The outbox over real files: what is kept, what goes, what damage costs.

mod fuzz;

use std::sync::mpsc::channel;
use std::time::Duration;

use super::*;
use crate::domain::{ErrorCode, JobId, ModelType, TaskError, TaskId, TaskIdentity};
use crate::worker::disk::SimulatedDisk;

fn outcome(name: &str) -> Arc<TaskOutcome> {
    Arc::new(TaskOutcome {
        identity: TaskIdentity {
            task_id: TaskId::parse(name).unwrap(),
            job_id: JobId::parse("job").unwrap(),
            attempt: 1,
        },
        model: ModelType::parse("test").unwrap(),
        epoch: 0,
        ending: Err(TaskError::new(ErrorCode::Diverged, "x".repeat(2000))),
        notes: Vec::new(),
        duration: Duration::from_secs(1),
        energy_joules: None,
    })
}

/// Appends outcomes and waits until all are on disk.
fn store(outbox: &Outbox, names: &[String]) -> Vec<u64> {
    let (stored, numbers) = channel();
    for name in names {
        let stored = stored.clone();
        outbox.append(outcome(name), Box::new(move |sequence| stored.send(sequence).unwrap()));
    }
    drop(stored);
    numbers.iter().collect()
}

fn names(left: &[Left]) -> Vec<String> {
    left.iter().map(|(_, outcome)| outcome.identity.task_id.to_string()).collect()
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("t{n}")).collect()
}

#[test]
fn what_waits_is_counted_as_it_comes_and_goes_and_is_no_trouble() {
    let folder = tempfile::tempdir().unwrap();
    let (outbox, _) = Outbox::open_here(folder.path(), &SimulatedDisk::roomy()).unwrap();
    let (state, trouble) = (outbox.state(), outbox.trouble());
    let bytes = wire::encode_outcome(&outcome("t0")).len() as u64;
    let sequences = store(&outbox, &numbered(10));
    assert_eq!((state.borrow().pending, state.borrow().pending_bytes), (10, 10 * bytes));
    for sequence in sequences.iter().take(4).chain(&sequences[..1]) {
        outbox.acknowledge(*sequence);
    }
    assert_eq!((state.borrow().pending, state.borrow().pending_bytes), (6, 6 * bytes));
    assert!(!trouble.has_changed().unwrap(), "who waits for trouble alone is not woken by each task");
    drop(outbox);
    let (outbox, _) = Outbox::open_here(folder.path(), &SimulatedDisk::roomy()).unwrap();
    assert_eq!(outbox.state().borrow().pending_bytes, 6 * bytes);
}

#[test]
fn what_is_not_acknowledged_is_there_after_a_restart_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (outbox, left) = Outbox::open(folder.path()).unwrap();
    assert!(left.is_empty());
    let sequences = store(&outbox, &numbered(10));
    assert!(sequences.is_sorted());
    for sequence in &sequences[..4] {
        outbox.acknowledge(*sequence);
    }
    drop(outbox);
    let (outbox, left) = Outbox::open(folder.path()).unwrap();
    assert_eq!(names(&left), numbered(10)[4..]);
    assert_eq!(outbox.state().borrow().pending, 6);
    for (sequence, _) in left {
        outbox.acknowledge(sequence);
    }
    drop(outbox);
    let (_outbox, left) = Outbox::open(folder.path()).unwrap();
    assert!(left.is_empty());
    let files = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(files, 1, "done segments are deleted");
}

#[test]
fn segments_roll_over_and_an_old_outcome_keeps_its_acknowledged_neighbours_dead() {
    let folder = tempfile::tempdir().unwrap();
    let (outbox, _) = Outbox::open(folder.path()).unwrap();
    let mut first = Vec::new();
    for batch in 0..30 {
        let names: Vec<String> = (0..200).map(|n| format!("b{batch}-{n}")).collect();
        first.extend(store(&outbox, &names));
    }
    let files = std::fs::read_dir(folder.path()).unwrap().count();
    assert!(files >= 2, "6,000 records of 2 KB fill more than one segment, there is {files}");
    for sequence in &first[1..] {
        outbox.acknowledge(*sequence);
    }
    drop(outbox);
    let (outbox, left) = Outbox::open(folder.path()).unwrap();
    assert_eq!(names(&left), ["b0-0"]);
    let fresh = store(&outbox, &["fresh".to_owned()]);
    assert!(fresh[0] > *first.last().unwrap(), "sequence numbers are not used twice");
}

#[test]
fn damage_costs_what_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let (outbox, _) = Outbox::open(folder.path()).unwrap();
    store(&outbox, &numbered(3));
    drop(outbox);
    let segment = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes.truncate(bytes.len() - 7);
    std::fs::write(&segment, &bytes).unwrap();
    let (outbox, left) = Outbox::open(folder.path()).unwrap();
    assert_eq!(names(&left), ["t0", "t1"]);
    drop(outbox);
    std::fs::write(&segment, [0xff; 100]).unwrap();
    let (outbox, left) = Outbox::open(folder.path()).unwrap();
    assert!(left.is_empty());
    assert!(segment.with_extension("damaged").exists(), "a person can look at it");
    store(&outbox, &numbered(1));
    drop(outbox);
    let (_outbox, left) = Outbox::open(folder.path()).unwrap();
    assert_eq!(names(&left), ["t0"]);
}

#[test]
fn a_segment_that_cannot_be_read_or_copied_does_not_keep_the_worker_from_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let (outbox, _) = Outbox::open(folder.path()).unwrap();
    store(&outbox, &numbered(3));
    drop(outbox);
    // A torn tail, and no way to keep a copy of it.
    let torn = folder.path().join("000000000001.log");
    let mut bytes = std::fs::read(&torn).unwrap();
    bytes.truncate(bytes.len() - 7);
    std::fs::write(&torn, &bytes).unwrap();
    std::fs::create_dir(torn.with_extension("damaged")).unwrap();
    // A later one that cannot be read, of a number that must not be used again.
    let unreadable = folder.path().join("000000000005.log");
    std::fs::create_dir(&unreadable).unwrap();
    let (outbox, left) = Outbox::open(folder.path()).unwrap();
    assert_eq!(names(&left), ["t0", "t1"]);
    assert_eq!(std::fs::read(&torn).unwrap(), bytes, "what cannot be copied is not cut");
    assert!(unreadable.with_extension("damaged").exists() && !unreadable.exists());
    store(&outbox, &["fresh".to_owned()]);
    drop(outbox);
    let (_outbox, left) = Outbox::open(folder.path()).unwrap();
    assert_eq!(names(&left), ["t0", "t1", "fresh"]);
}

#[test]
fn an_outcome_that_can_neither_be_read_nor_set_aside_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    segment::encode(&segment::Entry::Outcome { sequence: 1, payload: b"no outcome".to_vec() }, &mut bytes);
    std::fs::write(folder.path().join("000000000001.log"), bytes).unwrap();
    let refused = folder.path().join("2-1.refused");
    std::fs::create_dir(&refused).unwrap();
    let (outbox, left) = Outbox::open(folder.path()).unwrap();
    assert!(left.is_empty());
    assert_eq!(outbox.state().borrow().pending, 1);
    drop(outbox);
    // The next one has a name that is free.
    let (outbox, _) = Outbox::open(folder.path()).unwrap();
    assert_eq!(outbox.state().borrow().pending, 0);
    assert!(folder.path().join("3-1.refused").is_file());
}

#[test]
fn a_folder_that_cannot_be_one_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(Outbox::open(&file.join("outbox")).is_err());
}

#[test]
fn a_number_that_nobody_counts_to_is_damage_and_leaves_room_for_others() {
    for first in [u64::MAX, (u64::MAX >> 1) + 1, 7] {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        for sequence in [first, 3, u64::MAX - 1] {
            segment::encode(&segment::Entry::Outcome { sequence, payload: b"kept".to_vec() }, &mut bytes);
        }
        std::fs::write(folder.path().join("000000000001.log"), bytes).unwrap();
        for opened in 0..2 {
            let (mut log, left) = log::Log::open(folder.path()).unwrap();
            let wanted = if first == 7 { 2 } else { 1 } + opened;
            assert_eq!(left.len(), wanted, "{first}: {left:?}");
            log.push(b"one more".to_vec());
            log.flush().unwrap();
        }
    }
}
