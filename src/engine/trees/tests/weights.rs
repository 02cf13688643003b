//! Weights of classes, and other names that have to fit the target.

use std::collections::BTreeMap;

use super::*;
use crate::domain::{BoostingObjective, ClassWeight, ErrorCode, SplitCriterion};

/// Two classes that overlap; one row of twenty is of class `rare`.
fn rare() -> Arc<Dataset> {
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24)
    };
    let mut text = "x,y,class\n".to_owned();
    for row in 0..3000 {
        let (shift, class) = if row % 20 == 0 { (0.5, "rare") } else { (0.0, "common") };
        text += &format!("{},{},{class}\n", noise() + shift, noise() + shift);
    }
    csv(&text, Problem::Auto)
}

fn weights(pairs: &[(&str, f64)]) -> ClassWeight {
    ClassWeight::ByClass(pairs.iter().map(|(class, weight)| ((*class).to_owned(), *weight)).collect())
}

fn shallow(class_weight: ClassWeight) -> Hyperparameters {
    let mut h = Hyperparameters { class_weight, ..Hyperparameters::default() };
    h.trees.max_depth = Some(3);
    h
}

#[test]
fn a_rare_class_is_found_where_it_counts_for_more() {
    let data = rare();
    let Targets::Classes(ids) = &data.validation.targets else { panic!("classes") };
    let rare = ids.iter().filter(|id| **id == 1).count();
    let found = |name: &str, h: &Hyperparameters| {
        let mut model = model(name, &data, h);
        train(&mut *model, 0..10);
        let predictions = model.predict();
        ids.iter()
            .zip(predictions.chunks(2))
            .filter(|(id, shares)| **id == 1 && shares[1] > shares[0])
            .count()
    };
    for name in ["xgboost", "random_forest", "decision_tree"] {
        let plain = found(name, &shallow(ClassWeight::None));
        for weighed in [ClassWeight::Balanced, weights(&[("rare", 19.0)])] {
            let found = found(name, &shallow(weighed.clone()));
            assert!(
                found * 10 >= rare * 7 && found > plain,
                "{name} {weighed:?}: {plain}, {found} of {rare}"
            );
        }
    }
    let mut h = shallow(ClassWeight::None);
    h.trees.scale_pos_weight = 19.0;
    assert_eq!(found("xgboost", &h), found("xgboost", &shallow(weights(&[("rare", 19.0)]))));
}

#[test]
fn equal_weights_change_nothing_in_a_forest_and_scale_what_boosting_sees() {
    let data = load("builtin:wine", Problem::Auto);
    let state = |name: &str, h: &Hyperparameters| {
        let mut model = model(name, &data, h);
        train(&mut *model, 0..4);
        model.predict()
    };
    let labels = ["class_0", "class_1", "class_2"];
    let heavy = weights(&labels.map(|label| (label, 4.0)));
    for name in ["random_forest", "decision_tree"] {
        let plain = state(name, &Hyperparameters::default());
        assert_eq!(
            state(name, &Hyperparameters { class_weight: heavy.clone(), ..Hyperparameters::default() }),
            plain
        );
    }
    // Four times the derivatives under four times the penalties are the same trees.
    let mut plain = Hyperparameters::default();
    plain.trees.min_child_weight = 0.5;
    let mut weighed = Hyperparameters { class_weight: heavy, ..Hyperparameters::default() };
    weighed.trees.reg_lambda = 4.0 * plain.trees.reg_lambda;
    weighed.trees.min_child_weight = 4.0 * plain.trees.min_child_weight;
    for (plain, weighed) in state("xgboost", &plain).into_iter().zip(state("xgboost", &weighed)) {
        assert!((plain - weighed).abs() < 1e-5, "{plain} {weighed}");
    }
}

#[test]
fn what_does_not_fit_the_target_is_an_error_that_names_it() {
    let two = load("builtin:breast_cancer", Problem::Auto);
    let three = load("builtin:wine", Problem::Auto);
    let number = load("synthetic:regression?rows=100&features=4&seed=2", Problem::Regression);
    type Change = fn(&mut Hyperparameters);
    let cases: [(&str, &Arc<Dataset>, &str, Change); 10] = [
        ("xgboost", &number, "class_weight", |h| h.class_weight = ClassWeight::Balanced),
        ("random_forest", &number, "class_weight", |h| h.class_weight = ClassWeight::Balanced),
        ("decision_tree", &three, "class_weight", |h| {
            h.class_weight = ClassWeight::ByClass(BTreeMap::from([("7".to_owned(), 2.0)]));
        }),
        ("xgboost", &three, "scale_pos_weight", |h| h.trees.scale_pos_weight = 2.0),
        ("xgboost", &number, "scale_pos_weight", |h| h.trees.scale_pos_weight = 2.0),
        ("xgboost", &three, "objective", |h| h.trees.objective = Some(BoostingObjective::BinaryLogistic)),
        ("xgboost", &two, "objective", |h| h.trees.objective = Some(BoostingObjective::SquaredError)),
        ("xgboost", &number, "objective", |h| h.trees.objective = Some(BoostingObjective::MultiSoftmax)),
        ("random_forest", &number, "criterion", |h| h.trees.criterion = Some(SplitCriterion::Gini)),
        ("decision_tree", &two, "criterion", |h| h.trees.criterion = Some(SplitCriterion::SquaredError)),
    ];
    for (name, data, field, change) in cases {
        let mut h = Hyperparameters::default();
        change(&mut h);
        let entry = ModelEntry::of(&ModelType::parse(name).unwrap()).unwrap();
        let blueprint = Blueprint { data, hyperparameters: &h, device: &ComputeDevice::cpu(), seed: SEED };
        let error = (entry.build)(&blueprint).err().unwrap_or_else(|| panic!("{name} {field}"));
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        assert!(error.message.starts_with(&format!("hyperparameters.{field}: ")), "{error}");
    }
}

#[test]
fn alpha_is_the_l1_penalty_of_boosting() {
    let data = load("builtin:breast_cancer", Problem::Auto);
    let state = |h: &Hyperparameters| {
        let mut model = model("xgboost", &data, h);
        train(&mut *model, 0..3);
        model.state().unwrap()
    };
    let mut reg_alpha = Hyperparameters::default();
    reg_alpha.trees.reg_alpha = 2.0;
    let alpha = Hyperparameters { alpha: Some(2.0), ..Hyperparameters::default() };
    assert!(state(&alpha) == state(&reg_alpha) && state(&alpha) != state(&Hyperparameters::default()));
}
