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

/// On a machine with a card that computes on the CPU.
fn on(backend: Backend, folder: &std::path::Path) -> TrainingEngine {
    let device = ComputeDevice { backend: Backend::Wgpu, name: "card".to_owned(), ..ComputeDevice::cpu() };
    let adapter = Adapter { device, handle: Handle::Discrete(0), address: None };
    let devices = Devices { adapters: vec![adapter], found: "found: card".to_owned() };
    let config =
        Config { backend: BackendChoice::Only(backend), state_dir: Some(folder.to_owned()), ..config() };
    TrainingEngine::on(config, Search::known(devices), SessionLimits::default()).unwrap()
}

/// Task `number` of a boosting job.
fn boosted(number: u32) -> TaskSpec {
    let mut task = slice(Optimizer::Adam, number);
    task.model = ModelType::parse("xgboost").unwrap();
    task.identity.task_id = TaskId::parse(&format!("task-{number}")).unwrap();
    task
}

/// Waits until there is no `folder`.
fn gone(folder: &std::path::Path) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while folder.exists() {
        assert!(std::time::Instant::now() < deadline, "{} is there after a minute", folder.display());
        std::thread::yield_now();
    }
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
fn a_job_that_moves_to_another_backend_takes_along_what_it_has_learned() {
    let task = |model: &str, number| {
        let mut task = boosted(number);
        task.model = ModelType::parse(model).unwrap();
        task
    };
    use Backend::{Cpu, Wgpu};
    for model in ["xgboost", "neural_network"] {
        let whole = engine(config());
        let folder = tempfile::tempdir().unwrap();
        for (number, backend) in [Cpu, Cpu, Cpu, Wgpu, Wgpu, Cpu, Wgpu].into_iter().enumerate() {
            let expected = result(&whole, task(model, number as u32));
            let process = on(backend, folder.path());
            let finished = wait_for(&submit(&process, task(model, number as u32)));
            let resumed = finished.notes.iter().any(|note| note.contains("goes on from its checkpoint"));
            assert_eq!(resumed, number > 0, "{:?}", finished.notes);
            let got = finished.ending.unwrap();
            assert_eq!(got.backend, backend, "{model} {number}");
            if model == "xgboost" {
                assert_eq!((&got.weights, got.train), (&expected.weights, expected.train), "{number}");
            } else {
                assert!(
                    (got.train.loss - expected.train.loss).abs() < 1e-3,
                    "{number}: {got:?} {expected:?}"
                );
            }
            if number == 3 {
                // What the CPU has trained is not trained again, and nobody says that the card did.
                let again = wait_for(&submit(&process, task(model, 2)));
                assert!(
                    again.notes.iter().any(|note| note.contains("completed before")),
                    "{:?}",
                    again.notes
                );
                assert_eq!(again.ending.unwrap().backend, Cpu);
            }
        }
    }
}

#[test]
fn a_job_that_comes_back_to_a_backend_takes_along_what_it_has_learned_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let (process, whole) = (on(Backend::Cpu, folder.path()), engine(config()));
    let job = JobId::parse("job").unwrap();
    let mut last = Bytes::new();
    for (number, backend) in
        [Backend::Cpu, Backend::Wgpu, Backend::Wgpu, Backend::Cpu].into_iter().enumerate()
    {
        let mut task = boosted(number as u32);
        let expected = result(&whole, task.clone());
        task.hyperparameters.backend = Some(BackendChoice::Only(backend));
        let got = result(&process, task);
        assert_eq!((got.backend, &got.weights), (backend, &expected.weights), "task {number}");
        last = got.weights;
    }
    // Two sessions are loaded, and one of them is behind.
    process.forget(&job);
    gone(&folder.path().join("checkpoints/job"));
    drop(process);
    assert_eq!(std::fs::read(folder.path().join("models/job/model.json")).unwrap(), last);
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
    gone(&checkpoints);
    assert_eq!(std::fs::read(model).unwrap(), trained.weights, "the model is kept before they go");
    assert!(process.kept_jobs().is_empty());
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
    gone(&folder.path().join("checkpoints/job"));
    assert!(next.kept_jobs().is_empty());
}

#[test]
fn the_model_of_a_job_that_ended_after_its_session_had_left_is_kept_too() {
    let job = JobId::parse("job").unwrap();
    let only_one = SessionLimits { idle: 1, ..SessionLimits::default() };
    let killed = |folder: &std::path::Path, task: TaskSpec| result(&keeping(folder), task).weights;
    let evicted = |folder: &std::path::Path, task: TaskSpec| {
        let config = Config { state_dir: Some(folder.to_owned()), ..config() };
        let process = TrainingEngine::with_limits(config, only_one).unwrap();
        let weights = result(&process, task).weights;
        result(&process, seeded("other", 0..1));
        result(&process, seeded("third", 0..1));
        assert!(!process.warm_jobs().contains(&job), "it has left");
        process.forget(&job);
        gone(&folder.join("checkpoints/job"));
        weights
    };
    for (task, name) in [(slice(Optimizer::Adam, 0), "model.safetensors"), (boosted(0), "model.json")] {
        let folder = tempfile::tempdir().unwrap();
        let weights = evicted(folder.path(), task.clone());
        assert_eq!(std::fs::read(folder.path().join("models/job").join(name)).unwrap(), weights, "{name}");
        // In another process, which has never had a session of it.
        let folder = tempfile::tempdir().unwrap();
        let weights = killed(folder.path(), task);
        let next = keeping(folder.path());
        next.forget(&job);
        next.forget(&job);
        gone(&folder.path().join("checkpoints/job"));
        assert_eq!(std::fs::read(folder.path().join("models/job").join(name)).unwrap(), weights, "{name}");
    }
}

#[test]
fn of_a_torn_checkpoint_the_one_before_it_gives_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let first = result(&keeping(folder.path()), slice(Optimizer::Adam, 0)).weights;
    result(&keeping(folder.path()), slice(Optimizer::Adam, 1));
    let files = std::fs::read_dir(folder.path().join("checkpoints/job")).unwrap();
    let newest =
        files.map(|file| file.unwrap().path()).find(|path| path.extension().unwrap() == "1").unwrap();
    let whole = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &whole[..whole.len() / 2]).unwrap();
    keeping(folder.path()).forget(&JobId::parse("job").unwrap());
    gone(&folder.path().join("checkpoints/job"));
    assert_eq!(std::fs::read(folder.path().join("models/job/model.safetensors")).unwrap(), first);
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
