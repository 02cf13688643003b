//! Data sets that are made up.

use super::*;

fn made(recipe: &str, options: &LoadOptions) -> Dataset {
    Root::new().load(recipe, options).unwrap_or_else(|error| panic!("{recipe}: {error}"))
}

#[test]
fn classification_has_the_shape_that_was_asked_for() {
    let dataset =
        made("synthetic:classification?rows=600&features=8&classes=3&seed=7", &LoadOptions::default());
    assert_eq!(dataset.train.len() + dataset.validation.len(), 600);
    assert_eq!((dataset.width(), dataset.classes(), dataset.target_name.as_str()), (8, Some(3), "target"));
    assert_eq!(labels(&dataset), ["0", "1", "2"]);
    assert_eq!(dataset.feature_names[7], "feature_7");
    assert_eq!(dataset.notes, Vec::<String>::new());
    for id in 0..3 {
        let share = class_ids(&dataset.train).iter().filter(|other| **other == id).count();
        assert!((150..170).contains(&share), "{share}");
    }
    let default = made("synthetic:classification", &all());
    assert_eq!((default.train.len(), default.width(), default.classes()), (1000, 20, Some(2)));
}

#[test]
fn many_classes_are_classes_and_sort_as_numbers() {
    let dataset = made("synthetic:classification?rows=2000&features=12&classes=100&clusters=1", &all());
    assert_eq!(dataset.classes(), Some(100));
    assert_eq!((labels(&dataset)[7].as_str(), labels(&dataset)[42].as_str()), ("07", "42"));
}

#[test]
fn a_seed_gives_the_same_data_and_another_one_other_data() {
    for kind in ["classification", "regression"] {
        let recipe = |seed| format!("synthetic:{kind}?rows=100&features=6&seed={seed}");
        let first = made(&recipe(3), &all());
        assert_eq!(first, made(&recipe(3), &all()));
        assert_ne!(first.train.features, made(&recipe(4), &all()).train.features);
    }
    // Kept for good: who compares results must find the same rows in later versions.
    let dataset = made("synthetic:classification?rows=5&features=3&clusters=1&seed=1", &all());
    let Encoding::Number { mean, std, .. } = dataset.preprocessor.columns[0].encoding else { panic!() };
    let first = f64::from(dataset.train.features[0]) * std + mean;
    assert!((first - FIRST_FIGURE).abs() < 1e-5, "{first}");
}

/// Of feature 0 in row 0 of `rows=5&features=3&clusters=1&seed=1`.
const FIRST_FIGURE: f64 = 1.934_626_7;

/// Share of rows whose nearest mean of a class, over the training part, is that of their own class.
fn accuracy_of_nearest_mean(dataset: &Dataset) -> f64 {
    let (width, classes) = (dataset.width(), dataset.classes().unwrap());
    let mut means = vec![vec![0.0_f64; width]; classes];
    let mut counts = vec![0.0_f64; classes];
    for (row, id) in dataset.train.features.chunks(width).zip(class_ids(&dataset.train)) {
        counts[*id as usize] += 1.0;
        means[*id as usize].iter_mut().zip(row).for_each(|(mean, value)| *mean += f64::from(*value));
    }
    for (mean, count) in means.iter_mut().zip(counts) {
        mean.iter_mut().for_each(|mean| *mean /= count);
    }
    let distance = |row: &[f32], mean: &[f64]| -> f64 {
        row.iter().zip(mean).map(|(value, mean)| (f64::from(*value) - mean).powi(2)).sum()
    };
    let rows = dataset.validation.features.chunks(width).zip(class_ids(&dataset.validation));
    let right = rows.filter(|(row, id)| {
        let nearest =
            (0..classes).min_by(|a, b| distance(row, &means[*a]).total_cmp(&distance(row, &means[*b])));
        nearest == Some(**id as usize)
    });
    right.count() as f64 / dataset.validation.len() as f64
}

#[test]
fn separation_and_noise_decide_how_hard_it_is() {
    let accuracy = |more: &str| {
        let recipe =
            format!("synthetic:classification?rows=2000&features=10&classes=4&clusters=1&seed=5{more}");
        accuracy_of_nearest_mean(&made(&recipe, &LoadOptions::default()))
    };
    let (easy, usual, hopeless) =
        (accuracy("&separation=8&label_noise=0"), accuracy(""), accuracy("&label_noise=1"));
    assert!(easy > 0.99, "{easy}");
    assert!((0.6..0.99).contains(&usual), "{usual}");
    assert!((0.15..0.35).contains(&hopeless), "{hopeless}");
}

#[test]
fn redundant_features_follow_from_the_informative_ones() {
    // Of 3 features one is informative, one redundant, one noise; the first two are proportional.
    let dataset =
        made("synthetic:classification?rows=300&features=3&clusters=1&informative=1&redundant=1", &all());
    let columns: Vec<Vec<f32>> = (0..3).map(|index| feature(&dataset, &dataset.train, index)).collect();
    let correlation = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() / a.len() as f64
    };
    let mut pairs: Vec<f64> = [(0, 1), (0, 2), (1, 2)]
        .into_iter()
        .map(|(a, b)| correlation(&columns[a], &columns[b]).abs())
        .collect();
    pairs.sort_by(f64::total_cmp);
    assert!(pairs[2] > 0.999 && pairs[1] < 0.2, "{pairs:?}");
}

#[test]
fn regression_is_linear_in_its_informative_features() {
    let recipe = "synthetic:regression?rows=500&features=2&informative=2&noise=0&seed=9";
    let dataset = made(recipe, &all());
    let TargetKind::Value { std, .. } = dataset.target else { panic!("{:?}", dataset.target) };
    assert!(std > 1.0, "{std}");
    let Targets::Values(values) = &dataset.train.targets else { panic!("values") };
    // Without noise three rows decide the two coefficients (and the one of the scale) for all others.
    let row = |at: usize| {
        let row = &dataset.train.features[2 * at..2 * at + 2];
        (f64::from(row[0]), f64::from(row[1]), f64::from(values[at]))
    };
    let ((a, b, y), (c, d, z)) = (row(0), row(1));
    let determinant = a * d - b * c;
    let (first, second) = ((y * d - b * z) / determinant, (a * z - y * c) / determinant);
    for at in 2..500 {
        let (a, b, y) = row(at);
        assert!((a * first + b * second - y).abs() < 1e-3, "{at}");
    }
}

#[test]
fn bad_recipes_say_what_is_allowed() {
    let root = Root::new();
    for (recipe, words) in [
        ("synthetic:", ["synthetic:classification?", "rows, features, classes"]),
        ("synthetic:blobs?rows=3", ["synthetic:blobs", "synthetic:regression?"]),
        ("synthetic:classification?row=10", ["\"row=10\"", "rows, features, classes"]),
        ("synthetic:regression?classes=3", ["\"classes=3\"", "rows, features, informative, noise, seed"]),
        ("synthetic:classification?rows=1", ["rows): \"1\"", "from 2 to 20000000"]),
        ("synthetic:classification?rows=20000001", ["rows): \"20000001\"", "from 2 to 20000000"]),
        ("synthetic:classification?rows=ten", ["rows): \"ten\"", "a whole number"]),
        ("synthetic:classification?rows=9&rows=8", ["\"rows=8\"", "once"]),
        ("synthetic:classification?rows", ["rows): \"\"", "a whole number"]),
        ("synthetic:classification?features=0", ["features): \"0\"", "from 1 to 9999"]),
        ("synthetic:classification?classes=1", ["classes): \"1\"", "from 2 to 1000"]),
        ("synthetic:classification?classes=8&features=3", ["features): \"3\"", "at least 4"]),
        ("synthetic:classification?features=30&informative=31", ["informative): \"31\"", "from 2 to 30"]),
        (
            "synthetic:classification?features=9&informative=5&redundant=5",
            ["redundant): \"5\"", "from 0 to 4"],
        ),
        ("synthetic:classification?label_noise=1.5", ["label_noise): \"1.5\"", "a number from 0 to 1"]),
        ("synthetic:classification?separation=NaN", ["separation): \"NaN\"", "a number from 0 to 1000"]),
        ("synthetic:classification?seed=-1", ["seed): \"-1\"", "a whole number"]),
    ] {
        let error = root.load(recipe, &all()).unwrap_err();
        expect(error, ErrorCode::InvalidArgument, &["dataset_path", "allowed", words[0], words[1]]);
    }
}

#[test]
fn limits_hold_before_anything_is_made() {
    let root = Root::new();
    let check = || Ok(());
    let code = ErrorCode::ResourceExhausted;
    for (config, words) in [
        (Config { max_cells: 1_000, ..root.config() }, "1000 cells"),
        (Config { max_memory_bytes: 5_000, ..root.config() }, "5000 bytes of memory"),
    ] {
        let error = load("synthetic:regression?rows=100&features=12", &all(), &config, &check).unwrap_err();
        expect(error, code, &[words, "synthetic:regression"]);
    }
    let stop = || Err(TaskError::new(ErrorCode::Cancelled, "enough"));
    let table = Recipe::parse("classification?rows=100000", "p", &root.config()).unwrap();
    let error = table.table(&root.config(), &stop).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Cancelled);
}
