//! The hot arithmetic of the worker: one public function an operation.
//!
//! ```text
//! classification  softmax_cross_entropy, softmax_cross_entropy_gradient (weighted or not), softmax
//! regression      squared_error, squared_error_gradient, absolute_error, absolute_error_gradient
//! margins         squared_hinge_gradient, epsilon_insensitive_gradient
//! convolution     Filters, convolve (with pooling and ReLU), convolve_backward
//! transposition   transpose
//! dense           Dense (forward with its activation, backward), dense_gradients, drop_out
//! optimizers      sgd, adam, adamw, rmsprop
//! matrix          Matrix, multiply (with bias, ReLU or the way back through one)
//! parameters      fill_uniform
//! trees           bins, derivatives, histograms, splits and walks of trees (a module of its own)
//! gpu             some of these on a GPU, in CubeCL (feature `wgpu`)
//! ```
//!
//! Invariants: every function is pure (slices in, slices and sums out), takes row-major `f32`, adds up in `f64`
//! in the order of the rows, and so gives the same bits for the same input whatever else runs. NaN and infinity
//! are not errors: they come out as a NaN or infinite loss, which the caller looks at.
//!
//! Threads are used by `multiply`, `convolve` and `convolve_backward` alone, which give the same bits for any number of them.
//!
//! Deliberately absent: devices and allocation. A caller splits the rows if it wants to.

mod classification;
mod convolution;
mod dense;
#[cfg(feature = "wgpu")]
pub mod gpu;
mod margins;
mod matrix;
mod optimizers;
mod parameters;
mod regression;
mod simd;
mod transcendental;
mod transposition;
pub mod trees;

pub use classification::{
    ClassificationSums, softmax, softmax_cross_entropy, softmax_cross_entropy_gradient,
    weighted_softmax_cross_entropy_gradient,
};
pub use convolution::{Filters, Passed, Slopes, Stage, convolve, convolve_backward};
pub use dense::{
    Activation, Dense, DenseGradients, dense_gradients, drop_out, dropout_scale, dropout_threshold,
};
pub use margins::{epsilon_insensitive_gradient, squared_hinge_gradient};
pub use matrix::{Finish, Gate, Matrix, Order, is_shared, multiply};
pub use optimizers::{AdamMoments, Descent, adam, adamw, rmsprop, sgd};
pub use parameters::fill_uniform;
pub use regression::{absolute_error, absolute_error_gradient, squared_error, squared_error_gradient};
pub use transposition::transpose;
