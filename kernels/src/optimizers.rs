//! Steps of optimizers: parameters and moments, updated in place in one pass, by the rules of PyTorch 2.
//!
//! Nothing is fused or taken in another order, so that the bits are those of any other CPU.

use pulp::{Simd, WithSimd};

use crate::simd::dispatch;

/// Epsilon of PyTorch's adaptive optimizers.
pub(crate) const EPSILON: f32 = 1e-8;

/// Decay rate of Adam's first moments.
pub(crate) const FIRST: f32 = 0.9;

/// Decay rate of Adam's second moments.
pub(crate) const SECOND: f32 = 0.999;

/// Decay rate of the mean squares of RMSprop.
pub(crate) const KEPT: f32 = 0.99;

/// Adam's step size, and what the root of its second moments is multiplied by: both make up for moments that started at 0.
pub(crate) fn corrections(learning_rate: f32, step: u64) -> (f32, f32) {
    let time = i32::try_from(step).unwrap_or(i32::MAX);
    let size = f64::from(learning_rate) / (1.0 - f64::from(FIRST).powi(time));
    let scale = 1.0 / (1.0 - f64::from(SECOND).powi(time)).sqrt();
    (size as f32, scale as f32)
}

/// A rule by which parameters p follow the gradient g of a loss, with two numbers each that start at 0, `first` and `second`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// Gradient descent with momentum (Sutskever et al., 2013): v = `momentum` v + g; p = p - lr v. `first` is v.
    Sgd {
        /// What is kept of the velocity.
        momentum: f32,
    },
    /// Adam (Kingma and Ba, 2015), with decay rates 0.9 and 0.999.
    Adam,
    /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019): p = p (1 - lr decay) before the step.
    AdamW,
    /// RMSprop (Hinton, 2012) with decay rate 0.99: s = 0.99 s + 0.01 g^2; v = `momentum` v + g / (sqrt(s) + eps);
    /// p = p - lr v. `first` is v, `second` is s.
    RmsProp {
        /// What is kept of the velocity.
        momentum: f32,
    },
}

/// How a step is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// By which rule.
    pub rule: Rule,
    /// Step size, lr.
    pub learning_rate: f32,
    /// L2 penalty: decoupled for [`Rule::AdamW`], else added to the gradient times the parameter.
    pub weight_decay: f32,
    /// Counts the steps from 1 on.
    pub step: u64,
}

/// Parameters and what their rule remembers; all of the same length, changed in place.
#[derive(Debug)]
pub struct Parameters<'a> {
    /// They.
    pub values: &'a mut [f32],
    /// Velocity, or means of the gradients.
    pub first: &'a mut [f32],
    /// Means of their squares.
    pub second: &'a mut [f32],
}

impl Parameters<'_> {
    pub(crate) fn check(&self, gradient: usize) {
        assert_eq!(gradient, self.values.len(), "gradient must have the shape of parameters");
        assert_eq!(self.first.len(), gradient, "first moments must have the shape of parameters");
        assert_eq!(self.second.len(), gradient, "second moments must have the shape of parameters");
    }
}

/// One step along `gradient`.
///
/// # Panics
/// When the shapes differ.
pub fn descend(parameters: Parameters<'_>, gradient: &[f32], pace: Pace) {
    parameters.check(gradient.len());
    dispatch(Whole { parameters, gradient, pace });
}

struct Whole<'a> {
    parameters: Parameters<'a>,
    gradient: &'a [f32],
    pace: Pace,
}

impl WithSimd for Whole<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { parameters: Parameters { values, first, second }, gradient, pace } = self;
        let stride = Stride::new(simd, pace);
        let (values, last_values) = S::as_mut_simd_f32s(values);
        let (first, last_first) = S::as_mut_simd_f32s(first);
        let (second, last_second) = S::as_mut_simd_f32s(second);
        let (slopes, last_slopes) = S::as_simd_f32s(gradient);
        for (((value, first), second), slope) in values.iter_mut().zip(first).zip(second).zip(slopes) {
            [*value, *first, *second] = stride.take(simd, [*value, *first, *second], *slope);
        }
        let last = [&*last_values, &*last_first, &*last_second].map(|values| simd.partial_load_f32s(values));
        let last = stride.take(simd, last, simd.partial_load_f32s(last_slopes));
        for (values, last) in [last_values, last_first, last_second].into_iter().zip(last) {
            simd.partial_store_f32s(values, last);
        }
    }
}

/// What of a step is the same for all parameters.
#[derive(Clone, Copy)]
pub(crate) struct Stride<S: Simd> {
    rule: Rule,
    decay: S::f32s,
    /// 1 - lr decay.
    kept: S::f32s,
    rate: S::f32s,
    momentum: S::f32s,
    size: S::f32s,
    scale: S::f32s,
}

impl<S: Simd> Stride<S> {
    #[inline(always)]
    pub(crate) fn new(simd: S, pace: Pace) -> Self {
        let Pace { rule, learning_rate, weight_decay, step } = pace;
        let momentum = match rule {
            Rule::Sgd { momentum } | Rule::RmsProp { momentum } => momentum,
            Rule::Adam | Rule::AdamW => 0.0,
        };
        let (size, scale) = corrections(learning_rate, step);
        Self {
            rule,
            decay: simd.splat_f32s(weight_decay),
            kept: simd.splat_f32s(1.0 - learning_rate * weight_decay),
            rate: simd.splat_f32s(learning_rate),
            momentum: simd.splat_f32s(momentum),
            size: simd.splat_f32s(size),
            scale: simd.splat_f32s(scale),
        }
    }

    /// A parameter, its first and its second number after a step along `slope`.
    #[inline(always)]
    pub(crate) fn take(&self, simd: S, state: [S::f32s; 3], slope: S::f32s) -> [S::f32s; 3] {
        match self.rule {
            Rule::Sgd { .. } => self.sgd(simd, state, slope),
            Rule::Adam => {
                let [value, ..] = state;
                let slope = simd.add_f32s(slope, simd.mul_f32s(self.decay, value));
                self.adam(simd, state, slope)
            }
            Rule::AdamW => {
                let [value, first, second] = state;
                self.adam(simd, [simd.mul_f32s(value, self.kept), first, second], slope)
            }
            Rule::RmsProp { .. } => self.rms_prop(simd, state, slope),
        }
    }

    #[inline(always)]
    fn sgd(&self, simd: S, [value, velocity, second]: [S::f32s; 3], slope: S::f32s) -> [S::f32s; 3] {
        let slope = simd.add_f32s(slope, simd.mul_f32s(self.decay, value));
        let velocity = simd.add_f32s(simd.mul_f32s(self.momentum, velocity), slope);
        [simd.sub_f32s(value, simd.mul_f32s(self.rate, velocity)), velocity, second]
    }

    #[inline(always)]
    fn adam(&self, simd: S, [value, first, second]: [S::f32s; 3], slope: S::f32s) -> [S::f32s; 3] {
        let first = mean(simd, FIRST, first, slope);
        let second = mean_square(simd, SECOND, second, slope);
        let root = simd.mul_f32s(simd.sqrt_f32s(second), self.scale);
        let root = simd.add_f32s(root, simd.splat_f32s(EPSILON));
        let step = simd.div_f32s(simd.mul_f32s(self.size, first), root);
        [simd.sub_f32s(value, step), first, second]
    }

    #[inline(always)]
    fn rms_prop(&self, simd: S, [value, velocity, square]: [S::f32s; 3], slope: S::f32s) -> [S::f32s; 3] {
        let slope = simd.add_f32s(slope, simd.mul_f32s(self.decay, value));
        let square = mean_square(simd, KEPT, square, slope);
        let root = simd.add_f32s(simd.sqrt_f32s(square), simd.splat_f32s(EPSILON));
        let velocity = simd.add_f32s(simd.mul_f32s(self.momentum, velocity), simd.div_f32s(slope, root));
        [simd.sub_f32s(value, simd.mul_f32s(self.rate, velocity)), velocity, square]
    }
}

/// `kept` of a mean, and what is missing to 1 of `value`.
#[inline(always)]
fn mean<S: Simd>(simd: S, kept: f32, mean: S::f32s, value: S::f32s) -> S::f32s {
    let new = simd.mul_f32s(simd.splat_f32s(1.0 - kept), value);
    simd.add_f32s(simd.mul_f32s(simd.splat_f32s(kept), mean), new)
}

/// The same of the square of `value`.
#[inline(always)]
fn mean_square<S: Simd>(simd: S, kept: f32, mean: S::f32s, value: S::f32s) -> S::f32s {
    let new = simd.mul_f32s(simd.mul_f32s(simd.splat_f32s(1.0 - kept), value), value);
    simd.add_f32s(simd.mul_f32s(simd.splat_f32s(kept), mean), new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::tests::Noise;

    const RATE: f64 = 0.03;
    const DECAY: f64 = 0.2;
    const MOMENTUM: f64 = 0.6;

    /// What one optimizer does in f64 to (parameter, first, second).
    type Reference = fn(u64, f64, f64, &mut [f64; 2]) -> f64;

    fn adam_rule(step: u64, parameter: f64, slope: f64, state: &mut [f64; 2]) -> f64 {
        let slope = slope + DECAY * parameter;
        adam_reference(step, parameter, slope, state)
    }

    fn adamw_rule(step: u64, parameter: f64, slope: f64, state: &mut [f64; 2]) -> f64 {
        adam_reference(step, parameter * (1.0 - RATE * DECAY), slope, state)
    }

    fn adam_reference(step: u64, parameter: f64, slope: f64, state: &mut [f64; 2]) -> f64 {
        state[0] = 0.9 * state[0] + 0.1 * slope;
        state[1] = 0.999 * state[1] + 0.001 * slope * slope;
        let (m, v) =
            (state[0] / (1.0 - 0.9_f64.powi(step as i32)), state[1] / (1.0 - 0.999_f64.powi(step as i32)));
        parameter - RATE * m / (v.sqrt() + 1e-8)
    }

    fn sgd_rule(_: u64, parameter: f64, slope: f64, state: &mut [f64; 2]) -> f64 {
        state[0] = MOMENTUM * state[0] + slope + DECAY * parameter;
        parameter - RATE * state[0]
    }

    fn rmsprop_rule(_: u64, parameter: f64, slope: f64, state: &mut [f64; 2]) -> f64 {
        let slope = slope + DECAY * parameter;
        state[1] = 0.99 * state[1] + 0.01 * slope * slope;
        state[0] = MOMENTUM * state[0] + slope / (state[1].sqrt() + 1e-8);
        parameter - RATE * state[0]
    }

    #[test]
    fn fifty_steps_agree_with_the_published_rules() {
        let rules: [(&str, Reference); 4] =
            [("sgd", sgd_rule), ("adam", adam_rule), ("adamw", adamw_rule), ("rmsprop", rmsprop_rule)];
        for (name, rule) in rules {
            let mut noise = Noise(5);
            let mut parameters: Vec<f32> = (0..33).map(|_| noise.unit() - 0.5).collect();
            let mut want: Vec<f64> = parameters.iter().map(|&p| f64::from(p)).collect();
            let mut states = vec![[0.0; 2]; 33];
            let (mut first, mut second) = (vec![0.0; 33], vec![0.0; 33]);
            for step in 1..=50 {
                let gradient: Vec<f32> = (0..33).map(|_| noise.unit() - 0.4).collect();
                let rule = match name {
                    "sgd" => Rule::Sgd { momentum: MOMENTUM as f32 },
                    "adam" => Rule::Adam,
                    "adamw" => Rule::AdamW,
                    _ => Rule::RmsProp { momentum: MOMENTUM as f32 },
                };
                let (learning_rate, weight_decay) = (RATE as f32, DECAY as f32);
                let pace = Pace { rule, learning_rate, weight_decay, step };
                let (values, first, second) = (&mut parameters[..], &mut first[..], &mut second[..]);
                descend(Parameters { values, first, second }, &gradient, pace);
                for ((want, state), slope) in want.iter_mut().zip(&mut states).zip(&gradient) {
                    *want = rule(step, *want, f64::from(*slope), state);
                }
            }
            for (got, want) in parameters.iter().zip(&want) {
                assert!((f64::from(*got) - want).abs() < 1e-4 * (1.0 + want.abs()), "{name}: {got} {want}");
            }
        }
    }
}
