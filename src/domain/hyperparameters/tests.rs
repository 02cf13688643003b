//! What is understood, what is refused and what is noted.

mod fuzz;

use super::super::{Backend, BackendChoice};
use super::table::layers;
use super::*;

fn parse(pairs: &[(&str, &str)]) -> Result<(Hyperparameters, Vec<String>), InvalidField> {
    let raw = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Hyperparameters::parse(&raw, Strictness::Warn)
}

#[test]
fn what_the_form_of_tensorfleet_sends_is_understood() {
    let (parsed, notes) = parse(&[
        ("learning_rate", "0.01"),
        ("batch_size", "64"),
        ("optimizer", "AdamW"),
        ("loss_function", "sparse_categorical_crossentropy"),
        ("validation_split", "0.25"),
        ("early_stopping", "false"),
        ("save_checkpoints", "false"),
        ("job_name", "mine"),
        ("description", "words"),
        ("backend", "cpu"),
    ])
    .unwrap();
    assert_eq!(parsed.learning_rate, Some(0.01));
    assert_eq!(parsed.batch_size, 64);
    assert_eq!(parsed.optimizer, Optimizer::AdamW);
    assert_eq!(parsed.loss, Some(Loss::CrossEntropy));
    assert_eq!(parsed.validation_split, 0.25);
    assert_eq!(parsed.backend, Some(BackendChoice::Only(Backend::Cpu)));
    assert_eq!(notes, Vec::<String>::new());
}

#[test]
fn bad_values_name_field_value_and_range() {
    for (name, value) in [
        ("learning_rate", "-1"),
        ("learning_rate", "NaN"),
        ("learning_rate", "fast"),
        ("batch_size", "0"),
        ("batch_size", "1.5"),
        ("optimizer", "lion"),
        ("hidden_layers", "0"),
        ("hidden_layers", "a,b"),
        ("validation_split", "0.95"),
        ("seed", "-3"),
        ("momentum", "1"),
        ("weight_decay", "2"),
        ("loss_function", "hinge"),
        ("backend", "cuda"),
        ("early_stopping", "perhaps"),
        ("target", ""),
    ] {
        let error = parse(&[(name, value)]).unwrap_err();
        assert_eq!(error.field, format!("hyperparameters.{name}"));
        assert_eq!(error.value, value);
        assert!(!error.allowed.is_empty(), "{name}");
    }
}

#[test]
fn an_unknown_name_is_a_note_with_the_nearest_known_one_or_an_error() {
    let (_, notes) = parse(&[("learning_rat", "1")]).unwrap();
    assert!(notes[0].contains("did you mean \"learning_rate\""), "{notes:?}");
    let raw = BTreeMap::from([("zzz".to_owned(), "1".to_owned())]);
    let error = Hyperparameters::parse(&raw, Strictness::Reject).unwrap_err();
    assert!(error.allowed.contains("hidden_layers"), "{error}");
}

#[test]
fn one_thing_has_one_value() {
    let error = parse(&[("learning_rate", "0.1"), ("lr", "0.2")]).unwrap_err();
    assert!(error.allowed.contains("learning_rate and lr"), "{error}");
}

#[test]
fn layers_come_in_the_spellings_of_the_field() {
    for raw in ["128,64", "[128, 64]", "(128, 64)", "128-64", "(128, 64,)"] {
        assert_eq!(layers(raw), Some(vec![128, 64]), "{raw}");
    }
    assert_eq!(layers("none"), Some(vec![]));
    assert_eq!(layers("(100,)"), Some(vec![100]));
    assert_eq!(layers(""), None);
}

#[test]
fn the_optimizer_momentum_brings_its_usual_momentum() {
    assert_eq!(parse(&[("optimizer", "momentum")]).unwrap().0.momentum, 0.9);
    for given in ["0.5", "0"] {
        let parsed = parse(&[("momentum", given), ("optimizer", "momentum")]).unwrap().0;
        assert_eq!(parsed.momentum.to_string(), given);
    }
}

#[test]
fn momentum_that_no_optimizer_takes_is_a_note() {
    for optimizer in [None, Some("adam"), Some("AdamW")] {
        let pairs: Vec<_> =
            optimizer.map(|name| ("optimizer", name)).into_iter().chain([("momentum", "0.5")]).collect();
        let (_, notes) = parse(&pairs).unwrap();
        assert!(notes[0].starts_with("momentum=0.5 has no effect with optimizer=adam"), "{notes:?}");
    }
    for optimizer in ["sgd", "momentum", "rmsprop"] {
        assert!(parse(&[("optimizer", optimizer), ("momentum", "0.5")]).unwrap().1.is_empty());
    }
    assert!(parse(&[("optimizer", "adam"), ("momentum", "0")]).unwrap().1.is_empty());
}

#[test]
fn adamw_decays_by_a_hundredth_unless_told_otherwise() {
    let decay = |pairs: &[(&str, &str)]| parse(pairs).unwrap().0.weight_decay;
    assert_eq!(decay(&[("optimizer", "adamw")]), 0.01);
    assert_eq!(decay(&[("optimizer", "adamw"), ("l2", "0")]), 0.0);
    assert_eq!(decay(&[("optimizer", "adamw"), ("weight_decay", "0.2")]), 0.2);
    assert_eq!(decay(&[("optimizer", "adam")]), 0.0);
}
