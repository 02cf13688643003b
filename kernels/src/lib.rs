//! The hot arithmetic of the worker: one public function an operation.
//!
//! ```text
//! classification  softmax_cross_entropy, softmax_cross_entropy_gradient, softmax
//! regression      squared_error, squared_error_gradient, absolute_error, absolute_error_gradient
//! parameters      fill_uniform
//! trees           bins, derivatives, histograms, splits and walks of trees (a module of its own)
//! ```
//!
//! Invariants: every function is pure (slices in, slices and sums out), takes row-major `f32`, adds up in `f64`
//! in the order of the rows, and so gives the same bits for the same input whatever else runs. NaN and infinity
//! are not errors: they come out as a NaN or infinite loss, which the caller looks at.
//!
//! Deliberately absent: threads, devices and allocation. A caller splits the rows if it wants to.
#![forbid(unsafe_code)]

mod classification;
mod parameters;
mod regression;
pub mod trees;

pub use classification::{
    ClassificationSums, softmax, softmax_cross_entropy, softmax_cross_entropy_gradient,
};
pub use parameters::fill_uniform;
pub use regression::{absolute_error, absolute_error_gradient, squared_error, squared_error_gradient};
