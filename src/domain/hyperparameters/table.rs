//! The table of every hyperparameter: name, aliases, what it takes, and how it is set.

use std::str::FromStr;

use super::{Bootstrap, Checkpoints, Hyperparameters, Stopping};
use crate::domain::ParseChoiceError;

const AT_LEAST_ZERO: &str = "a number from 0";

const SHARE: &str = "a number above 0, at most 1";

pub(super) type Set = fn(&mut Hyperparameters, &str) -> Result<(), String>;

/// Every known name: (name, aliases, what it takes, setter).
pub(super) const KNOWN: &[(&str, &[&str], &str, Set)] = &[
    (
        "hidden_layers",
        &["hidden_layer_sizes", "hidden_units"],
        "1 to 16 widths of 1 to 16384, as 128,64, or none",
        |h, raw| {
            h.hidden_layers = layers(raw).ok_or("")?;
            Ok(())
        },
    ),
    ("learning_rate", &["lr", "eta", "learning_rate_init"], "a number above 0, at most 10", |h, raw| {
        h.learning_rate = Some(number(raw, |v| v > 0.0 && v <= 10.0)?);
        Ok(())
    }),
    ("batch_size", &[], "a whole number from 1 to 65536", |h, raw| {
        h.batch_size = whole(raw, 1, 65_536)? as usize;
        Ok(())
    }),
    ("optimizer", &["solver"], "", |h, raw| {
        h.optimizer = choice(&raw.to_ascii_lowercase())?;
        Ok(())
    }),
    ("momentum", &[], "a number from 0, below 1", |h, raw| {
        h.momentum = number(raw, |v| (0.0..1.0).contains(&v))?;
        Ok(())
    }),
    ("weight_decay", &["l2"], "a number from 0 to 1", |h, raw| {
        h.weight_decay = number(raw, |v| (0.0..=1.0).contains(&v))?;
        Ok(())
    }),
    ("seed", &["random_state"], "a whole number from 0 to 18446744073709551615", |h, raw| {
        h.seed = Some(raw.parse().map_err(|_| "")?);
        Ok(())
    }),
    ("validation_split", &["test_size", "validation_fraction"], "a number from 0 to 0.9", |h, raw| {
        h.validation_split = number(raw, |v| (0.0..=0.9).contains(&v))?;
        Ok(())
    }),
    ("target", &["target_column", "label"], "the name of a column", |h, raw| {
        if raw.is_empty() {
            return Err(String::new());
        }
        h.target = Some(raw.to_owned());
        Ok(())
    }),
    ("task", &["problem"], "", |h, raw| {
        h.problem = choice(raw)?;
        Ok(())
    }),
    ("loss_function", &["loss"], "", |h, raw| {
        h.loss = Some(choice(raw)?);
        Ok(())
    }),
    ("backend", &[], "", |h, raw| {
        h.backend = Some(choice(raw)?);
        Ok(())
    }),
    ("early_stopping", &[], "true or false", |h, raw| {
        h.stopping = if boolean(raw)? { Stopping::Early } else { Stopping::Never };
        Ok(())
    }),
    (
        "patience",
        &["n_iter_no_change", "early_stopping_rounds"],
        "a whole number from 1 to 1000000",
        |h, raw| {
            h.patience = Some(whole(raw, 1, 1_000_000)? as u32);
            Ok(())
        },
    ),
    ("min_delta", &["tol"], AT_LEAST_ZERO, |h, raw| {
        h.min_delta = number(raw, |v| v >= 0.0)?;
        Ok(())
    }),
    (
        "activation",
        &[],
        "relu",
        |_, raw| {
            if raw.eq_ignore_ascii_case("relu") { Ok(()) } else { Err(String::new()) }
        },
    ),
    ("dropout", &["dropout_rate"], "a number from 0, below 1", |h, raw| {
        h.dropout = number(raw, |v| (0.0..1.0).contains(&v))?;
        Ok(())
    }),
    ("class_weight", &[], "", |h, raw| {
        h.class_weight = choice(raw)?;
        Ok(())
    }),
    ("lr_schedule", &["learning_rate_schedule", "lr_scheduler"], "", |h, raw| {
        h.schedule = choice(raw)?;
        Ok(())
    }),
    ("lr_step_size", &["step_size"], "a whole number of epochs from 1 to 1000000", |h, raw| {
        h.lr_step_size = whole(raw, 1, 1_000_000)? as u32;
        Ok(())
    }),
    ("lr_gamma", &["decay_rate"], "a number above 0, at most 1", |h, raw| {
        h.lr_gamma = number(raw, |v| v > 0.0 && v <= 1.0)?;
        Ok(())
    }),
    ("total_epochs", &["epochs", "max_iter"], "a whole number from 1 to 1000000", |h, raw| {
        h.total_epochs = Some(whole(raw, 1, 1_000_000)? as u32);
        Ok(())
    }),
    ("C", &["c"], "a number above 0", |h, raw| {
        h.inverse_penalty = number(raw, |v| v > 0.0)?;
        Ok(())
    }),
    ("penalty", &[], "", |h, raw| {
        h.penalty = choice(raw)?;
        Ok(())
    }),
    ("alpha", &[], "a number from 0: the L2 penalty of networks, the L1 penalty of boosting", |h, raw| {
        h.alpha = Some(number(raw, |v| v >= 0.0)?);
        Ok(())
    }),
    (
        "image_shape",
        &["input_shape"],
        "three whole numbers, channels x height x width, as 1x28x28",
        |h, raw| {
            h.image_shape = Some(shape(raw).ok_or("")?);
            Ok(())
        },
    ),
    (
        "n_estimators",
        &["num_boost_round", "num_round", "n_rounds"],
        "a whole number from 1 to 100000",
        |h, raw| {
            h.trees.n_estimators = Some(whole(raw, 1, 100_000)? as u32);
            Ok(())
        },
    ),
    ("max_depth", &[], "a whole number from 0 (no limit) to 64", |h, raw| {
        h.trees.max_depth =
            Some(if raw.eq_ignore_ascii_case("none") { 0 } else { whole(raw, 0, 64)? as u32 });
        Ok(())
    }),
    ("min_child_weight", &[], AT_LEAST_ZERO, |h, raw| {
        h.trees.min_child_weight = number(raw, |v| v >= 0.0)?;
        Ok(())
    }),
    ("gamma", &["min_split_loss"], AT_LEAST_ZERO, |h, raw| {
        h.trees.gamma = number(raw, |v| v >= 0.0)?;
        Ok(())
    }),
    ("reg_lambda", &["lambda", "l2_regularization"], AT_LEAST_ZERO, |h, raw| {
        h.trees.reg_lambda = number(raw, |v| v >= 0.0)?;
        Ok(())
    }),
    ("reg_alpha", &["l1_regularization"], AT_LEAST_ZERO, |h, raw| {
        h.trees.reg_alpha = number(raw, |v| v >= 0.0)?;
        Ok(())
    }),
    ("subsample", &["bagging_fraction"], SHARE, |h, raw| {
        h.trees.subsample = number(raw, |v| v > 0.0 && v <= 1.0)?;
        Ok(())
    }),
    ("colsample_bytree", &["feature_fraction"], SHARE, |h, raw| {
        h.trees.colsample_bytree = number(raw, |v| v > 0.0 && v <= 1.0)?;
        Ok(())
    }),
    ("max_bins", &["max_bin"], "a whole number from 2 to 256", |h, raw| {
        h.trees.max_bins = whole(raw, 2, 256)? as u16;
        Ok(())
    }),
    ("max_features", &[], "", |h, raw| {
        h.trees.max_features = Some(choice(raw)?);
        Ok(())
    }),
    ("min_samples_leaf", &["min_data_in_leaf"], "a whole number from 1 to 1000000", |h, raw| {
        h.trees.min_samples_leaf = whole(raw, 1, 1_000_000)? as u32;
        Ok(())
    }),
    ("min_samples_split", &[], "a whole number from 2 to 1000000", |h, raw| {
        h.trees.min_samples_split = whole(raw, 2, 1_000_000)? as u32;
        Ok(())
    }),
    ("bootstrap", &[], "true or false", |h, raw| {
        h.trees.bootstrap = Some(if boolean(raw)? { Bootstrap::Sampled } else { Bootstrap::Whole });
        Ok(())
    }),
    ("rounds_per_task", &[], "a whole number from 1 to 10000", |h, raw| {
        h.trees.rounds_per_task = whole(raw, 1, 10_000)? as u32;
        Ok(())
    }),
    ("trees_per_task", &[], "a whole number from 1 to 10000", |h, raw| {
        h.trees.trees_per_task = whole(raw, 1, 10_000)? as u32;
        Ok(())
    }),
    ("scale_pos_weight", &[], "a number above 0", |h, raw| {
        h.trees.scale_pos_weight = number(raw, |v| v > 0.0)?;
        Ok(())
    }),
    ("objective", &[], "", |h, raw| {
        h.trees.objective = Some(choice(raw)?);
        Ok(())
    }),
    ("criterion", &[], "", |h, raw| {
        h.trees.criterion = Some(choice(raw)?);
        Ok(())
    }),
    ("tree_method", &[], "auto, hist, approx or exact", |_, raw| {
        if ["auto", "hist", "approx", "exact"].contains(&raw) { Ok(()) } else { Err(String::new()) }
    }),
    ("colsample_bylevel", &[], SHARE, |_, raw| number(raw, |v| v > 0.0 && v <= 1.0).map(|_| ())),
    ("colsample_bynode", &[], SHARE, |_, raw| number(raw, |v| v > 0.0 && v <= 1.0).map(|_| ())),
    ("n_jobs", &["nthread"], "a whole number from -1", |_, raw| match raw.parse::<i32>() {
        Ok(count) if count >= -1 => Ok(()),
        _ => Err(String::new()),
    }),
    ("save_checkpoints", &[], "true or false", |h, raw| {
        h.checkpoints = if boolean(raw)? { Checkpoints::AfterEachTask } else { Checkpoints::Never };
        Ok(())
    }),
    ("job_name", &[], "any text", |_, _| Ok(())),
    ("description", &[], "any text", |_, _| Ok(())),
];

fn number(raw: &str, fits: impl Fn(f64) -> bool) -> Result<f64, String> {
    raw.parse().ok().filter(|v: &f64| v.is_finite() && fits(*v)).ok_or_else(String::new)
}

fn whole(raw: &str, least: u64, most: u64) -> Result<u64, String> {
    raw.parse().ok().filter(|v| (least..=most).contains(v)).ok_or_else(String::new)
}

fn boolean(raw: &str) -> Result<bool, String> {
    match raw.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(String::new()),
    }
}

fn choice<T: FromStr<Err = ParseChoiceError>>(raw: &str) -> Result<T, String> {
    raw.parse().map_err(|error: ParseChoiceError| error.to_string())
}

/// Widths as `128,64`, `[128, 64]`, `(128, 64)` or `128-64`; `none` for no hidden layer.
pub(super) fn layers(raw: &str) -> Option<Vec<usize>> {
    if raw == "none" {
        return Some(Vec::new());
    }
    let inner = raw
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .or_else(|| raw.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')))
        .unwrap_or(raw);
    let inner = inner.trim().strip_suffix(',').unwrap_or(inner);
    let widths: Vec<usize> = inner
        .split([',', '-', ' '])
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    let fits = (1..=16).contains(&widths.len()) && widths.iter().all(|width| (1..=16_384).contains(width));
    fits.then_some(widths)
}

/// Channels, height and width as `1x28x28`, `1,28,28` or `(1, 28, 28)`.
fn shape(raw: &str) -> Option<[usize; 3]> {
    let inner = raw.trim_matches(['(', ')', '[', ']', ' ']);
    let sizes: Vec<usize> = inner
        .split(['x', 'X', ',', ' '])
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    let fits = sizes.iter().all(|size| (1..=4096).contains(size));
    sizes.try_into().ok().filter(|_| fits)
}
