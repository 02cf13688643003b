//! Classes and numbers, and which rows are held out.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn table(targets: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    let rows = targets.into_iter().enumerate().map(|(row, y)| format!("{},{y}\n", row * row));
    format!("x,y\n{}", rows.collect::<String>())
}

fn with(problem: Problem) -> LoadOptions {
    LoadOptions { problem, validation_split: 0.0, ..LoadOptions::default() }
}

#[test]
fn what_auto_takes_for_classes() {
    let auto = |content: String| load_csv(&content, &all()).unwrap().classes();
    assert_eq!(auto(table(["cat", "dog", "cat"])), Some(2));
    assert_eq!(auto(table(["true", "false", "true"])), Some(2));
    assert_eq!(auto(table([0, 1, 1])), Some(2));
    assert_eq!(auto(table(["0.0", "1.0", "1.0"])), Some(2));
    assert_eq!(auto(table([-1, 1])), Some(2));
    assert_eq!(auto(table((0..15).map(|row| row % 3))), Some(3));
    assert_eq!(auto(table((0..14).map(|row| row % 3))), None);
    assert_eq!(auto(table((0..100).map(|row| row % 20))), Some(20));
    assert_eq!(auto(table((0..1000).map(|row| row % 21))), None);
    assert_eq!(auto(table((0..40).map(|row| f64::from(row % 4) / 2.0))), None);
}

#[test]
fn labels_are_sorted_so_that_ids_are_stable() {
    let dataset = load_csv(&table([10, 9, 100, 9, 10, -1]), &with(Problem::Classification)).unwrap();
    assert_eq!(labels(&dataset), ["-1", "9", "10", "100"]);
    assert_eq!(class_ids(&dataset.train), [2, 1, 3, 1, 2, 0]);
    let dataset = load_csv(&table(["b", "a", "b", "10"]), &all()).unwrap();
    assert_eq!(labels(&dataset), ["10", "a", "b"]);
    let dataset = load_csv(&table(["0.5", "0.1", "0.5"]), &with(Problem::Classification)).unwrap();
    assert_eq!(labels(&dataset), ["0.1", "0.5"]);
    let big = load_csv(&table(["16777217", "16777216", "1"]), &with(Problem::Classification)).unwrap();
    assert_eq!(labels(&big), ["1", "16777216", "16777217"]);
}

#[test]
fn targets_that_cannot_be_learned() {
    let code = ErrorCode::InvalidArgument;
    let same = ["hyperparameters.target", "\"y\"", "same value, \"a\"", "allowed"];
    refused(table(["a", "a"]), &all(), code, &same);
    refused(table([3, 3]), &all(), code, &["\"y\"", "same value, \"3\""]);
    refused(table(["0.5", "0.5"]), &all(), code, &["\"y\"", "same value, \"0.5\""]);
    refused(table(["", "NA"]), &all(), code, &["hyperparameters.target", "no row", "\"y\"", "allowed"]);
    refused(table((0..1001).map(|row| format!("w{row}"))), &all(), code, &["\"y\"", "at most 1000"]);
    refused(table(0..1001), &with(Problem::Classification), code, &["\"y\"", "at most 1000"]);
    let word = ["hyperparameters.target", "\"y\"", "line 4", "\"x\"", "allowed"];
    refused(table(["1", "2", "x"]), &with(Problem::Regression), code, &word);
    refused("y\n1\n2\n", &all(), code, &["no column to learn from", "\"y\""]);
    assert!(load_csv(&table((0..1000).map(|row| format!("w{row}"))), &all()).is_ok());
}

#[test]
fn the_target_is_found_by_name() {
    let content = "y,x\na,1\nb,2\n";
    let options = LoadOptions { target: Some("y".to_owned()), ..all() };
    let dataset = load_csv(content, &options).unwrap();
    assert_eq!((dataset.target_name.as_str(), dataset.feature_names.len()), ("y", 1));
    let options = LoadOptions { target: Some("z".to_owned()), ..all() };
    refused(
        content,
        &options,
        ErrorCode::InvalidArgument,
        &["hyperparameters.target", "\"z\"", "(\"y\", \"x\")"],
    );
}

#[test]
fn names_of_columns_are_shortened_and_cleaned_in_errors() {
    let names: Vec<String> = (0..50).map(|n| format!("\"line\nbreak {n} {}\"", "n".repeat(10_000))).collect();
    let content = format!("{}\n{}1\n", names.join(","), "1,".repeat(49));
    let options = LoadOptions { target: Some("z".to_owned()), ..all() };
    let error = TaskError::from(load_csv(&content, &options).unwrap_err());
    assert!(error.message.len() < 8_000 && !error.message.contains('\n'), "{error}");
    assert!(error.message.contains("break 39") && error.message.contains("and 10 more"), "{error}");
}

#[test]
fn held_out_numbers_are_those_of_the_file() {
    let numbers = ["1000", "0.1", "1234.5678", "-7", "16777217", "3.3333333"];
    let content = table(numbers);
    let options =
        LoadOptions { problem: Problem::Regression, validation_split: 0.5, ..LoadOptions::default() };
    let dataset = load_csv(&content, &options).unwrap();
    let found: Vec<String> = dataset.held_out_numbers.iter().map(f64::to_string).collect();
    let expected: Vec<&str> = dataset.validation.rows.iter().map(|row| numbers[*row as usize]).collect();
    assert_eq!(found, expected);
    let named = LoadOptions { target: Some("y".to_owned()), ..options };
    assert_eq!(load_csv(&content, &named).unwrap(), dataset);
    let classes = load_csv(&table(["a", "b", "a", "b"]), &LoadOptions::default()).unwrap();
    assert!(classes.held_out_numbers.is_empty());
}

#[test]
fn rows_without_a_target_are_dropped_with_a_note() {
    let dataset = load_csv("x,y\n1,a\n2,?\n3,b\n4,\n5,a\n", &all()).unwrap();
    assert_eq!(dataset.train.rows, [0, 2, 4]);
    assert_eq!(class_ids(&dataset.train), [0, 1, 0]);
    assert_eq!(dataset.notes, ["2 of 5 rows dropped, without a target"]);
    let dataset = load_csv("x,y\n1,1.5\n2,NA\n3,2.5\n", &all()).unwrap();
    assert_eq!(dataset.train.rows, [0, 2]);
}

#[test]
fn numbers_are_standardised_by_the_training_part_and_can_be_taken_back() {
    let content = table((0..100).map(|row| f64::from(row) * 3.5 + 1000.25));
    let dataset = load_csv(&content, &LoadOptions { seed: 5, ..LoadOptions::default() }).unwrap();
    let TargetKind::Value { mean, std } = dataset.target else { panic!("{:?}", dataset.target) };
    assert_eq!((dataset.train.len(), dataset.validation.len()), (80, 20));
    let truth = |row: &u32| f64::from(*row) * 3.5 + 1000.25;
    let train_mean = dataset.train.rows.iter().map(truth).sum::<f64>() / 80.0;
    assert!((mean - train_mean).abs() < 1e-9, "{mean} {train_mean}");
    for part in [&dataset.train, &dataset.validation] {
        let Targets::Values(values) = &part.targets else { panic!("values") };
        for (row, value) in part.rows.iter().zip(values) {
            assert!((f64::from(*value) * std + mean - truth(row)).abs() < 1e-4);
        }
    }
}

#[test]
fn extreme_numbers_stay_finite() {
    let content = "x,y\n1e308,1e300\n-1e308,-1e300\n1e-320,0.5\n1e308,1e-300\n1,2\n";
    let dataset = load_csv(content, &with(Problem::Regression)).unwrap();
    assert!(dataset.train.features.iter().all(|figure| figure.is_finite()));
    let Targets::Values(values) = &dataset.train.targets else { panic!("values") };
    assert!(values.iter().all(|value| value.is_finite()) && values[0] > 1.0);
}

#[test]
fn a_bad_share_is_refused() {
    for validation_split in [-0.1, 0.91, f64::NAN, f64::INFINITY] {
        let options = LoadOptions { validation_split, ..LoadOptions::default() };
        let words = ["hyperparameters.validation_split", "0 to 0.9"];
        refused(table([0, 1]), &options, ErrorCode::InvalidArgument, &words);
    }
}

#[test]
fn the_split_is_stratified() {
    let root = Root::new();
    let dataset = root.load("builtin:breast_cancer", &LoadOptions::default()).unwrap();
    let count = |part: &Part, id| class_ids(part).iter().filter(|other| **other == id).count();
    assert_eq!((count(&dataset.validation, 0), count(&dataset.validation, 1)), (72, 42));
    assert_eq!((count(&dataset.train, 0), count(&dataset.train, 1)), (285, 170));
    let other =
        root.load("builtin:breast_cancer", &LoadOptions { seed: 1, ..LoadOptions::default() }).unwrap();
    assert_ne!(dataset.validation.rows, other.validation.rows);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn parts_are_disjoint_complete_and_repeatable(
        targets in proptest::collection::vec(0_u32..4, 2..60),
        validation_split in 0.0..=0.9,
        seed: u64,
        problem in prop_oneof![Just(Problem::Classification), Just(Problem::Regression)],
    ) {
        prop_assume!(targets.iter().any(|target| *target != targets[0]));
        let content = table(&targets);
        let options = LoadOptions { validation_split, seed, problem, ..LoadOptions::default() };
        let dataset = load_csv(&content, &options).unwrap();
        prop_assert_eq!(&dataset, &load_csv(&content, &options).unwrap());
        let rows: HashSet<u32> = dataset.train.rows.iter().chain(&dataset.validation.rows).copied().collect();
        prop_assert_eq!(rows.len(), targets.len());
        prop_assert_eq!(dataset.train.len() + dataset.validation.len(), targets.len());
        prop_assert!(!dataset.train.is_empty());
        prop_assert!(dataset.train.rows.is_sorted() && dataset.validation.rows.is_sorted());
        if problem == Problem::Classification {
            let classes: HashSet<u32> = targets.iter().copied().collect();
            let trained: HashSet<u32> = class_ids(&dataset.train).iter().copied().collect();
            prop_assert_eq!(trained.len(), classes.len());
        }
    }
}
