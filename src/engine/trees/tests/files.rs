//! Model files and states: what is written is read, and nothing that is read can harm.

use std::sync::OnceLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::ErrorCode;

#[test]
fn a_model_file_gives_the_same_predictions_and_training_goes_on_from_it() {
    for (name, data, h) in cases() {
        let mut first = model(name, &data, &h);
        train(&mut *first, 0..4);
        let mut second = model(name, &data, &h);
        second.load_weights(&first.weights().unwrap()).unwrap();
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 2e-6);
        assert!(close(&first.predict(), &second.predict()), "{name} {}", data.path);
        let (a, b) = (held_out(&*first, &data), held_out(&*second, &data));
        assert!((a.loss - b.loss).abs() < 1e-4 * (1.0 + a.loss), "{a:?} {b:?}");
        train(&mut *first, 4..6);
        train(&mut *second, 4..6);
        let (a, b) = (held_out(&*first, &data), held_out(&*second, &data));
        assert!((a.loss - b.loss).abs() < 0.05 * (1.0 + a.loss), "{name} {}: {a:?} {b:?}", data.path);
        // Twice the same is the same, whatever was trained before.
        let file = first.weights().unwrap();
        second.load_weights(&file).unwrap();
        let mut third = model(name, &data, &h);
        third.load_weights(&file).unwrap();
        assert_eq!(everything(&*second), everything(&*third), "{name} {}", data.path);
    }
}

fn iris() -> &'static Arc<Dataset> {
    static DATA: OnceLock<Arc<Dataset>> = OnceLock::new();
    DATA.get_or_init(|| load("builtin:iris", Problem::Auto))
}

fn trained(name: &str) -> Box<dyn Trainer> {
    let mut model = model(name, iris(), &Hyperparameters::default());
    train(&mut *model, 0..2);
    model
}

fn file() -> &'static Vec<u8> {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| trained("xgboost").weights().unwrap())
}

fn refused(file: &Value, said: &str) {
    let mut model = model("xgboost", iris(), &Hyperparameters::default());
    let before = everything(&*model);
    let error = model.load_weights(&serde_json::to_vec(file).unwrap()).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(error.message.starts_with("model_weights: ") && error.message.contains(said), "{error}");
    assert_eq!(everything(&*model), before, "nothing has changed");
}

#[test]
fn what_is_no_such_model_is_refused_with_the_reason() {
    let good: Value = serde_json::from_slice(file()).unwrap();
    let changed = |pointer: &str, value: Value| {
        let mut file = good.clone();
        *file.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        file
    };
    let tree = "/learner/gradient_booster/model/trees/1";
    let count = good.pointer(&format!("{tree}/left_children")).unwrap().as_array().unwrap().len();
    for (pointer, value, said) in [
        (format!("{tree}/left_children/0"), json!(0), "node 0 twice"),
        (format!("{tree}/left_children/0"), json!(2), "node 2 twice"),
        (format!("{tree}/left_children/0"), json!(count), "children"),
        (format!("{tree}/left_children/0"), json!(-7), "children"),
        (format!("{tree}/left_children/0"), json!(-1), "children"),
        (format!("{tree}/split_indices/0"), json!(4), "feature 4 of 4"),
        (format!("{tree}/split_conditions/0"), json!(1e300), "no number"),
        (format!("{tree}/split_type/0"), json!(1), "categorical"),
        (format!("{tree}/split_conditions"), json!([]), "left_children"),
        (tree.to_owned(), json!({}), "XGBoost JSON model"),
        ("/learner/gradient_booster/model/tree_info/0".to_owned(), json!(1), "one an output"),
        ("/learner/gradient_booster/name".to_owned(), json!("gblinear"), "booster gblinear"),
        ("/learner/learner_model_param/num_feature".to_owned(), json!("5"), "num_feature 5"),
        ("/learner/learner_model_param/base_score".to_owned(), json!("[1,2]"), "base_score"),
        ("/learner/learner_model_param/base_score".to_owned(), json!("NaN"), "base_score"),
        ("/learner/objective/name".to_owned(), json!("binary:logistic"), "objective binary:logistic"),
    ] {
        refused(&changed(&pointer, value), said);
    }
    refused(&json!([1]), "XGBoost JSON model");
    let forest: Value = serde_json::from_slice(&trained("random_forest").weights().unwrap()).unwrap();
    refused(&forest, "objective reg:squarederror");
}

#[test]
fn the_file_of_a_forest_weighs_each_tree_alike_and_names_its_classes() {
    let model = trained("random_forest");
    let file: Value = serde_json::from_slice(&model.weights().unwrap()).unwrap();
    let weights = file.pointer("/learner/gradient_booster/weight_drop").unwrap().as_array().unwrap();
    assert_eq!(weights, &vec![json!(0.5); 6]);
    let classes = file.pointer("/learner/attributes/classes").unwrap().as_str().unwrap();
    assert_eq!(serde_json::from_str::<Vec<String>>(classes).unwrap().len(), 3);
    // XGBoost finds the right child beside the left one.
    for tree in file.pointer("/learner/gradient_booster/gbtree/model/trees").unwrap().as_array().unwrap() {
        let children = |side: &str| -> Vec<i64> { serde_json::from_value(tree[side].clone()).unwrap() };
        for (left, right) in children("left_children").into_iter().zip(children("right_children")) {
            assert!(right == left + 1 || (left, right) == (-1, -1), "{left} {right}");
        }
    }
}

/// Puts `value` somewhere into `file`: the `place`-th of all values in it.
fn put(file: &mut Value, place: &mut usize, value: &Value) -> bool {
    if *place == 0 {
        *file = value.clone();
        return true;
    }
    *place -= 1;
    match file {
        Value::Array(items) => items.iter_mut().any(|item| put(item, place, value)),
        Value::Object(fields) => fields.values_mut().any(|item| put(item, place, value)),
        _ => false,
    }
}

fn values(file: &Value) -> usize {
    1 + match file {
        Value::Array(items) => items.iter().map(values).sum(),
        Value::Object(fields) => fields.values().map(values).sum(),
        _ => 0,
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-3_i64..40).prop_map(|number| json!(number)),
        any::<f64>().prop_map(|number| json!(number)),
        any::<i64>().prop_map(|number| json!(number)),
        Just(json!("1E9999")),
        Just(json!([])),
        Just(json!({})),
        Just(Value::Null),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_model_file_is_refused_or_a_model(mutations in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..4)) {
        let mut mutated: Value = serde_json::from_slice(file()).unwrap();
        for (index, value) in mutations {
            let mut place = index.index(values(&mutated));
            put(&mut mutated, &mut place, &value);
        }
        let mut model = model("xgboost", iris(), &Hyperparameters::default());
        match model.load_weights(&serde_json::to_vec(&mutated).unwrap()) {
            Ok(()) => {
                prop_assert_eq!(model.predict().len(), iris().validation.len() * 3);
                prop_assert!(model.weights().is_ok());
            }
            Err(error) => prop_assert_eq!(error.code, ErrorCode::InvalidArgument),
        }
    }

    #[test]
    fn mutated_bytes_are_refused_or_a_model(at in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 0..6), cut in any::<bool>()) {
        for (name, state) in [("xgboost", false), ("xgboost", true), ("random_forest", true)] {
            let mut model = trained(name);
            let mut file = if state { model.state().unwrap() } else { model.weights().unwrap() };
            let at = at.index(file.len());
            if cut {
                file.truncate(at);
            }
            for (place, byte) in file.iter_mut().skip(at).zip(&bytes) {
                *place = *byte;
            }
            let taken = if state { model.restore(&file) } else { model.load_weights(&file) };
            prop_assert!(model.weights().is_ok() && model.predict().len() == iris().validation.len() * 3);
            if cut {
                prop_assert!(taken.is_err());
            }
        }
    }
}
