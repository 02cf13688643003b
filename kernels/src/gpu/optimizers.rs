//! Steps of optimizers on a GPU: one pass over a parameter and its moments, by the rules of `crate::optimizers`.

use cubecl::prelude::*;

use super::{Values, spread};
use crate::optimizers::{EPSILON, FIRST, KEPT, SECOND, corrections};

/// A parameter and the gradient of the loss by it, of the same length.
#[derive(Clone, Copy)]
pub struct GpuDescent<'a> {
    /// Where they are.
    pub client: &'a Client,
    /// Not changed: the step yields new ones.
    pub parameters: &'a Values,
    /// Gradient of the loss by them.
    pub gradient: &'a Values,
    /// Step size.
    pub learning_rate: f32,
    /// L2 penalty: decoupled for [`adamw`], else added to the gradient times the parameter.
    pub weight_decay: f32,
}

/// Adam's moments, as long as the parameters.
#[derive(Debug, Clone, Copy)]
pub struct GpuMoments<'a> {
    /// Mean of the gradients; starts at 0.
    pub first: &'a Values,
    /// Mean of their squares; starts at 0.
    pub second: &'a Values,
    /// Counts the steps from 1 on.
    pub step: u64,
}

/// What a step yields.
#[derive(Debug)]
pub struct Stepped {
    /// The parameters after it.
    pub parameters: Values,
    /// The first moments, or the velocity.
    pub first: Values,
    /// The second moments, or the mean squares.
    pub second: Values,
}

impl GpuDescent<'_> {
    fn check(&self, moments: &[&Values]) {
        let len = self.parameters.len();
        assert_eq!(self.gradient.len(), len, "gradient must have the shape of parameters");
        assert!(
            moments.iter().all(|values| values.len() == len),
            "moments must have the shape of parameters"
        );
    }

    fn room(&self) -> Values {
        Values::empty(self.client, self.parameters.len())
    }
}

/// As [`crate::adam`].
///
/// # Panics
/// When the shapes differ.
pub fn adam(descent: GpuDescent<'_>, moments: GpuMoments<'_>) -> Stepped {
    adam_with(descent, moments, 1.0, descent.weight_decay)
}

/// As [`crate::adamw`].
///
/// # Panics
/// When the shapes differ.
pub fn adamw(descent: GpuDescent<'_>, moments: GpuMoments<'_>) -> Stepped {
    adam_with(descent, moments, 1.0 - descent.learning_rate * descent.weight_decay, 0.0)
}

fn adam_with(descent: GpuDescent<'_>, moments: GpuMoments<'_>, kept: f32, penalty: f32) -> Stepped {
    descent.check(&[moments.first, moments.second]);
    let (step, scale) = corrections(descent.learning_rate, moments.step);
    let after = Stepped { parameters: descent.room(), first: descent.room(), second: descent.room() };
    let (cubes, units) = spread(descent.client, descent.parameters.len());
    adam_kernel::launch(
        descent.client,
        cubes,
        units,
        descent.parameters.argument(),
        descent.gradient.argument(),
        moments.first.argument(),
        moments.second.argument(),
        after.parameters.argument(),
        after.first.argument(),
        after.second.argument(),
        step,
        scale,
        kept,
        penalty,
    );
    after
}

/// As [`crate::sgd`]; the second moments of what it yields are `unused`, as they were.
///
/// # Panics
/// When the shapes differ.
pub fn sgd(descent: GpuDescent<'_>, momentum: f32, velocity: &Values, unused: &Values) -> Stepped {
    descent.check(&[velocity]);
    let after = Stepped { parameters: descent.room(), first: descent.room(), second: unused.clone() };
    let (cubes, units) = spread(descent.client, descent.parameters.len());
    sgd_kernel::launch(
        descent.client,
        cubes,
        units,
        descent.parameters.argument(),
        descent.gradient.argument(),
        velocity.argument(),
        after.parameters.argument(),
        after.first.argument(),
        descent.learning_rate,
        momentum,
        descent.weight_decay,
    );
    after
}

/// As [`crate::rmsprop`].
///
/// # Panics
/// When the shapes differ.
pub fn rmsprop(descent: GpuDescent<'_>, momentum: f32, velocity: &Values, squares: &Values) -> Stepped {
    descent.check(&[velocity, squares]);
    let after = Stepped { parameters: descent.room(), first: descent.room(), second: descent.room() };
    let (cubes, units) = spread(descent.client, descent.parameters.len());
    rmsprop_kernel::launch(
        descent.client,
        cubes,
        units,
        descent.parameters.argument(),
        descent.gradient.argument(),
        velocity.argument(),
        squares.argument(),
        after.parameters.argument(),
        after.first.argument(),
        after.second.argument(),
        descent.learning_rate,
        momentum,
        descent.weight_decay,
    );
    after
}

#[cube(launch)]
fn adam_kernel(
    parameters: &[f32],
    gradient: &[f32],
    first: &[f32],
    second: &[f32],
    next: &mut [f32],
    next_first: &mut [f32],
    next_second: &mut [f32],
    step: f32,
    scale: f32,
    kept: f32,
    penalty: f32,
) {
    let at = ABSOLUTE_POS;
    if at < next.len() {
        let parameter = parameters[at];
        let slope = gradient[at] + penalty * parameter;
        let mean = FIRST * first[at] + (1.0 - FIRST) * slope;
        let square = SECOND * second[at] + (1.0 - SECOND) * slope * slope;
        next_first[at] = mean;
        next_second[at] = square;
        next[at] = kept * parameter - step * mean / (square.sqrt() * scale + EPSILON);
    }
}

#[cube(launch)]
fn sgd_kernel(
    parameters: &[f32],
    gradient: &[f32],
    velocity: &[f32],
    next: &mut [f32],
    next_velocity: &mut [f32],
    learning_rate: f32,
    momentum: f32,
    penalty: f32,
) {
    let at = ABSOLUTE_POS;
    if at < next.len() {
        let parameter = parameters[at];
        let speed = momentum * velocity[at] + gradient[at] + penalty * parameter;
        next_velocity[at] = speed;
        next[at] = parameter - learning_rate * speed;
    }
}

#[cube(launch)]
fn rmsprop_kernel(
    parameters: &[f32],
    gradient: &[f32],
    velocity: &[f32],
    squares: &[f32],
    next: &mut [f32],
    next_velocity: &mut [f32],
    next_squares: &mut [f32],
    learning_rate: f32,
    momentum: f32,
    penalty: f32,
) {
    let at = ABSOLUTE_POS;
    if at < next.len() {
        let parameter = parameters[at];
        let slope = gradient[at] + penalty * parameter;
        let square = KEPT * squares[at] + (1.0 - KEPT) * slope * slope;
        let speed = momentum * velocity[at] + slope / (square.sqrt() + EPSILON);
        next_squares[at] = square;
        next_velocity[at] = speed;
        next[at] = parameter - learning_rate * speed;
    }
}
