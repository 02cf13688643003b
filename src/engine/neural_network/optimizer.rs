//! From hyperparameters to burn's optimizers, with the constants of PyTorch where burn's defaults differ:
//! epsilon 1e-8 instead of 1e-5, no dampening, no momentum unless asked for. What weight decay is where none was
//! given follows from the optimizer and is settled with the hyperparameters.

use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, AdamWConfig, ModuleOptimizer, RmsPropConfig, SgdConfig};

use crate::domain::{Hyperparameters, Optimizer};

const EPSILON: f32 = 1e-8;

/// The optimizer that `hyperparameters` ask for, without any state.
pub(super) fn build(hyperparameters: &Hyperparameters) -> ModuleOptimizer {
    let penalty = hyperparameters.weight_decay as f32;
    let decay = (penalty > 0.0).then(|| WeightDecayConfig::new(penalty));
    match hyperparameters.optimizer {
        Optimizer::Sgd => {
            let momentum = hyperparameters.momentum;
            let momentum =
                (momentum > 0.0).then(|| MomentumConfig::new().with_momentum(momentum).with_dampening(0.0));
            SgdConfig::new().with_momentum(momentum).with_weight_decay(decay).init()
        }
        Optimizer::Adam => AdamConfig::new().with_epsilon(EPSILON).with_weight_decay(decay).init(),
        Optimizer::AdamW => AdamWConfig::new().with_epsilon(EPSILON).with_weight_decay(penalty).init(),
        Optimizer::RmsProp => RmsPropConfig::new()
            .with_epsilon(EPSILON)
            .with_momentum(hyperparameters.momentum as f32)
            .with_weight_decay(decay)
            .init(),
    }
}
