//! Steps of optimizers: parameters and moments, updated in place in one pass, by the rules of PyTorch 2.

use crate::simd::widened;

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

/// Parameters and what goes with them; all slices have the same length.
#[derive(Debug)]
pub struct Descent<'a> {
    /// Changed in place.
    pub parameters: &'a mut [f32],
    /// Gradient of the loss by them.
    pub gradient: &'a [f32],
    /// Step size.
    pub learning_rate: f32,
    /// L2 penalty: decoupled for [`adamw`], else added to the gradient times the parameter.
    pub weight_decay: f32,
}

impl Descent<'_> {
    fn check(&self, moments: &[f32]) {
        assert_eq!(self.gradient.len(), self.parameters.len(), "gradient must have the shape of parameters");
        assert_eq!(moments.len(), self.parameters.len(), "moments must have the shape of parameters");
    }
}

/// Gradient descent with momentum (Sutskever et al., 2013): v = `momentum` v + g; p = p - lr v. `velocity` starts at 0.
///
/// # Panics
/// When the shapes differ.
pub fn sgd(descent: Descent<'_>, momentum: f32, velocity: &mut [f32]) {
    descent.check(velocity);
    let Descent { parameters, gradient, learning_rate, weight_decay } = descent;
    widened(move || {
        for ((parameter, slope), velocity) in parameters.iter_mut().zip(gradient).zip(velocity) {
            let slope = slope + weight_decay * *parameter;
            *velocity = momentum * *velocity + slope;
            *parameter -= learning_rate * *velocity;
        }
    });
}

/// Adam's moments.
#[derive(Debug)]
pub struct AdamMoments<'a> {
    /// Mean of the gradients; starts at 0.
    pub first: &'a mut [f32],
    /// Mean of their squares; starts at 0.
    pub second: &'a mut [f32],
    /// Counts the steps from 1 on.
    pub step: u64,
}

/// Adam (Kingma and Ba, 2015), with decay rates 0.9 and 0.999.
///
/// # Panics
/// When the shapes differ.
pub fn adam(descent: Descent<'_>, moments: AdamMoments<'_>) {
    let penalty = descent.weight_decay;
    adam_with(descent, moments, |parameter, slope| (parameter, slope + penalty * parameter));
}

/// Adam with decoupled weight decay (Loshchilov and Hutter, 2019): p = p (1 - lr decay) before the step.
///
/// # Panics
/// When the shapes differ.
pub fn adamw(descent: Descent<'_>, moments: AdamMoments<'_>) {
    let kept = 1.0 - descent.learning_rate * descent.weight_decay;
    adam_with(descent, moments, |parameter, slope| (parameter * kept, slope));
}

fn adam_with(descent: Descent<'_>, moments: AdamMoments<'_>, decay: impl Fn(f32, f32) -> (f32, f32)) {
    descent.check(moments.first);
    descent.check(moments.second);
    let (step, scale) = corrections(descent.learning_rate, moments.step);
    let (Descent { parameters, gradient, .. }, AdamMoments { first, second, .. }) = (descent, moments);
    widened(move || {
        let moments = first.iter_mut().zip(second);
        for ((parameter, slope), (first, second)) in parameters.iter_mut().zip(gradient).zip(moments) {
            let (kept, slope) = decay(*parameter, *slope);
            *first = FIRST * *first + (1.0 - FIRST) * slope;
            *second = SECOND * *second + (1.0 - SECOND) * slope * slope;
            *parameter = kept - step * *first / (second.sqrt() * scale + EPSILON);
        }
    });
}

/// RMSprop (Hinton, 2012) with decay rate 0.99: s = 0.99 s + 0.01 g^2; v = `momentum` v + g / (sqrt(s) + eps);
/// p = p - lr v. `velocity` and `squares` start at 0.
///
/// # Panics
/// When the shapes differ.
pub fn rmsprop(descent: Descent<'_>, momentum: f32, velocity: &mut [f32], squares: &mut [f32]) {
    descent.check(velocity);
    descent.check(squares);
    let Descent { parameters, gradient, learning_rate, weight_decay } = descent;
    widened(move || {
        let moments = velocity.iter_mut().zip(squares);
        for ((parameter, slope), (velocity, square)) in parameters.iter_mut().zip(gradient).zip(moments) {
            let slope = slope + weight_decay * *parameter;
            *square = KEPT * *square + (1.0 - KEPT) * slope * slope;
            *velocity = momentum * *velocity + slope / (square.sqrt() + EPSILON);
            *parameter -= learning_rate * *velocity;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::tests::Noise;

    const RATE: f64 = 0.03;
    const DECAY: f64 = 0.2;
    const MOMENTUM: f64 = 0.6;

    /// What one optimizer does in f64 to (parameter, first, second).
    type Rule = fn(u64, f64, f64, &mut [f64; 2]) -> f64;

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
        let rules: [(&str, Rule); 4] =
            [("sgd", sgd_rule), ("adam", adam_rule), ("adamw", adamw_rule), ("rmsprop", rmsprop_rule)];
        for (name, rule) in rules {
            let mut noise = Noise(5);
            let mut parameters: Vec<f32> = (0..33).map(|_| noise.unit() - 0.5).collect();
            let mut want: Vec<f64> = parameters.iter().map(|&p| f64::from(p)).collect();
            let mut states = vec![[0.0; 2]; 33];
            let (mut first, mut second) = (vec![0.0; 33], vec![0.0; 33]);
            for step in 1..=50 {
                let gradient: Vec<f32> = (0..33).map(|_| noise.unit() - 0.4).collect();
                let descent = Descent {
                    parameters: &mut parameters,
                    gradient: &gradient,
                    learning_rate: RATE as f32,
                    weight_decay: DECAY as f32,
                };
                let moments = |first, second| AdamMoments { first, second, step };
                match name {
                    "sgd" => sgd(descent, MOMENTUM as f32, &mut first),
                    "adam" => adam(descent, moments(&mut first, &mut second)),
                    "adamw" => adamw(descent, moments(&mut first, &mut second)),
                    _ => rmsprop(descent, MOMENTUM as f32, &mut first, &mut second),
                }
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
