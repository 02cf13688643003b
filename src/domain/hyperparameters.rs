//! The knobs of training: strings outside, checked values inside.
//!
//! One table, `KNOWN`, names every hyperparameter, its aliases and what it takes; adding one is a line there
//! and a field of [`Hyperparameters`].

mod choices;
mod identity;
mod settle;
mod table;
#[cfg(test)]
mod tests;
mod trees;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize};

use self::table::KNOWN;
use super::{BackendChoice, InvalidField};

pub use choices::{
    BoostingObjective, Bootstrap, Checkpoints, ClassWeight, Loss, MaxFeatures, Optimizer, Penalty, Problem,
    Schedule, SplitCriterion, Stopping,
};
pub use trees::TreeHyperparameters;

/// What happens to a name that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// A note, with the nearest known name.
    Warn,
    /// An error.
    Reject,
}

/// Checked hyperparameters with their defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hyperparameters {
    /// Width of each hidden layer, from the input on; may be empty.
    pub hidden_layers: Vec<usize>,
    /// Step size, in (0, 10]; each model has its own default.
    pub learning_rate: Option<f64>,
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
    /// Share of the hidden units that a step leaves out, in [0, 1).
    pub dropout: f64,
    /// How much the rows of each class count.
    pub class_weight: ClassWeight,
    /// How the learning rate changes.
    pub schedule: Schedule,
    /// Epochs between two changes of [`Schedule::Step`].
    pub lr_step_size: u32,
    /// Factor of each change, in (0, 1].
    pub lr_gamma: f64,
    /// Whether training ends early.
    pub stopping: Stopping,
    /// Epochs, or rounds of boosting, without improvement after which it does; each model has its own default.
    pub patience: Option<u32>,
    /// By how much a validation loss has to be lower to be an improvement.
    pub min_delta: f64,
    /// Epochs of the whole job, where it is given here.
    pub total_epochs: Option<u32>,
    /// `C` of linear models: the inverse of the strength of their L2 penalty, as in scikit-learn.
    pub inverse_penalty: f64,
    /// What linear models are penalised by.
    pub penalty: Penalty,
    /// Strength of a penalty under a name that each model has its own meaning for.
    pub alpha: Option<f64>,
    /// Channels, height and width of the image in a row.
    pub image_shape: Option<[usize; 3]>,
    /// Whether a checkpoint is left after each task.
    pub checkpoints: Checkpoints,
    /// What only tree models listen to.
    pub trees: TreeHyperparameters,
    /// Names that were given, without aliases.
    #[serde(deserialize_with = "known_names")]
    pub given: BTreeSet<&'static str>,
}

impl Default for Hyperparameters {
    fn default() -> Self {
        Self {
            hidden_layers: vec![128, 64],
            learning_rate: None,
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
            dropout: 0.0,
            class_weight: ClassWeight::None,
            schedule: Schedule::Constant,
            lr_step_size: 10,
            lr_gamma: 0.1,
            stopping: Stopping::Never,
            patience: None,
            min_delta: 0.0,
            total_epochs: None,
            inverse_penalty: 1.0,
            penalty: Penalty::default(),
            alpha: None,
            image_shape: None,
            checkpoints: Checkpoints::default(),
            trees: TreeHyperparameters::default(),
            given: BTreeSet::new(),
        }
    }
}

/// One line of the reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHyperparameter {
    /// Its name.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// What it takes.
    pub takes: String,
}

/// What was given, by canonical name: the name that was used, and the value.
type SetBy<'a> = BTreeMap<&'static str, (&'a str, &'a str)>;

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
        }
        parsed.given = set_by.keys().copied().collect();
        notes.extend(parsed.settle(&set_by));
        Ok((parsed, notes))
    }

    /// Everything that is known, for the reference.
    pub fn reference() -> impl Iterator<Item = KnownHyperparameter> {
        KNOWN.iter().map(|(name, aliases, takes, set)| {
            // A choice lists what it takes when it is given what it does not.
            let listed = || set(&mut Self::default(), "\u{0}").err().unwrap_or_default();
            let takes = if takes.is_empty() { listed() } else { (*takes).to_owned() };
            KnownHyperparameter { name, aliases, takes }
        })
    }

    /// Every known name, without aliases.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|(name, ..)| *name)
    }
}

/// Names of the table, as another process of this program wrote them.
fn known_names<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeSet<&'static str>, D::Error> {
    let names = BTreeSet::<String>::deserialize(from)?;
    Ok(Hyperparameters::names().filter(|name| names.contains(*name)).collect())
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
