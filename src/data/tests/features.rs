//! Columns to features, fitted on the training part only.

use proptest::prelude::*;

use super::*;

fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
    }
}

#[test]
fn missing_numbers_become_the_median_and_constants_zero() {
    let content = "x,c,y\n1,5,a\n,5,b\n2,5,a\n10,?,b\nNA,5,a\n3,5,b\n";
    let dataset = load_csv(content, &all()).unwrap();
    let Encoding::Number { median, mean, std } = dataset.preprocessor.columns[0].encoding else { panic!() };
    // The middle of 1, 2, 3, 10; then the mean of 1, 2.5, 2, 10, 2.5, 3.
    assert!(median == 2.5 && (mean - 3.5).abs() < 1e-12, "{median} {mean}");
    let scaled: Vec<f32> =
        [1.0, 2.5, 2.0, 10.0, 2.5, 3.0].iter().map(|x| ((x - mean) / std) as f32).collect();
    close(&feature(&dataset, &dataset.train, 0), &scaled);
    close(&feature(&dataset, &dataset.train, 1), &[0.0; 6]);
}

#[test]
fn the_training_part_has_mean_zero_and_deviation_one() {
    let dataset = Root::new().load("builtin:wine", &LoadOptions::default()).unwrap();
    for index in 0..dataset.width() {
        let values = feature(&dataset, &dataset.train, index);
        let count = values.len() as f64;
        let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
        let variance = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
        assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-5, "{index}: {mean} {variance}");
    }
}

#[test]
fn words_become_a_feature_each_and_missing_is_one_of_them() {
    let dataset = load_csv("c,y\nred,0\nblue,1\n,0\nred,1\n", &all()).unwrap();
    assert_eq!(dataset.feature_names, ["c=blue", "c=red", "c=(missing)"]);
    let rows = [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]];
    assert_eq!(dataset.train.features, rows.concat());
}

#[test]
fn words_that_only_held_out_rows_have_are_all_zero() {
    let content: String = (0..30).map(|row| format!("w{},{}\n", row % 29, row % 2)).collect();
    let content = format!("c,y\n{}", content.replace("w28,", "w0,"));
    let options = LoadOptions { validation_split: 0.5, ..LoadOptions::default() };
    // Nearly all words are different here, so keep the training part below what counts as ids.
    let dataset = load_csv(&content, &options).unwrap();
    let Encoding::OneHot { words, .. } = &dataset.preprocessor.columns[0].encoding else { panic!() };
    let word = |row: &u32| if *row == 28 { "w0".to_owned() } else { format!("w{}", row % 29) };
    let mut unknown = 0;
    for (row, features) in
        dataset.validation.rows.iter().zip(dataset.validation.features.chunks(dataset.width()))
    {
        let known = words.contains(&word(row));
        unknown += u32::from(!known);
        assert_eq!(features.iter().sum::<f32>(), if known { 1.0 } else { 0.0 });
    }
    assert!(unknown > 0);
    assert!(dataset.train.rows.iter().all(|row| words.contains(&word(row))));
}

#[test]
fn many_words_become_their_share() {
    // 65 words, word n in n + 1 rows.
    let rows: String = (0..65).flat_map(|n| (0..=n).map(move |k| format!("w{n},{}\n", k % 2))).collect();
    let dataset = load_csv(&format!("c,y\n{rows}"), &all()).unwrap();
    assert_eq!(dataset.feature_names, ["c"]);
    let Encoding::Frequency { shares, mean, std } = &dataset.preprocessor.columns[0].encoding else {
        panic!()
    };
    let total = f64::from(65 * 66 / 2);
    assert_eq!((shares.len(), shares["w0"], shares["w64"]), (65, 1.0 / total, 65.0 / total));
    let last = feature(&dataset, &dataset.train, 0).last().copied().unwrap();
    close(&[last], &[((65.0 / total - mean) / std) as f32]);
}

#[test]
fn columns_that_teach_nothing_are_left_out_with_a_note() {
    let rows: String = (0..100).map(|row| format!("id{row},same,,{},{}\n", row * row, row % 2)).collect();
    let dataset = load_csv(&format!("id,constant,none,x,y\n{rows}"), &all()).unwrap();
    assert_eq!(dataset.feature_names, ["x"]);
    let notes = dataset.notes.join("\n");
    for name in ["\"id\"", "\"constant\"", "\"none\""] {
        assert!(notes.contains(name), "{notes}");
    }
    let many: String = (0..8).map(|column| format!("c{column},")).collect();
    let rows = format!("{}1,a\n{}2,b\n", ",".repeat(8), ",".repeat(8));
    let dataset = load_csv(&format!("{many}x,y\n{rows}"), &all()).unwrap();
    assert!(dataset.notes[0].ends_with("\"c4\" and 3 more"), "{:?}", dataset.notes);
    let error = "id,y\n".to_owned() + &(0..50).map(|row| format!("w{row},{}\n", row % 2)).collect::<String>();
    refused(error, &all(), ErrorCode::InvalidArgument, &["no column to learn from", "\"id\""]);
}

#[test]
fn a_column_of_too_many_words_is_let_go() {
    let rows: String = (0..100_001).map(|row| format!("w{row},{},{}\n", row, row % 2)).collect();
    let dataset = load_csv(&format!("c,x,y\n{rows}"), &all()).unwrap();
    assert_eq!(dataset.feature_names, ["x"]);
    assert!(dataset.notes[0].contains("more than 100000"), "{:?}", dataset.notes);
}

#[test]
fn time_stamps_keep_their_seconds() {
    let rows: String = (0..10).map(|row| format!("{},{}\n", 1_700_000_000 + row, row % 2)).collect();
    let dataset = load_csv(&format!("t,y\n{rows}"), &all()).unwrap();
    let values = feature(&dataset, &dataset.train, 0);
    close(&[values[0], values[9]], &[-4.5 / 8.25_f32.sqrt(), 4.5 / 8.25_f32.sqrt()]);
}

#[test]
fn a_fitted_preprocessor_applies_to_other_tables() {
    let root = Root::with("train.csv", "x,c,y\n1,a,0\n3,7,1\n5,7,0\n");
    let dataset = root.load("train.csv", &all()).unwrap();
    let read = |content: &str| {
        root.write("new.csv", content);
        let source = Source::parse("new.csv", &root.config()).unwrap();
        source.read(Some("y"), &root.config(), &|| Ok(())).unwrap()
    };
    let apply = |table: &Table| {
        let rows: Vec<u32> = (0..table.rows()).collect();
        dataset.preprocessor.transform(table.clone(), [&rows], &|| Ok(())).map(|[features]| features)
    };
    // Other order, one more column, a missing number, an unknown word, and words that all are numbers here.
    let table = read("extra,c,x\n1,7,3\n1,8,\n");
    assert_eq!(table.names().collect::<Vec<_>>(), ["extra", "c", "x"]);
    assert_eq!(apply(&table).unwrap(), [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    expect(apply(&read("c\na\n")).unwrap_err(), ErrorCode::InvalidArgument, &["\"x\"", "missing"]);
    let words = ["\"x\"", "line 2", "\"much\""];
    expect(apply(&read("x,c\nmuch,a\n")).unwrap_err(), ErrorCode::InvalidArgument, &words);
    // What it was fitted on comes out as it did then.
    let again = apply(&read("x,c,y\n1,a,0\n3,7,1\n5,7,0\n")).unwrap();
    assert_eq!(again, dataset.train.features);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever held-out rows say in their cells, nothing that was fitted changes.
    #[test]
    fn held_out_rows_leave_no_trace(
        cells in proptest::collection::vec((proptest::option::of(-50_i32..50), 0_u8..5), 20..40),
        seed: u64,
    ) {
        let write = |changed: &[u32]| {
            let rows = cells.iter().enumerate().map(|(row, (number, word))| {
                let y = row % 2;
                if changed.contains(&(row as u32)) {
                    format!("1e6,zzz,{y}\n")
                } else {
                    format!("{},w{word},{y}\n", number.map(|number| number.to_string()).unwrap_or_default())
                }
            });
            format!("x,c,y\n{}", rows.collect::<String>())
        };
        let options = LoadOptions { seed, validation_split: 0.3, ..LoadOptions::default() };
        let Ok(dataset) = load_csv(&write(&[]), &options) else { return Ok(()) };
        let other = load_csv(&write(&dataset.validation.rows), &options).unwrap();
        prop_assert_eq!(&dataset.train, &other.train);
        prop_assert_eq!(&dataset.preprocessor, &other.preprocessor);
        prop_assert_ne!(&dataset.validation.features, &other.validation.features);
    }
}

#[test]
fn raw_features_are_the_numbers_of_the_file_and_missing_ones_are_nan() {
    let options = LoadOptions { features: FeatureForm::Raw, ..all() };
    let dataset = load_csv("a,colour,b,y\n1.5,red,7,x\n,blue,1e300,z\n-3,red,9,x\n", &options).unwrap();
    assert_eq!(dataset.feature_names, ["a", "colour=blue", "colour=red", "b"]);
    let features = &dataset.train.features;
    assert_eq!(features[..4], [1.5, 0.0, 1.0, 7.0]);
    assert!(features[4].is_nan());
    assert_eq!(features[5..], [1.0, 0.0, f32::MAX, -3.0, 0.0, 1.0, 9.0]);
}
