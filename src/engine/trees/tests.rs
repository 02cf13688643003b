//! Tree models by themselves: same bits whatever the slices, threads and interruptions; files that hold.

mod cost;
mod early;
mod files;
mod weights;

use std::ops::Range;
use std::sync::Arc;

use super::*;
use crate::data::{self, FeatureForm, LoadOptions, TargetKind};
use crate::domain::{Bootstrap, Hyperparameters, MaxFeatures, ModelType, Problem};
use crate::engine::device::ComputeDevice;
use crate::engine::tests::{config, quiet, stopped_after};
use crate::engine::trainer::ModelEntry;

const SEED: u64 = 5;

fn load(path: &str, problem: Problem) -> Arc<Dataset> {
    let options = LoadOptions { problem, seed: SEED, features: FeatureForm::Raw, ..LoadOptions::default() };
    Arc::new(data::load(path, &options, &config().data, &|| Ok(())).unwrap())
}

/// A data set of the text of a CSV file.
fn csv(text: &str, problem: Problem) -> Arc<Dataset> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.csv"), text).unwrap();
    let options = LoadOptions { problem, seed: SEED, features: FeatureForm::Raw, ..LoadOptions::default() };
    Arc::new(data::load("a.csv", &options, &data::Config::new(folder.path()), &|| Ok(())).unwrap())
}

fn model(name: &str, data: &Arc<Dataset>, hyperparameters: &Hyperparameters) -> Box<dyn Trainer> {
    let entry = ModelEntry::of(&ModelType::parse(name).unwrap()).unwrap();
    let device = ComputeDevice::cpu();
    (entry.build)(&Blueprint { data, hyperparameters, device: &device, seed: SEED }).unwrap()
}

/// Hyperparameters that use chance wherever there is some.
fn random() -> Hyperparameters {
    let mut h = Hyperparameters::default();
    h.trees.subsample = 0.7;
    h.trees.colsample_bytree = 0.6;
    h
}

/// So many tasks of an epoch, from `first` on.
fn tasks(range: Range<u32>) -> Slice {
    Slice { epoch: 0, batches: range.start * BATCHES_PER_TASK..range.end * BATCHES_PER_TASK }
}

fn train(model: &mut dyn Trainer, range: Range<u32>) -> Trained {
    model.train(&tasks(range), &quiet()).unwrap()
}

fn everything(model: &dyn Trainer) -> (Vec<u8>, Vec<u8>, Vec<u32>) {
    let predictions = model.predict().iter().map(|value| value.to_bits()).collect();
    (model.weights().unwrap(), model.state().unwrap(), predictions)
}

fn held_out(model: &dyn Trainer, data: &Dataset) -> Metrics {
    let rows: Vec<u32> = (0..data.validation.len() as u32).collect();
    model.evaluate(&rows, &quiet()).unwrap()
}

/// Every kind of model on every kind of target, and hyperparameters that use chance.
fn cases() -> Vec<(&'static str, Arc<Dataset>, Hyperparameters)> {
    let two = load("builtin:breast_cancer", Problem::Auto);
    let three = load("builtin:wine", Problem::Auto);
    let number = load("synthetic:regression?rows=600&features=8&seed=2", Problem::Regression);
    let sets = [two, three, number];
    let names = ["xgboost", "random_forest", "decision_tree"];
    let pairs = names.into_iter().flat_map(|name| sets.iter().map(move |data| (name, Arc::clone(data))));
    pairs
        .flat_map(|(name, data)| {
            [(name, Arc::clone(&data), Hyperparameters::default()), (name, data, random())]
        })
        .collect()
}

#[test]
fn slices_and_interruptions_leave_no_trace() {
    for (name, data, h) in cases() {
        let mut whole = model(name, &data, &h);
        let expected = train(&mut *whole, 0..6);
        let mut parts = model(name, &data, &h);
        train(&mut *parts, 0..2);
        parts.mark();
        assert!(parts.train(&tasks(2..6), &stopped_after(2)).is_err() || name == "decision_tree");
        parts.roll_back();
        train(&mut *parts, 2..3);
        let last = train(&mut *parts, 3..6);
        assert_eq!(everything(&*parts), everything(&*whole), "{name} {}", data.path);
        assert_eq!(last.metrics, expected.metrics);
    }
}

#[test]
fn the_number_of_threads_moves_no_bit() {
    let large = load("synthetic:classification?rows=40000&features=12&classes=3&seed=3", Problem::Auto);
    let two = load("synthetic:classification?rows=30000&features=3&classes=2&seed=4", Problem::Auto);
    for (name, data) in [("xgboost", &large), ("xgboost", &two), ("random_forest", &large)] {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut model = model(name, data, &random());
                let trained = train(&mut *model, 0..3);
                (everything(&*model), trained)
            })
        };
        let expected = on(1);
        for threads in [2, 8] {
            assert!(on(threads) == expected, "{name} with {threads} threads");
        }
    }
}

#[test]
fn what_is_restored_goes_on_bit_for_bit() {
    for (name, data, h) in cases() {
        let mut first = model(name, &data, &h);
        train(&mut *first, 0..3);
        let mut second = model(name, &data, &h);
        second.restore(&first.state().unwrap()).unwrap();
        assert_eq!(everything(&*second), everything(&*first), "{name} {}", data.path);
        assert_eq!(train(&mut *second, 3..5), train(&mut *first, 3..5));
        assert_eq!(everything(&*second), everything(&*first), "{name} {}", data.path);
    }
}

#[test]
fn n_estimators_ends_a_job_and_later_slices_report_the_model_as_it_is() {
    let data = load("builtin:iris", Problem::Auto);
    let mut h = Hyperparameters::default();
    h.trees.n_estimators = Some(7);
    h.trees.rounds_per_task = 3;
    h.trees.trees_per_task = 3;
    for name in ["xgboost", "random_forest"] {
        let mut model = model(name, &data, &h);
        assert_eq!(train(&mut *model, 0..2).steps, 6);
        let last = train(&mut *model, 2..3);
        assert_eq!((last.steps, last.samples), (1, data.train.len() as u64));
        let before = everything(&*model);
        let none = train(&mut *model, 3..4);
        assert_eq!((none.steps, none.samples, none.metrics), (0, 0, last.metrics));
        assert_eq!(everything(&*model), before);
    }
    let mut tree = model("decision_tree", &data, &h);
    assert_eq!((train(&mut *tree, 0..1).steps, train(&mut *tree, 1..9).steps), (1, 0));
}

#[test]
fn a_task_of_any_size_is_its_rounds() {
    let data = load("builtin:iris", Problem::Auto);
    let mut model = model("xgboost", &data, &Hyperparameters::default());
    assert_eq!(model.batches_per_epoch(), 1000);
    for (batches, rounds) in [(0..100, 1), (100..101, 1), (200..401, 3)] {
        let slice = Slice { epoch: 0, batches };
        assert_eq!(model.train(&slice, &quiet()).unwrap().steps, rounds);
    }
}

#[test]
fn real_data_are_learned_by_each_model() {
    for (path, boosting, forest, tree) in [
        ("builtin:digits", 0.94, 0.95, 0.82),
        ("builtin:breast_cancer", 0.94, 0.93, 0.88),
        ("builtin:wine", 0.93, 0.95, 0.85),
        ("builtin:iris", 0.86, 0.86, 0.86),
    ] {
        let data = load(path, Problem::Auto);
        for (name, least) in
            [("gradient_boosting", boosting), ("random_forest", forest), ("decision_tree", tree)]
        {
            let mut model = model(name, &data, &Hyperparameters::default());
            let trained = train(&mut *model, 0..40);
            assert!(trained.metrics.accuracy > 0.99, "{name} on {path}: {:?}", trained.metrics);
            let metrics = held_out(&*model, &data);
            assert!(metrics.accuracy >= least && metrics.loss.is_finite(), "{name} on {path}: {metrics:?}");
        }
    }
}

#[test]
fn where_a_value_is_missing_is_learned() {
    // Class 1 where a is missing or above 0; b is noise.
    let line = |i: i32| {
        let a = if i % 3 == 0 { String::new() } else { format!("{}", (i * 37) % 19 - 9) };
        let one = i % 3 == 0 || (i * 37) % 19 - 9 > 0;
        format!("{a},{},{}\n", (i * 11) % 7, if one { "yes" } else { "no" })
    };
    let data = csv(&format!("a,b,y\n{}", (0..400).map(line).collect::<String>()), Problem::Auto);
    for name in ["xgboost", "random_forest", "decision_tree"] {
        let mut h = Hyperparameters::default();
        h.trees.max_features = Some(MaxFeatures::All);
        let mut model = model(name, &data, &h);
        train(&mut *model, 0..10);
        assert_eq!(held_out(&*model, &data).accuracy, 1.0, "{name}");
    }
}

#[test]
fn a_number_is_learned_in_its_units() {
    let line = |i: i32| {
        let (a, b) = (f64::from((i * 37) % 101) / 10.0, f64::from((i * 53) % 89) / 10.0);
        format!("{a},{b},{}\n", 1000.0 + 50.0 * a * b)
    };
    let text = format!("a,b,y\n{}", (0..1500).map(line).collect::<String>());
    let data = csv(&text, Problem::Regression);
    let TargetKind::Value { std, .. } = data.target else { panic!("a number") };
    for (name, worst) in [("xgboost", 0.1), ("random_forest", 0.15), ("decision_tree", 0.15)] {
        let mut model = model(name, &data, &Hyperparameters::default());
        let trained = train(&mut *model, 0..40);
        let metrics = held_out(&*model, &data);
        assert!(metrics.accuracy < worst * std, "{name}: RMSE {} of {std}", metrics.accuracy);
        assert!((metrics.loss.sqrt() * std - metrics.accuracy).abs() < 1e-6 * std, "{name}: {metrics:?}");
        assert!(trained.metrics.loss < metrics.loss + 1e-9, "{name}");
    }
}

#[test]
fn each_hyperparameter_changes_the_model() {
    let data = load("synthetic:classification?rows=3000&features=8&classes=2&seed=9", Problem::Auto);
    let of = |name: &str, change: &dyn Fn(&mut Hyperparameters)| {
        let mut h = Hyperparameters::default();
        change(&mut h);
        let mut model = model(name, &data, &h);
        train(&mut *model, 0..3);
        model.state().unwrap()
    };
    type Change = &'static dyn Fn(&mut Hyperparameters);
    let boosting: [Change; 10] = [
        &|h| h.learning_rate = Some(0.1),
        &|h| h.trees.max_depth = Some(2),
        &|h| h.trees.max_depth = Some(0),
        &|h| h.trees.min_child_weight = 20.0,
        &|h| h.trees.gamma = 10.0,
        &|h| h.trees.reg_lambda = 10.0,
        &|h| h.trees.reg_alpha = 5.0,
        &|h| h.trees.subsample = 0.5,
        &|h| h.trees.colsample_bytree = 0.5,
        &|h| h.trees.max_bins = 4,
    ];
    let forest: [Change; 6] = [
        &|h| h.trees.max_depth = Some(2),
        &|h| h.trees.max_features = Some(MaxFeatures::Share(0.9)),
        &|h| h.trees.min_samples_leaf = 5,
        &|h| h.trees.min_samples_split = 20,
        &|h| h.trees.bootstrap = Some(Bootstrap::Whole),
        &|h| h.trees.max_bins = 4,
    ];
    for (name, changes) in [("xgboost", &boosting[..]), ("random_forest", &forest[..])] {
        let plain = of(name, &|_| ());
        for (index, change) in changes.iter().enumerate() {
            assert!(of(name, change) != plain, "{name}, change {index}");
        }
    }
    let mut h = Hyperparameters::default();
    h.trees.gamma = 1e12;
    let mut model = model("xgboost", &data, &h);
    train(&mut *model, 0..1);
    let predictions = model.predict();
    assert!(predictions.iter().all(|value| *value == predictions[0] || *value == predictions[1]), "one leaf");
}

#[test]
fn probabilities_add_up_to_one_before_and_after_training() {
    for (name, data, h) in cases() {
        let Some(classes) = data.classes() else { continue };
        let mut model = model(name, &data, &h);
        for tasks in [0..0, 0..5] {
            train(&mut *model, tasks);
            let predictions = model.predict();
            assert_eq!(predictions.len(), data.validation.len() * classes);
            for row in predictions.chunks(classes) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{name}: {row:?}");
            }
        }
    }
}
