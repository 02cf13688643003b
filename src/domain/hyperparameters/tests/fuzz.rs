//! Hyperparameters that nobody would send.

use super::*;
use crate::fuzz;

/// Lines of a name and a value, so that damage rarely spoils more than one; or the JSON that submit and tasks have.
fn pairs(bytes: &[u8]) -> BTreeMap<String, String> {
    serde_json::from_slice(bytes).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.split('\n').filter_map(|line| line.split_once('='));
        lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    })
}

/// Whatever was given, what training gets is in range.
fn is_in_range(parsed: &Hyperparameters) {
    assert!(parsed.hidden_layers.len() <= 16, "{parsed:?}");
    assert!(parsed.hidden_layers.iter().all(|width| (1..=16_384).contains(width)), "{parsed:?}");
    assert!(parsed.learning_rate.is_none_or(|rate| rate > 0.0 && rate <= 10.0), "{parsed:?}");
    assert!((1..=65_536).contains(&parsed.batch_size), "{parsed:?}");
    assert!((0.0..1.0).contains(&parsed.momentum) && (0.0..1.0).contains(&parsed.dropout), "{parsed:?}");
    assert!((0.0..=1.0).contains(&parsed.weight_decay), "{parsed:?}");
    assert!((0.0..=0.9).contains(&parsed.validation_split), "{parsed:?}");
    assert!(parsed.lr_gamma > 0.0 && parsed.lr_gamma <= 1.0, "{parsed:?}");
    assert!(parsed.inverse_penalty > 0.0 && parsed.inverse_penalty.is_finite(), "{parsed:?}");
    assert!(parsed.min_delta >= 0.0 && parsed.alpha.is_none_or(|alpha| alpha >= 0.0), "{parsed:?}");
    assert!(parsed.trees.scale_pos_weight > 0.0, "{parsed:?}");
    if let ClassWeight::ByClass(weights) = &parsed.class_weight {
        assert!(!weights.is_empty() && weights.values().all(|weight| *weight > 0.0), "{parsed:?}");
    }
    assert!(parsed.image_shape.is_none_or(|shape| !shape.contains(&0)), "{parsed:?}");
    let again: Hyperparameters = serde_json::from_str(&serde_json::to_string(parsed).unwrap()).unwrap();
    assert_eq!(again.given, parsed.given);
}

#[test]
fn fuzz_hyperparameters() {
    let values = [
        "1",
        "0",
        "0.5",
        "-1",
        "1e308",
        "inf",
        "nan",
        "18446744073709551615",
        "128,64",
        "none",
        "1x28x28",
        "adamw",
        "momentum",
        "true",
        "auto",
        "regression",
        "step",
        "cosine",
        "balanced",
        "0:1,1:5",
        "{\"a\": 1e400}",
        "multi:softprob",
        "sqrt",
        "log2",
        "mse",
        "",
    ];
    let names: Vec<&str> = KNOWN
        .iter()
        .flat_map(|(name, aliases, ..)| std::iter::once(name).chain(aliases.iter()))
        .copied()
        .collect();
    // Each name with each value somewhere.
    let mut good: Vec<Vec<u8>> = Vec::new();
    for shift in 0..values.len() {
        for (part, names) in names.chunks(8).enumerate() {
            let value = |place: usize| values[(place + shift + part) % values.len()];
            let line = |(place, name): (usize, &&str)| format!("{name}={}", value(place));
            good.push(names.iter().enumerate().map(line).collect::<Vec<_>>().join("\n").into_bytes());
        }
    }
    let few =
        [("learning_rate", "0.1"), ("hidden_layers", "64,32"), ("optimizer", "adamw"), ("max_depth", "6")];
    let json = serde_json::to_vec(&BTreeMap::from(few)).unwrap();
    good.extend([json, b"learning_rate=0.1\nbatch_size=32\nhidden_layers=64,32\nunknown=x".to_vec()]);
    let (mut taken, mut refused) = (0_u64, 0_u64);
    fuzz::run("hyperparameters", &good, |bytes| {
        let raw = pairs(bytes);
        for strictness in [Strictness::Warn, Strictness::Reject] {
            match Hyperparameters::parse(&raw, strictness) {
                Ok((parsed, notes)) => {
                    is_in_range(&parsed);
                    assert!(notes.iter().all(|note| !note.contains(char::is_control)), "{notes:?}");
                    taken += 1;
                }
                Err(invalid) => {
                    assert!(!invalid.to_string().contains(char::is_control), "{invalid}");
                    refused += 1;
                }
            }
        }
    });
    println!("fuzz hyperparameters: {taken} taken, {refused} refused");
    assert!(taken > 0 && refused > 0);
}
