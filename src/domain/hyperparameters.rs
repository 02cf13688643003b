//! The knobs of training: strings outside, checked values inside.
//!
//! One table, [`KNOWN`], names every hyperparameter, its aliases and what it takes; adding one is a line there
//! and a field of [`Hyperparameters`].

use std::collections::BTreeMap;
use std::str::FromStr;

use super::{BackendChoice, InvalidField, ParseChoiceError};

/// What happens to a name that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// A note, with the nearest known name.
    Warn,
    /// An error.
    Reject,
}

/// The rule by which weights follow gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Optimizer {
    /// Stochastic gradient descent, with momentum when `momentum` is given.
    Sgd,
    /// Adam (Kingma and Ba, 2015).
    Adam,
    /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
    AdamW,
    /// RMSprop (Hinton, 2012).
    RmsProp,
}

impl FromStr for Optimizer {
    type Err = ParseChoiceError;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        Ok(match raw {
            "sgd" | "momentum" => Self::Sgd,
            "adam" => Self::Adam,
            "adamw" => Self::AdamW,
            "rmsprop" => Self::RmsProp,
            _ => return Err(ParseChoiceError("sgd, momentum, adam, adamw or rmsprop")),
        })
    }
}

/// What is minimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Softmax cross-entropy over classes.
    CrossEntropy,
    /// Mean squared error of a number.
    MeanSquaredError,
    /// Mean absolute error of a number.
    MeanAbsoluteError,
}

impl FromStr for Loss {
    type Err = ParseChoiceError;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        Ok(match raw {
            "categorical_crossentropy" | "sparse_categorical_crossentropy" | "binary_crossentropy" => {
                Self::CrossEntropy
            }
            "mean_squared_error" => Self::MeanSquaredError,
            "mean_absolute_error" => Self::MeanAbsoluteError,
            _ => {
                return Err(ParseChoiceError(
                    "categorical_crossentropy, sparse_categorical_crossentropy, binary_crossentropy, \
                     mean_squared_error or mean_absolute_error",
                ));
            }
        })
    }
}

/// What the target column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Problem {
    /// Decided by the column: words and few whole numbers are classes.
    #[default]
    Auto,
    /// Classes.
    Classification,
    /// A number.
    Regression,
}

impl FromStr for Problem {
    type Err = ParseChoiceError;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        Ok(match raw {
            "auto" => Self::Auto,
            "classification" => Self::Classification,
            "regression" => Self::Regression,
            _ => return Err(ParseChoiceError("auto, classification or regression")),
        })
    }
}

/// Checked hyperparameters with their defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct Hyperparameters {
    /// Width of each hidden layer, from the input on; may be empty.
    pub hidden_layers: Vec<usize>,
    /// Step size, in (0, 10].
    pub learning_rate: f64,
    /// Rows in a minibatch.
    pub batch_size: usize,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Momentum of `sgd` and `rmsprop`, in [0, 1); 0.9 where the optimizer was given as `momentum` and nothing else
    /// is said.
    pub momentum: f64,
    /// L2 penalty (decoupled with adamw), in [0, 1]; 0.01 with adamw where nothing else is said, as in PyTorch.
    pub weight_decay: f64,
    /// Seed of split, initial weights and order; by default it follows from the job's id.
    pub seed: Option<u64>,
    /// Share of rows held out, in [0, 0.9].
    pub validation_split: f64,
    /// Name of the target column; by default the last one.
    pub target: Option<String>,
    /// What the target is.
    pub problem: Problem,
    /// What is minimised; by default what fits the problem.
    pub loss: Option<Loss>,
    /// Where this task wants to run; by default as the worker is configured.
    pub backend: Option<BackendChoice>,
}

impl Default for Hyperparameters {
    fn default() -> Self {
        Self {
            hidden_layers: vec![128, 64],
            learning_rate: 0.001,
            batch_size: 32,
            optimizer: Optimizer::Adam,
            momentum: 0.0,
            weight_decay: 0.0,
            seed: None,
            validation_split: 0.2,
            target: None,
            problem: Problem::Auto,
            loss: None,
            backend: None,
        }
    }
}

/// What was given, by canonical name: the name that was used, and the value.
type SetBy<'a> = BTreeMap<&'a str, (&'a str, &'a str)>;

type Set = fn(&mut Hyperparameters, &str) -> Result<(), String>;

/// Every known name: (name, aliases, what it takes, setter).
const KNOWN: &[(&str, &[&str], &str, Set)] = &[
    (
        "hidden_layers",
        &["hidden_layer_sizes", "hidden_units"],
        "1 to 16 widths of 1 to 16384, as 128,64, or none",
        |h, raw| {
            h.hidden_layers = layers(raw).ok_or("")?;
            Ok(())
        },
    ),
    ("learning_rate", &["lr", "eta"], "a number above 0, at most 10", |h, raw| {
        h.learning_rate = number(raw, |v| v > 0.0 && v <= 10.0)?;
        Ok(())
    }),
    ("batch_size", &[], "a whole number from 1 to 65536", |h, raw| {
        h.batch_size = whole(raw, 1, 65_536)? as usize;
        Ok(())
    }),
    ("optimizer", &[], "", |h, raw| {
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
    ("validation_split", &["test_size"], "a number from 0 to 0.9", |h, raw| {
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
    ("early_stopping", &[], "true or false", |_, raw| boolean(raw).map(drop)),
    ("save_checkpoints", &[], "true or false", |_, raw| boolean(raw).map(drop)),
    ("job_name", &[], "any text", |_, _| Ok(())),
    ("description", &[], "any text", |_, _| Ok(())),
];

/// Known names whose wish this version reads but does not act upon when it is `true`.
const WITHOUT_EFFECT: &[&str] = &["early_stopping", "save_checkpoints"];

impl Hyperparameters {
    /// Parses `raw`; the notes say which names nobody understood and what has no effect.
    ///
    /// # Errors
    /// A known name with a value outside of its range; two names for one thing; with [`Strictness::Reject`]
    /// also an unknown name.
    pub fn parse(
        raw: &BTreeMap<String, String>,
        strictness: Strictness,
    ) -> Result<(Self, Vec<String>), InvalidField> {
        let mut parsed = Self::default();
        let mut notes = Vec::new();
        let mut set_by: SetBy<'_> = BTreeMap::new();
        for (name, value) in raw {
            let value = value.trim();
            let known =
                KNOWN.iter().find(|(known, aliases, ..)| known == name || aliases.contains(&name.as_str()));
            let Some((canonical, _, takes, set)) = known else {
                let unknown = unknown_name(name, value);
                match strictness {
                    Strictness::Reject => return Err(unknown),
                    Strictness::Warn => {
                        notes.push(format!("ignored unknown hyperparameter {name:?}{}", hint(name)))
                    }
                }
                continue;
            };
            if let Some((other, _)) = set_by.insert(canonical, (name, value)) {
                return Err(InvalidField::new(
                    format!("hyperparameters.{name}"),
                    value,
                    format!("only one of {other} and {name}, which mean the same"),
                ));
            }
            set(&mut parsed, value).map_err(|allowed| {
                let allowed = if allowed.is_empty() { (*takes).to_owned() } else { allowed };
                InvalidField::new(format!("hyperparameters.{name}"), value, allowed)
            })?;
            if WITHOUT_EFFECT.contains(canonical) && boolean(value) == Ok(true) {
                notes.push(format!("{canonical}=true has no effect in this version"));
            }
        }
        notes.extend(parsed.follow_optimizer(&set_by));
        Ok((parsed, notes))
    }

    /// Fills in what the optimizer decides where it was not given, and says what it makes no use of.
    fn follow_optimizer(&mut self, set_by: &SetBy<'_>) -> Option<String> {
        let given = |name| set_by.get(name).map(|(_, value)| *value);
        let named_momentum = given("optimizer").is_some_and(|raw| raw.eq_ignore_ascii_case("momentum"));
        if named_momentum && given("momentum").is_none() {
            self.momentum = 0.9;
        }
        if self.optimizer == Optimizer::AdamW && given("weight_decay").is_none() {
            self.weight_decay = 0.01;
        }
        let adaptive = matches!(self.optimizer, Optimizer::Adam | Optimizer::AdamW);
        (adaptive && self.momentum > 0.0).then(|| {
            format!(
                "momentum={} has no effect with optimizer={}, which has moments of its own; sgd and rmsprop take it",
                self.momentum,
                given("optimizer").unwrap_or("adam (the default)").to_ascii_lowercase()
            )
        })
    }

    /// Every known name, without aliases.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|(name, ..)| *name)
    }
}

fn unknown_name(name: &str, value: &str) -> InvalidField {
    let names = Hyperparameters::names().collect::<Vec<_>>().join(", ");
    InvalidField::new(
        format!("hyperparameters.{name}"),
        value,
        format!("a known name{} ({names})", hint(name)),
    )
}

/// `; did you mean "learning_rate"?`, or nothing where no known name is near.
fn hint(name: &str) -> String {
    let near = KNOWN
        .iter()
        .flat_map(|(known, aliases, ..)| std::iter::once(known).chain(aliases.iter()))
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((score, known)) if score > 0.8 => format!("; did you mean {known:?}?"),
        _ => String::new(),
    }
}

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
fn layers(raw: &str) -> Option<Vec<usize>> {
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

#[cfg(test)]
mod tests {
    use super::super::Backend;
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
        assert_eq!(parsed.learning_rate, 0.01);
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
}
