//! Early stopping, schedules, dropout and class weights through a session.

use super::*;
use crate::domain::{ClassWeight, Schedule, Stopping, TaskResult};
use crate::engine::trainer::Course;

fn epoch(session: &mut Session, epoch: u32) -> (TaskResult, Vec<String>) {
    let batches = session.trainer().batches_per_epoch();
    session.follow(Course { total_epochs: Some(200), batches_per_epoch: batches });
    let slice = Slice { epoch, batches: 0..batches };
    let result = session.run(&slice, Validation::Full, &quiet()).unwrap();
    (result, session.take_notes())
}

#[test]
fn training_ends_when_patience_does_and_the_best_model_stays() {
    // Steps this large fit the training rows at once and the others worse and worse.
    let h = Hyperparameters {
        learning_rate: Some(0.02),
        stopping: Stopping::Early,
        patience: Some(3),
        hidden_layers: vec![64],
        ..Hyperparameters::default()
    };
    let mut early = session("builtin:breast_cancer", &h);
    let mut free =
        session("builtin:breast_cancer", &Hyperparameters { stopping: Stopping::Never, ..h.clone() });
    let mut losses = Vec::new();
    let mut models = Vec::new();
    let mut number = 0;
    let stopped = loop {
        let (expected, _) = epoch(&mut free, number);
        losses.push(expected.validation.unwrap().loss);
        models.push(expected.weights.clone());
        let (result, notes) = epoch(&mut early, number);
        if let [note] = &notes[..] {
            assert!(note.starts_with("training stopped early: 3 epochs"), "{note}");
            break result;
        }
        assert!(notes.is_empty() && result == expected, "{notes:?}");
        number += 1;
        assert!(number < 100, "it never stops");
    };
    let best = (0..losses.len()).min_by(|a, b| losses[*a].total_cmp(&losses[*b])).unwrap();
    assert_eq!(best + 3, number as usize, "{losses:?}");
    assert!(stopped.weights == models[best], "the best model");
    assert_eq!(stopped.validation.unwrap().loss, losses[best]);
    // Later slices train nothing, in a session that comes back too.
    let mut restored = session("builtin:breast_cancer", &h);
    restored.restore(&early.state().unwrap()).unwrap();
    for session in [&mut early, &mut restored] {
        let (after, notes) = epoch(session, number + 1);
        assert_eq!((after.steps, after.samples), (0, 0));
        assert!(after.weights == models[best] && after.validation.unwrap().loss == losses[best]);
        assert!(notes[0].starts_with("training stopped early"), "{notes:?}");
        let slice = Slice { epoch: number + 2, batches: 0..4 };
        let given = session.run_from(&models[0], &slice, Validation::Sample, &quiet()).unwrap();
        assert!(given.weights == models[best], "the best model, whatever a task brings");
    }
}

#[test]
fn the_learning_rate_follows_its_schedule() {
    let h = |schedule| Hyperparameters {
        schedule,
        lr_step_size: 2,
        lr_gamma: 1e-9,
        optimizer: Optimizer::Sgd,
        learning_rate: Some(0.1),
        ..Hyperparameters::default()
    };
    let run = |schedule, total_epochs, epoch| {
        let mut session = session("builtin:iris", &h(schedule));
        session.follow(Course { total_epochs, batches_per_epoch: 4 });
        let before = session.trainer().weights().unwrap();
        let slice = Slice { epoch, batches: 0..4 };
        let result = session.run(&slice, Validation::Sample, &quiet()).unwrap();
        (result.weights != before, result, session.take_notes())
    };
    let plain = run(Schedule::Constant, None, 0);
    let (moves, cosine, notes) = run(Schedule::Cosine, Some(10), 0);
    assert!(moves && cosine != plain.1 && notes.is_empty());
    // At the end of the job the rate is 0.
    assert!(!run(Schedule::Cosine, Some(10), 10).0);
    let (_, unknown, notes) = run(Schedule::Cosine, None, 0);
    assert!(unknown == plain.1 && notes[0].contains("total_epochs"), "{notes:?}");
    assert!(run(Schedule::Step, None, 1).1 == run(Schedule::Constant, None, 1).1);
    assert!(run(Schedule::Step, None, 2).1 != run(Schedule::Constant, None, 2).1);
}

#[test]
fn dropout_draws_the_same_whatever_the_slices_are() {
    let data = load("builtin:iris", Problem::Auto);
    let h = Hyperparameters { dropout: 0.5, ..Hyperparameters::default() };
    let run = |h: &Hyperparameters, slices: &[std::ops::Range<u32>]| {
        let mut network = network(&data, h);
        for batches in slices {
            network.train(&slice(batches.clone()), &quiet()).unwrap();
        }
        network.weights().unwrap()
    };
    let whole = run(&h, std::slice::from_ref(&(0..30)));
    assert!(run(&h, &[0..7, 7..8, 8..30]) == whole);
    assert!(run(&Hyperparameters { dropout: 0.0, ..h.clone() }, std::slice::from_ref(&(0..30))) != whole);
}

#[test]
fn balanced_classes_make_a_rare_one_found() {
    // 5 % of the rows are of class 1, and the classes overlap.
    let folder = tempfile::tempdir().unwrap();
    let mut csv = "x,y,class\n".to_owned();
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24)
    };
    for row in 0..2000 {
        let rare = row % 20 == 0;
        let shift = if rare { 0.5 } else { 0.0 };
        csv += &format!("{},{},{}\n", noise() + shift, noise() + shift, u8::from(rare));
    }
    std::fs::write(folder.path().join("rare.csv"), csv).unwrap();
    let options = LoadOptions {
        target: None,
        problem: Problem::Auto,
        validation_split: 0.2,
        seed: 5,
        features: data::FeatureForm::Standardised,
    };
    let config = data::Config::new(folder.path());
    let data = Arc::new(data::load("rare.csv", &options, &config, &|| Ok(())).unwrap());
    let Targets::Classes(ids) = &data.validation.targets else { panic!() };
    let found = |model, class_weight| {
        let mut trainer =
            trainer(model, &data, &Hyperparameters { class_weight, ..Hyperparameters::default() });
        trainer.train(&slice(0..500), &quiet()).unwrap();
        let probabilities = trainer.predict();
        let hits = ids.iter().zip(probabilities.chunks(2)).filter(|(id, p)| **id == 1 && p[1] > p[0]);
        hits.count()
    };
    let rare = ids.iter().filter(|id| **id == 1).count();
    for model in [Model::NeuralNetwork, Model::LogisticRegression, Model::Svm] {
        let (plain, balanced) = (found(model, ClassWeight::None), found(model, ClassWeight::Balanced));
        assert!(balanced * 10 >= rare * 7 && balanced > plain, "{model:?}: {plain}, {balanced} of {rare}");
    }
}
