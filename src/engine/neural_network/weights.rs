//! Parameters as a safetensors file that PyTorch loads: the state_dict of the Sequential that its metadata names.
//!
//! | metadata | holds |
//! |-|-|
//! | `format` | `pt` |
//! | `architecture` | the Sequential, as `Sequential(Linear(4, 3))` |
//! | `features` | JSON: for each column how it becomes inputs, with the figures of the standardisation |
//! | `target` | JSON: `{"classes": [...]}` in the order of the outputs, or `{"mean": m, "std": s}`: an output y stands for y s + m |

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use super::architecture::Parameter;
use crate::data::{Dataset, Encoding, FeatureColumn, TargetKind};
use crate::domain::{ErrorCode, InvalidField, TaskError};

/// The text of a file's metadata, by name.
pub(super) type Metadata = BTreeMap<String, String>;

/// What the file of a model of `architecture`, as PyTorch writes it, says about `data`.
pub(super) fn metadata(architecture: String, data: &Dataset) -> Metadata {
    let features: Vec<Value> = data.preprocessor.columns.iter().map(feature).collect();
    let target = match &data.target {
        TargetKind::Classes { labels } => json!({ "classes": labels }),
        TargetKind::Value { mean, std } => json!({ "mean": mean, "std": std }),
    };
    [
        ("format", "pt".to_owned()),
        ("architecture", architecture),
        ("features", Value::from(features).to_string()),
        ("target", target.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn feature(column: &FeatureColumn) -> Value {
    let name = &column.name;
    match &column.encoding {
        Encoding::Plain => json!({ "column": name, "encoding": "plain" }),
        Encoding::Number { median, mean, std } => {
            json!({ "column": name, "encoding": "number", "missing": median, "mean": mean, "std": std })
        }
        Encoding::OneHot { words, missing } => {
            json!({ "column": name, "encoding": "one_hot", "words": words, "missing": missing })
        }
        Encoding::Frequency { shares, mean, std } => {
            json!({ "column": name, "encoding": "frequency", "shares": shares, "mean": mean, "std": std })
        }
    }
}

/// The file of `parameters` with `values`, in their order. The same values give the same bytes.
///
/// # Errors
/// Defects of ours alone.
pub(super) fn write(
    parameters: &[(String, Vec<usize>)],
    values: &[f32],
    metadata: &Metadata,
) -> Result<Vec<u8>, TaskError> {
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!(metadata))]);
    let mut end = 0_usize;
    for (name, shape) in parameters {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }));
    }
    if end != 4 * values.len() {
        let message = format!("{} bytes of weights, {end} were expected", 4 * values.len());
        return Err(TaskError::new(ErrorCode::Internal, message));
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // Readers want the values aligned.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = Vec::with_capacity(8 + header.len() + end);
    file.extend_from_slice(&(header.len() as u64).to_le_bytes());
    file.extend_from_slice(&header);
    file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    Ok(file)
}

/// Names and shapes of `parameters`, as [`write()`] takes them.
pub(super) fn named(parameters: &[Parameter]) -> Vec<(String, Vec<usize>)> {
    parameters.iter().map(|parameter| (parameter.name.clone(), parameter.shape.clone())).collect()
}

/// The values in `bytes`, which must have the names and shapes of `expected`, in their order.
///
/// # Errors
/// `InvalidArgument` that names the tensor.
pub(super) fn read(bytes: &[u8], expected: &[(String, Vec<usize>)]) -> Result<Vec<f32>, TaskError> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| {
        invalid(format!("{} bytes", bytes.len()), format!("a safetensors file ({error})"))
    })?;
    if file.len() != expected.len() {
        let allowed = format!("{} tensors, two for each layer of this network", expected.len());
        return Err(invalid(format!("{} tensors", file.len()), allowed));
    }
    let mut all = Vec::new();
    for (name, shape) in expected {
        all.extend(values(&file, name, shape)?);
    }
    Ok(all)
}

fn values(file: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>, TaskError> {
    let allowed = || format!("F32 {shape:?} for this data set and these hyperparameters");
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

#[cfg(test)]
mod tests {
    use super::super::architecture::{Architecture, Start};
    use super::*;

    fn network(widths: &[usize]) -> (Vec<(String, Vec<usize>)>, Vec<f32>) {
        let architecture = Architecture::Dense { widths: widths.to_vec() };
        (named(&architecture.parameters()), architecture.first_values(Start::Drawn, 1))
    }

    fn file(widths: &[usize]) -> Vec<u8> {
        let (names, values) = network(widths);
        write(&names, &values, &Metadata::from([("format".to_owned(), "pt".to_owned())])).unwrap()
    }

    #[test]
    fn the_file_has_pytorchs_names_shapes_and_values() {
        let (names, first) = network(&[3, 4, 2]);
        let bytes = file(&[3, 4, 2]);
        let read_back = SafeTensors::deserialize(&bytes).unwrap();
        let mut found = read_back.names();
        found.sort_unstable();
        assert_eq!(found, ["0.bias", "0.weight", "2.bias", "2.weight"]);
        assert_eq!(read_back.tensor("0.weight").unwrap().shape(), [4, 3]);
        assert_eq!(values(&read_back, "0.bias", &[4]).unwrap(), first[12..16]);
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        assert_eq!(read(&bytes, &names).unwrap(), first);
        assert_eq!(file(&[3, 4, 2]), bytes);
    }

    #[test]
    fn what_is_not_this_network_is_refused_by_name() {
        let (names, mut values) = network(&[3, 4, 2]);
        let (wider, deeper) = (file(&[3, 5, 2]), file(&[3, 4, 4, 2]));
        *values.last_mut().unwrap() = f32::INFINITY;
        let infinite = write(&names, &values, &Metadata::new()).unwrap();
        for (bytes, said) in [
            (&wider[..], "0.weight: F32 [5, 3]"),
            (&deeper[..], "6 tensors"),
            (&infinite[..], "2.bias with NaN"),
            (b"rubbish", "7 bytes"),
            (&wider[..40], "40 bytes"),
        ] {
            let error = read(bytes, &names).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(error.message.starts_with("model_weights: ") && error.message.contains(said), "{error}");
        }
    }
}
