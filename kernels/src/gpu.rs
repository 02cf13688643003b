//! The same operations on a GPU, in CubeCL: each has a form for the CPU, and one test holds both together.
//!
//! ```text
//! optimizers      sgd, adam, adamw, rmsprop            one launch a parameter, where a chain of tensor
//!                                                      operations makes a dozen
//! classification  softmax_cross_entropy_gradient       a row a unit; what the host sums up is two numbers a row
//! dense           GpuDense, dense_gradients, train_step  product, bias and ReLU in one launch; the whole training step
//! histogram       accumulate, subtract                 integer atomics, so that sums do not depend on order
//! split           contenders                           a feature a unit
//! ```
//!
//! Invariants: values are contiguous in the device's memory; a launch reads some buffers and writes others, never the
//! same one, so that values which are shared stay as they are; nothing waits for the device but [`Values::read`] and
//! its kin. What the device computes differs from the CPU by rounding alone; integers do not differ.
//!
//! Deliberately absent: choosing a device, and products of large matrices, for which tensor libraries search the best way.

mod classification;
mod dense;
mod histogram;
mod optimizers;
mod split;

use std::ops::Range;

use cubecl::prelude::*;

pub use classification::{RowFigures, softmax_cross_entropy_gradient};
pub use cubecl::client::Client;
pub use cubecl::server::{Handle, ServerError};
pub use dense::{GpuDense, Learning, LearningLayer, StepBatch, dense_gradients, train_step};
pub use histogram::{GpuBins, accumulate, subtract};
pub use optimizers::{GpuDescent, GpuMoments, Stepped, adam, adamw, rmsprop, sgd};
pub use split::{Feature, Features, ScanLimits, contenders, score_bounds};

/// Numbers in the memory of a device, contiguous.
#[derive(Debug, Clone)]
pub struct Values {
    handle: Handle,
    len: usize,
}

impl Values {
    /// The first `len` numbers (of 4 bytes) that `handle` stands for, which has at least as many.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn new(handle: Handle, len: usize) -> Self {
        assert!(handle.size_in_used() >= 4 * len as u64, "there must be {len} numbers of 4 bytes");
        Self { handle, len }
    }

    /// `values` in the memory of the device; one of 8 bytes is two numbers there, the lower half first.
    pub fn upload<T: CubeElement>(client: &Client, values: &[T]) -> Self {
        Self::new(client.create_from_slice(T::as_bytes(values)), size_of_val(values) / 4)
    }

    /// Room for `len` numbers; what they are is not said.
    pub fn empty(client: &Client, len: usize) -> Self {
        Self { handle: client.empty(4 * len), len }
    }

    /// The numbers, once the device has computed them; one of 8 bytes is two of them.
    ///
    /// # Errors
    /// The device failed.
    pub fn read<T: CubeElement>(&self, client: &Client) -> Result<Vec<T>, ServerError> {
        let bytes = client.read_one(self.handle.clone())?;
        Ok(T::from_bytes(bytes.get(..4 * self.len).unwrap_or(&bytes)).to_vec())
    }

    /// As [`Self::read`], of `parts` alone, all at once.
    ///
    /// # Errors
    /// The device failed.
    ///
    /// # Panics
    /// When a part lies outside.
    pub fn read_parts<T: CubeElement>(
        &self,
        client: &Client,
        parts: &[Range<usize>],
    ) -> Result<Vec<Vec<T>>, ServerError> {
        let part = |range: &Range<usize>| {
            assert!(range.start <= range.end && range.end <= self.len, "a part must lie within");
            let behind = self.handle.size_in_used() - 4 * range.end as u64;
            self.handle.clone().offset_start(4 * range.start as u64).offset_end(behind)
        };
        let read = client.read(parts.iter().map(part).collect())?;
        Ok(read.iter().map(|bytes| T::from_bytes(bytes).to_vec()).collect())
    }

    /// How many.
    #[allow(clippy::len_without_is_empty, reason = "no buffer of a device is empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The device's name for them.
    pub fn into_handle(self) -> Handle {
        self.handle
    }

    fn argument(&self) -> BufferArg {
        #[allow(unsafe_code, reason = "lengths are not checked by CubeCL")]
        // SAFETY: `new` and `empty` hold `len` within the buffer.
        unsafe {
            BufferArg::from_raw_parts(self.handle.clone(), self.len)
        }
    }
}

/// Cubes and units for `count` units of work.
fn spread(client: &Client, count: usize) -> (CubeCount, CubeDim) {
    let units = CubeDim::new(client, count);
    (cubecl::calculate_cube_count_elemwise(client, count, units), units)
}
