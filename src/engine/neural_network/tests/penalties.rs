//! Penalties under the names of scikit-learn and Keras, weights of classes by name, and defaults of linear models.

use super::*;
use crate::domain::{ClassWeight, Penalty, Strictness};
use crate::engine::neural_network::recipe::Recipe;

fn recipe(model: Model, data: &Dataset, given: &[(&str, &str)]) -> Result<Recipe, TaskError> {
    let raw = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let (h, _) = Hyperparameters::parse(&raw, Strictness::Reject).unwrap();
    Recipe::new(model, data, &h)
}

#[test]
fn alpha_is_the_penalty_of_scikit_learns_networks() {
    let data = load("builtin:iris", Problem::Auto);
    let decays = |given: &[(&str, &str)]| {
        let rule = recipe(Model::NeuralNetwork, &data, given).unwrap().rule;
        (rule.weight_decay, rule.bias_decay)
    };
    assert_eq!(decays(&[("alpha", "0.32")]), (0.01, 0.0));
    assert_eq!(decays(&[("alpha", "0.32"), ("batch_size", "64")]), (0.005, 0.0));
    // As scikit-learn, which has no minibatch larger than the data.
    assert_eq!(decays(&[("alpha", "1.2"), ("batch_size", "500")]), (0.01, 0.0));
    assert_eq!(decays(&[("weight_decay", "0.02")]), (0.02, 0.02));
    let error = recipe(Model::Cnn, &load("builtin:digits", Problem::Auto), &[("alpha", "1"), ("l2", "0.1")]);
    assert!(error.unwrap_err().message.starts_with("hyperparameters.alpha: \"1\""));
}

#[test]
fn linear_models_can_do_without_a_penalty() {
    let data = load("builtin:iris", Problem::Auto);
    for model in [Model::LogisticRegression, Model::Svm] {
        let decay = |given: &[(&str, &str)]| recipe(model, &data, given).unwrap().rule.weight_decay;
        assert_eq!(decay(&[("penalty", "none")]), 0.0);
        assert_eq!(decay(&[("penalty", "l2")]), decay(&[]));
        assert_eq!(decay(&[]), 1.0 / data.train.len() as f32);
        let error = recipe(model, &data, &[("penalty", "none"), ("weight_decay", "0.1")]).unwrap_err();
        assert!(error.message.starts_with("hyperparameters.penalty: \"none\""), "{error}");
    }
    assert_eq!(Hyperparameters::default().penalty, Penalty::Squares);
}

#[test]
fn minibatches_of_linear_models_follow_the_rows_unless_they_are_given() {
    let few = load("builtin:iris", Problem::Auto);
    let many = load("synthetic:classification?rows=20000&features=4&classes=2&seed=1", Problem::Auto);
    for (data, given, rows) in [
        (&few, &[][..], 4),
        (&many, &[], 32),
        (&few, &[("batch_size", "32")], 32),
        (&many, &[("batch_size", "4")], 4),
    ] {
        assert_eq!(recipe(Model::LogisticRegression, data, given).unwrap().batch_size, rows);
    }
    assert_eq!(recipe(Model::NeuralNetwork, &few, &[]).unwrap().batch_size, 32);
}

#[test]
fn linear_models_take_the_optimizer_that_they_are_given() {
    let data = load("builtin:iris", Problem::Auto);
    for (given, optimizer, momentum) in [
        (&[][..], Optimizer::RmsProp, 0.9),
        (&[("optimizer", "adam")], Optimizer::Adam, 0.0),
        (&[("learning_rate", "0.1")], Optimizer::Adam, 0.0),
        (&[("optimizer", "momentum")], Optimizer::Sgd, 0.9),
    ] {
        let rule = recipe(Model::Svm, &data, given).unwrap().rule;
        assert_eq!((rule.optimizer, rule.momentum), (optimizer, momentum), "{given:?}");
    }
    assert_eq!(recipe(Model::NeuralNetwork, &data, &[]).unwrap().rule.optimizer, Optimizer::Adam);
}

#[test]
fn classes_count_by_name() {
    let data = load("builtin:wine", Problem::Auto);
    let weights = |weights: &[(&str, f64)]| Hyperparameters {
        class_weight: ClassWeight::ByClass(weights.iter().map(|(c, w)| ((*c).to_owned(), *w)).collect()),
        ..Hyperparameters::default()
    };
    let run = |h: &Hyperparameters| {
        let mut network = network(&data, h);
        network.train(&slice(0..20), &quiet()).unwrap();
        network.weights().unwrap()
    };
    let plain = run(&Hyperparameters::default());
    assert!(run(&weights(&[("class_1", 1.0)])) == plain);
    assert!(run(&weights(&[("class_1", 3.0)])) != plain);
    let error = recipe(Model::Svm, &data, &[("class_weight", "class_9:2")]).unwrap_err();
    assert!(error.message.contains("class_0, class_1, class_2"), "{error}");
    let number = load("builtin:digits", Problem::Regression);
    let error = recipe(Model::NeuralNetwork, &number, &[("class_weight", "balanced")]);
    assert!(error.unwrap_err().message.contains("the target is a number"));
}
