//! How good outputs of a network are, on the device where they are.
//!
//! Where our kernels can judge on the device, nothing waits for it in the middle of a step: what the host needs to know
//! is two numbers a row, asked for when the whole step is under way.

use burn::tensor::{Tensor, TensorData};

use super::descent::host;
use super::network::Judge;
use crate::engine::minibatches::Sums;

/// Outputs that were looked at.
pub(super) struct Judged {
    /// Gradient of the mean loss by the outputs, shape `[rows, width]`.
    pub(super) gradient: Tensor<2>,
    figures: Figures,
}

enum Figures {
    Known(Sums),
    /// Loss of each row, then hits, shape `[2 rows]`.
    #[cfg(feature = "wgpu")]
    OnDevice(Box<Tensor<1>>),
}

impl Judged {
    /// Judges `outputs`, shape `[rows, width]`; sums alone where their loss is known by now and is no number.
    pub(super) fn of(outputs: Tensor<2>, judge: &Judge<'_>) -> Result<Self, Sums> {
        #[cfg(feature = "wgpu")]
        if let Some(judged) = gpu::judged(&outputs, judge) {
            return Ok(judged);
        }
        let (shape, device) = (outputs.dims(), outputs.device());
        let outputs = host(outputs);
        let mut gradient = vec![0.0; outputs.len()];
        let sums = judge.gradient(&outputs, &mut gradient);
        if !sums.loss.is_finite() {
            return Err(sums);
        }
        let gradient = Tensor::from_data(TensorData::new(gradient, shape), &device);
        Ok(Self { gradient, figures: Figures::Known(sums) })
    }

    /// The sums over the rows, once they are known. Not a number where the device failed.
    pub(super) fn sums(self) -> Sums {
        match self.figures {
            Figures::Known(sums) => sums,
            #[cfg(feature = "wgpu")]
            Figures::OnDevice(figures) => {
                let rows = figures.dims()[0] / 2;
                let figures = host(*figures);
                if figures.len() != 2 * rows {
                    return Sums { loss: f64::NAN, quality: f64::NAN, rows: rows as u64 };
                }
                let (losses, hits) = figures.split_at(rows);
                let sum = |values: &[f32]| values.iter().map(|value| f64::from(*value)).sum();
                Sums { loss: sum(losses), quality: sum(hits), rows: rows as u64 }
            }
        }
    }
}

#[cfg(feature = "wgpu")]
mod gpu {
    use burn::backend::ops::IntTensorOps;
    use burn::backend::tensor::{FloatTensor, IntTensor};
    use burn::backend::wgpu::{CubeBackend, CubeTensor};
    use burn::backend::{Backend, Dispatch, IntDType, Shape, TensorMetadata, backend_extension};
    use burn::tensor::{Int, Tensor, TensorData};
    use tensorfleet_kernels::gpu;

    use super::super::descent::gpu::{holds, values};
    use super::{Figures, Judge, Judged};

    /// `outputs` judged where they are; `None` where that is the host, or there is no kernel for the loss.
    pub(super) fn judged(outputs: &Tensor<2>, judge: &Judge<'_>) -> Option<Judged> {
        let device = outputs.device();
        let (ids, weights) = judge.cross_entropy().filter(|_| holds(&device))?;
        let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
        let [rows, classes] = [ids.len(), weights.len()];
        let targets = Tensor::<1, Int>::from_data(TensorData::new(ids, [rows]), &device);
        let weights = Tensor::<1>::from_data(TensorData::new(weights.to_vec(), [classes]), &device);
        let (gradient, figures) = <Dispatch as Judging>::cross_entropy(
            outputs.clone().into_dispatch(),
            targets.into_dispatch(),
            weights.into_dispatch(),
        );
        let figures = Figures::OnDevice(Box::new(Tensor::from_dispatch(figures)));
        Some(Judged { gradient: Tensor::from_dispatch(gradient), figures })
    }

    #[backend_extension(Cube)]
    trait Judging: Backend {
        /// Gradient by `logits`, and the figures of the rows.
        fn cross_entropy(
            logits: FloatTensor<Self>,
            targets: IntTensor<Self>,
            weights: FloatTensor<Self>,
        ) -> (FloatTensor<Self>, FloatTensor<Self>);
    }

    impl Judging for CubeBackend {
        fn cross_entropy(
            logits: CubeTensor,
            targets: CubeTensor,
            weights: CubeTensor,
        ) -> (CubeTensor, CubeTensor) {
            let like = logits.clone();
            // Ids are below 2^31, so that their bits are the same with and without a sign.
            let targets = values(Self::int_cast(targets, IntDType::I32));
            let [logits, weights] = [logits, weights].map(values);
            let found = gpu::softmax_cross_entropy_gradient(&like.client, &logits, &targets, &weights);
            let tensor = |values: gpu::Values, shape: Shape| {
                let CubeTensor { client, device, dtype, .. } = like.clone();
                CubeTensor::new_contiguous(client, device, shape, values.into_handle(), dtype)
            };
            let rows = Shape::new([found.figures.len()]);
            (tensor(found.gradient, like.shape()), tensor(found.figures, rows))
        }
    }
}
