//! How far a running task is.

/// The latest figures of a running task. Losses are means per sample; accuracy is a ratio in [0, 1] (for
/// regression the root mean squared error in units of the target).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Progress {
    /// Steps done: minibatches, rounds or trees.
    pub step: u64,
    /// Steps there are in this task.
    pub total_steps: u64,
    /// Mean training loss so far in this task.
    pub loss: f64,
    /// Mean training accuracy so far in this task.
    pub accuracy: f64,
    /// Training samples a second since the task started.
    pub samples_per_second: f64,
    /// True when the figures come from an analytic curve.
    pub simulated: bool,
}
