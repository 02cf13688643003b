//! Steps of optimizers on tensors: our kernels, on the device where the tensors are.
//!
//! A tensor library makes a dozen passes over a parameter for one step of Adam, our kernels make one.

use burn::tensor::{Tensor, TensorData};
use tensorfleet_kernels::{self as kernels, AdamMoments, Descent};

use super::network::Rule;
use crate::domain::Optimizer;

/// One parameter and its moments, flat.
#[derive(Debug, Clone)]
pub(super) struct Value {
    /// The parameter.
    pub(super) parameter: Tensor<1>,
    /// Its first moments, or velocity.
    pub(super) first: Tensor<1>,
    /// Its second moments, or mean squares.
    pub(super) second: Tensor<1>,
}

/// A step of one parameter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// What is done.
    pub(super) rule: Rule,
    /// The parameter's L2 penalty.
    pub(super) decay: f32,
    /// Step size.
    pub(super) learning_rate: f32,
    /// Counts the steps from 1 on.
    pub(super) step: u64,
}

impl Value {
    /// The values of `parameter`, `first` and `second` on the host. Empty where the device failed.
    pub(super) fn host(self) -> [Vec<f32>; 3] {
        [self.parameter, self.first, self.second].map(host)
    }

    /// What one step along `gradient` makes of it.
    pub(super) fn descended(self, gradient: Tensor<1>, pace: Pace) -> Self {
        #[cfg(feature = "wgpu")]
        if gpu::holds(&self.parameter.device()) {
            return gpu::descended(self, gradient, pace);
        }
        on_host(self, gradient, pace)
    }
}

/// The values of `tensor`, row-major. Empty where the device failed, which shapes then show.
pub(super) fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().unwrap_or_default()
}

fn on_host(value: Value, gradient: Tensor<1>, pace: Pace) -> Value {
    let device = gradient.device();
    let gradient = host(gradient);
    let [mut parameters, mut first, mut second] = value.host();
    let Pace { rule, decay: weight_decay, learning_rate, step } = pace;
    let descent = Descent { parameters: &mut parameters, gradient: &gradient, learning_rate, weight_decay };
    match rule.optimizer {
        Optimizer::Sgd => kernels::sgd(descent, rule.momentum, &mut first),
        Optimizer::Adam => {
            kernels::adam(descent, AdamMoments { first: &mut first, second: &mut second, step });
        }
        Optimizer::AdamW => {
            kernels::adamw(descent, AdamMoments { first: &mut first, second: &mut second, step });
        }
        Optimizer::RmsProp => kernels::rmsprop(descent, rule.momentum, &mut first, &mut second),
    }
    let [parameter, first, second] = [parameters, first, second].map(|values| {
        let len = values.len();
        Tensor::from_data(TensorData::new(values, [len]), &device)
    });
    Value { parameter, first, second }
}

#[cfg(feature = "wgpu")]
pub(super) mod gpu {
    use burn::backend::tensor::FloatTensor;
    use burn::backend::wgpu::{CubeBackend, CubeTensor};
    use burn::backend::{
        Backend, Dispatch, DispatchDevice, TensorMetadata, backend_extension, ops::FloatTensorOps,
    };
    use burn::tensor::{Device, Tensor};
    use tensorfleet_kernels::gpu::{self, GpuDescent, GpuMoments, Stepped, Values};

    use super::{Pace, Value};
    use crate::domain::Optimizer;

    /// Whether `device` is one of CubeCL.
    pub(in super::super) fn holds(device: &Device) -> bool {
        matches!(device.as_dispatch(), DispatchDevice::Cube(_))
    }

    pub(super) fn descended(value: Value, gradient: Tensor<1>, pace: Pace) -> Value {
        let [parameter, first, second, gradient] =
            [value.parameter, value.first, value.second, gradient].map(Tensor::into_dispatch);
        let (parameter, first, second) =
            <Dispatch as Descending>::descended(parameter, gradient, first, second, pace);
        let [parameter, first, second] = [parameter, first, second].map(Tensor::from_dispatch);
        Value { parameter, first, second }
    }

    #[backend_extension(Cube)]
    trait Descending: Backend {
        /// Parameter, first and second moments after a step.
        fn descended(
            parameter: FloatTensor<Self>,
            gradient: FloatTensor<Self>,
            first: FloatTensor<Self>,
            second: FloatTensor<Self>,
            pace: Pace,
        ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    }

    impl Descending for CubeBackend {
        fn descended(
            parameter: CubeTensor,
            gradient: CubeTensor,
            first: CubeTensor,
            second: CubeTensor,
            pace: Pace,
        ) -> (CubeTensor, CubeTensor, CubeTensor) {
            let like = parameter.clone();
            let [p, gradient, first, second] = [parameter, gradient, first, second].map(values);
            let Pace { rule, decay, learning_rate, step } = pace;
            let descent = GpuDescent {
                client: &like.client,
                parameters: &p,
                gradient: &gradient,
                learning_rate,
                weight_decay: decay,
            };
            let moments = GpuMoments { first: &first, second: &second, step };
            let Stepped { parameters, first, second } = match rule.optimizer {
                Optimizer::Sgd => gpu::sgd(descent, rule.momentum, &first, &second),
                Optimizer::Adam => gpu::adam(descent, moments),
                Optimizer::AdamW => gpu::adamw(descent, moments),
                Optimizer::RmsProp => gpu::rmsprop(descent, rule.momentum, &first, &second),
            };
            let tensor = |values: Values| {
                let CubeTensor { client, device, dtype, .. } = like.clone();
                CubeTensor::new_contiguous(client, device, like.shape(), values.into_handle(), dtype)
            };
            (tensor(parameters), tensor(first), tensor(second))
        }
    }

    /// The numbers of `tensor`, row-major.
    pub(in super::super) fn values(tensor: CubeTensor) -> Values {
        let shape = tensor.shape();
        let len = shape.num_elements();
        if tensor.is_contiguous() {
            return Values::new(tensor.handle, len);
        }
        let whole: Vec<_> = shape.iter().map(|side| (0..*side).into()).collect();
        let room = CubeBackend::float_zeros(shape, &tensor.device, tensor.dtype.into());
        Values::new(CubeBackend::float_slice_assign(room, &whole, tensor).handle, len)
    }
}
