//! What only tree models listen to.

use serde::{Deserialize, Serialize};

use super::{BoostingObjective, Bootstrap, MaxFeatures, SplitCriterion};

/// Checked hyperparameters of trees, under the names of XGBoost and scikit-learn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TreeHyperparameters {
    /// Most rounds (boosting) or trees (forest) of the job; by default as many as its tasks make.
    pub n_estimators: Option<u32>,
    /// Deepest level of a leaf; 0 for no limit. By default 6 in boosting, without limit otherwise.
    pub max_depth: Option<u32>,
    /// Least sum of hessians in a child.
    pub min_child_weight: f64,
    /// Least loss reduction of a split.
    pub gamma: f64,
    /// L2 penalty of leaf values.
    pub reg_lambda: f64,
    /// L1 penalty of leaf values.
    pub reg_alpha: f64,
    /// Share of the rows that each round sees, in (0, 1].
    pub subsample: f64,
    /// Share of the features that each tree sees, in (0, 1].
    pub colsample_bytree: f64,
    /// Most bins of a feature, in 2..=256.
    pub max_bins: u16,
    /// Features that each node chooses from; by default all, in a forest the square root of their number.
    pub max_features: Option<MaxFeatures>,
    /// Least rows in a leaf.
    pub min_samples_leaf: u32,
    /// Least rows in a node that is split.
    pub min_samples_split: u32,
    /// Whether each tree sees a sample with replacement; by default in a forest.
    pub bootstrap: Option<Bootstrap>,
    /// Rounds of a boosting task.
    pub rounds_per_task: u32,
    /// Trees of a forest's task.
    pub trees_per_task: u32,
    /// How much rows of the second of two classes count in boosting, above 0.
    pub scale_pos_weight: f64,
    /// What boosting is asked to minimise; by default what fits the target.
    pub objective: Option<BoostingObjective>,
    /// What a forest is asked to split by; by default what fits the target.
    pub criterion: Option<SplitCriterion>,
}

impl Default for TreeHyperparameters {
    fn default() -> Self {
        Self {
            n_estimators: None,
            max_depth: None,
            min_child_weight: 1.0,
            gamma: 0.0,
            reg_lambda: 1.0,
            reg_alpha: 0.0,
            subsample: 1.0,
            colsample_bytree: 1.0,
            max_bins: 256,
            max_features: None,
            min_samples_leaf: 1,
            min_samples_split: 2,
            bootstrap: None,
            rounds_per_task: 1,
            trees_per_task: 1,
            scale_pos_weight: 1.0,
            objective: None,
            criterion: None,
        }
    }
}
