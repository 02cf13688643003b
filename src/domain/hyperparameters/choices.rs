//! Hyperparameters that are one of a few words.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::domain::ParseChoiceError;

/// The rule by which weights follow gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
            "mean_squared_error" | "mse" => Self::MeanSquaredError,
            "mean_absolute_error" | "mae" => Self::MeanAbsoluteError,
            _ => {
                return Err(ParseChoiceError(
                    "categorical_crossentropy, sparse_categorical_crossentropy, binary_crossentropy, \
                     mean_squared_error (mse) or mean_absolute_error (mae)",
                ));
            }
        })
    }
}

/// What the target column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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

/// How much a row counts in training.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub enum ClassWeight {
    /// All rows alike.
    #[default]
    None,
    /// Inversely to how often its class occurs: rows / (classes * rows of the class), as scikit-learn's `balanced`.
    Balanced,
    /// As much as its class has here by name, above 0; 1 where it has nothing.
    ByClass(BTreeMap<String, f64>),
}

impl FromStr for ClassWeight {
    type Err = ParseChoiceError;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        match raw.to_ascii_lowercase().as_str() {
            "none" => Ok(Self::None),
            "balanced" => Ok(Self::Balanced),
            _ => by_class(raw)
                .map(Self::ByClass)
                .ok_or(ParseChoiceError("none, balanced, or a weight above 0 for each class, as 0:1,1:5")),
        }
    }
}

/// Weights as `0:1,1:5`, as Python writes them, `{0: 1, 1: 5}`, or as a JSON object, for names with commas in them.
fn by_class(raw: &str) -> Option<BTreeMap<String, f64>> {
    let weights = serde_json::from_str(raw).ok().or_else(|| {
        let inner = raw.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(raw);
        let mut weights = BTreeMap::new();
        for pair in inner.split(',') {
            let (class, weight) = pair.rsplit_once(':')?;
            let class = class.trim().trim_matches(['"', '\'']).to_owned();
            // A class twice is a slip whose meaning nobody knows.
            if weights.insert(class, weight.trim().parse().ok()?).is_some() {
                return None;
            }
        }
        Some(weights)
    });
    weights.filter(|weights: &BTreeMap<_, f64>| {
        !weights.is_empty() && weights.values().all(|weight| *weight > 0.0 && weight.is_finite())
    })
}

/// What linear models are penalised by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Penalty {
    /// The squares of their weights.
    #[default]
    Squares,
    /// Nothing.
    None,
}

impl FromStr for Penalty {
    type Err = ParseChoiceError;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        match raw.to_ascii_lowercase().as_str() {
            "l2" => Ok(Self::Squares),
            "none" => Ok(Self::None),
            _ => Err(ParseChoiceError("l2 or none")),
        }
    }
}

/// What the nodes of a forest are split by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SplitCriterion {
    /// The Gini impurity of classes.
    Gini,
    /// The variance of a number.
    SquaredError,
}

impl FromStr for SplitCriterion {
    type Err = ParseChoiceError;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        match raw {
            "gini" => Ok(Self::Gini),
            "squared_error" => Ok(Self::SquaredError),
            _ => Err(ParseChoiceError("gini (classes) or squared_error (a number)")),
        }
    }
}

/// What boosting minimises, under XGBoost's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BoostingObjective {
    /// The logistic loss of two classes.
    BinaryLogistic,
    /// The cross-entropy of more classes.
    MultiSoftmax,
    /// The squared error of a number.
    SquaredError,
}

impl FromStr for BoostingObjective {
    type Err = ParseChoiceError;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        match raw {
            "binary:logistic" => Ok(Self::BinaryLogistic),
            "multi:softprob" | "multi:softmax" => Ok(Self::MultiSoftmax),
            "reg:squarederror" => Ok(Self::SquaredError),
            _ => Err(ParseChoiceError("binary:logistic, multi:softprob, multi:softmax or reg:squarederror")),
        }
    }
}

/// How the learning rate changes in the course of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Schedule {
    /// Not at all.
    #[default]
    Constant,
    /// Half a cosine from the learning rate to 0 over the epochs of the job (Loshchilov and Hutter, 2017).
    Cosine,
    /// Times `lr_gamma` after every `lr_step_size` epochs.
    Step,
}

impl FromStr for Schedule {
    type Err = ParseChoiceError;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        Ok(match raw {
            "constant" | "none" => Self::Constant,
            "cosine" => Self::Cosine,
            "step" => Self::Step,
            _ => return Err(ParseChoiceError("constant, cosine or step")),
        })
    }
}

/// Whether training ends before its last epoch when it no longer gets better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Stopping {
    /// Never.
    #[default]
    Never,
    /// After `patience` epochs without a better validation loss.
    Early,
}

/// How many features a node of a tree may choose from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum MaxFeatures {
    /// The square root of their number.
    Sqrt,
    /// The logarithm to base 2 of their number.
    Log2,
    /// All.
    All,
    /// A share of them, in (0, 1].
    Share(f64),
    /// So many, at least 1.
    Count(u32),
}

impl FromStr for MaxFeatures {
    type Err = ParseChoiceError;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        let allowed = ParseChoiceError("sqrt, log2, all, a share such as 0.5 or a whole number from 1");
        match raw.to_ascii_lowercase().as_str() {
            "sqrt" => Ok(Self::Sqrt),
            "log2" => Ok(Self::Log2),
            "all" | "none" => Ok(Self::All),
            _ => match (raw.parse::<u32>(), raw.parse::<f64>()) {
                (Ok(count), _) if count >= 1 => Ok(Self::Count(count)),
                (Err(_), Ok(share)) if share > 0.0 && share <= 1.0 => Ok(Self::Share(share)),
                _ => Err(allowed),
            },
        }
    }
}

/// Whether each tree of a forest sees a sample with replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bootstrap {
    /// As many rows as there are, drawn with replacement.
    Sampled,
    /// Every row once.
    Whole,
}

/// Whether a session can be taken up again where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Checkpoints {
    /// A checkpoint follows each task.
    #[default]
    AfterEachTask,
    /// None is left.
    Never,
}

impl Checkpoints {
    /// Whether there are any.
    pub fn wanted(self) -> bool {
        self == Self::AfterEachTask
    }
}
