//! Layers as a safetensors file that PyTorch loads: the state_dict of a Sequential of Linear and ReLU in turn, so
//! that layer i is number 2 i: `0.weight` of shape `[out, in]`, `0.bias` of `[out]`, `2.weight`, ...

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::mlp::Layer;
use crate::domain::{ErrorCode, InvalidField, TaskError};

/// The file of `layers`.
///
/// # Errors
/// Defects of ours alone.
pub(super) fn write(layers: &[Layer]) -> Result<Vec<u8>, TaskError> {
    let defect =
        |error| TaskError::new(ErrorCode::Internal, format!("the weights could not be written: {error}"));
    let stored: Vec<(String, Vec<usize>, Vec<u8>)> = layers
        .iter()
        .enumerate()
        .flat_map(|(index, layer)| {
            let weight = transpose(&layer.weight, layer.inputs, layer.outputs);
            [
                (name(index, "weight"), vec![layer.outputs, layer.inputs], to_bytes(&weight)),
                (name(index, "bias"), vec![layer.outputs], to_bytes(&layer.bias)),
            ]
        })
        .collect();
    let views = stored
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(defect)?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(defect)
}

/// The layers in `bytes`, which must have the shapes of `expected`.
///
/// # Errors
/// `InvalidArgument` that names the tensor.
pub(super) fn read(bytes: &[u8], expected: &[Layer]) -> Result<Vec<Layer>, TaskError> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| {
        invalid(format!("{} bytes", bytes.len()), format!("a safetensors file ({error})"))
    })?;
    if file.len() != 2 * expected.len() {
        let allowed = format!("{} tensors, two for each layer of this network", 2 * expected.len());
        return Err(invalid(format!("{} tensors", file.len()), allowed));
    }
    expected
        .iter()
        .enumerate()
        .map(|(index, layer)| {
            let (inputs, outputs) = (layer.inputs, layer.outputs);
            let weight = values(&file, &name(index, "weight"), &[outputs, inputs])?;
            let bias = values(&file, &name(index, "bias"), &[outputs])?;
            Ok(Layer { inputs, outputs, weight: transpose(&weight, outputs, inputs), bias })
        })
        .collect()
}

fn values(file: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>, TaskError> {
    let allowed = || format!("F32 {shape:?} for this data set and these hidden_layers");
    let tensor =
        file.tensor(name).map_err(|_| invalid(format!("no {name}"), format!("{name}: {}", allowed())))?;
    if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
        let value = format!("{name}: {:?} {:?}", tensor.dtype(), tensor.shape());
        return Err(invalid(value, allowed()));
    }
    let values: Vec<f32> =
        tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if values.iter().all(|value| value.is_finite()) {
        Ok(values)
    } else {
        Err(invalid(format!("{name} with NaN or infinity"), "finite values".to_owned()))
    }
}

fn invalid(value: String, allowed: String) -> TaskError {
    InvalidField::new("model_weights", value, allowed).into()
}

fn name(layer: usize, parameter: &str) -> String {
    format!("{}.{parameter}", 2 * layer)
}

/// The transpose of `values`, shape [rows, columns].
fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let column = |column: usize| values.iter().skip(column).step_by(columns.max(1)).take(rows).copied();
    (0..columns).flat_map(column).collect()
}

fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::mlp::first_layers;
    use super::*;

    #[test]
    fn the_file_has_pytorchs_names_shapes_and_values() {
        let layers = first_layers(&[3, 4, 2], 1);
        let bytes = write(&layers).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut names = file.names();
        names.sort_unstable();
        assert_eq!(names, ["0.bias", "0.weight", "2.bias", "2.weight"]);
        assert_eq!(file.tensor("0.weight").unwrap().shape(), [4, 3]);
        let weight = values(&file, "0.weight", &[4, 3]).unwrap();
        // Row 1 of PyTorch's weight is the column of inputs to output 1.
        assert_eq!(weight[3..6], [layers[0].weight[1], layers[0].weight[5], layers[0].weight[9]]);
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        assert_eq!(read(&bytes, &layers).unwrap(), layers);
    }

    #[test]
    fn what_is_not_this_network_is_refused_by_name() {
        let layers = first_layers(&[3, 4, 2], 1);
        let wider = write(&first_layers(&[3, 5, 2], 1)).unwrap();
        let deeper = write(&first_layers(&[3, 4, 4, 2], 1)).unwrap();
        let mut infinite = layers.clone();
        infinite[1].bias[0] = f32::INFINITY;
        let infinite = write(&infinite).unwrap();
        for (bytes, said) in [
            (&wider[..], "0.weight: F32 [5, 3]"),
            (&deeper[..], "6 tensors"),
            (&infinite[..], "2.bias with NaN"),
            (b"rubbish", "7 bytes"),
            (&wider[..40], "40 bytes"),
        ] {
            let error = read(bytes, &layers).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(error.message.starts_with("model_weights: ") && error.message.contains(said), "{error}");
        }
    }
}
