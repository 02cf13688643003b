//! What networks are made of: their layers, the names and shapes of their parameters, and first values.

use rand::RngExt;
use tensorfleet_kernels::{self as kernels, Stage};

use crate::data::Dataset;
use crate::domain::{ErrorCode, Hyperparameters, InvalidField, TaskError};
use crate::engine::seeds::{self, Purpose};

/// Most parameters of a network; with optimizer, gradients and a copy to roll back to they take 24 bytes each.
const MAX_PARAMETERS: u64 = 100_000_000;

/// Channels after the first and the second convolution, and width of the hidden dense layer after them.
const CHANNELS: [usize; 2] = [16, 32];
const HIDDEN: usize = 128;

/// Side of the kernels of the convolutions, which are padded so that they keep the size of an image.
pub(super) const KERNEL: usize = 3;

/// Side of the windows of the two poolings, and their stride.
pub(super) const POOL: usize = 2;

/// The layers of a network, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Architecture {
    /// Dense layers with ReLU between them, none after the last.
    Dense {
        /// From the input to the output, at least two.
        widths: Vec<usize>,
    },
    /// Convolution, ReLU and pooling twice, then two dense layers with ReLU between them.
    Convolutional {
        /// What a row is.
        image: Image,
        /// Width of the output.
        outputs: usize,
    },
}

/// Size of an image; a row of features is its values, row-major in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Image {
    /// Colours.
    pub(super) channels: usize,
    /// Rows.
    pub(super) height: usize,
    /// Columns.
    pub(super) width: usize,
}

/// What a parameter is to its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Multiplied with the input.
    Weight,
    /// Added.
    Bias,
}

/// One parameter of a network, as PyTorch knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameter {
    /// Its name in the state_dict of a Sequential.
    pub(super) name: String,
    /// Its shape there.
    pub(super) shape: Vec<usize>,
    /// What it is.
    pub(super) role: Role,
    /// Inputs of one output of its layer.
    fan_in: usize,
}

impl Parameter {
    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Where the values of a network start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Drawn as PyTorch does for Linear and Conv2d.
    Drawn,
    /// All 0: what is convex needs no luck.
    Zero,
}

impl Image {
    /// The image that a row of `data` is: what hyperparameter image_shape says, else a square of one channel.
    ///
    /// # Errors
    /// The row is not that long; the image is too small for two poolings.
    pub(super) fn of(data: &Dataset, hyperparameters: &Hyperparameters) -> Result<Self, TaskError> {
        let features = data.width();
        let refuse = |value: String, allowed: String| {
            TaskError::from(InvalidField::new("hyperparameters.image_shape", value, allowed))
        };
        let image = match hyperparameters.image_shape {
            Some([channels, height, width]) => Self { channels, height, width },
            None => {
                let side = features.isqrt();
                if side * side != features {
                    let allowed = format!(
                        "CHANNELS x HEIGHT x WIDTH with {features} values in all; without it a row must be a square, \
                         and {features} features are none"
                    );
                    return Err(refuse(String::new(), allowed));
                }
                Self { channels: 1, height: side, width: side }
            }
        };
        let Self { channels, height, width } = image;
        let shown = format!("{channels}x{height}x{width}");
        if channels.saturating_mul(height).saturating_mul(width) != features {
            let allowed = format!(
                "CHANNELS x HEIGHT x WIDTH with as many values as the data set has features, {features}"
            );
            return Err(refuse(shown, allowed));
        }
        let least = POOL * POOL;
        if height < least || width < least {
            let allowed = format!("images of at least {least}x{least}, since two poolings halve them");
            return Err(refuse(shown, allowed));
        }
        Ok(image)
    }

    /// Values after the second pooling.
    pub(super) fn flattened(self) -> usize {
        CHANNELS[1] * (self.height / POOL / POOL) * (self.width / POOL / POOL)
    }
}

impl Architecture {
    /// Its parameters, in the order in which their values follow each other.
    pub(super) fn parameters(&self) -> Vec<Parameter> {
        match self {
            Self::Dense { widths } => widths
                .windows(2)
                .enumerate()
                .flat_map(|(layer, pair)| layer_parameters(2 * layer, pair[1], &[pair[0]]))
                .collect(),
            Self::Convolutional { image, outputs } => [
                layer_parameters(0, CHANNELS[0], &[image.channels, KERNEL, KERNEL]),
                layer_parameters(3, CHANNELS[1], &[CHANNELS[0], KERNEL, KERNEL]),
                layer_parameters(7, HIDDEN, &[image.flattened()]),
                layer_parameters(9, *outputs, &[HIDDEN]),
            ]
            .concat(),
        }
    }

    /// Its convolutions, in order.
    pub(super) fn stages(&self) -> Vec<Stage> {
        let Self::Convolutional { image: Image { channels, height, width }, .. } = *self else {
            return Vec::new();
        };
        let [first, second] = CHANNELS;
        vec![
            Stage { channels, height, width, filters: first },
            Stage { channels: first, height: height / POOL, width: width / POOL, filters: second },
        ]
    }

    /// Number of values of its parameters.
    ///
    /// # Errors
    /// `ResourceExhausted` where they are more than [`MAX_PARAMETERS`].
    pub(super) fn checked_size(&self, hyperparameters: &Hyperparameters) -> Result<usize, TaskError> {
        let values = |parameter: &Parameter| {
            parameter.shape.iter().fold(1_u64, |product, side| product.saturating_mul(*side as u64))
        };
        let size = self.parameters().iter().map(values).fold(0_u64, u64::saturating_add);
        if size <= MAX_PARAMETERS {
            return Ok(size as usize);
        }
        let (name, value) = match self {
            Self::Dense { .. } => {
                let widths: Vec<String> =
                    hyperparameters.hidden_layers.iter().map(ToString::to_string).collect();
                ("hyperparameters.hidden_layers", widths.join(","))
            }
            Self::Convolutional { image, .. } => {
                let Image { channels, height, width } = image;
                ("hyperparameters.image_shape", format!("{channels}x{height}x{width}"))
            }
        };
        let allowed =
            format!("sizes that give at most {MAX_PARAMETERS} parameters with this data set (these: {size})");
        let field = InvalidField::new(name, value, allowed);
        Err(TaskError::new(ErrorCode::ResourceExhausted, field.to_string()))
    }

    /// First values of all parameters: drawn from the stream of `seed` for weights, parameter by parameter.
    pub(super) fn first_values(&self, start: Start, seed: u64) -> Vec<f32> {
        let mut generator = seeds::stream(seed, Purpose::Weights, 0, 0);
        let parameters = self.parameters();
        let mut values = vec![0.0; parameters.iter().map(Parameter::len).sum()];
        if start == Start::Zero {
            return values;
        }
        let mut rest = values.as_mut_slice();
        for parameter in &parameters {
            let (own, others) = rest.split_at_mut(parameter.len());
            let bound = 1.0 / (parameter.fan_in.max(1) as f32).sqrt();
            kernels::fill_uniform(own, bound, || generator.random());
            rest = others;
        }
        values
    }

    /// The Sequential of PyTorch that takes these parameters.
    pub(super) fn pytorch(&self) -> String {
        let layers = match self {
            Self::Dense { widths } => {
                let linear = |pair: &[usize]| format!("Linear({}, {})", pair[0], pair[1]);
                widths.windows(2).map(linear).collect::<Vec<_>>().join(", ReLU(), ")
            }
            Self::Convolutional { image, outputs } => {
                let [first, second] = CHANNELS;
                format!(
                    "Conv2d({}, {first}, {KERNEL}, padding=1), ReLU(), MaxPool2d({POOL}), Conv2d({first}, {second}, \
                     {KERNEL}, padding=1), ReLU(), MaxPool2d({POOL}), Flatten(), Linear({}, {HIDDEN}), ReLU(), \
                     Linear({HIDDEN}, {outputs})",
                    image.channels,
                    image.flattened()
                )
            }
        };
        format!("Sequential({layers})")
    }
}

/// Weight, shape `[outputs, inputs..]`, and bias of layer `number`.
fn layer_parameters(number: usize, outputs: usize, inputs: &[usize]) -> Vec<Parameter> {
    let fan_in = inputs.iter().product();
    let parameter = |name: &str, shape: Vec<usize>, role| Parameter {
        name: format!("{number}.{name}"),
        shape,
        role,
        fan_in,
    };
    vec![
        parameter("weight", [&[outputs], inputs].concat(), Role::Weight),
        parameter("bias", vec![outputs], Role::Bias),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_values_follow_from_the_seed_and_keep_pytorchs_bounds() {
        let architecture = Architecture::Dense { widths: vec![64, 128, 10] };
        let values = architecture.first_values(Start::Drawn, 7);
        assert_eq!(values, architecture.first_values(Start::Drawn, 7));
        assert_ne!(values, architecture.first_values(Start::Drawn, 8));
        let mut rest = values.as_slice();
        for parameter in architecture.parameters() {
            let (own, others) = rest.split_at(parameter.len());
            let bound = 1.0 / if parameter.name.starts_with('0') { 8.0 } else { 128.0_f32.sqrt() };
            let greatest = own.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            assert!(greatest <= bound && greatest > 0.7 * bound, "{} {greatest} {bound}", parameter.name);
            rest = others;
        }
        assert!(architecture.first_values(Start::Zero, 7).iter().all(|value| *value == 0.0));
    }

    #[test]
    fn parameters_are_those_of_pytorch() {
        let image = Image { channels: 1, height: 8, width: 8 };
        let architecture = Architecture::Convolutional { image, outputs: 10 };
        let shown: Vec<String> =
            architecture.parameters().iter().map(|p| format!("{} {:?}", p.name, p.shape)).collect();
        assert_eq!(
            shown,
            [
                "0.weight [16, 1, 3, 3]",
                "0.bias [16]",
                "3.weight [32, 16, 3, 3]",
                "3.bias [32]",
                "7.weight [128, 128]",
                "7.bias [128]",
                "9.weight [10, 128]",
                "9.bias [10]",
            ]
        );
        let dense = Architecture::Dense { widths: vec![4, 3, 2] };
        assert_eq!(dense.pytorch(), "Sequential(Linear(4, 3), ReLU(), Linear(3, 2))");
    }
}
