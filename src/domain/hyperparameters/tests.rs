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
        ("solver", "lbfgs"),
        ("activation", "tanh"),
        ("class_weight", "0:1,1"),
        ("class_weight", "0:1,1:-2"),
        ("class_weight", "0:1,0:2"),
        ("class_weight", "{}"),
        ("penalty", "l1"),
        ("alpha", "-1"),
        ("min_delta", "-0.1"),
        ("objective", "rank:pairwise"),
        ("criterion", "entropy"),
        ("tree_method", "gpu_hist"),
        ("scale_pos_weight", "0"),
        ("colsample_bynode", "0"),
        ("n_jobs", "-2"),
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

#[test]
fn patience_asks_for_early_stopping() {
    for name in ["patience", "n_iter_no_change", "early_stopping_rounds"] {
        let (parsed, notes) = parse(&[(name, "3")]).unwrap();
        assert_eq!((parsed.stopping, parsed.patience), (Stopping::Early, Some(3)), "{name}");
        assert!(notes.is_empty(), "{notes:?}");
        let (parsed, notes) = parse(&[(name, "3"), ("early_stopping", "false")]).unwrap();
        assert_eq!(parsed.stopping, Stopping::Never);
        assert!(notes[0].starts_with(&format!("{name}=3 has no effect without early_stopping")), "{notes:?}");
    }
    let (parsed, notes) = parse(&[("early_stopping", "true"), ("tol", "0.01")]).unwrap();
    assert_eq!((parsed.patience, parsed.min_delta, notes.len()), (None, 0.01, 0));
    let (_, notes) = parse(&[("tol", "0.01")]).unwrap();
    assert!(notes[0].starts_with("tol=0.01 has no effect"), "{notes:?}");
}

#[test]
fn weights_of_classes_come_as_pairs_as_python_has_them_or_as_json() {
    let weights = |raw: &str| match parse(&[("class_weight", raw)]).unwrap().0.class_weight {
        ClassWeight::ByClass(weights) => weights.into_iter().collect::<Vec<_>>(),
        other => panic!("{raw}: {other:?}"),
    };
    let pair = |a: &str, b: &str| vec![(a.to_owned(), 1.0), (b.to_owned(), 5.0)];
    for raw in ["0:1,1:5", "0: 1.0, 1: 5", "{0: 1, 1: 5}", "{'0': 1, \"1\": 5}", "{\"0\": 1, \"1\": 5}"] {
        assert_eq!(weights(raw), pair("0", "1"), "{raw}");
    }
    assert_eq!(weights("a:b:5,Not so:1"), pair("Not so", "a:b"));
    assert_eq!(weights("{\"a, b\": 1, \"c\": 5}"), pair("a, b", "c"));
    assert_eq!(parse(&[("class_weight", "Balanced")]).unwrap().0.class_weight, ClassWeight::Balanced);
}

#[test]
fn names_of_scikit_learn_xgboost_and_keras_are_known() {
    let raw =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let strict = |pairs: &[(&str, &str)]| Hyperparameters::parse(&raw(pairs), Strictness::Reject).unwrap();
    let (parsed, notes) = strict(&[
        ("learning_rate_init", "0.02"),
        ("solver", "sgd"),
        ("activation", "relu"),
        ("validation_fraction", "0.1"),
        ("penalty", "none"),
        ("criterion", "gini"),
        ("alpha", "0.5"),
        ("loss", "mae"),
        ("epochs", "7"),
        ("objective", "multi:softmax"),
        ("tree_method", "hist"),
        ("colsample_bylevel", "1.0"),
        ("scale_pos_weight", "3"),
    ]);
    assert_eq!((parsed.learning_rate, parsed.optimizer), (Some(0.02), Optimizer::Sgd));
    assert_eq!((parsed.validation_split, parsed.penalty, parsed.alpha), (0.1, Penalty::None, Some(0.5)));
    assert_eq!((parsed.loss, parsed.total_epochs), (Some(Loss::MeanAbsoluteError), Some(7)));
    assert_eq!(parsed.trees.objective, Some(BoostingObjective::MultiSoftmax));
    assert_eq!(parsed.trees.scale_pos_weight, 3.0);
    assert_eq!(notes, Vec::<String>::new());
    // What is not done as it is said is noted.
    let (_, notes) = strict(&[
        ("n_jobs", "-1"),
        ("tree_method", "exact"),
        ("colsample_bynode", "0.5"),
        ("C", "2"),
        ("penalty", "none"),
    ]);
    for (note, start) in
        notes.iter().zip(["C=2 has", "colsample_bynode=0.5", "n_jobs=-1 has", "tree_method=exact has"])
    {
        assert!(note.starts_with(start), "{note}");
    }
    assert_eq!(notes.len(), 4, "{notes:?}");
}

/// What these are in every version. Where a change of the code changes this text, sessions with such settings do not find
/// their checkpoints any more.
#[test]
fn the_identity_of_settings_is_the_one_that_was_recorded() {
    let identity = |pairs: &[(&str, &str)]| parse(pairs).unwrap().0.identity();
    let settings = [
        ("learning_rate", "0.01"),
        ("batch_size", "64"),
        ("optimizer", "sgd"),
        ("class_weight", "yes:2.5,no:1"),
        ("hidden_layers", "32,16"),
        ("target", "price"),
        ("max_depth", "4"),
        ("max_features", "sqrt"),
        ("subsample", "1"),
        ("seed", "18446744073709551615"),
        ("patience", "5"),
        ("loss_function", "mean_squared_error"),
    ];
    let recorded = "\
batch_size=64
class_weight={\"ByClass\":{\"no\":1.0,\"yes\":2.5}}
hidden_layers=[32,16]
learning_rate=0.01
loss=\"MeanSquaredError\"
optimizer=\"Sgd\"
patience=5
seed=18446744073709551615
stopping=\"Early\"
target=\"price\"
trees.max_depth=4
trees.max_features=\"Sqrt\"
given batch_size
given class_weight
given hidden_layers
given learning_rate
given loss_function
given max_depth
given max_features
given optimizer
given patience
given seed
given subsample
given target
";
    assert_eq!(identity(&settings), recorded);
    let mut turned = settings;
    turned.reverse();
    assert_eq!(identity(&turned), recorded, "the order makes no difference");
    let aliases = [
        ("eta", "1e-2"),
        ("batch_size", " 64 "),
        ("solver", "SGD"),
        ("class_weight", "no:1.0,yes:2.50"),
        ("hidden_units", "32, 16"),
        ("label", "price"),
        ("max_depth", "4"),
        ("max_features", "sqrt"),
        ("subsample", "1.0"),
        ("random_state", "18446744073709551615"),
        ("early_stopping_rounds", "5"),
        ("loss", "mse"),
    ];
    assert_eq!(identity(&aliases), recorded, "nor does the name by which something is called");
    assert_eq!(identity(&[]), "", "what nobody sets is no part of it, as will be what a later version adds");
}

#[test]
fn whatever_is_set_otherwise_is_another_identity() {
    let identity = |pairs: &[(&str, &str)]| parse(pairs).unwrap().0.identity();
    let mut seen = BTreeSet::from([identity(&[])]);
    for name in Hyperparameters::names() {
        let value =
            ["2", "true", "0.5", "relu", "a,b", "1x2x2", "sgd", "cosine", "step", "none", "cpu", "hist"]
                .into_iter()
                .chain(["mse", "gini", "classification", "reg:squarederror", "binary:logistic", "balanced"])
                .find(|value| parse(&[(name, value)]).is_ok());
        let value = value.unwrap_or_else(|| panic!("{name}: none of the values will do"));
        assert!(seen.insert(identity(&[(name, value)])), "{name}={value}");
    }
}
