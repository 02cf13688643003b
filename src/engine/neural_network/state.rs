//! All that the next slice depends on, as bytes: a safetensors file of parameters, moments and the best model, its
//! counters in the metadata. Integers and bits alone, so that what is read is what was written.

use safetensors::tensor::SafeTensors;
use serde::{Deserialize, Serialize};

use super::network::Memory;
use super::weights::{self, Metadata};
use crate::domain::{ErrorCode, TaskError};
use crate::engine::stopping::{Best, Mark, Stopping};

/// Name of the counters in the metadata.
const COUNTERS: &str = "counters";

#[derive(Debug, Serialize, Deserialize)]
struct Counters {
    steps: u64,
    waited: u32,
    stopped: bool,
    best: Option<Mark>,
}

/// Network, optimizer and early stopping as bytes.
///
/// # Errors
/// Defects of ours alone.
pub(super) fn write(memory: &Memory, stopping: &Stopping<Vec<f32>>) -> Result<Vec<u8>, TaskError> {
    let counters = Counters {
        steps: memory.steps,
        waited: stopping.waited,
        stopped: stopping.stopped,
        best: stopping.best.as_ref().map(|best| best.mark),
    };
    let counters = serde_json::to_string(&counters)
        .map_err(|error| TaskError::new(ErrorCode::Internal, error.to_string()))?;
    let best = stopping.best.as_ref().map_or(&[][..], |best| &best.model);
    let parts =
        [("parameters", &memory.parameters[..]), ("first", &memory.first), ("second", &memory.second)];
    let parts = parts.into_iter().chain([("best", best)]);
    let names: Vec<_> = parts.clone().map(|(name, values)| (name.to_owned(), vec![values.len()])).collect();
    let values: Vec<f32> = parts.flat_map(|(_, values)| values.iter().copied()).collect();
    weights::write(&names, &values, &Metadata::from([(COUNTERS.to_owned(), counters)]))
}

/// What [`write()`] wrote, for a network of `size` values.
///
/// # Errors
/// `Internal`: `bytes` are something else.
pub(super) fn read(bytes: &[u8], size: usize) -> Result<(Memory, Stopping<Vec<f32>>), TaskError> {
    let foreign =
        |what: &str| TaskError::new(ErrorCode::Internal, format!("no state of this network: {what}"));
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| foreign(&error.to_string()))?;
    let counters = header.metadata().as_ref().and_then(|metadata| metadata.get(COUNTERS));
    let counters: Counters = counters
        .and_then(|counters| serde_json::from_str(counters).ok())
        .ok_or_else(|| foreign("its counters"))?;
    let best_size = if counters.best.is_some() { size } else { 0 };
    let names = [("parameters", size), ("first", size), ("second", size), ("best", best_size)];
    let names = names.map(|(name, size)| (name.to_owned(), vec![size]));
    let mut rest = weights::read(bytes, &names).map_err(|error| foreign(&error.message))?;
    let best = rest.split_off(3 * size);
    let second = rest.split_off(2 * size);
    let first = rest.split_off(size);
    let memory = Memory { parameters: rest, first, second, steps: counters.steps };
    let best = counters.best.map(|mark| Best { model: best, mark });
    Ok((memory, Stopping { best, waited: counters.waited, stopped: counters.stopped }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Hyperparameters, Metrics, Stopping as Asked};
    use crate::engine::stopping::Limit;

    #[test]
    fn what_is_read_is_what_was_written() {
        let memory = Memory {
            parameters: vec![0.1, f32::MIN_POSITIVE, -3.0],
            first: vec![1e-30, 2.0, 3.0],
            second: vec![4.0, 5.0, 1e-42],
            steps: u64::MAX,
        };
        let h = Hyperparameters { stopping: Asked::Early, ..Hyperparameters::default() };
        let limit = Limit::of(&h, 5, "epoch").unwrap();
        let mut stopping = Stopping::default();
        for best in [false, true] {
            let bytes = write(&memory, &stopping).unwrap();
            assert_eq!(read(&bytes, 3).unwrap(), (memory.clone(), stopping.clone()), "{best}");
            for cut in 0..bytes.len() {
                assert!(read(&bytes[..cut], 3).is_err(), "{cut} bytes");
            }
            assert!(read(&bytes, 4).unwrap_err().message.contains("[4]"));
            let train = Metrics { loss: 1.0 / 3.0, accuracy: 0.1 };
            stopping.see(Mark::new(3, 0.7, train), &limit, || memory.parameters.clone());
            stopping.see(Mark::new(4, f64::NAN, train), &limit, Vec::new);
        }
        assert!(read(b"rubbish", 3).is_err());
    }
}
