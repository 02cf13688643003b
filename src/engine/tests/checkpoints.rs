//! Checkpoints: a session that comes back goes on bit for bit as one that never left.

use super::*;

fn keeping(state_dir: &std::path::Path) -> TrainingEngine {
    engine(Config { state_dir: Some(state_dir.to_owned()), ..config() })
}

fn slice(optimizer: Optimizer, number: u32) -> TaskSpec {
    let mut task = seeded("job", number * 50..(number + 1) * 50);
    task.hyperparameters.optimizer = optimizer;
    task.hyperparameters.momentum = 0.9;
    task
}

#[test]
fn a_new_process_goes_on_as_the_old_one_would_have() {
    for optimizer in [Optimizer::Sgd, Optimizer::Adam, Optimizer::AdamW, Optimizer::RmsProp] {
        let whole = engine(config());
        let expected: Vec<_> = (0..4).map(|number| result(&whole, slice(optimizer, number))).collect();
        let folder = tempfile::tempdir().unwrap();
        for (number, expected) in expected.iter().enumerate() {
            let process = keeping(folder.path());
            let finished = wait_for(&submit(&process, slice(optimizer, number as u32)));
            assert_eq!(finished.ending.unwrap(), *expected, "{optimizer:?} {number}");
            assert_eq!(finished.notes.iter().any(|note| note.contains("checkpoint")), number > 0);
        }
    }
}

#[test]
fn a_task_whose_report_was_lost_is_not_trained_twice() {
    let folder = tempfile::tempdir().unwrap();
    let first = result(&keeping(folder.path()), slice(Optimizer::Adam, 0));
    let process = keeping(folder.path());
    let again = wait_for(&submit(&process, slice(Optimizer::Adam, 0)));
    assert_eq!(again.ending.unwrap(), first);
    assert!(again.notes.iter().any(|note| note.contains("completed before")), "{:?}", again.notes);
    let whole = engine(config());
    result(&whole, slice(Optimizer::Adam, 0));
    assert_eq!(result(&process, slice(Optimizer::Adam, 1)), result(&whole, slice(Optimizer::Adam, 1)));
}

#[test]
fn another_seed_is_another_session_and_no_checkpoint_is_left_where_none_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    result(&keeping(folder.path()), slice(Optimizer::Adam, 0));
    let mut other = slice(Optimizer::Adam, 1);
    other.hyperparameters.seed = Some(12);
    let finished = wait_for(&submit(&keeping(folder.path()), other));
    assert!(finished.notes.is_empty(), "{:?}", finished.notes);

    let folder = tempfile::tempdir().unwrap();
    let mut unwanted = slice(Optimizer::Adam, 0);
    unwanted.hyperparameters.checkpoints = crate::domain::Checkpoints::Never;
    result(&keeping(folder.path()), unwanted);
    assert!(!folder.path().join("checkpoints").exists());
}

#[test]
fn the_model_of_a_job_that_ended_is_kept_and_its_checkpoints_go() {
    let folder = tempfile::tempdir().unwrap();
    let process = keeping(folder.path());
    let trained = result(&process, slice(Optimizer::Adam, 0));
    process.forget(&JobId::parse("job").unwrap());
    let (model, checkpoints) =
        (folder.path().join("models/job/model.safetensors"), folder.path().join("checkpoints/job"));
    wait_until_gone(&checkpoints);
    assert_eq!(std::fs::read(model).unwrap(), trained.weights, "the model is kept before they go");
    assert!(process.kept_jobs().is_empty());
}

fn wait_until_gone(checkpoints: &std::path::Path) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while checkpoints.exists() {
        assert!(std::time::Instant::now() < deadline, "there are checkpoints after a minute");
        std::thread::yield_now();
    }
}

#[test]
fn what_a_process_keeps_of_a_job_is_known_to_the_next_one_and_goes_with_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobId::parse("job").unwrap();
    let process = keeping(folder.path());
    result(&process, slice(Optimizer::Adam, 0));
    assert!(process.kept_jobs().contains(&job));
    drop(process);
    let next = keeping(folder.path());
    assert_eq!((next.warm_jobs(), next.kept_jobs()), (Vec::new(), vec![job.clone()]));
    next.forget(&job);
    wait_until_gone(&folder.path().join("checkpoints/job"));
    assert!(next.kept_jobs().is_empty());
}

#[test]
fn a_model_that_is_too_large_to_travel_is_kept_and_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let mut wide = slice(Optimizer::Sgd, 0);
    wide.batches = 0..2;
    wide.hyperparameters.hidden_layers = vec![1000, 1000];
    let finished = wait_for(&submit(&keeping(folder.path()), wide));
    let result = finished.ending.unwrap();
    assert!(result.weights.is_empty());
    let model = folder.path().join("models/job/model.safetensors");
    let reference = result.reference.unwrap();
    assert_eq!(reference.uri, format!("file://{}", model.display()));
    assert_eq!(reference.bytes, std::fs::metadata(&model).unwrap().len());
    assert!(finished.notes.iter().any(|note| note.contains(&reference.sha256)));
    let note = finished.notes.iter().find(|note| note.contains("too large")).unwrap();
    assert!(note.contains(model.to_str().unwrap()) && note.contains("sha256"), "{note}");
    assert!(std::fs::metadata(model).unwrap().len() > 3 << 20);
}

#[test]
fn a_session_does_not_go_on_with_other_rows_under_the_same_name() {
    let folder = tempfile::tempdir().unwrap();
    let write = |bend: u32| {
        let rows: String = (0..40).map(|i| format!("{},{}\n", i + bend * (i % 3), i % 2)).collect();
        std::fs::write(folder.path().join("rows.csv"), format!("a,b\n{rows}")).unwrap();
    };
    let notes_of = |number: u32| {
        let mut config = Config { state_dir: Some(folder.path().join("state")), ..config() };
        config.data.root = folder.path().to_owned();
        let mut task = slice(Optimizer::Adam, number);
        task.dataset_path = "rows.csv".to_owned();
        let finished = wait_for(&submit(&engine(config), task));
        assert!(finished.ending.is_ok(), "{finished:?}");
        finished.notes.join("; ")
    };
    write(0);
    assert!(!notes_of(0).contains("checkpoint"));
    assert!(notes_of(1).contains("goes on from its checkpoint"));
    write(1);
    let notes = notes_of(2);
    assert!(notes.contains("begins anew") && notes.contains("another one by now"), "{notes}");
    assert!(notes_of(3).contains("goes on from its checkpoint"), "its own is the newest now");
}
